//! Those who hear: one at qos 2 with a durable cursor, one at qos 1 that comes back with its positions, and two workers of
//! a queue. Each comes again after every loss of its connection and compares positions, as a receiver is asked to. And one
//! at qos 2 that is lost together with the gateway each time, and with it what it knew: it has its durable name alone.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::position::{Acceptance, Position, Positions, write_positions};
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::encoded;

use crate::book::EventName;
use crate::stage::Stage;
use crate::wire::Wire;

/// How one hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// qos 2, `durable`.
    Durable,
    /// The same, and what it knew is gone with its connection.
    Forgetful,
    /// qos 1 with `from` {epoch, at}.
    Returning,
    /// qos 1, `group`.
    Worker,
}

/// What was acknowledged so long before the gateway was lost does not come again: a cursor is written at most 0.2 s behind,
/// and synced at most 1 s behind that; the rest is for a machine that is busy.
const SAFE_AFTER: Duration = Duration::from_secs(3);

/// What one keeps over its connections.
struct Memory {
    who: &'static str,
    how: How,
    epoch: Option<u64>,
    /// The last position handled in each partition.
    handled: HashMap<u16, u64>,
    /// Runs since the last acknowledgement.
    unacked_runs: u32,
    /// When a connection was last given up that may live: its subscription may arrive behind that of the next one.
    gave_up_at: Option<Instant>,
    /// What the forgetful one acknowledged on the connection at hand, and when.
    acked: Vec<(Instant, u16, u64)>,
    /// Up to where it must not be told anything again.
    safe: HashMap<u16, u64>,
}

impl Memory {
    /// The connection is gone, and the process that held it.
    fn is_lost(&mut self, gone_at: Option<Instant>) {
        if self.how != How::Forgetful {
            return;
        }
        for (acked_at, partition, offset) in self.acked.drain(..) {
            let lived_on = gone_at.map(|gone_at| gone_at.saturating_duration_since(acked_at));
            if lived_on.is_some_and(|lived_on| lived_on >= SAFE_AFTER) {
                let safe = self.safe.entry(partition).or_default();
                *safe = offset.max(*safe);
            }
        }
        self.handled.clear();
        self.unacked_runs = 0;
    }
}

/// Runs until the stage is over.
pub(crate) fn run(stage: &Stage, who: &'static str, how: How) {
    let mut memory = Memory {
        who,
        how,
        epoch: None,
        handled: HashMap::new(),
        unacked_runs: 0,
        gave_up_at: None,
        acked: Vec::new(),
        safe: HashMap::new(),
    };
    stage.book.open().subscribers.entry(who).or_default();
    let mut last_event = None;
    while !stage.is_over() {
        let heard = stage.connect(&mut last_event, |wire| hear(stage, wire, &mut memory));
        if heard.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            memory.gave_up_at = Some(Instant::now());
        }
        memory.is_lost(stage.gone_at());
    }
}

fn hear(stage: &Stage, wire: &mut Wire, memory: &mut Memory) -> io::Result<()> {
    let sub = subscribe(stage, wire, memory)?;
    let mut events_due = Vec::new().into_iter();
    // The run at hand, as its header named it.
    let mut positions = Vec::new();
    let mut dup = 0;
    while !stage.is_over() {
        let Some(received) = wire.next()? else {
            flush(wire, sub, memory)?;
            continue;
        };
        match received.kind {
            Kind::Subscribe if received.reference == Some(sub) => {
                if received.ends() || received.error.is_some() {
                    return ended(stage, memory, received.error);
                }
                let meta = received.meta.as_deref().map(Meta::from_checked);
                let item = meta.and_then(|meta| meta.get("run"));
                if let Some(run) = item.and_then(Positions::read) {
                    positions = item.unwrap_or_default().to_vec();
                    dup = received.uint("dup").unwrap_or(0);
                    let places = run.offsets().map(|offset| (run.partition(), offset));
                    events_due = places.collect::<Vec<(u16, u64)>>().into_iter();
                } else if let Some(at) = meta.and_then(|meta| meta.at().ok().flatten()) {
                    let handled = memory.handled.entry(at.partition).or_default();
                    *handled = at.offset.max(*handled);
                }
            }
            Kind::Event if received.reference.is_none() => {
                let Some(place) = events_due.next() else {
                    let fault = format!("{} got an event without a position", memory.who);
                    stage.book.open().fault(fault);
                    continue;
                };
                let event = EventName::of(received.id);
                handle(
                    stage,
                    memory,
                    received.target.as_deref().unwrap_or_default(),
                    event,
                    place,
                    dup,
                );
                if events_due.len() == 0 {
                    acknowledge(wire, sub, memory, &positions)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn handle(stage: &Stage, memory: &mut Memory, topic: &str, event: EventName, place: (u16, u64), dup: u64) {
    let mut book = stage.book.open();
    if memory.how == How::Worker {
        return book.worked(memory.who, event, place, dup);
    }
    let handled = memory.handled.entry(place.0).or_default();
    if place.1 <= *handled {
        if let Some(account) = book.subscribers.get_mut(memory.who) {
            account.repeats += 1;
        }
        return;
    }
    *handled = place.1;
    if memory.how == How::Forgetful && book.is_told_again(memory.who, event, place) {
        if memory.safe.get(&place.0).is_some_and(|safe| place.1 <= *safe) {
            let fault = format!(
                "{} was told {event:?} at {place:?} again, acknowledged {} s or more before the gateway was lost",
                memory.who,
                SAFE_AFTER.as_secs()
            );
            book.fault(fault);
        }
        return;
    }
    book.handled_once(memory.who, topic, event, place);
}

fn subscribe(stage: &Stage, wire: &mut Wire, memory: &mut Memory) -> io::Result<Id> {
    let mut meta = MetaWriter::new();
    match memory.how {
        How::Durable | How::Forgetful => meta = meta.uint("qos", 2).text("durable", memory.who),
        How::Worker => meta = meta.uint("qos", 1).text("group", memory.who),
        How::Returning => {
            meta = meta.uint("qos", 1);
            if let Some(epoch) = memory.epoch {
                let at: Vec<Position> = memory
                    .handled
                    .iter()
                    .map(|(&partition, &offset)| Position { partition, offset })
                    .collect();
                meta = meta.begin_behind(epoch, at.into_iter());
            }
        }
    }
    if memory.epoch.is_none() {
        // The first time everything; later the cursor, which an explicit `from` would override.
        meta = meta.text("from", "all");
    }
    let id = wire.id();
    let meta = meta.finish();
    wire.send(&encoded(
        Kind::Subscribe,
        id,
        None,
        Some("crash.>"),
        meta.as_deref(),
        &[],
    ))?;
    let answer = wire.answer_to(id)?;
    if let Some((code, message)) = answer.error {
        return Err(match code {
            Code::Unavailable => io::Error::other("the log is being recovered"),
            _ => {
                let fault = format!("{} was refused {code:?}: {message}", memory.who);
                stage.book.open().fault(fault);
                io::Error::other("refused")
            }
        });
    }
    if let Some(accepted) = Acceptance::read(&answer.payload) {
        memory.epoch = Some(accepted.epoch);
        if memory.how == How::Returning {
            for at in accepted.at.iter() {
                memory.handled.entry(at.partition).or_insert(at.offset);
            }
        }
    }
    Ok(id)
}

/// Not every run is acknowledged at once: what is not comes again.
fn acknowledge(wire: &mut Wire, sub: Id, memory: &mut Memory, run: &[u8]) -> io::Result<()> {
    if memory.how == How::Worker {
        // Exactly these, whatever else is open.
        let ack = acknowledgement(wire.id(), sub, run);
        return wire.send(&ack);
    }
    memory.unacked_runs += 1;
    if memory.unacked_runs < 4 {
        return Ok(());
    }
    flush(wire, sub, memory)
}

fn acknowledgement(id: Id, sub: Id, positions: &[u8]) -> Vec<u8> {
    let meta = MetaWriter::new().raw("ack", positions).finish();
    encoded(Kind::Event, id, Some(sub), None, meta.as_deref(), &[])
}

fn flush(wire: &mut Wire, sub: Id, memory: &mut Memory) -> io::Result<()> {
    if std::mem::take(&mut memory.unacked_runs) == 0 {
        return Ok(());
    }
    let mut body = Vec::new();
    for (&partition, &offset) in &memory.handled {
        let mut item = Vec::new();
        write_positions(partition, offset, std::iter::empty(), &mut item);
        body.extend_from_slice(&acknowledgement(wire.id(), sub, &item));
    }
    wire.send(&body)?;
    if memory.how == How::Forgetful {
        let now = Instant::now();
        let acked = memory
            .handled
            .iter()
            .map(|(&partition, &offset)| (now, partition, offset));
        memory.acked.extend(acked);
    }
    Ok(())
}

fn ended(stage: &Stage, memory: &Memory, error: Option<(Code, String)>) -> io::Result<()> {
    // A gateway that has no time for a connection reads it when its client has given it up: then what was asked for there takes
    // the durable name from the connection that came after.
    let took_over_itself = memory.gave_up_at > stage.gone_at() && matches!(error, Some((Code::Aborted, _)));
    if !took_over_itself && !matches!(error, Some((Code::Unavailable, _))) {
        let fault = format!("{}'s subscription was ended: {error:?}", memory.who);
        stage.book.open().fault(fault);
    }
    Err(io::Error::other("ended"))
}
