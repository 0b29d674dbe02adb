//! Open calls, on the core of those who asked.
//!
//! A call is forwarded under an id that says where it is kept, so an answer is found without a table, on any core:
//!
//! ```text
//!   | core u16 | slot u32 | nonce, 10 bytes: a counter u32, seeded noise |
//! ```
//!
//! The nonce tells a slot's tenants apart, and a guess from knowledge. What protects a call is not it alone: an
//! answer counts only if it comes from the very peer that the call was given to.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Index;

use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::ids::Ids;
use crate::limits::Limits;
use crate::peer::PeerId;
use crate::refusal::Refusal;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) asker: PeerId,
    /// The asker's id.
    pub(crate) id: Id,
    /// The id on the next hop.
    pub(crate) forward_id: Id,
    /// The server's number.
    pub(crate) server: u32,
    /// Its place among the calls open at the server.
    pub(crate) at_server: u32,
    /// When it was forwarded.
    pub(crate) opened_us: u64,
    /// Its neighbours among the asker's calls.
    previous: u32,
    next: u32,
}

/// A connection with calls open. They are a list through the slots: to ask and be answered allocates nothing.
#[derive(Debug)]
struct Asker {
    first: u32,
    open: u32,
}

#[derive(Debug)]
pub(crate) struct Calls {
    core: u16,
    open: Slab<Call>,
    by_name: HashTable<u32>,
    askers: HashMap<PeerId, Asker, FixedState>,
    hasher: FixedState,
    serial: u32,
    limits: Limits,
}

impl Calls {
    pub(crate) fn new(core: u16, hasher: &FixedState, limits: Limits) -> Self {
        Self {
            core,
            open: Slab::new(),
            by_name: HashTable::new(),
            askers: HashMap::with_hasher(hasher.clone()),
            hasher: hasher.clone(),
            serial: 0,
            limits,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn askers(&self) -> usize {
        self.askers.len()
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
                "a call with this id is open; use a new id",
            ));
        }
        if self
            .askers
            .get(&asker)
            .is_some_and(|asker| asker.open >= calls_per_peer)
        {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!("this connection has {calls_per_peer} calls open, and that is its limit; await some"),
            ));
        }
        if self.open.len() >= calls_per_core as usize {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!("this core has {calls_per_core} calls open, and that is its limit; try again later"),
            ));
        }
        Ok(())
    }

    /// Opens a call that was admitted: its slot, and the id to forward it under.
    pub(crate) fn open(
        &mut self,
        asker: PeerId,
        id: Id,
        server: u32,
        at_server: u32,
        now_us: u64,
        ids: &mut Ids,
    ) -> (u32, Id) {
        let slot = self.open.vacant_key() as u32;
        self.serial = self.serial.wrapping_add(1);
        let forward_id = forward_id(self.core, slot, self.serial, ids.next());
        let of_asker = self.askers.entry(asker).or_insert(Asker { first: NONE, open: 0 });
        let next = std::mem::replace(&mut of_asker.first, slot);
        of_asker.open += 1;
        if let Some(next) = self.open.get_mut(next as usize) {
            next.previous = slot;
        }
        self.open.insert(Call {
            asker,
            id,
            forward_id,
            server,
            at_server,
            opened_us: now_us,
            previous: NONE,
            next,
        });
        let Self {
            open,
            by_name,
            hasher,
            ..
        } = self;
        by_name.insert_unique(name(hasher, asker, id), slot, |&at| {
            let call = &open[at as usize];
            name(hasher, call.asker, call.id)
        });
        (slot, forward_id)
    }

    /// The call that was forwarded under this id, which is one of this core's.
    pub(crate) fn by_forward_id(&self, forward_id: Id) -> Option<u32> {
        let slot = slot_of(forward_id);
        (self.open.get(slot as usize)?.forward_id == forward_id).then_some(slot)
    }

    pub(crate) fn find(&self, asker: PeerId, id: Id) -> Option<u32> {
        let is_it = |&at: &u32| {
            let call = &self.open[at as usize];
            call.asker == asker && call.id == id
        };
        self.by_name.find(name(&self.hasher, asker, id), is_it).copied()
    }

    /// One of the asker's calls, if it has any.
    pub(crate) fn any_of(&self, asker: PeerId) -> Option<u32> {
        self.askers.get(&asker).map(|asker| asker.first)
    }

    /// Closes a call. Its server's list is the caller's business.
    pub(crate) fn close(&mut self, slot: u32) -> Call {
        let call = self.open.remove(slot as usize);
        if let Ok(named) = self
            .by_name
            .find_entry(name(&self.hasher, call.asker, call.id), |&at| at == slot)
        {
            named.remove();
        }
        if let Some(next) = self.open.get_mut(call.next as usize) {
            next.previous = call.previous;
        }
        if let Some(previous) = self.open.get_mut(call.previous as usize) {
            previous.next = call.next;
        }
        if let Some(asker) = self.askers.get_mut(&call.asker) {
            asker.open -= 1;
            if asker.first == slot {
                asker.first = call.next;
            }
            if asker.open == 0 {
                self.askers.remove(&call.asker);
            }
        }
        call
    }

    /// The place of a call among its server's was given to it by a neighbour that left.
    pub(crate) fn moved_at_server(&mut self, slot: u32, at_server: u32) {
        self.open[slot as usize].at_server = at_server;
    }
}

impl Index<u32> for Calls {
    type Output = Call;

    fn index(&self, slot: u32) -> &Call {
        &self.open[slot as usize]
    }
}

fn forward_id(core: u16, slot: u32, serial: u32, noise: u64) -> Id {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&core.to_be_bytes());
    id[2..6].copy_from_slice(&slot.to_be_bytes());
    id[6..10].copy_from_slice(&serial.to_be_bytes());
    id[10..].copy_from_slice(&noise.to_be_bytes()[..6]);
    Id(id)
}

/// The core on which the call of a forward id is open.
pub(crate) fn core_of(Id(id): Id) -> u16 {
    u16::from_be_bytes([id[0], id[1]])
}

fn slot_of(Id(id): Id) -> u32 {
    u32::from_be_bytes([id[2], id[3], id[4], id[5]])
}

fn name(hasher: &FixedState, asker: PeerId, id: Id) -> u64 {
    hasher.hash_one((asker, id))
}
