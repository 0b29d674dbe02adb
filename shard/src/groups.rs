//! Groups at qos 0: each event goes to one member, over all cores.
//!
//! The publisher's core cuts a run into contiguous pieces over all seats: one for each member here, and as many for
//! each other core as it has members. A piece for another core goes there in one letter, and that core cuts it again
//! over its members. Where the dealing begins moves on with each run, so every member gets work.

use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::{Index, IndexMut, Range};
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::envelope::compact::{ANSWER_HEAD_BYTES, write_answer_head};
use fluxar_protocol::frame::{self, PREFIX_BYTES};
use fluxar_protocol::{Id, Kind};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use crate::letter::GroupHandle;

/// Longest `subscribe` in front of a member's piece: its head, `{"run": u32}`, no payload, no error.
pub(crate) const GROUP_HEADER_BYTES_MAX: usize = ANSWER_HEAD_BYTES + (1 + 4 + 5) + 1 + 1;

/// One name with one pattern: its members on this core, and how many each other core has.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pattern: u32,
    pub(crate) name: Arc<str>,
    serial: u32,
    /// Subscriptions of this core's connections that keep up.
    pub(crate) members: Vec<u32>,
    /// Those whose connection has no room: they get events only when nobody else could.
    pub(crate) resting: Vec<u32>,
    elsewhere: Vec<Elsewhere>,
    /// Where the next dealing begins.
    turn: usize,
    /// How many members the other cores know of.
    pub(crate) told: u32,
    /// It waits for that to be told to them.
    pub(crate) is_queued: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Elsewhere {
    pub(crate) core: u16,
    pub(crate) handle: GroupHandle,
    members: u32,
}

/// Who gets a piece.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seat {
    /// The subscription of a member on this core.
    Here(u32),
    /// Members of another core.
    Elsewhere(Elsewhere),
}

impl Group {
    fn is_idle(&self) -> bool {
        self.members.is_empty() && self.resting.is_empty() && self.elsewhere.is_empty() && !self.is_queued
    }

    /// The members of this core, rested or not: as many as other cores are told of.
    pub(crate) fn members_here(&self) -> usize {
        self.members.len() + self.resting.len()
    }

    /// The list in which a member of this core has its seat.
    pub(crate) fn seats(&mut self, resting: bool) -> &mut Vec<u32> {
        if resting {
            &mut self.resting
        } else {
            &mut self.members
        }
    }

    /// Sets how many members another core has, and how it finds the group.
    pub(crate) fn set_elsewhere(&mut self, core: u16, handle: GroupHandle, members: u32) {
        self.elsewhere.retain(|other| other.core != core);
        if members > 0 {
            self.elsewhere.push(Elsewhere {
                core,
                handle,
                members,
            });
        }
    }

    /// Deals so many events to all members everywhere.
    pub(crate) fn deal(&mut self, events: usize, mut to: impl FnMut(Seat, Range<usize>)) {
        let members = if self.members.is_empty() && self.elsewhere.is_empty() {
            &self.resting
        } else {
            &self.members
        };
        let here = members.len();
        let seats = here
            + self
                .elsewhere
                .iter()
                .map(|other| other.members as usize)
                .sum::<usize>();
        let mut open: Option<(Elsewhere, Range<usize>)> = None; // neighbouring seats of one core make one piece
        deal(&mut self.turn, events, seats, |seat, range| {
            let other = if seat < here {
                None
            } else {
                at_seat(&self.elsewhere, seat - here)
            };
            match (&mut open, other) {
                (Some((core, piece)), Some(other)) if core.core == other.core => piece.end = range.end,
                (open, other) => {
                    if let Some((core, piece)) = open.take() {
                        to(Seat::Elsewhere(core), piece);
                    }
                    match other {
                        Some(other) => *open = Some((other, range)),
                        None => to(Seat::Here(members[seat]), range),
                    }
                }
            }
        });
        if let Some((core, piece)) = open {
            to(Seat::Elsewhere(core), piece);
        }
    }

    /// Deals so many events to the members of this core.
    pub(crate) fn deal_here(&mut self, events: usize, mut to: impl FnMut(u32, Range<usize>)) {
        let members = if self.members.is_empty() {
            &self.resting
        } else {
            &self.members
        };
        deal(&mut self.turn, events, members.len(), |seat, range| {
            to(members[seat], range)
        });
    }
}

fn at_seat(elsewhere: &[Elsewhere], mut seat: usize) -> Option<Elsewhere> {
    for other in elsewhere {
        match seat.checked_sub(other.members as usize) {
            Some(further) => seat = further,
            None => return Some(*other),
        }
    }
    None
}

/// Cuts `events` into contiguous pieces, as even as can be, for consecutive seats from `turn` on, round the table.
fn deal(turn: &mut usize, events: usize, seats: usize, mut to: impl FnMut(usize, Range<usize>)) {
    if seats == 0 {
        return;
    }
    let (each, more) = (events / seats, events % seats);
    let first = *turn % seats;
    let mut from = 0;
    for nth in 0..events.min(seats) {
        let until = from + each + usize::from(nth < more);
        to((first + nth) % seats, from..until);
        from = until;
    }
    *turn = (first + more) % seats; // who got one more than the others is behind the next one's first
}

/// The groups that this core knows.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Slab<Group>,
    by_name: HashTable<u32>,
    hasher: FixedState,
    serial: u32,
}

impl Groups {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            groups: Slab::new(),
            by_name: HashTable::new(),
            hasher: hasher.clone(),
            serial: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// What names this group, also to other cores, and never another one.
    pub(crate) fn handle(&self, at: u32) -> GroupHandle {
        GroupHandle {
            at,
            serial: self.groups[at as usize].serial,
        }
    }

    pub(crate) fn by_handle(&mut self, handle: GroupHandle) -> Option<&mut Group> {
        self.groups
            .get_mut(handle.at as usize)
            .filter(|group| group.serial == handle.serial)
    }

    pub(crate) fn find(&self, pattern: u32, name: &str) -> Option<u32> {
        let is_it = |&at: &u32| {
            let group = &self.groups[at as usize];
            group.pattern == pattern && &*group.name == name
        };
        self.by_name
            .find(hash(&self.hasher, pattern, name), is_it)
            .copied()
    }

    /// A group that is not there yet.
    pub(crate) fn add(&mut self, pattern: u32, name: &str, turn: u64) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let at = self.groups.insert(Group {
            pattern,
            name: name.into(),
            serial: self.serial,
            members: Vec::new(),
            resting: Vec::new(),
            elsewhere: Vec::new(),
            turn: turn as usize,
            told: 0,
            is_queued: false,
        }) as u32;
        let Self {
            groups,
            by_name,
            hasher,
            ..
        } = self;
        by_name.insert_unique(hash(hasher, pattern, name), at, |&at| {
            let group = &groups[at as usize];
            hash(hasher, group.pattern, &group.name)
        });
        at
    }

    /// Removes the group if nothing holds it any more; whether it did.
    pub(crate) fn release(&mut self, at: u32) -> bool {
        let group = &self.groups[at as usize];
        if !group.is_idle() {
            return false;
        }
        if let Ok(named) = self
            .by_name
            .find_entry(hash(&self.hasher, group.pattern, &group.name), |&other| {
                other == at
            })
        {
            named.remove();
        }
        self.groups.remove(at as usize);
        true
    }
}

impl Index<u32> for Groups {
    type Output = Group;

    fn index(&self, at: u32) -> &Group {
        &self.groups[at as usize]
    }
}

impl IndexMut<u32> for Groups {
    fn index_mut(&mut self, at: u32) -> &mut Group {
        &mut self.groups[at as usize]
    }
}

fn hash(hasher: &FixedState, pattern: u32, name: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    pattern.hash(&mut hasher);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The frame for one member: prefix, the `subscribe` that says how many events follow, the events as they came.
pub(crate) fn frame_piece(fresh: Id, sub: Id, count: u32, events: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(PREFIX_BYTES + GROUP_HEADER_BYTES_MAX + events.len());
    frame.extend_from_slice(&[0; PREFIX_BYTES]);
    write_answer_head(Kind::Subscribe, fresh, sub, &mut frame);
    frame.extend_from_slice(b"\xa1\x63run");
    let wide = count.to_be_bytes();
    match count {
        0..=23 => frame.push(count as u8),
        24..=0xff => frame.extend_from_slice(&[0x18, wide[3]]),
        0x100..=0xffff => frame.extend_from_slice(&[0x19, wide[2], wide[3]]),
        _ => {
            frame.push(0x1a);
            frame.extend_from_slice(&wide);
        }
    }
    frame.extend_from_slice(&[0xf6, 0xf6]);
    frame.extend_from_slice(events);
    let prefix = frame::prefix(frame.len() - PREFIX_BYTES);
    frame[..PREFIX_BYTES].copy_from_slice(&prefix);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dealing_is_whole_contiguous_and_fair() {
        for seats in 1..9 {
            let mut turn = 5;
            let mut got = vec![0; seats];
            for events in [1, 1, 3, 64, 7, 2, 1, 9, 1000] {
                let mut next = 0;
                deal(&mut turn, events, seats, |seat, range| {
                    assert_eq!(range.start, next);
                    next = range.end;
                    got[seat] += range.len();
                });
                assert_eq!(next, events);
                let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
                assert!(most - least <= 1, "{seats} seats: {got:?}");
            }
        }
    }

    #[test]
    fn a_core_counts_as_many_seats_as_it_has_members() {
        let mut groups = Groups::new(&FixedState::with_seed(1));
        let at = groups.add(0, "g", 0);
        let handle = groups.handle(at);
        groups[at].members.extend([10, 11]);
        groups[at].set_elsewhere(3, handle, 4);
        groups[at].set_elsewhere(1, handle, 2);
        let (mut here, mut elsewhere) = ([0; 2], [0; 4]);
        for _ in 0..8 {
            groups[at].deal(3, |seat, range| match seat {
                Seat::Here(sub) => here[sub as usize - 10] += range.len(),
                Seat::Elsewhere(other) => elsewhere[other.core as usize] += range.len(),
            });
        }
        assert_eq!((here, elsewhere), ([3, 3], [0, 6, 0, 12]));
        let mut letters = 0;
        groups[at].deal(80, |seat, _| {
            letters += usize::from(matches!(seat, Seat::Elsewhere(_)))
        });
        assert!(
            letters <= 3,
            "one letter a core, two where the dealing began: {letters}"
        );
    }
}
