//! An exchange is given to a server, taken from it again, or waits for one.
//!
//! ```text
//!            room                                 room at the gate of the server's home core
//!   asked ─────────▶ given ──▶ (Forward letter) ─────────────────────────────────────────▶ sent
//!     │                ▲                               │ no room: it waits there by prio     ▲
//!     └─ no room ─▶ queue of the set ──────────────────┘                                     │
//!                  (by prio) room                      └──── one leaves ─────────────────────┘
//! ```

use bytes::Bytes;
use fluxar_protocol::envelope::compact::{id_of, kind_of};
use fluxar_protocol::stream::{Failure, Note};
use fluxar_protocol::{Id, Kind, envelope};

use crate::exchanges::gate::{Held, Left};
use crate::exchanges::rewording::{aged, renewed};
use crate::exchanges::{DISPLACED, Exchange, GATE_FULL, NEVER, NOBODY, NONE, Role, core_of};
use crate::letter::{Arrival, Letter};
use crate::peer::PeerId;
use crate::serving::set::SetId;
use crate::serving::{Ending, Verdict};
use crate::shard::Shard;

/// Most bytes of what waited for a set that leave the queue at a time, rounded up to the last one.
const MOVED_BYTES_MAX: usize = 64 * 1024;

/// Bytes for a connection of this core: a call or an open, its id replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// To whom.
    pub to: PeerId,
    /// The id that it goes under.
    pub reference: Id,
    /// What.
    pub bytes: Bytes,
}

/// What the gateway itself says to a connection of this core, about what that one knows by `reference`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// To whom.
    pub to: PeerId,
    /// The ref.
    pub reference: Id,
    /// `Call` or `Stream`: what it is about.
    pub kind: Kind,
    /// What.
    pub note: Note,
}

/// What leaves a shard towards a connection of its core, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A call or an open.
    Forward(Forward),
    /// A word of the gateway's own.
    Note(Told),
}

impl Shard {
    /// The next thing to send. Poll until `None` after each input and letter, before [`Shard::poll_letter`].
    pub fn poll_outgoing(&mut self) -> Option<Outgoing> {
        loop {
            if let Some(outgoing) = self.out.pop_front() {
                return Some(outgoing);
            }
            if !self.move_on() {
                return None;
            }
        }
    }

    /// Whether there is anything to poll. A part and an answer mostly lead to nothing.
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.out.is_empty()
            || !self.moved_gates.is_empty()
            || !self.leaving.is_empty()
            || self.serving.has_moved()
            || !self.moving.is_empty()
            || self.post.has_letters()
    }

    /// Fills a place that became free: behind all that was said about what had it, so that no peer ever has more open
    /// than it takes. False if there is none.
    fn move_on(&mut self) -> bool {
        if let Some(peer) = self.moved_gates.pop_front() {
            self.move_gate(peer);
        } else if let Some(set) = self.serving.pop_moved().or_else(|| self.moving.pop_front()) {
            self.move_queue(set);
        } else {
            return false;
        }
        true
    }

    /// What waits goes before what comes; but no more of it at a time than [`MOVED_BYTES_MAX`].
    pub(crate) fn move_all(&mut self) {
        while self.moving.is_empty() && self.move_on() {}
    }

    /// Says something to a peer of whatever core.
    pub(crate) fn tell(&mut self, to: PeerId, reference: Id, kind: Kind, note: Note) {
        if to.core == self.core {
            self.out.push_back(Outgoing::Note(Told {
                to,
                reference,
                kind,
                note,
            }));
        } else {
            self.post.send(
                to.core,
                Letter::Note {
                    to,
                    reference,
                    kind,
                    note,
                },
            );
        }
    }

    /// Gives an exchange to a server: it is open there now, under a new id.
    pub(crate) fn give(&mut self, slot: u32, server: u32) -> Id {
        let forward_id = self.exchanges.name_forward(slot, &mut self.ids);
        let at_server = self.serving.opened(server, slot);
        let now_us = self.now_us;
        let exchange = &mut self.exchanges[slot];
        exchange.server = server;
        exchange.at_server = at_server;
        exchange.sent_us = now_us;
        self.exchanges.set_running(slot, true);
        forward_id
    }

    /// Whether something given to a server has to wait at this core's gate to it.
    pub(crate) fn is_gate_shut(&self, server: u32) -> bool {
        let server = &self.serving[server];
        server.in_flight_max != u32::MAX
            && server.peer.core == self.core
            && self.exchanges.gates.in_flight(server.peer, server.open.len()) > server.in_flight_max as usize
    }

    /// Sends what was given to a server on its way. Their id is the forward id already.
    pub(crate) fn dispatch(&mut self, slot: u32, bytes: Bytes) {
        let exchange = &self.exchanges[slot];
        let (server, reference, prio) = (exchange.server, exchange.forward_id, exchange.prio);
        let to = self.serving[server].peer;
        if to.core != self.core {
            // Whether there is a gate, and whether the peer still serves this, is known there: an open is answered by
            // `Admitted`, and nothing follows it before.
            self.post.send(to.core, Letter::Forward { to, bytes });
            return;
        }
        if !self.is_gate_shut(server) {
            self.out
                .push_back(Outgoing::Forward(Forward { to, reference, bytes }));
            return self.admitted(slot);
        }
        if !self.exchanges.has_bytes(bytes.len()) {
            return match self.exchanges[slot].role {
                Role::Hedge | Role::Mirror => self.drop_copy(slot),
                Role::Call | Role::Stream => self.end_by(slot, GATE_FULL, Ending::Cancelled),
            };
        }
        self.exchanges[slot].is_gated = true;
        let held = Held {
            reference,
            bytes,
            here: Some(slot),
            held_us: self.now_us,
        };
        self.exchanges.gates.hold(to, prio, held);
    }

    /// A call or an open from another core, for a peer of this one.
    pub(crate) fn forward_arrived(&mut self, to: PeerId, bytes: Bytes) -> Arrival {
        if !self.is_expected(to, &bytes) {
            if let Some(reference) = id_of(&bytes) {
                self.return_unheard(to, reference, bytes, false);
            }
            return Arrival::Taken;
        }
        let limit = self
            .serving
            .find(to)
            .map(|server| &self.serving[server])
            .filter(|server| server.in_flight_max != u32::MAX)
            .map(|server| (server.in_flight_max as usize, server.open.len()));
        let Some(reference) = id_of(&bytes) else {
            return Arrival::Taken; // no core writes such a one
        };
        let Some((most, open_here)) = limit else {
            self.tell_admitted(to, reference, &bytes);
            return Arrival::Forward { to, bytes };
        };
        if self.exchanges.gates.in_flight(to, open_here) < most {
            self.exchanges.gates.pass(to, reference);
            self.tell_admitted(to, reference, &bytes);
            return Arrival::Forward { to, bytes };
        }
        if !self.exchanges.has_bytes(bytes.len()) {
            let refused = Letter::Refused {
                from: to,
                reference,
                failure: GATE_FULL,
            };
            self.post.send(core_of(reference), refused);
            return Arrival::Taken;
        }
        let held = Held {
            reference,
            bytes,
            here: None,
            held_us: self.now_us,
        };
        self.exchanges.gates.hold(to, prio_of(&held.bytes), held);
        Arrival::Taken
    }

    /// Lets through what waits in front of a peer, as far as there is room.
    fn move_gate(&mut self, peer: PeerId) {
        let Some(server) = self.serving.find(peer) else {
            return;
        };
        loop {
            let server = &self.serving[server];
            let in_flight = self.exchanges.gates.in_flight(peer, server.open.len());
            if in_flight >= server.in_flight_max as usize {
                return;
            }
            let Some(held) = self.exchanges.gates.next(peer) else {
                return;
            };
            let Held {
                reference,
                bytes,
                here,
                held_us,
            } = held;
            let bytes = aged(bytes, self.now_us.saturating_sub(held_us) / 1_000);
            if here.is_none() {
                self.tell_admitted(peer, reference, &bytes);
            }
            self.out.push_back(Outgoing::Forward(Forward {
                to: peer,
                reference,
                bytes,
            }));
            if let Some(slot) = here {
                self.exchanges[slot].is_gated = false;
                self.admitted(slot);
            }
        }
    }

    /// A stream of another core has passed the gate: what follows its open may come.
    fn tell_admitted(&mut self, from: PeerId, reference: Id, bytes: &[u8]) {
        if kind_of(bytes) == Some(Kind::Stream) {
            self.post
                .send(core_of(reference), Letter::Admitted { from, reference });
        }
    }

    /// What was forwarded to a peer of this core, by another one, is over.
    pub(crate) fn left_gate(&mut self, peer: PeerId, reference: Id) -> Left {
        let left = self.exchanges.gates.leave(peer, reference);
        if left == Left::Passed {
            self.gate_moved(peer);
        }
        left
    }

    pub(crate) fn gate_moved(&mut self, peer: PeerId) {
        if self.exchanges.gates.has_waiting(peer) {
            self.moved_gates.push_back(peer);
        }
    }

    /// Another core says something to a peer of this one.
    pub(crate) fn note_arrived(&mut self, to: PeerId, reference: Id, kind: Kind, note: Note) {
        let ends_call = kind == Kind::Call && note == Note::Cancel;
        let ends_open = matches!(note, Note::Cancel | Note::Fail(_));
        let is_unheard = if ends_call {
            matches!(self.left_gate(to, reference), Left::Waiting(_))
        } else {
            ends_open && self.exchanges.gates.withdraw(to, reference).is_some()
        };
        if !is_unheard {
            self.tell(to, reference, kind, note);
        }
    }

    /// Takes an exchange from its server. Whether the server has seen it, so that it is to be told; never of one that
    /// nobody had.
    pub(crate) fn take_back(&mut self, slot: u32, ending: Ending) -> Option<(PeerId, Id)> {
        let exchange = &mut self.exchanges[slot];
        let server = std::mem::replace(&mut exchange.server, NONE);
        let was_gated = std::mem::take(&mut exchange.is_gated);
        let (at_server, forward_id, role) = (exchange.at_server, exchange.forward_id, exchange.role);
        // A stream's life says nothing about how quick its server is, and one that never heard of it is not slow.
        let (elapsed_us, ending) = match role {
            _ if was_gated => (0, Ending::Cancelled),
            Role::Stream => (0, ending),
            _ => (self.now_us.saturating_sub(exchange.sent_us), ending),
        };
        if server == NONE {
            return None;
        }
        self.exchanges.set_running(slot, false);
        let peer = self.serving[server].peer;
        let now_us = self.now_us;
        if let Some(moved) = self.serving.closed(server, at_server, ending, elapsed_us, now_us) {
            self.exchanges[moved].at_server = at_server;
        }
        if peer.core != self.core {
            if role == Role::Stream {
                // Posted when nothing is left to be said to its server: see `Shard::poll_letter`.
                self.leaving.push_back((peer, forward_id));
            }
            return Some((peer, forward_id));
        }
        if was_gated {
            self.exchanges.gates.leave(peer, forward_id);
            return None;
        }
        self.gate_moved(peer);
        Some((peer, forward_id))
    }

    /// Tells the home cores of streams' servers that these are over, behind all that was said to the servers.
    pub(crate) fn tell_left(&mut self) {
        while let Some((server, reference)) = self.leaving.pop_front() {
            self.post.send(server.core, Letter::Left { server, reference });
        }
    }

    /// Puts an exchange whose bytes are kept into the queue of its set.
    pub(crate) fn wait(&mut self, slot: u32) {
        let exchange = &self.exchanges[slot];
        if let Some(set) = exchange.set {
            let prio = exchange.prio;
            let bytes = self.exchanges.kept(slot).map_or(0, |kept| kept.bytes.len());
            self.exchanges.queue.push(slot, set, prio, bytes);
            self.serving.set_waiting(set, true);
        }
    }

    /// Takes it out of the queue, if it is there.
    pub(crate) fn wait_no_more(&mut self, slot: u32) {
        if let Some((set, is_last)) = self.exchanges.queue.remove(slot)
            && is_last
        {
            self.serving.set_waiting(set, false);
        }
    }

    /// Whether one more may wait. If that makes the room, calls that run lose their repeat, and then the least urgent
    /// ones that wait are ended; nothing is done in vain.
    pub(crate) fn make_room(&mut self, prio: u8, bytes: usize) -> bool {
        let limits = self.exchanges.limits;
        let lacking = (self.exchanges.held_bytes() + bytes).saturating_sub(limits.call_bytes_held_per_core);
        if lacking > self.exchanges.spare_bytes() + self.exchanges.queue.bytes_below(prio) {
            return false;
        }
        loop {
            let has_place = self.exchanges.queue.len() < limits.calls_queued_per_core as usize;
            let has_bytes = self.exchanges.held_bytes() + bytes <= limits.call_bytes_held_per_core;
            if has_place && has_bytes {
                return true;
            }
            if has_place && self.exchanges.drop_spare() {
                continue;
            }
            let Some(displaced) = self.exchanges.queue.displaced_by(prio) else {
                return false;
            };
            self.end_by(displaced, DISPLACED, Ending::Cancelled);
        }
    }

    /// Gives away what waits for a set in which something changed: a part, so that what is polled then can show that a
    /// peer has enough to read, and then the next.
    fn move_queue(&mut self, set: SetId) {
        let mut moved_bytes = 0;
        while let Some(slot) = self.exchanges.queue.first_of(set) {
            let balance = self.exchanges[slot].balance;
            if moved_bytes >= MOVED_BYTES_MAX {
                self.moving.push_back(set);
                return;
            }
            let kept = self.exchanges.kept(slot).map(|kept| kept.bytes.clone());
            moved_bytes += kept.as_ref().map_or(0, Bytes::len);
            let key = kept.as_deref().and_then(key_of);
            match self.serving.pick_in(set, balance, key, None, self.now_us) {
                Verdict::Server(server) => {
                    self.wait_no_more(slot);
                    if !self.exchanges[slot].is_repeated {
                        self.serving.count_call(set, self.now_us);
                    }
                    self.give(slot, server);
                    self.send_kept(slot);
                }
                Verdict::Full(_) => break,
                Verdict::Nobody => self.end_by(slot, NOBODY, Ending::Cancelled),
            }
        }
    }

    /// Sends what is kept of an exchange that was just given to a server, with what is left of its time.
    pub(crate) fn send_kept(&mut self, slot: u32) {
        let Exchange {
            forward_id,
            is_repeated,
            ..
        } = self.exchanges[slot];
        let Some(bytes) = self.renewed(slot, forward_id) else {
            return;
        };
        // Only what may be sent again is kept any longer.
        if is_repeated || !self.exchanges.kept(slot).is_some_and(|kept| kept.is_idempotent) {
            self.exchanges.unkeep(slot);
        }
        self.exchanges.arm(slot);
        self.dispatch(slot, bytes);
    }

    /// What is kept of an exchange, to go out under this id.
    pub(crate) fn renewed(&self, slot: u32, forward_id: Id) -> Option<Bytes> {
        let kept = self.exchanges.kept(slot)?;
        let deadline_us = self.exchanges[slot].deadline_us;
        let left_ms =
            (deadline_us != NEVER).then(|| (deadline_us.saturating_sub(self.now_us) / 1_000).max(1));
        let timeout_ms = left_ms.filter(|left_ms| kept.timeout_ms != Some(*left_ms));
        Some(renewed(&kept.bytes, forward_id, timeout_ms))
    }

    /// Ends an exchange here: its asker is told why, its servers that nobody waits.
    pub(crate) fn end_by(&mut self, slot: u32, failure: Failure, ending: Ending) {
        if self.exchanges[slot].role == Role::Stream {
            self.end_stream(slot, failure, ending);
        } else {
            self.end_call(slot, Some(failure), ending);
        }
    }
}

fn prio_of(bytes: &[u8]) -> u8 {
    let decoded = envelope::decode(bytes).ok();
    let meta = decoded.and_then(|decoded| decoded.envelope.meta);
    meta.and_then(|meta| meta.uint("prio").ok().flatten())
        .and_then(|prio| u8::try_from(prio).ok())
        .filter(|prio| *prio <= 7)
        .unwrap_or(fluxar_protocol::meta::PRIO_DEFAULT)
}

/// `meta.key` of a compact envelope.
pub(crate) fn key_of(bytes: &[u8]) -> Option<&[u8]> {
    let meta = envelope::decode(bytes).ok()?.envelope.meta?;
    fluxar_protocol::meta::Asked::read(Some(&meta)).ok()?.key
}
