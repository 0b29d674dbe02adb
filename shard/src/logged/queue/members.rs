//! The members of a work queue as a partition's owner sees them: how many events each may still get from this core, and
//! whose turn it is.
//!
//! A member takes so many events at a time over all owners of the queue's partitions. Its home core shares that number out:
//! each owner has an **allowance**, and all allowances of a member together are never more than it takes. What an event
//! frees is used here again up to the part that this owner may **keep**; beyond it goes back to the home core, which gives it
//! to owners that are short.

use slab::Slab;

use super::ledger::MemberKey;
use super::letters::MemberName;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: MemberName,
    /// How many events it takes at a time, over all owners.
    in_flight: u32,
    /// How many of them may be from this core; those that it has are counted.
    allowance: u32,
    /// How much of the allowance stays here when events are done.
    keep: u32,
    /// How many events it has from this core.
    used: u32,
    /// Its connection takes nothing at the moment.
    rests: bool,
    /// To be given back to its home core.
    spare: u32,
    /// Its home core was told that this owner could use more.
    is_short: bool,
    /// Its place in the round.
    seat: usize,
}

impl Member {
    fn room(&self) -> u32 {
        if self.rests {
            return 0;
        }
        self.allowance.saturating_sub(self.used)
    }
}

/// What a member's home core is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) member: MemberKey,
    /// So much less is its allowance.
    pub(crate) spare: u32,
    /// Whether more could be used.
    pub(crate) short: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Members {
    members: Slab<Member>,
    round: Vec<MemberKey>,
    /// Whose turn it is, in the round.
    turn: usize,
    /// What all can be given now.
    room: usize,
}

impl Members {
    pub(crate) fn add(&mut self, name: MemberName, in_flight: u32, allowance: u32) -> MemberKey {
        let key = self.members.insert(Member {
            name,
            in_flight,
            allowance,
            keep: allowance,
            used: 0,
            rests: false,
            spare: 0,
            is_short: false,
            seat: self.round.len(),
        }) as MemberKey;
        self.round.push(key);
        self.room += allowance as usize;
        key
    }

    pub(crate) fn remove(&mut self, key: MemberKey) {
        let member = self.members.remove(key as usize);
        self.room -= member.room() as usize;
        self.round.swap_remove(member.seat);
        if let Some(&moved) = self.round.get(member.seat) {
            self.members[moved as usize].seat = member.seat;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn get(&self, key: MemberKey) -> &Member {
        &self.members[key as usize]
    }

    /// How many events could be given now.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Its connection takes nothing more at the moment, or does again.
    pub(crate) fn rest(&mut self, key: MemberKey, rests: bool) {
        self.change(key, |member| member.rests = rests);
    }

    /// Its home core grants so much more, and says how much may be kept from now on.
    pub(crate) fn grant(&mut self, key: MemberKey, grant: u32, keep: u32) {
        self.change(key, |member| {
            member.allowance = member.allowance.saturating_add(grant).min(member.in_flight);
            member.keep = keep;
        });
    }

    /// It has got so many events.
    pub(crate) fn take(&mut self, key: MemberKey, events: u32) {
        self.change(key, |member| member.used += events);
    }

    /// It has so many events less.
    pub(crate) fn free(&mut self, key: MemberKey, events: u32) {
        self.change(key, |member| {
            debug_assert!(member.used >= events);
            member.used -= events;
            // What is beyond its part is for other owners to use, even if there is work here.
            let back = member.allowance.saturating_sub(member.keep).min(events);
            member.allowance -= back;
            member.spare += back;
        });
    }

    /// Deals so many events, in contiguous pieces as even as the members' room allows: calls `to` with each piece's member
    /// and size. There must be room for all.
    pub(crate) fn deal(&mut self, events: usize, mut to: impl FnMut(MemberKey, usize)) {
        debug_assert!(events <= self.room);
        let mut left = events.min(self.room);
        let mut level = 0; // what each has got in earlier passes
        while left > 0 {
            let open = |member: &Member| member.room() as usize > level;
            let seats = self.members.iter().filter(|(_, member)| open(member)).count();
            let share = left.div_ceil(seats.max(1));
            for nth in 0..self.round.len() {
                let seat = (self.turn + nth) % self.round.len();
                let key = self.round[seat];
                let room = (self.members[key as usize].room() as usize).saturating_sub(level);
                let piece = room.min(share).min(left);
                if piece > 0 {
                    to(key, piece);
                    left -= piece;
                    if left == 0 {
                        self.turn = (seat + 1) % self.round.len();
                        break;
                    }
                }
            }
            level += share;
        }
    }

    /// Somebody who has room, in turn, and not this one unless nobody else is there with room.
    pub(crate) fn another(&mut self, than: MemberKey) -> Option<MemberKey> {
        if self.room == 0 {
            return None;
        }
        for nth in 0..self.round.len() {
            let seat = (self.turn + nth) % self.round.len();
            let key = self.round[seat];
            if key != than && self.members[key as usize].room() > 0 {
                self.turn = (seat + 1) % self.round.len();
                return Some(key);
            }
        }
        Some(than)
    }

    /// Everything is given that could be. `is_missed`: something was given, or is left; who had no room for it has missed it.
    /// What the home cores are to be told.
    pub(crate) fn settle(&mut self, is_missed: bool, mut tell: impl FnMut(Told)) {
        for (key, member) in &mut self.members {
            let over = member.allowance.saturating_sub(member.keep.max(member.used));
            if over > 0 {
                member.allowance -= over;
                member.spare += over;
                if !member.rests {
                    self.room -= over as usize;
                }
            }
            // Once short, it is so until there is more than it needs: not to say it anew with each event.
            let needs_none =
                over > 0 || member.rests || member.room() > 0 || member.allowance == member.in_flight;
            let is_short = !needs_none && (member.is_short || is_missed);
            if member.spare > 0 || member.is_short != is_short {
                member.is_short = is_short;
                tell(Told {
                    member: key as MemberKey,
                    spare: std::mem::take(&mut member.spare),
                    short: is_short,
                });
            }
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = MemberKey> + use<'_> {
        self.round.iter().copied()
    }

    fn change(&mut self, key: MemberKey, change: impl FnOnce(&mut Member)) {
        let member = &mut self.members[key as usize];
        self.room -= member.room() as usize;
        change(member);
        self.room += member.room() as usize;
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::Id;

    use super::*;
    use crate::peer::PeerId;

    fn members(allowances: &[u32]) -> Members {
        let mut members = Members::default();
        for (slot, &allowance) in allowances.iter().enumerate() {
            let peer = PeerId {
                slot: slot as u32,
                generation: 0,
                core: 0,
            };
            let name = MemberName {
                peer,
                sub: Id([slot as u8; 16]),
                serial: 0,
            };
            members.add(name, allowance, allowance);
        }
        members
    }

    fn dealt(members: &mut Members, events: usize) -> Vec<usize> {
        let mut got = vec![0; members.members.len()];
        members.deal(events, |key, piece| got[key as usize] += piece);
        for (key, &events) in got.iter().enumerate() {
            members.take(key as MemberKey, events as u32);
        }
        got
    }

    #[test]
    fn everybody_gets_as_much_as_the_others_unless_it_has_less_room() {
        assert_eq!(dealt(&mut members(&[10, 10, 10]), 9), [3, 3, 3]);
        assert_eq!(dealt(&mut members(&[2, 10, 10]), 12), [2, 5, 5]);
        assert_eq!(dealt(&mut members(&[0, 1, 100]), 50), [0, 1, 49]);
        assert_eq!(dealt(&mut members(&[4, 4]), 8), [4, 4]);
        let mut three = members(&[100, 100, 100]);
        let mut sum = [0; 3];
        for _ in 0..30 {
            for (sum, got) in sum.iter_mut().zip(dealt(&mut three, 1)) {
                *sum += got;
            }
        }
        assert_eq!(sum, [10, 10, 10], "whose turn it is goes round");
        assert_eq!(three.room(), 270);
    }

    #[test]
    fn what_is_beyond_its_part_goes_back() {
        let mut members = members(&[10]);
        members.take(0, 8);
        members.grant(0, 0, 3);
        let mut told = Vec::new();
        members.settle(false, |news| told.push(news));
        assert_eq!(told.pop().map(|told| told.spare), Some(2), "what is not in use");
        assert_eq!(members.room(), 0);
        members.free(0, 6);
        members.settle(true, |news| told.push(news));
        assert_eq!(
            told.pop(),
            Some(Told {
                member: 0,
                spare: 5,
                short: false
            })
        );
        assert_eq!(members.room(), 1, "two in use of the three that it keeps");
        members.take(0, 1);
        members.settle(true, |news| told.push(news));
        members.settle(false, |news| told.push(news));
        let short = Told {
            member: 0,
            spare: 0,
            short: true,
        };
        assert_eq!(told, [short], "it is said once");
    }

    #[test]
    fn another_one_is_somebody_else_if_somebody_else_has_room() {
        let mut members = members(&[1, 1]);
        assert_eq!(members.another(0), Some(1));
        assert_eq!(members.another(0), Some(1));
        members.take(1, 1);
        assert_eq!(members.another(0), Some(0));
        members.rest(0, true);
        assert_eq!(members.another(0), None);
    }
}
