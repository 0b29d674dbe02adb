//! One connection of a link: its receiver and its writer, from the handshake to its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    Error,
    link::{Link, Phase, closed_here},
    outbox::Batch,
    receive::{End, Receiver},
    shared::Shared,
    wire::{Farewell, Reader, Writer},
};

/// How long a closed connection is read on, so that the reason arrives [P-7.8].
const DRAIN: Duration = Duration::from_millis(fluxar_protocol::limits::CLOSE_DRAIN_MS as u64);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// In good order or for a fault, and the session with it. `None`: this side closed it.
    Over(Option<Error>),
    /// It was lost, and the session with it.
    Lost(Error),
    /// It was lost, and the session may go on over another.
    Away(Error),
}

/// Drives a connection until it ends, and says why.
pub(crate) async fn drive(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    reader: Reader,
    writer: Writer,
    rest: Bytes,
) -> Ended {
    let mut writing = tokio::spawn(write(link.clone(), writer));
    let mut receiver = Receiver::new(shared, link, reader);
    let end = receiver.run(rest).await;
    let is_lost = matches!(end, End::Lost(_));
    let (why, grace) = match end {
        End::Closed => (None, Some(link.options.close_timeout)),
        End::ClosedByPeer(error) | End::GivenUp(error) => (Some(error), None),
        End::Lost(error) if link.is_resumable() && !shared.is_close_requested() => {
            writing.abort();
            drop(writing.await); // from here on it takes nothing more
            // First what is published at qos 1 and 2, which the outbox would take for what it is not to keep.
            shared.publishing.suspend();
            link.suspend();
            return Ended::Away(error.at(&link.address));
        }
        End::Lost(error) => (Some(error), None),
        End::Misbehaved(error) => {
            link.close(Some(&error));
            (Some(error), Some(DRAIN))
        }
        End::MisusedWebSocket(code, error) => {
            link.hang_up(Farewell::breach(code, &error));
            (Some(error), Some(DRAIN))
        }
    };
    // Nothing that is still open can be answered any more, so nobody has to wait for the goodbye.
    link.clear(why.as_ref().unwrap_or(&closed_here()));
    if let Some(grace) = grace
        && tokio::time::timeout(grace, &mut writing).await.is_ok()
    {
        drop(tokio::time::timeout(DRAIN, receiver.drain()).await);
    }
    link.outbox.close();
    writing.abort();
    link.clear(why.as_ref().unwrap_or(&closed_here())); // what slipped in meanwhile
    match why.map(|why| why.at(&link.address)) {
        Some(why) if is_lost => Ended::Lost(why),
        why => Ended::Over(why),
    }
}

/// The one writer of a connection: everything queued meanwhile leaves in the next write.
async fn write(link: Arc<Link>, mut writer: Writer) {
    let mut batch = Batch::default();
    while let Some(next) = link.outbox.take(batch).await {
        batch = match writer.write(next).await {
            Ok(written) => written,
            Err(error) => return link.broke(error),
        };
    }
    match link.phase() {
        Phase::Closing(farewell) => writer.finish(farewell).await,
        // The connection is lost, and dropped without another word.
        Phase::Open | Phase::Failed(_) | Phase::GivenUp(_) => {}
    }
}
