//! Who is given what: equal parts, as there is room, and again what somebody had who is gone.

use super::*;

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
