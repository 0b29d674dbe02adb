//! Streams: items in either direction or both, with credit, until each side has ended its own [P-3.11].
//!
//! A stream that this side opens begins in [`open`], one that the other side opens in [`serve`]. Both are a
//! [`Channel`] in the [`Streams`] of their connection; the application holds an [`ItemSink`], an [`ItemStream`], or
//! both.

mod channel;
mod items;
mod open;
mod serve;
mod sink;
mod table;

use std::{fmt, sync::Arc, time::Duration};

use fluxar_protocol::{Code, stream::CANCEL_MS_MAX};
use tokio::time::Instant;

use crate::{Error, Origin, Peer, Result, link::Link};

pub use items::ItemStream;
pub use open::OpenStream;
pub use sink::ItemSink;

pub(crate) use channel::{Aftermath, Channel, Fate};
pub(crate) use serve::{Handler, erased, start};
pub(crate) use table::Streams;

/// What the handles of a stream share: the channel, where it is, and until when.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) channel: Arc<Channel>,
    pub(crate) link: Arc<Link>,
    /// Keeps the connection open as long as the stream is used.
    pub(crate) peer: Peer,
    deadline: Option<Instant>,
}

impl End {
    /// Completes when the stream is over, or when the other side has had its time to end it.
    async fn closed(&self) -> Result<()> {
        let closed = async {
            loop {
                let changed = self.channel.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.channel.is_closed() {
                    return;
                }
                changed.await;
            }
        };
        let limit = Duration::from_millis(CANCEL_MS_MAX);
        tokio::time::timeout(limit, closed).await.map_err(|_| {
            self.channel.close_cancelled();
            self.link.streams.remove(self.channel.id);
            let message =
                format!("the other side did not end the stream within {CANCEL_MS_MAX} ms of its cancel");
            Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&self.link.address)
        })
    }

    /// The time that the opener gave the stream is over: both sides are told.
    fn expire(&self) -> Error {
        let message = "the stream did not end within its time";
        let error =
            Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&self.link.address);
        self.channel.fail(&self.link, &error);
        error
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
