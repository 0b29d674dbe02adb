//! A session loses its connection: it is put away for a while, and over when nobody has come for it.

use fluxar_engine::reactor::{Close, Conn};
use fluxar_protocol::hello::Handshake;
use fluxar_protocol::reader::EnvelopeReader;
use fluxar_shard::{PeerId, Standing};

use crate::front::{Effect, Front};
use crate::outbox::Framing;
use crate::session::{Due, Session, pause};

/// When the sessions of a core keep more than they may together, those that keep most give up some, until all keep so many
/// eighths of that: so this is done once for many bytes.
const KEPT_EIGHTHS: usize = 7;

/// What there is of the connection that a session loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remains {
    /// It stands, as far as the engine knows, and is closed.
    Open,
    /// The engine ends it, behind what its transport owes the peer still (a WebSocket's close frame is answered).
    Ending,
    /// Nothing.
    Gone,
}

impl Front {
    /// A connection is lost without a goodbye. If its session can be resumed it is put away, and true is the answer.
    pub(crate) fn put_away(&mut self, slot: usize, remains: Remains) -> bool {
        if !self.can_be_away(slot) {
            return false;
        }
        if self.sessions.away() >= self.limits.connections as usize {
            let Some(first) = self.sessions.first_to_go() else {
                return false;
            };
            tracing::debug!("as many sessions are away as may be; the one that is away longest is over");
            self.counters.away_over += 1;
            self.end_session(first);
            if !self.can_be_away(slot) {
                return false; // what came of that end
            }
        }
        let Some(mut session) = self.take_from(slot, remains) else {
            return false;
        };
        session.outbox.connection_lost();
        session.reader = EnvelopeReader::new();
        session.awaited = 0;
        session.dirty = false;
        // Events for it are dropped, and the logs keep theirs.
        session.paused = pause::QUEUE;
        session.busy = true;
        // Who drains goes on with that when it is back.
        session.standing = Standing {
            draining: session.standing.draining,
            ..Standing::default()
        };
        session.due = Due {
            complete_ms: self.now_ms + u64::from(self.limits.resume_ms),
            ..Due::NEVER
        };
        let peer = session.peer;
        tracing::debug!(?peer, "its connection is lost; its session waits for another");
        let keeps_nothing = session
            .outbox
            .keeping()
            .is_none_or(|keeping| keeping.bytes() == 0);
        let has_nothing = keeps_nothing && session.unacked.is_nothing() && self.shard.has_nothing_of(peer);
        let away = self.sessions.put_away(session, has_nothing);
        self.resumables.moved.insert(peer, away);
        self.counters.put_away += 1;
        self.arm(away);
        self.shard.peer_away(peer);
        self.after_shard();
        true
    }

    fn can_be_away(&self, slot: usize) -> bool {
        // What was said to one that is deaf is not kept.
        let is_kept = self.sessions[slot]
            .as_ref()
            .is_some_and(|session| session.resumable.is_some() && !session.is_deaf());
        is_kept && !self.stopping
    }

    /// The timer of a session that is away has rung.
    pub(crate) fn look_at_away(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.timer = None;
        if session.due.complete_ms <= self.now_ms {
            self.counters.away_over += 1;
            self.end_session(slot);
        } else {
            self.arm(slot);
        }
    }

    /// The gateway stops: nobody will come back to this one.
    pub(crate) fn end_all_away(&mut self) {
        for slot in self.sessions.away_slots() {
            self.end_session(slot);
        }
    }

    /// A session that can be resumed is over, without a word; a connection that it has is closed.
    pub(crate) fn end_session(&mut self, slot: usize) {
        let Some(mut session) = self.take_from(slot, Remains::Open) else {
            return;
        };
        self.resumables.let_go(&mut session);
        if !session.left {
            self.shard.peer_lost(session.peer);
            self.after_shard();
        }
    }

    /// Takes a session from its connection, whatever that is worth, or from those that are away. A connection that the engine
    /// still has is fenced: what still comes of it finds a session that has left.
    pub(crate) fn take_from(&mut self, slot: usize, remains: Remains) -> Option<Session> {
        let is_away = self.sessions[slot].as_ref()?.is_away();
        let session = if is_away {
            self.sessions.take_away(slot)?
        } else {
            self.sessions[slot].take()?
        };
        if let Some((timer, _)) = session.timer {
            self.timers.cancel(timer);
        }
        let session = Session {
            timer: None,
            ..session
        };
        if !is_away && remains != Remains::Gone {
            let conn = session.conn;
            self.sessions[slot] = Some(fenced(conn, self.core, session.outbox.framing(), self.now_ms));
            if remains == Remains::Open {
                self.effects.push_back(Effect::Close {
                    conn,
                    how: Close::Now,
                });
            }
        }
        Some(session)
    }

    /// At the end of a turn: the sessions that keep most give up their oldest, if all together keep too much. What they
    /// need of it will be missed only by those that resume from there.
    pub(crate) fn bound_kept(&mut self) {
        let bytes_max = self.limits.resume_bytes_per_core;
        if self.resumables.kept_bytes.get() <= bytes_max {
            return;
        }
        let slots = (0..self.sessions.len()).chain(self.sessions.away_slots());
        let mut keep: Vec<(usize, usize)> = Vec::with_capacity(self.resumables.len());
        for slot in slots {
            let session = self.sessions[slot].as_mut();
            if let Some(keeping) = session.and_then(|session| session.outbox.keeping()) {
                keep.push((keeping.bytes(), slot));
            }
        }
        keep.sort_unstable();
        let (first, level) = level(&keep, bytes_max / 8 * KEPT_EIGHTHS);
        for &(_, slot) in &keep[first..] {
            let session = self.sessions[slot].as_mut();
            if let Some(keeping) = session.and_then(|session| session.outbox.keeping()) {
                keeping.shrink_to(level);
                self.counters.kept_forgotten += 1;
            }
        }
    }
}

/// Of these that keep so many bytes, in rising order, the first that must give up some so that all keep no more than `bytes_max`,
/// and what it and those behind it may keep each. Who keeps less keeps it all.
fn level(keep: &[(usize, usize)], bytes_max: usize) -> (usize, usize) {
    let mut left_bytes = bytes_max;
    for (at, &(bytes, _)) in keep.iter().enumerate() {
        let share = left_bytes / (keep.len() - at);
        if bytes > share {
            return (at, share);
        }
        left_bytes -= bytes;
    }
    (keep.len(), bytes_max)
}

/// What is at the place of a connection whose session was taken from it.
fn fenced(conn: Conn, core: u16, framing: Framing, now_ms: u64) -> Session {
    let nobody = PeerId {
        slot: u32::MAX,
        generation: u32::MAX,
        core,
    };
    let mut session = Session::new(conn, nobody, framing, now_ms);
    session.left = true;
    session.handshake = Handshake::Closing;
    session
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn the_largest_are_cut_to_one_level_and_the_others_left_alone() {
        let of = |bytes: &[usize]| bytes.iter().map(|&bytes| (bytes, 0)).collect::<Vec<_>>();
        assert_eq!(level(&of(&[]), 10), (0, 10));
        assert_eq!(level(&of(&[1, 2, 3]), 6), (3, 6));
        assert_eq!(level(&of(&[0, 0, 4, 20]), 12), (3, 8));
        assert_eq!(level(&of(&[1, 20, 30]), 13), (1, 6));
        assert_eq!(level(&of(&[5, 5]), 0), (0, 0));
    }
}
