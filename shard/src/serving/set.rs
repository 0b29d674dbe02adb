//! The offers for one pattern of one fleet, arranged so that one of them is found quickly.

use std::collections::BTreeSet;

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
    /// The largest weight, and how many have it.
    pub(crate) heaviest: (u32, usize),
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
            heaviest: (0, 0),
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

    pub(crate) fn weighs_more(&mut self, weight: u32) {
        self.weights += u64::from(weight);
        let (heaviest, having) = &mut self.heaviest;
        match weight.cmp(heaviest) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => *having += 1,
            std::cmp::Ordering::Greater => (*heaviest, *having) = (weight, 1),
        }
    }

    /// A member of that weight was taken out.
    pub(crate) fn weighs_less(&mut self, weight: u32) {
        self.weights -= u64::from(weight);
        if weight < self.heaviest.0 {
            return;
        }
        self.heaviest.1 -= 1;
        if self.heaviest.1 == 0 {
            let heaviest = self.members.iter().map(|member| member.weight).max().unwrap_or(0);
            let having = self
                .members
                .iter()
                .filter(|member| member.weight == heaviest)
                .count();
            self.heaviest = (heaviest, having);
        }
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

    pub(super) fn tell(&mut self, at: u32) {
        let set = &mut self.sets[at as usize];
        if set.has_waiting && !set.is_told {
            set.is_told = true;
            self.moved.push_back(at);
        }
    }
}
