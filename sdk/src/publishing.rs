//! Events that are logged: published, kept until the gateway says that they are stored, and sent again until then.
//!
//! An [`Event`](crate::Event) enters the [`Publishing`] of its peer when there is room, leaves for the connection's outbox
//! at once if there is one, and stays in the table until the gateway has answered or its time is over. After a
//! reconnect everything in the table is sent again, with the ids that it had, in the order in which it was published.
//! When a session is resumed, that waits for the answer to a ping: acknowledgements that were lost on their way come before it.
//! What the gateway refuses for a while is held back by topic, so that its order stays; other topics go on. That lasts
//! as long as the gateway has asked for, also when the session is resumed meanwhile. One task a peer ([`pump`]) sends what
//! could not be sent at once and ends what took too long.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fluxar_protocol::{Code, Envelope, Id, Kind, meta::Meta};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use crate::{
    Error, Origin, Position, Result, State,
    link::{Link, Role},
    outbox::NotQueued,
    shared::Shared,
};

/// What an event holds beyond its bytes: its place in the table, and who waits for it.
const OVERHEAD_BYTES: usize = 256;
/// The first pause before a refused event is sent again, when the gateway has not said how long.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest that the gateway can hold an event back.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// What is held back is sent again together with another topic's that is due by so much earlier than it would be, and
/// by half of its pause at most: the gateway wants the events of all topics of a partition in the order of publication.
const EARLY_MAX: Duration = Duration::from_millis(500);

/// The bytes of an event that is kept to be sent again: topic, meta and payload, one after the other.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes: Box<[u8]>,
    meta_at: usize,
    payload_at: usize,
}

impl Kept {
    pub(crate) fn new(topic: &str, meta: &[u8], payload: &[u8]) -> Self {
        Self {
            bytes: [topic.as_bytes(), meta, payload].concat().into(),
            meta_at: topic.len(),
            payload_at: topic.len() + meta.len(),
        }
    }

    fn topic(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.meta_at]).unwrap_or_default() // it was a &str
    }

    fn envelope(&self, id: Id) -> Envelope<'_> {
        Envelope {
            kind: Kind::Event,
            id,
            reference: None,
            target: Some(self.topic()),
            meta: Some(Meta::from_checked(&self.bytes[self.meta_at..self.payload_at])),
            payload: &self.bytes[self.payload_at..],
            error: None,
        }
    }
}

/// Told what became of an event.
pub(crate) type Outcome = oneshot::Sender<Result<Position>>;

/// An event that is not known to be stored.
#[derive(Debug)]
struct Open {
    kept: Kept,
    /// The id that its publisher gave it, under which it is sent.
    own_id: Option<Id>,
    outcome: Outcome,
    deadline: Instant,
    timeout: Duration,
    /// How often the gateway has refused it for a while, and why the last time.
    refusals: u32,
    refused_because: Option<Error>,
    /// It was sent in this session, and not refused since.
    is_sent: bool,
    /// The same of an earlier session: it may be stored.
    is_in_doubt: bool,
    /// Its share of the bound.
    _room: OwnedSemaphorePermit,
}

impl Open {
    /// As it is sent: under its publisher's id for it, if there is one.
    fn envelope(&self, id: Id) -> Envelope<'_> {
        self.kept.envelope(self.own_id.unwrap_or(id))
    }

    /// What its publisher is told when it is refused for good: where an earlier session may have stored it, that does not
    /// say whether it is.
    fn not_stored_here(&self, refusal: Error) -> Error {
        if !self.is_in_doubt {
            return refusal;
        }
        let message = format!(
            "refused when it was sent again ({}), and it may be stored all the same",
            refusal.message()
        );
        refusal.overruled(Code::Unavailable, message)
    }
}

/// Events of one topic that the gateway refused for a while, and those published behind them.
#[derive(Debug)]
struct Held {
    until: Instant,
    /// From the last refusal to `until`.
    pause: Duration,
    ids: BTreeSet<Id>,
}

impl Held {
    /// Whether it may go along with what is due now.
    fn is_nearly_due(&self, now: Instant) -> bool {
        self.until <= now + (self.pause / 2).min(EARLY_MAX)
    }
}

#[derive(Debug, Default)]
struct Table {
    /// By an id that was drawn for each, ascending in the order of publication.
    open: HashMap<Id, Open, foldhash::fast::RandomState>,
    /// Of those whose publisher gave them an id: which they are in `open`.
    named: HashMap<Id, Id, foldhash::fast::RandomState>,
    /// Not sent on this connection, in the order of their ids, which is that of publication.
    unsent: VecDeque<Id>,
    held: HashMap<String, Held, foldhash::fast::RandomState>,
    /// No deadline of the table is earlier.
    next_deadline: Option<Instant>,
    closed: Option<Error>,
    gate: Gate,
}

/// Whether events are sent.
#[derive(Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    /// The connection is lost, and the session may go on over another.
    Shut,
    /// It does, and the answer to this ping has not come.
    Until(Id),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publishing {
    table: Mutex<Table>,
    room: Arc<Semaphore>,
    bytes_max: u32,
    /// For the pump: there is something to send, or a deadline that is earlier.
    work: Notify,
    is_pumped: AtomicBool,
}

/// How far the pump has come.
enum Step {
    /// Nothing to send before then.
    Idle(Option<Instant>),
    /// This connection's outbox is full.
    Full(Arc<Link>, Option<Instant>),
}

impl Publishing {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max)
            .unwrap_or(u32::MAX)
            .min((Semaphore::MAX_PERMITS as u64).try_into().unwrap_or(u32::MAX));
        Self {
            table: Mutex::default(),
            room: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            work: Notify::new(),
            is_pumped: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event when there is room for it, and sends it as soon as there is a connection.
    pub(crate) async fn publish(
        shared: &Arc<Shared>,
        kept: Kept,
        own_id: Option<Id>,
        timeout: Duration,
        outcome: Outcome,
    ) -> Result<()> {
        let this = &shared.publishing;
        let now = Instant::now();
        let deadline = now
            .checked_add(timeout)
            .unwrap_or_else(|| now + Duration::from_secs(86_400));
        let bytes = u32::try_from(kept.bytes.len() + OVERHEAD_BYTES)
            .unwrap_or(u32::MAX)
            .min(this.bytes_max);
        let room = match this.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => Ok(room),
            Err(_) => {
                let waiting = this.room.clone().acquire_many_owned(bytes);
                tokio::time::timeout_at(deadline, waiting)
                    .await
                    .map_err(|_| this.full(shared))?
            }
        };
        let room = room.map_err(|_| this.full(shared))?; // the semaphore is never closed
        let open = Open {
            kept,
            own_id,
            outcome,
            deadline,
            timeout,
            refusals: 0,
            refused_because: None,
            is_sent: false,
            is_in_doubt: false,
            _room: room,
        };
        this.add(shared, open)?;
        if !this.is_pumped.swap(true, Ordering::Relaxed) {
            tokio::spawn(pump(shared.clone()));
        }
        Ok(())
    }

    fn full(&self, shared: &Shared) -> Error {
        let message = format!(
            "events of {} bytes wait for their acknowledgements, which is the bound",
            self.bytes_max
        );
        Error::from_origin(Origin::Full, Code::ResourceExhausted, message).at(&shared.address)
    }

    fn add(&self, shared: &Shared, mut open: Open) -> Result<()> {
        let mut table = self.lock();
        if let Some(why) = &table.closed {
            return Err(why.clone());
        }
        let link = shared.link().ok();
        if link.as_ref().is_some_and(|link| link.role == Role::Answerer) {
            let message = "an acknowledged event needs a gateway; this is a direct peer";
            return Err(Error::from_origin(Origin::Input, Code::Unimplemented, message).at(&shared.address));
        }
        if let Some(own_id) = open.own_id
            && table.find(own_id).is_some()
        {
            let message = format!("an event with the id {own_id} is on its way, and not acknowledged yet");
            return Err(Error::from_origin(Origin::Input, Code::AlreadyExists, message).at(&shared.address));
        }
        // Drawn under the lock, so that ids ascend as events are sent.
        let id = shared.ids.next();
        let is_earlier = table.next_deadline.is_none_or(|next| open.deadline < next);
        let is_held = !table.held.is_empty() && table.held.contains_key(open.kept.topic());
        let mut needs_pump = is_earlier;
        if is_held {
            if let Some(held) = table.held.get_mut(open.kept.topic()) {
                held.ids.insert(id);
            }
        } else {
            let sent = match &link {
                Some(link) if table.unsent.is_empty() && table.gate == Gate::Open => {
                    link.outbox.try_send(&open.envelope(id))
                }
                _ => Err(NotQueued::Full),
            };
            match sent {
                Ok(()) => open.is_sent = true,
                Err(too_large @ NotQueued::TooLarge { .. }) => {
                    return Err(match link {
                        Some(link) => link.not_queued(too_large),
                        None => self.full(shared), // only a link says so
                    });
                }
                Err(NotQueued::Full | NotQueued::Closed) => {
                    table.unsent.push_back(id);
                    needs_pump = true;
                }
            }
        }
        if is_earlier {
            table.next_deadline = Some(open.deadline);
        }
        if let Some(own_id) = open.own_id {
            table.named.insert(own_id, id);
        }
        table.open.insert(id, open);
        drop(table);
        if needs_pump {
            self.work.notify_one();
        }
        Ok(())
    }

    /// There is a new connection: `connect` makes it the peer's, and everything that is open is to be sent on it.
    pub(crate) fn connected(&self, connect: impl FnOnce()) {
        let mut table = self.lock();
        table.held.clear(); // another gateway, perhaps: it says again what it wants
        for open in table.open.values_mut() {
            open.is_in_doubt |= std::mem::take(&mut open.is_sent);
        }
        table.send_again();
        connect();
        drop(table);
        self.work.notify_one();
    }

    /// The connection is lost, and the session may go on over another: nothing is sent until that is known.
    pub(crate) fn suspend(&self) {
        self.lock().gate = Gate::Shut;
    }

    /// The session goes on. When this ping is answered everything that is still open is to be sent again,
    /// what the gateway has refused for a while not before that is over.
    pub(crate) fn resumed(&self, ping: Id) {
        self.lock().gate = Gate::Until(ping);
    }

    /// A ping was answered.
    pub(crate) fn ponged(&self, ping: Id) {
        let mut table = self.lock();
        if table.gate != Gate::Until(ping) {
            return;
        }
        table.send_again();
        drop(table);
        self.work.notify_one();
    }

    /// The peer is closed: what is open fails, and nothing more is taken.
    pub(crate) fn close(&self, why: &Error) {
        let open = {
            let mut table = self.lock();
            table.closed = Some(why.clone());
            table.unsent.clear();
            table.held.clear();
            table.named.clear();
            std::mem::take(&mut table.open)
        };
        for open in open.into_values() {
            settle(open, Err(why.clone()));
        }
        self.work.notify_one();
    }

    /// Whether an event with this id waits for its acknowledgement.
    pub(crate) fn is_open(&self, id: Id) -> bool {
        self.lock().find(id).is_some()
    }

    /// The gateway has answered. An event that is not open any more is ignored.
    pub(crate) fn answered(&self, id: Id, answer: Result<Position>) {
        let mut table = self.lock();
        let Some(id) = table.find(id) else {
            return;
        };
        let Some(open) = table.open.get_mut(&id) else {
            return;
        };
        let refused_for_a_while = match &answer {
            Err(error) => match (error.code(), error.retry_after_hint()) {
                // Without a hint it is this event that cannot be stored: it is too large, for example.
                (Code::ResourceExhausted, None) => None,
                (Code::ResourceExhausted | Code::Unavailable, hint) => Some((error, hint)),
                _ => None,
            },
            Ok(_) => None,
        };
        let Some((error, hint)) = refused_for_a_while else {
            let open = table.remove(id);
            drop(table);
            if let Some(open) = open {
                let answer = answer.map_err(|error| open.not_stored_here(error));
                settle(open, answer);
            }
            return;
        };
        let pause = hint.unwrap_or_else(|| PAUSE_FIRST * 2_u32.pow(open.refusals.min(10)).min(50));
        let pause = match hint {
            Some(_) => pause.min(RETRY_AFTER_MAX),
            None => pause.min(PAUSE_MAX),
        };
        open.refusals = open.refusals.saturating_add(1);
        open.refused_because = Some(error.clone());
        open.is_sent = false;
        tracing::debug!(publish = %id, %error, pause_ms = pause.as_millis() as u64, "an event was refused; it is sent again");
        let topic = open.kept.topic().to_owned();
        let until = Instant::now() + pause;
        let held = table.held.entry(topic).or_insert_with(|| Held {
            until,
            pause,
            ids: BTreeSet::new(),
        });
        if until >= held.until {
            (held.until, held.pause) = (until, pause);
        }
        held.ids.insert(id);
        drop(table);
        self.work.notify_one();
    }

    /// Sends what can be sent now, and ends what took too long.
    fn step(&self, shared: &Shared, now: Instant) -> Step {
        let mut guard = self.lock();
        let table = &mut *guard;
        let expired = expire(table, now);
        let wake_at = release_held(table, now)
            .into_iter()
            .chain(table.next_deadline)
            .min();
        let step = match shared.link() {
            Err(_) => Step::Idle(wake_at),
            Ok(_) if table.gate != Gate::Open => Step::Idle(wake_at),
            Ok(link) => loop {
                let Some(&id) = table.unsent.front() else {
                    break Step::Idle(wake_at);
                };
                let Some(open) = table.open.get_mut(&id) else {
                    table.unsent.pop_front();
                    continue;
                };
                if let Some(held) = table.held.get_mut(open.kept.topic()) {
                    held.ids.insert(id); // not before those that were refused
                    table.unsent.pop_front();
                    continue;
                }
                match link.outbox.try_send(&open.envelope(id)) {
                    Ok(()) => {
                        open.is_sent = true;
                        table.unsent.pop_front();
                    }
                    Err(NotQueued::Full) => break Step::Full(link, wake_at),
                    Err(NotQueued::Closed) => break Step::Idle(wake_at), // another connection comes, or the end
                    Err(too_large) => {
                        table.unsent.pop_front();
                        if let Some(open) = table.remove(id) {
                            let error = open.not_stored_here(link.not_queued(too_large));
                            settle(open, Err(error));
                        }
                    }
                }
            },
        };
        drop(guard);
        for open in expired {
            let message = format!(
                "not acknowledged within {} ms, and it may be stored all the same",
                open.timeout.as_millis()
            );
            let error =
                Error::from_origin(Origin::Timeout, Code::DeadlineExceeded, message).at(&shared.address);
            let error = match open.refused_because.clone() {
                Some(why) => error.because(why),
                None => error,
            };
            settle(open, Err(error));
        }
        step
    }
}

impl Table {
    /// By which id an event that is sent under this one is in the table, if it is there.
    fn find(&self, sent_as: Id) -> Option<Id> {
        match self.named.get(&sent_as) {
            Some(&id) => Some(id),
            None => {
                let open = self.open.get(&sent_as)?;
                open.own_id.is_none().then_some(sent_as)
            }
        }
    }

    fn remove(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(own_id) = open.own_id {
            self.named.remove(&own_id);
        }
        Some(open)
    }

    /// Everything that is open is to be sent, in the order of publication; that of topics that are held back, with these.
    fn send_again(&mut self) {
        let mut ids = Vec::new();
        for (&id, open) in &self.open {
            let held = match self.held.is_empty() {
                true => None,
                false => self.held.get_mut(open.kept.topic()),
            };
            match held {
                Some(held) => drop(held.ids.insert(id)),
                None => ids.push(id),
            }
        }
        ids.sort_unstable();
        self.unsent = ids.into();
        self.gate = Gate::Open;
    }
}

/// Takes out what is over. The scan is of the whole table, and due when the earliest deadline that it has seen has passed:
/// usually that event is long gone.
fn expire(table: &mut Table, now: Instant) -> Vec<Open> {
    if table.next_deadline.is_none_or(|next| now < next) {
        return Vec::new();
    }
    let expired = table.open.extract_if(|_, open| open.deadline <= now);
    let expired: Vec<Open> = expired.map(|(_, open)| open).collect();
    for own_id in expired.iter().filter_map(|open| open.own_id) {
        table.named.remove(&own_id);
    }
    table.next_deadline = table.open.values().map(|open| open.deadline).min();
    expired
}

/// Moves what has been held back for long enough to what is to be sent, all of it in the order of publication. Returns
/// when the next is due. While nothing is sent nothing is moved: what opens the gate calls for another look.
fn release_held(table: &mut Table, now: Instant) -> Option<Instant> {
    if table.held.is_empty() || table.gate != Gate::Open {
        return None;
    }
    if table.held.values().any(|held| held.until <= now) {
        let due = table.held.extract_if(|_, held| held.is_nearly_due(now));
        let mut ids: Vec<Id> = std::mem::take(&mut table.unsent).into();
        ids.extend(due.flat_map(|(_, held)| held.ids));
        ids.sort_unstable();
        ids.dedup(); // one that was refused while it waited to be sent again
        table.unsent = ids.into();
    }
    table.held.values().map(|held| held.until).min()
}

/// Tells who waits for an event what became of it.
fn settle(open: Open, outcome: Result<Position>) {
    if let Err(Err(error)) = open.outcome.send(outcome) {
        tracing::warn!(topic = open.kept.topic(), %error, "an event was not stored, and nobody waited for it");
    }
}

/// Sends what could not be sent at once, until the peer is closed.
async fn pump(shared: Arc<Shared>) {
    let mut state = shared.watch_state();
    let this = &shared.publishing;
    while *state.borrow_and_update() != State::Closed {
        let work = this.work.notified();
        tokio::pin!(work);
        work.as_mut().enable();
        match this.step(&shared, Instant::now()) {
            Step::Idle(until) => tokio::select! {
                () = &mut work => {}
                () = wait_until(until) => {}
                _ = state.changed() => {}
            },
            Step::Full(link, until) => {
                let drained = link.outbox.drained();
                tokio::pin!(drained);
                drained.as_mut().enable(); // from here on no drain is missed
                if !matches!(this.step(&shared, Instant::now()), Step::Full(..)) {
                    continue;
                }
                tokio::select! {
                    () = &mut work => {} // a deadline that is earlier
                    () = &mut drained => {}
                    () = wait_until(until) => {}
                    _ = state.changed() => {}
                }
            }
        }
    }
}

/// Without an instant, for ever.
async fn wait_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
