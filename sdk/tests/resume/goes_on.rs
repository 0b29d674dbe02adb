//! The session goes on: what was open stays open, and nothing is lost or comes twice.

use std::time::Duration;

use fluxar::State;
use fluxar_protocol::{Position, position};

use super::*;

const EPOCH: u64 = 5 << 20;

#[tokio::test]
async fn calls_streams_and_subscriptions_stay_open() {
    let (mut gateway, client) = Gateway::with_client().await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscription("a.*").open().await })
    };
    let subscribe = gateway.next_of(Kind::Subscribe).await;
    gateway.answer(&subscribe, &[0xf6]).await;
    let mut events = subscribing.await.unwrap().unwrap();
    let calling = {
        let client = client.clone();
        tokio::spawn(async move { client.call::<_, u8>("sum", &7).await })
    };
    let call = gateway.next_of(Kind::Call).await;
    let (sink, mut items) = client.duplex::<u8, u8>("double", &()).await.unwrap();
    let open = gateway.next_of(Kind::Stream).await;
    sink.send(&1).await.unwrap();
    gateway.next_of(Kind::Stream).await;
    gateway.send(Kind::Stream, open.id, MetaWriter::new(), &[2]).await;
    assert_eq!(in_time(items.next()).await.unwrap().unwrap(), 2);

    let before = client.watch_state();
    gateway.lose();
    // Of what the client said, the chunk is not carried out here: it comes again, and nothing else does.
    let asked = gateway.welcome(b"token 2", Some(3)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 2));
    let chunk = gateway.next_of(Kind::Stream).await;
    assert_eq!((chunk.reference, &*chunk.payload), (Some(open.id), &[1][..]));
    gateway.pong().await;

    gateway.answer(&call, &[9]).await;
    assert_eq!(in_time(calling).await.unwrap().unwrap(), 9);
    gateway.send(Kind::Stream, open.id, MetaWriter::new(), &[4]).await;
    assert_eq!(in_time(items.next()).await.unwrap().unwrap(), 4);
    sink.send(&2).await.unwrap();
    assert_eq!(gateway.next_of(Kind::Stream).await.payload, [2]);
    let event = Envelope {
        target: Some("a.b"),
        ..envelope(Kind::Event, None, &[5])
    };
    gateway.raw().send(&event).await;
    assert_eq!(in_time(events.next()).await.unwrap().payload::<u8>().unwrap(), 5);
    assert_eq!((client.state(), client.resumes()), (State::Connected, 1));
    assert!(before.has_changed().unwrap(), "the program could see the pause");

    // The next time it shows the new token, and its count goes on.
    gateway.lose();
    let asked = gateway.welcome(b"token 3", Some(5)).await;
    assert_eq!(asked, Asked::resuming(b"token 2", 4));
    gateway.pong().await;
    gateway.silence().await;
    assert_eq!(client.resumes(), 2);
}

#[tokio::test]
async fn what_is_begun_while_it_is_away_waits() {
    let (mut gateway, client) = Gateway::with_client().await;
    gateway.lose_read().await;
    comes_to(&client, |state| matches!(state, State::Resuming { .. })).await;
    let published = client.publish("a.b", &1).await;
    published.expect("an event at qos 0 waits for the next connection");
    let calling = {
        let client = client.clone();
        tokio::spawn(async move { client.call::<_, u8>("sum", &7).await })
    };
    let pinging = {
        let client = client.clone();
        tokio::spawn(async move { client.ping().await })
    };
    let mut given_up = client.request_stream("s").open::<u8>().await.unwrap();
    drop(in_time(tokio::time::timeout(Duration::from_millis(1), given_up.next())).await);
    drop(given_up);
    tokio::task::yield_now().await;

    let asked = gateway.welcome(b"token 2", Some(0)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 0));
    let mut kinds = Vec::new();
    let mut pings = 0;
    let mut call = None;
    while pings < 2 {
        let next = gateway.next().await;
        match next.kind {
            Kind::Ping => {
                gateway.answer(&next, &[]).await;
                pings += 1;
            }
            kind => kinds.push(kind),
        }
        if next.kind == Kind::Call {
            call = Some(next);
        }
    }
    kinds.sort_by_key(|kind| *kind as u8);
    let expected = [Kind::Call, Kind::Stream, Kind::Event, Kind::Cancel];
    assert_eq!(kinds, expected, "each once");
    gateway.answer(&call.unwrap(), &[9]).await;
    assert_eq!(in_time(calling).await.unwrap().unwrap(), 9);
    in_time(pinging).await.unwrap().unwrap();
    in_time(client.flush()).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_leaves_the_old_token_good() {
    let (mut gateway, client) = Gateway::with_client().await;
    gateway.lose();
    for _ in 0..3 {
        // The hello arrives; whatever became of it, the client does not hear of it.
        let mut raw = gateway.accept().await;
        let asked = Asked::of(&raw.hello().await);
        assert_eq!(asked, Asked::resuming(b"token 1", 0));
    }
    let asked = gateway.welcome(b"token 2", Some(0)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 0));
    gateway.pong().await;
    assert_eq!(client.resumes(), 1);
}

#[tokio::test]
async fn a_half_open_connection_is_given_up_and_the_session_goes_on() {
    let (gateway, client) = Gateway::bind().await;
    // Twice that is longer than this test is ever held up: nobody answers pings on the second connection either.
    let client = client.heartbeat(Duration::from_secs(1));
    let (mut gateway, client) = gateway.greet(client).await;
    let half_open = gateway.raw.take();
    let asked = gateway.welcome(b"token 2", Some(0)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 0));
    drop(half_open);
    comes_to(&client, |state| *state == State::Connected).await;
    assert_eq!(client.resumes(), 1);
}

#[tokio::test]
async fn both_sides_tell_how_many_came() {
    let (mut gateway, client) = Gateway::with_client().await;
    assert_eq!(gateway.silence().await, Some(0));
    let large = vec![0x40; 1];
    for count in 1..=3 {
        let calling = {
            let client = client.clone();
            tokio::spawn(async move { client.call::<_, ()>("a", &()).await })
        };
        let call = gateway.next_of(Kind::Call).await;
        gateway.answer(&call, &large).await;
        let _ = in_time(calling).await.unwrap();
        assert_eq!(gateway.silence().await, Some(count));
    }
    // A ping is due when 64 KiB came since the last.
    let payload = [&[0x59, 0xea, 0x60][..], &[0; 60_000]].concat();
    for untold in [true, false] {
        let calling = {
            let client = client.clone();
            tokio::spawn(async move { client.request("a").send_for_bytes().await })
        };
        let call = gateway.next_of(Kind::Call).await;
        gateway.answer(&call, &payload).await;
        in_time(calling).await.unwrap().unwrap();
        if !untold {
            let ping = gateway.next_of(Kind::Ping).await;
            assert_eq!(
                (ping.reference, ping.meta().uint("recv").unwrap()),
                (None, Some(5))
            );
        }
    }
    // So it says when it comes back; refused ones and those with a ref to nothing count as well.
    gateway
        .send(Kind::Stream, Id([7; 16]), MetaWriter::new(), &[])
        .await;
    let nonsense = Envelope {
        target: Some("not..a.name"),
        ..envelope(Kind::Call, None, &[])
    };
    gateway.raw().send(&nonsense).await;
    gateway.next_of(Kind::Call).await;
    gateway.lose_read().await;
    let asked = gateway.welcome(b"token 2", Some(5)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 7));
    let refusal = gateway.next_of(Kind::Call).await;
    assert!(
        refusal.error.is_some(),
        "its refusal is counted too, and comes again"
    );
}

#[tokio::test]
async fn what_the_gateway_has_is_let_go_and_not_sent_again() {
    let (mut gateway, client) = Gateway::with_client().await;
    let mut calling = Vec::new();
    let mut calls = Vec::new();
    for number in 0..20_u8 {
        let client = client.clone();
        calling.push(tokio::spawn(
            async move { client.call::<_, u8>("a", &number).await },
        ));
        calls.push(gateway.next_of(Kind::Call).await);
    }
    // Told by a ping, and by the answer to one.
    for (recv, token) in [(12, b"token 2"), (15, b"token 3")] {
        let ping = MetaWriter::new().uint("recv", recv);
        gateway.send(Kind::Ping, Id([3; 16]), ping, &[]).await;
        gateway.lose_read().await;
        gateway.welcome(token, Some(recv + 1)).await;
        for call in &calls[recv as usize + 1..] {
            assert_eq!(gateway.next_of(Kind::Call).await.id, call.id);
        }
        gateway.pong().await;
        gateway.silence().await;
    }
    for call in &calls {
        gateway.answer(call, &[1]).await;
    }
    for call in calling {
        assert_eq!(in_time(call).await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn stored_events_are_sent_again_behind_the_answer_to_a_ping() {
    let (mut gateway, client) = Gateway::with_client().await;
    let mut receipts = Vec::new();
    let mut published = Vec::new();
    for number in 0..3_u8 {
        receipts.push(client.event("a.b", &number).enqueue().await.unwrap());
        published.push(gateway.next_of(Kind::Event).await.id);
    }
    gateway.lose();
    comes_to(&client, |state| matches!(state, State::Resuming { .. })).await;
    receipts.push(client.event("a.b", &3_u8).enqueue().await.unwrap());
    gateway.welcome(b"token 2", Some(0)).await;
    // An acknowledgement was lost on its way: the gateway sends it again, in front of its answer.
    let ping = gateway.next_of(Kind::Ping).await;
    let at = |offset| {
        let partition = 0;
        MetaWriter::new().position("at", Position { partition, offset })
    };
    gateway.send(Kind::Event, published[0], at(1), &[]).await;
    receipts.push(client.event("a.b", &4_u8).enqueue().await.unwrap());
    gateway.silence().await;
    gateway.answer(&ping, &[]).await;
    let mut again = Vec::new();
    for _ in 0..4 {
        again.push(gateway.next_of(Kind::Event).await);
    }
    assert_eq!([again[0].id, again[1].id], published[1..]);
    assert_eq!([&*again[2].payload, &*again[3].payload], [[3], [4]]);
    for (event, offset) in again.iter().zip(2..) {
        gateway.send(Kind::Event, event.id, at(offset), &[]).await;
    }
    for (receipt, offset) in receipts.into_iter().zip(1..) {
        assert_eq!(in_time(receipt).await.unwrap().offset, offset);
    }
    gateway.silence().await;
}

#[tokio::test]
async fn what_was_refused_for_a_while_waits_for_that_while_in_a_session_that_goes_on() {
    let (mut gateway, client) = Gateway::with_client().await;
    let mut receipts = Vec::new();
    let mut published = Vec::new();
    for topic in ["long", "long", "short", "free"] {
        receipts.push(client.event(topic, &1).enqueue().await.unwrap());
        published.push(gateway.next_of(Kind::Event).await.id);
    }
    // Of those to "long" the second, so that the first stays behind it.
    for (id, retry_after_ms) in [(published[1], 600_000), (published[2], 2_000)] {
        gateway.refuse(id, retry_after_ms).await;
    }
    gateway.lose_read().await;
    comes_to(&client, |state| matches!(state, State::Resuming { .. })).await;
    receipts.push(client.event("long", &2).enqueue().await.unwrap());
    gateway.welcome(b"token 2", Some(0)).await;
    let ping = gateway.next_of(Kind::Ping).await;
    gateway.answer(&ping, &[]).await;
    let mut again = [
        gateway.next_of(Kind::Event).await,
        gateway.next_of(Kind::Event).await,
    ];
    again.sort_by_key(|event| event.id);
    assert_eq!(again.map(|event| event.id), published[2..], "each once");
    gateway.silence().await; // nothing to "long", and nothing twice
    gateway.lose();
    comes_to(&client, |state| matches!(state, State::Resuming { .. })).await;
    drop(gateway);
    drop(receipts);
}

#[tokio::test]
async fn stored_events_that_come_again_are_handled_once() {
    let (mut gateway, client) = Gateway::with_client().await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscription("a.b").at_least_once().open().await })
    };
    let subscribe = gateway.next_of(Kind::Subscribe).await;
    let mut acceptance = Vec::new();
    let begin = Position {
        partition: 3,
        offset: 0,
    };
    position::write_epoch(EPOCH, [begin].into_iter(), &mut acceptance);
    gateway.answer(&subscribe, &acceptance).await;
    let mut events = subscribing.await.unwrap().unwrap();
    gateway.run(&subscribe, 1..=3, 0).await;
    for offset in 1..=2_u64 {
        let event = in_time(events.next()).await.unwrap();
        assert_eq!(event.position().unwrap().offset, offset);
        event.ack().await.unwrap();
    }
    let ack = gateway.next_of(Kind::Event).await;
    assert_eq!(ack.reference, Some(subscribe.id));
    gateway.lose_read().await;
    // The acknowledgement was not carried out there, so all come again, and a new one.
    gateway.welcome(b"token 2", Some(1)).await;
    assert_eq!(gateway.next_of(Kind::Event).await.meta, ack.meta);
    gateway.pong().await;
    gateway.run(&subscribe, 1..=4, 1).await;
    for offset in 3..=4_u64 {
        let event = in_time(events.next()).await.unwrap();
        assert_eq!(event.position().unwrap().offset, offset);
    }
}

impl Gateway {
    /// Sends a run of logged events.
    async fn run(&mut self, subscribe: &Received, offsets: std::ops::RangeInclusive<u64>, dup: u64) {
        let deltas = offsets.clone().skip(1).map(|_| 1).collect::<Vec<u64>>();
        let mut meta = MetaWriter::new().positions("run", 3, *offsets.start(), deltas.into_iter());
        if dup > 0 {
            meta = meta.uint("dup", dup);
        }
        let meta = meta.finish();
        let mut body = Vec::new();
        Envelope {
            meta: meta.as_deref().map(Meta::from_checked),
            ..envelope(Kind::Subscribe, Some(subscribe.id), &[])
        }
        .encode(fluxar_protocol::Form::Compact, &mut body);
        for offset in offsets {
            Envelope {
                target: Some("a.b"),
                ..envelope(Kind::Event, None, &[offset as u8])
            }
            .encode(fluxar_protocol::Form::Compact, &mut body);
        }
        self.raw().send_body(&body).await;
    }
}
