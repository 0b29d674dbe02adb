//! A stream that the other side opens: how its handler is run, and how it ends.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use bytes::Bytes;
use fluxar_protocol::{Code, Envelope, meta::Asked};
use futures_util::FutureExt;
use serde::Serialize;

use super::{Channel, End, ItemSink};
use crate::{
    Error, Request, Result,
    link::{Link, Running},
    outbox::NotQueued,
    shared::Shared,
};

type Done = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
/// A handler of streams of any items as the table holds it.
pub(crate) type Handler = Arc<dyn Fn(Request, End) -> Done + Send + Sync>;

/// Makes one.
pub(crate) fn erased<F, Fut, T>(handler: F) -> Handler
where
    F: Fn(Request, ItemSink<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
    T: Serialize + ?Sized,
{
    Arc::new(move |request, end| Box::pin(handler(request, ItemSink::new(end))))
}

/// Starts the handler of a stream that was opened, as a task of its own; what cannot be started is refused at once.
pub(crate) fn start(shared: &Arc<Shared>, link: &Arc<Link>, frame: &Bytes, open: &Envelope<'_>) {
    let id = open.id;
    let refuse = |code, message: String| link.refuse(open.kind, id, &Error::new(code, message));
    if link.has(id) {
        return refuse(
            Code::AlreadyExists,
            "something with this id is open already".to_owned(),
        );
    }
    let handler = match shared.handlers.find_stream(open.target.unwrap_or_default()) {
        Ok(handler) => handler,
        Err(error) => return link.refuse(open.kind, id, &error),
    };
    let asked = match Asked::read(open.meta.as_ref()) {
        Ok(asked) => asked,
        Err(fault) => return refuse(fault.code(), fault.to_string()),
    };
    let Some(peer) = shared.peer() else { return }; // the application let go of it: the connection is closing
    let max = link.options.handlers_max;
    let mut running = link.lock_serving();
    if running.len() >= max {
        let message = format!(
            "{} handlers are running for this peer, which is the bound",
            running.len()
        );
        return refuse(Code::ResourceExhausted, message);
    }
    let credit_bytes = asked.credit_bytes.unwrap_or(link.peer_credit_bytes.into());
    let channel = Arc::new(Channel::opened_there(link, id, asked.end, credit_bytes));
    // As many again may wait for their opener's end, their handlers having returned.
    if let Err(count) = link.streams.add(channel.clone(), max.saturating_mul(2)) {
        return refuse(
            Code::ResourceExhausted,
            format!("{count} streams of this peer have not ended, which is the bound"),
        );
    }
    let end = End {
        channel,
        link: link.clone(),
        peer: peer.clone(),
        deadline: None, // the handler is dropped when its time is over
    };
    let request = Request::of_stream(frame, open, peer, end.clone());
    let method = request.method_bytes();
    // Under the lock, so that the task cannot end before it is entered.
    let gone = Gone(end.clone());
    let task = tokio::spawn(async move {
        let _gone = gone; // dropped behind the handler, which is dropped where it awaits if nobody needs it any more
        run(handler, request, end).await;
    });
    running.insert(id, Running::new(task.abort_handle(), method));
}

/// Lives as long as the handler may run.
struct Gone(End);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.channel.handler_gone(&self.0.link);
    }
}

async fn run(handler: Handler, request: Request, end: End) {
    let method = request.method().to_owned();
    let timeout = request.timeout();
    // As for calls: a panic costs its stream only.
    let handling = AssertUnwindSafe(async { handler(request, end.clone()).await }).catch_unwind();
    let outcome = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, handling).await,
        None => Ok(handling.await),
    };
    let result = match outcome {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            tracing::error!(method, "a handler panicked; its stream ends `internal`");
            Err(Error::new(Code::Internal, "the handler panicked"))
        }
        Err(_) => Err(Error::new(
            Code::DeadlineExceeded,
            "the handler took longer than the opener waits",
        )),
    };
    match result {
        Ok(()) => finish(&end).await,
        Err(error) => {
            let mut running = end.link.lock_serving();
            end.channel.fail(&end.link, &error);
            running.remove(&end.channel.id);
        }
    }
    end.link.handled();
}

/// Ends the handler's direction well. What the opener still sends, nobody takes: it is told to end that too. As for
/// calls, the handler's place is free before the opener can know, and not before there is room to say so.
async fn finish(end: &End) {
    let End { channel, link, .. } = end;
    loop {
        let room = link.outbox.drained();
        tokio::pin!(room);
        room.as_mut().enable();
        let said = {
            let mut running = link.lock_serving();
            let said = channel.try_finish(link);
            if said != Err(NotQueued::Full) {
                running.remove(&channel.id);
            }
            said
        };
        match said {
            Err(NotQueued::Full) => room.await,
            Ok(aftermath) if aftermath.is_closed => return link.streams.remove(channel.id),
            _ => return channel.cancel(link, "the handler has returned"),
        }
    }
}
