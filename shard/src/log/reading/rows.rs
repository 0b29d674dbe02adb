//! Reading retained events: of each only the place is known, so batch after batch is read, and all of it taken that is wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{Next, ROWS_BYTES};
use crate::log::Log;
use crate::log::disk::SegmentId;
use crate::log::events::{Events, Reading, Stored};
use crate::log::format::{BATCH_HEAD_BYTES, BatchHead, Body, Kept, Kind, salt_of};
use crate::log::partition::{Stretch, What};

/// A row that the disk did not give for so long is taken for damaged, ms.
const UNREADABLE_MS: u64 = 30_000;
/// How much is read of a batch of which only the place is known, bytes.
const BATCH_GUESS_BYTES: u32 = 16 * 1024;

#[derive(Debug)]
pub(super) struct Rows {
    /// Those to come, ascending.
    offsets: VecDeque<u64>,
    out: RowsOut,
    /// The last one that was dealt with.
    until: u64,
    /// A batch that was found to be longer than what was read of it, and how long it is.
    long: Option<(SegmentId, u64, u32)>,
    /// One that the disk did not give this time.
    unreadable: Option<u64>,
    /// Removals, too, as far as they are to be carried on.
    with_removals: bool,
}

impl Rows {
    /// These, which ascend.
    pub(super) fn new(offsets: &[u64], with_removals: bool) -> Self {
        Self {
            offsets: offsets.iter().copied().collect(),
            out: RowsOut::default(),
            until: offsets.last().copied().unwrap_or_default(),
            long: None,
            unreadable: None,
            with_removals,
        }
    }
}

/// Collects retained events: those of one time as one run.
#[derive(Debug, Default)]
struct RowsOut {
    runs: Vec<Stored>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    offsets: Vec<u64>,
    time_ms: u64,
    all_bytes: usize,
}

impl RowsOut {
    fn push(&mut self, offset: u64, time_ms: u64, event: &[u8]) {
        if time_ms != self.time_ms {
            self.flush();
        }
        self.time_ms = time_ms;
        self.bytes.extend_from_slice(event);
        self.ends.push(self.bytes.len() as u32);
        self.offsets.push(offset);
        self.all_bytes += event.len();
    }

    fn flush(&mut self) {
        let Some(&first) = self.offsets.first() else {
            return;
        };
        let deltas = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        let is_dense = deltas.clone().all(|delta| delta == 1);
        let deltas: Option<Arc<[u32]>> = (!is_dense).then(|| {
            deltas
                .map(|delta| u32::try_from(delta).unwrap_or(u32::MAX))
                .collect()
        });
        self.runs.push(Stored {
            events: Events {
                bytes: std::mem::take(&mut self.bytes).into(),
                ends: self.ends.drain(..).collect(),
            },
            first,
            deltas,
            time_ms: self.time_ms,
            expires: true,
        });
        self.offsets.clear();
    }

    fn take(&mut self) -> Vec<Stored> {
        self.flush();
        self.all_bytes = 0;
        std::mem::take(&mut self.runs)
    }
}

impl Log {
    pub(super) fn next_rows(&mut self, number: u16, rows: &mut Rows) -> Next {
        let partition = self.partition(number);
        let retained = partition.and_then(|partition| partition.retained.as_deref());
        let (Some(partition), Some(retained)) = (partition, retained) else {
            let until = rows.until;
            return Next::Say(Reading::Events {
                stored: Vec::new(),
                until,
            });
        };
        while let Some(&offset) = rows.offsets.front() {
            if rows.out.all_bytes >= ROWS_BYTES {
                break;
            }
            let is_wanted = |removal: bool| !removal || rows.with_removals;
            let row = retained.get(offset).filter(|row| is_wanted(row.is_removal));
            let Some(row) = row else {
                rows.offsets.pop_front();
                continue;
            };
            let is_damaged = row.is_damaged;
            if is_damaged || rows.unreadable == Some(offset) {
                if rows.out.all_bytes > 0 {
                    break;
                }
                // As many as follow each other.
                let is_lost = |offset: &&u64| retained.get(**offset).is_some_and(|row| row.is_damaged);
                let lost = rows.offsets.iter().take_while(is_lost).last();
                return Next::Say(Reading::Damaged {
                    first: offset,
                    last: lost.copied().unwrap_or(offset),
                });
            }
            if let Some(run) = partition.tail.find(offset) {
                let event = run.events.get((offset - run.first) as usize);
                rows.out.push(offset, run.time_ms, event);
                rows.offsets.pop_front();
                continue;
            }
            let Some(place) = row.place else {
                rows.offsets.pop_front();
                continue;
            };
            let long = rows
                .long
                .filter(|&(segment, at, _)| (segment, at) == (place.segment, place.at));
            return Next::Read(Stretch {
                what: What::Events,
                segment: place.segment,
                at: place.at,
                bytes: long.map_or(BATCH_GUESS_BYTES, |(.., bytes)| bytes),
                first: offset,
                last: offset,
            });
        }
        let until = rows.offsets.front().map_or(rows.until, |next| next - 1);
        Next::Say(Reading::Events {
            stored: rows.out.take(),
            until,
        })
    }

    /// Takes all rows that are wanted from one batch.
    pub(super) fn take_rows(
        &mut self,
        number: u16,
        rows: &mut Rows,
        stretch: Stretch,
        bytes: &Bytes,
        is_unreadable: bool,
    ) {
        let salt = salt_of(self.secret, stretch.segment);
        let head = BatchHead::decode(bytes, salt, stretch.at).ok();
        if let Some(head) = head
            && head.bytes() > u64::from(stretch.bytes)
            && let Ok(bytes) = u32::try_from(head.bytes())
        {
            rows.long = Some((stretch.segment, stretch.at, bytes));
            return;
        }
        let body =
            head.and_then(|head| Body::check(head, &bytes.slice(BATCH_HEAD_BYTES.min(bytes.len())..)).ok());
        let found = body.and_then(|body| Found::of(&body));
        let now_ms = self.now_ms();
        let Some(partition) = self.index(number) else {
            return;
        };
        let Some(retained) = &mut self.partitions[partition].retained else {
            return;
        };
        while let Some(&offset) = rows.offsets.front() {
            let place = retained.get(offset).and_then(|row| row.place);
            if place.is_none_or(|place| (place.segment, place.at) != (stretch.segment, stretch.at)) {
                break; // of another batch, or moved meanwhile
            }
            let index = place.map_or(0, |place| place.index as usize);
            match found.as_ref().and_then(|found| found.event(index, offset)) {
                Some((time_ms, event)) => {
                    rows.out.push(offset, time_ms, event);
                    if let Some(row) = retained.get_mut(offset).filter(|row| row.unreadable_since_ms > 0) {
                        row.unreadable_since_ms = 0;
                    }
                }
                None => {
                    // What is wrong stays wrong, and what is not given for long is taken for that: whoever reads the table from
                    // now on is told.
                    let mut is_damaged = !is_unreadable;
                    if let Some(row) = retained.get_mut(offset) {
                        if row.unreadable_since_ms == 0 {
                            row.unreadable_since_ms = now_ms;
                        }
                        is_damaged |= now_ms >= row.unreadable_since_ms + UNREADABLE_MS;
                    }
                    if is_damaged {
                        // With its batch all that are in it are lost: told at once, and not to whoever comes upon the next.
                        let lost = match is_unreadable || found.is_some() {
                            true => vec![offset],
                            false => retained.placed_at(stretch.segment, stretch.at),
                        };
                        let mut news: (Vec<u64>, Option<Arc<str>>) = (Vec::new(), None);
                        for offset in lost {
                            if let Some(topic) = retained.mark_damaged(offset) {
                                news.0.push(offset);
                                news.1 = news.1.or(Some(topic));
                            }
                        }
                        if let (offsets, Some(topic)) = news {
                            self.news.rows_damaged(number, &offsets, topic);
                        }
                    }
                    rows.unreadable = is_unreadable.then_some(offset);
                    break;
                }
            }
            rows.offsets.pop_front();
        }
    }
}

/// The events of a batch that holds retained ones.
enum Found {
    Run(Stored),
    Kept(Vec<Kept>),
}

impl Found {
    fn of(body: &Body) -> Option<Self> {
        match body.head().kind {
            Kind::Events => body.events().ok()?.map(Self::Run),
            Kind::Kept => body.kept().ok().map(Self::Kept),
            _ => None,
        }
    }

    /// The time and the bytes of one of them, if it has this offset.
    fn event(&self, index: usize, offset: u64) -> Option<(u64, &[u8])> {
        match self {
            Self::Run(run) => {
                let is_it = index < run.events.len() && run.first + index as u64 == offset;
                is_it.then(|| (run.time_ms, run.events.get(index)))
            }
            Self::Kept(kept) => {
                let kept = kept.get(index).filter(|kept| kept.offset == offset)?;
                Some((kept.time_ms, &kept.event))
            }
        }
    }
}
