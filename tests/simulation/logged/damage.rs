//! Where a bit may flip in sealed segments: in events, so that somebody has to be told; in cursors and footers, so that nobody
//! has to be.

use std::path::{Path, PathBuf};

use fluxar_engine::sim::SimDisk;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::format::{BATCH_HEAD_BYTES, BatchHead, Kind, SEGMENT_HEAD_BYTES, SegmentHead};

use super::house::DIRECTORY;

/// Bytes of a file that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) path: PathBuf,
    /// The first, and how many.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) holds: Holds,
}

/// What a spot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// The bodies of these events of a partition.
    Events { partition: u16, first: u64, last: u64 },
    /// A batch of cursors.
    Cursors,
    /// A footer, and the trailer that finds it.
    Footer,
}

/// All spots of sealed segments.
pub(crate) fn sealed_spots(disk: &SimDisk) -> Vec<Spot> {
    let directory = Path::new(DIRECTORY);
    let mut spots = Vec::new();
    for name in disk.names(directory) {
        if SegmentId::from_name(&name).is_some() {
            spots.extend(spots_of(disk, &directory.join(&name)).unwrap_or_default());
        }
    }
    spots
}

/// Of one segment; `None` if it is not sealed.
fn spots_of(disk: &SimDisk, path: &Path) -> Option<Vec<Spot>> {
    let mut bytes = vec![0; disk.length(path).ok()? as usize];
    let read = disk.read(path, 0, &mut bytes).ok()?;
    let head = SegmentHead::decode(&bytes[..read]).ok()?;
    let (mut spots, mut at) = (Vec::new(), SEGMENT_HEAD_BYTES);
    while let Some(rest) = bytes.get(at..)
        && let Ok(batch) = BatchHead::decode(rest, head.salt, at as u64)
    {
        let (body_at, body_bytes) = ((at + BATCH_HEAD_BYTES) as u64, u64::from(batch.body_bytes));
        let mut add = |at, bytes, holds| {
            let path = path.to_owned();
            spots.push(Spot {
                path,
                at,
                bytes,
                holds,
            });
        };
        match batch.kind {
            Kind::Events if body_bytes > 0 => {
                let holds = Holds::Events {
                    partition: batch.partition,
                    first: batch.first,
                    last: batch.last(),
                };
                add(body_at, body_bytes, holds);
            }
            Kind::Cursors => add(at as u64, BATCH_HEAD_BYTES as u64 + body_bytes, Holds::Cursors),
            Kind::Footer => {
                add(at as u64, (bytes.len() - at) as u64, Holds::Footer);
                return Some(spots);
            }
            _ => {}
        }
        at += batch.bytes() as usize;
    }
    None
}
