//! What arrives and is handed to the application: events and requests.

use std::{
    fmt, str,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fluxar_protocol::{Code, Envelope, Id, meta::Meta};
use serde::de::DeserializeOwned;

use crate::{Error, ItemStream, Origin, Peer, Result, codec, streams::End};

/// The fields that events and requests have in common. All share the memory of the frame that they arrived in, so a
/// message that is kept for long keeps up to 64 KiB (or its frame, if that is larger).
#[derive(Clone)]
struct Fields {
    id: Id,
    target: Bytes,
    meta: Option<Bytes>,
    payload: Bytes,
}

impl Fields {
    fn new(frame: &Bytes, envelope: &Envelope<'_>) -> Self {
        Self {
            id: envelope.id,
            target: envelope
                .target
                .map_or(Bytes::new(), |target| frame.slice_ref(target.as_bytes())),
            meta: envelope.meta.map(|meta| frame.slice_ref(meta.as_bytes())),
            payload: frame.slice_ref(envelope.payload),
        }
    }

    fn target(&self) -> &str {
        str::from_utf8(&self.target).unwrap_or_default() // it was a &str when it was taken
    }

    fn text(&self, key: &'static str) -> Option<&str> {
        Meta::from_checked(self.meta.as_deref()?).text(key).ok()?
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, payload of {} bytes)",
            self.target(),
            self.id,
            self.payload.len()
        )
    }
}

/// An event that was delivered to a subscription.
#[derive(Debug, Clone)]
pub struct Message(Fields);

impl Message {
    pub(crate) fn new(frame: &Bytes, envelope: &Envelope<'_>) -> Self {
        Self(Fields::new(frame, envelope))
    }

    /// The topic that it was published to.
    pub fn topic(&self) -> &str {
        self.0.target()
    }

    /// The payload as `T`.
    ///
    /// # Errors
    /// If it is something else. That costs this message only.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        codec::decode(&self.0.payload)
    }

    /// The payload as it came: one encoded CBOR item.
    pub fn payload_bytes(&self) -> &Bytes {
        &self.0.payload
    }

    /// The id that the publisher gave it, 16 bytes.
    pub fn id(&self) -> [u8; 16] {
        self.0.id.0
    }

    /// The W3C trace context that came with it.
    pub fn trace(&self) -> Option<&str> {
        self.0.text("trace")
    }

    /// Acknowledges it. At most once delivery, the only one so far, needs no acknowledgement: nothing is sent, and
    /// programs that are written with it stay right when their subscription asks for more.
    ///
    /// # Errors
    /// None so far.
    pub async fn ack(&self) -> Result<()> {
        Ok(())
    }
}

/// A call, or the open of a stream, that arrived for a handler.
#[derive(Debug, Clone)]
pub struct Request {
    fields: Fields,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    peer: Peer,
    stream: Option<End>,
}

impl Request {
    pub(crate) fn new(frame: &Bytes, envelope: &Envelope<'_>, peer: Peer) -> Self {
        let timeout_ms = envelope
            .meta
            .and_then(|meta| meta.uint("timeout_ms").ok().flatten());
        Self {
            fields: Fields::new(frame, envelope),
            timeout: timeout_ms.map(Duration::from_millis),
            deadline: timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
            peer,
            stream: None,
        }
    }

    pub(crate) fn of_stream(frame: &Bytes, envelope: &Envelope<'_>, peer: Peer, end: End) -> Self {
        Self {
            stream: Some(end),
            ..Self::new(frame, envelope, peer)
        }
    }

    pub(crate) fn method_bytes(&self) -> Bytes {
        self.fields.target.clone()
    }

    /// The items that the opener of the stream sends, which can be taken once. Of a stream that carries only a request,
    /// and of a call, there are none: it ends at once. The handler may read and send at the same time; what it does
    /// not read the opener cannot send beyond its window.
    pub fn items<T>(&self) -> ItemStream<T> {
        match &self.stream {
            None => ItemStream::never(None),
            Some(end) if end.channel.take_reader() => ItemStream::new(end.clone()),
            Some(_) => {
                let message = "the items of this stream were taken before";
                ItemStream::never(Some(Error::from_origin(
                    Origin::Input,
                    Code::FailedPrecondition,
                    message,
                )))
            }
        }
    }

    /// The method that was asked for.
    pub fn method(&self) -> &str {
        self.fields.target()
    }

    /// The argument as `T`.
    ///
    /// # Errors
    /// `invalid_argument` if it is something else; a handler that returns it tells the caller.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        codec::decode(&self.fields.payload)
    }

    /// The argument as it came: one encoded CBOR item.
    pub fn payload_bytes(&self) -> &Bytes {
        &self.fields.payload
    }

    /// How long the caller waits, counted from the arrival here, if it said so. The handler is dropped when that is
    /// over.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// When that is over; to pass on to what the handler calls itself, with
    /// [`Call::deadline`](crate::Call::deadline).
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The W3C trace context that came with it.
    pub fn trace(&self) -> Option<&str> {
        self.fields.text("trace")
    }

    /// The other end of the connection that the call came over. It can be called back.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}
