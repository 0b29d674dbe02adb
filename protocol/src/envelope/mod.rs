//! The envelope: seven fields, in compact (array) or named (map) form [P-3].
//!
//! A compact envelope is decoded in place: it borrows from the buffer it arrived in and allocates nothing. Type,
//! id and ref stand at fixed offsets, so a forwarder patches sixteen bytes instead of encoding again.

pub mod compact;
mod decode;
mod encode;
mod salvage;
mod usual;

use crate::error::{Fault, Reject};
use crate::limits;
use crate::meta::Meta;

pub use compact::{COMPACT_HEAD, COMPACT_ID_AT, COMPACT_REF_AT, patch_id, patch_ref};
pub use decode::decode;
pub(crate) use decode::decode_piece;
pub(crate) use usual::decode as decode_usual;

/// The seven message types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Hello = 1,
    Call = 2,
    Stream = 3,
    Subscribe = 4,
    Event = 5,
    Cancel = 6,
    Ping = 7,
}

impl Kind {
    /// The type with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Call,
            3 => Self::Stream,
            4 => Self::Subscribe,
            5 => Self::Event,
            6 => Self::Cancel,
            7 => Self::Ping,
            _ => return None,
        })
    }

    /// Its published name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Call => "call",
            Self::Stream => "stream",
            Self::Subscribe => "subscribe",
            Self::Event => "event",
            Self::Cancel => "cancel",
            Self::Ping => "ping",
        }
    }
}

/// A message id: a binary UUID, unique to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

/// How an envelope is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// An array of 7: what peers send by default.
    #[default]
    Compact,
    /// A map of 7 with the published names as keys, for debuggers and hand-written clients.
    Named,
}

/// One message, borrowed from where it was received or about to be encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Envelope<'a> {
    /// The message type.
    pub kind: Kind,
    /// The sender's id for it.
    pub id: Id,
    /// `ref`: the message that this one answers or continues.
    pub reference: Option<Id>,
    /// Method, topic or pattern.
    pub target: Option<&'a str>,
    /// The registry of small facts about the message.
    pub meta: Option<Meta<'a>>,
    /// One encoded CBOR item. Empty means null when encoding; decoding gives at least one byte.
    pub payload: &'a [u8],
    /// The encoded error map; read it with [`crate::ErrorBody::decode`].
    pub error: Option<&'a [u8]>,
}

/// A decoded envelope with the bytes that it came from.
#[derive(Debug, Clone, Copy)]
pub struct Decoded<'a> {
    /// Its fields.
    pub envelope: Envelope<'a>,
    /// The form it came in.
    pub form: Form,
    /// Exactly its bytes, from its first to its last.
    pub bytes: &'a [u8],
}

impl Decoded<'_> {
    /// Checks the envelope against what a receiver with this frame limit takes: 1 KiB less [P-6].
    ///
    /// # Errors
    /// [`Fault::TooLarge`]. The envelope's end is known, so the connection lives.
    pub fn check_size(&self, max_frame_bytes: usize) -> Result<(), Reject> {
        let most_bytes = limits::envelope_bytes_max(max_frame_bytes);
        if self.bytes.len() <= most_bytes {
            return Ok(());
        }
        Err(Reject {
            fault: Fault::TooLarge,
            at: most_bytes,
            kind: Some(self.envelope.kind),
            id: Some(self.envelope.id),
            has_ref: Some(self.envelope.reference.is_some()),
            end: Some(self.bytes.len()),
        })
    }
}

/// First byte of a named envelope: a definite map of 7.
pub const NAMED_HEAD: u8 = 0xa7;
/// The published names of the seven fields, in their order.
pub const FIELD_NAMES: [&str; 7] = ["type", "id", "ref", "target", "meta", "payload", "error"];

impl core::fmt::Debug for Id {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for Id {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
