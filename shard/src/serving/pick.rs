//! One of a set gets the next call.
//!
//! A set of at most [`PICK_SCAN_MAX`] fit peers has a table of those that are ready, made again when something changed.
//! Of a larger one a sample is drawn: whatever its size, at most [`PICK_SCAN_MAX`] peers are looked at for one call.
//!
//! [`Balance::Least`] draws two by weight and compares what a call would have to wait for there: what is in flight, in
//! relation to the weight, times how long answers take. Two, because the best of all as each core sees it is the same
//! one for all cores, and they would all send there until they learn that they did (decision 0007).

use fluxar_protocol::meta::Meta;
use foldhash::fast::FixedState;
use slab::Slab;
use std::hash::BuildHasher;

use super::health::WHOLE;
use super::routing::Decision;
use super::set::{Set, SetId};
use super::{IDENTITY, Offer, Server, Serving, ring};
use crate::ids::Ids;
use crate::limits::PICK_SCAN_MAX;
use crate::routes::{Balance, Ejection};

/// Two peers whose cost differs by less than this part are equal, and the one of this core gets the call.
const TIE: u64 = 8;
/// Draws that may find somebody unable before all are looked at.
const DRAWS: usize = 6;

/// A call or a stream that is to be given to somebody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) method: &'a str,
    pub(crate) meta: Option<Meta<'a>>,
    /// `meta.key`.
    pub(crate) key: Option<&'a [u8]>,
    /// Not this server.
    pub(crate) avoid: Option<u32>,
}

/// Who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This one.
    Server(u32),
    /// Nobody now, somebody later: those of the set have no room, or are [`crate::Standing::crowded`] or `silent`.
    Full(SetId),
    /// Nobody.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked {
    pub(crate) verdict: Verdict,
    /// Where it was looked for, if anybody is there: for [`Serving::pick_in`] and [`Serving::may_repeat`].
    pub(crate) set: Option<SetId>,
    /// How, for [`Serving::pick_in`].
    pub(crate) balance: Balance,
    /// The longest that the asker waits, by its rule.
    pub(crate) timeout_ms: Option<u32>,
    /// A call is also given to this server, and its answer thrown away.
    pub(crate) mirror: Option<u32>,
}

/// What a pick looks at beside its set.
struct View<'a> {
    core: u16,
    servers: &'a Slab<Server>,
    offers: &'a Slab<Offer>,
    random: &'a mut Ids,
    avoid: Option<u32>,
    now_us: u64,
}

impl Serving {
    /// Who gets a call or a stream.
    pub(crate) fn pick(&mut self, wanted: &Wanted<'_>, now_us: u64) -> Picked {
        let mut picked = Picked {
            verdict: Verdict::Nobody,
            set: None,
            balance: Balance::Least,
            timeout_ms: None,
            mirror: None,
        };
        let hash = self.hasher.hash_one(wanted.method.as_bytes());
        let found = self.remembered.find(hash, wanted.method);
        let Some(at) = found.or_else(|| self.learn(hash, wanted.method)) else {
            return picked;
        };
        let Some(known) = self.remembered.at(at) else {
            return picked;
        };
        let Decision {
            set,
            balance,
            timeout_ms,
            mirror,
        } = self
            .routing
            .decide(known, wanted.meta.as_ref(), wanted.key, &mut self.random);
        picked.balance = balance;
        picked.timeout_ms = timeout_ms;
        if let Some(set) = set {
            picked.set = Some(SetId {
                at: set,
                serial: self.sets[set as usize].serial,
            });
            picked.verdict = self.pick_at(set, balance, wanted.key, wanted.avoid, now_us);
            if let Verdict::Server(_) = picked.verdict {
                self.sets[set as usize].budget.called(now_us);
            }
        }
        if let Some(mirror) = mirror
            && let Verdict::Server(server) = self.pick_at(mirror, Balance::Least, None, None, now_us)
        {
            picked.mirror = Some(server);
        }
        picked
    }

    /// Who of a set gets something that waited, or that is given away again.
    pub(crate) fn pick_in(
        &mut self,
        id: SetId,
        balance: Balance,
        key: Option<&[u8]>,
        avoid: Option<u32>,
        now_us: u64,
    ) -> Verdict {
        match self.sets.get(id.at as usize) {
            Some(set) if set.serial == id.serial => self.pick_at(id.at, balance, key, avoid, now_us),
            _ => Verdict::Nobody,
        }
    }

    /// Whether something may be given to a set's peers a second time; if so, it is counted.
    pub(crate) fn may_repeat(&mut self, id: SetId, now_us: u64) -> bool {
        match self.sets.get_mut(id.at as usize) {
            Some(set) if set.serial == id.serial => set.budget.withdraw(&self.routing.routes.retries, now_us),
            _ => false,
        }
    }

    fn pick_at(
        &mut self,
        at: u32,
        balance: Balance,
        key: Option<&[u8]>,
        avoid: Option<u32>,
        now_us: u64,
    ) -> Verdict {
        self.handle_time(now_us);
        let is_small = self.sets[at as usize].fit <= PICK_SCAN_MAX;
        if is_small && self.sets[at as usize].needs_review(now_us) {
            self.sets[at as usize].review(&self.servers, &self.routing.routes.ejection, now_us);
            self.tell(at);
        }
        let set = &mut self.sets[at as usize];
        let mut view = View {
            core: self.core,
            servers: &self.servers,
            offers: &self.offers,
            random: &mut self.random,
            avoid,
            now_us,
        };
        let found = match (balance, key) {
            (Balance::RoundRobin, _) if is_small => view.next_in_turn(set),
            (Balance::RoundRobin, _) => view.next_in_turn_of_many(set),
            (Balance::Key, Some(key)) if is_small => view.by_key(set, key),
            (Balance::Key, Some(key)) => view.by_key_of_many(set, key),
            _ if is_small => view.least(set),
            _ => view.least_of_many(set),
        };
        match found {
            Some(server) => Verdict::Server(server),
            None if set.may_have_room_later(&self.servers, avoid) => Verdict::Full(SetId {
                at,
                serial: set.serial,
            }),
            None => Verdict::Nobody,
        }
    }
}

impl Set {
    /// Whether somebody of the set may get calls again who gets none now.
    fn may_have_room_later(&self, servers: &Slab<Server>, avoid: Option<u32>) -> bool {
        self.members.iter().take(PICK_SCAN_MAX).any(|member| {
            let standing = servers[member.server as usize].standing;
            Some(member.server) != avoid && !standing.draining
        })
    }

    #[inline]
    fn needs_review(&self, now_us: u64) -> bool {
        self.table.is_stale || now_us >= self.table.review_us
    }

    /// Makes the table of those that are ready.
    fn review(&mut self, servers: &Slab<Server>, settings: &Ejection, now_us: u64) {
        let table = &mut self.table;
        let fit = &self.members[..self.fit];
        let until_us = |at: usize| servers[fit[at].server as usize].health.ejected_until_us;
        let mut out = [0_u32; PICK_SCAN_MAX];
        let mut ejected = 0;
        for at in 0..fit.len() {
            if until_us(at) > now_us {
                out[ejected] = at as u32;
                ejected += 1;
            }
        }
        // So many may be left out, and never all; those who would be back first are used all the same.
        let out = &mut out[..ejected];
        let most = match fit.len() * settings.percent_max.min(100) as usize / 100 {
            most if ejected >= fit.len() && most >= fit.len() => 0,
            most => most.min(ejected),
        };
        out.sort_unstable_by_key(|&at| std::cmp::Reverse((until_us(at as usize), at)));
        let out = &mut out[..most];
        table.review_us = out
            .iter()
            .map(|&at| until_us(at as usize))
            .min()
            .unwrap_or(u64::MAX);
        out.sort_unstable();

        table.ready.clear();
        let is_near = |at: u32| servers[fit[at as usize].server as usize].is_near;
        let ready = (0..fit.len() as u32).filter(|at| out.binary_search(at).is_err());
        table.ready.extend(ready.clone().filter(|&at| is_near(at)));
        table.near = table.ready.len();
        table.ready.extend(ready.filter(|&at| !is_near(at)));

        table.sums.clear();
        let mut sum = 0;
        table.sums.extend(table.ready.iter().map(|&at| {
            sum += u64::from(fit[at as usize].weight);
            sum
        }));
        let weight = |at: &u32| fit[*at as usize].weight;
        table.is_even = table
            .ready
            .windows(2)
            .all(|two| weight(&two[0]) == weight(&two[1]));
        table.is_stale = false;
    }
}

impl View<'_> {
    /// Whether a peer that is ready may have this call.
    #[inline]
    fn takes(&self, server: u32) -> bool {
        self.servers[server as usize].has_room() && self.avoid != Some(server)
    }

    /// The same, of a peer that comes back slowly now and then only.
    #[inline]
    fn takes_part(&mut self, server: u32) -> bool {
        if !self.takes(server) {
            return false;
        }
        let share = self.servers[server as usize].health.share(self.now_us);
        share >= WHOLE || below(self.random.next() as u32, WHOLE) < share
    }

    /// Of two peers with their weights, the one that answers sooner; on a tie, one of this core, and then the first.
    #[inline]
    fn better(&self, (one, weight_one): (u32, u32), (two, weight_two): (u32, u32), average: u64) -> u32 {
        let (first, second) = (&self.servers[one as usize], &self.servers[two as usize]);
        let (latency_one, latency_two) = match (
            first.latency.expected_us(self.now_us),
            second.latency.expected_us(self.now_us),
        ) {
            (Some(first), Some(second)) => (first, second),
            _ => (1, 1), // of one that nobody knows, only what it was given counts
        };
        let cost_one = cost(first.open.len(), weight_one, average) * latency_one;
        let cost_two = cost(second.open.len(), weight_two, average) * latency_two;
        if cost_one.abs_diff(cost_two) <= cost_one.max(cost_two) / TIE {
            let is_here = |server: &Server| server.peer.core == self.core;
            return if is_here(second) && !is_here(first) {
                two
            } else {
                one
            };
        }
        if cost_one <= cost_two { one } else { two }
    }

    fn least(&mut self, set: &Set) -> Option<u32> {
        let table = &set.table;
        // Those of another zone only while none of this one can.
        let near = (table.near > 0)
            .then(|| self.least_between(set, 0, table.near))
            .flatten();
        if near.is_some() || table.near == table.ready.len() {
            return near;
        }
        self.least_between(set, table.near, table.ready.len())
    }

    /// Two of this part of the table, and the better of them.
    #[inline]
    fn least_between(&mut self, set: &Set, from: usize, to: usize) -> Option<u32> {
        let table = &set.table;
        let member = |place: usize| {
            let member = &set.members[table.ready[place] as usize];
            (member.server, member.weight)
        };
        if to - from == 1 {
            let (server, _) = member(from);
            return self.takes(server).then_some(server);
        }
        for _ in 0..DRAWS / 2 {
            let random = self.random.next();
            let one = draw(set, from, to, None, random as u32);
            let two = draw(set, from, to, Some(one), (random >> 32) as u32);
            let (one, two) = (member(one), member(two));
            match (self.takes_part(one.0), self.takes_part(two.0)) {
                (true, true) => return Some(self.better(one, two, set.average_weight())),
                (true, false) => return Some(one.0),
                (false, true) => return Some(two.0),
                (false, false) => {}
            }
        }
        // Most have no room: all are looked at.
        let mut best: Option<(u32, u32)> = None;
        for place in from..to {
            let other = member(place);
            if self.takes(other.0) {
                best = match best {
                    Some(best) if self.better(best, other, set.average_weight()) == best.0 => Some(best),
                    _ => Some(other),
                };
            }
        }
        best.map(|(server, _)| server)
    }

    /// Two of a sample of a large set, and the better of them.
    fn least_of_many(&mut self, set: &Set) -> Option<u32> {
        let (mut near, mut far) = (Drawn::default(), Drawn::default());
        let mut ejected = None;
        let heaviest = u64::from(set.heaviest.0);
        for _ in 0..PICK_SCAN_MAX {
            let random = self.random.next();
            let member = &set.members[below(random as u32, set.fit as u64) as usize];
            if below((random >> 32) as u32, heaviest) >= u64::from(member.weight)
                || !self.takes_part(member.server)
            {
                continue;
            }
            let server = &self.servers[member.server as usize];
            if server.health.is_ejected(self.now_us) {
                ejected.get_or_insert(member.server);
                continue;
            }
            let drawn = if server.is_near { &mut near } else { &mut far };
            drawn.enter((member.server, member.weight));
            if near.is_full() || (far.is_full() && set.near == 0) {
                break;
            }
        }
        let average = set.average_weight();
        let of = |drawn: &Drawn| match (drawn.0[0], drawn.0[1]) {
            (Some(one), Some(two)) => Some(self.better(one, two, average)),
            (one, _) => one.map(|(server, _)| server),
        };
        of(&near)
            .or_else(|| of(&far))
            .or(ejected)
            .or_else(|| self.any_of_many(set))
    }

    /// Whoever can, from a place by chance on.
    fn any_of_many(&mut self, set: &Set) -> Option<u32> {
        let first = below(self.random.next() as u32, set.fit as u64) as usize;
        let from_first = set.members[first..set.fit].iter().chain(&set.members[..first]);
        let mut servers = from_first.take(PICK_SCAN_MAX).map(|member| member.server);
        servers.find(|&server| self.takes(server))
    }

    /// Smooth weighted round robin: each is owed its weight a call, and who is owed most pays for all of them.
    fn next_in_turn(&mut self, set: &mut Set) -> Option<u32> {
        let near = set.table.near;
        let ready = set.table.ready.len();
        for (from, to) in [(0, near), (near, ready)] {
            let mut owed_all = 0;
            let mut best: Option<(usize, i64)> = None;
            for &at in &set.table.ready[from..to] {
                let member = &mut set.members[at as usize];
                if !self.takes(member.server) {
                    continue;
                }
                let share = self.servers[member.server as usize].health.share(self.now_us);
                let owed = i64::from(member.weight) * share as i64;
                member.owed += owed;
                owed_all += owed;
                if best.is_none_or(|(_, most)| member.owed > most) {
                    best = Some((at as usize, member.owed));
                }
            }
            if let Some((at, _)) = best {
                set.members[at].owed -= owed_all;
                return Some(set.members[at].server);
            }
        }
        None
    }

    /// One after the other, each as often as its weight says, in relation to the heaviest.
    fn next_in_turn_of_many(&mut self, set: &mut Set) -> Option<u32> {
        let most = i64::from(set.heaviest.0) * WHOLE as i64;
        let mut far = None;
        let mut ejected = None;
        for _ in 0..PICK_SCAN_MAX {
            if set.turn >= set.fit {
                set.turn = 0;
            }
            let member = &mut set.members[set.turn];
            let server = &self.servers[member.server as usize];
            if !self.takes(member.server) {
                set.turn += 1;
                continue;
            }
            if server.health.is_ejected(self.now_us) {
                ejected.get_or_insert(set.turn);
                set.turn += 1;
                continue;
            }
            if set.near > 0 && !server.is_near {
                far.get_or_insert(set.turn);
                set.turn += 1;
                continue;
            }
            member.owed += i64::from(member.weight) * server.health.share(self.now_us) as i64;
            set.turn += 1;
            if member.owed >= most {
                member.owed -= most;
                return Some(member.server);
            }
            far = Some(set.turn - 1); // in its zone, and owed more than the others of it that were seen
        }
        far.or(ejected).map(|at| set.members[at].server)
    }

    /// The peer that a key is drawn to most (rendezvous hashing), unless it has more to do than it should.
    fn by_key(&mut self, set: &Set, key: &[u8]) -> Option<u32> {
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
    fn by_key_of_many(&mut self, set: &mut Set, key: &[u8]) -> Option<u32> {
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

/// Up to two different peers that were drawn.
#[derive(Default)]
struct Drawn([Option<(u32, u32)>; 2]);

impl Drawn {
    fn enter(&mut self, peer: (u32, u32)) {
        match self.0 {
            [None, _] => self.0[0] = Some(peer),
            [Some(first), None] if first.0 != peer.0 => self.0[1] = Some(peer),
            _ => {}
        }
    }

    fn is_full(&self) -> bool {
        self.0[1].is_some()
    }
}

/// What a call would find before it, in 16ths: what is in flight in relation to the weight, and itself. The weight says
/// how much at a time, not how fast, so itself counts the same at each.
#[inline]
fn cost(open: usize, weight: u32, average: u64) -> u64 {
    let in_flight = match open as u64 * 16 {
        0 => 0,
        in_flight if u64::from(weight) == average => in_flight,
        in_flight => in_flight * average / u64::from(weight.max(1)),
    };
    in_flight + 16
}

/// What a peer may have open at most to get one more by its key: a quarter above its part of all that is open, this one
/// included.
#[inline]
fn most_open(open: u64, weight: u32, weights: u64) -> u64 {
    (open * u64::from(weight) * 5).div_ceil(weights.max(1) * 4)
}

/// A place in this part of the table by weight, another one than `other`.
#[inline]
fn draw(set: &Set, from: usize, to: usize, other: Option<usize>, random: u32) -> usize {
    let table = &set.table;
    if table.is_even {
        let drawn = from + below(random, (to - from - usize::from(other.is_some())) as u64) as usize;
        return match other {
            Some(other) if drawn >= other => drawn + 1,
            _ => drawn,
        };
    }
    let before = |place: usize| if place == 0 { 0 } else { table.sums[place - 1] };
    let (low, high) = (before(from), before(to));
    let Some(other) = other else {
        let at = low + below(random, high - low);
        return table.sums[..to].partition_point(|&sum| sum <= at);
    };
    let (taken_from, taken_to) = (before(other), table.sums[other]);
    let at = low + below(random, high - low - (taken_to - taken_from));
    let at = if at >= taken_from {
        at + (taken_to - taken_from)
    } else {
        at
    };
    table.sums[..to].partition_point(|&sum| sum <= at)
}

/// A number below `bound`, which is below 2^32.
#[inline]
fn below(random: u32, bound: u64) -> u64 {
    (u64::from(random) * bound) >> 32
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
