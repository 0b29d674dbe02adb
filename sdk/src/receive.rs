//! The receiving side of a connection: frame bodies are cut into envelopes, and each goes where it belongs — answers
//! to who waits for them, calls to handlers, events to subscriptions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fluxar_protocol::{
    Batch, Code, Envelope, Fault, Id, Kind, Reject,
    exchange::{self, Verb},
    meta, session,
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    Error, Message, Origin, Position, codec, handlers,
    link::{Interest, Link, Phase, Role},
    logged,
    shared::Shared,
    stall::StallBudget,
    streams::{self, Aftermath, Channel, Fate},
    subscriptions::{self, Entry},
    wire::{Broken, Reader},
};

/// After a write that failed, what arrived before is read for so long at most. Of a connection that broke it is there, or its end.
const HEAR_OUT: Duration = Duration::from_millis(100);
/// Refused publishes are told at most so often [P-3.8].
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// This side closed it.
    Closed,
    /// The other side said goodbye; why.
    ClosedByPeer(Error),
    /// The socket failed, or nothing came for too long.
    Lost(Error),
    /// This side gives it up: nothing that is sent is read.
    GivenUp(Error),
    /// The other side broke the protocol, and is told.
    Misbehaved(Error),
    /// It broke that of WebSocket, and is told by the close frame.
    MisusedWebSocket(CloseCode, Error),
}

/// Events that belong to one subscription alone [P-5.4].
#[derive(Debug)]
struct Run {
    /// `None`: it was cancelled meanwhile, and they are skipped.
    entry: Option<Entry>,
    /// How many came.
    taken: u64,
    count: u64,
    /// Logged ones are in this partition, and may have been given to somebody so often before.
    logged: Option<(u16, u64)>,
}

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    link: Arc<Link>,
    reader: Reader,
    stall: StallBudget,
    /// The next envelopes of this frame belong to it.
    run: Option<Run>,
    /// The offsets of the run, if it is a logged one; kept to be filled again.
    offsets: Vec<u64>,
    refused_publishes: u64,
    refusal_told_at: Option<Instant>,
}

impl Run {
    /// One of its events came; `None` if that was the last.
    fn go_on(mut self) -> Option<Self> {
        self.taken += 1;
        (self.taken < self.count).then_some(self)
    }
}

impl Receiver {
    pub(crate) fn new(shared: &Arc<Shared>, link: &Arc<Link>, reader: Reader) -> Self {
        Self {
            shared: shared.clone(),
            link: link.clone(),
            reader,
            stall: StallBudget::new(link.options.stall),
            run: None,
            offsets: Vec::new(),
            refused_publishes: 0,
            refusal_told_at: None,
        }
    }

    /// Receives until the connection ends. `rest` is what stood behind the handshake in its frame.
    pub(crate) async fn run(&mut self, rest: Bytes) -> End {
        let Err(end) = self.receive(rest).await;
        end
    }

    async fn receive(&mut self, rest: Bytes) -> Result<std::convert::Infallible, End> {
        self.on_body(rest).await?;
        let link = self.link.clone();
        let heartbeat = link.options.heartbeat;
        let left_open = link.left_open();
        tokio::pin!(left_open);
        let mut pinged_at = None;
        loop {
            let silent_at = pinged_at.unwrap_or(self.reader.read_at()) + heartbeat;
            let frame_begun_at = self.reader.frame_begun_at().unwrap_or_else(Instant::now);
            let due = silent_at.min(frame_begun_at + link.options.frame_timeout);
            let received = tokio::select! {
                biased;
                phase = &mut left_open => return Err(match phase {
                    Phase::Failed(error) => self.hear_out(error).await,
                    Phase::GivenUp(error) => End::GivenUp(error),
                    Phase::Open | Phase::Closing(_) => End::Closed,
                }),
                received = self.reader.next(link.options.max_frame_bytes) => Some(received),
                () = tokio::time::sleep_until(due) => None,
            };
            match received {
                Some(Ok(Some(body))) => {
                    pinged_at = None;
                    self.on_body(body).await?;
                }
                Some(Ok(None)) => return Err(End::Lost(lost("the other side closed the connection"))),
                Some(Err(Broken::Lost(error))) => return Err(End::Lost(error)),
                Some(Err(Broken::Fault(error))) => return Err(End::Misbehaved(error)),
                Some(Err(Broken::WebSocket(code, error))) => return Err(End::MisusedWebSocket(code, error)),
                None => pinged_at = self.on_time(pinged_at)?,
            }
        }
    }

    /// Writing failed: the other side may have said goodbye before that, and why.
    async fn hear_out(&mut self, failed: Error) -> End {
        let until = Instant::now() + HEAR_OUT;
        while Instant::now() < until {
            let next = self.reader.next(self.link.options.max_frame_bytes);
            let Ok(Ok(Some(body))) = tokio::time::timeout_at(until, next).await else {
                break;
            };
            if let Err(end) = self.on_body(body).await {
                return end;
            }
        }
        End::Lost(failed)
    }

    /// No frame came for a while. Returns when the other side was pinged, if it has not shown since that it lives. Its time
    /// runs from there: while this process was stopped it could not have been heard.
    fn on_time(&self, pinged_at: Option<Instant>) -> Result<Option<Instant>, End> {
        let options = &self.link.options;
        let (now, read_at) = (Instant::now(), self.reader.read_at());
        let late = |message| Error::from_origin(Origin::Connection, Code::DeadlineExceeded, message);
        if let Some(begun_at) = self.reader.frame_begun_at()
            && now >= begun_at + options.frame_timeout
        {
            let message = format!(
                "a frame was not complete within {} ms",
                options.frame_timeout.as_millis()
            );
            return Err(End::Misbehaved(late(message))); // [P-1.5]
        }
        if now < read_at + options.heartbeat {
            return Ok(None); // a part of a frame came
        }
        let Some(pinged_at) = pinged_at else {
            self.link.ping();
            return Ok(Some(now));
        };
        if now >= pinged_at + options.heartbeat {
            let message = format!(
                "nothing was received for {} ms",
                options.heartbeat.as_millis() * 2
            );
            return Err(End::Lost(late(message))); // without another word [P-7.5]
        }
        Ok(Some(pinged_at))
    }

    /// Reads on until the other side has closed, so that what was said last reaches it.
    pub(crate) async fn drain(&mut self) {
        while let Ok(Some(_)) = self.reader.next(self.link.options.max_frame_bytes).await {}
    }

    async fn on_body(&mut self, body: Bytes) -> Result<(), End> {
        self.run = None; // a run never crosses the end of a frame
        let is_resumable = self.link.is_resumable();
        let mut envelopes = Batch::new(&body);
        let mut begin = 0;
        while let Some(envelope) = envelopes.next() {
            let bytes = envelopes.position() - std::mem::replace(&mut begin, envelopes.position());
            match envelope {
                Ok(decoded) => {
                    if is_resumable && session::is_counted(&decoded.envelope) {
                        self.link.count_received(bytes);
                    }
                    self.on_envelope(&body, &decoded.envelope).await?;
                }
                Err(reject) => {
                    if is_resumable && session::is_counted_refused(&reject) {
                        self.link.count_received(bytes);
                    }
                    // One that cannot be read is one of its run all the same.
                    self.run = self.run.take().and_then(Run::go_on);
                    self.on_reject(&reject)?;
                }
            }
        }
        self.link.tell_received();
        Ok(())
    }

    async fn on_envelope(&mut self, body: &Bytes, envelope: &Envelope<'_>) -> Result<(), End> {
        if let Some(run) = self.run.take() {
            if envelope.kind == Kind::Event && envelope.reference.is_none() {
                self.on_event_of_run(&run, body, envelope).await;
                self.run = run.go_on();
                return Ok(());
            }
            self.run = run.go_on();
        }
        let verb = match exchange::verb(envelope) {
            Ok(verb) => verb,
            Err(fault) => {
                if envelope.reference.is_none() {
                    self.refuse(envelope.kind, envelope.id, faulty(fault));
                }
                return Ok(());
            }
        };
        match verb {
            Verb::Call => handlers::start(&self.shared, &self.link, body, envelope),
            Verb::Answer(reference) => {
                self.link.complete(reference, self.answer(body, envelope));
            }
            Verb::Pong(reference) => {
                self.link.note_recv(envelope).map_err(End::Misbehaved)?;
                self.shared.publishing.ponged(reference);
                self.link.complete(reference, self.answer(body, envelope));
            }
            Verb::Publish => self.on_event(body, envelope).await,
            Verb::SubscriptionNote(reference) => self.on_note(reference, body, envelope),
            Verb::Subscribe => self.on_subscribe(envelope),
            Verb::Serve => self.remember(envelope, None),
            Verb::Cancel(reference) => self.on_cancel(reference),
            Verb::Ping => {
                self.link.note_recv(envelope).map_err(End::Misbehaved)?;
                self.link.pong(envelope.id);
            }
            Verb::Ack(reference) => self.on_publish_answered(reference, envelope),
            Verb::StreamOpen => streams::start(&self.shared, &self.link, body, envelope),
            Verb::StreamPart(reference) => {
                if let Some(channel) = self.link.streams.get(reference) {
                    let aftermath = channel.on_part(&self.link, envelope);
                    self.after(&channel, aftermath);
                }
            }
            Verb::Welcome(_) => {}
            Verb::Close => {
                let error = envelope
                    .error
                    .map(|raw| Error::from_wire(raw, &self.link.address));
                return Err(End::ClosedByPeer(goodbye(error)));
            }
            Verb::Hello => return Err(End::Misbehaved(misbehaved("a second hello"))),
        }
        Ok(())
    }

    fn answer(&self, body: &Bytes, envelope: &Envelope<'_>) -> crate::Result<Bytes> {
        match envelope.error {
            Some(raw) => Err(Error::from_wire(raw, &self.link.address)),
            None => Ok(body.slice_ref(envelope.payload)),
        }
    }

    async fn on_event(&mut self, body: &Bytes, envelope: &Envelope<'_>) {
        let needs_log = envelope
            .meta
            .is_some_and(|meta| meta.qos() != Ok(Default::default()) || meta.flag("retain") == Ok(true));
        if needs_log && self.link.role == Role::Answerer {
            let message = "qos 1 and 2 and `retain` need a gateway; this is a direct peer";
            let error = Error::new(Code::Unimplemented, message);
            return self.refuse(Kind::Event, envelope.id, error);
        }
        let entries = self.shared.subscriptions.snapshot();
        let mut takers = subscriptions::plain(&entries, envelope.target.unwrap_or_default()).peekable();
        if takers.peek().is_none() {
            return;
        }
        let message = Message::new(body, envelope);
        for entry in takers {
            entry.deliver(message.clone(), &mut self.stall).await;
        }
    }

    async fn on_event_of_run(&mut self, run: &Run, body: &Bytes, envelope: &Envelope<'_>) {
        let Some(entry) = &run.entry else { return };
        let offset = usize::try_from(run.taken)
            .ok()
            .and_then(|taken| self.offsets.get(taken));
        match (run.logged, offset) {
            (Some((partition, dup)), Some(&offset)) if entry.sub.logged.is_some() => {
                let at = Position { partition, offset };
                logged::deliver(entry, &self.shared, &self.link, body, envelope, at, dup).await;
            }
            _ => entry.deliver(Message::new(body, envelope), &mut self.stall).await,
        }
    }

    /// The header of a run.
    fn begin_run(&mut self, subscription: Id, header: meta::Run<'_>, dup: u64) {
        self.offsets.clear();
        let logged = match header {
            meta::Run::Counted(_) => None,
            meta::Run::Logged(positions) => {
                self.offsets.extend(positions.offsets());
                Some((positions.partition(), dup))
            }
        };
        self.run = (header.count() > 0).then(|| Run {
            entry: self.entry(subscription),
            taken: 0,
            count: header.count(),
            logged,
        });
    }

    /// About a subscription or an offer of this side.
    fn on_note(&mut self, reference: Id, body: &Bytes, envelope: &Envelope<'_>) {
        let meta = envelope.meta;
        if let Some(header) = meta.and_then(|meta| meta.run().ok().flatten()) {
            let dup = meta.and_then(|meta| meta.uint("dup").ok().flatten());
            return self.begin_run(reference, header, dup.unwrap_or(0));
        }
        if let Some(total) = meta.and_then(|meta| meta.uint("dropped").ok().flatten()) {
            if let Some(entry) = self.entry(reference) {
                entry.sub.note_dropped(total);
            }
            return;
        }
        let has_ended = meta.is_some_and(|meta| meta.flag("end").unwrap_or(false));
        let entry = self.entry(reference);
        if !has_ended
            && envelope.error.is_none()
            && let Some(entry) = &entry
        {
            if let Some(Ok(Some(to))) = meta.map(|meta| meta.at()) {
                if let Some(logged) = &entry.sub.logged {
                    logged.lock().moved(to.into());
                }
                return;
            }
            entry.accepted(&self.shared.handlers);
            if let Err(error) = logged::accepted(&entry.sub, &self.link, envelope.payload) {
                return self.give_up(reference, error);
            }
        }
        // Who takes an offer back waits for its end; others for the acceptance, as long as they want it.
        if (has_ended || entry.is_some()) && self.link.complete(reference, self.answer(body, envelope)) {
            if has_ended {
                self.shared.subscriptions.remove(reference, None);
            }
            return;
        }
        // Ended, or refused when it was asked for again after a reconnect.
        let error = envelope
            .error
            .map(|raw| Error::from_wire(raw, &self.link.address));
        if let (Some(error), Some(entry)) = (&error, &entry)
            && let Some(pause) = logged::pause_of(&entry.sub, error)
        {
            tracing::debug!(pattern = entry.sub.pattern, %error, "a subscription is asked for again in a moment");
            return logged::ask_later(&self.shared, &self.link, &entry.sub, pause);
        }
        if has_ended || error.is_some() {
            if let Some(error) = &error {
                tracing::warn!(subscription = %reference, %error, "the other side ended a subscription");
            }
            self.shared.subscriptions.remove(reference, error);
        }
    }

    /// Ends a subscription of this side that cannot go on.
    fn give_up(&self, subscription: Id, error: Error) {
        tracing::warn!(%subscription, %error, "a subscription cannot go on");
        self.link.cancel(subscription);
        if !self.link.complete(subscription, Err(error.clone())) {
            self.shared.subscriptions.remove(subscription, Some(error));
        }
    }

    fn entry(&self, id: Id) -> Option<Entry> {
        self.shared
            .subscriptions
            .snapshot()
            .iter()
            .find(|entry| entry.sub.id == id)
            .cloned()
    }

    fn on_subscribe(&self, envelope: &Envelope<'_>) {
        let Some(pattern) = envelope.target else { return };
        let needs_gateway = |what: &str| {
            let message = format!("{what} needs a gateway; this is a direct peer");
            self.link.refuse(
                Kind::Subscribe,
                envelope.id,
                &Error::new(Code::Unimplemented, message),
            );
        };
        if let Some(meta) = envelope.meta {
            if !matches!(meta.text("group"), Ok(None)) {
                return needs_gateway("a group");
            }
            if meta.qos() != Ok(Default::default()) {
                return needs_gateway("delivery beyond at most once");
            }
            for key in ["durable", "from", "retain", "skip_damaged"] {
                if meta.get(key).is_some() {
                    return needs_gateway(&format!("a subscription with `{key}`"));
                }
            }
        }
        self.remember(envelope, Some(pattern.to_owned()));
    }

    /// Accepts a subscription or an offer of the other side, if there is room for it.
    fn remember(&self, envelope: &Envelope<'_>, pattern: Option<String>) {
        let id = envelope.id;
        match self.link.add_interest(Interest { id, pattern }) {
            Ok(()) => self.link.accept(Kind::Subscribe, id, &accepted()),
            Err(error) => self.link.refuse(Kind::Subscribe, id, &error),
        }
    }

    /// The other side takes back what it began: nobody waits for that answer, or wants those events, any more.
    fn on_cancel(&self, reference: Id) {
        if let Some(channel) = self.link.streams.get(reference) {
            let aftermath = channel.on_cancel(&self.link);
            self.after(&channel, aftermath);
        } else if !self.link.abort(reference) && self.link.remove_interest(reference) {
            let end = fluxar_protocol::meta::MetaWriter::new()
                .flag("end", true)
                .finish();
            let meta = end.as_deref().map(fluxar_protocol::meta::Meta::from_checked);
            let id = self.shared.ids.next();
            self.link.send_control(&Envelope {
                kind: Kind::Subscribe,
                id,
                reference: Some(reference),
                target: None,
                meta,
                payload: &[],
                error: None,
            });
        }
    }

    /// A stream has gone on in its life: what that leads to around it.
    fn after(&self, channel: &Channel, aftermath: Aftermath) {
        if aftermath.is_closed {
            self.link.streams.remove(channel.id);
        }
        if channel.is_own {
            return;
        }
        match aftermath.handler {
            Fate::GoesOn => {}
            Fate::Lingers(patience) => self.link.abort_after(channel.id, patience),
            Fate::Dropped => drop(self.link.abort(channel.id)),
        }
    }

    /// A logged event was stored or refused; or an unlogged one was refused.
    fn on_publish_answered(&self, reference: Id, envelope: &Envelope<'_>) {
        let error = envelope
            .error
            .map(|raw| Error::from_wire(raw, &self.link.address));
        let answer = match (error, envelope.meta.map(|meta| meta.at())) {
            (Some(error), _) => Err(error),
            (None, Some(Ok(Some(at)))) => Ok(at.into()),
            (None, _) => return, // it says nothing
        };
        if let Err(error) = &answer
            && !self.shared.publishing.is_open(reference)
        {
            tracing::warn!(publish = %reference, %error, "publishes were refused");
            return self.shared.note_refused_publishes(error.clone());
        }
        self.shared.publishing.answered(reference, answer);
    }

    fn on_reject(&mut self, reject: &Reject) -> Result<(), End> {
        if reject.end.is_none() {
            return Err(End::Misbehaved(misbehaved(&reject.to_string())));
        }
        if let (Some(id), Some(false)) = (reject.id, reject.has_ref) {
            // A type that is none of the seven is answered by a cancel [P-3.8].
            self.refuse(reject.kind.unwrap_or(Kind::Cancel), id, faulty(reject.fault));
        }
        Ok(())
    }

    fn refuse(&mut self, kind: Kind, id: Id, mut error: Error) {
        if kind == Kind::Event {
            self.refused_publishes += 1;
            if self
                .refusal_told_at
                .is_some_and(|told| told.elapsed() < REFUSALS_EVERY)
            {
                return;
            }
            self.refusal_told_at = Some(Instant::now());
            error = error.with_details(&Refusals {
                refused: std::mem::take(&mut self.refused_publishes),
            });
        }
        self.link.refuse(kind, id, &error);
    }
}

/// Details of the error that tells of refused publishes.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Refusals {
    pub(crate) refused: u64,
}

/// The payload that accepts a subscription: there are no logs here.
fn accepted() -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Accepted {
        epoch: u64,
        at: [(u64, u64); 0],
    }
    codec::encode(&Accepted { epoch: 0, at: [] }).unwrap_or_default()
}

fn goodbye(error: Option<Error>) -> Error {
    let told = match &error {
        Some(error) => format!("the other side closed it: {}", error.message()),
        None => "the other side said goodbye".to_owned(),
    };
    let code = error.as_ref().map_or(Code::Unavailable, Error::code);
    let mut why = Error::from_origin(Origin::Connection, code, told);
    if let Some(after) = error.as_ref().and_then(Error::retry_after_hint) {
        why = why.retry_after(after);
    }
    why
}

fn lost(message: &str) -> Error {
    Error::from_origin(Origin::Connection, Code::Unavailable, message)
}

fn faulty(fault: Fault) -> Error {
    Error::new(fault.code(), fault.to_string())
}

fn misbehaved(what: &str) -> Error {
    let message = format!("the other side broke the protocol: {what}");
    Error::from_origin(Origin::Connection, Code::InvalidArgument, message)
}
