//! One work queue on the core that owns some of its partitions, and how its events are dealt to its members.
//!
//! A step takes one partition, in turn, and the first of: an event that was given too often is set aside; what is to be
//! given again is given again; what was read is dealt; more is read. Steps go on until no member has room, nothing is left,
//! or everything waits for the disk.

use std::collections::{BTreeSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use fluxar_protocol::envelope::compact::topic_bytes_of;
use fluxar_protocol::{Position, target};

use super::aside::{DeadLetter, dead_letter};
use super::ledger::MemberKey;
use super::letters::{Matter, QueueLetter};
use super::lot::{Broken, Lot, Purpose, broken_by};
use super::members::{Member, Members};
use super::source::Source;
use crate::limits::{QUEUE_AHEAD_BYTES_MAX, QUEUE_ENTRIES_MAX};
use crate::log::class::{TopicTerms, terms_of};
use crate::log::{CursorName, Events, ReaderId, Reading, Settings, Stored};
use crate::logged::pieces::{Cutter, topic_of};

/// What is read at a time, bytes.
const READ_BYTES: usize = 60 * 1024;
/// A read that failed is tried again after so long, us.
const RETRY_US: u64 = 1_000_000;
/// Marks the readers of work queues among those of the log.
pub(crate) const QUEUE_READERS: u64 = 1 << 63;

/// What dealing needs of its surroundings, and where it puts what comes of it.
pub(crate) struct Desk<'a> {
    /// The queue's number on this core.
    pub(crate) key: u32,
    pub(crate) settings: &'a Settings,
    pub(crate) now_us: u64,
    pub(crate) unix_ms: u64,
    /// Events that were read and not given, of all queues, bytes.
    pub(crate) ahead_bytes: &'a mut usize,
    pub(crate) letters: &'a mut VecDeque<QueueLetter>,
    /// Events to be set aside: partition, offset and the letter.
    pub(crate) asides: &'a mut Vec<(u16, u64, DeadLetter)>,
    pub(crate) given_up: &'a mut VecDeque<GivenUp>,
}

/// An event that no member could handle, and for which no dead-letter topic is named: it is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The queue.
    pub queue: Arc<CursorName>,
    /// The event's topic.
    pub topic: Box<str>,
    /// Where it is.
    pub at: Position,
    /// How often it was given.
    pub deliveries: u32,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: Arc<CursorName>,
    /// Which tenant of its number.
    pub(crate) serial: u64,
    /// The number of the rest that it takes, or took last.
    pub(crate) rested: u64,
    /// Among the patterns of queues with members.
    pub(crate) pattern: u32,
    pub(crate) members: Members,
    /// Those that have joined and were not told: the queue's place is not on the disk yet. Nothing is given out until it is.
    pub(crate) untold: BTreeSet<MemberKey>,
    /// Ascending by partition.
    pub(crate) lots: Vec<Lot>,
    next_lot: usize,
    pub(crate) is_dirty: bool,
    /// When its cursors were last said to be in use, us.
    pub(crate) touched_us: u64,
    terms: LastTopic,
}

/// What was found for the topic that was looked at last: events of one topic stand together.
#[derive(Debug, Default)]
struct LastTopic {
    topic: String,
    matches: bool,
    terms: TopicTerms,
}

/// An event that was looked at: given, or done with at once.
struct Pick {
    /// Which of the runs that were read.
    run: usize,
    /// Where in it.
    place: Range<usize>,
    offset: u64,
    /// `None`: it has expired, or was done in an earlier life.
    deliveries_max: Option<u32>,
}

impl Queue {
    pub(crate) fn new(name: Arc<CursorName>, serial: u64, lots: Vec<Lot>) -> Self {
        Self {
            name,
            serial,
            rested: 0,
            pattern: 0,
            members: Members::default(),
            untold: BTreeSet::new(),
            lots,
            next_lot: 0,
            is_dirty: false,
            touched_us: 0,
            terms: LastTopic::default(),
        }
    }

    /// The lot of a partition.
    pub(crate) fn lot(&mut self, partition: u16) -> Option<&mut Lot> {
        let at = self
            .lots
            .binary_search_by_key(&partition, |lot| lot.partition)
            .ok()?;
        Some(&mut self.lots[at])
    }

    /// Whether the queue goes on where it stands, or before that, if the process ends now.
    pub(crate) fn is_safe(&self, log: &impl Source) -> bool {
        self.lots
            .iter()
            .all(|lot| log.is_cursor_safe(lot.partition, &self.name, lot.ledger.floor()))
    }

    pub(crate) fn reader(&self, key: u32, partition: u16) -> ReaderId {
        ReaderId(QUEUE_READERS | (u64::from(key) << 16) | u64::from(partition))
    }

    /// Gives out what can be given. `Break`: a partition cannot go on, and with it the queue.
    pub(crate) fn pump(&mut self, desk: &mut Desk<'_>, log: &mut impl Source) -> ControlFlow<(u16, Broken)> {
        let mut idle = 0;
        let mut is_missed = false;
        while idle < self.lots.len() {
            let before = self.members.room();
            let at = self.next_lot % self.lots.len();
            self.next_lot = at + 1;
            if self.step(at, desk, log)? {
                idle = 0;
            } else {
                idle += 1;
            }
            is_missed |= self.members.room() < before;
        }
        let Self { members, lots, .. } = self;
        if *desk.ahead_bytes > QUEUE_AHEAD_BYTES_MAX {
            for lot in lots.iter_mut() {
                *desk.ahead_bytes -= lot.drop_ahead();
            }
        }
        let reads = lots.iter().any(Lot::reads_to_give);
        is_missed |= lots.iter().any(|lot| lot.has_work(desk.now_us));
        let mut told = Vec::new();
        members.settle(
            is_missed,
            reads,
            |member, lot, offset| lots[lot].ledger.is_with(offset, member),
            |news| told.push(news),
        );
        for news in told {
            let member = members.get(news.member);
            desk.letters.push_back(QueueLetter {
                member: member.name,
                matter: Matter::Spare {
                    spare: news.spare,
                    short: news.short,
                },
            });
        }
        ControlFlow::Continue(())
    }

    /// What a member has goes to others. How many events it was.
    pub(crate) fn lose(&mut self, member: MemberKey) -> u32 {
        let held = self.members.take_held(member);
        let lots = &mut self.lots;
        let lost = held
            .into_iter()
            .filter(|&(lot, offset)| lots[usize::from(lot)].ledger.lose(offset, member));
        lost.count() as u32
    }

    /// What was read from the disk has come.
    pub(crate) fn read_done(
        &mut self,
        partition: u16,
        reading: Reading,
        desk: &mut Desk<'_>,
    ) -> ControlFlow<(u16, Broken)> {
        let Ok(at) = self.lots.binary_search_by_key(&partition, |lot| lot.partition) else {
            return ControlFlow::Continue(());
        };
        if let Some(purpose) = self.lots[at].reading.take() {
            self.took(at, purpose, reading, desk)?;
        }
        ControlFlow::Continue(())
    }

    /// One step with one lot; whether something came of it.
    fn step(
        &mut self,
        at: usize,
        desk: &mut Desk<'_>,
        log: &mut impl Source,
    ) -> ControlFlow<(u16, Broken), bool> {
        let lot = &self.lots[at];
        if lot.reading.is_some() || lot.broken.is_some() || lot.retry_us > desk.now_us {
            return ControlFlow::Continue(false);
        }
        let has_room = self.members.room() > 0;
        let purpose = if let Some(offset) = lot.ledger.next_spent().filter(|_| lot.aside.is_none()) {
            Purpose::Spent(offset)
        } else if let Some(offset) = lot.ledger.next_again(0).filter(|_| has_room) {
            Purpose::Again(offset)
        } else if lot.ledger.room() == 0 || (lot.has_more && !has_room) {
            // Without room it is looked at all the same, until it is known whether there is anything to ask for room for.
            return ControlFlow::Continue(false);
        } else if !lot.ahead.is_empty() {
            self.deal_new(at, desk);
            return ControlFlow::Continue(true);
        } else if lot.is_quiet {
            return ControlFlow::Continue(false);
        } else {
            Purpose::New
        };
        let after = match purpose {
            Purpose::New => lot.ledger.read(),
            Purpose::Again(offset) | Purpose::Spent(offset) => offset - 1,
        };
        let reader = self.reader(desk.key, lot.partition);
        match log.read(reader, lot.partition, after, READ_BYTES) {
            Reading::Later => {
                self.lots[at].reading = Some(purpose);
                ControlFlow::Continue(false)
            }
            reading => self.took(at, purpose, reading, desk),
        }
    }

    /// Something was read; whether anything came of it.
    fn took(
        &mut self,
        at: usize,
        purpose: Purpose,
        reading: Reading,
        desk: &mut Desk<'_>,
    ) -> ControlFlow<(u16, Broken), bool> {
        let lot = &mut self.lots[at];
        if let Some(broken) = broken_by(&reading) {
            lot.broken = Some(broken);
            return ControlFlow::Break((lot.partition, broken));
        }
        let came = match (purpose, reading) {
            (Purpose::New, Reading::End) => {
                lot.is_quiet = true;
                lot.has_more = false;
                return ControlFlow::Continue(false);
            }
            (Purpose::New, Reading::Events { stored, until }) if until > lot.ledger.read() => {
                lot.ahead_until = until;
                *desk.ahead_bytes += lot.take_ahead(stored);
                if lot.ahead.is_empty() {
                    lot.ledger.pass(until);
                }
                true
            }
            (Purpose::Again(offset), Reading::Events { stored, until }) if until >= offset => {
                self.deal_again(at, offset, &stored, until, desk);
                true
            }
            (Purpose::Spent(offset), Reading::Events { stored, until }) if until >= offset => {
                self.set_aside(at, offset, &stored, desk);
                true
            }
            // It could not be read, or what was given once is not there: the log will say more.
            _ => {
                lot.retry_us = desk.now_us + RETRY_US;
                false
            }
        };
        ControlFlow::Continue(came)
    }

    /// Deals what was read, as far as there is room.
    fn deal_new(&mut self, at: usize, desk: &mut Desk<'_>) {
        let Self {
            name,
            members,
            lots,
            terms,
            ..
        } = self;
        let lot = &mut lots[at];
        lot.has_more = false;
        let room = members.room().min(lot.ledger.room());
        let mut picks = Vec::new();
        let mut given = 0;
        let mut left = None;
        'runs: for (run, ahead) in lot.ahead.iter().enumerate() {
            let (mut nth, mut offset) = (ahead.nth, ahead.offset);
            while nth < ahead.stored.events.len() {
                let event = ahead.stored.events.get(nth);
                if terms.look(event, name, desk.settings) {
                    let is_done =
                        lot.ledger.is_restored(offset) || ahead.stored.has_expired(event, desk.unix_ms);
                    if (given == room && !is_done) || picks.len() == QUEUE_ENTRIES_MAX {
                        lot.has_more = true;
                        left = Some((run, nth, offset));
                        break 'runs;
                    }
                    given += usize::from(!is_done);
                    picks.push(Pick {
                        run,
                        place: place_of(&ahead.stored.events, nth),
                        offset,
                        deliveries_max: (!is_done).then_some(terms.terms.deliveries_max),
                    });
                }
                (nth, offset) = ahead.behind(nth, offset);
            }
        }
        let mut shares: Vec<(MemberKey, usize)> = Vec::new();
        members.deal(given, |key, events| shares.push((key, events)));
        for &(key, events) in &shares {
            members.take(key, events as u32);
        }
        let due_us = desk.due_us();
        let mut drafts = Drafts::new(lot.partition);
        let mut shares = shares.into_iter();
        let (mut member, mut share) = (MemberKey::MAX, 0);
        for pick in picks {
            let Some(deliveries_max) = pick.deliveries_max else {
                lot.ledger.skip(pick.offset);
                continue;
            };
            if share == 0 {
                (member, share) = shares.next().unwrap_or((member, usize::MAX));
            }
            share -= 1;
            let dup = lot.ledger.give_new(pick.offset, deliveries_max, member, due_us);
            members.hold(member, at, pick.offset);
            let stored = &lot.ahead[pick.run].stored;
            drafts.add(
                members.get_mut(member),
                member,
                dup,
                stored,
                pick.place,
                pick.offset,
            );
        }
        drafts.send(members, desk);
        match left {
            Some((run, nth, offset)) => {
                *desk.ahead_bytes -= lot.ahead_bytes;
                lot.keep_behind(run);
                *desk.ahead_bytes += lot.ahead_bytes;
                if let Some(first) = lot.ahead.front_mut() {
                    (first.nth, first.offset) = (nth, offset);
                }
            }
            None => {
                *desk.ahead_bytes -= lot.drop_ahead();
                lot.ledger.pass(lot.ahead_until);
            }
        }
    }

    /// Gives again what is to be given again and was read now.
    fn deal_again(&mut self, at: usize, from: u64, stored: &[Stored], until: u64, desk: &mut Desk<'_>) {
        let Self { members, lots, .. } = self;
        let lot = &mut lots[at];
        let due_us = desk.due_us();
        let mut drafts = Drafts::new(lot.partition);
        let mut is_all = true;
        'runs: for stored in stored {
            for (nth, offset) in stored.offsets().enumerate() {
                let Some(again) = lot.ledger.again(offset) else {
                    continue;
                };
                let event = stored.events.get(nth);
                if stored.has_expired(event, desk.unix_ms) {
                    lot.ledger.done(offset);
                    continue;
                }
                let Some(member) = members.another(again.member) else {
                    is_all = false;
                    break 'runs;
                };
                lot.ledger.give_again(offset, member, due_us);
                members.take(member, 1);
                members.hold(member, at, offset);
                let place = place_of(&stored.events, nth);
                drafts.add(members.get_mut(member), member, again.dup, stored, place, offset);
            }
        }
        drafts.send(members, desk);
        // What was read holds everything up to `until`: what is not there is no more.
        while is_all && let Some(offset) = lot.ledger.next_again(from).filter(|offset| *offset <= until) {
            lot.ledger.done(offset);
        }
    }

    /// Sets an event aside that was given too often.
    fn set_aside(&mut self, at: usize, offset: u64, stored: &[Stored], desk: &mut Desk<'_>) {
        let Self { name, lots, .. } = self;
        let lot = &mut lots[at];
        if lot.ledger.next_spent() != Some(offset) {
            return; // acknowledged while it was read
        }
        let deliveries = lot.ledger.deliveries(offset);
        let found = stored.iter().find_map(|run| {
            let nth = run.offsets().position(|found| found == offset)?;
            Some(run.events.get(nth))
        });
        let Some(event) = found else {
            lot.ledger.done(offset);
            return;
        };
        let topic = topic_of(event);
        let position = Position {
            partition: lot.partition,
            offset,
        };
        let settings = desk.settings;
        let to = terms_of(topic, &settings.topics).dead_letter;
        let letter = to.filter(|to| **to != *topic).and_then(|to| {
            dead_letter(
                name,
                position,
                event,
                deliveries,
                &to,
                &settings.topics,
                settings.partitions,
            )
        });
        match letter {
            Some(letter) => {
                lot.aside = Some((offset, letter.events.id(0)));
                desk.asides.push((lot.partition, offset, letter));
            }
            None => {
                lot.ledger.done(offset);
                desk.given_up.push_back(GivenUp {
                    queue: name.clone(),
                    topic: topic.into(),
                    at: position,
                    deliveries,
                });
            }
        }
    }
}

impl Desk<'_> {
    fn due_us(&self) -> u64 {
        self.now_us + u64::from(self.settings.ack_ms) * 1_000
    }
}

impl LastTopic {
    /// Looks at an event's topic; whether it is one of the queue's. What the rules say of it stands in `terms` then.
    fn look(&mut self, event: &[u8], queue: &CursorName, settings: &Settings) -> bool {
        if topic_bytes_of(event).unwrap_or_default() != self.topic.as_bytes() {
            let topic = topic_of(event);
            self.matches = target::matches(&queue.pattern, topic);
            if self.matches {
                self.terms = terms_of(topic, &settings.topics);
            }
            self.topic.clear();
            self.topic.push_str(topic);
        }
        self.matches
    }
}

/// Pieces in the making: one for each member and number of deliveries.
struct Drafts {
    partition: u16,
    open: Vec<(MemberKey, u32, Cutter)>,
}

impl Drafts {
    fn new(partition: u16) -> Self {
        Self {
            partition,
            open: Vec::new(),
        }
    }

    /// Adds an event for a member, behind those that it has got.
    fn add(
        &mut self,
        member: &mut Member,
        key: MemberKey,
        dup: u32,
        stored: &Stored,
        place: Range<usize>,
        offset: u64,
    ) {
        // Where events are given again one by one, all members have a piece in the making at the same time.
        let fits = |draft: &(MemberKey, u32, Cutter)| (draft.0, draft.1) == (key, dup);
        if !self.open.get(member.draft as usize).is_some_and(fits) {
            member.draft = self.open.len() as u32;
            self.open.push((key, dup, Cutter::new(self.partition)));
        }
        let (.., cutter) = &mut self.open[member.draft as usize];
        cutter.push(&stored.events.bytes, place, offset);
    }

    fn send(self, members: &Members, desk: &mut Desk<'_>) {
        for (member, dup, cutter) in self.open {
            let member = members.get(member);
            for piece in cutter.finish() {
                desk.letters.push_back(QueueLetter {
                    member: member.name,
                    matter: Matter::Work { piece, dup },
                });
            }
        }
    }
}

/// Where an event stands in its run's bytes.
fn place_of(events: &Events, nth: usize) -> Range<usize> {
    let start = nth.checked_sub(1).map_or(0, |before| events.ends[before]);
    start as usize..events.ends[nth] as usize
}
