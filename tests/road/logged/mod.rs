//! Logged events on real sockets and a real disk: acknowledged, followed, gone back to, shared by groups, kept over restarts.

mod dead_letters;
pub(crate) mod peers;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fluxar_gateway::config::LogDir;
use fluxar_gateway::gateway::{Gateway, StartError};
use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Form, Kind, Position};
use fluxar_shard::log::class::{Level, TopicRule};
use fluxar_tests::client::PATIENCE;
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Running};

use peers::{
    Heard, Subscriber, key, publish, publish_as, qos, refused, running, running_with, send_event, stored,
};

/// A rule that has these topics acknowledged at this level.
fn rule(pattern: &str, level: Level) -> TopicRule {
    TopicRule {
        pattern: pattern.into(),
        level: Some(level),
        always: None,
        deliveries_max: None,
        dead_letter: None,
    }
}

#[test]
fn publishes_are_acknowledged_at_each_level_with_dense_positions() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.log.settings.topics = vec![rule("m.>", Level::Memory), rule("w.>", Level::Written)];
    });
    for address in [gateway.tcp(), gateway.ws(), gateway.unix()] {
        let mut client = Client::greeted(address);
        for topic in ["m.a", "w.a", "s.a"] {
            let before = publish(&mut client, topic, 0);
            let ids: Vec<_> = (1..=200)
                .map(|value| send_event(&mut client, topic, qos(1), &number(value)))
                .collect();
            for (at, id) in ids.into_iter().enumerate() {
                let position = stored(&mut client, id);
                let offset = before.offset + 1 + at as u64;
                assert_eq!(position, Position { offset, ..before });
            }
        }
    }
    gateway.stop();
}

#[test]
fn a_follower_gets_each_event_once_in_order_with_its_position_whatever_the_core() {
    const EVENTS: u64 = 5_000;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let addresses = [gateway.tcp(), gateway.ws(), gateway.unix(), gateway.tcp()];
    let mut followers: Vec<Subscriber> = addresses
        .iter()
        .map(|address| Subscriber::on(address, "n.*", &qos(1)))
        .collect();
    let mut plain = gateway.client();
    plain.subscribe("n.a", MetaWriter::new());
    let mut publishers = [gateway.client(), gateway.client()];
    let mut open = Vec::new();
    for value in 0..EVENTS {
        let at = usize::from(value % 1_000 >= 500);
        // Both to one topic, in turns: its order is that of its log.
        open.push((at, send_event(&mut publishers[at], "n.a", qos(1), &number(value))));
        if open.len() == 500 {
            for (at, id) in open.drain(..) {
                stored(&mut publishers[at], id);
            }
        }
    }
    for follower in &mut followers {
        let mut last = 0;
        for expected in 0..EVENTS {
            let (at, value) = follower.event();
            assert_eq!(value, expected);
            assert!(last == 0 || at.offset == last + 1, "{last} then {at:?}");
            last = at.offset;
            if expected % 100 == 99 {
                follower.ack(at);
            }
        }
    }
    for expected in 0..EVENTS {
        let event = plain.expect();
        assert_eq!(
            (event.kind, event.number()),
            (Kind::Event, expected),
            "a plain subscriber sees them without a header"
        );
    }
    gateway.stop();
}

#[test]
fn a_named_session_follows_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut named = Client::connect(gateway.tcp());
    named.greet(Form::Named, &Hello::default());
    let (sub, answer) = peers::ask(&mut named, "n.a", &qos(1));
    assert_eq!((answer.code(), answer.form), (None, Form::Named), "{answer:?}");
    let mut publisher = gateway.client();
    for value in 0..10 {
        publish(&mut publisher, "n.a", value);
    }
    let mut expected = 0;
    while expected < 10 {
        let header = named.expect();
        assert_eq!((header.reference, header.form), (Some(sub), Form::Named));
        let (_, offsets) = header.positions().expect("positions");
        for _ in offsets {
            let event = named.expect();
            assert_eq!((event.number(), event.form), (expected, Form::Named));
            expected += 1;
        }
    }
    gateway.stop();
}

#[test]
fn a_durable_subscriber_that_returns_goes_on_behind_what_it_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let durable = qos(1).text("durable", "books");
    let mut publisher = gateway.client();
    let mut first = Subscriber::on(gateway.tcp(), "o.>", &durable);
    for value in 0..10 {
        publish(&mut publisher, "o.a", value);
    }
    let at = first.expect(0..10);
    first.ack(at[3]);
    first.settle();
    drop(first);
    for value in 10..15 {
        publish(&mut publisher, "o.a", value);
    }
    let mut second = Subscriber::on(gateway.ws(), "o.>", &durable);
    let again = second.expect(4..15);
    assert_eq!(again[..6], at[4..], "positions stay as they are");
    // Who takes the name while another has it, has it.
    let mut third = Subscriber::on(gateway.tcp(), "o.>", &durable);
    loop {
        match second.next() {
            Heard::Ended(code, _) => break assert_eq!(code, Some(Code::Aborted)),
            Heard::Moved(_) => {}
            other => panic!("{other:?}"),
        }
    }
    third.expect(4..15);
    gateway.stop();
}

#[test]
fn a_subscription_begins_where_it_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut publisher = gateway.client();
    let mut at = Vec::new();
    for value in 0..5 {
        at.push(publish(&mut publisher, "h.a", value));
    }
    let mut new = Subscriber::on(gateway.tcp(), "h.a", &qos(1).text("from", "new"));
    assert_eq!(new.at, [at[4]], "the last position before it begins");
    let mut all = Subscriber::on(gateway.tcp(), "h.a", &qos(1).text("from", "all"));
    all.expect(0..5);
    let mut behind = Subscriber::on(gateway.tcp(), "h.a", &all.behind(at[2]));
    behind.expect(3..5);
    // Later than all so far.
    std::thread::sleep(Duration::from_millis(20));
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as u64;
    std::thread::sleep(Duration::from_millis(20));
    publish(&mut publisher, "h.a", 5);
    let mut timed = Subscriber::on(gateway.tcp(), "h.*", &qos(1).begin_at_time(now_ms));
    timed.expect([5]);
    new.expect([5]);
    all.expect([5]);
    behind.expect([5]);
    // A wild pattern covers every partition.
    assert_eq!(timed.at.len(), 64);
    gateway.stop();
}

#[test]
fn what_was_never_held_is_out_of_range() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut publisher = gateway.client();
    let at = publish(&mut publisher, "h.a", 0);
    let known = Subscriber::on(gateway.tcp(), "h.a", &qos(1));
    let far = Position {
        offset: at.offset + 1,
        ..at
    };
    let mut client = gateway.client();
    let (code, message) = refused(&mut client, "h.a", &known.behind(far));
    assert_eq!(code, Code::OutOfRange, "{message}");
    let elsewhere = qos(1).begin_behind(known.epoch ^ 1 << 40, [at].into_iter());
    let (code, message) = refused(&mut client, "h.a", &elsewhere);
    assert_eq!(code, Code::OutOfRange, "{message}");
    gateway.stop();
}

#[test]
fn a_table_comes_first_and_then_what_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut publisher = gateway.client();
    let retained = || qos(1).flag("retain", true);
    for (name, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
        publish_as(&mut publisher, "prices", &key(retained(), name), value);
    }
    // An event without a payload takes its row away.
    let id = send_event(&mut publisher, "prices", key(retained(), "c"), &[0xf6]);
    stored(&mut publisher, id);
    let mut reader = Subscriber::on(gateway.tcp(), "prices", &retained());
    reader.expect([3, 5]);
    publish_as(&mut publisher, "prices", &key(retained(), "a"), 6);
    reader.expect([6]);
    gateway.stop();
}

#[test]
fn what_is_published_twice_at_qos_2_is_stored_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut follower = Subscriber::on(gateway.tcp(), "x.a", &qos(2).text("durable", "once"));
    let mut publisher = gateway.client();
    let id = send_event(&mut publisher, "x.a", qos(2), &number(1));
    let event = fluxar_tests::message::encoded(
        Kind::Event,
        id,
        None,
        Some("x.a"),
        qos(2).finish().as_deref(),
        &number(1),
    );
    // From another session, and before the first is acknowledged.
    let mut other = Client::greeted(gateway.ws());
    other.send(&event);
    let first = stored(&mut publisher, id);
    assert_eq!(stored(&mut other, id), first);
    publisher.send(&event);
    assert_eq!(stored(&mut publisher, id), first);
    publish(&mut publisher, "x.a", 2);
    follower.expect([1, 2]);
    gateway.stop();
}

#[test]
fn a_work_queue_gives_what_a_lost_member_had_to_another() {
    const EVENTS: u64 = 200;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let group = qos(1).text("group", "workers").uint("in_flight", 16);
    let mut members = [
        Subscriber::on(gateway.tcp(), "jobs.*", &group),
        Subscriber::on(gateway.ws(), "jobs.*", &group),
    ];
    let mut publisher = gateway.client();
    for value in 0..EVENTS {
        publish(&mut publisher, "jobs.a", value);
    }
    // The second takes what it is given and never answers; then it is gone.
    let mut held = Vec::new();
    let mut heard = Some(members[1].next());
    while let Some(one) = heard {
        if let Heard::Event(_, value, _) = one {
            held.push(value);
        }
        heard = members[1].poll(Duration::from_millis(200));
    }
    assert!(!held.is_empty() && held.len() <= 16, "{held:?}");
    let [mut worker, lost] = members;
    drop(lost);
    let mut done = BTreeMap::new();
    let until = Instant::now() + PATIENCE;
    while done.len() < EVENTS as usize {
        assert!(Instant::now() < until, "{} of {EVENTS}", done.len());
        if let Some(Heard::Event(at, value, again)) = worker.poll(Duration::from_millis(50)) {
            if held.contains(&value) {
                assert!(again, "{value} was given to another before");
            }
            *done.entry(value).or_insert(0) += 1;
            worker.ack(at);
        }
    }
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    gateway.stop();
}

#[test]
fn a_gateway_that_starts_again_on_its_directory_has_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let durable = qos(1).text("durable", "books");
    let mut positions = Vec::new();
    let (epoch, at) = {
        let gateway = running(folder.path());
        let mut follower = Subscriber::on(gateway.tcp(), "o.*", &durable);
        let mut publisher = gateway.client();
        for value in 0..300 {
            positions.push(publish(&mut publisher, &format!("o.t{}", value % 3), value));
        }
        // Those of one topic are in order; the topics may be in different partitions.
        let mut seen: Vec<(Position, u64)> = (0..300).map(|_| follower.event()).collect();
        seen.sort_by_key(|(_, value)| *value);
        assert_eq!(
            seen.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
            positions,
            "acknowledged and delivered at the same positions"
        );
        let mut last: BTreeMap<u16, Position> = BTreeMap::new();
        for at in &positions[..150] {
            last.insert(at.partition, *at);
        }
        for at in last.values() {
            follower.ack(*at);
        }
        follower.settle();
        let kept = (follower.epoch, follower.at.clone());
        let ends = gateway.stop();
        assert!(ends.iter().all(|end| end.log_is_sealed), "{ends:?}");
        kept
    };
    // On one core, where there were two.
    let gateway = running_with(folder.path(), |config| {
        config.cores = fluxar_gateway::config::Cores::Count(1);
    });
    let mut follower = Subscriber::on(gateway.tcp(), "o.*", &durable);
    assert_eq!(follower.epoch >> 20, epoch >> 20, "the same directory");
    assert!(follower.epoch > epoch, "and a later start");
    let mut rest: Vec<u64> = (0..150).map(|_| follower.event().1).collect();
    rest.sort_unstable();
    assert_eq!(rest, (150..300).collect::<Vec<_>>());
    let mut publisher = gateway.client();
    let next = publish(&mut publisher, "o.t0", 300);
    let before = positions
        .iter()
        .filter(|at| at.partition == next.partition)
        .map(|at| at.offset)
        .max();
    assert_eq!(
        Some(next.offset - 1),
        before,
        "a clean stop: offsets go on densely"
    );
    follower.expect([300]);
    // The positions of the start before are known, too.
    let mut old = Subscriber::on(gateway.tcp(), "o.*", &qos(1).begin_behind(epoch, at.into_iter()));
    let mut all: Vec<u64> = (0..301).map(|_| old.event().1).collect();
    all.sort_unstable();
    assert_eq!(all, (0..301).collect::<Vec<_>>());
    gateway.stop();
}

#[test]
fn a_slow_subscriber_loses_nothing_and_gets_no_more_than_its_window() {
    const EVENTS: u64 = 20_000;
    const WINDOW: u64 = 100;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.limits.queue_bytes = 256 * 1024;
        config.limits.max_frame_bytes = 128 * 1024;
        config.limits.unacked_events = WINDOW as u32;
        config.log.settings.tail_bytes = 64 * 1024;
    });
    let mut slow = Subscriber::on(gateway.tcp(), "n.a", &qos(1));
    let mut publisher = gateway.client();
    let mut open = Vec::new();
    for value in 0..EVENTS {
        open.push(send_event(&mut publisher, "n.a", qos(1), &number(value)));
        if open.len() == 1_000 {
            for id in open.drain(..) {
                stored(&mut publisher, id);
            }
        }
    }
    let (mut expected, mut last) = (0, None);
    // The run that fills the window may go beyond it, and less than a quarter of it is not fetched for.
    while let Some(heard) = match expected < WINDOW * 3 / 4 {
        true => Some(slow.next()),
        false => slow.poll(Duration::from_millis(300)),
    } {
        if let Heard::Event(at, value, _) = heard {
            assert_eq!(value, expected);
            expected += 1;
            last = Some(at);
        }
    }
    assert!(
        expected < EVENTS / 2,
        "{expected} events without an acknowledgement"
    );
    slow.ack(last.expect("it got some"));
    while expected < EVENTS {
        let (at, value) = slow.event();
        assert_eq!(value, expected);
        expected += 1;
        slow.ack(at);
    }
    gateway.stop();
}

#[test]
fn a_subscriber_that_reads_late_is_handed_all_by_nothing_but_its_reading() {
    const EVENTS: u64 = 16_000;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.limits.queue_bytes = 128 * 1024;
        config.limits.max_frame_bytes = 128 * 1024;
        config.limits.unacked_bytes = 1 << 30;
        config.limits.unacked_events = 1_000_000;
        config.log.settings.tail_bytes = 0;
    });
    // One on each core, if there are two.
    let mut late: Vec<Subscriber> = [gateway.tcp(), gateway.ws(), gateway.tcp()]
        .iter()
        .map(|address| Subscriber::on(address, "n.a", &qos(1)))
        .collect();
    let mut publisher = gateway.client();
    let payload: Vec<u8> = [0x59, 0x04, 0x00].into_iter().chain([7; 1_024]).collect();
    let first = publish(&mut publisher, "n.a", 0);
    for _ in (1..EVENTS).step_by(500) {
        let ids: Vec<_> = (0..500)
            .map(|_| send_event(&mut publisher, "n.a", qos(1), &payload))
            .collect();
        for id in ids {
            stored(&mut publisher, id);
        }
    }
    for subscriber in &mut late {
        let mut next = first.offset;
        while next < first.offset + EVENTS {
            let note = subscriber.client.expect();
            let Some((_, offsets)) = note.positions() else {
                assert!(note.at().is_some(), "{note:?}");
                continue;
            };
            for offset in offsets {
                assert_eq!(subscriber.client.expect().kind, Kind::Event);
                assert_eq!(offset, next);
                next += 1;
            }
        }
    }
    gateway.stop();
}

#[test]
fn a_publisher_at_full_speed_is_slowed_and_not_refused() {
    const EVENTS: u64 = 3_000;
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.limits.publish_unacked_bytes = 64 * 1024;
    });
    let mut publisher = gateway.client();
    publish(&mut publisher, "n.a", 0);
    let payload: Vec<u8> = [0x59, 0x04, 0x00].into_iter().chain([7; 1_024]).collect();
    // Nothing is read until all is sent.
    let ids: Vec<_> = (0..EVENTS)
        .map(|_| send_event(&mut publisher, "n.a", qos(1), &payload))
        .collect();
    for id in ids {
        stored(&mut publisher, id);
    }
    gateway.stop();
}

#[test]
fn what_is_always_logged_is_there_for_who_comes_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.log.settings.topics = vec![TopicRule {
            always: Some(true),
            ..rule("audit.>", Level::Synced)
        }];
    });
    let mut plain = gateway.client();
    plain.subscribe("audit.*", MetaWriter::new());
    let mut publisher = gateway.client();
    publish(&mut publisher, "audit.a", 0);
    for value in 1..5 {
        publisher.publish("audit.a", &number(value));
    }
    for value in 0..5 {
        assert_eq!(plain.expect().number(), value);
    }
    let mut late = Subscriber::on(gateway.tcp(), "audit.a", &qos(1).text("from", "all"));
    late.expect(0..5);
    gateway.stop();
}

#[test]
fn what_should_be_logged_and_cannot_be_is_counted_and_given_to_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running_with(folder.path(), |config| {
        config.log.settings.unsynced_bytes_max = 1; // no event has room
        config.log.settings.topics = vec![TopicRule {
            always: Some(true),
            ..rule("audit.>", Level::Synced)
        }];
    });
    let mut client = gateway.client();
    client.subscribe(">", MetaWriter::new());
    for value in 0..3 {
        client.publish("audit.a", &number(value));
    }
    client.publish("other", &number(9));
    assert_eq!(client.expect().number(), 9);
    let unlogged = gateway
        .stop()
        .iter()
        .map(|end| end.counters.unlogged)
        .sum::<u64>();
    assert_eq!(unlogged, 3);
}

#[test]
fn an_event_that_a_receiver_cannot_take_ends_its_subscription() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut small = Client::connect(gateway.tcp());
    small.greet(
        Form::Compact,
        &Hello {
            max_frame: 64 * 1024,
            ..Hello::default()
        },
    );
    let (sub, answer) = peers::ask(&mut small, "n.a", &qos(1));
    assert_eq!(answer.code(), None);
    let mut publisher = gateway.client();
    publish(&mut publisher, "n.a", 0);
    let payload: Vec<u8> = [0x5a, 0, 1, 0x40, 0].into_iter().chain([7; 0x14000]).collect();
    let id = send_event(&mut publisher, "n.a", qos(1), &payload);
    let at = stored(&mut publisher, id);
    let (partition, offsets) = small.expect().positions().expect("a run");
    assert_eq!(small.expect().number(), 0);
    small.settle();
    let early = small.poll(Duration::from_millis(100)).expect("it stands");
    assert!(
        early.is_none(),
        "what is in front of it is not acknowledged: {early:?}"
    );
    let offset = offsets[0];
    let ack = MetaWriter::new().position("ack", Position { partition, offset });
    let id = small.id();
    small.send(&encoded(
        Kind::Event,
        id,
        Some(sub),
        None,
        ack.finish().as_deref(),
        &[],
    ));
    let end = small.answer_to(sub);
    assert!(end.ends(), "{end:?}");
    let (code, message) = end.error.expect("a reason");
    assert_eq!(code, Code::ResourceExhausted);
    let place = format!("[{}, {}]", at.partition, at.offset);
    assert!(message.contains(&place), "{message}");
    gateway.stop();
}

#[test]
fn a_gateway_without_a_log_says_so() {
    let gateway = Running::start(|_| {});
    for (kind, target, meta, expected) in [
        (Kind::Event, "a.b", qos(1), Code::FailedPrecondition),
        (Kind::Event, "a.b", qos(2), Code::FailedPrecondition),
        (Kind::Subscribe, "a.>", qos(1), Code::FailedPrecondition),
        (
            Kind::Event,
            "a.b",
            MetaWriter::new().flag("retain", true),
            Code::InvalidArgument,
        ),
        (
            Kind::Subscribe,
            "a.>",
            MetaWriter::new().text("durable", "me"),
            Code::InvalidArgument,
        ),
        (
            Kind::Subscribe,
            "a.>",
            MetaWriter::new().text("from", "all"),
            Code::InvalidArgument,
        ),
        (Kind::Subscribe, "a.>", qos(2), Code::InvalidArgument),
    ] {
        // A fresh session for each: a refused publish at qos 0 is told at most once a second.
        let mut client = gateway.client();
        let id = client.id();
        client.send(&fluxar_tests::message::encoded(
            kind,
            id,
            None,
            Some(target),
            meta.clone().finish().as_deref(),
            &[],
        ));
        let answer = client.answer_to(id);
        assert_eq!(
            (answer.kind, answer.code()),
            (kind, Some(expected)),
            "{target} {meta:?} {answer:?}"
        );
        if expected == Code::FailedPrecondition {
            assert!(answer.error.expect("why").1.contains("log.dir"));
        }
    }
    gateway.stop();
}

#[test]
fn a_directory_that_another_gateway_has_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = running(folder.path());
    let mut config = fluxar_gateway::config::Config {
        listen: vec!["tcp://127.0.0.1:0".into()],
        ..fluxar_gateway::config::Config::default()
    };
    config.log.dir = LogDir::At(folder.path().join("log"));
    match Gateway::start(&config) {
        Err(StartError::Log(fault)) => {
            let said = fault.to_string();
            assert!(said.contains("in use") && said.contains("--log-dir"), "{said}");
        }
        Err(other) => panic!("{other}"),
        Ok(second) => {
            second.stop();
            panic!("two gateways on one log");
        }
    }
    gateway.stop();
}
