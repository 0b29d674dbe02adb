//! The owner's side of followers: which cores follow which patterns, what each was told, who holds which durable cursor.
//!
//! For each core and partition the owner remembers the position up to which that core was told ([`Owner::told`]). A core is
//! told in one unbroken row: each [`LogLetter::Logged`] and each [`Begun`] says from where to where, and in between lies
//! nothing that the core follows. So a reader whose position is in that row or ahead of it misses nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fluxar_protocol::target;
use foldhash::fast::FixedState;
use slab::Slab;

use super::fetching::Pending;
use super::letters::{Begin, BeginRefusal, Begun, Start, SubHandle};
use super::patterns::FollowedPatterns;
use super::pieces::RunningTopic;
use super::start::position_of;
use super::{LogLetter, Logged};
use crate::log::{Committed, CursorName, CursorState, Log, owner_of, partition_of};
use crate::shard::Shard;

/// How often a core that was told nothing for a while hears how far the partitions are, and how often it looks at its quiet
/// subscriptions then, us: together twice as much.
pub(crate) const QUIET_US: u64 = 5_000_000;

#[derive(Debug)]
pub(crate) struct Owner {
    /// The cores that follow each pattern, this one included.
    pub(crate) followed: FollowedPatterns<Vec<u16>>,
    /// By core, then by partition of this core (`partition / cores`): the position up to which it was told. Made when a core
    /// first follows something.
    told: Vec<Box<[u64]>>,
    holders: HashMap<Arc<CursorName>, Holder, FixedState>,
    pub(super) fetches: Slab<Pending>,
    /// Those that wait for the disk, by core, subscription and partition.
    pub(super) unread: HashMap<(u16, SubHandle, u16), usize, FixedState>,
    /// Cursors whose holders have begun, but for the cursors, which are not on the disk yet.
    waiting: HashSet<Arc<CursorName>, FixedState>,
    /// [`Log::cursors_synced`] when these were looked at last.
    cursors_synced: u64,
    /// When quiet cores are told next, us.
    quiet_at_us: u64,
    /// Cores that a run goes to; empty between two runs.
    cores: Vec<u16>,
}

/// What a cursor was in one partition before somebody took it; `None`: it was not there.
type Before = (u16, Option<CursorState>);

/// Who holds a durable cursor.
#[derive(Debug)]
struct Holder {
    core: u16,
    sub: SubHandle,
    stamp: (u64, u16),
    /// What the cursor was in partitions where it was made or moved for this holder, or for those before it that had not been
    /// told that they begin: another owner may refuse it. Forgotten with [`LogLetter::Opened`].
    before: Vec<Before>,
    /// The same of those before it that had been told: they may have been refused elsewhere, or have begun, and that is not
    /// known here.
    inherited: Vec<Before>,
    /// Where it begins, of which it is told once that survives power loss.
    pending: Option<Vec<Begun>>,
}

impl Owner {
    pub(crate) fn new(hasher: &FixedState, names_remembered: usize, cores: u16) -> Self {
        Self {
            followed: FollowedPatterns::new(hasher, names_remembered),
            told: vec![Box::default(); usize::from(cores)],
            holders: HashMap::with_hasher(hasher.clone()),
            fetches: Slab::new(),
            unread: HashMap::with_hasher(hasher.clone()),
            waiting: HashSet::with_hasher(hasher.clone()),
            cursors_synced: 0,
            quiet_at_us: QUIET_US,
            cores: Vec::new(),
        }
    }

    pub(crate) fn holders(&self) -> usize {
        self.holders.len()
    }

    /// A core is told up to here: from where. `None` if it never followed anything.
    fn tell(&mut self, core: u16, at: usize, until: u64) -> Option<u64> {
        let told = self.told[usize::from(core)].get_mut(at)?;
        Some(std::mem::replace(told, until))
    }
}

/// Of two places of a cursor the one that leaves nothing out.
fn earlier_of(one: &CursorState, other: &CursorState) -> CursorState {
    let acked = one.acked.min(other.acked);
    if one.is_before_table() || other.is_before_table() {
        CursorState::before_table(acked)
    } else {
        CursorState::up_to(acked)
    }
}

/// Of what a cursor was at two times, in each partition the place that leaves nothing out, and besides, whether it was not
/// there once.
fn all_of(older: &[Before], newer: &[Before]) -> Vec<Before> {
    let mut all = older.to_vec();
    for (partition, state) in newer {
        let same = |(known, was): &&mut Before| known == partition && was.is_some() == state.is_some();
        match (all.iter_mut().find(same), state) {
            (None, _) => all.push((*partition, state.clone())),
            (Some((_, Some(known))), Some(state)) => *known = earlier_of(known, state),
            (Some(_), _) => {}
        }
    }
    all
}

/// Whether a subscription that comes back after a crash goes on where it begins, or before that.
fn is_safe(log: &Log, cursor: &CursorName, places: &[Begun]) -> bool {
    places
        .iter()
        .all(|place| log.is_cursor_safe(place.partition, cursor, place.position, place.has_table))
}

/// The partitions that a pattern covers.
pub(crate) fn covered(pattern: &str, partitions: u16) -> std::ops::Range<u16> {
    if target::is_wild(pattern) {
        return 0..partitions;
    }
    let partition = partition_of(pattern, partitions);
    partition..partition + 1
}

impl Shard {
    /// Events of a partition of this core are committed: whoever follows gets them, each core once.
    pub(crate) fn committed(&mut self, committed: Committed) {
        let Committed {
            partition, stored, ..
        } = committed;
        let until = stored.last();
        self.publish_committed(&stored);
        let place = usize::from(partition / self.post.cores());
        let owner = &mut self.logged.owner;
        if owner.followed.len() == 0 {
            return;
        }
        let mut cores = std::mem::take(&mut owner.cores);
        let mut topic = RunningTopic::default();
        for at in 0..stored.events.len() {
            if !topic.moves_to(stored.events.get(at)) {
                continue;
            }
            let matching = owner.followed.matching(topic.text()).clone();
            for &pattern in matching.iter() {
                for &core in &owner.followed[pattern] {
                    if !cores.contains(&core) {
                        cores.push(core);
                    }
                }
            }
        }
        for &core in &cores {
            let Some(after) = self.logged.owner.tell(core, place, until) else {
                continue;
            };
            let stored = Some(stored.clone());
            self.say(
                core,
                LogLetter::Logged {
                    partition,
                    after,
                    until,
                    stored,
                },
            );
        }
        cores.clear();
        self.logged.owner.cores = cores;
    }

    /// A subscription of some core begins.
    pub(crate) fn begin_here(&mut self, core: u16, begin: Begin) {
        let sub = begin.sub;
        let owner = &mut self.logged.owner;
        let pattern = owner.followed.entry(&begin.pattern);
        if !owner.followed[pattern].contains(&core) {
            owner.followed[pattern].push(core);
        }
        let result = self.begun(core, &begin);
        let logged = &mut self.logged;
        if let (Ok(places), Some(cursor)) = (&result, &begin.cursor)
            && !is_safe(&logged.log, cursor, places)
            && let Some(holder) = logged.owner.holders.get_mut(cursor)
        {
            holder.pending = result.ok();
            logged.owner.waiting.insert(cursor.clone());
            logged.log.hurry_cursors();
            return;
        }
        self.tell_begun(core, sub, result);
    }

    /// Something may have been made safe: subscriptions that waited for their cursors have begun. Whether there were any. What
    /// is committed was told before.
    pub(crate) fn begin_safe(&mut self) -> bool {
        let Logged { log, owner, .. } = &mut self.logged;
        if owner.waiting.is_empty() {
            return false;
        }
        log.hurry_cursors();
        if std::mem::replace(&mut owner.cursors_synced, log.cursors_synced()) == log.cursors_synced() {
            return false;
        }
        let is_over = |cursor: &Arc<CursorName>| {
            let pending = owner
                .holders
                .get(cursor)
                .and_then(|holder| holder.pending.as_ref());
            pending.is_none_or(|places| is_safe(log, cursor, places))
        };
        let over: Vec<_> = owner
            .waiting
            .iter()
            .filter(|cursor| is_over(cursor))
            .cloned()
            .collect();
        let mut have_begun = false;
        for cursor in over {
            let owner = &mut self.logged.owner;
            owner.waiting.remove(&cursor);
            let holder = owner.holders.get_mut(&cursor);
            if let Some((core, sub, places)) =
                holder.and_then(|holder| Some((holder.core, holder.sub, holder.pending.take()?)))
            {
                self.tell_begun(core, sub, Ok(places));
                have_begun = true;
            }
        }
        have_begun
    }

    /// Tells a core where a subscription of its begins, and how far the partitions are now.
    fn tell_begun(&mut self, core: u16, sub: SubHandle, mut result: Result<Vec<Begun>, BeginRefusal>) {
        if let Ok(places) = &mut result {
            let cores = self.post.cores();
            let Logged { log, owner, .. } = &mut self.logged;
            let told = &mut owner.told[usize::from(core)];
            if told.is_empty() {
                let ours = (self.core..log.partition_count()).step_by(usize::from(cores));
                *told = vec![0; ours.count()].into();
            }
            for place in places {
                place.until = log.bounds(place.partition).committed;
                let told = &mut told[usize::from(place.partition / cores)];
                place.after = std::mem::replace(told, place.until);
            }
        }
        let epoch = self.logged.log.epoch();
        self.say(core, LogLetter::Began { sub, epoch, result });
    }

    /// Where a subscription begins in each partition of this core, and its cursor with it.
    fn begun(&mut self, core: u16, begin: &Begin) -> Result<Vec<Begun>, BeginRefusal> {
        let cores = self.post.cores();
        let Some(settings) = self.logged.log.settings() else {
            return Err(BeginRefusal::Log(crate::log::LogRefusal::NoLog));
        };
        let partitions = settings.partitions;
        let ours =
            covered(&begin.pattern, partitions).filter(|&partition| owner_of(partition, cores) == self.core);
        let Logged { log, owner, .. } = &self.logged;
        // What was made and moved for one that has not begun, and now never will, is so for this one.
        let old = begin.cursor.as_ref().and_then(|cursor| owner.holders.get(cursor));
        let (inherited, mut before) = match old {
            None => (Vec::new(), Vec::new()),
            Some(old) if old.pending.is_some() => (old.inherited.clone(), old.before.clone()),
            Some(old) => (all_of(&old.inherited, &old.before), Vec::new()),
        };
        let moved = all_of(&inherited, &before);
        let mut places = Vec::new();
        for partition in ours {
            if !log.is_ready(partition) {
                return Err(BeginRefusal::Recovering);
            }
            places.push(place_of(log, partition, begin, &moved)?);
        }
        if let Some(cursor) = &begin.cursor {
            for place in &mut places {
                place.is_made |= moved.contains(&(place.partition, None));
            }
            if !begin.may_make && places.iter().any(|place| place.is_made) {
                return Err(BeginRefusal::TooManyMade);
            }
            self.hold(core, cursor, begin)?;
            // The place is kept from the beginning, so that it is there even if nothing is ever acknowledged: what comes while
            // the table is not handled yet is not lost either.
            for place in &places {
                let state = if place.has_table {
                    CursorState::before_table(place.position)
                } else {
                    CursorState::up_to(place.position)
                };
                let log = &mut self.logged.log;
                let old = log
                    .cursor(place.partition, cursor)
                    .filter(|old| **old != state)
                    .cloned();
                let is_new = old.is_some() || log.cursor(place.partition, cursor).is_none();
                if let Err(refusal) = log.set_cursor(place.partition, cursor, state) {
                    self.restore_cursor(cursor, before, inherited);
                    return Err(BeginRefusal::Log(refusal));
                }
                if is_new && before.iter().all(|(partition, _)| *partition != place.partition) {
                    before.push((place.partition, old));
                }
            }
            if let Some(holder) = self.logged.owner.holders.get_mut(cursor) {
                (holder.before, holder.inherited) = (before, inherited);
            }
        }
        Ok(places)
    }

    /// Has a cursor be what it was before somebody took it whose subscription does not begin. Who held it before that may have
    /// begun, from wherever it asked for: then it is never forgotten, and at most goes back, so that nothing is left out.
    fn restore_cursor(&mut self, cursor: &CursorName, before: Vec<Before>, inherited: Vec<Before>) {
        let log = &mut self.logged.log;
        for (partition, state) in before {
            log.put_back_cursor(partition, cursor, state);
        }
        for (partition, state) in inherited {
            let Some(state) = state else { continue };
            let now = log.cursor(partition, cursor);
            let state = now.map_or_else(|| state.clone(), |now| earlier_of(now, &state));
            log.put_back_cursor(partition, cursor, Some(state));
        }
    }

    /// Gives a durable cursor to whoever asked for it last.
    fn hold(&mut self, core: u16, cursor: &Arc<CursorName>, begin: &Begin) -> Result<(), BeginRefusal> {
        let new = Holder {
            core,
            sub: begin.sub,
            stamp: begin.stamp,
            before: Vec::new(),
            inherited: Vec::new(),
            pending: None,
        };
        let Some(holder) = self.logged.owner.holders.get_mut(cursor) else {
            self.logged.owner.holders.insert(cursor.clone(), new);
            return Ok(());
        };
        if holder.stamp > new.stamp {
            return Err(BeginRefusal::Superseded);
        }
        let old = std::mem::replace(holder, new);
        self.say(old.core, LogLetter::Superseded { sub: old.sub });
        Ok(())
    }

    /// A core follows a pattern no more.
    pub(crate) fn unfollowed(&mut self, core: u16, pattern: &str) {
        let followed = &mut self.logged.owner.followed;
        let Some(pattern) = followed.get(pattern) else {
            return;
        };
        followed[pattern].retain(|&other| other != core);
        if followed[pattern].is_empty() {
            followed.remove(pattern);
        }
    }

    /// The holder of a durable cursor has come so far.
    pub(crate) fn acked_here(&mut self, core: u16, cursor: &CursorName, sub: SubHandle, at: &[(u16, u64)]) {
        let holder = self.logged.owner.holders.get(cursor);
        if holder.is_none_or(|holder| (holder.core, holder.sub) != (core, sub)) {
            return; // somebody else holds it now, and may have begun elsewhere
        }
        for &(partition, acked) in at {
            let state = CursorState::up_to(acked);
            // It exists, so there is room for it; a log that stops keeps what it had.
            let _ = self.logged.log.set_cursor(partition, cursor, state);
        }
    }

    /// The holder of a durable cursor has begun everywhere: what the cursor was before is over.
    pub(crate) fn opened_here(&mut self, core: u16, cursor: &CursorName, sub: SubHandle) {
        let holder = self.logged.owner.holders.get_mut(cursor);
        if let Some(holder) = holder.filter(|holder| (holder.core, holder.sub) == (core, sub)) {
            (holder.before, holder.inherited) = (Vec::new(), Vec::new());
        }
    }

    /// The holder of a durable cursor is gone.
    pub(crate) fn released_here(&mut self, core: u16, cursor: &CursorName, sub: SubHandle, is_void: bool) {
        let holders = &mut self.logged.owner.holders;
        if holders
            .get(cursor)
            .is_some_and(|holder| (holder.core, holder.sub) == (core, sub))
            && let Some(holder) = holders.remove(cursor)
        {
            self.logged.owner.waiting.remove(cursor);
            if is_void {
                self.restore_cursor(cursor, holder.before, holder.inherited);
            }
        }
    }

    /// Tells cores that heard nothing for a while how far the partitions are, so that cursors of quiet subscriptions move.
    pub(crate) fn tell_quiet(&mut self) {
        if self.now_us < self.logged.owner.quiet_at_us {
            return;
        }
        self.logged.owner.quiet_at_us = self.now_us + QUIET_US;
        let cores = self.post.cores();
        for core in 0..cores {
            for at in 0..self.logged.owner.told[usize::from(core)].len() {
                let partition = self.core + at as u16 * cores;
                let until = self.logged.log.bounds(partition).committed;
                let told = self.logged.owner.told[usize::from(core)][at];
                if told < until {
                    self.logged.owner.told[usize::from(core)][at] = until;
                    self.say(
                        core,
                        LogLetter::Logged {
                            partition,
                            after: told,
                            until,
                            stored: None,
                        },
                    );
                }
            }
        }
    }

    /// When [`Shard::tell_quiet`] is due, us.
    pub(crate) fn quiet_due_us(&self) -> Option<u64> {
        let owner = &self.logged.owner;
        (owner.followed.len() > 0).then_some(owner.quiet_at_us)
    }
}

/// Where a subscription begins in a partition. `before`: what its cursor was before others moved it who may never have begun.
fn place_of(log: &Log, partition: u16, begin: &Begin, before: &[Before]) -> Result<Begun, BeginRefusal> {
    let cursor = begin.cursor.as_ref().and_then(|name| log.cursor(partition, name));
    let moved = before
        .iter()
        .filter(|(moved, _)| *moved == partition)
        .find_map(|(_, state)| state.as_ref());
    let (position, is_known) = match (&begin.start, cursor) {
        (Start::Default, Some(cursor)) => {
            let place = earlier_of(cursor, moved.unwrap_or(cursor));
            (place.acked, !place.is_before_table())
        }
        // It may have been there, with all that came since to be given: to begin at the end would skip that.
        (Start::Default, None) if begin.cursor.is_some() && log.may_have_lost_cursors(partition) => {
            return Err(BeginRefusal::CursorsLost {
                partition,
                first: log.bounds(partition).first,
            });
        }
        (start, _) => (position_of(start, partition, log)?, start.names(partition)),
    };
    Ok(Begun {
        partition,
        position,
        has_table: begin.retain && !is_known,
        after: 0,
        until: log.bounds(partition).committed,
        is_made: begin.cursor.is_some() && cursor.is_none(),
    })
}
