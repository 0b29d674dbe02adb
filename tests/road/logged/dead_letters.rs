//! Events that no member of a queue can handle, through a whole gateway: what the rules of the configuration say, what a
//! member is told, what reaches the dead-letter topic, and what is left of it after a start.

use std::path::Path;

use fluxar_protocol::meta::Meta;
use fluxar_protocol::{Kind, Position};
use fluxar_shard::log::class::TopicRule;
use fluxar_tests::message::number;
use fluxar_tests::{Received, Running};

use super::peers::{Heard, Subscriber, key, publish, qos, running_with, send_event, stored};

/// A job given away twice and never acknowledged goes to `dead.jobs`.
fn start(folder: &Path) -> Running {
    running_with(folder, |config| {
        config.log.settings.topics = vec![TopicRule {
            pattern: "jobs.>".into(),
            level: None,
            always: None,
            deliveries_max: Some(2),
            dead_letter: Some("dead.jobs".into()),
        }];
    })
}

fn member(gateway: &Running) -> Subscriber {
    Subscriber::on(gateway.tcp(), "jobs.>", &qos(1).text("group", "workers"))
}

/// The next job: where it is, its number, and whether it says that somebody may have had it.
fn job(member: &mut Subscriber) -> (Position, u64, bool) {
    loop {
        match member.next() {
            Heard::Event(at, value, again) => return (at, value, again),
            Heard::Moved(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next event of a follower, whole.
fn letter(follower: &mut Subscriber) -> Received {
    loop {
        let note = follower.client.expect();
        assert_eq!(
            (note.kind, note.reference),
            (Kind::Subscribe, Some(follower.sub)),
            "{note:?}"
        );
        if let Some((_, offsets)) = note.positions() {
            assert_eq!(offsets.len(), 1, "one letter: {note:?}");
            return follower.client.expect();
        }
    }
}

#[test]
fn what_no_member_handles_is_told_at_the_dead_letter_topic_once_and_for_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = start(folder.path());
    let mut publisher = gateway.client();
    let mut letters = Subscriber::on(gateway.ws(), "dead.jobs", &qos(1));
    // The queue begins with its first member.
    let mut first = member(&gateway);
    let mut at = Vec::new();
    for value in 1..=3 {
        let meta = key(qos(1), "k").text("trace", "00-ab");
        let id = send_event(&mut publisher, "jobs.a", meta, &number(value));
        at.push(stored(&mut publisher, id));
    }
    for (value, &at) in (1..=3).zip(&at) {
        assert_eq!(job(&mut first), (at, value, false));
        if value != 2 {
            first.ack(at);
        }
    }
    first.settle();
    drop(first); // it dies of the second job, and so does the next that is given it
    let mut second = member(&gateway);
    assert_eq!(job(&mut second), (at[1], 2, true));
    drop(second);
    // Nothing is set aside while there are no members: the next one has the queue look.
    let mut third = member(&gateway);

    let dead = letter(&mut letters);
    assert_eq!(dead.target.as_deref(), Some("dead.jobs"));
    assert_eq!(dead.number(), 2, "its payload, as it was");
    let meta = Meta::from_checked(dead.meta.as_deref().expect("meta"));
    assert_eq!(meta.text("x-dead-topic"), Ok(Some("jobs.a")));
    assert_eq!(meta.uint("x-deliveries"), Ok(Some(2)));
    let place = meta.get("x-dead-at").map(minicbor::decode::<(u16, u64)>);
    assert_eq!(
        place.expect("a place").expect("a position"),
        (at[1].partition, at[1].offset)
    );
    assert_eq!(
        (meta.text("key"), meta.text("trace")),
        (Ok(Some("k")), Ok(Some("00-ab"))),
        "what its publisher said of it"
    );

    // The queue is done with it, now and after a start; the letter stays, and there is one.
    let fourth = publish(&mut publisher, "jobs.a", 4);
    assert_eq!(job(&mut third), (fourth, 4, false));
    third.ack(fourth);
    third.settle();
    drop(third);
    gateway.stop();
    let gateway = start(folder.path());
    let mut letters = Subscriber::on(gateway.tcp(), "dead.jobs", &qos(1).text("from", "all"));
    assert_eq!(letter(&mut letters).id, dead.id);
    let mut fourth = member(&gateway);
    let mut publisher = gateway.client();
    let fifth = publish(&mut publisher, "jobs.a", 5);
    let (at, value, _) = job(&mut fourth);
    assert_eq!((at, value), (fifth, 5));
    publish(&mut publisher, "dead.jobs", 6);
    assert_eq!(letter(&mut letters).number(), 6, "and no second letter before it");
    gateway.stop();
}
