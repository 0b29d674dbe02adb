//! Lines of a queue's members, linked through the members themselves: whoever is in one leaves it from anywhere at no
//! cost that grows with the others.

use slab::Slab;

use super::ledger::MemberKey;
use super::members::Member;

/// How many lines a member may stand in.
pub(crate) const LINES: usize = 4;

/// No member: the end of a line.
const NONE: MemberKey = MemberKey::MAX;

/// A line. Which one, of the places that each member has.
#[derive(Debug)]
pub(crate) struct Line<const WHICH: usize> {
    first: MemberKey,
    last: MemberKey,
    len: usize,
}

/// A member's place in one line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    is_in: bool,
    before: MemberKey,
    behind: MemberKey,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            is_in: false,
            before: NONE,
            behind: NONE,
        }
    }
}

impl<const WHICH: usize> Default for Line<WHICH> {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
            len: 0,
        }
    }
}

impl<const WHICH: usize> Line<WHICH> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn first(&self) -> Option<MemberKey> {
        (self.first != NONE).then_some(self.first)
    }

    /// Who stands behind a member that stands here.
    pub(crate) fn behind(&self, members: &Slab<Member>, key: MemberKey) -> Option<MemberKey> {
        let behind = members[key as usize].places[WHICH].behind;
        (behind != NONE).then_some(behind)
    }

    /// Whether a member stands here.
    pub(crate) fn has(&self, members: &Slab<Member>, key: MemberKey) -> bool {
        members[key as usize].places[WHICH].is_in
    }

    /// Sees to it that a member stands here, behind all others if it did not.
    pub(crate) fn push(&mut self, members: &mut Slab<Member>, key: MemberKey) {
        if self.has(members, key) {
            return;
        }
        members[key as usize].places[WHICH] = Place {
            is_in: true,
            before: self.last,
            behind: NONE,
        };
        match self.last {
            NONE => self.first = key,
            last => members[last as usize].places[WHICH].behind = key,
        }
        self.last = key;
        self.len += 1;
    }

    /// Sees to it that a member does not stand here.
    pub(crate) fn take_out(&mut self, members: &mut Slab<Member>, key: MemberKey) {
        let Place {
            is_in,
            before,
            behind,
        } = std::mem::take(&mut members[key as usize].places[WHICH]);
        if !is_in {
            return;
        }
        match before {
            NONE => self.first = behind,
            before => members[before as usize].places[WHICH].behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => members[behind as usize].places[WHICH].before = before,
        }
        self.len -= 1;
    }
}
