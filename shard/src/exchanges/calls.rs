//! Calls from end to end: given to a server, answered, sent again, cancelled, failed.
//!
//! ```text
//!   ask ─> open ─┬─ answer (from its server, on whatever core) ──> the asker gets it
//!                ├─ cancel ──> the asker is told `cancelled`, the server gets a cancel
//!                ├─ asker lost ──> the server gets a cancel
//!                ├─ timeout_ms over ──> the asker is told `deadline_exceeded`, the server gets a cancel
//!                └─ server lost ─┬─ idempotent, for the first time, within the budget ──> open at another one
//!                                └─ otherwise ──> the asker is told `unavailable`
//! ```
//! Each open call ends in exactly one of these ways; what comes after finds nothing and is counted. A hedged call is
//! open at two servers for a while: the first answer ends it, and the other server gets a cancel. A call that is not
//! marked `idempotent` never leaves here twice.

use bytes::Bytes;
use fluxar_protocol::envelope::{self, Envelope};
use fluxar_protocol::meta::Asked;
use fluxar_protocol::stream::{Failure, Note, Relay};
use fluxar_protocol::{Code, Id, Kind};

use crate::exchanges::attempts::key_of;
use crate::exchanges::rewording::{Changes, reworded};
use crate::exchanges::{CANCELLED, DEADLINE, Kept, NEVER, NOBODY, NONE, Relayed, Role, SERVER_LOST, core_of};
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::serving::{Ending, Verdict, Wanted};
use crate::shard::Shard;

/// A mirrored call is over after so long, µs.
const MIRROR_US_MAX: u64 = 10_000_000;

/// Where a call goes: forward it there under `forward_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The serving peer, perhaps of another core (then by [`crate::Letter::Forward`]).
    pub server: PeerId,
    /// The id on that hop.
    pub forward_id: Id,
}

/// What to do with a call or an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Forward it as it is, its id replaced.
    Forward(Route),
    /// Nothing: it comes out of [`Shard::poll_outgoing`] or goes by letter, now or when there is room for it.
    Taken,
}

/// What an answer says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has a payload.
    Ok,
    /// It has an error.
    Error(Code),
    /// It is the gateway's own, with an error, since the call cannot be sent to its server, which has not seen it.
    Refused,
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
    /// Nowhere: nobody waits for it, or another server may still do better.
    Swallowed,
    /// Nowhere: late, or made up. It was counted.
    Unknown,
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Answered,
            Outcome::Error(code) => Self::Failed(code),
            Outcome::Refused => Self::Cancelled,
        }
    }
}

impl Shard {
    /// The time, µs, first in a turn: ends what is overdue, and sends second copies that are due.
    pub fn handle_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        self.serving.handle_time(self.now_us);
        self.logged_time();
        while let Some(slot) = self.exchanges.deadlines.expired(self.now_us) {
            if self.exchanges[slot].role == Role::Stream {
                self.stream_time_up(slot);
            } else {
                self.call_time_up(slot);
            }
        }
    }

    /// When [`Shard::handle_time`] has something to do, ms; `None` while no exchange waits for a time.
    #[must_use]
    pub fn poll_timeout_ms(&self) -> Option<u64> {
        let times_us = [
            self.exchanges.deadlines.next_us(),
            self.serving.next_back_us(),
            self.logged_due_us(),
        ];
        Some(times_us.into_iter().flatten().min()?.div_ceil(1_000))
    }

    /// A call or the open of a stream of a connection of this core, checked by
    /// [`fluxar_protocol::exchange::verb`]; `compact` are its bytes. `asker_credit_bytes` is what its hello announced.
    ///
    /// # Errors
    /// `unavailable` if nobody serves the method, `already_exists` if the id is in flight, `resource_exhausted` at a
    /// bound, `deadline_exceeded` if there is no time at all.
    pub fn ask(
        &mut self,
        asker: PeerId,
        asker_credit_bytes: u32,
        envelope: &Envelope<'_>,
        compact: &[u8],
    ) -> Result<Asking, Refusal> {
        let id = envelope.id;
        if self.subscriptions.find(asker, id).is_some() {
            return Err(Refusal::fixed(
                Code::AlreadyExists,
                "a subscription with this id exists; use a new id",
            ));
        }
        self.exchanges.admit(asker, id)?;
        if self.serving.has_moved() {
            self.move_all();
        }
        let asked = match &envelope.meta {
            None => Asked::default(),
            meta => Asked::read(meta.as_ref())
                .map_err(|fault| Refusal::worded(fault.code(), fault.to_string()))?,
        };
        let picked = self.serving.pick(
            &Wanted {
                method: envelope.target.unwrap_or_default(),
                meta: envelope.meta,
                key: asked.key,
                avoid: None,
            },
            self.now_us,
        );
        let rule_ms = picked.timeout_ms.map(u64::from);
        let timeout_ms = match (asked.timeout_ms, rule_ms) {
            (Some(asked_ms), Some(rule_ms)) => Some(asked_ms.min(rule_ms)),
            (asked_ms, rule_ms) => asked_ms.or(rule_ms),
        };
        if timeout_ms == Some(0) {
            return Err(Refusal::fixed(
                Code::DeadlineExceeded,
                "a timeout_ms of 0 is over at once",
            ));
        }
        if picked.verdict == Verdict::Nobody {
            return Err(Refusal::fixed(NOBODY.code, NOBODY.message));
        }
        let is_stream = envelope.kind == Kind::Stream;
        let relay = is_stream.then(|| {
            let credit_bytes = asked.credit_bytes.unwrap_or(asker_credit_bytes.into());
            Relay::new(asked.end, credit_bytes, self.exchanges.limits.stream_window_bytes)
        });
        let changes = Changes {
            timeout_ms: timeout_ms.filter(|_| timeout_ms != asked.timeout_ms),
            credit_bytes: relay.as_ref().map(Relay::open_credit_bytes),
        };
        let changed = if is_stream || changes.timeout_ms.is_some() {
            Some(reworded(envelope, changes)?)
        } else {
            None
        };
        let has_server = matches!(picked.verdict, Verdict::Server(_));
        if !has_server && !self.make_room(asked.prio, changed.as_deref().unwrap_or(compact).len()) {
            let waiting = self.exchanges.queue.len();
            let bytes = self.exchanges.held_bytes();
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!(
                    "those who serve this method have no room, and {waiting} calls of {bytes} bytes wait already, which is the limit; try again later"
                ),
            ));
        }

        let role = if is_stream { Role::Stream } else { Role::Call };
        let slot = self.exchanges.open(role, asker, id);
        let deadline_us = timeout_ms.map_or(NEVER, |timeout_ms| after_ms(self.now_us, timeout_ms));
        let exchange = &mut self.exchanges[slot];
        exchange.set = picked.set;
        exchange.balance = picked.balance;
        exchange.prio = asked.prio;
        exchange.deadline_us = deadline_us;
        if let Some(relay) = relay {
            let relayed = Relayed {
                relay,
                is_admitted: false,
                owes_end: false,
                crowded: [self.crowded.contains(&asker), false],
                cancel_by_us: NEVER,
            };
            self.exchanges.relay(slot, relayed);
        }
        let is_idempotent = asked.idempotent && !is_stream;
        if is_idempotent || !has_server {
            let hedge_ms = asked.hedge_ms.filter(|_| is_idempotent);
            let kept = Kept {
                bytes: match &changed {
                    Some(changed) => Bytes::copy_from_slice(changed),
                    None => Bytes::copy_from_slice(compact),
                },
                timeout_ms,
                hedge_us: hedge_ms.map_or(NEVER, |hedge_ms| after_ms(self.now_us, hedge_ms)),
                is_idempotent,
            };
            // A call for whose bytes there is no room is sent once.
            self.exchanges.keep(slot, kept);
        }
        if timeout_ms.is_some() || asked.hedge_ms.is_some() {
            self.exchanges.arm(slot);
        }
        if let Some(server) = picked.mirror.filter(|_| !is_stream) {
            self.mirror(
                asker,
                id,
                server,
                timeout_ms,
                changed.as_deref().unwrap_or(compact),
            );
        }
        let Verdict::Server(server) = picked.verdict else {
            self.wait(slot);
            return Ok(Asking::Taken);
        };
        let forward_id = self.give(slot, server);
        if let Some(mut bytes) = changed {
            envelope::patch_id(&mut bytes, forward_id);
            self.dispatch(slot, bytes.into());
            return Ok(Asking::Taken);
        }
        if self.is_gate_shut(server) {
            let mut bytes = compact.to_vec();
            envelope::patch_id(&mut bytes, forward_id);
            self.dispatch(slot, bytes.into());
            return Ok(Asking::Taken);
        }
        Ok(Asking::Forward(Route {
            server: self.serving[server].peer,
            forward_id,
        }))
    }

    /// A connection of this core answers `reference`.
    pub fn answer(&mut self, from: PeerId, reference: Id, outcome: Outcome) -> AnswerRoute {
        let core = core_of(reference);
        if core != self.core && core < self.post.cores() {
            if !self.exchanges.gates.is_empty() {
                self.left_gate(from, reference);
            }
            return AnswerRoute::Elsewhere { core };
        }
        self.answer_here(from, reference, outcome)
    }

    /// An answer to one of this core's calls, wherever it comes from.
    pub(crate) fn answer_here(&mut self, from: PeerId, reference: Id, outcome: Outcome) -> AnswerRoute {
        let open = self.exchanges.by_forward_id(reference).filter(|&slot| {
            let exchange = &self.exchanges[slot];
            exchange.role != Role::Stream && !exchange.is_gated && self.serving[exchange.server].peer == from
        });
        let Some(slot) = open else {
            self.late_answers += 1;
            return AnswerRoute::Unknown;
        };
        self.take_back(slot, outcome.into());
        let (role, twin) = (self.exchanges[slot].role, self.exchanges[slot].twin);
        if role == Role::Mirror {
            self.exchanges.forget(slot);
            return AnswerRoute::Swallowed;
        }
        if twin == NONE {
            let call = self.exchanges.forget(slot);
            return AnswerRoute::Deliver {
                asker: call.asker,
                reference: call.id,
            };
        }
        let is_other_open = self.exchanges[twin].server != NONE;
        if is_other_open && matches!(outcome, Outcome::Error(Code::Unavailable) | Outcome::Refused) {
            if role == Role::Hedge {
                self.forget_hedge(slot);
            }
            return AnswerRoute::Swallowed;
        }
        let (asker, reference) = (self.exchanges[slot].asker, self.exchanges[slot].id);
        let call = if role == Role::Hedge { twin } else { slot };
        self.end_call(call, None, Ending::Cancelled);
        AnswerRoute::Deliver { asker, reference }
    }

    /// A connection of this core cancels what it began, or a stream that it serves. What is to be said comes out of
    /// [`Shard::poll_outgoing`]. False if nothing of that name is open on this core: see [`Shard::cancel_elsewhere`].
    pub fn cancel(&mut self, from: PeerId, reference: Id) -> bool {
        match self.exchanges.find(from, reference) {
            Some(slot) if self.exchanges[slot].role == Role::Stream => self.cancel_opened(slot),
            Some(slot) => self.end_call(slot, Some(CANCELLED), Ending::Cancelled),
            None => return self.cancel_served(from, reference),
        }
        true
    }

    /// Cancels onwards what a lost connection had asked.
    pub(crate) fn asker_lost(&mut self, peer: PeerId) {
        while let Some(slot) = self.exchanges.any_of(peer) {
            if self.exchanges[slot].role == Role::Stream {
                self.opener_lost(slot);
            } else {
                self.end_call(slot, None, Ending::Lost);
            }
        }
    }

    /// Ends what was open at a lost peer, of this core or another, or gives it to somebody else; whether it ever served. One
    /// whose session may go on is told of it (`is_told`).
    pub(crate) fn server_lost(&mut self, peer: PeerId, is_told: bool) -> bool {
        let Some(server) = self.serving.find(peer) else {
            return false;
        };
        let gated = self.gate_lost(peer);
        let open = self.serving.lose(peer).unwrap_or_default();
        // First taken from it all, since its number may be another's soon.
        for &slot in &open {
            debug_assert_eq!(self.exchanges[slot].server, server);
            self.exchanges[slot].server = NONE;
            self.exchanges.set_running(slot, false);
        }
        for slot in open {
            let Some(exchange) = self.exchanges.get(slot) else {
                continue;
            };
            if exchange.is_gated {
                continue;
            }
            if is_told {
                let kind = match exchange.role {
                    Role::Stream => Kind::Stream,
                    Role::Call | Role::Hedge | Role::Mirror => Kind::Call,
                };
                let forward_id = exchange.forward_id;
                self.tell(peer, forward_id, kind, Note::Cancel);
                if kind == Kind::Stream && peer.core != self.core {
                    // It may have come to the peer after that was back: its place there is free again.
                    self.leaving.push_back((peer, forward_id));
                }
            }
            match self.exchanges[slot].role {
                Role::Mirror => {
                    self.exchanges.forget(slot);
                }
                Role::Stream => self.stream_server_lost(slot),
                Role::Hedge => {
                    let call = self.forget_hedge(slot);
                    // Where both its servers are lost at once, the call's own turn comes, or has come and left it.
                    if self.exchanges[call].server == NONE && self.exchanges[call].is_repeated {
                        self.end_call(call, Some(SERVER_LOST), Ending::Lost);
                    }
                }
                Role::Call => self.call_server_lost(slot),
            }
        }
        for (slot, bytes) in gated {
            if self.exchanges.get(slot).is_some_and(|exchange| exchange.is_gated) {
                self.exchanges[slot].is_gated = false;
                self.give_again(slot, bytes, None);
            }
        }
        true
    }

    /// A call whose server is lost goes to another one, or fails.
    fn call_server_lost(&mut self, slot: u32) {
        let exchange = &self.exchanges[slot];
        if exchange.twin != NONE {
            return; // the other server may still answer
        }
        let (set, balance, is_repeated) = (exchange.set, exchange.balance, exchange.is_repeated);
        let kept = self
            .exchanges
            .kept(slot)
            .filter(|kept| kept.is_idempotent && !is_repeated)
            .map(|kept| kept.bytes.clone());
        if let (Some(bytes), Some(set)) = (kept, set) {
            let verdict = self
                .serving
                .pick_in(set, balance, key_of(&bytes), None, self.now_us);
            if verdict != Verdict::Nobody && self.serving.may_repeat(set, self.now_us) {
                self.exchanges[slot].is_repeated = true;
                if let Some(kept) = self.exchanges.kept_mut(slot) {
                    kept.hedge_us = NEVER;
                }
                match verdict {
                    Verdict::Server(server) => {
                        self.give(slot, server);
                        self.send_kept(slot);
                    }
                    // It waits even at the queue's bound: it was admitted once, and is counted.
                    _ => self.wait(slot),
                }
                return;
            }
        }
        self.end_call(slot, Some(SERVER_LOST), Ending::Lost);
    }

    /// Ends a call, or a mirror: its asker is told so much, and whoever serves it that nobody waits.
    pub(crate) fn end_call(&mut self, slot: u32, failure: Option<Failure>, ending: Ending) {
        self.wait_no_more(slot);
        let hedge = self.exchanges[slot].twin;
        let attempts = [Some(slot), Some(hedge).filter(|hedge| *hedge != NONE)];
        for attempt in attempts.into_iter().flatten() {
            if let Some((server, forward_id)) = self.take_back(attempt, ending) {
                self.tell(server, forward_id, Kind::Call, Note::Cancel);
            }
        }
        if hedge != NONE {
            self.exchanges.forget(hedge);
        }
        let call = self.exchanges.forget(slot);
        if let Some(failure) = failure.filter(|_| call.role == Role::Call) {
            self.tell(call.asker, call.id, Kind::Call, Note::Fail(failure));
        }
    }

    /// Forgets the second copy of a call, which is with nobody any more. The call.
    pub(crate) fn forget_hedge(&mut self, hedge: u32) -> u32 {
        let call = self.exchanges.forget(hedge).twin;
        self.exchanges[call].twin = NONE;
        call
    }

    /// Takes a copy that could not be sent out of the world.
    pub(crate) fn drop_copy(&mut self, slot: u32) {
        self.take_back(slot, Ending::Cancelled);
        if self.exchanges[slot].role == Role::Hedge {
            self.forget_unsent_hedge(slot);
        } else {
            self.exchanges.forget(slot);
        }
    }

    fn call_time_up(&mut self, slot: u32) {
        if self.exchanges[slot].deadline_us <= self.now_us {
            return self.end_call(slot, Some(DEADLINE), Ending::Overdue);
        }
        let hedge_is_due = self
            .exchanges
            .kept(slot)
            .is_some_and(|kept| kept.hedge_us <= self.now_us);
        if hedge_is_due {
            self.hedge(slot);
        }
        self.exchanges.arm(slot);
    }

    /// Gives a call that was not answered for long to another server as well.
    fn hedge(&mut self, slot: u32) {
        let Some(kept) = self.exchanges.kept_mut(slot) else {
            return;
        };
        kept.hedge_us = NEVER;
        let bytes = kept.bytes.clone();
        let exchange = &self.exchanges[slot];
        let (server, set, balance) = (exchange.server, exchange.set, exchange.balance);
        let Some(set) =
            set.filter(|_| server != NONE && !exchange.is_repeated && self.exchanges.has_room_for_copy())
        else {
            return;
        };
        let verdict = self
            .serving
            .pick_in(set, balance, key_of(&bytes), Some(server), self.now_us);
        let Verdict::Server(other) = verdict else { return };
        if other == server || !self.serving.may_repeat(set, self.now_us) {
            return;
        }
        let (asker, id, prio) = (
            self.exchanges[slot].asker,
            self.exchanges[slot].id,
            self.exchanges[slot].prio,
        );
        let hedge = self.exchanges.open(Role::Hedge, asker, id);
        self.exchanges[slot].is_repeated = true;
        self.exchanges[slot].twin = hedge;
        self.exchanges[hedge].twin = slot;
        self.exchanges[hedge].prio = prio;
        let forward_id = self.give(hedge, other);
        let bytes = self.renewed(slot, forward_id);
        self.exchanges.unkeep(slot);
        if let Some(bytes) = bytes {
            self.dispatch(hedge, bytes);
        }
    }

    /// Sends a copy to a server whose answer nobody gets.
    fn mirror(&mut self, asker: PeerId, id: Id, server: u32, timeout_ms: Option<u64>, compact: &[u8]) {
        if !self.exchanges.has_room_for_copy() {
            return;
        }
        let slot = self.exchanges.open(Role::Mirror, asker, id);
        let most_us = self.now_us.saturating_add(MIRROR_US_MAX);
        self.exchanges[slot].prio = 0;
        self.exchanges[slot].deadline_us = timeout_ms.map_or(most_us, |timeout_ms| {
            after_ms(self.now_us, timeout_ms).min(most_us)
        });
        self.exchanges.arm(slot);
        let forward_id = self.give(slot, server);
        let mut bytes = compact.to_vec();
        envelope::patch_id(&mut bytes, forward_id);
        self.dispatch(slot, bytes.into());
    }
}

fn after_ms(now_us: u64, ms: u64) -> u64 {
    now_us.saturating_add(ms.saturating_mul(1_000)).min(NEVER - 1)
}
