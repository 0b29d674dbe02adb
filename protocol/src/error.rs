//! What can be wrong, and whose fault it is: the error codes of the wire, and the faults of an envelope.
//!
//! A decode gives a [`Reject`]; whoever answers it puts its code and message into an [`ErrorBody`].

use alloc::vec::Vec;
use core::fmt;

use crate::cbor::{self, WalkFault, WalkFaultKind};
use crate::envelope::{Id, Kind};
use crate::head::{self, Head, NoHead};
use crate::limits::{ERROR_KEYS_MAX, META_BYTES_MAX, META_KEYS_MAX, PAYLOAD_DEPTH_MAX, TARGET_BYTES_MAX};

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
    /// All of them, by number; the first is 1.
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number; what is not canonical is [`Code::Unknown`].
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let at = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1));
        at.and_then(|at| Self::ALL.get(at))
            .copied()
            .unwrap_or(Self::Unknown)
    }

    /// The canonical name in snake case, e.g. `invalid_argument`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    /// Reads the map; unknown keys are ignored, and a wait beyond u32 is read as its maximum.
    ///
    /// # Errors
    /// [`Fault::Error`] if it is not exactly one such map: no code or message, one of the four keys twice or with a
    /// value of another type, more than 32 keys. [`Fault::NotShortest`], [`Fault::Truncated`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        match Self::read(bytes) {
            Ok((body, len)) if len == bytes.len() => Ok(body),
            Ok(_) => Err(Fault::Error),
            Err((fault, _)) => Err(fault),
        }
    }

    /// Reads the map at the start of `bytes`, and its length.
    #[cold]
    fn read(bytes: &'a [u8]) -> Found<(Self, usize)> {
        let (pairs, mut at) = match Head::read(bytes) {
            Ok(Head {
                major: head::MAP,
                argument: Some(pairs),
                is_shortest: true,
                len,
            }) if pairs <= ERROR_KEYS_MAX as u64 => (pairs, len),
            _ => return Err((head_fault(bytes, head::MAP, Fault::Error), 0)),
        };
        let (mut code, mut message, mut details, mut retry_after_ms) = (None, None, None, None);
        for _ in 0..pairs {
            let key_at = at;
            let key = item(bytes, &mut at)?;
            let value_at = at;
            let value = item(bytes, &mut at)?;
            let no_value = (Fault::Error, value_at);
            let is_twice = match head::as_text(key) {
                Some("code") => {
                    let number = head::as_uint(value).ok_or(no_value)?;
                    code.replace(Code::from_number(number)).is_some()
                }
                Some("message") => message.replace(head::as_text(value).ok_or(no_value)?).is_some(),
                Some("details") => details.replace(value).is_some(),
                Some("retry_after_ms") => {
                    let wait_ms = head::as_uint(value).ok_or(no_value)?;
                    retry_after_ms
                        .replace(u32::try_from(wait_ms).unwrap_or(u32::MAX))
                        .is_some()
                }
                Some(_) => false,
                None if head::is_text(key) => false, // in chunks: none of ours
                None => return Err((Fault::Error, key_at)),
            };
            if is_twice {
                return Err((Fault::Error, key_at));
            }
        }
        match (code, message) {
            (Some(code), Some(message)) => Ok((
                Self {
                    code,
                    message,
                    details,
                    retry_after_ms,
                },
                at,
            )),
            _ => Err((Fault::Error, 0)),
        }
    }

    /// Appends the encoded map.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let keys = 2 + u64::from(self.details.is_some()) + u64::from(self.retry_after_ms.is_some());
        Head::write(head::MAP, keys, out);
        Head::write_text("code", out);
        Head::write(head::UINT, self.code as u64, out);
        Head::write_text("message", out);
        Head::write_text(self.message, out);
        if let Some(details) = self.details {
            Head::write_text("details", out);
            out.extend_from_slice(details);
        }
        if let Some(wait_ms) = self.retry_after_ms {
            Head::write_text("retry_after_ms", out);
            Head::write(head::UINT, wait_ms.into(), out);
        }
    }
}

/// What is wrong, and at which offset.
pub(crate) type Found<T> = Result<T, (Fault, usize)>;

/// Checks the error map at the start of `bytes` and finds its length.
pub(crate) fn check(bytes: &[u8]) -> Found<usize> {
    ErrorBody::read(bytes).map(|(_, len)| len)
}

/// The item at `at`, which moves behind it. A key or value nests as deep as a payload may.
fn item<'a>(bytes: &'a [u8], at: &mut usize) -> Found<&'a [u8]> {
    let rest = &bytes[*at..];
    let len =
        cbor::walk_short(rest, PAYLOAD_DEPTH_MAX).map_err(|fault| item_fault(fault, *at, Fault::Error))?;
    *at += len;
    Ok(&rest[..len])
}

/// What it means for the envelope that an item beginning at `at` has a fault.
#[cold]
pub(crate) fn item_fault(fault: WalkFault, at: usize, otherwise: Fault) -> (Fault, usize) {
    let kind = if fault.kind == WalkFaultKind::Truncated {
        Fault::Truncated
    } else {
        otherwise
    };
    (kind, at + fault.at)
}

/// Why the head at the start of `rest` is not that of a field with this major type.
#[cold]
pub(crate) fn head_fault(rest: &[u8], major: u8, otherwise: Fault) -> Fault {
    match Head::read(rest) {
        Err(NoHead::Truncated) => Fault::Truncated,
        Ok(head) if head.major == major && !head.is_shortest => Fault::NotShortest,
        _ => otherwise,
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
        match self {
            Self::Compressed | Self::State(_) => Code::FailedPrecondition,
            Self::UnknownKind(_) => Code::Unimplemented,
            Self::MetaTooLarge | Self::TooLarge => Code::ResourceExhausted,
            Self::Shape
            | Self::NotShortest
            | Self::Id
            | Self::Ref
            | Self::Target
            | Self::Meta
            | Self::MetaDuplicate
            | Self::MetaValue(_)
            | Self::Error
            | Self::Payload(_)
            | Self::Names
            | Self::Truncated
            | Self::Hello(_)
            | Self::Topic(_) => Code::InvalidArgument,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.write_str(
                "not an envelope: send a CBOR array of 7 (type, id, ref, target, meta, payload, error), null for what \
                 is absent",
            ),
            Self::Compressed => {
                f.write_str("the body is compressed: offer `compress` in the hello, or send it as it is")
            }
            Self::UnknownKind(number) => write!(f, "type {number} is unknown: types are 1 (hello) to 7 (ping)"),
            Self::NotShortest => f.write_str(
                "a head of the envelope is of indefinite length or longer than needed: encode type, id, ref, target, \
                 meta, its keys and error in their shortest, definite form",
            ),
            Self::Id => f.write_str("id must be a byte string of 16 bytes (a binary UUID)"),
            Self::Ref => f.write_str("ref must be null or a byte string of 16 bytes (the id it answers or continues)"),
            Self::Target => write!(
                f,
                "target must be text of 1 to {TARGET_BYTES_MAX} bytes, or null where the type needs none"
            ),
            Self::Meta => f.write_str("meta must be null or a map with text keys and well-formed values"),
            Self::MetaDuplicate => f.write_str("a meta key stands twice: send each once"),
            Self::MetaTooLarge => write!(
                f,
                "meta may have {META_KEYS_MAX} keys and {META_BYTES_MAX} bytes: put the rest into the payload"
            ),
            Self::MetaValue(key) => write!(f, "meta key `{key}` has a value of the wrong type or range"),
            Self::Error => f.write_str("error must be null or a map {code: uint, message: text, …}"),
            Self::Payload(kind) => write!(f, "the payload is not one well-formed CBOR item: {}", reason(*kind)),
            Self::Names => f.write_str(
                "a named envelope has the text keys type, id, ref, target, meta, payload, error, all of them, in this \
                 order",
            ),
            Self::TooLarge => f.write_str(
                "the envelope is larger than this side takes (its announced max_frame less 1 KiB): send less, or in a \
                 stream",
            ),
            Self::Truncated => f.write_str("the message ends before the envelope does: send whole envelopes"),
            Self::Hello(part) => write!(f, "hello: `{part}` cannot be read: {}", expected(part)),
            Self::State(why) => f.write_str(why),
            Self::Topic(why) => write!(f, "the target is not allowed here: {why}"),
        }
    }
}

impl core::error::Error for Fault {}

/// What a walk found, for a person.
fn reason(kind: WalkFaultKind) -> &'static str {
    match kind {
        WalkFaultKind::Truncated => "it is cut off",
        WalkFaultKind::Reserved => "a head uses reserved additional information",
        WalkFaultKind::Break => "a break stands where nothing of indefinite length ends",
        WalkFaultKind::Simple => "a two-byte simple value is below 32",
        WalkFaultKind::Chunk => "a chunk of an indefinite-length string is not a definite string of its kind",
        WalkFaultKind::Utf8 => "a text is not UTF-8",
        WalkFaultKind::Depth => "it nests deeper than 64",
    }
}

/// What a part of a hello or of its answer should have been, for a person.
fn expected(part: &str) -> &'static str {
    match part {
        "payload" => "expected a map with text keys, each once",
        "v" => "expected a list of the versions that are spoken, [0] (in the answer: the version)",
        "caps" => "expected a map of booleans and lists of names",
        "max_frame" => "expected bytes, at least 65536",
        "heartbeat_ms" => "expected milliseconds, an unsigned integer",
        "credit" => "expected bytes, an unsigned integer",
        "agent" => "expected a text",
        "auth" => "expected a map with the text `scheme`",
        "resume" => "expected {session: 16 bytes, token: bytes, recv: uint}",
        "session" => "expected 16 bytes",
        "token" => "expected bytes or null",
        "resumed" => "expected a boolean",
        "recv" => "expected an unsigned integer",
        "limits" => "expected a map",
        _ => "its type or range is wrong",
    }
}

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

impl Reject {
    /// The type and the ref of the answer, if the envelope is to be answered: its end is known (otherwise the
    /// connection is closed instead), its id is readable, and its ref is null, so that an error never answers an
    /// error. The type is its own, or `cancel` if that is unknown.
    #[must_use]
    pub fn answer(&self) -> Option<(Kind, Id)> {
        match (self.id, self.has_ref) {
            (Some(id), Some(false)) if !self.closes() => Some((self.kind.unwrap_or(Kind::Cancel), id)),
            _ => None,
        }
    }

    /// Whether the connection has to be closed: nobody can tell where the next envelope begins.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.end.is_none()
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.fault, self.at)
    }
}

impl core::error::Error for Reject {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_numbers() {
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at + 1);
            assert_eq!(Code::from_number(at as u64 + 1), code);
        }
        for number in [0, 17, u64::MAX] {
            assert_eq!(Code::from_number(number), Code::Unknown);
        }
    }

    #[test]
    fn error_bodies_round_trip() {
        for details in [None, Some(&[0x82, 1, 2][..])] {
            for retry_after_ms in [None, Some(u32::MAX)] {
                let body = ErrorBody {
                    code: Code::NotFound,
                    message: "nö",
                    details,
                    retry_after_ms,
                };
                let mut out = Vec::new();
                body.encode(&mut out);
                assert_eq!(ErrorBody::decode(&out).as_ref(), Ok(&body));
                for cut in 0..out.len() {
                    assert_eq!(ErrorBody::decode(&out[..cut]), Err(Fault::Truncated));
                }
                out.push(0);
                assert_eq!(ErrorBody::decode(&out), Err(Fault::Error));
            }
        }
    }

    #[test]
    fn error_bodies_are_read_leniently_where_nothing_is_lost() {
        // Unknown keys (one in chunks), a code that is not shortest, a wait that is out of range.
        let body = b"\xa5\x64code\x18\x03\x7f\x61a\xff\x80\x61x\xf6\x67message\x60\x6eretry_after_ms\x1b\0\0\0\x09\0\0\0\0";
        let read = ErrorBody::decode(body).unwrap();
        assert_eq!(
            (read.code, read.message, read.retry_after_ms),
            (Code::InvalidArgument, "", Some(u32::MAX))
        );
    }

    #[test]
    fn what_is_no_error_body() {
        for (body, fault) in [
            (&b"\xa0"[..], Fault::Error),
            (b"\xf6", Fault::Error),
            (b"\xa1\x64code\x03", Fault::Error),
            (b"\xa1\x67message\x60", Fault::Error),
            (b"\xa2\x64code\x20\x67message\x60", Fault::Error),
            (b"\xa2\x64code\x03\x67message\x40", Fault::Error),
            (b"\xa3\x64code\x03\x64code\x03\x67message\x60", Fault::Error),
            (b"\xa3\x64code\x03\x67message\x60\x00\x00", Fault::Error),
            (b"\xbf\x64code\x03\x67message\x60\xff", Fault::NotShortest),
            (b"\xb8\x02\x64code\x03\x67message\x60", Fault::NotShortest),
            (b"\xa2\x64code\x03\x67message\x61", Fault::Truncated),
            (b"\xb8\x21\x64code\x03\x67message\x60", Fault::Error),
            (b"\xb8\x20\x64code\x03\x67message\x60", Fault::Truncated),
        ] {
            assert_eq!(ErrorBody::decode(body), Err(fault), "{body:x?}");
        }
    }

    #[test]
    fn an_error_body_has_at_most_32_keys() {
        let body = |keys: u8| {
            let unknown = [0x60, 0].repeat(usize::from(keys) - 2);
            [&[0xb8, keys][..], b"\x64code\x03\x67message\x60", &unknown].concat()
        };
        assert!(ErrorBody::decode(&body(32)).is_ok());
        assert_eq!(ErrorBody::decode(&body(33)), Err(Fault::Error));
    }
}
