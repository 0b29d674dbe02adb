//! A log for tests: slow, failing, forgetful and damaged at will.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fluxar_protocol::Id;

use super::super::source::Source;
use crate::ids::Ids;
use crate::log::class::Class;
use crate::log::{
    Bounds, Committed, CursorName, CursorState, Events, LogRefusal, ReaderId, Reading, Stored, owner_of,
};

pub(super) const EPOCH: u64 = 77 << 20 | 5;

/// Repeatable chance.
pub(super) struct Random(pub(super) Ids);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.0.next() % bound as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One core's log.
pub(super) struct FakeLog {
    core: u16,
    cores: u16,
    pub(super) runs: BTreeMap<u16, Vec<Stored>>,
    /// The first offset that is held, where something was removed.
    pub(super) cut: BTreeMap<u16, u64>,
    pub(super) damage: BTreeMap<u16, (u64, u64)>,
    next: BTreeMap<u16, u64>,
    pub(super) unheard: VecDeque<Committed>,
    pub(super) later: Vec<(ReaderId, Reading)>,
    pub(super) cursors: BTreeMap<(u16, CursorName), CursorState>,
    /// Where each cursor began.
    pub(super) begun: BTreeMap<(u16, CursorName), u64>,
    /// What the disk has of both.
    pub(super) synced: BTreeMap<(u16, CursorName), CursorState>,
    synced_begun: BTreeMap<(u16, CursorName), u64>,
    /// The disk is to have what was changed.
    pub(super) wants_sync: bool,
    /// Of qos 2 events.
    pub(super) ids: BTreeSet<Id>,
    random: Random,
    trouble: bool,
    pub(super) reads: usize,
    /// It is not read back yet.
    pub(super) recovers: bool,
    /// Nothing that is written becomes safe.
    pub(super) hangs: bool,
    cursors_synced: u64,
    /// Records of cursors were damaged.
    pub(super) has_lost_cursors: bool,
    /// There is no room for one more.
    pub(super) cursors_max: usize,
    /// Whatever is read comes later.
    pub(super) is_slow: bool,
}

impl FakeLog {
    pub(super) fn new(core: u16, cores: u16, seed: u64, trouble: bool) -> Self {
        Self {
            core,
            cores,
            runs: BTreeMap::new(),
            cut: BTreeMap::new(),
            damage: BTreeMap::new(),
            next: BTreeMap::new(),
            unheard: VecDeque::new(),
            later: Vec::new(),
            cursors: BTreeMap::new(),
            begun: BTreeMap::new(),
            synced: BTreeMap::new(),
            synced_begun: BTreeMap::new(),
            wants_sync: false,
            ids: BTreeSet::new(),
            random: Random(Ids::new(seed)),
            trouble,
            reads: 0,
            recovers: false,
            hangs: false,
            cursors_synced: 0,
            has_lost_cursors: false,
            cursors_max: usize::MAX,
            is_slow: false,
        }
    }

    pub(super) fn append(&mut self, partition: u16, events: Events, time_ms: u64, expires: bool) -> u64 {
        let next = self.next.entry(partition).or_insert(1);
        let stored = Stored {
            first: *next,
            deltas: None,
            time_ms,
            expires,
            events,
        };
        *next += stored.events.len() as u64;
        self.runs.entry(partition).or_default().push(stored.clone());
        self.unheard.push_back(Committed {
            partition,
            stored: stored.clone(),
            class: Class::default(),
        });
        stored.first
    }

    /// The disk has all that was changed, unless it hangs.
    pub(super) fn sync(&mut self) {
        if self.hangs {
            return;
        }
        self.wants_sync = false;
        self.synced = self.cursors.clone();
        self.synced_begun = self.begun.clone();
        self.cursors_synced += 1;
    }

    /// A disk that hung does its work again.
    pub(super) fn wake(&mut self) {
        self.hangs = false;
        self.sync();
    }

    /// The process is gone; what was not synced as well.
    pub(super) fn restart(&mut self) {
        self.cursors = self.synced.clone();
        self.begun = self.synced_begun.clone();
        self.wants_sync = false;
        self.unheard.clear();
        self.later.clear();
        for next in self.next.values_mut() {
            *next = (*next / 1_000_000 + 1) * 1_000_000 + 1;
        }
    }
}

impl Source for FakeLog {
    fn epoch(&self) -> u64 {
        EPOCH
    }

    fn is_ready(&self, partition: u16) -> bool {
        assert_eq!(owner_of(partition, self.cores), self.core);
        !self.recovers
    }

    fn bounds(&self, partition: u16) -> Bounds {
        let runs = self.runs.get(&partition).map_or(&[][..], |runs| runs);
        let committed = runs.last().map_or(0, Stored::last);
        let held = runs.first().map_or(committed + 1, |run| run.first);
        Bounds {
            first: self.cut.get(&partition).copied().unwrap_or(held),
            committed,
        }
    }

    fn position_at(&self, partition: u16, _: u64) -> u64 {
        // As where the index of the only segment is not in memory.
        self.bounds(partition).first - 1
    }

    fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading {
        assert!(
            self.later.iter().all(|(other, _)| *other != reader),
            "one read at a time"
        );
        self.reads += 1;
        let bounds = self.bounds(partition);
        let reading = if after >= bounds.committed {
            return Reading::End;
        } else if after + 1 < bounds.first && self.cut.contains_key(&partition) {
            Reading::Gone { first: bounds.first }
        } else if let Some(&(first, last)) = self
            .damage
            .get(&partition)
            .filter(|(first, last)| (first - 1..*last).contains(&after))
        {
            Reading::Damaged { first, last }
        } else if self.trouble && self.random.chance(2) {
            Reading::Failed("it is a bad disk".into())
        } else {
            let mut stored = Vec::new();
            let mut bytes = 0;
            let mut until = after;
            for run in &self.runs[&partition] {
                if run.last() <= after {
                    continue;
                }
                if bytes > 0 && (bytes + run.events.bytes.len() > bytes_max || self.random.chance(10)) {
                    break;
                }
                let skip = (after + 1).saturating_sub(run.first) as usize;
                bytes += run.events.bytes.len();
                until = run.last();
                stored.push(Stored {
                    first: run.first + skip as u64,
                    events: run.events.slice(skip..run.events.len()),
                    ..run.clone()
                });
            }
            Reading::Events { stored, until }
        };
        if self.is_slow || (self.trouble && self.random.chance(40)) {
            self.later.push((reader, reading));
            return Reading::Later;
        }
        reading
    }

    fn forget_reader(&mut self, reader: ReaderId) {
        self.later.retain(|(other, _)| *other != reader);
    }

    fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        self.cursors.get(&(partition, name.clone()))
    }

    fn may_have_lost_cursors(&self, _partition: u16) -> bool {
        self.has_lost_cursors
    }

    fn set_cursor(
        &mut self,
        partition: u16,
        name: &CursorName,
        state: CursorState,
    ) -> Result<(), LogRefusal> {
        assert_eq!(owner_of(partition, self.cores), self.core);
        assert!(state.beyond.is_sorted_by(|one, other| one < other), "{state:?}");
        assert!(
            state.beyond.iter().all(|offset| *offset > state.acked),
            "{state:?}"
        );
        let key = (partition, name.clone());
        if let Some(before) = self.cursors.get(&key) {
            assert!(state.acked >= before.acked, "a cursor goes back");
        } else if self.cursors.len() >= self.cursors_max {
            return Err(LogRefusal::TooManyCursors);
        } else {
            self.begun.insert(key.clone(), state.acked);
        }
        self.cursors.insert(key, state);
        Ok(())
    }

    fn put_back_cursor(&mut self, partition: u16, name: &CursorName, before: Option<CursorState>) {
        let key = (partition, name.clone());
        match before {
            None => self.cursors.remove(&key),
            Some(state) => self.cursors.insert(key, state),
        };
        self.wants_sync = true;
    }

    fn is_cursor_safe(&self, partition: u16, name: &CursorName, position: u64) -> bool {
        let cursor = self.synced.get(&(partition, name.clone()));
        cursor.is_some_and(|cursor| cursor.acked <= position)
    }

    fn cursors_synced(&self) -> u64 {
        self.cursors_synced
    }

    fn hurry_cursors(&mut self) {
        self.wants_sync = true;
    }
}
