//! Where a queue begins and goes on, who is refused, and what is left behind of it.

use super::*;

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
