//! The Rust SDK against a real gateway in this process.

mod cutter;
mod logged;
mod promises;
mod resume;
mod streams;

use std::{
    collections::BTreeSet,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Client, Code, Message, Request, State, Subscription};
use fluxar_tests::{Running, client::PATIENCE};

async fn connect(url: &str) -> Client {
    Client::connect(url).build().await.unwrap()
}

/// The gateway's addresses: TCP, WebSocket, Unix.
fn urls(gateway: &Running) -> [String; 3] {
    [gateway.tcp(), gateway.ws(), gateway.unix()].map(ToString::to_string)
}

async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .expect("an event comes")
        .expect("the subscription lives")
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the condition comes to hold");
}

#[tokio::test]
async fn events_and_calls_cross_between_all_transports() {
    let gateway = Running::start(|_| {});
    let urls = urls(&gateway);
    for publisher in &urls {
        let publisher = connect(publisher).await;
        for subscriber in &urls {
            let subscriber = connect(subscriber).await;
            let mut events = subscriber.subscription("orders.*").open().await.unwrap();
            for number in 0..1000u32 {
                publisher.publish("orders.made", &number).await.unwrap();
            }
            for number in 0..1000u32 {
                let event = next(&mut events).await;
                assert_eq!(
                    (event.topic(), event.payload::<u32>().unwrap()),
                    ("orders.made", number)
                );
            }
            assert_eq!(events.dropped(), 0);

            let offer = subscriber
                .serve(
                    "double",
                    |req: Request| async move { Ok(2 * req.payload::<u32>()?) },
                )
                .await
                .unwrap();
            assert_eq!(publisher.call::<_, u32>("double", &21).await.unwrap(), 42);
            offer.withdraw().await.unwrap();
            until(async || match publisher.call::<_, u32>("double", &1).await {
                Ok(_) => false,
                Err(error) => error.code() == Code::Unavailable,
            })
            .await;
            subscriber.close().await;
        }
        publisher.close().await;
    }
    gateway.stop();
}

#[tokio::test]
async fn each_event_goes_to_one_member_of_a_group() {
    const EVENTS: u32 = 400;
    let gateway = Running::start(|_| {});
    let publisher = connect(&gateway.tcp().to_string()).await;
    let mut members = Vec::new();
    for url in urls(&gateway) {
        let client = connect(&url).await;
        let member = client
            .subscription("jobs.>")
            .group("workers")
            .open()
            .await
            .unwrap();
        members.push((client, member, BTreeSet::new()));
    }
    for number in 0..EVENTS {
        publisher.publish("jobs.new", &number).await.unwrap();
    }
    publisher.ping().await.unwrap();
    let mut all = BTreeSet::new();
    let collected = async {
        while all.len() < EVENTS as usize {
            for (_, member, taken) in &mut members {
                while let Ok(Some(event)) =
                    tokio::time::timeout(Duration::from_millis(1), member.next()).await
                {
                    let number: u32 = event.payload().unwrap();
                    assert!(all.insert(number), "{number} went to two members");
                    taken.insert(number);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, collected)
        .await
        .expect("every event goes to somebody");
    for (_, member, taken) in &members {
        assert!(!taken.is_empty(), "every member gets work");
        assert_eq!(member.dropped(), 0);
    }
    gateway.stop();
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler_behind_the_gateway() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, caller) = (connect(&ws).await, connect(&tcp).await);
    let running = Arc::new(AtomicUsize::new(0));
    let is_dropped = Arc::new(AtomicBool::new(false));
    let flags = (running.clone(), is_dropped.clone());
    server
        .serve("hang", move |_: Request| {
            let (running, is_dropped) = flags.clone();
            async move {
                let _dropped = Dropped(is_dropped);
                running.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<fluxar::Result<()>>().await
            }
        })
        .into_future()
        .await
        .unwrap();
    let peer = caller.peer().clone();
    let call = tokio::spawn(async move { peer.call::<_, ()>("hang", &()).await });
    until(async || running.load(Ordering::SeqCst) == 1).await;
    assert!(!is_dropped.load(Ordering::SeqCst));
    call.abort();
    until(async || is_dropped.load(Ordering::SeqCst)).await;
    caller.ping().await.expect("the connection lives");
    gateway.stop();
}

#[tokio::test]
async fn a_slow_subscriber_is_told_what_it_lost_and_a_quick_one_loses_nothing() {
    const EVENTS: u32 = 4000;
    const BURST: u32 = 50;
    // However long it takes on a busy machine: one that reads nothing answers no pings.
    let gateway = Running::start(|config| {
        config.limits.heartbeat_ms = 3_600_000;
        config.limits.stall_ms = 3_600_000;
    });
    let url = gateway.tcp().to_string();
    let publisher = connect(&url).await;
    let quick = connect(&url).await;
    let mut quick = quick.subscription("flood").open().await.unwrap();
    // It stops reading altogether, so that it is the gateway that drops.
    let slow = Client::connect(&url)
        .stall(Duration::from_secs(600))
        .build()
        .await
        .unwrap();
    let mut slow = slow.subscription("flood").queue(4).open().await.unwrap();

    // More than the sockets and the gateway's queue hold, at the pace of the quick one.
    let filler = "x".repeat(8 * 1024);
    for burst in 0..EVENTS / BURST {
        for number in 0..BURST {
            publisher
                .publish("flood", &(burst * BURST + number, &filler))
                .await
                .unwrap();
        }
        for number in 0..BURST {
            let (got, _): (u32, String) = next(&mut quick).await.payload().unwrap();
            assert_eq!(got, burst * BURST + number);
        }
    }
    assert_eq!(quick.dropped(), 0);

    let (mut taken, mut last) = (0, None);
    let drained = async {
        while taken + slow.dropped() < u64::from(EVENTS) {
            // The note about what was dropped comes without an event.
            let event = tokio::time::timeout(Duration::from_millis(20), slow.next()).await;
            if let Ok(event) = event {
                let (number, _): (u32, String) = event.expect("it lives").payload().unwrap();
                assert!(last < Some(number), "{number} behind {last:?}");
                last = Some(number);
                taken += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE, drained)
        .await
        .expect("every event is delivered or told as dropped");
    assert!(slow.dropped() > 0);
    assert_eq!(taken + slow.dropped(), u64::from(EVENTS));
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_return_to_a_new_gateway_with_what_they_asked_for() {
    // An address at which nobody else listens: the port stays free while the gateway is away.
    let gateway = Running::start(|config| config.listen = vec!["tcp://127.0.0.24:0".into()]);
    let url = gateway.tcp().to_string();
    let quick = || {
        Client::connect(&url)
            .reconnect_first(Duration::from_millis(10))
            .reconnect_max(Duration::from_millis(100))
            .build()
    };
    let (one, other) = (quick().await.unwrap(), quick().await.unwrap());
    let mut plain = one.subscription("a.*").open().await.unwrap();
    let mut group = one.subscription("a.*").group("g").open().await.unwrap();
    let offer = one.serve("name", |_: Request| async { Ok("one") }).await.unwrap();
    let name: String = other.call("name", &()).await.unwrap();
    assert_eq!(name, "one");

    tokio::task::block_in_place(|| gateway.stop());
    for client in [&one, &other] {
        until(async || matches!(client.state(), State::Reconnecting { .. })).await;
        let why = client.lost_because().unwrap();
        assert_eq!(why.code(), Code::Unavailable, "{why}");
    }
    let gateway = Running::start(|config| config.listen = vec![url.clone()]);
    for client in [&one, &other] {
        until(async || client.state() == State::Connected).await;
    }
    // What was asked for again is answered in the order in which it was asked.
    one.ping().await.unwrap();
    other.publish("a.b", &7).await.unwrap();
    for events in [&mut plain, &mut group] {
        assert_eq!(next(events).await.payload::<u32>().unwrap(), 7);
    }
    let name: String = other.call("name", &()).await.unwrap();
    assert_eq!(name, "one");
    assert_eq!(offer.end().map(|why| why.to_string()), None);
    tokio::task::block_in_place(|| gateway.stop());
}
