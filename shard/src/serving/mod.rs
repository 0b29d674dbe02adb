//! Who serves what, over all cores, and which of them gets the next call or stream.
//!
//! Every core knows every offer of a peer that dialled in; a connection that a core dialled serves that core alone.
//! An offer joins a fleet, the unnamed one unless it says so. The rules of [`crate::routes`] choose the fleet of a call;
//! in it, the offers of the most specific pattern that matches the method (token by token: literal before `*` before
//! `>`) are its [`set`], and one of the set gets it ([`pick`]).
//!
//! ```text
//!   method ─> known (remembered) ─> rules ─> fleet ─> set ─> fit ─> not ejected ─> has room ─> same zone ─> policy
//! ```
//!
//! What is known of a peer is told by others: its offers and its [`crate::Standing`] by its home core, what is open at it and
//! how its answers were by the exchanges of this core ([`Serving::opened`], [`Serving::closed`]).

mod budget;
mod health;
mod keys;
#[cfg(test)]
mod lab;
mod latency;
mod least;
#[cfg(test)]
mod model;
mod offered;
mod pick;
mod ring;
mod routing;
mod rows;
mod server;
pub(crate) mod set;
mod table;
mod turns;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;
use slab::Slab;

use crate::ids::Ids;
use crate::offering::Offering;
use crate::peer::PeerId;
use crate::topics::cache::NameCache;
use crate::topics::table::PatternTable;
use routing::{Known, Routing};
use server::Server;
use set::{Member, Set};

pub(crate) use pick::{Verdict, Wanted};
pub use rows::ServiceRow;
pub(crate) use server::Ending;

/// The fleet without a name: always there.
const UNNAMED: u32 = 0;

#[derive(Debug)]
struct Fleet {
    name: Option<Arc<str>>,
    /// The set of each pattern.
    patterns: PatternTable<Option<u32>>,
    /// A rule names it: it stays, even if nobody is in it.
    is_ruled: bool,
}

#[derive(Debug)]
struct Offer {
    server: u32,
    /// By which it was made, and made again with other terms; none for a connection that this core dialled.
    subs: Vec<Id>,
    set: u32,
    /// Its place among its set's.
    at_set: u32,
    /// Its place among its server's.
    at_server: u32,
}

#[derive(Debug)]
pub(crate) struct Serving {
    core: u16,
    hasher: FixedState,
    random: Ids,
    fleets: Slab<Fleet>,
    by_fleet: HashMap<Arc<str>, u32, FixedState>,
    sets: Slab<Set>,
    serial: u32,
    remembered: NameCache<Known>,
    routing: Routing,
    offers: Slab<Offer>,
    /// The offer of each name, and the name's place among those that it has.
    by_name: HashMap<(PeerId, Id), (u32, u32), FixedState>,
    servers: Slab<Server>,
    by_peer: HashMap<PeerId, u32, FixedState>,
    /// Who is ejected, and until when, the soonest first. Bounded by who can be: each is here once, until then.
    ejected: BinaryHeap<Reverse<(u64, PeerId)>>,
    /// Sets with waiting calls in which something changed.
    moved: VecDeque<u32>,
    /// Sets with waiting calls.
    waiting: usize,
    /// The last time that was told.
    now_us: u64,
}

impl Serving {
    pub(crate) fn new(core: u16, hasher: &FixedState, seed: u64, names_remembered: usize) -> Self {
        let mut fleets = Slab::new();
        fleets.insert(Fleet {
            name: None,
            patterns: PatternTable::new(hasher),
            is_ruled: true,
        });
        Self {
            core,
            hasher: hasher.clone(),
            random: Ids::new(seed),
            fleets,
            by_fleet: HashMap::with_hasher(hasher.clone()),
            sets: Slab::new(),
            serial: 0,
            remembered: NameCache::new(names_remembered),
            routing: Routing::new(Arc::default(), Vec::new()),
            offers: Slab::new(),
            by_name: HashMap::with_hasher(hasher.clone()),
            servers: Slab::new(),
            by_peer: HashMap::with_hasher(hasher.clone()),
            ejected: BinaryHeap::new(),
            moved: VecDeque::new(),
            waiting: 0,
            now_us: 0,
        }
    }

    pub(crate) fn patterns(&self) -> usize {
        self.fleets.iter().map(|(_, fleet)| fleet.patterns.len()).sum()
    }

    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn handle_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        while let Some(&Reverse((until_us, peer))) = self.ejected.peek()
            && until_us <= self.now_us
        {
            self.ejected.pop();
            if let Some(server) = self.find(peer) {
                self.tell_all(server);
            }
        }
    }

    /// When somebody comes back for whom calls may wait, µs.
    pub(crate) fn next_back_us(&self) -> Option<u64> {
        let &Reverse((until_us, _)) = self.ejected.peek().filter(|_| self.waiting > 0)?;
        Some(until_us)
    }

    /// Adds an offer under the fleet that it names. Its server's terms are the last offer's. One more for the same
    /// pattern of the same fleet is the same offer with another weight, until all of its names are withdrawn: a peer is
    /// in a set once.
    pub(crate) fn offer(&mut self, peer: PeerId, sub: Id, pattern: &str, offering: &Offering) -> u32 {
        let server = self.server(peer, offering, true);
        let fleet = self.fleet(offering.fleet.as_ref());
        let weight = offering.weight();
        let offer = match self.named_in(server, fleet, pattern) {
            Some(offer) => {
                self.reweigh(offer, weight);
                offer
            }
            None => self.join(server, fleet, pattern, weight),
        };
        let subs = &mut self.offers[offer as usize].subs;
        self.by_name.insert((peer, sub), (offer, subs.len() as u32));
        subs.push(sub);
        offer
    }

    /// A server's offer for this pattern, made under a name.
    fn named_in(&self, server: u32, fleet: u32, pattern: &str) -> Option<u32> {
        let patterns = &self.fleets[fleet as usize].patterns;
        let set = patterns[patterns.get(pattern)?]?;
        let (members, offers) = (
            &self.sets[set as usize].members,
            &self.servers[server as usize].offers,
        );
        // The shorter list is looked through: many offers of one peer are in as many sets.
        let is_it = |&offer: &u32| {
            let of = &self.offers[offer as usize];
            of.set == set && of.server == server && !of.subs.is_empty()
        };
        if members.len() < offers.len() {
            members.iter().map(|member| member.offer).find(is_it)
        } else {
            offers.iter().copied().find(is_it)
        }
    }

    fn reweigh(&mut self, offer: u32, weight: u32) {
        let Offer { set, at_set, .. } = self.offers[offer as usize];
        let of_set = &mut self.sets[set as usize];
        let before = std::mem::replace(&mut of_set.members[at_set as usize].weight, weight);
        of_set.weighs_less(before);
        of_set.weighs_more(weight);
        of_set.table.is_stale = true;
        self.tell(set);
    }

    /// A connection that this core dialled: all methods in its fleet, and these outside of any. Terms that change leave
    /// what is open at it alone.
    pub(crate) fn attach(&mut self, peer: PeerId, patterns: &[Arc<str>], offering: &Offering) {
        let server = self.server(peer, offering, false);
        let old = self.attached(server);
        if let Some(fleet) = &offering.fleet {
            let fleet = self.fleet(Some(fleet));
            self.join(server, fleet, ">", offering.weight());
        }
        for pattern in patterns {
            self.join(server, UNNAMED, pattern, offering.weight());
        }
        for offer in old {
            self.withdraw(offer);
        }
    }

    /// It gets nothing new; what is open goes on.
    pub(crate) fn detach(&mut self, peer: PeerId) {
        let Some(server) = self.find(peer) else { return };
        for offer in self.attached(server) {
            self.withdraw(offer);
        }
    }

    fn attached(&self, server: u32) -> Vec<u32> {
        let of_server = self.servers[server as usize].offers.iter().copied();
        of_server
            .filter(|&offer| self.offers[offer as usize].subs.is_empty())
            .collect()
    }

    /// The number of a fleet, new if it is not there.
    fn fleet(&mut self, name: Option<&Arc<str>>) -> u32 {
        let Some(name) = name else { return UNNAMED };
        if let Some(&fleet) = self.by_fleet.get(name) {
            return fleet;
        }
        let fleet = self.fleets.insert(Fleet {
            name: Some(name.clone()),
            patterns: PatternTable::new(&self.hasher),
            is_ruled: false,
        }) as u32;
        self.by_fleet.insert(name.clone(), fleet);
        fleet
    }

    /// Lets a fleet go in which nobody is and that no rule names.
    fn release_fleet(&mut self, at: u32) {
        let fleet = &self.fleets[at as usize];
        if fleet.patterns.len() == 0
            && !fleet.is_ruled
            && let Some(name) = &fleet.name
        {
            self.by_fleet.remove(name);
            self.fleets.remove(at as usize);
        }
    }

    fn join(&mut self, server: u32, fleet: u32, pattern: &str, weight: u32) -> u32 {
        let patterns = &mut self.fleets[fleet as usize].patterns;
        let pattern = patterns.entry(pattern);
        let set = match patterns[pattern] {
            Some(set) => set,
            None => {
                self.serial = self.serial.wrapping_add(1);
                let set = self.sets.insert(Set::new(self.serial, fleet, pattern)) as u32;
                patterns[pattern] = Some(set);
                self.remembered.clear(); // it may be more specific than what was found before
                set
            }
        };
        let of_server = &mut self.servers[server as usize];
        let of_set = &mut self.sets[set as usize];
        let offer = self.offers.insert(Offer {
            server,
            subs: Vec::new(),
            set,
            at_set: of_set.members.len() as u32,
            at_server: of_server.offers.len() as u32,
        }) as u32;
        of_server.offers.push(offer);
        of_set.members.push(Member {
            offer,
            server,
            weight,
            identity: of_server.identity,
            owed: 0,
        });
        of_set.weighs_more(weight);
        if let Some(ring) = &mut of_set.ring {
            ring::enter(ring, of_server.identity, offer);
        }
        self.arrange(offer, false);
        self.tell(set);
        offer
    }

    /// The text of an offer's pattern.
    pub(crate) fn text(&self, offer: u32) -> Arc<str> {
        let set = &self.sets[self.offers[offer as usize].set as usize];
        self.fleets[set.fleet as usize].patterns.text(set.pattern).clone()
    }

    /// Takes a name of an offer away, and with its last one the offer.
    pub(crate) fn withdraw_named(&mut self, peer: PeerId, sub: Id) {
        let Some((offer, at)) = self.by_name.remove(&(peer, sub)) else {
            return;
        };
        let subs = &mut self.offers[offer as usize].subs;
        subs.swap_remove(at as usize);
        if let Some(&moved) = subs.get(at as usize) {
            self.by_name.insert((peer, moved), (offer, at));
        }
        if subs.is_empty() {
            self.withdraw(offer);
        }
    }

    /// Takes an offer away: its peer gets no new calls by it, and those that are open go on. A peer of this core stays
    /// known until it is lost: other cores may have calls open at it.
    fn withdraw(&mut self, at: u32) {
        self.arrange(at, true);
        let offer = self.offers.remove(at as usize);
        let server = &mut self.servers[offer.server as usize];
        server.offers.swap_remove(offer.at_server as usize);
        if let Some(&moved) = server.offers.get(offer.at_server as usize) {
            self.offers[moved as usize].at_server = offer.at_server;
        }
        for sub in offer.subs {
            self.by_name.remove(&(server.peer, sub));
        }
        let set = &mut self.sets[offer.set as usize];
        let member = set.members.swap_remove(offer.at_set as usize);
        if let Some(moved) = set.members.get(offer.at_set as usize) {
            self.offers[moved.offer as usize].at_set = offer.at_set;
        }
        set.weighs_less(member.weight);
        if let Some(ring) = &mut set.ring {
            ring::leave(ring, server.identity, at);
        }
        if set.members.is_empty() {
            let (fleet, pattern) = (set.fleet, set.pattern);
            self.fleets[fleet as usize].patterns.remove(pattern);
            self.remembered.clear();
            self.tell(offer.set);
            self.release_set(offer.set);
            self.release_fleet(fleet);
        } else {
            self.tell(offer.set);
        }
        self.release(offer.server);
    }

    /// Takes all offers of a peer away.
    pub(crate) fn withdraw_all(&mut self, peer: PeerId) {
        let Some(&server) = self.by_peer.get(&peer) else {
            return;
        };
        while let Some(&offer) = self
            .servers
            .get(server as usize)
            .and_then(|server| server.offers.last())
        {
            self.withdraw(offer);
        }
    }

    /// Takes all offers of a lost peer away. What was open at it; `None` if it never served.
    pub(crate) fn lose(&mut self, peer: PeerId) -> Option<Vec<u32>> {
        self.by_peer.get(&peer)?;
        self.withdraw_all(peer);
        // Without an offer and without anything open, a peer of another core is gone already.
        let Some(&server) = self.by_peer.get(&peer) else {
            return Some(Vec::new());
        };
        self.by_peer.remove(&peer);
        Some(self.servers.remove(server as usize).open)
    }
}

impl Index<u32> for Serving {
    type Output = Server;

    fn index(&self, server: u32) -> &Server {
        &self.servers[server as usize]
    }
}

impl IndexMut<u32> for Serving {
    fn index_mut(&mut self, server: u32) -> &mut Server {
        &mut self.servers[server as usize]
    }
}
