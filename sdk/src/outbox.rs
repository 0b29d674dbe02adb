//! What a connection still has to send: envelopes, encoded back to back into frames, until its writer takes them.
//!
//! Senders encode straight into the buffer that the writer will hand to the socket, so a message on its way out costs
//! no allocation, and everything that was queued since the last write leaves in one. The bound is in bytes. When it
//! is reached senders wait ([`Outbox::send`]) or are told ([`Outbox::try_send`]); what the connection's own tasks send
//! ([`Outbox::send_control`]) may go beyond it by a reserve, and past that the peer is one that does not read.
//!
//! In a session that can be resumed it outlives its connections. What counts is kept as well, and is queued again for the
//! next connection, before anything else; in between ([`Outbox::suspend`]) senders go on until the bound is reached.
//! What does not count and was not written is lost with its connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fluxar_protocol::{
    Envelope, Form, Kind, frame, limits,
    meta::Qos,
    session::{self, KEPT_BYTES_DEFAULT, NotKept},
};
use tokio::sync::{Notify, futures::Notified};

use crate::{
    keeping::Keeping,
    options::{BATCH_BYTES_MAX, CONTROL_RESERVE_BYTES},
};

/// Why an envelope was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotQueued {
    /// The bound is reached.
    Full,
    /// It is larger than the peer takes: its bytes and the most that they may be.
    TooLarge { bytes: usize, bytes_max: usize },
    /// Nothing is sent on this connection any more.
    Closed,
}

/// Frames ready to be written, each with its length in front.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Where each frame's length begins.
    pub(crate) frames: Vec<usize>,
    /// Of `bytes`, those that are kept as well.
    pub(crate) kept_bytes: usize,
    /// Of those, the ones that an earlier connection had taken already.
    pub(crate) resent_bytes: usize,
}

impl Batch {
    /// One envelope in a frame of its own.
    pub(crate) fn of(envelope: &Envelope<'_>, form: Form) -> Self {
        let mut bytes = frame::prefix(0).to_vec();
        envelope.encode(form, &mut bytes);
        let body_bytes = bytes.len() - frame::PREFIX_BYTES;
        bytes[..frame::PREFIX_BYTES].copy_from_slice(&frame::prefix(body_bytes));
        Self {
            bytes,
            frames: vec![0],
            kept_bytes: 0,
            resent_bytes: 0,
        }
    }

    /// The frames' bodies, as ranges of `bytes`.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let ends = self.frames.iter().skip(1).copied().chain([self.bytes.len()]);
        self.frames
            .iter()
            .zip(ends)
            .map(|(&start, end)| start + frame::PREFIX_BYTES..end)
    }

    /// Adds encoded envelopes, to the last frame if they fit into it.
    fn add(&mut self, envelopes: &[u8], frame_bytes_max: usize) {
        self.begin_envelope(envelopes.len(), frame_bytes_max);
        self.bytes.extend_from_slice(envelopes);
        self.end_envelope();
    }

    /// Begins a frame unless so much more fits into the last one. Whether it did.
    fn begin_envelope(&mut self, bytes: usize, frame_bytes_max: usize) -> bool {
        let end = self.bytes.len();
        let begins_frame = match self.frames.last() {
            None => true,
            Some(start) => end - start - frame::PREFIX_BYTES + bytes > frame_bytes_max,
        };
        if begins_frame {
            self.frames.push(end);
            self.bytes.extend_from_slice(&frame::prefix(0));
        }
        begins_frame
    }

    /// The last frame has grown: writes its length.
    fn end_envelope(&mut self) {
        if let Some(&start) = self.frames.last() {
            let body_bytes = self.bytes.len() - start - frame::PREFIX_BYTES;
            self.bytes[start..start + frame::PREFIX_BYTES].copy_from_slice(&frame::prefix(body_bytes));
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.kept_bytes = 0;
        self.resent_bytes = 0;
    }
}

#[derive(Debug)]
struct Queue {
    pending: Batch,
    /// Given back by the writer, to be filled next.
    spare: Batch,
    /// Taken by the writer and not yet written.
    writing_bytes: usize,
    /// Of those, the ones that are kept as well, and of these, the ones that an earlier connection had taken already.
    writing_kept_bytes: usize,
    writing_resent_bytes: usize,
    /// Bytes queued and written since it began; `flush` compares them.
    queued_total: u64,
    written_total: u64,
    /// Where in `queued_total` the last event ended that is lost with its connection; 0 when there is none.
    event_at: u64,
    /// How often such events were lost with their connection.
    losses: u64,
    /// Of a session that can be resumed.
    keeping: Option<Keeping>,
    /// There is no connection. What counts is only kept then.
    is_suspended: bool,
    /// Bytes kept that wait for the next connection and were never written.
    suspended_bytes: usize,
    is_closed: bool,
}

/// Who wants to queue an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Application,
    /// The connection's own tasks.
    Connection,
}

impl Queue {
    /// Bytes that wait to be written, on this connection or the next.
    fn waiting_bytes(&self) -> usize {
        self.pending.bytes.len() + self.writing_bytes + self.suspended_bytes
    }

    /// Of those, what a peer that reads would have taken: that a new connection has to bring again what the last one
    /// had taken is not its fault.
    fn unread_bytes(&self) -> usize {
        self.waiting_bytes()
            .saturating_sub(self.pending.resent_bytes + self.writing_resent_bytes)
    }

    /// What waits to be written has become that of no connection.
    fn forget_writing(&mut self) {
        self.writing_bytes = 0;
        self.writing_kept_bytes = 0;
        self.writing_resent_bytes = 0;
    }
}

/// A connection's outgoing queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    form: Form,
    bytes_max: usize,
    kept_bytes_max: usize,
    envelope_bytes_max: usize,
    frame_bytes_max: usize,
    /// For the writer: there is something, or it is closed.
    filled: Notify,
    /// For senders and flushes: the writer took or wrote something, or it is closed.
    drained: Notify,
}

impl Outbox {
    /// `peer_frame_bytes` is what the other side takes. Of a session that can be resumed what counts is kept: what waits
    /// to be written, which one large envelope may exceed, and, of what was written, [`KEPT_BYTES_DEFAULT`].
    pub(crate) fn new(form: Form, bytes_max: usize, peer_frame_bytes: usize, is_resumable: bool) -> Self {
        let envelope_bytes_max = peer_frame_bytes - limits::FRAME_RESERVE_BYTES;
        let kept_bytes_max = bytes_max
            .saturating_add(CONTROL_RESERVE_BYTES)
            .saturating_add(KEPT_BYTES_DEFAULT)
            .saturating_add(envelope_bytes_max);
        let queue = Queue {
            pending: Batch::default(),
            spare: Batch::default(),
            writing_bytes: 0,
            writing_kept_bytes: 0,
            writing_resent_bytes: 0,
            queued_total: 0,
            written_total: 0,
            event_at: 0,
            losses: 0,
            keeping: is_resumable.then(|| Keeping::new(kept_bytes_max)),
            is_suspended: false,
            suspended_bytes: 0,
            is_closed: false,
        };
        Self {
            queue: Mutex::new(queue),
            form,
            bytes_max,
            kept_bytes_max,
            envelope_bytes_max,
            frame_bytes_max: peer_frame_bytes.min(BATCH_BYTES_MAX),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an envelope if there is room.
    pub(crate) fn try_send(&self, envelope: &Envelope<'_>) -> Result<(), NotQueued> {
        self.push(envelope, Sender::Application)
    }

    /// Queues an envelope as soon as there is room.
    pub(crate) async fn send(&self, envelope: &Envelope<'_>) -> Result<(), NotQueued> {
        match self.try_send(envelope) {
            Err(NotQueued::Full) => {}
            done => return done,
        }
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable(); // from here on no drain is missed
            match self.try_send(envelope) {
                Err(NotQueued::Full) => drained.await,
                done => return done,
            }
        }
    }

    /// Queues what the connection itself has to say. `Full` means that the peer does not read.
    pub(crate) fn send_control(&self, envelope: &Envelope<'_>) -> Result<(), NotQueued> {
        self.push(envelope, Sender::Connection)
    }

    /// Whether the bound is reached, so that a single large envelope fits whenever less than the bound is queued.
    fn is_full(&self, queue: &Queue, sender: Sender) -> bool {
        // What piles up while there is no connection says nothing about the peer. Past what is kept the session could
        // not go on anyhow; on the next connection the reserve comes on top of that.
        match (sender, &queue.keeping) {
            (Sender::Application, _) => queue.waiting_bytes() >= self.bytes_max,
            (Sender::Connection, Some(_)) if queue.is_suspended => {
                queue.waiting_bytes() >= self.kept_bytes_max - self.envelope_bytes_max // it still fits
            }
            (Sender::Connection, Some(_)) => {
                queue.unread_bytes() >= self.kept_bytes_max.saturating_add(CONTROL_RESERVE_BYTES)
            }
            (Sender::Connection, None) => {
                queue.unread_bytes() >= self.bytes_max.saturating_add(CONTROL_RESERVE_BYTES)
            }
        }
    }

    fn push(&self, envelope: &Envelope<'_>, sender: Sender) -> Result<(), NotQueued> {
        let mut guard = self.lock();
        let queue = &mut *guard;
        if queue.is_closed {
            return Err(NotQueued::Closed);
        }
        if self.is_full(queue, sender) {
            return Err(NotQueued::Full);
        }
        let before = queue.pending.bytes.len();
        let is_kept = queue.keeping.is_some() && session::is_counted(envelope);
        let is_event = envelope.kind == Kind::Event && !is_kept;
        if queue.is_suspended && !is_event {
            return self.push_suspended(queue, envelope, is_kept);
        }
        let begins_frame = queue
            .pending
            .begin_envelope(estimated_bytes(envelope), self.frame_bytes_max);
        let start = queue.pending.bytes.len();
        envelope.encode(self.form, &mut queue.pending.bytes);
        let bytes = queue.pending.bytes.len() - start;
        if let Err(too_large) = self.check_size(bytes) {
            queue.pending.bytes.truncate(before);
            if begins_frame {
                queue.pending.frames.pop();
            }
            return Err(too_large);
        }
        queue.pending.end_envelope();
        queue.queued_total += (queue.pending.bytes.len() - before) as u64;
        if let Some(keeping) = queue.keeping.as_mut().filter(|_| is_kept) {
            keeping.keep(&queue.pending.bytes[start..]);
            queue.pending.kept_bytes += bytes;
        } else if is_event && is_plain(envelope) {
            queue.event_at = queue.queued_total;
        }
        drop(guard);
        self.filled.notify_one();
        Ok(())
    }

    /// The same without a connection: what counts is kept, and what only concerns a connection is not sent.
    fn push_suspended(
        &self,
        queue: &mut Queue,
        envelope: &Envelope<'_>,
        is_kept: bool,
    ) -> Result<(), NotQueued> {
        let Some(keeping) = queue.keeping.as_mut().filter(|_| is_kept) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        envelope.encode(self.form, &mut bytes);
        self.check_size(bytes.len())?;
        keeping.keep(&bytes);
        queue.suspended_bytes += bytes.len();
        queue.queued_total += bytes.len() as u64;
        Ok(())
    }

    fn check_size(&self, bytes: usize) -> Result<(), NotQueued> {
        let bytes_max = self.envelope_bytes_max;
        if bytes > bytes_max {
            return Err(NotQueued::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// The other side has so many counted envelopes [P-7.7].
    pub(crate) fn covered(&self, recv: u64) -> Result<(), NotKept> {
        match &mut self.lock().keeping {
            Some(keeping) => keeping.covered(recv),
            None => Ok(()),
        }
    }

    /// The connection is lost, and its writer gone: what was not written waits for the next one, as far as it counts.
    pub(crate) fn suspend(&self) {
        let mut queue = self.lock();
        if queue.event_at > queue.written_total {
            queue.losses += 1;
        }
        let kept_bytes = queue.pending.kept_bytes + queue.writing_kept_bytes;
        let resent_bytes = queue.pending.resent_bytes + queue.writing_resent_bytes;
        queue.suspended_bytes = kept_bytes.saturating_sub(resent_bytes);
        queue.pending.clear();
        queue.forget_writing();
        queue.event_at = 0;
        queue.is_suspended = true;
        drop(queue);
        self.drained.notify_waiters();
    }

    /// There is a new connection, and the other side has so many counted envelopes: what it has not is queued again,
    /// before the events that were published meanwhile. An error changes nothing.
    pub(crate) fn resume(&self, recv: u64) -> Result<(), NotKept> {
        let mut guard = self.lock();
        let queue = &mut *guard;
        let mut again = Batch::default();
        if let Some(keeping) = &mut queue.keeping {
            for (piece, from) in keeping.resume(recv)? {
                again.add(&piece[from..], self.frame_bytes_max);
                again.kept_bytes += piece.len() - from;
            }
        }
        again.resent_bytes = again.kept_bytes.saturating_sub(queue.suspended_bytes);
        for body in queue.pending.bodies() {
            again.add(&queue.pending.bytes[body], self.frame_bytes_max);
        }
        if queue.event_at > 0 {
            queue.event_at = queue.queued_total; // they are the last ones
        }
        queue.pending = again;
        queue.written_total = queue
            .queued_total
            .saturating_sub(queue.pending.bytes.len() as u64);
        queue.is_suspended = false;
        queue.suspended_bytes = 0;
        drop(guard);
        self.filled.notify_one();
        self.drained.notify_waiters();
        Ok(())
    }

    /// Completes when the writer has made room, or nothing is sent any more; from its `enable` on it misses nothing.
    pub(crate) fn drained(&self) -> Notified<'_> {
        self.drained.notified()
    }

    /// Everything queued, for the one writer; `None` once it is closed and all was taken. `written` is the batch that
    /// was taken before, now on the wire.
    pub(crate) async fn take(&self, mut written: Batch) -> Option<Batch> {
        {
            let mut queue = self.lock();
            queue.forget_writing();
            queue.written_total += written.bytes.len() as u64;
            written.clear();
            if written.bytes.capacity() > self.bytes_max {
                written = Batch::default();
            }
            queue.spare = written;
        }
        self.drained.notify_waiters();
        loop {
            {
                let queue = &mut *self.lock();
                if !queue.pending.frames.is_empty() {
                    let batch = std::mem::replace(&mut queue.pending, std::mem::take(&mut queue.spare));
                    queue.writing_bytes = batch.bytes.len();
                    queue.writing_kept_bytes = batch.kept_bytes;
                    queue.writing_resent_bytes = batch.resent_bytes;
                    return Some(batch);
                }
                if queue.is_closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Waits until everything that is queued now was handed to the socket, over how many connections it takes. `Closed` if
    /// nothing is sent any more, or events were lost with their connection.
    pub(crate) async fn flush(&self) -> Result<(), NotQueued> {
        let (until, losses) = {
            let queue = self.lock();
            (queue.queued_total, queue.losses)
        };
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let queue = self.lock();
                if queue.written_total >= until && queue.losses == losses {
                    return Ok(());
                }
                if queue.is_closed || queue.losses != losses {
                    return Err(NotQueued::Closed);
                }
            }
            drained.await;
        }
    }

    /// Accepts nothing more; what is queued is still written.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }
}

/// Whether an event is of qos 0: others are sent again by who published them.
fn is_plain(event: &Envelope<'_>) -> bool {
    event.meta.is_none_or(|meta| meta.qos() == Ok(Qos::AtMostOnce))
}

/// At least the bytes that the envelope will take.
fn estimated_bytes(envelope: &Envelope<'_>) -> usize {
    const FIXED_BYTES: usize = 128; // heads, type, id, ref, and the seven names of the named form
    FIXED_BYTES
        + envelope.target.map_or(0, str::len)
        + envelope.meta.map_or(0, |meta| meta.as_bytes().len())
        + envelope.payload.len()
        + envelope.error.map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::{
        Batch as Envelopes, Id, Kind,
        meta::{Meta, MetaWriter},
    };
    use futures_util::FutureExt;

    use super::*;

    fn event(payload: &[u8]) -> Envelope<'_> {
        Envelope {
            kind: Kind::Event,
            id: Id([7; 16]),
            reference: None,
            target: Some("a.b"),
            meta: None,
            payload,
            error: None,
        }
    }

    /// A CBOR byte string whose content is this long.
    fn bytes_item(len: usize) -> Vec<u8> {
        let mut item = vec![0x5a];
        item.extend_from_slice(&(len as u32).to_be_bytes());
        item.resize(5 + len, 0);
        item
    }

    #[tokio::test]
    async fn what_is_queued_leaves_in_one_batch_of_bounded_frames() {
        let outbox = Outbox::new(Form::Compact, 1 << 20, 1 << 20, false);
        for _ in 0..1000 {
            outbox.try_send(&event(&bytes_item(300))).unwrap();
        }
        let batch = outbox.take(Batch::default()).await.unwrap();
        let mut envelopes = 0;
        for (body, start) in batch.bodies().zip(&batch.frames) {
            assert!(body.len() <= BATCH_BYTES_MAX);
            assert_eq!(batch.bytes[*start..start + 4], (body.len() as u32).to_be_bytes());
            envelopes += Envelopes::new(&batch.bytes[body]).filter(Result::is_ok).count();
        }
        assert_eq!(envelopes, 1000);
        assert!(batch.frames.len() < 10, "{} frames", batch.frames.len());
    }

    #[tokio::test]
    async fn the_bound_holds_until_the_batch_is_written() {
        let outbox = Outbox::new(Form::Compact, 1000, 1 << 20, false);
        let payload = bytes_item(1000);
        outbox.try_send(&event(&payload)).unwrap();
        assert_eq!(outbox.try_send(&event(&payload)), Err(NotQueued::Full));
        let batch = outbox.take(Batch::default()).await.unwrap();
        assert_eq!(
            outbox.try_send(&event(&payload)),
            Err(NotQueued::Full),
            "taken, not yet written"
        );
        let (sent, taken) = {
            let event = event(&payload);
            tokio::join!(outbox.send(&event), outbox.take(batch))
        };
        sent.unwrap();
        assert_eq!(taken.unwrap().frames.len(), 1);
    }

    #[tokio::test]
    async fn control_goes_beyond_the_bound_and_ends_at_the_reserve() {
        let outbox = Outbox::new(Form::Compact, 1, 1 << 20, false);
        let payload = bytes_item(100_000);
        let queued = (0..100)
            .take_while(|_| outbox.send_control(&event(&payload)).is_ok())
            .count();
        assert_eq!(queued, CONTROL_RESERVE_BYTES / 100_000 + 1);
    }

    #[tokio::test]
    async fn too_large_leaves_nothing_behind() {
        let outbox = Outbox::new(Form::Compact, 1 << 30, 65_536, false);
        let refused = outbox.try_send(&event(&bytes_item(65_000)));
        assert!(
            matches!(
                refused,
                Err(NotQueued::TooLarge {
                    bytes_max: 64_512,
                    ..
                })
            ),
            "{refused:?}"
        );
        outbox.try_send(&event(&[])).unwrap();
        let batch = outbox.take(Batch::default()).await.unwrap();
        assert_eq!(batch.frames, [0]);
        assert_eq!(Envelopes::new(&batch.bytes[4..]).filter(Result::is_ok).count(), 1);
    }

    #[tokio::test]
    async fn closing_wakes_who_waits_and_lets_the_rest_out() {
        let outbox = Outbox::new(Form::Compact, 1, 1 << 20, false);
        outbox.try_send(&event(&[])).unwrap();
        let event = event(&[]);
        let close = async { outbox.close() };
        let (sent, flushed, ()) = tokio::join!(outbox.send(&event), outbox.flush(), close);
        assert_eq!((sent, flushed), (Err(NotQueued::Closed), Err(NotQueued::Closed)));
        let batch = outbox.take(Batch::default()).await.expect("what was queued");
        assert!(outbox.take(batch).await.is_none());
    }

    fn answer(payload: &[u8]) -> Envelope<'_> {
        Envelope {
            kind: Kind::Call,
            reference: Some(Id([1; 16])),
            target: None,
            ..event(payload)
        }
    }

    const MIB: usize = 1 << 20;

    /// Everything that is queued goes to the socket.
    async fn write(outbox: &Outbox) -> usize {
        let batch = outbox.take(Batch::default()).await.unwrap();
        let bytes = batch.bytes.len();
        assert!(outbox.take(batch).now_or_never().is_none(), "nothing more");
        bytes
    }

    fn fill(outbox: &Outbox, payload: &[u8]) -> usize {
        (0..1000)
            .take_while(|_| outbox.try_send(&answer(payload)).is_ok())
            .count()
    }

    #[tokio::test]
    async fn what_is_sent_again_is_not_held_against_the_peer() {
        let outbox = Outbox::new(Form::Compact, 4 * MIB, MIB, true);
        let payload = bytes_item(100_000);
        for _ in 0..20 {
            outbox.try_send(&answer(&payload)).unwrap();
        }
        assert!(write(&outbox).await > 2_000_000); // and the other side has none of it
        let unsent = fill(&outbox, &payload);
        for _ in 0..3 {
            outbox.suspend();
            assert_eq!(outbox.try_send(&answer(&payload)), Err(NotQueued::Full));
            for _ in 0..10_000 {
                outbox.send_control(&answer(&[])).unwrap(); // cancels, for example
            }
            outbox.resume(0).unwrap();
            outbox.send_control(&answer(&[])).unwrap();
            assert_eq!(outbox.try_send(&answer(&payload)), Err(NotQueued::Full));
        }
        assert!(write(&outbox).await > (20 + unsent) * 100_000);
        outbox.try_send(&answer(&payload)).unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_after_a_resume_is_still_found_out() {
        let outbox = Outbox::new(Form::Compact, MIB, MIB, true);
        let payload = bytes_item(100_000);
        let until_full = |what: &str| {
            (0..1000)
                .position(|_| outbox.send_control(&answer(&payload)) == Err(NotQueued::Full))
                .unwrap_or_else(|| panic!("a bound {what}"))
        };
        outbox.suspend();
        let suspended = until_full("without a connection");
        outbox.resume(0).unwrap();
        let connected = until_full("with one");
        assert!(connected >= CONTROL_RESERVE_BYTES / 100_000);
        assert!((suspended + connected) * 100_000 < outbox.kept_bytes_max + 2 * CONTROL_RESERVE_BYTES);
    }

    #[tokio::test]
    async fn one_large_envelope_beyond_the_bound_is_kept() {
        let outbox = Outbox::new(Form::Compact, 1000, 16 * MIB, true);
        outbox.try_send(&answer(&bytes_item(15 * MIB))).unwrap();
        outbox.suspend();
        outbox.resume(0).unwrap();
        assert!(write(&outbox).await > 15 * MIB);
    }

    #[tokio::test]
    async fn a_flush_fails_for_plain_events_that_are_lost_and_for_nothing_else() {
        let outbox = Outbox::new(Form::Compact, MIB, MIB, true);
        let stored = MetaWriter::new().uint("qos", 1).finish();
        let stored = Envelope {
            meta: stored.as_deref().map(Meta::from_checked),
            ..event(&[])
        };
        let plain = event(&[]);
        let flushed = async |outbox: &Outbox| {
            let flush = outbox.flush();
            tokio::pin!(flush);
            assert!(flush.as_mut().now_or_never().is_none());
            outbox.suspend();
            outbox.resume(0).unwrap();
            let mut batch = Batch::default();
            while let Some(Some(next)) = outbox.take(std::mem::take(&mut batch)).now_or_never() {
                batch = next;
            }
            flush.await
        };
        outbox.try_send(&answer(&[])).unwrap();
        outbox.try_send(&stored).unwrap();
        assert_eq!(flushed(&outbox).await, Ok(()), "its publisher sends it again");
        outbox.try_send(&answer(&[])).unwrap();
        outbox.try_send(&plain).unwrap();
        assert_eq!(flushed(&outbox).await, Err(NotQueued::Closed), "it is lost");
        outbox.try_send(&answer(&[])).unwrap();
        assert_eq!(flushed(&outbox).await, Ok(()), "what was lost is lost once");
        outbox.suspend();
        outbox.try_send(&plain).unwrap();
        outbox.resume(0).unwrap();
        assert_eq!(
            flushed(&outbox).await,
            Err(NotQueued::Closed),
            "it came meanwhile"
        );
    }
}
