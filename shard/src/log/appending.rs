//! Appending and committing: offsets are given, duplicates of qos 2 found, retained rows replaced.
//!
//! Of each partition, what is committed is committed in order; a run that could be seen at once waits for one before it that
//! has to be on the disk first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxar_protocol::Id;

use super::class::{Class, Level};
use super::disk::DiskFault;
use super::events::{Committed, Events, LogRefusal, Settled};
use super::format::{BODY_BYTES_MAX, row_of};
use super::order;
use super::retained::Retained;
use super::tail::Held;
use super::writing::OFFSETS_DUE;
use super::{Log, UNSYNCED_OFFSETS_MAX};
use crate::peer::PeerId;

/// Publishers of duplicates that wait for the first to be committed. One more is refused.
const AGAIN_MAX: usize = 64 * 1024;

/// Duplicates whose first is not committed yet: by its partition and offset, and in which order they came.
#[derive(Debug, Default)]
pub(super) struct Again {
    waiting: BTreeMap<(u16, u64, u64), (PeerId, Id)>,
    came: u64,
}

impl Again {
    fn wait(&mut self, partition: u16, offset: u64, of: (PeerId, Id)) {
        self.came += 1;
        self.waiting.insert((partition, offset, self.came), of);
    }

    /// Those whose first is committed, as far as the partition is now. What the others are does not matter: after a slow sync
    /// there may be very many, and each of its runs comes here.
    fn settle(&mut self, partition: u16, committed: u64, settled: &mut VecDeque<Settled>) {
        while let Some((&key, &(from, id))) = self
            .waiting
            .range((partition, 0, 0)..=(partition, committed, u64::MAX))
            .next()
        {
            self.waiting.remove(&key);
            settled.push_back(Settled::Again {
                from,
                id,
                partition,
                offset: key.1,
            });
        }
    }
}

impl Log {
    /// Appends events to a partition of this core. `from` None: nobody waits to hear that they are stored.
    ///
    /// # Errors
    /// None was taken.
    pub fn append(
        &mut self,
        partition: u16,
        class: Class,
        events: Events,
        from: Option<PeerId>,
    ) -> Result<(), LogRefusal> {
        let at = self.admit(partition, class, &events, from.is_some())?;
        let first = self.partitions[at].last + 1;
        let events = if class.once {
            self.without_duplicates(partition, at, first, events, from)
        } else {
            events
        };
        if events.is_empty() {
            return Ok(());
        }
        if class.retain {
            self.expect_rows(at, &events);
        }
        let cost = order::cost(events.bytes.len(), events.len());
        let held = &mut self.partitions[at];
        held.last += events.len() as u64;
        self.stream.offsets_due |= held.unsynced() > OFFSETS_DUE;
        match class.level {
            Level::Memory => {}
            Level::Written => self.stream.wants_write = true,
            Level::Synced => self.stream.wants_sync = true,
        }
        self.stream.waits_since_ms.get_or_insert(self.now_us / 1000);
        self.appended += events.len() as u64;
        held.tail.push(Held {
            seq: self.order.next(),
            first,
            events,
            time_ms: self.unix_ms,
            class,
            from,
        });
        self.order.push(partition, cost);
        self.commit(at);
        Ok(())
    }

    /// Whether events would take the last quarter of the current segment.
    fn is_for_carrying(&self, events: &Events) -> bool {
        let at = self.stream.current.as_ref().map_or(0, |current| current.at);
        let waiting = self.order.waiting_bytes() + order::cost(events.bytes.len(), events.len());
        at + waiting as u64 > self.segment_bytes() / 4 * 3
    }

    /// Whether events can be taken; the partition's place.
    fn admit(
        &mut self,
        partition: u16,
        class: Class,
        events: &Events,
        is_awaited: bool,
    ) -> Result<usize, LogRefusal> {
        let Some(settings) = &self.settings else {
            return Err(LogRefusal::NoLog);
        };
        if self.stopping {
            return Err(LogRefusal::Stopping);
        }
        if let Some(trouble) = &self.stream.trouble {
            return Err(match &trouble.fault {
                DiskFault::Full => LogRefusal::DiskFull,
                DiskFault::Failed(why) => LogRefusal::DiskFailed(why.clone()),
            });
        }
        if self.stream.is_short && self.is_for_carrying(events) {
            return Err(LogRefusal::DiskFull);
        }
        let at = self.index(partition).filter(|&at| self.partitions[at].ready);
        let at = at.ok_or(LogRefusal::Recovering)?;
        let cost = order::cost(events.bytes.len(), events.len());
        if cost > BODY_BYTES_MAX {
            let why = format!("{cost} bytes are more than the log takes at once");
            return Err(LogRefusal::DiskFailed(why));
        }
        let unsynced = self.partitions[at].unsynced() + events.len() as u64;
        // Publishers that wait to hear are slowed by that, others by nothing: these leave the last quarter to those.
        let unsynced_bytes_max = match settings.unsynced_bytes_max {
            max if is_awaited => max,
            max => max - max / 4,
        };
        if self.order.unsynced_bytes() + cost > unsynced_bytes_max || unsynced > UNSYNCED_OFFSETS_MAX {
            return Err(LogRefusal::Behind);
        }
        if class.once {
            // More than come, so that what is old goes, and as many as have to go, but not millions behind a pause.
            let over = (self.once.len() + events.len()).saturating_sub(settings.once_ids_max);
            let before_ms = self.unix_ms.saturating_sub(settings.once_ms.into());
            self.once.expire(before_ms, over.max(2 * events.len()));
            if self.once.len() + events.len() > settings.once_ids_max {
                return Err(LogRefusal::TooManyIds);
            }
            if self.again.waiting.len() + events.len() > AGAIN_MAX {
                return Err(LogRefusal::Behind);
            }
        }
        if class.retain
            && self.rows + events.len() > settings.rows_max
            && self.rows + self.new_rows(at, events) > settings.rows_max
        {
            return Err(LogRefusal::TooManyRows);
        }
        Ok(at)
    }

    /// How many rows there would be more with these events.
    fn new_rows(&self, at: usize, events: &Events) -> usize {
        let retained = self.partitions[at].retained.as_deref();
        let none = Retained::new(self.hasher.clone());
        let retained = retained.unwrap_or(&none);
        let mut new: Vec<u64> = (0..events.len())
            .filter_map(|event| retained.new_row(&row_of(events.get(event))?))
            .collect();
        new.sort_unstable();
        new.dedup();
        new.len()
    }

    /// Counts the rows that come with these events, though nothing is seen of them before they are committed.
    fn expect_rows(&mut self, at: usize, events: &Events) {
        let hasher = &self.hasher;
        let retained = &mut self.partitions[at].retained;
        let retained = retained.get_or_insert_with(|| Box::new(Retained::new(hasher.clone())));
        for event in 0..events.len() {
            let is_new = row_of(events.get(event)).is_some_and(|row| retained.expect(&row));
            self.rows += usize::from(is_new);
        }
    }

    /// Remembers the ids of events that are to begin at this offset, and leaves those out that are remembered already: their
    /// publishers hear where the first is.
    fn without_duplicates(
        &mut self,
        partition: u16,
        at: usize,
        first: u64,
        events: Events,
        from: Option<PeerId>,
    ) -> Events {
        let once_ms = self.settings.as_ref().map_or(0, |settings| settings.once_ms);
        let since_ms = self.unix_ms.saturating_sub(once_ms.into());
        let mut fresh = 0;
        let mut copy: Option<(BytesMut, Vec<u32>)> = None;
        for event in 0..events.len() {
            let id = events.id(event);
            if let Some(offset) = self
                .once
                .insert(partition, id, first + fresh, self.unix_ms, since_ms)
            {
                if copy.is_none() {
                    let before = events.slice(0..event);
                    copy = Some((BytesMut::from(&before.bytes[..]), before.ends.to_vec()));
                }
                self.duplicates += 1;
                let Some(from) = from else { continue };
                if offset <= self.partitions[at].committed {
                    self.settled.push_back(Settled::Again {
                        from,
                        id,
                        partition,
                        offset,
                    });
                } else {
                    self.again.wait(partition, offset, (from, id));
                }
                continue;
            }
            fresh += 1;
            if let Some((bytes, ends)) = &mut copy {
                bytes.extend_from_slice(events.get(event));
                ends.push(bytes.len() as u32);
            }
        }
        match copy {
            None => events,
            Some((bytes, ends)) => Events {
                bytes: Bytes::from(bytes),
                ends: Arc::from(ends),
            },
        }
    }

    /// Commits what can be committed of a partition.
    pub(super) fn commit(&mut self, at: usize) {
        let number = self.number(at);
        let partition = &mut self.partitions[at];
        let before = partition.committed;
        while let Some(run) = partition.tail.commit_next(self.order.reached()) {
            partition.committed = run.last();
            if run.class.retain {
                let retained = partition
                    .retained
                    .get_or_insert_with(|| Box::new(Retained::new(self.hasher.clone())));
                self.rows -= retained.len();
                for event in 0..run.events.len() {
                    if let Some(row) = row_of(run.events.get(event)) {
                        retained.apply(run.first + event as u64, run.time_ms, row);
                    }
                }
                self.rows += retained.len();
            }
            self.committed.push_back(Committed {
                partition: number,
                stored: run.stored(),
                class: run.class,
            });
            if let Some(from) = run.from.take() {
                self.settled.push_back(Settled::Stored {
                    from,
                    partition: number,
                    first: run.first,
                    events: run.events.clone(),
                });
            }
        }
        let committed = partition.committed;
        if committed > before && !self.again.waiting.is_empty() {
            self.again.settle(number, committed, &mut self.settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_wait_for_their_first_alone() {
        let peer = |slot| PeerId {
            slot,
            generation: 0,
            core: 0,
        };
        let mut again = Again::default();
        for (slot, (partition, offset)) in [(1, 9), (1, 5), (0, 5), (2, 1), (1, 5)].into_iter().enumerate() {
            again.wait(partition, offset, (peer(slot as u32), Id([slot as u8; 16])));
        }
        let mut settled = VecDeque::new();
        let mut settle = |partition, committed| {
            again.settle(partition, committed, &mut settled);
            let slots = settled.drain(..).map(|settled| match settled {
                Settled::Again { from, id, offset, .. } => {
                    assert_eq!(id, Id([from.slot as u8; 16]));
                    (from.slot, offset)
                }
                other => panic!("{other:?}"),
            });
            slots.collect::<Vec<_>>()
        };
        assert_eq!(settle(1, 4), []);
        assert_eq!(settle(1, 8), [(1, 5), (4, 5)], "in the order in which they came");
        assert_eq!(settle(1, 9), [(0, 9)]);
        assert_eq!(settle(1, u64::MAX), []);
        assert_eq!(settle(0, 5), [(2, 5)]);
        assert_eq!(settle(2, 1), [(3, 1)]);
        assert!(again.waiting.is_empty());
    }
}
