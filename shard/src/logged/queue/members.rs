//! The members of a work queue as a partition's owner sees them: how many events each may still get from this core, and
//! whose turn it is.
//!
//! A member takes so many events at a time over all owners of the queue's partitions. Its home core shares that number out:
//! each owner has an **allowance**, and all allowances of a member together are never more than it takes. What an event
//! frees is used here again up to the part that this owner may **keep**; beyond it goes back to the home core, which gives it
//! to owners that are short.
//!
//! A queue may have a hundred thousand members that do one job at a time, so nothing here looks at all of them: whoever
//! has room stands in a line, as do those that have changed since the home cores were told, and those that could use more.

use slab::Slab;

use super::ledger::MemberKey;
use super::letters::MemberName;
use super::line::{LINES, Line, Place};

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
    /// What it was given of this core's partitions: which of the queue's lots, and the offset. Those that are done or with
    /// others by now are thrown out when they are more than the others.
    held: Vec<(u16, u64)>,
    /// The piece that is being made for it.
    pub(crate) draft: u32,
    pub(crate) places: [Place; LINES],
}

impl Member {
    fn room(&self) -> u32 {
        if self.rests {
            return 0;
        }
        self.allowance.saturating_sub(self.used)
    }

    /// Whether only a larger allowance would get it more events.
    fn wants(&self) -> bool {
        !self.rests && self.room() == 0 && self.allowance < self.in_flight
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
    /// Those with room; whose turn it is stands in front.
    open: Line<0>,
    /// Those that may have changed since [`Members::settle`].
    changed: Line<1>,
    /// Those that could use more, which their home cores do not know: they have missed nothing yet.
    wanting: Line<2>,
    /// Those with room, of which nothing goes back while something is read that is to be given.
    reading: Line<3>,
    /// What all can be given now.
    room: usize,
    /// How many members were looked at, one by one.
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

impl Members {
    pub(crate) fn add(&mut self, name: MemberName, in_flight: u32, allowance: u32) -> MemberKey {
        let key = self.members.insert(Member {
            name,
            in_flight,
            allowance: 0,
            keep: 0,
            used: 0,
            rests: false,
            spare: 0,
            is_short: false,
            held: Vec::new(),
            draft: 0,
            places: Default::default(),
        }) as MemberKey;
        self.grant(key, allowance, allowance);
        key
    }

    pub(crate) fn remove(&mut self, key: MemberKey) {
        self.open.take_out(&mut self.members, key);
        self.changed.take_out(&mut self.members, key);
        self.wanting.take_out(&mut self.members, key);
        self.reading.take_out(&mut self.members, key);
        self.room -= self.members.remove(key as usize).room() as usize;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What a member was given, and may have still: which of the queue's lots, and the offset.
    pub(crate) fn take_held(&mut self, key: MemberKey) -> Vec<(u16, u64)> {
        std::mem::take(&mut self.members[key as usize].held)
    }

    /// A member was given this one.
    pub(crate) fn hold(&mut self, key: MemberKey, lot: usize, offset: u64) {
        self.members[key as usize].held.push((lot as u16, offset));
    }

    pub(crate) fn get_mut(&mut self, key: MemberKey) -> &mut Member {
        &mut self.members[key as usize]
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

    /// It has got so many events: now it is the others' turn.
    pub(crate) fn take(&mut self, key: MemberKey, events: u32) {
        self.open.take_out(&mut self.members, key);
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
    /// and size. There must be room for all. It is looked at no more members than there are events, some times over.
    pub(crate) fn deal(&self, events: usize, mut to: impl FnMut(MemberKey, usize)) {
        debug_assert!(events <= self.room);
        let mut left = events.min(self.room);
        let mut level = 0; // what each has got in earlier passes
        let mut seats = self.open.len(); // who has room beyond that
        while left > 0 {
            let share = left.div_ceil(seats.max(1));
            seats = 0;
            let mut next = self.open.first();
            while let Some(key) = next.filter(|_| left > 0) {
                next = self.open.behind(&self.members, key);
                #[cfg(test)]
                self.looks.update(|looks| looks + 1);
                let room = (self.members[key as usize].room() as usize).saturating_sub(level);
                let piece = room.min(share).min(left);
                if piece > 0 {
                    to(key, piece);
                    left -= piece;
                }
                seats += usize::from(room > share);
            }
            level += share;
        }
    }

    /// Somebody who has room, in turn, and not this one unless nobody else is there with room.
    pub(crate) fn another(&self, than: MemberKey) -> Option<MemberKey> {
        let first = self.open.first()?;
        if first != than {
            return Some(first);
        }
        Some(self.open.behind(&self.members, first).unwrap_or(first))
    }

    /// Everything is given that could be. `is_missed`: something was given, or is left; who had no room for it has missed it.
    /// What the home cores are to be told. `reads`: something is read that is to be given; until it has come, no room goes
    /// back that could be used for it. Else two owners could hand the same room to and fro, each without it when its read
    /// is done. `is_with`: whether a member has an event of one of the queue's lots.
    pub(crate) fn settle(
        &mut self,
        is_missed: bool,
        reads: bool,
        is_with: impl Fn(MemberKey, usize, u64) -> bool,
        mut tell: impl FnMut(Told),
    ) {
        let mut next = self.wanting.first().filter(|_| is_missed);
        while let Some(key) = next {
            next = self.wanting.behind(&self.members, key);
            if !self.changed.has(&self.members, key) {
                self.look(key, is_missed, reads, &mut tell);
            }
        }
        while let Some(key) = self.reading.first().filter(|_| !reads) {
            self.look(key, is_missed, reads, &mut tell);
        }
        while let Some(key) = self.changed.first() {
            self.changed.take_out(&mut self.members, key);
            self.look(key, is_missed, reads, &mut tell);
            let member = &mut self.members[key as usize];
            if member.held.len() > 2 * member.used as usize + 4 {
                // It is there once for each time that it was given.
                member.held.sort_unstable();
                member.held.dedup();
                member
                    .held
                    .retain(|&(lot, offset)| is_with(key, usize::from(lot), offset));
                member.held.shrink_to(2 * member.held.len() + 4);
            }
        }
    }

    /// Tells a member's home core what it does not know.
    fn look(&mut self, key: MemberKey, is_missed: bool, reads: bool, tell: &mut impl FnMut(Told)) {
        #[cfg(test)]
        self.looks.update(|looks| looks + 1);
        let member = &mut self.members[key as usize];
        let waits = reads && member.room() > 0;
        let mut over = member.allowance.saturating_sub(member.keep.max(member.used));
        if waits {
            over = 0;
        }
        if over > 0 {
            let before = member.room();
            member.allowance -= over;
            member.spare += over;
            self.room -= (before - member.room()) as usize;
        }
        // Once short, it is so until there is more than it needs: not to say it anew with each event.
        let is_short = if waits {
            member.is_short
        } else {
            over == 0 && member.wants() && (member.is_short || is_missed)
        };
        if member.spare > 0 || member.is_short != is_short {
            member.is_short = is_short;
            tell(Told {
                member: key,
                spare: std::mem::take(&mut member.spare),
                short: is_short,
            });
        }
        let (has_room, wants) = (member.room() > 0, member.wants());
        if !has_room {
            self.open.take_out(&mut self.members, key);
        }
        if waits {
            self.reading.push(&mut self.members, key);
        } else {
            self.reading.take_out(&mut self.members, key);
        }
        if wants && !is_short {
            self.wanting.push(&mut self.members, key);
        } else {
            self.wanting.take_out(&mut self.members, key);
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = MemberKey> + use<'_> {
        self.members.iter().map(|(key, _)| key as MemberKey)
    }

    fn change(&mut self, key: MemberKey, change: impl FnOnce(&mut Member)) {
        let member = &mut self.members[key as usize];
        self.room -= member.room() as usize;
        change(member);
        self.room += member.room() as usize;
        if member.room() > 0 {
            self.open.push(&mut self.members, key);
        } else {
            self.open.take_out(&mut self.members, key);
        }
        self.changed.push(&mut self.members, key);
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

    /// Whatever somebody was given it has still.
    fn is_with(_: MemberKey, _: usize, _: u64) -> bool {
        true
    }

    fn dealt(members: &mut Members, events: usize) -> Vec<usize> {
        let mut got = vec![0; members.members.len()];
        let mut pieces = Vec::new();
        members.deal(events, |key, piece| pieces.push((key, piece)));
        for (key, piece) in pieces {
            members.take(key, piece as u32);
            got[key as usize] += piece;
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
        members.settle(false, false, is_with, |news| told.push(news));
        assert_eq!(told.pop().map(|told| told.spare), Some(2), "what is not in use");
        assert_eq!(members.room(), 0);
        members.free(0, 6);
        members.settle(true, false, is_with, |news| told.push(news));
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
        members.settle(true, false, is_with, |news| told.push(news));
        members.settle(false, false, is_with, |news| told.push(news));
        let short = Told {
            member: 0,
            spare: 0,
            short: true,
        };
        assert_eq!(told, [short], "it is said once");
    }

    #[test]
    fn what_a_job_costs_does_not_depend_on_how_many_members_there_are() {
        let cost_of_a_job = |count: u32| {
            let mut members = members(&vec![2; count as usize]);
            // They could have one more each, of other owners.
            for key in 0..count {
                members.grant(key, 0, 1);
            }
            let mut told = 0;
            members.settle(false, false, is_with, |_| told += 1);
            members.deal(count as usize, |_, _| ());
            (0..count).for_each(|key| members.take(key, 1));
            members.settle(true, false, is_with, |_| told += 1);
            assert_eq!(told, 2 * count, "what is spare, and that they are short");
            members.looks.set(0);
            for nth in 0..100 {
                let key = nth % count;
                members.free(key, 1);
                members.deal(1, |to, _| assert_eq!(to, key));
                members.take(key, 1);
                members.settle(true, false, is_with, |told| panic!("{told:?} again"));
                members.free(key, 1);
                assert_eq!(members.another(key), Some(key), "nobody else has room");
                members.take(key, 1);
                members.settle(true, false, is_with, |told| panic!("{told:?} again"));
            }
            members.looks.get()
        };
        assert_eq!(cost_of_a_job(10_000), cost_of_a_job(1));
    }

    #[test]
    fn what_a_member_is_given_again_is_remembered_once() {
        let mut members = members(&[4]);
        for _ in 0..100 {
            members.take(0, 4);
            (1..=4).for_each(|offset| members.hold(0, 0, offset));
            members.settle(true, false, is_with, |_| ());
            assert!(members.get(0).held.len() <= 2 * 4 + 4);
            members.free(0, 4);
        }
    }

    #[test]
    fn room_stays_while_what_it_is_for_is_read() {
        let mut members = members(&[10]);
        members.take(0, 8);
        members.grant(0, 0, 3);
        members.settle(true, true, is_with, |told| panic!("{told:?}"));
        members.free(0, 1);
        let mut told = Vec::new();
        members.settle(true, true, is_with, |news| told.push(news.spare));
        assert_eq!(
            (&told[..], members.room()),
            (&[1][..], 2),
            "but what was done is for others"
        );
        members.settle(false, false, is_with, |news| told.push(news.spare));
        assert_eq!((&told[..], members.room()), (&[1, 2][..], 0));
    }

    #[test]
    fn whoever_goes_leaves_all_lines() {
        let mut members = members(&[1, 1, 1, 1]);
        members.remove(1);
        members.remove(3);
        assert_eq!(members.room(), 2);
        let mut order = Vec::new();
        members.deal(2, |key, _| order.push(key));
        assert_eq!(order, [0, 2]);
        members.settle(false, false, is_with, |told| panic!("{told:?}"));
        members.remove(0);
        members.remove(2);
        assert_eq!((members.room(), members.another(0)), (0, None));
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
