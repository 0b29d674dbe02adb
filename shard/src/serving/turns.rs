//! [`crate::routes::Balance::RoundRobin`]: one after the other, each as often as its weight says.

use super::health::WHOLE;
use super::pick::View;
use super::set::Set;
use crate::limits::PICK_SCAN_MAX;

impl View<'_> {
    pub(super) fn next_in_turn(&mut self, set: &mut Set) -> Option<u32> {
        let near = set.table.near;
        let parts = [(0, near), (near, set.table.ready.len())];
        if set.table.is_even {
            (0..parts.len()).find_map(|which| self.next_of_even(set, which, parts[which]))
        } else {
            parts.into_iter().find_map(|part| self.next_by_weight(set, part))
        }
    }

    /// One after the other.
    fn next_of_even(&mut self, set: &mut Set, which: usize, (from, to): (usize, usize)) -> Option<u32> {
        let mut coming_back = None;
        for _ in from..to {
            let turn = &mut set.turns[which];
            if !(from..to).contains(turn) {
                *turn = from;
            }
            let server = set.members[set.table.ready[*turn] as usize].server;
            *turn += 1;
            if self.takes_part(server) {
                return Some(server);
            }
            if self.takes(server) {
                coming_back = Some(server);
            }
        }
        coming_back
    }

    /// Smooth weighted round robin: each is owed its weight a call, and who is owed most pays for all of them.
    fn next_by_weight(&mut self, set: &mut Set, (from, to): (usize, usize)) -> Option<u32> {
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
        let (at, _) = best?;
        set.members[at].owed -= owed_all;
        Some(set.members[at].server)
    }

    /// One after the other; each visit a peer is owed its weight, and is given a call when that makes the heaviest's.
    pub(super) fn next_in_turn_of_many(&mut self, set: &mut Set) -> Option<u32> {
        self.next_among(set, 0).or_else(|| self.next_among(set, 1))
    }

    /// In this gateway's zone, 0, or out of it, 1.
    fn next_among(&mut self, set: &mut Set, which: usize) -> Option<u32> {
        let (from, to) = [(0, set.near), (set.near, set.fit)][which];
        let due = i64::from(set.heaviest) * WHOLE as i64;
        let turn = &mut set.turns[which];
        let mut best: Option<(usize, i64)> = None;
        let mut ejected = None;
        for _ in 0..PICK_SCAN_MAX.min(to - from) {
            if !(from..to).contains(turn) {
                *turn = from;
            }
            let at = *turn;
            *turn += 1;
            let member = &mut set.members[at];
            if !self.takes(member.server) {
                continue;
            }
            let health = &self.servers[member.server as usize].health;
            if health.is_ejected(self.now_us) {
                ejected.get_or_insert(at);
                continue;
            }
            member.owed += i64::from(member.weight) * health.share(self.now_us) as i64;
            if best.is_none_or(|(_, most)| member.owed > most) {
                best = Some((at, member.owed));
            }
            if member.owed >= due {
                break;
            }
        }
        if let Some((at, _)) = best {
            set.members[at].owed -= due; // perhaps before its time
        }
        let at = best.map(|(at, _)| at).or(ejected)?;
        Some(set.members[at].server)
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::PICK_SCAN_MAX;
    use crate::routes::Balance;
    use crate::serving::lab::{Lab, all_by, assert_near, peer, terms};

    #[test]
    fn weights_are_kept_exactly_and_smoothly() {
        let mut lab = Lab::new(1);
        lab.serving.set_routes(all_by(Balance::RoundRobin));
        let [a, b, c] =
            [(1, 5), (2, 1), (3, 1)].map(|(slot, weight)| lab.serve(peer(0, slot), &terms(weight)));
        for _ in 0..3 {
            let order: Vec<_> = (0..7).map(|_| lab.call(None).unwrap().0).collect();
            assert_eq!(order, [a, a, b, a, c, a, a]);
        }
    }

    #[test]
    fn any_weights_are_exact_in_each_round() {
        let mut lab = Lab::new(2);
        lab.serving.set_routes(all_by(Balance::RoundRobin));
        let weights: Vec<u32> = (0..PICK_SCAN_MAX as u32)
            .map(|_| (lab.random.next() % 9 + 1) as u32)
            .collect();
        let servers: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(slot, &weight)| lab.serve(peer(0, slot as u32), &terms(weight)))
            .collect();
        let round: u32 = weights.iter().sum();
        for _ in 0..3 {
            let got = lab.shares(round as usize, 0);
            for (server, weight) in servers.iter().zip(&weights) {
                assert_eq!(got[server], *weight as usize);
            }
        }
    }

    #[test]
    fn many_take_turns_too() {
        let mut lab = Lab::new(3);
        lab.serving.set_routes(all_by(Balance::RoundRobin));
        let equal = lab.serve_all(150);
        for round in 0..3 {
            let got = lab.shares(150, 0);
            assert!(equal.iter().all(|server| got[server] == 1), "{round}");
        }
        let mut lab = Lab::new(4);
        lab.serving.set_routes(all_by(Balance::RoundRobin));
        let weight = |slot: u32| slot % 4 + 1;
        let servers: Vec<_> = (0..200)
            .map(|slot| lab.serve(peer(0, slot), &terms(weight(slot))))
            .collect();
        let got = lab.shares(50_000, 0);
        for (slot, server) in servers.iter().enumerate() {
            assert_near(got[server], 100 * weight(slot as u32) as usize, 2);
        }
    }

    #[test]
    fn who_has_no_room_is_passed_over() {
        let mut lab = Lab::new(5);
        lab.serving.set_routes(all_by(Balance::RoundRobin));
        let mut small = terms(1);
        small.in_flight_max = 1;
        let small = lab.serve(peer(0, 1), &small);
        let large = lab.serve(peer(0, 2), &terms(1));
        let got: Vec<_> = (0..5).map(|_| lab.call(None).unwrap().0).collect();
        assert_eq!(got.iter().filter(|&&server| server == small).count(), 1);
        assert_eq!(got.iter().filter(|&&server| server == large).count(), 4);
    }
}
