//! Who serves what, over all cores, and which of them gets the next call.
//!
//! Every core knows every offer. Among the offers of the most specific pattern that matches the method (token by
//! token: literal before `*` before `>`), a call goes to the peer with the fewest calls in flight from this core,
//! divided by its weight. Of equal ones, a connection of this core is preferred, and the rest take turns.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use fluxar_protocol::Id;
use foldhash::fast::FixedState;
use slab::Slab;

use crate::limits::PICK_SCAN_MAX;
use crate::peer::PeerId;
use crate::topics::cache::NameCache;
use crate::topics::table::PatternTable;

/// The offers for one pattern.
#[derive(Debug, Default)]
struct Offers {
    offers: Vec<u32>,
    /// With which of them the next comparison begins.
    turn: u32,
}

#[derive(Debug)]
struct Offer {
    server: u32,
    sub: Id,
    pattern: u32,
    weight: u32,
    /// Its place among its pattern's.
    at_pattern: u32,
    /// Its place among its server's.
    at_server: u32,
}

/// A peer that serves, did so, or still has calls open.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    offers: Vec<u32>,
    /// Calls of this core's connections that are open at it.
    pub(crate) open: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Serving {
    core: u16,
    patterns: PatternTable<Offers>,
    remembered: NameCache<u32>,
    offers: Slab<Offer>,
    by_name: HashMap<(PeerId, Id), u32, FixedState>,
    servers: Slab<Server>,
    by_peer: HashMap<PeerId, u32, FixedState>,
}

impl Serving {
    pub(crate) fn new(core: u16, hasher: &FixedState, names_remembered: usize) -> Self {
        Self {
            core,
            patterns: PatternTable::new(hasher),
            remembered: NameCache::new(names_remembered),
            offers: Slab::new(),
            by_name: HashMap::with_hasher(hasher.clone()),
            servers: Slab::new(),
            by_peer: HashMap::with_hasher(hasher.clone()),
        }
    }

    pub(crate) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Adds an offer: its pattern's and its own number.
    pub(crate) fn offer(&mut self, peer: PeerId, sub: Id, pattern: &str, weight: u32) -> (u32, u32) {
        let server = *self.by_peer.entry(peer).or_insert_with(|| {
            self.servers.insert(Server {
                peer,
                offers: Vec::new(),
                open: Vec::new(),
            }) as u32
        });
        let pattern = self.patterns.entry(pattern);
        let of_pattern = &mut self.patterns[pattern].offers;
        if of_pattern.is_empty() {
            self.remembered.clear(); // it may be more specific than what was found before
        }
        let of_server = &mut self.servers[server as usize].offers;
        let offer = self.offers.insert(Offer {
            server,
            sub,
            pattern,
            weight,
            at_pattern: of_pattern.len() as u32,
            at_server: of_server.len() as u32,
        }) as u32;
        of_pattern.push(offer);
        of_server.push(offer);
        self.by_name.insert((peer, sub), offer);
        (pattern, offer)
    }

    /// The text of a pattern that is offered.
    pub(crate) fn text(&self, pattern: u32) -> std::sync::Arc<str> {
        self.patterns.text(pattern).clone()
    }

    /// Takes an offer of another core's peer away.
    pub(crate) fn withdraw_named(&mut self, peer: PeerId, sub: Id) {
        if let Some(&offer) = self.by_name.get(&(peer, sub)) {
            self.withdraw(offer);
        }
    }

    /// Takes an offer away. A peer of this core stays known until it is lost: other cores may have calls open at it.
    pub(crate) fn withdraw(&mut self, at: u32) {
        let offer = self.offers.remove(at as usize);
        let of_pattern = &mut self.patterns[offer.pattern].offers;
        of_pattern.swap_remove(offer.at_pattern as usize);
        if let Some(&moved) = of_pattern.get(offer.at_pattern as usize) {
            self.offers[moved as usize].at_pattern = offer.at_pattern;
        }
        if of_pattern.is_empty() {
            self.patterns.remove(offer.pattern);
            self.remembered.clear();
        }
        let server = &mut self.servers[offer.server as usize];
        server.offers.swap_remove(offer.at_server as usize);
        if let Some(&moved) = server.offers.get(offer.at_server as usize) {
            self.offers[moved as usize].at_server = offer.at_server;
        }
        self.by_name.remove(&(server.peer, offer.sub));
        self.release(offer.server);
    }

    /// Takes all offers of a lost peer away. The calls that were open at it; `None` if it never served.
    pub(crate) fn lose(&mut self, peer: PeerId) -> Option<Vec<u32>> {
        let &server = self.by_peer.get(&peer)?;
        while let Some(&offer) = self
            .servers
            .get(server as usize)
            .and_then(|server| server.offers.last())
        {
            self.withdraw(offer);
        }
        // Without an offer and without a call, a peer of another core is gone already.
        let Some(&server) = self.by_peer.get(&peer) else {
            return Some(Vec::new());
        };
        self.by_peer.remove(&peer);
        Some(self.servers.remove(server as usize).open)
    }

    /// Who gets the next call of a method.
    pub(crate) fn pick(&mut self, method: &str) -> Option<u32> {
        let hash = self.patterns.hash(method);
        let pattern = match self.remembered.find(hash, method) {
            Some(at) => *self.remembered.at(at)?,
            None => {
                let pattern = self.patterns.best_match(method)?;
                self.remembered.insert(hash, method, pattern);
                pattern
            }
        };
        let Offers { offers, turn } = &mut self.patterns[pattern];
        let first = *turn as usize % offers.len().max(1);
        *turn = first as u32 + 1;
        let (before, from_first) = offers.split_at(first);
        let mut best: Option<(&Offer, &Server)> = None;
        for &at in from_first.iter().chain(before).take(PICK_SCAN_MAX) {
            let offer = &self.offers[at as usize];
            let server = &self.servers[offer.server as usize];
            let is_better = best.is_none_or(|(best_offer, best_server)| {
                let load = server.open.len() as u64 * u64::from(best_offer.weight);
                let best_load = best_server.open.len() as u64 * u64::from(offer.weight);
                let (is_here, best_is_here) =
                    (server.peer.core == self.core, best_server.peer.core == self.core);
                load < best_load || (load == best_load && is_here && !best_is_here)
            });
            if is_better {
                best = Some((offer, server));
            }
        }
        best.map(|(offer, _)| offer.server)
    }

    /// Lets a server go that neither offers anything nor has a call open.
    pub(crate) fn release(&mut self, at: u32) {
        let server = &self.servers[at as usize];
        if server.peer.core != self.core && server.offers.is_empty() && server.open.is_empty() {
            self.by_peer.remove(&server.peer);
            self.servers.remove(at as usize);
        }
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
