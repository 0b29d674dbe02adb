//! One of a set gets the next call.
//!
//! A set of at most [`PICK_SCAN_MAX`] fit peers has a table of those that are ready, made again when something changed.
//! Of a larger one a sample is drawn: whatever its size, at most [`PICK_SCAN_MAX`] peers are looked at for one call.
//!
//! How is the policy's: [`super::least`], [`super::turns`], [`super::keys`].

use std::hash::BuildHasher;

use fluxar_protocol::meta::Meta;
use slab::Slab;

use super::health::WHOLE;
use super::routing::Decision;
use super::server::Server;
use super::set::{Set, SetId};
use super::{Offer, Serving};
use crate::ids::Ids;
use crate::limits::PICK_SCAN_MAX;
use crate::routes::Balance;

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
pub(super) struct View<'a> {
    pub(super) core: u16,
    pub(super) servers: &'a Slab<Server>,
    pub(super) offers: &'a Slab<Offer>,
    pub(super) random: &'a mut Ids,
    pub(super) avoid: Option<u32>,
    pub(super) now_us: u64,
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

    /// A call that waited for a set goes out for the first time: its budget grows by it.
    pub(crate) fn count_call(&mut self, id: SetId, now_us: u64) {
        if let Some(set) = self.sets.get_mut(id.at as usize)
            && set.serial == id.serial
        {
            set.budget.called(now_us);
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
}

impl View<'_> {
    /// Whoever can, from a place by chance on.
    pub(super) fn any_among(&mut self, set: &Set, from: usize, to: usize) -> Option<u32> {
        let members = &set.members[from..to];
        let first = below(self.random.next() as u32, members.len() as u64) as usize;
        let from_first = members[first..].iter().chain(&members[..first]);
        let mut servers = from_first.take(PICK_SCAN_MAX).map(|member| member.server);
        servers.find(|&server| self.takes(server))
    }

    /// Whether a peer that is ready may have this call.
    #[inline]
    pub(super) fn takes(&self, server: u32) -> bool {
        self.servers[server as usize].has_room() && self.avoid != Some(server)
    }

    /// The same, of a peer that comes back slowly now and then only.
    #[inline]
    pub(super) fn takes_part(&mut self, server: u32) -> bool {
        if !self.takes(server) {
            return false;
        }
        let share = self.servers[server as usize].health.share(self.now_us);
        share >= WHOLE || below(self.random.next() as u32, WHOLE) < share
    }
}

/// A number below `bound`, which is below 2^32.
#[inline]
pub(super) fn below(random: u32, bound: u64) -> u64 {
    (u64::from(random) * bound) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::Ending;
    use crate::serving::lab::{Lab, peer, terms};

    fn picked(lab: &mut Lab) -> Picked {
        let wanted = Wanted {
            method: "m",
            meta: None,
            key: None,
            avoid: None,
        };
        lab.serving.pick(&wanted, lab.now_us)
    }

    #[test]
    fn a_set_that_is_gone_gives_nobody_even_if_another_has_its_place() {
        let mut lab = Lab::new(1);
        lab.serve(peer(0, 1), &terms(1));
        let set = picked(&mut lab).set.unwrap();
        assert!(lab.serving.may_repeat(set, lab.now_us));
        lab.leave(peer(0, 1));
        lab.serve(peer(0, 2), &terms(1));
        let other = picked(&mut lab).set.unwrap();
        assert_eq!((set.at, other.serial != set.serial), (other.at, true));
        assert_eq!(
            lab.serving.pick_in(set, Balance::Least, None, None, 1),
            Verdict::Nobody
        );
        assert!(!lab.serving.may_repeat(set, lab.now_us));
    }

    #[test]
    fn a_set_for_which_calls_wait_stays_until_they_are_told_that_nobody_is_left() {
        let mut lab = Lab::new(2);
        let mut small = terms(1);
        small.in_flight_max = 1;
        lab.serve(peer(0, 1), &small);
        let (_, slot) = lab.call(None).unwrap();
        let Verdict::Full(set) = lab.pick(None) else {
            panic!("it is full");
        };
        lab.serving.set_waiting(set, true);
        lab.leave(peer(0, 1));
        // Somebody new is another set: those who waited for the old one are told first.
        let new = lab.serve(peer(0, 2), &terms(1));
        assert_eq!(lab.pick(None), Verdict::Server(new));
        assert_eq!(lab.serving.pop_moved(), Some(set));
        assert_eq!(
            lab.serving.pick_in(set, Balance::Least, None, None, 1),
            Verdict::Nobody
        );
        lab.serving.set_waiting(set, false);
        lab.serving.set_waiting(set, false);
        assert_eq!(lab.serving.pop_moved(), None);
        lab.end(slot, Ending::Answered, 1);
    }

    #[test]
    fn another_one_is_found_for_a_second_try_or_nobody() {
        for peers in [2, 90] {
            let mut lab = Lab::new(3);
            let servers = lab.serve_all(peers);
            let set = picked(&mut lab).set.unwrap();
            for balance in [Balance::Least, Balance::RoundRobin, Balance::Key] {
                for _ in 0..200 {
                    let verdict =
                        lab.serving
                            .pick_in(set, balance, Some(b"key"), Some(servers[0]), lab.now_us);
                    assert!(matches!(verdict, Verdict::Server(other) if other != servers[0]));
                }
            }
            for slot in 1..peers {
                lab.leave(peer(0, slot));
            }
            let alone = lab
                .serving
                .pick_in(set, Balance::Least, None, Some(servers[0]), lab.now_us);
            assert_eq!(alone, Verdict::Nobody);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut lab = Lab::new(seed);
            lab.serve_all(30);
            (0..500).map(|_| lab.call(None).unwrap().0).collect::<Vec<_>>()
        };
        assert_eq!(choices(4), choices(4));
        assert_ne!(choices(4), choices(5));
    }
}
