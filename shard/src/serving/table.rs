//! Who of a small set is ready for a call: made when something changed, so that a pick only draws.

use slab::Slab;

use super::pick::below;
use super::server::Server;
use super::set::Set;
use crate::limits::PICK_SCAN_MAX;
use crate::routes::Ejection;

/// Who of a small set is ready: fit, and not ejected. Those of this gateway's zone first.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Places among the members.
    pub(super) ready: Vec<u32>,
    /// How many of them are of this gateway's zone.
    pub(super) near: usize,
    /// The sum of the weights up to and with each.
    pub(super) sums: Vec<u64>,
    /// The set's average weight, at least 1.
    pub(super) average: u64,
    /// All have the same weight.
    pub(super) is_even: bool,
    /// Something changed since it was made.
    pub(super) is_stale: bool,
    /// Then somebody comes back.
    pub(super) review_us: u64,
}

impl Set {
    #[inline]
    pub(super) fn needs_review(&self, now_us: u64) -> bool {
        self.table.is_stale || now_us >= self.table.review_us
    }

    /// Makes the table of those that are ready.
    pub(super) fn review(&mut self, servers: &Slab<Server>, settings: &Ejection, now_us: u64) {
        let average = self.average_weight();
        let table = &mut self.table;
        table.average = average;
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
        let ready = (0..fit.len() as u32).filter(|at| out.binary_search(at).is_err());
        table.ready.extend(ready);
        table.near = table.ready.partition_point(|&at| (at as usize) < self.near);

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fluxar_protocol::Code;

    use crate::limits::PICK_SCAN_MAX;
    use crate::routes::{Balance, Ejection, Routes, Rule};
    use crate::serving::lab::{Lab, assert_near, peer, rule, terms};
    use crate::serving::{Ending, Verdict};

    const MS: u64 = 1_000;

    fn lab(balance: Balance, percent_max: u32) -> Lab {
        let mut lab = Lab::new(1);
        lab.serving.set_routes(Arc::new(Routes {
            rules: vec![Rule {
                balance,
                ..rule(None)
            }],
            zone: Some("here".to_owned()),
            ejection: Ejection {
                failures: 5,
                first_ms: 1_000,
                most_ms: 60_000,
                slow_start_ms: 1_000,
                percent_max,
            },
            ..Routes::default()
        }));
        lab
    }

    /// Gives calls away until the server has failed so often that it is ejected.
    fn eject(lab: &mut Lab, server: u32) {
        let mut held = Vec::new();
        while !lab.serving[server].health.is_ejected(lab.now_us) {
            let key = lab.random.next().to_be_bytes();
            let (other, slot) = lab.call(Some(&key)).unwrap();
            if other == server {
                lab.end(slot, Ending::Failed(Code::Unavailable), 10);
            } else {
                held.push(slot);
            }
        }
        for slot in held {
            lab.end(slot, Ending::Answered, 0);
        }
    }

    /// How many of 1,000 calls the server gets.
    fn share(lab: &mut Lab, server: u32) -> usize {
        let mut got = 0;
        for _ in 0..1_000 {
            let key = lab.random.next().to_be_bytes();
            let (other, slot) = lab.call(Some(&key)).unwrap();
            got += usize::from(other == server);
            lab.end(slot, Ending::Answered, 0);
        }
        got
    }

    #[test]
    fn a_failing_peer_is_left_out_and_comes_back_slowly() {
        for balance in [Balance::Least, Balance::RoundRobin, Balance::Key] {
            for peers in [2, 4, PICK_SCAN_MAX as u32 + 16] {
                let mut lab = lab(balance, 50);
                let servers = lab.serve_all(peers);
                let bad = servers[1];
                eject(&mut lab, bad);
                let until_us = lab.serving[bad].health.ejected_until_us;
                assert_eq!(until_us, lab.now_us + 1_000 * MS);
                assert_eq!(share(&mut lab, bad), 0, "{balance:?}");
                lab.now_us = until_us - 1;
                assert_eq!(share(&mut lab, bad), 0);
                let fair = 1_000 / peers as usize;
                lab.now_us = until_us + 100 * MS;
                let early = share(&mut lab, bad);
                assert!(early * 2 < fair, "{early} of {fair} by {balance:?}");
                lab.now_us = until_us + 1_000 * MS;
                let late: usize = (0..20).map(|_| share(&mut lab, bad)).sum();
                assert_near(late, 20 * fair, 60);
            }
        }
    }

    #[test]
    fn only_so_many_are_left_out_and_never_all() {
        for (percent_max, left) in [(50, 4), (30, 6), (0, 8), (100, 8)] {
            let mut lab = lab(Balance::Least, percent_max);
            let servers = lab.serve_all(8);
            for &server in &servers {
                eject(&mut lab, server);
                lab.now_us += MS;
            }
            let got = lab.shares(4_000, 0);
            assert_eq!(got.len(), left, "{percent_max} %");
        }
        let mut lab = lab(Balance::Least, 50);
        let only = lab.serve(peer(0, 1), &terms(1));
        eject(&mut lab, only);
        assert_eq!(lab.pick(None), Verdict::Server(only));
    }

    #[test]
    fn errors_of_the_asker_and_answers_in_between_eject_nobody() {
        let mut lab = lab(Balance::Least, 50);
        lab.serve_all(2);
        for nth in 0..400 {
            let (_, slot) = lab.call(None).unwrap();
            let ending = match nth % 4 {
                0 => Ending::Failed(Code::InvalidArgument),
                1 => Ending::Failed(Code::ResourceExhausted),
                2 => Ending::Cancelled,
                _ => Ending::Lost,
            };
            lab.end(slot, ending, 10);
        }
        lab.leave(peer(0, 1));
        for nth in 0..400 {
            let (_, slot) = lab.call(None).unwrap();
            let ending = match nth % 5 {
                0 => Ending::Answered,
                nth if nth % 2 == 0 => Ending::Overdue,
                _ => Ending::Failed(Code::Internal),
            };
            lab.end(slot, ending, 10);
        }
        assert!(lab.serving.rows().all(|row| row.ejected_ms == 0));
    }

    #[test]
    fn the_own_zone_is_preferred_while_somebody_there_can() {
        for balance in [Balance::Least, Balance::RoundRobin, Balance::Key] {
            for far_peers in [3, 100] {
                let mut lab = lab(balance, 50);
                let zoned = |zone: &str, in_flight_max| {
                    let mut offering = terms(1);
                    offering.zone = Some(zone.into());
                    offering.in_flight_max = in_flight_max;
                    offering
                };
                for slot in 0..far_peers {
                    lab.serve(peer(0, slot), &zoned("there", u32::MAX));
                }
                let near: Vec<_> = (0..40)
                    .map(|slot| lab.serve(peer(0, 1_000 + slot), &zoned("here", 5)))
                    .collect();
                let key = |nth: usize| nth.to_be_bytes();
                let got: Vec<_> = (0..150).map(|nth| lab.call(Some(&key(nth))).unwrap().0).collect();
                assert!(got.iter().all(|server| near.contains(server)), "{balance:?}");
                let rest = (150..400).map(|nth| lab.call(Some(&key(nth))).unwrap().0);
                let rest = rest.filter(|server| near.contains(server)).count();
                assert!((1..=50).contains(&rest), "{rest} more have room there");
                for row in lab.serving.rows() {
                    assert!(row.zone == Some("there") || row.in_flight <= 5);
                }
            }
        }
    }

    #[test]
    fn who_has_no_room_gets_nothing_and_a_full_set_says_so() {
        for balance in [Balance::Least, Balance::RoundRobin, Balance::Key] {
            for peers in [1_u32, 3, 64, 90] {
                let mut lab = lab(balance, 50);
                for slot in 0..peers {
                    let mut offering = terms(slot % 3 + 1);
                    offering.in_flight_max = slot % 4 + 1;
                    lab.serve(peer(0, slot), &offering);
                }
                let room: u32 = (0..peers).map(|slot| slot % 4 + 1).sum();
                let mut given = 0;
                // Of many, only some are looked at for one call: the last room may be found by a later one.
                for nth in 0..20 * room {
                    given += u32::from(lab.call(Some(&nth.to_be_bytes())).is_some());
                }
                assert_eq!(given, room, "{peers} by {balance:?}");
                let full = lab.pick(Some(b"key"));
                let Verdict::Full(set) = full else {
                    panic!("{full:?}");
                };
                assert_eq!(lab.serving.pop_moved(), None);
                lab.serving.set_waiting(set, true);
                let (&slot, _) = lab.open.iter().nth(room as usize / 2).unwrap();
                lab.end(slot, Ending::Answered, 0);
                assert_eq!(lab.serving.pop_moved(), Some(set));
                assert_eq!(lab.serving.pop_moved(), None);
                lab.serving.set_waiting(set, false);
            }
        }
    }
}
