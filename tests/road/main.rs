//! The main road on real sockets: events, groups, calls and their ends, across transports, forms and cores.
#![forbid(unsafe_code)]

mod logged;
mod resume;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Form, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, End, Running};

fn none() -> MetaWriter {
    MetaWriter::new()
}

#[test]
fn an_event_crosses_every_pair_of_transports_as_its_bytes() {
    let gateway = Running::start(|_| {});
    let addresses = [gateway.tcp(), gateway.ws(), gateway.unix()];
    for from in addresses {
        for to in addresses {
            // Two subscribers, so that at least one is on another core than the publisher when there are two.
            let mut subscribers = [Client::greeted(to), Client::greeted(to)];
            for subscriber in &mut subscribers {
                subscriber.subscribe("weather.*.>", none());
            }
            let mut publisher = Client::greeted(from);
            // Interest crosses cores after the acceptance: publish until both have heard.
            let mut sent = Vec::new();
            for subscriber in &mut subscribers {
                loop {
                    let id = publisher.id();
                    let meta = MetaWriter::new().text("trace", "00-ab").finish();
                    let event = encoded(
                        Kind::Event,
                        id,
                        None,
                        Some("weather.north.rain"),
                        meta.as_deref(),
                        &number(7),
                    );
                    publisher.send(&event);
                    sent.push(event);
                    if let Ok(Some(received)) = subscriber.poll(Duration::from_millis(500)) {
                        assert!(
                            sent.contains(&received.bytes),
                            "an event arrives as its publisher's bytes"
                        );
                        break;
                    }
                    assert!(sent.len() < 100, "{from} to {to}: nothing arrives");
                }
            }
        }
    }
    gateway.stop();
}

#[test]
fn many_events_arrive_once_each_and_in_order_whatever_the_core() {
    const EVENTS: u64 = 20_000;
    let gateway = Running::start(|_| {});
    let mut subscribers: Vec<Client> = (0..4)
        .map(|at| Client::greeted(if at % 2 == 0 { gateway.tcp() } else { gateway.ws() }))
        .collect();
    for subscriber in &mut subscribers {
        // Two that overlap: still once.
        subscriber.subscribe("n.a", none());
        subscriber.subscribe("n.>", none());
    }
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut subscribers, "n.a");
    let tcp = gateway.tcp().clone();
    let writer = std::thread::spawn(move || {
        let mut publisher = Client::greeted(&tcp);
        for first in (1..=EVENTS).step_by(50) {
            let mut body = Vec::new();
            for value in first..first + 50 {
                let id = publisher.id();
                let topic = if value % 3 == 0 { "n.b" } else { "n.a" };
                body.extend(encoded(Kind::Event, id, None, Some(topic), None, &number(value)));
            }
            publisher.send(&body);
        }
        publisher.settle();
    });
    for subscriber in &mut subscribers {
        for expected in 1..=EVENTS {
            let received = subscriber.expect();
            assert_eq!(received.kind, Kind::Event, "{received:?}");
            assert_eq!(received.number(), expected);
        }
    }
    writer.join().expect("the publisher was served");
    let dropped: u64 = gateway.stop().iter().map(|end| end.counters.dropped).sum();
    assert_eq!(dropped, 0);
}

#[test]
fn a_group_shares_its_events_and_a_plain_subscriber_gets_them_all() {
    const EVENTS: u64 = 3_000;
    let gateway = Running::start(|_| {});
    let mut members: Vec<Client> = (0..4).map(|_| gateway.client()).collect();
    let mut subscriptions = Vec::new();
    for member in &mut members {
        subscriptions.push(member.subscribe("jobs.*", none().text("group", "workers")));
    }
    let mut plain = [gateway.client()];
    plain[0].subscribe("jobs.*", none());
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut plain, "jobs.warm");
    // Drain what the warm-up left with the members, then count.
    for value in 0..EVENTS {
        publisher.publish("jobs.real", &number(value));
    }
    publisher.settle();
    for expected in 0..EVENTS {
        assert_eq!(plain[0].expect().number(), expected);
    }
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut shares = vec![0u64; members.len()];
    let mut total = 0;
    for (at, member) in members.iter_mut().enumerate() {
        while let Ok(Some(header)) =
            member.poll(Duration::from_millis(if total == EVENTS { 50 } else { 1500 }))
        {
            assert_eq!(
                (header.kind, header.reference),
                (Kind::Subscribe, Some(subscriptions[at])),
                "{header:?}"
            );
            for _ in 0..header.run().expect("the header of a run") {
                let event = member.expect();
                if event.target.as_deref() == Some("jobs.real") {
                    *seen.entry(event.number()).or_default() += 1;
                    shares[at] += 1;
                    total += 1;
                }
            }
        }
    }
    assert_eq!(
        seen.len() as u64,
        EVENTS,
        "each event went to a member; shares {shares:?}"
    );
    assert!(seen.values().all(|count| *count == 1), "and to one only");
    assert!(
        shares.iter().all(|share| *share > EVENTS / 20),
        "every member got work: {shares:?}"
    );
    gateway.stop();
}

#[test]
fn calls_find_a_server_on_any_core_and_answers_their_asker_in_any_order() {
    const CALLS: u64 = 500;
    let gateway = Running::start(|_| {});
    let mut servers: Vec<Client> = vec![gateway.client(), Client::greeted(gateway.ws())];
    for server in &mut servers {
        server.serve("math.*");
    }
    let serving: Vec<_> = servers
        .into_iter()
        .map(|mut server| {
            std::thread::spawn(move || {
                // Answers in pairs, the later first.
                let mut held: Option<fluxar_tests::Received> = None;
                let mut served = 0;
                while let Ok(message) = server.next() {
                    if message.kind != Kind::Call {
                        continue;
                    }
                    assert_eq!(message.target.as_deref(), Some("math.double"));
                    served += 1;
                    server.answer(&message, &number(message.number() * 2));
                    if let Some(earlier) = held.take() {
                        // A second answer to the same call goes nowhere.
                        server.answer(&earlier, &number(0));
                    }
                    held = Some(message);
                }
                served
            })
        })
        .collect();
    let mut askers: Vec<Client> = vec![
        gateway.client(),
        gateway.client(),
        Client::greeted(gateway.unix()),
    ];
    for asker in &mut askers {
        until_served(asker, "math.double", &number(1));
    }
    for asker in &mut askers {
        let mut open: BTreeMap<Id, u64> = BTreeMap::new();
        for value in 0..CALLS {
            open.insert(asker.call("math.double", &number(value)), value);
        }
        while !open.is_empty() {
            let answer = asker.expect();
            let value = open
                .remove(&answer.reference.expect("an answer"))
                .expect("an open call, once");
            assert_eq!((answer.kind, answer.code()), (Kind::Call, None));
            assert_eq!(answer.number(), value * 2);
        }
    }
    gateway.stop();
    let served: Vec<u64> = serving
        .into_iter()
        .map(|thread| thread.join().expect("a server"))
        .collect();
    assert!(
        served.iter().all(|served| *served > CALLS / 10),
        "calls were spread: {served:?}"
    );
}

#[test]
fn a_call_that_nobody_serves_and_one_whose_server_is_lost_fail_unavailable() {
    let gateway = Running::start(|_| {});
    let mut asker = gateway.client();
    let id = asker.call("nobody.home", &[]);
    assert_eq!(asker.answer_to(id).code(), Some(Code::Unavailable));

    for transport in [gateway.tcp(), gateway.ws(), gateway.unix()] {
        let mut server = Client::greeted(transport);
        server.serve("slow.work");
        let mut asker = gateway.client();
        // Whoever calls after the offer was accepted finds it, on whichever core.
        let id = asker.call("slow.work", &[]);
        let call = server.expect();
        assert_eq!(call.kind, Kind::Call);
        drop(server);
        let answer = asker.answer_to(id);
        assert_eq!(answer.code(), Some(Code::Unavailable), "{answer:?}");
        let id = asker.call("slow.work", &[]);
        assert_eq!(
            asker.answer_to(id).code(),
            Some(Code::Unavailable),
            "its offer is gone with it"
        );
    }
    gateway.stop();
}

#[test]
fn a_cancelled_call_is_answered_at_once_and_its_server_is_told() {
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("slow.work");
    let mut asker = gateway.client();
    let id = asker.call("slow.work", &[]);
    let call = server.expect();
    assert_ne!(call.id, id, "the gateway gives the call an id of its own");
    let cancel = asker.id();
    asker.send(&encoded(Kind::Cancel, cancel, Some(id), None, None, &[]));
    assert_eq!(asker.answer_to(id).code(), Some(Code::Cancelled));
    let told = server.expect();
    assert_eq!((told.kind, told.reference), (Kind::Cancel, Some(call.id)));
    // Too late, and so thrown away: the asker hears nothing more of it.
    server.answer(&call, &number(1));
    server.settle();
    asker.settle();
    assert_eq!(asker.poll(Duration::from_millis(100)), Ok(None));
    gateway.stop();
}

#[test]
fn a_subscription_ends_when_it_is_cancelled_and_is_told_so() {
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let subscription = client.subscribe("a.b", none());
    client.publish("a.b", &number(1));
    assert_eq!(client.expect().number(), 1);
    let cancel = client.id();
    client.send(&encoded(
        Kind::Cancel,
        cancel,
        Some(subscription),
        None,
        None,
        &[],
    ));
    let end = client.answer_to(subscription);
    assert_eq!(end.kind, Kind::Subscribe);
    assert!(end.ends() && end.code().is_none(), "{end:?}");
    client.publish("a.b", &number(2));
    client.settle();
    assert_eq!(client.poll(Duration::from_millis(50)), Ok(None));
    gateway.stop();
}

#[test]
fn what_one_frame_publishes_before_its_cancel_comes_before_the_end() {
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let subscription = client.subscribe("a.b", none());
    let (event, cancel) = (client.id(), client.id());
    let mut body = encoded(Kind::Event, event, None, Some("a.b"), None, &number(1));
    body.extend(encoded(Kind::Cancel, cancel, Some(subscription), None, None, &[]));
    client.send(&body);
    assert_eq!(client.expect().number(), 1);
    let end = client.expect();
    assert!(end.ends() && end.reference == Some(subscription), "{end:?}");
    client.settle();
    gateway.stop();
}

#[test]
fn one_frame_that_asks_for_more_than_a_queue_holds_is_answered_in_full_to_one_who_reads() {
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let mut body = Vec::new();
    let mut open = BTreeSet::new();
    while body.len() < 1_000_000 {
        let id = client.id();
        body.extend(encoded(Kind::Call, id, None, Some("x"), None, &[]));
        open.insert(id);
    }
    client.send(&body);
    while !open.is_empty() {
        let answer = client.expect();
        assert_eq!(answer.code(), Some(Code::Unavailable));
        assert!(open.remove(&answer.reference.expect("an answer")));
    }
    client.settle();
    gateway.stop();
}

#[test]
fn a_subscriber_that_falls_behind_can_still_ping_and_cancel() {
    let gateway = Running::start(|config| config.limits.queue_bytes = 64 * 1024);
    let mut slow = Client::greeted(gateway.unix());
    let subscription = slow.subscribe("flood.>", none());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (told, tcp) = (stop.clone(), gateway.tcp().clone());
    let flooding = std::thread::spawn(move || {
        let mut publisher = Client::greeted(&tcp);
        let payload =
            minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![0; 2_000])).expect("a Vec takes all");
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            publisher.publish("flood.now", &payload);
        }
        publisher.settle();
    });
    // It reads all the time, but slower than is published: after drops were told it is behind for good.
    while slow.expect().uint("dropped").is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    slow.settle();
    let cancel = slow.id();
    slow.send(&encoded(
        Kind::Cancel,
        cancel,
        Some(subscription),
        None,
        None,
        &[],
    ));
    loop {
        let next = slow.expect();
        if next.reference == Some(subscription) && next.ends() {
            break;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flooding.join().expect("the publisher is served");
    gateway.stop();
}

#[test]
fn a_named_session_is_spoken_to_in_names_and_its_events_are_compact_for_others() {
    let gateway = Running::start(|_| {});
    let mut named = Client::connect(gateway.tcp());
    named.greet(Form::Named, &Hello::default());
    named.subscribe("talk.>", none());
    let mut compact = [gateway.client()];
    compact[0].subscribe("talk.>", none());
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut compact, "talk.now");

    let id = publisher.id();
    publisher.send(&encoded(
        Kind::Event,
        id,
        None,
        Some("talk.one"),
        None,
        &number(1),
    ));
    let received = loop {
        let received = named.expect();
        if received.target.as_deref() == Some("talk.one") {
            break received;
        }
    };
    assert_eq!(
        (received.form, received.id, received.number()),
        (Form::Named, id, 1)
    );
    assert_eq!(compact[0].expect().form, Form::Compact);

    let id = named.id();
    let event = encoded(Kind::Event, id, None, Some("talk.two"), None, &number(2));
    let mut body = Vec::new();
    fluxar_protocol::envelope::decode(&event)
        .expect("ours")
        .envelope
        .encode(Form::Named, &mut body);
    named.send(&body);
    assert_eq!(named.expect().form, Form::Named);
    assert_eq!(compact[0].expect().bytes, event);
    gateway.stop();
}

#[test]
fn what_is_published_after_an_acceptance_was_read_arrives_from_any_core() {
    let gateway = Running::start(|_| {});
    // With two cores, one of these is on each.
    let mut publishers = [gateway.client(), gateway.client()];
    let mut subscriber = gateway.client();
    for round in 0..2_000 {
        let topic = format!("fresh.t{round}");
        subscriber.subscribe(&topic, none());
        publishers[round % 2].publish(&topic, &number(round as u64));
        assert_eq!(subscriber.expect().number(), round as u64);
    }
    gateway.stop();
}

#[test]
fn an_id_that_is_in_use_is_refused_and_the_first_goes_on() {
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let id = client.subscribe("a.*", none());
    client.send(&encoded(Kind::Subscribe, id, None, Some("b.*"), None, &[]));
    assert_eq!(client.answer_to(id).code(), Some(Code::AlreadyExists));
    // Nor may a call have it, nor a subscription the id of a call that is open.
    client.send(&encoded(Kind::Call, id, None, Some("some.method"), None, &[]));
    assert_eq!(client.answer_to(id).code(), Some(Code::AlreadyExists));
    client.serve("slow.work");
    let call = client.call("slow.work", &[]);
    client.send(&encoded(Kind::Subscribe, call, None, Some("c.*"), None, &[]));
    assert_eq!(client.answer_to(call).code(), Some(Code::AlreadyExists));
    while client.expect().kind != Kind::Call {}
    client.publish("b.x", &number(1));
    client.publish("a.x", &number(2));
    assert_eq!(client.expect().number(), 2);
    gateway.stop();
}

#[test]
fn stopping_says_goodbye_and_delivers_what_was_queued() {
    let gateway = Running::start(|_| {});
    let addresses = [
        gateway.tcp().clone(),
        gateway.ws().clone(),
        gateway.unix().clone(),
    ];
    let mut clients: Vec<Client> = addresses.iter().map(Client::greeted).collect();
    for client in &mut clients {
        client.subscribe("last.words", none());
    }
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut clients, "last.words");
    for value in 0..1_000 {
        publisher.publish("last.words", &number(1_000_000 + value));
    }
    publisher.settle();
    let ends = gateway.stop();
    assert!(ends.iter().all(|end| end.cut_off == 0));
    for (at, mut client) in clients.into_iter().enumerate() {
        let (rest, end) = client.rest();
        let events: BTreeSet<u64> = rest
            .iter()
            .filter(|one| one.kind == Kind::Event)
            .map(fluxar_tests::Received::number)
            .collect();
        assert_eq!(
            events.range(1_000_000..).count(),
            1_000,
            "client {at}: all that was published before"
        );
        let goodbye = rest.last().expect("a goodbye");
        assert_eq!(
            (goodbye.kind, goodbye.reference, goodbye.code()),
            (Kind::Cancel, None, Some(Code::Unavailable))
        );
        let code = (at == 1).then_some(1001);
        assert_eq!(end, End::Closed(code));
    }
}

/// Publishes until every subscriber has heard, since interest reaches other cores after the acceptance; then drains.
fn until_heard(publisher: &mut Client, subscribers: &mut [Client], topic: &str) {
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        let mut tries = 0;
        loop {
            publisher.publish(topic, &number(u64::MAX));
            if let Ok(Some(_)) = subscriber.poll(Duration::from_millis(300)) {
                break;
            }
            tries += 1;
            assert!(tries < 50, "subscriber {at} never hears {topic}");
        }
    }
    publisher.publish(topic, &number(u64::MAX - 1));
    for subscriber in subscribers {
        while subscriber.expect().number() != u64::MAX - 1 {}
    }
}

/// Calls until somebody serves.
fn until_served(asker: &mut Client, method: &str, payload: &[u8]) {
    for _ in 0..1_000 {
        let id = asker.call(method, payload);
        if asker.answer_to(id).code().is_none() {
            return;
        }
    }
    panic!("nobody ever serves {method}");
}
