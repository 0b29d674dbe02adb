//! Stored events, through a gateway with a log in this process: what is promised holds when connections and gateways are
//! lost.

use std::{
    collections::BTreeMap,
    future::IntoFuture,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use fluxar::{Begin, Client, Code, Error, Message, Position};
use fluxar_gateway::config::{Config, LogDir};
use fluxar_tests::{Running, client::PATIENCE};

use super::{connect, next, until, urls};

/// With a log in this folder, and a socket that stays the same when it is started again.
pub(super) fn start(folder: &Path) -> Running {
    start_with(folder, |_| {})
}

fn start_with(folder: &Path, change: impl FnOnce(&mut Config)) -> Running {
    let socket = format!("unix://{}", folder.join("socket").display());
    Running::start(|config| {
        config.log.dir = LogDir::At(folder.join("log"));
        config.listen.retain(|url| !url.starts_with("unix:"));
        config.listen.push(socket);
        change(config);
    })
}

fn at(message: &Message) -> Position {
    message.position().expect("a position")
}

#[tokio::test]
async fn stored_events_cross_between_all_transports_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    for (number, url) in urls(&gateway).iter().enumerate() {
        let publisher = connect(url).await;
        let topic = format!("orders.t{number}");
        let mut receipts = Vec::new();
        for order in 0..3000u32 {
            let event = publisher.event(&topic, &order);
            let event = if order % 2 == 0 {
                event.exactly_once()
            } else {
                event
            };
            receipts.push(event.enqueue().await.unwrap());
        }
        let mut stored = Vec::new();
        for receipt in receipts {
            stored.push(receipt.await.unwrap());
        }
        assert!(
            stored
                .windows(2)
                .all(|pair| pair[0].partition == pair[1].partition && pair[0].offset < pair[1].offset),
            "one topic is one ordered log"
        );
        for url in &urls(&gateway) {
            let mut events = connect(url)
                .await
                .subscription(&topic)
                .from(Begin::All)
                .open()
                .await
                .unwrap();
            for (order, &position) in stored.iter().enumerate() {
                let event = next(&mut events).await;
                assert_eq!((event.payload::<usize>().unwrap(), at(&event)), (order, position));
                event.ack().await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_has_each_event_once_while_the_gateway_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = start(folder.path());
    let url = gateway.unix().to_string();
    let client = || {
        Client::connect(&url)
            .reconnect_first(Duration::from_millis(5))
            .reconnect_max(Duration::from_millis(50))
            .build()
    };
    let (publisher, subscriber) = (client().await.unwrap(), client().await.unwrap());
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handled_there = handled.clone();
    let subscribed = subscriber
        .subscribe("orders.*", move |msg: Message| {
            let handled = handled_there.clone();
            async move {
                handled.lock().unwrap().push(msg.payload::<u32>()?);
                Ok(())
            }
        })
        .exactly_once("billing")
        .await
        .unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let is_done_there = is_done.clone();
    let publishing = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for order in 0.. {
            if is_done_there.load(Ordering::Relaxed) {
                break;
            }
            let event = publisher.event("orders.placed", &order).exactly_once();
            receipts.push(event.enqueue().await.unwrap());
            if order % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for receipt in &mut receipts {
            receipt.await.unwrap();
        }
        receipts.len()
    });
    for round in 1..=4 {
        until(async || handled.lock().unwrap().len() >= round * 200).await;
        gateway = tokio::task::block_in_place(|| {
            gateway.stop();
            start(folder.path())
        });
    }
    is_done.store(true, Ordering::Relaxed);
    let placed = publishing.await.unwrap();
    until(async || handled.lock().unwrap().len() >= placed).await;
    subscribed.cancel().await.unwrap();
    let handled = handled.lock().unwrap();
    let expected: Vec<u32> = (0..placed as u32).collect();
    assert_eq!(*handled, expected, "each once, in order");
    gateway.stop();
}

#[tokio::test]
async fn a_durable_subscription_goes_on_in_another_process_behind_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let publisher = connect(&urls(&gateway)[0]).await;
    for order in 0..10u32 {
        publisher.event("orders.placed", &order).await.unwrap();
    }
    let first = connect(&urls(&gateway)[0]).await;
    let mut events = first
        .subscription("orders.*")
        .durable("billing")
        .from(Begin::All)
        .open()
        .await
        .unwrap();
    for order in 0..6u32 {
        let event = next(&mut events).await;
        assert_eq!(event.payload::<u32>().unwrap(), order);
        if order != 4 {
            event.ack().await.unwrap();
        }
    }
    let cursor = events.cursor().expect("it was accepted");
    first.close().await;
    let second = connect(&urls(&gateway)[1]).await;
    let mut events = second
        .subscription("orders.*")
        .durable("billing")
        .open()
        .await
        .unwrap();
    for order in 4..10u32 {
        assert_eq!(next(&mut events).await.payload::<u32>().unwrap(), order);
    }
    // A cursor that the program kept says the same.
    let cursor = cursor.to_string().parse().unwrap();
    let mut again = second
        .subscription("orders.*")
        .from(Begin::Behind(cursor))
        .open()
        .await
        .unwrap();
    assert_eq!(next(&mut again).await.payload::<u32>().unwrap(), 4);

    // The newest holder of the name has it.
    let third = connect(&urls(&gateway)[0]).await;
    let taking = third.subscription("orders.*").durable("billing").open();
    let _holder = taking.await.unwrap();
    let ended = async { while events.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("the one before is ended");
    assert_eq!(events.end().unwrap().code(), Code::Aborted);
}

#[tokio::test]
async fn what_a_member_does_not_do_another_does() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start_with(folder.path(), |config| {
        config.log.settings.ack_ms = 300;
    });
    let url = urls(&gateway)[0].clone();
    let done = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let mut members = Vec::new();
    for member in 0..3 {
        let client = connect(&url).await;
        let done = done.clone();
        let subscribing = client
            .subscribe("jobs.*", move |msg: Message| {
                let done = done.clone();
                async move {
                    let job: u32 = msg.payload()?;
                    if member == 0 && msg.dup() == 0 {
                        return Err(Error::new(Code::Internal, "not I"));
                    }
                    *done.lock().unwrap().entry(job).or_default() += 1;
                    Ok(())
                }
            })
            .group("workers")
            .in_flight(4);
        members.push((subscribing.into_future().await.unwrap(), client));
    }
    // One that takes work, and is lost with it.
    let lost = connect(&url).await;
    let mut taken = lost
        .subscription("jobs.*")
        .group("workers")
        .in_flight(4)
        .open()
        .await
        .unwrap();
    let publisher = connect(&url).await;
    let mut receipts = Vec::new();
    for job in 0..200u32 {
        receipts.push(publisher.event("jobs.new", &job).enqueue().await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    next(&mut taken).await;
    drop(taken);
    lost.close().await;
    until(async || done.lock().unwrap().len() == 200).await;
    for (member, _) in members {
        member.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_table_is_the_last_of_each_key_and_then_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let client = connect(&urls(&gateway)[0]).await;
    let set = |metal: &'static str, price: Option<u32>| {
        let client = client.clone();
        async move {
            let event = client.event("prices.metal", &price).key(metal).retain();
            event.await.unwrap()
        }
    };
    for (metal, price) in [
        ("gold", Some(1)),
        ("tin", Some(2)),
        ("gold", Some(3)),
        ("tin", None),
    ] {
        set(metal, price).await;
    }
    let mut table = client.subscription("prices.*").retain().open().await.unwrap();
    let row = next(&mut table).await;
    assert_eq!(
        (row.key(), row.payload::<u32>().unwrap()),
        (Some(&b"gold"[..]), 3)
    );
    let position = set("zinc", Some(4)).await;
    let row = next(&mut table).await;
    assert_eq!((row.key(), at(&row)), (Some(&b"zinc"[..]), position));
}

/// A table that is larger than what a subscription may have unacknowledged comes whole, and what is live behind it.
async fn table_comes_whole(rows: usize, bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let client = connect(&urls(&gateway)[0]).await;
    let set = |row: usize| {
        let event = client.event("prices.metal", &(row, "x".repeat(bytes)));
        event.key(format!("k{row}")).retain().enqueue()
    };
    let mut receipts = Vec::new();
    for row in 0..rows {
        receipts.push(set(row).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let mut table = client.subscription("prices.*").retain().open().await.unwrap();
    for row in 0..rows {
        let event = next(&mut table).await;
        assert_eq!(event.payload::<(usize, String)>().unwrap().0, row);
        event.ack().await.unwrap();
    }
    set(rows).await.unwrap().await.unwrap();
    let event = next(&mut table).await;
    assert_eq!(event.payload::<(usize, String)>().unwrap().0, rows);
}

#[tokio::test]
async fn a_table_of_more_rows_than_a_window_comes_whole() {
    table_comes_whole(10_000, 1).await;
}

#[tokio::test]
async fn a_table_of_more_bytes_than_a_window_comes_whole() {
    table_comes_whole(12, 60_000).await;
}

#[tokio::test]
async fn a_subscription_begins_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let client = connect(&urls(&gateway)[0]).await;
    /// The clock has moved on by more than a log can tell apart.
    async fn later() -> SystemTime {
        let then = SystemTime::now() + Duration::from_millis(50);
        until(async || SystemTime::now() > then).await;
        then
    }
    let mut places = Vec::new();
    let mut time = None;
    for order in 0..4 {
        if order == 2 {
            time = Some(later().await);
            later().await;
        }
        places.push(client.event("orders.placed", &order).await.unwrap());
    }
    for (time, first) in [(time.unwrap(), 2), (SystemTime::UNIX_EPOCH, 0)] {
        let mut orders = client
            .subscription("orders.*")
            .from(Begin::Time(time))
            .open()
            .await
            .unwrap();
        for &place in &places[first..] {
            assert_eq!(at(&next(&mut orders).await), place);
        }
    }
}

#[tokio::test]
async fn a_gateway_without_a_log_says_so() {
    let gateway = Running::start(|_| {});
    let client = connect(&urls(&gateway)[0]).await;
    let error = client.event("orders.placed", &1).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    let asked = client.subscription("orders.*").at_least_once().open().await;
    assert_eq!(asked.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_place_that_the_log_never_had_ends_a_subscription() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let client = connect(&urls(&gateway)[0]).await;
    let cursor = "12345:0@1".parse().unwrap();
    let error = client
        .subscription("orders.*")
        .from(Begin::Behind(cursor))
        .open()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
}

#[tokio::test]
async fn a_slow_handler_gets_everything_in_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let client = connect(&urls(&gateway)[0]).await;
    let handled = Arc::new(Mutex::new(0u32));
    let handled_there = handled.clone();
    let slow = connect(&urls(&gateway)[1]).await;
    let subscribed = slow
        .subscribe("a", move |msg: Message| {
            let handled = handled_there.clone();
            async move {
                let (number, _) = msg.payload::<(u32, String)>()?;
                if number % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let mut handled = handled.lock().unwrap();
                assert_eq!(number, *handled, "in order, and none is missing");
                *handled += 1;
                Ok(())
            }
        })
        .at_least_once()
        .await
        .unwrap();
    let text = "x".repeat(1000);
    let mut receipts = Vec::new();
    for number in 0..3000u32 {
        receipts.push(client.event("a", &(number, &text)).enqueue().await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    until(async || *handled.lock().unwrap() == 3000).await;
    assert_eq!(subscribed.dropped(), 0);
}
