//! A stream that this side opens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fluxar_protocol::{Code, Envelope, Id, Kind, meta::Meta};
use serde::{Serialize, de::DeserializeOwned};

use super::{Channel, End, ItemSink, ItemStream};
use crate::{Error, Origin, Peer, Result, codec, handlers, link::Link, terms::Terms};

/// A stream that is being put together; [`OpenStream::open`] or [`OpenStream::duplex`] opens it. From
/// [`Peer::request_stream`].
///
/// ```no_run
/// # async fn example(client: fluxar::Client) -> fluxar::Result<()> {
/// use std::time::Duration;
///
/// let mut rows = client
///     .request_stream("rows.scan")
///     .timeout(Duration::from_secs(60))
///     .credit_bytes(1024 * 1024)
///     .payload(&"orders")
///     .open::<(u64, String)>()
///     .await?;
/// while let Some(row) = rows.next().await {
///     let (id, name) = row?;
///     println!("{id} {name}");
/// }
/// # Ok(()) }
/// ```
#[must_use = "it is opened by `open` or `duplex`"]
#[derive(Debug)]
pub struct OpenStream<'a> {
    peer: &'a Peer,
    method: &'a str,
    terms: Terms,
    payload: Result<Vec<u8>>,
}

impl<'a> OpenStream<'a> {
    pub(crate) fn new(peer: &'a Peer, method: &'a str) -> Self {
        Self {
            peer,
            method,
            terms: Terms::default(),
            payload: Ok(Vec::new()),
        }
    }

    /// How long the whole stream may take; then both sides end it `deadline_exceeded`. The other side is told, in whole
    /// milliseconds. By default it takes as long as it likes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.timeout = Some(timeout);
        self
    }

    /// When it must have ended at the latest, if that is earlier than its timeout. See
    /// [`Request::deadline`](crate::Request::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Instant>>) -> Self {
        self.terms.deadline = deadline.into();
        self
    }

    /// Its place among waiting calls and opens: 0 to 7, higher first, 4 if not said.
    pub fn priority(mut self, priority: u8) -> Self {
        self.terms.priority = Some(priority.min(7));
        self
    }

    /// Streams with the same key go to the same peer, where the gateway balances by key. At most 255 bytes.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.terms.key = Some(key.as_ref().to_vec());
        self
    }

    /// The W3C trace context that it belongs to.
    pub fn trace(mut self, traceparent: &str) -> Self {
        self.terms.trace = Some(traceparent.to_owned());
        self
    }

    /// How many bytes of items may arrive ahead of the program, instead of what the connection announced (64 KiB, a
    /// setting); at least 1. An item that is larger never arrives.
    pub fn credit_bytes(mut self, bytes: u32) -> Self {
        self.terms.credit_bytes = Some(bytes.max(1));
        self
    }

    /// The request that opens it. Without one it is null.
    pub fn payload<T: Serialize + ?Sized>(mut self, request: &T) -> Self {
        self.payload = codec::encode(request);
        self
    }

    /// Opens it; the other side sends items, this side nothing more.
    ///
    /// # Errors
    /// As for [`Peer::stream`].
    pub async fn open<T: DeserializeOwned>(mut self) -> Result<ItemStream<T>> {
        self.terms.ends = true;
        Ok(ItemStream::new(self.begin().await?))
    }

    /// Opens it; both sides send items.
    ///
    /// # Errors
    /// As for [`Peer::duplex`].
    pub async fn duplex<Out, In>(self) -> Result<(ItemSink<Out>, ItemStream<In>)>
    where
        Out: Serialize + ?Sized,
        In: DeserializeOwned,
    {
        let end = self.begin().await?;
        Ok((ItemSink::new(end.clone()), ItemStream::new(end)))
    }

    async fn begin(self) -> Result<End> {
        let shared = self.peer.shared();
        let link = shared.link()?;
        handlers::check_name(self.method, true)?;
        let payload = self.payload?;
        let left = self.terms.time_left()?;
        let deadline = left.and_then(|left| tokio::time::Instant::now().checked_add(left));
        let meta = self.terms.meta(left)?;
        let id = shared.ids.next();
        let window_bytes = self.terms.credit_bytes.unwrap_or(link.options.credit_bytes);
        let channel = Arc::new(Channel::opened_here(&link, id, self.terms.ends, window_bytes));
        // Before it is sent: the first item may come right behind.
        if let Err(count) = link.streams.add(channel.clone(), link.options.open_streams_max) {
            let message = format!("{count} streams are open, which is the bound");
            return Err(Error::from_origin(Origin::Full, Code::ResourceExhausted, message).at(&link.address));
        }
        let mut entered = Entered {
            link: &link,
            id,
            is_sent: false,
        };
        let open = Envelope {
            kind: Kind::Stream,
            id,
            reference: None,
            target: Some(self.method),
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &payload,
            error: None,
        };
        let sent = link.outbox.send(&open);
        let sent = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, sent).await.map_err(|_| {
                let message = "the connection had no room for the stream within its time";
                Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&link.address)
            })?,
            None => sent.await,
        };
        sent.map_err(|why| link.not_queued(why))?;
        entered.is_sent = true;
        drop(entered);
        Ok(End {
            channel,
            link,
            peer: self.peer.clone(),
            deadline,
        })
    }
}

/// Takes a stream out again whose open was not sent.
struct Entered<'a> {
    link: &'a Link,
    id: Id,
    is_sent: bool,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.link.streams.remove(self.id);
        }
    }
}
