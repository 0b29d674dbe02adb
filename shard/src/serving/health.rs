//! Passive health of a peer: what its answers say about it. Nothing here has a timer; it is looked at when a call is
//! given away, and when one ends.

use fluxar_protocol::Code;

use crate::routes::Ejection;

/// A share of everything, in thousandths.
pub(crate) const WHOLE: u64 = 1_000;
/// With which a peer comes back.
const FIRST_SHARE: u64 = 100;

/// Whether it is left out for a while, and how far it is back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health {
    /// Since its last success.
    failures: u32,
    /// How often it was ejected without a long good time in between.
    ejections: u32,
    pub(crate) ejected_until_us: u64,
    /// It comes back slowly from then …
    slow_from_us: u64,
    /// … until then.
    slow_until_us: u64,
}

/// Whether an error says something about the peer that served, rather than about what it was asked.
pub(crate) fn is_fault_of_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss
    )
}

impl Health {
    #[inline]
    pub(crate) fn is_ejected(&self, now_us: u64) -> bool {
        now_us < self.ejected_until_us
    }

    #[inline]
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A call failed, or was not answered in time; whether that ejects it.
    pub(crate) fn failed(&mut self, settings: &Ejection, now_us: u64) -> bool {
        // What it was given before says nothing new.
        if self.is_ejected(now_us) || settings.failures == 0 {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < settings.failures {
            return false;
        }
        self.failures = 0;
        let most_us = u64::from(settings.most_ms) * 1_000;
        if now_us.saturating_sub(self.ejected_until_us) > most_us {
            self.ejections = 0;
        }
        let doubled_us = (u64::from(settings.first_ms) * 1_000) << self.ejections.min(20);
        self.ejections += 1;
        self.ejected_until_us = now_us + doubled_us.min(most_us);
        self.come_back(settings, self.ejected_until_us);
        true
    }

    /// It comes back slowly from `from_us` on.
    pub(crate) fn come_back(&mut self, settings: &Ejection, from_us: u64) {
        self.slow_from_us = from_us;
        self.slow_until_us = from_us + u64::from(settings.slow_start_ms) * 1_000;
    }

    /// With how much of its weight it takes part, in thousandths.
    #[inline]
    pub(crate) fn share(&self, now_us: u64) -> u64 {
        if now_us >= self.slow_until_us || now_us < self.slow_from_us {
            return WHOLE;
        }
        let span_us = self.slow_until_us - self.slow_from_us;
        FIRST_SHARE + (WHOLE - FIRST_SHARE) * (now_us - self.slow_from_us) / span_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Ejection = Ejection {
        failures: 3,
        first_ms: 100,
        most_ms: 1_000,
        slow_start_ms: 500,
        percent_max: 50,
    };

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time_and_a_good_time_forgives() {
        let mut health = Health::default();
        let mut now_us = 0;
        for expected_ms in [100, 200, 400, 800, 1_000, 1_000] {
            assert!(!health.failed(&SETTINGS, now_us));
            assert!(!health.failed(&SETTINGS, now_us));
            health.succeeded();
            assert!(!health.failed(&SETTINGS, now_us));
            assert!(!health.failed(&SETTINGS, now_us));
            assert!(health.failed(&SETTINGS, now_us));
            assert!(!health.failed(&SETTINGS, now_us), "it is out already");
            let until_us = now_us + expected_ms * 1_000;
            assert!(health.is_ejected(until_us - 1) && !health.is_ejected(until_us));
            now_us = until_us;
        }
        now_us += 1_000_001;
        for _ in 0..3 {
            health.failed(&SETTINGS, now_us);
        }
        assert_eq!(health.ejected_until_us, now_us + 100_000);
    }

    #[test]
    fn it_comes_back_from_a_tenth_to_all() {
        let mut health = Health::default();
        assert_eq!(health.share(7), WHOLE);
        for _ in 0..3 {
            health.failed(&SETTINGS, 0);
        }
        let shares = [100, 200, 350, 600, 5_000].map(|at_ms| health.share(at_ms * 1_000));
        assert_eq!(shares, [100, 280, 550, 1_000, 1_000]);
        let never = Ejection {
            failures: 0,
            ..SETTINGS
        };
        let mut health = Health::default();
        assert!((0..100).all(|_| !health.failed(&never, 0)));
    }
}
