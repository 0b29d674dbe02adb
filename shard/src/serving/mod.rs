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
//! What is known of a peer is told by others: its offers and its [`Standing`] by its home core, what is open at it and
//! how its answers were by the exchanges of this core ([`Serving::opened`], [`Serving::closed`]).

mod budget;
mod health;
mod latency;
mod pick;
mod ring;
mod routing;
mod rows;
pub(crate) mod set;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;
use slab::Slab;

use crate::ids::Ids;
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;
use crate::routes::Routes;
use crate::topics::cache::NameCache;
use crate::topics::table::PatternTable;
use health::{Health, is_fault_of_server};
use latency::Latency;
use routing::{Known, Routing, Ruled};
use set::{Member, Set, SetId};

pub(crate) use pick::{Picked, Verdict, Wanted};
pub use rows::ServiceRow;

/// The fleet without a name: always there.
const UNNAMED: u32 = 0;

/// How an exchange ended, as far as it says something about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By an answer, or a stream by its end.
    Answered,
    /// By an error that the server sent.
    Failed(Code),
    /// Nobody waits for it any more.
    Cancelled,
    /// Its time was over.
    Overdue,
    /// Its asker or its server is gone.
    Lost,
}

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

/// A peer that serves, did so, or still has something open.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    offers: Vec<u32>,
    /// Exchanges of this core's connections that are open at it.
    pub(crate) open: Vec<u32>,
    /// How many it takes at a time, from all cores.
    pub(crate) in_flight_max: u32,
    /// Bytes that a stream may send to it at first.
    pub(crate) credit_bytes: u32,
    pub(crate) standing: Standing,
    latency: Latency,
    health: Health,
    /// It is in this gateway's zone.
    is_near: bool,
    /// Other cores know it.
    is_announced: bool,
    /// The same on all cores and for all connections of one endpoint: where its keys are.
    identity: u64,
    zone: Option<Arc<str>>,
    name: Arc<str>,
    answered: u64,
    failed: u64,
}

impl Server {
    /// Whether it offers something or has something open.
    pub(crate) fn is_busy(&self) -> bool {
        !self.offers.is_empty() || !self.open.is_empty()
    }

    /// Whether this core may give it one more.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        (self.open.len() as u64) < u64::from(self.in_flight_max)
    }
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

    /// The number of a peer that serves, did so, or has something open.
    pub(crate) fn find(&self, peer: PeerId) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// Whether other cores know a peer as serving.
    pub(crate) fn is_announced(&self, server: u32) -> bool {
        self.servers[server as usize].is_announced
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

    /// A server's number, its terms as they are now.
    fn server(&mut self, peer: PeerId, offering: &Offering, is_announced: bool) -> u32 {
        // A dialled endpoint is another connection on each core, and again after it was lost: its name stays.
        let identity = if is_announced {
            FixedState::with_seed(IDENTITY).hash_one(peer)
        } else {
            FixedState::with_seed(IDENTITY).hash_one(&*offering.name)
        };
        let servers = &mut self.servers;
        let at = *self.by_peer.entry(peer).or_insert_with(|| {
            servers.insert(Server {
                peer,
                offers: Vec::new(),
                open: Vec::new(),
                in_flight_max: u32::MAX,
                credit_bytes: 0,
                standing: Standing::default(),
                latency: Latency::default(),
                health: Health::default(),
                is_near: false,
                is_announced,
                identity,
                zone: None,
                name: offering.name.clone(),
                answered: 0,
                failed: 0,
            }) as u32
        });
        let server = &mut self.servers[at as usize];
        server.in_flight_max = offering.in_flight_max.max(1);
        server.credit_bytes = offering.credit_bytes;
        server.name = offering.name.clone();
        server.is_announced |= is_announced;
        server.zone.clone_from(&offering.zone);
        self.locate(at);
        at
    }

    /// Sees again whether a server is in this gateway's zone.
    fn locate(&mut self, at: u32) {
        let server = &mut self.servers[at as usize];
        let zone = self.routing.routes.zone.as_deref();
        let is_near = zone.is_some() && server.zone.as_deref() == zone;
        if std::mem::replace(&mut server.is_near, is_near) == is_near {
            return;
        }
        for &offer in &server.offers {
            let set = &mut self.sets[self.offers[offer as usize].set as usize];
            set.near = if is_near { set.near + 1 } else { set.near - 1 };
            set.table.is_stale = true;
        }
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
            owed: 0,
        });
        of_set.weighs_more(weight);
        of_set.near += usize::from(of_server.is_near);
        of_set.table.is_stale = true;
        if let Some(ring) = &mut of_set.ring {
            ring::enter(ring, of_server.identity, offer);
        }
        if of_server.standing.is_fit() {
            self.set_fit(offer, true);
        }
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
        self.set_fit(at, false);
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
        set.near -= usize::from(server.is_near);
        set.table.is_stale = true;
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

    /// Lets a set go in which nobody is, and for which no call waits.
    fn release_set(&mut self, at: u32) {
        let set = &self.sets[at as usize];
        if set.members.is_empty() && !set.has_waiting && !set.is_told {
            self.sets.remove(at as usize);
        }
    }

    /// Puts an offer among the fit ones of its set, or out of them.
    fn set_fit(&mut self, offer: u32, is_fit: bool) {
        let Offer { set, at_set, .. } = self.offers[offer as usize];
        let set = &mut self.sets[set as usize];
        let at = at_set as usize;
        if (at < set.fit) == is_fit {
            return;
        }
        let to = if is_fit { set.fit } else { set.fit - 1 };
        set.fit = if is_fit { set.fit + 1 } else { to };
        set.members.swap(at, to);
        set.table.is_stale = true;
        for at in [at, to] {
            self.offers[set.members[at].offer as usize].at_set = at as u32;
        }
    }

    /// How fit a peer is; whether that is news of a peer that is known.
    pub(crate) fn set_standing(&mut self, peer: PeerId, standing: Standing) -> bool {
        let Some(at) = self.find(peer) else {
            return false;
        };
        let server = &mut self.servers[at as usize];
        let before = std::mem::replace(&mut server.standing, standing);
        if before == standing {
            return false;
        }
        if before.silent && !standing.silent {
            server
                .health
                .come_back(&self.routing.routes.ejection, self.now_us);
        }
        for nth in 0..self.servers[at as usize].offers.len() {
            let offer = self.servers[at as usize].offers[nth];
            self.set_fit(offer, standing.is_fit());
            self.tell(self.offers[offer as usize].set);
        }
        true
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

    /// Something was given to a server: its place among what is open there.
    pub(crate) fn opened(&mut self, server: u32, slot: u32) -> u32 {
        let open = &mut self.servers[server as usize].open;
        open.push(slot);
        open.len() as u32 - 1
    }

    /// It ended after `elapsed_us`, 0 if that says nothing (a stream's life does not). The slot that has its place now.
    pub(crate) fn closed(
        &mut self,
        server: u32,
        at_server: u32,
        ending: Ending,
        elapsed_us: u64,
        now_us: u64,
    ) -> Option<u32> {
        self.handle_time(now_us);
        let of_server = &mut self.servers[server as usize];
        let was_full = !of_server.has_room();
        of_server.open.swap_remove(at_server as usize);
        let moved = of_server.open.get(at_server as usize).copied();
        let is_failure = match ending {
            Ending::Answered => {
                of_server.answered += 1;
                false
            }
            Ending::Failed(code) => {
                of_server.failed += 1;
                is_fault_of_server(code)
            }
            Ending::Overdue => {
                of_server.failed += 1;
                true
            }
            Ending::Cancelled | Ending::Lost => false,
        };
        let is_answer = matches!(ending, Ending::Answered | Ending::Failed(_)) && !is_failure;
        if elapsed_us > 0 {
            if is_answer {
                of_server.latency.heard(elapsed_us, now_us);
            } else if ending != Ending::Lost {
                // A quick failure is not a quick answer.
                of_server.latency.waited(elapsed_us, now_us);
            }
        }
        if is_answer {
            of_server.health.succeeded();
        } else if is_failure && of_server.health.failed(&self.routing.routes.ejection, now_us) {
            for &offer in &of_server.offers {
                self.sets[self.offers[offer as usize].set as usize].table.is_stale = true;
            }
        }
        if self.waiting > 0 && was_full {
            for nth in 0..self.servers[server as usize].offers.len() {
                let offer = self.servers[server as usize].offers[nth];
                self.tell(self.offers[offer as usize].set);
            }
        }
        self.release(server);
        moved
    }

    /// Whether calls wait for room in a set: [`Serving::pop_moved`] names it when there may be some.
    pub(crate) fn set_waiting(&mut self, id: SetId, has_waiting: bool) {
        let Some(set) = self
            .sets
            .get_mut(id.at as usize)
            .filter(|set| set.serial == id.serial)
        else {
            return;
        };
        match (std::mem::replace(&mut set.has_waiting, has_waiting), has_waiting) {
            (false, true) => self.waiting += 1,
            (true, false) => self.waiting -= 1,
            _ => {}
        }
        self.release_set(id.at);
    }

    /// The next set with waiting calls in which something changed: room, somebody new, or nobody left.
    pub(crate) fn pop_moved(&mut self) -> Option<SetId> {
        let at = self.moved.pop_front()?;
        let set = &mut self.sets[at as usize];
        set.is_told = false;
        let serial = set.serial;
        self.release_set(at);
        Some(SetId { at, serial })
    }

    fn tell(&mut self, at: u32) {
        let set = &mut self.sets[at as usize];
        if set.has_waiting && !set.is_told {
            set.is_told = true;
            self.moved.push_back(at);
        }
    }

    /// Other rules from now on. What is open, and what waits, stays where it is.
    pub(crate) fn set_routes(&mut self, routes: Arc<Routes>) {
        let old = std::mem::take(&mut self.routing.fleets);
        for (_, fleet) in &mut self.fleets {
            fleet.is_ruled = fleet.name.is_none();
        }
        let mut fleets = Vec::with_capacity(routes.rules.len());
        for rule in &routes.rules {
            let mut ruled = |name: &str| {
                let fleet = self.fleet(Some(&name.into()));
                self.fleets[fleet as usize].is_ruled = true;
                fleet
            };
            let fleet = rule.fleet.as_deref().map_or(UNNAMED, &mut ruled);
            let mirror = rule.mirror.as_ref().map(|mirror| ruled(&mirror.fleet));
            fleets.push((fleet, mirror));
        }
        self.routing = Routing::new(routes, fleets);
        for at in old
            .into_iter()
            .flat_map(|(fleet, mirror)| [Some(fleet), mirror])
            .flatten()
        {
            if self.fleets.contains(at as usize) {
                self.release_fleet(at);
            }
        }
        self.remembered.clear();
        for (_, set) in &mut self.sets {
            set.table.is_stale = true; // who may be left out, and for how long, may have changed
        }
        let servers: Vec<u32> = self.servers.iter().map(|(at, _)| at as u32).collect();
        for at in servers {
            self.locate(at);
        }
    }

    /// Finds out what a method's calls may come to, and remembers it.
    fn learn(&mut self, hash: u64, method: &str) -> Option<usize> {
        let set_in = |fleet: u32| {
            let patterns = &self.fleets[fleet as usize].patterns;
            patterns.best_match(method).and_then(|pattern| patterns[pattern])
        };
        let ruled = |(rule, (fleet, mirror)): (u32, (u32, Option<u32>))| Ruled {
            rule,
            set: set_in(fleet),
            mirror: mirror.and_then(set_in),
        };
        let known = Known {
            set: set_in(UNNAMED),
            ruled: self.routing.of_method(method).map(ruled).collect(),
        };
        if known.set.is_none() && known.ruled.is_empty() {
            return None; // names that nobody serves are not worth remembering
        }
        Some(self.remembered.insert(hash, method, known))
    }

    /// Lets a server go that neither offers anything nor has anything open.
    pub(crate) fn release(&mut self, at: u32) {
        let server = &self.servers[at as usize];
        if server.peer.core != self.core && server.offers.is_empty() && server.open.is_empty() {
            self.by_peer.remove(&server.peer);
            self.servers.remove(at as usize);
        }
    }
}

/// Seeds what is the same on all cores.
const IDENTITY: u64 = 0x91c8_5f20_33d6_7ab1;

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
