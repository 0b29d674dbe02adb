//! Subscribing: positions, acknowledgements, and going on where it was.

use std::{
    future::IntoFuture,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Begin, Code, Cursor, Error, Message, Origin, Position, Subscription};
use fluxar_protocol::{
    Kind,
    meta::{MetaWriter, Qos},
    position,
};
use tokio::sync::Notify;

use super::{
    EPOCH, Gateway,
    raw::{PATIENCE, Received, until},
};

async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .expect("an event comes")
        .expect("the subscription lives")
}

fn offset(message: &Message) -> u64 {
    message.position().expect("a position").offset
}

/// Where a subscription wishes to begin.
fn from(asked: &Received) -> Option<(u64, Vec<(u16, u64)>)> {
    match asked.meta().begin().unwrap()? {
        position::Begin::Epoch { epoch, at } => {
            Some((epoch, at.iter().map(|at| (at.partition, at.offset)).collect()))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_asked_for_is_said() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (_work, asked) = tokio::join!(
        client
            .subscription("jobs.>")
            .group("workers")
            .in_flight(8)
            .durable("me")
            .from(Begin::All)
            .open(),
        gateway.accept(EPOCH, &[])
    );
    let meta = asked.meta();
    assert_eq!(meta.qos(), Ok(Qos::AtLeastOnce));
    assert_eq!(
        (meta.text("group"), meta.text("durable"), meta.uint("in_flight")),
        (Ok(Some("workers")), Ok(Some("me")), Ok(Some(8)))
    );
    assert_eq!(meta.begin(), Ok(Some(position::Begin::All)));

    let cursor: Cursor = "77:3@9,4@0".parse().unwrap();
    let subscribing = client
        .subscribe("a", |_| async { Ok(()) })
        .exactly_once("me")
        .from(Begin::Behind(cursor));
    let (_once, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 0)]));
    assert_eq!(asked.meta().qos(), Ok(Qos::ExactlyOnce));
    assert_eq!(asked.meta().text("durable"), Ok(Some("me")));
    assert_eq!(from(&asked), Some((77, vec![(3, 9), (4, 0)])));

    let (_table, asked) = tokio::join!(
        client.subscription("a").retain().open(),
        gateway.accept(EPOCH, &[(0, 0)])
    );
    assert_eq!(asked.meta().flag("retain"), Ok(true));
    assert_eq!(asked.meta().get("from"), None);
    assert_eq!(asked.meta().get("skip_damaged"), None);

    let (_table, asked) = tokio::join!(
        client.subscription("a").retain().skip_damaged().open(),
        gateway.accept(EPOCH, &[(0, 0)])
    );
    let meta = asked.meta();
    assert_eq!(
        (meta.flag("retain"), meta.flag("skip_damaged")),
        (Ok(true), Ok(true))
    );

    for wrong in [
        client.subscription("a").in_flight(5).open().await,
        client.subscription("a").durable("").open().await,
        client.subscription("a").group("g").retain().open().await,
        client.subscription("a").skip_damaged().open().await,
    ] {
        assert_eq!(wrong.unwrap_err().origin(), Origin::Input);
    }
    gateway.silence().await;
}

#[tokio::test]
async fn acknowledgements_never_pass_an_event_that_is_open() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").at_least_once().open(),
        gateway.accept(EPOCH, &[(2, 10), (3, 0)])
    );
    let mut subscription = subscription.unwrap();
    gateway.run(asked.id, 2, &[11, 12, 2_000_001], 0).await;
    let mut messages = Vec::new();
    for expected in [11, 12, 2_000_001] {
        let message = next(&mut subscription).await;
        assert_eq!(offset(&message), expected);
        assert_eq!(
            message.payload::<u64>().unwrap(),
            expected % 24,
            "the right event at each position"
        );
        assert_eq!(message.dup(), 0);
        messages.push(message);
    }
    messages[1].ack().await.unwrap();
    messages[2].clone().ack().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await; // longer than acknowledgements wait for each other
    gateway.silence().await;
    assert_eq!(
        subscription.cursor().unwrap().at[0],
        Position {
            partition: 2,
            offset: 10
        }
    );
    messages[0].ack().await.unwrap();
    assert_eq!(gateway.acknowledged(asked.id).await, (2, vec![2_000_001]));
    assert_eq!(
        subscription.cursor().unwrap().to_string(),
        format!("{EPOCH}:2@2000001,3@0")
    );

    // Dropping it tells what was acknowledged, and then that it is over.
    gateway.run(asked.id, 2, &[2_000_002, 2_000_003], 0).await;
    let first = next(&mut subscription).await;
    first.ack().await.unwrap();
    drop(subscription);
    assert_eq!(gateway.acknowledged(asked.id).await, (2, vec![2_000_002]));
    let cancel = gateway.next().await;
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
}

#[tokio::test]
async fn a_new_connection_goes_on_behind_what_was_received() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").at_least_once().open(),
        gateway.accept(EPOCH, &[(2, 10), (3, 7)])
    );
    let mut subscription = subscription.unwrap();
    assert_eq!(from(&asked), None);
    gateway.run(asked.id, 2, &[11, 12, 13], 0).await;
    let first = next(&mut subscription).await;
    until(|| subscription.cursor().is_some()).await;
    gateway.silence().await; // all three have been read
    gateway.lose();
    gateway.welcome().await;
    let again = gateway.accept(EPOCH + 1, &[(2, 13), (3, 7)]).await;
    assert_eq!(again.id, asked.id, "the subscription is the same");
    assert_eq!(from(&again), Some((EPOCH, vec![(2, 13), (3, 7)])));
    // A gateway that sends more than it has to: nothing is handled twice.
    gateway.run(asked.id, 2, &[12, 13, 14], 1).await;
    let mut later = Vec::new();
    for expected in [12, 13, 14] {
        later.push(next(&mut subscription).await);
        assert_eq!(offset(&later[later.len() - 1]), expected);
    }
    later[2].ack().await.unwrap();
    first.ack().await.unwrap();
    later[0].ack().await.unwrap();
    gateway.silence().await;
    let cursor = subscription.cursor().unwrap();
    assert_eq!((cursor.epoch, cursor.at[0].offset), (EPOCH + 1, 12));
    later[1].ack().await.unwrap();
    assert_eq!(
        gateway.acknowledged(asked.id).await,
        (2, vec![14]),
        "what was before 14 the gateway took for received"
    );
}

#[tokio::test]
async fn a_durable_one_is_taken_up_by_its_name() {
    let (mut gateway, client) = Gateway::with_client().await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handled_there = handled.clone();
    let subscribing = client
        .subscribe("a.*", move |msg: Message| {
            let handled = handled_there.clone();
            async move {
                handled.lock().unwrap().push(offset(&msg));
                Ok(())
            }
        })
        .exactly_once("billing")
        .from(Begin::All);
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(2, 0)]));
    let subscribed = subscribed.unwrap();
    gateway.run(asked.id, 2, &[1, 2, 3], 0).await;
    let mut acked = 0;
    while acked < 3 {
        acked = gateway.acknowledged(asked.id).await.1[0];
    }
    gateway.lose();
    gateway.welcome().await;
    // The last acknowledgements were lost with the connection: the gateway's cursor is behind.
    let again = gateway.accept(EPOCH + 1, &[(2, 1)]).await;
    assert_eq!(again.meta().get("from"), None, "the cursor is the gateway's");
    assert_eq!(again.meta().text("durable"), Ok(Some("billing")));
    assert_eq!(gateway.acknowledged(asked.id).await, (2, vec![3]));
    gateway.run(asked.id, 2, &[2, 3, 4], 1).await;
    let mut acked = 3;
    while acked < 4 {
        acked = gateway.acknowledged(asked.id).await.1[0];
    }
    assert_eq!(*handled.lock().unwrap(), [1, 2, 3, 4], "each once");

    // Logs that are not those: what was missed is not known.
    gateway.lose();
    gateway.welcome().await;
    gateway.accept(EPOCH + (1 << 20), &[(2, 0)]).await;
    let end = subscribed.ended().await.expect("a reason");
    assert_eq!(end.code(), Code::OutOfRange, "{end}");
    let cancel = gateway.next().await;
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
}

#[tokio::test]
async fn what_waits_here_and_another_holder_of_the_name_has_handled_is_passed_over() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").exactly_once("billing").open(),
        gateway.accept(EPOCH, &[(2, 10)])
    );
    let mut subscription = subscription.unwrap();
    gateway.run(asked.id, 2, &[11, 12, 13, 14, 15, 16], 0).await;
    let first = next(&mut subscription).await;
    assert_eq!(offset(&first), 11);
    gateway.silence().await; // all have been read
    gateway.lose();
    gateway.welcome().await;
    gateway.accept(EPOCH, &[(2, 15)]).await;
    gateway.run(asked.id, 2, &[16, 17], 1).await;
    gateway.silence().await;
    first.ack().await.unwrap();
    for expected in [16, 17] {
        let message = next(&mut subscription).await;
        assert_eq!(offset(&message), expected);
        message.ack().await.unwrap();
    }
    let mut acked = 15;
    while acked < 17 {
        acked = gateway.acknowledged(asked.id).await.1[0];
        assert!(acked > 15, "what the gateway knows is not told");
    }
}

#[tokio::test]
async fn what_came_before_the_log_could_not_go_on_is_handled_though_a_handler_fails() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let tried = Arc::new(Mutex::new(Vec::new()));
    let (begun_there, go_there, tried_there) = (begun.clone(), go.clone(), tried.clone());
    let subscribing = client
        .subscribe("a", move |msg: Message| {
            let (begun, go, tried) = (begun_there.clone(), go_there.clone(), tried_there.clone());
            async move {
                tried.lock().unwrap().push(offset(&msg));
                if tried.lock().unwrap().len() == 1 {
                    begun.notify_one();
                    go.notified().await;
                    return Err(Error::new(Code::Internal, "not today"));
                }
                Ok(())
            }
        })
        .at_least_once();
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 0)]));
    let subscribed = subscribed.unwrap();
    gateway.run(asked.id, 0, &[1, 2, 3], 0).await;
    begun.notified().await;
    gateway
        .refuse(Kind::Subscribe, asked.id, Code::DataLoss, None)
        .await;
    assert_eq!(subscribed.ended().await.unwrap().code(), Code::DataLoss);
    go.notify_one();
    until(|| tried.lock().unwrap().len() == 4).await;
    assert_eq!(*tried.lock().unwrap(), [1, 1, 2, 3]);
}

#[tokio::test]
async fn what_came_before_the_log_could_not_go_on_is_handed_over() {
    for (code, handed_over) in [
        (Code::DataLoss, 3),
        (Code::ResourceExhausted, 3),
        (Code::Aborted, 0),
    ] {
        let (mut gateway, client) = Gateway::with_client().await;
        let (subscription, asked) = tokio::join!(
            client.subscription("a").at_least_once().open(),
            gateway.accept(EPOCH, &[(0, 0)])
        );
        let mut subscription = subscription.unwrap();
        gateway.run(asked.id, 0, &[1, 2, 3], 0).await;
        gateway.refuse(Kind::Subscribe, asked.id, code, None).await;
        while subscription.end().is_none() {
            tokio::task::yield_now().await;
        }
        for at in 1..=handed_over {
            assert_eq!(offset(&next(&mut subscription).await), at);
        }
        let end = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
        assert!(end.is_none(), "{code:?}");
    }
}

#[tokio::test]
async fn a_handler_that_fails_is_given_the_event_again() {
    let (mut gateway, client) = Gateway::with_client().await;
    let tries = Arc::new(Mutex::new(Vec::new()));
    let tries_there = tries.clone();
    let subscribing = client
        .subscribe("a.*", move |msg: Message| {
            let tries = tries_there.clone();
            async move {
                let before = {
                    let mut tries = tries.lock().unwrap();
                    tries.push(offset(&msg));
                    tries.iter().filter(|&&tried| tried == offset(&msg)).count()
                };
                match (offset(&msg), before) {
                    (2, 1) => Err(Error::new(Code::Internal, "not today")),
                    (2, 2) => panic!("nor today"),
                    _ => Ok(()),
                }
            }
        })
        .at_least_once();
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 0)]));
    let _subscribed = subscribed.unwrap();
    gateway.run(asked.id, 0, &[1, 2, 3], 0).await;
    let mut acked = 0;
    while acked < 3 {
        acked = gateway.acknowledged(asked.id).await.1[0];
        let tries = tries.lock().unwrap().iter().filter(|&&tried| tried == 2).count();
        assert!(
            acked < 2 || tries == 3,
            "nothing is acknowledged before it is handled"
        );
    }
    assert_eq!(*tries.lock().unwrap(), [1, 2, 2, 2, 3], "in order");
}

#[tokio::test]
async fn a_member_of_a_group_acknowledges_exactly_what_it_has_handled() {
    let (mut gateway, client) = Gateway::with_client().await;
    let tries = Arc::new(Mutex::new(Vec::new()));
    let tries_there = tries.clone();
    let subscribing = client
        .subscribe("a.*", move |msg: Message| {
            let tries = tries_there.clone();
            async move {
                tries.lock().unwrap().push((offset(&msg), msg.dup()));
                if offset(&msg) == 6 && msg.dup() == 0 {
                    return Err(Error::new(Code::Internal, "not I"));
                }
                Ok(())
            }
        })
        .group("workers")
        .at_least_once();
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 4)]));
    let _subscribed = subscribed.unwrap();
    gateway.run(asked.id, 0, &[5, 6, 9], 0).await;
    let mut acked = Vec::new();
    while acked.len() < 2 {
        acked.extend(gateway.acknowledged(asked.id).await.1);
    }
    assert_eq!(acked, [5, 9], "not the one that failed");
    gateway.run(asked.id, 0, &[6], 1).await;
    assert_eq!(gateway.acknowledged(asked.id).await, (0, vec![6]));
    assert_eq!(*tries.lock().unwrap(), [(5, 0), (6, 0), (9, 0), (6, 1)]);
}

#[tokio::test]
async fn what_waited_in_a_group_when_the_connection_was_lost_is_anothers() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").group("workers").at_least_once().open(),
        gateway.accept(EPOCH, &[(0, 0)])
    );
    let mut subscription = subscription.unwrap();
    gateway.run(asked.id, 0, &[1, 2, 3], 0).await;
    let first = next(&mut subscription).await;
    gateway.silence().await;
    gateway.lose();
    gateway.welcome().await;
    let again = gateway.accept(EPOCH, &[(0, 0)]).await;
    assert_eq!(again.meta().get("from"), None);
    first.ack().await.unwrap(); // it was handled, and that counts
    assert_eq!(gateway.acknowledged(asked.id).await, (0, vec![1]));
    gateway.run(asked.id, 0, &[3, 4], 1).await;
    let third = next(&mut subscription).await;
    assert_eq!((offset(&third), third.dup()), (3, 1), "2 went to another member");
    assert_eq!(offset(&next(&mut subscription).await), 4);
}

#[tokio::test]
async fn a_place_that_is_not_held_ends_the_subscription_and_one_that_recovers_does_not() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, ()) = tokio::join!(client.subscription("a").at_least_once().open(), async {
        // A gateway that has just started.
        let asked = gateway.next().await;
        gateway
            .refuse(Kind::Subscribe, asked.id, Code::Unavailable, Some(10))
            .await;
        gateway.accept(EPOCH, &[(0, 5)]).await;
    });
    let mut subscription = subscription.unwrap();
    gateway.lose();
    gateway.welcome().await;
    for code in [Code::Unavailable, Code::ResourceExhausted] {
        let asked = gateway.next().await;
        assert_eq!(from(&asked), Some((EPOCH, vec![(0, 5)])));
        gateway.refuse(Kind::Subscribe, asked.id, code, Some(10)).await;
    }
    let asked = gateway.accept(EPOCH + 1, &[(0, 5)]).await;
    gateway.run(asked.id, 0, &[6], 0).await;
    assert_eq!(offset(&next(&mut subscription).await), 6);

    gateway.lose();
    gateway.welcome().await;
    let asked = gateway.next().await;
    gateway
        .refuse(Kind::Subscribe, asked.id, Code::OutOfRange, None)
        .await;
    let end = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
    assert!(end.is_none());
    assert_eq!(subscription.end().unwrap().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_table_that_did_not_arrive_whole_begins_anew() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (table, asked) = tokio::join!(
        client.subscription("prices.*").retain().open(),
        gateway.accept(EPOCH, &[(0, 50), (1, 60)])
    );
    let mut table = table.unwrap();
    gateway.run(asked.id, 0, &[7, 30], 0).await;
    gateway.run(asked.id, 1, &[8], 0).await;
    let moved = MetaWriter::new().position(
        "at",
        fluxar_protocol::Position {
            partition: 1,
            offset: 60,
        },
    );
    gateway.send(Kind::Subscribe, asked.id, moved, &[]).await;
    let mut rows = Vec::new();
    for expected in [7, 30, 8] {
        rows.push(next(&mut table).await);
        assert_eq!(offset(&rows[rows.len() - 1]), expected);
    }
    for row in &rows[..2] {
        row.ack().await.unwrap();
    }
    assert_eq!(
        gateway.acknowledged(asked.id).await,
        (0, vec![30]),
        "the window is to hold what follows"
    );
    assert_eq!(
        table.cursor().unwrap().at,
        [],
        "neither table is whole and acknowledged"
    );
    gateway.lose();
    gateway.welcome().await;
    let again = gateway.accept(EPOCH, &[(0, 0), (1, 60)]).await;
    assert_eq!(again.meta().flag("retain"), Ok(true));
    assert_eq!(
        from(&again),
        Some((EPOCH, vec![(1, 60)])),
        "the whole one goes on, the other is read again"
    );
    gateway.run(asked.id, 0, &[7, 31, 55], 0).await;
    for expected in [31, 55] {
        assert_eq!(offset(&next(&mut table).await), expected);
    }
}

#[tokio::test]
async fn cancelling_waits_for_the_event_that_is_handled() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let count = Arc::new(AtomicUsize::new(0));
    let (begun_there, go_there, count_there) = (begun.clone(), go.clone(), count.clone());
    let subscribing = client
        .subscribe("a.*", move |_| {
            let (begun, go, count) = (begun_there.clone(), go_there.clone(), count_there.clone());
            async move {
                begun.notify_one();
                go.notified().await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .durable("me");
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 0)]));
    gateway.run(asked.id, 0, &[1, 2, 3], 0).await;
    begun.notified().await;
    let cancelling = subscribed.unwrap().cancel();
    tokio::pin!(cancelling);
    assert!(
        tokio::time::timeout(Duration::from_millis(20), &mut cancelling)
            .await
            .is_err()
    );
    go.notify_one();
    cancelling.await.unwrap();
    assert_eq!(
        count.load(Ordering::Relaxed),
        1,
        "the others are not handled any more"
    );
    assert_eq!(gateway.acknowledged(asked.id).await, (0, vec![1]));
    let cancel = gateway.next().await;
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
}

#[tokio::test]
async fn a_cancel_that_nobody_waits_for_is_carried_out_all_the_same() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun_there, go_there) = (begun.clone(), go.clone());
    let subscribing = client
        .subscribe("a.*", move |_| {
            let (begun, go) = (begun_there.clone(), go_there.clone());
            async move {
                begun.notify_one();
                go.notified().await;
                Ok(())
            }
        })
        .group("workers")
        .at_least_once();
    let (subscribed, asked) = tokio::join!(subscribing.into_future(), gateway.accept(EPOCH, &[(0, 0)]));
    gateway.run(asked.id, 0, &[1, 2], 0).await;
    begun.notified().await;
    let cancelling = subscribed.unwrap().cancel();
    tokio::select! {
        biased;
        _ = cancelling => panic!("the event is still handled"),
        () = std::future::ready(()) => {}
    }
    go.notify_one();
    assert_eq!(gateway.acknowledged(asked.id).await, (0, vec![1]));
    let cancel = gateway.next().await;
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
}

#[tokio::test]
async fn closing_tells_what_was_acknowledged() {
    let (mut gateway, client) = Gateway::with_client().await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").durable("me").open(),
        gateway.accept(EPOCH, &[(0, 0)])
    );
    let mut subscription = subscription.unwrap();
    gateway.run(asked.id, 0, &[1, 2], 0).await;
    next(&mut subscription).await.ack().await.unwrap();
    let closing = tokio::spawn(async move { client.close().await });
    assert_eq!(gateway.acknowledged(asked.id).await, (0, vec![1]));
    // It goes when that was read.
    let ping = gateway.next().await;
    assert_eq!((ping.kind, ping.reference), (Kind::Ping, None));
    gateway.send(Kind::Ping, ping.id, MetaWriter::new(), &[]).await;
    let goodbye = gateway.next().await;
    assert_eq!((goodbye.kind, goodbye.reference), (Kind::Cancel, None));
    gateway.lose();
    closing.await.unwrap();
    assert!(
        subscription.next().await.is_none(),
        "what waits comes again to who goes on"
    );
}

#[tokio::test]
async fn many_events_that_wait_are_lost_by_nobody() {
    let (gateway, client) = Gateway::bind().await;
    let (mut gateway, client) = gateway
        .greet(client.stall(Duration::from_millis(1)).subscription_queue(10))
        .await;
    let (subscription, asked) = tokio::join!(
        client.subscription("a.*").at_least_once().open(),
        gateway.accept(EPOCH, &[(0, 0)])
    );
    let mut subscription = subscription.unwrap();
    let offsets: Vec<u64> = (1..=1500).collect();
    for run in offsets.chunks(500) {
        gateway.run(asked.id, 0, run, 0).await;
    }
    gateway.silence().await;
    for &expected in &offsets {
        let message = next(&mut subscription).await;
        assert_eq!(offset(&message), expected);
        message.ack().await.unwrap();
    }
    let mut acks = 0;
    while gateway.acknowledged(asked.id).await.1 != [1500] {
        acks += 1;
    }
    // How many go together depends on how long the reading takes.
    assert!(acks < 1_000, "{acks} acknowledgements were sent one by one");
    assert_eq!(subscription.dropped(), 0);
}
