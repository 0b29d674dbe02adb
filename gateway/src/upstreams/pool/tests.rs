//! The pool by itself: what it dials, when it dials again, and what a change of the configuration keeps.

use fluxar_engine::driver::Token;

use super::*;

fn conn(slot: u32) -> Conn {
    Conn(Token { slot, generation: 1 })
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        address: Address::parse(url).expect("an address"),
        text: url.into(),
        weight: 1,
        zone: None,
        in_flight_max: u32::MAX,
        drain: false,
    }
}

fn services(urls: &[&str], connections: u32) -> Services {
    Services {
        upstreams: vec![Upstream {
            name: "users".into(),
            endpoints: urls.iter().map(|url| endpoint(url)).collect(),
            methods: vec!["users.*".into()],
            connections,
            resolve_ms: 1_000,
            connect_ms: 1_000,
        }],
        ..Services::default()
    }
}

fn reconcile(pool: &mut Pool, services: &Services, now_ms: u64) -> Vec<Wish> {
    let mut wishes = Vec::new();
    assert_eq!(pool.reconcile(services, now_ms, &mut wishes), 0);
    wishes
}

fn expire(pool: &mut Pool, now_ms: u64) -> Vec<Wish> {
    let mut wishes = Vec::new();
    pool.expire(now_ms, &mut wishes);
    wishes
}

/// Dials what is due and opens it, each as the connection of its link's number.
fn open_all(pool: &mut Pool, now_ms: u64) -> Vec<u32> {
    let mut opened = Vec::new();
    for wish in expire(pool, now_ms) {
        let Wish::Dial(link) = wish else {
            panic!("{wish:?}")
        };
        pool.dialled(link, conn(link));
        pool.opened(link, conn(link), now_ms);
        opened.push(link);
    }
    opened
}

fn resolved(endpoint: &str, addresses: &[&str]) -> Arc<Resolved> {
    Arc::new(Resolved {
        upstream: "users".into(),
        endpoint: endpoint.into(),
        addresses: addresses
            .iter()
            .map(|address| Address::parse(address).expect("an address"))
            .collect(),
    })
}

const A: &str = "tcp://127.0.0.1:1";
const B: &str = "tcp://127.0.0.1:2";

#[test]
fn each_endpoint_is_dialled_so_often_and_nothing_is_due_once_all_are_open() {
    let mut pool = Pool::new(0, 1);
    assert!(reconcile(&mut pool, &services(&[A, B], 3), 5).is_empty());
    assert_eq!(pool.due_ms(), Some(5));
    assert_eq!(open_all(&mut pool, 5), [0, 1, 2, 3, 4, 5]);
    assert_eq!(pool.due_ms(), None);
    assert!(reconcile(&mut pool, &services(&[A, B], 3), 6).is_empty());
    assert_eq!(pool.due_ms(), None);
}

#[test]
fn the_pauses_double_by_lot_up_to_a_bound_and_begin_anew_behind_a_proof() {
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[A], 1), 0);
    let mut now_ms = 0;
    for failure in 0..12 {
        assert_eq!(expire(&mut pool, now_ms), [Wish::Dial(0)]);
        pool.dialled(0, conn(0));
        let most_ms = (PAUSE_MS_LEAST << failure).min(PAUSE_MS_MOST);
        let lot = if failure % 2 == 0 { 0 } else { most_ms / 2 };
        pool.lost(0, Some(conn(0)), None, lot, now_ms);
        let due_ms = pool.due_ms().expect("it is dialled again");
        assert_eq!(due_ms - now_ms, most_ms / 2 + lot);
        assert!(expire(&mut pool, due_ms - 1).is_empty());
        now_ms = due_ms;
    }
    // A short life proves nothing.
    assert_eq!(open_all(&mut pool, now_ms), [0]);
    now_ms += PROVED_MS - 1;
    pool.lost(0, Some(conn(0)), None, 0, now_ms);
    assert_eq!(pool.due_ms(), Some(now_ms + PAUSE_MS_MOST / 2));
    now_ms += PAUSE_MS_MOST;
    assert_eq!(open_all(&mut pool, now_ms), [0]);
    now_ms += PROVED_MS;
    pool.lost(0, Some(conn(0)), None, 0, now_ms);
    assert_eq!(pool.due_ms(), Some(now_ms + PAUSE_MS_LEAST / 2));
}

#[test]
fn a_goodbye_says_when_to_come_back_within_bounds() {
    for (asked_ms, waited_ms) in [
        (5_000, 5_000),
        (1, PAUSE_MS_LEAST / 2),
        (u32::MAX, u64::from(RETRY_AFTER_MS_MOST)),
    ] {
        let mut pool = Pool::new(0, 1);
        reconcile(&mut pool, &services(&[A], 1), 0);
        open_all(&mut pool, 0);
        pool.lost(0, Some(conn(0)), Some(asked_ms), 0, 0);
        assert_eq!(pool.due_ms(), Some(waited_ms));
    }
}

#[test]
fn the_end_of_an_earlier_connection_does_not_disturb_the_one_that_took_its_place() {
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[A], 1), 0);
    expire(&mut pool, 0);
    pool.dialled(0, conn(7));
    pool.lost(0, Some(conn(8)), None, 0, 1);
    assert!(pool.is(0, conn(7)) && pool.due_ms().is_none());
    pool.lost(0, Some(conn(7)), None, 0, 1);
    let due_ms = pool.due_ms();
    assert!(due_ms.is_some());
    pool.lost(0, Some(conn(7)), None, 0, 9);
    assert_eq!(pool.due_ms(), due_ms);
}

#[test]
fn what_is_no_longer_wanted_leaves_when_it_is_done_and_the_rest_is_left_alone() {
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[A, B], 1), 0);
    open_all(&mut pool, 0);
    let finish = |overdue| Wish::Finish {
        conn: conn(0),
        overdue,
    };
    let wishes = reconcile(&mut pool, &services(&[B], 1), 10);
    assert_eq!(wishes, [Wish::Detach(conn(0)), finish(false)]);
    assert_eq!(expire(&mut pool, 10), [finish(false)]);
    assert_eq!(pool.due_ms(), Some(10 + LEAVE_LOOK_MS));
    // Wanted again before it was done: it stays, on the terms of now.
    let wishes = reconcile(&mut pool, &services(&[A, B], 1), 20);
    assert_eq!(wishes, [Wish::Attach(0, conn(0))]);
    reconcile(&mut pool, &services(&[B], 1), 30);
    assert_eq!(expire(&mut pool, 30 + LEAVE_MS), [finish(true)]);
    pool.lost(0, Some(conn(0)), None, 0, 31 + LEAVE_MS);
    assert!(pool.get(0).is_none() && pool.due_ms().is_none());
}

#[test]
fn what_is_dialled_or_waits_is_dropped_at_once_when_it_is_no_longer_wanted() {
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[A, B], 1), 0);
    // What was said about them is forgotten with them.
    let forget = |link, name: &str| Wish::Forget {
        link,
        upstream: "users".into(),
        name: name.into(),
    };
    assert_eq!(reconcile(&mut pool, &services(&[B], 1), 0), [forget(0, A)]);
    assert_eq!(expire(&mut pool, 0), [Wish::Dial(1)]);
    pool.dialled(1, conn(1));
    let wishes = reconcile(&mut pool, &services(&[], 1), 0);
    assert_eq!(wishes, [forget(1, B), Wish::Abort(conn(1))]);
    pool.lost(1, Some(conn(1)), None, 0, 0);
    assert!(pool.due_ms().is_none());
}

#[test]
fn other_terms_are_told_without_a_new_connection() {
    let mut pool = Pool::new(0, 1);
    let mut wanted = services(&[A], 1);
    reconcile(&mut pool, &wanted, 0);
    open_all(&mut pool, 0);
    wanted.upstreams[0].endpoints[0].weight = 4;
    assert_eq!(reconcile(&mut pool, &wanted, 1), [Wish::Attach(0, conn(0))]);
    wanted.upstreams[0].endpoints[0].drain = true;
    assert_eq!(reconcile(&mut pool, &wanted, 2), [Wish::Stand(0, conn(0))]);
    assert!(pool.get(0).expect("a link").is_draining());
    wanted.upstreams[0].endpoints[0].drain = false;
    assert_eq!(reconcile(&mut pool, &wanted, 3), [Wish::Stand(0, conn(0))]);
    assert!(reconcile(&mut pool, &wanted, 4).is_empty());
}

#[test]
fn a_drain_by_an_administrator_outlives_connections_and_reloads() {
    let mut pool = Pool::new(0, 1);
    let wanted = services(&[A, B], 1);
    reconcile(&mut pool, &wanted, 0);
    open_all(&mut pool, 0);
    let mut wishes = Vec::new();
    assert_eq!(pool.drain("nobody", true, &mut wishes), 0);
    assert_eq!(pool.drain("users", true, &mut wishes), 2);
    assert_eq!(pool.drain(B, false, &mut wishes), 1);
    let stand = |link| Wish::Stand(link, conn(link));
    assert_eq!(wishes, [stand(0), stand(1), stand(1)]);
    pool.lost(0, Some(conn(0)), None, 0, 1);
    assert_eq!(open_all(&mut pool, 1_000), [0]);
    reconcile(&mut pool, &wanted, 2_000);
    assert!(pool.get(0).expect("a link").is_draining());
    assert!(!pool.get(1).expect("a link").is_draining());
}

#[test]
fn names_are_dialled_at_all_their_addresses_and_follow_them() {
    const NAME: &str = "tcp://users.internal:9000";
    let mut pool = Pool::new(0, 1);
    let wanted = services(&[NAME], 1);
    reconcile(&mut pool, &wanted, 0);
    assert_eq!(pool.due_ms(), None, "nothing is known of it yet");
    let first = resolved(NAME, &["tcp://10.0.0.1:9000", "tcp://10.0.0.2:9000"]);
    assert!(pool.resolve(Arc::clone(&first)));
    assert!(!pool.resolve(first));
    reconcile(&mut pool, &wanted, 0);
    assert_eq!(open_all(&mut pool, 0), [0, 1]);
    assert_eq!(
        &*pool.get(0).expect("a link").name(),
        "tcp://users.internal:9000 (10.0.0.1)"
    );
    assert!(pool.resolve(resolved(NAME, &["tcp://10.0.0.2:9000", "tcp://10.0.0.3:9000"])));
    let wishes = reconcile(&mut pool, &wanted, 1);
    assert_eq!(wishes[0], Wish::Detach(conn(0)));
    assert!(!wishes.contains(&Wish::Detach(conn(1))));
    assert!(expire(&mut pool, 1).contains(&Wish::Dial(2)));
    // An upstream that is gone is forgotten with its addresses.
    reconcile(&mut pool, &Services::default(), 2);
    assert!(pool.resolved.is_empty());
}

#[test]
fn there_is_a_bound_and_who_stops_dials_nobody() {
    let mut pool = Pool::new(0, 1);
    let mut wishes = Vec::new();
    let without_room = pool.reconcile(&services(&[A, B], 3_000), 0, &mut wishes);
    assert_eq!(without_room, 6_000 - LINKS_MAX);
    pool.stop();
    assert!(pool.due_ms().is_none() && expire(&mut pool, 1).is_empty());
}

#[test]
fn a_drained_endpoint_stays_so_whatever_links_come_until_it_is_not_configured() {
    const NAME: &str = "tcp://users.internal:9000";
    let draining = |pool: &Pool| -> Vec<(String, bool)> {
        let links = pool.links.iter().flatten();
        links
            .map(|link| (link.key.address.to_string(), link.is_draining()))
            .collect()
    };
    let at = |address: &str, drains| (format!("tcp://{address}:9000"), drains);
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[NAME, A], 1), 0);
    // Before anything is known of the name.
    assert_eq!(pool.drain(NAME, true, &mut Vec::new()), 1);
    pool.resolve(resolved(NAME, &["tcp://10.0.0.1:9000"]));
    reconcile(&mut pool, &services(&[NAME, A], 1), 0);
    assert_eq!(draining(&pool), [(A.to_owned(), false), at("10.0.0.1", true)]);
    // Another address, and another connection to each.
    pool.resolve(resolved(NAME, &["tcp://10.0.0.2:9000"]));
    reconcile(&mut pool, &services(&[NAME], 2), 0);
    assert_eq!(draining(&pool), [at("10.0.0.2", true), at("10.0.0.2", true)]);
    // It is taken out, and is another's when it comes back.
    reconcile(&mut pool, &services(&[], 1), 0);
    reconcile(&mut pool, &services(&[NAME], 1), 0);
    pool.resolve(resolved(NAME, &["tcp://10.0.0.3:9000", "tcp://10.0.0.4:9000"]));
    reconcile(&mut pool, &services(&[NAME], 1), 0);
    assert_eq!(draining(&pool), [at("10.0.0.3", false), at("10.0.0.4", false)]);
    // One address alone.
    assert_eq!(
        pool.drain(&format!("{NAME} (10.0.0.3)"), true, &mut Vec::new()),
        1
    );
    reconcile(&mut pool, &services(&[NAME], 2), 0);
    let of = |pool: &Pool, drains| draining(pool).iter().filter(|(_, is)| *is == drains).count();
    assert_eq!((of(&pool, true), of(&pool, false)), (2, 2));
    // Whoever ends the draining of all ends that, too.
    assert_eq!(pool.drain("users", false, &mut Vec::new()), 4);
    reconcile(&mut pool, &services(&[NAME], 3), 0);
    assert_eq!(of(&pool, true), 0);
}

#[test]
fn what_the_configuration_drains_an_administrator_does_not_undo() {
    let mut pool = Pool::new(0, 1);
    let mut wanted = services(&[A], 1);
    wanted.upstreams[0].endpoints[0].drain = true;
    reconcile(&mut pool, &wanted, 0);
    assert!(pool.drain_link(0, true) && pool.drain_link(0, false));
    wanted.upstreams[0].endpoints[0].drain = false;
    reconcile(&mut pool, &wanted, 0);
    assert!(pool.drain_link(0, true) && !pool.drain_link(0, false));
}

#[test]
fn what_an_endpoint_may_have_is_shared_by_the_connections_of_all_cores() {
    for (in_flight, connections, cores) in [
        (64, 1, 1),
        (64, 3, 4),
        (13, 2, 6),
        (12, 2, 6),
        (3, 2, 4),
        (1, 1, 64),
    ] {
        let mut wanted = services(&[A], connections);
        wanted.upstreams[0].endpoints[0].in_flight_max = in_flight;
        let mut parts = Vec::new();
        for core in 0..cores {
            let mut pool = Pool::new(core, cores);
            reconcile(&mut pool, &wanted, 0);
            parts.extend(pool.links.iter().flatten().map(|link| link.terms.in_flight_max));
        }
        let count = connections * u32::from(cores);
        assert_eq!(parts.iter().sum::<u32>(), in_flight.max(count), "{parts:?}");
        let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
        assert!(*least >= 1 && most - least <= 1, "{parts:?}");
    }
    let mut pool = Pool::new(1, 2);
    reconcile(&mut pool, &services(&[A], 2), 0);
    assert_eq!(pool.get(0).expect("a link").terms.in_flight_max, u32::MAX);
}

#[test]
fn who_found_no_room_is_dialled_when_somebody_has_left() {
    let most = LINKS_MAX as u32;
    let mut pool = Pool::new(0, 1);
    reconcile(&mut pool, &services(&[A], 1), 0);
    open_all(&mut pool, 0);
    let mut wishes = Vec::new();
    // A finishes what it has, and is in the way of the last one.
    assert_eq!(pool.reconcile(&services(&[B], most), 1, &mut wishes), 1);
    assert!(!pool.has_room(u64::MAX));
    let now_ms = 1_000;
    pool.lost(0, Some(conn(0)), None, 0, now_ms);
    let room_ms = now_ms + LEAVE_LOOK_MS;
    assert!(!pool.has_room(room_ms - 1) && pool.has_room(room_ms));
    open_all(&mut pool, now_ms);
    assert_eq!(pool.due_ms(), Some(room_ms), "somebody looks then");
    reconcile(&mut pool, &services(&[B], most), room_ms);
    assert!(pool.get(0).is_some() && !pool.has_room(u64::MAX));
    assert_eq!(open_all(&mut pool, room_ms), [0]);
}
