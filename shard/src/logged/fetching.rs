//! The owner's side of readers that are behind: a piece of the log, or of the table of retained events, only what matches.

use super::LogLetter;
use super::letters::{Fetch, Fetched, SubHandle};
use super::pieces::{Cutter, RunningTopic};
use crate::log::{ReaderId, Reading, Stored};
use crate::shard::Shard;
use fluxar_protocol::target;

/// Reads without a match before the asker hears how far it is.
const READS_MAX: u32 = 16;
/// Retained events that are read at a time.
const ROWS_MAX: usize = 512;
/// What is read at a time if little of it is likely to be wanted, bytes.
const READ_BYTES_LEAST: usize = 16 * 1024;

/// A fetch that is being answered.
#[derive(Debug)]
pub(super) struct Pending {
    core: u16,
    fetch: Box<Fetch>,
    reads: u32,
    /// The last row that was asked for, and whether there are others behind it.
    rows: Option<(u64, bool)>,
}

impl Shard {
    /// A reader of some core is behind.
    pub(crate) fn fetch_here(&mut self, core: u16, fetch: Box<Fetch>) {
        let key = self.logged.owner.fetches.insert(Pending {
            core,
            fetch,
            reads: 0,
            rows: None,
        });
        self.read_on(key, None);
        if let Some(pending) = self.logged.owner.fetches.get(key) {
            let name = pending.name();
            self.logged.owner.unread.insert(name, key);
        }
    }

    /// A subscription is over that waits for the disk.
    pub(crate) fn unfetch_here(&mut self, core: u16, sub: SubHandle, partition: u16) {
        let logged = &mut self.logged;
        if let Some(key) = logged.owner.unread.remove(&(core, sub, partition)) {
            logged.owner.fetches.remove(key);
            logged.log.forget_reader(ReaderId(key as u64));
        }
    }

    /// Something that was read from the disk for a fetch.
    pub(crate) fn fetch_read(&mut self, reader: ReaderId, reading: Reading) {
        let key = reader.0 as usize;
        if self.logged.owner.fetches.contains(key) {
            self.read_on(key, Some(reading));
        }
    }

    /// Reads until there is something to answer, or it has to wait for the disk.
    fn read_on(&mut self, key: usize, mut came: Option<Reading>) {
        loop {
            let reading = match came.take() {
                Some(reading) => reading,
                None => self.read_next(key),
            };
            if matches!(reading, Reading::Later) {
                return;
            }
            let now_ms = self.logged.unix_ms;
            let Some(fetched) = self.logged.owner.fetches[key].take(reading, now_ms) else {
                continue;
            };
            let pending = self.logged.owner.fetches.remove(key);
            if !self.logged.owner.unread.is_empty() {
                self.logged.owner.unread.remove(&pending.name());
            }
            let Pending { core, fetch, .. } = pending;
            self.say(
                core,
                LogLetter::Fetched {
                    sub: fetch.sub,
                    partition: fetch.partition,
                    fetched,
                },
            );
            return;
        }
    }

    fn read_next(&mut self, key: usize) -> Reading {
        let log = &mut self.logged.log;
        let pending = &mut self.logged.owner.fetches[key];
        let fetch = &pending.fetch;
        let reader = ReaderId(key as u64);
        if !fetch.of_table {
            let bytes_max = (fetch.bytes_max as usize).max(READ_BYTES_LEAST);
            return log.read(reader, fetch.partition, fetch.after, bytes_max);
        }
        // Told each time, before anything else: what is missing of a table is left out only for who asked for that.
        if !fetch.skips_damaged
            && let Some((first, last)) = log.table_damage(fetch.partition, &fetch.pattern)
        {
            return Reading::Damaged { first, last };
        }
        let mut rows: Vec<u64> = log
            .retained(
                fetch.partition,
                &fetch.pattern,
                fetch.after,
                fetch.until,
                ROWS_MAX + 1,
            )
            .into_iter()
            .map(|row| row.offset)
            .collect();
        let more = rows.len() > ROWS_MAX;
        rows.truncate(ROWS_MAX);
        let Some(&last) = rows.last() else {
            return Reading::Events {
                stored: Vec::new(),
                until: fetch.until,
            };
        };
        pending.rows = Some((last, more));
        log.read_rows(reader, fetch.partition, &rows)
    }
}

impl Pending {
    fn name(&self) -> (u16, SubHandle, u16) {
        (self.core, self.fetch.sub, self.fetch.partition)
    }

    /// What is answered; `None`: it is to be read on.
    fn take(&mut self, reading: Reading, now_ms: u64) -> Option<Fetched> {
        let (stored, mut until) = match reading {
            Reading::Events { stored, until } => (stored, until),
            // All rows that were asked for were replaced meanwhile.
            Reading::End if self.rows.is_some() => (Vec::new(), self.rows.map_or(0, |(last, _)| last)),
            Reading::End if self.reads == 0 => return Some(Fetched::End),
            // What was read before held nothing that is wanted, and that is the end.
            Reading::End => {
                let until = self.fetch.after;
                let pieces = Vec::new();
                return Some(Fetched::Events { pieces, until });
            }
            // A row that is found damaged, or that the disk does not give, now that it is read.
            Reading::Damaged { last, .. } if self.fetch.of_table && self.fetch.skips_damaged => {
                (Vec::new(), last)
            }
            Reading::Gone { first } => return Some(Fetched::Gone { first }),
            Reading::Damaged { first, last } => return Some(Fetched::Damaged { first, last }),
            Reading::Failed(_) | Reading::Later => return Some(Fetched::Failed),
        };
        self.reads += 1;
        let fetch = &mut self.fetch;
        if let Some((last, more)) = self.rows.take()
            && until >= last
            && !more
        {
            until = fetch.until; // that was the table
        }
        until = until.min(fetch.until);
        let (pieces, stopped_at) = select(fetch, &stored, now_ms);
        let until = stopped_at.unwrap_or(until);
        let is_stuck = until <= fetch.after; // nothing was read: whoever asks again later may get something
        if pieces.is_empty() && self.reads < READS_MAX && until < fetch.until && !is_stuck {
            fetch.after = until;
            return None;
        }
        Some(Fetched::Events { pieces, until })
    }
}

/// What is wanted of the events that were read; and, if not all were looked at, the position up to which.
fn select(fetch: &mut Fetch, stored: &[Stored], now_ms: u64) -> (Vec<super::pieces::Piece>, Option<u64>) {
    let mut cutter = Cutter::new(fetch.partition);
    let (mut bytes, mut events) = (0, 0);
    let mut stopped_at = None;
    let (mut topic, mut matches) = (RunningTopic::default(), false);
    for batch in stored {
        if batch.time_ms < fetch.since_ms {
            continue;
        }
        fetch.since_ms = 0; // what comes behind the first is wanted whatever the clock did
        let all = &batch.events.bytes;
        let mut start = 0;
        for (offset, &end) in batch.offsets().zip(batch.events.ends.iter()) {
            let span = start..end as usize;
            start = end as usize;
            let event = &all[span.clone()];
            if offset <= fetch.after {
                continue;
            }
            if offset > fetch.until {
                stopped_at = Some(fetch.until);
                break;
            }
            if topic.moves_to(event) {
                matches = target::matches(&fetch.pattern, topic.text());
            }
            if !matches || batch.has_expired(event, now_ms) {
                continue;
            }
            if events >= fetch.events_max || (events > 0 && bytes + event.len() > fetch.bytes_max as usize) {
                stopped_at = Some(offset - 1);
                break;
            }
            (bytes, events) = (bytes + event.len(), events + 1);
            cutter.push(all, span, offset);
        }
        if stopped_at.is_some() {
            break;
        }
    }
    (cutter.finish(), stopped_at)
}
