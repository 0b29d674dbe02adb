//! No payload smuggles an envelope: what a subscriber gets was, byte for byte, an item of its own in the body that its
//! publisher sent, and is an event on a topic that it subscribed to. Judged by a walk that shares nothing with the
//! gateway's, and by `ciborium` where that can read what CBOR allows.

use std::collections::VecDeque;
use std::time::Duration;

use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

use crate::neighbours::until_heard;
use crate::random::Random;
use crate::{measure, none, stop};

/// What a walk thinks of texts that are not UTF-8: they are well-formed, but not valid.
#[derive(Clone, Copy, PartialEq)]
enum Texts {
    Valid,
    AnyBytes,
}

/// The first byte behind the CBOR item that `bytes` begin with, or `None` if they do not begin with one: RFC 8949,
/// appendix C, with definite and indefinite lengths.
fn item_end(bytes: &[u8], depth: u32, texts: Texts) -> Option<usize> {
    let initial = *bytes.first()?;
    let (major, info) = (initial >> 5, initial & 31);
    let extra = match info {
        0..=23 | 31 => 0,
        24..=27 => 1 << (info - 24),
        _ => return None,
    };
    let mut at = 1 + extra;
    let value = match info {
        0..=23 => u64::from(info),
        _ => bytes
            .get(1..at)?
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    };
    if depth > 66 {
        return None;
    }
    let is_break = |at: usize| bytes.get(at) == Some(&0xff);
    match (major, info) {
        (0 | 1, 31) | (6, 31) => return None,
        (0 | 1, _) => {}
        (2 | 3, 31) => {
            while !is_break(at) {
                let chunk = *bytes.get(at)?;
                if chunk >> 5 != major || chunk & 31 == 31 {
                    return None;
                }
                at += item_end(&bytes[at..], depth, texts)?;
            }
            at += 1;
        }
        (2 | 3, _) => {
            let end = at.checked_add(usize::try_from(value).ok()?)?;
            let content = bytes.get(at..end)?;
            if major == 3 && texts == Texts::Valid && std::str::from_utf8(content).is_err() {
                return None;
            }
            at = end;
        }
        (4 | 5, 31) => {
            let mut items = 0;
            while !is_break(at) {
                at += item_end(bytes.get(at..)?, depth + 1, texts)?;
                items += 1;
            }
            if major == 5 && items % 2 == 1 {
                return None;
            }
            at += 1;
        }
        (4 | 5, _) => {
            let items = value.checked_mul(u64::from(major) - 3)?;
            for _ in 0..items {
                at += item_end(bytes.get(at..)?, depth + 1, texts)?;
            }
        }
        (6, _) => at += item_end(bytes.get(at..)?, depth + 1, texts)?,
        (7, 31) => return None,
        (7, 24) if value < 32 => return None,
        _ => {}
    }
    Some(at)
}

/// The items that a body consists of, up to where it is none any more.
fn items(body: &[u8]) -> Vec<Vec<u8>> {
    let mut items = Vec::new();
    let mut at = 0;
    while let Some(end) = item_end(&body[at..], 0, Texts::AnyBytes) {
        items.push(body[at..at + end].to_vec());
        at += end;
    }
    items
}

/// Holds a delivered event against what a compact event must be, without the gateway's code.
#[track_caller]
fn assert_is_event(event: &[u8], topics: &str) {
    assert!(
        event.len() > 23 && event[..3] == [0x87, 0x05, 0x50] && event[19] == 0xf6,
        "{event:02x?}"
    );
    assert_eq!(
        item_end(event, 0, Texts::Valid),
        Some(event.len()),
        "{event:02x?}"
    );
    let mut at = 20;
    let mut fields = Vec::new();
    for _ in 0..4 {
        let end = item_end(&event[at..], 1, Texts::Valid).expect("a field");
        fields.push(&event[at..at + end]);
        at += end;
    }
    assert_eq!(at, event.len(), "{event:02x?}");
    let target = match fields[0] {
        [head @ 0x61..=0x77, text @ ..] if text.len() == usize::from(head - 0x60) => text,
        [0x78, length, text @ ..] if text.len() == usize::from(*length) => text,
        other => panic!("a target that is no text: {other:02x?}"),
    };
    let target = std::str::from_utf8(target).expect("UTF-8");
    assert!(target.starts_with(topics), "{target} is none of {topics}*");
    assert!(fields[1] == [0xf6] || fields[1][0] >> 5 == 5, "{event:02x?}");
    assert!(fields[3] == [0xf6] || fields[3][0] >> 5 == 5, "{event:02x?}");
    // A second opinion, as far as it goes: it has no unassigned simple values, and its own idea of depth.
    let mut rest = event;
    if let Ok(ciborium::Value::Array(array)) = ciborium::from_reader::<ciborium::Value, _>(&mut rest) {
        assert!(rest.is_empty(), "{event:02x?}");
        assert_eq!(array.len(), 7);
        assert_eq!(array[0], ciborium::Value::Integer(5.into()));
        assert_eq!(array[3].as_text(), Some(target));
    }
}

fn event(id: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    encoded(Kind::Event, Id([id; 16]), None, Some(topic), None, payload)
}

/// A byte string with this head length: 0 for the shortest.
fn bytes_item(content: &[u8]) -> Vec<u8> {
    let mut item = vec![0x59];
    item.extend((content.len() as u16).to_be_bytes());
    item.extend_from_slice(content);
    item
}

/// A watcher of the topics that must stay silent, and one of those that are spoken on.
fn watchers(gateway: &Running) -> (Client, Vec<Client>, Client) {
    let mut secret = gateway.client();
    secret.subscribe("secret.>", none());
    let mut open = vec![
        gateway.client(),
        Client::greeted(gateway.ws()),
        Client::greeted(gateway.unix()),
    ];
    for client in &mut open {
        client.subscribe("open.>", none());
    }
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut open, "open.warm", 0);
    until_heard(
        &mut publisher,
        std::slice::from_mut(&mut secret),
        "secret.warm",
        0,
    );
    publisher.publish("open.begin", &number(0));
    publisher.publish("secret.begin", &number(0));
    for client in open.iter_mut().chain([&mut secret]) {
        while !client.expect().target.expect("a topic").ends_with(".begin") {}
    }
    (secret, open, publisher)
}

/// What a watcher gets up to the next event on `…end`.
fn until_end(client: &mut Client) -> Vec<Received> {
    let mut all = Vec::new();
    loop {
        let next = client.expect();
        if next
            .target
            .as_deref()
            .is_some_and(|target| target.ends_with(".end"))
        {
            return all;
        }
        all.push(next);
    }
}

#[test]
fn envelopes_inside_payloads_stay_inside() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let (mut secret, mut open, mut publisher) = watchers(&gateway);
    let inner = event(0x66, "secret.inner", &number(666));
    let mut payloads = vec![
        inner.clone(), // itself an array of seven
        bytes_item(&inner),
        bytes_item(&inner.repeat(20)),
    ];
    // In an array of indefinite length, a map, a tag for embedded CBOR, chunks, and deep down.
    payloads.push([&[0x9f][..], &inner, &inner, &[0xff]].concat());
    payloads.push([&[0xa1][..], &inner, &inner].concat());
    payloads.push([&[0xd8, 0x18][..], &bytes_item(&inner)].concat());
    payloads.push([&[0x5f][..], &bytes_item(&inner), &bytes_item(&inner), &[0xff]].concat());
    payloads.push([&[0x81; 60][..], &inner].concat());
    // Aligned to where a vectorised walk changes its step.
    for padding in 0..130 {
        let content = [&vec![0xf6; padding][..], &inner].concat();
        payloads.push(bytes_item(&content));
        let mut array = vec![0x98, padding as u8 + 1];
        array.extend(&content);
        payloads.push(array);
    }
    let mut sent = Vec::new();
    for payload in &payloads {
        // Alone, and between others in one body.
        let outer = event(1, "open.outer", payload);
        let small = event(2, "open.small", &number(1));
        publisher.send(&outer);
        publisher.send(&[&small[..], &outer, &small].concat());
        sent.extend([outer.clone(), small.clone(), outer, small]);
    }
    publisher.publish("open.end", &number(0));
    publisher.publish("secret.end", &number(0));
    for client in &mut open {
        let received: Vec<Vec<u8>> = until_end(client).into_iter().map(|one| one.bytes).collect();
        assert!(received == sent, "not what was sent");
    }
    assert_eq!(until_end(&mut secret), Vec::new());
    publisher.settle();
    stop(gateway);
}

#[test]
fn lengths_that_reach_beyond_their_envelope_are_refused() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let (mut secret, mut open, mut publisher) = watchers(&gateway);
    let inner = event(0x66, "secret.inner", &number(666));
    // An event as far as its payload, and the payload's head, which announces more than its content.
    let start = event(3, "open.trick", &[]);
    let start = &start[..start.len() - 2];
    let heads: [&[u8]; 8] = [
        &[0x41],       // a byte string that swallows the error
        &[0x61],       // a text
        &[0x81],       // an array
        &[0xa1, 0x00], // a map
        &[0xc1],       // a tag
        &[0x58, 0xff], // far beyond
        &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    for head in heads {
        for behind in [&[][..], &inner] {
            let mut body = [start, head, &[0xf6], behind].concat();
            for form in 0..2 {
                if form == 1 {
                    // The same behind a good one.
                    body = [&event(4, "open.good", &number(4))[..], &body].concat();
                }
                let mut client = gateway.client();
                client.send(&body);
                // Whatever it is told, the connection ends or the envelope is refused; nothing gets through.
                let id = client.id();
                let _ = client.try_send(&encoded(Kind::Cancel, id, None, None, None, &[]));
                let (rest, _) = client.rest();
                let code = rest.iter().find_map(Received::code);
                assert_eq!(code, Some(Code::InvalidArgument), "{head:02x?}: {rest:?}");
            }
        }
    }
    // An error field that is none, and is the beginning of the next envelope instead.
    for error in [&[0x87][..], &[0x41, 0x87], &[0xa0], &[0xbf, 0xff]] {
        let mut client = gateway.client();
        client.send(&[start, &[0xf6], error, &inner].concat());
        let id = client.id();
        let _ = client.try_send(&encoded(Kind::Cancel, id, None, None, None, &[]));
        let (rest, _) = client.rest();
        assert_eq!(
            rest.iter().find_map(Received::code),
            Some(Code::InvalidArgument),
            "{error:02x?}"
        );
    }
    publisher.publish("open.end", &number(0));
    for client in &mut open {
        for one in until_end(client) {
            assert_eq!(one.target.as_deref(), Some("open.good"), "{one:?}");
        }
    }
    // Behind an envelope that is refused but whose end is certain, the next one is its own, as it would have been
    // without it: those few are not smuggled but sent.
    publisher.publish("secret.end", &number(0));
    for one in until_end(&mut secret) {
        assert_eq!(one.bytes, inner);
    }
    stop(gateway);
}

/// Changes a valid body a little, in one of the ways that bytes go wrong or are made to.
fn mutate(random: &mut Random, body: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(body.len());
        match random.below(7) {
            0 => body[at] = random.next() as u8,
            1 => body[at] ^= 1 << random.below(8),
            2 => body[at] = body[at].wrapping_add(1),
            3 => {
                body.remove(at);
            }
            4 => body.insert(at, random.next() as u8),
            5 => {
                // A head of another length.
                let heads = [
                    0x58, 0x59, 0x5a, 0x5b, 0x5f, 0x78, 0x98, 0x9f, 0xbf, 0xff, 0x81, 0xa1, 0xc0, 0xf8,
                ];
                body[at] = heads[random.below(heads.len())];
            }
            _ => {
                let count = random.below(body.len() - at);
                let part = body[at..at + count.min(40)].to_vec();
                let to = random.below(body.len());
                body.splice(to..to, part);
            }
        }
        if body.is_empty() {
            body.push(0x87);
        }
    }
}

#[test]
fn what_arrives_of_mutated_bodies_was_an_item_of_its_own() {
    const BODIES: usize = 3_000;
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.refusals_per_s = 0);
    let mut random = Random::seeded("what_arrives_of_mutated_bodies_was_an_item_of_its_own");
    let (mut secret, mut open, mut publisher) = watchers(&gateway);
    let inner = event(0x66, "secret.inner", &number(666));
    let payloads = [
        bytes_item(&inner),
        [&[0x9f][..], &inner, &[0xff]].concat(),
        inner.clone(),
        [
            &[0xa2, 0x61, b'a'][..],
            &inner,
            &[0x61, b'b', 0x5f],
            &bytes_item(&inner),
            &[0xff],
        ]
        .concat(),
        number(1),
        [&[0x78, 40][..], &[b'x'; 40]].concat(),
    ];
    let (mut delivered, mut closings) = (0, 0);
    let mut recent: VecDeque<Vec<Vec<u8>>> = VecDeque::new();
    let mut client = gateway.client();
    for round in 0..BODIES {
        let count = 1 + random.below(3);
        let mut body: Vec<u8> = (0..count)
            .flat_map(|at| {
                event(
                    at as u8 + 1,
                    "open.mutant",
                    &payloads[random.below(payloads.len())],
                )
            })
            .collect();
        mutate(&mut random, &mut body);
        client.send(&body);
        // The gateway has handled it when it answers, or closes.
        let ping = client.id();
        let _ = client.try_send(&encoded(Kind::Ping, ping, None, None, None, &[]));
        loop {
            match client.next() {
                Ok(one) if one.reference == Some(ping) => break,
                Ok(_) => {}
                Err(_) => {
                    client = gateway.client();
                    closings += 1;
                    break;
                }
            }
        }
        publisher.publish("open.end", &number(round as u64));
        publisher.publish("secret.end", &number(round as u64));
        // What another core's publisher says may overtake it on its way to a third: so for a few bodies back.
        recent.push_back(items(&body));
        if recent.len() > 16 {
            recent.pop_front();
        }
        let is_item = |bytes: &Vec<u8>| recent.iter().any(|items| items.contains(bytes));
        for watcher in &mut open {
            for one in until_end(watcher) {
                assert!(
                    is_item(&one.bytes),
                    "{:02x?} was smuggled out of {body:02x?}",
                    one.bytes
                );
                assert_is_event(&one.bytes, "open.");
                delivered += 1;
            }
        }
        for one in until_end(&mut secret) {
            // A mutation may have made an envelope of its own out of it; then it is one for the other walk as well.
            assert!(is_item(&one.bytes), "{one:?} was smuggled out of {body:02x?}");
            assert_is_event(&one.bytes, "secret.");
        }
    }
    println!("{BODIES} mutated bodies: {delivered} events came through, {closings} connections were closed");
    assert!(delivered > BODIES / 10 && closings > BODIES / 100);
    assert_eq!(open[0].poll(Duration::from_millis(20)), Ok(None));
    stop(gateway);
}
