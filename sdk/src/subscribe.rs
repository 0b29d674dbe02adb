//! Asking for events: the builders, and the handles on what was accepted.

use std::{
    fmt,
    future::{Future, IntoFuture},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
};

use fluxar_protocol::Id;
use futures_util::FutureExt;
use tokio::sync::mpsc;

use crate::{
    Error, Message, Origin, Peer, Result, handlers,
    subscriptions::{Entry, Sink, Sub, Wish},
};

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type EventHandler = Box<dyn Fn(Message) -> Boxed<Result<()>> + Send + Sync>;

/// What both ways of subscribing can choose.
#[derive(Debug, Clone)]
struct Choice {
    peer: Peer,
    pattern: String,
    group: Option<String>,
    queue: usize,
}

impl Choice {
    fn new(peer: &Peer, pattern: &str) -> Self {
        let queue = peer.shared().options.subscription_queue;
        Self {
            peer: peer.clone(),
            pattern: pattern.to_owned(),
            group: None,
            queue,
        }
    }

    async fn open(self) -> Result<(Peer, Arc<Sub>, mpsc::Receiver<Message>)> {
        let id = self.peer.shared().ids.next();
        let sub = Sub::new(id, &self.pattern, Wish::Events { group: self.group });
        let (queue, events) = mpsc::channel(self.queue);
        ask(
            &self.peer,
            Entry {
                sub: sub.clone(),
                sink: Sink::Events(queue),
            },
        )
        .await?;
        Ok((self.peer, sub, events))
    }
}

/// Asks for a subscription or offers to serve, and waits until that is accepted.
pub(crate) async fn ask(peer: &Peer, entry: Entry) -> Result<()> {
    let shared = peer.shared();
    handlers::check_pattern(&entry.sub.pattern)?;
    let link = shared.link()?;
    let sub = entry.sub.clone();
    shared.subscriptions.add(entry.clone()); // before it is asked for: events may come right behind the acceptance
    let mut asked = Asked {
        peer,
        entry,
        is_settled: false,
    };
    let answer = sub.ask(&link).await;
    match &answer {
        Ok(()) => asked.is_settled = true,
        Err(error) if error.origin() == Origin::Answer => {
            shared.subscriptions.remove(sub.id, None); // refused: there is nothing to cancel
            asked.is_settled = true;
        }
        Err(_) => {}
    }
    answer
}

/// Takes back a subscription or offer whose answer did not come, or whose asker did not wait for it.
struct Asked<'a> {
    peer: &'a Peer,
    entry: Entry,
    is_settled: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            withdraw(self.peer, self.entry.sub.id);
            self.entry.undo(&self.peer.shared().handlers);
        }
    }
}

/// Ends a subscription or offer; the other side is told if there is a connection.
pub(crate) fn withdraw(peer: &Peer, id: Id) {
    if peer.shared().subscriptions.remove(id, None)
        && let Ok(link) = peer.shared().link()
    {
        link.cancel(id);
    }
}

/// A subscription with a handler that is being put together; await it. From [`Peer::subscribe`].
#[must_use = "nothing is subscribed until it is awaited"]
pub struct Subscribe {
    choice: Choice,
    handler: EventHandler,
}

impl Subscribe {
    pub(crate) fn new<F, Fut>(peer: &Peer, pattern: &str, handler: F) -> Self
    where
        F: Fn(Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            choice: Choice::new(peer, pattern),
            handler: Box::new(move |message| Box::pin(handler(message))),
        }
    }

    /// Joins a group: of its members, each event goes to one. Needs a gateway.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.choice.group = Some(group.into());
        self
    }

    /// Most events that wait for the handler.
    pub fn queue(mut self, events: usize) -> Self {
        self.choice.queue = events.max(1);
        self
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscribed>;
    type IntoFuture = Boxed<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (peer, sub, events) = self.choice.open().await?;
            tokio::spawn(handle_events(sub.pattern.clone(), events, self.handler));
            // The handle holds no peer, so that a forgotten one does not keep the connection open.
            let shared = Arc::downgrade(peer.shared());
            Ok(Subscribed { sub, shared })
        })
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("choice", &self.choice)
            .finish_non_exhaustive()
    }
}

/// Runs a handler for one event after the other, until the subscription ends.
pub(crate) async fn handle_events<F, Fut>(pattern: String, mut events: mpsc::Receiver<Message>, handler: F)
where
    F: Fn(Message) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    while let Some(message) = events.recv().await {
        // Made inside, so that a handler that panics before it returns its future is caught as well.
        match AssertUnwindSafe(async { handler(message).await })
            .catch_unwind()
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(pattern, %error, "an event's handler failed"),
            Err(_) => tracing::error!(pattern, "an event's handler panicked"),
        }
    }
}

/// A subscription whose events a handler takes. Dropping it changes nothing.
#[derive(Debug)]
pub struct Subscribed {
    sub: Arc<Sub>,
    shared: std::sync::Weak<crate::peer::Shared>,
}

impl Subscribed {
    /// How many events were lost on the way, on this side or before it.
    pub fn dropped(&self) -> u64 {
        self.sub.dropped()
    }

    /// Why the other side ended it, if it did.
    pub fn end(&self) -> Option<Error> {
        self.sub.end()
    }

    /// Ends it. Events that have arrived are still handled.
    ///
    /// # Errors
    /// None so far.
    pub async fn cancel(self) -> Result<()> {
        if let Some(peer) = self.shared.upgrade().and_then(|shared| shared.peer()) {
            withdraw(&peer, self.sub.id);
        }
        Ok(())
    }
}

/// A subscription that is being put together; [`SubscribeStream::open`] asks for it. From [`Peer::subscription`].
#[must_use = "nothing is subscribed until it is opened"]
#[derive(Debug)]
pub struct SubscribeStream(Choice);

impl SubscribeStream {
    pub(crate) fn new(peer: &Peer, pattern: &str) -> Self {
        Self(Choice::new(peer, pattern))
    }

    /// Joins a group: of its members, each event goes to one. Needs a gateway.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.0.group = Some(group.into());
        self
    }

    /// Most events that wait to be taken.
    pub fn queue(mut self, events: usize) -> Self {
        self.0.queue = events.max(1);
        self
    }

    /// Asks for it and waits until it is accepted.
    ///
    /// # Errors
    /// If it is refused, or the connection is not there.
    pub async fn open(self) -> Result<Subscription> {
        let (peer, sub, events) = self.0.open().await?;
        Ok(Subscription { peer, sub, events })
    }
}

/// A subscription whose events the program takes itself, in order. Dropping it ends it.
///
/// When the program is slow, the subscription's queue (1,024 events, a setting) fills. Then reading from the
/// connection stops, so that the other side notices and slows down, or, being a gateway, drops and tells. Since
/// answers wait meanwhile as well, a connection stops for one second in ten at most (the peer's `stall`), all its
/// subscriptions together. Beyond that, this side drops the events of a subscription that is full, at once and
/// counted, until half of its queue is free again. All that was lost, here or there, is in
/// [`Subscription::dropped`].
///
/// ```
/// # #[tokio::main] async fn main() -> fluxar::Result<()> {
/// # let server = fluxar::Server::bind("127.0.0.1:0").build().await?;
/// # tokio::spawn({ let server = server.clone(); async move { server.run().await } });
/// # let client = fluxar::Client::connect(server.url()).build().await?;
/// let mut orders = client.subscription("orders.>").open().await?;
/// # server.publish("orders.created", &7)?;
/// while let Some(msg) = orders.next().await {
///     println!("order {} at {}", msg.payload::<u64>()?, msg.topic());
/// #   break;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Subscription {
    peer: Peer,
    sub: Arc<Sub>,
    events: mpsc::Receiver<Message>,
}

impl Subscription {
    /// The next event; `None` when the subscription has ended. It survives reconnects, so the program need not
    /// look out for them. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Message> {
        self.events.recv().await
    }

    /// How many events were lost on the way, on this side or before it.
    pub fn dropped(&self) -> u64 {
        self.sub.dropped()
    }

    /// Why it ended, if it ended with an error.
    pub fn end(&self) -> Option<Error> {
        self.sub.end()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        withdraw(&self.peer, self.sub.id);
    }
}
