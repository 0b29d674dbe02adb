//! Streams through a gateway: every pair of transports, both directions, every way to end, many at a time, and readers
//! that stop.

use std::collections::BTreeMap;

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

use crate::none;

fn part(client: &mut Client, stream: Id, meta: MetaWriter, payload: &[u8]) {
    let id = client.id();
    let meta = meta.finish();
    client.send(&encoded(
        Kind::Stream,
        id,
        Some(stream),
        None,
        meta.as_deref(),
        payload,
    ));
}

fn open(client: &mut Client, method: &str, meta: MetaWriter) -> Id {
    let id = client.id();
    let meta = meta.finish();
    client.send(&encoded(
        Kind::Stream,
        id,
        None,
        Some(method),
        meta.as_deref(),
        &number(7),
    ));
    id
}

fn cancel(client: &mut Client, stream: Id) {
    let id = client.id();
    client.send(&encoded(Kind::Cancel, id, Some(stream), None, None, &[]));
}

fn ends() -> MetaWriter {
    MetaWriter::new().flag("end", true)
}

fn credit(bytes: u64) -> MetaWriter {
    MetaWriter::new().uint("credit", bytes)
}

/// Opens until it reaches the server: an offer takes a moment to be known on every core.
fn opened(opener: &mut Client, server: &mut Client, method: &str, meta: MetaWriter) -> (Id, Received) {
    for _ in 0..100 {
        let id = open(opener, method, meta.clone());
        if let Some(received) = opener.reaches(id, server) {
            assert_eq!(
                (received.kind, received.target.as_deref()),
                (Kind::Stream, Some(method))
            );
            return (id, received);
        }
    }
    panic!("{method} is never served");
}

#[test]
fn a_stream_crosses_every_pair_of_transports_both_ways() {
    let gateway = Running::start(|_| {});
    let addresses = [gateway.tcp(), gateway.ws(), gateway.unix()];
    for from in addresses {
        for to in addresses {
            let mut server = Client::greeted(to);
            let method = "talk.duplex";
            server.serve(method);
            let mut opener = Client::greeted(from);
            let meta = credit(5_000).text("trace", "00-ab");
            let (stream, open) = opened(&mut opener, &mut server, method, meta);
            assert_eq!(
                (open.number(), open.uint("credit")),
                (7, Some(5_000)),
                "{from} to {to}"
            );
            // The gateway announced nothing; what the server takes is told as soon as there is one.
            let granted = opener.answer_to(stream).uint("credit");
            assert_eq!(granted, Some(65_536), "{from} to {to}");
            for value in 0..20 {
                let meta = if value == 19 { ends() } else { none() };
                part(&mut opener, stream, meta, &number(value));
                part(&mut server, open.id, none(), &number(100 + value));
            }
            for value in 0..20 {
                let chunk = server.answer_to(open.id);
                assert_eq!((chunk.number(), chunk.ends()), (value, value == 19));
                assert_eq!(opener.answer_to(stream).number(), 100 + value);
            }
            // The other direction is still open.
            part(&mut server, open.id, none(), &number(1));
            part(&mut server, open.id, ends(), &[]);
            assert_eq!(opener.answer_to(stream).number(), 1);
            let end = opener.answer_to(stream);
            assert!(end.ends() && end.payload == [0xf6]);
            // What comes behind is about nothing any more.
            part(&mut server, open.id, none(), &number(1));
            part(&mut opener, stream, none(), &number(1));
            server.settle();
            opener.settle();
        }
    }
    let ends = gateway.stop();
    assert!(ends.iter().map(|end| end.counters.streams).sum::<u64>() >= 9);
}

#[test]
fn either_side_cancels_and_fails_and_the_other_hears_of_it() {
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("talk.short");
    let mut opener = Client::greeted(gateway.ws());
    let (stream, open) = opened(&mut opener, &mut server, "talk.short", none());
    cancel(&mut opener, stream);
    let heard = server.answer_to(open.id);
    assert_eq!((heard.kind, heard.code()), (Kind::Cancel, None));
    part(&mut server, open.id, ends(), &[]);
    let _grant = opener.answer_to(stream);
    assert!(opener.answer_to(stream).ends());

    let (stream, open) = opened(&mut opener, &mut server, "talk.short", none());
    let _grant = opener.answer_to(stream);
    cancel(&mut server, open.id);
    assert_eq!(opener.answer_to(stream).kind, Kind::Cancel);
    part(&mut opener, stream, ends(), &[]);
    assert!(server.answer_to(open.id).ends());

    for by_server in [true, false] {
        let (stream, open) = opened(&mut opener, &mut server, "talk.short", none());
        let _grant = opener.answer_to(stream);
        let error = b"\xa2\x64code\x0d\x67message\x64lost";
        let (from, reference) = if by_server {
            (&mut server, open.id)
        } else {
            (&mut opener, stream)
        };
        let id = from.id();
        let mut failed = encoded(Kind::Stream, id, Some(reference), None, None, &[]);
        failed.pop();
        failed.extend_from_slice(error);
        from.send(&failed);
        let heard = if by_server {
            opener.answer_to(stream)
        } else {
            server.answer_to(open.id)
        };
        assert_eq!(heard.error, Some((Code::Internal, "lost".to_string())));
    }

    // The connection of either side goes.
    let (stream, open) = opened(&mut opener, &mut server, "talk.short", none());
    let mut other = gateway.client();
    let (of_other, again) = opened(&mut other, &mut server, "talk.short", none());
    drop(opener);
    assert_eq!(server.answer_to(open.id).kind, Kind::Cancel);
    drop(server);
    let _grant = other.answer_to(of_other);
    assert_eq!(other.answer_to(of_other).code(), Some(Code::Unavailable));
    let _ = (stream, again);
    gateway.stop();
}

#[test]
fn an_open_that_nobody_serves_and_a_chunk_beyond_credit_fail_alone() {
    let gateway = Running::start(|_| {});
    let mut opener = gateway.client();
    let id = open(&mut opener, "nobody.there", none());
    let refused = opener.answer_to(id);
    assert_eq!(
        (refused.kind, refused.code()),
        (Kind::Stream, Some(Code::Unavailable))
    );

    let mut server = gateway.client();
    server.serve("talk.narrow");
    let (stream, open) = opened(&mut opener, &mut server, "talk.narrow", credit(10));
    let (beside, of_beside) = opened(&mut opener, &mut server, "talk.narrow", credit(10));
    // Eleven bytes of text and their head.
    part(&mut server, open.id, none(), b"\x6bhello world");
    assert_eq!(server.answer_to(open.id).code(), Some(Code::FailedPrecondition));
    let _grant = opener.answer_to(stream);
    assert_eq!(opener.answer_to(stream).code(), Some(Code::Aborted));
    let _grant = opener.answer_to(beside);
    part(&mut server, of_beside.id, none(), &number(3));
    assert_eq!(opener.answer_to(beside).number(), 3);
    // The same id again while it is in use.
    let twice = encoded(Kind::Stream, beside, None, Some("talk.narrow"), None, &[]);
    opener.send(&twice);
    assert_eq!(opener.answer_to(beside).code(), Some(Code::AlreadyExists));
    gateway.stop();
}

#[test]
fn a_hundred_streams_on_one_connection_keep_their_order_each() {
    const STREAMS: u64 = 100;
    const CHUNKS: u64 = 50;
    let gateway = Running::start(|_| {});
    for address in [gateway.tcp(), gateway.ws()] {
        let mut server = Client::greeted(address);
        server.serve("many.streams");
        let mut opener = gateway.client();
        let (first, open_first) = opened(&mut opener, &mut server, "many.streams", credit(100_000));
        let mut ids = vec![(first, open_first.id)];
        for _ in 1..STREAMS {
            let id = open(&mut opener, "many.streams", credit(100_000));
            ids.push((id, server.expect().id));
        }
        let mut body = Vec::new();
        for value in 0..CHUNKS {
            for &(_, of_server) in &ids {
                let id = server.id();
                let end = ends().finish();
                let meta = end.as_deref().filter(|_| value + 1 == CHUNKS);
                body.extend(encoded(
                    Kind::Stream,
                    id,
                    Some(of_server),
                    None,
                    meta,
                    &number(value),
                ));
            }
            server.send(&body);
            body.clear();
        }
        let mut next: BTreeMap<Id, u64> = ids.iter().map(|(id, _)| (*id, 0)).collect();
        let mut ended = 0;
        while ended < STREAMS {
            let heard = opener.expect();
            if heard.uint("credit").is_some() {
                continue;
            }
            let expected = next
                .get_mut(&heard.reference.expect("a ref"))
                .expect("one of ours");
            assert_eq!(heard.number(), *expected);
            *expected += 1;
            ended += u64::from(heard.ends());
        }
        assert!(next.values().all(|chunks| *chunks == CHUNKS));
    }
    gateway.stop();
}

#[test]
fn a_reader_that_stops_granting_stops_its_writer_and_not_the_stream_beside_it() {
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("flow.out");
    let mut reader = gateway.client();
    let (stopped, of_stopped) = opened(&mut reader, &mut server, "flow.out", credit(1_000));
    let (beside, of_beside) = opened(&mut reader, &mut server, "flow.out", credit(1_000));
    let chunk = [&[0x58, 98][..], &[0; 98]].concat();
    for _ in 0..10 {
        part(&mut server, of_stopped.id, none(), &chunk);
    }
    // All of its credit is spent. The other one goes on for as long as its reader grants.
    for _ in 0..200 {
        part(&mut server, of_beside.id, none(), &chunk);
        let mut heard = reader.answer_to(beside);
        if heard.uint("credit").is_some() {
            heard = reader.answer_to(beside);
        }
        assert_eq!(heard.payload, chunk);
        part(&mut reader, beside, credit(100), &[]);
        assert_eq!(server.answer_to(of_beside.id).uint("credit"), Some(100));
    }
    part(&mut server, of_stopped.id, none(), &number(1));
    assert_eq!(
        server.answer_to(of_stopped.id).code(),
        Some(Code::FailedPrecondition)
    );
    let _ = stopped;
    gateway.stop();
}
