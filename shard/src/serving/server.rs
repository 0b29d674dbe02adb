//! A serving peer as this core knows it: its terms and its standing as it and its home core say, and how its answers to
//! this core were.

use std::cmp::Reverse;
use std::hash::BuildHasher;
use std::sync::Arc;

use fluxar_protocol::Code;
use foldhash::fast::FixedState;

use super::Serving;
use super::health::{Health, is_fault_of_server};
use super::latency::Latency;
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;

/// Seeds what is the same on all cores.
pub(super) const IDENTITY: u64 = 0x91c8_5f20_33d6_7ab1;

/// What a server had for less than this, µs, is not its failure if its time is over …
const OVERDUE_US_LEAST: u64 = 100_000;
/// … nor for less than so many times what its answers take.
const OVERDUE_TIMES: u64 = 4;

/// How an exchange ended, as far as it says something about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By an answer, or a stream by its end.
    Answered,
    /// By an error that the server sent.
    Failed(Code),
    /// Nobody waits for it any more.
    Cancelled,
    /// Its time was over.
    Overdue,
    /// Its asker or its server is gone.
    Lost,
}

/// A peer that serves, did so, or still has something open.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    /// Their numbers.
    pub(super) offers: Vec<u32>,
    /// Exchanges of this core's connections that are open at it.
    pub(crate) open: Vec<u32>,
    /// How many it takes at a time, from all cores.
    pub(crate) in_flight_max: u32,
    /// Bytes that a stream may send to it at first.
    pub(crate) credit_bytes: u32,
    pub(crate) standing: Standing,
    pub(super) latency: Latency,
    /// The same by its answers alone: what is not answered does not make it usual.
    pub(super) answers: Latency,
    pub(super) health: Health,
    /// It is in this gateway's zone.
    pub(super) is_near: bool,
    /// Other cores know it.
    pub(super) is_announced: bool,
    /// The same on all cores and for all connections of one endpoint: where its keys are.
    pub(super) identity: u64,
    pub(super) zone: Option<Arc<str>>,
    pub(super) name: Arc<str>,
    pub(super) answered: u64,
    pub(super) failed: u64,
}

impl Server {
    /// Whether it offers something or has something open.
    pub(crate) fn is_busy(&self) -> bool {
        !self.offers.is_empty() || !self.open.is_empty()
    }

    /// Whether this core may give it one more.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        (self.open.len() as u64) < u64::from(self.in_flight_max)
    }
}

impl Serving {
    /// The number of a peer that serves, did so, or has something open.
    pub(crate) fn find(&self, peer: PeerId) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// Whether other cores know a peer as serving.
    pub(crate) fn is_announced(&self, server: u32) -> bool {
        self.servers[server as usize].is_announced
    }

    /// A server's number, its terms as they are now.
    pub(super) fn server(&mut self, peer: PeerId, offering: &Offering, is_announced: bool) -> u32 {
        // A dialled endpoint is another connection on each core, and again after it was lost: its name stays.
        let identity = if is_announced {
            FixedState::with_seed(IDENTITY).hash_one(peer)
        } else {
            FixedState::with_seed(IDENTITY).hash_one(&*offering.name)
        };
        let servers = &mut self.servers;
        let at = *self.by_peer.entry(peer).or_insert_with(|| {
            servers.insert(Server {
                peer,
                offers: Vec::new(),
                open: Vec::new(),
                in_flight_max: u32::MAX,
                credit_bytes: 0,
                standing: Standing::default(),
                latency: Latency::default(),
                answers: Latency::default(),
                health: Health::default(),
                is_near: false,
                is_announced,
                identity,
                zone: None,
                name: offering.name.clone(),
                answered: 0,
                failed: 0,
            }) as u32
        });
        let server = &mut self.servers[at as usize];
        server.in_flight_max = offering.in_flight_max.max(1);
        server.credit_bytes = offering.credit_bytes;
        server.name = offering.name.clone();
        server.is_announced |= is_announced;
        server.zone.clone_from(&offering.zone);
        self.locate(at);
        at
    }

    /// Sees again whether a server is in this gateway's zone.
    pub(super) fn locate(&mut self, at: u32) {
        let server = &mut self.servers[at as usize];
        let zone = self.routing.routes.zone.as_deref();
        let is_near = zone.is_some() && server.zone.as_deref() == zone;
        if std::mem::replace(&mut server.is_near, is_near) != is_near {
            self.arrange_all(at);
        }
    }

    /// What a stream that is opened at a peer begins with; whether that is news of a peer that is known.
    pub(crate) fn set_credit(&mut self, peer: PeerId, credit_bytes: u32) -> bool {
        let Some(at) = self.find(peer) else {
            return false;
        };
        let server = &mut self.servers[at as usize];
        std::mem::replace(&mut server.credit_bytes, credit_bytes) != credit_bytes
    }

    /// How fit a peer is; one that is not known is.
    pub(crate) fn standing_of(&self, peer: PeerId) -> Standing {
        self.find(peer)
            .map_or_else(Standing::default, |at| self.servers[at as usize].standing)
    }

    /// How fit a peer is; whether that is news of a peer that is known.
    pub(crate) fn set_standing(&mut self, peer: PeerId, standing: Standing) -> bool {
        let Some(at) = self.find(peer) else {
            return false;
        };
        let server = &mut self.servers[at as usize];
        let before = std::mem::replace(&mut server.standing, standing);
        if before == standing {
            return false;
        }
        if before.silent && !standing.silent {
            server
                .health
                .come_back(&self.routing.routes.ejection, self.now_us);
        }
        self.arrange_all(at);
        true
    }

    /// Something was given to a server: its place among what is open there.
    pub(crate) fn opened(&mut self, server: u32, slot: u32) -> u32 {
        let open = &mut self.servers[server as usize].open;
        open.push(slot);
        open.len() as u32 - 1
    }

    /// It ended after `elapsed_us`, 0 if that says nothing (a stream's life does not). The slot that has its place now.
    pub(crate) fn closed(
        &mut self,
        server: u32,
        at_server: u32,
        ending: Ending,
        elapsed_us: u64,
        now_us: u64,
    ) -> Option<u32> {
        self.handle_time(now_us);
        let of_server = &mut self.servers[server as usize];
        let was_full = !of_server.has_room();
        of_server.open.swap_remove(at_server as usize);
        let moved = of_server.open.get(at_server as usize).copied();
        let is_failure = match ending {
            Ending::Answered => {
                of_server.answered += 1;
                false
            }
            Ending::Failed(code) => {
                of_server.failed += 1;
                is_fault_of_server(code)
            }
            Ending::Overdue => {
                of_server.failed += 1;
                // How long an asker waits is its own choice: what was over too soon says nothing about the server. Nor
                // does what may have waited at the gate of another core.
                let may_be_gated = of_server.peer.core != self.core && of_server.in_flight_max != u32::MAX;
                let usual_us = of_server.answers.expected_us(now_us).unwrap_or(0);
                !may_be_gated && elapsed_us >= OVERDUE_US_LEAST.max(usual_us.saturating_mul(OVERDUE_TIMES))
            }
            Ending::Cancelled | Ending::Lost => false,
        };
        let is_answer = matches!(ending, Ending::Answered | Ending::Failed(_)) && !is_failure;
        if elapsed_us > 0 {
            if is_answer {
                of_server.latency.heard(elapsed_us, now_us);
                of_server.answers.heard(elapsed_us, now_us);
            } else if ending != Ending::Lost {
                // A quick failure is not a quick answer.
                of_server.latency.waited(elapsed_us, now_us);
            }
        }
        if is_answer {
            of_server.health.succeeded();
        } else if is_failure && of_server.health.failed(&self.routing.routes.ejection, now_us) {
            self.ejected
                .push(Reverse((of_server.health.ejected_until_us, of_server.peer)));
            for &offer in &of_server.offers {
                self.sets[self.offers[offer as usize].set as usize].table.is_stale = true;
            }
        }
        if was_full {
            self.tell_all(server);
        }
        self.release(server);
        moved
    }

    /// Lets a server go that neither offers anything nor has anything open.
    pub(crate) fn release(&mut self, at: u32) {
        let server = &self.servers[at as usize];
        if server.peer.core != self.core && server.offers.is_empty() && server.open.is_empty() {
            self.by_peer.remove(&server.peer);
            self.servers.remove(at as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::offering::Standing;
    use crate::routes::Routes;
    use crate::serving::lab::{Lab, all_by, assert_near, peer, rule, terms};
    use crate::serving::{Ending, Verdict, Wanted};

    const CROWDED: Standing = Standing {
        crowded: true,
        silent: false,
        draining: false,
    };
    const SILENT: Standing = Standing {
        crowded: false,
        silent: true,
        draining: false,
    };
    const DRAINING: Standing = Standing {
        crowded: false,
        silent: false,
        draining: true,
    };

    #[test]
    fn who_is_not_fit_gets_nothing_and_those_who_may_recover_are_waited_for() {
        for peers in [2_u32, 90] {
            for standing in [CROWDED, SILENT, DRAINING] {
                let mut lab = Lab::new(1);
                let servers = lab.serve_all(peers);
                for slot in 0..peers - 1 {
                    assert!(lab.serving.set_standing(peer(0, slot), standing));
                    assert!(!lab.serving.set_standing(peer(0, slot), standing), "no news");
                }
                let got = lab.shares(100, 0);
                assert_eq!(got.keys().collect::<Vec<_>>(), [servers.last().unwrap()]);
                lab.serving.set_standing(peer(0, peers - 1), standing);
                let none = lab.pick(None);
                if standing == DRAINING {
                    assert_eq!(none, Verdict::Nobody);
                } else {
                    let Verdict::Full(set) = none else {
                        panic!("{none:?}");
                    };
                    lab.serving.set_waiting(set, true);
                    lab.serving.set_standing(peer(0, 0), Standing::default());
                    assert_eq!(lab.serving.pop_moved(), Some(set));
                    lab.serving.set_waiting(set, false);
                }
                for slot in 0..peers {
                    lab.serving.set_standing(peer(0, slot), Standing::default());
                }
                lab.now_us += 60_000_000;
                assert_eq!(lab.shares(500 * peers as usize, 0).len(), peers as usize);
            }
        }
    }

    #[test]
    fn who_was_silent_comes_back_slowly_and_who_was_crowded_at_once() {
        for (standing, most) in [(SILENT, 200), (CROWDED, 600)] {
            let mut lab = Lab::new(2);
            let servers = lab.serve_all(2);
            lab.shares(10, 0);
            lab.serving.set_standing(peer(0, 0), standing);
            lab.now_us += 1_000_000;
            lab.serving.handle_time(lab.now_us);
            lab.serving.set_standing(peer(0, 0), Standing::default());
            let got = lab.shares(1_000, 0);
            let got = got.get(&servers[0]).copied().unwrap_or_default();
            assert!(got < most && got * 6 > most, "{got}, {standing:?}");
        }
    }

    #[test]
    fn a_peer_that_offers_while_it_is_not_fit_is_not_used() {
        let mut lab = Lab::new(3);
        let one = lab.serve(peer(0, 1), &terms(1));
        lab.serving.set_standing(peer(0, 1), CROWDED);
        lab.serving
            .offer(peer(0, 1), fluxar_protocol::Id([2; 16]), "m", &terms(1));
        assert!(matches!(lab.pick(None), Verdict::Full(_)));
        lab.serving.set_standing(peer(0, 1), Standing::default());
        assert_eq!(lab.pick(None), Verdict::Server(one));
    }

    #[test]
    fn a_dialled_connection_serves_its_fleet_and_its_methods_and_changes_its_terms() {
        let mut lab = Lab::new(4);
        let mut offering = terms(1);
        offering.fleet = Some("users".into());
        let patterns: [Arc<str>; 2] = ["user.*".into(), "m".into()];
        lab.serving.attach(peer(0, 1), &patterns, &offering);
        let server = lab.serving.find(peer(0, 1)).unwrap();
        lab.serving.set_routes(Arc::new(Routes {
            rules: vec![crate::routes::Rule {
                methods: "any.thing".to_owned(),
                ..rule(Some("users"))
            }],
            ..Routes::default()
        }));
        let verdict = |lab: &mut Lab, method| {
            let wanted = Wanted {
                method,
                meta: None,
                key: None,
                avoid: None,
            };
            lab.serving.pick(&wanted, 1).verdict
        };
        for (method, serves) in [
            ("m", true),
            ("user.get", true),
            ("any.thing", true),
            ("other", false),
        ] {
            let expected = if serves {
                Verdict::Server(server)
            } else {
                Verdict::Nobody
            };
            assert_eq!(verdict(&mut lab, method), expected, "{method}");
        }
        let (_, slot) = lab.call(None).unwrap();
        offering.weight = 7;
        offering.in_flight_max = 3;
        lab.serving.attach(peer(0, 1), &patterns[1..], &offering);
        assert_eq!(lab.serving[server].open, [slot], "what is open stays");
        assert_eq!(verdict(&mut lab, "user.get"), Verdict::Nobody);
        let rows: Vec<_> = lab
            .serving
            .rows()
            .map(|row| {
                (
                    row.fleet,
                    row.pattern,
                    row.weight,
                    row.in_flight_max,
                    row.is_local,
                )
            })
            .collect();
        assert_eq!(rows.len(), 2);
        assert!(rows.contains(&(Some("users"), ">", 7, 3, true)) && rows.contains(&(None, "m", 7, 3, true)));
        lab.serving.detach(peer(0, 1));
        assert_eq!(verdict(&mut lab, "m"), Verdict::Nobody);
        assert_eq!(lab.serving.rows().count(), 0);
        assert_eq!(lab.serving[server].open, [slot]);
        lab.end(slot, Ending::Answered, 5);
        assert_eq!(lab.serving.lose(peer(0, 1)), Some(Vec::new()));
        assert_eq!((lab.serving.servers(), lab.serving.patterns()), (0, 0));
    }

    #[test]
    fn only_a_peer_that_had_a_call_for_long_failed_when_its_time_was_over() {
        let is_ejected = |lab: &mut Lab, server: u32, elapsed_us: u64| {
            for _ in 0..5 {
                let (_, slot) = lab.call(None).unwrap();
                lab.end(slot, Ending::Overdue, elapsed_us);
            }
            lab.serving[server].health.is_ejected(lab.now_us)
        };
        let lab = |usual_us: u64, core: u16, in_flight_max: u32| {
            let mut lab = Lab::new(6);
            let mut offering = terms(1);
            offering.in_flight_max = in_flight_max;
            let server = lab.serve(peer(core, 1), &offering);
            let (_, slot) = lab.call(None).unwrap();
            lab.end(slot, Ending::Answered, usual_us);
            (lab, server)
        };
        let limited = 8;
        for (usual_us, core, in_flight_max, elapsed_us, expected) in [
            (200, 0, u32::MAX, 1_000, false),
            (200, 0, u32::MAX, 99_999, false),
            (200, 0, u32::MAX, 100_000, true),
            (50_000, 0, u32::MAX, 199_999, false),
            (50_000, 0, u32::MAX, 200_000, true),
            (200, 0, limited, 100_000, true),
            (200, 1, u32::MAX, 100_000, true),
            (200, 1, limited, 1_000_000, false),
        ] {
            let (mut lab, server) = lab(usual_us, core, in_flight_max);
            assert_eq!(
                is_ejected(&mut lab, server, elapsed_us),
                expected,
                "{usual_us} {core} {in_flight_max} {elapsed_us}"
            );
            assert_eq!(lab.serving.rows().next().unwrap().failed, 5);
        }
    }

    #[test]
    fn rows_tell_what_was_seen() {
        let mut lab = Lab::new(5);
        lab.serving.set_routes(all_by(crate::routes::Balance::Least));
        lab.serve(peer(3, 1), &terms(4));
        let (_, slot) = lab.call(None).unwrap();
        lab.end(slot, Ending::Answered, 250);
        for _ in 0..5 {
            let (_, slot) = lab.call(None).unwrap();
            lab.end(slot, Ending::Failed(fluxar_protocol::Code::Unavailable), 100);
        }
        lab.call(None).unwrap();
        let row = lab.serving.rows().next().unwrap();
        assert_eq!((row.name, row.pattern, row.fleet), ("echo", "m", None));
        assert_eq!((row.answered, row.failed, row.in_flight), (1, 5, 1));
        assert_eq!(
            (row.latency_us, row.ejected_ms, row.is_local),
            (Some(250), 5_000, false)
        );
        assert_eq!(row.peer, peer(3, 1));
        assert_near(row.weight as usize, 4, 0);
    }
}
