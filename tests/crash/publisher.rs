//! A publisher: events at qos 2, as fast as its window lets it, sent again with the same id until they are acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Code, Kind};
use fluxar_tests::Received;
use fluxar_tests::message::{encoded, number};

use crate::book::EventName;
use crate::stage::Stage;
use crate::wire::{BODY_BYTES, Wire};

/// Topics of each publisher.
const TOPICS: u64 = 4;

/// Runs until the stage says that no more is to be published and all of it is acknowledged.
pub(crate) fn run(stage: &Stage, publisher: u32) {
    let mut unacked: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut next = 1;
    let mut last_event = None;
    while !stage.is_over() {
        let connected = stage.connect(&mut last_event, |wire| {
            let mut to_send: Vec<u64> = unacked.keys().copied().collect();
            let result = publish(stage, wire, publisher, &mut unacked, &mut next, &mut to_send);
            // What was acknowledged before the end of the connection counts.
            for received in wire.drain() {
                settle(stage, &received, &mut unacked, &mut Vec::new());
            }
            result
        });
        if connected.is_ok() && unacked.is_empty() && stage.is_ending() {
            return;
        }
    }
}

fn publish(
    stage: &Stage,
    wire: &mut Wire,
    publisher: u32,
    unacked: &mut BTreeMap<u64, Vec<u8>>,
    next: &mut u64,
    to_send: &mut Vec<u64>,
) -> io::Result<()> {
    let window = stage.pace.window;
    loop {
        if stage.is_over() || (stage.is_ending() && unacked.is_empty()) {
            return Ok(());
        }
        let mut body = Vec::new();
        // As the SDK does: what was refused goes before what was never sent, in the order of publication.
        to_send.sort_unstable();
        let mut again = std::mem::take(to_send).into_iter();
        for number in again.by_ref() {
            let Some(event) = unacked.get(&number) else {
                continue;
            };
            body.extend_from_slice(event);
            if body.len() > BODY_BYTES {
                break;
            }
        }
        to_send.extend(again);
        while to_send.is_empty() && unacked.len() < window && body.len() < BODY_BYTES && !stage.is_ending() {
            let event = worded(publisher, *next);
            body.extend_from_slice(&event);
            unacked.insert(*next, event);
            stage.book.open().published.insert(publisher, *next);
            *next += 1;
        }
        if !body.is_empty() {
            wire.send(&body)?;
            std::thread::sleep(stage.pace.pause);
        }
        // Until half of the window is free again.
        loop {
            match wire.next()? {
                Some(received) => settle(stage, &received, unacked, to_send),
                None if !to_send.is_empty() || unacked.len() < window => break,
                None if stage.is_over() => return Ok(()),
                None => {}
            }
            if unacked.len() <= window / 2 {
                break;
            }
        }
    }
}

fn worded(publisher: u32, of: u64) -> Vec<u8> {
    let topic = format!("crash.{publisher}.{}", of % TOPICS);
    let meta = MetaWriter::new().uint("qos", 2).finish();
    let id = EventName {
        publisher,
        number: of,
    }
    .id();
    encoded(Kind::Event, id, None, Some(&topic), meta.as_deref(), &number(of))
}

/// An acknowledgement, or a refusal, after which the event is sent again.
fn settle(stage: &Stage, received: &Received, unacked: &mut BTreeMap<u64, Vec<u8>>, again: &mut Vec<u64>) {
    let (Kind::Event, Some(id)) = (received.kind, received.reference) else {
        return;
    };
    let event = EventName::of(id);
    match &received.error {
        None => {
            let at = received.meta.as_deref().map(Meta::from_checked);
            let at = at.and_then(|meta| meta.at().ok().flatten());
            let place = at.map_or((0, 0), |at| (at.partition, at.offset));
            stage.book.open().acknowledged(event, place);
            stage.acked.fetch_add(1, Ordering::Relaxed);
            unacked.remove(&event.number);
        }
        Some((Code::Unavailable | Code::ResourceExhausted, _)) => {
            stage.refused.fetch_add(1, Ordering::Relaxed);
            again.push(event.number);
        }
        Some((code, message)) => {
            let fault = format!("{event:?} was refused {code:?}: {message}");
            stage.book.open().fault(fault);
            unacked.remove(&event.number);
        }
    }
}
