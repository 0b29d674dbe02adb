//! What a message of an open stream says, read from its envelope [P-3.11].

use crate::envelope::Envelope;
use crate::error::Fault;

/// A message of a stream that is not its open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `meta.credit`: the receiver of this may send so many bytes more. It carries no chunk, and no `end`.
    Grant {
        /// How many.
        bytes: u64,
    },
    /// A chunk.
    Chunk {
        /// The encoded payload's size.
        bytes: u64,
        /// `meta.end`: it is the last one of its direction.
        end: bool,
    },
    /// `meta.end` and no payload: the sender's direction has ended.
    End,
    /// With an error: both directions have ended.
    Fail,
}

impl Part {
    /// Reads a `stream` envelope whose ref is set. An error counts before a grant, a grant before a chunk.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] if `credit` or `end` has a value of another type.
    #[inline]
    pub fn read(envelope: &Envelope<'_>) -> Result<Self, Fault> {
        if envelope.error.is_some() {
            return Ok(Self::Fail);
        }
        let bytes = envelope.payload.len() as u64;
        let Some(meta) = envelope.meta else {
            return Ok(Self::Chunk { bytes, end: false });
        };
        if let Some(bytes) = meta.uint("credit")? {
            return Ok(Self::Grant { bytes });
        }
        let end = meta.flag("end")?;
        if end && matches!(envelope.payload, [] | [0xf6]) {
            return Ok(Self::End);
        }
        Ok(Self::Chunk { bytes, end })
    }
}
