//! What the log asks of a disk, and what comes back: the storage behind the log, as values. The gateway hands them to the
//! engine, which puts them through the ring; the simulation has a disk of its own.
//!
//! Order: operations may complete in any order, but for those that the log itself waits for between (it has one write and
//! one sync under way at a time). A write is complete when all of it was taken. A sync covers every write that had completed
//! before it was asked for.

use std::fmt;

use bytes::Bytes;

/// A file of the log: the `number`th segment that this core, or one that had its index in an earlier start, wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The core that wrote it.
    pub core: u16,
    /// Counted from 1 in each core; larger than that of every file that was there when the gateway started.
    pub number: u64,
}

impl SegmentId {
    /// Its file's name.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:04}-{:010}.log", self.core, self.number)
    }

    /// The segment whose file has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (core, number) = name.strip_suffix(".log")?.split_once('-')?;
        let id = Self {
            core: core.parse().ok()?,
            number: number.parse().ok()?,
        };
        (id.name() == name).then_some(id)
    }
}

/// What is asked.
#[derive(Debug)]
pub enum DiskOp {
    /// Makes a segment's file, with room for so many bytes, and keeps it open to be written and read. When it is done the
    /// name itself survives a crash; when it fails nothing is left of it.
    Create {
        /// Which.
        segment: SegmentId,
        /// Room, bytes; it reads as zeros.
        bytes: u64,
    },
    /// Opens a segment to be read.
    Open {
        /// Which.
        segment: SegmentId,
    },
    /// Writes, all of it or it is an error.
    Write {
        /// Where.
        segment: SegmentId,
        /// From this byte on.
        at: u64,
        /// What, back to back.
        slices: Vec<Bytes>,
    },
    /// Has what was written survive power loss.
    Sync {
        /// Which.
        segment: SegmentId,
    },
    /// Reads; fewer bytes come back only at the file's end.
    Read {
        /// Chosen by the asker.
        ticket: u64,
        /// Where.
        segment: SegmentId,
        /// From this byte on.
        at: u64,
        /// How many.
        bytes: u32,
    },
    /// Cuts a sealed segment to its length. Nothing comes back.
    Truncate {
        /// Which.
        segment: SegmentId,
        /// Its length.
        bytes: u64,
    },
    /// Lets go of an open file. Nothing comes back.
    Close {
        /// Which.
        segment: SegmentId,
    },
    /// Removes a segment's file. [`DiskDone::Removed`] comes back if it fails, and may if it does not.
    Remove {
        /// Which.
        segment: SegmentId,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum DiskDone {
    /// Of [`DiskOp::Create`] and [`DiskOp::Open`].
    Opened {
        /// Which.
        segment: SegmentId,
        /// Whether.
        result: Result<(), DiskFault>,
    },
    /// Of [`DiskOp::Write`].
    Wrote {
        /// Where.
        segment: SegmentId,
        /// Whether. After a fault any part of it may be there.
        result: Result<(), DiskFault>,
    },
    /// Of [`DiskOp::Sync`].
    Synced {
        /// Which.
        segment: SegmentId,
        /// Whether. After a fault nobody knows what of the file is there: it is not written again.
        result: Result<(), DiskFault>,
    },
    /// Of [`DiskOp::Read`].
    Read {
        /// Whose.
        ticket: u64,
        /// The bytes.
        result: Result<Bytes, DiskFault>,
    },
    /// Of [`DiskOp::Remove`].
    Removed {
        /// Which.
        segment: SegmentId,
        /// Whether; one that was not there is removed.
        result: Result<(), DiskFault>,
    },
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskFault {
    /// No space, or a quota.
    Full,
    /// Anything else, as the system says it.
    Failed(String),
}

impl fmt::Display for DiskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no space left on the log's disk"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_by_its_name() {
        for (core, number) in [(0, 1), (7, 12_345_678_901), (1023, u64::MAX)] {
            let id = SegmentId { core, number };
            assert_eq!(SegmentId::from_name(&id.name()), Some(id));
        }
        for name in [
            "",
            "0001-1.log",
            "0001-0000000001",
            "x-0000000001.log",
            "0001-0000000001.log.tmp",
        ] {
            assert_eq!(SegmentId::from_name(name), None, "{name}");
        }
    }
}
