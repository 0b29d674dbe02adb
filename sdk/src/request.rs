//! A call with settings of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_protocol::{Envelope, Kind, meta::Meta};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Origin, Peer, Result, codec, handlers, terms::Terms};

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
    terms: Terms,
    payload: Result<Vec<u8>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(peer: &'a Peer, method: &'a str) -> Self {
        let terms = Terms {
            timeout: Some(peer.shared().options.call_timeout),
            ..Terms::default()
        };
        Self {
            peer,
            method,
            terms,
            payload: Ok(Vec::new()),
        }
    }

    /// How long to wait for the answer. The other side is told, in whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.timeout = Some(timeout);
        self
    }

    /// When to stop waiting at the latest, if that is earlier than its timeout. What a handler was given passes it on
    /// with [`Request::deadline`](crate::Request::deadline): nobody works longer than the first caller waits.
    ///
    /// ```no_run
    /// # async fn example(req: fluxar::Request, prices: fluxar::Client) -> fluxar::Result<u64> {
    /// let article: u64 = req.payload()?;
    /// prices.request("prices.get").deadline(req.deadline()).payload(&article).send().await
    /// # }
    /// ```
    pub fn deadline(mut self, deadline: impl Into<Option<Instant>>) -> Self {
        self.terms.deadline = deadline.into();
        self
    }

    /// Its place among waiting calls: 0 to 7, higher first, 4 if not said.
    pub fn priority(mut self, priority: u8) -> Self {
        self.terms.priority = Some(priority.min(7));
        self
    }

    /// Says that it does no harm if it is carried out twice. A gateway then gives it to another peer once, if the one
    /// that had it is lost before it has answered; and if this side loses its session it makes the call again in the next,
    /// within the call's time. Calls that do not say so are never repeated.
    pub fn idempotent(mut self, is_idempotent: bool) -> Self {
        self.terms.is_idempotent = is_idempotent;
        self
    }

    /// An idempotent call that is unanswered for so long is given to a second peer as well; the first answer counts.
    /// Needs a gateway, and [`Call::idempotent`].
    pub fn hedge_after(mut self, after: Duration) -> Self {
        self.terms.hedge_after = Some(after);
        self
    }

    /// Calls with the same key go to the same peer, where the gateway balances by key. At most 255 bytes.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.terms.key = Some(key.as_ref().to_vec());
        self
    }

    /// The W3C trace context that it belongs to.
    pub fn trace(mut self, traceparent: &str) -> Self {
        self.terms.trace = Some(traceparent.to_owned());
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
        let mut link = shared.link()?;
        handlers::check_name(self.method, true)?;
        let payload = self.payload?;
        let mut left = self.terms.time_left()?.unwrap_or(link.options.call_timeout);
        let until = tokio::time::Instant::now() + left;
        loop {
            let meta = self.terms.meta(Some(left))?;
            let call = Envelope {
                kind: Kind::Call,
                id: shared.ids.next(),
                reference: None,
                target: Some(self.method),
                meta: meta.as_deref().map(Meta::from_checked),
                payload: &payload,
                error: None,
            };
            let answer = link.exchange(&call, left).await;
            match &answer {
                Err(lost) if self.terms.is_idempotent && lost.origin() == Origin::Connection => {}
                _ => return answer,
            }
            // Its session is over. Where it does no harm it is made once more in the next.
            match tokio::time::timeout_at(until, shared.link_after(&link)).await {
                Ok(Some(next)) => link = next,
                _ => return answer,
            }
            left = until.saturating_duration_since(tokio::time::Instant::now());
        }
    }
}
