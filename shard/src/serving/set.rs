//! The offers for one pattern of one fleet, arranged so that one of them is found quickly.

use std::collections::BTreeSet;

use super::budget::Budget;

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
    /// What it is owed, for [`crate::routes::Balance::RoundRobin`].
    pub(crate) owed: i64,
}

#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) serial: u32,
    pub(crate) fleet: u32,
    pub(crate) pattern: u32,
    /// Those whose peers are fit first.
    pub(crate) members: Vec<Member>,
    /// How many are fit.
    pub(crate) fit: usize,
    /// How many, fit or not, are of this gateway's zone.
    pub(crate) near: usize,
    /// The largest weight, and how many have it.
    pub(crate) heaviest: (u32, usize),
    /// The sum of all weights.
    pub(crate) weights: u64,
    /// With whom a large set's next round goes on.
    pub(crate) turn: usize,
    pub(crate) table: Table,
    /// Where keys lead in a large set: points on a circle, each with an offer. Made when it is first needed.
    pub(crate) ring: Option<BTreeSet<(u64, u32)>>,
    pub(crate) budget: Budget,
    /// Calls wait for room here.
    pub(crate) has_waiting: bool,
    /// It is told already that something changed for them.
    pub(crate) is_told: bool,
}

/// Who of a small set is ready: fit, and not ejected. Those of this gateway's zone first.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Places among the members.
    pub(crate) ready: Vec<u32>,
    /// How many of them are of this gateway's zone.
    pub(crate) near: usize,
    /// The sum of the weights up to and with each.
    pub(crate) sums: Vec<u64>,
    /// All have the same weight.
    pub(crate) is_even: bool,
    /// Something changed since it was made.
    pub(crate) is_stale: bool,
    /// Then somebody comes back.
    pub(crate) review_us: u64,
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
            turn: 0,
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
