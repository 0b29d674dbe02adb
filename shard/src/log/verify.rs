//! Looks at a log from outside, and changes nothing: what a directory holds, what of it is not what was written, and the
//! events themselves. Also while a gateway runs on it: what that is writing is no damage.

use std::io;

use super::{
    Stored,
    disk::SegmentId,
    files::Files,
    format::{SEGMENT_HEAD_BYTES, SegmentHead},
    recovery::{
        Asked, Meta, Newest, Progress, RecoveredPartition, RecoveryFault, leave_removed, note_newest,
        partitions_of, read_segment,
    },
    scan::{Bad, Found, Scan, Tail},
};

/// A log as it is now.
#[derive(Debug)]
pub struct Survey {
    /// What the directory says about itself.
    pub meta: Meta,
    /// Why that was read from the copy of `meta`, if it was.
    pub meta_fault: Option<String>,
    /// Its segments, as they were written: by start and number.
    pub segments: Vec<SurveyedSegment>,
    /// Its partitions, those without events, too.
    pub partitions: Vec<RecoveredPartition>,
}

/// A segment, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedSegment {
    /// Which.
    pub id: SegmentId,
    /// In which start it was written; 0: nothing in it says.
    pub epoch: u64,
    /// When it was made, ms since 1970.
    pub created_ms: u64,
    /// When its oldest event was appended.
    pub oldest_ms: u64,
    /// When the newest was.
    pub newest_ms: u64,
    /// The file's length, bytes.
    pub file_bytes: u64,
    /// So many of them count.
    pub bytes: u64,
    /// Whether it has a footer.
    pub is_sealed: bool,
    /// Its batches of events.
    pub batches: u64,
    /// Its events, also those that another segment holds again.
    pub events: u64,
    /// The partitions of which it has anything.
    pub partitions: Vec<u16>,
    /// What of it was lost.
    pub damage: Vec<Bad>,
    /// What is being written, or was when the gateway crashed.
    pub torn: Option<Bad>,
}

/// Looks at a log. `reads_all`: every byte of it; else sealed segments are believed to hold what their footers say.
///
/// # Errors
/// It is no log, or cannot be read.
pub fn survey<F: Files + ?Sized>(
    files: &F,
    reads_all: bool,
    mut progress: impl FnMut(Progress),
) -> Result<Survey, RecoveryFault> {
    let (meta, meta_fault) = Meta::read_either(files)?.ok_or(RecoveryFault::MetaMissing)?;
    let names = files
        .names()
        .map_err(|error| RecoveryFault::disk("list", ".", error))?;
    let mut ids: Vec<SegmentId> = names
        .iter()
        .filter_map(|name| SegmentId::from_name(name))
        .collect();
    // The newest first: a gateway that goes on meanwhile adds to what is read later, never to what was read before it; and
    // it removes the oldest.
    ids.sort_unstable_by_key(|id| std::cmp::Reverse((id.number, id.core)));
    let mut done = Progress {
        done_bytes: 0,
        all_bytes: 0,
    };
    for id in &ids {
        done.all_bytes += files.length(&id.name()).unwrap_or(0);
    }
    let mut newest = Newest::new();
    for id in &ids {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        match files.read(&id.name(), 0, &mut head) {
            Ok(read) => note_newest(&mut newest, *id, Some(&SegmentHead::decode(&head[..read]))),
            // Removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => note_newest(&mut newest, *id, None),
        }
    }
    let asked = Asked {
        meta: &meta,
        newest: &newest,
        // None are asked for.
        once_since_ms: u64::MAX,
        reads_all,
    };
    let mut facts = Vec::new();
    for id in ids {
        let mut told = |bytes: u64| {
            done.done_bytes = (done.done_bytes + bytes).min(done.all_bytes);
            progress(done);
        };
        match read_segment(files, id, asked, &mut told) {
            Ok(Ok(found)) => facts.push(found),
            Ok(Err(version)) => return Err(RecoveryFault::Version(version.into())),
            // Removed since its name was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(RecoveryFault::disk("read", &id.name(), error)),
        }
    }
    leave_removed(&mut facts, &meta);
    let partitions = partitions_of(&mut facts, &meta, |_| true);
    let segments = facts
        .into_iter()
        .map(|facts| SurveyedSegment {
            id: facts.id,
            epoch: facts.epoch,
            created_ms: facts.created_ms,
            oldest_ms: facts.oldest_ms,
            newest_ms: facts.newest_ms,
            file_bytes: facts.file_bytes,
            bytes: facts.bytes,
            is_sealed: facts.is_sealed,
            batches: facts.batches,
            events: facts.events,
            partitions: facts.partitions,
            damage: facts.damage,
            torn: facts.torn,
        })
        .collect();
    Ok(Survey {
        meta,
        meta_fault,
        segments,
        partitions,
    })
}

/// Passes on the events of one segment, in the order in which they were written. `wanted` is asked for each partition and
/// the offsets of a batch; `take` says whether to go on; `lost` hears of what is not what was written, be it damaged, torn or
/// being written.
///
/// # Errors
/// It cannot be read, or what `take` says.
pub fn read_events<F: Files + ?Sized, E: From<io::Error>>(
    files: &F,
    secret: u64,
    segment: SegmentId,
    mut wanted: impl FnMut(u16, u64, u64) -> bool,
    mut take: impl FnMut(u16, Stored) -> Result<bool, E>,
    mut lost: impl FnMut(Bad),
) -> Result<bool, E> {
    let mut scan = Scan::open(files, segment, secret, Tail::IsWhole)?;
    while let Some(found) = scan.step()? {
        let body = match found {
            Found::Batch { body, .. } => body,
            Found::Damage(bad) => {
                lost(bad);
                continue;
            }
        };
        let head = body.head();
        if !wanted(head.partition, head.first, head.last()) {
            continue;
        }
        if let Ok(Some(stored)) = body.events()
            && !take(body.head().partition, stored)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}
