//! How many calls of a set may be sent a second time, so that trouble does not double its load.

use crate::routes::RetryBudget;

const SECONDS: usize = 10;

/// Calls and repeats of the last ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// The second that is being counted.
    second: u64,
    calls: [u32; SECONDS],
    repeats: [u32; SECONDS],
}

impl Budget {
    /// A call was given away for the first time.
    #[inline]
    pub(crate) fn called(&mut self, now_us: u64) {
        let at = self.turn(now_us);
        self.calls[at] = self.calls[at].saturating_add(1);
    }

    /// Whether one may be sent again; if so, it is counted.
    pub(crate) fn withdraw(&mut self, settings: &RetryBudget, now_us: u64) -> bool {
        let at = self.turn(now_us);
        let sum = |counts: &[u32; SECONDS]| counts.iter().map(|&count| u64::from(count)).sum::<u64>();
        let is_allowed = self.repeats[at] < settings.least_per_s
            || (sum(&self.repeats) + 1) * 100 <= sum(&self.calls) * u64::from(settings.percent);
        if is_allowed {
            self.repeats[at] = self.repeats[at].saturating_add(1);
        }
        is_allowed
    }

    /// Empties the seconds that went by; the place of this one.
    #[inline]
    fn turn(&mut self, now_us: u64) -> usize {
        let second = now_us / 1_000_000;
        if second != self.second {
            let gone = second.saturating_sub(self.second).min(SECONDS as u64);
            for nth in 0..gone {
                let at = ((second - nth) % SECONDS as u64) as usize;
                (self.calls[at], self.repeats[at]) = (0, 0);
            }
            self.second = second.max(self.second);
        }
        (self.second % SECONDS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: RetryBudget = RetryBudget {
        percent: 20,
        least_per_s: 2,
    };

    fn withdrawn(budget: &mut Budget, now_us: u64) -> usize {
        (0..10_000).filter(|_| budget.withdraw(&SETTINGS, now_us)).count()
    }

    #[test]
    fn a_few_a_second_in_any_case_and_a_fifth_of_the_last_ten_seconds() {
        let mut budget = Budget::default();
        assert_eq!(withdrawn(&mut budget, 0), 2);
        assert_eq!(withdrawn(&mut budget, 999_999), 0);
        assert_eq!(withdrawn(&mut budget, 1_000_000), 2);
        for _ in 0..100 {
            budget.called(2_000_000);
        }
        assert_eq!(withdrawn(&mut budget, 3_000_000), 20 - 4);
        assert_eq!(
            withdrawn(&mut budget, 11_500_000),
            4,
            "the calls still count, the first four repeats no longer"
        );
        assert_eq!(withdrawn(&mut budget, 12_000_000), 2, "nothing is left of them");
    }

    #[test]
    fn it_forgets_after_a_long_time_and_bears_a_clock_that_stands() {
        let mut budget = Budget::default();
        for _ in 0..1_000 {
            budget.called(0);
        }
        assert_eq!(withdrawn(&mut budget, u64::MAX), 2);
        assert_eq!(withdrawn(&mut budget, 5), 0, "time does not go back");
    }
}
