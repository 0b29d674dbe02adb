//! Publishing: acknowledged, sent again until it is, in order, within bounds.

use std::time::Duration;

use fluxar::{Code, Origin, Position};
use fluxar_protocol::{Kind, meta::Qos};

use super::{Gateway, raw::PATIENCE};

fn at(partition: u16, offset: u64) -> Position {
    Position { partition, offset }
}

#[tokio::test]
async fn an_event_says_how_it_is_to_be_kept_and_is_told_where_it_is() {
    let (mut gateway, client) = Gateway::with_client().await;
    let event = client
        .event("prices.gold", &7)
        .exactly_once()
        .key([0xff, 0x00])
        .retain()
        .ttl(Duration::from_secs(60))
        .trace("00-ab");
    let (stored, publish) = tokio::join!(async { event.await }, async {
        let publish = gateway.next().await;
        gateway.stored(publish.id, 12, 3051).await;
        publish
    });
    assert_eq!(stored.unwrap(), at(12, 3051));
    assert_eq!(
        (publish.kind, publish.reference, publish.target.as_deref()),
        (Kind::Event, None, Some("prices.gold"))
    );
    assert_eq!(publish.payload, [7]);
    let meta = publish.meta();
    assert_eq!(meta.qos(), Ok(Qos::ExactlyOnce));
    assert_eq!(meta.get("key"), Some(&[0x42, 0xff, 0x00][..]));
    assert_eq!(
        (meta.flag("retain"), meta.uint("ttl_ms"), meta.text("trace")),
        (Ok(true), Ok(Some(60_000)), Ok(Some("00-ab")))
    );

    let (stored, ()) = tokio::join!(async { client.event("a", &()).key("büro").await }, async {
        let publish = gateway.next().await;
        assert_eq!(publish.meta().qos(), Ok(Qos::AtLeastOnce));
        assert_eq!(publish.meta().text("key"), Ok(Some("büro")));
        assert_eq!(publish.meta().get("retain"), None);
        gateway.stored(publish.id, 0, 1).await;
    });
    assert_eq!(stored.unwrap().to_string(), "0@1");

    let key = vec![b'k'; 256];
    for bad in [
        client.event("a.*", &1).await,
        client.event("a", &1).key(&key).await,
    ] {
        assert_eq!(bad.unwrap_err().origin(), Origin::Input);
    }
}

#[tokio::test]
async fn an_event_with_an_id_of_its_own_keeps_it_and_its_place_in_the_order() {
    let (mut gateway, client) = Gateway::with_client().await;
    // The ids descend: what decides is the order of publication.
    let id = |number: u8| [200 - number; 16];
    let publish = |number: u8| client.event("a", &number).exactly_once().id(id(number)).enqueue();
    let mut receipts = Vec::new();
    for number in 0..20u8 {
        let event = client.event("a", &number).exactly_once();
        // Every second one has an id that is drawn.
        let event = if number % 2 == 0 {
            event.id(id(number))
        } else {
            event
        };
        receipts.push(event.enqueue().await.unwrap());
    }
    let twice = publish(4).await.unwrap_err();
    assert_eq!(
        (twice.code(), twice.origin()),
        (Code::AlreadyExists, Origin::Input)
    );
    for number in 0..20u8 {
        let publish = gateway.next().await;
        assert_eq!(publish.payload, [number]);
        assert_eq!(publish.id.0 == id(number), number % 2 == 0);
    }
    gateway.lose();
    gateway.welcome().await;
    for (number, receipt) in (0..20u8).zip(receipts) {
        let publish = gateway.next().await;
        assert_eq!(publish.payload, [number], "in the order of publication");
        assert_eq!(publish.id.0 == id(number), number % 2 == 0);
        gateway.stored(publish.id, 3, 1 + u64::from(number)).await;
        assert_eq!(receipt.await.unwrap(), at(3, 1 + u64::from(number)));
    }
    // What is settled may come again, as from a publisher that does not know: what one event is the gateway decides.
    let again = publish(4).await.unwrap();
    let publish = gateway.next().await;
    assert_eq!(publish.id.0, id(4));
    gateway.stored(publish.id, 3, 5).await;
    assert_eq!(again.await.unwrap(), at(3, 5));
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_on_the_next_connection() {
    let (mut gateway, client) = Gateway::with_client().await;
    let mut receipts = Vec::new();
    for number in 0..100u32 {
        receipts.push(client.event("a", &number).enqueue().await.unwrap());
    }
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(gateway.next().await.id);
    }
    for (offset, id) in ids.iter().enumerate().take(40) {
        gateway.stored(*id, 3, 1 + offset as u64).await;
    }
    gateway.stored(ids[70], 3, 71).await; // out of order
    let rest = receipts.split_off(40);
    for (number, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap(), at(3, 1 + number as u64));
    }
    gateway.lose();
    // One more while there is no connection, or a new one already: it comes behind the others all the same.
    let last = client.event("a", &100u32).enqueue().await.unwrap();
    gateway.welcome().await;
    let mut again = Vec::new();
    for _ in 0..60 {
        let publish = gateway.next().await;
        again.push(publish.id);
        gateway.stored(publish.id, 3, 1000 + again.len() as u64).await;
    }
    let expected: Vec<_> = (40..100).filter(|&n| n != 70).map(|n| ids[n]).collect();
    assert_eq!(again[..59], expected, "the same ids, in the same order");
    assert_eq!(last.await.unwrap(), at(3, 1060));
    for (number, receipt) in rest.into_iter().enumerate() {
        let stored = receipt.await.unwrap();
        assert_eq!(stored == at(3, 71), number == 30);
    }
    gateway.silence().await;
}

#[tokio::test]
async fn an_event_that_is_refused_for_a_moment_is_held_back_with_those_of_its_topic() {
    let (mut gateway, client) = Gateway::with_client().await;
    let first = client.event("full", &1).enqueue().await.unwrap();
    let second = client.event("full", &2).enqueue().await.unwrap();
    let (one, two) = (gateway.next().await, gateway.next().await);
    for (publish, code) in [(&two, Code::Unavailable), (&one, Code::ResourceExhausted)] {
        gateway.refuse(Kind::Event, publish.id, code, Some(1_000)).await;
    }
    gateway.silence().await; // the refusals have been read
    let third = client.event("full", &3).enqueue().await.unwrap();
    let other = client.event("empty", &4).enqueue().await.unwrap();
    let publish = gateway.next().await;
    assert_eq!(publish.target.as_deref(), Some("empty"), "other topics go on");
    gateway.stored(publish.id, 1, 1).await;
    assert_eq!(other.await.unwrap(), at(1, 1));
    for (offset, payload) in [(1, [1]), (2, [2]), (3, [3])] {
        let publish = gateway.next().await;
        assert_eq!(publish.payload, payload, "in the order of publication");
        assert!(offset == 3 || [one.id, two.id].contains(&publish.id));
        gateway.stored(publish.id, 2, offset).await;
    }
    for (receipt, offset) in [(first, 1), (second, 2), (third, 3)] {
        assert_eq!(receipt.await.unwrap(), at(2, offset));
    }
}

#[tokio::test]
async fn topics_that_are_refused_together_come_again_in_the_order_of_publication() {
    let (mut gateway, client) = Gateway::with_client().await;
    let mut receipts = Vec::new();
    let mut published = Vec::new();
    for number in 0..12_u8 {
        let topic = ["x", "y", "z"][usize::from(number) % 3];
        receipts.push(client.event(topic, &number).enqueue().await.unwrap());
        published.push(gateway.next().await.id);
    }
    for id in published.iter().rev() {
        gateway
            .refuse(Kind::Event, *id, Code::ResourceExhausted, Some(1_000))
            .await;
    }
    for (id, offset) in published.iter().zip(1..) {
        let again = gateway.next().await;
        assert_eq!(again.id, *id, "across the topics");
        gateway.stored(again.id, 0, offset).await;
    }
    for (receipt, offset) in receipts.into_iter().zip(1..) {
        assert_eq!(receipt.await.unwrap(), at(0, offset));
    }
}

#[tokio::test]
async fn an_event_that_is_refused_for_good_fails() {
    let (mut gateway, client) = Gateway::with_client().await;
    for (code, retry_after_ms) in [
        (Code::FailedPrecondition, None),
        (Code::PermissionDenied, Some(5)),
        (Code::ResourceExhausted, None),
    ] {
        let receipt = client.event("a", &1).enqueue().await.unwrap();
        let publish = gateway.next().await;
        gateway
            .refuse(Kind::Event, publish.id, code, retry_after_ms)
            .await;
        let error = receipt.await.unwrap_err();
        assert_eq!((error.code(), error.origin()), (code, Origin::Answer), "{error}");
    }
    gateway.silence().await;
    assert_eq!(
        client.refused_publishes().0,
        0,
        "those are told to their publisher"
    );
}

#[tokio::test]
async fn what_an_earlier_session_may_have_stored_is_not_said_to_be_refused() {
    let (mut gateway, client) = Gateway::with_client().await;
    let before = client.event("a", &1).exactly_once().enqueue().await.unwrap();
    assert_eq!(gateway.next().await.payload, [1]);
    gateway.lose();
    gateway.welcome().await;
    let again = gateway.next().await;
    let code = Code::FailedPrecondition;
    gateway.refuse(Kind::Event, again.id, code, None).await;
    let error = before.await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");

    let after = client.event("a", &2).exactly_once().enqueue().await.unwrap();
    let publish = gateway.next().await;
    gateway.refuse(Kind::Event, publish.id, code, None).await;
    assert_eq!(after.await.unwrap_err().code(), code);
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_connection_takes_nothing() {
    let (gateway, client) = Gateway::bind().await;
    let (_gateway, client) = gateway.greet(client.outbox_bytes(256 * 1024)).await;
    // Nobody reads: the sockets fill, then the outbox.
    let text = "x".repeat(50_000);
    let mut refused = 0;
    while refused < 10 {
        match client.try_publish("a", &text) {
            Ok(()) => refused = 0,
            Err(_) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let patient = client
        .event("a", &text)
        .timeout(PATIENCE * 10)
        .enqueue()
        .await
        .unwrap();
    tokio::task::yield_now().await;
    let hasty = client
        .event("a", &text)
        .timeout(Duration::from_millis(300))
        .enqueue()
        .await
        .unwrap();
    let late = tokio::time::timeout(PATIENCE, hasty).await.expect("in time");
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    drop(patient);
}

#[tokio::test]
async fn what_is_not_acknowledged_in_time_fails_and_is_not_sent_again() {
    let (mut gateway, client) = Gateway::with_client().await;
    let receipt = client
        .event("a", &1)
        .timeout(Duration::from_secs(1)) // in which it is sent
        .enqueue()
        .await
        .unwrap();
    let lasting = client.event("a", &2).enqueue().await.unwrap();
    let (publish, _) = (gateway.next().await, gateway.next().await);
    let error = receipt.await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::DeadlineExceeded, Origin::Timeout)
    );
    gateway.stored(publish.id, 0, 1).await; // too late, and ignored
    gateway.lose();
    gateway.welcome().await;
    let again = gateway.next().await;
    assert_eq!(again.payload, [2]);
    gateway.stored(again.id, 0, 2).await;
    assert_eq!(lasting.await.unwrap(), at(0, 2));

    // Refused again and again, and then out of time: the reason is not lost.
    let receipt = client
        .event("a", &3)
        .timeout(Duration::from_secs(1)) // in which the refusal is read
        .enqueue()
        .await
        .unwrap();
    let publish = gateway.next().await;
    gateway
        .refuse(Kind::Event, publish.id, Code::ResourceExhausted, Some(10_000))
        .await;
    let error = receipt.await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let source = std::error::Error::source(&error).expect("why it waited");
    assert!(source.to_string().contains("because"), "{source}");
}

#[tokio::test]
async fn what_is_not_acknowledged_is_bounded() {
    let (gateway, client) = Gateway::bind().await;
    let (mut gateway, client) = gateway.greet(client.publish_unacked_bytes(1000)).await;
    let mut receipts = Vec::new();
    for number in 0..3 {
        receipts.push(client.event("a", &number).enqueue().await.unwrap());
    }
    let full = client
        .event("a", &3)
        .timeout(Duration::from_millis(50))
        .enqueue()
        .await
        .unwrap_err();
    assert!(full.is_full(), "{full}");
    let waiting = client.event("a", &4).enqueue();
    tokio::pin!(waiting);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut waiting)
            .await
            .is_err()
    );
    let first = gateway.next().await;
    gateway.stored(first.id, 0, 1).await;
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    drop(waited.expect("there is room").unwrap());

    // One that is larger than the bound goes alone.
    for _ in 0..3 {
        let publish = gateway.next().await;
        gateway.stored(publish.id, 0, 2).await;
    }
    let large = "x".repeat(5000);
    let large = client.event("a", &large).enqueue().await.unwrap();
    let publish = gateway.next().await;
    gateway.stored(publish.id, 0, 3).await;
    large.await.unwrap();
}

#[tokio::test]
async fn more_than_the_outbox_holds_is_sent_again_in_order() {
    let (gateway, client) = Gateway::bind().await;
    let (mut gateway, client) = gateway.greet(client.outbox_bytes(10_000)).await;
    let text = "x".repeat(1000);
    let mut receipts = Vec::new();
    for number in 0..500u32 {
        receipts.push(client.event("a", &(number, &text)).enqueue().await.unwrap());
    }
    gateway.lose();
    gateway.welcome().await;
    let mut last = None;
    for offset in 1..=500 {
        let publish = gateway.next().await;
        assert!(last < Some(publish.id), "ids ascend in the order of publication");
        last = Some(publish.id);
        gateway.stored(publish.id, 0, offset).await;
    }
    for (receipt, offset) in receipts.into_iter().zip(1..) {
        assert_eq!(receipt.await.unwrap(), at(0, offset));
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_fails_alone() {
    let (mut gateway, client) = Gateway::with_client().await;
    let error = client
        .event("a", &"x".repeat(70_000))
        .enqueue()
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::ResourceExhausted, Origin::Payload)
    );
    let receipt = client.event("a", &1).enqueue().await.unwrap();
    let publish = gateway.next().await;
    gateway.stored(publish.id, 0, 1).await;
    receipt.await.unwrap();
}

#[tokio::test]
async fn closing_fails_what_is_open_and_what_comes_later() {
    let (mut gateway, client) = Gateway::with_client().await;
    let receipt = client.event("a", &1).enqueue().await.unwrap();
    gateway.next().await;
    let closing = client.close();
    tokio::join!(closing, async { gateway.lose() });
    let error = receipt.await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unavailable, Origin::Connection)
    );
    let error = client.event("a", &1).enqueue().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}

#[tokio::test]
async fn without_a_gateway_nothing_is_logged() {
    let server = fluxar::Server::bind("127.0.0.1:0").build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    let client = fluxar::Client::connect(server.url()).build().await.unwrap();
    let error = client.event("a", &1).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unimplemented, Origin::Answer)
    );
    let error = client.subscription("a").durable("me").open().await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let peer = server.peers().remove(0);
    let error = peer.event("a", &1).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unimplemented, Origin::Input)
    );
}
