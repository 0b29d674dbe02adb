//! How long a peer's answers take, as one number that forgets.

/// Longest latency that is told apart from longer ones, µs.
const MOST_US: u64 = 60_000_000;
/// Without news the number halves in this time, µs.
const HALF_LIFE_US: u64 = 1_000_000;
/// A number is kept in 16ths of a µs, so that slow steps do not stop at a rounding.
const FRACTION: u64 = 16;

/// A moving average that rises fast and falls slowly: a peer that has become slow is noticed within a few answers, and
/// one quick answer does not clear it. While nothing is heard it falls by half each second, so a peer that was slow
/// once is tried again, and is asked for as little as it takes to know.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    /// In [`FRACTION`]s of a µs; 0: not known.
    average: u64,
    heard_us: u64,
}

impl Latency {
    /// An answer took so long.
    pub(crate) fn heard(&mut self, elapsed_us: u64, now_us: u64) {
        let sample = elapsed_us.clamp(1, MOST_US) * FRACTION;
        let before = self.faded(now_us);
        self.average = match before {
            0 => sample,
            _ if sample > before => before + (sample - before) / 2,
            _ => before - (before - sample) / 8,
        };
        self.heard_us = now_us;
    }

    /// There was no answer for so long: it is at least that slow.
    pub(crate) fn waited(&mut self, elapsed_us: u64, now_us: u64) {
        let sample = elapsed_us.min(MOST_US) * FRACTION;
        if sample > self.faded(now_us) {
            self.heard(elapsed_us, now_us);
        }
    }

    /// What to expect, µs, at least 1; `None` if nothing was heard yet.
    #[inline]
    pub(crate) fn expected_us(&self, now_us: u64) -> Option<u64> {
        match self.average {
            0 => None,
            _ => Some((self.faded(now_us) / FRACTION).max(1)),
        }
    }

    #[inline]
    fn faded(&self, now_us: u64) -> u64 {
        let silent_us = now_us.saturating_sub(self.heard_us);
        let halves = silent_us / HALF_LIFE_US;
        if halves >= 32 {
            return u64::from(self.average > 0);
        }
        let at_start = self.average >> halves;
        // Straight between one half and the next.
        at_start - at_start / 2 * (silent_us % HALF_LIFE_US) / HALF_LIFE_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_fast_and_falls_slowly() {
        let mut latency = Latency::default();
        assert_eq!(latency.expected_us(0), None);
        latency.heard(100, 0);
        assert_eq!(latency.expected_us(0), Some(100));
        for _ in 0..5 {
            latency.heard(10_000, 0);
        }
        assert!(latency.expected_us(0).unwrap() > 9_000);
        latency.heard(100, 0);
        assert!(latency.expected_us(0).unwrap() > 8_000);
        for _ in 0..100 {
            latency.heard(100, 0);
        }
        assert_eq!(latency.expected_us(0), Some(100));
    }

    #[test]
    fn a_slow_past_fades_by_half_each_second_and_never_to_nothing() {
        let mut latency = Latency::default();
        latency.heard(1_000_000, 5);
        let mut before = u64::MAX;
        for tenth in 0..400 {
            let now = latency.expected_us(5 + tenth * 100_000).unwrap();
            assert!(now <= before && now >= 1, "{tenth}");
            before = now;
        }
        assert_eq!(latency.expected_us(5 + 3_000_000), Some(125_000));
        assert_eq!(latency.expected_us(u64::MAX), Some(1));
    }

    #[test]
    fn what_was_not_answered_only_makes_it_slower() {
        let mut latency = Latency::default();
        latency.heard(1_000, 0);
        latency.waited(500, 0);
        assert_eq!(latency.expected_us(0), Some(1_000));
        latency.waited(3_000, 0);
        assert_eq!(latency.expected_us(0), Some(2_000));
    }
}
