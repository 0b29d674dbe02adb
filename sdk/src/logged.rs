//! Subscriptions to logged events: what is asked for at first and after each reconnect, how an event is handed over, and
//! how it is acknowledged.
//!
//! The receiver hands a run's events over one by one ([`deliver`]); each carries a [`Delivery`], which stands for the
//! duty to acknowledge it. Nothing is dropped: the gateway lets so much be under way that is not acknowledged, and when
//! this side's queue is full all the same, reading waits. What is done with is told together with what else is, in a
//! moment ([`tell`]).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fluxar_protocol::{
    Code, Envelope, Kind,
    limits::POSITIONS_BYTES_MAX,
    meta::{Meta, MetaWriter, Qos},
    position::Acceptance,
};
use tokio::sync::mpsc::error::TrySendError;

use crate::{
    Begin, Cursor, Error, Message, Origin, Position, Result,
    link::Link,
    progress::{Progress, Tell},
    shared::Shared,
    subscriptions::{Entry, Sink, Sub},
};

/// Events that wait for the application in each subscription to logged events. A gateway lets far less be under way.
pub(crate) const QUEUE: usize = 65_536;
/// How long an acknowledgement waits for others to go with it.
const TOGETHER: Duration = Duration::from_millis(20);
/// What an event counts for beyond its payload, before its acknowledgement is told at once.
const OVERHEAD_BYTES: usize = 64;
/// Most offsets in one acknowledgement, each of nine bytes at most.
const OFFSETS_MAX: usize = POSITIONS_BYTES_MAX / 9 - 2;
/// The pause before a subscription that the gateway cannot take up at the moment is asked for again, if it does not say.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// The longest that the gateway can ask for.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);

/// What a subscription to logged events asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedWish {
    pub(crate) qos: Qos,
    pub(crate) group: Option<String>,
    pub(crate) durable: Option<String>,
    pub(crate) begin: Option<Begin>,
    pub(crate) is_table: bool,
    pub(crate) skips_damaged: bool,
    pub(crate) in_flight: Option<u32>,
}

/// How far such a subscription has come.
#[derive(Debug)]
pub(crate) struct Logged(Mutex<Progress>);

impl Logged {
    pub(crate) fn new(wish: &LoggedWish) -> Self {
        Self(Mutex::new(Progress::new(
            wish.group.is_some(),
            wish.is_table,
            wish.durable.is_some(),
        )))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is asked for on a connection: what is asked. One that has begun goes on behind what it has received, unless the
    /// gateway itself knows where it was.
    pub(crate) fn ask(&self, wish: &LoggedWish, mut meta: MetaWriter) -> Result<Vec<u8>> {
        let mut progress = self.lock();
        progress.asked();
        meta = meta.uint("qos", wish.qos as u64);
        for (key, name) in [("group", &wish.group), ("durable", &wish.durable)] {
            if let Some(name) = name {
                meta = meta.text(key, name);
            }
        }
        if let Some(in_flight) = wish.in_flight {
            meta = meta.uint("in_flight", in_flight.into());
        }
        if wish.is_table {
            meta = meta.flag("retain", true);
        }
        if wish.skips_damaged {
            meta = meta.flag("skip_damaged", true);
        }
        let begin = if !progress.is_begun() {
            wish.begin.clone()
        } else if wish.durable.is_none() && wish.group.is_none() {
            progress.received().map(Begin::Behind)
        } else {
            None
        };
        progress.begins_behind(match &begin {
            Some(Begin::Behind(places)) => &places.at,
            _ => &[],
        });
        if let Some(begin) = begin {
            meta = begin.write(meta);
        }
        if !meta.fits() {
            let message =
                "the places in so many partitions do not fit into one message; a durable name needs none";
            return Err(Error::from_origin(
                Origin::Input,
                Code::ResourceExhausted,
                message,
            ));
        }
        Ok(meta.finish().unwrap_or_default()) // `qos` is there
    }

    /// What is done with.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.lock().acked()
    }
}

/// The duty to acknowledge an event. Shared by all clones of its message; what is dropped without it was given up.
#[derive(Debug)]
pub(crate) struct Delivery {
    sub: Arc<Sub>,
    shared: Weak<Shared>,
    at: Position,
    dup: u64,
    bytes: usize,
    generation: u64,
    is_acked: AtomicBool,
}

impl Delivery {
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    pub(crate) fn dup(&self) -> u64 {
        self.dup
    }

    pub(crate) fn is_acked(&self) -> bool {
        self.is_acked.load(Ordering::Relaxed)
    }

    /// Whether it is still this subscription's to handle, after it has waited in the queue.
    pub(crate) fn is_current(&self) -> bool {
        let logged = self.sub.logged.as_ref();
        logged.is_some_and(|logged| logged.lock().is_current(self.at, self.generation))
    }

    pub(crate) fn ack(&self) {
        if self.is_acked.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(logged) = &self.sub.logged {
            let to_tell = logged.lock().ack(self.at, self.bytes);
            tell_as(to_tell, &self.sub, &self.shared);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.is_acked()
            && let Some(logged) = &self.sub.logged
        {
            logged.lock().release(self.at, self.generation);
        }
    }
}

/// Tells the gateway what is done with: now, or a little later.
fn tell_as(to_tell: Tell, sub: &Arc<Sub>, shared: &Weak<Shared>) {
    match to_tell {
        Tell::Nothing => {}
        Tell::Now => tell(sub, shared),
        Tell::Soon => {
            let (sub, shared) = (sub.clone(), shared.clone());
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(async move {
                    tokio::time::sleep(TOGETHER).await;
                    tell(&sub, &shared);
                })),
                Err(_) => tell(&sub, &shared),
            }
        }
    }
}

/// Tells the gateway what is done with. Without a connection that waits for the next acceptance.
fn tell(sub: &Sub, shared: &Weak<Shared>) {
    if let Some(shared) = shared.upgrade()
        && let Ok(link) = shared.link()
    {
        tell_on(&link, sub);
    }
}

/// Tells the other side of this connection what is done with.
pub(crate) fn tell_on(link: &Link, sub: &Sub) {
    let Some(logged) = &sub.logged else { return };
    // Sent under the lock, so that cumulative acknowledgements leave in their order.
    let mut progress = logged.lock();
    for ack in progress.take_acks() {
        for offsets in ack.offsets.chunks(OFFSETS_MAX) {
            let deltas: Vec<u64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let meta = MetaWriter::new()
                .positions("ack", ack.partition, offsets[0], deltas.into_iter())
                .finish();
            link.send_control(&Envelope {
                meta: meta.as_deref().map(Meta::from_checked),
                ..link.reply(Kind::Event, sub.id, &[], None)
            });
        }
    }
}

/// The other side has accepted a subscription to logged events: where it begins.
pub(crate) fn accepted(sub: &Sub, link: &Link, payload: &[u8]) -> Result<()> {
    let Some(logged) = &sub.logged else {
        return Ok(());
    };
    let Some(acceptance) = Acceptance::read(payload) else {
        let message = "the acceptance of the subscription does not say where it begins";
        return Err(Error::from_origin(Origin::Connection, Code::Internal, message).at(&link.address));
    };
    let at = acceptance.at.iter().map(Position::from);
    let told = logged.lock().accepted(acceptance.epoch, at);
    match told {
        Ok(_) => {
            tell_on(link, sub);
            Ok(())
        }
        Err(other) => {
            let message = format!(
                "the gateway's logs are not those in which this subscription began (epoch {}, then {}): \
                 what lies between is not known",
                other.before, other.now
            );
            Err(Error::from_origin(Origin::Answer, Code::OutOfRange, message).at(&link.address))
        }
    }
}

/// Hands a logged event over. When the queue is full this waits, and with it the reading of the whole connection, until
/// there is room or the connection ends.
pub(crate) async fn deliver(
    entry: &Entry,
    shared: &Arc<Shared>,
    link: &Link,
    body: &Bytes,
    envelope: &Envelope<'_>,
    at: Position,
    dup: u64,
) {
    let (Sink::Events(queue), Some(logged)) = (&entry.sink, &entry.sub.logged) else {
        return;
    };
    let place = match queue.try_reserve() {
        Ok(place) => place,
        Err(TrySendError::Closed(())) => {
            // Nobody takes events any more, and they would wait there for their acknowledgements.
            if shared.subscriptions.remove(entry.sub.id, None) {
                tell_on(link, &entry.sub);
                link.cancel(entry.sub.id);
            }
            return;
        }
        Err(TrySendError::Full(())) => {
            let place = tokio::select! {
                place = queue.reserve() => place.ok(),
                _ = link.left_open() => None,
            };
            match place {
                Some(place) => place,
                None => return logged.lock().cut(),
            }
        }
    };
    let (received, generation) = {
        let mut progress = logged.lock();
        (progress.receive(at), progress.generation())
    };
    match received {
        Ok(()) => place.send(Message::logged(
            body,
            envelope,
            Arc::new(Delivery {
                sub: entry.sub.clone(),
                shared: Arc::downgrade(shared),
                at,
                dup,
                bytes: envelope.payload.len() + OVERHEAD_BYTES,
                generation,
                is_acked: AtomicBool::new(false),
            }),
        )),
        Err(to_tell) => tell_as(to_tell, &entry.sub, &Arc::downgrade(shared)),
    }
}

/// How long to wait before a subscription is asked for again that was refused for the moment: a partition is being
/// recovered, for example. `None` if it was refused for good.
pub(crate) fn pause_of(sub: &Sub, error: &Error) -> Option<Duration> {
    let is_momentary = sub.logged.is_some()
        && error.origin() == Origin::Answer
        && match error.code() {
            Code::Unavailable => true,
            Code::ResourceExhausted => error.retry_after_hint().is_some(),
            _ => false,
        };
    let pause = error.retry_after_hint().unwrap_or(ASK_AGAIN);
    is_momentary.then_some(pause.min(ASK_AGAIN_MAX))
}

/// Asks for a subscription again after a pause, if it and its connection are still there.
pub(crate) fn ask_later(shared: &Arc<Shared>, link: &Arc<Link>, sub: &Arc<Sub>, pause: Duration) {
    let (shared, link, sub) = (Arc::downgrade(shared), Arc::downgrade(link), Arc::downgrade(sub));
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        let (Some(shared), Some(link), Some(sub)) = (shared.upgrade(), link.upgrade(), sub.upgrade()) else {
            return;
        };
        let is_the_link = shared.link().is_ok_and(|now| Arc::ptr_eq(&now, &link));
        if !is_the_link || sub.has_ended() {
            return;
        }
        if let Err(error) = sub.ask_again(&link) {
            shared.subscriptions.remove(sub.id, Some(error));
        } else if sub.has_ended() {
            link.cancel(sub.id); // who ended it meanwhile has said so before it was asked for
        }
    });
}
