//! One subscription: its places, and what it may still be handed.

use std::collections::VecDeque;
use std::sync::Arc;

use fluxar_protocol::{Code, Id, Position};

use crate::log::CursorName;
use crate::logged::letters::{Begun, Start};
use crate::logged::pieces::{PIECE_BYTES_MAX, PIECE_EVENTS_MAX, Piece};
use crate::peer::PeerId;

/// What one subscription may have unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) bytes: usize,
    pub(crate) events: u32,
}

/// So much is handed out and not acknowledged, or asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) bytes: usize,
    pub(crate) events: u32,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.events += other.events;
    }

    fn sub(&mut self, other: Self) {
        self.bytes -= other.bytes;
        self.events -= other.events;
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    /// Tells it from the one that had its place before.
    pub(super) serial: u32,
    pub(super) peer: PeerId,
    pub(super) id: Id,
    pub(super) pattern: u32,
    /// Its place among its pattern's.
    pub(super) seat: u32,
    pub(super) cursor: Option<Arc<CursorName>>,
    /// How often that was made for it: while it begins, as if it were so in each partition that has not said otherwise.
    pub(super) made: u32,
    pub(super) phase: Phase,
    pub(super) is_busy: bool,
    /// What is damaged of its table is left out.
    pub(super) skips_damaged: bool,
    /// It cannot go on: it gets nothing more, and is ended soon.
    pub(super) ending: Option<Box<Ending>>,
    /// It is among those that wait until others have fetched.
    pub(super) waits_to_fetch: bool,
    /// It waits for its owners to be told what it acknowledged.
    pub(super) is_acked: bool,
    pub(super) unacked: Load,
    pub(super) fetching: Load,
    /// Places that are behind.
    pub(super) behind: u32,
    /// Which of them is fetched for first.
    turn: u32,
    /// When it was last walked by, to say that its cursor is in use, us.
    pub(super) in_use_told_us: u64,
    /// One for each partition that it covers, ascending.
    pub(super) places: Vec<Place>,
}

/// Why a subscription that cannot go on is ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) details: Option<Vec<u8>>,
    /// At this time at the latest, us.
    pub(super) by_us: u64,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Its owners were asked.
    Beginning {
        start: Start,
        owners_left: u16,
        begun: Vec<Begun>,
    },
    Open,
}

/// How far it is in one partition.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) partition: u16,
    pub(super) state: State,
    /// What is being fetched came to be known otherwise: it is thrown away.
    is_void: bool,
    /// So often in a row it could not be read.
    pub(super) stalls: u8,
    /// Everything up to here was handed out. Of a live one: up to here or to what this core heard, whichever is more.
    pub(super) at: u64,
    /// The last offset that was ever handed out.
    handed: u64,
    pub(super) acked: u64,
    /// What the owner knows of it.
    told: u64,
    /// What its peer knows that it may come back to: of its own acknowledgements, and of what it was told.
    pub(super) known: u64,
    /// Events up to here had been handed out before it was rewound.
    rewound: u64,
    /// Nothing older is wanted, before the first that is not, ms since 1970.
    pub(super) since_ms: u64,
    /// What is being fetched.
    reserved: Load,
    pub(super) table: Option<Box<Table>>,
    chunks: VecDeque<Chunk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// To be fetched for when there is room.
    Behind,
    Fetching,
    /// It could not be read.
    Stalled,
}

/// Retained events that come before all others: those up to `until`, which is also where the others begin.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) until: u64,
    /// Up to this row they were handed out.
    pub(super) at: u64,
    /// Up to this row they were acknowledged.
    acked: u64,
    /// Rows up to here had been handed out before it was rewound.
    rewound: u64,
    pub(super) is_read: bool,
}

/// A run that was handed out.
#[derive(Debug)]
struct Chunk {
    last: u64,
    load: Load,
}

/// What a place is to fetch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) partition: u16,
    pub(super) after: u64,
    pub(super) until: u64,
    pub(super) of_table: bool,
    pub(super) since_ms: u64,
    pub(super) bytes_max: u32,
    pub(super) events_max: u32,
}

impl Place {
    /// One that begins, behind everything.
    pub(super) fn new(begun: &Begun, since_ms: u64) -> Self {
        Self {
            partition: begun.partition,
            state: State::Behind,
            is_void: false,
            stalls: 0,
            at: begun.position,
            handed: 0,
            acked: begun.position,
            // The cursor of one with a table says so until the table was handled.
            told: if begun.has_table { u64::MAX } else { begun.position },
            known: begun.position,
            rewound: 0,
            since_ms,
            reserved: Load::default(),
            table: begun.has_table.then(|| {
                Box::new(Table {
                    until: begun.position,
                    at: 0,
                    acked: 0,
                    rewound: 0,
                    is_read: false,
                })
            }),
            chunks: VecDeque::new(),
        }
    }

    /// Whether everything that was handed out is acknowledged, and nothing lies between that and what was heard.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Live && self.chunks.is_empty() && self.table.is_none()
    }

    /// Nothing that it wants lies up to `heard`: it counts as acknowledged.
    pub(super) fn catch_up(&mut self, heard: u64) {
        if self.is_idle() {
            self.acked = self.acked.max(self.at).max(heard);
        }
    }

    /// What its owner is to be told: how far it is acknowledged.
    pub(super) fn untold(&mut self, all: bool) -> Option<u64> {
        if self.table.is_some() || (self.told == self.acked && !all) {
            return None; // a cursor inside of a table would skip the rest of it
        }
        self.told = self.acked;
        Some(self.acked)
    }
}

impl Reader {
    pub(super) fn new(
        peer: PeerId,
        id: Id,
        pattern: u32,
        cursor: Option<Arc<CursorName>>,
        phase: Phase,
    ) -> Self {
        Self {
            serial: 0,
            peer,
            id,
            pattern,
            seat: 0,
            cursor,
            made: 0,
            phase,
            is_busy: false,
            skips_damaged: false,
            ending: None,
            waits_to_fetch: false,
            is_acked: false,
            unacked: Load::default(),
            fetching: Load::default(),
            behind: 0,
            turn: 0,
            in_use_told_us: 0,
            places: Vec::new(),
        }
    }

    /// Its cursor has moved; whether it has to be put among those whose owners are told.
    pub(super) fn has_to_tell(&mut self) -> bool {
        self.cursor.is_some() && !std::mem::replace(&mut self.is_acked, true)
    }

    /// It is to be handed nothing at the moment.
    #[inline]
    pub(super) fn rests(&self) -> bool {
        self.is_busy || self.ending.is_some()
    }

    /// Something was handed out and is not acknowledged.
    pub(super) fn has_unacked(&self) -> bool {
        self.unacked.events > 0
    }

    /// Where its place in a partition is. It covers one, or all.
    #[inline]
    pub(super) fn place(&self, partition: u16) -> Option<usize> {
        let at = if self.places.len() == 1 {
            0
        } else {
            usize::from(partition)
        };
        self.places
            .get(at)
            .is_some_and(|place| place.partition == partition)
            .then_some(at)
    }

    /// Hands a live place a piece that came in, if there is room for it.
    #[inline]
    pub(super) fn takes(&mut self, place: usize, piece: &Piece, window: Window) -> bool {
        let load = Load {
            bytes: piece.events.len(),
            events: piece.count,
        };
        let bytes = self.unacked.bytes + self.fetching.bytes;
        let events = self.unacked.events + self.fetching.events;
        let is_alone = events == 0 && load.events == 1;
        let fits = is_alone || (bytes + load.bytes <= window.bytes && events + load.events <= window.events);
        if fits {
            self.hand(place, piece.last, load);
        }
        fits
    }

    /// Notes that a piece was handed out.
    pub(super) fn hand(&mut self, place: usize, last: u64, load: Load) {
        self.unacked.add(load);
        let place = &mut self.places[place];
        place.handed = place.handed.max(last);
        place.chunks.push_back(Chunk { last, load });
    }

    /// A live place misses what comes behind `at`.
    pub(super) fn fall_behind(&mut self, place: usize, at: u64) {
        let place = &mut self.places[place];
        if place.state == State::Live {
            place.at = place.at.max(at);
            place.state = State::Behind;
            self.behind += 1;
        }
    }

    /// A place that is behind has reached what this core heard.
    pub(super) fn catches_up(&mut self, place: usize) {
        self.places[place].state = State::Live;
        self.places[place].since_ms = 0;
        self.behind -= 1;
    }

    /// What this place is to fetch now, if there is room.
    pub(super) fn wants(&mut self, place: usize, window: Window) -> Option<Wanted> {
        if self.rests() || !matches!(self.phase, Phase::Open) || self.places[place].state != State::Behind {
            return None;
        }
        let used = Load {
            bytes: self.unacked.bytes + self.fetching.bytes,
            events: self.unacked.events + self.fetching.events,
        };
        let room = Load {
            bytes: window.bytes.saturating_sub(used.bytes),
            events: window.events.saturating_sub(used.events),
        };
        // Many small fetches cost more than a few large ones: a little room is left to grow.
        let is_enough = room.bytes >= (window.bytes / 4).clamp(1, PIECE_BYTES_MAX / 4)
            && room.events >= (window.events / 4).max(1);
        if !is_enough && used != Load::default() {
            return None;
        }
        let load = Load {
            bytes: room.bytes.min(PIECE_BYTES_MAX),
            events: room.events.min(PIECE_EVENTS_MAX as u32),
        };
        self.fetching.add(load);
        let place = &mut self.places[place];
        place.state = State::Fetching;
        place.is_void = false;
        place.reserved = load;
        let table = place.table.as_ref().filter(|table| !table.is_read);
        let (after, until) = match table {
            Some(table) if table.at < table.rewound => (table.at, table.rewound),
            Some(table) => (table.at, table.until),
            None if place.at < place.rewound => (place.at, place.rewound),
            None => (place.at, u64::MAX),
        };
        Some(Wanted {
            partition: place.partition,
            after,
            until,
            of_table: table.is_some(),
            since_ms: if table.is_some() { 0 } else { place.since_ms },
            bytes_max: load.bytes as u32,
            events_max: load.events,
        })
    }

    /// What was fetched for a place has come; whether it is of use.
    pub(super) fn fetched(&mut self, place: usize) -> bool {
        let place = &mut self.places[place];
        if place.state != State::Fetching {
            return false;
        }
        self.fetching.sub(std::mem::take(&mut place.reserved));
        place.state = State::Behind;
        let is_void = place.is_void;
        !is_void && !self.rests()
    }

    /// The partitions for which something is being fetched.
    pub(super) fn fetching_places(&self) -> impl Iterator<Item = u16> {
        let fetching = self.places.iter().filter(|place| place.state == State::Fetching);
        fetching.map(|place| place.partition)
    }

    /// Whether what is read next was handed out before.
    pub(super) fn is_again(&self, place: usize) -> bool {
        let place = &self.places[place];
        match place.table.as_ref().filter(|table| !table.is_read) {
            Some(table) => table.at < table.rewound,
            None => place.at < place.rewound,
        }
    }

    /// What was read for a place that was handed nothing is older than what it asked for, up to there: it counts as
    /// acknowledged, so that none of it is handed out where the subscription goes on. Whether its peer is to be told.
    pub(super) fn passes_over(&mut self, place: usize, until: u64) -> bool {
        let place = &mut self.places[place];
        let is_news = place.since_ms > 0 && until > place.acked;
        if is_news {
            (place.acked, place.known) = (until, until);
        }
        is_news
    }

    /// Everything up to `until` was handed out; whether that is further than before.
    pub(super) fn reaches(&mut self, place: usize, until: u64) -> bool {
        let place = &mut self.places[place];
        match &mut place.table {
            Some(table) if !table.is_read => {
                let is_further = until > table.at || until >= table.until;
                table.at = until;
                table.is_read = until >= table.until;
                place.end_table();
                is_further
            }
            _ => {
                let is_further = until > place.at;
                place.at = place.at.max(until);
                is_further
            }
        }
    }

    /// Takes an acknowledgement; whether anything came of it.
    pub(super) fn acknowledge(&mut self, partition: u16, offset: u64) -> bool {
        let Some(at) = self.place(partition) else {
            return false;
        };
        let place = &mut self.places[at];
        let offset = offset.min(place.handed.max(place.known));
        while let Some(chunk) = place.chunks.front().filter(|chunk| chunk.last <= offset) {
            self.unacked.sub(chunk.load);
            place.chunks.pop_front();
        }
        if let Some(table) = &mut place.table {
            table.acked = table.acked.max(offset.min(table.until));
            place.end_table();
        }
        if place.table.is_none() && offset > place.acked {
            place.acked = offset;
            // What it handled before it was rewound need not come again.
            if place.state != State::Live && place.at < offset {
                place.at = offset;
                place.is_void = true;
            }
        }
        place.known = place.known.max(place.acked);
        true
    }

    /// Forgets that anything was handed out that is not acknowledged, so that it is handed out again.
    pub(super) fn rewind(&mut self) {
        self.unacked = Load::default();
        self.ending = None; // what it cannot have it comes to again
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            if let Some(table) = &mut place.table {
                table.rewound = table.rewound.max(table.at);
                (table.at, table.is_read) = (table.acked, false);
            } else if place.chunks.is_empty() {
                continue;
            }
            place.chunks.clear();
            place.rewound = place.rewound.max(place.handed);
            place.is_void = true;
            place.at = place.acked;
            if place.state == State::Live {
                place.state = State::Behind;
                self.behind += 1;
            }
        }
    }

    /// The event at this position was not handed out, nor what comes behind it in its partition; of the run that it was in,
    /// all up to `given` was.
    pub(super) fn take_back(&mut self, at: Position, given: Option<u64>) {
        let Some(nth) = self.place(at.partition) else {
            return;
        };
        let place = &mut self.places[nth];
        let mut of_run = None;
        while place.chunks.back().is_some_and(|chunk| chunk.last >= at.offset)
            && let Some(chunk) = place.chunks.pop_back()
        {
            self.unacked.sub(chunk.load);
            of_run = Some(chunk);
        }
        if let (Some(chunk), Some(last)) = (of_run, given) {
            self.unacked.add(chunk.load);
            place.chunks.push_back(Chunk { last, ..chunk });
        }
        let before = at.offset.saturating_sub(1);
        place.handed = place.handed.min(before);
        match &mut place.table {
            Some(table) if at.offset <= table.until => {
                (table.at, table.is_read) = (table.at.min(before), false);
            }
            _ => place.at = place.at.min(before),
        }
        place.is_void = true;
        if place.state == State::Live {
            place.state = State::Behind;
            self.behind += 1;
        }
    }

    /// The places in the order in which they are to be fetched for; it moves on each time.
    pub(super) fn in_turn(&mut self) -> impl Iterator<Item = usize> + use<> {
        let places = self.places.len();
        self.turn = self.turn.wrapping_add(1);
        let first = if places == 0 {
            0
        } else {
            self.turn as usize % places
        };
        (first..places).chain(0..first)
    }
}

impl Place {
    /// The table is over once all of it was handed out and acknowledged.
    fn end_table(&mut self) {
        let is_over = self.table.as_ref().is_some_and(|table| {
            table.is_read && self.chunks.front().is_none_or(|chunk| chunk.last > table.until)
        });
        if is_over {
            self.table = None;
        }
    }
}

impl From<&Piece> for Load {
    fn from(piece: &Piece) -> Self {
        Self {
            bytes: piece.events.len(),
            events: piece.count,
        }
    }
}
