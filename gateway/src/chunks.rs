//! Runs of chunks: the chunks of one stream that an input brings one after the other.
//!
//! The first goes the way of every part ([`crate::streams`]), the second looks the way up, and those behind it go the same
//! way with a compare and a copy, as far as credit goes that was given before; then the shard is told of all of them at
//! once. To another core they travel in one letter.

use std::ops::ControlFlow;

use bytes::Bytes;
use fluxar_protocol::envelope::{Decoded, Envelope, patch_ref};
use fluxar_protocol::stream::Part;
use fluxar_protocol::{Batch, Form, Id, Kind};
use fluxar_shard::{Lane, Letter, PartRoute, PeerId, Spoken};

use crate::flow::Growth;
use crate::front::{Effect, Front};

/// Most bytes of chunks in a letter: whatever they are framed in, every receiver takes them.
const LETTER_BYTES_MAX: usize = 32 * 1024;
/// The place of who sends by letter, among the slots of connections.
const ELSEWHERE: usize = usize::MAX;

/// The run that the input in hand is in.
#[derive(Debug, Default)]
pub(crate) struct ChunkRun {
    /// The stream that the last chunk was of, as its sender knows it, and the sender's slot.
    last: Option<(usize, Id)>,
    way: Option<Way>,
    /// What went that way since the shard was told.
    passed_bytes: u64,
}

#[derive(Debug)]
enum Way {
    /// Into the outbox of this slot, in which so many bytes were when the run began.
    Here {
        lane: Lane,
        to: usize,
        queued_before: usize,
    },
    /// To a server of another core, its ref replaced.
    Away {
        lane: Lane,
        letter: Vec<u8>,
        chunks: u32,
    },
    /// From a server to the core on which the stream began, as it came.
    Home {
        core: u16,
        from: PeerId,
        letter: Vec<u8>,
    },
}

impl Front {
    /// Passes a chunk on if it goes the way of the one before it.
    #[inline]
    pub(crate) fn runs_on(&mut self, slot: usize, decoded: &Decoded<'_>) -> bool {
        let run = &mut self.chunks;
        let (Some(way), Some(last)) = (&mut run.way, run.last) else {
            return false;
        };
        let Envelope {
            kind: Kind::Stream,
            reference: Some(reference),
            meta: None,
            payload,
            error: None,
            ..
        } = decoded.envelope
        else {
            return false;
        };
        if last != (slot, reference) || decoded.form != Form::Compact {
            return false;
        }
        let passed_bytes = run.passed_bytes + payload.len() as u64;
        match way {
            Way::Here { lane, to, .. } => {
                let Some(session) = self.sessions[*to]
                    .as_mut()
                    .filter(|_| passed_bytes <= lane.free_bytes)
                else {
                    return false;
                };
                let pushed = session
                    .outbox
                    .push_patched(decoded.bytes, None, Some(lane.reference));
                let Ok(full) = pushed else { return false };
                if let Some(bytes) = full {
                    let conn = session.conn;
                    self.effects.push_back(Effect::Send { conn, bytes });
                }
            }
            Way::Away { lane, letter, chunks } => {
                let at = letter.len();
                if passed_bytes > lane.free_bytes || at + decoded.bytes.len() > LETTER_BYTES_MAX {
                    return false;
                }
                letter.extend_from_slice(decoded.bytes);
                patch_ref(&mut letter[at..], lane.reference);
                *chunks += 1;
            }
            Way::Home { letter, .. } => {
                if letter.len() + decoded.bytes.len() > LETTER_BYTES_MAX {
                    return false;
                }
                letter.extend_from_slice(decoded.bytes);
            }
        }
        run.passed_bytes = passed_bytes;
        true
    }

    /// What comes now is not a chunk behind the one before it: the shard is told what it was not asked about.
    #[inline]
    pub(crate) fn end_chunk_run(&mut self) {
        if let Some(way) = self.chunks.way.take() {
            self.account_for(way);
        }
    }

    /// The input is over. The next one's first chunk begins anew: room is made for those that come together, not for one
    /// a turn.
    pub(crate) fn end_chunk_input(&mut self) {
        self.end_chunk_run();
        self.chunks.last = None;
    }

    fn account_for(&mut self, way: Way) {
        let passed_bytes = std::mem::take(&mut self.chunks.passed_bytes);
        let Some((_, reference)) = self.chunks.last.filter(|_| passed_bytes > 0) else {
            return;
        };
        match way {
            Way::Here {
                lane,
                to,
                queued_before,
            } => {
                self.shard.passed(&lane, passed_bytes);
                if let Some(session) = &mut self.sessions[to] {
                    session.outbox.grew_by_streams(queued_before);
                }
                self.mark_dirty(to);
                self.watch_queue(to, Growth::Stream);
            }
            Way::Away { lane, letter, chunks } => {
                self.shard.passed(&lane, passed_bytes);
                let bytes = Bytes::from(letter);
                let passed = Letter::Passed {
                    to: lane.to,
                    bytes,
                    envelopes: chunks,
                };
                self.post(lane.to.core, passed);
            }
            Way::Home { core, from, letter } => {
                let chunks = Letter::Chunks {
                    from,
                    reference,
                    bytes: Bytes::from(letter),
                };
                self.post(core, chunks);
            }
        }
    }

    /// A chunk, not a last one, took this route; if it is the second of its stream in a row, so may those behind it.
    #[inline]
    pub(crate) fn begin_chunk_run(&mut self, slot: usize, from: PeerId, reference: Id, route: PartRoute) {
        if self.chunks.last != Some((slot, reference)) {
            self.chunks.last = Some((slot, reference));
            return;
        }
        self.chunks.way = self.way(from, reference, route);
    }

    fn way(&mut self, from: PeerId, reference: Id, route: PartRoute) -> Option<Way> {
        let to = match route {
            PartRoute::Swallowed => return None,
            PartRoute::Elsewhere { core } => {
                let letter = Vec::new();
                return Some(Way::Home { core, from, letter });
            }
            PartRoute::Pass { to, .. } => to,
        };
        let lane = self
            .shard
            .lane(from, reference)
            .filter(|lane| lane.free_bytes > 0)?;
        if to.core != self.core {
            let letter = Vec::new();
            let chunks = 0;
            return Some(Way::Away { lane, letter, chunks });
        }
        let to = self.slot_of_peer(to)?;
        let session = self.sessions[to].as_mut().filter(|session| !session.is_deaf())?;
        session.outbox.expect_more();
        let queued_before = session.outbox.queued_bytes();
        Some(Way::Here {
            lane,
            to,
            queued_before,
        })
    }

    /// A run of chunks that a server on another core sends to a stream of this one.
    pub(crate) fn chunks_arrived(&mut self, from: PeerId, reference: Id, chunks: &[u8]) {
        let _ = Batch::new(chunks).visit(|decoded| {
            let Ok(decoded) = decoded else {
                return ControlFlow::Break(()); // it was read before it was sent
            };
            if !self.runs_on(ELSEWHERE, decoded) {
                self.end_chunk_run();
                let bytes = decoded.envelope.payload.len() as u64;
                let part = Part::Chunk { bytes, end: false };
                let route = self.relay_part(from, reference, Spoken { part, error: None }, decoded.bytes);
                if self.shard.has_news() {
                    self.after_shard();
                }
                self.begin_chunk_run(ELSEWHERE, from, reference, route);
            }
            ControlFlow::Continue(())
        });
        self.end_chunk_input();
    }
}
