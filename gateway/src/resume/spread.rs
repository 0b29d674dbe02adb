//! When those come back who are told to: not all at once.

use crate::front::Front;
use crate::rate::Bucket;

/// So many connections come back to one core in a second, if they keep to what they are told: a handshake costs some ten
/// microseconds, and what they ask for then several times that.
const RETURNS_PER_S: u32 = 5_000;

/// Hellos that resume, as they come to one core.
#[derive(Debug)]
pub(crate) struct Returns {
    /// Those that were looked at.
    taken: Bucket,
    /// Those that were told to come later, and are expected.
    put_off: Bucket,
}

impl Returns {
    pub(crate) fn new() -> Self {
        Self {
            taken: Bucket::full(0),
            put_off: Bucket::full(0),
        }
    }

    /// One more has come. If it is one too many: how many there are to be spread.
    fn take(&mut self, now_ms: u64) -> Result<(), u32> {
        let per_s = u64::from(RETURNS_PER_S);
        if self.taken.take(0, per_s, now_ms) <= now_ms {
            self.taken.take(1, per_s, now_ms);
            return Ok(());
        }
        let all_back_ms = self.put_off.take(1, per_s, now_ms).saturating_sub(now_ms);
        // The bucket lets those of a second go uncounted.
        let peers = per_s + all_back_ms * per_s / 1_000;
        Err(u32::try_from(peers).unwrap_or(u32::MAX))
    }
}

impl Front {
    /// A hello has come that resumes. If too many do at once: when it is to come again, ms from now. A network that was down
    /// for a moment sends all of its sessions back together, and those that are looked at last would be too late.
    pub(crate) fn put_off_return(&mut self) -> Option<u32> {
        let peers = self.returns.take(self.now_ms).err()?;
        self.counters.returns_put_off += 1;
        Some(self.retry_after_ms(peers))
    }

    /// When one of so many peers that are told so together should come back, ms: another time for each, uniformly over the
    /// configured span, or over so many seconds as it takes.
    pub(crate) fn retry_after_ms(&mut self, peers: u32) -> u32 {
        let secret = self.ids.secret().0;
        let [a, b, c, d, ..] = secret;
        let random = u32::from_be_bytes([a, b, c, d]);
        spread_over(span_ms(self.limits.retry_spread_ms, peers), random)
    }
}

fn span_ms(configured_ms: u32, peers: u32) -> u32 {
    let needed_ms = u64::from(peers) * 1_000 / u64::from(RETURNS_PER_S);
    u32::try_from(needed_ms)
        .unwrap_or(u32::MAX)
        .max(configured_ms)
        .max(1)
}

/// From 1 to the span: 0 would say nothing.
fn spread_over(span_ms: u32, random: u32) -> u32 {
    1 + ((u64::from(random) * u64::from(span_ms)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_returns_are_put_off_and_all_come_through_in_the_time_that_they_take() {
        let mut returns = Returns::new();
        let sessions = 60_000;
        // When each comes; all at once at first.
        let mut due_ms = vec![1_000_u64; sessions];
        let (mut now_ms, mut looks) = (1_000, 0);
        let mut random = 1_u32;
        while !due_ms.is_empty() {
            let mut taken = 0;
            due_ms.retain_mut(|at_ms| {
                if *at_ms > now_ms {
                    return true;
                }
                looks += 1;
                match returns.take(now_ms) {
                    Ok(()) => taken += 1,
                    Err(peers) => {
                        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        *at_ms = now_ms + u64::from(spread_over(span_ms(5_000, peers), random));
                        return true;
                    }
                }
                false
            });
            assert!(taken <= 2 * RETURNS_PER_S, "at {now_ms} ms");
            now_ms += 10;
        }
        let least_ms = sessions as u64 * 1_000 / u64::from(RETURNS_PER_S);
        assert!(now_ms <= 1_000 + 2 * least_ms, "the last one at {now_ms} ms");
        assert!(looks <= 4 * sessions, "{looks} hellos");
        assert_eq!(returns.take(now_ms + 10_000), Ok(()));
    }

    #[test]
    fn many_peers_are_spread_over_more_time_and_few_over_what_is_configured() {
        assert_eq!(span_ms(5_000, 1), 5_000);
        assert_eq!(span_ms(5_000, 25_000), 5_000);
        assert_eq!(span_ms(5_000, 200_000), 40_000);
        assert_eq!(span_ms(0, 0), 1);
        assert_eq!(spread_over(5_000, 0), 1);
        assert_eq!(spread_over(5_000, u32::MAX), 5_000);
        assert_eq!(spread_over(1, u32::MAX), 1);
    }
}
