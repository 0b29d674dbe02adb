//! What a power cut may leave of a log that a killed gateway wrote: of each segment that was being written any part behind
//! the last event that anybody was told of may be missing, from some byte on, with zeros or rubbish in its place. What was
//! acknowledged or delivered was synced, and so was what an earlier start left, when it was recovered; a power cut leaves that.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use fluxar_engine::sim::Random;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::format::{BatchHead, Kind, SEGMENT_HEAD_BYTES, SegmentHead, TRAILER_BYTES};

/// What was taken away.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) bytes: u64,
    pub(crate) is_spoilt: bool,
}

/// Cuts each core's last segment at random. `told_until` is the last offset of each partition that anybody was told of.
pub(crate) fn cut(folder: &Path, told_until: &HashMap<u16, u64>, random: &mut Random) -> io::Result<Cut> {
    let mut newest: BTreeMap<u16, SegmentId> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(id) = name.to_str().and_then(SegmentId::from_name) {
            let newest = newest.entry(id.core).or_insert(id);
            *newest = id.max(*newest);
        }
    }
    let mut segments = Vec::new();
    for id in newest.into_values() {
        let path = folder.join(id.name());
        let bytes = fs::read(&path)?;
        // One without a head was made by the last start: room for what was to come.
        let epoch = SegmentHead::decode(&bytes).map_or(u64::MAX, |head| head.epoch);
        segments.push((path, bytes, epoch));
    }
    let written_last = segments
        .iter()
        .map(|(_, _, epoch)| *epoch)
        .filter(|epoch| *epoch < u64::MAX)
        .max();
    let mut cut = Cut::default();
    for (path, bytes, epoch) in segments {
        if Some(epoch) != written_last {
            continue;
        }
        let Some((must_stay, written)) = extent(&bytes, told_until) else {
            continue;
        };
        if written <= must_stay {
            continue;
        }
        let at = random.between(must_stay as u64, written as u64 - 1) as usize;
        let mut left = bytes[..at].to_vec();
        let rubbish = random.chance(0.5);
        let tail = bytes.len() - at;
        left.extend((0..tail).map(|_| if rubbish { random.next() as u8 } else { 0 }));
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(&path)?;
        file.write_all(&left)?;
        file.sync_all()?; // a power cut leaves what is on the disk
        cut.bytes += (written - at) as u64;
        cut.is_spoilt |= rubbish;
    }
    Ok(cut)
}

/// Up to where a segment must stay, and up to where it was written. `None`: it was sealed.
fn extent(bytes: &[u8], told_until: &HashMap<u16, u64>) -> Option<(usize, usize)> {
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let Ok(head) = SegmentHead::decode(bytes) else {
        return Some((0, written));
    };
    let mut at = SEGMENT_HEAD_BYTES;
    let mut must_stay = 0;
    while let Ok(batch) = BatchHead::decode(bytes.get(at..)?, head.salt, at as u64) {
        let end = at + batch.bytes() as usize;
        let acked = told_until.get(&batch.partition).copied().unwrap_or(0);
        match batch.kind {
            Kind::Events if batch.first <= acked => must_stay = end,
            Kind::Footer if end + TRAILER_BYTES <= bytes.len() => return None,
            _ => {}
        }
        at = end;
    }
    Some((must_stay.min(written), written))
}
