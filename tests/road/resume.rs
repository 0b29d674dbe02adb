//! Sessions over connections that are cut, on real sockets: what was open goes on, nothing is lost and nothing comes twice,
//! whatever the core; and where a session cannot go on, that is said.

mod resumer;

use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Form, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

use crate::logged::peers::{publish, running};
use resumer::{Cut, Resumer};

/// Calls until the answer has this code, `None` for an answer without an error.
fn until_answered(caller: &mut Client, method: &str, code: Option<Code>) {
    for _ in 0..10_000 {
        let id = caller.call(method, &number(0));
        if caller.answer_to(id).code() == code {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{method} is never answered by {code:?}");
}

/// Answers every call with its own payload until it is sent away.
fn echo(address: &fluxar_engine::listener::Address, method: &'static str) -> std::thread::JoinHandle<u64> {
    let mut server = Client::greeted(address);
    server.serve(method);
    std::thread::spawn(move || {
        let mut answered = 0;
        while let Ok(call) = server.next() {
            match call.kind {
                Kind::Call => {
                    server.answer(&call, &call.payload);
                    answered += 1;
                }
                Kind::Cancel if call.reference.is_none() => break,
                _ => {}
            }
        }
        answered
    })
}

#[test]
fn an_answer_that_came_while_its_caller_was_away_is_there_when_it_returns() {
    let gateway = Running::start(|_| {});
    for (from, to) in [
        (gateway.tcp(), gateway.tcp()),
        (gateway.tcp(), gateway.ws()),
        (gateway.ws(), gateway.unix()),
        (gateway.unix(), gateway.tcp()),
    ] {
        for form in [Form::Compact, Form::Named] {
            let mut server = gateway.client();
            server.serve("m");
            let mut caller = Resumer::open(from, form);
            let call = caller.call("m", &number(5));
            let asked = server.expect();
            // It also serves something: that is over as soon as the gateway knows that it is away.
            caller.subscribe("probe", MetaWriter::new().flag("serve", true));
            let mut other = gateway.client();
            caller.cut(Cut::Close);
            until_answered(&mut other, "probe", Some(Code::Unavailable));
            server.answer(&asked, &number(6));
            server.settle();
            assert!(caller.resume(to), "{from} to {to}");
            let answer = caller.expect_more_than_probes();
            assert_eq!(
                (answer.kind, answer.reference, answer.form),
                (Kind::Call, Some(call), form)
            );
            assert_eq!(answer.number(), 6);
            // What it offered stands again, unasked.
            let id = other.call("probe", &number(7));
            let probe = caller.expect_more_than_probes();
            assert_eq!((probe.kind, probe.number()), (Kind::Call, 7));
            caller.answer(&probe, &number(8));
            assert_eq!(other.answer_to(id).number(), 8);
            caller.goodbye();
        }
    }
    let ends = gateway.stop();
    let resumed: u64 = ends.iter().map(|end| end.counters.resumed).sum();
    assert_eq!(resumed, 8);
}

#[test]
fn a_half_open_connection_is_taken_over_and_what_was_under_way_to_it_comes_again() {
    let gateway = Running::start(|_| {});
    let mut caller = gateway.client();
    for _ in 0..20 {
        let mut server = Resumer::open(gateway.tcp(), Form::Compact);
        server.subscribe("m", MetaWriter::new().flag("serve", true));
        let calls: Vec<Id> = (0..3).map(|value| caller.call("m", &number(value))).collect();
        let first = server.expect();
        assert_eq!(first.number(), 0);
        // The other two lie unread in a connection of which the gateway knows nothing bad.
        server.cut(Cut::HalfOpen);
        assert!(server.resume(gateway.tcp()));
        server.answer(&first, &number(10));
        for value in 1..3 {
            let call = server.expect();
            assert_eq!(call.number(), value);
            server.answer(&call, &number(10 + value));
        }
        for (value, call) in (10..).zip(calls) {
            let answer = caller.answer_to(call);
            assert_eq!((answer.code(), answer.number()), (None, value));
        }
        assert!(server.is_old_closed(), "the old connection is fenced");
        server.goodbye();
    }
    gateway.stop();
}

#[test]
fn a_websocket_that_is_closed_in_good_order_is_answered_and_its_session_goes_on() {
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("m");
    for code in [1000, 1001, 4000] {
        let mut caller = Resumer::open(gateway.ws(), Form::Compact);
        let call = caller.call("m", &number(5));
        let asked = server.expect();
        caller.cut(Cut::WebSocket(code));
        server.answer(&asked, &number(6));
        server.settle();
        assert!(caller.resume(gateway.ws()), "{code} is no goodbye");
        let answer = caller.expect();
        assert_eq!((answer.reference, answer.number()), (Some(call), 6));
        caller.goodbye();
    }
    gateway.stop();
}

#[test]
fn calls_are_answered_once_each_over_many_cuts_and_cores() {
    const CALLS: u64 = 3_000;
    let gateway = Running::start(|_| {});
    let server = echo(gateway.tcp(), "echo");
    let mut other = gateway.client();
    until_answered(&mut other, "echo", None);
    let mut caller = Resumer::open(gateway.tcp(), Form::Compact);
    let addresses = [gateway.tcp(), gateway.ws(), gateway.unix()];
    let mut open = std::collections::BTreeMap::new();
    let (mut asked, mut answered, mut cuts) = (0, 0, 0_usize);
    // A sequence without a pattern, the same each time.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    while answered < CALLS {
        for _ in 0..random(20) {
            if asked < CALLS {
                open.insert(caller.call("echo", &number(asked)), asked);
                asked += 1;
            }
        }
        for _ in 0..random(20).min(open.len() as u64) {
            let answer = caller.expect();
            let value = answer.reference.and_then(|id| open.remove(&id));
            assert_eq!(value, Some(answer.number()), "an answer to nothing: {answer:?}");
            answered += 1;
        }
        if random(3) == 0 {
            let how = [Cut::Close, Cut::HalfOpen][random(2) as usize];
            caller.cut(how);
            assert!(caller.resume(addresses[cuts % 3]), "cut {cuts}");
            cuts += 1;
        }
    }
    assert!(cuts > 50, "{cuts} cuts");
    caller.goodbye();
    let ends = gateway.stop();
    assert_eq!(
        server.join().expect("the server was served"),
        CALLS + u64::from(answered == CALLS),
        "each call was carried out once, and the one that tried the way"
    );
    let resumed: u64 = ends.iter().map(|end| end.counters.resumed).sum();
    assert_eq!(resumed, cuts as u64);
}

#[test]
fn a_stream_goes_on_over_cuts_without_a_gap_or_a_repeat() {
    const CHUNKS: u64 = 4_000;
    let gateway = Running::start(|_| {});
    let mut server = gateway.client();
    server.serve("count");
    let writer = std::thread::spawn(move || {
        let open = server.expect();
        for first in (0..CHUNKS).step_by(40) {
            let mut body = Vec::new();
            for value in first..first + 40 {
                let id = server.id();
                body.extend(encoded(
                    Kind::Stream,
                    id,
                    Some(open.id),
                    None,
                    None,
                    &number(value),
                ));
            }
            server.send(&body);
        }
        let id = server.id();
        let end = MetaWriter::new().flag("end", true).finish();
        server.send(&encoded(
            Kind::Stream,
            id,
            Some(open.id),
            None,
            end.as_deref(),
            &[],
        ));
        server.settle();
        server
    });
    let mut opener = Resumer::open(gateway.tcp(), Form::Compact);
    let meta = MetaWriter::new().flag("end", true).uint("credit", 1 << 20);
    let open = opener.say(Kind::Stream, None, Some("count"), meta, &number(0));
    let mut expected = 0;
    while expected < CHUNKS {
        let part = opener.expect();
        assert_eq!(
            (part.kind, part.reference),
            (Kind::Stream, Some(open)),
            "{part:?}"
        );
        assert_eq!(part.number(), expected);
        expected += 1;
        if expected.is_multiple_of(97) {
            opener.cut([Cut::Close, Cut::HalfOpen][(expected % 2) as usize]);
            assert!(opener.resume([gateway.tcp(), gateway.ws()][(expected % 4 / 2) as usize]));
        }
    }
    assert!(opener.expect().ends());
    drop(writer.join().expect("the writer was served"));
    gateway.stop();
}

#[test]
fn runs_of_chunks_to_another_core_are_counted_one_by_one() {
    const CHUNKS: u64 = 10_000;
    let gateway = Running::start(|_| {});
    // At least one of them is on another core than the opener when there are two.
    for method in ["take.a", "take.b", "take.c"] {
        let mut server = Resumer::open(gateway.tcp(), Form::Compact);
        server.subscribe(method, MetaWriter::new().flag("serve", true));
        let mut opener = gateway.client();
        let open = opener.id();
        opener.send(&encoded(Kind::Stream, open, None, Some(method), None, &number(0)));
        let asked = server.expect();
        let credit = MetaWriter::new().uint("credit", 1 << 18);
        server.say(Kind::Stream, Some(asked.id), None, credit, &[]);
        assert_eq!(opener.answer_to(open).kind, Kind::Stream, "the first grant");
        for first in (0..CHUNKS).step_by(100) {
            let mut body = Vec::new();
            for value in first..first + 100 {
                let id = opener.id();
                body.extend(encoded(Kind::Stream, id, Some(open), None, None, &number(value)));
            }
            opener.send(&body);
        }
        for value in 0..CHUNKS {
            assert_eq!(server.expect().number(), value);
            if value % 1_000 == 999 {
                // It tells how many it has: more than were sent would be a breach.
                server.tell();
                server.cut(Cut::HalfOpen);
                assert!(server.resume(gateway.tcp()));
            }
        }
        server.goodbye();
    }
    gateway.stop();
}

#[test]
fn events_that_pass_an_absent_subscriber_are_told_and_its_subscriptions_stand() {
    let gateway = Running::start(|_| {});
    let mut subscriber = Resumer::open(gateway.tcp(), Form::Compact);
    let plain = subscriber.subscribe("news.*", MetaWriter::new());
    let member = subscriber.subscribe("jobs", MetaWriter::new().text("group", "g"));
    subscriber.subscribe("probe", MetaWriter::new().flag("serve", true));
    let mut other = gateway.client();
    let twin = other.subscribe("jobs", MetaWriter::new().text("group", "g"));
    let mut publisher = gateway.client();
    // Interest crosses cores after the acceptance.
    loop {
        publisher.publish("news.a", &number(0));
        if let Some(event) = subscriber.poll() {
            assert_eq!(event.target.as_deref(), Some("news.a"));
            break;
        }
    }
    publisher.settle();
    while subscriber.poll().is_some() {}
    subscriber.cut(Cut::Close);
    until_answered(&mut other, "probe", Some(Code::Unavailable));
    // The way that those calls took is the way that the news of the lost membership took: they go to the other one.
    until_answered(&mut publisher, "probe", Some(Code::Unavailable));
    for value in 1..=10 {
        publisher.publish("news.a", &number(value));
        publisher.publish("jobs", &number(value));
    }
    let mut shared = Vec::new();
    while shared.len() < 10 {
        let header = other.expect();
        assert_eq!((header.kind, header.reference), (Kind::Subscribe, Some(twin)));
        for _ in 0..header.run().expect("a run") {
            shared.push(other.expect().number());
        }
    }
    assert_eq!(
        shared,
        (1..=10).collect::<Vec<_>>(),
        "a member that is away gets none"
    );
    publisher.settle();
    assert!(subscriber.resume(gateway.ws()));
    let note = subscriber.expect_more_than_probes();
    assert_eq!((note.kind, note.reference), (Kind::Subscribe, Some(plain)));
    let dropped = note.uint("dropped").expect("the drops are told");
    assert!(dropped >= 10, "{dropped}");
    // It is a member again.
    until_answered_by(&mut other, &mut subscriber);
    loop {
        publisher.publish("jobs", &number(11));
        if let Some(header) = subscriber.poll() {
            assert_eq!((header.kind, header.reference), (Kind::Subscribe, Some(member)));
            break;
        }
    }
    subscriber.goodbye();
    gateway.stop();
}

/// One call to what a resumed peer serves, answered.
fn until_answered_by(caller: &mut Client, server: &mut Resumer) {
    let id = caller.call("probe", &number(1));
    let call: Received = server.expect_more_than_probes();
    assert_eq!(call.kind, Kind::Call);
    server.answer(&call, &number(2));
    assert_eq!(caller.answer_to(id).number(), 2);
}

#[test]
fn logged_events_go_on_behind_what_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut publisher = gateway.client();
    publish(&mut publisher, "log.a", 0);
    for how in [Cut::Close, Cut::HalfOpen] {
        let mut subscriber = Resumer::open(gateway.tcp(), Form::Compact);
        let sub = subscriber.subscribe("log.a", MetaWriter::new().uint("qos", 1));
        let positions: Vec<_> = (1..=6)
            .map(|value| publish(&mut publisher, "log.a", value))
            .collect();
        let heard = subscriber.logged(sub, 3);
        assert_eq!(
            heard.iter().map(|(value, ..)| *value).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        let ack = MetaWriter::new().position("ack", positions[1]);
        subscriber.say(Kind::Event, Some(sub), None, ack, &[]);
        subscriber.settle();
        subscriber.cut(how);
        for value in 7..=8 {
            publish(&mut publisher, "log.a", value);
        }
        assert!(subscriber.resume(gateway.unix()));
        let heard = subscriber.logged(sub, 6);
        let values: Vec<_> = heard.iter().map(|(value, ..)| *value).collect();
        assert_eq!(values, [3, 4, 5, 6, 7, 8], "behind the second");
        assert_eq!(heard[0].1, positions[2]);
        assert!(heard[0].2, "it is said that this may have come before");
        subscriber.goodbye();
    }
    gateway.stop();
}

#[test]
fn a_wrong_token_opens_a_new_session_and_leaves_the_old_one_alone() {
    let gateway = Running::start(|_| {});
    let mut owner = Resumer::open(gateway.tcp(), Form::Compact);
    let before = owner.token.clone();
    owner.cut(Cut::Close);
    for wrong in [vec![0; 16], Vec::new(), before[..15].to_vec()] {
        let mut thief = owner.impostor(wrong);
        assert!(!thief.resume(gateway.tcp()));
        assert_ne!(thief.session, owner.session);
        thief.settle();
        thief.goodbye();
    }
    assert!(owner.resume(gateway.tcp()));
    // The answer might have been lost: the token before is good until something came behind it.
    let mut late = owner.impostor(before.clone());
    assert!(late.resume(gateway.ws()), "nothing was said with the new one yet");
    assert_eq!(late.token, owner.token, "the same is told again");
    late.settle();
    let mut later = owner.impostor(before);
    assert!(!later.resume(gateway.tcp()), "it was used up");
    let mut unknown = owner.impostor(owner.token.clone());
    unknown.session.0[15] ^= 1;
    assert!(!unknown.resume(gateway.tcp()));
    let mut elsewhere = owner.impostor(owner.token.clone());
    elsewhere.session.0[0] = 0xff;
    assert!(!elsewhere.resume(gateway.tcp()));
    late.goodbye();
    gateway.stop();
}

#[test]
fn a_session_is_over_when_nobody_comes_for_it_or_it_said_goodbye() {
    let gateway = Running::start(|config| config.limits.resume_ms = 300);
    let mut server = gateway.client();
    server.serve("m");
    let mut caller = Resumer::open(gateway.tcp(), Form::Compact);
    caller.call("m", &number(1));
    let call = server.expect();
    caller.cut(Cut::Close);
    // Whoever serves it hears that nobody waits any more.
    let cancel = server.expect();
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(call.id)));
    assert!(!caller.resume(gateway.tcp()));
    caller.settle();

    let mut polite = Resumer::open(gateway.tcp(), Form::Compact);
    let mut again = polite.impostor(polite.token.clone());
    polite.goodbye();
    assert!(!again.resume(gateway.tcp()));
    gateway.stop();
}

#[test]
fn what_had_to_be_forgotten_is_not_passed_over() {
    let gateway = Running::start(|config| config.limits.resume_bytes = 4 * 1024);
    let server = echo(gateway.tcp(), "echo");
    let mut other = gateway.client();
    until_answered(&mut other, "echo", None);
    let mut caller = Resumer::open(gateway.tcp(), Form::Compact);
    let mut large = vec![0x59, 0x0f, 0xff];
    large.resize(3 + 0xfff, 0xab);
    for _ in 0..3 {
        caller.call("echo", &large);
    }
    // As long as it has all, nothing that was forgotten is needed.
    for _ in 0..3 {
        assert_eq!(caller.expect().payload, large);
    }
    caller.cut(Cut::Close);
    assert!(caller.resume(gateway.tcp()));
    for _ in 0..3 {
        caller.call("echo", &large);
    }
    assert_eq!(caller.expect().payload, large);
    caller.settle_unread();
    caller.cut(Cut::HalfOpen);
    assert!(
        !caller.resume(gateway.tcp()),
        "the second answer is not kept any more"
    );
    // That session is over; the new one is as good as any.
    let id = caller.call("echo", &number(3));
    let answer = caller.expect();
    assert_eq!((answer.reference, answer.number()), (Some(id), 3));
    caller.goodbye();
    gateway.stop();
    server.join().expect("the server was served");
}

#[test]
fn nothing_may_stand_behind_a_hello_that_resumes() {
    let gateway = Running::start(|_| {});
    for is_whole in [true, false] {
        let mut owner = Resumer::open(gateway.tcp(), Form::Compact);
        owner.cut(Cut::HalfOpen);
        let hello = owner.hello_bytes();
        let mut client = Client::connect(gateway.tcp());
        let ping = encoded(Kind::Ping, Id([9; 16]), None, None, None, &[]);
        let mut bytes = fluxar_protocol::frame::prefix(hello.len()).to_vec();
        bytes.extend_from_slice(&hello);
        bytes.extend_from_slice(&fluxar_protocol::frame::prefix(ping.len()));
        let shown = if is_whole { ping.len() } else { 5 };
        bytes.extend_from_slice(&ping[..shown]);
        client.try_send_raw(&bytes).expect("it is read");
        let (all, _) = client.rest();
        let [goodbye] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            (goodbye.kind, goodbye.code()),
            (Kind::Cancel, Some(Code::FailedPrecondition))
        );
        assert!(owner.resume(gateway.tcp()), "its session is as it was");
        owner.goodbye();
    }
    gateway.stop();
}

#[test]
fn a_session_that_did_not_ask_for_it_has_no_token() {
    let gateway = Running::start(|_| {});
    let mut plain = Client::connect(gateway.tcp());
    plain.greet(Form::Compact, &Hello::default());
    plain.settle();
    let off = Running::start(|config| config.limits.resume_ms = 0);
    let refused = Resumer::try_open(off.tcp(), Form::Compact);
    assert!(refused.is_none(), "this gateway resumes none");
    off.stop();
    gateway.stop();
}
