//! Where a bit may flip so that somebody has to be told: in what sealed segments hold of events.

use std::path::{Path, PathBuf};

use fluxar_engine::sim::SimDisk;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::format::{BATCH_HEAD_BYTES, BatchHead, Kind, SEGMENT_HEAD_BYTES, SegmentHead};

use super::house::DIRECTORY;

/// The bodies of all batches of events in sealed segments: the file, from which byte on, and how many.
pub(crate) fn sealed_bodies(disk: &SimDisk) -> Vec<(PathBuf, u64, u64)> {
    let directory = Path::new(DIRECTORY);
    let mut bodies = Vec::new();
    for name in disk.names(directory) {
        if SegmentId::from_name(&name).is_some() {
            bodies.extend(bodies_of(disk, &directory.join(&name)).unwrap_or_default());
        }
    }
    bodies
}

/// Of one segment; `None` if it is not sealed.
fn bodies_of(disk: &SimDisk, path: &Path) -> Option<Vec<(PathBuf, u64, u64)>> {
    let mut bytes = vec![0; disk.length(path).ok()? as usize];
    let read = disk.read(path, 0, &mut bytes).ok()?;
    let head = SegmentHead::decode(&bytes[..read]).ok()?;
    let (mut bodies, mut at) = (Vec::new(), SEGMENT_HEAD_BYTES);
    while let Some(rest) = bytes.get(at..)
        && let Ok(batch) = BatchHead::decode(rest, head.salt, at as u64)
    {
        match batch.kind {
            Kind::Events if batch.body_bytes > 0 => {
                let begin = (at + BATCH_HEAD_BYTES) as u64;
                bodies.push((path.to_owned(), begin, u64::from(batch.body_bytes)));
            }
            Kind::Footer => return Some(bodies),
            _ => {}
        }
        at += batch.bytes() as usize;
    }
    None
}
