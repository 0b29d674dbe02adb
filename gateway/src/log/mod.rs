//! The log of events as the gateway keeps it on a disk: the data directory, its files as recovery reads them, and the
//! thread that recovers them while the gateway already listens.
//!
//! ```text
//!   DataDir (made, locked) ─▶ Recovery thread over DirFiles ── Mail::Recovered ─▶ each core's shard
//!                                                                                   │ poll_disk
//!   files of segments ◀── the engine's ring ◀── Worker ◀──────── paths ─────────────┘
//! ```

pub mod directory;
pub mod files;
mod operations;
pub mod recovering;

pub use directory::{DataDir, DirFault};
pub use files::DirFiles;
pub(crate) use operations::{from_engine, to_engine};
pub use recovering::{LogFault, OpenLog};
pub(crate) use recovering::{ToRecover, unix_ms};
