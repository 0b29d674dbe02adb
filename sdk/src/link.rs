//! One session after its handshake: its outbox, the exchanges that are open in it, and how it ends.
//!
//! A [`crate::Peer`] has one link at a time. It has one connection, which [`crate::drive`] drives, or, if it can be resumed,
//! one after the other ([`crate::resuming`]). What belongs to a session dies with its link: calls that wait for an answer
//! fail `unavailable`, handlers that work for it are dropped. What outlives it is in [`crate::shared::Shared`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fluxar_protocol::{Code, Envelope, Form, Id, Kind, meta::Meta, target};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::AbortHandle,
};

use crate::{
    Error, Origin, Result,
    handshake::Opened,
    ids::Ids,
    options::{Options, REMOTE_SUBSCRIPTIONS_MAX},
    outbox::{NotQueued, Outbox},
    resuming::Resumption,
    shared::Shared,
    streams::Streams,
    wire::Farewell,
};

type OpenCalls = HashMap<Id, Waiting, foldhash::fast::RandomState>;
type Serving = HashMap<Id, Running, foldhash::fast::RandomState>;

/// Somebody waits for an answer.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Bytes>>,
    /// What was asked is not kept for another connection, and asked again there.
    is_ping: bool,
}

/// A handler that runs for a call or a stream of the other side.
#[derive(Debug)]
pub(crate) struct Running {
    task: AbortHandle,
    /// The method that was asked for.
    method: Bytes,
    /// Aborts it, when its stream has failed and it does not come to notice.
    patience: Option<AbortHandle>,
}

impl Running {
    pub(crate) fn new(task: AbortHandle, method: Bytes) -> Self {
        let patience = None;
        Self {
            task,
            method,
            patience,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(patience) = &self.patience {
            patience.abort();
        }
    }
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// This side.
    Opener,
    /// The other side; there is no gateway in between, so this side sends only the events that were asked for.
    Answerer,
}

/// How far a link has come.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Open,
    /// This side closes it; what its WebSocket says last.
    Closing(Farewell),
    /// Its socket failed.
    Failed(Error),
    /// This side gives the session up without a word: the other side has stopped reading.
    GivenUp(Error),
}

/// A subscription or an offer of the other side.
#[derive(Debug)]
pub(crate) struct Interest {
    pub(crate) id: Id,
    /// The topics that it asked for. An offer has none: a direct peer can be called for anything.
    pub(crate) pattern: Option<String>,
}

pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    pub(crate) options: Arc<Options>,
    pub(crate) outbox: Outbox,
    pub(crate) agent: String,
    ids: Arc<Ids>,
    pub(crate) role: Role,
    calls: Mutex<OpenCalls>,
    serving: Mutex<Serving>,
    /// For who waits until handlers have done: one has.
    handled: Notify,
    pub(crate) streams: Streams,
    /// What the other side lets this one send on each stream at the start.
    pub(crate) peer_credit_bytes: u32,
    /// What the other side subscribed to, and offered to serve, here.
    interest: Mutex<Vec<Interest>>,
    phase: watch::Sender<Phase>,
    /// `None`: it ends with its connection.
    pub(crate) resumption: Option<Resumption>,
}

impl Link {
    pub(crate) fn new(shared: &Shared, role: Role, form: Form, opened: &Opened) -> Self {
        let options = shared.options.clone();
        Self {
            address: shared.address.clone(),
            outbox: Outbox::new(
                form,
                options.outbox_bytes,
                opened.max_frame_bytes,
                opened.ticket.is_some(),
            ),
            agent: opened.agent.clone(),
            options,
            ids: shared.ids.clone(),
            role,
            calls: Mutex::default(),
            serving: Mutex::default(),
            handled: Notify::new(),
            streams: Streams::default(),
            peer_credit_bytes: opened.credit_bytes,
            interest: Mutex::default(),
            phase: watch::Sender::new(Phase::Open),
            resumption: opened.ticket.as_ref().map(Resumption::new),
        }
    }

    pub(crate) fn lock_serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_calls(&self) -> MutexGuard<'_, OpenCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_interest(&self) -> MutexGuard<'_, Vec<Interest>> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for what is sent back with its id as ref. Dropping the future ends the exchange: of a
    /// call, the other side is told by a `cancel`.
    pub(crate) async fn exchange(&self, request: &Envelope<'_>, timeout: Duration) -> Result<Bytes> {
        let (sender, answer) = oneshot::channel();
        {
            let mut calls = self.lock_calls();
            if calls.len() >= self.options.open_calls_max {
                let message = format!(
                    "{} calls are waiting for their answers, which is the bound",
                    calls.len()
                );
                return Err(
                    Error::from_origin(Origin::Full, Code::ResourceExhausted, message).at(&self.address)
                );
            }
            let waiting = Waiting {
                answer: sender,
                is_ping: request.kind == Kind::Ping,
            };
            calls.insert(request.id, waiting);
        }
        let mut open = OpenExchange {
            link: self,
            id: request.id,
            is_sent: false,
            is_answered: false,
        };
        let exchange = async {
            self.outbox
                .send(request)
                .await
                .map_err(|why| self.not_queued(why))?;
            // A ping needs no cancel, and who asked for a subscription takes it back even after the answer.
            open.is_sent = request.kind == Kind::Call;
            let answer = answer.await;
            open.is_answered = true;
            answer.unwrap_or_else(|_| Err(self.lost("it was closed")))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("no answer within {} ms", timeout.as_millis());
                Err(Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&self.address))
            }
        }
    }

    /// Hands an answer to who waits for it. False if nobody does (any more).
    pub(crate) fn complete(&self, reference: Id, answer: Result<Bytes>) -> bool {
        let waiting = self.lock_calls().remove(&reference);
        waiting.is_some_and(|waiting| waiting.answer.send(answer).is_ok())
    }

    /// Answers a call, when there is room for it. Its place among the handlers is free before the answer can arrive,
    /// and not before it is queued: a peer that does not read its answers cannot have more of them made.
    pub(crate) async fn answer(&self, call: Id, answer: Result<Vec<u8>>) {
        let (payload, error) = match &answer {
            Ok(payload) => (&payload[..], None),
            Err(error) => (&[][..], Some(error.to_wire())),
        };
        let envelope = self.reply(Kind::Call, call, payload, error.as_deref());
        let at_once = {
            let mut serving = self.lock_serving();
            let sent = self.outbox.try_send(&envelope);
            if sent != Err(NotQueued::Full) {
                serving.remove(&call);
            }
            sent
        };
        let sent = match at_once {
            Err(NotQueued::Full) => {
                let sent = self.outbox.send(&envelope).await;
                self.lock_serving().remove(&call);
                sent
            }
            done => done,
        };
        self.handled();
        if let Err(NotQueued::TooLarge { bytes, bytes_max }) = sent {
            let message = format!("the answer takes {bytes} bytes, and its caller takes {bytes_max}");
            let error = answer
                .err()
                .unwrap_or_else(|| Error::new(Code::ResourceExhausted, message));
            self.refuse(Kind::Call, call, &error);
        }
    }

    /// A handler has done, and is no longer among those that run.
    pub(crate) fn handled(&self) {
        self.handled.notify_waiters();
    }

    /// Nobody waits for what this handler does any more: it is dropped where it awaits. False if it does not run.
    pub(crate) fn abort(&self, id: Id) -> bool {
        let Some(running) = self.lock_serving().remove(&id) else {
            return false;
        };
        running.task.abort();
        self.handled();
        true
    }

    /// This handler is aborted if it has not done after so long.
    pub(crate) fn abort_after(self: &Arc<Self>, id: Id, patience: Duration) {
        let mut serving = self.lock_serving();
        let Some(running) = serving.get_mut(&id) else {
            return;
        };
        let link = self.clone();
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            link.abort(id);
        });
        running.patience = Some(waiting.abort_handle());
    }

    /// Waits until the handlers have done that run now for methods that match.
    pub(crate) async fn handlers_done(&self, pattern: &str) {
        let matches = |running: &Running| {
            std::str::from_utf8(&running.method).is_ok_and(|method| target::matches(pattern, method))
        };
        let mut left: Vec<Id> = self
            .lock_serving()
            .iter()
            .filter_map(|(id, running)| matches(running).then_some(*id))
            .collect();
        loop {
            let handled = self.handled.notified();
            tokio::pin!(handled);
            handled.as_mut().enable(); // from here on none is missed
            {
                let serving = self.lock_serving();
                left.retain(|id| serving.contains_key(id));
            }
            if left.is_empty() {
                return;
            }
            handled.await;
        }
    }

    pub(crate) fn reply<'a>(
        &self,
        kind: Kind,
        to: Id,
        payload: &'a [u8],
        error: Option<&'a [u8]>,
    ) -> Envelope<'a> {
        Envelope {
            kind,
            id: self.ids.next(),
            reference: Some(to),
            target: None,
            meta: None,
            payload,
            error,
        }
    }

    /// Sends what the connection itself has to say. A peer that lets even that pile up is cut off.
    pub(crate) fn send_control(&self, envelope: &Envelope<'_>) {
        self.try_send_control(envelope);
    }

    /// The same; false if it is larger than the other side takes, and was not sent.
    fn try_send_control(&self, envelope: &Envelope<'_>) -> bool {
        let sent = self.outbox.send_control(envelope);
        if sent == Err(NotQueued::Full) {
            let message = "the other side does not read what it is sent";
            let error = Error::from_origin(Origin::Connection, Code::ResourceExhausted, message);
            self.give_up(error.at(&self.address));
        }
        !matches!(sent, Err(NotQueued::TooLarge { .. }))
    }

    /// Answers with a payload, at once.
    pub(crate) fn accept(&self, kind: Kind, to: Id, payload: &[u8]) {
        self.send_control(&self.reply(kind, to, payload, None));
    }

    /// Answers with an error, at once. One that is larger than the other side takes is cut down, since somebody waits
    /// for it.
    pub(crate) fn refuse(&self, kind: Kind, to: Id, error: &Error) {
        if !self.try_send_control(&self.reply(kind, to, &[], Some(&error.to_wire()))) {
            self.send_control(&self.reply(kind, to, &[], Some(&error.cut().to_wire())));
        }
    }

    /// Asks for a sign of life, without waiting for it.
    pub(crate) fn ping(&self) {
        self.ping_as(self.ids.next());
    }

    /// On a new connection: asks again for those signs of life that somebody waits for.
    pub(crate) fn ping_again(&self) {
        let is_ping = |(id, waiting): (&Id, &Waiting)| waiting.is_ping.then_some(*id);
        let pings: Vec<Id> = self.lock_calls().iter().filter_map(is_ping).collect();
        pings.into_iter().for_each(|id| self.ping_as(id));
    }

    /// Shows that this side lives.
    pub(crate) fn pong(&self, to: Id) {
        let meta = self.ping_meta();
        self.send_control(&Envelope {
            meta: meta.as_deref().map(Meta::from_checked),
            ..self.reply(Kind::Ping, to, &[], None)
        });
    }

    /// Ends an exchange of this side.
    pub(crate) fn cancel(&self, exchange: Id) {
        self.send_control(&self.reply(Kind::Cancel, exchange, &[], None));
    }

    /// Takes back an offer of this side and waits until the other side has confirmed that: no new call comes for it
    /// then. The offer is no longer among the peer's subscriptions.
    pub(crate) async fn take_back(&self, offer: Id, timeout: Duration) -> Result<()> {
        let (sender, confirmed) = oneshot::channel();
        let waiting = Waiting {
            answer: sender,
            is_ping: false,
        };
        self.lock_calls().insert(offer, waiting);
        let waiting = OpenExchange {
            link: self,
            id: offer,
            is_sent: false, // there is nothing that would cancel a cancel
            is_answered: false,
        };
        self.cancel(offer);
        let confirmed = tokio::time::timeout(timeout, confirmed).await;
        drop(waiting);
        match confirmed {
            Ok(confirmed) => confirmed
                .unwrap_or_else(|_| Err(self.lost("it was closed")))
                .map(drop),
            Err(_) => {
                let message = format!(
                    "the other side did not confirm the end of the offer within {} ms",
                    timeout.as_millis()
                );
                Err(Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&self.address))
            }
        }
    }

    /// Whether something of the other side's has this id.
    pub(crate) fn has(&self, id: Id) -> bool {
        self.has_interest(id) || self.lock_serving().contains_key(&id) || self.streams.contains(id)
    }

    /// Whether a subscription or offer of the other side has this id.
    fn has_interest(&self, id: Id) -> bool {
        self.lock_interest().iter().any(|known| known.id == id)
    }

    /// Remembers a subscription or offer of the other side. Refuses it when there are too many, and when something
    /// with its id is open already [P-3.3].
    pub(crate) fn add_interest(&self, new: Interest) -> Result<()> {
        if self.has(new.id) {
            return Err(Error::new(
                Code::AlreadyExists,
                "something with this id is open already",
            ));
        }
        let mut interest = self.lock_interest();
        if interest.len() >= REMOTE_SUBSCRIPTIONS_MAX {
            let message = "too many subscriptions and offers on this connection";
            return Err(Error::new(Code::ResourceExhausted, message));
        }
        interest.push(new);
        Ok(())
    }

    /// Forgets one. False if it was not there.
    pub(crate) fn remove_interest(&self, id: Id) -> bool {
        let mut interest = self.lock_interest();
        let before = interest.len();
        interest.retain(|known| known.id != id);
        interest.len() < before
    }

    /// Whether an event to this topic is to be sent. To a gateway always: it decides.
    pub(crate) fn wants(&self, topic: &str) -> bool {
        self.role == Role::Opener
            || self
                .lock_interest()
                .iter()
                .filter_map(|known| known.pattern.as_deref())
                .any(|pattern| target::matches(pattern, topic))
    }

    /// Says goodbye: nothing more is accepted, and what is queued still leaves.
    pub(crate) fn close(&self, error: Option<&Error>) {
        let raw = error.map(Error::to_wire);
        let goodbye = self.reply(Kind::Cancel, Id([0; 16]), &[], raw.as_deref());
        // One that does not fit any more is not missed: the peer has stopped reading long ago.
        let _ = self.outbox.send_control(&Envelope {
            reference: None,
            ..goodbye
        });
        self.hang_up(Farewell::because(error));
    }

    /// Closes without a goodbye; what is queued still leaves.
    pub(crate) fn hang_up(&self, farewell: Farewell) {
        // First the phase: the writer reads it once the outbox is closed and empty.
        self.phase.send_if_modified(|phase| {
            let is_open = matches!(phase, Phase::Open);
            if is_open {
                *phase = Phase::Closing(farewell);
            }
            is_open
        });
        self.outbox.close();
    }

    /// The connection failed. Unless the session can be resumed nothing is accepted any more.
    pub(crate) fn broke(&self, error: Error) {
        if !self.is_resumable() {
            self.outbox.close();
        }
        self.phase.send_if_modified(|phase| {
            let is_first = matches!(phase, Phase::Open | Phase::Closing(_));
            if is_first {
                *phase = Phase::Failed(error);
            }
            is_first
        });
    }

    /// The session is over, without a word.
    pub(crate) fn give_up(&self, error: Error) {
        self.outbox.close();
        self.phase.send_if_modified(|phase| {
            let is_first = !matches!(phase, Phase::GivenUp(_));
            if is_first {
                *phase = Phase::GivenUp(error);
            }
            is_first
        });
    }

    /// The connection that failed is done with, and the session is not.
    pub(crate) fn reopen(&self) {
        self.phase.send_if_modified(|phase| {
            let has_failed = matches!(phase, Phase::Failed(_));
            if has_failed {
                *phase = Phase::Open;
            }
            has_failed
        });
    }

    /// Whether it neither failed nor was closed.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Open)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Completes when the link is no longer open.
    pub(crate) async fn left_open(&self) -> Phase {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| !matches!(phase, Phase::Open)).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Closing(Farewell::because(None)), // the sender is in this very link
        }
    }

    pub(crate) fn not_queued(&self, why: NotQueued) -> Error {
        match why {
            NotQueued::Full => {
                let message = format!(
                    "{} bytes wait to be written, which is the bound",
                    self.options.outbox_bytes
                );
                Error::from_origin(Origin::Full, Code::ResourceExhausted, message).at(&self.address)
            }
            NotQueued::TooLarge { bytes, bytes_max } => {
                let message =
                    format!("the message takes {bytes} bytes, and the other side takes {bytes_max}");
                Error::from_origin(Origin::Payload, Code::ResourceExhausted, message).at(&self.address)
            }
            NotQueued::Closed => self.lost("it was closed"),
        }
    }

    fn lost(&self, cause: &str) -> Error {
        let message = format!("the connection is lost: {cause}");
        Error::from_origin(Origin::Connection, Code::Unavailable, message).at(&self.address)
    }

    /// Fails what is open.
    pub(crate) fn clear(&self, why: &Error) {
        let calls = std::mem::take(&mut *self.lock_calls());
        for waiting in calls.into_values() {
            drop(
                waiting
                    .answer
                    .send(Err(self.lost(why.message()).because(why.clone()))),
            );
        }
        for channel in self.streams.drain() {
            channel.lose(&self.lost(why.message()).because(why.clone()));
        }
        for (_, running) in self.lock_serving().drain() {
            running.task.abort();
        }
        self.handled();
    }
}

/// While it lives, somebody waits for the answer.
struct OpenExchange<'a> {
    link: &'a Link,
    id: Id,
    is_sent: bool,
    is_answered: bool,
}

impl Drop for OpenExchange<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let was_open = self.link.lock_calls().remove(&self.id).is_some();
        if was_open && self.is_sent {
            self.link.cancel(self.id);
        }
    }
}

pub(crate) fn closed_here() -> Error {
    Error::from_origin(Origin::Connection, Code::Unavailable, "this side closed it")
}
