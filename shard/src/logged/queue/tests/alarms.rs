//! The alarms of queues: one for each of their partitions at most, however often an earlier one is set.

use super::model::{QueueKey, Town};
use super::{held, let_expire};
use crate::limits::QUEUES_RESTING_MAX;
use crate::logged::letters::Start;

#[test]
fn an_alarm_that_is_set_anew_replaces_the_one_before() {
    let mut town = Town::new(1, 1, false, Vec::new());
    let member = town.join(0, ("c", "g"), 10, Start::All);
    let mut most = 0;
    for _ in 0..200 {
        // Its deadline is a second away, and the cursor is due a fifth of one after each acknowledgement.
        town.publish("c", 1, None);
        town.settle();
        town.acknowledge(member, &held(&town, member));
        town.pass(50);
        most = most.max(town.queues[0].alarms().0);
    }
    assert_eq!(most, 1, "it has one partition");
    // What is still set rings.
    town.publish("c", 1, None);
    town.settle();
    let other = town.join(0, ("c", "g"), 10, Start::All);
    let places = held(&town, member);
    let_expire(&mut town);
    assert_eq!(held(&town, other), places);
    town.finish();
}

#[test]
fn the_alarms_of_forgotten_queues_go_with_them() {
    let mut town = Town::new(1, 1, false, Vec::new());
    town.publish("c", 1, None);
    town.settle();
    // Many at a time, since all that are there are looked at when the disk has synced.
    for first in (0..QUEUES_RESTING_MAX + 50).step_by(1024) {
        let join = |nth| {
            let group: &'static str = Box::leak(format!("g{nth}").into_boxed_str());
            let queue: QueueKey = ("c", group);
            town.join(0, queue, 1, Start::All)
        };
        let members: Vec<_> = (first..first + 1024).map(join).collect();
        town.settle();
        for member in members {
            assert_eq!(held(&town, member).len(), 1, "which has a deadline");
            town.lose(member);
        }
        town.fates.clear();
    }
    let (alarms, lots) = town.queues[0].alarms();
    assert!(lots <= QUEUES_RESTING_MAX, "{lots}");
    assert!(alarms <= lots, "{alarms} alarms of {lots} partitions");
}
