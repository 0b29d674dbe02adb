//! How far a subscription to logged events has come: what was received, what is done with, what the gateway was told.
//!
//! Pure state, one for each such subscription, kept across its connections. A plain subscription acknowledges
//! cumulatively in each partition, so an event that is done with is told when all before it are. A member of a group
//! acknowledges exactly the events that it names. Positions that were received before are not handed over again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{Cursor, Position};

/// Acknowledgements leave at once when so much is done with: an eighth of what a gateway usually lets be under way.
const UNTOLD_BYTES_MAX: usize = 32 * 1024;
/// Two epochs of the same logs differ in these bits only: they count the starts of the gateway [P-5.11].
const EPOCH_STARTS_BITS: u32 = 20;

/// What a subscription is to do after an event was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Tell the gateway at once.
    Now,
    /// In a moment: others will follow.
    Soon,
    /// Somebody does already, or there is nothing to tell.
    Nothing,
}

/// An acknowledgement that is due: one offset up to which all is done with, or, in a group, those that are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) partition: u16,
    /// Ascending, not empty.
    pub(crate) offsets: Vec<u64>,
}

/// The logs at the other end are not those that this subscription began in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OtherLogs {
    pub(crate) before: u64,
    pub(crate) now: u64,
}

#[derive(Debug, Default)]
struct Partition {
    /// The last position that was received, or that the gateway moved on to. Not used in a group.
    received: u64,
    /// Everything up to here is done with.
    acked: u64,
    /// How far the gateway knows.
    told: u64,
    /// Received and not covered by `acked`, ascending; true: done with.
    open: VecDeque<(u64, bool)>,
    /// In a group: handed over and not done with.
    dealt: BTreeSet<u64>,
    /// In a group: done with, and not told.
    done: BTreeSet<u64>,
    /// Of a subscription to a table: the table ends here. 0 where none comes.
    table_until: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    /// A member of a group.
    is_exact: bool,
    /// The last kept events come first, whatever their positions.
    is_table: bool,
    /// The gateway keeps its cursor, which another holder of the name can have moved.
    is_durable: bool,
    /// The partitions in which it last asked for a place by its position: no table comes there [P-5.12].
    named: BTreeSet<u16>,
    /// Known once it was accepted.
    epoch: Option<u64>,
    /// How often it was asked for.
    generation: u64,
    partitions: BTreeMap<u16, Partition>,
    /// Events handed over and not done with.
    open: usize,
    untold_bytes: usize,
    /// Somebody tells the gateway soon.
    is_telling: bool,
    /// An event of this connection was passed over, so what follows is not received either.
    is_cut: bool,
}

impl Partition {
    /// Another holder of the name has acknowledged everything up to here: what of it waits is not to be handled again.
    /// Returns how many events that were.
    fn pass(&mut self, to: u64) -> usize {
        let mut passed = 0;
        for (_, is_done) in self.open.iter_mut().take_while(|open| open.0 <= to) {
            passed += usize::from(!std::mem::replace(is_done, true));
        }
        self.received = self.received.max(to);
        self.acked = self.acked.max(to);
        self.close();
        passed
    }

    /// Moves on over what is done with.
    fn close(&mut self) {
        while let Some(&(offset, true)) = self.open.front() {
            self.acked = self.acked.max(offset);
            self.open.pop_front();
        }
    }
}

impl Progress {
    pub(crate) fn new(is_exact: bool, is_table: bool, is_durable: bool) -> Self {
        Self {
            is_exact,
            is_table,
            is_durable,
            named: BTreeSet::new(),
            epoch: None,
            generation: 0,
            partitions: BTreeMap::new(),
            open: 0,
            untold_bytes: 0,
            is_telling: false,
            is_cut: false,
        }
    }

    /// Whether the other side has accepted it before.
    pub(crate) fn is_begun(&self) -> bool {
        self.epoch.is_some()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// It is asked for on a connection.
    pub(crate) fn asked(&mut self) {
        self.generation += 1;
        self.is_cut = false;
        if self.is_exact {
            // What is not acknowledged goes to other members.
            for partition in self.partitions.values_mut() {
                self.open -= partition.dealt.len();
                partition.dealt.clear();
            }
        }
    }

    /// What is asked for begins behind these places, or behind none in particular.
    pub(crate) fn begins_behind(&mut self, places: &[Position]) {
        self.named = places.iter().map(|place| place.partition).collect();
    }

    /// Its session goes on over another connection. Of a plain one what was not acknowledged comes again; what a member of
    /// a group had went to others, and perhaps to this one once more.
    pub(crate) fn resumed(&mut self) {
        self.asked();
    }

    /// The other side has accepted it: `at` is the last place before it begins, of each partition that it covers.
    pub(crate) fn accepted(
        &mut self,
        epoch: u64,
        at: impl Iterator<Item = Position>,
    ) -> Result<Tell, OtherLogs> {
        if let Some(before) = self.epoch
            && before >> EPOCH_STARTS_BITS != epoch >> EPOCH_STARTS_BITS
        {
            return Err(OtherLogs { before, now: epoch });
        }
        let is_first = self.epoch.replace(epoch).is_none();
        for at in at {
            // Where a table comes, `at` is where it ends, and its rows are before that.
            let has_table = self.is_table && !self.named.contains(&at.partition);
            let is_known = !is_first && self.partitions.contains_key(&at.partition);
            let partition = self.partitions.entry(at.partition).or_default();
            if has_table {
                partition.table_until = at.offset;
                // Each row is to be acknowledged: the gateway has heard of none that is not.
                partition.told = at.offset.min(partition.acked);
                continue;
            }
            partition.told = at.offset;
            if !is_known {
                partition.received = partition.received.max(at.offset);
                partition.acked = partition.acked.max(at.offset);
            } else if self.is_durable && !self.is_exact && !self.is_table {
                self.open -= partition.pass(at.offset);
            }
        }
        Ok(self.tell())
    }

    /// An event has come. `Err` if it is not to be handed over: it was received before.
    pub(crate) fn receive(&mut self, at: Position) -> Result<(), Tell> {
        if self.is_cut {
            return Err(Tell::Nothing);
        }
        let partition = self.partitions.entry(at.partition).or_default();
        if self.is_exact {
            if partition.done.contains(&at.offset) {
                return Err(Tell::Now); // it was given up there before that was told
            }
            let is_new = partition.dealt.insert(at.offset);
            self.open += usize::from(is_new);
            return if is_new { Ok(()) } else { Err(Tell::Nothing) };
        }
        if at.offset <= partition.received {
            if at.offset > partition.acked {
                return Err(Tell::Nothing); // it is told when it is done with
            }
            // The gateway does not know that it is.
            partition.told = partition.told.min(at.offset.saturating_sub(1));
            return Err(self.tell());
        }
        partition.received = at.offset;
        partition.open.push_back((at.offset, false));
        self.open += 1;
        Ok(())
    }

    /// An event had to be passed over, because the connection ends: what follows on it is not received either.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// There is nothing for this subscription up to here.
    pub(crate) fn moved(&mut self, to: Position) {
        let partition = self.partitions.entry(to.partition).or_default();
        if self.is_exact || to.offset <= partition.received {
            return;
        }
        partition.received = to.offset;
        if partition.open.is_empty() {
            partition.acked = to.offset;
            partition.told = to.offset; // the gateway said so itself
        } else {
            partition.open.push_back((to.offset, true));
        }
    }

    /// Whether an event that waited in the queue is still this subscription's to handle: in a group another member may have
    /// it by now, and of a durable one another holder of the name may have acknowledged it.
    pub(crate) fn is_current(&self, at: Position, generation: u64) -> bool {
        let Some(partition) = self.partitions.get(&at.partition) else {
            return false;
        };
        if self.is_exact {
            return generation == self.generation && partition.dealt.contains(&at.offset);
        }
        let found = partition.open.binary_search_by_key(&at.offset, |open| open.0);
        found.is_ok_and(|found| !partition.open[found].1)
    }

    /// An event is done with.
    pub(crate) fn ack(&mut self, at: Position, bytes: usize) -> Tell {
        let Some(partition) = self.partitions.get_mut(&at.partition) else {
            return Tell::Nothing;
        };
        if self.is_exact {
            self.open -= usize::from(partition.dealt.remove(&at.offset));
            partition.done.insert(at.offset); // late ones count as well
        } else {
            let Ok(found) = partition.open.binary_search_by_key(&at.offset, |open| open.0) else {
                return Tell::Nothing;
            };
            if std::mem::replace(&mut partition.open[found].1, true) {
                return Tell::Nothing;
            }
            self.open -= 1;
            partition.close();
        }
        self.untold_bytes += bytes;
        self.tell()
    }

    /// An event was given up without an acknowledgement: if it comes again, it is handed over again.
    pub(crate) fn release(&mut self, at: Position, generation: u64) {
        if self.is_exact
            && generation == self.generation
            && let Some(partition) = self.partitions.get_mut(&at.partition)
        {
            self.open -= usize::from(partition.dealt.remove(&at.offset));
        }
    }

    fn tell(&mut self) -> Tell {
        if self.untold_bytes >= UNTOLD_BYTES_MAX || self.open == 0 {
            Tell::Now
        } else if std::mem::replace(&mut self.is_telling, true) {
            Tell::Nothing
        } else {
            Tell::Soon
        }
    }

    /// What the gateway is to be told now. It counts as told; a new connection begins with what its acceptance says.
    pub(crate) fn take_acks(&mut self) -> Vec<Ack> {
        self.is_telling = false;
        self.untold_bytes = 0;
        let mut acks = Vec::new();
        if self.epoch.is_none() {
            return acks;
        }
        for (&number, partition) in &mut self.partitions {
            let offsets: Vec<u64> = if self.is_exact {
                std::mem::take(&mut partition.done).into_iter().collect()
            } else if partition.told < partition.acked {
                partition.told = partition.acked;
                vec![partition.acked]
            } else {
                Vec::new()
            };
            if !offsets.is_empty() {
                acks.push(Ack {
                    partition: number,
                    offsets,
                });
            }
        }
        acks
    }

    /// What was received: from there on a new connection goes on, since what is not done with waits in this process. Of a
    /// table, partitions are left out of which not all may have come: those begin anew, and what comes again is passed
    /// over.
    pub(crate) fn received(&self) -> Option<Cursor> {
        let is_whole = |partition: &Partition| partition.received >= partition.table_until;
        self.cursor_of(|partition| is_whole(partition).then_some(partition.received))
    }

    /// What is done with. Of a table, partitions are left out in which it is not behind the table: who goes on there is
    /// given the table again, and misses nothing.
    pub(crate) fn acked(&self) -> Option<Cursor> {
        let is_whole = |partition: &Partition| partition.acked >= partition.table_until;
        self.cursor_of(|partition| is_whole(partition).then_some(partition.acked))
    }

    fn cursor_of(&self, offset: impl Fn(&Partition) -> Option<u64>) -> Option<Cursor> {
        let at = self.partitions.iter().filter_map(|(&number, partition)| {
            Some(Position {
                partition: number,
                offset: offset(partition)?,
            })
        });
        Some(Cursor {
            epoch: self.epoch?,
            at: at.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 77 << EPOCH_STARTS_BITS;

    fn at(partition: u16, offset: u64) -> Position {
        Position { partition, offset }
    }

    fn begun(is_exact: bool, places: &[Position]) -> Progress {
        let mut progress = Progress::new(is_exact, false, false);
        progress.asked();
        progress.accepted(EPOCH, places.iter().copied()).unwrap();
        progress
    }

    fn told(progress: &mut Progress) -> Vec<(u16, Vec<u64>)> {
        let acks = progress.take_acks().into_iter();
        acks.map(|ack| (ack.partition, ack.offsets)).collect()
    }

    #[test]
    fn acknowledgements_are_cumulative_and_never_pass_an_event_that_is_open() {
        let mut progress = begun(false, &[at(3, 10), at(4, 0)]);
        for offset in [11, 12, 20] {
            assert!(progress.receive(at(3, offset)).is_ok());
        }
        assert!(progress.receive(at(4, 1)).is_ok());
        assert_eq!(progress.ack(at(3, 12), 64), Tell::Soon);
        assert_eq!(told(&mut progress), [], "11 is open");
        assert_eq!(progress.ack(at(3, 12), 64), Tell::Nothing, "once is enough");
        assert_eq!(progress.ack(at(3, 11), 64), Tell::Soon);
        assert_eq!(told(&mut progress), [(3, vec![12])]);
        assert_eq!(progress.ack(at(4, 1), 64), Tell::Soon);
        assert_eq!(
            progress.ack(at(3, 20), 64),
            Tell::Now,
            "nothing is left to wait for"
        );
        assert_eq!(told(&mut progress), [(3, vec![20]), (4, vec![1])]);
        assert_eq!(told(&mut progress), []);
    }

    #[test]
    fn much_that_is_done_with_is_told_at_once() {
        let mut progress = begun(false, &[at(0, 0)]);
        for offset in 1..=100 {
            progress.receive(at(0, offset)).unwrap();
        }
        assert_eq!(progress.ack(at(0, 1), 1000), Tell::Soon);
        let now = (2..=100).find(|&offset| progress.ack(at(0, offset), 1000) == Tell::Now);
        assert_eq!(now, Some(33));
        assert_eq!(told(&mut progress), [(0, vec![33])]);
        assert_eq!(progress.ack(at(0, 34), 1000), Tell::Soon, "and counted anew");
    }

    #[test]
    fn what_was_received_does_not_come_twice_and_is_acknowledged_again() {
        let mut progress = begun(false, &[at(0, 0)]);
        for offset in 1..=3 {
            assert!(progress.receive(at(0, offset)).is_ok());
        }
        progress.ack(at(0, 1), 64);
        assert_eq!(told(&mut progress), [(0, vec![1])]);
        progress.ack(at(0, 2), 64);

        // A new connection: the durable cursor there is still at 0.
        progress.asked();
        progress.accepted(EPOCH + 1, [at(0, 0)].into_iter()).unwrap();
        for offset in 1..=3 {
            assert!(progress.receive(at(0, offset)).is_err(), "{offset}");
        }
        assert!(progress.receive(at(0, 4)).is_ok());
        assert_eq!(told(&mut progress), [(0, vec![2])]);
        assert_eq!(progress.received().unwrap().at, [at(0, 4)]);
        assert_eq!(
            progress.acked().unwrap().to_string(),
            format!("{}:0@2", EPOCH + 1)
        );
        // An acknowledgement that got lost is made good when the event comes again.
        assert!(progress.receive(at(0, 2)).is_err());
        assert_eq!(told(&mut progress), [(0, vec![2])]);
    }

    #[test]
    fn other_logs_are_no_continuation() {
        let mut progress = begun(false, &[at(0, 500)]);
        progress.asked();
        let other = EPOCH + (1 << EPOCH_STARTS_BITS);
        assert_eq!(
            progress.accepted(other, [at(0, 0)].into_iter()),
            Err(OtherLogs {
                before: EPOCH,
                now: other
            })
        );
    }

    #[test]
    fn a_quiet_partition_moves_on() {
        let mut progress = begun(false, &[at(0, 5)]);
        progress.moved(at(0, 90));
        assert_eq!(told(&mut progress), [], "the gateway said so itself");
        assert_eq!(progress.acked().unwrap().at, [at(0, 90)]);
        assert!(progress.receive(at(0, 95)).is_ok());
        progress.moved(at(0, 120));
        assert_eq!(progress.acked().unwrap().at, [at(0, 90)], "95 is open");
        progress.ack(at(0, 95), 64);
        assert_eq!(told(&mut progress), [(0, vec![120])]);
    }

    #[test]
    fn a_table_comes_before_what_is_live() {
        let mut progress = Progress::new(false, true, false);
        progress.asked();
        progress.accepted(EPOCH, [at(0, 50)].into_iter()).unwrap();
        assert_eq!(progress.received().unwrap().at, [], "the table begins anew");
        assert_eq!(progress.receive(at(0, 7)), Ok(()));
        assert_eq!(progress.receive(at(0, 50)), Ok(()));
        assert_eq!(progress.received().unwrap().at, [at(0, 50)]);
        assert!(progress.receive(at(0, 51)).is_ok());
    }

    #[test]
    fn each_row_of_a_table_is_acknowledged() {
        let mut progress = Progress::new(false, true, false);
        progress.asked();
        progress
            .accepted(EPOCH, [at(0, 50), at(1, 60)].into_iter())
            .unwrap();
        for offset in [7, 30] {
            progress.receive(at(0, offset)).unwrap();
            progress.ack(at(0, offset), 64);
        }
        assert_eq!(told(&mut progress), [(0, vec![30])]);
        assert_eq!(progress.acked().unwrap().at, [], "neither table is whole");

        // It begins anew, until a later place.
        progress.asked();
        progress
            .accepted(EPOCH, [at(0, 80), at(1, 60)].into_iter())
            .unwrap();
        assert!(progress.receive(at(0, 30)).is_err(), "it was received");
        assert_eq!(told(&mut progress), [(0, vec![30])]);
        progress.receive(at(0, 55)).unwrap();
        progress.ack(at(0, 55), 64);
        assert_eq!(told(&mut progress), [(0, vec![55])]);
        assert_eq!(progress.received().unwrap().at, [], "55 may not be the last row");
        progress.receive(at(0, 81)).unwrap();
        progress.ack(at(0, 81), 64);
        assert_eq!(progress.acked().unwrap().at, [at(0, 81)]);
    }

    #[test]
    fn where_a_position_is_named_no_table_comes() {
        let mut progress = Progress::new(false, true, false);
        progress.asked();
        progress.begins_behind(&[at(0, 50)]);
        progress
            .accepted(EPOCH, [at(0, 50), at(1, 60)].into_iter())
            .unwrap();
        assert_eq!(progress.acked().unwrap().at, [at(0, 50)]);
        assert_eq!(progress.received().unwrap().at, [at(0, 50)]);
    }

    #[test]
    fn what_another_holder_of_the_name_acknowledged_is_passed_over() {
        let mut progress = Progress::new(false, false, true);
        progress.asked();
        progress.accepted(EPOCH, [at(0, 10)].into_iter()).unwrap();
        for offset in 11..=17 {
            progress.receive(at(0, offset)).unwrap();
        }
        progress.ack(at(0, 13), 64);
        let generation = progress.generation();
        progress.asked();
        progress.accepted(EPOCH, [at(0, 15)].into_iter()).unwrap();
        let is_current = |offset| progress.is_current(at(0, offset), generation);
        assert_eq!(
            (11..=17).map(is_current).collect::<Vec<_>>(),
            [false, false, false, false, false, true, true]
        );
        assert_eq!(told(&mut progress), []);
        assert_eq!(progress.ack(at(0, 11), 64), Tell::Nothing, "it was being handled");
        assert_eq!(progress.ack(at(0, 16), 64), Tell::Soon);
        assert_eq!(progress.ack(at(0, 17), 64), Tell::Now, "none is open");
        assert_eq!(told(&mut progress), [(0, vec![17])]);
    }

    #[test]
    fn in_a_group_exactly_what_is_done_with_is_acknowledged() {
        let mut progress = begun(true, &[]);
        for offset in [5, 6, 9] {
            assert!(progress.receive(at(1, offset)).is_ok());
        }
        assert!(progress.receive(at(1, 6)).is_err(), "it is being handled");
        assert_eq!(progress.ack(at(1, 9), 64), Tell::Soon);
        progress.ack(at(1, 5), 64);
        assert_eq!(told(&mut progress), [(1, vec![5, 9])]);
        let generation = progress.generation();
        progress.release(at(1, 6), generation);
        assert!(progress.receive(at(1, 6)).is_ok(), "it was given up");
        assert!(progress.is_current(at(1, 6), generation));

        progress.asked();
        assert!(
            !progress.is_current(at(1, 6), generation),
            "another member has it now"
        );
        assert!(progress.receive(at(1, 6)).is_ok(), "or this one, once more");
        progress.release(at(1, 6), generation);
        assert!(
            progress.is_current(at(1, 6), generation + 1),
            "the old one says nothing about it"
        );
        assert_eq!(progress.ack(at(1, 6), 64), Tell::Now);
        assert_eq!(
            progress.receive(at(1, 6)),
            Err(Tell::Now),
            "it is done with, which was not told yet"
        );
        assert_eq!(told(&mut progress), [(1, vec![6])]);
        assert!(progress.receive(at(1, 6)).is_ok(), "what was told got lost");
    }

    #[test]
    fn behind_a_cut_nothing_is_received() {
        let mut progress = begun(false, &[at(0, 0)]);
        assert!(progress.receive(at(0, 1)).is_ok());
        progress.cut();
        assert!(progress.receive(at(0, 3)).is_err());
        progress.asked();
        progress.accepted(EPOCH, [at(0, 1)].into_iter()).unwrap();
        assert!(progress.receive(at(0, 2)).is_ok());
    }
}
