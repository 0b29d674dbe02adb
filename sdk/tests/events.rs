//! Events between a server and its clients, connected directly.

mod raw;

use std::{
    future::IntoFuture,
    sync::{Arc, Mutex},
    time::Duration,
};

use fluxar::{Client, Code, Error, Message, Origin, Request, Server, State, Transport};
use fluxar_protocol::{Envelope, Id, Kind, meta::Meta, meta::MetaWriter};
use raw::{PATIENCE, Raw, envelope, until};
use tokio::net::TcpListener;

async fn start(builder: fluxar::ServerBuilder) -> Server {
    let server = builder.build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    server
}

async fn next(subscription: &mut fluxar::Subscription) -> Option<Message> {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .expect("an event, or the end")
}

#[tokio::test]
async fn events_reach_those_who_asked_in_order_over_every_transport() {
    for transport in [Transport::Tcp, Transport::Unix, Transport::WebSocket] {
        let folder = tempfile::tempdir().unwrap();
        let address = match transport {
            Transport::Unix => folder.path().join("socket").to_str().unwrap().to_owned(),
            _ => "127.0.0.1:0".to_owned(),
        };
        let server = start(Server::bind(address).transport(transport)).await;
        let client = Client::connect(server.url())
            .subscription_queue(20_000)
            .build()
            .await
            .unwrap();
        let mut one = client.subscription("orders.*").open().await.unwrap();
        let mut all = client.subscription(">").open().await.unwrap();
        for number in 0..10_000u32 {
            let reached = server
                .publish(if number % 2 == 0 { "orders.even" } else { "odd" }, &number)
                .unwrap();
            assert_eq!(reached, 1);
        }
        for number in 0..10_000u32 {
            assert_eq!(next(&mut all).await.unwrap().payload::<u32>().unwrap(), number);
            if number % 2 == 0 {
                let event = next(&mut one).await.unwrap();
                assert_eq!(
                    (event.topic(), event.payload::<u32>().unwrap()),
                    ("orders.even", number)
                );
                event.ack().await.unwrap();
            }
        }
        drop(all);
        until(|| server.publish("odd", &0).unwrap() == 0).await;
        server.close().await;
    }
}

#[tokio::test]
async fn what_clients_publish_goes_to_the_servers_handlers_and_not_to_other_clients() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_there = seen.clone();
    server
        .on_event("sensors.>", move |msg: Message| {
            let seen = seen_there.clone();
            async move {
                seen.lock()
                    .unwrap()
                    .push((msg.topic().to_owned(), msg.payload::<u32>()?));
                if msg.payload::<u32>()? == 1 {
                    panic!("a handler that panics costs its event only");
                }
                Err(Error::new(Code::Internal, "and so does one that fails"))
            }
        })
        .unwrap();
    let client = Client::connect(server.url()).build().await.unwrap();
    let other = Client::connect(server.url()).build().await.unwrap();
    let mut others = other.subscription(">").open().await.unwrap();
    for number in 0..4u32 {
        client.publish("sensors.a", &number).await.unwrap();
    }
    client.publish("elsewhere", &9).await.unwrap();
    until(|| seen.lock().unwrap().len() == 4).await;
    assert_eq!(
        *seen.lock().unwrap(),
        (0..4)
            .map(|number| ("sensors.a".to_owned(), number))
            .collect::<Vec<_>>()
    );
    server.close().await;
    other.close().await;
    assert!(next(&mut others).await.is_none(), "a server is no broker");
}

#[tokio::test]
async fn names_are_checked_before_they_are_sent() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    for topic in ["a.*", "a..b", "$sys.x", "", ">"] {
        let error = client.publish(topic, &1).await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Input),
            "{topic}: {error}"
        );
    }
    let error = client.subscription("a.>.b").open().await.unwrap_err();
    assert_eq!(error.origin(), Origin::Input, "{error}");
    assert!(client.serve("a..b", |_: Request| async { Ok(()) }).await.is_err());
}

#[tokio::test]
async fn groups_are_refused_without_a_gateway() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    let error = client
        .subscription("jobs.>")
        .group("workers")
        .open()
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unimplemented, Origin::Answer),
        "{error}"
    );
    assert!(error.message().contains("needs a gateway"), "{error}");
    let offer = client
        .serve("a.>", |_: Request| async { Ok(1) })
        .weight(3)
        .await
        .expect("a direct peer may be offered to");
    offer.withdraw().await.unwrap();
}

#[tokio::test]
async fn a_subscription_that_is_not_read_loses_its_own_events_and_nothing_else() {
    let server = start(Server::bind("127.0.0.1:0").outbox_bytes(64 << 20)).await;
    let client = Client::connect(server.url())
        .stall(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    let mut slow = client.subscription("a").queue(10).open().await.unwrap();
    let mut quick = client.subscription("a").queue(5000).open().await.unwrap();
    for number in 0..1000u32 {
        assert_eq!(server.publish("a", &number).unwrap(), 1);
    }
    for number in 0..1000u32 {
        assert_eq!(next(&mut quick).await.unwrap().payload::<u32>().unwrap(), number);
    }
    client.ping().await.expect("answers still arrive");
    assert_eq!((slow.dropped(), quick.dropped()), (990, 0));
    for number in 0..10u32 {
        assert_eq!(
            next(&mut slow).await.unwrap().payload::<u32>().unwrap(),
            number,
            "what had room is there"
        );
    }
    server.publish("a", &7777).unwrap();
    assert_eq!(
        next(&mut slow).await.unwrap().payload::<u32>().unwrap(),
        7777,
        "and it goes on"
    );
}

#[tokio::test]
async fn a_handler_that_is_always_a_little_slow_does_not_slow_the_connection() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url())
        .stall(Duration::from_millis(100))
        .build()
        .await
        .unwrap();
    let handled = Arc::new(Mutex::new(0));
    let handled_there = handled.clone();
    let subscribed = client
        .subscribe("a", move |_: Message| {
            let handled = handled_there.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await; // far less than `stall`
                *handled.lock().unwrap() += 1;
                Ok(())
            }
        })
        .queue(4)
        .await
        .unwrap();
    for number in 0..500u32 {
        server.publish("a", &number).unwrap();
    }
    until(|| *handled.lock().unwrap() + subscribed.dropped() == 500).await;
    let handled = *handled.lock().unwrap();
    assert!(handled < 100, "the connection waited for {handled} events");
}

#[tokio::test]
async fn a_handler_may_call_the_peer_whose_events_wait_for_it() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    server
        .handle(
            "twice",
            |req: Request| async move { Ok(2 * req.payload::<u32>()?) },
        )
        .unwrap();
    let client = Client::connect(server.url())
        .stall(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let (peer, answers_there) = (client.peer().clone(), answers.clone());
    let subscribed = client
        .subscribe("a", move |msg: Message| {
            let (peer, answers) = (peer.clone(), answers_there.clone());
            async move {
                let answer = peer.call::<_, u32>("twice", &msg.payload::<u32>()?).await?;
                answers.lock().unwrap().push(answer);
                Ok(())
            }
        })
        .queue(1)
        .await
        .unwrap();
    for number in 0..100u32 {
        server.publish("a", &number).unwrap();
    }
    until(|| answers.lock().unwrap().len() as u64 + subscribed.dropped() == 100).await;
    assert_eq!(answers.lock().unwrap()[..2], [0, 2]);
}

/// A client of a gateway that a test plays.
async fn played() -> (Client, Raw) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(format!("tcp://{}", listener.local_addr().unwrap()))
        .reconnect(false)
        .build();
    let gateway = async {
        let mut gateway = Raw(listener.accept().await.unwrap().0);
        gateway.welcome().await;
        gateway
    };
    let (client, gateway) = tokio::join!(client, gateway);
    (client.unwrap(), gateway)
}

fn note(subscription: Id, meta: &[u8]) -> Envelope<'_> {
    Envelope {
        meta: Some(Meta::from_checked(meta)),
        ..envelope(Kind::Subscribe, Some(subscription), &[])
    }
}

fn event(payload: &[u8]) -> Envelope<'_> {
    Envelope {
        target: Some("a.b"),
        ..envelope(Kind::Event, None, payload)
    }
}

async fn accept(gateway: &mut Raw) -> Id {
    let asked = gateway.receive().await.unwrap().remove(0);
    assert_eq!(asked.kind, Kind::Subscribe);
    gateway
        .send(&envelope(Kind::Subscribe, Some(asked.id), &[0xa0]))
        .await;
    asked.id
}

#[tokio::test]
async fn a_run_goes_to_its_subscription_alone_and_ends_with_its_count() {
    let (client, mut gateway) = played().await;
    let asking = client.subscription("a.*").open();
    let (plain, _) = tokio::join!(asking, accept(&mut gateway));
    let mut plain = plain.unwrap();
    let asking = client.subscription("a.*").group("workers").open();
    let (group, group_id) = tokio::join!(asking, accept(&mut gateway));
    let mut group = group.unwrap();

    let header = MetaWriter::new().uint("run", 2).finish().unwrap();
    let mut body = Vec::new();
    note(group_id, &header).encode(Default::default(), &mut body);
    for payload in [[1], [2], [3]] {
        event(&payload).encode(Default::default(), &mut body);
    }
    // A run for a subscription that is not there goes nowhere, and no further than its frame.
    note(Id([5; 16]), &header).encode(Default::default(), &mut body);
    event(&[4]).encode(Default::default(), &mut body);
    gateway.send_body(&body).await;
    gateway.send(&event(&[5])).await;
    for (subscription, expected) in [(&mut group, [1, 2]), (&mut plain, [3, 5])] {
        for payload in expected {
            assert_eq!(
                next(subscription).await.unwrap().payload::<u8>().unwrap(),
                payload
            );
        }
    }
}

#[tokio::test]
async fn what_a_gateway_says_about_a_subscription_is_known() {
    let (client, mut gateway) = played().await;
    let asking = client.subscription("a.*").open();
    let (subscription, id) = tokio::join!(asking, accept(&mut gateway));
    let mut subscription = subscription.unwrap();

    for total in [3, 10] {
        let dropped = MetaWriter::new().uint("dropped", total).finish().unwrap();
        gateway.send(&note(id, &dropped)).await;
    }
    until(|| subscription.dropped() == 10).await;

    let mut error = Vec::new();
    fluxar_protocol::ErrorBody {
        code: Code::PermissionDenied,
        message: "no more",
        details: None,
        retry_after_ms: None,
    }
    .encode(&mut error);
    let end = MetaWriter::new().flag("end", true).finish().unwrap();
    gateway
        .send(&Envelope {
            error: Some(&error),
            ..note(id, &end)
        })
        .await;
    assert!(next(&mut subscription).await.is_none());
    assert_eq!(subscription.end().unwrap().code(), Code::PermissionDenied);

    let (refused, ()) = tokio::join!(client.subscription("b").open(), async {
        let asked = gateway.receive().await.unwrap().remove(0);
        gateway
            .send(&Envelope {
                error: Some(&error),
                ..envelope(Kind::Subscribe, Some(asked.id), &[])
            })
            .await;
    });
    assert_eq!(refused.unwrap_err().message(), "no more");

    client.publish("x", &1).await.unwrap();
    let publish = gateway.receive().await.unwrap().remove(0);
    gateway
        .send(&Envelope {
            error: Some(&error),
            ..envelope(Kind::Event, Some(publish.id), &[])
        })
        .await;
    until(|| client.refused_publishes().0 == 1).await;
    assert_eq!(client.refused_publishes().1.unwrap().message(), "no more");
}

/// Calls the client's method `m`, and returns what it answers.
async fn ask(gateway: &mut Raw) -> Vec<u8> {
    let call = Envelope {
        target: Some("m"),
        ..envelope(Kind::Call, None, &[0xf6])
    };
    gateway.send(&call).await;
    let answer = gateway.receive().await.unwrap().remove(0);
    assert_eq!((answer.kind, answer.reference), (Kind::Call, Some(call.id)));
    assert_eq!(answer.error, None);
    answer.payload
}

#[tokio::test]
async fn an_offer_that_comes_to_nothing_leaves_the_one_before_it_alone() {
    let (client, mut gateway) = played().await;
    let (first, _) = tokio::join!(
        client.serve("m", |_: Request| async { Ok(1) }).into_future(),
        accept(&mut gateway)
    );
    let _first = first.unwrap();
    assert_eq!(ask(&mut gateway).await, [1]);

    drop(client.serve("m", |_: Request| async { Ok(2) }));
    assert_eq!(ask(&mut gateway).await, [1], "nobody awaited the second");

    let mut error = Vec::new();
    fluxar_protocol::ErrorBody {
        code: Code::AlreadyExists,
        message: "no",
        details: None,
        retry_after_ms: None,
    }
    .encode(&mut error);
    let second = client.serve("m", |_: Request| async { Ok(2) }).into_future();
    let (refused, ()) = tokio::join!(second, async {
        let asked = gateway.receive().await.unwrap().remove(0);
        assert_eq!(ask(&mut gateway).await, [1], "it is not accepted yet");
        gateway
            .send(&Envelope {
                error: Some(&error),
                ..envelope(Kind::Subscribe, Some(asked.id), &[])
            })
            .await;
    });
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(ask(&mut gateway).await, [1], "the second was refused");

    let third = tokio::spawn(client.serve("m", |_: Request| async { Ok(3) }).into_future());
    let asked = gateway.receive().await.unwrap().remove(0);
    third.abort();
    drop(third.await);
    let cancel = gateway.receive().await.unwrap().remove(0);
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
    gateway
        .send(&envelope(Kind::Subscribe, Some(asked.id), &[0xa0]))
        .await;
    assert_eq!(ask(&mut gateway).await, [1], "nobody waited for the third");

    // Accepted, with a call right behind it: the new one answers.
    let (fourth, ()) = tokio::join!(
        client.serve("m", |_: Request| async { Ok(4) }).into_future(),
        async {
            let asked = gateway.receive().await.unwrap().remove(0);
            gateway
                .send(&envelope(Kind::Subscribe, Some(asked.id), &[0xa0]))
                .await;
            assert_eq!(ask(&mut gateway).await, [4]);
            let end = MetaWriter::new().flag("end", true).finish().unwrap();
            gateway
                .send(&Envelope {
                    error: Some(&error),
                    ..note(asked.id, &end)
                })
                .await;
        }
    );
    let ended = tokio::time::timeout(PATIENCE, fourth.unwrap().ended())
        .await
        .unwrap();
    assert_eq!(
        ended.unwrap().message(),
        "no",
        "its owner is told when it is over"
    );
}

#[tokio::test]
async fn dropping_a_subscription_cancels_it_and_dropping_the_client_says_goodbye() {
    let (client, mut gateway) = played().await;
    let asking = client.subscription("a.*").open();
    let (subscription, id) = tokio::join!(asking, accept(&mut gateway));
    drop(subscription.unwrap());
    let cancel = gateway.receive().await.unwrap().remove(0);
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(id)));
    let mut state = client.watch_state();
    client.publish("last.words", &1).await.unwrap();
    drop(client);
    let said = gateway.receive_all().await;
    assert_eq!(said[0].target.as_deref(), Some("last.words"));
    assert_eq!(
        (said[1].kind, said[1].reference, said.len()),
        (Kind::Cancel, None, 2)
    );
    drop(gateway);
    tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == State::Closed))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_full_outbox_makes_publish_wait_and_try_publish_say_so() {
    let (client, mut gateway) = played().await;
    let text = "x".repeat(50_000);
    // The test does not read: the sockets' buffers fill, then the outbox.
    let full = loop {
        match client.try_publish("a", &text) {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(full.is_full() && full.code() == Code::ResourceExhausted, "{full}");
    let waiting = client.publish("a", &text);
    tokio::pin!(waiting);
    let waits = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
    // The writer may have got rid of some in the meantime; then there is nothing to wait for.
    if waits.is_err() {
        let reading = async { while gateway.receive().await.is_some() {} };
        tokio::select! {
            sent = waiting => sent.unwrap(),
            () = reading => unreachable!("the connection lives"),
        }
    }
}
