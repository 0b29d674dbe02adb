//! Taking a stretch of a segment apart: each batch is checked, and what is missing or wrong is told.

use bytes::{Bytes, BytesMut};

use crate::log::Log;
use crate::log::events::Stored;
use crate::log::format::{ALIGN_BYTES, BATCH_HEAD_BYTES, BatchHead, Body, Kind, salt_of};
use crate::log::partition::Stretch;
use crate::log::tail::cut;

/// Events that are less than this part of what was read are copied: as slices they would keep all of it in memory for as
/// long as the slowest reader has them.
const SHARED_PART: usize = 4;

impl Log {
    /// Takes a stretch apart: the events that are wanted, the position that is reached with them, and what behind it is
    /// missing or wrong.
    pub(super) fn walk(
        &self,
        number: u16,
        stretch: Stretch,
        bytes: &Bytes,
        bytes_max: usize,
    ) -> (Vec<Stored>, u64, Option<(u64, u64)>) {
        let salt = salt_of(self.secret, stretch.segment);
        let mut stored = Vec::new();
        let mut room = bytes_max;
        let mut reached = stretch.first - 1;
        let mut damage = None;
        let mut at = 0;
        while reached < stretch.last && at + BATCH_HEAD_BYTES <= bytes.len() {
            let Ok(head) = BatchHead::decode(&bytes[at..], salt, stretch.at + at as u64) else {
                // Whose it was nobody knows; heads stand at multiples of 8.
                at += ALIGN_BYTES as usize;
                continue;
            };
            let body_at = at + BATCH_HEAD_BYTES;
            at += head.bytes() as usize;
            if head.kind != Kind::Events || head.partition != number || head.last() <= reached {
                continue;
            }
            if head.first > reached + 1 {
                damage = Some((reached + 1, (head.first - 1).min(stretch.last)));
                break;
            }
            let body = Body::check(head, &bytes.slice(body_at.min(bytes.len())..));
            let Ok(Some(mut run)) = body.and_then(|body| body.events()) else {
                damage = Some((reached + 1, head.last().min(stretch.last)));
                break;
            };
            if run.last() > stretch.last {
                let keep = (stretch.last + 1 - run.first) as usize;
                run.events = run.events.slice(0..keep);
            }
            let skip = (reached + 1 - run.first) as usize;
            let Some(part) = cut(&run, skip, room, stored.is_empty()) else {
                break;
            };
            room = room.saturating_sub(part.events.bytes.len());
            reached = part.last();
            let is_cut = reached < run.last();
            stored.push(part);
            if is_cut {
                break;
            }
        }
        if damage.is_none() && stored.is_empty() {
            damage = Some((reached + 1, stretch.last));
        }
        let wanted: usize = stored.iter().map(|run| run.events.bytes.len()).sum();
        if wanted < bytes.len() / SHARED_PART {
            let mut copy = BytesMut::with_capacity(wanted);
            for run in &stored {
                copy.extend_from_slice(&run.events.bytes);
            }
            let mut copy = copy.freeze();
            for run in &mut stored {
                run.events.bytes = copy.split_to(run.events.bytes.len());
            }
        }
        (stored, reached, damage)
    }
}
