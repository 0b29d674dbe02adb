//! Asking for events: the builders, and the handles on what was accepted.

use std::{
    fmt,
    future::{Future, IntoFuture},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use fluxar_protocol::{Code, Id, limits::NAME_TEXT_BYTES_MAX, meta::Qos};
use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    Begin, Cursor, Error, Message, Origin, Peer, Result, State, handlers,
    link::Link,
    logged::{self, Delivery, LoggedWish},
    shared::Shared,
    subscriptions::{Entry, Sink, Sub, Wish},
};

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type EventHandler = Box<dyn Fn(Message) -> Boxed<Result<()>> + Send + Sync>;

/// The first pause before a handler is given a logged event again that it has failed at.
const HANDLE_AGAIN_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const HANDLE_AGAIN_MAX: Duration = Duration::from_secs(10);

/// What both ways of subscribing can choose.
#[derive(Debug, Clone)]
struct Choice {
    peer: Peer,
    pattern: String,
    group: Option<String>,
    queue: usize,
    qos: Qos,
    durable: Option<String>,
    begin: Option<Begin>,
    is_table: bool,
    skips_damaged: bool,
    in_flight: Option<u32>,
}

impl Choice {
    fn new(peer: &Peer, pattern: &str) -> Self {
        let queue = peer.shared().options.subscription_queue;
        Self {
            peer: peer.clone(),
            pattern: pattern.to_owned(),
            group: None,
            queue,
            qos: Qos::AtMostOnce,
            durable: None,
            begin: None,
            is_table: false,
            skips_damaged: false,
            in_flight: None,
        }
    }

    fn raise(&mut self, qos: Qos) {
        self.qos = self.qos.max(qos);
    }

    fn check(&self) -> Result<()> {
        let unusable = |what: String| Err(Error::from_origin(Origin::Input, Code::InvalidArgument, what));
        for (what, name) in [("group", &self.group), ("durable subscription", &self.durable)] {
            if name
                .as_ref()
                .is_some_and(|name| !(1..=NAME_TEXT_BYTES_MAX).contains(&name.len()))
            {
                return unusable(format!(
                    "the name of a {what} has 1 to {NAME_TEXT_BYTES_MAX} bytes"
                ));
            }
        }
        if self.in_flight.is_some() && self.group.is_none() {
            return unusable("`in_flight` is for the members of a group; choose one with `group`".to_owned());
        }
        if self.is_table && self.group.is_some() {
            return unusable(
                "`retain` brings a whole table, and a member of a group gets a part; choose one".to_owned(),
            );
        }
        if self.skips_damaged && !self.is_table {
            return unusable(
                "`skip_damaged` is about the table that comes first; choose one with `retain`".to_owned(),
            );
        }
        Ok(())
    }

    async fn open(self) -> Result<(Peer, Arc<Sub>, mpsc::Receiver<Message>)> {
        self.check()?;
        let id = self.peer.shared().ids.next();
        let (wish, queue) = if self.qos == Qos::AtMostOnce {
            (Wish::Events { group: self.group }, self.queue)
        } else {
            let wish = LoggedWish {
                qos: self.qos,
                group: self.group,
                durable: self.durable,
                begin: self.begin,
                is_table: self.is_table,
                skips_damaged: self.skips_damaged,
                in_flight: self.in_flight,
            };
            (Wish::Logged(wish), logged::QUEUE)
        };
        let sub = Sub::new(id, &self.pattern, wish);
        let (queue, events) = mpsc::channel(queue);
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

/// Adds the builder methods that both ways of subscribing have in common. `$choice` is the field that holds them.
macro_rules! choice_methods {
    ($choice:tt) => {
        /// Joins a group: of its members, each event goes to one. Needs a gateway. With
        /// [`at_least_once`](Self::at_least_once) it is a work queue: an event that a member does not acknowledge
        /// in time (30 s, the gateway's `log.ack_ms`), or that was with a member that is lost, goes to another.
        pub fn group(mut self, group: impl Into<String>) -> Self {
            self.$choice.group = Some(group.into());
            self
        }

        /// Most events that wait here, of a subscription to events as they pass. Of one to logged events the gateway
        /// holds back what is not acknowledged yet.
        pub fn queue(mut self, events: usize) -> Self {
            self.$choice.queue = events.max(1);
            self
        }

        /// Logged events, at least once (qos 1): those that were published with [`Peer::event`]. They come with
        /// positions, and are to be acknowledged. After a reconnect it goes on where it was.
        pub fn at_least_once(mut self) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self
        }

        /// Logged events, each handled once (qos 2): as [`durable`](Self::durable) with this name, and the gateway has
        /// stored each event once if it was published [`exactly_once`](crate::Event::exactly_once). A process
        /// that ends between handling an event and acknowledging it gets that one again; who needs more than that
        /// writes the [position](Message::position) together with what the event leads to.
        pub fn exactly_once(mut self, name: impl Into<String>) -> Self {
            self.$choice.raise(Qos::ExactlyOnce);
            self.durable(name)
        }

        /// Logged events, with a cursor of this name that the gateway keeps: a subscription with the same name, pattern and
        /// group, even of another process, goes on behind what was acknowledged. The newest holder of a
        /// name wins; the one before it is ended with `aborted`. 1 to 255 bytes.
        pub fn durable(mut self, name: impl Into<String>) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self.$choice.durable = Some(name.into());
            self
        }

        /// Logged events, from this place on. Of a durable subscription it overrides the cursor.
        pub fn from(mut self, begin: Begin) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self.$choice.begin = Some(begin);
            self
        }

        /// Logged events, and before them, as they were published with [`retain`](crate::Event::retain), the last for each
        /// key: a table, then its changes. A null payload says that a key was removed.
        pub fn retain(mut self) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self.$choice.is_table = true;
            self
        }

        /// Of a table (with [`retain`](Self::retain)): rows that are damaged on the gateway's disk are left out. Without
        /// this they end the subscription with `data_loss`, until their keys are published again.
        pub fn skip_damaged(mut self) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self.$choice.skips_damaged = true;
            self
        }

        /// Logged events, for a member of a group: most that it has at a time and has not acknowledged. Default 256.
        pub fn in_flight(mut self, events: u32) -> Self {
            self.$choice.raise(Qos::AtLeastOnce);
            self.$choice.in_flight = Some(events.max(1));
            self
        }
    };
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
    let answer = ask_patiently(&sub, &link).await;
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

/// Asks, and asks again while the other side says that it cannot take it up at the moment, for as long as a call waits.
async fn ask_patiently(sub: &Sub, link: &Link) -> Result<()> {
    let deadline = Instant::now() + link.options.call_timeout;
    loop {
        let answer = sub.ask(link).await;
        let pause = answer
            .as_ref()
            .err()
            .and_then(|error| logged::pause_of(sub, error));
        match pause {
            Some(pause) if Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
            _ => return answer,
        }
    }
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
            withdraw(self.peer.shared(), self.entry.sub.id);
            self.entry.undo(&self.peer.shared().handlers);
        }
    }
}

/// Ends a subscription or offer; the other side is told if there is a connection.
pub(crate) fn withdraw(shared: &Shared, id: Id) {
    if let Some(entry) = shared.subscriptions.take(id, None)
        && let Ok(link) = shared.link()
    {
        logged::tell_on(&link, &entry.sub); // what was acknowledged counts
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

    choice_methods!(choice);
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscribed>;
    type IntoFuture = Boxed<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (peer, sub, events) = self.choice.open().await?;
            let (stop, stopped) = watch::channel(false);
            let handling = if sub.logged.is_some() {
                let handling = HandleLogged {
                    sub: sub.clone(),
                    shared: Arc::downgrade(peer.shared()),
                    handler: self.handler,
                    stopped,
                };
                tokio::spawn(handling.run(events))
            } else {
                tokio::spawn(handle_events(sub.pattern.clone(), events, self.handler))
            };
            // The handle holds no peer, so that a forgotten one does not keep the connection open.
            let shared = Arc::downgrade(peer.shared());
            Ok(Subscribed {
                sub,
                shared,
                stop,
                handling,
            })
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

/// Runs a handler for one logged event after the other, until the subscription ends. An event that was handled is
/// acknowledged.
struct HandleLogged {
    sub: Arc<Sub>,
    shared: Weak<Shared>,
    handler: EventHandler,
    stopped: watch::Receiver<bool>,
}

impl HandleLogged {
    async fn run(mut self, events: mpsc::Receiver<Message>) {
        self.handle(events).await;
        // Whoever stopped it need not wait until here, and nobody else would take it back.
        if *self.stopped.borrow()
            && let Some(shared) = self.shared.upgrade()
        {
            withdraw(&shared, self.sub.id);
        }
    }

    async fn handle(&mut self, mut events: mpsc::Receiver<Message>) {
        loop {
            // A stopped one is over at once: what waits is not acknowledged, and comes again where it can.
            let message = tokio::select! {
                biased;
                () = stop(&mut self.stopped) => return,
                message = events.recv() => message,
            };
            let Some(message) = message.filter(|_| !self.sub.is_over()) else {
                return;
            };
            if is_current(&message) && !self.handle_until_done(&message).await {
                return;
            }
        }
    }

    /// Hands an event to the handler, again and again if it fails. False if there is to be no other.
    async fn handle_until_done(&mut self, message: &Message) -> bool {
        let sub = &self.sub;
        let mut pause = HANDLE_AGAIN_FIRST;
        while !handle_once(sub, &self.handler, message).await {
            // In a group somebody else may do better, when the time for it is over.
            if sub.is_group() {
                break;
            }
            tokio::select! {
                () = stop(&mut self.stopped) => return false,
                _ = sub.ended(), if !sub.has_ended() => {}
                () = tokio::time::sleep(pause) => {}
            }
            // What came before the log could not go on is still handled, for as long as there is a client.
            if sub.is_over() || sub.has_ended() && is_closed(&self.shared) {
                return false;
            }
            pause = (pause * 2).min(HANDLE_AGAIN_MAX);
        }
        true
    }
}

fn is_closed(shared: &Weak<Shared>) -> bool {
    shared
        .upgrade()
        .is_none_or(|shared| shared.state() == State::Closed)
}

/// Whether an event that waited is still to be handled: another member of a group, or holder of a name, may have it by now.
fn is_current(message: &Message) -> bool {
    message.delivery().is_none_or(Delivery::is_current)
}

/// Whether the event is done with.
async fn handle_once(sub: &Sub, handler: &EventHandler, message: &Message) -> bool {
    let pattern = &sub.pattern;
    let handled = AssertUnwindSafe(async { handler(message.clone()).await })
        .catch_unwind()
        .await;
    let at = message.position().map(tracing::field::display);
    match handled {
        Ok(Ok(())) => message.delivery().into_iter().for_each(Delivery::ack),
        Ok(Err(error)) => tracing::warn!(pattern, at, %error, "an event's handler failed"),
        Err(_) => tracing::error!(pattern, at, "an event's handler panicked"),
    }
    message.delivery().is_none_or(Delivery::is_acked)
}

/// Completes when the program wants no more events.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending::<()>().await; // the handle was dropped: it goes on for ever
    }
}

/// A subscription whose events a handler takes. Dropping it changes nothing.
#[derive(Debug)]
pub struct Subscribed {
    sub: Arc<Sub>,
    shared: Weak<Shared>,
    stop: watch::Sender<bool>,
    handling: JoinHandle<()>,
}

impl Subscribed {
    /// How many events were lost on the way, on this side or before it. Logged ones are not.
    pub fn dropped(&self) -> u64 {
        self.sub.dropped()
    }

    /// Why the other side ended it, if it did.
    pub fn end(&self) -> Option<Error> {
        self.sub.end()
    }

    /// Completes when it has ended, with the reason if that was an error. It survives reconnects; one to logged events
    /// ends with `out_of_range` or `data_loss` when the log does not hold what comes next, and never goes on behind a
    /// gap by itself. What came before such a gap may still wait for the handler then, and is handled all the same.
    pub async fn ended(&self) -> Option<Error> {
        self.sub.ended().await
    }

    /// What was handled, of a subscription to logged events without a group.
    pub fn cursor(&self) -> Option<Cursor> {
        self.sub.cursor()
    }

    /// Ends it. Events that have arrived are still handled; of logged ones, only the one that is being handled now: this
    /// waits until that is done and acknowledged, and the others come again to who goes on with the durable name or the
    /// cursor. Called by the handler itself it does not wait. It ends so, too, if this future is dropped after it was polled.
    ///
    /// # Errors
    /// None so far.
    pub async fn cancel(self) -> Result<()> {
        if self.sub.logged.is_some() {
            self.stop.send_replace(true); // which takes it back, also when nobody waits here any more
            if tokio::task::try_id() != Some(self.handling.id()) {
                drop(self.handling.await); // an error would say that it panicked, outside of the handler
            }
        } else if let Some(shared) = self.shared.upgrade() {
            withdraw(&shared, self.sub.id);
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

    choice_methods!(0);

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
    ///
    /// Logged events are the program's to [acknowledge](Message::ack), in any order. One that never is holds back the
    /// acknowledgement of those behind it in its partition, and when too many are not acknowledged (4,096 or 256 KiB,
    /// the gateway's settings) no more come.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.events.recv().await?;
            if self.sub.logged.is_some() && self.sub.is_over() {
                return None; // what still waits could not be acknowledged any more
            }
            if is_current(&message) {
                return Some(message);
            }
        }
    }

    /// What was acknowledged, of a subscription to logged events without a group. [`Begin::Behind`] goes on there.
    pub fn cursor(&self) -> Option<Cursor> {
        self.sub.cursor()
    }

    /// How many events were lost on the way, on this side or before it.
    pub fn dropped(&self) -> u64 {
        self.sub.dropped()
    }

    /// Why it ended, if it ended with an error: `out_of_range` or `data_loss` where the log does not hold what comes next.
    pub fn end(&self) -> Option<Error> {
        self.sub.end()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        withdraw(self.peer.shared(), self.sub.id);
    }
}
