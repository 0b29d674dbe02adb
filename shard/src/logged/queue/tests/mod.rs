//! What queues promise: by a model over thousands of seeds, and each promise once in plain sight.

mod alarms;
mod aside;
mod fake_log;
mod model;
mod places;
mod sharing;

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

/// A topic that lies on one of two cores.
fn topic_on(core: u16, prefix: &str) -> &'static str {
    let mut names = (0..).map(|nth| format!("{prefix}.{nth}"));
    let name = names.find(|name| owner_of(partition_of(name, PARTITIONS), 2) == core);
    name.unwrap().leak()
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
