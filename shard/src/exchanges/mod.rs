//! Open exchanges: the calls and streams that the connections of this core began. Here is where they are kept; what
//! happens to them is told in [`calls`], [`streams`] and [`attempts`].
//!
//! An exchange is forwarded under an id that says where it is kept, so an answer is found without a table, on any core:
//!
//! ```text
//!   | core u16 | slot u32 | nonce, 10 bytes: a counter u32, seeded noise |
//! ```
//!
//! The nonce tells a slot's tenants apart, and a guess from knowledge. What protects an exchange is not it alone: an
//! answer counts only if it comes from the very peer that the exchange was given to.
//!
//! A call that needs nothing is a slot and two list entries. Bytes are kept only of those that wait and of those that
//! may be sent a second time; what only streams have is in a slab of its own.

pub(crate) mod attempts;
pub(crate) mod calls;
mod deadlines;
mod gate;
mod kept;
mod queue;
mod rewording;
pub(crate) mod streams;
mod unheard;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use fluxar_protocol::stream::{Failure, Relay};
use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::ids::Ids;
use crate::limits::Limits;
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::routes::Balance;
use crate::serving::set::SetId;
use deadlines::Deadlines;
use gate::Gates;
use kept::KeptCalls;
use queue::Queue;

pub(crate) use kept::Kept;

pub(crate) const NONE: u32 = u32::MAX;
/// Not at all.
pub(crate) const NEVER: u64 = u64::MAX;

/// What an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A call of a connection of this core.
    Call,
    /// The second copy of a call, [`Exchange::twin`]. It has no name of its own.
    Hedge,
    /// A copy whose answer nobody gets.
    Mirror,
    /// A stream that a connection of this core opened.
    Stream,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) asker: PeerId,
    /// The asker's id.
    pub(crate) id: Id,
    /// The id on the next hop.
    pub(crate) forward_id: Id,
    /// The server's number; [`NONE`] while nobody has it.
    pub(crate) server: u32,
    /// Its place among what is open at the server.
    pub(crate) at_server: u32,
    /// Its neighbours among the asker's.
    previous: u32,
    next: u32,
    /// From which set its server is, or for which it waits.
    pub(crate) set: Option<SetId>,
    /// How one of the set is chosen.
    pub(crate) balance: Balance,
    /// When it was given to its server, µs.
    pub(crate) sent_us: u64,
    /// When it is over at the latest, µs.
    pub(crate) deadline_us: u64,
    /// Its [`Kept`].
    pub(crate) kept: u32,
    /// Its [`Relayed`].
    pub(crate) relayed: u32,
    /// The call of a hedge, the hedge of a call.
    pub(crate) twin: u32,
    pub(crate) role: Role,
    pub(crate) prio: u8,
    /// It waits at the gate of its server, which has not seen it.
    pub(crate) is_gated: bool,
    /// It was sent a second time, and is not once more.
    pub(crate) is_repeated: bool,
}

/// What only streams have.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) relay: Relay,
    /// Its open has reached its server, or is on a way on which nothing overtakes it. Before, nothing follows it.
    pub(crate) is_admitted: bool,
    /// The opener ended its direction before.
    pub(crate) owes_end: bool,
    /// Opener and server: whether each does not take what is sent to it.
    pub(crate) crowded: [bool; 2],
    /// A cancelled one ends by then, µs.
    pub(crate) cancel_by_us: u64,
}

/// A connection with exchanges open. They are a list through the slots: to ask and be answered allocates nothing.
#[derive(Debug)]
struct Asker {
    first: u32,
    open: u32,
}

#[derive(Debug)]
pub(crate) struct Exchanges {
    core: u16,
    open: Slab<Exchange>,
    by_name: HashTable<u32>,
    askers: HashMap<PeerId, Asker, FixedState>,
    kept: KeptCalls,
    relayed: Slab<Relayed>,
    hasher: FixedState,
    serial: u32,
    pub(crate) limits: Limits,
    /// Hedges and mirrors.
    copies: usize,
    /// Of each of so many connections at a time, the stream that it spoke on last: chunks come in runs.
    recent: [u32; RECENT],
    pub(crate) deadlines: Deadlines,
    pub(crate) queue: Queue,
    pub(crate) gates: Gates,
}

const RECENT: usize = 64;
/// Of what one core may have open, hedges and mirrors are one in so many at most.
const COPIES_SHARE: usize = 8;

impl Exchanges {
    pub(crate) fn new(core: u16, hasher: &FixedState, limits: Limits) -> Self {
        Self {
            core,
            open: Slab::new(),
            by_name: HashTable::new(),
            askers: HashMap::with_hasher(hasher.clone()),
            kept: KeptCalls::new(),
            relayed: Slab::new(),
            hasher: hasher.clone(),
            serial: 0,
            limits,
            copies: 0,
            recent: [NONE; RECENT],
            deadlines: Deadlines::new(),
            queue: Queue::new(hasher),
            gates: Gates::new(hasher),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn streams(&self) -> usize {
        self.relayed.len()
    }

    pub(crate) fn askers(&self) -> usize {
        self.askers.len()
    }

    /// Bytes that are held of exchanges.
    pub(crate) fn held_bytes(&self) -> usize {
        self.kept.bytes() + self.gates.bytes()
    }

    /// Whether one more may be opened under this id.
    pub(crate) fn admit(&self, asker: PeerId, id: Id) -> Result<(), Refusal> {
        let Limits {
            calls_per_peer,
            calls_per_core,
            ..
        } = self.limits;
        if self.find(asker, id).is_some() {
            return Err(Refusal::fixed(
                Code::AlreadyExists,
                "a call or a stream with this id is open; use a new id",
            ));
        }
        if self
            .askers
            .get(&asker)
            .is_some_and(|asker| asker.open >= calls_per_peer)
        {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!(
                    "this connection has {calls_per_peer} calls and streams open, and that is its limit; await some"
                ),
            ));
        }
        if self.open.len() >= calls_per_core as usize {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!(
                    "this core has {calls_per_core} calls and streams open, and that is its limit; try again later"
                ),
            ));
        }
        Ok(())
    }

    /// Whether there is room for one without a name: a hedge, a mirror. They have a share of their own, so that copies
    /// that nobody answers leave the calls theirs.
    pub(crate) fn has_room_for_copy(&self) -> bool {
        let most = self.limits.calls_per_core as usize;
        self.copies < most / COPIES_SHARE && self.open.len() < most
    }

    /// Whether so many bytes more may be held; copies of calls that run make room for them, if that makes enough.
    pub(crate) fn has_bytes(&mut self, bytes: usize) -> bool {
        let most = self.limits.call_bytes_held_per_core;
        if self.held_bytes() + bytes > most.saturating_add(self.kept.spare_bytes()) {
            return false;
        }
        while self.held_bytes() + bytes > most && self.drop_spare() {}
        true
    }

    /// Bytes of calls that run, which lose only their repeat without them.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.kept.spare_bytes()
    }

    /// Keeps the oldest of them no longer; whether there was one.
    pub(crate) fn drop_spare(&mut self) -> bool {
        let spare = self.kept.first_spare();
        if let Some(slot) = spare {
            self.unkeep(slot);
        }
        spare.is_some()
    }

    /// Says whether it is with a server, so that what is kept of it is needed for a repeat alone.
    pub(crate) fn set_running(&mut self, slot: u32, is_running: bool) {
        self.kept.set_spare(self.open[slot as usize].kept, is_running);
    }

    /// Opens one that was admitted. A hedge and a mirror are nobody's.
    pub(crate) fn open(&mut self, role: Role, asker: PeerId, id: Id) -> u32 {
        let slot = self.open.vacant_key() as u32;
        let has_name = matches!(role, Role::Call | Role::Stream);
        self.copies += usize::from(!has_name);
        let mut next = NONE;
        if has_name {
            let of_asker = self.askers.entry(asker).or_insert(Asker { first: NONE, open: 0 });
            next = std::mem::replace(&mut of_asker.first, slot);
            of_asker.open += 1;
            if let Some(next) = self.open.get_mut(next as usize) {
                next.previous = slot;
            }
        }
        self.open.insert(Exchange {
            asker,
            id,
            forward_id: Id([0xff; 16]),
            server: NONE,
            at_server: 0,
            previous: NONE,
            next,
            set: None,
            balance: Balance::Least,
            sent_us: 0,
            deadline_us: NEVER,
            kept: NONE,
            relayed: NONE,
            twin: NONE,
            role,
            prio: fluxar_protocol::meta::PRIO_DEFAULT,
            is_gated: false,
            is_repeated: false,
        });
        if has_name {
            let Self {
                open,
                by_name,
                hasher,
                ..
            } = self;
            by_name.insert_unique(name(hasher, asker, id), slot, |&at| {
                let exchange = &open[at as usize];
                name(hasher, exchange.asker, exchange.id)
            });
        }
        slot
    }

    /// A new id to forward it under; what comes for an earlier one is late.
    pub(crate) fn name_forward(&mut self, slot: u32, ids: &mut Ids) -> Id {
        self.serial = self.serial.wrapping_add(1);
        let forward_id = forward_id(self.core, slot, self.serial, ids.next());
        self.open[slot as usize].forward_id = forward_id;
        forward_id
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Exchange> {
        self.open.get(slot as usize)
    }

    /// What was forwarded under this id, which is one of this core's, and is with a server now.
    #[inline]
    pub(crate) fn by_forward_id(&self, forward_id: Id) -> Option<u32> {
        let slot = slot_of(forward_id);
        let exchange = self.open.get(slot as usize)?;
        (exchange.forward_id == forward_id && exchange.server != NONE).then_some(slot)
    }

    pub(crate) fn find(&self, asker: PeerId, id: Id) -> Option<u32> {
        let is_it = |&at: &u32| {
            let exchange = &self.open[at as usize];
            exchange.asker == asker && exchange.id == id
        };
        self.by_name.find(name(&self.hasher, asker, id), is_it).copied()
    }

    /// The same, for what comes in runs.
    #[inline]
    pub(crate) fn find_again(&mut self, asker: PeerId, id: Id) -> Option<u32> {
        let at = asker.slot as usize % RECENT;
        let recent = self.recent[at];
        if let Some(exchange) = self.open.get(recent as usize)
            && exchange.id == id
            && exchange.asker == asker
            && exchange.role == Role::Stream
        {
            return Some(recent);
        }
        let slot = self.find(asker, id)?;
        self.recent[at] = slot;
        Some(slot)
    }

    /// One of the asker's, if it has any.
    pub(crate) fn any_of(&self, asker: PeerId) -> Option<u32> {
        self.askers.get(&asker).map(|asker| asker.first)
    }

    /// The next one of its asker's.
    pub(crate) fn after(&self, slot: u32) -> Option<u32> {
        Some(self.open[slot as usize].next).filter(|next| *next != NONE)
    }

    /// Keeps what is needed to send it later, or again, if there is room for its bytes.
    pub(crate) fn keep(&mut self, slot: u32, kept: Kept) -> bool {
        let bytes = kept.bytes.len();
        if self.held_bytes() + bytes > self.limits.call_bytes_held_per_core {
            return false;
        }
        self.open[slot as usize].kept = self.kept.insert(slot, kept);
        true
    }

    pub(crate) fn kept(&self, slot: u32) -> Option<&Kept> {
        self.kept.get(self.open[slot as usize].kept)
    }

    pub(crate) fn kept_mut(&mut self, slot: u32) -> Option<&mut Kept> {
        self.kept.get_mut(self.open[slot as usize].kept)
    }

    /// Keeps it no longer.
    pub(crate) fn unkeep(&mut self, slot: u32) {
        let kept = std::mem::replace(&mut self.open[slot as usize].kept, NONE);
        self.kept.remove(kept);
    }

    pub(crate) fn relay(&mut self, slot: u32, relayed: Relayed) {
        self.open[slot as usize].relayed = self.relayed.insert(relayed) as u32;
    }

    pub(crate) fn relayed(&mut self, slot: u32) -> Option<&mut Relayed> {
        self.relayed.get_mut(self.open[slot as usize].relayed as usize)
    }

    /// When something happens to it by itself, told to the wheel.
    pub(crate) fn arm(&mut self, slot: u32) {
        let exchange = &self.open[slot as usize];
        let hedge_us = self.kept.get(exchange.kept).map_or(NEVER, |kept| kept.hedge_us);
        let cancel_by_us = self
            .relayed
            .get(exchange.relayed as usize)
            .map_or(NEVER, |relayed| relayed.cancel_by_us);
        match exchange.deadline_us.min(hedge_us).min(cancel_by_us) {
            NEVER => self.deadlines.disarm(slot),
            at_us => self.deadlines.arm(slot, at_us),
        }
    }

    /// Forgets one. Its server's list is the caller's business.
    pub(crate) fn forget(&mut self, slot: u32) -> Exchange {
        self.deadlines.disarm(slot);
        self.unkeep(slot);
        let exchange = self.open.remove(slot as usize);
        self.relayed.try_remove(exchange.relayed as usize);
        if matches!(exchange.role, Role::Hedge | Role::Mirror) {
            self.copies -= 1;
            return exchange;
        }
        if let Ok(named) = self
            .by_name
            .find_entry(name(&self.hasher, exchange.asker, exchange.id), |&at| at == slot)
        {
            named.remove();
        }
        if let Some(next) = self.open.get_mut(exchange.next as usize) {
            next.previous = exchange.previous;
        }
        if let Some(previous) = self.open.get_mut(exchange.previous as usize) {
            previous.next = exchange.next;
        }
        if let Some(asker) = self.askers.get_mut(&exchange.asker) {
            asker.open -= 1;
            if asker.first == slot {
                asker.first = exchange.next;
            }
            if asker.open == 0 {
                self.askers.remove(&exchange.asker);
            }
        }
        exchange
    }
}

impl Index<u32> for Exchanges {
    type Output = Exchange;

    #[inline]
    fn index(&self, slot: u32) -> &Exchange {
        &self.open[slot as usize]
    }
}

impl IndexMut<u32> for Exchanges {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Exchange {
        &mut self.open[slot as usize]
    }
}

/// What is said to those whose exchange ends here.
pub(crate) const NOBODY: Failure = Failure {
    code: Code::Unavailable,
    message: "nobody serves this method at the moment",
};
pub(crate) const SERVER_LOST: Failure = Failure {
    code: Code::Unavailable,
    message: "the peer that served this call was lost before it answered",
};
pub(crate) const CANCELLED: Failure = Failure {
    code: Code::Cancelled,
    message: "cancelled by you",
};
pub(crate) const DEADLINE: Failure = Failure {
    code: Code::DeadlineExceeded,
    message: "the call was not answered within its timeout_ms",
};
pub(crate) const DISPLACED: Failure = Failure {
    code: Code::ResourceExhausted,
    message: "too many calls wait for a serving peer, and one of a higher prio took the place of this one; try again later",
};
pub(crate) const GATE_FULL: Failure = Failure {
    code: Code::ResourceExhausted,
    message: "too many bytes of calls wait for their serving peers; try again later",
};

fn forward_id(core: u16, slot: u32, serial: u32, noise: u64) -> Id {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&core.to_be_bytes());
    id[2..6].copy_from_slice(&slot.to_be_bytes());
    id[6..10].copy_from_slice(&serial.to_be_bytes());
    id[10..].copy_from_slice(&noise.to_be_bytes()[..6]);
    Id(id)
}

/// The core on which the exchange of a forward id is open.
#[inline]
pub(crate) fn core_of(Id(id): Id) -> u16 {
    u16::from_be_bytes([id[0], id[1]])
}

#[inline]
fn slot_of(Id(id): Id) -> u32 {
    u32::from_be_bytes([id[2], id[3], id[4], id[5]])
}

fn name(hasher: &FixedState, asker: PeerId, id: Id) -> u64 {
    hasher.hash_one((asker, id))
}
