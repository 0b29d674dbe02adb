//! The home side of subscriptions at qos 1 and 2: what each was handed, what it acknowledged, whether it keeps up.
//!
//! A subscription has a [`Place`] in each partition that it covers:
//!
//! ```text
//!             ┌──────── no room, or its connection is busy ───────┐
//!             │                                                   v
//!     Live: gets what the owner tells                  Behind: fetches from the log behind `at`,
//!     this core, as it comes                           a piece at a time, as there is room
//!             ^                                                   │
//!             └────── `at` has reached what this core heard ──────┘
//! ```
//!
//! What was handed out and is not acknowledged is counted, not kept: the log has it.

mod begin;
mod deliver;
mod ending;
mod quiet;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;
use slab::Slab;

use super::LogLetter;
use super::letters::SubHandle;
use super::news::LoggedNews;
use super::owner::covered;
use super::patterns::FollowedPatterns;
use crate::limits::{CURSORS_PER_PEER_MAX, LOGGED_FETCHES_BYTES_MAX, LOGGED_PLACES_MAX};
use crate::log::owner_of;
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::subscriptions::Role;
pub(crate) use begin::words;
pub(crate) use reader::Window;
use reader::{Phase, Place, Reader};

#[derive(Debug)]
pub(crate) struct Readers {
    /// Patterns with the subscriptions that have them.
    followed: FollowedPatterns<Vec<u32>>,
    held: Slab<Reader>,
    serial: u32,
    /// Of all of them: how many partitions they cover, within [`LOGGED_PLACES_MAX`].
    places: usize,
    /// By partition: what this core was told up to.
    heard: Vec<u64>,
    /// The bounds of what one subscription may have unacknowledged.
    window: Window,
    fetches: Fetches,
    /// Connections that take nothing at the moment.
    busy: HashSet<PeerId, FixedState>,
    /// Durable cursors that each connection has made, within [`CURSORS_PER_PEER_MAX`].
    made: HashMap<PeerId, Made, FixedState>,
    /// Holders of durable cursors that acknowledged something since their owners were told.
    acked: Vec<u32>,
    /// Places that could not be read; tried again at the next tick.
    stalled: VecDeque<(SubHandle, u16)>,
    /// Those that stopped, and when they are ended at the latest, us: in this order, for all have equally long.
    ending: VecDeque<(SubHandle, u64)>,
    /// Where the walk over quiet subscriptions goes on.
    walked: usize,
    tick_at_us: u64,
    walk_at_us: u64,
}

/// What all subscriptions of this core fetch together. Each has bytes of its own for as long as they wait for a connection,
/// so that many subscriptions of one that is slow do not fetch all at once: after the first few it is busy.
#[derive(Debug, Default)]
struct Fetches {
    /// Asked for and not come.
    asked_bytes: usize,
    /// Came, and is among the news, which are not all taken.
    came_bytes: usize,
    /// Those that found no room.
    waiting: VecDeque<SubHandle>,
}

impl Fetches {
    fn has_room(&self) -> bool {
        self.asked_bytes + self.came_bytes < LOGGED_FETCHES_BYTES_MAX
    }
}

/// Durable cursors that a connection has made.
#[derive(Debug, Default)]
struct Made {
    /// All; of subscriptions that begin, as if each were new.
    cursors: u32,
    /// Of these, the ones of subscriptions that begin.
    beginning: u32,
}

impl Readers {
    pub(crate) fn new(hasher: &FixedState, names_remembered: usize, window: Window, partitions: u16) -> Self {
        Self {
            followed: FollowedPatterns::new(hasher, names_remembered),
            held: Slab::new(),
            serial: 0,
            places: 0,
            heard: vec![0; usize::from(partitions)],
            window,
            fetches: Fetches::default(),
            busy: HashSet::with_hasher(hasher.clone()),
            made: HashMap::with_hasher(hasher.clone()),
            acked: Vec::new(),
            stalled: VecDeque::new(),
            ending: VecDeque::new(),
            walked: 0,
            tick_at_us: 0,
            walk_at_us: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether a connection takes nothing at the moment.
    pub(crate) fn is_busy(&self, peer: PeerId) -> bool {
        self.busy.contains(&peer)
    }

    pub(crate) fn patterns(&self) -> usize {
        self.followed.len()
    }

    /// Bytes handed out and not acknowledged, or being fetched.
    pub(crate) fn unacked_bytes(&self) -> usize {
        self.held
            .iter()
            .map(|(_, reader)| reader.unacked.bytes + reader.fetching.bytes)
            .sum()
    }

    /// All news were taken; whether somebody can fetch now who could not.
    pub(crate) fn news_taken(&mut self) -> bool {
        self.fetches.came_bytes = 0;
        !self.fetches.waiting.is_empty() && self.fetches.has_room()
    }

    /// Whether somebody acknowledged something that the cursor's owner is to be told.
    #[inline]
    pub(crate) fn has_acked(&self) -> bool {
        !self.acked.is_empty()
    }

    fn handle(&self, at: u32) -> SubHandle {
        let serial = self.held[at as usize].serial;
        SubHandle { at, serial }
    }

    /// The subscription with this handle, if it is still there.
    fn find(&self, handle: SubHandle) -> Option<u32> {
        let reader = self.held.get(handle.at as usize)?;
        (reader.serial == handle.serial).then_some(handle.at)
    }

    /// How many partitions a pattern covers.
    fn covers(&self, pattern: u32) -> usize {
        covered(self.followed.text(pattern), self.heard.len() as u16).len()
    }

    /// Whether there is room for one more with this pattern.
    fn admit(&self, pattern: &str) -> Result<(), Refusal> {
        let places = self.places + covered(pattern, self.heard.len() as u16).len();
        if places > LOGGED_PLACES_MAX {
            return Err(Refusal::worded(
                Code::ResourceExhausted,
                format!(
                    "the logged subscriptions of this core would read {places} partitions together, and their limit is \
                     {LOGGED_PLACES_MAX}"
                ),
            ));
        }
        Ok(())
    }

    /// Counts the cursors of a subscription that begins, as if all were new; whether its connection may make so many.
    fn make(&mut self, peer: PeerId, cursors: u32) -> bool {
        let made = self.made.entry(peer).or_default();
        made.cursors = made.cursors.saturating_add(cursors);
        made.beginning = made.beginning.saturating_add(cursors);
        made.cursors <= CURSORS_PER_PEER_MAX
    }

    /// So many of a subscription that begins were there before, or come to nothing.
    fn unmake(&mut self, peer: PeerId, cursors: u32) {
        if let Some(made) = self.made.get_mut(&peer) {
            made.cursors = made.cursors.saturating_sub(cursors);
            made.beginning = made.beginning.saturating_sub(cursors);
            if made.cursors == 0 {
                self.made.remove(&peer);
            }
        }
    }

    /// A subscription has begun, and made so many.
    fn have_made(&mut self, peer: PeerId, cursors: u32) {
        if let Some(made) = self.made.get_mut(&peer) {
            made.beginning = made.beginning.saturating_sub(cursors);
        }
    }

    /// Whether a subscription that was refused for these cursors may have them a little later: others of its connection count as
    /// new for as long as they begin.
    fn may_make_later(&self, peer: PeerId, cursors: u32) -> bool {
        self.made
            .get(&peer)
            .is_some_and(|made| made.beginning > cursors || made.cursors <= CURSORS_PER_PEER_MAX)
    }

    /// Enters one, which begins.
    fn add(&mut self, mut reader: Reader) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        reader.serial = self.serial;
        let pattern = reader.pattern;
        self.places += self.covers(pattern);
        let followers = &mut self.followed[pattern];
        reader.seat = followers.len() as u32;
        let at = self.held.insert(reader) as u32;
        followers.push(at);
        at
    }

    /// Takes one out, and says whether its pattern went with it.
    fn remove(&mut self, at: u32) -> (Reader, Option<Arc<str>>) {
        let reader = self.held.remove(at as usize);
        self.fetches.asked_bytes -= reader.fetching.bytes;
        self.places -= self.covers(reader.pattern);
        let followers = &mut self.followed[reader.pattern];
        followers.swap_remove(reader.seat as usize);
        if let Some(&moved) = followers.get(reader.seat as usize) {
            self.held[moved as usize].seat = reader.seat;
        }
        let gone = followers.is_empty().then(|| {
            let text = self.followed.text(reader.pattern).clone();
            self.followed.remove(reader.pattern);
            text
        });
        (reader, gone)
    }
}

impl Index<u32> for Readers {
    type Output = Reader;

    fn index(&self, at: u32) -> &Reader {
        &self.held[at as usize]
    }
}

impl IndexMut<u32> for Readers {
    fn index_mut(&mut self, at: u32) -> &mut Reader {
        &mut self.held[at as usize]
    }
}

/// The cores that own something of what a pattern covers.
fn owners(pattern: &str, partitions: u16, cores: u16) -> std::ops::Range<u16> {
    let covered = covered(pattern, partitions);
    match covered.len() {
        1 => {
            let owner = owner_of(covered.start, cores);
            owner..owner + 1
        }
        _ => 0..cores.min(partitions),
    }
}

impl Shard {
    /// A subscriber has handled everything up to this position; a member of a group, exactly these: `first`, and behind
    /// it each delta from the one before. What was never handed out is ignored.
    pub fn acknowledge(
        &mut self,
        peer: PeerId,
        sub: Id,
        partition: u16,
        first: u64,
        deltas: impl Iterator<Item = u64>,
    ) {
        let Some(at) = self.subscriptions.find(peer, sub) else {
            return;
        };
        match self.subscriptions[at].role {
            Role::Reader(at) => {
                self.reader_acked(at, partition, first);
                self.pump_log();
            }
            // Often one by one, many in a row: what they free is given away when the input is done.
            Role::Worker => {
                let mut offset = first;
                let behind = deltas.map(|delta| {
                    offset = offset.saturating_add(delta);
                    offset
                });
                let offsets = std::iter::once(first).chain(behind);
                self.logged.queues.acknowledge(peer, sub, partition, offsets);
            }
            Role::Plain | Role::Member(_) | Role::Server(_) | Role::AwayMember | Role::AwayServer => {}
        }
    }

    /// A plain subscription acknowledges everything up to an offset.
    fn reader_acked(&mut self, at: u32, partition: u16, offset: u64) {
        let readers = &mut self.logged.readers;
        let reader = &mut readers.held[at as usize];
        if !reader.acknowledge(partition, offset) {
            return;
        }
        if reader.has_to_tell() {
            readers.acked.push(at);
        }
        if reader.ending.is_none() {
            self.fetch_on(at);
        } else if !reader.has_unacked() {
            self.end_stopped(at);
        }
    }

    /// A connection takes nothing at the moment, or does again.
    pub(crate) fn reader_busy(&mut self, at: u32, busy: bool) {
        self.logged.readers[at].is_busy = busy;
        if !busy {
            self.fetch_on(at);
        }
    }

    /// A connection is gone, and its subscriptions before it.
    pub(crate) fn readers_lost(&mut self, peer: PeerId) {
        self.readers_busy(peer, false);
        self.logged.readers.made.remove(&peer);
    }

    /// A connection's own state, for subscriptions that it begins later.
    pub(crate) fn readers_busy(&mut self, peer: PeerId, busy: bool) {
        if busy {
            self.logged.readers.busy.insert(peer);
        } else {
            self.logged.readers.busy.remove(&peer);
        }
    }

    /// The session behind a connection was cut and goes on: what its subscriptions have not acknowledged comes again, with
    /// `dup`.
    pub fn rewind_logged(&mut self, peer: PeerId) {
        for nth in 0..self.subscriptions.of(peer).len() {
            let sub = self.subscriptions.of(peer)[nth];
            match self.subscriptions[sub].role {
                Role::Reader(at) => {
                    self.logged.readers[at].rewind();
                    self.fetch_on(at);
                }
                Role::Worker => {
                    let id = self.subscriptions[sub].id;
                    self.logged.queues.rewind(peer, id);
                }
                Role::Plain | Role::Member(_) | Role::Server(_) | Role::AwayMember | Role::AwayServer => {}
            }
        }
        self.pump_log();
    }

    /// A subscription that was taken out of its connection's list is over: its owners are told.
    pub(crate) fn reader_ended(&mut self, at: u32) {
        self.tell_acked_of(at, true);
        let handle = self.logged.readers.handle(at);
        let cores = self.post.cores();
        let readers = &mut self.logged.readers;
        let partitions = readers.heard.len() as u16;
        let text = readers.followed.text(readers[at].pattern).clone();
        let (reader, gone) = readers.remove(at);
        for place in reader.fetching_places() {
            let owner = owner_of(place, cores);
            let letter = LogLetter::Unfetch {
                sub: handle,
                partition: place,
            };
            self.say(owner, letter);
        }
        let is_void = !matches!(reader.phase, Phase::Open);
        if let Some(cursor) = reader.cursor {
            if is_void {
                self.logged.readers.unmake(reader.peer, reader.made);
            }
            for owner in owners(&text, partitions, cores) {
                let letter = LogLetter::Released {
                    cursor: cursor.clone(),
                    sub: handle,
                    is_void,
                };
                self.say(owner, letter);
            }
        }
        if let Some(pattern) = gone {
            for owner in owners(&pattern, partitions, cores) {
                let pattern = pattern.clone();
                self.say(owner, LogLetter::Unfollow { pattern });
            }
        }
    }

    /// Tells the owners of durable cursors what their holders acknowledged.
    pub(crate) fn tell_acked(&mut self) {
        while let Some(at) = self.logged.readers.acked.pop() {
            // It may be gone, and its place given to another one, which then has nothing to tell.
            if self.logged.readers.held.contains(at as usize) {
                self.tell_acked_of(at, false);
            }
        }
    }

    /// Likewise of one of them; with `all` even what the owners know, so that they know that it was in use.
    fn tell_acked_of(&mut self, at: u32, all: bool) {
        let cores = self.post.cores();
        let sub = self.logged.readers.handle(at);
        let readers = &mut self.logged.readers;
        let heard = &readers.heard;
        let reader = &mut readers.held[at as usize];
        reader.is_acked = false;
        let Some(cursor) = reader.cursor.clone() else {
            return;
        };
        let mut letters: Vec<(u16, Vec<(u16, u64)>)> = Vec::new();
        for place in &mut reader.places {
            if all {
                place.catch_up(heard[usize::from(place.partition)]);
            }
            let Some(acked) = place.untold(all) else { continue };
            let owner = owner_of(place.partition, cores);
            match letters.iter_mut().find(|(core, _)| *core == owner) {
                Some((_, places)) => places.push((place.partition, acked)),
                None => letters.push((owner, vec![(place.partition, acked)])),
            }
        }
        for (owner, at) in letters {
            let cursor = cursor.clone();
            self.say(owner, LogLetter::Acked { cursor, sub, at });
        }
    }
}

/// `{"partition": p, "first": f}`, or with `last`.
fn details(partition: u16, first: u64, last: Option<u64>) -> Vec<u8> {
    use fluxar_protocol::meta::MetaWriter;
    let mut map = MetaWriter::new()
        .uint("partition", partition.into())
        .uint("first", first);
    if let Some(last) = last {
        map = map.uint("last", last);
    }
    map.finish().unwrap_or_default()
}

/// The details of an error that says that rows of a table are damaged: to go on behind them would be to do without the table.
fn table_details(partition: u16, first: u64, last: u64) -> Vec<u8> {
    use fluxar_protocol::meta::MetaWriter;
    let map = MetaWriter::new()
        .uint("partition", partition.into())
        .uint("first", first)
        .uint("last", last)
        .flag("table", true);
    map.finish().unwrap_or_default()
}

/// Hands one piece to a subscription.
fn run(reader: &Reader, positions: &Bytes, events: &Bytes, count: u32, dup: u32) -> LoggedNews {
    LoggedNews::Run {
        to: reader.peer,
        sub: reader.id,
        positions: positions.clone(),
        count,
        dup,
        events: events.clone(),
    }
}

const _: () = assert!(
    size_of::<Place>() <= 128,
    "there is one for each subscription and partition"
);
