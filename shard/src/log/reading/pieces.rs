//! What the disk would not give at once: read again a little at a time, so that no more is lost than has to be.

use crate::log::partition::Stretch;

/// How much is read at once of what could not be read at once, bytes.
const PIECE_BYTES: u64 = 4096;

/// A stretch that is read in pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) stretch: Stretch,
    /// What was read, with zeros for what could not be.
    pub(super) bytes: Vec<u8>,
    /// Some of it could not be.
    pub(super) is_unreadable: bool,
}

impl Pieces {
    /// The next one.
    pub(super) fn next(&self) -> Option<Stretch> {
        let done = self.bytes.len() as u64;
        let left = u64::from(self.stretch.bytes).saturating_sub(done);
        let at = self.stretch.at + done;
        // Up to the end of a page of the file.
        let bytes = left.min(PIECE_BYTES - at % PIECE_BYTES);
        (bytes > 0).then_some(Stretch {
            at,
            bytes: bytes as u32,
            ..self.stretch
        })
    }
}
