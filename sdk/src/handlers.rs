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

use crate::{
    Error, Origin, Request, Result, codec,
    link::{Link, Running},
    shared::Shared,
    streams,
};

type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// A handler of either kind.
#[derive(Clone)]
pub(crate) enum Serves {
    Calls(Handler),
    Streams(streams::Handler),
}

/// The handlers of a peer, or of all peers of a server. A method has one for calls, one for streams, or both.
#[derive(Default)]
pub(crate) struct Handlers {
    calls: Table<Handler>,
    streams: Table<streams::Handler>,
}

impl Handlers {
    /// Adds a handler for the methods that match `pattern`, in place of one of its kind for the same pattern.
    pub(crate) fn add(&self, pattern: &str, handler: Serves) -> Result<()> {
        check_pattern(pattern)?;
        self.put(pattern, handler);
        Ok(())
    }

    /// Adds one for a pattern that was checked, and returns the one whose place it takes.
    pub(crate) fn put(&self, pattern: &str, handler: Serves) -> Option<Serves> {
        match handler {
            Serves::Calls(handler) => self.calls.put(pattern, handler).map(Serves::Calls),
            Serves::Streams(handler) => self.streams.put(pattern, handler).map(Serves::Streams),
        }
    }

    /// Undoes a [`Handlers::put`], unless another handler has taken its place since.
    pub(crate) fn take_back(&self, pattern: &str, handler: &Serves, replaced: Option<Serves>) {
        match handler {
            Serves::Calls(handler) => {
                let replaced = replaced.and_then(|replaced| match replaced {
                    Serves::Calls(replaced) => Some(replaced),
                    Serves::Streams(_) => None,
                });
                self.calls.take_back(pattern, handler, replaced);
            }
            Serves::Streams(handler) => {
                let replaced = replaced.and_then(|replaced| match replaced {
                    Serves::Streams(replaced) => Some(replaced),
                    Serves::Calls(_) => None,
                });
                self.streams.take_back(pattern, handler, replaced);
            }
        }
    }

    fn find_call(&self, method: &str) -> Result<Handler> {
        self.calls
            .find(method)
            .ok_or_else(|| match self.streams.find(method) {
                Some(_) => {
                    let message = format!("`{method}` is a stream here; open one instead of calling it");
                    Error::new(Code::Unimplemented, message)
                }
                None => nobody_serves(method),
            })
    }

    /// The handler for the streams of a method, or what who opens one is told.
    pub(crate) fn find_stream(&self, method: &str) -> Result<streams::Handler> {
        self.streams
            .find(method)
            .ok_or_else(|| match self.calls.find(method) {
                Some(_) => {
                    let message = format!("`{method}` is no stream here; call it instead of opening one");
                    Error::new(Code::Unimplemented, message)
                }
                None => nobody_serves(method),
            })
    }
}

fn nobody_serves(method: &str) -> Error {
    Error::new(Code::Unavailable, format!("nobody serves `{method}` here"))
}

/// Handlers of one kind.
struct Table<H>(RwLock<Entries<H>>);

/// See [`Table`]. `H` is an `Arc`.
struct Entries<H> {
    exact: HashMap<String, H>,
    /// In the order in which they were added; the first that matches answers.
    patterns: Vec<(String, H)>,
}

impl<H> Default for Table<H> {
    fn default() -> Self {
        Self(RwLock::new(Entries {
            exact: HashMap::new(),
            patterns: Vec::new(),
        }))
    }
}

impl<F: ?Sized> Table<Arc<F>> {
    fn put(&self, pattern: &str, handler: Arc<F>) -> Option<Arc<F>> {
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

    fn take_back(&self, pattern: &str, handler: &Arc<F>, replaced: Option<Arc<F>>) {
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

    fn find(&self, method: &str) -> Option<Arc<F>> {
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

/// A handler of calls of any types as the table holds it.
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
    if link.has(id) {
        let message = "something with this id is open already";
        return link.refuse(call.kind, id, &Error::new(Code::AlreadyExists, message));
    }
    let handler = match shared.handlers.find_call(method) {
        Ok(handler) => handler,
        Err(error) => return link.refuse(call.kind, id, &error),
    };
    let Some(peer) = shared.peer() else { return }; // the application let go of it: the connection is closing
    let request = Request::new(frame, call, peer);
    let mut open = link.lock_serving();
    if open.len() >= link.options.handlers_max {
        let message = format!(
            "{} handlers are running for this peer, which is the bound",
            open.len()
        );
        return link.refuse(call.kind, id, &Error::new(Code::ResourceExhausted, message));
    }
    // Under the lock, so that the task cannot end before it is entered.
    let method = request.method_bytes();
    let task = tokio::spawn(run(link.clone(), handler, request, id));
    open.insert(id, Running::new(task.abort_handle(), method));
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
