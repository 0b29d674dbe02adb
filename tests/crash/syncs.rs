//! Whether what somebody was told of as `synced` is on the disk: asked of the kernel, behind the gateway's back, by
//! `unsynced.c`. It says how many pages of a file are still to be written; a gateway that acknowledges before it syncs, or
//! whose syncs are none, has such pages in front of the last event that it told.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use fluxar_shard::log::class::Level;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::format::{BatchHead, Kind, SEGMENT_HEAD_BYTES, SegmentHead};

use crate::ledger;

/// What the kernel counts in.
const PAGE_BYTES: usize = 4096;
/// Of each core: the one that is written, and the one before, which may have been sealed a moment ago.
const SEGMENTS_LOOKED_AT: usize = 2;

/// See the module.
pub(crate) struct Syncs {
    /// The compiled `unsynced.c`, if it can tell anything here.
    program: Option<PathBuf>,
    /// Segments that were looked at, and their bytes that somebody was told of.
    pub(crate) looks: u64,
    pub(crate) bytes: u64,
}

impl Syncs {
    /// Finds out whether this kernel and this file system say it.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let program = ledger::compile("unsynced", include_str!("unsynced.c"), folder)?;
        let path = folder.join("unsynced.probe");
        let mut file = File::create(&path)?;
        file.write_all(&[1; 16 * PAGE_BYTES])?;
        let before = unsynced(&program, &path, 16 * PAGE_BYTES)?;
        file.sync_all()?;
        let behind = unsynced(&program, &path, 16 * PAGE_BYTES)?;
        fs::remove_file(&path)?;
        let can_tell = before.is_some_and(|pages| pages > 0) && behind == Some(0);
        if !can_tell {
            println!(
                "  whether what was told was synced cannot be seen here (Linux 6.5 or later, and a disk)"
            );
        }
        Ok(Self {
            program: can_tell.then_some(program),
            looks: 0,
            bytes: 0,
        })
    }

    /// Looks at the newest segments behind a kill. `told_until` is the last offset of each partition that anybody was told
    /// of. What is wrong, in words.
    pub(crate) fn look(&mut self, folder: &Path, told_until: &HashMap<u16, u64>) -> io::Result<Vec<String>> {
        let Some(program) = &self.program else {
            return Ok(Vec::new());
        };
        let mut segments: BTreeMap<u16, Vec<SegmentId>> = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(SegmentId::from_name) {
                segments.entry(id.core).or_default().push(id);
            }
        }
        let mut faults = Vec::new();
        for mut of_core in segments.into_values() {
            of_core.sort_unstable();
            for id in of_core.iter().rev().take(SEGMENTS_LOOKED_AT) {
                let path = folder.join(id.name());
                let told = told_bytes(&fs::read(&path)?, told_until);
                // The last page may have been written again since, with what came behind.
                let told = told - told % PAGE_BYTES;
                if let Some(pages @ 1..) = unsynced(program, &path, told)? {
                    let name = id.name();
                    faults.push(format!(
                        "{name}: {pages} pages in front of byte {told}, which was told of as synced, were not"
                    ));
                }
                self.looks += 1;
                self.bytes += told as u64;
            }
        }
        Ok(faults)
    }

    /// For the table.
    pub(crate) fn told(&self) -> String {
        match self.program {
            Some(_) => format!("{}, {}", self.looks, self.bytes),
            None => "cannot be seen here".into(),
        }
    }
}

/// Up to where a segment holds events that somebody was told of at `synced`.
fn told_bytes(bytes: &[u8], told_until: &HashMap<u16, u64>) -> usize {
    let Ok(head) = SegmentHead::decode(bytes) else {
        return 0;
    };
    let mut at = SEGMENT_HEAD_BYTES;
    let mut told = 0;
    while let Some(rest) = bytes.get(at..)
        && let Ok(batch) = BatchHead::decode(rest, head.salt, at as u64)
    {
        at += batch.bytes() as usize;
        let until = told_until.get(&batch.partition).copied().unwrap_or(0);
        if batch.kind == Kind::Events && batch.class.level == Level::Synced && batch.first <= until {
            told = at;
        }
    }
    told.min(bytes.len())
}

/// Pages of the beginning of a file that are not on the disk. `None`: the kernel does not say.
fn unsynced(program: &Path, path: &Path, bytes: usize) -> io::Result<Option<u64>> {
    let output = Command::new(program).arg(path).arg(bytes.to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match (output.status.code(), said.trim().parse()) {
        (Some(0), Ok(pages)) => Ok(Some(pages)),
        (Some(3), _) => Ok(None),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(io::Error::other(format!("unsynced {}: {why}", path.display())))
        }
    }
}
