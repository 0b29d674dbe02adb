//! Methods that this side answers, and how a call to one is run.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use fluxar_protocol::{Code, Envelope, target};
use futures_util::FutureExt;
use serde::Serialize;

use crate::{Error, Origin, Request, Result, codec, link::Link, peer::Shared};

type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// The handlers of a peer, or of all peers of a server.
#[derive(Default)]
pub(crate) struct Handlers(RwLock<Table>);

#[derive(Default)]
struct Table {
    exact: HashMap<String, Handler>,
    /// In the order in which they were added; the first that matches answers.
    patterns: Vec<(String, Handler)>,
}

impl Handlers {
    /// Adds a handler for the methods that match `pattern`, in place of one for the same pattern.
    pub(crate) fn add<F, Fut, T>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
        T: Serialize,
    {
        check_pattern(pattern)?;
        self.put(pattern, erased(handler));
        Ok(())
    }

    /// Adds one for a pattern that was checked, and returns the one whose place it takes.
    pub(crate) fn put(&self, pattern: &str, handler: Handler) -> Option<Handler> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !target::is_wild(pattern) {
            return table.exact.insert(pattern.to_owned(), handler);
        }
        match table.patterns.iter_mut().find(|(known, _)| known == pattern) {
            Some((_, known)) => Some(std::mem::replace(known, handler)),
            None => {
                table.patterns.push((pattern.to_owned(), handler));
                None
            }
        }
    }

    /// Undoes a [`Handlers::put`], unless another handler has taken its place since.
    pub(crate) fn take_back(&self, pattern: &str, handler: &Handler, replaced: Option<Handler>) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.exact.get(pattern) {
            if Arc::ptr_eq(known, handler) {
                match replaced {
                    Some(replaced) => table.exact.insert(pattern.to_owned(), replaced),
                    None => table.exact.remove(pattern),
                };
            }
        } else if let Some(at) = table
            .patterns
            .iter()
            .position(|(known, put)| known == pattern && Arc::ptr_eq(put, handler))
        {
            match replaced {
                Some(replaced) => table.patterns[at].1 = replaced,
                None => drop(table.patterns.remove(at)),
            }
        }
    }

    fn find(&self, method: &str) -> Option<Handler> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let by_pattern = || {
            table
                .patterns
                .iter()
                .find(|(pattern, _)| target::matches(pattern, method))
        };
        table
            .exact
            .get(method)
            .or_else(|| by_pattern().map(|(_, handler)| handler))
            .cloned()
    }
}

/// A handler of any types as the table holds it.
pub(crate) fn erased<F, Fut, T>(handler: F) -> Handler
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
    T: Serialize,
{
    Arc::new(move |request| {
        let answer = handler(request);
        Box::pin(async move { codec::encode(&answer.await?) })
    })
}

/// Refuses what is no pattern before it is sent.
pub(crate) fn check_pattern(pattern: &str) -> Result<()> {
    target::check_pattern(pattern).map_err(|fault| bad_name(pattern, fault))
}

/// Refuses what is no topic or method before it is sent.
pub(crate) fn check_name(name: &str, system: bool) -> Result<()> {
    target::check_name(name, system).map_err(|fault| bad_name(name, fault))
}

fn bad_name(name: &str, fault: fluxar_protocol::Fault) -> Error {
    Error::from_origin(Origin::Input, Code::InvalidArgument, format!("`{name}`: {fault}"))
}

/// Starts the handler of a call that arrived, as a task of its own; what cannot be started is answered at once.
pub(crate) fn start(shared: &Arc<Shared>, link: &Arc<Link>, frame: &Bytes, call: &Envelope<'_>) {
    let id = call.id;
    let method = call.target.unwrap_or_default();
    if link.has_interest(id) || link.lock_serving().contains_key(&id) {
        let message = "something with this id is open already";
        return link.refuse(call.kind, id, &Error::new(Code::AlreadyExists, message));
    }
    let Some(handler) = shared.handlers.find(method) else {
        let message = format!("nobody serves `{method}` here");
        return link.refuse(call.kind, id, &Error::new(Code::Unavailable, message));
    };
    let Some(peer) = shared.peer() else { return }; // the application let go of it: the connection is closing
    let request = Request::new(frame, call, peer);
    let mut open = link.lock_serving();
    if open.len() >= link.options.handlers_max {
        let message = format!(
            "{} calls of this peer are being handled, which is the bound",
            open.len()
        );
        return link.refuse(call.kind, id, &Error::new(Code::ResourceExhausted, message));
    }
    // Under the lock, so that the task cannot end before it is entered.
    let task = tokio::spawn(run(link.clone(), handler, request, id));
    open.insert(id, task.abort_handle());
}

async fn run(link: Arc<Link>, handler: Handler, request: Request, id: fluxar_protocol::Id) {
    let method = request.method().to_owned();
    let timeout = request.timeout();
    // A panic may leave the handler's own state broken, as it would in any task; nothing of ours is shared with it.
    let handling = AssertUnwindSafe(async { handler(request).await }).catch_unwind();
    let outcome = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, handling).await,
        None => Ok(handling.await),
    };
    let answer = match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => {
            tracing::error!(method, "a handler panicked; its caller is answered `internal`");
            Err(Error::new(Code::Internal, "the handler panicked"))
        }
        Err(_) => Err(Error::new(
            Code::DeadlineExceeded,
            "the handler took longer than the caller waits",
        )),
    };
    link.answer(id, answer).await;
}
