//! From the files of a log to what its cores know of it: run once at a start, blocking, over [`super::files::Files`], on a
//! thread of its own while the gateway already answers.

pub mod recovered;

pub use recovered::{
    HeldExtent, Hole, HoleCause, OnceId, Recovered, RecoveredCursor, RecoveredPartition, RecoveredRow,
    RecoveredSegment,
};
