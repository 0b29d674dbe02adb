//! When those come back who are told to: not all at once.

use crate::front::Front;
use crate::rate::Bucket;

/// So many connections come back to one core in a second, if they keep to what they are told: a handshake costs some ten
/// microseconds, and what they ask for then several times that.
const RETURNS_PER_S: u32 = 5_000;
/// So often one session is resumed in a second: each time costs a take-over, and uses up one of the core's returns. A peer that
/// loses its connection over and over is far below.
const RETURNS_OF_ONE_PER_S: u32 = 50;

/// A hello that may resume its session, but not now.
pub(crate) struct PutOff {
    /// When to come again, ms from now.
    pub(crate) after_ms: u32,
    /// What its peer is told.
    pub(crate) why: &'static str,
}

/// Hellos that resume a session of this core and have its token. Others are not counted: whoever invents sessions takes
/// nothing from those that have one.
#[derive(Debug)]
pub(crate) struct Returns {
    /// Those that were admitted.
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

    /// One more has come. Whether it is none too many.
    fn admit(&mut self, now_ms: u64) -> bool {
        let per_s = u64::from(RETURNS_PER_S);
        let is_admitted = self.taken.take(0, per_s, now_ms) <= now_ms;
        if is_admitted {
            self.taken.take(1, per_s, now_ms);
        }
        is_admitted
    }

    /// One that is too many is told to come later. How many there are to be spread: no more are counted than come back over
    /// `span_max_ms` and a second.
    fn expect_later(&mut self, span_max_ms: u32, now_ms: u64) -> u32 {
        let per_s = u64::from(RETURNS_PER_S);
        let span_max_ms = u64::from(span_max_ms);
        let mut all_back_ms = self.put_off.take(0, per_s, now_ms).saturating_sub(now_ms);
        if all_back_ms < span_max_ms {
            all_back_ms = self.put_off.take(1, per_s, now_ms).saturating_sub(now_ms);
        }
        // The bucket lets those of a second go uncounted.
        let peers = per_s + all_back_ms.min(span_max_ms) * per_s / 1_000;
        u32::try_from(peers).unwrap_or(u32::MAX)
    }
}

impl Front {
    /// A hello has come that may resume the session at this place. If too many do at once, or it too often, it is to come again
    /// later. A network that was down for a moment sends all of its sessions back together, and those that are looked at last
    /// would be too late.
    pub(crate) fn put_off_return(&mut self, slot: usize) -> Option<PutOff> {
        let now_ms = self.now_ms;
        let session = self.sessions[slot].as_mut();
        let resumable = session.and_then(|session| session.resumable.as_mut())?;
        let per_s = u64::from(RETURNS_OF_ONE_PER_S);
        let may_ms = resumable.returns.take(0, per_s, now_ms);
        if may_ms > now_ms {
            // It takes none of those that the others have.
            self.counters.returns_put_off += 1;
            return Some(PutOff {
                after_ms: u32::try_from(may_ms - now_ms).unwrap_or(u32::MAX),
                why: "this session was resumed too often of late; it is as it was, come again",
            });
        }
        if self.returns.admit(now_ms) {
            resumable.returns.take(1, per_s, now_ms);
            return None;
        }
        self.counters.returns_put_off += 1;
        Some(PutOff {
            after_ms: self.later_ms(slot),
            why: "more sessions come back at once than this core takes; yours is as it was, come again",
        })
    }

    /// When one of too many that come back at once is to come again, ms from now.
    fn later_ms(&mut self, slot: usize) -> u32 {
        let now_ms = self.now_ms;
        let resume_ms = self.limits.resume_ms;
        // For how long it is kept still, and when it was told to come.
        let (mut left_ms, mut comes_ms) = (resume_ms, 0);
        if let Some(session) = &self.sessions[slot] {
            if session.is_away() {
                let left = session.due.complete_ms.saturating_sub(now_ms);
                left_ms = u32::try_from(left).unwrap_or(resume_ms);
            }
            comes_ms = session
                .resumable
                .as_ref()
                .map_or(0, |resumable| resumable.comes_ms);
        }
        if comes_ms > now_ms {
            // It did not wait. It is expected then, and counted.
            return u32::try_from(comes_ms - now_ms).unwrap_or(u32::MAX);
        }
        let peers = self.returns.expect_later(resume_ms / 2, now_ms);
        // Who comes when its session is over has been told in vain; who is told half of the time may be put off once more.
        let span_ms = span_ms(self.limits.retry_spread_ms, peers).min(left_ms / 2);
        let after_ms = spread_over(span_ms.max(1), self.random());
        let resumable = self.sessions[slot]
            .as_mut()
            .and_then(|session| session.resumable.as_mut());
        if let Some(resumable) = resumable {
            resumable.comes_ms = now_ms + u64::from(after_ms);
        }
        after_ms
    }

    /// When one of so many peers that are told so together should come back, ms: another time for each, uniformly over the
    /// configured span, or over so many seconds as it takes.
    pub(crate) fn retry_after_ms(&mut self, peers: u32) -> u32 {
        spread_over(span_ms(self.limits.retry_spread_ms, peers), self.random())
    }

    fn random(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.ids.secret().0;
        u32::from_be_bytes([a, b, c, d])
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
                if returns.admit(now_ms) {
                    taken += 1;
                    return false;
                }
                let span_ms = span_ms(5_000, returns.expect_later(30_000, now_ms)).min(30_000);
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *at_ms = now_ms + u64::from(spread_over(span_ms, random));
                true
            });
            assert!(taken <= 2 * RETURNS_PER_S, "at {now_ms} ms");
            now_ms += 10;
        }
        let least_ms = sessions as u64 * 1_000 / u64::from(RETURNS_PER_S);
        assert!(now_ms <= 1_000 + 2 * least_ms, "the last one at {now_ms} ms");
        assert!(looks <= 4 * sessions, "{looks} hellos");
        assert!(returns.admit(now_ms + 10_000));
    }

    #[test]
    fn however_many_are_put_off_no_more_are_expected_than_come_back_in_time() {
        let mut returns = Returns::new();
        let peers_max = 31 * RETURNS_PER_S;
        for _ in 0..1_000_000 {
            assert!(returns.expect_later(30_000, 1_000) <= peers_max);
        }
        assert_eq!(returns.expect_later(30_000, 1_000), peers_max);
        // All of them have had their time.
        assert_eq!(returns.expect_later(30_000, 1_000 + 31_000), RETURNS_PER_S);
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
