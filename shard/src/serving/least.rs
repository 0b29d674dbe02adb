//! [`crate::routes::Balance::Least`]: two are drawn by weight, and the one gets the call at which it has less to wait for:
//! what is in flight there, in relation to the weight, times how long its answers take.
//!
//! Two, because the best of all is the same one for all cores, and they would all send there until they learn that they
//! did; and because to draw two costs the same however many there are (decision 0007).

use super::pick::{View, below};
use super::server::Server;
use super::set::Set;
use super::table::draw;
use crate::limits::PICK_SCAN_MAX;

/// Two peers whose cost differs by less than this part are equal, and one of this core gets the call.
const TIE: u64 = 8;
/// Pairs that may be drawn in vain before all are looked at.
const PAIRS: usize = 3;

impl View<'_> {
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

    pub(super) fn least(&mut self, set: &Set) -> Option<u32> {
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
        for _ in 0..PAIRS {
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
    pub(super) fn least_of_many(&mut self, set: &Set) -> Option<u32> {
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
