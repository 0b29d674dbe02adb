//! Whole gateways on a virtual clock and a seeded network: real workers, sessions, shards and reactors; simulated
//! sockets, clients and misfortunes. An auditor holds what was promised.
//!
//! Each test runs many seeds and prints the one that fails; `SIM_SEED=n cargo test -p fluxar-tests --test simulation`
//! replays it alone, `SIM_SEEDS=n` runs so many instead of the default.
#![forbid(unsafe_code)]

mod actor;
mod auditor;
mod fleet;
mod lives;
mod logged;
mod machine;
mod resume;
mod session;
mod town;
mod wire;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fluxar_engine::sim::Faults;

use town::{Plan, Town};

/// Lives under seeds, says which one failed, and returns what came of all together; `None` of a single one.
fn under_seeds<Totals: Default + Debug>(
    name: &str,
    default_seeds: u64,
    live: impl Fn(u64) -> Totals,
    add: fn(&mut Totals, &Totals),
) -> Option<Totals> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let only = number("SIM_SEED");
    let count = number("SIM_SEEDS").unwrap_or(default_seeds);
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    let mut total = Totals::default();
    for seed in seeds.clone() {
        match catch_unwind(AssertUnwindSafe(|| live(seed))) {
            Ok(totals) => add(&mut total, &totals),
            Err(panic) => {
                eprintln!("{name}: seed {seed} failed; SIM_SEED={seed} replays it");
                resume_unwind(panic);
            }
        }
    }
    println!("{name}: seeds {seeds:?}: {total:?}");
    only.is_none().then_some(total)
}

fn towns_under_seeds(name: &str, default_seeds: u64, plan: impl Fn(u64) -> Plan) {
    let live = |seed| Town::new(seed, plan(seed)).live().0;
    if let Some(total) = under_seeds(name, default_seeds, live, auditor::Totals::add) {
        assert!(
            total.events > 0 && total.answers > 0,
            "{name}: the town was asleep: {total:?}"
        );
    }
}

fn fleets_under_seeds(name: &str, default_seeds: u64, plan: impl Fn(u64) -> fleet::Plan) {
    let live = |seed| fleet::Fleet::new(seed, plan(seed)).live();
    if let Some(total) = under_seeds(name, default_seeds, live, fleet::Totals::add) {
        assert!(
            total.answered > 0 && total.recoveries > 0,
            "{name}: the fleet was asleep: {total:?}"
        );
    }
}

#[test]
fn nothing_is_lost_repeated_or_reordered_when_the_network_is_unkind() {
    towns_under_seeds("wild", 300, |seed| Plan {
        cores: 1 + (seed % 3) as usize,
        faults: Faults::wild(),
        mailbox_letters: if seed % 2 == 0 { 4 } else { 64 },
        ..Plan::default()
    });
}

#[test]
fn what_is_dropped_for_slow_readers_is_counted_and_told_to_them_exactly() {
    towns_under_seeds("slow readers", 300, |seed| Plan {
        cores: 1 + (seed % 2) as usize,
        faults: Faults {
            buffers: 64,
            ..Faults::wild()
        },
        queue_bytes: 6_000,
        slow_readers: true,
        ..Plan::default()
    });
}

#[test]
fn promises_hold_and_nothing_leaks_when_connections_die_and_peers_misbehave() {
    towns_under_seeds("brutal", 300, |seed| Plan {
        cores: 1 + (seed % 3) as usize,
        faults: Faults::brutal(),
        mailbox_letters: if seed % 2 == 0 { 4 } else { 64 },
        deaths: true,
        mischief: true,
        slow_readers: seed % 3 == 0,
        queue_bytes: if seed % 3 == 0 { 6_000 } else { 1 << 20 },
    });
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..5 {
        let plan = || Plan {
            cores: 2,
            faults: Faults::wild(),
            ..Plan::default()
        };
        let (_, first) = Town::new(seed, plan()).live();
        let (_, second) = Town::new(seed, plan()).live();
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn a_fleet_keeps_its_promises_in_many_short_lives() {
    fleets_under_seeds("short lives of a fleet", 2_000, |seed| fleet::Plan {
        cores: 1 + (seed % 3) as usize,
        faults: fleet::faults(seed.is_multiple_of(2)),
        services: 3 + (seed % 6) as usize,
        callers: 1,
        call_every_us: 20_000,
        streamers: 1,
        for_ms: 500,
        misfortune_every_ms: 300,
    });
}

#[test]
fn a_fleet_of_eight_keeps_its_promises_for_ten_minutes() {
    fleets_under_seeds("a long life of a fleet", 1, |_| fleet::Plan {
        cores: 2,
        faults: fleet::faults(true),
        services: 8,
        callers: 4,
        call_every_us: 40_000,
        streamers: 2,
        for_ms: 600_000,
        misfortune_every_ms: 2_500,
    });
}
