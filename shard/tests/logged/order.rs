//! One publisher's events to one topic keep their order, whatever is refused meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_shard::log::class::Level;
use fluxar_shard::log::{Settings, partition_of};
use fluxar_shard::logged::LoggedPublish;
use fluxar_shard::{Limits, PeerId};

use crate::dice::Dice;
use crate::promises::events;
use crate::world::{ACKED, World, event_with, in_memory, peer};
use fluxar_protocol::meta::MetaWriter;

/// A log that takes little before the disk has it.
fn narrow(partitions: u16, unsynced_bytes_max: usize) -> Settings {
    let mut settings = in_memory(partitions);
    settings.topics[0].level = Some(Level::Synced);
    settings.unsynced_bytes_max = unsynced_bytes_max;
    settings
}

/// Where this publisher's events are, in the order of their offsets.
fn stored(world: &World) -> Vec<u64> {
    world.stored.values().copied().collect()
}

/// Publishes one event, large or small.
fn publish_sized(world: &mut World, peer: PeerId, nth: u64, bytes: usize) {
    publish_to(world, peer, "a", nth, bytes);
}

fn publish_to(world: &mut World, peer: PeerId, topic: &str, nth: u64, bytes: usize) {
    let payload = [&[0x59][..], &(bytes as u16).to_be_bytes(), &vec![0; bytes]].concat();
    let event = event_with(topic, nth, MetaWriter::new(), &payload);
    world.shard(peer).publish_logged(peer, topic, &event, ACKED);
    world.shard(peer).flush_run();
    world.drain(usize::from(peer.core));
}

#[test]
fn what_comes_behind_a_refused_event_waits_for_it() {
    for cores in [1, 2] {
        for home in 0..cores {
            let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
            let alice = peer(home, 1);
            let sent = [(1, 2_000), (2, 3_000), (3, 10), (4, 10)];
            for (nth, bytes) in sent {
                publish_sized(&mut world, alice, nth, bytes);
            }
            world.settle();
            assert_eq!(
                stored(&world),
                [1],
                "there was room for 3, but not for 2, which comes first"
            );
            let told: Vec<_> = std::mem::take(&mut world.refusals);
            assert_eq!(told.iter().map(|(_, nth, _)| *nth).collect::<Vec<_>>(), [2, 3, 4]);
            assert!(told.iter().all(|(.., retry)| retry.is_some()));
            // Not what was refused first, and something new.
            for (nth, bytes) in [(5, 10), (3, 10), (2, 3_000), (5, 10)] {
                publish_sized(&mut world, alice, nth, bytes);
            }
            world.settle();
            assert_eq!(stored(&world), [1, 2], "only 2 had its turn");
            for (nth, bytes) in [(3, 10), (4, 10), (6, 10), (5, 10), (6, 10)] {
                publish_sized(&mut world, alice, nth, bytes);
            }
            world.settle();
            assert_eq!(stored(&world), [1, 2, 3, 4, 5, 6]);
            assert_eq!(world.refused_events(), 0);
        }
    }
}

#[test]
fn what_does_not_come_again_is_given_up() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let alice = peer(cores - 1, 1);
        for (nth, bytes) in [(1, 3_000), (2, 3_000), (3, 10), (4, 10)] {
            publish_sized(&mut world, alice, nth, bytes);
        }
        world.settle();
        assert_eq!(stored(&world), [1]);
        // 2 never comes again; 3 does, and keeps its place before 4.
        for _ in 0..40 {
            world.pass(100_000);
            for nth in [4, 3] {
                if !stored(&world).contains(&nth) {
                    publish_sized(&mut world, alice, nth, 10);
                    world.settle();
                }
            }
            if stored(&world).contains(&4) {
                break;
            }
        }
        assert_eq!(stored(&world), [1, 3, 4]);
        // Who sends nothing again at all is not held up for long, either.
        world.pass(1);
        publish_sized(&mut world, alice, 5, 3_000);
        publish_sized(&mut world, alice, 6, 3_000);
        world.settle();
        let mut nth = 7;
        for _ in 0..40 {
            world.pass(100_000);
            publish_sized(&mut world, alice, nth, 10);
            world.settle();
            if stored(&world).contains(&nth) {
                break;
            }
            nth += 1;
        }
        assert!(stored(&world).ends_with(&[4, 5, nth]), "{:?}", stored(&world));
    }
}

/// A network that stands still, a core that is busy with something else: what was sent before the refusals were read comes late,
/// and in the order in which it was sent.
#[test]
fn a_silence_gives_nothing_up() {
    for cores in [1, 2] {
        for silence_us in [2_600_000, 10_000_000, 50_000_000] {
            let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
            let alice = peer(cores - 1, 1);
            for (nth, bytes) in [(1, 3_000), (2, 3_000), (3, 10), (4, 10)] {
                publish_sized(&mut world, alice, nth, bytes);
            }
            world.settle();
            assert_eq!(stored(&world), [1]);
            // Twice: 3 and 4 were on their way when 2 was refused, and again when they were.
            for _ in 0..2 {
                world.pass(silence_us);
                for nth in [3, 4] {
                    publish_sized(&mut world, alice, nth, 10);
                }
                world.settle();
                assert_eq!(stored(&world), [1], "after {silence_us} us");
            }
            for (nth, bytes) in [(2, 3_000), (3, 10), (4, 10)] {
                publish_sized(&mut world, alice, nth, bytes);
                world.settle();
            }
            assert_eq!(stored(&world), [1, 2, 3, 4]);
            assert_eq!(world.refused_events(), 0);
        }
    }
}

/// Its publisher had not heard yet that it is stored, and sent it again; then it had, and does not.
#[test]
fn a_copy_of_what_is_stored_holds_up_nobody() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let alice = peer(cores - 1, 1);
        for (nth, bytes) in [(1, 2_000), (2, 3_000), (1, 2_000)] {
            publish_sized(&mut world, alice, nth, bytes);
        }
        world.settle();
        assert_eq!(stored(&world), [1]);
        for (nth, bytes) in [(2, 3_000), (3, 10)] {
            publish_sized(&mut world, alice, nth, bytes);
            world.settle();
        }
        assert_eq!(stored(&world), [1, 2, 3]);
        assert_eq!(world.refused_events(), 0);
    }
}

/// What comes again while it is under way may be refused twice: it stays in front of what came behind it the first time.
#[test]
fn what_is_under_way_and_comes_again_keeps_its_place() {
    let mut world = World::new(2, 3, Limits::default(), Some(narrow(1, 4_000)));
    let (alice, owner, home) = (peer(1, 1), 0, 1);
    publish_sized(&mut world, alice, 1, 3_000);
    while world.carry(home, owner) {}
    // 2 is refused; 3 is on its way behind it, when it comes again behind 4, as all does that a session sends again.
    publish_sized(&mut world, alice, 2, 3_000);
    publish_sized(&mut world, alice, 3, 10);
    world.carry(home, owner);
    while world.carry(owner, home) {}
    publish_sized(&mut world, alice, 4, 10);
    publish_sized(&mut world, alice, 3, 10);
    world.settle();
    for (nth, bytes) in [(4, 10), (2, 3_000), (4, 10), (3, 10), (4, 10)] {
        publish_sized(&mut world, alice, nth, bytes);
        world.settle();
    }
    assert_eq!(stored(&world), [1, 2, 3, 4]);
    assert_eq!(world.refused_events(), 0);
}

/// One is told five seconds, another a fifth of one: of a silence counts for each what its publisher was told.
#[test]
fn a_long_pause_for_one_topic_is_no_patience_lost_for_another() {
    let mut settings = narrow(1, 4_000);
    settings.once_ids_max = 1;
    let once = LoggedPublish { once: true, ..ACKED };
    for silence_us in [3_000_000, 20_000_000] {
        let mut world = World::new(1, 3, Limits::default(), Some(settings.clone()));
        let alice = peer(0, 1);
        world.publish(alice, &[("c", 1)], once);
        world.settle();
        publish_sized(&mut world, alice, 2, 3_000);
        publish_sized(&mut world, alice, 3, 3_000); // refused for 200 ms
        world.publish(alice, &[("b", 4)], once); // for 5 s
        world.settle();
        world.pass(silence_us);
        publish_sized(&mut world, alice, 5, 10);
        world.settle();
        assert_eq!(stored(&world), [1, 2], "5 comes behind 3");
        for (nth, bytes) in [(3, 3_000), (5, 10)] {
            publish_sized(&mut world, alice, nth, bytes);
            world.settle();
        }
        assert_eq!(stored(&world), [1, 2, 3, 5]);
    }
}

/// Who was refused something and is there, but says nothing, does not take the room of others for ever.
#[test]
fn what_was_refused_of_the_silent_is_forgotten() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let alice = peer(cores - 1, 1);
        for nth in [1, 2] {
            publish_sized(&mut world, alice, nth, 3_000);
        }
        world.settle();
        world.pass(599_000_000);
        assert!(world.refused_events() > 0);
        world.pass(2_000_000);
        assert_eq!(world.refused_events(), 0);
    }
}

/// A publisher that was told to let five seconds pass does: what is given up meanwhile does not hold up its topic for minutes.
#[test]
fn who_obeys_a_long_pause_waits_no_longer_than_who_obeys_a_short_one() {
    let mut settings = narrow(1, 400_000);
    (settings.once_ids_max, settings.once_ms) = (1, 2_000);
    let once = LoggedPublish { once: true, ..ACKED };
    let mut world = World::new(1, 3, Limits::default(), Some(settings));
    let alice = peer(0, 1);
    world.publish(alice, &events("a", 1..2), once);
    world.publish(alice, &events("a", 2..3), once); // refused, and never comes again
    world.publish(alice, &events("a", 3..4), once);
    world.settle();
    assert_eq!(stored(&world), [1]);
    assert!(world.refusals.iter().all(|(.., retry)| *retry == Some(5_000)));
    for round in 1..=3 {
        world.pass(5_000_000);
        world.publish(alice, &events("a", 3..4), once);
        world.settle();
        assert_eq!(stored(&world).contains(&3), round >= 2, "after {} s", 5 * round);
    }
}

/// No event is sent again for as long as patience lasts, so whatever is at the front when it ends is dead, too.
#[test]
fn events_that_are_given_up_one_after_the_other_hold_up_nobody_for_ever() {
    const LIFE_US: u64 = 600_000;
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let alice = peer(cores - 1, 1);
        publish_sized(&mut world, alice, 1, 3_000);
        publish_sized(&mut world, alice, 2, 3_000); // refused, and lost
        world.settle();
        assert_eq!(stored(&world), [1]);
        // Published when, and to be sent again when.
        let mut open: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut nth = 2;
        for _ in 0..200 {
            world.pass(100_000);
            world.settle();
            let now_us = world.now_us;
            open.retain(|_, (published_us, _)| now_us - *published_us < LIFE_US);
            nth += 1;
            open.insert(nth, (now_us, now_us));
            let due: Vec<u64> = open
                .iter()
                .filter(|(_, (_, due_us))| *due_us <= now_us)
                .map(|(nth, _)| *nth)
                .collect();
            world.refusals.clear();
            for nth in due {
                publish_sized(&mut world, alice, nth, 10);
            }
            world.settle();
            for (_, nth, retry_ms) in std::mem::take(&mut world.refusals) {
                if let Some((_, due_us)) = open.get_mut(&nth) {
                    *due_us = now_us + u64::from(retry_ms.unwrap()) * 1_000;
                }
            }
            for nth in world.stored.values() {
                open.remove(nth);
            }
        }
        let stored = stored(&world);
        assert!(
            stored.len() > 100,
            "{} of 200 were stored: {stored:?}",
            stored.len()
        );
        assert_eq!(stored.last(), Some(&nth));
        // Those that were alive when all were given up may have come in any order.
        let descents = stored.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!(descents <= 6, "{stored:?}");
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn topics_of_a_partition_do_not_wait_for_one_another() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let alice = peer(cores - 1, 1);
        let topic = |nth: u64| TOPICS[nth as usize % 2];
        publish_sized(&mut world, alice, 1, 3_000);
        publish_to(&mut world, alice, topic(2), 2, 3_000);
        for nth in 3..=9 {
            publish_to(&mut world, alice, topic(nth), nth, 10);
        }
        // Nothing of this topic was refused, but it was on its way behind what was.
        publish_to(&mut world, alice, "c.d", 10, 10);
        world.settle();
        // All of one topic, and then all of the other: each topic in its order.
        world.refusals.clear();
        let open: Vec<u64> = (2..=10).filter(|nth| !stored(&world).contains(nth)).collect();
        assert!(open.len() >= 4, "{open:?}");
        for of in [TOPICS[1], TOPICS[0], "c.d"] {
            for &nth in &open {
                let its = if nth == 10 { "c.d" } else { topic(nth) };
                if its == of {
                    publish_to(&mut world, alice, its, nth, 10);
                }
            }
        }
        world.settle();
        assert_eq!(world.refusals, [], "each had its turn at once");
        let stored = stored(&world);
        assert_eq!(stored.len(), 10);
        for parity in [0, 1] {
            let its = stored.iter().filter(|nth| **nth < 10 && **nth % 2 == parity);
            assert!(its.is_sorted(), "{stored:?}");
        }
        assert_eq!(world.refused_events(), 0);
    }
}

#[test]
fn nothing_is_kept_of_who_is_gone_and_others_are_not_held_up() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, Limits::default(), Some(narrow(1, 4_000)));
        let (alice, bob) = (peer(cores - 1, 1), peer(cores - 1, 2));
        publish_sized(&mut world, alice, 1, 3_000);
        publish_sized(&mut world, alice, 2, 3_000);
        publish_sized(&mut world, bob, 3, 10);
        world.settle();
        assert_eq!(stored(&world), [1, 3]);
        world.lose(alice);
        world.settle();
        assert_eq!(world.refused_events(), 0);
    }
}

#[test]
fn what_can_never_be_stored_holds_up_nothing() {
    let mut settings = in_memory(1);
    settings.rows_max = 1;
    let mut world = World::new(1, 3, Limits::default(), Some(settings));
    let alice = peer(0, 1);
    let retained = LoggedPublish {
        retain: true,
        ..ACKED
    };
    for nth in 1..=2 {
        let event = event_with("a", nth, MetaWriter::new().text("key", &nth.to_string()), &[1]);
        world.shard(alice).publish_logged(alice, "a", &event, retained);
        world.shard(alice).flush_run();
    }
    world.publish(alice, &events("a", 3..4), ACKED);
    world.settle();
    assert_eq!(stored(&world), [1, 3]);
    assert_eq!(world.refusals, [(alice, 2, None)]);
}

/// A publisher that has many events under way and sends again what is refused, as it likes.
struct Publisher {
    peer: PeerId,
    /// Told to have been stored.
    acked: BTreeSet<u64>,
    unacked: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    sent_again_us: u64,
}

const TOPICS: [&str; 5] = ["a", "b", "c.d", "e", "f"];

struct Play {
    world: World,
    dice: Dice,
    publishers: Vec<Publisher>,
    topics: BTreeMap<u64, &'static str>,
    owners: BTreeMap<u64, usize>,
    nth: u64,
    next_slot: u32,
    once: bool,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let cores = 1 + dice.below(3) as u16;
        let mut settings = narrow(dice.of(&[1, 2, 4]), dice.of(&[700, 2_000, 8_000]));
        settings.topics[0].level = Some(dice.of(&[Level::Memory, Level::Written, Level::Synced]));
        settings.segment_bytes = 256 * 1024;
        let once = dice.one_in(2);
        if once {
            settings.once_ids_max = dice.of(&[30, 10_000]);
            settings.once_ms = 300;
        }
        let publishers = (0..cores)
            .flat_map(|core| [peer(core, 1), peer(core, 2)])
            .map(|peer| Publisher {
                peer,
                acked: BTreeSet::new(),
                unacked: BTreeSet::new(),
                refused: BTreeSet::new(),
                sent_again_us: 0,
            })
            .collect();
        Self {
            world: World::new(cores, seed, Limits::default(), Some(settings)),
            dice,
            publishers,
            topics: BTreeMap::new(),
            owners: BTreeMap::new(),
            nth: 0,
            next_slot: 3,
            once,
        }
    }

    fn step(&mut self) {
        match self.dice.below(16) {
            0..4 => self.publish_new(),
            4..6 => {
                let who = self.dice.below(self.publishers.len());
                self.send_again(who);
            }
            6 if self.dice.one_in(8) => self.reconnect(),
            6 if self.dice.one_in(4) => self.resume(),
            7 if self.dice.one_in(4) => {
                let core = self.dice.below(self.world.cores());
                self.world.disks[core].is_full ^= true;
            }
            8 => {
                // Nobody is so slow that it is given up.
                for who in 0..self.publishers.len() {
                    if self.world.now_us - self.publishers[who].sent_again_us > 500_000 {
                        self.send_all_again(who);
                    }
                }
                let us = self.dice.of(&[1, 1_000, 100_000]);
                self.world.pass(us);
            }
            9..12 => {
                let core = self.dice.below(self.world.cores());
                self.world.work(core);
            }
            _ => self.world.carry_some(&mut self.dice),
        }
        self.look();
    }

    fn send(&mut self, who: usize, numbers: &[u64]) {
        let peer = self.publishers[who].peer;
        let how = LoggedPublish {
            once: self.once,
            ..ACKED
        };
        // A run has to fit into what the log takes at once.
        for numbers in numbers.chunks(6) {
            let events: Vec<_> = numbers.iter().map(|nth| (self.topics[nth], *nth)).collect();
            self.world.publish(peer, &events, how);
        }
    }

    fn publish_new(&mut self) {
        let who = self.dice.below(self.publishers.len());
        let mut numbers = Vec::new();
        for _ in 0..=self.dice.below(6) {
            self.nth += 1;
            self.topics.insert(self.nth, self.dice.of(&TOPICS));
            self.owners.insert(self.nth, who);
            numbers.push(self.nth);
        }
        self.publishers[who].unacked.extend(&numbers);
        self.send(who, &numbers);
    }

    /// Some of what was refused, in some order.
    fn send_again(&mut self, who: usize) {
        let mut numbers: Vec<u64> = self.publishers[who].refused.iter().copied().collect();
        match self.dice.below(4) {
            0 => numbers.truncate(1 + self.dice.below(3)),
            1 => numbers.reverse(),
            2 if !numbers.is_empty() => numbers = vec![self.dice.of(&numbers)],
            _ => return self.send_all_again(who),
        }
        for nth in &numbers {
            self.publishers[who].refused.remove(nth);
        }
        self.send(who, &numbers);
    }

    fn send_all_again(&mut self, who: usize) {
        let publisher = &mut self.publishers[who];
        publisher.sent_again_us = self.world.now_us;
        let numbers: Vec<u64> = std::mem::take(&mut publisher.refused).into_iter().collect();
        self.send(who, &numbers);
    }

    /// A publisher's connection breaks; it comes back, perhaps elsewhere, and sends again all that is not acknowledged.
    fn reconnect(&mut self) {
        let who = self.dice.below(self.publishers.len());
        self.world.lose(self.publishers[who].peer);
        self.look();
        let core = self.dice.below(self.world.cores()) as u16;
        self.next_slot += 1;
        let publisher = &mut self.publishers[who];
        publisher.peer = peer(core, self.next_slot);
        publisher.refused.clear();
        let numbers: Vec<u64> = publisher.unacked.iter().copied().collect();
        self.send(who, &numbers);
    }

    /// A publisher's session goes on, on another connection: all that is not acknowledged is sent again, though it may be under way.
    fn resume(&mut self) {
        let who = self.dice.below(self.publishers.len());
        self.publishers[who].refused.clear();
        let numbers: Vec<u64> = self.publishers[who].unacked.iter().copied().collect();
        self.send(who, &numbers);
    }

    fn look(&mut self) {
        for (peer, nth, retry) in std::mem::take(&mut self.world.refusals) {
            let publisher = &mut self.publishers[self.owners[&nth]];
            assert!(retry.is_some());
            if publisher.peer == peer && publisher.unacked.contains(&nth) {
                publisher.refused.insert(nth);
            }
        }
        for nth in self.world.stored.values() {
            let publisher = &mut self.publishers[self.owners[nth]];
            publisher.unacked.remove(nth);
            publisher.refused.remove(nth);
            publisher.acked.insert(*nth);
        }
        self.world.again.clear();
    }

    fn finish(mut self) {
        for disk in &mut self.world.disks {
            disk.is_full = false;
        }
        for _ in 0..400 {
            for who in 0..self.publishers.len() {
                self.send_all_again(who);
            }
            self.world.settle();
            self.look();
            self.world.pass(100_000);
            self.world.settle();
            self.look();
            if self
                .publishers
                .iter()
                .all(|publisher| publisher.unacked.is_empty())
            {
                break;
            }
        }
        for publisher in &self.publishers {
            assert!(publisher.unacked.is_empty(), "{:?}", publisher.unacked);
        }
        let mut last: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (at, nth) in &self.world.stored {
            // What came again on another connection may be there twice; the first counts.
            let way = (self.owners[nth], self.topics[nth]);
            let last = last.entry(way).or_default();
            assert!(
                *nth > *last || known.contains(nth),
                "{nth} at {at:?} behind {last}"
            );
            known.insert(*nth);
            *last = *nth.max(last);
        }
        // What was sent twice, and refused the second time, does not come again; publishers that are heard pass it in the end.
        for round in 0..100 {
            if self.world.refused_events() == 0 {
                break;
            }
            for who in 0..self.publishers.len() {
                self.nth += 1;
                self.topics.insert(self.nth, TOPICS[round % TOPICS.len()]);
                self.owners.insert(self.nth, who);
                self.publishers[who].unacked.insert(self.nth);
                self.send(who, &[self.nth]);
            }
            self.world.settle();
            self.look();
            for _ in 0..20 {
                if self
                    .publishers
                    .iter()
                    .all(|publisher| publisher.refused.is_empty())
                {
                    break;
                }
                for who in 0..self.publishers.len() {
                    self.send_all_again(who);
                }
                self.world.settle();
                self.look();
            }
            self.world.pass(2_000_000);
        }
        for shard in &self.world.shards {
            assert_eq!(shard.counts().refused_events, 0);
        }
    }
}

#[test]
fn each_publishers_events_keep_their_order() {
    let (first, count) = match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed, 1),
        None => (0, 500),
    };
    for seed in first..first + count {
        let played = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed);
            for _ in 0..300 {
                play.step();
            }
            play.finish();
        });
        if let Err(panic) = played {
            eprintln!("SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}

/// What is published at qos 0 to a plain subscription while something at qos 1 is not flushed does not let it overtake.
#[test]
fn what_is_committed_meanwhile_is_told_before_what_is_appended_later() {
    use crate::world::{Told, WISH, id};
    let mut world = World::new(2, 3, Limits::default(), Some(in_memory(1)));
    let (alice, bob, carol) = (peer(0, 1), peer(1, 1), peer(0, 2));
    assert_eq!(partition_of("a", 1), 0);
    world.subscribe(carol, id(1), "a", WISH).unwrap();
    world.shard(carol).subscribe(carol, id(2), "a", None).unwrap();
    world.settle();
    world.take(carol, id(1));
    let event = event_with("a", 2, MetaWriter::new(), &[1]);
    world.shard(alice).publish_logged(alice, "a", &event, ACKED);
    world.publish(bob, &events("a", 1..2), ACKED);
    world.carry(1, 0);
    world.shard(alice).flush_run();
    world.settle();
    let told = world.take(carol, id(1)).into_iter();
    let got: Vec<_> = told
        .map(|told| match told {
            Told::Got(got) => (got.offset, got.nth),
            told => panic!("{told:?}"),
        })
        .collect();
    assert_eq!(got, [(1, 1), (2, 2)]);
}
