//! One end of an open stream: its place in the stream's life, and what arrived and was not taken yet.
//!
//! The connection's receiver hands it every part that arrives and never waits for it: what the other side may send is
//! bounded by the window that it was granted, so the queue needs no bound of its own. The application takes items and
//! sends them through [`super::ItemStream`] and [`super::ItemSink`]. Envelopes are queued under the channel's lock, so
//! that they leave in the order in which the stream's state changed. Locks are taken in the order: handlers that
//! run, channel, outbox.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use fluxar_protocol::{
    Code, Envelope, Id, Kind,
    meta::{Meta, MetaWriter},
    stream::{Breach, CANCEL_MS_MAX, Heard, Part, State, Stream, Unsendable},
};
use tokio::sync::Notify;

use crate::{Error, Origin, Result, link::Link, outbox::NotQueued};

/// How long a handler may take to read that its opener failed the stream: as long as one that was cancelled.
const LINGER: Duration = Duration::from_millis(CANCEL_MS_MAX);
/// The same of one that has not asked for an item yet. Mostly it has only begun, with everything there already; or it
/// never will.
const UNREAD_LINGER: Duration = Duration::from_millis(250);

/// The meta map `{"end": true}`.
const END: &[u8] = b"\xa1\x63end\xf5";

/// Items that have arrived, encoded back to back. They are copied out of their frames, since a small item would
/// otherwise keep all of its frame.
#[derive(Debug, Default)]
pub(super) struct Items {
    bytes: Vec<u8>,
    /// Where the first one begins.
    start: usize,
    lens: VecDeque<u32>,
}

impl Items {
    fn push(&mut self, item: &[u8]) {
        self.bytes.extend_from_slice(item);
        self.lens.push_back(item.len() as u32); // it came in a frame, which is smaller than 16 MiB
    }

    /// The first one.
    pub(super) fn pop(&mut self) -> Option<&[u8]> {
        let start = self.start;
        let len = self.lens.pop_front()? as usize;
        self.start += len;
        Some(&self.bytes[start..start + len])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lens.clear();
        self.start = 0;
    }
}

#[derive(Debug)]
struct Inner {
    stream: Stream,
    items: Items,
    /// Bytes of items that the application took and that were not granted again.
    taken_bytes: u64,
    /// The most that the other side has granted at a time, as far as is known: an item that is larger never leaves.
    window_there_bytes: u64,
    /// How what the other side sends has ended, once nothing more comes: well, or by an error.
    read_end: Option<Result<()>>,
    /// Why nothing can be sent any more, unless this side ended it well.
    send_end: Option<Error>,
    reader: Reader,
    /// The application waits for an item.
    waker: Option<Waker>,
}

/// Whether the application reads what the other side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// The handler has not taken it.
    Awaited,
    /// It was taken, and not asked for an item yet.
    Taken,
    Reading,
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: Id,
    /// Whether this side opened it.
    pub(crate) is_own: bool,
    /// What the other side may send ahead of the application.
    window_bytes: u64,
    inner: Mutex<Inner>,
    /// For those who send, and who wait for the end: credit came, or the stream went on in its life.
    changed: Notify,
}

/// What a message of the other side leads to outside of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Aftermath {
    /// It is over, and need not be known any more.
    pub(crate) is_closed: bool,
    /// What becomes of its handler.
    pub(crate) handler: Fate,
}

/// What a message of the other side means for the handler of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    #[default]
    GoesOn,
    /// The stream has failed, and nobody can reach its handler any more: it may come to read that, and is dropped when
    /// it has not ended after so long.
    Lingers(Duration),
    /// Nobody needs what it does any more.
    Dropped,
}

/// Why something was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// It waits for a grant.
    NoCredit,
    /// It waits for room in the connection's outbox.
    OutboxFull,
    /// It will never be.
    Never(Error),
}

impl Channel {
    /// This side opens a stream; if `ends`, it sends nothing but the open.
    pub(crate) fn opened_here(link: &Link, id: Id, ends: bool, window_bytes: u32) -> Self {
        let credit_bytes = link.peer_credit_bytes.into();
        let stream = Stream::opened_here(ends, window_bytes.into(), credit_bytes);
        Self::new(id, true, stream)
    }

    /// An open arrived.
    pub(crate) fn opened_there(link: &Link, id: Id, ends: bool, credit_bytes: u64) -> Self {
        let window_bytes = link.options.credit_bytes.into();
        let stream = Stream::opened_there(ends, window_bytes, credit_bytes);
        Self::new(id, false, stream)
    }

    fn new(id: Id, is_own: bool, stream: Stream) -> Self {
        let inner = Inner {
            stream,
            items: Items::default(),
            taken_bytes: 0,
            window_there_bytes: stream.credit_bytes(),
            read_end: stream.has_received_end().then_some(Ok(())),
            send_end: None,
            reader: if is_own { Reader::Reading } else { Reader::Awaited },
            waker: None,
        };
        Self {
            id,
            is_own,
            window_bytes: stream.granted_bytes(),
            inner: Mutex::new(inner),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for the stream to go on.
    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        Self::wake_reader(inner);
        self.changed.notify_waiters();
    }

    /// Wakes who waits for an item. Without the lock: a waker may do anything, such as drop a task that holds this very
    /// stream.
    fn wake_reader(mut inner: MutexGuard<'_, Inner>) {
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Completes when the stream goes on in its life or is granted credit; from its `enable` on it misses nothing.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    // What arrives.

    /// A part of the stream arrived.
    pub(crate) fn on_part(&self, link: &Link, envelope: &Envelope<'_>) -> Aftermath {
        let Ok(part) = Part::read(envelope) else {
            return Aftermath::default(); // a ref is set, so it is ignored [P-3.8]
        };
        let mut inner = self.lock();
        // A handler that reads learns of an error there, and so does one that has only begun.
        let if_failed = match inner.reader {
            _ if inner.read_end.is_some() => Fate::Dropped,
            Reader::Awaited | Reader::Taken => Fate::Lingers(UNREAD_LINGER),
            Reader::Reading => Fate::Lingers(LINGER),
            Reader::Gone => Fate::Dropped,
        };
        let mut handler = Fate::GoesOn;
        match inner.stream.handle(part) {
            Ok(Heard::Chunk { is_last }) => {
                if is_last {
                    inner.read_end.get_or_insert(Ok(()));
                }
                // What nobody will take is not granted again either.
                if inner.reader != Reader::Gone {
                    inner.items.push(envelope.payload);
                }
                let aftermath = inner.aftermath(Fate::GoesOn);
                Self::wake_reader(inner);
                if aftermath.is_closed {
                    self.changed.notify_waiters();
                }
                return aftermath;
            }
            Ok(Heard::Granted) => {
                inner.window_there_bytes = inner.window_there_bytes.max(inner.stream.credit_bytes());
                drop(inner);
                self.changed.notify_waiters();
                return Aftermath::default();
            }
            Ok(Heard::Ended) => {
                inner.read_end.get_or_insert(Ok(()));
            }
            Ok(Heard::Failed) => {
                let raw = envelope.error.unwrap_or_default();
                inner.end_all(&Error::from_wire(raw, &link.address));
                handler = if_failed;
            }
            Ok(Heard::Cancelled | Heard::Ignored) => return Aftermath::default(),
            Err(breach) => {
                let error = broken(breach);
                link.refuse(Kind::Stream, self.id, &error);
                inner.end_all(&error.at(&link.address));
                handler = if_failed;
            }
        }
        let aftermath = inner.aftermath(handler);
        self.wake(inner);
        aftermath
    }

    /// The other side cancelled: nothing more is sent, and this side's direction ends as soon as its handler is gone
    /// ([`Channel::handler_gone`]), at once if there is none.
    pub(crate) fn on_cancel(&self, link: &Link) -> Aftermath {
        let mut inner = self.lock();
        let handler = match inner.stream.handle_cancel() {
            Heard::Ignored => Fate::GoesOn,
            heard => {
                let message = match inner.read_end {
                    Some(Ok(())) => "the other side takes no more",
                    _ => "the other side cancelled the stream",
                };
                inner.end_all(&Error::new(Code::Cancelled, message).at(&link.address));
                if heard == Heard::Cancelled && self.is_own && inner.stream.send_end() {
                    link.send_control(&self.part(link, Some(END), &[], None));
                }
                Fate::Dropped
            }
        };
        let aftermath = inner.aftermath(handler);
        self.wake(inner);
        aftermath
    }

    /// The handler is gone, whichever way. If the opener cancelled it hears only now that this side has ended, so it
    /// never believes that a handler is gone which still runs.
    pub(super) fn handler_gone(&self, link: &Link) {
        let mut inner = self.lock();
        if inner.stream.state() != State::Cancelling || !inner.stream.send_end() {
            return;
        }
        link.send_control(&self.part(link, Some(END), &[], None));
        let is_closed = inner.aftermath(Fate::GoesOn).is_closed;
        self.wake(inner);
        if is_closed {
            link.streams.remove(self.id);
        }
    }

    /// The connection is lost.
    pub(crate) fn lose(&self, why: &Error) {
        let mut inner = self.lock();
        inner.stream.close();
        inner.end_all(why);
        self.wake(inner);
    }

    // What the application sends.

    /// Sends an item, if there is credit and room for it.
    pub(super) fn try_send(&self, link: &Link, item: &[u8]) -> Result<(), Unsent> {
        let mut inner = self.lock();
        if let Some(why) = &inner.send_end {
            return Err(Unsent::Never(why.clone()));
        }
        let item_bytes = item.len() as u64;
        let mut stream = inner.stream; // what it will be if the outbox takes the item
        match stream.send_chunk(item_bytes, false) {
            Ok(()) => {}
            Err(Unsendable::NoCredit { .. }) => {
                let window_bytes = inner.window_there_bytes;
                return Err(if (1..item_bytes).contains(&window_bytes) {
                    Unsent::Never(too_large(item_bytes, window_bytes).at(&link.address))
                } else {
                    Unsent::NoCredit
                });
            }
            Err(Unsendable::Ended | Unsendable::Cancelled) => {
                let message = "nothing can be sent any more: the stream's handler has returned";
                return Err(Unsent::Never(Error::from_origin(
                    Origin::Input,
                    Code::FailedPrecondition,
                    message,
                )));
            }
        }
        match link.outbox.try_send(&self.part(link, None, item, None)) {
            Ok(()) => {
                inner.stream = stream;
                Ok(())
            }
            Err(NotQueued::Full) => Err(Unsent::OutboxFull),
            Err(why) => Err(Unsent::Never(link.not_queued(why))),
        }
    }

    /// Ends this side's direction well, if there is room to say so. Whether that was to be said, and whether the
    /// stream is over.
    pub(crate) fn try_finish(&self, link: &Link) -> Result<Aftermath, NotQueued> {
        let mut inner = self.lock();
        let mut stream = inner.stream;
        if stream.send_end() {
            link.outbox.try_send(&self.part(link, Some(END), &[], None))?;
            inner.stream = stream;
        }
        let aftermath = inner.aftermath(Fate::GoesOn);
        if aftermath.is_closed {
            self.wake(inner);
        }
        Ok(aftermath)
    }

    /// How this side's direction ended as far as who sent is concerned: well too, if the other side had taken all that
    /// it wanted and ended its own well.
    pub(super) fn sent(&self) -> Result<()> {
        let inner = self.lock();
        match (&inner.send_end, &inner.read_end) {
            (Some(why), Some(Ok(()))) if why.code() == Code::Cancelled => Ok(()),
            (Some(why), _) => Err(why.clone()),
            (None, _) => Ok(()),
        }
    }

    /// Whether nothing can be sent any more.
    pub(super) fn is_unsendable(&self) -> bool {
        let inner = self.lock();
        inner.send_end.is_some() || inner.stream.state() != State::Active || inner.stream.has_sent_end()
    }

    // How the application lets go of it.

    /// Ends both directions by an error.
    pub(crate) fn fail(&self, link: &Link, error: &Error) {
        let mut inner = self.lock();
        if inner.stream.send_fail() {
            link.refuse(Kind::Stream, self.id, error);
        }
        inner.end_all(error);
        self.wake(inner);
        link.streams.remove(self.id);
    }

    /// Nobody wants the stream any more; `why` says what was done here.
    pub(crate) fn cancel(&self, link: &Link, why: &str) {
        let mut inner = self.lock();
        if inner.stream.send_cancel() {
            link.cancel(self.id);
        }
        let is_closed = inner.aftermath(Fate::GoesOn).is_closed;
        inner.end_all(&Error::from_origin(Origin::Input, Code::Cancelled, why).at(&link.address));
        self.wake(inner);
        if is_closed {
            link.streams.remove(self.id);
        }
    }

    /// Who sent lets go of an end that it did not finish.
    pub(super) fn drop_sink(&self, link: &Link) {
        let is_open = {
            let inner = self.lock();
            inner.stream.state() == State::Active && !inner.stream.has_sent_end()
        };
        if is_open {
            self.cancel(link, "the sink was dropped before `finish`");
        }
    }

    /// Who read lets go. What this side opened is cancelled unless everything has arrived; the handler of a stream
    /// may go on sending, and the other side is granted nothing more.
    pub(super) fn drop_reader(&self, link: &Link) {
        let mut inner = self.lock();
        inner.reader = Reader::Gone;
        inner.items = Items::default();
        let waker = inner.waker.take();
        let is_open = inner.read_end.is_none();
        drop(inner);
        drop(waker);
        if is_open && self.is_own {
            self.cancel(link, "the stream of items was dropped");
        }
    }

    /// Closes it if it was cancelled here and the other side is slow to end it. What still comes for it is ignored
    /// either way.
    pub(super) fn close_cancelled(&self) -> bool {
        let mut inner = self.lock();
        let is_cancelled = match inner.stream.state() {
            State::Idle | State::Active => false,
            State::Cancelling => inner.stream.has_sent_end(), // otherwise its handler ends it
            State::Closed => true,
        };
        if is_cancelled {
            inner.stream.close();
            self.wake(inner);
        }
        is_cancelled
    }

    /// Whether it is over.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().stream.state() == State::Closed
    }

    // What the application reads.

    /// The application begins to read what the opener sends. False if it has before.
    pub(crate) fn take_reader(&self) -> bool {
        let mut inner = self.lock();
        let is_first = inner.reader == Reader::Awaited;
        if is_first {
            inner.reader = Reader::Taken;
        }
        is_first
    }

    /// Hands over all items that have arrived, in exchange for an empty queue, or says how it ended. `Pending` has
    /// kept the waker, and tells whether there are bytes that [`Channel::took`] did not grant.
    pub(super) fn poll_items(&self, taken: &mut Items, waker: &Waker) -> (Poll<Option<Result<()>>>, bool) {
        let mut inner = self.lock();
        inner.reader = Reader::Reading;
        if !inner.items.is_empty() {
            taken.clear();
            std::mem::swap(taken, &mut inner.items);
            return (Poll::Ready(Some(Ok(()))), false);
        }
        match &inner.read_end {
            Some(Ok(())) => (Poll::Ready(None), false),
            Some(Err(why)) => (Poll::Ready(Some(Err(why.clone()))), false),
            None => {
                let is_known = inner.waker.as_ref().is_some_and(|known| known.will_wake(waker));
                let old = if is_known {
                    None
                } else {
                    inner.waker.replace(waker.clone())
                };
                let has_ungranted = inner.taken_bytes > 0;
                drop(inner);
                drop(old);
                (Poll::Pending, has_ungranted)
            }
        }
    }

    /// The application took so many bytes: they are granted again when that makes half a window.
    pub(super) fn took(&self, link: &Link, bytes: u64) {
        let mut inner = self.lock();
        inner.taken_bytes += bytes;
        if inner.taken_bytes * 2 >= self.window_bytes {
            self.grant(link, &mut inner);
        }
    }

    /// Everything was taken a while ago and nothing has come: the rest is granted too. Who sends may be waiting for it,
    /// if its next item is larger than half a window.
    pub(super) fn grant_rest(&self, link: &Link) {
        self.grant(link, &mut self.lock());
    }

    fn grant(&self, link: &Link, inner: &mut Inner) {
        let bytes = std::mem::take(&mut inner.taken_bytes);
        if inner.stream.send_grant(bytes) {
            let meta = MetaWriter::new().uint("credit", bytes).finish();
            link.send_control(&self.part(link, meta.as_deref(), &[], None));
        }
    }

    fn part<'a>(
        &self,
        link: &Link,
        meta: Option<&'a [u8]>,
        payload: &'a [u8],
        error: Option<&'a [u8]>,
    ) -> Envelope<'a> {
        Envelope {
            meta: meta.map(Meta::from_checked),
            ..link.reply(Kind::Stream, self.id, payload, error)
        }
    }
}

impl Inner {
    /// Both directions are over for this reason, unless they ended before.
    fn end_all(&mut self, why: &Error) {
        self.read_end.get_or_insert_with(|| Err(why.clone()));
        self.send_end.get_or_insert_with(|| why.clone());
    }

    fn aftermath(&self, handler: Fate) -> Aftermath {
        Aftermath {
            is_closed: self.stream.state() == State::Closed,
            handler,
        }
    }
}

fn broken(breach: Breach) -> Error {
    let message = match breach {
        Breach::BeyondCredit {
            chunk_bytes,
            credit_bytes,
        } => format!(
            "a chunk of {chunk_bytes} bytes came for which {credit_bytes} bytes of credit were left; \
             wait for grants, or send smaller chunks"
        ),
        Breach::BehindEnd => "a chunk or an end came behind the end of its direction".to_owned(),
    };
    Error::new(Code::FailedPrecondition, message)
}

fn too_large(item_bytes: u64, window_bytes: u64) -> Error {
    let message = format!(
        "the item takes {item_bytes} bytes, and the other side takes {window_bytes} at a time; send smaller \
         items, or let it announce more credit"
    );
    Error::from_origin(Origin::Payload, Code::ResourceExhausted, message)
}
