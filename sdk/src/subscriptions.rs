//! The subscriptions of a peer: what it asked for, where events go, what was lost.
//!
//! They outlive a connection: after a reconnect each is asked for again. Events come from the connection's receiver
//! and go into a bounded queue for each subscription, which its handler or its reader empties in order.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fluxar_protocol::{Code, Envelope, Id, Kind, meta::Meta, meta::MetaWriter, target};
use tokio::sync::{mpsc, watch};

use crate::{
    Cursor, Error, Message, Result,
    handlers::{Handlers, Serves},
    link::Link,
    logged::{Logged, LoggedWish},
    stall::StallBudget,
};

/// What a subscription asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Events as they pass, perhaps as a member of a group.
    Events { group: Option<String> },
    /// Events out of the gateway's log.
    Logged(LoggedWish),
    /// Calls and streams.
    Serve(Share),
    /// Events that the other side sends unasked; nothing is sent for it.
    Unasked,
}

/// What an offer to serve tells the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Share {
    pub(crate) weight: Option<u32>,
    pub(crate) in_flight_max: u64,
    pub(crate) zone: Option<String>,
    pub(crate) fleet: Option<String>,
}

/// One subscription or offer, and what became of it.
#[derive(Debug)]
pub(crate) struct Sub {
    pub(crate) id: Id,
    pub(crate) pattern: String,
    pub(crate) wish: Wish,
    /// Lost before this side: the other side's cumulative count on this connection, and the sum of earlier ones.
    dropped_there: AtomicU64,
    dropped_before: AtomicU64,
    /// Lost here, because the queue stayed full.
    dropped_here: AtomicU64,
    /// Its queue was full when the budget was spent, and is not half empty yet.
    is_dropping: AtomicBool,
    /// How far it has come in the logs.
    pub(crate) logged: Option<Logged>,
    /// Whether it is over, and why.
    end: watch::Sender<Option<Option<Error>>>,
}

impl Sub {
    pub(crate) fn new(id: Id, pattern: &str, wish: Wish) -> Arc<Self> {
        let logged = match &wish {
            Wish::Logged(wish) => Some(Logged::new(wish)),
            _ => None,
        };
        Arc::new(Self {
            id,
            pattern: pattern.to_owned(),
            wish,
            logged,
            dropped_there: AtomicU64::new(0),
            dropped_before: AtomicU64::new(0),
            dropped_here: AtomicU64::new(0),
            is_dropping: AtomicBool::new(false),
            end: watch::Sender::new(None),
        })
    }

    /// Asks for it on this connection and waits until it is accepted.
    pub(crate) async fn ask(&self, link: &Link) -> Result<()> {
        let meta = self.meta()?;
        link.exchange(&self.envelope(meta.as_deref()), link.options.call_timeout)
            .await?;
        Ok(())
    }

    /// Asks for it on a new connection; a refusal ends it when it comes. `Err`: it cannot be asked for, and is over.
    pub(crate) fn ask_again(&self, link: &Link) -> Result<()> {
        if self.wish == Wish::Unasked {
            return Ok(());
        }
        // A new connection counts its drops from zero.
        let told = self.dropped_there.swap(0, Ordering::Relaxed);
        self.dropped_before.fetch_add(told, Ordering::Relaxed);
        let meta = self.meta()?;
        link.send_control(&self.envelope(meta.as_deref()));
        Ok(())
    }

    fn meta(&self) -> Result<Option<Vec<u8>>> {
        let meta = MetaWriter::new();
        if let (Wish::Logged(wish), Some(logged)) = (&self.wish, &self.logged) {
            return logged.ask(wish, meta).map(Some);
        }
        let meta = match &self.wish {
            Wish::Events { group: Some(group) } => meta.text("group", group),
            Wish::Serve(share) => {
                let mut meta = meta.flag("serve", true).uint("in_flight", share.in_flight_max);
                if let Some(weight) = share.weight {
                    meta = meta.uint("weight", weight.into());
                }
                if let Some(zone) = &share.zone {
                    meta = meta.text("zone", zone);
                }
                if let Some(fleet) = &share.fleet {
                    meta = meta.text("group", fleet);
                }
                meta
            }
            Wish::Events { group: None } | Wish::Logged(_) | Wish::Unasked => meta,
        };
        Ok(meta.finish())
    }

    fn envelope<'a>(&'a self, meta: Option<&'a [u8]>) -> Envelope<'a> {
        Envelope {
            kind: Kind::Subscribe,
            id: self.id,
            reference: None,
            target: Some(&self.pattern),
            meta: meta.map(Meta::from_checked),
            payload: &[],
            error: None,
        }
    }

    /// Whether it is a member of a group.
    pub(crate) fn is_group(&self) -> bool {
        match &self.wish {
            Wish::Events { group } => group.is_some(),
            Wish::Logged(wish) => wish.group.is_some(),
            Wish::Serve(_) | Wish::Unasked => false,
        }
    }

    /// What is done with, in the logs.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.logged.as_ref().filter(|_| !self.is_group())?.cursor()
    }

    /// Whether events come to it without a header.
    fn takes_plainly(&self, topic: &str) -> bool {
        matches!(self.wish, Wish::Events { group: None } | Wish::Unasked)
            && target::matches(&self.pattern, topic)
    }

    pub(crate) fn dropped(&self) -> u64 {
        [&self.dropped_before, &self.dropped_there, &self.dropped_here]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// The other side says how many events it has dropped for this subscription since it began.
    pub(crate) fn note_dropped(&self, total: u64) {
        let known = self.dropped_there.swap(total, Ordering::Relaxed);
        tracing::warn!(
            pattern = self.pattern,
            dropped = total.saturating_sub(known),
            "events were dropped before \
            they reached this subscription: it, or its connection, is too slow"
        );
    }

    /// Whether it is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Whether what was received and is not handled yet is not to be handled any more: it comes again where it can. It does not
    /// where the log cannot go on: whoever goes on behind that is to miss nothing else.
    pub(crate) fn is_over(&self) -> bool {
        match &*self.end.borrow() {
            None => false,
            Some(Some(why)) if !self.is_group() => !matches!(
                why.code(),
                Code::OutOfRange | Code::DataLoss | Code::ResourceExhausted
            ),
            Some(_) => true,
        }
    }

    /// Why it ended, if it ended with an error.
    pub(crate) fn end(&self) -> Option<Error> {
        self.end.borrow().clone().flatten()
    }

    /// Completes when it has ended, with the reason if that was an error.
    pub(crate) async fn ended(&self) -> Option<Error> {
        let mut end = self.end.subscribe();
        // An error would mean that the sender, which is in `self`, is gone.
        let why = end.wait_for(Option::is_some).await.ok()?;
        why.clone().flatten()
    }
}

/// Where what arrives for a subscription or an offer goes.
#[derive(Debug, Clone)]
pub(crate) enum Sink {
    /// Events, into the queue.
    Events(mpsc::Sender<Message>),
    /// Calls or streams, to the handler.
    Exchanges(Arc<Service>),
}

/// The handler of an offer. It is put among those that answer when the offer is accepted, by the receiver, before the
/// first call can follow; until then an earlier one for the same pattern answers.
pub(crate) struct Service {
    handler: Serves,
    /// Once it was put there: the handler in whose place.
    replaced: OnceLock<Option<Serves>>,
}

impl Service {
    pub(crate) fn new(handler: Serves) -> Arc<Self> {
        Arc::new(Self {
            handler,
            replaced: OnceLock::new(),
        })
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// A subscription or offer with its sink.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) sub: Arc<Sub>,
    pub(crate) sink: Sink,
}

impl Entry {
    /// The other side has accepted it, perhaps not for the first time.
    pub(crate) fn accepted(&self, handlers: &Handlers) {
        if let Sink::Exchanges(service) = &self.sink {
            service
                .replaced
                .get_or_init(|| handlers.put(&self.sub.pattern, service.handler.clone()));
        }
    }

    /// Nobody has waited for the acceptance: what it brought is undone.
    pub(crate) fn undo(&self, handlers: &Handlers) {
        if let Sink::Exchanges(service) = &self.sink
            && let Some(replaced) = service.replaced.get()
        {
            handlers.take_back(&self.sub.pattern, &service.handler, replaced.clone());
        }
    }

    /// Hands an event over. When the queue is full this waits, and with it the reading of the whole connection, as long
    /// as the connection's budget lasts; beyond it the event is dropped, and further ones at once until the queue is
    /// half empty. So a slow application slows its sender for a moment, and holds up answers for no longer: one that
    /// waits here for an answer of the same connection cannot hang.
    pub(crate) async fn deliver(&self, message: Message, budget: &mut StallBudget) {
        let Sink::Events(queue) = &self.sink else { return };
        let sub = &self.sub;
        if sub.is_dropping.load(Ordering::Relaxed) {
            if queue.capacity() * 2 < queue.max_capacity() {
                sub.dropped_here.fetch_add(1, Ordering::Relaxed);
                return;
            }
            sub.is_dropping.store(false, Ordering::Relaxed);
            tracing::info!(
                pattern = sub.pattern,
                dropped = sub.dropped(),
                "the subscription keeps up again"
            );
        }
        // An error other than `Full` says that nobody takes events any more.
        let Err(mpsc::error::TrySendError::Full(message)) = queue.try_send(message) else {
            return;
        };
        if budget.spend(queue.send(message)).await.is_none() {
            sub.is_dropping.store(true, Ordering::Relaxed);
            sub.dropped_here.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                pattern = sub.pattern,
                "the subscription's queue stays full: its events are dropped until it is half empty"
            );
        }
    }
}

/// All subscriptions of a peer. Reading it takes a snapshot; changes are rare.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(RwLock<Arc<Vec<Entry>>>);

impl Subscriptions {
    pub(crate) fn snapshot(&self) -> Arc<Vec<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, entry: Entry) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut entries).push(entry);
    }

    /// Takes it out, which ends its queue. False if it was not there any more.
    pub(crate) fn remove(&self, id: Id, why: Option<Error>) -> bool {
        self.take(id, why).is_some()
    }

    /// The same, and hands it out.
    pub(crate) fn take(&self, id: Id, why: Option<Error>) -> Option<Entry> {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|entry| entry.sub.id == id)?;
        let entry = Arc::make_mut(&mut entries).remove(at);
        entry.sub.end.send_replace(Some(why));
        Some(entry)
    }

    /// Asks for all of them on a new connection, before others can use it, and returns which those were.
    pub(crate) fn ask_again(&self, link: &Link) -> Arc<Vec<Entry>> {
        let entries = self.snapshot();
        for entry in entries.iter() {
            if let Err(error) = entry.sub.ask_again(link) {
                tracing::warn!(pattern = entry.sub.pattern, %error, "a subscription cannot go on");
                self.remove(entry.sub.id, Some(error));
            }
        }
        entries
    }

    /// Takes back what was asked for again and has ended here meanwhile. To be called when others can use the
    /// connection: who ended it before that found no connection to say so on.
    pub(crate) fn cancel_orphans(&self, asked: &[Entry], link: &Link) {
        let entries = self.snapshot();
        for Entry { sub, .. } in asked {
            if sub.wish != Wish::Unasked && !entries.iter().any(|entry| entry.sub.id == sub.id) {
                link.cancel(sub.id);
            }
        }
    }

    /// Ends all of them.
    pub(crate) fn clear(&self, why: Option<&Error>) {
        let entries = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        for entry in entries.iter() {
            entry.sub.end.send_replace(Some(why.cloned()));
        }
    }
}

/// Those that take an event without a header.
pub(crate) fn plain<'a>(entries: &'a [Entry], topic: &'a str) -> impl Iterator<Item = &'a Entry> {
    entries.iter().filter(move |entry| entry.sub.takes_plainly(topic))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fluxar_protocol::{Batch as Envelopes, Form};

    use super::*;
    use crate::{handshake::Opened, link::Role, outbox::Batch, shared::Shared};

    #[tokio::test]
    async fn what_ends_while_it_is_asked_for_again_is_cancelled() {
        let shared = Shared::new(Arc::default(), "tcp://nowhere:1".into(), Arc::default()).unwrap();
        let subs = [1, 2].map(|n| Sub::new(Id([n; 16]), "a.b", Wish::Events { group: None }));
        for sub in &subs {
            shared.subscriptions.add(Entry {
                sub: sub.clone(),
                sink: Sink::Events(mpsc::channel(1).0),
            });
        }
        let opened = Opened {
            max_frame_bytes: 65_536,
            credit_bytes: 65_536,
            agent: String::new(),
            form: Form::Compact,
            ticket: None,
            resumed: None,
            rest: Bytes::new(),
        };
        let link = Arc::new(Link::new(&shared, Role::Opener, Form::Compact, &opened));

        let asked = shared.subscriptions.ask_again(&link);
        assert!(shared.subscriptions.remove(subs[0].id, None));
        assert!(
            shared.link().is_err(),
            "who ends it now has no connection to say so on"
        );
        shared.connected(&link);
        shared.subscriptions.cancel_orphans(&asked, &link);

        let batch = link.outbox.take(Batch::default()).await.unwrap();
        let mut said = Vec::new();
        for body in batch.bodies() {
            for envelope in Envelopes::new(&batch.bytes[body]) {
                let envelope = envelope.unwrap().envelope;
                said.push((envelope.kind, envelope.reference.unwrap_or(envelope.id)));
            }
        }
        let (first, second) = (subs[0].id, subs[1].id);
        assert_eq!(
            said,
            [
                (Kind::Subscribe, first),
                (Kind::Subscribe, second),
                (Kind::Cancel, first)
            ]
        );
    }
}
