//! From the log to the connections: acknowledgements of what they published, runs with their positions, and what becomes of
//! subscriptions.

use bytes::Bytes;
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::envelope::compact::{ANSWER_HEAD_BYTES, write_answer_head};
use fluxar_protocol::error::{Code, ErrorBody};
use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::position::{self, Position, Positions};
use fluxar_protocol::{Batch, Form, Id, Kind};
use fluxar_shard::PeerId;
use fluxar_shard::log::{Events, LogNews};
use fluxar_shard::logged::{GivenUp, LoggedNews, Unlogged};

use crate::flow::Growth;
use crate::front::{Effect, Front, answer, seal_into};
use crate::limits::{GIVEN_UP_NOTE_MS, UNLOGGED_NOTE_MS};
use crate::session::Session;

/// Events for one subscription, and where they are.
struct LoggedRun<'a> {
    sub: Id,
    positions: &'a [u8],
    count: u32,
    dup: u32,
}

impl Front {
    /// One thing that the shard has for a connection of this core.
    pub(crate) fn tell_logged(&mut self, news: LoggedNews) {
        match news {
            LoggedNews::Stored {
                to,
                partition,
                first,
                events,
            } => self.acknowledge_publishes(to, partition, first, &events),
            LoggedNews::StoredBefore {
                to,
                id,
                partition,
                offset,
            } => {
                let Some(slot) = self.slot_of_peer(to) else { return };
                self.push_acknowledgements(slot, partition, std::iter::once((id, offset)));
                self.settle(slot, 1, None);
            }
            LoggedNews::Refused {
                to,
                events,
                code,
                message,
                retry_after_ms,
            } => self.refuse_publishes(to, &events, code, &message, retry_after_ms),
            LoggedNews::Accepted { to, sub, epoch, at } => {
                let Some(slot) = self.slot_of_peer(to) else { return };
                let mut payload = Vec::with_capacity(32 + 12 * at.len());
                let places = at
                    .iter()
                    .map(|&(partition, offset)| Position { partition, offset });
                position::write_epoch(epoch, places, &mut payload);
                let own = self.ids.next();
                let mut accepted = answer(Kind::Subscribe, own, sub, None);
                accepted.payload = &payload;
                self.push(slot, &accepted);
            }
            LoggedNews::RefusedSub {
                to,
                sub,
                code,
                message,
                retry_after_ms,
                details,
            } => {
                let Some(slot) = self.slot_of_peer(to) else { return };
                self.counters.refused += 1;
                let error = encode(code, &message, details.as_deref(), retry_after_ms);
                let own = self.ids.next();
                self.push(slot, &answer(Kind::Subscribe, own, sub, Some(&error)));
                if retry_after_ms.is_none() {
                    self.charge_refusal(slot);
                }
            }
            LoggedNews::Run {
                to,
                sub,
                positions,
                count,
                dup,
                events,
            } => {
                let run = LoggedRun {
                    sub,
                    positions: &positions,
                    count,
                    dup,
                };
                self.deliver_logged(to, &run, &events);
            }
            LoggedNews::Moved {
                to,
                sub,
                partition,
                offset,
            } => {
                let Some(slot) = self.slot_of_peer(to) else { return };
                let meta = MetaWriter::new()
                    .position("at", Position { partition, offset })
                    .finish()
                    .unwrap_or_default();
                self.note(slot, sub, &meta, None);
            }
            LoggedNews::Ended {
                to,
                sub,
                code,
                message,
                details,
            } => {
                let Some(slot) = self.slot_of_peer(to) else { return };
                self.end_logged(slot, sub, code, &message, details.as_deref());
            }
        }
    }

    /// What happened to this core's log.
    pub(crate) fn tell_log_news(&self, news: &LogNews) {
        match news {
            LogNews::Refuses(fault) => tracing::error!(
                "the log cannot be written ({fault}): publishers are refused, what was taken is tried again until the disk takes it"
            ),
            LogNews::TakesAgain => tracing::info!("the log's disk takes writes again: nothing was lost"),
            LogNews::Damaged {
                partition,
                first,
                last,
            } => tracing::error!(
                "the log is damaged in partition {partition}, offsets {first} to {last}: they are not served, all else is"
            ),
            LogNews::RowsDamaged {
                partition,
                first,
                last,
                count,
                topic,
            } => tracing::error!(
                "rows of tables from [{partition}, {first}] to [{partition}, {last}] are damaged, {count} in all, the first of {topic}: \
                 readers of their tables are told, until their keys are published again"
            ),
            LogNews::More(count) => {
                tracing::error!("and {count} more damaged places in the log; `fluxar log verify` names them");
            }
        }
    }

    /// Events of topics that are always logged were not logged, and no publisher waits to hear of it.
    pub(crate) fn tell_unlogged(&mut self, unlogged: &Unlogged) {
        self.counters.unlogged += unlogged.events;
        if self.now_ms < self.unlogged_note_ms {
            return; // counted, and told with the next
        }
        self.unlogged_note_ms = self.now_ms + UNLOGGED_NOTE_MS;
        tracing::warn!(
            all = self.counters.unlogged,
            "an event at qos 0 of {}, which is always logged, could not be, and nobody is given it: {}",
            unlogged.topic,
            unlogged.message
        );
    }

    /// An event of a work queue that nobody could handle, and for which there is no dead-letter topic.
    pub(crate) fn tell_given_up(&mut self, given_up: &GivenUp) {
        self.counters.given_up += 1;
        if self.now_ms < self.given_up_said_ms + GIVEN_UP_NOTE_MS {
            return; // counted, and told with the next
        }
        self.given_up_said_ms = self.now_ms;
        let GivenUp {
            queue,
            topic,
            at: Position { partition, offset },
            deliveries,
        } = given_up;
        tracing::warn!(
            pattern = &*queue.pattern,
            group = &*queue.group,
            all = self.counters.given_up,
            "{topic} at [{partition}, {offset}] was given to members {deliveries} times and not handled: it is left out of the queue; \
             a dead_letter topic in [[log.topic]] would keep such events"
        );
    }

    fn acknowledge_publishes(&mut self, to: PeerId, partition: u16, first: u64, events: &Events) {
        let Some(slot) = self.slot_of_peer(to) else { return };
        let stored = (0..events.len()).map(|at| (events.id(at), first + at as u64));
        self.push_acknowledgements(slot, partition, stored);
        self.settle(slot, events.len(), Some(events.bytes.len()));
    }

    /// One acknowledgement for each publish, many in a frame.
    fn push_acknowledgements(
        &mut self,
        slot: usize,
        partition: u16,
        stored: impl Iterator<Item = (Id, u64)>,
    ) {
        let Some(session) = self.sessions[slot].as_mut().filter(|session| !session.is_deaf()) else {
            return;
        };
        let mut ack = Acknowledgement::new(partition);
        session.outbox.expect_more();
        for (id, offset) in stored {
            self.counters.acknowledged += 1;
            // An acknowledgement is smaller than the least that anybody takes.
            let pushed = session
                .outbox
                .push_patched(ack.of(offset), Some(self.ids.next()), Some(id));
            if let Ok(Some(bytes)) = pushed {
                self.effects.push_back(Effect::Send {
                    conn: session.conn,
                    bytes,
                });
            }
        }
        self.mark_dirty(slot);
        self.watch_queue(slot, Growth::Reply);
    }

    fn refuse_publishes(
        &mut self,
        to: PeerId,
        events: &Events,
        code: Code,
        message: &str,
        retry_after_ms: Option<u32>,
    ) {
        let Some(slot) = self.slot_of_peer(to) else {
            return self.shard.publisher_gone(to);
        };
        let error = encode(code, message, None, retry_after_ms);
        for at in 0..events.len() {
            self.counters.refused += 1;
            let own = self.ids.next();
            self.push(slot, &answer(Kind::Event, own, events.id(at), Some(&error)));
        }
        self.settle(slot, events.len(), Some(events.bytes.len()));
    }

    /// A header and the events behind it, in one frame. What is in hand is always queued: the window of its subscription
    /// bounds it, and the log gives no more while the connection is busy.
    fn deliver_logged(&mut self, to: PeerId, run: &LoggedRun<'_>, events: &Bytes) {
        let Some(slot) = self.slot_of_peer(to) else { return };
        let own = self.ids.next();
        // One that is away gets it again when it returns.
        let takes_runs = |session: &&mut Session| !session.is_deaf() && !session.is_away();
        let Some(session) = self.sessions[slot].as_mut().filter(takes_runs) else {
            return;
        };
        let header = run_header(own, run, session.outbox.header_room());
        let body_bytes = header.len() - session.outbox.header_room() + events.len();
        if session.outbox.takes_shared(body_bytes) {
            seal_into(&mut self.effects, session);
            let conn = session.conn;
            let parts = session.outbox.share_behind(header, events);
            self.effects.push_back(Effect::SendParts { conn, parts });
            self.counters.runs += 1;
            self.counters.delivered += u64::from(run.count);
        } else if session.outbox.form() == Form::Named {
            self.deliver_transcoded(slot, run, events, None);
        } else {
            self.stop_for_size(slot, run, body_bytes, None);
        }
        self.rest_if_behind(slot);
    }

    /// The same for a named session: each envelope is transcoded, and if they do not fit into one frame then, each event
    /// gets a header and a frame of its own. Of what these were cut from, all up to `given` was delivered. Whether these
    /// were.
    fn deliver_transcoded(
        &mut self,
        slot: usize,
        run: &LoggedRun<'_>,
        events: &Bytes,
        mut given: Option<u64>,
    ) -> bool {
        let Some(session) = &self.sessions[slot] else {
            return false;
        };
        let header = run_header(self.ids.next(), run, 0);
        let body_bytes = header.len() + events.len();
        if session
            .outbox
            .takes_transcoded(body_bytes, run.count as usize + 1)
        {
            let body = [&header[..], &events[..]].concat();
            self.push_alone(slot, &body);
            self.counters.runs += 1;
            self.counters.delivered += u64::from(run.count);
            return true;
        }
        if run.count == 1 {
            self.stop_for_size(slot, run, body_bytes, given);
            return false;
        }
        let Some(positions) = Positions::read(run.positions) else {
            return false;
        };
        let mut rest = &events[..];
        for offset in positions.offsets() {
            let Some(Ok(decoded)) = Batch::new(rest).next() else {
                return false;
            };
            let event = decoded.bytes;
            rest = &rest[event.len()..];
            let mut at = Vec::new();
            let partition = positions.partition();
            Position { partition, offset }.write(&mut at);
            let single = LoggedRun {
                positions: &at,
                count: 1,
                dup: run.dup.min(1),
                ..*run
            };
            if !self.deliver_transcoded(slot, &single, &events.slice_ref(event), given) {
                return false;
            }
            given = Some(offset);
        }
        true
    }

    /// Transcodes these envelopes into a frame of their own.
    fn push_alone(&mut self, slot: usize, body: &[u8]) {
        self.seal(slot);
        self.push_private(slot, body);
        self.seal(slot);
    }

    /// The next event of a subscription is larger than its connection takes: it cannot be left out, so nothing comes behind
    /// what was `given` of its run.
    fn stop_for_size(&mut self, slot: usize, run: &LoggedRun<'_>, body_bytes: usize, given: Option<u64>) {
        let (Some(session), Some(positions)) = (&self.sessions[slot], Positions::read(run.positions)) else {
            return;
        };
        let (partition, offset) = (positions.partition(), positions.first());
        let message = format!(
            "the event at [{partition}, {offset}] takes a frame of {body_bytes} bytes, your max_frame is {}: say a larger one in your hello, or subscribe again from behind it",
            session.outbox.body_bytes_max()
        );
        let peer = session.peer;
        self.shard.stop_logged(
            (peer, run.sub),
            Position { partition, offset },
            given,
            (Code::ResourceExhausted, message),
        );
    }

    fn end_logged(&mut self, slot: usize, sub: Id, code: Code, message: &str, details: Option<&[u8]>) {
        let meta = MetaWriter::new().flag("end", true).finish().unwrap_or_default();
        let error = encode(code, message, details, None);
        self.note(slot, sub, &meta, Some(&error));
    }

    /// Something about a subscription.
    fn note(&mut self, slot: usize, sub: Id, meta: &[u8], error: Option<&[u8]>) {
        let own = self.ids.next();
        let note = Envelope {
            meta: Some(Meta::from_checked(meta)),
            ..answer(Kind::Subscribe, own, sub, error)
        };
        self.push(slot, &note);
    }
}

fn encode(code: Code, message: &str, details: Option<&[u8]>, retry_after_ms: Option<u32>) -> Vec<u8> {
    let mut error = Vec::new();
    ErrorBody {
        code,
        message,
        details,
        retry_after_ms,
    }
    .encode(&mut error);
    error
}

/// The acknowledgement of a publish, all but its offset written once: `[5, id, ref, null, {at: [p, o]}, null, null]`. Id
/// and ref are patched where it is copied to.
struct Acknowledgement {
    envelope: Vec<u8>,
    /// Up to where it is the same for all offsets.
    fixed_bytes: usize,
    partition: u16,
}

impl Acknowledgement {
    fn new(partition: u16) -> Self {
        let mut envelope = Vec::with_capacity(64);
        let patched = Id([0; 16]);
        write_answer_head(Kind::Event, patched, patched, &mut envelope);
        envelope.extend_from_slice(b"\xa1\x62at");
        Self {
            fixed_bytes: envelope.len(),
            envelope,
            partition,
        }
    }

    fn of(&mut self, offset: u64) -> &[u8] {
        self.envelope.truncate(self.fixed_bytes);
        let partition = self.partition;
        Position { partition, offset }.write(&mut self.envelope);
        self.envelope.extend_from_slice(&[0xf6, 0xf6]);
        &self.envelope
    }
}

/// Bytes of the header of a run without its positions and `dup`: a map and its key, no payload, no error.
const RUN_HEADER_BYTES: usize = ANSWER_HEAD_BYTES + 1 + 4 + 1 + 1;

/// The header of a run, behind so many bytes of room: `[4, id, sub, null, {run, dup}, null, null]`. Of exactly its length, for
/// what has room left is moved, or given a second allocation, when it is shared.
fn run_header(own: Id, run: &LoggedRun<'_>, room: usize) -> Vec<u8> {
    let dup = (run.dup > 0).then(|| crate::greeting::encode_uint(run.dup.into()));
    let dup_bytes = dup.as_ref().map_or(0, |dup| 4 + dup.len());
    let mut header = Vec::with_capacity(room + RUN_HEADER_BYTES + run.positions.len() + dup_bytes);
    header.resize(room, 0);
    write_answer_head(Kind::Subscribe, own, run.sub, &mut header);
    header.push(if dup.is_some() { 0xa2 } else { 0xa1 });
    header.extend_from_slice(b"\x63run");
    header.extend_from_slice(run.positions);
    if let Some(dup) = dup {
        header.extend_from_slice(b"\x63dup");
        header.extend_from_slice(&dup);
    }
    header.extend_from_slice(&[0xf6, 0xf6]);
    debug_assert!(room == 0 || room == PREFIX_BYTES);
    header
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::envelope;
    use fluxar_protocol::meta::Run;

    use super::*;

    #[test]
    fn acknowledgements_and_headers_are_envelopes() {
        let mut ack = Acknowledgement::new(300);
        for offset in [1, 23, 24, 70_000, u64::MAX, 2] {
            let bytes = ack.of(offset).to_vec();
            let decoded = envelope::decode(&bytes).expect("an envelope");
            assert_eq!(decoded.bytes.len(), bytes.len());
            assert_eq!(decoded.envelope.kind, Kind::Event);
            let at = decoded.envelope.meta.expect("it has meta").at();
            assert_eq!(
                at,
                Ok(Some(Position {
                    partition: 300,
                    offset
                }))
            );
        }
        let mut positions = Vec::new();
        position::write_positions(7, 1_000_001, [1, 500].into_iter(), &mut positions);
        for (room, dup) in [
            (0, 0),
            (PREFIX_BYTES, 0),
            (PREFIX_BYTES, 1),
            (PREFIX_BYTES, 70_000),
        ] {
            let run = LoggedRun {
                sub: Id([9; 16]),
                positions: &positions,
                count: 3,
                dup,
            };
            let header = run_header(Id([1; 16]), &run, room);
            assert_eq!(header.len(), header.capacity(), "it is shared as it is");
            let decoded = envelope::decode(&header[room..]).expect("an envelope");
            assert_eq!(decoded.bytes.len(), header.len() - room);
            assert_eq!(decoded.envelope.reference, Some(run.sub));
            let meta = decoded.envelope.meta.expect("it has meta");
            assert_eq!(meta.uint("dup"), Ok((dup > 0).then_some(dup.into())));
            let Ok(Some(Run::Logged(read))) = meta.run() else {
                panic!("{meta:?}");
            };
            assert_eq!(
                read.offsets().collect::<Vec<_>>(),
                [1_000_001, 1_000_002, 1_000_502]
            );
        }
    }
}
