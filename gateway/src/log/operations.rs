//! What a shard asks of the disk, as the engine's operations on files of the data directory, and back.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use fluxar_engine::disk::{self as engine, is_full};
use fluxar_shard::log::disk::{DiskDone, DiskFault, DiskOp, SegmentId};

/// Bits of a file's key that hold a segment's number; above them stands its core.
const NUMBER_BITS: u32 = 48;

/// The key of a segment's file: unique while it is open, since its numbers are not used again.
fn key_of(segment: SegmentId) -> u64 {
    debug_assert!(segment.number < 1 << NUMBER_BITS);
    u64::from(segment.core) << NUMBER_BITS | segment.number
}

fn segment_of(key: u64) -> SegmentId {
    SegmentId {
        core: (key >> NUMBER_BITS) as u16,
        number: key & ((1 << NUMBER_BITS) - 1),
    }
}

/// For the engine.
pub(crate) fn to_engine(op: DiskOp, directory: &Path) -> engine::DiskOp {
    match op {
        DiskOp::Create { segment, bytes } => engine::DiskOp::Create {
            file: key_of(segment),
            path: directory.join(segment.name()),
            bytes,
        },
        DiskOp::Open { segment } => engine::DiskOp::Open {
            file: key_of(segment),
            path: directory.join(segment.name()),
        },
        DiskOp::Write { segment, at, slices } => engine::DiskOp::Write {
            file: key_of(segment),
            at,
            slices,
            sync: false,
        },
        DiskOp::Sync { segment } => engine::DiskOp::Sync {
            file: key_of(segment),
        },
        DiskOp::Read {
            ticket,
            segment,
            at,
            bytes,
        } => engine::DiskOp::Read {
            ticket,
            file: key_of(segment),
            at,
            bytes,
        },
        DiskOp::Truncate { segment, bytes } => engine::DiskOp::Truncate {
            file: key_of(segment),
            bytes,
        },
        DiskOp::Close { segment } => engine::DiskOp::Close {
            file: key_of(segment),
        },
        DiskOp::Remove { segment } => engine::DiskOp::Remove {
            path: directory.join(segment.name()),
        },
    }
}

/// For the shard; what it does not wait for is `None`, and said if it failed.
pub(crate) fn from_engine(done: engine::DiskDone) -> Option<DiskDone> {
    match done {
        engine::DiskDone::Opened { file, result } => Some(DiskDone::Opened {
            segment: segment_of(file),
            result: result.map_err(|error| fault(file, "opened", &error)),
        }),
        engine::DiskDone::Wrote { file, result, .. } => Some(DiskDone::Wrote {
            segment: segment_of(file),
            result: result.map_err(|error| fault(file, "written", &error)),
        }),
        engine::DiskDone::Synced { file, result } => Some(DiskDone::Synced {
            segment: segment_of(file),
            result: result.map_err(|error| fault(file, "synced", &error)),
        }),
        engine::DiskDone::Read { ticket, result } => Some(DiskDone::Read {
            ticket,
            result: result.map_err(|error| DiskFault::Failed(error.to_string())),
        }),
        engine::DiskDone::Truncated { file, result } => {
            if let Err(error) = result {
                let name = segment_of(file).name();
                tracing::warn!("the segment {name} could not be cut to its length: {error}");
            }
            None
        }
        engine::DiskDone::Closed { file, result } => {
            if let Err(error) = result {
                let name = segment_of(file).name();
                tracing::warn!("the segment {name} could not be closed: {error}");
            }
            None
        }
        engine::DiskDone::Removed { path, result } => {
            let error = result
                .err()
                .filter(|error| error.kind() != io::ErrorKind::NotFound)?;
            tracing::warn!(
                "{} could not be removed, and will be tried again: {error}",
                path.display()
            );
            let name = path.file_name().and_then(OsStr::to_str)?;
            Some(DiskDone::Removed {
                segment: SegmentId::from_name(name)?,
                result: Err(DiskFault::Failed(error.to_string())),
            })
        }
    }
}

fn fault(file: u64, what: &str, error: &io::Error) -> DiskFault {
    if is_full(error) {
        return DiskFault::Full;
    }
    DiskFault::Failed(format!(
        "{} could not be {what}: {error}",
        segment_of(file).name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_by_its_key() {
        for (core, number) in [(0, 1), (1_023, 7), (u16::MAX, (1 << NUMBER_BITS) - 1)] {
            let segment = SegmentId { core, number };
            assert_eq!(segment_of(key_of(segment)), segment);
        }
    }

    #[test]
    fn no_space_is_told_from_other_faults() {
        let failed = |number| {
            let done = engine::DiskDone::Synced {
                file: key_of(SegmentId { core: 3, number: 9 }),
                result: Err(io::Error::from_raw_os_error(number)),
            };
            match from_engine(done) {
                Some(DiskDone::Synced { segment, result }) => {
                    assert_eq!(segment, SegmentId { core: 3, number: 9 });
                    result.expect_err("a fault")
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(failed(rustix::io::Errno::NOSPC.raw_os_error()), DiskFault::Full);
        assert_eq!(failed(rustix::io::Errno::DQUOT.raw_os_error()), DiskFault::Full);
        let said = failed(rustix::io::Errno::IO.raw_os_error()).to_string();
        assert!(said.contains("0003-0000000009.log could not be synced"), "{said}");
    }

    #[test]
    fn a_removal_that_failed_comes_back() {
        let segment = SegmentId { core: 3, number: 9 };
        let removed = |result| {
            from_engine(engine::DiskDone::Removed {
                path: Path::new("/data").join(segment.name()),
                result,
            })
        };
        assert!(removed(Ok(())).is_none());
        assert!(
            removed(Err(io::ErrorKind::NotFound.into())).is_none(),
            "it is not there"
        );
        match removed(Err(io::ErrorKind::ReadOnlyFilesystem.into())) {
            Some(DiskDone::Removed { segment: of, result }) => {
                assert_eq!(of, segment);
                result.expect_err("it failed");
            }
            other => panic!("{other:?}"),
        }
    }
}
