//! One core's share of the truth: who subscribed to what, who serves what, which calls are open.
//!
//! Pure state. Nothing here does I/O, reads a clock, waits, or calls back upward: the gateway's worker hands in what
//! its peers and the other cores want, and polls what comes of it.
#![forbid(unsafe_code)]

pub mod delivery;
pub mod letter;
pub mod limits;
pub mod peer;
pub mod refusal;
pub mod runs;

use fluxar_protocol::Id;

pub use delivery::{Delivery, Grouped};
pub use letter::{Arrival, Letter};
pub use limits::Limits;
pub use peer::PeerId;
pub use refusal::Refusal;
pub use runs::Run;

/// What a shard cannot make itself, since it has no source of randomness.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Secret, another one for each core: hashing.
    pub hash: u64,
    /// Secret, another one for each core and independent of `hash`: the ids that are given to forwarded messages.
    pub ids: u64,
    /// Public, the same on all cores: this incarnation of the gateway.
    pub epoch: u64,
}

/// Where a call goes: forward it there under `forward_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The serving peer, perhaps of another core (then by [`Letter::Forward`]).
    pub server: PeerId,
    /// The id on that hop.
    pub forward_id: Id,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerRoute {
    /// To this connection of this core, with its ref patched to `reference`. The call is over.
    Deliver {
        /// Who asked.
        asker: PeerId,
        /// Its id of the call.
        reference: Id,
    },
    /// By [`Letter::Answer`] to this core, where the call began.
    Elsewhere {
        /// Which.
        core: u16,
    },
    /// Nowhere: late, or made up. It was counted.
    Unknown,
}

/// A subscription that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// It was an offer to serve.
    pub serve: bool,
    /// Events that it missed, ever (`meta.dropped`).
    pub dropped: u64,
}

/// A call that ended without an answer: tell its asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// Who asked; of this core.
    pub asker: PeerId,
    /// Its id of the call.
    pub reference: Id,
    /// Why.
    pub refusal: Refusal,
}

/// How much there is of everything, and what went wrong quietly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections of this core that hold anything here.
    pub peers: usize,
    /// Subscriptions and served patterns of this core's connections.
    pub subscriptions: usize,
    /// Bytes of their pattern and group texts.
    pub pattern_bytes: usize,
    /// Distinct topic patterns known, other cores' included.
    pub topic_patterns: usize,
    /// Distinct method patterns known, other cores' included.
    pub method_patterns: usize,
    /// Groups known, other cores' included.
    pub groups: usize,
    /// Serving peers known, other cores' included, and lost ones that calls are open at.
    pub servers: usize,
    /// Calls open by this core's connections.
    pub open_calls: usize,
    /// Ever: answers that were late or made up.
    pub unknown_answers: u64,
    /// Ever: events that nobody wanted.
    pub unheard_events: u64,
    /// Ever: events for members of a group that had left in the meantime.
    pub orphaned_events: u64,
}

/// One core's share.
#[derive(Debug)]
pub struct Shard {
    seed: Seed,
}

#[allow(unused_variables)]
impl Shard {
    /// The share of core `core` out of `cores`.
    #[must_use]
    pub fn new(core: u16, cores: u16, limits: Limits, seed: Seed) -> Self {
        Self { seed }
    }

    /// Names this incarnation of the gateway.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.seed.epoch
    }

    /// How much there is of everything.
    #[must_use]
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// Subscribes a connection of this core at qos 0.
    ///
    /// # Errors
    /// A pattern that is none, a sub id that the peer uses already, a bound.
    pub fn subscribe(
        &mut self,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        group: Option<&str>,
    ) -> Result<(), Refusal> {
        todo!()
    }

    /// Offers a connection of this core as a server of the methods that match.
    ///
    /// # Errors
    /// As [`Shard::subscribe`]; a weight of 0 or above [`limits::WEIGHT_MAX`]; a pattern of the gateway's own part.
    pub fn serve(&mut self, peer: PeerId, sub: Id, pattern: &str, weight: u32) -> Result<(), Refusal> {
        todo!()
    }

    /// Ends a subscription or an offer, for its peer cancelled it. Calls open at the peer go on.
    pub fn end_subscription(&mut self, peer: PeerId, sub: Id) -> Option<Ended> {
        todo!()
    }

    /// A connection of this core is gone, and with it its subscriptions and offers. Calls that it opened are
    /// cancelled onwards ([`Shard::poll_cancelled`]), calls open at it fail ([`Shard::poll_failed`], on every core).
    pub fn peer_lost(&mut self, peer: PeerId) {
        todo!()
    }

    /// Takes an event: copies it to the run that is being built, or begins another one.
    ///
    /// `event` is a whole compact envelope without ref, whose target is `topic`, checked by the caller.
    pub fn publish(&mut self, topic: &str, event: &[u8]) {
        todo!()
    }

    /// Ends the run that is being built: at the end of one connection's input.
    pub fn flush_run(&mut self) {
        todo!()
    }

    /// The next run for connections of this core, in order. Poll until `None` after each flush and letter.
    pub fn poll_delivery(&mut self) -> Option<Delivery> {
        todo!()
    }

    /// The next letter to post, and the core it is for.
    pub fn poll_letter(&mut self) -> Option<(u16, Letter)> {
        todo!()
    }

    /// Takes a letter from another core.
    pub fn handle_letter(&mut self, from: u16, letter: Letter) -> Arrival {
        todo!()
    }

    /// This run was not queued for this plain receiver, whose queue is full: counts it for each of its matching
    /// subscriptions.
    pub fn dropped(&mut self, peer: PeerId, run: &Run) {
        todo!()
    }

    /// Likewise a piece for a member of a group.
    pub fn dropped_grouped(&mut self, grouped: &Grouped) {
        todo!()
    }

    /// Appends each subscription of the peer that missed events since the last time, with how many it missed ever.
    pub fn drop_notes(&mut self, peer: PeerId, out: &mut Vec<(Id, u64)>) {
        todo!()
    }

    /// Opens a call of a connection of this core.
    ///
    /// # Errors
    /// `unavailable` if nobody serves the method, `already_exists` if the id is in flight, a bound.
    pub fn call(&mut self, asker: PeerId, id: Id, method: &str) -> Result<Route, Refusal> {
        todo!()
    }

    /// A connection of this core answers `reference`.
    pub fn answer(&mut self, from: PeerId, reference: Id) -> AnswerRoute {
        todo!()
    }

    /// The asker cancels its call (or its time is over): tell it so, and send a cancel of `forward_id` to the server.
    /// `None`: nothing of that name is open.
    pub fn cancel(&mut self, asker: PeerId, reference: Id) -> Option<Route> {
        todo!()
    }

    /// The next call whose server is lost.
    pub fn poll_failed(&mut self) -> Option<FailedCall> {
        todo!()
    }

    /// The next call whose asker is lost: send a cancel of `forward_id` to the server.
    pub fn poll_cancelled(&mut self) -> Option<Route> {
        todo!()
    }
}
