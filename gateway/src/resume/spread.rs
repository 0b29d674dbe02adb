//! When those come back who are told to: not all at once.

use crate::front::Front;

/// So many connections come back to one core in a second, if they keep to what they are told: a handshake costs some ten
/// microseconds, and what they ask for then several times that.
const RETURNS_PER_S: u32 = 5_000;

impl Front {
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
