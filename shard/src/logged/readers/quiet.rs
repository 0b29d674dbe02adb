//! What happens to subscriptions while nothing comes for them: their cursors move on, so that none ages out; and what could
//! not be read is tried again.

use fluxar_protocol::Code;

use super::reader::Phase;
use super::reader::State;
use crate::logged::news::LoggedNews;
use crate::logged::owner::QUIET_US;
use crate::shard::Shard;

/// What could not be read so often in a row ends its subscription: about half a minute.
const STALLS_MAX: u8 = 60;
/// How often what could not be read is tried again, and a part of many subscriptions is visited, us.
const TICK_US: u64 = 500_000;
/// In so many ticks every subscription is visited.
const TICKS: usize = (QUIET_US / TICK_US) as usize;
/// So few are all visited at once, so that a core with little to do is seldom woken.
const FEW: usize = 1_024;
/// A durable cursor that does not move is said to be in use this often, us, and four times before it would be forgotten.
const IN_USE_US: u64 = 3_600_000_000;

impl Shard {
    pub(crate) fn readers_time(&mut self) {
        let readers = &mut self.logged.readers;
        if readers.held.is_empty() || self.now_us < readers.tick_at_us {
            return;
        }
        let are_few = readers.held.capacity() <= FEW;
        readers.tick_at_us = self.now_us + if are_few { QUIET_US } else { TICK_US };
        self.end_overdue();
        self.retry_stalled();
        if !are_few {
            self.walk(TICKS);
        } else if self.now_us >= self.logged.readers.walk_at_us {
            self.logged.readers.walk_at_us = self.now_us + QUIET_US;
            self.walk(1);
        }
    }

    /// When [`Shard::readers_time`] has something to do, us.
    pub(crate) fn readers_due_us(&self) -> Option<u64> {
        let readers = &self.logged.readers;
        (!readers.held.is_empty()).then_some(readers.tick_at_us)
    }

    /// A place could not be read: it is tried again soon, but not for ever.
    pub(super) fn stall(&mut self, at: u32, place: usize) {
        let readers = &mut self.logged.readers;
        let sub = readers.handle(at);
        let place = &mut readers.held[at as usize].places[place];
        place.stalls = place.stalls.saturating_add(1);
        if place.stalls > STALLS_MAX {
            let message = format!(
                "what is behind position {} of partition {} could not be read from the gateway's disk for half a minute; \
                 subscribe again later",
                place.at, place.partition
            );
            self.stop_reader(at, Code::Unavailable, message, None);
            return;
        }
        place.state = State::Stalled;
        readers.stalled.push_back((sub, place.partition));
        readers.tick_at_us = readers.tick_at_us.min(self.now_us + TICK_US);
    }

    fn retry_stalled(&mut self) {
        for _ in 0..self.logged.readers.stalled.len() {
            let readers = &mut self.logged.readers;
            let Some((sub, partition)) = readers.stalled.pop_front() else {
                return;
            };
            let Some(at) = readers.find(sub) else { continue };
            let reader = &mut readers.held[at as usize];
            if let Some(place) = reader.place(partition)
                && reader.places[place].state == State::Stalled
            {
                reader.places[place].state = State::Behind;
                self.fetch_on(at);
            }
        }
    }

    /// Visits the next of so many parts of the subscriptions.
    fn walk(&mut self, parts: usize) {
        let slots = self.logged.readers.held.capacity();
        for _ in 0..slots.div_ceil(parts) {
            let readers = &mut self.logged.readers;
            let at = readers.walked;
            readers.walked = if at + 1 < slots { at + 1 } else { 0 };
            if readers.held.contains(at) {
                self.visit(at as u32);
            }
        }
    }

    /// Moves the cursor of a subscription that has acknowledged all that it was handed.
    fn visit(&mut self, at: u32) {
        let now_us = self.now_us;
        let logged = &mut self.logged;
        let kept_us = logged
            .log
            .settings()
            .map_or(u64::MAX, |settings| settings.cursor_ms.saturating_mul(1_000));
        let in_use_us = IN_USE_US.min(kept_us / 4);
        let readers = &mut logged.readers;
        let reader = &mut readers.held[at as usize];
        if !matches!(reader.phase, Phase::Open) {
            return;
        }
        let mut is_moved = false;
        for place in &mut reader.places {
            place.catch_up(readers.heard[usize::from(place.partition)]);
            if place.known >= place.acked {
                continue;
            }
            is_moved = true;
            // Who takes nothing, or is away, is told afterwards once, and not each time until then; unless it has been handed
            // something since, for then it says itself how far it is.
            if !reader.is_busy && place.is_idle() {
                place.known = place.acked;
                logged.news.push_back(LoggedNews::Moved {
                    to: reader.peer,
                    sub: reader.id,
                    partition: place.partition,
                    offset: place.acked,
                });
            }
        }
        if reader.cursor.is_none() {
            return;
        }
        if now_us >= reader.in_use_told_us + in_use_us {
            reader.in_use_told_us = now_us;
            self.tell_acked_of(at, true);
        } else if is_moved && reader.has_to_tell() {
            readers.acked.push(at);
        }
    }
}
