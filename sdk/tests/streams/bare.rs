//! Against a peer made of a bare socket: what the SDK says, and what it does about what it would never say itself.

use std::time::Duration;

use fluxar::{Client, Code, ItemSink, Origin, Request, Server};
use fluxar_protocol::{Envelope, Id, Kind, meta::Meta, meta::MetaWriter};
use tokio::net::TcpListener;

use crate::{
    END, Fate, PingThrough, all, client_of_bare, hear, next, open,
    raw::{PATIENCE, Raw, envelope},
    start,
};

fn part<'a>(stream: Id, meta: &'a [u8], payload: &'a [u8]) -> Envelope<'a> {
    Envelope {
        meta: (!meta.is_empty()).then(|| Meta::from_checked(meta)),
        ..envelope(Kind::Stream, Some(stream), payload)
    }
}

fn grant(bytes: u64) -> Vec<u8> {
    MetaWriter::new().uint("credit", bytes).finish().unwrap()
}

/// Serves "echo" (items back as they come, of 5 bytes of window), and says how it fared.
async fn echo_server() -> (Server, Fate) {
    let server = start(Server::bind("127.0.0.1:0").credit_bytes(5)).await;
    let fate = Fate::default();
    let watched = fate.clone();
    server
        .handle_stream("echo", move |req: Request, out: ItemSink<u8>| {
            let watched = watched.begin();
            async move {
                let mut items = req.items::<u8>();
                while let Some(item) = items.next().await {
                    out.send(&item?).await?;
                }
                watched.done();
                Ok(())
            }
        })
        .unwrap();
    server
        .handle_stream("deaf", |_, _: ItemSink<u8>| std::future::pending())
        .unwrap();
    (server, fate)
}

#[tokio::test]
async fn who_breaks_its_credit_loses_that_stream_only() {
    let (server, _) = echo_server().await;
    let mut raw = Raw::greeted(server.url()).await;
    raw.send(&open(1, "deaf", &[])).await;
    raw.send(&open(2, "deaf", &[])).await;
    raw.send(&part(Id([1; 16]), &[], &[0x44, 1, 2, 3, 4])).await; // five bytes, which is all
    raw.send(&part(Id([1; 16]), &[], &[7])).await;
    let told = raw.receive().await.unwrap().remove(0);
    assert_eq!((told.kind, told.reference), (Kind::Stream, Some(Id([1; 16]))));
    let (code, message) = told.error.unwrap();
    assert_eq!(code, Code::FailedPrecondition, "{message}");
    assert!(
        message.contains("1 bytes") && message.contains("0 bytes"),
        "{message}"
    );

    // A part of the stream that is over is nothing, and the other stream is as it was.
    raw.send(&part(Id([1; 16]), &[], &[7])).await;
    raw.send(&part(Id([1; 16]), END, &[])).await;
    raw.send(&part(Id([2; 16]), END, &[])).await;
    raw.send(&part(Id([2; 16]), &[], &[7])).await;
    let told = raw.receive().await.unwrap().remove(0);
    assert_eq!(told.reference, Some(Id([2; 16])));
    assert_eq!(
        told.error.unwrap().0,
        Code::FailedPrecondition,
        "a chunk behind the end"
    );
    raw.send(&envelope(Kind::Ping, None, &[])).await;
    assert_eq!(raw.receive().await.unwrap()[0].kind, Kind::Ping);
}

#[tokio::test]
async fn a_handler_reads_that_its_opener_broke_the_rules() {
    let server = start(Server::bind("127.0.0.1:0").credit_bytes(5)).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    server
        .handle_stream("read", move |req: Request, _: ItemSink<()>| {
            let tell = tell.clone();
            async move {
                tell.send(all(&mut req.items::<u8>()).await).unwrap();
                Ok(())
            }
        })
        .unwrap();
    let mut raw = Raw::greeted(server.url()).await;
    raw.send(&open(1, "read", &[])).await;
    raw.send(&part(Id([1; 16]), &[], &[7])).await;
    raw.send(&part(Id([1; 16]), &[], &[0x46, 1, 2, 3, 4, 5, 6])).await;
    let (items, error) = tokio::time::timeout(PATIENCE, told.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (items, error.unwrap().code()),
        (vec![7], Code::FailedPrecondition)
    );
}

#[tokio::test]
async fn an_id_that_is_open_is_refused() {
    let (server, fate) = echo_server().await;
    server
        .handle("forever", |_| std::future::pending::<fluxar::Result<()>>())
        .unwrap();
    let mut raw = Raw::greeted(server.url()).await;
    raw.send(&Envelope {
        kind: Kind::Call,
        ..open(9, "forever", &[])
    })
    .await;
    raw.send(&open(1, "echo", &[])).await;
    fate.has_begun().await;
    for (kind, id) in [
        (Kind::Stream, 1),
        (Kind::Stream, 9),
        (Kind::Call, 1),
        (Kind::Subscribe, 1),
    ] {
        raw.send(&Envelope {
            kind,
            ..open(id, "echo", &[])
        })
        .await;
        let told = raw.receive().await.unwrap().remove(0);
        assert_eq!(
            (told.kind, told.reference, told.error.unwrap().0),
            (kind, Some(Id([id; 16])), Code::AlreadyExists)
        );
    }
    // The stream goes on. When it is over its id is free.
    for _ in 0..2 {
        raw.send(&part(Id([1; 16]), END, &[7])).await;
        let mut heard = Vec::new();
        assert_eq!(hear(&mut raw, &mut heard).await.payload, [7]);
        assert!(hear(&mut raw, &mut heard).await.ends());
        raw.send(&open(1, "echo", &[])).await;
    }
}

#[tokio::test]
async fn a_cancelled_stream_is_ended_at_once() {
    let (server, fate) = echo_server().await;
    let mut raw = Raw::greeted(server.url()).await;
    for meta in [&[][..], END] {
        raw.send(&open(1, "echo", meta)).await;
        if meta.is_empty() {
            fate.has_begun().await;
            raw.send(&envelope(Kind::Cancel, Some(Id([1; 16])), &[])).await;
            fate.was_dropped().await;
        }
        let told = raw.receive().await.unwrap().remove(0);
        assert_eq!((told.kind, told.reference), (Kind::Stream, Some(Id([1; 16]))));
        assert!(told.ends() && told.error.is_none());
    }
    raw.send(&envelope(Kind::Cancel, Some(Id([1; 16])), &[])).await; // of nothing
    raw.send(&envelope(Kind::Ping, None, &[])).await;
    assert_eq!(raw.receive().await.unwrap()[0].kind, Kind::Ping);
}

#[tokio::test]
async fn items_that_leave_together_are_one_frame() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    server
        .handle_stream("ten", |_, out: ItemSink<u8>| async move {
            (0..10).try_for_each(|item| out.try_send(&item))
        })
        .unwrap();
    let mut raw = Raw::greeted(server.url()).await;
    raw.send(&open(1, "ten", END)).await;
    let frame = raw.receive().await.unwrap();
    assert_eq!(frame.len(), 11, "ten items and the end");
    assert!(frame[..10].iter().map(|item| item.payload[0]).eq(0..10));
    assert!(frame[10].ends());
}

#[tokio::test]
async fn what_the_opener_announced_bounds_the_handler() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    server
        .handle_stream("flood", |_, out: ItemSink<u8>| async move {
            loop {
                out.send(&1).await?;
            }
        })
        .unwrap();
    let mut raw = Raw::greeted(server.url()).await;
    let mut heard = Vec::new();
    let meta = MetaWriter::new()
        .uint("credit", 3)
        .flag("end", true)
        .finish()
        .unwrap();
    raw.send(&open(1, "flood", &meta)).await;
    for _ in 0..3 {
        assert_eq!(hear(&mut raw, &mut heard).await.payload, [1]);
    }
    raw.send(&envelope(Kind::Ping, None, &[])).await;
    assert_eq!(hear(&mut raw, &mut heard).await.kind, Kind::Ping, "and no more");
    raw.send(&part(Id([1; 16]), &grant(1), &[])).await;
    assert_eq!(hear(&mut raw, &mut heard).await.payload, [1]);
    raw.send(&envelope(Kind::Ping, None, &[])).await;
    assert_eq!(hear(&mut raw, &mut heard).await.kind, Kind::Ping);
}

#[tokio::test]
async fn an_open_says_what_was_chosen_and_waits_for_its_first_grant() {
    let (client, mut raw) = client_of_bare(0).await;
    let mut heard = Vec::new();
    let (sink, mut items) = client
        .request_stream("a.b")
        .timeout(Duration::from_millis(60_000))
        .priority(6)
        .key("k")
        .trace("00-1-2-03")
        .credit_bytes(8)
        .payload(&"go")
        .duplex::<u8, u8>()
        .await
        .unwrap();
    let open = hear(&mut raw, &mut heard).await;
    assert_eq!(
        (open.kind, open.reference, open.target.as_deref()),
        (Kind::Stream, None, Some("a.b"))
    );
    assert_eq!(open.payload, b"\x62go");
    let meta = open.meta();
    assert_eq!(meta.uint("timeout_ms"), Ok(Some(60_000)));
    assert_eq!(
        (meta.uint("prio"), meta.uint("credit")),
        (Ok(Some(6)), Ok(Some(8)))
    );
    assert_eq!(
        (meta.text("key"), meta.text("trace")),
        (Ok(Some("k")), Ok(Some("00-1-2-03")))
    );
    assert!(!open.ends());

    assert!(
        sink.try_send(&1).unwrap_err().is_full(),
        "nothing was granted yet"
    );
    raw.send(&part(open.id, &grant(2), &[])).await;
    for item in [1, 2] {
        sink.send(&item).await.unwrap();
        let chunk = hear(&mut raw, &mut heard).await;
        assert_eq!(
            (chunk.reference, &chunk.payload[..]),
            (Some(open.id), &[item][..])
        );
    }
    assert!(sink.try_send(&3).unwrap_err().is_full());

    // Eight bytes may come ahead; half of that is granted again when it was taken.
    for item in 0..8 {
        raw.send(&part(open.id, &[], &[item])).await;
    }
    for item in 0..4 {
        assert_eq!(next(&mut items).await.unwrap().unwrap(), item);
    }
    assert_eq!(hear(&mut raw, &mut heard).await.credit(), Some(4));
    for item in 4..7 {
        assert_eq!(next(&mut items).await.unwrap().unwrap(), item);
    }
    client.ping_through(&mut raw, &mut heard).await;
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 7);
    assert_eq!(hear(&mut raw, &mut heard).await.credit(), Some(4));
    // Less than that is granted when its reader has waited a while.
    raw.send(&part(open.id, &[], &[8])).await;
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 8);
    let waits = tokio::spawn(async move { (items.next().await.is_none(), items) });
    assert_eq!(hear(&mut raw, &mut heard).await.credit(), Some(1));

    sink.finish().await.unwrap();
    assert!(hear(&mut raw, &mut heard).await.ends());
    raw.send(&part(open.id, END, &[])).await;
    assert!(waits.await.unwrap().0);
}

#[tokio::test]
async fn a_writer_beyond_credit_is_told_and_the_program_too() {
    let (client, mut raw) = client_of_bare(0).await;
    let mut heard = Vec::new();
    let mut items = client
        .request_stream("a")
        .credit_bytes(2)
        .open::<u8>()
        .await
        .unwrap();
    let open = hear(&mut raw, &mut heard).await;
    assert!(open.ends());
    raw.send(&part(open.id, &[], &[1])).await;
    raw.send(&part(open.id, &[], &[0x18, 200])).await;
    let told = hear(&mut raw, &mut heard).await;
    assert_eq!((told.kind, told.reference), (Kind::Stream, Some(open.id)));
    assert_eq!(told.error.unwrap().0, Code::FailedPrecondition);
    let (items, error) = all(&mut items).await;
    assert_eq!(
        (items, error.unwrap().code()),
        (vec![1], Code::FailedPrecondition)
    );
    client.ping_through(&mut raw, &mut heard).await;
}

#[tokio::test]
async fn a_server_that_cancels_is_obeyed() {
    let (client, mut raw) = client_of_bare(100).await;
    let mut heard = Vec::new();
    let (sink, mut items) = client.duplex::<u8, u8>("a", &()).await.unwrap();
    let open = hear(&mut raw, &mut heard).await;
    raw.send(&part(open.id, &[], &[1])).await;
    raw.send(&envelope(Kind::Cancel, Some(open.id), &[])).await;
    assert!(
        hear(&mut raw, &mut heard).await.ends(),
        "its own direction ends at once"
    );
    let (items, error) = all(&mut items).await;
    let error = error.unwrap();
    assert_eq!(
        (items, error.code(), error.origin()),
        (vec![1], Code::Cancelled, Origin::Answer)
    );
    assert!(sink.is_cancelled());
    assert_eq!(sink.finish().await.unwrap_err().code(), Code::Cancelled);
    raw.send(&part(open.id, &[], &[2])).await; // late
    client.ping_through(&mut raw, &mut heard).await;
}

#[tokio::test]
async fn a_cancel_that_is_not_heeded_is_given_up() {
    let (client, mut raw) = client_of_bare(100).await;
    let mut heard = Vec::new();
    let mut items = client.stream::<u8>("a", &()).await.unwrap();
    let open = hear(&mut raw, &mut heard).await;
    raw.send(&part(open.id, &[], &[1])).await;
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 1);
    let cancel = tokio::spawn(items.cancel());
    assert_eq!(hear(&mut raw, &mut heard).await.kind, Kind::Cancel);
    raw.send(&part(open.id, &[], &[2])).await; // not the end
    tokio::time::pause(); // what is waited for is the next of the timers: five seconds
    let error = cancel.await.unwrap().unwrap_err();
    tokio::time::resume();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::DeadlineExceeded, Origin::Timeout)
    );
    client.ping_through(&mut raw, &mut heard).await;
}

#[tokio::test]
async fn cancelled_streams_that_stay_open_are_forgotten_when_their_place_is_needed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let client = tokio::spawn(Client::connect(url).open_streams_max(2).build());
    let mut raw = Raw(listener.accept().await.unwrap().0);
    raw.welcome().await;
    let client = client.await.unwrap().unwrap();
    for _ in 0..10 {
        drop(client.stream::<u8>("a", &()).await.unwrap());
    }
    let _one = client.stream::<u8>("a", &()).await.unwrap();
    let _other = client.stream::<u8>("a", &()).await.unwrap();
    let error = client.stream::<u8>("a", &()).await.unwrap_err();
    assert!(error.is_full(), "{error}");
}

#[tokio::test]
async fn a_deadline_needs_no_other_side() {
    let (client, mut raw) = client_of_bare(1).await;
    let mut heard = Vec::new();
    // Long enough for what is sent before it is over.
    let brief = || client.request_stream("a").timeout(Duration::from_secs(1));
    let mut items = brief().open::<u8>().await.unwrap();
    let open = hear(&mut raw, &mut heard).await;
    let error = all(&mut items).await.1.unwrap();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::DeadlineExceeded, Origin::Timeout)
    );
    let told = hear(&mut raw, &mut heard).await;
    assert_eq!(
        (told.reference, told.error.unwrap().0),
        (Some(open.id), Code::DeadlineExceeded)
    );

    let (sink, mut items) = brief().duplex::<u8, u8>().await.unwrap();
    sink.send(&1).await.unwrap();
    let error = sink.send(&2).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert_eq!(all(&mut items).await.1.unwrap().code(), Code::DeadlineExceeded);
}
