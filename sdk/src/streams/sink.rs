//! What a program sends on a stream.

use std::{fmt, marker::PhantomData};

use serde::Serialize;

use super::{End, channel::Unsent};
use crate::{Error, Origin, Result, codec, outbox::NotQueued};
use fluxar_protocol::Code;

/// The sending end of a stream. From [`Peer::duplex`](crate::Peer::duplex), or given to the handler of a stream.
///
/// An item leaves when the other side has granted credit for it: [`ItemSink::send`] waits for that, so a reader that
/// stops stops its writer. Items of one task arrive in the order in which they were sent.
///
/// Of a stream that this side opened, finish it: one that is dropped unfinished cancels the stream, so that what was
/// broken off never looks complete. In a handler, dropping it changes nothing: the stream ends with what the handler
/// returns.
pub struct ItemSink<T: ?Sized> {
    end: End,
    items: PhantomData<fn(&T)>,
}

impl<T: ?Sized> ItemSink<T> {
    pub(super) fn new(end: End) -> Self {
        Self {
            end,
            items: PhantomData,
        }
    }

    /// Whether the other side has cancelled, or nothing can be sent any more for another reason.
    pub fn is_cancelled(&self) -> bool {
        self.end.channel.is_unsendable()
    }

    /// Completes when the other side has cancelled, or nothing can be sent any more for another reason. A handler is
    /// dropped where it awaits then; this is for work that it began elsewhere.
    pub async fn cancelled(&self) {
        loop {
            let changed = self.end.channel.changed();
            tokio::pin!(changed);
            changed.as_mut().enable(); // from here on no change is missed
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }

    /// Ends this direction: the other side's reader comes to a good end. Its own items go on arriving.
    ///
    /// # Errors
    /// If the stream failed, was cancelled or lost its connection before. It is no error if the other side has ended
    /// its own direction and wanted no more.
    pub async fn finish(self) -> Result<()> {
        let End { channel, link, .. } = &self.end;
        loop {
            let room = link.outbox.drained();
            tokio::pin!(room);
            room.as_mut().enable();
            match channel.try_finish(link) {
                Ok(aftermath) => {
                    if aftermath.is_closed {
                        link.streams.remove(channel.id);
                    }
                    return channel.sent();
                }
                Err(NotQueued::Full) => self.in_time(room).await?,
                Err(why) => {
                    return Err(link.not_queued(why));
                }
            }
        }
    }

    /// Ends both directions by an error: the other side's reader gets it behind what was sent before.
    pub fn fail(self, error: Error) {
        self.end.channel.fail(&self.end.link, &error);
    }

    /// Waits for something as long as the stream has time.
    async fn in_time<F: Future>(&self, what: F) -> Result<F::Output> {
        match self.end.deadline {
            None => Ok(what.await),
            Some(deadline) => tokio::time::timeout_at(deadline, what)
                .await
                .map_err(|_| self.end.expire()),
        }
    }
}

impl<T: Serialize + ?Sized> ItemSink<T> {
    /// Sends an item as soon as there is credit for it, and room in the connection's outbox. Dropping the future
    /// before it has completed sends nothing.
    ///
    /// # Errors
    /// If the other side has cancelled (`cancelled`) or failed the stream, the connection is lost (`unavailable`), the
    /// stream's time is over (`deadline_exceeded`); if the item cannot be encoded or is larger than the other side's
    /// whole window, which costs only the item.
    pub async fn send(&self, item: &T) -> Result<()> {
        let item = codec::encode(item)?;
        let End { channel, link, .. } = &self.end;
        match channel.try_send(link, &item) {
            Ok(()) => return Ok(()),
            Err(Unsent::Never(why)) => return Err(why),
            Err(Unsent::NoCredit | Unsent::OutboxFull) => {}
        }
        loop {
            let (changed, room) = (channel.changed(), link.outbox.drained());
            tokio::pin!(changed, room);
            changed.as_mut().enable();
            room.as_mut().enable();
            match channel.try_send(link, &item) {
                Ok(()) => return Ok(()),
                Err(Unsent::Never(why)) => return Err(why),
                Err(Unsent::NoCredit) => self.in_time(changed).await?,
                Err(Unsent::OutboxFull) => {
                    self.in_time(async {
                        tokio::select! { () = changed => {} () = room => {} }
                    })
                    .await?;
                }
            }
        }
    }

    /// [`ItemSink::send`] that never waits.
    ///
    /// # Errors
    /// As for `send`; and one that [`Error::is_full`] when there is no credit or no room for the item now.
    pub fn try_send(&self, item: &T) -> Result<()> {
        let item = codec::encode(item)?;
        let link = &self.end.link;
        self.end
            .channel
            .try_send(link, &item)
            .map_err(|unsent| match unsent {
                Unsent::Never(why) => why,
                Unsent::NoCredit => {
                    let message = format!(
                        "the other side has granted no credit for {} more bytes yet",
                        item.len()
                    );
                    Error::from_origin(Origin::Full, Code::ResourceExhausted, message).at(&link.address)
                }
                Unsent::OutboxFull => link.not_queued(NotQueued::Full),
            })
    }
}

impl<T: ?Sized> Drop for ItemSink<T> {
    fn drop(&mut self) {
        if self.end.channel.is_own {
            self.end.channel.drop_sink(&self.end.link);
        }
    }
}

impl<T: ?Sized> fmt::Debug for ItemSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemSink")
            .field("peer", &self.end.peer)
            .finish_non_exhaustive()
    }
}
