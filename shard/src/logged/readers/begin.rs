//! How a subscription begins: its owners say where, each for its partitions; when all have, it is accepted.

use std::sync::Arc;

use fluxar_protocol::limits::NAME_TEXT_BYTES_MAX;
use fluxar_protocol::meta::{MetaWriter, Qos};
use fluxar_protocol::{Code, Id};

use super::owners;
use super::reader::{Phase, Place, Reader};
use crate::interest::{check_group, check_pattern};
use crate::limits::CURSORS_PER_PEER_MAX;
use crate::log::{CursorName, LogRefusal, Settings};
use crate::logged::LogLetter;
use crate::logged::letters::{Begin, BeginRefusal, Begun, Start, SubHandle};
use crate::logged::news::LoggedNews;
use crate::logged::publishing::refusal_words;
use crate::logged::wish::{From, LoggedWish, QOS_2_UNNAMED};
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::subscriptions::Role;

/// A subscription that would make too many cursors, if all that begin make theirs, is worth another try after so long, ms.
const MADE_RETRY_MS: u32 = 200;

impl Shard {
    /// Subscribes a connection of this core at qos 1 or 2. Whether it is accepted is told by [`Shard::poll_logged`].
    ///
    /// # Errors
    /// As [`Shard::subscribe`]; `failed_precondition` without a log; `invalid_argument` for qos 2 without a name, and for a
    /// name that is empty or too long.
    pub fn subscribe_logged(
        &mut self,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        wish: LoggedWish<'_>,
    ) -> Result<(), Refusal> {
        let Some(settings) = self.logged.log.settings().cloned() else {
            let (code, message, _) = refusal_words(&LogRefusal::NoLog);
            return Err(Refusal { code, message });
        };
        check_pattern(pattern)?;
        check_group(wish.group)?;
        if wish
            .durable
            .is_some_and(|name| name.is_empty() || name.len() > NAME_TEXT_BYTES_MAX)
        {
            return Err(Refusal::fixed(
                Code::InvalidArgument,
                "a `durable` name has 1 to 255 bytes",
            ));
        }
        if wish.qos == Qos::ExactlyOnce && wish.durable.is_none() && wish.group.is_none() {
            return Err(Refusal::fixed(Code::InvalidArgument, QOS_2_UNNAMED));
        }
        self.no_call_has(peer, sub)?;
        if let Some(group) = wish.group {
            self.join_queue(peer, sub, pattern, group, start_of(&wish.from), &wish)?;
        } else {
            self.begin_reader(&settings, peer, sub, pattern, wish)?;
        }
        self.pump_log();
        Ok(())
    }

    fn begin_reader(
        &mut self,
        settings: &Settings,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        wish: LoggedWish<'_>,
    ) -> Result<(), Refusal> {
        let text_bytes = pattern.len() + wish.durable.map_or(0, |name| name.len() + wish.principal.len());
        self.subscriptions.admit(peer, sub, text_bytes, false)?;
        self.logged.readers.admit(pattern)?;
        let cursor = wish.durable.map(|name| {
            Arc::new(CursorName {
                principal: wish.principal.into(),
                name: name.into(),
                pattern: pattern.into(),
                group: "".into(),
            })
        });
        let start = start_of(&wish.from);
        let owners = owners(pattern, settings.partitions, self.post.cores());
        let phase = Phase::Beginning {
            start: start.clone(),
            owners_left: owners.len() as u16,
            begun: Vec::new(),
        };
        let readers = &mut self.logged.readers;
        let number = readers.followed.entry(pattern);
        let text = readers.followed.text(number).clone();
        let mut reader = Reader::new(peer, sub, number, cursor.clone(), phase);
        reader.is_busy = readers.busy.contains(&peer);
        reader.skips_damaged = wish.skip_damaged;
        let mut may_make = true;
        if cursor.is_some() {
            reader.made = readers.covers(number) as u32;
            may_make = readers.make(peer, reader.made);
        }
        let at = readers.add(reader);
        let handle = readers.handle(at);
        self.subscriptions
            .add(peer, sub, Role::Reader(at), 0, 0, text_bytes);
        for owner in owners {
            let begin = Begin {
                sub: handle,
                stamp: (self.now_us, self.core),
                pattern: text.clone(),
                cursor: cursor.clone(),
                start: start.clone(),
                retain: wish.retain,
                may_make,
            };
            self.say(owner, LogLetter::Begin(Box::new(begin)));
        }
        Ok(())
    }

    /// An owner says where a subscription begins, or that it does not.
    pub(crate) fn began(&mut self, sub: SubHandle, epoch: u64, result: Result<Vec<Begun>, BeginRefusal>) {
        // What its owner told with it holds for all of this core, whatever became of the subscription.
        if let Ok(begun) = &result {
            for place in begun {
                self.hear(place.partition, place.after, place.until, None);
            }
        }
        let Some(at) = self.logged.readers.find(sub) else {
            return;
        };
        let begun_here = match result {
            Ok(begun) => begun,
            Err(refusal) => {
                let (code, message, mut retry_after_ms, details) = words(&refusal);
                let readers = &self.logged.readers;
                let reader = &readers[at];
                if refusal == BeginRefusal::TooManyMade && readers.may_make_later(reader.peer, reader.made) {
                    retry_after_ms = Some(MADE_RETRY_MS);
                }
                self.refuse_reader(at, code, message, retry_after_ms, details);
                return;
            }
        };
        let reader = &mut self.logged.readers.held[at as usize];
        let Phase::Beginning {
            owners_left, begun, ..
        } = &mut reader.phase
        else {
            return;
        };
        *owners_left -= 1;
        let is_last = *owners_left == 0;
        if reader.cursor.is_some() {
            let known = begun_here.iter().filter(|place| !place.is_made).count() as u32;
            begun.extend(begun_here);
            reader.made -= known.min(reader.made);
            let peer = reader.peer;
            self.logged.readers.unmake(peer, known);
        } else {
            begun.extend(begun_here);
        }
        if is_last {
            self.open_reader(at, epoch);
        }
    }

    /// All owners have said where it begins.
    fn open_reader(&mut self, at: u32, epoch: u64) {
        let readers = &mut self.logged.readers;
        let reader = &mut readers.held[at as usize];
        let Phase::Beginning { start, mut begun, .. } = std::mem::replace(&mut reader.phase, Phase::Open)
        else {
            return;
        };
        begun.sort_unstable_by_key(|place| place.partition);
        let (peer, made) = (reader.peer, reader.made);
        let since_ms = match start {
            Start::TimeMs(time_ms) => time_ms,
            _ => 0,
        };
        // Behind a table nothing is passed over for its age: what is older than the time may be the last event of its key, and
        // the table ends in front of it.
        let since_ms = |begun: &Begun| if begun.has_table { 0 } else { since_ms };
        reader.places = (begun.iter())
            .map(|begun| Place::new(begun, since_ms(begun)))
            .collect();
        reader.behind = begun.len() as u32;
        for (nth, begun) in begun.iter().enumerate() {
            if !begun.has_table && begun.position >= readers.heard[usize::from(begun.partition)] {
                reader.catches_up(nth);
            }
        }
        readers.have_made(peer, made);
        let reader = &readers[at];
        let opened = reader
            .cursor
            .clone()
            .map(|cursor| (cursor, readers.followed.text(reader.pattern).clone()));
        self.logged.news.push_back(LoggedNews::Accepted {
            to: reader.peer,
            sub: reader.id,
            epoch,
            at: begun
                .iter()
                .map(|place| (place.partition, place.position))
                .collect(),
        });
        if let Some((cursor, pattern)) = opened {
            let sub = self.logged.readers.handle(at);
            let partitions = self.logged.readers.heard.len() as u16;
            for owner in owners(&pattern, partitions, self.post.cores()) {
                let cursor = cursor.clone();
                self.say(owner, LogLetter::Opened { cursor, sub });
            }
        }
        self.fetch_on(at);
    }

    /// A subscription does not begin.
    pub(super) fn refuse_reader(
        &mut self,
        at: u32,
        code: Code,
        message: String,
        retry_after_ms: Option<u32>,
        details: Option<Vec<u8>>,
    ) {
        let Reader { peer, id, .. } = self.logged.readers[at];
        if let Some(sub) = self.subscriptions.find(peer, id) {
            self.unsubscribe(sub);
        }
        self.logged.news.push_back(LoggedNews::RefusedSub {
            to: peer,
            sub: id,
            code,
            message: message.into(),
            retry_after_ms,
            details,
        });
    }
}

/// The start of a wish, to be sent. Of a partition that is named twice, the last counts.
pub(crate) fn start_of(from: &From<'_>) -> Start {
    match from {
        From::Default => Start::Default,
        From::New => Start::New,
        From::All => Start::All,
        // Events that are stored together have the time of the last: none that is wanted is left out.
        From::TimeMs(time_ms) => Start::TimeMs(*time_ms),
        From::Epoch { epoch, at } => {
            let mut sorted: Vec<(u16, u64)> = at.iter().rev().copied().collect();
            sorted.sort_by_key(|&(partition, _)| partition);
            sorted.dedup_by_key(|&mut (partition, _)| partition);
            Start::Epoch {
                epoch: *epoch,
                at: sorted.into(),
            }
        }
    }
}

/// What a peer is told.
pub(crate) fn words(refusal: &BeginRefusal) -> (Code, String, Option<u32>, Option<Vec<u8>>) {
    match refusal {
        BeginRefusal::Recovering => {
            let (code, message, retry_after_ms) = refusal_words(&LogRefusal::Recovering);
            (code, message.into_owned(), retry_after_ms, None)
        }
        BeginRefusal::Log(refusal) => {
            let (code, message, retry_after_ms) = refusal_words(refusal);
            (code, message.into_owned(), retry_after_ms, None)
        }
        BeginRefusal::TooManyMade => (
            Code::ResourceExhausted,
            format!(
                "this connection has made {CURSORS_PER_PEER_MAX} durable cursors, its limit (a name takes one, with a wildcard one \
                 in each partition)"
            ),
            None,
            None,
        ),
        BeginRefusal::UnknownEpoch { epoch, ours } => (
            Code::OutOfRange,
            format!(
                "epoch {epoch} is not one of this gateway's log, whose own is {ours}: its positions mean nothing here; subscribe \
                 with `from` \"all\" or \"new\""
            ),
            None,
            MetaWriter::new().uint("epoch", *ours).finish(),
        ),
        BeginRefusal::NeverGivenOut {
            partition,
            offset,
            committed,
        } => (
            Code::OutOfRange,
            format!(
                "offset {offset} of partition {partition} was never given out, the last one is {committed}: subscribe with \
                 `from` \"all\" or \"new\""
            ),
            None,
            MetaWriter::new()
                .uint("partition", (*partition).into())
                .uint("last", *committed)
                .finish(),
        ),
        BeginRefusal::CursorsLost { partition, first } => (
            Code::DataLoss,
            format!(
                "durable cursors of partition {partition} were damaged on the gateway's disk, and this one may have been among them: \
                 subscribe with `from` to say where it goes on, behind what you have or \"all\"; \"new\" if it never was"
            ),
            None,
            Some(super::details(*partition, *first, None)),
        ),
        BeginRefusal::Superseded => (
            Code::Aborted,
            "a newer subscription with the same `durable` name, pattern and principal was faster".to_owned(),
            None,
            None,
        ),
    }
}
