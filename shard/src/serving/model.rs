//! Random histories against a list of offers, `target::matches`, and what the rules say by the word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fluxar_protocol::{Code, Id, target};
use proptest::prelude::*;

use super::lab::{Lab, peer, rule, terms};
use super::{Ending, Verdict, Wanted};
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;
use crate::routes::{Balance, Ejection, Routes, Rule};

const PATTERNS: [&str; 6] = ["a", "a.b", "a.*", "*.b", "a.>", ">"];
const METHODS: [&str; 5] = ["a", "a.b", "a.c", "b.b", "a.b.c"];
const FLEETS: [Option<&str>; 3] = [None, Some("red"), Some("blue")];
const ZONES: [Option<&str>; 3] = [None, Some("here"), Some("there")];
const PEERS: u32 = 10;

#[derive(Debug, Clone)]
enum Step {
    Offer {
        peer: u32,
        pattern: usize,
        fleet: usize,
        zone: usize,
        weight: u32,
        room: u32,
    },
    Attach {
        peer: u32,
        patterns: Vec<usize>,
        fleet: usize,
    },
    Detach {
        peer: u32,
    },
    End {
        nth: usize,
    },
    Lose {
        peer: u32,
    },
    Standing {
        peer: u32,
        bits: u8,
    },
    Rules {
        rules: Vec<(usize, usize, u8)>,
        zoned: bool,
    },
    Call {
        method: usize,
        key: Option<u8>,
    },
    Close {
        nth: usize,
        ending: u8,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    prop_oneof![
        4 => (peer.clone(), 0..PATTERNS.len(), 0..FLEETS.len(), 0..ZONES.len(), 1..4_u32, 1..4_u32).prop_map(
            |(peer, pattern, fleet, zone, weight, room)| Step::Offer { peer, pattern, fleet, zone, weight, room }
        ),
        1 => (peer.clone(), proptest::collection::vec(0..PATTERNS.len(), 0..3), 0..FLEETS.len())
            .prop_map(|(peer, patterns, fleet)| Step::Attach { peer, patterns, fleet }),
        1 => peer.clone().prop_map(|peer| Step::Detach { peer }),
        1 => any::<usize>().prop_map(|nth| Step::End { nth }),
        1 => peer.clone().prop_map(|peer| Step::Lose { peer }),
        2 => (peer, 0..12_u8).prop_map(|(peer, bits)| Step::Standing { peer, bits }),
        1 => (proptest::collection::vec((0..PATTERNS.len(), 0..FLEETS.len(), 0..3_u8), 0..3), any::<bool>())
            .prop_map(|(rules, zoned)| Step::Rules { rules, zoned }),
        12 => (0..METHODS.len(), proptest::option::of(0..9_u8)).prop_map(|(method, key)| Step::Call { method, key }),
        8 => (any::<usize>(), 0..6_u8).prop_map(|(nth, ending)| Step::Close { nth, ending }),
        2 => (1..3_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// An offer by the word.
struct Offered {
    peer: PeerId,
    sub: Option<Id>,
    fleet: Option<&'static str>,
    pattern: &'static str,
}

struct Model {
    lab: Lab,
    offers: Vec<Offered>,
    /// What counts of a peer: where it stands, how many it takes, how fit it is.
    terms: BTreeMap<PeerId, (Option<&'static str>, u32, Standing)>,
    routes: Arc<Routes>,
    next: u128,
    /// Of each waiting set, whether it was full when it was looked at last.
    open: BTreeMap<u32, PeerId>,
}

/// Like a method of the most specific of these patterns: by tokens from the left, literal before `*` before `>`.
fn specificity(pattern: &str) -> Vec<u8> {
    let rank = |token| match token {
        ">" => 0,
        "*" => 1,
        _ => 2,
    };
    pattern.split('.').map(rank).collect()
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            lab: Lab::new(seed),
            offers: Vec::new(),
            terms: BTreeMap::new(),
            routes: Arc::default(),
            next: 0,
            open: BTreeMap::new(),
        }
    }

    fn known(&self, peer: PeerId) -> Option<u32> {
        self.lab.serving.find(peer)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Offer {
                peer: slot,
                pattern,
                fleet,
                zone,
                weight,
                room,
            } => {
                let peer = peer(slot as u16 % 2, slot);
                self.next += 1;
                let sub = Id(self.next.to_be_bytes());
                let offering = Offering {
                    fleet: FLEETS[fleet].map(Arc::from),
                    zone: ZONES[zone].map(Arc::from),
                    in_flight_max: room,
                    ..terms(weight)
                };
                self.lab.serving.offer(peer, sub, PATTERNS[pattern], &offering);
                let standing = self.terms.get(&peer).map(|terms| terms.2).unwrap_or_default();
                self.terms.insert(peer, (ZONES[zone], room, standing));
                self.offers.push(Offered {
                    peer,
                    sub: Some(sub),
                    fleet: FLEETS[fleet],
                    pattern: PATTERNS[pattern],
                });
            }
            Step::Attach {
                peer: slot,
                patterns,
                fleet,
            } => {
                let peer = peer(0, slot * 2);
                let offering = Offering {
                    fleet: FLEETS[fleet].map(Arc::from),
                    ..terms(2)
                };
                let texts: Vec<Arc<str>> = patterns.iter().map(|&at| PATTERNS[at].into()).collect();
                self.lab.serving.attach(peer, &texts, &offering);
                let standing = self.terms.get(&peer).map(|terms| terms.2).unwrap_or_default();
                self.terms.insert(peer, (None, u32::MAX, standing));
                self.offers
                    .retain(|offer| offer.peer != peer || offer.sub.is_some());
                let named = FLEETS[fleet].map(|name| (Some(name), ">"));
                let unnamed = patterns.iter().map(|&at| (None, PATTERNS[at]));
                for (fleet, pattern) in named.into_iter().chain(unnamed) {
                    self.offers.push(Offered {
                        peer,
                        sub: None,
                        fleet,
                        pattern,
                    });
                }
            }
            Step::Detach { peer: slot } => {
                let peer = peer(0, slot * 2);
                self.lab.serving.detach(peer);
                self.offers
                    .retain(|offer| offer.peer != peer || offer.sub.is_some());
            }
            Step::End { nth } => {
                let named: Vec<_> = (0..self.offers.len())
                    .filter(|&at| self.offers[at].sub.is_some())
                    .collect();
                if !named.is_empty() {
                    let offer = self.offers.swap_remove(named[nth % named.len()]);
                    self.lab.serving.withdraw_named(offer.peer, offer.sub.unwrap());
                }
            }
            Step::Lose { peer: slot } => self.lose(peer(slot as u16 % 2, slot)),
            Step::Standing { peer: slot, bits } => {
                let peer = peer(slot as u16 % 2, slot);
                // Mostly fit.
                let standing = Standing {
                    crowded: bits == 1,
                    silent: bits == 2,
                    draining: bits == 3,
                };
                if self.known(peer).is_some() {
                    self.lab.serving.set_standing(peer, standing);
                    self.terms.get_mut(&peer).unwrap().2 = standing;
                }
            }
            Step::Rules { rules, zoned } => {
                let rule = |(methods, fleet, balance): (usize, usize, u8)| Rule {
                    methods: PATTERNS[methods].to_owned(),
                    balance: [Balance::Least, Balance::RoundRobin, Balance::Key][usize::from(balance)],
                    ..rule(FLEETS[fleet])
                };
                self.routes = Arc::new(Routes {
                    rules: rules.into_iter().map(rule).collect(),
                    zone: zoned.then(|| "here".to_owned()),
                    ejection: Ejection {
                        failures: 2,
                        ..Ejection::default()
                    },
                    ..Routes::default()
                });
                self.lab.serving.set_routes(self.routes.clone());
            }
            Step::Call { method, key } => self.call(METHODS[method], key.as_ref().map(std::slice::from_ref)),
            Step::Close { nth, ending } => {
                let Some((&slot, _)) = self.open.iter().nth(nth % self.open.len().max(1)) else {
                    return;
                };
                let ending = match ending {
                    0 => Ending::Failed(Code::Unavailable),
                    1 => Ending::Overdue,
                    2 => Ending::Cancelled,
                    _ => Ending::Answered,
                };
                self.open.remove(&slot);
                self.lab.end(slot, ending, 700);
            }
            Step::Wait { ms } => self.lab.now_us += ms * 1_000,
        }
        // A peer of another core is forgotten with its last offer and its last call, and so is how fit it was.
        let Self { lab, terms, .. } = self;
        terms.retain(|&peer, _| lab.serving.find(peer).is_some());
    }

    fn lose(&mut self, peer: PeerId) {
        let open = self.lab.serving.lose(peer).unwrap_or_default();
        let expected: BTreeSet<_> = self
            .open
            .iter()
            .filter(|(_, at)| **at == peer)
            .map(|(slot, _)| *slot)
            .collect();
        assert_eq!(open.iter().copied().collect::<BTreeSet<_>>(), expected);
        for slot in expected {
            self.open.remove(&slot);
            self.lab.open.remove(&slot);
        }
        self.offers.retain(|offer| offer.peer != peer);
        self.terms.remove(&peer);
    }

    fn call(&mut self, method: &'static str, key: Option<&[u8]>) {
        let wanted = Wanted {
            method,
            meta: None,
            key,
            avoid: None,
        };
        let rule = self
            .routes
            .rules
            .iter()
            .find(|rule| target::matches(&rule.methods, method));
        let fleet = rule.and_then(|rule| rule.fleet.as_deref());
        let in_fleet = |offer: &&Offered| offer.fleet == fleet && target::matches(offer.pattern, method);
        let best = self
            .offers
            .iter()
            .filter(in_fleet)
            .map(|offer| specificity(offer.pattern))
            .max();
        let set: BTreeSet<PeerId> = self
            .offers
            .iter()
            .filter(in_fleet)
            .filter(|offer| Some(specificity(offer.pattern)) == best)
            .map(|offer| offer.peer)
            .collect();
        let in_flight = |peer: PeerId| self.open.values().filter(|at| **at == peer).count();
        let fit: Vec<PeerId> = set
            .iter()
            .copied()
            .filter(|peer| self.terms[peer].2.is_fit())
            .collect();
        let can: Vec<PeerId> = fit
            .iter()
            .copied()
            .filter(|peer| in_flight(*peer) < self.terms[peer].1 as usize)
            .collect();
        let verdict = self.lab.serving.pick(&wanted, self.lab.now_us).verdict;
        let is_ejected = |peer: PeerId| {
            let server = &self.lab.serving[self.known(peer).unwrap()];
            server.health.is_ejected(self.lab.now_us)
        };
        match verdict {
            Verdict::Server(server) => {
                let chosen = self.lab.serving[server].peer;
                assert!(can.contains(&chosen), "{chosen:?} is none of {can:?}");
                let zone = self.routes.zone.as_deref();
                let is_near = |peer: PeerId| zone.is_some() && self.terms[&peer].0 == zone;
                let ready: Vec<_> = can.iter().copied().filter(|peer| !is_ejected(*peer)).collect();
                if ready.iter().any(|peer| is_near(*peer)) {
                    assert!(
                        is_near(chosen),
                        "{ready:?} are of the zone or not, {chosen:?} is not"
                    );
                }
                let left_out = fit.iter().filter(|peer| is_ejected(**peer)).count();
                // Several offers of one peer in a set count each: only sets without such are exact.
                let offers = self
                    .offers
                    .iter()
                    .filter(in_fleet)
                    .filter(|offer| Some(specificity(offer.pattern)) == best)
                    .count();
                if offers == set.len() && left_out * 2 <= fit.len() {
                    assert!(!is_ejected(chosen), "{left_out} of {} are out", fit.len());
                }
                let at_server = self.lab.serving.opened(server, self.next as u32);
                self.lab.open.insert(self.next as u32, (server, at_server));
                self.open.insert(self.next as u32, chosen);
                self.next += 1;
            }
            Verdict::Full(_) => {
                assert!(!set.is_empty() && set.iter().any(|peer| !self.terms[peer].2.draining));
                let ready = can.iter().filter(|peer| !is_ejected(**peer));
                assert_eq!(ready.count(), 0, "somebody of {can:?} could");
            }
            Verdict::Nobody => assert!(set.iter().all(|peer| self.terms[peer].2.draining)),
        }
    }

    fn finish(mut self) {
        for slot in 0..2 * PEERS {
            for core in 0..2 {
                self.lose(peer(core, slot));
            }
        }
        assert!(self.open.is_empty());
        let serving = &mut self.lab.serving;
        serving.set_routes(Arc::default());
        assert_eq!(
            (serving.servers(), serving.patterns(), serving.rows().count()),
            (0, 0, 0)
        );
        assert_eq!(
            (serving.sets.len(), serving.fleets.len(), serving.offers.len()),
            (0, 1, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn who_is_picked_is_one_of_those_that_may_be(
        seed: u64,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut model = Model::new(seed);
        for step in steps {
            model.step(step);
        }
        model.finish();
    }
}
