//! An event that the gateway stores and acknowledges: the builder, and the receipt.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use fluxar_protocol::{Code, Id, meta::MetaWriter};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    Error, Origin, Peer, Position, Result, codec, handlers,
    publishing::{Kept, Publishing},
    terms::{self, whole_ms},
};

/// How long a publish is tried unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest for one that is to be stored exactly once: the gateway remembers ids for five minutes [P-5.10].
const TIMEOUT_ONCE_MAX: Duration = Duration::from_secs(240);

/// An event that is being put together; await it, or [`enqueue`](Event::enqueue) it. From [`Peer::event`].
#[must_use = "it is published when it is awaited, or enqueued"]
#[derive(Debug)]
pub struct Event<'a> {
    peer: &'a Peer,
    topic: &'a str,
    payload: Result<Vec<u8>>,
    is_once: bool,
    id: Option<Id>,
    key: Option<Vec<u8>>,
    is_retained: bool,
    ttl: Option<Duration>,
    trace: Option<String>,
    timeout: Duration,
}

impl<'a> Event<'a> {
    pub(crate) fn new<T: Serialize + ?Sized>(peer: &'a Peer, topic: &'a str, value: &T) -> Self {
        Self {
            peer,
            topic,
            payload: codec::encode(value),
            is_once: false,
            id: None,
            key: None,
            is_retained: false,
            ttl: None,
            trace: None,
            timeout: TIMEOUT,
        }
    }

    /// Stored exactly once (qos 2), however often it has to be sent: the gateway knows it again by its id. Without this it
    /// is stored at least once (qos 1), which is cheaper, and may be stored twice when a connection breaks between
    /// the two sides.
    pub fn exactly_once(mut self) -> Self {
        self.is_once = true;
        self
    }

    /// The event's own id, for a publisher that may end before it knows what became of the event: one that reads a table of
    /// what is to be published, for example. It publishes the event again when it is back, with the same id, and
    /// [`exactly_once`](Event::exactly_once) stores it once, if that is within the time for which the gateway remembers ids
    /// (`log.once_ms`, five minutes). Without this the SDK draws an id for each event, under which it sends it again as
    /// long as the process lives.
    ///
    /// Make it from what the event is called where it comes from: a UUID that is kept with it, or a hash of 16 bytes of a
    /// name that nothing else has. The gateway compares ids across all publishers and topics of a partition: two events
    /// with one id within that time are one to it, and the second is not stored. The subscriber sees it as
    /// [`Message::id`](crate::Message::id).
    pub fn id(mut self, id: [u8; 16]) -> Self {
        self.id = Some(Id(id));
        self
    }

    /// What the event is about: of a topic that is read as a table, the last one for each key counts. At most 255
    /// bytes.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// Keeps it as the last one for its key: who [subscribes with `retain`](crate::Subscribe::retain) gets it first. A null
    /// payload takes the key out of the table.
    pub fn retain(mut self) -> Self {
        self.is_retained = true;
        self
    }

    /// Worthless so long after the gateway has received it: it is not delivered any more then.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The W3C trace context that it belongs to.
    pub fn trace(mut self, traceparent: &str) -> Self {
        self.trace = Some(traceparent.to_owned());
        self
    }

    /// How long it is tried: sent again after a reconnect, and when the gateway cannot take it for a moment. Default
    /// 30 s; for [`exactly_once`](Event::exactly_once) at most four minutes, because the gateway does not remember ids
    /// for ever.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits for room (4 MiB of events that are not acknowledged yet, a setting: `publish_unacked_bytes`), hands the
    /// event over to be sent, and returns a receipt to await. So thousands can be on their way at once:
    ///
    /// ```no_run
    /// # async fn example(client: fluxar::Client, orders: Vec<u32>) -> fluxar::Result<()> {
    /// let mut receipts = Vec::new();
    /// for order in &orders {
    ///     receipts.push(client.event("orders.created", order).enqueue().await?);
    /// }
    /// for receipt in receipts {
    ///     let position = receipt.await?;
    ///     println!("stored at {position}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Events of one topic are stored in the order in which they were enqueued, unless the gateway refuses some of
    /// those on their way for a moment (its disk is full, for example) and takes others.
    ///
    /// # Errors
    /// If the topic is none, the value cannot be encoded or is too large, the peer is closed or has no gateway behind it;
    /// `already_exists` if an event with this [`id`](Event::id) is on its way; one that [`is_full`](Error::is_full) if there was no room within its timeout.
    pub async fn enqueue(self) -> Result<Receipt> {
        handlers::check_name(self.topic, false)?;
        let meta = self.meta()?;
        let payload = self.payload?;
        let payload: &[u8] = if payload.is_empty() { &[0xf6] } else { &payload };
        let timeout = if self.is_once {
            self.timeout.min(TIMEOUT_ONCE_MAX)
        } else {
            self.timeout
        };
        let (outcome, receipt) = oneshot::channel();
        let kept = Kept::new(self.topic, &meta, payload);
        Publishing::publish(self.peer.shared(), kept, self.id, timeout, outcome).await?;
        Ok(Receipt(receipt))
    }

    fn meta(&self) -> Result<Vec<u8>> {
        let mut meta = MetaWriter::new().uint("qos", if self.is_once { 2 } else { 1 });
        if let Some(key) = &self.key {
            meta = terms::write_key(meta, key)?;
        }
        if self.is_retained {
            meta = meta.flag("retain", true);
        }
        if let Some(ttl) = self.ttl {
            meta = meta.uint("ttl_ms", whole_ms(ttl));
        }
        if let Some(trace) = &self.trace {
            meta = terms::write_trace(meta, trace)?;
        }
        Ok(meta.finish().unwrap_or_default()) // `qos` is there
    }
}

impl<'a> IntoFuture for Event<'a> {
    type Output = Result<Position>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Position>> + Send + 'a>>;

    /// Publishes it and waits until the gateway has stored it, as safely as the gateway is configured to.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.enqueue().await?.await })
    }
}

/// An event that is on its way; awaiting it gives the position where it was stored, or why it was not. Dropping it changes
/// nothing: the event is tried on, and if it fails that is logged.
///
/// `deadline_exceeded` and `unavailable` (the peer was closed, or refuses what an earlier session may have stored) leave open whether the event was stored; any other error
/// means that it was not.
#[must_use = "whether the event was stored is known when the receipt is awaited"]
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Position>>);

impl Future for Receipt {
    type Output = Result<Position>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(outcome.unwrap_or_else(|_| {
            let message = "the peer was closed before the event was acknowledged";
            Err(Error::from_origin(Origin::Connection, Code::Unavailable, message))
        }))
    }
}
