//! What queues promise: by a model over thousands of seeds, and each promise once in plain sight.

mod fake_log;
mod model;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Code;
use fluxar_protocol::Id;
use fluxar_protocol::meta::Meta;

use crate::limits::{QUEUE_ENTRIES_MAX, QUEUES_RESTING_MAX};
use crate::log::class::TopicRule;
use crate::log::{owner_of, partition_of};
use crate::logged::letters::Start;
use crate::peer::PeerId;
use model::{ACK_MS, DEAD, PARTITIONS, Place, QueueKey, Town};

const TOPICS: [&str; 5] = ["a.x", "a.y", "b.x", "b.y.z", "c"];
const QUEUES: [QueueKey; 4] = [("a.x", "g"), ("a.*", "g"), (">", "g"), (">", "h")];

fn random_town(cores: u16, seed: u64, trouble: bool, rules: Vec<TopicRule>) {
    let mut town = Town::new(cores, seed, trouble, rules);
    for _ in 0..120 {
        match town.random.below(100) {
            0..25 => {
                let topic = TOPICS[town.random.below(TOPICS.len())];
                let count = 1 + town.random.below(12);
                let ttl_ms = town
                    .random
                    .chance(10)
                    .then(|| 1 + town.random.below(3_000) as u64);
                town.publish(topic, count, ttl_ms);
                if town.random.chance(70) {
                    let core = owner_of(partition_of(topic, PARTITIONS), cores);
                    town.hear(core);
                }
            }
            25..38 if town.members.len() < 8 => {
                let core = town.random.below(usize::from(cores)) as u16;
                let (queue, in_flight, start) = some_wish(&mut town);
                town.join(core, queue, in_flight, start);
            }
            38..44 => {
                if let Some(member) = town.random_member() {
                    town.lose(member);
                    if town.random.chance(40) {
                        let (queue, in_flight, start) = some_wish(&mut town);
                        town.join_as(member, queue, in_flight, start);
                    }
                }
            }
            44..70 => {
                if let Some(member) = town.random_member() {
                    let part = 20 + town.random.below(80);
                    let held: Vec<_> = town.members[&member].held.keys().copied().collect();
                    let mut places: Vec<_> = held.into_iter().filter(|_| town.random.chance(part)).collect();
                    if town.random.chance(50) {
                        places.reverse();
                    }
                    town.acknowledge(member, &places);
                }
            }
            70..74 if trouble => {
                if let Some(member) = town.random_member() {
                    let busy = town.random.chance(40);
                    town.busy(member, busy);
                }
            }
            74..86 => {
                for _ in 0..town.random.below(8) {
                    let pair = (town.random.below(cores.into()), town.random.below(cores.into()));
                    town.carry(pair.0 as u16, pair.1 as u16);
                    town.come(pair.0 as u16);
                    if town.logs[pair.1].wants_sync && town.random.chance(20) {
                        town.sync(pair.1 as u16);
                    }
                }
            }
            86..94 => {
                let ms = town.random.below(600) as u64;
                town.pass(ms);
                if !trouble {
                    town.check_nothing_is_stuck();
                }
            }
            94..96 => (0..cores).for_each(|core| town.sync(core)),
            96 if town.random.chance(40) => town.restart(),
            97 if trouble => {
                let core = town.random.below(usize::from(cores));
                town.logs[core].recovers = town.random.chance(60);
            }
            _ => {}
        }
    }
    town.finish();
}

/// Which queue, how many events at a time, and from where.
fn some_wish(town: &mut Town) -> (QueueKey, u32, Start) {
    let queue = QUEUES[town.random.below(QUEUES.len())];
    let in_flight = 1 + town.random.below(6) as u32;
    let start = [Start::Default, Start::New, Start::All][town.random.below(3)].clone();
    (queue, in_flight, start)
}

/// Events of one topic are given so often at most.
fn at_most(pattern: &str, deliveries_max: u32, dead_letter: bool) -> Vec<TopicRule> {
    vec![TopicRule {
        pattern: pattern.into(),
        level: None,
        always: None,
        deliveries_max: Some(deliveries_max),
        dead_letter: dead_letter.then(|| DEAD.into()),
    }]
}

fn rules(seed: u64) -> Vec<TopicRule> {
    match seed % 3 {
        0 => Vec::new(),
        1 => at_most("a.>", 3, true),
        _ => at_most("b.>", 2, false),
    }
}

fn held(town: &Town, member: (PeerId, Id)) -> Vec<Place> {
    town.members[&member].held.keys().copied().collect()
}

/// Waits until what members have is overdue.
fn let_expire(town: &mut Town) {
    town.pass(u64::from(ACK_MS));
    town.pass(10);
}

#[test]
fn members_that_keep_up_get_equal_parts() {
    let mut town = Town::new(2, 1, false, Vec::new());
    let members: Vec<_> = (0..3)
        .map(|nth| town.join(nth % 2, ("a.*", "g"), 10, Start::All))
        .collect();
    town.settle();
    for _ in 0..40 {
        town.publish("a.x", 9, None);
        town.settle();
        for &member in &members {
            let places = held(&town, member);
            town.acknowledge(member, &places);
        }
        town.settle();
    }
    for member in members {
        let given = town.members[&member].given;
        assert!((110..=130).contains(&given), "{given} of 360");
    }
}

#[test]
fn a_queue_that_begins_at_a_time_is_given_nothing_older() {
    let mut town = Town::new(1, 1, false, Vec::new());
    let queue: QueueKey = ("c", "g");
    town.publish("c", 3, None);
    town.settle();
    town.pass(60_000);
    let since_ms = town.now_ms;
    town.publish("c", 4, None);
    town.settle();
    let member = town.join(0, queue, 10, Start::TimeMs(since_ms));
    let partition = partition_of("c", PARTITIONS);
    town.forget_begun(queue, partition, 3);
    town.settle();
    let offsets: Vec<u64> = held(&town, member).iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [4, 5, 6, 7]);
    town.acknowledge(member, &held(&town, member));
    town.settle();
    town.publish("c", 1, None);
    town.settle();
    assert_eq!(held(&town, member).len(), 1);
}

#[test]
fn a_time_does_not_count_where_a_queue_has_a_place() {
    let mut town = Town::new(1, 3, false, Vec::new());
    let queue: QueueKey = ("c", "g");
    let partition = partition_of("c", PARTITIONS);
    let member = town.join(0, queue, 10, Start::All);
    town.publish("c", 3, None);
    town.settle();
    town.acknowledge(member, &[(partition, 1)]);
    town.pass(300);
    (0..town.cores).for_each(|core| town.sync(core));
    town.restart();
    town.pass(60_000);
    let member = town.join(0, queue, 10, Start::TimeMs(town.now_ms));
    town.settle();
    let offsets: Vec<_> = held(&town, member).iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [2, 3]);
    town.finish();
}

#[test]
fn what_is_overdue_goes_to_another_and_a_late_acknowledgement_counts() {
    let mut town = Town::new(1, 1, false, Vec::new());
    let slow = town.join(0, ("c", "g"), 4, Start::All);
    town.publish("c", 4, None);
    town.settle();
    let places = held(&town, slow);
    assert_eq!(places.len(), 4);
    let quick = town.join(0, ("c", "g"), 4, Start::All);
    let_expire(&mut town);
    assert_eq!(held(&town, quick), places, "to another, with `dup`");
    town.acknowledge(slow, &places[..2]);
    town.publish("c", 2, None);
    town.settle();
    assert_eq!(
        held(&town, quick).len() + held(&town, slow).len() - 2,
        6,
        "room is free again"
    );
    let_expire(&mut town);
    for place in &places[..2] {
        let deliveries = town.fates[&(("c", "g"), *place)].deliveries;
        assert_eq!(deliveries, 2, "it was done with");
    }
    town.finish();
}

#[test]
fn what_nobody_can_handle_is_set_aside_once() {
    for (refuse, dead_letter) in [(false, true), (true, true), (false, false)] {
        let mut town = Town::new(2, 3, false, at_most("c", 3, dead_letter));
        town.refuse_asides = refuse;
        let queue = ("c", "g");
        let watcher = town.join(0, (DEAD, "w"), 10, Start::All);
        let mut members = vec![town.join(1, queue, 4, Start::All)];
        town.publish("c", 2, None);
        town.settle();
        let places = held(&town, members[0]);
        town.acknowledge(members[0], &places[1..]);
        // The only member dies of it each time, and nobody is there for a while.
        for _ in 0..2 {
            town.lose(members.remove(0));
            town.pass(100);
            members.push(town.join(1, queue, 4, Start::Default));
            town.settle();
            assert_eq!(held(&town, members[0]), &places[..1]);
        }
        town.lose(members.remove(0));
        members.push(town.join(1, queue, 4, Start::Default));
        for _ in 0..20 {
            town.pass(500);
        }
        assert_eq!(held(&town, members[0]), []);
        assert!(town.set_aside.contains(&(queue, places[0])));
        assert_eq!(held(&town, watcher).len(), usize::from(dead_letter));
        town.finish();
    }
}

#[test]
fn what_is_acknowledged_while_it_is_read_to_be_set_aside_is_done() {
    let mut town = Town::new(1, 3, false, at_most("c", 1, true));
    let watcher = town.join(0, (DEAD, "w"), 10, Start::All);
    let member = town.join(0, ("c", "g"), 4, Start::All);
    town.publish("c", 1, None);
    town.settle();
    let places = held(&town, member);
    town.logs[0].is_slow = true;
    town.now_ms += u64::from(ACK_MS);
    let (now_us, now_ms) = (town.now_ms * 1_000, town.now_ms);
    town.queues[0].handle_time(now_us, now_ms, &mut town.logs[0]);
    town.work(0);
    assert_eq!(town.logs[0].later.len(), 1, "it is being read");
    town.acknowledge(member, &places);
    town.settle();
    assert!(town.set_aside.is_empty());
    assert_eq!(held(&town, watcher), []);
    town.finish();
}

#[test]
fn a_queue_that_cannot_go_on_says_so_until_somebody_says_where() {
    let queue: QueueKey = ("c", "g");
    let partition = partition_of("c", PARTITIONS);
    for damaged in [false, true] {
        let mut town = Town::new(2, 5, false, Vec::new());
        let owner = usize::from(owner_of(partition, 2));
        town.publish("c", 5, None);
        let first = town.join(0, queue, 2, Start::All);
        town.settle();
        let places = held(&town, first);
        town.acknowledge(first, &places);
        town.lose(first);
        town.settle();
        for _ in 0..10 {
            town.publish("c", 1, None);
        }
        if damaged {
            town.logs[owner].damage.insert(partition, (5, 8));
        } else {
            town.logs[owner].cut.insert(partition, 9);
        }
        let code = if damaged { Code::DataLoss } else { Code::OutOfRange };
        // One that would begin before the damage cannot go on either.
        let again = if damaged { Start::All } else { Start::Default };
        for start in [Start::Default, again] {
            let member = town.join(1, queue, 100, start);
            town.settle();
            let (to, sub, said, details) = town.ended.pop().expect("it is told");
            assert_eq!(((to, sub), said), (member, code));
            let details = details.unwrap();
            let details = Meta::from_checked(&details);
            assert_eq!(details.uint("partition"), Ok(Some(partition.into())));
            assert_eq!(details.uint("epoch"), Ok(Some(fake_log::EPOCH)));
            assert_eq!(details.uint("first"), Ok(Some(if damaged { 5 } else { 9 })));
            assert_eq!(details.uint("last"), Ok(damaged.then_some(8)));
            assert!(town.ended.is_empty());
        }
        let start = if damaged {
            Start::Epoch {
                epoch: fake_log::EPOCH,
                at: [(partition, 8)].into(),
            }
        } else {
            Start::All
        };
        // What was given before the damage, and is not done, is given again.
        town.forget_begun(queue, partition, if damaged { 2 } else { 8 });
        let member = town.join(1, queue, 100, start);
        town.settle();
        let offsets: Vec<_> = held(&town, member).iter().map(|(_, offset)| *offset).collect();
        let from: Vec<_> = (9..=15)
            .filter(|offset| !town.is_done(queue, (partition, *offset)))
            .collect();
        assert!(offsets.ends_with(&from), "{offsets:?}");
    }
}

#[test]
fn one_event_at_a_time_from_all_owners_together() {
    let mut town = Town::new(4, 9, false, Vec::new());
    let member = town.join(3, (">", "g"), 1, Start::All);
    town.settle();
    for topic in ["a.x", "a.y", "b.x", "b.y.z", "c"] {
        town.publish(topic, 10, None);
    }
    let mut partitions = BTreeSet::new();
    for handled in 0..50 {
        town.settle();
        let places = held(&town, member);
        assert_eq!(places.len(), 1, "after {handled}");
        partitions.insert(places[0].0);
        if handled == 12 {
            assert!(partitions.len() > 1, "no owner keeps it to itself");
        }
        town.acknowledge(member, &places);
    }
    town.settle();
    assert_eq!(held(&town, member), []);
}

#[test]
fn room_for_one_event_is_used_where_what_comes_again_has_to_be_read_first() {
    let mut town = Town::new(2, 9, false, Vec::new());
    let first = town.join(0, (">", "g"), 10, Start::All);
    town.settle();
    for topic in TOPICS {
        town.publish(topic, 2, None);
    }
    town.settle();
    let given = held(&town, first).len();
    assert_eq!(given, 10);
    for log in &mut town.logs {
        log.is_slow = true;
    }
    let member = town.join(1, (">", "g"), 1, Start::Default);
    town.lose(first);
    for handled in 0..given {
        town.settle();
        let places = held(&town, member);
        assert_eq!(places.len(), 1, "after {handled}");
        town.acknowledge(member, &places);
    }
}

/// A topic that lies on one of two cores.
fn topic_on(core: u16, prefix: &str) -> &'static str {
    let mut names = (0..).map(|nth| format!("{prefix}.{nth}"));
    let name = names.find(|name| owner_of(partition_of(name, PARTITIONS), 2) == core);
    name.unwrap().leak()
}

#[test]
fn room_is_not_kept_for_what_may_be_of_no_concern() {
    let mut town = Town::new(2, 9, false, Vec::new());
    let (noise, job) = (topic_on(0, "noise"), topic_on(1, "jobs"));
    for _ in 0..300 {
        town.publish(noise, 1, None);
    }
    town.settle();
    // One core has much to look through, the other has work.
    town.logs[0].is_slow = true;
    let member = town.join(1, ("jobs.*", "g"), 1, Start::All);
    let carry_all = |town: &mut Town| {
        (0..2).for_each(|core| town.sync(core));
        while town.carry(1, 0) || town.carry(0, 1) {}
    };
    carry_all(&mut town);
    town.publish(job, 1, None);
    town.hear(1);
    carry_all(&mut town);
    assert!(!town.logs[0].later.is_empty(), "it is not through");
    assert_eq!(held(&town, member).len(), 1);
    town.finish();
}

#[test]
fn who_is_refused_by_one_owner_leaves_no_place_with_the_others() {
    let queue: QueueKey = (">", "g");
    let mut town = Town::new(2, 9, false, Vec::new());
    for core in 0..2 {
        town.publish(topic_on(core, "jobs"), 2, None);
    }
    town.settle();
    town.logs[1].has_lost_cursors = true;
    for home in 0..2 {
        town.join(home, queue, 10, Start::Default);
    }
    town.settle();
    let refused: Vec<_> = town.ended.drain(..).map(|(_, _, code, _)| code).collect();
    assert_eq!(refused, [Code::DataLoss; 2], "they have to say where");
    assert!(town.logs.iter().all(|log| log.cursors.is_empty()));
    let member = town.join(0, queue, 10, Start::All);
    town.settle();
    assert_eq!(held(&town, member).len(), 4);
    // Where somebody has joined it stands, though others are refused.
    town.lose(member);
    town.settle();
    town.logs[1].recovers = true;
    town.join(0, queue, 10, Start::New);
    town.settle();
    assert_eq!(town.ended.len(), 1);
    town.logs[1].recovers = false;
    let member = town.join(1, queue, 10, Start::New);
    town.settle();
    assert_eq!(held(&town, member).len(), 4);
    town.finish();
}

#[test]
fn who_joins_behind_an_undoing_waits_until_the_disk_has_it() {
    let queue: QueueKey = (">", "g");
    let mut town = Town::new(2, 9, false, Vec::new());
    for core in 0..2 {
        town.publish(topic_on(core, "jobs"), 2, None);
    }
    town.settle();
    town.logs[1].has_lost_cursors = true;
    town.join(0, queue, 10, Start::Default);
    town.sync(0);
    town.logs[0].hangs = true;
    town.settle();
    assert_eq!(town.ended.pop().map(|(_, _, code, _)| code), Some(Code::DataLoss));
    assert!(town.logs[0].cursors.is_empty() && !town.logs[0].synced.is_empty());
    // A crash now would leave it where it was begun, behind everything.
    let member = town.join(0, queue, 10, Start::All);
    town.settle();
    assert!(!town.members[&member].is_accepted);
    town.logs[0].wake();
    assert!(town.begin_safe(0));
    town.settle();
    assert_eq!(held(&town, member).len(), 4);
    town.finish();
}

#[test]
fn who_is_refused_in_one_partition_leaves_no_place_in_the_others() {
    let queue: QueueKey = (">", "g");
    let mut town = Town::new(1, 9, false, Vec::new());
    for topic in TOPICS {
        town.publish(topic, 1, None);
    }
    town.settle();
    town.logs[0].cursors_max = usize::from(PARTITIONS) - 1;
    town.join(0, queue, 10, Start::New);
    town.settle();
    let refused = town.ended.pop().map(|(_, _, code, _)| code);
    assert_eq!(refused, Some(Code::ResourceExhausted));
    assert!(town.logs[0].cursors.is_empty());
    town.logs[0].cursors_max = usize::MAX;
    let member = town.join(0, queue, 10, Start::All);
    town.settle();
    assert_eq!(held(&town, member).len(), TOPICS.len());
    town.finish();
}

#[test]
fn who_leaves_before_all_owners_have_answered_leaves_no_place() {
    let queue: QueueKey = (">", "g");
    let mut town = Town::new(2, 9, false, Vec::new());
    let member = town.join(0, queue, 10, Start::New);
    assert!(!town.logs[0].cursors.is_empty(), "its own core has answered");
    town.lose(member);
    town.settle();
    assert!(town.logs.iter().all(|log| log.cursors.is_empty()));
    town.publish("c", 3, None);
    town.settle();
    let member = town.join(1, queue, 10, Start::All);
    town.settle();
    assert_eq!(held(&town, member).len(), 3);
    town.finish();
}

#[test]
fn after_a_restart_what_was_done_is_done_and_the_rest_comes_again() {
    let queue: QueueKey = ("c", "g");
    let partition = partition_of("c", PARTITIONS);
    let mut town = Town::new(2, 9, false, Vec::new());
    let member = town.join(0, queue, 10, Start::All);
    town.publish("c", 10, None);
    town.settle();
    town.acknowledge(member, &[(partition, 1), (partition, 4), (partition, 7)]);
    town.pass(300);
    (0..town.cores).for_each(|core| town.sync(core));
    town.acknowledge(member, &[(partition, 2)]);
    town.restart();
    town.publish("c", 1, None);
    let member = town.join(1, queue, 20, Start::New);
    town.settle();
    let offsets: Vec<_> = held(&town, member).iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [2, 3, 5, 6, 8, 9, 10, 1_000_001]);
    assert!(
        town.dups.ends_with(&[1]),
        "some may have been given before: {:?}",
        town.dups
    );
    town.finish();
}

#[test]
fn a_member_that_rests_gets_nothing_and_keeps_nothing_for_long() {
    let mut town = Town::new(2, 11, false, Vec::new());
    let (one, other) = (
        town.join(0, ("c", "g"), 8, Start::All),
        town.join(1, ("c", "g"), 8, Start::All),
    );
    town.settle();
    town.busy(one, true);
    town.settle();
    town.publish("c", 6, None);
    town.settle();
    assert_eq!((held(&town, one).len(), held(&town, other).len()), (0, 6));
    town.busy(one, false);
    town.publish("c", 6, None);
    town.settle();
    assert!(held(&town, one).len() >= 3);
}

#[test]
fn an_event_that_nobody_acknowledges_bounds_what_its_queue_remembers() {
    let queue: QueueKey = ("c", "g");
    let partition = partition_of("c", PARTITIONS);
    let mut town = Town::new(1, 13, false, Vec::new());
    let member = town.join(0, queue, 1_000, Start::All);
    for _ in 0..90 {
        town.publish("c", 100, None);
    }
    for _ in 0..12 {
        town.settle();
        let places: Vec<_> = held(&town, member)
            .into_iter()
            .filter(|place| place.1 > 1)
            .collect();
        town.acknowledge(member, &places);
    }
    town.settle();
    assert_eq!(town.members[&member].given, QUEUE_ENTRIES_MAX, "and no more");
    town.acknowledge(member, &[(partition, 1)]);
    town.settle();
    assert!(held(&town, member).len() > 500, "it goes on");
    town.finish();
}

#[test]
fn what_was_under_way_when_a_session_was_cut_comes_again() {
    let queue: QueueKey = ("c", "g");
    let mut town = Town::new(2, 15, false, Vec::new());
    let member = town.join(0, queue, 5, Start::All);
    town.publish("c", 5, None);
    town.settle();
    let before = held(&town, member);
    town.rewind(member);
    town.settle();
    assert_eq!(held(&town, member), before);
    assert_eq!(town.members[&member].given, 10);
    town.finish();
}

#[test]
fn what_never_left_the_gateway_does_not_count_as_given() {
    let queue: QueueKey = ("c", "g");
    let owner = owner_of(partition_of("c", PARTITIONS), 2);
    let mut town = Town::new(2, 15, false, at_most("c", 2, true));
    let member = town.join(1 - owner, queue, 5, Start::All);
    town.settle();
    town.publish("c", 3, None);
    for _ in 0..4 {
        town.hear(owner);
        // Its connection is full before the work arrives, and its session is cut.
        town.busy(member, true);
        town.settle();
        town.rewind(member);
        town.settle();
        assert_eq!(held(&town, member), []);
        town.busy(member, false);
        assert!(town.carry(1 - owner, owner), "it takes work again");
    }
    town.settle();
    assert_eq!((held(&town, member).len(), &town.dups[..]), (3, &[0][..]));
    assert!(town.set_aside.is_empty());
    town.finish();
}

#[test]
fn what_a_connection_has_no_room_for_goes_to_another_at_once() {
    let queue: QueueKey = ("c", "g");
    let owner = owner_of(partition_of("c", PARTITIONS), 2);
    let mut town = Town::new(2, 15, false, Vec::new());
    let (full, other) = (
        town.join(1 - owner, queue, 5, Start::All),
        town.join(1 - owner, queue, 5, Start::All),
    );
    town.settle();
    town.publish("c", 4, None);
    town.hear(owner);
    town.busy(full, true);
    town.settle();
    assert_eq!((held(&town, full).len(), held(&town, other).len()), (0, 4));
    town.finish();
}

#[test]
fn what_a_member_had_comes_again_and_nothing_else() {
    let mut town = Town::new(1, 21, false, Vec::new());
    let queue: QueueKey = (">", "g");
    let (stays, goes) = (
        town.join(0, queue, 40, Start::All),
        town.join(0, queue, 40, Start::All),
    );
    for round in 0..30 {
        for topic in TOPICS {
            town.publish(topic, 3, None);
        }
        town.settle();
        for member in [stays, goes] {
            // Not all: some are with it for a while.
            let places: Vec<_> = held(&town, member).into_iter().skip(round % 3).collect();
            town.acknowledge(member, &places);
        }
        town.settle();
    }
    town.publish("c", 3, None);
    town.settle();
    let (kept, lost) = (held(&town, stays), held(&town, goes));
    let before = town.members[&stays].given;
    assert!(!lost.is_empty());
    town.lose(goes);
    town.settle();
    assert_eq!(town.members[&stays].given, before + lost.len());
    let all: BTreeSet<_> = kept.into_iter().chain(lost).collect();
    assert!(held(&town, stays).into_iter().eq(all));
    town.finish();
}

/// What a log read at once, which may be far more than what is wanted of it; it says when it is let go of.
struct Allocation(Vec<u8>, #[expect(dead_code, reason = "it counts")] Arc<()>);

impl AsRef<[u8]> for Allocation {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn what_waits_for_room_does_not_keep_all_that_was_read() {
    let partition = partition_of("c", PARTITIONS);
    let mut town = Town::new(1, 23, false, Vec::new());
    let member = town.join(0, ("c", "g"), 1, Start::All);
    for _ in 0..50 {
        town.publish("c", 1, None);
    }
    let is_held = Arc::new(());
    let runs = town.logs[0].runs.get_mut(&partition).unwrap();
    let mut read = vec![0; 200_000];
    let starts: Vec<_> = runs
        .iter()
        .map(|run| {
            read.extend_from_slice(&run.events.bytes);
            read.len() - run.events.bytes.len()
        })
        .collect();
    let read = Bytes::from_owner(Allocation(read, is_held.clone()));
    for (run, start) in runs.iter_mut().zip(starts) {
        run.events.bytes = read.slice(start..start + run.events.bytes.len());
    }
    drop(read);
    town.settle();
    assert_eq!(held(&town, member).len(), 1, "the others wait");
    town.logs[0].runs.clear();
    assert_eq!(Arc::strong_count(&is_held), 1, "they hold themselves and no more");
}

#[test]
fn who_comes_and_goes_while_the_disk_hangs_leaves_nothing_behind() {
    let queue: QueueKey = ("c", "g");
    let mut town = Town::new(1, 17, false, Vec::new());
    town.logs[0].hangs = true;
    for _ in 0..100 {
        let member = town.join(0, queue, 4, Start::All);
        town.settle();
        town.lose(member);
    }
    assert_eq!(town.queues[0].waiting(), 0, "nobody waits");
    let members = [(); 3].map(|()| town.join(0, queue, 4, Start::All));
    town.publish("c", 3, None);
    town.settle();
    assert_eq!(town.queues[0].waiting(), 1, "they wait for one and the same");
    town.lose(members[0]);
    assert!(!town.begin_safe(0), "it hangs still");
    assert!(
        members[1..]
            .iter()
            .all(|member| !town.members[member].is_accepted)
    );
    town.logs[0].wake();
    assert!(town.begin_safe(0));
    town.settle();
    assert!(members[1..].iter().all(|member| town.members[member].is_accepted));
    assert_eq!(town.queues[0].waiting(), 0);
    let given: usize = members[1..].iter().map(|member| town.members[member].given).sum();
    assert_eq!(given, 3);
    town.finish();
}

#[test]
fn of_too_many_queues_without_members_the_one_without_for_longest_is_forgotten() {
    let queue: QueueKey = ("c", "g");
    let mut town = Town::new(1, 19, false, Vec::new());
    town.publish("c", 1, None);
    let first = town.join(0, queue, 4, Start::All);
    town.settle();
    town.lose(first);
    let second = town.join(0, queue, 4, Start::Default);
    town.settle();
    // All but one of the others rest while this one has a member again, the last behind it.
    for nth in 0..QUEUES_RESTING_MAX {
        if nth == QUEUES_RESTING_MAX - 1 {
            town.lose(second);
        }
        let peer = PeerId {
            slot: u32::MAX,
            generation: nth as u32,
            core: 0,
        };
        let group = format!("other {nth}");
        town.queues[0].join(peer, model::id(0), ("c", &group, None), Start::New, 1);
        town.work(0);
        assert!(town.queues[0].leave(peer, model::id(0)));
        town.work(0);
    }
    town.join(0, queue, 4, Start::Default);
    town.settle();
    assert_eq!(town.dups, [0, 1, 2], "it was not forgotten");
}

#[test]
fn every_event_is_handled_whatever_happens() {
    for seed in 0..600 {
        let cores = 1 + (seed % 4) as u16;
        let result = catch_unwind(|| random_town(cores, seed, true, rules(seed)));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn nothing_waits_while_a_member_has_room() {
    for seed in 0..600 {
        let cores = 1 + (seed % 4) as u16;
        let result = catch_unwind(|| random_town(cores, !seed, false, Vec::new()));
        assert!(result.is_ok(), "seed {seed}");
    }
}
