//! Gateways with a log ([`crate::logged`]): many short lives; small ones that are ended at each operation of their disk; and planted faults, which the auditor has
//! to catch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::logged::auditor::Broken;
use crate::logged::life::{Life, live_everywhere};
use crate::logged::plan::Plan;
use crate::logged::seam::Fault;
use crate::logged::totals::Totals;
use crate::under_seeds;

/// Lives until a planted fault is caught, at most.
const LIVES_MOST: u64 = 300;

/// What came of a life in which every promise has to be kept.
fn kept<Told>(outcome: Result<Told, Box<Broken>>) -> Told {
    outcome.unwrap_or_else(|broken| panic!("{broken}"))
}

#[test]
fn what_the_log_promises_holds_whatever_befalls_it() {
    let live = |seed| kept(Life::new(seed, Plan::of_seed(seed), None).live()).0;
    if let Some(total) = under_seeds("short lives of a log", 1_400, live, Totals::add) {
        assert!(
            total.given > 0 && total.power_cuts > 0 && total.worked_again > 0 && total.told_damaged > 0,
            "the towns were asleep: {total:?}"
        );
    }
}

#[test]
fn what_the_log_promises_holds_when_starts_take_seconds_and_cores_stand_still() {
    let live = |seed| kept(Life::new(seed, Plan::slow(seed), None).live()).0;
    if let Some(total) = under_seeds("slow starts of a log", 80, live, Totals::add) {
        assert!(
            total.refused > total.published && total.given_up > 0 && total.stalls > 0,
            "the towns were asleep: {total:?}"
        );
    }
}

#[test]
fn what_the_log_promises_holds_wherever_its_gateway_ends() {
    let live = |seed| kept(live_everywhere(seed));
    if let Some(total) = under_seeds("an end at every operation", 3, live, Totals::add) {
        assert!(total.power_cuts > 100, "the towns were asleep: {total:?}");
    }
}

#[test]
fn each_planted_fault_is_caught() {
    for fault in Fault::ALL {
        let mut struck = 0;
        let caught = (0..LIVES_MOST).find(|&seed| {
            let life = Life::new(seed, Plan::of_seed(seed), Some(fault));
            match catch_unwind(AssertUnwindSafe(|| life.live())) {
                Ok(Ok((totals, _))) => {
                    struck += totals.struck;
                    false
                }
                // A gateway that notices itself has noticed, too.
                Ok(Err(_)) | Err(_) => true,
            }
        });
        println!("{fault:?}: caught by seed {caught:?}");
        assert!(
            caught.is_some(),
            "{fault:?} struck {struck} times, and nobody noticed"
        );
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    let same = |seed, plan: fn(u64) -> Plan| {
        let live = || {
            let (totals, digest) = kept(Life::new(seed, plan(seed), None).live());
            (format!("{totals:?}"), digest)
        };
        assert_eq!(live(), live(), "seed {seed}");
    };
    for seed in 0..6 {
        same(seed, Plan::of_seed);
    }
    for seed in 0..2 {
        same(seed, Plan::slow);
    }
}
