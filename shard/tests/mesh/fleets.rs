//! Fleets over several cores: who serves is told everywhere, how fit it is, too; what a core dialled is its own.

use std::sync::Arc;

use fluxar_protocol::{Code, Id};
use fluxar_shard::routes::{Balance, Routes, Rule, SHARE_ALL};
use fluxar_shard::{Limits, Offering, PeerId, Route, Standing};

use crate::world::{World, id, offering};

const SUB: Id = Id([0xee; 16]);
const DRAINING: Standing = Standing {
    crowded: false,
    silent: false,
    draining: true,
};

struct Lab {
    world: World,
    askers: Vec<PeerId>,
    next: u64,
}

impl Lab {
    fn new(cores: u16) -> Self {
        let mut world = World::new(cores, 5, Limits::default());
        let askers = (0..cores).map(|core| world.connect(core, 0, 0)).collect();
        Self {
            world,
            askers,
            next: 0,
        }
    }

    fn serve(&mut self, core: u16, slot: u32, pattern: &str, offering: Offering) -> PeerId {
        let peer = self.world.connect(core, slot, 0);
        self.offer(peer, pattern, offering);
        peer
    }

    fn offer(&mut self, peer: PeerId, pattern: &str, offering: Offering) {
        self.world
            .shard(peer)
            .serve(peer, SUB, pattern, offering)
            .unwrap();
        self.world.settle();
    }

    fn withdraw(&mut self, peer: PeerId) {
        self.world.shard(peer).end_subscription(peer, SUB).unwrap();
        self.world.settle();
    }

    fn stand(&mut self, peer: PeerId, standing: Standing) {
        self.world.shard(peer).set_standing(peer, standing);
        self.world.settle();
    }

    /// Who gets a call from each core; it is answered.
    fn servers(&mut self, method: &str) -> Vec<Option<PeerId>> {
        let askers = self.askers.clone();
        let server = |asker| {
            let Route { server, forward_id } = self.call(asker, method)?;
            self.world.answer(server, forward_id);
            self.world.settle();
            Some(server)
        };
        askers.into_iter().map(server).collect()
    }

    fn call(&mut self, asker: PeerId, method: &str) -> Option<Route> {
        self.next += 1;
        let route = self.world.call(asker, id(self.next), method);
        self.world.settle();
        route
    }

    fn route(&mut self, rules: Vec<Rule>) {
        let routes = Arc::new(Routes {
            rules,
            ..Routes::default()
        });
        for shard in &mut self.world.shards {
            shard.set_routes(routes.clone());
        }
    }
}

fn in_fleet(name: &str) -> Offering {
    Offering {
        fleet: Some(name.into()),
        ..offering(1)
    }
}

fn rule(methods: &str, fleet: Option<&str>) -> Rule {
    Rule {
        methods: methods.to_owned(),
        meta: Vec::new(),
        share: SHARE_ALL,
        fleet: fleet.map(str::to_owned),
        balance: Balance::Least,
        mirror: None,
        timeout_ms: None,
    }
}

#[test]
fn how_fit_a_peer_is_counts_on_every_core() {
    let mut lab = Lab::new(3);
    let server = lab.serve(1, 1, "m", offering(1));
    assert_eq!(lab.servers("m"), [Some(server); 3]);
    lab.stand(server, DRAINING);
    assert_eq!(lab.servers("m"), [None; 3]);
    let other = lab.serve(2, 2, "m", offering(1));
    assert_eq!(lab.servers("m"), [Some(other); 3]);
    lab.stand(server, Standing::default());
    lab.stand(other, DRAINING);
    assert_eq!(lab.servers("m"), [Some(server); 3]);
    // Told again, it is no news; told for who serves nothing, it is nothing.
    lab.stand(server, Standing::default());
    let asker = lab.askers[0];
    lab.stand(asker, DRAINING);
    assert_eq!(lab.servers("m"), [Some(server); 3]);
}

#[test]
fn who_offers_again_while_it_drains_still_drains_everywhere() {
    let mut lab = Lab::new(3);
    let server = lab.serve(1, 1, "m", offering(1));
    lab.stand(server, DRAINING);
    // The other cores forget it with its last offer; its home core does not.
    lab.withdraw(server);
    lab.offer(server, "m", offering(1));
    assert_eq!(lab.servers("m"), [None; 3]);
    lab.stand(server, Standing::default());
    assert_eq!(lab.servers("m"), [Some(server); 3]);
}

#[test]
fn a_rule_finds_the_fleet_on_whatever_core_it_dialled_in() {
    let mut lab = Lab::new(2);
    let stable = lab.serve(0, 1, "shop.*", offering(1));
    let canary = lab.serve(1, 2, "shop.*", in_fleet("canary"));
    assert_eq!(
        lab.servers("shop.buy"),
        [Some(stable); 2],
        "without a rule nobody finds a fleet"
    );
    lab.route(vec![rule("shop.>", Some("canary"))]);
    assert_eq!(lab.servers("shop.buy"), [Some(canary); 2]);
    lab.withdraw(canary);
    assert_eq!(lab.servers("shop.buy"), [None; 2]);
    lab.offer(canary, "shop.buy", in_fleet("canary"));
    assert_eq!(lab.servers("shop.buy"), [Some(canary); 2]);
    lab.route(Vec::new());
    assert_eq!(lab.servers("shop.buy"), [Some(stable); 2]);
}

#[test]
fn what_a_core_dialled_serves_that_core_alone() {
    let mut lab = Lab::new(2);
    let upstream = lab.world.connect(0, 1, 0);
    let patterns: [Arc<str>; 1] = ["user.*".into()];
    lab.world.shards[0].attach(upstream, &patterns, in_fleet("users"));
    lab.world.settle();
    assert_eq!(lab.servers("user.get"), [Some(upstream), None]);
    lab.route(vec![rule("other", Some("users"))]);
    assert_eq!(lab.servers("other"), [Some(upstream), None]);
    assert_eq!(lab.world.shards[1].services().count(), 0);
    let rows: Vec<_> = lab.world.shards[0]
        .services()
        .map(|row| (row.fleet, row.pattern, row.is_local))
        .collect();
    assert!(rows.len() == 2 && rows.contains(&(Some("users"), ">", true)));
    assert!(rows.contains(&(None, "user.*", true)));

    // It goes in good order: nothing new, what is open goes on.
    let asker = lab.askers[0];
    let open = lab.call(asker, "user.get").unwrap();
    lab.world.shards[0].detach(upstream);
    assert_eq!(lab.servers("user.get"), [None; 2]);
    assert!(lab.world.shards[0].is_serving(upstream));
    assert_eq!(lab.world.shards[0].has_open(upstream), 1);
    lab.world.answer(upstream, open.forward_id);
    lab.world.settle();
    assert_eq!(lab.world.shards[0].has_open(upstream), 0);
    assert!(!lab.world.shards[0].is_serving(upstream));
    let shard = &mut lab.world.shards[0];
    shard.peer_lost(upstream);
    assert!(shard.poll_letter().is_none(), "nobody else knew it");
    assert_eq!(lab.world.shards[0].counts().servers, 0);
}

#[test]
fn dialled_in_and_dialled_out_share_a_method() {
    let mut lab = Lab::new(1);
    let dialled_in = lab.serve(0, 1, "m", offering(1));
    let dialled_out = lab.world.connect(0, 2, 0);
    lab.world.shards[0].attach(dialled_out, &["m".into()], in_fleet("users"));
    let asker = lab.askers[0];
    for _ in 0..200 {
        lab.call(asker, "m").unwrap();
    }
    for peer in [dialled_in, dialled_out] {
        let got = lab.world.served[&peer];
        assert!((90..=110).contains(&got), "{got} at {peer:?}");
    }
}

#[test]
fn a_cancelled_offer_gets_nothing_new_and_finishes() {
    let mut lab = Lab::new(2);
    let server = lab.serve(1, 1, "m", offering(1));
    let asker = lab.askers[0];
    let open = lab.call(asker, "m").unwrap();
    lab.withdraw(server);
    assert_eq!(lab.servers("m"), [None; 2]);
    lab.world.answer(server, open.forward_id);
    lab.world.settle();
    assert_eq!(
        lab.world.calls[&(asker, id(1))],
        [crate::world::Outcome::Answered]
    );
}

#[test]
fn bad_terms_are_refused() {
    let mut lab = Lab::new(1);
    let peer = lab.world.connect(0, 1, 0);
    let long: Arc<str> = "x".repeat(256).into();
    let terms = [
        in_fleet(""),
        Offering {
            fleet: Some(long.clone()),
            ..offering(1)
        },
        Offering {
            zone: Some(long),
            ..offering(1)
        },
        Offering {
            in_flight_max: 0,
            ..offering(1)
        },
        offering(0),
    ];
    for offering in terms {
        let refusal = lab.world.shards[0].serve(peer, SUB, "m", offering).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal}");
    }
    assert_eq!(lab.world.shards[0].counts().servers, 0);
}

#[test]
fn all_cores_list_the_same_offers() {
    let mut lab = Lab::new(3);
    lab.serve(0, 1, "a.*", in_fleet("red"));
    lab.serve(1, 2, "b", offering(3));
    let zoned = Offering {
        zone: Some("east".into()),
        in_flight_max: 9,
        ..offering(2)
    };
    let drained = lab.serve(2, 3, "b", zoned);
    lab.stand(drained, DRAINING);
    let rows = |core: usize| {
        let mut rows: Vec<_> = lab.world.shards[core]
            .services()
            .map(|row| format!("{row:?}"))
            .collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!(rows(0).len(), 3);
    assert!(rows(0) == rows(1) && rows(1) == rows(2), "{:#?}", rows(0));
}
