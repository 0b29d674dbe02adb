//! What recovery found, as each core gets it: its partitions, and the segments that it looks after.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use fluxar_protocol::Id;

use crate::log::{disk::SegmentId, footer::Extent, format::CursorEntry};

/// One core's share of what recovery found. All of its partitions are in it, those without events, too; they are ready from
/// now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which core's.
    pub core: u16,
    /// How many there are.
    pub cores: u16,
    /// This start of the gateway on this data directory.
    pub epoch: u64,
    /// From which the salts of segments are made ([`crate::log::format::salt_of`]).
    pub secret: u64,
    /// How many partitions the topics are hashed onto: what the data directory says.
    pub partition_count: u16,
    /// The number of the next segment of this core's stream.
    pub next_number: u64,
    /// The partitions that it owns.
    pub partitions: Vec<RecoveredPartition>,
    /// The segments that it looks after or that hold anything of its partitions, oldest first.
    pub segments: Vec<RecoveredSegment>,
    /// The ids of the youngest qos 2 events of its partitions, in the order of their times. One may come twice.
    pub once: Vec<OnceId>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// Which.
    pub partition: u16,
    /// The last offset that any event had, held or not; 0: there was none.
    pub last: u64,
    /// The last offset of events that were held once, before all that is held, and are not any more; 0: there was none.
    pub removed: u64,
    /// So far of them it is known that retention removed them.
    pub let_go: u64,
    /// The first offset to be given away now.
    pub next: u64,
    /// Where what is held is, ascending by offset and without overlap. What lies between two of them is in no event, or in
    /// a hole. A segment may come twice, and its batches may hold more than the extent says: that does not count.
    pub extents: Vec<HeldExtent>,
    /// What is missing, ascending and without overlap; may lie within an extent.
    pub holes: Vec<Hole>,
    /// Its durable cursors.
    pub cursors: Vec<RecoveredCursor>,
    /// Events between these offsets are lost that may have been rows of tables: not all that lie between.
    pub table_damage: Option<(u64, u64)>,
    /// Rows that were carried on and are lost, of each batch the first: which others were in it nobody knows.
    pub carried_damage: Vec<CarriedDamage>,
    /// Some of its durable cursors may be lost: their records are not what was written.
    pub cursors_lost: Option<CursorsLost>,
    /// Its retained rows, and the removals that have to be known, ascending by offset.
    pub rows: Vec<RecoveredRow>,
}

impl RecoveredPartition {
    /// What retention removed, in ranges, ascending.
    pub fn let_go(&self) -> impl Iterator<Item = (u64, u64)> {
        let begin = Some((1, self.let_go)).filter(|(first, last)| first <= last);
        let holes = self.holes.iter().filter(|hole| hole.cause == HoleCause::Removed);
        begin.into_iter().chain(holes.map(|hole| (hole.first, hole.last)))
    }

    /// The first offset that is held, or that is damaged; `last + 1` if there is none.
    #[must_use]
    pub fn first(&self) -> u64 {
        let held = self.extents.first().map(|held| held.extent.first);
        let hole = self.holes.first().map(|hole| hole.first);
        held.into_iter()
            .chain(hole)
            .min()
            .unwrap_or(self.last.saturating_add(1))
    }
}

/// A part of a partition, and which segment holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldExtent {
    /// The segment.
    pub segment: SegmentId,
    /// What it holds of the partition, as far as it counts.
    pub extent: Extent,
}

/// Offsets that events had and that are not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Why.
    pub cause: HoleCause,
}

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoleCause {
    /// Their bytes are not what was written, or a file is not there.
    Damaged,
    /// Retention removed them, though something older is still held.
    Removed,
}

/// A row that was carried on and is lost, until the segment that held it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedDamage {
    /// Its offset.
    pub offset: u64,
    /// The segment.
    pub segment: SegmentId,
    /// Who still needs that; this core is not among them, if nothing else of its partitions is in it. `None`: there is no such
    /// segment any more, or nothing is ever removed.
    pub claim: Option<Claim>,
}

impl CarriedDamage {
    /// Whether no core needs the segment any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.claim.as_ref().is_some_and(Claim::is_free)
    }
}

/// A durable cursor, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredCursor {
    /// It; its state is there.
    pub entry: CursorEntry,
    /// The segment that has its newest state.
    pub segment: SegmentId,
}

/// Records of durable cursors that are lost; nobody knows whose they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorsLost {
    /// They were written at this time, ms since 1970, or before it: who has used a cursor since has a newer record.
    pub written_ms: u64,
    /// The segment that held them.
    pub segment: SegmentId,
}

/// A retained event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredRow {
    /// Its topic.
    pub topic: Box<str>,
    /// Its key, as [`crate::log::format::Row`] has it.
    pub key: Box<[u8]>,
    /// Its offset.
    pub offset: u64,
    /// When it was appended, ms since 1970.
    pub time_ms: u64,
    /// The segment that has it.
    pub segment: SegmentId,
    /// Where in it its batch is.
    pub at: u64,
    /// Which event of the batch it is.
    pub index: u32,
    /// It is no row, but removed one of which an older event is still there.
    pub is_removal: bool,
    /// An older event of it is in a segment that may be there for longer: were the newest one gone, that would be taken for it.
    pub is_outlived: bool,
}

/// The id of an event of qos 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceId {
    /// It.
    pub id: Id,
    /// Of which partition.
    pub partition: u16,
    /// The offset of its event.
    pub offset: u64,
    /// When that was appended, ms since 1970.
    pub time_ms: u64,
}

/// A segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Which.
    pub id: SegmentId,
    /// With how many cores it was written; 0: nothing in it says.
    pub cores: u16,
    /// Its length, bytes.
    pub bytes: u64,
    /// Whether it has a footer.
    pub is_sealed: bool,
    /// Where its footer is, if the file's trailer finds it. Extents of such a segment come without an index: it is there.
    pub footer_at: Option<u64>,
    /// Something in it is not what was written, or could not be read.
    pub is_damaged: bool,
    /// When its newest event was appended, ms since 1970; that of its head if it has none, of this start if that is lost.
    pub newest_ms: u64,
    /// The partitions of which it holds events, cursors or rows, be they this core's or not.
    pub partitions: Vec<u16>,
    /// How many cores may still need it.
    pub claim: Claim,
}

impl RecoveredSegment {
    /// Which core looks after it: removes its file when nobody needs it.
    #[must_use]
    pub fn keeper(&self, cores: u16) -> u16 {
        self.id.core % cores.max(1)
    }
}

/// How many cores may still need a segment: the one that looks after it, and those that own a partition of which it holds
/// anything. One whose core never hears of it is never given up, so the segment stays.
#[derive(Debug, Clone)]
pub struct Claim(Arc<AtomicU16>);

impl Claim {
    /// Of so many cores.
    #[must_use]
    pub fn of(cores: u16) -> Self {
        Self(Arc::new(AtomicU16::new(cores)))
    }

    /// A core needs the segment no more, and says so once.
    pub fn give_up(&self) {
        // What that core read of the segment was read before.
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether no core needs it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.0.load(Ordering::Acquire) == other.0.load(Ordering::Acquire)
    }
}

impl Eq for Claim {}
