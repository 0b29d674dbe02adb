//! Who of a small set is ready for a call: made when something changed, so that a pick only draws.

use slab::Slab;

use super::pick::below;
use super::server::Server;
use super::set::Set;
use crate::limits::PICK_SCAN_MAX;
use crate::routes::Ejection;

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
    #[inline]
    pub(super) fn needs_review(&self, now_us: u64) -> bool {
        self.table.is_stale || now_us >= self.table.review_us
    }

    /// Makes the table of those that are ready.
    pub(super) fn review(&mut self, servers: &Slab<Server>, settings: &Ejection, now_us: u64) {
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

/// A place in this part of the table by weight, another one than `other`.
#[inline]
pub(super) fn draw(set: &Set, from: usize, to: usize, other: Option<usize>, random: u32) -> usize {
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
