//! What nobody can handle is set aside, and what counts as given.

use super::*;

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
