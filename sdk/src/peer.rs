//! The symmetric peer: what a program holds of a connection, whichever side dialled.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use fluxar_protocol::{Envelope, Kind, meta::Meta};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::{
    Error, Event, Message, Request, Result, codec,
    handlers::{self, Serves},
    offer::Serve,
    request::Call,
    shared::Shared,
    streams::{self, ItemSink, ItemStream, OpenStream},
    subscribe::{Subscribe, SubscribeStream},
};

/// How long [`Peer::close`] waits for a sign that acknowledgements were read.
const READ_BEFORE_CLOSE: Duration = Duration::from_secs(1);

/// Whether a peer is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Calls and publishes go out.
    Connected,
    /// The connection was lost, and its session with it; the next attempt to connect is this one, counted from 1.
    /// Meanwhile calls and publishes fail `unavailable` at once.
    Reconnecting {
        /// The attempt that comes next or is under way.
        attempt: u32,
    },
    /// The connection was lost, and the session waits for another, which the next attempt may bring. Calls, streams and
    /// subscriptions stay open: what is said on them waits, and so do `publish` and `event`. If the session cannot go on
    /// after all, [`State::Reconnecting`] follows.
    Resuming {
        /// The attempt that comes next or is under way, counted from 1.
        attempt: u32,
    },
    /// It is over, for the reason that [`Peer::lost_because`] tells.
    Closed,
}

/// A handle on the other side of a connection. Both sides have one, and both can do the same with it: call,
/// publish, subscribe, and answer calls.
///
/// A clone is the same peer, and cheap. The connection is closed by [`Peer::close`], or when the last clone is
/// dropped (a [`Server`](crate::Server) keeps one as long as the connection lives; subscriptions in stream form keep
/// one too).
#[derive(Clone)]
pub struct Peer(Arc<Handle>);

/// Closes the connection when the application has let go of it.
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.request_close();
    }
}

impl Shared {
    /// A handle for the application, unless it has dropped all of them.
    pub(crate) fn peer(&self) -> Option<Peer> {
        self.handle.get()?.upgrade().map(Peer)
    }
}

impl Peer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let handle = Arc::new(Handle { shared });
        // A peer is made once for its Shared, so the slot is empty.
        drop(handle.shared.handle.set(Arc::downgrade(&handle)));
        Self(handle)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Calls a method and waits for its answer, at most the peer's call timeout (30 s by default). Dropping the
    /// future cancels the call: the other side is told, and its handler is dropped.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> fluxar::Result<()> {
    /// # let server = fluxar::Server::bind("127.0.0.1:0").build().await?;
    /// # server.handle("sum", |req: fluxar::Request| async move { Ok(req.payload::<Vec<i64>>()?.iter().sum::<i64>()) })?;
    /// # tokio::spawn({ let server = server.clone(); async move { server.run().await } });
    /// # let client = fluxar::Client::connect(server.url()).build().await?;
    /// let sum: i64 = client.call("sum", &[1, 2, 3]).await?;
    /// assert_eq!(sum, 6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What the other side answered; `unavailable` if nobody serves the method or the connection is lost;
    /// `deadline_exceeded`; `resource_exhausted` when too many calls are open.
    pub async fn call<A, R>(&self, method: &str, argument: &A) -> Result<R>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.request(method).payload(argument).send().await
    }

    /// A call with settings of its own: timeout, priority, key, whether it may be repeated.
    pub fn request<'a>(&'a self, method: &'a str) -> Call<'a> {
        Call::new(self, method)
    }

    /// Opens a stream: one request, and any number of items in answer, which arrive as the program takes them.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> fluxar::Result<()> {
    /// use fluxar::{Client, ItemSink, Request, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").build().await?;
    /// server.handle_stream("count", |req: Request, out: ItemSink<u32>| async move {
    ///     for number in 0..req.payload()? {
    ///         out.send(&number).await?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # let url = server.url().to_owned();
    /// # tokio::spawn(async move { server.run().await });
    /// # let client = Client::connect(url).build().await?;
    ///
    /// let mut numbers = client.stream::<u32>("count", &3).await?;
    /// let mut sum = 0;
    /// while let Some(number) = numbers.next().await {
    ///     sum += number?;
    /// }
    /// assert_eq!(sum, 3);
    /// # Ok(()) }
    /// ```
    ///
    /// Dropping the [`ItemStream`] before its end cancels the stream: the handler at the other side is dropped. The open
    /// is sent, and nothing waited for; what the other side has to say against it comes as the first item.
    ///
    /// # Errors
    /// If the method is no name, the request cannot be encoded or is too large, the peer is not connected, or too many
    /// streams are open.
    pub async fn stream<T: DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl Serialize + ?Sized),
    ) -> Result<ItemStream<T>> {
        self.request_stream(method).payload(request).open().await
    }

    /// Opens a stream on which both sides send items; each ends its own direction when it likes.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> fluxar::Result<()> {
    /// use fluxar::{Client, ItemSink, Request, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0").build().await?;
    /// server.handle_stream("double", |req: Request, out: ItemSink<u32>| async move {
    ///     let mut numbers = req.items::<u32>();
    ///     while let Some(number) = numbers.next().await {
    ///         out.send(&(2 * number?)).await?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # let url = server.url().to_owned();
    /// # tokio::spawn(async move { server.run().await });
    /// # let client = Client::connect(url).build().await?;
    ///
    /// let (numbers, mut doubled) = client.duplex::<u32, u32>("double", &()).await?;
    /// numbers.send(&20).await?;
    /// numbers.send(&21).await?;
    /// numbers.finish().await?;
    /// assert_eq!(doubled.next().await.transpose()?, Some(40));
    /// assert_eq!(doubled.next().await.transpose()?, Some(42));
    /// assert!(doubled.next().await.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`Peer::stream`].
    pub async fn duplex<Out, In>(
        &self,
        method: &str,
        request: &(impl Serialize + ?Sized),
    ) -> Result<(ItemSink<Out>, ItemStream<In>)>
    where
        Out: Serialize + ?Sized,
        In: DeserializeOwned,
    {
        self.request_stream(method).payload(request).duplex().await
    }

    /// A stream with settings of its own: timeout, priority, key, credit.
    pub fn request_stream<'a>(&'a self, method: &'a str) -> OpenStream<'a> {
        OpenStream::new(self, method)
    }

    /// Publishes to a topic, at most once: it is sent and not acknowledged. When the outbox is full this waits. For
    /// events that must not be lost there is [`Peer::event`].
    ///
    /// On a connection that a [`Server`](crate::Server) accepted there is no gateway behind it; the event is sent
    /// if the other side subscribed to its topic.
    ///
    /// # Errors
    /// If the topic is none, the value cannot be encoded or is too large, or the peer is not connected. A publish
    /// that the other side refuses is told later: [`Peer::refused_publishes`].
    pub async fn publish<T: Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<()> {
        let link = self.shared().link()?;
        handlers::check_name(topic, false)?;
        let payload = codec::encode(value)?;
        if !link.wants(topic) {
            return Ok(());
        }
        link.outbox
            .send(&self.plain_event(topic, &payload))
            .await
            .map_err(|why| link.not_queued(why))
    }

    /// [`Peer::publish`] that never waits.
    ///
    /// # Errors
    /// As for `publish`; and one that [`Error::is_full`] when the outbox is full.
    pub fn try_publish<T: Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<()> {
        let link = self.shared().link()?;
        handlers::check_name(topic, false)?;
        let payload = codec::encode(value)?;
        if !link.wants(topic) {
            return Ok(());
        }
        link.outbox
            .try_send(&self.plain_event(topic, &payload))
            .map_err(|why| link.not_queued(why))
    }

    /// Whether an event was queued for this peer.
    pub(crate) fn try_publish_encoded(&self, topic: &str, payload: &[u8]) -> bool {
        let Ok(link) = self.shared().link() else {
            return false;
        };
        link.wants(topic) && link.outbox.try_send(&self.plain_event(topic, payload)).is_ok()
    }

    fn plain_event<'a>(&self, topic: &'a str, payload: &'a [u8]) -> Envelope<'a> {
        let id = self.shared().ids.next();
        Envelope {
            kind: Kind::Event,
            id,
            reference: None,
            target: Some(topic),
            meta: None,
            payload,
            error: None,
        }
    }

    /// An event that the gateway stores in its log and acknowledges, at least once or exactly once. Await it, perhaps after
    /// choosing more; it is sent again, with the same id, after a reconnect and when the gateway cannot take it for a moment,
    /// for 30 s unless it says otherwise.
    ///
    /// ```no_run
    /// # async fn example(client: fluxar::Client, order: u64) -> fluxar::Result<()> {
    /// let position = client.event("orders.created", &order).exactly_once().key("7").await?;
    /// println!("stored at {position}");
    /// # Ok(()) }
    /// ```
    ///
    /// [`Event::enqueue`] does not wait for each. Needs a gateway that keeps logs.
    pub fn event<'a, T: Serialize + ?Sized>(&'a self, topic: &'a str, value: &T) -> Event<'a> {
        Event::new(self, topic, value)
    }

    /// How many publishes the other side refused, and the last reason. It tells once a second at most, so right
    /// after a publish this says nothing yet; after a [`Peer::ping`] it does.
    pub fn refused_publishes(&self) -> (u64, Option<Error>) {
        self.shared().refused_publishes()
    }

    /// Subscribes to the topics that match a pattern (`*` is one token, `>` is one or more at the end). The handler
    /// is called with one event after the other, in order; one that fails or panics is logged and costs its event
    /// only. Await it, perhaps after choosing more:
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> fluxar::Result<()> {
    /// # let server = fluxar::Server::bind("127.0.0.1:0").build().await?;
    /// # tokio::spawn({ let server = server.clone(); async move { server.run().await } });
    /// # let client = fluxar::Client::connect(server.url()).build().await?;
    /// use fluxar::Message;
    ///
    /// let orders = client
    ///     .subscribe("orders.*", |msg: Message| async move {
    ///         println!("{}: {}", msg.topic(), msg.payload::<String>()?);
    ///         msg.ack().await
    ///     })
    ///     .queue(256)
    ///     .await?;
    /// assert_eq!(orders.dropped(), 0);
    /// orders.cancel().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// It goes on without the handle that it returns. See [`Subscription`](crate::Subscription) for what happens when
    /// the handler is slow.
    pub fn subscribe<F, Fut>(&self, pattern: &str, handler: F) -> Subscribe
    where
        F: Fn(Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Subscribe::new(self, pattern, handler)
    }

    /// A subscription whose events the program takes itself: `.open().await?`, then
    /// [`next`](crate::Subscription::next).
    pub fn subscription(&self, pattern: &str) -> SubscribeStream {
        SubscribeStream::new(self, pattern)
    }

    /// Answers a method, or the methods that match a pattern, when the other side calls. The other side is not
    /// told: it is enough between two directly connected peers. To offer methods to a gateway see [`Peer::serve`].
    ///
    /// # Errors
    /// If the pattern is none.
    pub fn handle<F, Fut, T>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
        T: Serialize,
    {
        let handler = Serves::Calls(handlers::erased(handler));
        self.shared().handlers.add(pattern, handler)
    }

    /// [`Peer::handle`] for streams: answers those that the other side opens. See
    /// [`Server::handle_stream`](crate::Server::handle_stream) for what a handler may do.
    ///
    /// # Errors
    /// If the pattern is none.
    pub fn handle_stream<F, Fut, T>(&self, pattern: &str, handler: F) -> Result<()>
    where
        F: Fn(Request, ItemSink<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
        T: Serialize + ?Sized,
    {
        let handler = Serves::Streams(streams::erased(handler));
        self.shared().handlers.add(pattern, handler)
    }

    /// Offers to serve the methods that match a pattern: a gateway routes calls to whoever offers. It is offered
    /// again after each reconnect. Await it.
    ///
    /// Handlers run as tasks, each its own, up to `handlers_max` at once. One that panics is answered `internal`; one
    /// whose caller is gone is dropped where it awaits. The handler answers from the acceptance on, in place of one for
    /// the same pattern; an offer that is refused, or not waited for, changes nothing.
    pub fn serve<F, Fut, T>(&self, pattern: &str, handler: F) -> Serve
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
        T: Serialize,
    {
        Serve::new(self, pattern, Serves::Calls(handlers::erased(handler)))
    }

    /// [`Peer::serve`] for streams: offers to answer those that are opened to methods that match. See
    /// [`Server::handle_stream`](crate::Server::handle_stream) for what a handler may do.
    ///
    /// A gateway routes the calls and the streams of a method to the same offers, so whoever offers a pattern
    /// should answer both or keep them apart by name.
    pub fn serve_stream<F, Fut, T>(&self, pattern: &str, handler: F) -> Serve
    where
        F: Fn(Request, ItemSink<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
        T: Serialize + ?Sized,
    {
        Serve::new(self, pattern, Serves::Streams(streams::erased(handler)))
    }

    /// Asks the other side for a sign of life and returns how long that took.
    ///
    /// # Errors
    /// `unavailable` or `deadline_exceeded`.
    pub async fn ping(&self) -> Result<Duration> {
        let link = self.shared().link()?;
        let id = self.shared().ids.next();
        let meta = link.ping_meta();
        let ping = Envelope {
            kind: Kind::Ping,
            id,
            reference: None,
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &[],
            error: None,
        };
        let begin = Instant::now();
        link.exchange(&ping, self.shared().options.call_timeout).await?;
        Ok(begin.elapsed())
    }

    /// Waits until everything published so far was handed to the operating system.
    ///
    /// # Errors
    /// If events that were queued before were lost with their connection, or the session is over.
    pub async fn flush(&self) -> Result<()> {
        let link = self.shared().link()?;
        link.outbox.flush().await.map_err(|why| link.not_queued(why))
    }

    /// Whether it is connected now.
    pub fn state(&self) -> State {
        self.shared().state()
    }

    /// Follows the state as it changes.
    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.shared().watch_state()
    }

    /// How often the session was resumed on a new connection.
    pub fn resumes(&self) -> u64 {
        self.shared().resumes()
    }

    /// Why the connection was lost the last time, or an attempt to renew it failed.
    pub fn lost_because(&self) -> Option<Error> {
        self.shared().lost_because()
    }

    /// The address of the other side.
    pub fn address(&self) -> &str {
        &self.shared().address
    }

    /// Name and version of the other side's software, while connected.
    pub fn agent(&self) -> Option<String> {
        self.shared().link().ok().map(|link| link.agent.clone())
    }

    /// Closes the connection in good order: what is queued is sent, then a goodbye. Calls and streams that are open fail
    /// `unavailable`, handlers that run for the other side are dropped, subscriptions end. What was acknowledged has arrived by
    /// then, if the other side answers within a second: who comes next under a durable name goes on behind it.
    ///
    /// While [`State::Resuming`] there is nobody to say it to: what is queued is not sent, events that were acknowledged
    /// meanwhile come again to who subscribes next, and the gateway keeps the session until its time is over.
    pub async fn close(&self) {
        if let Ok(link) = self.shared().link()
            && self.shared().tell_acknowledged(&link)
        {
            // Without an answer the goodbye says the same, only later.
            drop(tokio::time::timeout(READ_BEFORE_CLOSE, self.ping()).await);
        }
        self.shared().request_close();
        let mut state = self.watch_state();
        drop(state.wait_for(|state| *state == State::Closed).await);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("address", &self.address())
            .field("state", &self.state())
            .finish()
    }
}
