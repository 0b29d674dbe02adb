//! How far a writer gets ahead of its reader, and what a reader that has stopped does not hold up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Client, Code, ItemSink, Origin, Request, Server};

use crate::{Fate, all, next, raw::until, start, tcp};

/// What a text of so many bytes takes as an item.
fn item_bytes(text: usize) -> usize {
    text + match text {
        0..24 => 1,
        24..256 => 2,
        256..65_536 => 3,
        _ => 5,
    }
}

/// Serves "flood": texts of the length asked for, as long as they are taken. Counts what was sent.
fn flood(server: &Server) -> Arc<AtomicUsize> {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    server
        .handle_stream("flood", move |req: Request, out: ItemSink<str>| {
            let count = count.clone();
            async move {
                let text = "x".repeat(req.payload()?);
                loop {
                    out.send(&text).await?;
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .unwrap();
    sent
}

#[tokio::test]
async fn a_reader_that_stops_stops_its_writer_and_nobody_else() {
    const WINDOW: usize = 64 * 1024;
    let (server, client) = tcp().await;
    let sent = flood(&server);
    server
        .handle_stream("steady", |_, out: ItemSink<[u8; 32]>| async move {
            for _ in 0..100_000 {
                out.send(&[7; 32]).await?;
            }
            Ok(())
        })
        .unwrap();
    server.handle("call", |_| async { Ok(1) }).unwrap();

    let mut stopped = client.stream::<String>("flood", &1000).await.unwrap();
    let fill = WINDOW / item_bytes(1000);
    until(|| sent.load(Ordering::SeqCst) == fill).await;
    // Far more than a window goes by on the same connection.
    let mut steady = client.stream::<Vec<u8>>("steady", &()).await.unwrap();
    let (items, error) = all(&mut steady).await;
    assert_eq!(
        (items.len(), error.map(|error| error.to_string())),
        (100_000, None)
    );
    assert_eq!(client.call::<_, u8>("call", &()).await.unwrap(), 1);
    assert_eq!(sent.load(Ordering::SeqCst), fill, "the writer waits");

    // Taking less than half a window brings nothing new, taking half of it does.
    for _ in 0..fill / 2 - 1 {
        next(&mut stopped).await.unwrap().unwrap();
    }
    client.ping().await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), fill);
    for _ in 0..2 {
        next(&mut stopped).await.unwrap().unwrap();
    }
    until(|| sent.load(Ordering::SeqCst) > fill).await;
    // It goes on as the reader does.
    for _ in 0..1000 {
        assert_eq!(next(&mut stopped).await.unwrap().unwrap().len(), 1000);
    }
}

#[tokio::test]
async fn a_handler_that_does_not_read_stops_the_opener() {
    let server = start(Server::bind("127.0.0.1:0").credit_bytes(1000)).await;
    server
        .handle_stream("deaf", |_, _: ItemSink<()>| std::future::pending())
        .unwrap();
    let client = Client::connect(server.url()).build().await.unwrap();
    let (sink, _items) = client.duplex::<str, ()>("deaf", &()).await.unwrap();
    let text = "x".repeat(98);
    let mut sent = 0;
    let error = loop {
        match sink.try_send(&text) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(sent, 1000 / item_bytes(98));
    assert!(
        error.is_full() && error.code() == Code::ResourceExhausted,
        "{error}"
    );
    let waiting = tokio::time::timeout(Duration::from_millis(50), sink.send(&text)).await;
    assert!(waiting.is_err(), "it waits");
}

#[tokio::test]
async fn a_stream_chooses_its_window() {
    let (server, client) = tcp().await;
    let sent = flood(&server);
    let mut items = client
        .request_stream("flood")
        .payload(&100)
        .credit_bytes(1000)
        .open::<String>()
        .await
        .unwrap();
    let fill = 1000 / item_bytes(100);
    until(|| sent.load(Ordering::SeqCst) == fill).await;
    client.ping().await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), fill);
    for _ in 0..100 {
        assert_eq!(next(&mut items).await.unwrap().unwrap().len(), 100);
    }
}

#[tokio::test]
async fn an_item_of_almost_a_window_passes_when_others_have_been_taken() {
    let (server, client) = tcp().await;
    server
        .handle_stream("sizes", |req: Request, out: ItemSink<str>| async move {
            for size in req.payload::<Vec<usize>>()? {
                out.send(&"x".repeat(size)).await?;
            }
            Ok(())
        })
        .unwrap();
    // What was taken of the first is less than half a window, and with it there is no room for the second.
    let sizes = [10_000, 65_000, 1, 65_500, 65_533];
    let mut items = client.stream::<String>("sizes", &sizes).await.unwrap();
    let (items, error) = all(&mut items).await;
    assert_eq!(error.map(|error| error.to_string()), None);
    assert_eq!(items.iter().map(String::len).collect::<Vec<_>>(), sizes);
}

#[tokio::test]
async fn an_item_larger_than_the_window_fails_where_it_is_sent() {
    let (server, client) = tcp().await;
    server
        .handle_stream("large", |_, out: ItemSink<str>| async move {
            let error = out.send(&"x".repeat(65_534)).await.unwrap_err();
            assert_eq!(
                (error.code(), error.origin()),
                (Code::ResourceExhausted, Origin::Payload)
            );
            assert!(
                error.message().contains("65537 bytes") && error.message().contains("65536"),
                "{error}"
            );
            out.send("small").await
        })
        .unwrap();
    let mut items = client.stream::<String>("large", &()).await.unwrap();
    assert_eq!(all(&mut items).await.0, ["small"], "which costs the item only");
}

#[tokio::test]
async fn a_send_that_is_dropped_sends_nothing() {
    let server = start(Server::bind("127.0.0.1:0").credit_bytes(10)).await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    server
        .handle_stream("gate", move |req: Request, out: ItemSink<Vec<u8>>| {
            let mut opened = opened.clone();
            async move {
                opened.wait_for(|opened| *opened).await.unwrap();
                let (items, _) = all(&mut req.items::<u8>()).await;
                out.send(&items).await
            }
        })
        .unwrap();
    let client = Client::connect(server.url()).build().await.unwrap();
    let (sink, mut answer) = client.duplex::<u8, Vec<u8>>("gate", &()).await.unwrap();
    for item in 0..10 {
        sink.send(&item).await.unwrap();
    }
    let waiting = tokio::time::timeout(Duration::from_millis(20), sink.send(&100)).await;
    assert!(waiting.is_err());
    gate.send_replace(true);
    sink.send(&10).await.unwrap();
    sink.finish().await.unwrap();
    assert_eq!(all(&mut answer).await.0, [(0..=10).collect::<Vec<u8>>()]);
}

#[tokio::test]
async fn a_writer_that_waits_is_woken_by_the_end() {
    let server = start(Server::bind("127.0.0.1:0").credit_bytes(1)).await;
    let fate = Fate::default();
    let (gate, opened) = tokio::sync::watch::channel(false);
    server
        .handle_stream("deaf", {
            let fate = fate.clone();
            move |_, _: ItemSink<()>| {
                let (watched, mut opened) = (fate.begin(), opened.clone());
                async move {
                    opened.wait_for(|opened| *opened).await.unwrap();
                    watched.done();
                    Ok(())
                }
            }
        })
        .unwrap();
    let client = Client::connect(server.url()).build().await.unwrap();
    let (sink, mut items) = client.duplex::<str, ()>("deaf", &()).await.unwrap();
    fate.has_begun().await;
    sink.try_send("").unwrap();
    let open = async { gate.send_replace(true) };
    let (sent, _) = tokio::join!(sink.send(""), open);
    assert_eq!(
        sent.unwrap_err().code(),
        Code::Cancelled,
        "the handler has returned"
    );
    assert_eq!(
        all(&mut items).await.1.map(|error| error.to_string()),
        None,
        "well"
    );
    assert!(sink.is_cancelled());
    sink.cancelled().await;
    sink.finish()
        .await
        .expect("nothing is missing: the other side wanted no more");
}

#[tokio::test]
async fn a_small_outbox_slows_and_loses_nothing() {
    let server = start(Server::bind("127.0.0.1:0").outbox_bytes(2000)).await;
    server
        .handle_stream("many", |_, out: ItemSink<(u32, String)>| async move {
            for at in 0..2000 {
                out.send(&(at, "x".repeat(at as usize % 1500))).await?;
            }
            Ok(())
        })
        .unwrap();
    let client = Client::connect(server.url())
        .outbox_bytes(100)
        .build()
        .await
        .unwrap();
    let streams = (0..4).map(|_| {
        let peer = client.peer().clone();
        tokio::spawn(async move {
            let mut items = peer.stream::<(u32, String)>("many", &()).await.unwrap();
            let (items, error) = all(&mut items).await;
            assert_eq!(error.map(|error| error.to_string()), None);
            assert!(items.iter().map(|(at, _)| *at).eq(0..2000));
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
}
