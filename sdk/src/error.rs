//! What can go wrong, and what a program can do about it.

use std::{error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use fluxar_protocol::ErrorBody;
use serde::{Serialize, de::DeserializeOwned};

pub use fluxar_protocol::Code;

use crate::codec;

/// How much is sent of the message of an error that is too large. Every peer takes it.
const CUT_MESSAGE_BYTES: usize = 1024;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a failure arose; the [`Code`] says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The other side answered with an error, or this program's handler made one to answer with.
    Answer,
    /// No connection could be made, or the handshake was refused.
    Connect,
    /// The connection was lost, closed, or is not there at the moment.
    Connection,
    /// The time for it was over.
    Timeout,
    /// A bounded queue or table of this side is full.
    Full,
    /// A payload could not be encoded, or not decoded as the type that was asked for.
    Payload,
    /// An address, name or setting that cannot be used.
    Input,
}

/// A failure: its code, a message for a person, and where it arose. Cheap to clone.
///
/// A handler answers with one; its code, message, details and [`retry_after`](Error::retry_after) travel to the caller:
///
/// ```
/// use fluxar::{Code, Error};
///
/// let full = Error::new(Code::ResourceExhausted, "all printers are busy")
///     .retry_after(std::time::Duration::from_millis(250));
/// assert!(full.is_retryable());
/// assert_eq!(full.to_string(), "resource_exhausted: all printers are busy");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    details: Option<Bytes>,
    retry_after: Option<Duration>,
    origin: Origin,
    address: Option<Arc<str>>,
    source: Option<Arc<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// An error to answer with.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self::from_origin(Origin::Answer, code, message)
    }

    /// An `internal` error that says what another error says.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Code::Internal, cause.to_string())
    }

    /// Adds details: any value, which the caller reads with [`Error::details`]. A value that cannot be encoded
    /// leaves the error without details. An error that is larger than the other side takes arrives without them too, and
    /// with the beginning of its message.
    #[must_use]
    pub fn with_details(self, details: &impl Serialize) -> Self {
        let details = codec::encode(details).ok().map(Bytes::from);
        self.change(|inner| inner.details = details)
    }

    /// Tells the caller when it may be worth trying again (whole milliseconds on the wire).
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        self.change(|inner| inner.retry_after = Some(after))
    }

    pub(crate) fn from_origin(origin: Origin, code: Code, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            code,
            message: message.into(),
            details: None,
            retry_after: None,
            origin,
            address: None,
            source: None,
        }))
    }

    pub(crate) fn at(self, address: &Arc<str>) -> Self {
        self.change(|inner| inner.address = Some(address.clone()))
    }

    pub(crate) fn because(self, source: impl error::Error + Send + Sync + 'static) -> Self {
        self.change(|inner| inner.source = Some(Arc::new(source)))
    }

    /// Another verdict on what this one is about, with this one as the reason.
    pub(crate) fn overruled(self, code: Code, message: String) -> Self {
        self.clone().because(self).change(|inner| {
            (inner.code, inner.message) = (code, message);
            (inner.details, inner.retry_after) = (None, None);
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The error that an envelope carries. One that cannot be read is still an error.
    pub(crate) fn from_wire(raw: &[u8], address: &Arc<str>) -> Self {
        match ErrorBody::decode(raw) {
            Ok(body) => Self::new(body.code, body.message).at(address).change(|inner| {
                inner.details = body.details.map(Bytes::copy_from_slice);
                inner.retry_after = body.retry_after_ms.map(|ms| Duration::from_millis(ms.into()));
            }),
            Err(fault) => {
                Self::new(Code::Unknown, format!("an error that cannot be read: {fault}")).at(address)
            }
        }
    }

    /// The `error` field that says this.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let retry_after_ms = self
            .0
            .retry_after
            .map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
        let details = self.0.details.as_deref();
        ErrorBody {
            code: self.0.code,
            message: &self.0.message,
            details,
            retry_after_ms,
        }
        .encode(&mut out);
        out
    }

    /// What is left of it where it is too large to be sent: its code, when to try again, and how its message begins.
    pub(crate) fn cut(&self) -> Self {
        let message = &self.0.message;
        let most = CUT_MESSAGE_BYTES.min(message.len());
        let end = (0..=most)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        let message = match &message[..end] {
            whole if end == message.len() => whole.to_owned(),
            begin => format!("{begin}…"),
        };
        self.clone().change(|inner| {
            inner.message = message;
            inner.details = None;
        })
    }

    /// What kind of failure it is, in gRPC's canonical codes.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What was wrong, for a person.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where it arose.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The address of the other side, if the failure concerns one.
    pub fn address(&self) -> Option<&str> {
        self.0.address.as_deref()
    }

    /// The details that came with it, as `T`; `None` if there are none or they are something else.
    pub fn details<T: DeserializeOwned>(&self) -> Option<T> {
        codec::decode(self.0.details.as_deref()?).ok()
    }

    /// When the other side says that it may be worth trying again.
    pub fn retry_after_hint(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed later: `unavailable`, `resource_exhausted`, `aborted`. Whether it is
    /// safe to repeat, only the program knows: a call whose connection was lost may have been carried out.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.code,
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted
        )
    }

    /// Whether it says that a bounded queue of this side is full, and nothing else is wrong.
    pub fn is_full(&self) -> bool {
        self.0.origin == Origin::Full
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = &self.0.address {
            write!(f, "{address}: ")?;
        }
        write!(f, "{}: {}", self.0.code.name(), self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("origin", &self.0.origin)
            .field("address", &self.0.address)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
