//! Offering methods to a gateway: the builder, and the handle on what was accepted.

use std::{
    fmt,
    future::IntoFuture,
    sync::{Arc, Weak},
    time::Duration,
};

use fluxar_protocol::{Code, limits::NAME_TEXT_BYTES_MAX};

use crate::{
    Error, Origin, Peer, Result,
    handlers::Serves,
    shared::Shared,
    subscribe::{Boxed, ask, withdraw},
    subscriptions::{Entry, Service, Share, Sink, Sub, Wish},
};

/// How long the other side may take to confirm that an offer has ended.
const CONFIRM: Duration = Duration::from_secs(5);
/// The largest weight [P-4].
const WEIGHT_MAX: u32 = 65_536;

/// An offer to serve methods that is being put together; await it. From [`Peer::serve`] or [`Peer::serve_stream`].
#[must_use = "nothing is offered until it is awaited"]
pub struct Serve {
    peer: Peer,
    pattern: String,
    share: Share,
    handler: Serves,
}

impl Serve {
    pub(crate) fn new(peer: &Peer, pattern: &str, handler: Serves) -> Self {
        let in_flight_max = peer.shared().options.handlers_max as u64;
        Self {
            peer: peer.clone(),
            pattern: pattern.to_owned(),
            share: Share {
                in_flight_max,
                ..Share::default()
            },
            handler,
        }
    }

    /// This peer's share of the calls, compared with others that offer the same: 1 to 65,536, 1 if not said.
    pub fn weight(mut self, weight: u32) -> Self {
        self.share.weight = Some(weight);
        self
    }

    /// Most calls and streams that the gateway gives to this offer at once; further ones wait at the gateway. At least
    /// 1; by default as many as the peer runs handlers (`handlers_max`). A peer that makes several offers runs
    /// that many for all of them together, so give each its part.
    pub fn max_in_flight(mut self, exchanges: usize) -> Self {
        self.share.in_flight_max = exchanges.max(1) as u64;
        self
    }

    /// Where this peer is. A gateway that knows its own zone prefers peers of the same. 1 to 255 bytes.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.share.zone = Some(zone.into());
        self
    }

    /// The fleet that this peer belongs to; the gateway's routes choose among fleets. Without one it serves whoever
    /// calls its methods by name alone. 1 to 255 bytes.
    pub fn fleet(mut self, fleet: impl Into<String>) -> Self {
        self.share.fleet = Some(fleet.into());
        self
    }

    fn check(&self) -> Result<()> {
        let unusable = |what| Err(Error::from_origin(Origin::Input, Code::InvalidArgument, what));
        if self
            .share
            .weight
            .is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight))
        {
            return unusable(format!("a weight is from 1 to {WEIGHT_MAX}"));
        }
        for (what, name) in [("zone", &self.share.zone), ("fleet", &self.share.fleet)] {
            if name
                .as_ref()
                .is_some_and(|name| !(1..=NAME_TEXT_BYTES_MAX).contains(&name.len()))
            {
                return unusable(format!(
                    "the name of a {what} has 1 to {NAME_TEXT_BYTES_MAX} bytes"
                ));
            }
        }
        Ok(())
    }
}

impl IntoFuture for Serve {
    type Output = Result<Offer>;
    type IntoFuture = Boxed<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.check()?;
            let sub = Sub::new(
                self.peer.shared().ids.next(),
                &self.pattern,
                Wish::Serve(self.share),
            );
            ask(
                &self.peer,
                Entry {
                    sub: sub.clone(),
                    sink: Sink::Exchanges(Service::new(self.handler)),
                },
            )
            .await?;
            Ok(Offer {
                sub,
                shared: Arc::downgrade(self.peer.shared()),
            })
        })
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("peer", &self.peer)
            .field("pattern", &self.pattern)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// An accepted offer to serve methods. Dropping it changes nothing.
#[derive(Debug)]
pub struct Offer {
    sub: Arc<Sub>,
    shared: Weak<Shared>,
}

impl Offer {
    /// Why the other side ended it, if it did.
    pub fn end(&self) -> Option<Error> {
        self.sub.end()
    }

    /// Completes when it has ended: the other side ended it, or refused it after a reconnect, or the peer was closed.
    /// The reason, if that was an error. It survives reconnects.
    pub async fn ended(&self) -> Option<Error> {
        self.sub.ended().await
    }

    /// Leaves in good order: takes the offer back, waits until the other side has confirmed that, and then until the
    /// calls and streams that run for its methods have ended and their answers were handed to the operating system.
    /// After that the peer can be closed, and no call has failed for it. For those that run on this waits as long as
    /// they take; a `tokio::time::timeout` around it is the place for patience.
    ///
    /// # Errors
    /// `deadline_exceeded` if the other side does not confirm within 5 s (what runs has ended all the same);
    /// `unavailable` if the connection is lost meanwhile, and with it what ran.
    pub async fn leave(self) -> Result<()> {
        let Some(shared) = self.shared.upgrade() else {
            return Ok(());
        };
        // From here on a reconnect does not offer it again.
        if !shared.subscriptions.remove(self.sub.id, None) {
            return Ok(()); // it has ended before
        }
        let link = shared.link()?;
        let confirmed = link.take_back(self.sub.id, CONFIRM).await;
        link.handlers_done(&self.sub.pattern).await;
        let flushed = link.outbox.flush().await.map_err(|why| link.not_queued(why));
        confirmed.and(flushed)
    }

    /// Takes the offer back, and waits for nothing. The handler stays for calls that are under way.
    ///
    /// # Errors
    /// None so far.
    pub async fn withdraw(self) -> Result<()> {
        if let Some(peer) = self.shared.upgrade().and_then(|shared| shared.peer()) {
            withdraw(peer.shared(), self.sub.id);
        }
        Ok(())
    }
}
