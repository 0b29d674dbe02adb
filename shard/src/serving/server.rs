//! A serving peer as this core knows it: its terms and its standing as it and its home core say, and how its answers to
//! this core were.

use std::hash::BuildHasher;
use std::sync::Arc;

use fluxar_protocol::Code;
use foldhash::fast::FixedState;

use super::Serving;
use super::health::{Health, is_fault_of_server};
use super::latency::Latency;
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;

/// Seeds what is the same on all cores.
pub(super) const IDENTITY: u64 = 0x91c8_5f20_33d6_7ab1;

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

/// A peer that serves, did so, or still has something open.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    /// Their numbers.
    pub(super) offers: Vec<u32>,
    /// Exchanges of this core's connections that are open at it.
    pub(crate) open: Vec<u32>,
    /// How many it takes at a time, from all cores.
    pub(crate) in_flight_max: u32,
    /// Bytes that a stream may send to it at first.
    pub(crate) credit_bytes: u32,
    pub(crate) standing: Standing,
    pub(super) latency: Latency,
    pub(super) health: Health,
    /// It is in this gateway's zone.
    pub(super) is_near: bool,
    /// Other cores know it.
    pub(super) is_announced: bool,
    /// The same on all cores and for all connections of one endpoint: where its keys are.
    pub(super) identity: u64,
    pub(super) zone: Option<Arc<str>>,
    pub(super) name: Arc<str>,
    pub(super) answered: u64,
    pub(super) failed: u64,
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

impl Serving {
    /// The number of a peer that serves, did so, or has something open.
    pub(crate) fn find(&self, peer: PeerId) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// Whether other cores know a peer as serving.
    pub(crate) fn is_announced(&self, server: u32) -> bool {
        self.servers[server as usize].is_announced
    }

    /// A server's number, its terms as they are now.
    pub(super) fn server(&mut self, peer: PeerId, offering: &Offering, is_announced: bool) -> u32 {
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
    pub(super) fn locate(&mut self, at: u32) {
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

    /// Lets a server go that neither offers anything nor has anything open.
    pub(crate) fn release(&mut self, at: u32) {
        let server = &self.servers[at as usize];
        if server.peer.core != self.core && server.offers.is_empty() && server.open.is_empty() {
            self.by_peer.remove(&server.peer);
            self.servers.remove(at as usize);
        }
    }
}
