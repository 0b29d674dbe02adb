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
mod pick;
mod ring;
mod routing;
mod rows;
mod server;
pub(crate) mod set;
mod table;
mod turns;

use std::collections::{HashMap, VecDeque};
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
    /// By which it was made; none for a connection that this core dialled.
    sub: Option<Id>,
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
    by_name: HashMap<(PeerId, Id), u32, FixedState>,
    servers: Slab<Server>,
    by_peer: HashMap<PeerId, u32, FixedState>,
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
    }

    /// Adds an offer under the fleet that it names: its own number. Its server's terms are the last offer's.
    pub(crate) fn offer(&mut self, peer: PeerId, sub: Id, pattern: &str, offering: &Offering) -> u32 {
        let server = self.server(peer, offering, true);
        let offer = self.join(
            server,
            Some(sub),
            offering.fleet.as_ref(),
            pattern,
            offering.weight(),
        );
        self.by_name.insert((peer, sub), offer);
        offer
    }

    /// A connection that this core dialled: all methods in its fleet, and these outside of any. Terms that change leave
    /// what is open at it alone.
    pub(crate) fn attach(&mut self, peer: PeerId, patterns: &[Arc<str>], offering: &Offering) {
        let server = self.server(peer, offering, false);
        let old = self.attached(server);
        if let Some(fleet) = &offering.fleet {
            self.join(server, None, Some(fleet), ">", offering.weight());
        }
        for pattern in patterns {
            self.join(server, None, None, pattern, offering.weight());
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
            .filter(|&offer| self.offers[offer as usize].sub.is_none())
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

    fn join(
        &mut self,
        server: u32,
        sub: Option<Id>,
        fleet: Option<&Arc<str>>,
        pattern: &str,
        weight: u32,
    ) -> u32 {
        let fleet = self.fleet(fleet);
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
            sub,
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

    /// Takes an offer of another core's peer away.
    pub(crate) fn withdraw_named(&mut self, peer: PeerId, sub: Id) {
        if let Some(&offer) = self.by_name.get(&(peer, sub)) {
            self.withdraw(offer);
        }
    }

    /// Takes an offer away: its peer gets no new calls by it, and those that are open go on. A peer of this core stays
    /// known until it is lost: other cores may have calls open at it.
    pub(crate) fn withdraw(&mut self, at: u32) {
        self.arrange(at, true);
        let offer = self.offers.remove(at as usize);
        let server = &mut self.servers[offer.server as usize];
        server.offers.swap_remove(offer.at_server as usize);
        if let Some(&moved) = server.offers.get(offer.at_server as usize) {
            self.offers[moved as usize].at_server = offer.at_server;
        }
        if let Some(sub) = offer.sub {
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

    /// Takes all offers of a lost peer away. What was open at it; `None` if it never served.
    pub(crate) fn lose(&mut self, peer: PeerId) -> Option<Vec<u32>> {
        let &server = self.by_peer.get(&peer)?;
        while let Some(&offer) = self
            .servers
            .get(server as usize)
            .and_then(|server| server.offers.last())
        {
            self.withdraw(offer);
        }
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
