//! Publishing to the log. A connection may have so many bytes under way that are not settled; beyond that it is not read, so
//! a publisher at full speed is slowed by its own acknowledgements.

use fluxar_protocol::error::Code;
use fluxar_protocol::meta::{Published, Qos};
use fluxar_protocol::{Id, Kind};
use fluxar_shard::logged::{LoggedPublish, NO_LOG};

use crate::front::Front;
use crate::session::pause;

/// What one connection has published that is neither acknowledged nor refused yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unacked {
    bytes: u32,
    events: u32,
}

impl Unacked {
    /// Whether nothing is owed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.events == 0
    }

    /// How many bytes are owed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// One more event, of so many bytes.
    fn take(&mut self, bytes: usize) {
        self.bytes = self
            .bytes
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.events = self.events.saturating_add(1);
    }

    /// So many events are settled, so many bytes together; without `bytes`, as many as that many have on average.
    fn settle(&mut self, events: usize, bytes: Option<usize>) {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let bytes = match bytes {
            Some(bytes) => u32::try_from(bytes).unwrap_or(u32::MAX),
            None => (u64::from(self.bytes) * u64::from(events) / u64::from(self.events.max(1)))
                .try_into()
                .unwrap_or(u32::MAX),
        };
        self.events = self.events.saturating_sub(events);
        self.bytes = if self.events == 0 {
            0 // whatever the averages left
        } else {
            self.bytes.saturating_sub(bytes)
        };
    }
}

impl Front {
    /// Takes an event. `compact` is its envelope, with `topic` as its target.
    pub(crate) fn publish_as(&mut self, slot: usize, id: Id, topic: &str, compact: &[u8], wish: Published) {
        let acked = wish.qos != Qos::AtMostOnce;
        let is_logged = acked || self.logs_unasked && self.shard.always_logged(topic);
        if !is_logged {
            if wish.retain {
                let message = "only what is logged can be retained: publish at qos 1 or 2";
                return self.refuse(slot, Kind::Event, id, Code::InvalidArgument, message);
            }
            return self.shard.publish(topic, compact);
        }
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if !self.shard.has_log() {
            self.answer_error(slot, Kind::Event, id, Code::FailedPrecondition, NO_LOG, None);
            return self.charge_refusal(slot);
        }
        let how = LoggedPublish {
            once: wish.qos == Qos::ExactlyOnce,
            retain: wish.retain,
            expires: wish.ttl_ms.is_some(),
            acked,
        };
        let peer = session.peer;
        if acked {
            session.unacked.take(compact.len());
            if session.unacked.bytes as usize > self.limits.publish_unacked_bytes {
                self.pause(slot, pause::LOG);
            }
        }
        self.counters.logged += 1;
        self.shard.publish_logged(peer, topic, compact, how);
    }

    /// Events of this connection are acknowledged or refused: it may be read again.
    pub(crate) fn settle(&mut self, slot: usize, events: usize, bytes: Option<usize>) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.unacked.settle(events, bytes);
        if self.stopping {
            if session.unacked.is_nothing() {
                self.say_stopping(slot);
            }
            return;
        }
        if session.paused & pause::LOG != 0
            && session.unacked.bytes as usize <= self.limits.publish_unacked_bytes / 2
        {
            self.unpause(slot, pause::LOG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_by_averages_ends_at_nothing() {
        let mut unacked = Unacked::default();
        for bytes in [10, 1_000, 70] {
            unacked.take(bytes);
        }
        unacked.settle(1, None);
        assert_eq!((unacked.bytes, unacked.events), (720, 2));
        unacked.settle(1, Some(1_000));
        assert_eq!((unacked.bytes, unacked.events), (0, 1));
        unacked.take(5);
        unacked.settle(2, None);
        assert_eq!(unacked, Unacked::default());
        unacked.settle(1, None);
        assert_eq!(unacked, Unacked::default(), "nothing is owed to nobody");
    }
}
