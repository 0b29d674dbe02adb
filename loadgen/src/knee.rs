//! Searches the highest rate that a server sustains while it keeps a promise.
//!
//! ```text
//!   from ─×2─> ─×2─> ✗      doubling until it breaks,
//!            ├──┼──┤         then halving the gap in between, to within the precision
//! ```
//!
//! Machines are noisy: a rate counts as broken, or as the answer, only if most of up to three runs say so.

use std::collections::BTreeMap;

/// Between which rates, and how exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// The first rate that is tried, messages a second.
    pub from_per_s: f64,
    /// The highest that is tried.
    pub to_per_s: f64,
    /// The answer is within this share of the true one: 0.05 is 5%.
    pub precision: f64,
}

/// What one run at a rate showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The promise was kept.
    Kept,
    /// It was broken, by the server.
    Broken,
    /// It was broken, but the generator could not send as much: nothing is known of the server.
    GeneratorFull,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Knee {
    /// The highest rate at which the promise was kept, messages a second; none if it broke at the first.
    pub kept_per_s: Option<f64>,
    /// The lowest at which it was not, if there is one.
    pub broken_per_s: Option<f64>,
    /// What set the limit.
    pub limit: Limit,
    /// Runs that it took.
    pub runs: u32,
}

/// What set the limit of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The server: the answer is the knee.
    Server,
    /// The generator: the knee is higher than the answer.
    Generator,
    /// The highest rate that was to be tried: the knee is higher than the answer.
    Asked,
}

/// Searches; `probe` does one run at a rate.
///
/// # Errors
/// The first run that could not be done.
pub fn search<E>(search: Search, probe: &mut dyn FnMut(f64) -> Result<Shown, E>) -> Result<Knee, E> {
    let mut probed = Probed {
        probe,
        shown: BTreeMap::new(),
        runs: 0,
    };
    // Rates that were kept, rising; the last may turn out to have been luck.
    let mut kept: Vec<f64> = Vec::new();
    let mut broken: Option<(f64, Shown)> = None;
    loop {
        let next = match (kept.last(), broken) {
            (None, None) => search.from_per_s.min(search.to_per_s),
            (Some(low), None) if *low >= search.to_per_s => {
                if probed.is_surely_kept(*low)? {
                    return Ok(probed.knee(Some(*low), None, Limit::Asked));
                }
                broken = kept.pop().map(|rate| (rate, probed.last(rate)));
                continue;
            }
            (Some(low), None) => (low * 2.0).min(search.to_per_s),
            (low, Some((high, why))) => {
                let low_rate = low.copied().unwrap_or(0.0);
                let is_narrow = high - low_rate <= search.precision * high;
                let is_hopeless = low.is_none() && high <= search.from_per_s / 64.0;
                if is_hopeless || (is_narrow && low.is_none()) {
                    return Ok(probed.knee(None, Some(high), limit(why)));
                }
                if is_narrow {
                    if probed.is_surely_kept(low_rate)? {
                        return Ok(probed.knee(Some(low_rate), Some(high), limit(why)));
                    }
                    broken = kept.pop().map(|rate| (rate, probed.last(rate)));
                    continue;
                }
                (low_rate + high) / 2.0
            }
        };
        match probed.judge(next)? {
            Shown::Kept => kept.push(next),
            why => broken = Some((next, why)),
        }
    }
}

fn limit(why: Shown) -> Limit {
    if why == Shown::GeneratorFull {
        Limit::Generator
    } else {
        Limit::Server
    }
}

/// Remembers what every rate showed.
struct Probed<'a, E> {
    probe: &'a mut dyn FnMut(f64) -> Result<Shown, E>,
    /// By the bits of the rate.
    shown: BTreeMap<u64, Vec<Shown>>,
    runs: u32,
}

impl<E> Probed<'_, E> {
    fn run(&mut self, rate: f64) -> Result<Shown, E> {
        self.runs += 1;
        let shown = (self.probe)(rate)?;
        self.shown.entry(rate.to_bits()).or_default().push(shown);
        Ok(shown)
    }

    /// One run if it is kept, up to three if it is not.
    fn judge(&mut self, rate: f64) -> Result<Shown, E> {
        let first = self.run(rate)?;
        if first == Shown::Kept {
            return Ok(first);
        }
        let second = self.run(rate)?;
        if second != Shown::Kept {
            Ok(second)
        } else {
            self.run(rate)
        }
    }

    /// Whether most runs say so, of two or three.
    fn is_surely_kept(&mut self, rate: f64) -> Result<bool, E> {
        loop {
            let shown = self.shown.get(&rate.to_bits()).map_or(&[][..], Vec::as_slice);
            let kept = shown.iter().filter(|shown| **shown == Shown::Kept).count();
            if kept >= 2 {
                return Ok(true);
            }
            if shown.len() - kept >= 2 {
                return Ok(false);
            }
            self.run(rate)?;
        }
    }

    /// Why that rate broke.
    fn last(&self, rate: f64) -> Shown {
        let shown = self.shown.get(&rate.to_bits()).map_or(&[][..], Vec::as_slice);
        shown
            .iter()
            .rev()
            .find(|shown| **shown != Shown::Kept)
            .copied()
            .unwrap_or(Shown::Broken)
    }

    fn knee(&self, kept_per_s: Option<f64>, broken_per_s: Option<f64>, limit: Limit) -> Knee {
        Knee {
            kept_per_s,
            broken_per_s,
            limit,
            runs: self.runs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SEARCH: Search = Search {
        from_per_s: 1_000.0,
        to_per_s: 1e6,
        precision: 0.05,
    };

    fn find(search_for: Search, mut probe: impl FnMut(f64) -> Shown) -> Knee {
        match search::<Infallible>(search_for, &mut |rate| Ok(probe(rate))) {
            Ok(knee) => knee,
        }
    }

    #[test]
    fn a_sharp_knee_is_found_to_within_the_precision() {
        for knee in [1_100.0, 5_000.0, 77_777.0, 999_000.0] {
            let found = find(
                SEARCH,
                |rate| if rate <= knee { Shown::Kept } else { Shown::Broken },
            );
            let kept = found.kept_per_s.expect("kept");
            assert!(kept <= knee && kept >= knee * 0.94, "{knee}: {found:?}");
            assert!(found.broken_per_s.expect("broken") > knee);
            assert_eq!(found.limit, Limit::Server);
            assert!(found.runs < 40, "{found:?}");
        }
    }

    #[test]
    fn below_the_first_rate_it_is_searched_downwards() {
        let found = find(
            SEARCH,
            |rate| if rate <= 300.0 { Shown::Kept } else { Shown::Broken },
        );
        let kept = found.kept_per_s.expect("kept");
        assert!((280.0..=300.0).contains(&kept), "{found:?}");
        let never = find(SEARCH, |_| Shown::Broken);
        assert_eq!((never.kept_per_s, never.limit), (None, Limit::Server));
    }

    #[test]
    fn what_the_generator_or_the_search_limits_is_a_lower_bound() {
        let full = find(SEARCH, |rate| {
            if rate <= 50_000.0 {
                Shown::Kept
            } else {
                Shown::GeneratorFull
            }
        });
        assert_eq!(full.limit, Limit::Generator);
        let all = find(SEARCH, |_| Shown::Kept);
        assert_eq!((all.kept_per_s, all.limit), (Some(1e6), Limit::Asked));
    }

    #[test]
    fn one_bad_run_and_one_lucky_run_change_little() {
        let mut runs = 0;
        let bad = find(SEARCH, |rate| {
            runs += 1;
            if rate <= 50_000.0 && runs != 4 {
                Shown::Kept
            } else {
                Shown::Broken
            }
        });
        assert!(bad.kept_per_s.expect("kept") > 46_000.0, "{bad:?}");
        let mut luck = 1;
        let lucky = find(SEARCH, |rate| {
            if rate > 50_000.0 && rate < 70_000.0 && luck > 0 {
                luck -= 1;
                return Shown::Kept;
            }
            if rate <= 50_000.0 {
                Shown::Kept
            } else {
                Shown::Broken
            }
        });
        let kept = lucky.kept_per_s.expect("kept");
        assert!(kept <= 50_000.0 && kept > 30_000.0, "{lucky:?}");
    }

    #[test]
    fn a_run_that_cannot_be_done_ends_the_search() {
        let ended = search(SEARCH, &mut |_| Err::<Shown, _>("no server"));
        assert_eq!(ended, Err("no server"));
    }
}
