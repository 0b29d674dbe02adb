//! Calls: who gets them, and that each ends once.

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Id};
use fluxar_shard::{AnswerRoute, Limits, PeerId, Route};

use crate::world::{Outcome, World, id, offering};

struct Lab {
    world: World,
    next: u64,
}

impl Lab {
    fn new(cores: u16) -> Self {
        Self {
            world: World::new(cores, 11, Limits::default()),
            next: 0,
        }
    }

    fn serve(&mut self, core: u16, slot: u32, pattern: &str, weight: u32) -> PeerId {
        let peer = self.world.connect(core, slot, 0);
        self.world
            .shard(peer)
            .serve(peer, id(1_000_000), pattern, offering(weight))
            .unwrap();
        self.world.settle();
        peer
    }

    fn call(&mut self, asker: PeerId, method: &str) -> Option<Route> {
        self.next += 1;
        let route = self.world.call(asker, id(self.next), method);
        self.world.settle();
        route
    }

    fn answer(&mut self, route: Route) -> AnswerRoute {
        let answer = self.world.answer(route.server, route.forward_id);
        self.world.settle();
        answer
    }

    fn outcomes(&self, asker: PeerId, nth: u64) -> &[Outcome] {
        &self.world.calls[&(asker, id(nth))]
    }

    fn late_answers(&self) -> u64 {
        self.world
            .shards
            .iter()
            .map(|shard| shard.counts().late_answers)
            .sum()
    }
}

#[test]
fn a_slow_server_gets_less() {
    let mut lab = Lab::new(2);
    let asker = lab.world.connect(0, 0, 0);
    let [fast, slow] = [1, 2].map(|slot| lab.serve(1, slot, "m", 1));
    for _ in 0..100 {
        let route = lab.call(asker, "m").unwrap();
        if route.server == fast {
            lab.answer(route);
        }
    }
    assert_eq!((lab.world.served[&fast], lab.world.served[&slow]), (99, 1));
}

#[test]
fn weights_are_shares_of_what_is_in_flight() {
    let mut lab = Lab::new(3);
    let asker = lab.world.connect(0, 0, 0);
    let heavy = lab.serve(1, 1, "m", 3);
    let light = lab.serve(2, 2, "m", 1);
    for _ in 0..40 {
        lab.call(asker, "m").unwrap();
    }
    let (heavy, light) = (lab.world.served[&heavy], lab.world.served[&light]);
    assert!((28..=32).contains(&heavy), "{heavy} and {light}");
}

#[test]
fn equal_servers_share_and_one_of_this_core_goes_first() {
    let mut lab = Lab::new(2);
    let asker = lab.world.connect(0, 0, 0);
    let far = [1, 2, 3].map(|slot| lab.serve(1, slot, "m", 1));
    for _ in 0..900 {
        let route = lab.call(asker, "m").unwrap();
        lab.answer(route);
    }
    for peer in far {
        let served = lab.world.served[&peer];
        assert!((240..=360).contains(&served), "{served} of 900");
    }
    let near = lab.serve(0, 4, "m", 1);
    for _ in 0..900 {
        let route = lab.call(asker, "m").unwrap();
        lab.answer(route);
    }
    // Two of four are drawn: it is one of them half of the time, and then it gets the call.
    let served = lab.world.served[&near];
    assert!((380..=520).contains(&served), "{served} of 900");
}

#[test]
fn more_servers_than_are_compared_all_get_calls() {
    let mut lab = Lab::new(1);
    let asker = lab.world.connect(0, 0, 0);
    let servers = 2 * fluxar_shard::limits::PICK_SCAN_MAX as u32;
    for slot in 1..=servers {
        lab.serve(0, slot, "m", 1);
    }
    for _ in 0..20 * servers {
        let route = lab.call(asker, "m").unwrap();
        lab.answer(route);
    }
    assert_eq!(lab.world.served.len(), servers as usize);
}

#[test]
fn the_most_specific_pattern_is_asked() {
    let mut lab = Lab::new(2);
    let asker = lab.world.connect(0, 0, 0);
    let ladder = [
        "a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.>", "*.b.c", "*.>", ">",
    ];
    // Offered in an order that is not theirs, on both cores.
    let servers: Vec<_> = [4, 0, 8, 2, 6, 1, 3, 7, 5]
        .map(|at| (at, lab.serve(at as u16 % 2, at as u32 + 1, ladder[at], 1)))
        .into();
    for (rung, pattern) in ladder.iter().enumerate() {
        let (_, expected) = servers.iter().find(|(at, _)| *at == rung).unwrap();
        let route = lab.call(asker, "a.b.c").unwrap();
        assert_eq!(route.server, *expected, "{pattern}");
        lab.answer(route);
        lab.world
            .shard(*expected)
            .end_subscription(*expected, id(1_000_000))
            .unwrap();
        lab.world.settle();
    }
    assert_eq!(
        lab.world
            .ask(asker, id(999), "a.b.c", MetaWriter::new())
            .unwrap_err()
            .code,
        Code::Unavailable
    );
}

#[test]
fn only_the_server_that_was_asked_can_answer_and_once() {
    for server_core in 0..2 {
        let mut lab = Lab::new(2);
        let asker = lab.world.connect(0, 0, 0);
        let server = lab.serve(server_core, 1, "m", 1);
        let other = lab.serve(server_core, 2, "n", 1);
        let route = lab.call(asker, "m").unwrap();
        assert_eq!(route.server, server);
        lab.answer(Route {
            server: other,
            ..route
        });
        lab.answer(Route {
            server: asker,
            ..route
        });
        let reborn = PeerId {
            generation: 1,
            ..server
        };
        lab.answer(Route {
            server: reborn,
            ..route
        });
        for byte in 0..16 {
            let Id(mut bytes) = route.forward_id;
            bytes[byte] ^= 1;
            lab.answer(Route {
                server,
                forward_id: Id(bytes),
            });
        }
        lab.answer(Route {
            server,
            forward_id: Id([0; 16]),
        });
        lab.answer(Route {
            server,
            forward_id: Id([0xff; 16]),
        });
        assert_eq!(lab.outcomes(asker, 1), []);
        assert_eq!(lab.late_answers(), 3 + 16 + 2);
        lab.answer(route);
        lab.answer(route);
        assert_eq!(lab.outcomes(asker, 1), [Outcome::Answered]);
        assert_eq!(lab.late_answers(), 3 + 16 + 2 + 1);
    }
}

#[test]
fn an_answer_to_an_earlier_tenant_of_a_slot_is_late() {
    let mut lab = Lab::new(1);
    let asker = lab.world.connect(0, 0, 0);
    lab.serve(0, 1, "m", 1);
    let first = lab.call(asker, "m").unwrap();
    lab.world.cancel(asker, id(1));
    let second = lab.call(asker, "m").unwrap();
    assert_eq!(
        first.forward_id.0[..6],
        second.forward_id.0[..6],
        "the slot is used again"
    );
    assert_eq!(lab.answer(first), AnswerRoute::Unknown);
    assert_eq!(
        lab.answer(second),
        AnswerRoute::Deliver {
            asker,
            reference: id(2)
        }
    );
}

#[test]
fn an_id_in_flight_is_refused_and_free_again_afterwards() {
    let mut lab = Lab::new(1);
    let asker = lab.world.connect(0, 0, 0);
    let other = lab.world.connect(0, 9, 0);
    lab.serve(0, 1, "m", 1);
    let route = lab.call(asker, "m").unwrap();
    let twice = lab.world.ask(asker, id(1), "m", MetaWriter::new());
    assert_eq!(twice.unwrap_err().code, Code::AlreadyExists);
    let of_another = lab.world.call(other, id(1), "m");
    assert!(of_another.is_some(), "ids are their sender's own");
    lab.answer(route);
    assert!(lab.world.call(asker, id(1), "m").is_some());
}

#[test]
fn a_lost_server_fails_its_calls_on_every_core_even_after_it_stopped_serving() {
    for withdraws in [false, true] {
        let mut lab = Lab::new(3);
        let askers = [0, 1, 2].map(|core| lab.world.connect(core, 0, 0));
        let server = lab.serve(1, 1, "m", 1);
        for asker in askers {
            lab.call(asker, "m").unwrap();
            lab.call(asker, "m").unwrap();
        }
        if withdraws {
            lab.world
                .shard(server)
                .end_subscription(server, id(1_000_000))
                .unwrap();
            lab.world.settle();
        }
        lab.world.lose(server);
        lab.world.settle();
        let ended: Vec<_> = lab.world.calls.values().flatten().collect();
        assert_eq!(ended, [&Outcome::Failed; 6]);
        assert!(lab.world.shards.iter().all(|shard| shard.counts().servers == 0));
        assert!(lab.call(askers[0], "m").is_none());
    }
}

#[test]
fn a_lost_asker_and_a_cancel_stop_the_server() {
    for server_core in 0..2 {
        let mut lab = Lab::new(2);
        let asker = lab.world.connect(0, 0, 0);
        let server = lab.serve(server_core, 1, "m", 1);
        for _ in 0..5 {
            lab.call(asker, "m").unwrap();
        }
        assert_eq!(lab.world.inboxes[&server].calls.len(), 5);
        lab.world.cancel(asker, id(3));
        lab.world.cancel(asker, id(3));
        lab.world.settle();
        assert_eq!(lab.outcomes(asker, 3), [Outcome::Cancelled]);
        assert_eq!(lab.world.inboxes[&server].calls.len(), 4);
        lab.world.lose(asker);
        lab.world.settle();
        assert_eq!(lab.world.inboxes[&server].calls.len(), 0);
        assert_eq!(lab.world.shards[0].counts().askers, 0);
    }
}

#[test]
fn a_peer_may_call_itself_and_leave() {
    let mut lab = Lab::new(1);
    let peer = lab.serve(0, 1, "m", 1);
    let route = lab.call(peer, "m").unwrap();
    lab.answer(route);
    assert_eq!(lab.outcomes(peer, 1), [Outcome::Answered]);
    lab.call(peer, "m").unwrap();
    lab.world.lose(peer);
    assert_eq!(lab.world.shards[0].counts().open_calls, 0);
}
