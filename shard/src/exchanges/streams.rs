//! Streams from end to end: opened, relayed part by part, cancelled, ended.
//!
//! What a part means is decided by [`Relay`]; here is where it goes, and what becomes of the stream when something
//! happens that is not a part. A stream lives on its opener's core. Until its open is with its server (it may wait for
//! room, or at the gate) the opener has no credit, so that nothing but grants, an end or a cancel can come; they are
//! remembered, and follow the open.

use fluxar_protocol::stream::{CANCEL_MS_MAX, Failure, Note, Part, Passage, Side, State};
use fluxar_protocol::{Code, Id, Kind};

use crate::exchanges::{CANCELLED, NEVER, Role, core_of};
use crate::letter::Letter;
use crate::peer::PeerId;
use crate::serving::Ending;
use crate::shard::Shard;

/// Where a part goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartRoute {
    /// To this connection, its ref replaced; perhaps of another core (then by [`crate::Letter::Passed`]).
    Pass {
        /// To whom.
        to: PeerId,
        /// What that one knows the stream by.
        reference: Id,
    },
    /// By [`crate::Letter::Part`] to this core, where the stream began.
    Elsewhere {
        /// Which.
        core: u16,
    },
    /// Nowhere.
    Swallowed,
}

/// What a part says that its route does not depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// What it is.
    pub part: Part,
    /// The code of its error, if it has one.
    pub error: Option<Code>,
}

/// A stream of this core from one of its sides to the other, for a run of chunks: see [`Shard::lane`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// To whom.
    pub to: PeerId,
    /// What that one knows the stream by.
    pub reference: Id,
    /// So many bytes of chunks may pass before the shard is asked again.
    pub free_bytes: u64,
    slot: u32,
    from: Side,
}

const fn at(side: Side) -> usize {
    match side {
        Side::Opener => 0,
        Side::Server => 1,
    }
}

impl Shard {
    /// A connection of this core says something of a stream that it opened or serves. What else is to be said comes
    /// out of [`Shard::poll_outgoing`], behind the part itself.
    #[inline]
    pub fn part(&mut self, from: PeerId, reference: Id, spoken: Spoken) -> PartRoute {
        if let Some(route) = self.served_part(from, reference, spoken) {
            return route;
        }
        if let Some(slot) = self.exchanges.find_again(from, reference)
            && self.exchanges[slot].role == Role::Stream
        {
            return self.relay_part(slot, Side::Opener, spoken);
        }
        let core = core_of(reference);
        if core != self.core && core < self.post.cores() {
            return PartRoute::Elsewhere { core };
        }
        PartRoute::Swallowed
    }

    /// Where the chunks of a stream go that a connection of this core sends one after the other: for as many bytes as
    /// need no further thought they can be passed on without asking for each. [`Shard::passed`] is told of them
    /// before the shard is told anything else.
    #[must_use]
    pub fn lane(&mut self, from: PeerId, reference: Id) -> Option<Lane> {
        let (slot, side) = match self.stream_served_by(from, reference) {
            Some(slot) => (slot, Side::Server),
            None => (self.exchanges.find_again(from, reference)?, Side::Opener),
        };
        let relayed = self
            .exchanges
            .relayed(slot)
            .filter(|relayed| relayed.is_admitted)?;
        let free_bytes = relayed.relay.free_bytes(side);
        let exchange = &self.exchanges[slot];
        let (to, reference) = match side {
            Side::Opener => (self.serving[exchange.server].peer, exchange.forward_id),
            Side::Server => (exchange.asker, exchange.id),
        };
        Some(Lane {
            to,
            reference,
            free_bytes,
            slot,
            from: side,
        })
    }

    /// Chunks of so many bytes went that way.
    pub fn passed(&mut self, lane: &Lane, bytes: u64) {
        debug_assert!(bytes <= lane.free_bytes);
        if let Some(relayed) = self.exchanges.relayed(lane.slot) {
            relayed.relay.passed(lane.from, bytes);
        }
    }

    /// What a server says of a stream of this core, wherever the server is.
    #[inline]
    pub(crate) fn served_part(&mut self, from: PeerId, reference: Id, spoken: Spoken) -> Option<PartRoute> {
        let slot = self.stream_served_by(from, reference)?;
        Some(self.relay_part(slot, Side::Server, spoken))
    }

    #[inline]
    fn stream_served_by(&self, from: PeerId, reference: Id) -> Option<u32> {
        if core_of(reference) != self.core {
            return None;
        }
        let slot = self.exchanges.by_forward_id(reference)?;
        let exchange = &self.exchanges[slot];
        let is_its =
            exchange.role == Role::Stream && !exchange.is_gated && self.serving[exchange.server].peer == from;
        is_its.then_some(slot)
    }

    #[inline]
    fn relay_part(&mut self, slot: u32, from: Side, spoken: Spoken) -> PartRoute {
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return PartRoute::Swallowed;
        };
        if !relayed.is_admitted {
            match from {
                Side::Opener => return self.early_part(slot, spoken.part),
                // The letter that says so is behind: what its server says shows that it has the open.
                Side::Server => self.admitted(slot),
            }
        }
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return PartRoute::Swallowed;
        };
        // A chunk goes to the other side; a grant asks for chunks that come to this one.
        let reader = match spoken.part {
            Part::Grant { .. } => from,
            _ => from.other(),
        };
        let may_grant = !relayed.crowded[at(reader)];
        let passage = relayed.relay.part(from, spoken.part, may_grant);
        let state = relayed.relay.state();
        let exchange = &self.exchanges[slot];
        let (to, reference) = match from {
            Side::Opener => (self.serving[exchange.server].peer, exchange.forward_id),
            Side::Server => (exchange.asker, exchange.id),
        };
        let Passage { pass, on, back } = passage;
        if on.is_some() || back.is_some() || state != State::Active {
            self.after_passage(slot, from, passage, spoken);
        }
        if pass {
            PartRoute::Pass { to, reference }
        } else {
            PartRoute::Swallowed
        }
    }

    /// A part led to more than its being passed on.
    fn after_passage(&mut self, slot: u32, from: Side, Passage { on, back, .. }: Passage, spoken: Spoken) {
        self.tell_side(slot, from.other(), on);
        self.tell_side(slot, from, back);
        let ending = match (from, spoken.part, spoken.error) {
            (Side::Server, Part::Fail, Some(code)) => Ending::Failed(code),
            (_, Part::Chunk { .. } | Part::End, _) if back.is_none() => Ending::Answered,
            _ => Ending::Cancelled,
        };
        self.settle_stream(slot, ending);
    }

    /// A stream that is over is let go; one that is cancelled gets its time.
    fn settle_stream(&mut self, slot: u32, ending: Ending) {
        let cancel_by_us = self.now_us.saturating_add(CANCEL_MS_MAX * 1_000);
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return;
        };
        match relayed.relay.state() {
            State::Closed => {
                self.take_back(slot, ending);
                self.exchanges.forget(slot);
            }
            State::Cancelling if relayed.cancel_by_us == NEVER => {
                relayed.cancel_by_us = cancel_by_us;
                self.exchanges.arm(slot);
            }
            _ => {}
        }
    }

    fn tell_side(&mut self, slot: u32, side: Side, note: Option<Note>) {
        let Some(note) = note else { return };
        let exchange = &self.exchanges[slot];
        let (to, reference) = match side {
            Side::Opener => (exchange.asker, exchange.id),
            Side::Server => (self.serving[exchange.server].peer, exchange.forward_id),
        };
        self.tell(to, reference, Kind::Stream, note);
    }

    /// The open is with its server, or nothing overtakes it on its way: what was held back follows.
    pub(crate) fn admitted(&mut self, slot: u32) {
        let server = self.exchanges[slot].server;
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return;
        };
        if std::mem::replace(&mut relayed.is_admitted, true) {
            return;
        }
        let server = &self.serving[server];
        relayed.crowded[at(Side::Server)] = server.standing.crowded;
        let to_opener = relayed.relay.server_found(server.credit_bytes.into());
        let to_server = relayed.relay.grant(Side::Server);
        let owes_end = std::mem::take(&mut relayed.owes_end);
        self.tell_side(slot, Side::Opener, to_opener);
        self.tell_side(slot, Side::Server, to_server);
        self.tell_side(slot, Side::Server, owes_end.then_some(Note::End));
    }

    /// By letter: another core's gate let the open of a stream of this one through.
    pub(crate) fn admitted_elsewhere(&mut self, from: PeerId, reference: Id) {
        if let Some(slot) = self.stream_served_by(from, reference) {
            self.admitted(slot);
        }
    }

    /// By letter: another core could not take a call or an open of this one.
    pub(crate) fn refused_elsewhere(&mut self, from: PeerId, reference: Id, failure: Failure) {
        let slot = self.exchanges.by_forward_id(reference);
        if let Some(slot) = slot.filter(|&slot| self.serving[self.exchanges[slot].server].peer == from) {
            match self.exchanges[slot].role {
                Role::Hedge | Role::Mirror => self.drop_copy(slot),
                Role::Call | Role::Stream => self.end_by(slot, failure, Ending::Cancelled),
            }
        }
    }

    /// The opener speaks before its open is with a server.
    fn early_part(&mut self, slot: u32, part: Part) -> PartRoute {
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return PartRoute::Swallowed;
        };
        // Grants are added up; there is nobody yet to hand them to.
        let passage = relayed.relay.part(Side::Opener, part, false);
        relayed.owes_end |= passage.pass && part == Part::End;
        let is_over = relayed.relay.state() == State::Closed;
        self.tell_side(slot, Side::Opener, passage.back);
        if is_over {
            self.withdraw_open(slot, Ending::Cancelled);
        }
        PartRoute::Swallowed
    }

    /// Lets go of a stream whose open may be with nobody yet; if it is on its way, a cancel follows it.
    fn withdraw_open(&mut self, slot: u32, ending: Ending) {
        self.wait_no_more(slot);
        if let Some((server, forward_id)) = self.take_back(slot, ending) {
            self.tell(server, forward_id, Kind::Stream, Note::Cancel);
        }
        self.exchanges.forget(slot);
    }

    /// Ends a stream here: both sides are told why.
    pub(crate) fn end_stream(&mut self, slot: u32, failure: Failure, ending: Ending) {
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return;
        };
        let is_admitted = relayed.is_admitted;
        let (to_opener, to_server) = relayed.relay.fail(failure);
        self.tell_side(slot, Side::Opener, to_opener);
        if is_admitted {
            self.tell_side(slot, Side::Server, to_server);
            self.take_back(slot, ending);
            self.exchanges.forget(slot);
        } else {
            self.withdraw_open(slot, ending);
        }
    }

    pub(crate) fn stream_time_up(&mut self, slot: u32) {
        let deadline_us = self.exchanges[slot].deadline_us;
        let now_us = self.now_us;
        let cancel_by_us = self
            .exchanges
            .relayed(slot)
            .map_or(NEVER, |relayed| relayed.cancel_by_us);
        if cancel_by_us <= now_us {
            self.end_stream(slot, Failure::CANCEL_OVERDUE, Ending::Cancelled);
        } else if deadline_us <= now_us {
            self.end_stream(slot, Failure::DEADLINE, Ending::Overdue);
        } else {
            self.exchanges.arm(slot);
        }
    }

    /// The opener cancels.
    pub(crate) fn cancel_opened(&mut self, slot: u32) {
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return;
        };
        if !relayed.is_admitted {
            // Nobody else can end it.
            self.tell_side(slot, Side::Opener, Some(Note::Fail(CANCELLED)));
            return self.withdraw_open(slot, Ending::Cancelled);
        }
        let note = relayed.relay.cancel(Side::Opener);
        self.tell_side(slot, Side::Server, note);
        self.settle_stream(slot, Ending::Cancelled);
    }

    /// The server of a stream of this core cancels it. False if it is none.
    pub(crate) fn cancel_served(&mut self, from: PeerId, reference: Id) -> bool {
        let Some(slot) = self.stream_served_by(from, reference) else {
            return false;
        };
        self.admitted(slot);
        let note = self
            .exchanges
            .relayed(slot)
            .and_then(|relayed| relayed.relay.cancel(Side::Server));
        self.tell_side(slot, Side::Opener, note);
        self.settle_stream(slot, Ending::Cancelled);
        true
    }

    /// A cancel of something that [`Shard::cancel`] does not know, and that is no subscription: it may be of a stream of
    /// another core's.
    pub fn cancel_elsewhere(&mut self, from: PeerId, reference: Id) {
        let core = core_of(reference);
        if core != self.core && core < self.post.cores() {
            self.post.send(core, Letter::Cancel { from, reference });
        }
    }

    pub(crate) fn opener_lost(&mut self, slot: u32) {
        let note = match self.exchanges.relayed(slot) {
            Some(relayed) if relayed.is_admitted => relayed.relay.lost(Side::Opener),
            _ => return self.withdraw_open(slot, Ending::Lost),
        };
        self.tell_side(slot, Side::Server, note);
        self.take_back(slot, Ending::Lost);
        self.exchanges.forget(slot);
    }

    /// Its server is gone, and its number with it.
    pub(crate) fn stream_server_lost(&mut self, slot: u32) {
        let note = self
            .exchanges
            .relayed(slot)
            .and_then(|relayed| relayed.relay.lost(Side::Server));
        self.tell_side(slot, Side::Opener, note);
        self.exchanges.forget(slot);
    }

    /// A peer takes what is sent to it, or does not: streams towards it get more credit, or none.
    pub(crate) fn crowded_changed(&mut self, peer: PeerId, is_crowded: bool) {
        if self.exchanges.streams() == 0 {
            return;
        }
        let mut next = self.exchanges.any_of(peer);
        while let Some(slot) = next {
            self.crowd(slot, Side::Opener, is_crowded);
            next = self.exchanges.after(slot);
        }
        if let Some(server) = self.serving.find(peer) {
            for nth in 0..self.serving[server].open.len() {
                let slot = self.serving[server].open[nth];
                self.crowd(slot, Side::Server, is_crowded);
            }
        }
    }

    fn crowd(&mut self, slot: u32, side: Side, is_crowded: bool) {
        let Some(relayed) = self.exchanges.relayed(slot) else {
            return;
        };
        let was_crowded = std::mem::replace(&mut relayed.crowded[at(side)], is_crowded);
        if was_crowded && !is_crowded && relayed.is_admitted {
            let note = relayed.relay.grant(side.other());
            self.tell_side(slot, side.other(), note);
        }
    }
}
