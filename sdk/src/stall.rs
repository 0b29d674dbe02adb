//! How long the reading of a connection may stand still for subscriptions whose queues are full.
//!
//! Waiting slows the sender down, which is right for a moment. But everything else on the connection waits as well:
//! answers, pongs, the events of quick subscriptions. So there is a budget, for the connection and not for each event
//! or subscription.

use std::time::Duration;

use tokio::time::Instant;

/// The budget is renewed no more often than this.
const PERIOD: Duration = Duration::from_secs(10);
/// Of the time, at most this part is spent waiting.
const SHARE: u32 = 10;

/// What is left to be spent in the current period.
#[derive(Debug)]
pub(crate) struct StallBudget {
    stall: Duration,
    left: Duration,
    /// The period began with its first wait.
    renewed_at: Option<Instant>,
}

impl StallBudget {
    /// `stall` is what may be spent in 10 s, or in ten times itself if that is longer.
    pub(crate) fn new(stall: Duration) -> Self {
        Self {
            stall,
            left: stall,
            renewed_at: None,
        }
    }

    /// Waits for `what` as long as the budget lasts; `None` if that was not long enough.
    pub(crate) async fn spend<F: Future>(&mut self, what: F) -> Option<F::Output> {
        let begin = Instant::now();
        let period = PERIOD.max(self.stall.saturating_mul(SHARE));
        if self
            .renewed_at
            .is_none_or(|renewed_at| begin.duration_since(renewed_at) >= period)
        {
            self.renewed_at = Some(begin);
            self.left = self.stall;
        }
        if self.left.is_zero() {
            return None;
        }
        let done = tokio::time::timeout(self.left, what).await.ok();
        self.left = match done {
            Some(_) => self.left.saturating_sub(begin.elapsed()),
            None => Duration::ZERO,
        };
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_waits_of_a_period_share_one_budget() {
        let mut budget = StallBudget::new(Duration::from_secs(1));
        let begin = Instant::now();
        let mut waited = 0;
        for _ in 0..10 {
            let wait = tokio::time::sleep(Duration::from_millis(300));
            waited += u32::from(budget.spend(wait).await.is_some());
        }
        assert_eq!((waited, begin.elapsed()), (3, Duration::from_secs(1)));
        tokio::time::advance(PERIOD - Duration::from_secs(1)).await;
        let renewed = budget.spend(tokio::time::sleep(Duration::from_millis(300))).await;
        assert!(renewed.is_some(), "the next period has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_stall_has_a_longer_period() {
        let mut budget = StallBudget::new(Duration::from_secs(30));
        assert!(budget.spend(std::future::pending::<()>()).await.is_none());
        tokio::time::advance(Duration::from_secs(269)).await;
        let begin = Instant::now();
        assert!(budget.spend(std::future::pending::<()>()).await.is_none());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(budget.spend(async {}).await.is_some());
    }
}
