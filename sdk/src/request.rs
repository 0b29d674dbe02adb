//! A call with settings of its own.

use std::time::Duration;

use bytes::Bytes;
use fluxar_protocol::{Envelope, Kind, meta::Meta, meta::MetaWriter};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Peer, Result, codec, handlers};

/// A call that is being put together; [`Call::send`] makes it. From [`Peer::request`].
///
/// ```no_run
/// # async fn example(client: fluxar::Client) -> fluxar::Result<()> {
/// use std::time::Duration;
///
/// let report: String = client
///     .request("reports.make")
///     .timeout(Duration::from_secs(120))
///     .priority(2)
///     .payload(&("2026", 11))
///     .send()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "it is made by `send`"]
#[derive(Debug)]
pub struct Call<'a> {
    peer: &'a Peer,
    method: &'a str,
    timeout: Duration,
    priority: Option<u8>,
    trace: Option<&'a str>,
    payload: Result<Vec<u8>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(peer: &'a Peer, method: &'a str) -> Self {
        let timeout = peer.shared().options.call_timeout;
        Self {
            peer,
            method,
            timeout,
            priority: None,
            trace: None,
            payload: Ok(Vec::new()),
        }
    }

    /// How long to wait for the answer. The other side is told, in whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Its place among waiting calls: 0 to 7, higher first, 4 if not said.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority.min(7));
        self
    }

    /// The W3C trace context that it belongs to.
    pub fn trace(mut self, traceparent: &'a str) -> Self {
        self.trace = Some(traceparent);
        self
    }

    /// The argument. Without one it is null.
    pub fn payload<T: Serialize + ?Sized>(mut self, argument: &T) -> Self {
        self.payload = codec::encode(argument);
        self
    }

    /// Makes the call and waits for its answer.
    ///
    /// # Errors
    /// As for [`Peer::call`].
    pub async fn send<R: DeserializeOwned>(self) -> Result<R> {
        codec::decode(&self.send_for_bytes().await?)
    }

    /// Makes the call and waits for its answer, which is returned as it came: one encoded CBOR item.
    ///
    /// # Errors
    /// As for [`Peer::call`].
    pub async fn send_for_bytes(self) -> Result<Bytes> {
        let shared = self.peer.shared();
        let link = shared.link()?;
        handlers::check_name(self.method, true)?;
        let payload = self.payload?;
        let timeout_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        let mut meta = MetaWriter::new().uint("timeout_ms", timeout_ms.into());
        if let Some(priority) = self.priority {
            meta = meta.uint("prio", priority.into());
        }
        if let Some(trace) = self.trace {
            meta = meta.text("trace", trace);
        }
        let meta = meta.finish();
        let call = Envelope {
            kind: Kind::Call,
            id: shared.ids.next(),
            reference: None,
            target: Some(self.method),
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &payload,
            error: None,
        };
        link.exchange(&call, self.timeout).await
    }
}
