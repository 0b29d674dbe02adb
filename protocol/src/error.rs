//! What can be wrong, and whose fault it is: the error codes of the wire, and the faults of an envelope.

use core::fmt;

use crate::cbor::WalkFaultKind;
use crate::envelope::{Id, Kind};

/// The canonical gRPC codes, as FLUXAR uses them [P-3.6].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the canonical ones
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The code with this number; what is not canonical is [`Code::Unknown`].
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let _ = number;
        todo!()
    }
    /// The canonical name in snake case, e.g. `invalid_argument`.
    #[must_use]
    pub fn name(self) -> &'static str {
        todo!()
    }
}

/// The `error` field of an envelope: `{code, message, details?, retry_after_ms?}` [P-3.6].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// What kind of failure it is.
    pub code: Code,
    /// For a person: what was wrong, where, what to do.
    pub message: &'a str,
    /// One encoded CBOR item, if there are details.
    pub details: Option<&'a [u8]>,
    /// When it may be worth trying again, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

impl<'a> ErrorBody<'a> {
    /// Reads the map; unknown keys are ignored.
    ///
    /// # Errors
    /// If it is not such a map.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let _ = bytes;
        todo!()
    }
    /// Appends the encoded map.
    pub fn encode(&self, out: &mut alloc::vec::Vec<u8>) {
        let _ = out;
        todo!()
    }
}

/// What is wrong with an envelope. The code of each is what its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Not an array of 7 (or, named, a map of 7).
    Shape,
    /// Compressed, which was not negotiated.
    Compressed,
    /// The type is not 1..7.
    UnknownKind(u64),
    /// An envelope head that is not the shortest encoding, or of indefinite length.
    NotShortest,
    /// An id that is not 16 bytes.
    Id,
    /// A ref that is neither null nor 16 bytes.
    Ref,
    /// A target that is neither null nor 1..255 bytes of UTF-8.
    Target,
    /// A meta that is neither null nor a map with text keys.
    Meta,
    /// A meta key that stands twice.
    MetaDuplicate,
    /// More than 32 keys, or more than 2 KiB.
    MetaTooLarge,
    /// A registered meta key whose value has the wrong type or range; the key.
    MetaValue(&'static str),
    /// An error that is neither null nor such a map.
    Error,
    /// A payload that is not well-formed CBOR.
    Payload(WalkFaultKind),
    /// A named form whose keys are not the seven names in order.
    Names,
    /// More bytes than one envelope may have.
    TooLarge,
    /// The message ends before the envelope does.
    Truncated,
    /// A hello payload that cannot be read; the part.
    Hello(&'static str),
    /// Not allowed here; why.
    State(&'static str),
    /// A target that the type does not allow: a pattern or `$…` published to, an empty or 17th token.
    Topic(&'static str),
}

impl Fault {
    /// What its sender is told.
    #[must_use]
    pub fn code(&self) -> Code {
        todo!()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}

impl core::error::Error for Fault {}

/// An envelope that is refused, with all of it that could still be read: enough to decide whether to answer it,
/// whom to tell, and whether what follows it in the frame can be found [P-3.8].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// What is wrong.
    pub fault: Fault,
    /// Offset of the byte at which it was noticed, from the start of the envelope.
    pub at: usize,
    /// Its type, if readable.
    pub kind: Option<Kind>,
    /// Its id, if readable.
    pub id: Option<Id>,
    /// Whether its ref is set; `None` if that cannot be told (then it is not answered).
    pub has_ref: Option<bool>,
    /// Where the next envelope begins, if the end of this one is certain. `None` closes the connection.
    pub end: Option<usize>,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.fault, self.at)
    }
}

impl core::error::Error for Reject {}
