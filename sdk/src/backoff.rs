//! How long a client waits before it dials again.
//!
//! A lost connection is dialled again at once: mostly it was this one alone that broke. After that the pauses grow, and
//! each is drawn from the whole of its range, so that many clients that lost the same gateway come back spread out. What
//! the gateway asks for is waited for in any case, and a drawn pause more.

use std::time::Duration;

use crate::ids;

/// A connection that lived so long was a good one: when it is lost, the pauses begin anew. One that is accepted and
/// lost at once is no better than one that is refused.
const STEADY: Duration = Duration::from_secs(10);
/// The longest that the other side can keep a client away with a `retry_after_ms`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// The first attempt waits up to this part of the first pause.
const AT_ONCE: u32 = 4;

/// The settings.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    pub(crate) give_up: Option<Duration>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(10),
            give_up: None,
        }
    }
}

/// Attempts since there was a steady connection.
#[derive(Debug, Default)]
pub(crate) struct Attempts(u32);

impl Attempts {
    /// A connection has ended that lasted so long.
    pub(crate) fn had_connection(&mut self, lasted: Duration) {
        if lasted >= STEADY {
            self.0 = 0;
        }
    }
}

impl Backoff {
    /// The pause before the next attempt. `at_once`: a connection was lost, and neither refused nor ended by a goodbye.
    /// `wanted` is what the other side asks for. The client has tried for `tried`, and goes on no longer than it is to.
    pub(crate) fn pause(
        &self,
        attempts: &mut Attempts,
        at_once: bool,
        wanted: Option<Duration>,
        tried: Duration,
    ) -> Duration {
        let range = self.range(attempts.0, at_once);
        attempts.0 = attempts.0.saturating_add(1);
        let wanted = wanted.unwrap_or_default().min(RETRY_AFTER_MAX);
        let left = self
            .give_up
            .map_or(Duration::MAX, |give_up| give_up.saturating_sub(tried));
        (wanted + drawn_from(range)).min(left)
    }

    /// What the pause is drawn from, after so many attempts: up to this.
    fn range(&self, attempts: u32, at_once: bool) -> Duration {
        match attempts {
            0 if at_once => self.first.min(self.max) / AT_ONCE,
            attempts => {
                let doublings = attempts.saturating_sub(u32::from(at_once)).min(20);
                self.first.saturating_mul(1 << doublings).min(self.max)
            }
        }
    }
}

/// A time between nothing and this, each as likely as the other.
fn drawn_from(range: Duration) -> Duration {
    let mut drawn = [0; 4];
    // Without randomness it is the longest, which is right but for the herd.
    let share = ids::random(&mut drawn).map_or(1.0, |()| {
        f64::from(u32::from_be_bytes(drawn)) / f64::from(u32::MAX)
    });
    range.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_attempt_is_made_at_once_and_the_range_of_further_pauses_doubles() {
        let backoff = Backoff::default();
        let ranges_ms = |at_once| -> Vec<u128> {
            let range = |attempts| backoff.range(attempts, at_once).as_millis();
            (0..10).map(range).collect()
        };
        assert_eq!(
            ranges_ms(true),
            [25, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(
            ranges_ms(false),
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
        );
        assert_eq!(backoff.range(u32::MAX, true), backoff.max);
    }

    #[test]
    fn pauses_are_drawn_from_the_whole_range() {
        let range = Duration::from_secs(1);
        let mut drawn: Vec<_> = (0..1000).map(|_| drawn_from(range)).collect();
        drawn.sort();
        assert!(*drawn.last().unwrap() <= range);
        assert!(drawn[50] < range / 4 && drawn[950] > range * 3 / 4);
        drawn.dedup();
        assert!(drawn.len() > 990, "only {} different ones", drawn.len());
    }

    #[test]
    fn only_a_steady_connection_makes_the_pauses_begin_anew() {
        let backoff = Backoff::default();
        let mut attempts = Attempts::default();
        for _ in 0..5 {
            attempts.had_connection(STEADY - MS);
            backoff.pause(&mut attempts, true, None, Duration::ZERO);
        }
        assert_eq!(attempts.0, 5);
        attempts.had_connection(STEADY);
        assert_eq!(attempts.0, 0);
    }

    #[test]
    fn a_pause_that_is_asked_for_is_waited_for_within_its_bounds() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::default();
        let wanted = |backoff: &Backoff, s| {
            backoff.pause(&mut Attempts::default(), false, Some(seconds(s)), seconds(4))
        };
        assert!((seconds(30)..=seconds(30) + backoff.first).contains(&wanted(&backoff, 30)));
        assert!((RETRY_AFTER_MAX..=RETRY_AFTER_MAX + backoff.first).contains(&wanted(&backoff, 4_000_000)));
        backoff.give_up = Some(seconds(20));
        assert_eq!(wanted(&backoff, 30), seconds(16));
    }
}
