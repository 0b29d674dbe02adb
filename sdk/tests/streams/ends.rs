//! How streams end: well, in halves, by an error, by a cancel of either side at any time, and with their connection.

use std::time::Duration;

use fluxar::{Client, Code, Error, ItemSink, Origin, Request, Server, State};
use tokio::sync::{mpsc, watch};

use crate::{
    Fate, all, next,
    raw::{PATIENCE, until},
    start, tcp,
};

/// Serves "tick": numbers as fast as they are taken, for ever.
fn ticks(server: &Server) -> Fate {
    let fate = Fate::default();
    let watched = fate.clone();
    server
        .handle_stream("tick", move |_, out: ItemSink<u64>| {
            let watched = watched.begin();
            async move {
                for number in 0.. {
                    out.send(&number).await?;
                }
                watched.done();
                Ok(())
            }
        })
        .unwrap();
    fate
}

/// Serves "collect": reads to the end, and says how many items came. Its fate is done if they ended well.
fn collector(server: &Server) -> Fate {
    let fate = Fate::default();
    let watched = fate.clone();
    server
        .handle_stream("collect", move |req: Request, out: ItemSink<usize>| {
            let watched = watched.begin();
            async move {
                let mut items = req.items::<u8>();
                let mut count = 0;
                while let Some(item) = items.next().await {
                    item?;
                    count += 1;
                }
                watched.done();
                out.send(&count).await
            }
        })
        .unwrap();
    fate
}

#[tokio::test]
async fn each_side_ends_its_own_direction() {
    let (server, client) = tcp().await;
    server
        .handle_stream("first", |req: Request, out: ItemSink<&'static str>| async move {
            out.send(&"before").await?;
            out.finish().await?;
            // Its own direction has ended; the other one goes on.
            let (items, error) = all(&mut req.items::<u8>()).await;
            assert_eq!((items, error.map(|error| error.to_string())), (vec![1, 2], None));
            Ok(())
        })
        .unwrap();
    let (sink, mut items) = client.duplex::<u8, String>("first", &()).await.unwrap();
    let (said, error) = all(&mut items).await;
    assert_eq!(
        (said, error.map(|error| error.to_string())),
        (vec!["before".to_owned()], None)
    );
    drop(items); // nothing is missing of it
    for item in [1, 2] {
        sink.send(&item).await.unwrap();
    }
    sink.finish().await.unwrap();

    collector(&server);
    let (sink, mut counted) = client.duplex::<u8, usize>("collect", &()).await.unwrap();
    sink.send(&1).await.unwrap();
    sink.finish().await.unwrap();
    assert_eq!(
        all(&mut counted).await.0,
        [1],
        "answers come behind the half-close"
    );
    client.ping().await.unwrap();
}

#[tokio::test]
async fn an_error_comes_behind_the_items_before_it() {
    let (server, client) = tcp().await;
    server
        .handle_stream("fail", |_, out: ItemSink<u8>| async move {
            for item in 0..100 {
                out.send(&item).await?;
            }
            Err(Error::new(Code::Aborted, "no more").with_details(&"row 100"))
        })
        .unwrap();
    let (sink, mut items) = client.duplex::<u8, u8>("fail", &()).await.unwrap();
    let (items, error) = all(&mut items).await;
    let error = error.unwrap();
    assert_eq!(items, (0..100).collect::<Vec<u8>>());
    assert_eq!(
        (error.code(), error.message(), error.origin()),
        (Code::Aborted, "no more", Origin::Answer)
    );
    assert_eq!(error.details::<String>().unwrap(), "row 100");
    for outcome in [sink.send(&1).await, sink.finish().await] {
        assert_eq!(
            outcome.unwrap_err().code(),
            Code::Aborted,
            "it ends both directions"
        );
    }
}

#[tokio::test]
async fn an_error_of_the_opener_is_read_by_the_handler_or_drops_it() {
    let (server, client) = tcp().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    server
        .handle_stream("read", move |req: Request, _: ItemSink<()>| {
            let tell = tell.clone();
            async move {
                let (items, error) = all(&mut req.items::<u8>()).await;
                tell.send((items, error.unwrap())).unwrap();
                Ok(())
            }
        })
        .unwrap();
    let (sink, mut items) = client.duplex::<u8, ()>("read", &()).await.unwrap();
    sink.send(&1).await.unwrap();
    sink.fail(Error::new(Code::DataLoss, "the disk is gone"));
    let (read, error) = tokio::time::timeout(PATIENCE, told.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (read, error.code(), error.message()),
        (vec![1], Code::DataLoss, "the disk is gone")
    );
    let error = all(&mut items).await.1.unwrap();
    assert_eq!(error.code(), Code::DataLoss, "its own reader, too: {error}");

    let fate = ticks(&server);
    let (sink, _items) = client.duplex::<u8, u64>("tick", &()).await.unwrap();
    fate.has_begun().await;
    sink.fail(Error::new(Code::Aborted, "enough"));
    fate.was_dropped().await;
}

#[tokio::test]
async fn a_cancel_drops_the_handler_at_each_moment() {
    let (server, client) = tcp().await;
    // At once; the handler may not even have begun.
    client
        .stream::<u64>("nobody", &())
        .await
        .unwrap()
        .cancel()
        .await
        .unwrap();
    let fate = ticks(&server);
    let items = client.stream::<u64>("tick", &()).await.unwrap();
    tokio::time::timeout(PATIENCE, items.cancel())
        .await
        .unwrap()
        .unwrap();

    // While it flows.
    let fate_of = async |read: usize| {
        let fate = ticks(&server);
        let mut items = client.stream::<u64>("tick", &()).await.unwrap();
        for number in 0..read {
            assert_eq!(next(&mut items).await.unwrap().unwrap(), number as u64);
        }
        fate.has_begun().await;
        (fate, items)
    };
    let (flowing, items) = fate_of(100_000).await;
    items.cancel().await.unwrap();
    flowing.was_dropped().await;
    // While its writer waits for credit, and by dropping it.
    let (waiting, items) = fate_of(0).await;
    client.ping().await.unwrap();
    drop(items);
    waiting.was_dropped().await;
    // Its items taken, but for what came since.
    let (flowing, items) = fate_of(10).await;
    drop(items);
    flowing.was_dropped().await;
    client.ping().await.expect("the connection lives");
    drop(fate);
}

#[tokio::test]
async fn a_cancel_behind_the_end_says_nothing() {
    let (server, client) = tcp().await;
    server
        .handle_stream("one", |_, out: ItemSink<u8>| async move { out.send(&1).await })
        .unwrap();
    let mut items = client.stream::<u8>("one", &()).await.unwrap();
    assert_eq!(all(&mut items).await.0, [1]);
    items.cancel().await.unwrap();
    let items = client.stream::<u8>("one", &()).await.unwrap();
    client.ping().await.unwrap(); // the end has arrived, and was not taken
    items.cancel().await.unwrap();
    assert_eq!(
        client
            .stream::<u8>("one", &())
            .await
            .unwrap()
            .next()
            .await
            .unwrap()
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn what_is_broken_off_never_looks_complete() {
    let (server, client) = tcp().await;
    let fate = collector(&server);
    let (sink, mut items) = client.duplex::<u8, usize>("collect", &()).await.unwrap();
    sink.send(&1).await.unwrap();
    fate.has_begun().await;
    drop(sink);
    fate.was_dropped().await;
    let (none, error) = all(&mut items).await;
    let error = error.unwrap();
    assert_eq!((none.len(), error.code()), (0, Code::Cancelled), "{error}");

    // Nor when the program dies with everything in its hands.
    let fate = collector(&server);
    let peer = client.peer().clone();
    let task = tokio::spawn(async move {
        let (sink, _items) = peer.duplex::<u8, usize>("collect", &()).await.unwrap();
        sink.send(&1).await.unwrap();
        std::future::pending::<()>().await;
    });
    fate.has_begun().await;
    task.abort();
    fate.was_dropped().await;
}

#[tokio::test]
async fn dropping_the_items_of_a_duplex_cancels_it() {
    let (server, client) = tcp().await;
    let fate = collector(&server);
    let (sink, items) = client.duplex::<u8, usize>("collect", &()).await.unwrap();
    fate.has_begun().await;
    drop(items);
    fate.was_dropped().await;
    for outcome in [sink.send(&1).await, sink.finish().await] {
        assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
    }
}

#[tokio::test]
async fn work_that_a_handler_began_elsewhere_learns_of_the_cancel() {
    let (server, client) = tcp().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    server
        .handle_stream("elsewhere", move |_, out: ItemSink<u8>| {
            let tell = tell.clone();
            async move {
                let work = tokio::spawn(async move {
                    out.send(&1).await.unwrap();
                    assert!(!out.is_cancelled());
                    out.cancelled().await;
                    assert!(out.is_cancelled());
                    tell.send(out.send(&2).await.unwrap_err()).unwrap();
                });
                work.await.map_err(Error::internal)
            }
        })
        .unwrap();
    let mut items = client.stream::<u8>("elsewhere", &()).await.unwrap();
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 1);
    items.cancel().await.unwrap();
    let error = tokio::time::timeout(PATIENCE, told.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(error.code(), Code::Cancelled, "{error}");
}

#[tokio::test]
async fn a_handler_may_stop_reading_and_go_on_sending() {
    let (server, client) = tcp().await;
    server
        .handle_stream("head", |req: Request, out: ItemSink<u8>| async move {
            let mut items = req.items::<u8>();
            let head = items.next().await.unwrap()?;
            drop(items);
            for item in 0..head {
                out.send(&item).await?;
            }
            Ok(())
        })
        .unwrap();
    let (sink, mut items) = client.duplex::<u8, u8>("head", &()).await.unwrap();
    sink.send(&200).await.unwrap();
    let (items, error) = all(&mut items).await;
    assert_eq!((items.len(), error.map(|error| error.to_string())), (200, None));
    // It ended before this side did, which is told.
    sink.cancelled().await;
    let error = sink.send(&1).await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled, "{error}");
    sink.finish().await.unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_stream_and_the_next_one_is_served() {
    let (server, client) = tcp().await;
    server
        .handle_stream("panic", |req: Request, out: ItemSink<u8>| {
            assert_ne!(req.payload::<u8>().unwrap(), 1, "before there is a future");
            async move {
                out.send(&1).await?;
                assert_ne!(req.payload::<u8>()?, 2, "within the future");
                Ok(())
            }
        })
        .unwrap();
    for (bad, before) in [(1, 0), (2, 1)] {
        let (items, error) = all(&mut client.stream::<u8>("panic", &bad).await.unwrap()).await;
        let error = error.unwrap();
        assert_eq!(
            (items.len(), error.code(), error.message()),
            (before, Code::Internal, "the handler panicked")
        );
    }
    assert_eq!(
        all(&mut client.stream::<u8>("panic", &3).await.unwrap()).await.0,
        [1]
    );
}

#[tokio::test]
async fn a_stream_that_takes_too_long_ends_at_both_sides() {
    let (server, client) = tcp().await;
    let fate = Fate::default();
    let watched = fate.clone();
    server
        .handle_stream("slow", move |req: Request, out: ItemSink<u8>| {
            let watched = watched.begin();
            async move {
                assert!(req.deadline().unwrap() <= std::time::Instant::now() + req.timeout().unwrap());
                out.send(&1).await?;
                std::future::pending::<()>().await;
                watched.done();
                Ok(())
            }
        })
        .unwrap();
    let mut items = client
        .request_stream("slow")
        .timeout(Duration::from_secs(1)) // in which the first item arrives
        .open::<u8>()
        .await
        .unwrap();
    let (items, error) = all(&mut items).await;
    let error = error.unwrap();
    assert_eq!(
        (items, error.code()),
        (vec![1], Code::DeadlineExceeded),
        "{error}"
    );
    fate.was_dropped().await;

    let over = std::time::Instant::now();
    let error = client
        .request_stream("slow")
        .deadline(over)
        .open::<u8>()
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::DeadlineExceeded, Origin::Timeout)
    );
    let error = client
        .request("slow")
        .deadline(Some(over))
        .send::<()>()
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::DeadlineExceeded, Origin::Timeout)
    );
}

#[tokio::test]
async fn streams_end_with_their_connection() {
    let (server, client) = tcp().await;
    let fate = collector(&server);
    let (sink, mut items) = client.duplex::<u8, usize>("collect", &()).await.unwrap();
    let (gate, opened) = watch::channel(false);
    let (tell, mut told) = mpsc::unbounded_channel();
    server
        .handle_stream("one", move |_, out: ItemSink<u8>| {
            let (mut opened, tell) = (opened.clone(), tell.clone());
            async move {
                out.send(&1).await?;
                tell.send(()).unwrap();
                drop(opened.wait_for(|opened| *opened).await);
                Ok(())
            }
        })
        .unwrap();
    let mut one = client.stream::<u8>("one", &()).await.unwrap();
    fate.has_begun().await;
    let sent = tokio::time::timeout(PATIENCE, told.recv()).await;
    sent.expect("it begins").unwrap();
    client.ping().await.unwrap(); // the item has arrived in front of the answer
    server.close().await;
    fate.was_dropped().await;
    let (none, error) = all(&mut items).await;
    let error = error.unwrap();
    assert_eq!(
        (none.len(), error.code(), error.origin()),
        (0, Code::Unavailable, Origin::Connection),
        "{error}"
    );
    assert_eq!(error.address(), Some(server.url()));
    let (before, error) = all(&mut one).await;
    assert_eq!(before, [1], "what had arrived is delivered first");
    assert_eq!(error.unwrap().code(), Code::Unavailable);
    for outcome in [sink.send(&1).await, sink.finish().await] {
        assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    }
    let error = client.stream::<u8>("one", &()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unavailable, Origin::Connection)
    );
    drop(gate);
}

#[tokio::test]
async fn the_end_of_the_opener_drops_its_handlers() {
    let (server, client) = tcp().await;
    let (ticking, collecting) = (ticks(&server), collector(&server));
    let _items = client.stream::<u64>("tick", &()).await.unwrap();
    let _duplex = client.duplex::<u8, usize>("collect", &()).await.unwrap();
    ticking.has_begun().await;
    collecting.has_begun().await;
    client.close().await;
    ticking.was_dropped().await;
    collecting.was_dropped().await;
    assert_eq!(client.state(), State::Closed);
}

#[tokio::test]
async fn streams_are_opened_again_by_who_wants_them_after_a_reconnect() {
    // An address at which nobody else listens: the port stays free while the server is away.
    let server = start(Server::bind("127.0.0.23:0")).await;
    let url = server.url().to_owned();
    ticks(&server);
    let client = Client::connect(&url)
        .reconnect_first(Duration::from_millis(10))
        .reconnect_max(Duration::from_millis(50))
        .build()
        .await
        .unwrap();
    let mut items = client.stream::<u64>("tick", &()).await.unwrap();
    assert_eq!(next(&mut items).await.unwrap().unwrap(), 0);
    server.close().await;
    let error = all(&mut items).await.1.unwrap();
    assert_eq!(error.code(), Code::Unavailable);

    until(|| client.state() != State::Connected).await;
    let server = start(Server::bind(&url)).await;
    let fate = ticks(&server);
    until(|| client.state() == State::Connected).await;
    let mut again = client.stream::<u64>("tick", &()).await.unwrap();
    assert_eq!(next(&mut again).await.unwrap().unwrap(), 0);
    assert!(next(&mut items).await.is_none(), "the old one stays over");
    drop(items); // and says nothing on the new connection
    assert_eq!(next(&mut again).await.unwrap().unwrap(), 1);
    again.cancel().await.unwrap();
    fate.was_dropped().await;
}

#[tokio::test]
async fn a_handler_that_does_not_read_never_outlives_an_error_of_its_opener() {
    let server = start(Server::bind("127.0.0.1:0").handlers_max(4)).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    server
        .handle_stream("sit", move |req: Request, _: ItemSink<u8>| {
            let (how, tell) = (req.payload::<u8>().unwrap(), tell.clone());
            async move {
                let mut items = (how > 0).then(|| req.items::<u8>());
                if let Some(items) = items.as_mut().filter(|_| how > 1) {
                    items.next().await.unwrap()?;
                    drop(tokio::time::timeout(Duration::from_millis(1), items.next()).await);
                }
                tell.send(()).unwrap();
                std::future::pending().await
            }
        })
        .unwrap();
    // Never taken; taken and idle; and, at last, one that has read, and has asked for more in vain.
    for how in [0, 1, 2, 2] {
        let (sink, mut items) = client.duplex::<u8, u8>("sit", &how).await.unwrap();
        sink.send(&1).await.unwrap();
        let sits = tokio::time::timeout(PATIENCE, told.recv()).await;
        sits.expect("there is room for its handler").unwrap();
        sink.fail(Error::new(Code::Aborted, "enough"));
        assert_eq!(all(&mut items).await.1.unwrap().code(), Code::Aborted);
    }
    // All four places are taken, until they have had their time to notice.
    let served = async {
        let mut held = Vec::new();
        while held.len() < 4 {
            let (sink, mut items) = client.duplex::<u8, u8>("sit", &0).await.unwrap();
            tokio::select! {
                _ = told.recv() => held.push((sink, items)),
                refused = next(&mut items) => {
                    assert_eq!(refused.unwrap().unwrap_err().code(), Code::ResourceExhausted);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("they are dropped");
}

#[tokio::test]
async fn an_error_that_is_too_large_still_ends_its_stream() {
    let (server, client) = tcp().await;
    let error = |large: usize| {
        Error::new(Code::Aborted, "ä".repeat(large))
            .with_details(&"x".repeat(large))
            .retry_after(Duration::from_millis(7))
    };
    server
        .handle_stream(
            "fail",
            move |_, _: ItemSink<u8>| async move { Err(error(2 << 20)) },
        )
        .unwrap();
    server
        .handle("fail", move |_| async move { Err::<(), _>(error(2 << 20)) })
        .unwrap();
    let of_stream = all(&mut client.stream::<u8>("fail", &()).await.unwrap()).await.1;
    let of_call = client.call::<_, ()>("fail", &()).await.unwrap_err();
    for error in [of_stream.unwrap(), of_call] {
        assert_eq!((error.code(), error.details::<String>()), (Code::Aborted, None));
        assert_eq!(error.retry_after_hint(), Some(Duration::from_millis(7)));
        let begin = error.message().strip_suffix('…').unwrap();
        assert!(
            begin.len() >= 1000 && begin.chars().all(|char| char == 'ä'),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_cancel_is_answered_when_the_handler_is_gone() {
    /// Takes its time to go.
    struct Slow(std::sync::Arc<std::sync::atomic::AtomicBool>);
    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(100));
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    // The server runs in a thread of its own, so that the client does not wait for it by chance.
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (tell, url) = tokio::sync::oneshot::channel();
    let held = gone.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let server = Server::bind("127.0.0.1:0").build().await.unwrap();
            server
                .handle_stream("slow", move |_, out: ItemSink<u8>| {
                    let slow = Slow(held.clone());
                    async move {
                        out.send(&1).await?;
                        std::future::pending::<()>().await;
                        drop(slow);
                        Ok(())
                    }
                })
                .unwrap();
            tell.send(server.url().to_owned()).unwrap();
            server.run().await
        })
    });
    let client = Client::connect(url.await.unwrap()).build().await.unwrap();
    let mut items = client.stream::<u8>("slow", &()).await.unwrap();
    next(&mut items).await.unwrap().unwrap();
    items.cancel().await.unwrap();
    assert!(
        gone.load(std::sync::atomic::Ordering::SeqCst),
        "it is gone by then"
    );
}

#[tokio::test]
async fn an_item_that_is_nested_too_deep_costs_only_itself() {
    let (server, client) = tcp().await;
    collector(&server);
    let nested = |depth| {
        (1..depth).fold(ciborium::Value::Array(Vec::new()), |value, _| {
            ciborium::Value::Array(vec![value])
        })
    };
    let (sink, _items) = client
        .duplex::<ciborium::Value, usize>("collect", &())
        .await
        .unwrap();
    let error = sink.send(&nested(65)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::InvalidArgument, Origin::Payload)
    );
    sink.send(&nested(64)).await.unwrap();
    client.ping().await.expect("the connection lives");
}
