//! Streams of the SDK through a gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Client, Code, Error, ItemSink, ItemStream, Origin, Request};
use fluxar_tests::{Running, client::PATIENCE};
use tokio::sync::Barrier;

use crate::{Dropped, connect, until, urls};

async fn all<T: serde::de::DeserializeOwned>(items: &mut ItemStream<T>) -> (Vec<T>, Option<Error>) {
    let collect = async {
        let mut taken = Vec::new();
        while let Some(item) = items.next().await {
            match item {
                Ok(item) => taken.push(item),
                Err(error) => return (taken, Some(error)),
            }
        }
        (taken, None)
    };
    tokio::time::timeout(PATIENCE, collect)
        .await
        .expect("the stream ends")
}

fn well<T>((items, error): (Vec<T>, Option<Error>)) -> Vec<T> {
    assert_eq!(error.map(|error| error.to_string()), None);
    items
}

/// Offers "count" (so many numbers), "sum" (of what comes) and "echo".
async fn serve(client: &Client) {
    client
        .serve_stream("count", |req: Request, out: ItemSink<u32>| async move {
            for number in 0..req.payload()? {
                out.send(&number).await?;
            }
            Ok(())
        })
        .await
        .unwrap();
    client
        .serve_stream("sum", |req: Request, out: ItemSink<u64>| async move {
            let mut numbers = req.items::<u64>();
            let mut sum = 0;
            while let Some(number) = numbers.next().await {
                sum += number?;
            }
            out.send(&sum).await
        })
        .await
        .unwrap();
    client
        .serve_stream("echo", |req: Request, out: ItemSink<String>| async move {
            let mut items = req.items::<String>();
            while let Some(item) = items.next().await {
                out.send(&item?).await?;
            }
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn streams_cross_between_all_transports_in_every_direction() {
    let gateway = Running::start(|_| {});
    let urls = urls(&gateway);
    for server in &urls {
        let server = connect(server).await;
        serve(&server).await;
        for opener in &urls {
            let opener = connect(opener).await;
            let mut numbers = opener.stream::<u32>("count", &20_000).await.unwrap();
            assert!(well(all(&mut numbers).await).into_iter().eq(0..20_000));

            let (sink, mut sum) = opener.duplex::<u64, u64>("sum", &()).await.unwrap();
            for number in 0..20_000 {
                sink.send(&number).await.unwrap();
            }
            sink.finish().await.unwrap();
            assert_eq!(well(all(&mut sum).await), [(0..20_000).sum::<u64>()]);

            let (sink, mut echoed) = opener.duplex::<String, String>("echo", &()).await.unwrap();
            let text = |number: usize| "x".repeat(number % 900);
            let sending = async {
                for number in 0..2000 {
                    sink.send(&text(number)).await.unwrap();
                }
                sink.finish().await.unwrap();
            };
            let ((), echoed) = tokio::join!(sending, all(&mut echoed));
            assert!(well(echoed).into_iter().eq((0..2000).map(text)));
            opener.close().await;
        }
        server.close().await;
    }
    gateway.stop();
}

#[tokio::test]
async fn a_thousand_streams_share_two_connections() {
    const STREAMS: usize = 1000;
    const ROUNDS: usize = 5;
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    let round = Arc::new(Barrier::new(STREAMS));
    server
        .serve_stream("turns", move |req: Request, out: ItemSink<(usize, usize)>| {
            let round = round.clone();
            async move {
                let number: usize = req.payload()?;
                for turn in 0..ROUNDS {
                    round.wait().await;
                    out.send(&(number, turn)).await?;
                }
                Ok(())
            }
        })
        .await
        .unwrap();
    let streams = (0..STREAMS).map(|number| {
        let peer = opener.peer().clone();
        tokio::spawn(async move {
            let mut turns = peer.stream::<(usize, usize)>("turns", &number).await.unwrap();
            let turns = well(all(&mut turns).await);
            assert!(turns.into_iter().eq((0..ROUNDS).map(|turn| (number, turn))));
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
    gateway.stop();
}

/// A handler that sends one number after the other, for ever: how many it has sent, and whether it was dropped.
async fn ticks(server: &Client, text: usize) -> (Arc<AtomicUsize>, Arc<AtomicBool>) {
    let (sent, is_dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let flags = (sent.clone(), is_dropped.clone());
    server
        .serve_stream("tick", move |_, out: ItemSink<String>| {
            let (sent, is_dropped) = flags.clone();
            async move {
                let _dropped = Dropped(is_dropped);
                loop {
                    out.send(&"x".repeat(text)).await?;
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await
        .unwrap();
    (sent, is_dropped)
}

#[tokio::test]
async fn a_cancel_reaches_the_producer_behind_the_gateway() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    for how in ["cancel", "drop", "close"] {
        let (sent, is_dropped) = ticks(&server, 10).await;
        let mut items = opener.stream::<String>("tick", &()).await.unwrap();
        for _ in 0..10_000 {
            items.next().await.unwrap().unwrap();
        }
        match how {
            "cancel" => items.cancel().await.unwrap(),
            "drop" => drop(items),
            _ => opener.close().await,
        }
        until(async || is_dropped.load(Ordering::SeqCst)).await;
        let then = sent.load(Ordering::SeqCst);
        server.ping().await.unwrap();
        assert_eq!(sent.load(Ordering::SeqCst), then, "{how}: it produces no more");
    }
    gateway.stop();
}

#[tokio::test]
async fn ends_and_errors_say_the_same_behind_the_gateway() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    let (none, error) = all(&mut opener.stream::<u8>("fail", &()).await.unwrap()).await;
    assert_eq!(
        (none.len(), error.unwrap().code()),
        (0, Code::Unavailable),
        "nobody serves it yet"
    );
    server
        .serve_stream("fail", |_, out: ItemSink<u8>| async move {
            for item in 0..100 {
                out.send(&item).await?;
            }
            Err(Error::new(Code::Aborted, "no more"))
        })
        .await
        .unwrap();
    let (items, error) = all(&mut opener.stream::<u8>("fail", &()).await.unwrap()).await;
    let error = error.unwrap();
    assert_eq!(items, (0..100).collect::<Vec<u8>>());
    assert_eq!(
        (error.code(), error.message(), error.origin()),
        (Code::Aborted, "no more", Origin::Answer)
    );

    // A handler that has what it wants, and one that breaks off what it reads.
    server
        .serve_stream("first", |req: Request, out: ItemSink<u8>| async move {
            let first = req.items::<u8>().next().await.unwrap()?;
            out.send(&first).await
        })
        .await
        .unwrap();
    let (sink, mut items) = opener.duplex::<u8, u8>("first", &()).await.unwrap();
    sink.send(&7).await.unwrap();
    assert_eq!(well(all(&mut items).await), [7]);
    tokio::time::timeout(PATIENCE, sink.cancelled()).await.unwrap();
    assert_eq!(sink.send(&8).await.unwrap_err().code(), Code::Cancelled);
    sink.finish().await.unwrap();

    // Broken off by its opener.
    let is_dropped = Arc::new(AtomicBool::new(false));
    let (flag, begun) = (is_dropped.clone(), Arc::new(AtomicUsize::new(0)));
    let count = begun.clone();
    server
        .serve_stream("read", move |req: Request, _: ItemSink<()>| {
            let (flag, count) = (flag.clone(), count.clone());
            async move {
                let _dropped = Dropped(flag);
                let mut items = req.items::<u8>();
                while items.next().await.is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                panic!("it is not complete");
            }
        })
        .await
        .unwrap();
    let (sink, mut items) = opener.duplex::<u8, ()>("read", &()).await.unwrap();
    sink.send(&1).await.unwrap();
    until(async || begun.load(Ordering::SeqCst) == 1).await;
    drop(sink);
    until(async || is_dropped.load(Ordering::SeqCst)).await;
    assert_eq!(all(&mut items).await.1.unwrap().code(), Code::Cancelled);

    let error = opener.call::<_, u8>("fail", &()).await.unwrap_err();
    assert_eq!(
        error.code(),
        Code::Unimplemented,
        "a stream is not called: {error}"
    );
    gateway.stop();
}

#[tokio::test]
async fn a_reader_that_stops_holds_up_its_writer_only() {
    const WINDOW: usize = 64 * 1024;
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    serve(&server).await;
    let (sent, _) = ticks(&server, 997).await;
    let mut stopped = opener.stream::<String>("tick", &()).await.unwrap();
    let fill = WINDOW / 1000;
    until(async || sent.load(Ordering::SeqCst) == fill).await;
    // On the same two connections everything else goes on.
    let mut numbers = opener.stream::<u32>("count", &200_000).await.unwrap();
    assert_eq!(well(all(&mut numbers).await).len(), 200_000);
    assert_eq!(
        sent.load(Ordering::SeqCst),
        fill,
        "it stands where the window ends"
    );
    for _ in 0..1000 {
        let item = tokio::time::timeout(PATIENCE, stopped.next()).await;
        assert_eq!(item.unwrap().unwrap().unwrap().len(), 997);
    }
    gateway.stop();
}

#[tokio::test]
async fn items_of_up_to_a_window_pass_and_larger_ones_fail_where_they_are_sent() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    serve(&server).await;
    // 64 KiB at the server; the gateway passes on at most 256 KiB.
    let (sink, mut echoed) = opener.duplex::<String, String>("echo", &()).await.unwrap();
    let sizes = [10_000, 65_000, 1, 65_500, 65_533];
    let sending = async {
        for size in sizes {
            sink.send(&"x".repeat(size)).await.unwrap();
        }
        let error = sink.send(&"x".repeat(65_534)).await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::ResourceExhausted, Origin::Payload),
            "{error}"
        );
        sink.finish().await.unwrap();
    };
    let ((), echoed) = tokio::join!(sending, all(&mut echoed));
    assert!(well(echoed).iter().map(String::len).eq(sizes));
    gateway.stop();
}

#[tokio::test]
async fn streams_end_with_either_connection() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    let (sent, _) = ticks(&server, 10).await;
    let mut items = opener.stream::<String>("tick", &()).await.unwrap();
    items.next().await.unwrap().unwrap();
    assert!(sent.load(Ordering::SeqCst) > 0);
    server.close().await;
    let error = all(&mut items).await.1.unwrap();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unavailable, Origin::Answer),
        "{error}"
    );
    opener.ping().await.unwrap();
    gateway.stop();
}

#[tokio::test]
async fn the_time_of_a_stream_is_kept_on_the_way() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    let (_, is_dropped) = ticks(&server, 10).await;
    let mut items = opener
        .request_stream("tick")
        .timeout(Duration::from_secs(1)) // in which its producer begins
        .open::<String>()
        .await
        .unwrap();
    let error = all(&mut items).await.1.unwrap();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    until(async || is_dropped.load(Ordering::SeqCst)).await;
    gateway.stop();
}
