//! From the shard to the connections: runs by reference, pieces for group members, letters for other cores, and what
//! became of calls whose other end is lost.

use bytes::Bytes;
use fluxar_protocol::Id;
use fluxar_protocol::envelope::compact;
use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_shard::{Arrival, Delivery, Forward, Letter, Outgoing};

use crate::flow::Growth;
use crate::front::{Effect, Front, seal_into};
use crate::limits::DROP_NOTE_MS;
use crate::outbox::{Outbox, TooLarge};

impl Front {
    /// A letter from another core.
    pub fn handle_letter(&mut self, from: u16, letter: Letter) {
        match self.shard.handle_letter(from, letter) {
            Arrival::Taken => {}
            Arrival::Forward { to, bytes } => {
                if let Some(id) = compact::id_of(&bytes) {
                    self.forward(to, id, &bytes);
                }
            }
            Arrival::Answer {
                asker,
                reference,
                bytes,
            } => self.deliver_answer(asker, reference, &bytes),
            Arrival::Part { to, reference, bytes } => self.deliver_part(to, reference, &bytes),
            Arrival::Passed { to, bytes, envelopes } => self.deliver_passed(to, &bytes, envelopes),
            Arrival::Chunks {
                from,
                reference,
                bytes,
            } => self.chunks_arrived(from, reference, &bytes),
        }
        self.after_shard();
    }

    /// Appends an envelope that others caused to a connection's open frame, with its id or ref replaced.
    pub(crate) fn append(
        &mut self,
        slot: usize,
        compact: &[u8],
        id: Option<Id>,
        reference: Option<Id>,
        growth: Growth,
    ) -> Result<(), TooLarge> {
        self.append_all(slot, compact, 1, id, reference, growth)
    }

    /// The same of so many envelopes; only of the first id and ref are replaced.
    pub(crate) fn append_all(
        &mut self,
        slot: usize,
        compact: &[u8],
        envelopes: u32,
        id: Option<Id>,
        reference: Option<Id>,
        growth: Growth,
    ) -> Result<(), TooLarge> {
        self.put(slot, growth, |outbox| {
            outbox.push_all(compact, envelopes, id, reference)
        })
    }

    /// Puts something into a connection's open frame. What `push` gives back is a frame that became full.
    #[inline]
    pub(crate) fn put(
        &mut self,
        slot: usize,
        growth: Growth,
        push: impl FnOnce(&mut Outbox) -> Result<Option<Bytes>, TooLarge>,
    ) -> Result<(), TooLarge> {
        let Some(session) = self.sessions[slot].as_mut().filter(|session| !session.is_deaf()) else {
            return Ok(());
        };
        let queued_before = session.outbox.queued_bytes();
        let full = push(&mut session.outbox)?;
        if growth == Growth::Stream {
            session.outbox.grew_by_streams(queued_before);
        }
        if let Some(bytes) = full {
            let conn = session.conn;
            self.effects.push_back(Effect::Send { conn, bytes });
        }
        self.mark_dirty(slot);
        self.watch_queue(slot, growth);
        Ok(())
    }

    /// Takes out of the shard what a verb left in it.
    pub(crate) fn after_shard(&mut self) {
        while let Some(delivery) = self.shard.poll_delivery() {
            self.deliver(&delivery);
        }
        while let Some(outgoing) = self.shard.poll_outgoing() {
            match outgoing {
                Outgoing::Forward(Forward { to, reference, bytes }) => self.forward(to, reference, &bytes),
                Outgoing::Note(told) => self.tell(&told),
            }
        }
        while let Some(news) = self.shard.poll_logged() {
            self.tell_logged(news);
        }
        while let Some(news) = self.shard.poll_log_news() {
            self.tell_log_news(&news);
        }
        if let Some(unlogged) = self.shard.poll_unlogged() {
            self.tell_unlogged(&unlogged);
        }
        while let Some(given_up) = self.shard.poll_given_up() {
            self.tell_given_up(&given_up);
        }
        while let Some((core, letter)) = self.shard.poll_letter() {
            self.post(core, letter);
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let run = &delivery.run;
        let framed = run.framed();
        let body_bytes = framed.len() - PREFIX_BYTES;
        self.counters.runs += (delivery.plain.len() + delivery.grouped.len()) as u64;
        for &peer in delivery.plain.iter() {
            let Some(slot) = self.slot_of_peer(peer) else {
                continue;
            };
            let Some(session) = &mut self.sessions[slot] else {
                continue;
            };
            if session.is_deaf() {
                continue;
            }
            if !session.has_room(body_bytes, self.limits.queue_bytes) {
                self.counters.dropped += run.events();
                self.shard.dropped(peer, run);
                self.drops_to_tell(slot);
                continue;
            }
            self.counters.delivered += run.events();
            if session.outbox.takes_shared(body_bytes) {
                seal_into(&mut self.effects, session);
                let bytes = session.outbox.share(framed);
                let conn = session.conn;
                self.effects.push_back(Effect::Send { conn, bytes });
            } else {
                let too_large = self.push_private(slot, &framed[PREFIX_BYTES..]);
                if too_large > 0 {
                    self.counters.dropped += too_large;
                    self.counters.delivered -= too_large;
                    self.shard.dropped(peer, run);
                    self.drops_to_tell(slot);
                }
            }
        }
        for piece in &delivery.grouped {
            let Some(slot) = self.slot_of_peer(piece.peer) else {
                continue;
            };
            let Some(session) = &mut self.sessions[slot] else {
                continue;
            };
            let body_bytes = piece.framed.len() - PREFIX_BYTES;
            let events = u64::from(piece.events);
            if session.is_deaf() {
                continue;
            }
            let fits = session.has_room(body_bytes, self.limits.queue_bytes);
            if fits && session.outbox.takes_shared(body_bytes) {
                self.counters.delivered += events;
                seal_into(&mut self.effects, session);
                let bytes = session.outbox.share(&piece.framed);
                let conn = session.conn;
                self.effects.push_back(Effect::Send { conn, bytes });
                self.rest_if_behind(slot);
            } else if fits
                && session
                    .outbox
                    .takes_transcoded(body_bytes, piece.events as usize + 1)
            {
                self.counters.delivered += events;
                // The header and its events stay in one body.
                self.seal(slot);
                self.push_private(slot, &piece.framed[PREFIX_BYTES..]);
                self.seal(slot);
            } else {
                self.counters.dropped += events;
                self.shard.dropped_grouped(piece);
                self.drops_to_tell(slot);
            }
        }
    }

    /// A member of a group that falls behind gets nothing more while others keep up.
    pub(crate) fn rest_if_behind(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if !session.busy && session.outbox.queued_bytes() > self.limits.queue_bytes / 2 {
            session.busy = true;
            self.shard.set_busy(session.peer, true);
        }
    }

    pub(crate) fn push_private(&mut self, slot: usize, body: &[u8]) -> u64 {
        let Some(session) = &mut self.sessions[slot] else {
            return 0;
        };
        let conn = session.conn;
        let effects = &mut self.effects;
        let too_large = session
            .outbox
            .push_events(body, |bytes| effects.push_back(Effect::Send { conn, bytes }));
        self.mark_dirty(slot);
        too_large
    }

    fn drops_to_tell(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        // One that is away is told when it returns.
        if session.due.drops_ms == u64::MAX && !session.is_away() {
            session.due.drops_ms = self.now_ms + DROP_NOTE_MS;
            self.arm(slot);
        }
    }
}
