//! How many counted envelopes this side has taken in, and when to say so [P-7.7].

/// A ping with `recv` is due when so many bytes of counted envelopes came since the peer was last told.
pub const RECV_DUE_BYTES: usize = 64 * 1024;

/// The receiving side's count, over all connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    count: u64,
    /// Bytes of those that the peer has not been told of.
    untold_bytes: usize,
}

impl Received {
    /// A counted envelope of so many bytes is carried out, or refused. To be called in that very step, and for nothing
    /// that comes from a connection that another has taken the place of.
    #[inline]
    pub fn take(&mut self, bytes: usize) {
        self.count += 1;
        self.untold_bytes = self.untold_bytes.saturating_add(bytes);
    }

    /// How many so far: `recv`, for looking at.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the peer is to be told by a ping now, so that it need not keep more.
    #[inline]
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.untold_bytes >= RECV_DUE_BYTES
    }

    /// `recv`, for a hello, a ping or its answer that goes out now.
    pub fn tell(&mut self) -> u64 {
        self.untold_bytes = 0;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_due_by_bytes_and_telling_makes_it_not_due() {
        let mut received = Received::default();
        received.take(RECV_DUE_BYTES - 1);
        assert!(!received.is_due());
        received.take(1);
        assert!(received.is_due());
        assert_eq!(received.tell(), 2);
        assert!(!received.is_due());
        assert_eq!(received.count(), 2);
    }
}
