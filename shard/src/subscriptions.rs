//! The subscriptions and offers of this core's connections: who holds which, under which id, and what each missed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Index;

use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::limits::Limits;
use crate::peer::PeerId;
use crate::refusal::Refusal;

/// One subscription, or one offer to serve.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) peer: PeerId,
    pub(crate) id: Id,
    pub(crate) role: Role,
    /// Its pattern's number, among topics or among methods.
    pub(crate) pattern: u32,
    /// Its place in the list that its role puts it in.
    pub(crate) seat: u32,
    /// A member of a group whose connection has no room.
    pub(crate) resting: bool,
    /// Its place among its peer's.
    place: u32,
    text_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Plain,
    /// Of the group with this number.
    Member(u32),
    /// Under the offer with this number.
    Server(u32),
    /// A reader of the logs, with this number.
    Reader(u32),
    /// A member of a work queue.
    Worker,
    /// A member of a group, while its connection is away.
    AwayMember,
    /// An offer, likewise.
    AwayServer,
}

impl Role {
    /// Whether it shares its events with others of a group.
    fn is_member(self) -> bool {
        matches!(self, Self::Member(_) | Self::Worker | Self::AwayMember)
    }
}

#[derive(Debug)]
pub(crate) struct Subscriptions {
    held: Slab<Subscription>,
    by_name: HashTable<u32>,
    holders: HashMap<PeerId, Holder, FixedState>,
    /// Only of subscriptions that missed something.
    drops: HashMap<u32, Drops, FixedState>,
    hasher: FixedState,
    text_bytes: usize,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Holder {
    held: Vec<u32>,
    /// How many of them are with a group.
    members: u32,
    has_news: bool,
}

#[derive(Debug, Default)]
struct Drops {
    total: u64,
    told: u64,
}

impl Subscriptions {
    pub(crate) fn new(hasher: &FixedState, limits: Limits) -> Self {
        Self {
            held: Slab::new(),
            by_name: HashTable::new(),
            holders: HashMap::with_hasher(hasher.clone()),
            drops: HashMap::with_hasher(hasher.clone()),
            hasher: hasher.clone(),
            text_bytes: 0,
            limits,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn holders(&self) -> usize {
        self.holders.len()
    }

    pub(crate) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    pub(crate) fn of(&self, peer: PeerId) -> &[u32] {
        self.holders.get(&peer).map_or(&[], |holder| &holder.held)
    }

    pub(crate) fn find(&self, peer: PeerId, id: Id) -> Option<u32> {
        let is_it = |&at: &u32| {
            let sub = &self.held[at as usize];
            sub.peer == peer && sub.id == id
        };
        self.by_name.find(name(&self.hasher, peer, id), is_it).copied()
    }

    /// Whether one more fits.
    pub(crate) fn admit(
        &self,
        peer: PeerId,
        id: Id,
        text_bytes: usize,
        is_member: bool,
    ) -> Result<(), Refusal> {
        let Limits {
            subscriptions_per_peer,
            members_per_peer,
            subscriptions_per_core,
            pattern_bytes_per_core,
            ..
        } = self.limits;
        if self.find(peer, id).is_some() {
            return Err(Refusal::fixed(
                Code::AlreadyExists,
                "a subscription with this id exists; use a new id",
            ));
        }
        if self.of(peer).len() >= subscriptions_per_peer as usize {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!("this connection has {subscriptions_per_peer} subscriptions, and that is its limit"),
            ));
        }
        if is_member
            && self
                .holders
                .get(&peer)
                .is_some_and(|holder| holder.members >= members_per_peer)
        {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!("this connection is a member of {members_per_peer} groups, and that is its limit"),
            ));
        }
        if self.held.len() >= subscriptions_per_core as usize {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!("this core has {subscriptions_per_core} subscriptions, and that is its limit"),
            ));
        }
        if self.text_bytes + text_bytes > pattern_bytes_per_core {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!(
                    "the patterns of this core's subscriptions would exceed their limit of \
                     {pattern_bytes_per_core} bytes"
                ),
            ));
        }
        Ok(())
    }

    /// Adds one that was admitted.
    pub(crate) fn add(
        &mut self,
        peer: PeerId,
        id: Id,
        role: Role,
        pattern: u32,
        seat: u32,
        text_bytes: usize,
    ) -> u32 {
        let holder = self.holders.entry(peer).or_default();
        let place = holder.held.len() as u32;
        let text_bytes = text_bytes as u32;
        let sub = self.held.insert(Subscription {
            peer,
            id,
            role,
            pattern,
            seat,
            resting: false,
            place,
            text_bytes,
        }) as u32;
        holder.held.push(sub);
        holder.members += u32::from(role.is_member());
        self.text_bytes += text_bytes as usize;
        let Self {
            held,
            by_name,
            hasher,
            ..
        } = self;
        by_name.insert_unique(name(hasher, peer, id), sub, |&at| {
            let sub = &held[at as usize];
            name(hasher, sub.peer, sub.id)
        });
        sub
    }

    /// Takes one away, with how many events it missed.
    pub(crate) fn remove(&mut self, at: u32) -> (Subscription, u64) {
        let sub = self.held.remove(at as usize);
        if let Ok(named) = self
            .by_name
            .find_entry(name(&self.hasher, sub.peer, sub.id), |&other| other == at)
        {
            named.remove();
        }
        if let Some(holder) = self.holders.get_mut(&sub.peer) {
            holder.members -= u32::from(sub.role.is_member());
            holder.held.swap_remove(sub.place as usize);
            if let Some(&moved) = holder.held.get(sub.place as usize) {
                self.held[moved as usize].place = sub.place;
            }
            if holder.held.is_empty() {
                self.holders.remove(&sub.peer);
            }
        }
        self.text_bytes -= sub.text_bytes as usize;
        let dropped = self.drops.remove(&at).map_or(0, |drops| drops.total);
        (sub, dropped)
    }

    /// The seat of a subscription was given to another one, which moved there.
    pub(crate) fn reseat(&mut self, at: u32, seat: u32) {
        self.held[at as usize].seat = seat;
    }

    /// A member went to rest or came back from it, and got this seat there.
    pub(crate) fn rest(&mut self, at: u32, resting: bool, seat: u32) {
        let sub = &mut self.held[at as usize];
        sub.resting = resting;
        sub.seat = seat;
    }

    /// Its connection went away, or returned: it is something else now, for this pattern and with this seat.
    pub(crate) fn change_role(&mut self, at: u32, role: Role, pattern: u32, seat: u32) {
        let sub = &mut self.held[at as usize];
        debug_assert_eq!(sub.role.is_member(), role.is_member());
        (sub.role, sub.pattern, sub.seat) = (role, pattern, seat);
    }

    pub(crate) fn missed(&mut self, at: u32, events: u64) {
        self.drops.entry(at).or_default().total += events;
        if let Some(holder) = self.holders.get_mut(&self.held[at as usize].peer) {
            holder.has_news = true;
        }
    }

    /// Counts the events for each of the peer's plain subscriptions to these patterns, which are sorted.
    pub(crate) fn all_missed(&mut self, peer: PeerId, patterns: &[u32], events: u64) {
        let Some(holder) = self.holders.get_mut(&peer) else {
            return;
        };
        for &at in &holder.held {
            let sub = &self.held[at as usize];
            if sub.role == Role::Plain && patterns.binary_search(&sub.pattern).is_ok() {
                self.drops.entry(at).or_default().total += events;
                holder.has_news = true;
            }
        }
    }

    /// Appends what was missed and not told yet: totals.
    pub(crate) fn tell_missed(&mut self, peer: PeerId, out: &mut Vec<(Id, u64)>) {
        let Some(holder) = self.holders.get_mut(&peer).filter(|holder| holder.has_news) else {
            return;
        };
        holder.has_news = false;
        for at in &holder.held {
            if let Some(drops) = self.drops.get_mut(at).filter(|drops| drops.told < drops.total) {
                drops.told = drops.total;
                out.push((self.held[*at as usize].id, drops.total));
            }
        }
    }
}

impl Index<u32> for Subscriptions {
    type Output = Subscription;

    fn index(&self, at: u32) -> &Subscription {
        &self.held[at as usize]
    }
}

fn name(hasher: &FixedState, peer: PeerId, id: Id) -> u64 {
    hasher.hash_one((peer, id))
}
