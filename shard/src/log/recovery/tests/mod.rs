//! What is recovered after every kind of end.

/// Methods of `Files` that the directory behind it does: `files`.
macro_rules! passed_on {
    (names) => {
        fn names(&self) -> std::io::Result<Vec<String>> {
            self.files.names()
        }
    };
    (length) => {
        fn length(&self, name: &str) -> std::io::Result<u64> {
            self.files.length(name)
        }
    };
    (read) => {
        fn read(&self, name: &str, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
            self.files.read(name, at, out)
        }
    };
    (replace) => {
        fn replace(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
            self.files.replace(name, bytes)
        }
    };
    (truncate) => {
        fn truncate(&mut self, name: &str, bytes: u64) -> std::io::Result<()> {
            self.files.truncate(name, bytes)
        }
    };
    (write) => {
        fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> std::io::Result<()> {
            self.files.write(name, at, bytes)
        }
    };
    (remove) => {
        fn remove(&mut self, name: &str) -> std::io::Result<()> {
            self.files.remove(name)
        }
    };
    ($($method:ident)+) => {
        $(passed_on!($method);)+
    };
}

mod beside;
mod closing;
mod copies;
mod damage;
mod directory;
mod lost;
mod malformed;
mod promises;
mod starts;
mod streams;

use std::collections::BTreeSet;

use fluxar_protocol::Id;

use super::*;
use crate::log::{
    CursorName, CursorState,
    class::Class,
    files::MemoryFiles,
    format::{
        BATCH_HEAD_BYTES, Base, BatchHead, CursorEntry, Kept, Kind, Removed, offset_after_crash, row_of,
        tests::written::{NOW_MS, SECRET, Written, event, events, read_held, run},
    },
};

fn base(partition: u16, last: u64, next: u64) -> Base {
    Base {
        partition,
        last,
        next,
    }
}

/// Recovers everything, as a start with so many cores does.
fn recover(files: &mut MemoryFiles, cores: u16) -> Vec<Recovered> {
    recover_with(files, cores, &Settings::default())
}

fn recover_with(files: &mut MemoryFiles, cores: u16, settings: &Settings) -> Vec<Recovered> {
    let mut recovery = Recovery::open(files, cores, settings, [9; 16], NOW_MS).unwrap();
    let mut told = Progress {
        done_bytes: 0,
        all_bytes: recovery.progress().all_bytes,
    };
    let mut shares = Vec::new();
    while let Some(share) = recovery
        .step(|progress| {
            assert!(progress.done_bytes >= told.done_bytes && progress.all_bytes == told.all_bytes);
            told = progress;
        })
        .unwrap()
    {
        assert_eq!(share.core, shares.len() as u16);
        shares.push(share);
    }
    assert_eq!(shares.len(), usize::from(cores));
    assert_eq!(told.done_bytes, told.all_bytes);
    shares
}

fn partition(shares: &[Recovered], partition: u16) -> &RecoveredPartition {
    let mut found = shares.iter().flat_map(|share| &share.partitions);
    found
        .find(|found| found.partition == partition)
        .expect("each partition is somebody's")
}

fn offsets(files: &MemoryFiles, found: &RecoveredPartition) -> Vec<u64> {
    read_held(files, found)
        .into_keys()
        .map(|(_, offset)| offset)
        .collect()
}

fn hole(first: u64, last: u64, cause: HoleCause) -> Hole {
    Hole { first, last, cause }
}

fn name(name: &str) -> CursorName {
    CursorName {
        principal: "".into(),
        name: name.into(),
        pattern: "t.>".into(),
        group: "".into(),
    }
}

fn cursor(named: &str, acked: u64) -> CursorEntry {
    CursorEntry {
        name: name(named).into(),
        state: Some(CursorState {
            acked,
            beyond: Vec::new(),
        }),
        used_ms: NOW_MS,
    }
}

/// Files of which some bytes cannot be read.
struct Unreadable<'a> {
    files: &'a mut MemoryFiles,
    name: String,
    bytes: std::ops::Range<u64>,
}

impl Files for Unreadable<'_> {
    passed_on!(names length replace truncate write remove);

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        if *name == self.name && at < self.bytes.end && at + out.len() as u64 > self.bytes.start {
            return Err(io::Error::other("a bad sector"));
        }
        self.files.read(name, at, out)
    }
}
