//! Connections come and go: accepted ones, and the end of any. What this gateway dials begins in
//! [`crate::upstreams::opening`].

use std::net::IpAddr;

use fluxar_engine::listener::{ListenerId, Peer};
use fluxar_engine::reactor::{Cause, Conn};
use fluxar_protocol::error::Code;
use fluxar_protocol::hello::Handshake;

use crate::front::{Front, ws_code};
use crate::outbox::Framing;
use crate::resume::Remains;
use crate::session::{Due, Origin, Rate, Session};
use crate::upstreams::opening::cause_in_words;

impl Front {
    /// A connection was accepted.
    pub fn handle_opened(&mut self, conn: Conn, listener: ListenerId, peer: &Peer) {
        let framing = self.framings[usize::from(listener.0)];
        let mut session = Session::new(conn, self.peer_of(conn), framing, self.now_ms);
        session.origin = origin(peer, framing);
        session.due.complete_ms = self.now_ms + u64::from(self.limits.handshake_ms);
        if self.limits.messages_per_s > 0 || self.limits.bytes_per_s > 0 {
            let full = crate::rate::Bucket::full(self.now_ms);
            session.rate = Some(Box::new(Rate {
                messages: full,
                bytes: full,
            }));
        }
        let slot = self.enter(session);
        self.is_welcome(slot);
    }

    /// Whether a new connection is taken; if not, it is told when to try again.
    pub(crate) fn is_welcome(&mut self, slot: usize) -> bool {
        if self.open_sessions <= self.limits.connections && !self.stopping {
            return true;
        }
        let retry_after_ms = self.retry_after_ms(self.limits.connections);
        if self.stopping {
            let message = "the gateway is stopping";
            let why = Some((Code::Unavailable, message));
            self.say_goodbye_until(slot, why, Some(retry_after_ms), ws_code::GOING_AWAY);
        } else {
            let message = format!(
                "this core of the gateway holds {} connections and takes no more; try another gateway, or raise limits.connections",
                self.limits.connections
            );
            let why = Some((Code::ResourceExhausted, &*message));
            self.say_goodbye_until(slot, why, Some(retry_after_ms), ws_code::POLICY);
        }
        false
    }

    /// Puts a session into the table, at the place that its connection names.
    pub(crate) fn enter(&mut self, session: Session) -> usize {
        let slot = session.conn.0.slot as usize;
        while self.sessions.len() <= slot {
            self.sessions.push(None);
        }
        // A dial may be given the place of a connection that has just ended, and whose end is still to be polled.
        if let Some(ended) = self.sessions[slot].as_ref().map(|session| session.conn) {
            debug_assert!(session.is_dialled(), "an accepted one comes behind that end");
            self.handle_closed(ended, &Cause::Ours);
        }
        self.sessions[slot] = Some(session);
        self.open_sessions += 1;
        self.counters.opened += 1;
        self.arm(slot);
        slot
    }

    /// A connection is gone, for whatever reason.
    pub fn handle_closed(&mut self, conn: Conn, cause: &Cause) {
        let slot = conn.0.slot as usize;
        let is_breach = matches!(cause, Cause::Transport(_));
        if let Some(slot) = self.slot_of(conn)
            && !is_breach
            && self.put_away(slot, Remains::Gone)
        {
            self.open_sessions -= 1;
            self.counters.closed += 1;
            return;
        }
        let Some(mut session) = self
            .sessions
            .get_mut(slot)
            .and_then(|place| place.take_if(|s| s.conn == conn))
        else {
            return;
        };
        if let Some((timer, _)) = session.timer {
            self.timers.cancel(timer);
        }
        self.open_sessions -= 1;
        self.counters.closed += 1;
        if session.is_dialled() {
            self.link_lost(session.link, conn, &cause_in_words(cause), None);
        }
        self.resumables.let_go(&mut session);
        if !session.left {
            self.shard.peer_lost(session.peer);
            self.after_shard();
        }
    }

    /// A connection is about to end, by its peer's doing: nothing that is said to it arrives any more. A session whose peer
    /// broke the rules is over [P-7.6].
    pub fn handle_ending(&mut self, conn: Conn, is_breach: bool) {
        let Some(slot) = self.slot_of(conn) else { return };
        if self.sessions[slot].as_ref().is_none_or(|session| session.left) {
            return;
        }
        // The engine closes it, behind its transport's own last word.
        if !is_breach && self.put_away(slot, Remains::Ending) {
            return;
        }
        let Some(session) = self.sessions[slot].as_mut().filter(|session| !session.left) else {
            return; // what came of putting it away
        };
        session.left = true;
        session.handshake = Handshake::Closing;
        session.due = Due::NEVER;
        let peer = session.peer;
        self.resumables.let_go(session);
        self.let_go(slot, &"it closed the connection", None);
        self.shard.peer_lost(peer);
        self.after_shard();
    }
}

fn origin(peer: &Peer, framing: Framing) -> Origin {
    match peer {
        Peer::Unix { .. } => Origin::Unix,
        Peer::Ip(address) if framing == Framing::Prefixed && is_loopback(address.ip()) => Origin::Loopback,
        Peer::Ip(_) => Origin::Other,
    }
}

/// Also as an IPv6 socket sees an IPv4 peer.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_takes_a_byte_stream_from_this_machine() {
        let ip = |text: &str| Peer::Ip(text.parse().expect("an address"));
        for (peer, framing, expected) in [
            (Peer::Unix { pid: 1, uid: 0 }, Framing::Prefixed, Origin::Unix),
            (ip("127.0.0.9:1"), Framing::Prefixed, Origin::Loopback),
            (ip("[::1]:1"), Framing::Prefixed, Origin::Loopback),
            (ip("[::ffff:127.0.0.1]:1"), Framing::Prefixed, Origin::Loopback),
            (ip("127.0.0.1:1"), Framing::Message, Origin::Other),
            (ip("192.0.2.1:1"), Framing::Prefixed, Origin::Other),
        ] {
            assert_eq!(origin(&peer, framing), expected, "{peer:?}");
        }
    }
}
