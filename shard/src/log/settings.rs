//! What a log is configured with, and what follows from it alone.

use super::class::TopicRule;

/// What a log is configured with; the same on all cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many partitions the topics are hashed onto: fixed when the data directory is made.
    pub partitions: u16,
    /// A segment's size, bytes.
    pub segment_bytes: u64,
    /// What may be held in memory because it is not on the disk yet, bytes a core. At the bound publishers are refused.
    pub unsynced_bytes_max: usize,
    /// What is kept in memory of the newest events for readers that are a little behind, bytes a core.
    pub tail_bytes: usize,
    /// What was written is synced after so long even if nobody waits for it, ms.
    pub sync_ms: u32,
    /// How long ids of qos 2 publishes are remembered, ms.
    pub once_ms: u32,
    /// How many ids are remembered at most, a core. One more publish is refused.
    pub once_ids_max: usize,
    /// How many durable cursors a core keeps. One more is refused.
    pub cursors_max: usize,
    /// How many retained events a core keeps, the marks of removed ones included. An event with one more key is refused.
    pub rows_max: usize,
    /// A durable cursor that nobody used for so long is forgotten, ms.
    pub cursor_ms: u64,
    /// Segments whose newest event is older are removed, ms; 0: never.
    pub retain_ms: u64,
    /// The oldest segments are removed while a core's are larger together, bytes; 0: never.
    pub retain_bytes: u64,
    /// A segment is removed once each of its partitions has so many newer events; 0: never.
    pub retain_events: u64,
    /// How long a member of a group has for an event of a work queue before it goes to another, ms.
    pub ack_ms: u32,
    /// Rules by topic.
    pub topics: Vec<TopicRule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: 64,
            segment_bytes: 64 * 1024 * 1024,
            unsynced_bytes_max: 32 * 1024 * 1024,
            tail_bytes: 8 * 1024 * 1024,
            sync_ms: 1_000,
            once_ms: 5 * 60 * 1_000,
            once_ids_max: 4 * 1024 * 1024,
            cursors_max: 100_000,
            rows_max: 1_000_000,
            cursor_ms: 7 * 24 * 3_600 * 1_000,
            retain_ms: 7 * 24 * 3_600 * 1_000,
            retain_bytes: 0,
            retain_events: 0,
            ack_ms: 30_000,
            topics: Vec::new(),
        }
    }
}

/// The partition of a topic. Stable: it is what places events on the disk.
#[must_use]
pub fn partition_of(topic: &str, partitions: u16) -> u16 {
    // FNV-1a, 64 bits, folded: plain to write in any language, and good enough for names.
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % u64::from(partitions.max(1))) as u16
}

/// Which core owns a partition.
#[must_use]
pub fn owner_of(partition: u16, cores: u16) -> u16 {
    partition % cores
}
