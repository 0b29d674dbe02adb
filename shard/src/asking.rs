//! Calls from end to end: given to a server, answered, cancelled, failed.
//!
//! ```text
//!   call ─> open ─┬─ answer (from its server, on whatever core) ──> the asker gets it
//!                 ├─ cancel ──> the asker is told `cancelled`, the server gets a cancel
//!                 ├─ asker lost ──> the server gets a cancel
//!                 └─ server lost ──> the asker is told `unavailable`
//! ```
//! Each open call ends in exactly one of these ways; what comes after finds nothing and is counted.

use fluxar_protocol::{Code, Id};

use crate::calls::{Call, core_of};
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::serving::{Ending, Verdict, Wanted};
use crate::shard::Shard;

/// Where a call goes: forward it there under `forward_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The serving peer, perhaps of another core (then by [`crate::Letter::Forward`]).
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
    /// By [`crate::Letter::Answer`] to this core, where the call began.
    Elsewhere {
        /// Which.
        core: u16,
    },
    /// Nowhere: late, or made up. It was counted.
    Unknown,
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

impl Shard {
    /// Opens a call of a connection of this core.
    ///
    /// # Errors
    /// `unavailable` if nobody serves the method, `already_exists` if the id is in flight, `resource_exhausted` at a
    /// bound.
    pub fn call(&mut self, asker: PeerId, id: Id, method: &str) -> Result<Route, Refusal> {
        if self.subscriptions.find(asker, id).is_some() {
            return Err(Refusal::fixed(
                Code::AlreadyExists,
                "a subscription with this id exists; use a new id",
            ));
        }
        self.calls.admit(asker, id)?;
        let wanted = Wanted {
            method,
            meta: None,
            key: None,
            avoid: None,
        };
        let number = match self.serving.pick(&wanted, self.now_us).verdict {
            Verdict::Server(number) => number,
            Verdict::Full(_) => {
                return Err(Refusal::fixed(
                    Code::ResourceExhausted,
                    "whoever serves this method has as many calls as it takes; try again later",
                ));
            }
            Verdict::Nobody => {
                return Err(Refusal::fixed(
                    Code::Unavailable,
                    "nobody serves this method at the moment",
                ));
            }
        };
        let at_server = self.serving[number].open.len() as u32;
        let (slot, forward_id) = self
            .calls
            .open(asker, id, number, at_server, self.now_us, &mut self.ids);
        self.serving.opened(number, slot);
        Ok(Route {
            server: self.serving[number].peer,
            forward_id,
        })
    }

    /// A connection of this core answers `reference`.
    pub fn answer(&mut self, from: PeerId, reference: Id) -> AnswerRoute {
        let core = core_of(reference);
        if core != self.core && core < self.post.cores() {
            return AnswerRoute::Elsewhere { core };
        }
        self.answer_here(from, reference)
    }

    /// The asker cancels its call (or its time is over): tell it so, and send a cancel of `forward_id` to the server.
    /// `None`: nothing of that name is open.
    pub fn cancel(&mut self, asker: PeerId, reference: Id) -> Option<Route> {
        let slot = self.calls.find(asker, reference)?;
        Some(self.abandon(slot))
    }

    /// An answer to one of this core's calls, wherever it comes from.
    pub(crate) fn answer_here(&mut self, from: PeerId, reference: Id) -> AnswerRoute {
        let open = self.calls.by_forward_id(reference);
        match open.filter(|&slot| self.serving[self.calls[slot].server].peer == from) {
            Some(slot) => {
                let call = self.close(slot, Ending::Answered);
                AnswerRoute::Deliver {
                    asker: call.asker,
                    reference: call.id,
                }
            }
            None => {
                self.unknown_answers += 1;
                AnswerRoute::Unknown
            }
        }
    }

    /// Cancels onwards what a lost connection had asked.
    pub(crate) fn asker_lost(&mut self, peer: PeerId) {
        while let Some(slot) = self.calls.any_of(peer) {
            let route = self.abandon(slot);
            if route.server != peer {
                self.cancelled.push_back(route);
            }
        }
    }

    /// Fails the calls that were open at a lost peer, of this core or another; whether it ever served.
    pub(crate) fn server_lost(&mut self, peer: PeerId) -> bool {
        let Some(open) = self.serving.lose(peer) else {
            return false;
        };
        for slot in open {
            let call = self.calls.close(slot);
            let refusal = Refusal::fixed(
                Code::Unavailable,
                "the peer that served this call was lost before it answered",
            );
            self.failed.push_back(FailedCall {
                asker: call.asker,
                reference: call.id,
                refusal,
            });
        }
        true
    }

    fn abandon(&mut self, slot: u32) -> Route {
        let call = &self.calls[slot];
        let route = Route {
            server: self.serving[call.server].peer,
            forward_id: call.forward_id,
        };
        self.close(slot, Ending::Cancelled);
        route
    }

    /// Closes a call on both its lists.
    fn close(&mut self, slot: u32, ending: Ending) -> Call {
        let call = self.calls.close(slot);
        let elapsed_us = self.now_us - call.opened_us;
        let moved = self
            .serving
            .closed(call.server, call.at_server, ending, elapsed_us, self.now_us);
        if let Some(moved) = moved {
            self.calls.moved_at_server(moved, call.at_server);
        }
        call
    }
}
