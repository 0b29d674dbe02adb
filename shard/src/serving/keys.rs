//! [`crate::routes::Balance::Key`]: equal keys go to the same peer, whichever core asks, as long as it is ready and has
//! not more to do than a quarter above its part. A peer that leaves moves only its own keys, and one that comes takes
//! only what will be its own.
//!
//! What a peer is known by is the same on all cores: its id, or the endpoint that each core dialled for itself.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

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
        let mut scores = [0.0_f64; PICK_SCAN_MAX];
        let (mut open, mut weights) = (1_u64, 0_u64);
        let ready = &set.table.ready[from..to];
        for (score, &at) in scores.iter_mut().zip(ready) {
            let member = &set.members[at as usize];
            let server = &self.servers[member.server as usize];
            if !self.takes(member.server) {
                continue;
            }
            open += server.open.len() as u64;
            weights += u64::from(member.weight);
            let affinity = ring::affinity(key, server.identity);
            let share = server.health.share(self.now_us);
            let is_back = ring::is_back(affinity, share);
            *score = score_of(affinity, member.weight, set.table.is_even) * if is_back { 1.0 } else { 1e-9 };
        }
        loop {
            let scored = scores.iter().zip(ready).filter(|(score, _)| **score > 0.0);
            let (&best, _) = scored
                .max_by(|(one, at_one), (two, at_two)| {
                    // Connections of one endpoint are drawn to equally: the one with less to do.
                    let open = |at: u32| self.servers[set.members[at as usize].server as usize].open.len();
                    one.total_cmp(two)
                        .then_with(|| open(**at_two).cmp(&open(**at_one)))
                })
                .map(|(score, at)| (at, score))?;
            let member = &set.members[best as usize];
            let loaded = self.servers[member.server as usize].open.len() as u64;
            if loaded < most_open(open, member.weight, weights) {
                return Some(member.server);
            }
            let place = ready.iter().position(|&at| at == best)?;
            scores[place] = 0.0;
        }
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
        // The average is estimated: to add up a large set would cost what it is large.
        let (mut open, mut weights) = (1_u64, 0_u64);
        for _ in 0..PICK_SCAN_MAX / 2 {
            let member = &set.members[below(self.random.next() as u32, set.fit as u64) as usize];
            open += self.servers[member.server as usize].open.len() as u64;
            weights += u64::from(member.weight);
        }
        let mut other = None;
        for offer in ring::from(ring, key).take(PICK_SCAN_MAX) {
            let Offer { server, at_set, .. } = self.offers[offer as usize];
            let of_server = &self.servers[server as usize];
            if at_set as usize >= set.fit || !self.takes(server) {
                continue;
            }
            let member = &set.members[at_set as usize];
            let is_back = ring::is_back(
                ring::affinity(key, of_server.identity),
                of_server.health.share(self.now_us),
            );
            if of_server.health.is_ejected(self.now_us)
                || !is_back
                || (set.near > 0 && !of_server.is_near)
                || of_server.open.len() as u64 >= most_open(open, member.weight, weights)
            {
                other.get_or_insert(server);
                continue;
            }
            return Some(server);
        }
        other.or_else(|| self.any_of_many(set))
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
