//! Handing out: what comes in goes to the places that are live, and what was fetched to those that are behind.

use std::rc::Rc;

use fluxar_protocol::Code;
use fluxar_protocol::envelope::compact::topic_bytes_of;

use super::reader::{Phase, State, Window};
use super::{Readers, details, run, table_details};
use crate::log::Stored;
use crate::log::owner_of;
use crate::logged::letters::{Fetch, Fetched, SubHandle};
use crate::logged::news::LoggedNews;
use crate::logged::pieces::{Cutter, Piece, RunningTopic, cut, topic_of, whole};
use crate::logged::{LogLetter, say};
use crate::shard::Shard;
use std::collections::VecDeque;

/// Of how many pairs of a pattern and an event that it matches a list is made at a time. (Patterns with wildcards that match
/// one topic can be very many.)
const PAIRS_MAX: usize = 64 * 1024;

impl Shard {
    /// An owner tells how far a partition is, and what came that some pattern of this core matches.
    pub(crate) fn hear(&mut self, partition: u16, after: u64, until: u64, stored: Option<&Stored>) {
        let now_ms = self.logged.unix_ms;
        let readers = &mut self.logged.readers;
        let Some(heard) = readers.heard.get_mut(usize::from(partition)) else {
            return;
        };
        if *heard != after {
            self.heal(partition, until);
            return;
        }
        *heard = until;
        let Some(stored) = stored else { return };
        let fallen = readers.deliver(partition, after, stored, now_ms, &mut self.logged.news);
        for at in fallen {
            self.fetch_on(at);
        }
    }

    /// What this core hears of a partition begins somewhere else than where it was: a fault of this code. Nobody loses anything by
    /// it: who was live reads on from there.
    fn heal(&mut self, partition: u16, until: u64) {
        // But by the tests of this module.
        let is_made_here = cfg!(test);
        debug_assert!(
            is_made_here,
            "what a core hears of partition {partition} has no gaps"
        );
        self.logged.gaps += 1;
        let readers = &mut self.logged.readers;
        let heard = &mut readers.heard[usize::from(partition)];
        let at = std::mem::replace(heard, until.max(*heard));
        let mut fallen = Vec::new();
        for (slot, reader) in &mut readers.held {
            if let Some(place) = reader.place(partition)
                && reader.places[place].state == State::Live
            {
                reader.fall_behind(place, at);
                fallen.push(slot as u32);
            }
        }
        for at in fallen {
            self.fetch_on(at);
        }
    }

    /// What a place of a subscription fetched has come.
    pub(crate) fn fetched(&mut self, sub: SubHandle, partition: u16, fetched: Fetched) {
        self.take_fetched(sub, partition, fetched);
        self.fetch_waiting();
    }

    fn take_fetched(&mut self, sub: SubHandle, partition: u16, fetched: Fetched) {
        let readers = &mut self.logged.readers;
        let Some(at) = readers.find(sub) else { return };
        let heard = readers.heard[usize::from(partition)];
        let reader = &mut readers.held[at as usize];
        let Some(place) = reader.place(partition) else {
            return;
        };
        let fetching = reader.fetching.bytes;
        let is_of_use = reader.fetched(place);
        readers.fetches.asked_bytes -= fetching - reader.fetching.bytes;
        if !is_of_use {
            self.fetch_on(at);
            return;
        }
        let was_of_table = reader.places[place]
            .table
            .as_ref()
            .is_some_and(|table| !table.is_read);
        match fetched {
            Fetched::Events { pieces, until } => {
                let dup = u32::from(reader.is_again(place));
                let older_until = pieces.first().map_or(until, |piece| piece.first - 1);
                if reader.passes_over(place, older_until) {
                    self.logged.news.push_back(LoggedNews::Moved {
                        to: reader.peer,
                        sub: reader.id,
                        partition,
                        offset: older_until,
                    });
                    if reader.has_to_tell() {
                        readers.acked.push(at);
                    }
                }
                if !pieces.is_empty() {
                    reader.places[place].since_ms = 0;
                }
                reader.places[place].stalls = 0;
                for piece in &pieces {
                    readers.fetches.came_bytes += piece.events.len();
                    reader.hand(place, piece.last, piece.into());
                    self.logged.news.push_back(run(
                        reader,
                        &piece.positions,
                        &piece.events,
                        piece.count,
                        dup,
                    ));
                }
                if !reader.reaches(place, until) {
                    // It cannot be, but it must not go round for ever either.
                    self.stall(at, place);
                    return;
                }
            }
            Fetched::End if reader.places[place].at >= heard => {}
            Fetched::End => {
                self.stall(at, place);
                return;
            }
            Fetched::Gone { first } => {
                let message = format!(
                    "the events behind position {} of partition {partition} are not held any more; the first that is has \
                     offset {first}: subscribe again with `from` \"all\", or from there",
                    reader.places[place].at
                );
                self.stop_reader(
                    at,
                    Code::OutOfRange,
                    message,
                    Some(details(partition, first, None)),
                );
                return;
            }
            Fetched::Damaged { first, last } if was_of_table => {
                let message = format!(
                    "of the table in partition {partition} rows among {first} to {last} are damaged on the gateway's disk: \
                     subscribe again with `skip_damaged` to have it without them"
                );
                let details = table_details(partition, first, last);
                self.stop_reader(at, Code::DataLoss, message, Some(details));
                return;
            }
            Fetched::Damaged { first, last } => {
                let message = format!(
                    "events {first} to {last} of partition {partition} are damaged on the gateway's disk; subscribe again \
                     with `from` behind {last} to go on without them"
                );
                let details = details(partition, first, Some(last));
                self.stop_reader(at, Code::DataLoss, message, Some(details));
                return;
            }
            Fetched::Failed => {
                self.stall(at, place);
                return;
            }
        }
        let is_reading_table = reader.places[place]
            .table
            .as_ref()
            .is_some_and(|table| !table.is_read);
        if !is_reading_table && reader.places[place].at >= heard {
            reader.catches_up(place);
        }
        self.fetch_on(at);
    }

    /// Fetches for those that waited until others were done with it.
    pub(crate) fn fetch_waiting(&mut self) {
        while self.logged.readers.fetches.has_room()
            && let Some(sub) = self.logged.readers.fetches.waiting.pop_front()
        {
            if let Some(at) = self.logged.readers.find(sub) {
                self.logged.readers[at].waits_to_fetch = false;
                self.fetch_on(at);
            }
        }
    }

    /// Fetches for the places of a subscription that are behind, as there is room.
    pub(crate) fn fetch_on(&mut self, at: u32) {
        let readers = &mut self.logged.readers;
        let sub = readers.handle(at);
        let Readers {
            held,
            followed,
            window,
            fetches,
            ..
        } = readers;
        let reader = &mut held[at as usize];
        if reader.behind == 0 || reader.rests() {
            return;
        }
        for place in reader.in_turn() {
            if !fetches.has_room() {
                if !std::mem::replace(&mut reader.waits_to_fetch, true) {
                    fetches.waiting.push_back(sub);
                }
                return;
            }
            let Some(wanted) = reader.wants(place, *window) else {
                continue;
            };
            fetches.asked_bytes += wanted.bytes_max as usize;
            let fetch = Fetch {
                sub,
                pattern: followed.text(reader.pattern).clone(),
                partition: wanted.partition,
                after: wanted.after,
                until: wanted.until,
                of_table: wanted.of_table,
                skips_damaged: reader.skips_damaged,
                since_ms: wanted.since_ms,
                bytes_max: wanted.bytes_max,
                events_max: wanted.events_max,
            };
            let owner = owner_of(wanted.partition, self.post.cores());
            let letter = LogLetter::Fetch(Box::new(fetch));
            say(self.core, &mut self.logged.local, &mut self.post, owner, letter);
        }
    }
}

impl Readers {
    /// Hands newly committed events to the live places of those whose pattern matches. Who has no room falls behind, and is
    /// in the answer.
    fn deliver(
        &mut self,
        partition: u16,
        after: u64,
        stored: &Stored,
        now_ms: u64,
        news: &mut VecDeque<LoggedNews>,
    ) -> Vec<u32> {
        let mut fallen = Vec::new();
        let Some(first) = self.matching_all(stored) else {
            self.deliver_mixed(partition, after, stored, now_ms, news, &mut fallen);
            return fallen;
        };
        if first.is_empty() {
            return fallen;
        }
        let pieces = match whole(partition, stored).filter(|_| !stored.expires) {
            Some(piece) => Pieces::One(piece),
            None => Pieces::Many(unexpired(partition, stored, now_ms)),
        };
        for &pattern in first.iter() {
            let part = (after, stored.first);
            self.hand_out(pattern, partition, part, pieces.as_slice(), news, &mut fallen);
        }
        fallen
    }

    /// The patterns that match all of the events, if they have one topic.
    fn matching_all(&mut self, stored: &Stored) -> Option<Rc<[u32]>> {
        let events = &stored.events;
        let topic = topic_bytes_of(events.get(0));
        let is_one = (1..events.len()).all(|at| topic_bytes_of(events.get(at)) == topic);
        is_one.then(|| self.followed.matching(topic_of(events.get(0))).clone())
    }

    /// Events of several topics: each pattern gets those that it matches.
    fn deliver_mixed(
        &mut self,
        partition: u16,
        after: u64,
        stored: &Stored,
        now_ms: u64,
        news: &mut VecDeque<LoggedNews>,
        fallen: &mut Vec<u32>,
    ) {
        let offsets: Vec<u64> = stored.offsets().collect();
        // Each pattern with each event that it matches. Of very many, a part is handed out at a time, as if its events had been
        // committed before the others.
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut part = (after, stored.first);
        let (mut topic, mut matching) = (RunningTopic::default(), Rc::default());
        for at in 0..stored.events.len() {
            let event = stored.events.get(at);
            if stored.has_expired(event, now_ms) {
                continue;
            }
            if pairs.len() >= PAIRS_MAX {
                self.hand_out_pairs(&mut pairs, partition, part, stored, &offsets, news, fallen);
                part = (offsets[at - 1], offsets[at]);
            }
            if topic.moves_to(event) {
                matching = self.followed.matching(topic.text()).clone();
            }
            pairs.extend(matching.iter().map(|&pattern| (pattern, at as u32)));
        }
        self.hand_out_pairs(&mut pairs, partition, part, stored, &offsets, news, fallen);
    }

    /// Hands each pattern its events.
    #[allow(clippy::too_many_arguments)]
    fn hand_out_pairs(
        &mut self,
        pairs: &mut Vec<(u32, u32)>,
        partition: u16,
        part: (u64, u64),
        stored: &Stored,
        offsets: &[u64],
        news: &mut VecDeque<LoggedNews>,
        fallen: &mut Vec<u32>,
    ) {
        pairs.sort_unstable();
        for same in pairs.chunk_by(|one, other| one.0 == other.0) {
            let mut cutter = Cutter::of_committed(partition);
            for &(_, at) in same {
                let at = at as usize;
                cutter.push(&stored.events.bytes, stored.events.span(at), offsets[at]);
            }
            let pieces = cutter.finish();
            self.hand_out(same[0].0, partition, part, &pieces, news, fallen);
        }
        pairs.clear();
    }

    /// Hands the same pieces to all that have one pattern. Everything up to `after` was handed out before, and what comes now
    /// begins at `first`.
    fn hand_out(
        &mut self,
        pattern: u32,
        partition: u16,
        (after, first): (u64, u64),
        pieces: &[Piece],
        news: &mut VecDeque<LoggedNews>,
        fallen: &mut Vec<u32>,
    ) {
        let window: Window = self.window;
        for &at in &self.followed[pattern] {
            let reader = &mut self.held[at as usize];
            if !matches!(reader.phase, Phase::Open) {
                continue; // where it begins is not settled; it begins behind
            }
            let Some(place) = reader.place(partition) else {
                continue;
            };
            if reader.places[place].state != State::Live {
                continue;
            }
            let mut reached = after;
            let mut is_behind = reader.rests() || reader.places[place].at >= first;
            for piece in pieces.iter().filter(|_| !is_behind) {
                if !reader.takes(place, piece, window) {
                    is_behind = true;
                    break;
                }
                news.push_back(run(reader, &piece.positions, &piece.events, piece.count, 0));
                reached = piece.last;
            }
            if is_behind {
                reader.fall_behind(place, reached);
                fallen.push(at);
            }
        }
    }
}

/// One piece without a list around it.
enum Pieces {
    One(Piece),
    Many(Vec<Piece>),
}

impl Pieces {
    fn as_slice(&self) -> &[Piece] {
        match self {
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

/// The events without those that have expired.
fn unexpired(partition: u16, stored: &Stored, now_ms: u64) -> Vec<Piece> {
    let mut cutter = Cutter::of_committed(partition);
    cut(&mut cutter, stored, |event, _| !stored.has_expired(event, now_ms));
    cutter.finish()
}
