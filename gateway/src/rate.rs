//! A token bucket in milliseconds: how a rate is held without a timer for each message.

/// Tokens that refill with time up to one second's worth. It may go into debt: what has arrived is handled, and
/// reading stops until the debt is paid.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Tokens used since `since_ms`, less what refilled.
    used: u64,
    since_ms: u64,
}

impl Bucket {
    /// One that owes nothing.
    #[must_use]
    pub fn full(now_ms: u64) -> Self {
        Self {
            used: 0,
            since_ms: now_ms,
        }
    }

    /// Takes tokens and returns when reading may go on, ms: `now_ms` or earlier means at once.
    pub fn take(&mut self, tokens: u64, per_s: u64, now_ms: u64) -> u64 {
        let refilled = now_ms.saturating_sub(self.since_ms).saturating_mul(per_s) / 1000;
        if refilled > 0 {
            self.used = self.used.saturating_sub(refilled);
            self.since_ms = now_ms;
        }
        self.used += tokens;
        let over = self.used.saturating_sub(per_s);
        if over == 0 {
            now_ms
        } else {
            now_ms + (over * 1000).div_ceil(per_s.max(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_passes_and_the_rest_waits() {
        let mut bucket = Bucket::full(0);
        assert_eq!(bucket.take(1000, 1000, 0), 0);
        assert_eq!(bucket.take(500, 1000, 0), 500);
        assert_eq!(bucket.take(0, 1000, 500), 500, "the debt is paid when it said so");
        assert_eq!(
            bucket.take(100, 1000, 600),
            600,
            "what refilled since may be used"
        );
        assert_eq!(bucket.take(1, 1000, 600), 601);
    }

    #[test]
    fn over_time_the_rate_holds_whatever_the_pattern() {
        let mut bucket = Bucket::full(0);
        let (mut now_ms, mut taken) = (0, 0);
        while now_ms < 60_000 {
            taken += 7;
            now_ms = bucket.take(7, 1000, now_ms).max(now_ms) + taken % 3;
        }
        assert!(
            taken <= 61_000 + 7,
            "{taken} in a minute at 1000/s with one second of burst"
        );
    }
}
