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
                (true, true) => return Some(self.better(one, two, table.average)),
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
                    Some(best) if self.better(best, other, table.average) == best.0 => Some(best),
                    _ => Some(other),
                };
            }
        }
        best.map(|(server, _)| server)
    }

    /// Two of a sample of a large set, and the better of them.
    pub(super) fn least_of_many(&mut self, set: &Set) -> Option<u32> {
        self.least_among(set, 0, set.near)
            .or_else(|| self.least_among(set, set.near, set.fit))
    }

    fn least_among(&mut self, set: &Set, from: usize, to: usize) -> Option<u32> {
        if from == to {
            return None;
        }
        let mut first: Option<(u32, u32)> = None;
        let mut ejected = None;
        let heaviest = u64::from(set.heaviest);
        for _ in 0..PICK_SCAN_MAX {
            let random = self.random.next();
            let member = &set.members[from + below(random as u32, (to - from) as u64) as usize];
            // The heaviest is always taken, the others in relation to it.
            if below((random >> 32) as u32, heaviest) >= u64::from(member.weight)
                || !self.takes_part(member.server)
            {
                continue;
            }
            if self.servers[member.server as usize]
                .health
                .is_ejected(self.now_us)
            {
                ejected.get_or_insert(member.server);
                continue;
            }
            let drawn = (member.server, member.weight);
            match first {
                None => first = Some(drawn),
                Some(first) if first.0 == drawn.0 => {}
                Some(first) => return Some(self.better(first, drawn, set.average_weight())),
            }
        }
        first
            .map(|(server, _)| server)
            .or(ejected)
            .or_else(|| self.any_among(set, from, to))
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

#[cfg(test)]
mod tests {
    use crate::limits::PICK_SCAN_MAX;
    use crate::serving::lab::{Lab, assert_near, peer, terms};

    #[test]
    fn equal_peers_get_equal_shares_few_or_many() {
        for peers in [2, 3, 8, PICK_SCAN_MAX as u32, PICK_SCAN_MAX as u32 + 1, 200] {
            let mut lab = Lab::new(u64::from(peers));
            let servers = lab.serve_all(peers);
            let calls = 2_000 * peers as usize;
            let got = lab.shares(calls, 0);
            for server in &servers {
                assert_near(got[server], 2_000, 15);
            }
        }
    }

    #[test]
    fn weights_are_shares_of_calls_one_at_a_time_and_of_what_is_in_flight() {
        for peers in [1, 40] {
            let mut lab = Lab::new(9);
            let mut weights = Vec::new();
            for slot in 0..3 * peers {
                let weight = [100, 200, 500][slot as usize % 3];
                weights.push((lab.serve(peer(0, slot), &terms(weight)), weight as usize));
            }
            let calls = 80_000;
            let total: usize = weights.iter().map(|(_, weight)| weight).sum();
            // Of three, two are always drawn: the light ones meet the heavy one more often than it meets them.
            let got = lab.shares(calls, 0);
            for (server, weight) in &weights {
                assert_near(got[server], calls * weight / total, 20);
            }
            for _ in 0..800 * peers {
                lab.call(None).unwrap();
            }
            for (server, weight) in &weights {
                let open = lab.serving[*server].open.len();
                assert_near(open, 800 * peers as usize * weight / total, 13);
            }
        }
    }

    #[test]
    fn a_slow_peer_gets_little_and_the_calls_do_not_wait_for_it() {
        for peers in [4, 100] {
            let mut lab = Lab::new(5);
            let servers = lab.serve_all(peers);
            let slow = servers[1];
            let speed = |server, _| (1, if server == slow { 20_000 } else { 1_000 });
            // The quick ones are busy half of the time.
            let every_us = 2 * 1_000 / u64::from(peers - 1);
            let (got, took) = lab.run(every_us, 20_000_000, &speed);
            let calls = took.len();
            let fair = calls / peers as usize;
            assert!(got[&slow] < fair / 5, "{} of {fair}", got[&slow]);
            assert!(got[&slow] > 10, "it is tried again: {}", got[&slow]);
            let p99 = took[calls * 99 / 100];
            assert!(p99 < 20_000, "{p99} µs");
            // Two choices, not one: with a random one, half busy single servers keep 3 % waiting for 5 ms and more.
            let waited = calls - took.partition_point(|&us| us < 5_000);
            assert!(waited * 50 < calls, "{waited} of {calls}");
        }
    }

    #[test]
    fn a_slow_past_does_not_bar_it() {
        let mut lab = Lab::new(6);
        let servers = lab.serve_all(4);
        let slow = servers[0];
        let until_us = lab.now_us + 5_000_000;
        let speed = |server, now_us| {
            (
                4,
                if server == slow && now_us < until_us {
                    500_000
                } else {
                    1_000
                },
            )
        };
        lab.run(500, 5_000_000, &speed);
        lab.run(500, 10_000_000, &speed);
        let (got, took) = lab.run(500, 5_000_000, &speed);
        assert!(
            got[&slow] * 4 > took.len() / 2,
            "{} of {}",
            got[&slow],
            took.len()
        );
    }

    #[test]
    fn larger_peers_get_more_under_load() {
        let mut lab = Lab::new(7);
        let sizes = [1, 2, 5].map(|size| (lab.serve(peer(0, size), &terms(size)), size as usize));
        let speed = |server, _| {
            let (_, size) = sizes.iter().find(|(other, _)| *other == server).unwrap();
            (*size, 8_000)
        };
        // Eight at a time in 8 ms: 1,000 a second; they get 900.
        let (got, took) = lab.run(1_111, 60_000_000, &speed);
        for (server, size) in sizes {
            assert_near(got[&server], took.len() * size / 8, 15);
        }
    }
}
