//! What a program receives on a stream.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use serde::de::DeserializeOwned;
use tokio::time::{Sleep, sleep, sleep_until};

use super::{End, channel::Items};
use crate::{Error, Result, codec};

/// A reader that has taken everything grants what is left of its window after it has waited so long: each item at once
/// would cost a grant for every item of a slow stream.
const GRANT_REST_AFTER: Duration = Duration::from_millis(20);

/// The items that the other side of a stream sends, in order. From [`Peer::stream`](crate::Peer::stream),
/// [`Peer::duplex`](crate::Peer::duplex), or, in the handler of a stream, [`Request::items`](crate::Request::items). It
/// is also a `futures` [`Stream`].
///
/// Up to a window of items (64 KiB, a setting) arrives ahead of the program; the window moves on as the program takes
/// items. So a program that stops reading stops the writer at the other end, and nothing else: other streams, answers
/// and events of the connection go on.
///
/// Dropping it before its end cancels a stream that this side opened, also what it sends itself. In a handler,
/// dropping it only says that no more of it is wanted: the other side is granted no more.
pub struct ItemStream<T> {
    source: Source,
    /// Taken over from the channel, and not taken by the program yet.
    items: Items,
    is_over: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    grant_rest: Option<Pin<Box<Sleep>>>,
    types: PhantomData<fn() -> T>,
}

enum Source {
    Stream(End),
    /// Nothing comes but, perhaps, this.
    Never(Option<Error>),
}

impl<T> ItemStream<T> {
    pub(crate) fn new(end: End) -> Self {
        let deadline = end.deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self::of(Source::Stream(end), deadline)
    }

    /// One that has no items: it ends at once, or fails first.
    pub(crate) fn never(why: Option<Error>) -> Self {
        Self::of(Source::Never(why), None)
    }

    fn of(source: Source, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        Self {
            source,
            items: Items::default(),
            is_over: false,
            deadline,
            grant_rest: None,
            types: PhantomData,
        }
    }

    /// The next item as it came: one encoded CBOR item. Otherwise as [`ItemStream::next`].
    pub async fn next_bytes(&mut self) -> Option<Result<Bytes>> {
        poll_fn(|cx| self.poll_next_with(cx, |item| Ok(Bytes::copy_from_slice(item)))).await
    }

    /// Ends the stream, and waits until the other side has: a handler there is dropped where it awaits. What this side
    /// sends on it ends as well.
    ///
    /// # Errors
    /// `deadline_exceeded` if the other side has not ended it within 5 s. It is over here all the same.
    pub async fn cancel(mut self) -> Result<()> {
        self.is_over = true;
        let Source::Stream(end) = &self.source else {
            return Ok(());
        };
        end.channel.cancel(&end.link, "this side cancelled the stream");
        end.closed().await
    }

    fn poll_next_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Poll<Option<Result<R>>> {
        if let Some(Err(error)) = ready!(self.poll_ready(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let (Some(item), Source::Stream(end)) = (self.items.pop(), &self.source) else {
            return Poll::Ready(None);
        };
        let bytes = item.len() as u64;
        let item = read(item);
        end.channel.took(&end.link, bytes);
        Poll::Ready(Some(item))
    }

    /// Ready with items at hand, with the error that it ended by, or at its end.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<()>>> {
        if !self.items.is_empty() {
            return Poll::Ready(Some(Ok(())));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let end = match &mut self.source {
            Source::Stream(end) => end,
            Source::Never(why) => {
                self.is_over = true;
                return Poll::Ready(why.take().map(Err));
            }
        };
        let (items, has_ungranted) = end.channel.poll_items(&mut self.items, cx.waker());
        if let Poll::Ready(end) = &items {
            self.is_over = !matches!(end, Some(Ok(())));
            return items;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.is_over = true;
            return Poll::Ready(Some(Err(end.expire())));
        }
        if has_ungranted {
            let wait = self
                .grant_rest
                .get_or_insert_with(|| Box::pin(sleep(GRANT_REST_AFTER)));
            if wait.as_mut().poll(cx).is_ready() {
                end.channel.grant_rest(&end.link);
                self.grant_rest = None;
            }
        }
        Poll::Pending
    }
}

impl<T: DeserializeOwned> ItemStream<T> {
    /// The next item; `None` when the other side has ended its direction well. An error that ends the stream comes
    /// once, behind the items that were sent before it, and then `None`. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// What the other side failed with; `unavailable` if nobody serves the method or the connection is lost;
    /// `deadline_exceeded`; `cancelled`. An item that is not a `T` is an error too (of [`Origin::Payload`](crate::Origin::Payload)), and costs
    /// that item only.
    pub async fn next(&mut self) -> Option<Result<T>> {
        poll_fn(|cx| self.poll_next_with(cx, codec::decode)).await
    }
}

impl<T: DeserializeOwned> Stream for ItemStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_with(cx, codec::decode)
    }
}

impl<T> Drop for ItemStream<T> {
    fn drop(&mut self) {
        if let Source::Stream(end) = &self.source {
            end.channel.drop_reader(&end.link);
        }
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ItemStream");
        if let Source::Stream(end) = &self.source {
            out.field("peer", &end.peer);
        }
        out.field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
