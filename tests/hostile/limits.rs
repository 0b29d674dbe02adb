//! Bounds that a peer runs into: connections, subscriptions, calls, sizes, rates, refusals, and the session's rules.

use std::time::{Duration, Instant};

use fluxar_gateway::config::Cores;
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, ErrorBody, Form, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, End, Received, Running};

use crate::neighbours::until_heard;
use crate::raw::ws_frame;
use crate::{closed, expect_told, measure, none, stop, transports};

fn hello(payload: &Hello<'_>) -> Vec<u8> {
    let mut item = Vec::new();
    payload.encode(&mut item);
    encoded(Kind::Hello, Id([1; 16]), None, None, None, &item)
}

fn goodbye() -> Vec<u8> {
    encoded(Kind::Cancel, Id([6; 16]), None, None, None, &[])
}

/// A byte string of so many bytes as a payload.
fn blob(bytes: usize) -> Vec<u8> {
    let mut item = vec![0x5a];
    item.extend((bytes as u32).to_be_bytes());
    item.resize(5 + bytes, 0x42);
    item
}

#[test]
fn one_connection_too_many_is_told_and_closed_and_a_place_is_given_again() {
    let _process = measure::shared();
    let gateway = Running::start(|config| {
        config.cores = Cores::Count(1);
        config.limits.connections = 3;
    });
    let mut held: Vec<Client> = transports(&gateway).iter().map(Client::greeted).collect();
    for address in &transports(&gateway) {
        let mut client = Client::connect(address);
        expect_told(&mut client, address, Code::ResourceExhausted);
    }
    for client in &mut held {
        client.settle();
    }
    // One leaves, and the next may stay, as soon as the gateway has seen both.
    held.pop();
    let begun = Instant::now();
    loop {
        let mut client = Client::connect(gateway.tcp());
        let _ = client.try_send(&hello(&Hello::default()));
        match client.next() {
            Ok(answer) if answer.kind == Kind::Hello => break,
            _ => assert!(
                begun.elapsed() < Duration::from_secs(20),
                "no place is given again"
            ),
        }
    }
    stop(gateway);
}

#[test]
fn one_subscription_too_many_is_refused_and_the_others_stay() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.subscriptions_per_connection = 3);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        client.subscribe("a.1", none());
        client.subscribe("a.2", none().text("group", "g"));
        let third = client.serve("a.3");
        for kind in [none(), none().flag("serve", true), none().text("group", "g")] {
            let id = client.id();
            let meta = kind.finish();
            client.send(&encoded(
                Kind::Subscribe,
                id,
                None,
                Some("a.4"),
                meta.as_deref(),
                &[],
            ));
            let answer = client.answer_to(id);
            assert_eq!(
                (answer.kind, answer.code()),
                (Kind::Subscribe, Some(Code::ResourceExhausted))
            );
            let (_, message) = answer.error.expect("an error");
            assert!(message.contains('3'), "the number is told: {message}");
        }
        client.publish("a.1", &number(1));
        assert_eq!(client.expect().number(), 1);
        let cancel = client.id();
        client.send(&encoded(Kind::Cancel, cancel, Some(third), None, None, &[]));
        assert!(client.answer_to(third).ends());
        client.subscribe("a.4", none());
    }
    stop(gateway);
}

#[test]
fn one_call_too_many_is_refused_and_the_others_go_on() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.calls_per_connection = 2);
    let mut server = gateway.client();
    server.serve("slow.*");
    let mut asker = gateway.client();
    let mut calls = Vec::new();
    let mut ids = Vec::new();
    while calls.len() < 2 {
        let id = asker.call("slow.work", &number(calls.len() as u64));
        // The offer may still be on its way.
        if let Some(call) = asker.reaches(id, &mut server) {
            calls.push(call);
            ids.push(id);
        }
    }
    let id = asker.call("slow.work", &[]);
    assert_eq!(asker.answer_to(id).code(), Some(Code::ResourceExhausted));
    for (at, call) in calls.iter().enumerate() {
        server.answer(call, &number(40 + at as u64));
    }
    for (at, id) in ids.into_iter().enumerate() {
        assert_eq!(asker.answer_to(id).number(), 40 + at as u64);
    }
    let id = asker.call("slow.work", &[]);
    let call = server.expect();
    server.answer(&call, &number(50));
    assert_eq!(asker.answer_to(id).number(), 50);
    stop(gateway);
}

#[test]
fn what_comes_ahead_of_the_hello_closes() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let too_early: [Vec<u8>; 4] = [
        encoded(Kind::Ping, Id([1; 16]), None, None, None, &[]),
        encoded(Kind::Event, Id([1; 16]), None, Some("a.b"), None, &[]),
        encoded(Kind::Call, Id([1; 16]), Some(Id([2; 16])), None, None, &[]),
        goodbye(),
    ];
    for address in &transports(&gateway) {
        for body in &too_early {
            let mut client = Client::connect(address);
            client.send(body);
            let before = expect_told(&mut client, address, Code::FailedPrecondition);
            assert_eq!(before, Vec::<Received>::new());
        }
        // Empty bodies are nothing, even then.
        let mut client = Client::connect(address);
        client.send(&[]);
        client.greet(Form::Compact, &Hello::default());
        client.send(&[]);
        client.settle();
    }
    stop(gateway);
}

#[test]
fn a_second_hello_closes_and_so_does_a_hello_that_answers() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    for address in &transports(&gateway) {
        for reference in [None, Some(Id([3; 16]))] {
            let mut client = Client::greeted(address);
            let mut payload = Vec::new();
            Hello::default().encode(&mut payload);
            client.send(&encoded(
                Kind::Hello,
                Id([9; 16]),
                reference,
                None,
                None,
                &payload,
            ));
            let before = expect_told(&mut client, address, Code::FailedPrecondition);
            assert_eq!(before, Vec::<Received>::new());
        }
    }
    stop(gateway);
}

#[test]
fn nothing_counts_behind_a_goodbye() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut subscribers = [gateway.client(), Client::greeted(gateway.ws())];
    for subscriber in &mut subscribers {
        subscriber.subscribe("last.words", none());
    }
    let mut publisher = gateway.client();
    until_heard(&mut publisher, &mut subscribers, "last.words", 0);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        // In one body, and in the next.
        let mut body = goodbye();
        body.extend(encoded(
            Kind::Event,
            Id([2; 16]),
            None,
            Some("last.words"),
            None,
            &number(666),
        ));
        client.send(&body);
        let _ = client.try_send(&hello(&Hello::default()));
        let _ = client.try_send(&encoded(
            Kind::Event,
            Id([3; 16]),
            None,
            Some("last.words"),
            None,
            &number(667),
        ));
        let (rest, end) = client.rest();
        assert!(
            rest.iter()
                .all(|one| (one.kind, one.reference, one.code()) == (Kind::Cancel, None, None)),
            "{address}: {rest:?}"
        );
        assert_eq!(end, closed(address, 1000));
    }
    publisher.publish("last.words", &number(1));
    for subscriber in &mut subscribers {
        loop {
            match subscriber.expect().number() {
                0 => {}
                1 => break,
                other => panic!("{other} was said behind a goodbye"),
            }
        }
    }
    stop(gateway);
}

#[test]
fn a_version_that_is_not_spoken_is_refused() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    for address in &transports(&gateway) {
        for form in [Form::Compact, Form::Named] {
            let mut client = Client::connect(address);
            let payload = [0xa1, 0x61, b'v', 0x82, 0x01, 0x02];
            let compact = encoded(Kind::Hello, Id([9; 16]), None, None, None, &payload);
            let mut body = Vec::new();
            fluxar_protocol::envelope::decode(&compact)
                .expect("ours")
                .envelope
                .encode(form, &mut body);
            client.send(&body);
            let before = expect_told(&mut client, address, Code::Unimplemented);
            let [answer] = &before[..] else {
                panic!("{before:?}")
            };
            assert_eq!(
                (answer.kind, answer.reference, answer.code(), answer.form),
                (Kind::Hello, Some(Id([9; 16])), Some(Code::Unimplemented), form)
            );
            // [P-7.2]: `details` say what is spoken.
            let decoded = fluxar_protocol::envelope::decode(&answer.bytes).expect("readable");
            let error = ErrorBody::decode(decoded.envelope.error.expect("an error")).expect("readable");
            assert_eq!(error.details, Some(&[0xa1, 0x61, b'v', 0x81, 0x00][..]));
        }
    }
    stop(gateway);
}

#[test]
fn a_frame_over_the_limit_closes_as_soon_as_it_is_announced() {
    let _process = measure::alone();
    let gateway = Running::start(|config| config.limits.max_frame_bytes = 64 * 1024);
    let resident = measure::resident_kib();
    let mut waiting = Vec::new();
    for address in [gateway.tcp(), gateway.unix()] {
        for (greeted, announced) in [
            (false, 16 * 1024 + 1),
            (false, u32::MAX),
            (true, 64 * 1024 + 1),
            (true, 1 << 31),
            (true, u32::MAX),
        ] {
            for _ in 0..20 {
                let mut client = if greeted {
                    Client::greeted(address)
                } else {
                    Client::connect(address)
                };
                client
                    .try_send_raw(&announced.to_be_bytes())
                    .expect("the gateway reads");
                let before = expect_told(&mut client, address, Code::ResourceExhausted);
                assert_eq!(before, Vec::<Received>::new(), "{announced}");
                waiting.push(client);
            }
        }
    }
    let grown = measure::resident_kib().saturating_sub(resident);
    println!(
        "{} frames of up to 4 GiB announced: {grown} KiB grown",
        waiting.len()
    );
    assert!(grown < 32 * 1024, "{grown} KiB");

    // On a WebSocket the layer below closes, by its own code.
    for (greeted, announced, fin) in [
        (false, 16 * 1024 + 1, true),
        (true, 64 * 1024 + 1, true),
        (true, usize::MAX >> 1, true),
        (true, 64 * 1024, false),
    ] {
        let address = gateway.ws();
        let mut client = if greeted {
            Client::greeted(address)
        } else {
            Client::connect(address)
        };
        if fin {
            client
                .try_send_raw(&ws_frame(2, true, announced, &[0x87]))
                .expect("the gateway reads");
        } else {
            // Over the limit by the sum of its fragments.
            client
                .try_send_raw(&ws_frame(2, false, announced, &vec![0x87; announced]))
                .expect("the gateway reads");
            let _ = client.try_send_raw(&ws_frame(0, true, 1, &[0x87]));
        }
        let (rest, end) = client.rest();
        assert_eq!((rest, end), (Vec::new(), End::Closed(Some(1009))), "{announced}");
    }
    stop(gateway);
}

#[test]
fn frames_up_to_the_limit_are_taken_and_envelopes_near_it_are_refused() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.max_frame_bytes = 64 * 1024);
    for address in &transports(&gateway) {
        let mut client = Client::connect(address);
        // A hello of 16 KiB to the byte.
        let without = hello(&Hello {
            agent: &"x".repeat(16_000),
            ..Hello::default()
        })
        .len();
        let agent = "x".repeat(16_000 + 16 * 1024 - without);
        let whole = hello(&Hello {
            agent: &agent,
            ..Hello::default()
        });
        assert_eq!(whole.len(), 16 * 1024);
        client.send(&whole);
        assert_eq!(client.expect().kind, Kind::Hello);
        client.subscribe("big.one", none());
        // The largest envelope: max_frame less 1 KiB.
        let empty = encoded(Kind::Event, Id([2; 16]), None, Some("big.one"), None, &blob(0)).len();
        let fits = encoded(
            Kind::Event,
            Id([2; 16]),
            None,
            Some("big.one"),
            None,
            &blob(63 * 1024 - empty),
        );
        assert_eq!(fits.len(), 63 * 1024);
        client.send(&fits);
        assert_eq!(client.expect().bytes, fits, "{address}");
        for over in [1, 1024] {
            let id = client.id();
            let event = encoded(
                Kind::Call,
                id,
                None,
                Some("big.one"),
                None,
                &blob(63 * 1024 - empty + over),
            );
            client.send(&event);
            let answer = client.answer_to(id);
            assert_eq!(
                (answer.kind, answer.code()),
                (Kind::Call, Some(Code::ResourceExhausted)),
                "{address}"
            );
        }
        client.settle();
    }
    stop(gateway);
}

/// Sends `bodies`, a tenth of them at a time, and returns how long it took until the gateway had handled them all.
fn handled_in(client: &mut Client, bodies: &[Vec<u8>]) -> Duration {
    let begun = Instant::now();
    for tenth in bodies.chunks(bodies.len() / 10) {
        for body in tenth {
            client.send(body);
        }
        client.settle();
    }
    begun.elapsed()
}

#[test]
fn rates_hold_and_nothing_is_lost() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.messages_per_s = 500);
    let mut subscriber = gateway.client();
    subscriber.subscribe("rated.topic", none());
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        until_heard(
            &mut client,
            std::slice::from_mut(&mut subscriber),
            "rated.topic",
            u64::MAX,
        );
        let bodies: Vec<Vec<u8>> = (0..1_500)
            .map(|value| {
                let id = client.id();
                encoded(Kind::Event, id, None, Some("rated.topic"), None, &number(value))
            })
            .collect();
        let took = handled_in(&mut client, &bodies);
        println!("{address}: 1500 events at 500/s handled in {took:?}");
        // One second's worth may burst, and nobody waits for the last tenth's debt: 850 cost their time. The pings and
        // the warm-up only add to it.
        assert!(took > Duration::from_millis(1_600), "{took:?}");
        let mut expected = 0;
        while expected < 1_500 {
            match subscriber.expect().number() {
                u64::MAX if expected == 0 => {}
                value => {
                    assert_eq!(value, expected, "{address}");
                    expected += 1;
                }
            }
        }
    }
    assert!(stop(gateway).rate_pauses >= 3);

    let gateway = Running::start(|config| config.limits.bytes_per_s = 200_000);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        let bodies: Vec<Vec<u8>> = (0..600)
            .map(|_| {
                encoded(
                    Kind::Event,
                    client.id(),
                    None,
                    Some("rated.topic"),
                    None,
                    &blob(960),
                )
            })
            .collect();
        let took = handled_in(&mut client, &bodies);
        println!("{address}: 600 kB at 200 kB/s handled in {took:?}");
        assert!(took > Duration::from_millis(1_600), "{took:?}");
    }
    assert!(stop(gateway).rate_pauses >= 3);
}

#[test]
fn too_many_refusals_close() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.refusals_per_s = 50);
    for address in &transports(&gateway) {
        // Answered calls, publishes whose answers are held back, and envelopes that are not answered at all.
        let bad: [&[u8]; 3] = [
            &encoded(Kind::Call, Id([2; 16]), None, None, None, &[]),
            &encoded(Kind::Event, Id([2; 16]), None, Some("$sys.x"), None, &[]),
            &[0x80],
        ];
        for one in bad {
            let mut client = Client::greeted(address);
            // A first envelope says what kind of body it is.
            let mut body = encoded(Kind::Ping, Id([1; 16]), None, None, None, &[]);
            body.extend(one.repeat(400));
            client.send(&body);
            let before = expect_told(&mut client, address, Code::ResourceExhausted);
            assert!(before.len() < 100, "{address}: {} answers", before.len());
        }
    }
    stop(gateway);
}

#[test]
fn refused_publishes_are_told_together_and_by_the_code_of_the_last() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let bad = encoded(Kind::Event, Id([2; 16]), None, None, None, &[]);
    let meta = none().flag("retain", true).finish();
    let unlogged = encoded(Kind::Event, Id([3; 16]), None, Some("a.b"), meta.as_deref(), &[]);
    client.send(&bad);
    client.send(&bad);
    client.send(&unlogged);
    let refused = |answer: &Received| {
        let decoded = fluxar_protocol::envelope::decode(&answer.bytes).expect("readable");
        let error = ErrorBody::decode(decoded.envelope.error.expect("an error")).expect("readable");
        let details = error.details.expect("details");
        assert_eq!(&details[..9], b"\xa1\x67refused");
        minicbor_number(&details[9..])
    };
    let first = client.expect();
    assert_eq!(
        (first.kind, first.reference, first.code()),
        (Kind::Event, Some(Id([2; 16])), Some(Code::InvalidArgument))
    );
    assert_eq!(refused(&first), 1);
    let second = client.expect();
    assert_eq!(
        (second.kind, second.reference, second.code()),
        (Kind::Event, Some(Id([3; 16])), Some(Code::InvalidArgument))
    );
    assert_eq!(refused(&second), 2);
    stop(gateway);
}

#[test]
fn refused_publishes_at_qos_1_and_2_are_each_answered() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let publish = |name: u8, topic: &str, meta: MetaWriter| {
        let meta = meta.finish();
        encoded(
            Kind::Event,
            Id([name; 16]),
            None,
            Some(topic),
            meta.as_deref(),
            &[],
        )
    };
    // Topics that are the gateway's, or none; a meta value of the wrong type, and a qos that is none.
    let body = [
        publish(1, "$sys.x", none().uint("qos", 1)),
        publish(2, "a..b", none().uint("qos", 1)),
        publish(3, "$sys.x", none().uint("qos", 2)),
        publish(4, "a.b", none().uint("qos", 1).text("retain", "yes")),
        publish(5, "a.b", none().uint("qos", 3)),
    ]
    .concat();
    client.send(&body);
    for name in 1..=5 {
        let answer = client.expect();
        assert_eq!(
            (answer.kind, answer.reference, answer.code()),
            (Kind::Event, Some(Id([name; 16])), Some(Code::InvalidArgument))
        );
    }
    assert_eq!(stop(gateway).refused, 5);
}

fn minicbor_number(item: &[u8]) -> u64 {
    assert!(item.len() == 1 && item[0] < 24, "{item:02x?}");
    u64::from(item[0])
}

#[test]
fn an_answer_from_somebody_else_goes_nowhere_and_so_does_a_second_one() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("secret.work");
    let mut asker = gateway.client();
    crate::neighbours::until_served_by(&mut asker, &mut server, "secret.work");
    // Two forgers, one on each core when there are two; both serve the same method, neither was given this call.
    let mut forgers = [gateway.client(), Client::greeted(gateway.ws())];
    let id = asker.call("secret.work", &number(7));
    let call = server.expect();
    for forger in &mut forgers {
        forger.serve("secret.other");
        forger.answer(&call, &number(666));
        // Ids near it, and the asker's own.
        for bit in 0..128 {
            let mut near = call.clone();
            near.id.0[bit / 8] ^= 1 << (bit % 8);
            forger.answer(&near, &number(667));
        }
        let mut own = call.clone();
        own.id = id;
        forger.answer(&own, &number(668));
        // Nor can it cancel what it did not begin.
        let cancel = forger.id();
        forger.send(&encoded(Kind::Cancel, cancel, Some(call.id), None, None, &[]));
        forger.settle();
    }
    // What the forgers sent may take a letter to the asker's core; a call of their own takes the same way behind it.
    asker.settle();
    server.settle();
    assert_eq!(asker.poll(Duration::from_millis(100)), Ok(None));
    server.answer(&call, &number(14));
    server.answer(&call, &number(15));
    server.settle();
    assert_eq!(asker.answer_to(id).number(), 14);
    asker.settle();
    assert_eq!(asker.poll(Duration::from_millis(100)), Ok(None));
    assert_eq!(
        server.poll(Duration::from_millis(50)),
        Ok(None),
        "nothing was cancelled"
    );
    let counters = stop(gateway);
    assert!(counters.late_answers > 0, "{counters:?}");
}

#[test]
fn errors_are_never_answered() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut client = gateway.client();
    let mut error = Vec::new();
    ErrorBody {
        code: Code::Internal,
        message: "echo?",
        details: None,
        retry_after_ms: None,
    }
    .encode(&mut error);
    for number in 1..=7 {
        let kind = Kind::from_number(number).expect("one of seven");
        if kind == Kind::Hello {
            continue;
        }
        let id = client.id();
        let mut body = Vec::new();
        Envelope {
            kind,
            id,
            reference: Some(Id([0xee; 16])),
            target: Some("bad..target"),
            meta: None,
            payload: &[],
            error: Some(&error),
        }
        .encode(Form::Compact, &mut body);
        client.send(&body);
    }
    client.settle();
    assert_eq!(client.poll(Duration::from_millis(50)), Ok(None));
    stop(gateway);
}
