//! How a subscription ends by the gateway's own will.
//!
//! Behind its end nobody takes an acknowledgement. So one that cannot go on, because what comes next is not held, is damaged or
//! is too large, stops: it gets nothing more, and is ended once all that it was handed is acknowledged, or had its time for
//! that. Then its cursor stands right before what it cannot have, and who goes on behind that has missed nothing else.

use std::collections::VecDeque;

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Code, Id, Position};

use super::details;
use super::reader::{Ending, Phase, Reader};
use crate::logged::letters::SubHandle;
use crate::logged::news::LoggedNews;
use crate::peer::PeerId;
use crate::shard::Shard;
use crate::subscriptions::Role;

/// So long one that cannot go on may take to acknowledge what it was handed, us.
const ENDING_US: u64 = 30_000_000;

impl Shard {
    /// A subscription of this core's cannot be given the event at a position that it was to be handed: its connection does not
    /// take it. Of the same run it was given all up to `given`. It gets nothing more, and is ended as [`LoggedNews::Ended`]
    /// says, with the place of that event.
    pub fn stop_logged(
        &mut self,
        (peer, sub): (PeerId, Id),
        at: Position,
        given: Option<u64>,
        (code, message): (Code, String),
    ) {
        let Some(found) = self.subscriptions.find(peer, sub) else {
            return;
        };
        let Role::Reader(reader) = self.subscriptions[found].role else {
            // What a member of a queue has not acknowledged goes to another. It is told the epoch, as with each end of one.
            let details = MetaWriter::new()
                .uint("epoch", self.epoch)
                .uint("partition", at.partition.into())
                .uint("first", at.offset)
                .uint("last", at.offset)
                .finish();
            let _ = self.end_subscription(peer, sub);
            forget_runs(&mut self.logged.news, peer, sub, None);
            self.logged.news.push_back(LoggedNews::Ended {
                to: peer,
                sub,
                code,
                message: message.into(),
                details,
            });
            self.pump_log();
            return;
        };
        self.logged.readers[reader].take_back(at, given);
        forget_runs(&mut self.logged.news, peer, sub, Some(at.partition));
        let details = details(at.partition, at.offset, Some(at.offset));
        self.stop_reader(reader, code, message, Some(details));
        self.pump_log();
    }

    /// A subscription cannot go on.
    pub(super) fn stop_reader(&mut self, at: u32, code: Code, message: String, details: Option<Vec<u8>>) {
        let by_us = self.now_us + ENDING_US;
        let readers = &mut self.logged.readers;
        let sub = readers.handle(at);
        let reader = &mut readers[at];
        let has_stopped = reader.ending.is_some();
        reader.ending.get_or_insert_with(|| {
            Box::new(Ending {
                code,
                message,
                details,
                by_us,
            })
        });
        if !reader.has_unacked() {
            self.end_stopped(at);
        } else if !has_stopped {
            readers.ending.push_back((sub, by_us));
            readers.tick_at_us = readers.tick_at_us.min(by_us);
        }
    }

    /// One that stopped has acknowledged all, or had its time for that.
    pub(super) fn end_stopped(&mut self, at: u32) {
        if let Some(ending) = self.logged.readers[at].ending.take() {
            self.end_reader(at, ending.code, ending.message, ending.details);
        }
    }

    /// Ends those that stopped and had their time.
    pub(super) fn end_overdue(&mut self) {
        while let Some(&(sub, by_us)) = self.logged.readers.ending.front() {
            let readers = &mut self.logged.readers;
            if by_us > self.now_us {
                readers.tick_at_us = readers.tick_at_us.min(by_us);
                return;
            }
            readers.ending.pop_front();
            // It may be over, or go on since its session was cut, and have stopped again later.
            let Some(at) = readers.find(sub) else { continue };
            let reader = &mut readers[at];
            let Some(ending) = reader.ending.as_mut().filter(|ending| ending.by_us == by_us) else {
                continue;
            };
            if reader.is_busy {
                // It is away, or takes nothing: an end that is said now would overtake what was handed out and comes again.
                ending.by_us = self.now_us + ENDING_US;
                readers.ending.push_back((sub, self.now_us + ENDING_US));
                continue;
            }
            self.end_stopped(at);
        }
    }

    /// Ends a subscription at once.
    fn end_reader(&mut self, at: u32, code: Code, message: String, details: Option<Vec<u8>>) {
        let Reader { peer, id, .. } = self.logged.readers[at];
        if let Some(sub) = self.subscriptions.find(peer, id) {
            self.unsubscribe(sub);
        }
        self.logged.news.push_back(LoggedNews::Ended {
            to: peer,
            sub: id,
            code,
            message: message.into(),
            details,
        });
    }

    /// Somebody else holds its cursor now.
    pub(crate) fn reader_superseded(&mut self, sub: SubHandle) {
        let Some(at) = self.logged.readers.find(sub) else {
            return;
        };
        let message = "a newer subscription with the same `durable` name, pattern and principal took over; this one is over";
        if matches!(self.logged.readers[at].phase, Phase::Beginning { .. }) {
            self.refuse_reader(at, Code::Aborted, message.to_owned(), None, None);
        } else {
            self.end_reader(at, Code::Aborted, message.to_owned(), None);
        }
    }
}

/// Takes runs for a subscription out of the news: those of one partition, or all.
fn forget_runs(news: &mut VecDeque<LoggedNews>, peer: PeerId, id: Id, partition: Option<u16>) {
    news.retain(|news| match news {
        LoggedNews::Run {
            to, sub, positions, ..
        } if (*to, *sub) == (peer, id) => {
            let of = Positions::read(positions).map(|positions| positions.partition());
            partition.is_some() && of != partition
        }
        _ => true,
    });
}
