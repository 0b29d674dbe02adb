//! [`crate::routes::Balance::RoundRobin`]: one after the other, each as often as its weight says.

use super::health::WHOLE;
use super::pick::View;
use super::set::Set;
use crate::limits::PICK_SCAN_MAX;

impl View<'_> {
    /// Smooth weighted round robin: each is owed its weight a call, and who is owed most pays for all of them.
    pub(super) fn next_in_turn(&mut self, set: &mut Set) -> Option<u32> {
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
    pub(super) fn next_in_turn_of_many(&mut self, set: &mut Set) -> Option<u32> {
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
}
