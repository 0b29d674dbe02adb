//! [`crate::routes::Balance::Key`]: equal keys go to the same peer, whichever core asks, as long as it is ready and has
//! not more to do than a quarter above its part. A peer that leaves moves only its own keys, and one that comes takes
//! only what will be its own.
//!
//! What a peer is known by is the same on all cores: its id, or the endpoint that each core dialled for itself.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::health::WHOLE;
use super::pick::{View, below};
use super::server::IDENTITY;
use super::set::Set;
use super::{Offer, ring};
use crate::limits::PICK_SCAN_MAX;

impl View<'_> {
    /// The peer that a key is drawn to most (rendezvous hashing), unless it has more to do than it should.
    pub(super) fn by_key(&mut self, set: &Set, key: &[u8]) -> Option<u32> {
        let key = FixedState::with_seed(IDENTITY).hash_one(key);
        let table = &set.table;
        let near = (table.near > 0)
            .then(|| self.by_key_between(set, 0, table.near, key))
            .flatten();
        near.or_else(|| self.by_key_between(set, table.near, table.ready.len(), key))
    }

    fn by_key_between(&mut self, set: &Set, from: usize, to: usize, key: u64) -> Option<u32> {
        let ready = &set.table.ready[from..to];
        let mut scores = [0.0_f64; PICK_SCAN_MAX];
        let scores = &mut scores[..ready.len()];
        let mut best = 0;
        for place in 0..ready.len() {
            let member = &set.members[ready[place] as usize];
            scores[place] = score_of(
                ring::affinity(key, member.identity),
                member.weight,
                set.table.is_even,
            );
            if self.is_drawn_to(set, ready, scores, place, best) {
                best = place;
            }
        }
        let server = set.members[*ready.get(best)? as usize].server;
        let of_server = &self.servers[server as usize];
        if of_server.open.is_empty() && self.takes(server) && of_server.health.share(self.now_us) >= WHOLE {
            return Some(server);
        }
        // What each may have depends on what all have.
        let (mut open, mut weights) = (1, 0);
        for &at in ready {
            let member = &set.members[at as usize];
            if self.takes(member.server) {
                open += self.servers[member.server as usize].open.len() as u64;
                weights += u64::from(member.weight);
            }
        }
        let mut best = None;
        for place in 0..ready.len() {
            let member = &set.members[ready[place] as usize];
            let of_server = &self.servers[member.server as usize];
            if !self.takes(member.server)
                || of_server.open.len() as u64 >= most_open(open, member.weight, weights)
            {
                continue;
            }
            let affinity = ring::affinity(key, member.identity);
            if !ring::is_back(affinity, of_server.health.share(self.now_us)) {
                scores[place] *= 1e-200; // only if there is nobody else
            }
            if best.is_none_or(|best| self.is_drawn_to(set, ready, scores, place, best)) {
                best = Some(place);
            }
        }
        best.map(|place| set.members[ready[place] as usize].server)
    }

    /// Whether a key is drawn to one place more than to another. Connections of one endpoint draw it equally: then the
    /// one with less to do.
    #[inline]
    fn is_drawn_to(&self, set: &Set, ready: &[u32], scores: &[f64], place: usize, other: usize) -> bool {
        if scores[place] != scores[other] {
            return scores[place] > scores[other];
        }
        let open = |place: usize| {
            let member = &set.members[ready[place] as usize];
            self.servers[member.server as usize].open.len()
        };
        open(place) < open(other)
    }

    /// The next peer from a key's place on, unless it has more to do than it should.
    pub(super) fn by_key_of_many(&mut self, set: &mut Set, key: &[u8]) -> Option<u32> {
        let key = FixedState::with_seed(IDENTITY).hash_one(key);
        let ring = set.ring.get_or_insert_with(|| {
            let mut all = std::collections::BTreeSet::new();
            for member in &set.members {
                ring::enter(
                    &mut all,
                    self.servers[member.server as usize].identity,
                    member.offer,
                );
            }
            all
        });
        // The average is estimated, when it matters: to add up a large set would cost what it is large.
        let mut sampled = None;
        let random = &mut *self.random;
        let mut sample = || {
            let (mut open, mut weights) = (1, 0);
            for _ in 0..PICK_SCAN_MAX / 2 {
                let member = &set.members[below(random.next() as u32, set.fit as u64) as usize];
                open += self.servers[member.server as usize].open.len() as u64;
                weights += u64::from(member.weight);
            }
            (open, weights)
        };
        for offer in ring::from(ring, key).take(PICK_SCAN_MAX) {
            let Offer { server, at_set, .. } = self.offers[offer as usize];
            let of_server = &self.servers[server as usize];
            if at_set as usize >= set.fit || !of_server.has_room() || self.avoid == Some(server) {
                continue;
            }
            let member = &set.members[at_set as usize];
            let is_back = ring::is_back(
                ring::affinity(key, of_server.identity),
                of_server.health.share(self.now_us),
            );
            if of_server.health.is_ejected(self.now_us)
                || !is_back
                || (set.near > 0 && at_set as usize >= set.near)
            {
                continue;
            }
            if !of_server.open.is_empty() {
                let (open, weights) = *sampled.get_or_insert_with(&mut sample);
                if of_server.open.len() as u64 >= most_open(open, member.weight, weights) {
                    continue;
                }
            }
            return Some(server);
        }
        // The neighbourhood of a loved key is full.
        self.least_of_many(set)
    }
}

/// What a peer may have open at most to get one more by its key: a quarter above its part of all that is open, this one
/// included.
#[inline]
fn most_open(open: u64, weight: u32, weights: u64) -> u64 {
    (open * u64::from(weight) * 5).div_ceil(weights.max(1) * 4)
}

/// How much a key is drawn to a peer of that weight; always above 0. With equal weights the hash says it.
#[inline]
fn score_of(affinity: u64, weight: u32, is_even: bool) -> f64 {
    let uniform = ((affinity >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    if is_even {
        uniform
    } else {
        // The largest of weighted exponential draws wins in proportion to the weights.
        f64::from(weight) / -uniform.ln().min(-1e-12)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::limits::PICK_SCAN_MAX;
    use crate::peer::PeerId;
    use crate::routes::Balance;
    use crate::serving::lab::{Lab, all_by, assert_near, peer, terms};
    use crate::serving::{Ending, Verdict};

    fn lab(seed: u64) -> Lab {
        let mut lab = Lab::new(seed);
        lab.serving.set_routes(all_by(Balance::Key));
        lab
    }

    /// Where each of so many keys leads while nothing is in flight.
    fn map(lab: &mut Lab, keys: u32) -> Vec<PeerId> {
        (0..keys)
            .map(|key| match lab.pick(Some(&key.to_be_bytes())) {
                Verdict::Server(server) => lab.serving[server].peer,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_peer_that_leaves_or_comes_moves_only_its_own_keys() {
        for peers in [2, 10, PICK_SCAN_MAX as u32, 150] {
            let mut lab = lab(1);
            lab.serve_all(peers);
            let before = map(&mut lab, 2_000);
            assert_eq!(before, map(&mut lab, 2_000));
            for gone in [0, peers / 2, peers - 1] {
                // From 65 on it is another way of spreading keys, so 64 is not reached from above here.
                lab.leave(peer(0, gone));
                let without = map(&mut lab, 2_000);
                for (now, then) in without.iter().zip(&before) {
                    assert!(now == then || *then == peer(0, gone));
                    assert_ne!(*now, peer(0, gone));
                }
                lab.serve(peer(0, gone), &terms(1));
                assert_eq!(
                    map(&mut lab, 2_000),
                    before,
                    "it takes back what was its own, and no more"
                );
            }
        }
    }

    #[test]
    fn all_cores_agree_and_reconnected_endpoints_keep_their_keys() {
        for peers in [7, 90] {
            let maps = [(0, 11), (1, 12), (2, 13)].map(|(core, seed)| {
                let mut lab = Lab::of_core(core, seed);
                lab.serving.set_routes(all_by(Balance::Key));
                let mut order: Vec<u32> = (0..peers).collect();
                if core == 1 {
                    order.reverse();
                }
                for slot in order {
                    lab.serve(peer(slot as u16 % 3, slot), &terms(1));
                }
                map(&mut lab, 500)
            });
            assert!(maps[0] == maps[1] && maps[1] == maps[2]);
        }
        let endpoints = |core: u16, generation| {
            let mut lab = Lab::of_core(core, u64::from(core));
            lab.serving.set_routes(all_by(Balance::Key));
            let mut names = BTreeMap::new();
            for slot in 0..5_u32 {
                let peer = PeerId {
                    slot: slot * 7 % 5,
                    generation,
                    core,
                };
                let mut offering = terms(1);
                offering.name = format!("tcp://10.0.0.{slot}:1").into();
                lab.serving.attach(peer, &["m".into()], &offering);
                names.insert(peer, slot);
            }
            map(&mut lab, 500)
                .into_iter()
                .map(|peer| names[&peer])
                .collect::<Vec<_>>()
        };
        assert_eq!(endpoints(0, 0), endpoints(1, 4));
    }

    #[test]
    fn keys_spread_by_weight() {
        let mut lab = lab(2);
        for (slot, weight) in [(0, 1), (1, 2), (2, 5)] {
            lab.serve(peer(0, slot), &terms(weight));
        }
        let map = map(&mut lab, 16_000);
        for (slot, eighths) in [(0, 1), (1, 2), (2, 5)] {
            let keys = map.iter().filter(|at| **at == peer(0, slot)).count();
            assert_near(keys, 2_000 * eighths, 10);
        }
    }

    #[test]
    fn a_loved_key_spills_over_at_a_quarter_above_the_average() {
        let mut lab = lab(3);
        let servers = lab.serve_all(8);
        for calls in 1..=400_usize {
            // Nine of ten calls are for one key.
            let key = if calls % 10 == 0 { calls as u32 } else { 0 };
            lab.call(Some(&key.to_be_bytes())).unwrap();
            let most = (calls * 5).div_ceil(8 * 4);
            for server in &servers {
                let open = lab.serving[*server].open.len();
                assert!(open <= most, "{open} of {calls}, at most {most}");
            }
        }
        let slots: Vec<_> = lab.open.keys().copied().collect();
        for slot in slots {
            lab.end(slot, Ending::Answered, 0);
        }
        let home = lab.pick(Some(&0_u32.to_be_bytes()));
        assert_eq!(
            home,
            lab.pick(Some(&0_u32.to_be_bytes())),
            "and goes home when that has room again"
        );
    }

    #[test]
    fn many_peers_bound_the_load_by_a_sample() {
        let mut lab = lab(4);
        let servers = lab.serve_all(200);
        for nth in 0..4_000_u32 {
            let key = if nth % 2 == 0 { 0 } else { nth };
            lab.call(Some(&key.to_be_bytes())).unwrap();
        }
        let most = servers
            .iter()
            .map(|&server| lab.serving[server].open.len())
            .max()
            .unwrap();
        assert!(most <= 40, "{most} where 20 are the average");
    }

    #[test]
    fn without_a_key_it_is_the_least() {
        let mut lab = lab(5);
        let servers = lab.serve_all(3);
        let got = lab.shares(3_000, 0);
        for server in &servers {
            assert_near(got[server], 1_000, 15);
        }
    }
}
