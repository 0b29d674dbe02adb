//! For tests: offers without a shard around them, and services that take time, on a virtual clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;

use super::{Ending, Serving, Verdict, Wanted};
use crate::ids::Ids;
use crate::offering::Offering;
use crate::peer::PeerId;
use crate::routes::{Balance, Routes, Rule, SHARE_ALL};

pub(crate) struct Lab {
    pub(crate) serving: Serving,
    pub(crate) now_us: u64,
    pub(crate) random: Ids,
    next_slot: u32,
    /// Of each open slot, its server and its place there.
    pub(crate) open: BTreeMap<u32, (u32, u32)>,
}

pub(crate) fn peer(core: u16, slot: u32) -> PeerId {
    PeerId {
        slot,
        generation: 0,
        core,
    }
}

pub(crate) fn terms(weight: u32) -> Offering {
    Offering {
        fleet: None,
        weight,
        in_flight_max: u32::MAX,
        zone: None,
        credit_bytes: 0,
        name: "echo".into(),
    }
}

/// A rule that takes all of everything into a fleet.
pub(crate) fn rule(fleet: Option<&str>) -> Rule {
    Rule {
        methods: ">".to_owned(),
        meta: Vec::new(),
        share: SHARE_ALL,
        fleet: fleet.map(str::to_owned),
        balance: Balance::Least,
        mirror: None,
        timeout_ms: None,
    }
}

/// All methods by one policy.
pub(crate) fn all_by(balance: Balance) -> Arc<Routes> {
    Arc::new(Routes {
        rules: vec![Rule {
            balance,
            ..rule(None)
        }],
        ..Routes::default()
    })
}

impl Lab {
    /// Core 0, of which the tests' peers are unless they say otherwise.
    pub(crate) fn new(seed: u64) -> Self {
        Self::of_core(0, seed)
    }

    pub(crate) fn of_core(core: u16, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self {
            serving: Serving::new(core, &hasher, seed, 64),
            now_us: 1_000_000,
            random: Ids::new(!seed),
            next_slot: 0,
            open: BTreeMap::new(),
        }
    }

    /// Offers `m` under the peer's one subscription; the server's number.
    pub(crate) fn serve(&mut self, peer: PeerId, offering: &Offering) -> u32 {
        self.serving.offer(peer, Id([1; 16]), "m", offering);
        self.serving.find(peer).unwrap()
    }

    /// So many equal ones of this core.
    pub(crate) fn serve_all(&mut self, peers: u32) -> Vec<u32> {
        (0..peers)
            .map(|slot| self.serve(peer(0, slot), &terms(1)))
            .collect()
    }

    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.serving.withdraw_named(peer, Id([1; 16]));
    }

    pub(crate) fn pick(&mut self, key: Option<&[u8]>) -> Verdict {
        let wanted = Wanted {
            method: "m",
            meta: None,
            key,
            avoid: None,
        };
        self.serving.pick(&wanted, self.now_us).verdict
    }

    /// Who got it, and the slot under which it is open there.
    pub(crate) fn call(&mut self, key: Option<&[u8]>) -> Option<(u32, u32)> {
        let Verdict::Server(server) = self.pick(key) else {
            return None;
        };
        self.next_slot += 1;
        let at_server = self.serving.opened(server, self.next_slot);
        self.open.insert(self.next_slot, (server, at_server));
        Some((server, self.next_slot))
    }

    pub(crate) fn end(&mut self, slot: u32, ending: Ending, elapsed_us: u64) {
        let (server, at_server) = self.open.remove(&slot).unwrap();
        let moved = self
            .serving
            .closed(server, at_server, ending, elapsed_us, self.now_us);
        if let Some(moved) = moved {
            self.open.get_mut(&moved).unwrap().1 = at_server;
        }
    }

    /// Who gets each of so many calls that are answered at once, in `elapsed_us`; 0: without saying so.
    pub(crate) fn shares(&mut self, calls: usize, elapsed_us: u64) -> BTreeMap<u32, usize> {
        let mut got = BTreeMap::new();
        for _ in 0..calls {
            let (server, slot) = self.call(None).unwrap();
            self.end(slot, Ending::Answered, elapsed_us);
            *got.entry(server).or_default() += 1;
        }
        got
    }

    /// Calls come at random, one in `every_us` on average, for so long. Each server takes as many at a time and as long
    /// for each as `speed` says. Who got how many, and how long the calls took, sorted.
    pub(crate) fn run(
        &mut self,
        every_us: u64,
        for_us: u64,
        speed: &dyn Fn(u32, u64) -> (usize, u64),
    ) -> (BTreeMap<u32, usize>, Vec<u64>) {
        let mut got = BTreeMap::new();
        let mut took = Vec::new();
        // When each place of each server is free again; and what ends when.
        let mut places: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let mut ends = BinaryHeap::new();
        let until_us = self.now_us + for_us;
        let mut next_us = self.now_us;
        while next_us < until_us {
            while let Some(&Reverse((end_us, slot, began_us))) = ends.peek()
                && end_us <= next_us
            {
                ends.pop();
                self.now_us = end_us;
                self.end(slot, Ending::Answered, end_us - began_us);
            }
            self.now_us = next_us;
            let (server, slot) = self.call(None).unwrap();
            *got.entry(server).or_default() += 1;
            let (at_a_time, each_us) = speed(server, self.now_us);
            let places = places.entry(server).or_insert_with(|| vec![0; at_a_time]);
            let free = places.iter_mut().min().unwrap();
            *free = (*free).max(self.now_us) + each_us;
            took.push(*free - self.now_us);
            ends.push(Reverse((*free, slot, self.now_us)));
            next_us += self.random.next() % (2 * every_us) + 1;
        }
        while let Some(Reverse((end_us, slot, began_us))) = ends.pop() {
            self.now_us = self.now_us.max(end_us);
            self.end(slot, Ending::Answered, end_us - began_us);
        }
        took.sort_unstable();
        (got, took)
    }
}

/// Whether a count is within so many percent of what was expected.
#[track_caller]
pub(crate) fn assert_near(count: usize, expected: usize, percent: usize) {
    let off = count.abs_diff(expected) * 100;
    assert!(
        off <= expected * percent,
        "{count} instead of {expected} ± {percent} %"
    );
}
