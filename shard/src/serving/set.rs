//! The offers for one pattern of one fleet, arranged so that one of them is found quickly.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::Budget;
use super::table::Table;
use super::{Offer, Serving};

/// Names a set for as long as it lives; a later one in its place has another serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SetId {
    pub(crate) at: u32,
    pub(crate) serial: u32,
}

/// One offer as its set sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) offer: u32,
    pub(crate) server: u32,
    pub(crate) weight: u32,
    /// Its server's: what keys are drawn to.
    pub(crate) identity: u64,
    /// What it is owed, for [`crate::routes::Balance::RoundRobin`].
    pub(crate) owed: i64,
}

#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) serial: u32,
    pub(crate) fleet: u32,
    pub(crate) pattern: u32,
    /// First those whose peers are fit and of this gateway's zone, then the other fit ones, then those that are not.
    pub(crate) members: Vec<Member>,
    /// How many are fit.
    pub(crate) fit: usize,
    /// How many of them are of this gateway's zone.
    pub(crate) near: usize,
    /// The largest weight.
    pub(crate) heaviest: u32,
    /// How many members have each weight: whoever leaves, the next largest one is found without looking at all.
    having: BTreeMap<u32, u32>,
    /// The sum of all weights.
    pub(crate) weights: u64,
    /// With whom the next round goes on, in its zone and out of it.
    pub(crate) turns: [usize; 2],
    pub(super) table: Table,
    /// Where keys lead in a large set: points on a circle, each with an offer. Made when it is first needed.
    pub(crate) ring: Option<BTreeSet<(u64, u32)>>,
    pub(crate) budget: Budget,
    /// Calls wait for room here.
    pub(crate) has_waiting: bool,
    /// It is told already that something changed for them.
    pub(crate) is_told: bool,
}

impl Set {
    pub(crate) fn new(serial: u32, fleet: u32, pattern: u32) -> Self {
        Self {
            serial,
            fleet,
            pattern,
            members: Vec::new(),
            fit: 0,
            near: 0,
            heaviest: 0,
            having: BTreeMap::new(),
            weights: 0,
            turns: [0; 2],
            table: Table::default(),
            ring: None,
            budget: Budget::default(),
            has_waiting: false,
            is_told: false,
        }
    }

    /// The average weight, at least 1.
    pub(crate) fn average_weight(&self) -> u64 {
        (self.weights / (self.members.len() as u64).max(1)).max(1)
    }

    /// A member of that weight came.
    pub(crate) fn weighs_more(&mut self, weight: u32) {
        self.weights += u64::from(weight);
        *self.having.entry(weight).or_default() += 1;
        self.heaviest = self.heaviest.max(weight);
    }

    /// A member of that weight was taken out.
    pub(crate) fn weighs_less(&mut self, weight: u32) {
        self.weights -= u64::from(weight);
        if let Some(having) = self.having.get_mut(&weight) {
            *having -= 1;
            if *having == 0 {
                self.having.remove(&weight);
            }
        }
        self.heaviest = self.having.last_key_value().map_or(0, |(&weight, _)| weight);
    }
}

impl Serving {
    /// Lets a set go in which nobody is, and for which no call waits.
    pub(super) fn release_set(&mut self, at: u32) {
        let set = &self.sets[at as usize];
        if set.members.is_empty() && !set.has_waiting && !set.is_told {
            self.sets.remove(at as usize);
        }
    }

    /// Puts an offer where it belongs among its set's, as its server is now; `is_leaving`: at the end.
    pub(super) fn arrange(&mut self, offer: u32, is_leaving: bool) {
        let Offer {
            server, set, at_set, ..
        } = self.offers[offer as usize];
        let server = &self.servers[server as usize];
        let is_fit = !is_leaving && server.standing.is_fit();
        let is_near = is_fit && server.is_near;
        let set = &mut self.sets[set as usize];
        let mut at = at_set as usize;
        let mut swap = |set: &mut Set, to: usize| {
            set.members.swap(at, to);
            for at in [at, to] {
                self.offers[set.members[at].offer as usize].at_set = at as u32;
            }
            at = to;
        };
        let (was_fit, was_near) = ((at_set as usize) < set.fit, (at_set as usize) < set.near);
        if was_near && !is_near {
            set.near -= 1;
            swap(set, set.near);
        }
        if was_fit && !is_fit {
            set.fit -= 1;
            swap(set, set.fit);
        }
        if !was_fit && is_fit {
            swap(set, set.fit);
            set.fit += 1;
        }
        if !was_near && is_near {
            swap(set, set.near);
            set.near += 1;
        }
        set.table.is_stale = true;
    }

    /// Does that for all offers of a server.
    pub(super) fn arrange_all(&mut self, server: u32) {
        for nth in 0..self.servers[server as usize].offers.len() {
            let offer = self.servers[server as usize].offers[nth];
            self.arrange(offer, false);
            self.tell(self.offers[offer as usize].set);
        }
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

    /// Whether [`Serving::pop_moved`] has something.
    #[inline]
    pub(crate) fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// Something changed in all sets of a server.
    pub(super) fn tell_all(&mut self, server: u32) {
        if self.waiting == 0 {
            return;
        }
        for nth in 0..self.servers[server as usize].offers.len() {
            let offer = self.servers[server as usize].offers[nth];
            self.tell(self.offers[offer as usize].set);
        }
    }

    pub(super) fn tell(&mut self, at: u32) {
        let set = &mut self.sets[at as usize];
        if set.has_waiting && !set.is_told {
            set.is_told = true;
            self.moved.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fluxar_protocol::Id;
    use proptest::prelude::*;

    use super::Set;
    use crate::offering::Offering;
    use crate::routes::{Ejection, Routes};
    use crate::serving::lab::{Lab, peer, terms};
    use crate::serving::{Ending, Verdict};

    proptest! {
        #[test]
        fn the_largest_weight_is_known_whoever_leaves(
            steps in proptest::collection::vec((1..6_u32, any::<bool>()), 1..100),
        ) {
            let mut set = Set::new(1, 0, 0);
            let mut model = Vec::new();
            for (weight, comes) in steps {
                match model.iter().position(|other| *other == weight) {
                    Some(at) if !comes => {
                        model.swap_remove(at);
                        set.weighs_less(weight);
                    }
                    _ => {
                        model.push(weight);
                        set.weighs_more(weight);
                    }
                }
                prop_assert_eq!(set.heaviest, model.iter().copied().max().unwrap_or(0));
                prop_assert_eq!(set.weights, model.iter().copied().map(u64::from).sum::<u64>());
                prop_assert!(set.having.len() <= 5 && !set.having.values().any(|having| *having == 0));
            }
        }
    }

    #[test]
    fn a_peer_is_in_a_set_once_however_often_it_offers() {
        let mut lab = Lab::new(1);
        let other = lab.serve(peer(0, 2), &terms(5));
        let id = |nth: u32| Id(u128::from(nth).to_be_bytes());
        for nth in 1..=10_000 {
            lab.serving.offer(peer(0, 1), id(nth), "m", &terms(nth));
        }
        let server = lab.serving.find(peer(0, 1)).unwrap();
        let own = lab.serving[server].offers[0];
        assert_eq!(lab.serving[server].offers, [own]);
        let set = lab.serving.offers[own as usize].set as usize;
        let seen = |lab: &Lab| {
            let set = &lab.serving.sets[set];
            (set.members.len(), set.heaviest, set.weights)
        };
        assert_eq!(seen(&lab), (2, 10_000, 10_005));
        // In another fleet, and for another pattern, it is another offer.
        let red = Offering {
            fleet: Some("red".into()),
            ..terms(1)
        };
        lab.serving.offer(peer(0, 1), id(20_000), "m", &red);
        lab.serving.offer(peer(0, 1), id(20_001), "m.n", &terms(1));
        assert_eq!(lab.serving[server].offers.len(), 3);
        for nth in (1..=10_000).step_by(2).chain((2..10_000).step_by(2)) {
            lab.serving.withdraw_named(peer(0, 1), id(nth));
            lab.serving.withdraw_named(peer(0, 1), id(nth));
        }
        assert_eq!(seen(&lab).0, 2, "one name is left");
        lab.serving.withdraw_named(peer(0, 1), id(10_000));
        assert_eq!(seen(&lab), (1, 5, 5));
        assert_eq!(lab.pick(None), Verdict::Server(other));
        for nth in 1..100 {
            lab.serving.offer(peer(0, 1), id(nth), "m", &terms(nth));
        }
        lab.serving.lose(peer(0, 1));
        assert_eq!((seen(&lab), lab.serving.by_name.len()), ((1, 5, 5), 1));
    }

    #[test]
    fn who_waits_is_told_when_an_ejected_peer_is_back() {
        let mut lab = Lab::new(2);
        lab.serving.set_routes(Arc::new(Routes {
            ejection: Ejection {
                failures: 1,
                percent_max: 50,
                ..Ejection::default()
            },
            ..Routes::default()
        }));
        let one_at_a_time = Offering {
            in_flight_max: 1,
            ..terms(1)
        };
        let bad = lab.serve(peer(0, 1), &one_at_a_time);
        let good = lab.serve(peer(0, 2), &one_at_a_time);
        let mut held = None;
        while !lab.serving[bad].health.is_ejected(lab.now_us) {
            match lab.call(None).unwrap() {
                (server, slot) if server == bad => {
                    lab.end(slot, Ending::Failed(fluxar_protocol::Code::Unavailable), 10);
                }
                (_, slot) => held = Some(slot),
            }
        }
        if held.is_none() {
            assert_eq!(lab.call(None).unwrap().0, good);
        }
        let Verdict::Full(set) = lab.pick(None) else {
            panic!("one is busy, the other one ejected");
        };
        assert_eq!(lab.serving.next_back_us(), None, "nobody waits for it");
        lab.serving.set_waiting(set, true);
        let back_us = lab.serving.next_back_us().unwrap();
        assert_eq!(back_us, lab.serving[bad].health.ejected_until_us);
        lab.serving.handle_time(back_us - 1);
        assert_eq!(lab.serving.pop_moved(), None);
        lab.serving.handle_time(back_us);
        assert_eq!(lab.serving.pop_moved(), Some(set));
        assert_eq!(lab.serving.next_back_us(), None);
        lab.now_us = back_us;
        assert_eq!(lab.pick(None), Verdict::Server(bad));
        lab.serving.set_waiting(set, false);
    }
}
