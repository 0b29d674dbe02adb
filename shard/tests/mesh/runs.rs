//! Runs: what shares one, where they end, how they travel, what is counted when they are dropped.

use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_protocol::limits::RUN_BYTES_MAX;
use fluxar_shard::{Delivery, Limits, PeerId, Seed, Shard};

use crate::world::{World, event, events, grouped_events, id, number};

fn shard(core: u16, cores: u16) -> Shard {
    Shard::new(
        core,
        cores,
        Limits::default(),
        Seed {
            hash: 5,
            ids: 6,
            epoch: 7,
        },
    )
}

fn peer(slot: u32) -> PeerId {
    PeerId {
        slot,
        generation: 0,
        core: 0,
    }
}

fn input(shard: &mut Shard, topics: &[&str]) -> Vec<Delivery> {
    for (nth, topic) in topics.iter().enumerate() {
        shard.publish(topic, &event(topic, nth as u64));
    }
    shard.flush_run();
    std::iter::from_fn(|| shard.poll_delivery()).collect()
}

fn topics(delivery: &Delivery) -> Vec<String> {
    events(delivery.run.framed())
        .into_iter()
        .map(|(_, topic)| topic)
        .collect()
}

#[test]
fn topics_with_the_same_receivers_share_a_run() {
    let mut shard = shard(0, 1);
    shard.subscribe(peer(1), id(1), "a.*", None).unwrap();
    shard.subscribe(peer(2), id(1), "a.>", None).unwrap();
    shard.subscribe(peer(3), id(1), "a.c", None).unwrap();
    shard.subscribe(peer(3), id(2), "*.c", None).unwrap();
    let runs = input(
        &mut shard,
        &["a.a", "a.a", "a.b", "x", "a.c", "a.c", "a.d", "b.c"],
    );
    let seen: Vec<_> = runs
        .iter()
        .map(|run| (topics(run).join(" "), run.plain.to_vec()))
        .collect();
    let (two, three) = (vec![peer(1), peer(2)], vec![peer(1), peer(2), peer(3)]);
    let expected = [
        ("a.a a.a a.b", &two),
        ("a.c a.c", &three),
        ("a.d", &two),
        ("b.c", &vec![peer(3)]),
    ];
    assert_eq!(
        seen,
        expected.map(|(topics, peers)| (topics.to_owned(), peers.clone()))
    );
    assert_eq!(shard.counts().unheard_events, 1, "x");
}

#[test]
fn a_subscription_in_the_middle_of_an_input_counts_from_the_next_event() {
    for pattern in ["a", "*"] {
        let mut shard = shard(0, 1);
        shard.subscribe(peer(1), id(1), "a", None).unwrap();
        shard.publish("a", &event("a", 1));
        shard.subscribe(peer(2), id(1), pattern, None).unwrap();
        shard.publish("a", &event("a", 2));
        shard.end_subscription(peer(2), id(1)).unwrap();
        shard.publish("a", &event("a", 3));
        shard.peer_lost(peer(1));
        shard.publish("a", &event("a", 4));
        shard.flush_run();
        let runs: Vec<_> = std::iter::from_fn(|| shard.poll_delivery())
            .map(|run| (events(run.run.framed())[0].0, run.plain.len()))
            .collect();
        assert_eq!(runs, [(1, 1), (2, 2), (3, 1)], "{pattern}");
    }
}

#[test]
fn a_run_is_bounded_and_one_large_event_has_its_own() {
    for group in [None, Some("g")] {
        let mut shard = shard(0, 1);
        shard.subscribe(peer(1), id(1), "a", group).unwrap();
        let large = large("a", RUN_BYTES_MAX + 1);
        let small = event("a", 7);
        let count = 3 * RUN_BYTES_MAX / small.len();
        for _ in 0..count {
            shard.publish("a", &small);
        }
        shard.publish("a", &large);
        shard.publish("a", &small);
        shard.flush_run();
        let frames: Vec<_> = std::iter::from_fn(|| shard.poll_delivery())
            .map(|delivery| match delivery.grouped.first() {
                Some(piece) => (piece.framed.len() - PREFIX_BYTES, grouped_events(piece).len()),
                None => (delivery.run.body().len(), events(delivery.run.framed()).len()),
            })
            .collect();
        let [full @ .., tail, alone, last] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(
            full.iter()
                .all(|(len, _)| (RUN_BYTES_MAX - 2 * small.len()..=RUN_BYTES_MAX).contains(len))
        );
        assert_eq!(
            full.iter().map(|(_, events)| events).sum::<usize>() + tail.1,
            count
        );
        assert!(alone.0 >= large.len() && alone.1 == 1 && last.1 == 1);
    }
}

fn large(topic: &str, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0x5a];
    payload.extend_from_slice(&(bytes as u32).to_be_bytes());
    payload.resize(5 + bytes, 0);
    let small = event(topic, 1);
    [&small[..small.len() - 3], &payload, &[0xf6]].concat() // instead of the payload 42, before the null error
}

#[test]
fn names_that_are_remembered_no_more_are_found_again() {
    let limits = Limits {
        names_remembered: 2,
        ..Limits::default()
    };
    let mut shard = Shard::new(
        0,
        1,
        limits,
        Seed {
            hash: 5,
            ids: 6,
            epoch: 7,
        },
    );
    shard.subscribe(peer(1), id(1), ">", None).unwrap();
    for _ in 0..3 {
        assert_eq!(
            topics(&input(&mut shard, &["a", "b", "c", "d", "e", "f"])[0]).len(),
            6
        );
    }
    let long = "x".repeat(200);
    assert_eq!(
        topics(&input(&mut shard, &[&long, &long, "a", &long])[0]),
        [&*long, &long, "a", &long]
    );
}

#[test]
fn another_core_uses_the_bytes_as_they_come_or_cuts_them() {
    let mut world = World::new(2, 3, Limits::default());
    let far = [1, 2].map(|slot| world.connect(1, slot, 0));
    world.shards[1].subscribe(far[0], id(1), ">", None).unwrap();
    world.settle();
    let letter = |world: &mut World, topics: &[&str]| {
        input(&mut world.shards[0], topics);
        let letters: Vec<_> = std::iter::from_fn(|| world.shards[0].poll_letter()).collect();
        let [(1, letter)] = &letters[..] else {
            panic!("{letters:?}")
        };
        let fluxar_shard::Letter::Run(run) = letter else {
            panic!("{letter:?}")
        };
        let _ = world.shards[1].handle_letter(0, letter.clone());
        let runs: Vec<_> = std::iter::from_fn(|| world.shards[1].poll_delivery()).collect();
        (run.clone(), runs)
    };
    let (sent, runs) = letter(&mut world, &["a", "b", "b", "c"]);
    assert_eq!(runs.len(), 1);
    assert_eq!(
        runs[0].run.framed().as_ptr(),
        sent.framed().as_ptr(),
        "not copied"
    );
    // The publisher's core cannot know that the other one's receivers differ.
    world.shards[1].subscribe(far[1], id(1), "b", None).unwrap();
    let (_, runs) = letter(&mut world, &["a", "b", "b", "c", "d", "b"]);
    let seen: Vec<_> = runs
        .iter()
        .map(|run| (topics(run).join(" "), run.plain.len()))
        .collect();
    let expected = [("a", 1), ("b b", 2), ("c d", 1), ("b", 2)];
    assert_eq!(seen, expected.map(|(topics, peers)| (topics.to_owned(), peers)));
    // Pieces know their topics: they can be counted when they are dropped.
    world.shards[1].dropped(far[1], &runs[1].run);
    let mut notes = Vec::new();
    world.shards[1].drop_notes(far[1], &mut notes);
    assert_eq!(notes, [(id(1), 2)]);
    // What nobody wants any more is not delivered.
    world.shards[1].end_subscription(far[0], id(1)).unwrap();
    let (_, runs) = letter(&mut world, &["a", "b", "c", "b"]);
    assert_eq!(
        runs.iter().map(|run| topics(run).join(" ")).collect::<Vec<_>>(),
        ["b", "b"]
    );
}

#[test]
fn what_is_dropped_is_counted_for_each_matching_subscription() {
    let mut shard = shard(0, 1);
    shard.subscribe(peer(1), id(1), "a.*", None).unwrap();
    shard.subscribe(peer(1), id(2), ">", None).unwrap();
    shard.subscribe(peer(1), id(3), "a.b", Some("g")).unwrap();
    shard.subscribe(peer(1), id(4), "z", None).unwrap();
    shard.subscribe(peer(2), id(1), ">", None).unwrap();
    let runs = input(&mut shard, &["a.a", "a.a", "c", "a.b"]);
    for run in &runs {
        shard.dropped(peer(1), &run.run);
        for piece in &run.grouped {
            shard.dropped_grouped(piece);
        }
    }
    let note = |shard: &mut Shard, slot| {
        let mut notes = Vec::new();
        shard.drop_notes(peer(slot), &mut notes);
        notes.sort_unstable();
        notes
            .into_iter()
            .map(|(id, dropped)| (number(id), dropped))
            .collect::<Vec<_>>()
    };
    assert_eq!(note(&mut shard, 1), [(1, 3), (2, 4), (3, 1)]);
    assert_eq!(note(&mut shard, 1), [], "told once");
    assert_eq!(note(&mut shard, 2), []);
    let runs = input(&mut shard, &["c"]);
    shard.dropped(peer(1), &runs[0].run);
    assert_eq!(note(&mut shard, 1), [(2, 5)], "the total, ever");
    assert_eq!(shard.end_subscription(peer(1), id(2)).unwrap().dropped, 5);
    shard.dropped(peer(1), &runs[0].run);
    shard.dropped(peer(77), &runs[0].run);
    assert_eq!(note(&mut shard, 1), []);
}

#[test]
fn a_group_spreads_a_run_over_its_members_everywhere() {
    let mut world = World::new(3, 9, Limits::default());
    let members: Vec<_> = [0, 0, 1, 2, 2, 2]
        .iter()
        .zip(0..)
        .map(|(&core, slot)| world.connect(core, slot, 0))
        .collect();
    for &member in &members {
        world
            .shard(member)
            .subscribe(member, id(1), "jobs.>", Some("workers"))
            .unwrap();
    }
    world.settle();
    let jobs: Vec<_> = (0..60).map(|nth| ("jobs.a".to_owned(), nth)).collect();
    world.publish(0, &jobs);
    world.settle();
    for member in &members {
        let got: Vec<_> = world.inboxes[member]
            .grouped
            .iter()
            .map(|(_, nth)| *nth)
            .collect();
        assert_eq!(got.len(), 10, "{member:?}");
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]));
    }
    // One event at a time goes round.
    for nth in 60..120 {
        world.publish(1, &[("jobs.b".to_owned(), nth)]);
    }
    world.settle();
    assert!(
        members
            .iter()
            .all(|member| world.inboxes[member].grouped.len() == 20)
    );
    // A member that left while its share was under way: lost, but counted.
    let alone = members[2];
    world.publish(0, &jobs[..6]);
    world.lose(alone);
    world.settle();
    assert_eq!(world.shards[1].counts().orphaned_events, 1);
}

#[test]
fn a_member_that_is_busy_gets_work_only_when_nobody_else_could() {
    let mut world = World::new(2, 9, Limits::default());
    let members = [
        world.connect(0, 0, 0),
        world.connect(0, 1, 0),
        world.connect(1, 2, 0),
    ];
    for member in members {
        let joined = world
            .shard(member)
            .subscribe(member, id(1), "jobs.>", Some("workers"));
        joined.unwrap();
    }
    world.settle();
    let mut nth = 0;
    let mut give = |world: &mut World, core: usize| {
        let jobs: Vec<_> = (nth..nth + 12).map(|nth| ("jobs.a".to_owned(), nth)).collect();
        nth += 12;
        world.publish(core, &jobs);
        world.settle();
        members.map(|member| std::mem::take(&mut world.inboxes.get_mut(&member).unwrap().grouped).len())
    };
    assert_eq!(give(&mut world, 0), [4, 4, 4]);
    world.shard(members[0]).set_busy(members[0], true);
    world.shard(members[0]).set_busy(members[0], true);
    assert_eq!(give(&mut world, 0)[0], 0);
    assert_eq!(give(&mut world, 1)[0], 0, "from another core neither");
    // Everybody here is busy: the other core has one that is not.
    world.shard(members[1]).set_busy(members[1], true);
    assert_eq!(give(&mut world, 0), [0, 0, 12]);
    // Nobody keeps up: it is not lost in silence.
    world.shard(members[2]).set_busy(members[2], true);
    assert_eq!(give(&mut world, 0).iter().sum::<usize>(), 12);
    for member in members {
        world.shard(member).set_busy(member, false);
    }
    assert_eq!(give(&mut world, 0), [4, 4, 4]);
    // Who rests can leave.
    world.shard(members[0]).set_busy(members[0], true);
    assert!(
        world
            .shard(members[0])
            .end_subscription(members[0], id(1))
            .is_some()
    );
    world.settle();
    assert_eq!(give(&mut world, 0).iter().sum::<usize>(), 12);
}

#[test]
#[should_panic(expected = "topic is its target")]
fn an_event_under_a_topic_that_is_not_its_own_is_a_mistake() {
    shard(0, 1).publish("a", &event("b", 1));
}
