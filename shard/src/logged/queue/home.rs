//! The home side of work queues: the members that are connections of this core.
//!
//! A member's queue may lie in partitions of several owners, and the member takes only so many events at a time. Its home
//! core shares that number out in **allowances**, one an owner, which together are never more. A queue in one partition has
//! one owner, which has all of it. With several, each begins with an even part; an owner that has work and no room says that
//! it is short, those that are not short give back what they do not use, and what is free goes to the short ones in turn.
//!
//! ```text
//!    Short ──> Room{keep: 0} to the others ──> Spare ──> Room{grant} to the short one
//! ```
//!
//! Owners are told when a connection takes nothing at the moment. Work that was on its way then goes back at once, and does
//! not count as given: no handler has seen it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fluxar_protocol::{Id, target};
use foldhash::fast::FixedState;
use slab::Slab;

use super::letters::{Failure, Join, Matter, MemberName, QueueLetter};
use crate::limits::{IN_FLIGHT_DEFAULT, QUEUE_ENTRIES_MAX};
use crate::log::{CursorName, owner_of, partition_of};
use crate::logged::letters::Start;
use crate::logged::pieces::Piece;
use crate::peer::PeerId;

/// What has come about for a member.
#[derive(Debug)]
pub(crate) enum News {
    /// It has joined; the queue stands at these positions.
    Accepted(Vec<(u16, u64)>),
    /// It has not joined.
    Refused(Failure),
    /// It has got work.
    Work { piece: Piece, dup: u32 },
    /// It is no member any more.
    Ended(Failure),
}

#[derive(Debug)]
struct Owner {
    core: u16,
    /// What it may have given out at a time.
    allowance: u32,
    /// What of it stays there.
    keep: u32,
    /// It said that it could use more.
    is_short: bool,
    has_joined: bool,
}

#[derive(Debug)]
struct Membership {
    name: MemberName,
    in_flight: u32,
    owners: Vec<Owner>,
    /// Which owner is given what is free first.
    turn: usize,
    /// Where the queue stood, of the owners that have answered.
    at: Vec<(u16, u64)>,
    is_accepted: bool,
    /// Its connection takes nothing at the moment.
    rests: bool,
}

/// The members among this core's connections.
#[derive(Debug)]
pub(crate) struct Memberships {
    core: u16,
    cores: u16,
    members: Slab<Membership>,
    by_name: HashMap<(PeerId, Id), u32, FixedState>,
    by_peer: HashMap<PeerId, Vec<u32>, FixedState>,
    /// The serial of the membership that is made next.
    serial: u32,
    letters: VecDeque<(u16, QueueLetter)>,
    news: VecDeque<(MemberName, News)>,
}

impl Memberships {
    pub(crate) fn new(core: u16, cores: u16, hasher: &FixedState) -> Self {
        Self {
            core,
            cores,
            members: Slab::new(),
            by_name: HashMap::with_hasher(hasher.clone()),
            by_peer: HashMap::with_hasher(hasher.clone()),
            serial: 0,
            letters: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// A connection of this core joins. Its pattern and texts were checked, and its subscription's id is new.
    pub(crate) fn join(
        &mut self,
        peer: PeerId,
        sub: Id,
        queue: Arc<CursorName>,
        start: Start,
        in_flight: u32,
        partitions: u16,
    ) {
        let in_flight = match in_flight {
            0 => IN_FLIGHT_DEFAULT,
            some => some.min(QUEUE_ENTRIES_MAX as u32),
        };
        let cores = if target::is_wild(&queue.pattern) {
            0..self.cores.min(partitions)
        } else {
            let owner = owner_of(partition_of(&queue.pattern, partitions), self.cores);
            owner..owner + 1
        };
        let name = MemberName {
            peer,
            sub,
            serial: self.serial,
        };
        self.serial = self.serial.wrapping_add(1);
        let is_sole = cores.len() == 1;
        let mut owners = Vec::with_capacity(cores.len());
        for core in cores {
            let allowance = if is_sole { in_flight } else { 0 };
            owners.push(Owner {
                core,
                allowance,
                keep: allowance,
                is_short: false,
                has_joined: false,
            });
            let join = Join {
                queue: queue.clone(),
                start: start.clone(),
                in_flight,
                allowance,
            };
            self.letters.push_back((
                core,
                QueueLetter {
                    member: name,
                    matter: Matter::Join(Box::new(join)),
                },
            ));
        }
        let key = self.members.insert(Membership {
            name,
            in_flight,
            owners,
            turn: usize::from(self.core),
            at: Vec::new(),
            is_accepted: false,
            rests: false,
        }) as u32;
        self.by_name.insert((peer, sub), key);
        self.by_peer.entry(peer).or_default().push(key);
    }

    /// A member leaves: its subscription was ended. Whether it was one.
    pub(crate) fn leave(&mut self, peer: PeerId, sub: Id) -> bool {
        let Some(&key) = self.by_name.get(&(peer, sub)) else {
            return false;
        };
        let is_void = !self.members[key as usize].is_accepted;
        self.remove(key, None, is_void);
        true
    }

    /// A connection takes nothing more at the moment, or does again.
    pub(crate) fn set_busy(&mut self, peer: PeerId, busy: bool) {
        let Self {
            members,
            by_peer,
            letters,
            ..
        } = self;
        for &key in by_peer.get(&peer).into_iter().flatten() {
            let member = &mut members[key as usize];
            if member.rests == busy {
                continue;
            }
            member.rests = busy;
            for owner in &member.owners {
                letters.push_back((owner.core, member.letter(Matter::Rests(busy))));
            }
        }
    }

    /// What a member has and has not acknowledged may not have reached it: it goes back to its queue.
    pub(crate) fn rewind(&mut self, peer: PeerId, sub: Id) {
        let Some(&key) = self.by_name.get(&(peer, sub)) else {
            return;
        };
        let member = &self.members[key as usize];
        for owner in &member.owners {
            self.letters
                .push_back((owner.core, member.letter(Matter::Rewind)));
        }
    }

    /// A member has handled exactly these.
    pub(crate) fn acknowledge(
        &mut self,
        peer: PeerId,
        sub: Id,
        partition: u16,
        offsets: impl Iterator<Item = u64>,
    ) -> bool {
        let Some(&key) = self.by_name.get(&(peer, sub)) else {
            return false;
        };
        let core = owner_of(partition, self.cores);
        let member = &self.members[key as usize];
        if !member.owners.iter().any(|owner| owner.core == core) {
            return true;
        }
        // Acknowledgements often come one by one, many in a row.
        if let Some((to, letter)) = self.letters.back_mut()
            && (*to, letter.member) == (core, member.name)
            && let Matter::Worked {
                partition: same,
                offsets: row,
            } = &mut letter.matter
            && *same == partition
        {
            row.extend(offsets);
            return true;
        }
        let offsets = offsets.collect();
        self.letters
            .push_back((core, member.letter(Matter::Worked { partition, offsets })));
        true
    }

    /// Takes an owner's letter about a member of this core.
    pub(crate) fn handle(&mut self, from: u16, letter: QueueLetter) {
        let QueueLetter { member: name, matter } = letter;
        let Some(&key) = self.by_name.get(&(name.peer, name.sub)) else {
            return;
        };
        let member = &mut self.members[key as usize];
        // One that has left meanwhile: the owners know it soon.
        if member.name != name {
            return;
        }
        match matter {
            Matter::Work { piece, dup } if member.rests => {
                let positions = piece.positions;
                self.letters
                    .push_back((from, member.letter(Matter::NeverLeft { positions, dup })));
            }
            Matter::Work { piece, dup } => self.news.push_back((name, News::Work { piece, dup })),
            Matter::Joined(at) => {
                member.at.extend(at);
                if let Some(owner) = member.owners.iter_mut().find(|owner| owner.core == from) {
                    owner.has_joined = true;
                }
                if !member.is_accepted && member.owners.iter().all(|owner| owner.has_joined) {
                    member.is_accepted = true;
                    let mut at = std::mem::take(&mut member.at);
                    at.sort_unstable();
                    self.news.push_back((name, News::Accepted(at)));
                    self.open(key);
                }
            }
            Matter::Spare { spare, short } => {
                if let Some(owner) = member.owners.iter_mut().find(|owner| owner.core == from) {
                    debug_assert!(owner.allowance >= spare);
                    owner.allowance = owner.allowance.saturating_sub(spare);
                    owner.is_short = short;
                }
                self.share(key);
            }
            Matter::NotJoined(failure) => {
                self.remove(key, Some(from), true);
                self.news.push_back((name, News::Refused(*failure)));
            }
            Matter::Ended(failure) => {
                // Also of one that was not accepted yet: whoever goes on behind the damage goes on everywhere.
                self.remove(key, Some(from), false);
                self.news.push_back((name, News::Ended(*failure)));
            }
            Matter::Join(_)
            | Matter::Leave { .. }
            | Matter::Rewind
            | Matter::NeverLeft { .. }
            | Matter::Worked { .. }
            | Matter::Room { .. }
            | Matter::Rests(_) => debug_assert!(false, "a letter to an owner"),
        }
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(crate) fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    pub(crate) fn poll_letter(&mut self) -> Option<(u16, QueueLetter)> {
        self.letters.pop_front()
    }

    /// The next thing for a member, with its connection and subscription.
    pub(crate) fn poll_news(&mut self) -> Option<(PeerId, Id, News)> {
        loop {
            let (name, news) = self.news.pop_front()?;
            let holder = self.by_name.get(&(name.peer, name.sub));
            // Not to whoever came under the same id since.
            if holder.is_none_or(|key| self.members[*key as usize].name == name) {
                return Some((name.peer, name.sub, news));
            }
        }
    }

    /// All owners have answered: each gets an even part of what the member takes.
    fn open(&mut self, key: u32) {
        let member = &mut self.members[key as usize];
        if member.owners.len() < 2 {
            return;
        }
        let owners = member.owners.len() as u32;
        for nth in 0..member.owners.len() {
            let more = (nth as u32) < member.in_flight % owners;
            let part = member.in_flight / owners + u32::from(more);
            if part > 0 {
                member.owners[nth].allowance = part;
                member.owners[nth].keep = part;
                let room = Matter::Room {
                    grant: part,
                    keep: part,
                };
                self.letters
                    .push_back((member.owners[nth].core, member.letter(room)));
            }
        }
        self.share(key);
    }

    /// Shares out anew: to the owners that are short.
    fn share(&mut self, key: u32) {
        let member = &mut self.members[key as usize];
        if !member.is_accepted {
            return;
        }
        let short = member.owners.iter().filter(|owner| owner.is_short).count() as u32;
        if short == 0 {
            return;
        }
        // Less than one for each: then none keeps any, and what is done goes round.
        let part = member.in_flight / short;
        let given: u32 = member.owners.iter().map(|owner| owner.allowance).sum();
        let mut free = member.in_flight.saturating_sub(given);
        let mut grants = vec![0; member.owners.len()];
        for aim in [part, part + 1] {
            for nth in 0..member.owners.len() {
                let at = (member.turn + nth) % member.owners.len();
                let owner = &mut member.owners[at];
                let grant = aim.saturating_sub(owner.allowance).min(free);
                if !owner.is_short || grant == 0 {
                    continue;
                }
                owner.allowance += grant;
                grants[at] += grant;
                free -= grant;
                if free == 0 {
                    member.turn = at + 1;
                    break;
                }
            }
        }
        for (at, grant) in grants.into_iter().enumerate() {
            let keep = if member.owners[at].is_short { part } else { 0 };
            if grant == 0 && keep == member.owners[at].keep {
                continue;
            }
            member.owners[at].keep = keep;
            let room = Matter::Room { grant, keep };
            self.letters
                .push_back((member.owners[at].core, member.letter(room)));
        }
    }

    /// Takes a member out, and tells all owners but one. `is_void`: it never was one everywhere.
    fn remove(&mut self, key: u32, but: Option<u16>, is_void: bool) {
        let member = self.members.remove(key as usize);
        let MemberName { peer, sub, .. } = member.name;
        self.by_name.remove(&(peer, sub));
        if let Some(held) = self.by_peer.get_mut(&peer) {
            held.retain(|other| *other != key);
            if held.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        for owner in &member.owners {
            if Some(owner.core) != but {
                self.letters
                    .push_back((owner.core, member.letter(Matter::Leave { is_void })));
            }
        }
    }
}

impl Membership {
    fn letter(&self, matter: Matter) -> QueueLetter {
        QueueLetter {
            member: self.name,
            matter,
        }
    }
}
