//! When messages are due: a pure function of the plan and a seed, worked out before anything is sent.
//!
//! A plan is a row of *stretches*, each with a rate that is constant or changes evenly. Together they make a curve of how
//! many messages are due up to a moment; the `n`th is due where the curve passes `n` and a half, so that every
//! stretch has exactly as many as its rate says, however the numbers round. Messages are dealt to the publishers of the
//! whole run in turn, and each generator thread asks only for those of its own publishers: threads need not talk.
//!
//! Times count from the start of the warm-up, which runs at the rate that the measured time begins with.

use fluxar_engine::sim::Random;

use crate::scenario::{Arrivals, Scenario};

const NS_PER_S: f64 = 1e9;
const NS_PER_MS: u64 = 1_000_000;
/// More than one generator could ever send.
const PER_S_MAX: f64 = 1e9;

/// A part of the measured time that is reported on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Its first moment.
    pub from_ns: u64,
    /// The first moment behind it.
    pub to_ns: u64,
    /// The (mean) rate that was asked for; `None` in a closed loop.
    pub asked_per_s: Option<f64>,
}

/// The parts of the measured time that a scenario reports: one, or one for each step.
#[must_use]
pub fn windows(scenario: &Scenario, arrivals: &Arrivals) -> Vec<Window> {
    let (warmup_ns, duration_ns) = (scenario.warmup_ms * NS_PER_MS, scenario.duration_ms * NS_PER_MS);
    let rates = match arrivals {
        Arrivals::Window { .. } => vec![None],
        Arrivals::Constant { per_s } | Arrivals::Poisson { per_s } | Arrivals::Bursts { per_s, .. } => {
            vec![Some(*per_s)]
        }
        Arrivals::Ramp { from_per_s, to_per_s } => vec![Some((from_per_s + to_per_s) / 2.0)],
        Arrivals::Steps { per_s } => per_s.iter().copied().map(Some).collect(),
    };
    let count = rates.len().max(1) as u64;
    let edge_ns = |index: u64| warmup_ns + duration_ns * index / count;
    (0..)
        .zip(rates)
        .map(|(index, asked_per_s)| Window {
            from_ns: edge_ns(index),
            to_ns: edge_ns(index + 1),
            asked_per_s,
        })
        .collect()
}

/// An open loop's curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    stretches: Vec<Stretch>,
    spacing: Spacing,
}

/// How what is due lies on the curve.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spacing {
    Even,
    Random,
    /// So many at once.
    Bursts(u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    duration_s: f64,
    from_per_s: f64,
    to_per_s: f64,
}

impl Stretch {
    fn count(&self) -> f64 {
        (self.from_per_s + self.to_per_s) / 2.0 * self.duration_s
    }

    /// When `count` messages of it are due, in s from its beginning.
    fn moment_s(&self, count: f64) -> f64 {
        if self.duration_s <= 0.0 {
            return 0.0;
        }
        // The root of `from·t + slope·t²/2 = count`, in the form that also holds without a slope.
        let slope = (self.to_per_s - self.from_per_s) / self.duration_s;
        let root = (self.from_per_s * self.from_per_s + 2.0 * slope * count)
            .max(0.0)
            .sqrt();
        (2.0 * count / (self.from_per_s + root)).min(self.duration_s)
    }
}

impl Plan {
    /// The curve of a scenario; `None` for a closed loop.
    ///
    /// # Errors
    /// What is wrong with the arrivals, and what would be right.
    pub fn new(scenario: &Scenario, arrivals: &Arrivals) -> Result<Option<Plan>, String> {
        let even = |from_per_s: f64, to_per_s: f64| (vec![(from_per_s, to_per_s)], Spacing::Even);
        let (rates, spacing) = match arrivals {
            Arrivals::Window { messages: 0 } => return Err("a window takes at least one message".into()),
            Arrivals::Window { .. } => return Ok(None),
            Arrivals::Constant { per_s } => even(*per_s, *per_s),
            Arrivals::Poisson { per_s } => (vec![(*per_s, *per_s)], Spacing::Random),
            Arrivals::Bursts { burst: 0, .. } => return Err("a burst has at least one message".into()),
            Arrivals::Bursts { per_s, burst } => (vec![(*per_s, *per_s)], Spacing::Bursts(*burst)),
            Arrivals::Ramp { from_per_s, to_per_s } => even(*from_per_s, *to_per_s),
            Arrivals::Steps { per_s } => (per_s.iter().map(|&rate| (rate, rate)).collect(), Spacing::Even),
        };
        let good = |rate: f64| rate.is_finite() && (0.0..=PER_S_MAX).contains(&rate);
        if !rates
            .iter()
            .all(|&(from, to)| good(from) && good(to) && from + to > 0.0)
        {
            return Err(format!("rates lie above 0 and up to {PER_S_MAX:e} a second"));
        }
        let Some(&(first_per_s, _)) = rates.first() else {
            return Err("steps takes at least one rate".into());
        };
        let duration_s = scenario.duration_ms as f64 / 1e3 / rates.len() as f64;
        let warmup = Stretch {
            duration_s: scenario.warmup_ms as f64 / 1e3,
            from_per_s: first_per_s,
            to_per_s: first_per_s,
        };
        let measured = rates.into_iter().map(|(from_per_s, to_per_s)| Stretch {
            duration_s,
            from_per_s,
            to_per_s,
        });
        Ok(Some(Plan {
            stretches: std::iter::once(warmup).chain(measured).collect(),
            spacing,
        }))
    }

    /// One that is even, at a rate that does not change.
    #[must_use]
    pub fn constant(scenario: &Scenario, per_s: f64) -> Plan {
        let stretch = |duration_ms: u64| Stretch {
            duration_s: duration_ms as f64 / 1e3,
            from_per_s: per_s,
            to_per_s: per_s,
        };
        Plan {
            stretches: vec![stretch(scenario.warmup_ms), stretch(scenario.duration_ms)],
            spacing: Spacing::Even,
        }
    }
}

/// What is due next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// From the start of the warm-up.
    pub at_ns: u64,
    /// An index into the publishers that the schedule was made for.
    pub publisher: usize,
}

/// What is due for the publishers of one thread, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    plan: Plan,
    /// This thread's publishers, by their number in the run, ascending.
    publishers: Vec<u32>,
    /// How many publishers the run has.
    publishers_all: u32,
    random: Random,
    /// Rounds over all publishers that are through.
    round: u64,
    /// Who is next in this round.
    turn: usize,
    /// Of the burst at hand, still to come.
    of_burst: u32,
    /// Where the curve was when random arrivals were drawn last.
    drawn: f64,
    curve: Curve,
    next: Option<Due>,
}

/// A place on the curve that only moves on.
#[derive(Debug, Clone, Copy, Default)]
struct Curve {
    stretch: usize,
    /// Where that stretch begins.
    begun_s: f64,
    /// How many are due before it.
    begun_count: f64,
}

impl Schedule {
    /// For some publishers (ascending numbers) of a run that has `publishers_all`.
    #[must_use]
    pub fn new(plan: Plan, publishers: Vec<u32>, publishers_all: u32, seed: u64) -> Schedule {
        let first = u64::from(publishers.first().copied().unwrap_or_default());
        let mut schedule = Schedule {
            plan,
            publishers,
            publishers_all,
            random: Random::new(seed ^ first.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            round: 0,
            turn: 0,
            of_burst: 0,
            drawn: 0.0,
            curve: Curve::default(),
            next: None,
        };
        schedule.advance();
        schedule
    }

    /// What is due next; `None` once all is through.
    #[must_use]
    pub fn next(&self) -> Option<Due> {
        self.next
    }

    /// Takes it off.
    pub fn advance(&mut self) {
        self.next = self.following();
    }

    fn following(&mut self) -> Option<Due> {
        if self.of_burst > 0 {
            self.of_burst -= 1;
            return self.next;
        }
        let number = *self.publishers.get(self.turn)?;
        let publisher = self.turn;
        let unit = self.round * u64::from(self.publishers_all) + u64::from(number);
        self.turn += 1;
        if self.turn == self.publishers.len() {
            self.turn = 0;
            self.round += 1;
        }
        let count = match self.plan.spacing {
            Spacing::Even => unit as f64 + 0.5,
            Spacing::Bursts(burst) => {
                self.of_burst = burst - 1;
                (unit as f64 + 0.5) * f64::from(burst)
            }
            Spacing::Random => {
                // A Poisson process thins into Poisson processes: this thread draws its share of one.
                let uniform = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
                let share = self.publishers.len() as f64 / f64::from(self.publishers_all);
                self.drawn += -(1.0 - uniform).ln() / share;
                self.drawn
            }
        };
        let at_ns = (self.moment_s(count)? * NS_PER_S) as u64;
        Some(Due { at_ns, publisher })
    }

    /// Where the curve passes `count`, which never falls from one call to the next.
    fn moment_s(&mut self, count: f64) -> Option<f64> {
        loop {
            let stretch = self.plan.stretches.get(self.curve.stretch)?;
            let within = count - self.curve.begun_count;
            if within < stretch.count() {
                return Some(self.curve.begun_s + stretch.moment_s(within));
            }
            self.curve.begun_count += stretch.count();
            self.curve.begun_s += stretch.duration_s;
            self.curve.stretch += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Payload, Workload};

    fn scenario(warmup_ms: u64, duration_ms: u64) -> Scenario {
        Scenario {
            workload: Workload::FanOut {
                topics: 1,
                publishers: 1,
                subscribers: 1,
            },
            arrivals: Arrivals::default(),
            payload: Payload::default(),
            warmup_ms,
            duration_ms,
        }
    }

    fn all(scenario: &Scenario, arrivals: &Arrivals, publishers: Vec<u32>, of: u32) -> Vec<Due> {
        let plan = Plan::new(scenario, arrivals)
            .expect("a plan")
            .expect("an open loop");
        let mut schedule = Schedule::new(plan, publishers, of, 7);
        let mut dues = Vec::new();
        while let Some(due) = schedule.next() {
            dues.push(due);
            schedule.advance();
        }
        assert!(dues.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
        dues
    }

    fn within(dues: &[Due], window: Window) -> usize {
        dues.iter()
            .filter(|due| (window.from_ns..window.to_ns).contains(&due.at_ns))
            .count()
    }

    #[test]
    fn a_constant_rate_has_exactly_its_messages_evenly() {
        let scenario = scenario(500, 3_000);
        let arrivals = Arrivals::Constant { per_s: 10_000.0 };
        let dues = all(&scenario, &arrivals, vec![0], 1);
        assert_eq!(dues.len(), 35_000);
        assert_eq!(within(&dues, windows(&scenario, &arrivals)[0]), 30_000);
        for pair in dues.windows(2) {
            assert!((99_998..=100_002).contains(&(pair[1].at_ns - pair[0].at_ns)));
        }
    }

    #[test]
    fn publishers_take_turns_whatever_thread_they_are_on() {
        let scenario = scenario(0, 1_000);
        let arrivals = Arrivals::Constant { per_s: 1_000.0 };
        let whole = all(&scenario, &arrivals, (0..5).collect(), 5);
        let one = all(&scenario, &arrivals, vec![0, 2, 4], 5);
        let other = all(&scenario, &arrivals, vec![1, 3], 5);
        let mut both: Vec<u64> = one.iter().chain(&other).map(|due| due.at_ns).collect();
        both.sort_unstable();
        assert_eq!(both, whole.iter().map(|due| due.at_ns).collect::<Vec<_>>());
        assert_eq!(one.iter().filter(|due| due.publisher == 2).count(), 200);
    }

    #[test]
    fn steps_each_have_exactly_their_messages() {
        let scenario = scenario(200, 3_000);
        let arrivals = Arrivals::Steps {
            per_s: vec![1_000.0, 333.0, 4_000.0],
        };
        let dues = all(&scenario, &arrivals, vec![0], 1);
        let windows = windows(&scenario, &arrivals);
        let counts: Vec<_> = windows.iter().map(|&window| within(&dues, window)).collect();
        assert_eq!(counts, [1_000, 333, 4_000]);
        assert_eq!(windows[1].asked_per_s, Some(333.0));
        assert_eq!(
            (windows[0].from_ns, windows[2].to_ns),
            (200_000_000, 3_200_000_000)
        );
    }

    #[test]
    fn a_ramp_rises() {
        let scenario = scenario(0, 2_000);
        let arrivals = Arrivals::Ramp {
            from_per_s: 0.0,
            to_per_s: 2_000.0,
        };
        let dues = all(&scenario, &arrivals, vec![0], 1);
        assert_eq!(dues.len(), 2_000);
        // The integral of an even rise: a quarter in the first half.
        let first_half = dues.iter().filter(|due| due.at_ns < 1_000_000_000).count();
        assert!((499..=501).contains(&first_half), "{first_half}");
    }

    #[test]
    fn bursts_come_at_once() {
        let scenario = scenario(0, 1_000);
        let arrivals = Arrivals::Bursts {
            per_s: 1_000.0,
            burst: 50,
        };
        let dues = all(&scenario, &arrivals, vec![0, 1], 2);
        assert_eq!(dues.len(), 1_000);
        for (index, burst) in dues.chunks(50).enumerate() {
            assert!(burst.iter().all(|due| *due == burst[0]));
            assert_eq!(burst[0].publisher, index % 2);
        }
    }

    #[test]
    fn random_arrivals_have_exponential_gaps_and_are_the_same_for_a_seed() {
        let scenario = scenario(0, 10_000);
        let arrivals = Arrivals::Poisson { per_s: 10_000.0 };
        let dues = all(&scenario, &arrivals, vec![0], 1);
        // Within five standard deviations of the mean, and gaps whose deviation is their mean.
        assert!((98_400..=101_600).contains(&dues.len()), "{}", dues.len());
        let gaps: Vec<f64> = dues
            .windows(2)
            .map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&(variance.sqrt() / mean)));
        let over_mean = gaps.iter().filter(|&&gap| gap > mean).count() as f64 / gaps.len() as f64;
        assert!((0.355..0.380).contains(&over_mean), "{over_mean}");
        assert_eq!(all(&scenario, &arrivals, vec![0], 1), dues);
        let half = all(&scenario, &arrivals, vec![1], 2).len();
        assert!((48_900..=51_100).contains(&half), "{half}");
    }

    #[test]
    fn nonsense_is_refused() {
        let scenario = scenario(0, 1_000);
        for arrivals in [
            Arrivals::Constant { per_s: 0.0 },
            Arrivals::Constant { per_s: f64::NAN },
            Arrivals::Poisson { per_s: -1.0 },
            Arrivals::Bursts { per_s: 1.0, burst: 0 },
            Arrivals::Steps { per_s: vec![] },
            Arrivals::Steps {
                per_s: vec![1.0, 1e12],
            },
            Arrivals::Window { messages: 0 },
        ] {
            assert!(Plan::new(&scenario, &arrivals).is_err(), "{arrivals:?}");
        }
    }
}
