//! What a connection still has to send, as the session sees it: the frame that is being filled and how much has
//! been handed to the engine but not taken by the kernel yet.
//!
//! Envelopes that belong to this connection alone (answers, calls to serve, acceptances, pings) are appended to one
//! open frame, so that everything of a turn leaves as one frame. Shared runs are not copied here: they pass by
//! reference, after the open frame was sealed, so that the order in which things were said is kept.
//!
//! Of a session that can be resumed, what is counted of its frames is kept as they are sealed ([`Keeping`]). While it is away
//! that is all that becomes of them.

use bytes::Bytes;
use fluxar_protocol::envelope::{self, Envelope};
use fluxar_protocol::frame::{self, PREFIX_BYTES};
use fluxar_protocol::session::is_counted;
use fluxar_protocol::{Batch, Form, Id};

use crate::resume::Keeping;

/// What the connection runs on, as far as framing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// TCP, Unix: a length in front of each body.
    Prefixed,
    /// WebSocket: a message is a body.
    Message,
}

/// What the named form adds to an envelope: its seven names, each with its head.
const NAMES_BYTES: usize = 31 + 7;

/// Room that a frame is given when a run of chunks begins.
const RUN_ROOM_BYTES: usize = 16 * 1024;

/// What is sent again in small pieces is put together into frames of about so many bytes.
const TOGETHER_BYTES: usize = 16 * 1024;

/// A sealed frame of more room than this has at most as much unused as used.
pub(crate) const SLACK_BYTES: usize = 1024;

/// One connection's outgoing side.
#[derive(Debug)]
pub struct Outbox {
    /// The frame being filled, its prefix reserved in front. Without capacity when there is none.
    open: Vec<u8>,
    /// Handed to the engine since the beginning, bytes.
    handed_bytes: u64,
    /// Taken by the kernel since the beginning, bytes.
    sent_bytes: u64,
    /// What was said of streams, among what is queued: at least what is left of it, bytes.
    stream_bytes: usize,
    /// Largest body that the peer takes.
    body_bytes_max: u32,
    framing: Framing,
    form: Form,
    /// Of a session that can be resumed.
    keeping: Option<Box<Keeping>>,
}

/// An envelope that is too large for this receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Its size, bytes.
    pub envelope_bytes: usize,
    /// The largest that the receiver takes, bytes.
    pub limit_bytes: usize,
}

impl Outbox {
    /// For a new connection, before its hello.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            open: Vec::new(),
            handed_bytes: 0,
            sent_bytes: 0,
            stream_bytes: 0,
            body_bytes_max: fluxar_protocol::limits::FRAME_BYTES_BEFORE_HELLO as u32,
            framing,
            form: Form::Compact,
            keeping: None,
        }
    }

    /// The peer's hello said what it takes and in which form.
    pub fn greeted(&mut self, body_bytes_max: u32, form: Form) {
        self.body_bytes_max = body_bytes_max;
        self.form = form;
    }

    /// The form in which this peer is spoken to.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Bytes not taken by the kernel yet, those of the open frame included.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        (self.handed_bytes - self.sent_bytes) as usize + self.open.len()
    }

    /// The same without what was said of streams, which has bounds of its own.
    #[must_use]
    pub fn queued_beside_streams(&self) -> usize {
        self.queued_bytes() - self.stream_bytes
    }

    /// What made the queue grow from so many bytes on was said of streams.
    pub fn grew_by_streams(&mut self, from_bytes: usize) {
        let queued = self.queued_bytes();
        self.stream_bytes = (self.stream_bytes + queued.saturating_sub(from_bytes)).min(queued);
    }

    /// Position in the outgoing stream behind everything said so far.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        // A message leaves without the prefix that is reserved in front of it.
        let unsent_bytes = match self.framing {
            Framing::Message => self.open.len().saturating_sub(PREFIX_BYTES),
            Framing::Prefixed => self.open.len(),
        };
        self.handed_bytes + unsent_bytes as u64
    }

    /// Position up to which the kernel took it.
    #[must_use]
    pub fn sent_position(&self) -> u64 {
        self.sent_bytes
    }

    /// The kernel took so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.stream_bytes = self.stream_bytes.min(self.queued_bytes());
        debug_assert!(self.sent_bytes <= self.handed_bytes);
    }

    /// Whether a frame is being filled.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The largest envelope that this peer takes, bytes.
    #[must_use]
    pub fn envelope_bytes_max(&self) -> usize {
        (self.body_bytes_max as usize).saturating_sub(fluxar_protocol::limits::FRAME_RESERVE_BYTES)
    }

    /// The largest body that this peer takes, bytes.
    #[must_use]
    pub fn body_bytes_max(&self) -> u32 {
        self.body_bytes_max
    }

    /// Whether a body of this size can be shared with this peer as it is.
    #[must_use]
    pub fn takes_shared(&self, body_bytes: usize) -> bool {
        self.form == Form::Compact && body_bytes <= self.body_bytes_max as usize
    }

    /// Appends an envelope of the gateway's own. The frame that had to be closed for it, if any, is returned to be sent.
    pub fn push(&mut self, envelope: &Envelope<'_>) -> Option<Bytes> {
        let start = self.begin();
        envelope.encode(self.form, &mut self.open);
        let is_counted = self.keeping.is_some() && is_counted(envelope);
        self.pushed(start, u32::from(is_counted))
    }

    /// Appends a compact envelope, which is counted, with its id and ref replaced; in a named session it is transcoded.
    ///
    /// # Errors
    /// [`TooLarge`]: nothing was appended.
    #[inline]
    pub fn push_patched(
        &mut self,
        compact: &[u8],
        id: Option<Id>,
        reference: Option<Id>,
    ) -> Result<Option<Bytes>, TooLarge> {
        self.push_all(compact, 1, id, reference)
    }

    /// The same of so many envelopes back to back, of the first of which id and ref are replaced; a named session gets them one
    /// by one.
    ///
    /// # Errors
    /// [`TooLarge`]: nothing was appended.
    #[inline]
    pub fn push_all(
        &mut self,
        compact: &[u8],
        envelopes: u32,
        id: Option<Id>,
        reference: Option<Id>,
    ) -> Result<Option<Bytes>, TooLarge> {
        self.push_copy(compact, id, reference, envelopes)
    }

    fn push_copy(
        &mut self,
        compact: &[u8],
        id: Option<Id>,
        reference: Option<Id>,
        counted: u32,
    ) -> Result<Option<Bytes>, TooLarge> {
        let start = self.begin();
        self.open.extend_from_slice(compact);
        let appended = &mut self.open[start..];
        if let Some(id) = id {
            envelope::patch_id(appended, id);
        }
        if let Some(reference) = reference {
            envelope::patch_ref(appended, reference);
        }
        if self.form == Form::Named {
            let copy = self.open.split_off(start);
            if let Ok(decoded) = envelope::decode(&copy) {
                decoded.envelope.encode(Form::Named, &mut self.open);
            }
        }
        let envelope_bytes = self.open.len() - start;
        if envelope_bytes > self.envelope_bytes_max() {
            self.open.truncate(start);
            self.forget_if_empty();
            return Err(TooLarge {
                envelope_bytes,
                limit_bytes: self.envelope_bytes_max(),
            });
        }
        Ok(self.pushed(start, counted))
    }

    /// Closes the open frame and returns it for the engine.
    pub fn seal(&mut self) -> Option<Bytes> {
        if self.open.is_empty() {
            return None;
        }
        let mut full = std::mem::take(&mut self.open);
        if full.capacity() > SLACK_BYTES && full.capacity() > 2 * full.len() {
            full.shrink_to_fit(); // it may wait for long, and counts for what is in it
        }
        let body_bytes = full.len() - PREFIX_BYTES;
        full[..PREFIX_BYTES].copy_from_slice(&frame::prefix(body_bytes));
        let buffer_bytes = full.capacity();
        let framed = Bytes::from(full);
        if let Some(keeping) = &mut self.keeping {
            keeping.sealed(&framed, buffer_bytes);
            if keeping.is_away() {
                self.stream_bytes = 0; // nothing is queued
                return None;
            }
        }
        Some(self.hand_over(framed))
    }

    /// From now on what is counted is kept.
    pub fn keep(&mut self, keeping: Box<Keeping>) {
        self.keeping = Some(keeping);
    }

    /// What is kept, and may be told what the peer has.
    pub fn keeping(&mut self) -> Option<&mut Keeping> {
        self.keeping.as_deref_mut()
    }

    /// The connection is lost: nothing is queued any more, and of what is said from now on only what is counted is kept.
    pub fn connection_lost(&mut self) {
        if let Some(keeping) = &mut self.keeping {
            keeping.set_away(true);
        }
        let _ = self.seal();
        self.sent_bytes = self.handed_bytes;
        self.stream_bytes = 0;
    }

    /// Ends the keeping, what was not sealed yet included, and takes what is kept.
    pub fn take_keeping(&mut self) -> Option<Box<Keeping>> {
        let _ = self.seal();
        self.keeping.take()
    }

    /// Goes on with what was kept for another connection of its session: sends again what its peer, which has `recv`, does
    /// not have, ahead of everything else. Small pieces are put together. The caller sealed.
    pub fn send_again(&mut self, mut keeping: Box<Keeping>, recv: u64, mut send: impl FnMut([Bytes; 2])) {
        debug_assert!(!self.is_open());
        let queued_before = self.queued_bytes();
        let together_max = TOGETHER_BYTES.min(self.body_bytes_max as usize);
        // Whether it can was asked before.
        let _ = keeping.resume(recv, |envelopes| {
            let has_room = self.open.len() + envelopes.len() <= together_max;
            if !has_room && let Some(frame) = self.seal() {
                send([Bytes::new(), frame]);
            }
            if envelopes.len() <= together_max / 4 {
                self.begin();
                self.open.extend_from_slice(&envelopes);
            } else {
                if let Some(frame) = self.seal() {
                    send([Bytes::new(), frame]);
                }
                let prefix = vec![0; self.header_room()];
                send(self.share_behind(prefix, &envelopes));
            }
        });
        if let Some(frame) = self.seal() {
            send([Bytes::new(), frame]);
        }
        // It is bounded by what is kept.
        self.grew_by_streams(queued_before);
        keeping.set_away(false);
        self.keeping = Some(keeping);
    }

    /// A shared frame (prefix and body), as this connection's transport wants it. The caller sealed the open frame and
    /// asked [`Outbox::takes_shared`].
    pub fn share(&mut self, framed: &Bytes) -> Bytes {
        debug_assert!(!self.is_open());
        self.hand_over(framed.clone())
    }

    /// Room that the transport wants in front of a body that is made for this connection, bytes.
    #[must_use]
    pub fn header_room(&self) -> usize {
        match self.framing {
            Framing::Prefixed => PREFIX_BYTES,
            Framing::Message => 0,
        }
    }

    /// One body of two parts: a header of this connection's own, with [`Outbox::header_room`] in front of it, and events
    /// that are shared. As for [`Outbox::share`], the caller sealed and asked.
    pub fn share_behind(&mut self, mut header: Vec<u8>, events: &Bytes) -> [Bytes; 2] {
        debug_assert!(!self.is_open());
        let room = self.header_room();
        if room > 0 {
            let body_bytes = header.len() - room + events.len();
            header[..room].copy_from_slice(&frame::prefix(body_bytes));
        }
        self.handed_bytes += (header.len() + events.len()) as u64;
        [Bytes::from(header), events.clone()]
    }

    /// Whether a body of so many envelopes can be sent to this peer in one frame after transcoding it.
    #[must_use]
    pub fn takes_transcoded(&self, body_bytes: usize, envelopes: usize) -> bool {
        self.form == Form::Named && body_bytes + envelopes * NAMES_BYTES <= self.body_bytes_max as usize
    }

    /// What it runs on.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Private copies of the events of a shared body, one by one, for a peer that cannot take it as it is: transcoded
    /// for a named session, and in frames of its size. Returns how many events were too large for it.
    pub fn push_events(&mut self, body: &[u8], mut full: impl FnMut(Bytes)) -> u64 {
        let mut too_large = 0;
        for decoded in Batch::new(body).flatten() {
            match self.push_copy(decoded.bytes, None, None, 0) {
                Ok(Some(frame)) => full(frame),
                Ok(None) => {}
                Err(TooLarge { .. }) => too_large += 1,
            }
        }
        too_large
    }

    /// Many small envelopes are about to follow: room for them at once, since a frame that grows bit by bit is copied
    /// as often.
    pub fn expect_more(&mut self) {
        if self.open.capacity() < RUN_ROOM_BYTES {
            let more = RUN_ROOM_BYTES - self.open.len().min(RUN_ROOM_BYTES);
            self.open.reserve(more);
        }
    }

    fn begin(&mut self) -> usize {
        if self.open.is_empty() {
            self.open.reserve(256);
            self.open.extend_from_slice(&[0; PREFIX_BYTES]);
        }
        self.open.len()
    }

    fn forget_if_empty(&mut self) {
        if self.open.len() == PREFIX_BYTES {
            self.open = Vec::new();
        }
    }

    /// What begins at `start` was appended, so many counted envelopes or one that is not.
    #[inline]
    fn pushed(&mut self, start: usize, counted: u32) -> Option<Bytes> {
        let envelope_bytes = self.open.len() - start;
        let full = self.split_if_over(start);
        if counted > 0
            && let Some(keeping) = &mut self.keeping
        {
            keeping.note(self.open.len() - envelope_bytes, self.open.len(), counted);
        }
        full
    }

    /// If the envelope that begins at `start` made the frame too large, it opens the next one.
    fn split_if_over(&mut self, start: usize) -> Option<Bytes> {
        if self.open.len() - PREFIX_BYTES <= self.body_bytes_max as usize || start == PREFIX_BYTES {
            return None;
        }
        let last = self.open.split_off(start);
        let full = self.seal();
        self.begin();
        self.open.extend_from_slice(&last);
        full
    }

    fn hand_over(&mut self, framed: Bytes) -> Bytes {
        let bytes = match self.framing {
            Framing::Prefixed => framed,
            Framing::Message => framed.slice(PREFIX_BYTES..),
        };
        self.handed_bytes += bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::Kind;

    use super::*;

    #[test]
    fn a_sealed_frame_holds_on_to_no_room_that_it_did_not_need() {
        let mut outbox = Outbox::new(Framing::Prefixed);
        outbox.greeted(1 << 20, Form::Compact);
        let ping = Envelope {
            kind: Kind::Ping,
            id: Id([1; 16]),
            reference: None,
            target: None,
            meta: None,
            payload: &[],
            error: None,
        };
        outbox.push(&ping);
        outbox.expect_more();
        let frame = outbox.seal().expect("a frame");
        let room = Vec::from(frame).capacity();
        assert!(room <= SLACK_BYTES, "{room} bytes");
    }

    #[test]
    fn what_is_queued_of_streams_is_never_more_than_what_is_queued() {
        let mut outbox = Outbox::new(Framing::Prefixed);
        let ping = Envelope {
            kind: Kind::Ping,
            id: Id([1; 16]),
            reference: None,
            target: None,
            meta: None,
            payload: &[],
            error: None,
        };
        outbox.push(&ping);
        let ping_bytes = outbox.queued_bytes();
        outbox.push(&ping);
        outbox.grew_by_streams(ping_bytes);
        assert_eq!(outbox.queued_beside_streams(), ping_bytes);
        let frame = outbox.seal().expect("a frame");
        outbox.sent(frame.len() - 1);
        assert_eq!((outbox.queued_bytes(), outbox.queued_beside_streams()), (1, 0));
        outbox.sent(1);
        outbox.push(&ping);
        assert_eq!(outbox.queued_beside_streams(), outbox.queued_bytes());
    }

    #[test]
    fn the_end_is_where_the_kernel_arrives_once_it_took_all() {
        for framing in [Framing::Prefixed, Framing::Message] {
            let mut outbox = Outbox::new(framing);
            for _ in 0..3 {
                let ping = Envelope {
                    kind: Kind::Ping,
                    id: Id([1; 16]),
                    reference: None,
                    target: None,
                    meta: None,
                    payload: &[],
                    error: None,
                };
                assert!(outbox.push(&ping).is_none());
                let end = outbox.end_position();
                let frame = outbox.seal().expect("a frame");
                outbox.sent(frame.len());
                assert_eq!((outbox.sent_position(), outbox.queued_bytes()), (end, 0));
            }
        }
    }
}
