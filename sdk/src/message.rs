//! What arrives and is handed to the application: events and requests.

use std::{
    fmt, str,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fluxar_protocol::{
    Code, Envelope, Id,
    meta::{Asked, Meta},
};
use serde::de::DeserializeOwned;

use crate::{Error, ItemStream, Origin, Peer, Position, Result, codec, logged::Delivery, streams::End};

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
#[derive(Clone)]
pub struct Message {
    fields: Fields,
    delivery: Option<Arc<Delivery>>,
}

impl Message {
    pub(crate) fn new(frame: &Bytes, envelope: &Envelope<'_>) -> Self {
        Self {
            fields: Fields::new(frame, envelope),
            delivery: None,
        }
    }

    pub(crate) fn logged(frame: &Bytes, envelope: &Envelope<'_>, delivery: Arc<Delivery>) -> Self {
        Self {
            fields: Fields::new(frame, envelope),
            delivery: Some(delivery),
        }
    }

    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        self.delivery.as_deref()
    }

    /// The topic that it was published to.
    pub fn topic(&self) -> &str {
        self.fields.target()
    }

    /// The payload as `T`.
    ///
    /// # Errors
    /// If it is something else. That costs this message only.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        codec::decode(&self.fields.payload)
    }

    /// The payload as it came: one encoded CBOR item.
    pub fn payload_bytes(&self) -> &Bytes {
        &self.fields.payload
    }

    /// The id that the publisher gave it, 16 bytes.
    pub fn id(&self) -> [u8; 16] {
        self.fields.id.0
    }

    /// The W3C trace context that came with it.
    pub fn trace(&self) -> Option<&str> {
        self.fields.text("trace")
    }

    /// What the event is about, if its publisher said so: the `key` of [`Event::key`](crate::Event::key).
    pub fn key(&self) -> Option<&[u8]> {
        let meta = Meta::from_checked(self.fields.meta.as_deref()?);
        Asked::read(Some(&meta)).ok()?.key
    }

    /// What its meta has under this name, as `T`; `None`: nothing. A dead letter has `x-dead-topic`, `x-dead-at` and
    /// `x-deliveries`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let meta = self.fields.meta.as_deref().map(Meta::from_checked);
        meta.and_then(|meta| meta.get(name))
            .map(codec::decode)
            .transpose()
    }

    /// Where it stands in the gateway's log; `None` for an event that came as it passed (qos 0).
    pub fn position(&self) -> Option<Position> {
        Some(self.delivery()?.at())
    }

    /// How often it may have been given to somebody before. Not 0 in a group after a member did not acknowledge it in
    /// time or was lost.
    pub fn dup(&self) -> u64 {
        self.delivery().map_or(0, Delivery::dup)
    }

    /// Acknowledges it: the gateway need not deliver it again. A handler that returns `Ok` does so by itself. Of a plain
    /// subscription the gateway is told when all events before it in its partition are acknowledged as well; in a group
    /// it is told of exactly this one. Acknowledgements travel together, so this waits for nothing; after a reconnect what
    /// the gateway does not know of is told again. For an event that came as it passed (qos 0) this does nothing.
    ///
    /// # Errors
    /// None so far.
    pub async fn ack(&self) -> Result<()> {
        if let Some(delivery) = self.delivery() {
            delivery.ack();
        }
        Ok(())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Message");
        shown.field("event", &self.fields);
        if let Some(at) = self.position() {
            shown.field("position", &at);
        }
        shown.finish_non_exhaustive()
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
