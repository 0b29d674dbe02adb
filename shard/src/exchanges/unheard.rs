//! What was given to a peer that never heard of it: the peer offers nothing any more that serves it, or is lost, while
//! it waited at the peer's gate or was on its way there, or the peer's queue was full. It comes back to the core of its
//! asker, by [`Letter::Unheard`] if that is another, and is given to somebody else or waits: that does no harm, whatever
//! the call is.

use bytes::Bytes;
use fluxar_protocol::{Id, envelope, target};

use crate::exchanges::attempts::key_of;
use crate::exchanges::gate::Held;
use crate::exchanges::rewording::renewed;
use crate::exchanges::{GATE_FULL, Kept, NEVER, NOBODY, NONE, Role, SERVER_LOST, core_of};
use crate::letter::{Arrival, Letter};
use crate::peer::PeerId;
use crate::serving::{Ending, Verdict, Wanted};
use crate::shard::Shard;

/// Most offers of a peer that are looked at to see whether it still serves a method: one that has more gets what
/// was on its way when it withdrew an offer.
const OFFERS_SEEN_MAX: usize = 1_024;

impl Shard {
    /// What was polled or came to be forwarded to a connection of this core could not be, for its queue is full: the
    /// peer has not heard of the call, which waits for it, or goes to another one.
    pub fn unheard(&mut self, from: PeerId, reference: Id, compact: &[u8]) {
        let bytes = Bytes::copy_from_slice(compact);
        let core = core_of(reference);
        if core == self.core || core >= self.post.cores() {
            return self.unheard_here(from, reference, bytes, true);
        }
        if !self.exchanges.gates.is_empty() {
            self.left_gate(from, reference);
        }
        self.return_unheard(from, reference, bytes, true);
    }

    /// Something of another core that its server has not seen goes back there.
    pub(crate) fn return_unheard(&mut self, from: PeerId, reference: Id, bytes: Bytes, is_full: bool) {
        let letter = Letter::Unheard {
            from,
            reference,
            bytes,
            is_full,
        };
        self.post.send(core_of(reference), letter);
    }

    /// Its server has not seen this exchange of this core.
    pub(crate) fn unheard_here(&mut self, from: PeerId, reference: Id, bytes: Bytes, is_full: bool) {
        let slot = self.exchanges.by_forward_id(reference);
        let Some(slot) = slot.filter(|&slot| self.serving[self.exchanges[slot].server].peer == from) else {
            return; // cancelled, or over by its time
        };
        let server = self.exchanges[slot].server;
        self.take_unheard(slot);
        self.give_again(slot, bytes, is_full.then_some(server));
    }

    /// Takes an exchange from a server that has not seen it, which says nothing about the server.
    fn take_unheard(&mut self, slot: u32) {
        let peer = self.serving[self.exchanges[slot].server].peer;
        self.exchanges[slot].is_gated = true;
        self.take_back(slot, Ending::Cancelled);
        if peer.core == self.core {
            self.gate_moved(peer);
        }
    }

    /// Gives an exchange that is with nobody, and that nobody has seen, to somebody; to `full` only when it has room.
    pub(crate) fn give_again(&mut self, slot: u32, bytes: Bytes, full: Option<u32>) {
        let exchange = &self.exchanges[slot];
        match exchange.role {
            Role::Mirror => {
                self.exchanges.forget(slot);
                return;
            }
            Role::Hedge => return self.forget_unsent_hedge(slot),
            Role::Call if exchange.twin != NONE => return, // the other server may still answer
            Role::Call | Role::Stream => {}
        }
        let (set, balance, prio, deadline_us) = (
            exchange.set,
            exchange.balance,
            exchange.prio,
            exchange.deadline_us,
        );
        let mut verdict = Verdict::Nobody;
        if let Some(set) = set {
            verdict = self
                .serving
                .pick_in(set, balance, key_of(&bytes), full, self.now_us);
            if full.is_some() && verdict == Verdict::Nobody {
                verdict = match self
                    .serving
                    .pick_in(set, balance, key_of(&bytes), None, self.now_us)
                {
                    Verdict::Server(_) => Verdict::Full(set),
                    other => other,
                };
            }
        }
        if verdict == Verdict::Nobody && full.is_none() {
            // Those who served it are gone; others of a less specific pattern, or that came since, may be there.
            verdict = self.pick_anew(slot, &bytes);
        }
        match verdict {
            Verdict::Server(server) => {
                let forward_id = self.give(slot, server);
                let left_ms =
                    (deadline_us != NEVER).then(|| (deadline_us.saturating_sub(self.now_us) / 1_000).max(1));
                self.dispatch(slot, renewed(&bytes, forward_id, left_ms));
            }
            Verdict::Full(_) => {
                let kept = Kept {
                    bytes,
                    timeout_ms: None,
                    hedge_us: NEVER,
                    is_idempotent: false,
                };
                let has_kept = self.exchanges.kept(slot).is_some();
                let bytes = if has_kept { 0 } else { kept.bytes.len() };
                if self.make_room(prio, bytes) && (has_kept || self.exchanges.keep(slot, kept)) {
                    self.wait(slot);
                } else {
                    self.end_by(slot, GATE_FULL, Ending::Cancelled);
                }
            }
            Verdict::Nobody => self.end_by(slot, NOBODY, Ending::Cancelled),
        }
    }

    fn pick_anew(&mut self, slot: u32, bytes: &[u8]) -> Verdict {
        let Ok(decoded) = envelope::decode(bytes) else {
            return Verdict::Nobody;
        };
        let picked = self.serving.pick(
            &Wanted {
                method: decoded.envelope.target.unwrap_or_default(),
                meta: decoded.envelope.meta,
                key: key_of(bytes),
                avoid: None,
            },
            self.now_us,
        );
        self.exchanges[slot].set = picked.set;
        self.exchanges[slot].balance = picked.balance;
        picked.verdict
    }

    /// Forgets a second copy that its server has not seen. A call that nobody else has by now is over.
    pub(crate) fn forget_unsent_hedge(&mut self, hedge: u32) {
        let call = self.forget_hedge(hedge);
        if self.exchanges[call].server == NONE {
            self.end_call(call, Some(SERVER_LOST), Ending::Lost);
        }
    }

    /// A peer of this core withdrew its offer of `pattern`: what waits at its gate, and is served by none of its others,
    /// goes elsewhere, and so does what other cores have sent on its way.
    pub(crate) fn offer_withdrawn(&mut self, peer: PeerId, pattern: &str) {
        if !self.post.is_alone() {
            self.withdrew.insert(peer);
        }
        if !self.exchanges.gates.has_waiting(peer) {
            return;
        }
        let unserved: Vec<Id> = self
            .exchanges
            .gates
            .held(peer)
            .filter(|held| {
                let method = method_of(&held.bytes);
                method
                    .is_some_and(|method| target::matches(pattern, method) && !self.is_offered(peer, method))
            })
            .map(|held| held.reference)
            .collect();
        for reference in unserved {
            if let Some(held) = self.exchanges.gates.withdraw(peer, reference) {
                match held.here {
                    Some(slot) => {
                        self.take_unheard(slot);
                        self.give_again(slot, held.bytes, None);
                    }
                    None => self.return_unheard(peer, reference, held.bytes, false),
                }
            }
        }
    }

    /// What waited at a lost peer's gate: that of other cores goes back there. That of this one.
    pub(crate) fn gate_lost(&mut self, peer: PeerId) -> Vec<(u32, Bytes)> {
        let mut here = Vec::new();
        for Held {
            reference,
            bytes,
            here: slot,
            ..
        } in self.exchanges.gates.lose(peer)
        {
            match slot {
                Some(slot) => here.push((slot, bytes)),
                None => self.return_unheard(peer, reference, bytes, false),
            }
        }
        here
    }

    /// Whether what comes from another core for a peer of this one finds it serving.
    pub(crate) fn is_expected(&self, peer: PeerId, bytes: &[u8]) -> bool {
        self.serving.find(peer).is_some()
            && (!self.withdrew.contains(&peer)
                || method_of(bytes).is_none_or(|method| self.is_offered(peer, method)))
    }

    fn is_offered(&self, peer: PeerId, method: &str) -> bool {
        self.serving.is_offered_by(peer, method, OFFERS_SEEN_MAX)
    }

    /// By letter: a peer of another core is lost, and gets nothing more. What is open at it fails when all that was on
    /// its way there has come back.
    pub(crate) fn server_lost_elsewhere(&mut self, server: PeerId) -> Arrival {
        self.serving.withdraw_all(server);
        if self.serving.find(server).is_some() {
            self.absences.unsettled(server);
            self.post.send(server.core, Letter::Flush { server });
        }
        Arrival::Taken
    }
}

fn method_of(bytes: &[u8]) -> Option<&str> {
    envelope::decode(bytes).ok()?.envelope.target
}
