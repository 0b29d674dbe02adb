//! Rules, made ready: which of them are for a method is found out once and remembered with it, so that a call of a
//! method without a rule pays nothing for those of others.

use std::hash::BuildHasher;
use std::sync::Arc;

use fluxar_protocol::meta::Meta;
use fluxar_protocol::target;
use foldhash::fast::FixedState;

use super::{Serving, UNNAMED};
use crate::ids::Ids;
use crate::routes::{Balance, Routes, Rule, SHARE_ALL};

/// The same for all cores and all processes: a key stays on its side of a share when the gateway starts again.
const SIDES: u64 = 0x5109_e3a7_0f6b_d2c4;

#[derive(Debug)]
pub(crate) struct Routing {
    pub(crate) routes: Arc<Routes>,
    /// Of each rule: the numbers of its fleet and its mirror's.
    pub(crate) fleets: Vec<(u32, Option<u32>)>,
    /// Of each rule, so that the shares of two rules are independent of each other.
    salts: Vec<u64>,
}

/// What one rule means for one method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ruled {
    pub(crate) rule: u32,
    /// In the rule's fleet, the set of the most specific pattern; none if nobody there serves the method.
    pub(crate) set: Option<u32>,
    pub(crate) mirror: Option<u32>,
}

/// What is remembered of a method.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its set in the unnamed fleet.
    pub(crate) set: Option<u32>,
    /// The rules that are for it, in their order.
    pub(crate) ruled: Box<[Ruled]>,
}

/// What the rules say of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) set: Option<u32>,
    pub(crate) balance: Balance,
    pub(crate) timeout_ms: Option<u32>,
    pub(crate) mirror: Option<u32>,
}

impl Routing {
    pub(crate) fn new(routes: Arc<Routes>, fleets: Vec<(u32, Option<u32>)>) -> Self {
        let salts = routes.rules.iter().map(salt).collect();
        Self {
            routes,
            fleets,
            salts,
        }
    }

    /// The rules that are for a method, with their fleets.
    pub(crate) fn of_method<'a>(
        &'a self,
        method: &'a str,
    ) -> impl Iterator<Item = (u32, (u32, Option<u32>))> + 'a {
        let is_for_it = move |&(nth, _): &(usize, _)| {
            let rule: &Rule = &self.routes.rules[nth];
            target::matches(&rule.methods, method)
        };
        self.fleets
            .iter()
            .copied()
            .enumerate()
            .filter(is_for_it)
            .map(|(nth, fleets)| (nth as u32, fleets))
    }

    /// What becomes of a call: the first rule that takes it decides.
    #[inline]
    pub(crate) fn decide(
        &self,
        known: &Known,
        meta: Option<&Meta<'_>>,
        key: Option<&[u8]>,
        random: &mut Ids,
    ) -> Decision {
        for ruled in &known.ruled {
            let rule = &self.routes.rules[ruled.rule as usize];
            let salt = self.salts[ruled.rule as usize];
            if !has_texts(meta, &rule.meta) || !is_in_share(rule.share, key, salt, random) {
                continue;
            }
            let is_mirrored = |share| is_in_share(share, key, !salt, random);
            let mirror = rule.mirror.as_ref().map(|mirror| mirror.share);
            return Decision {
                set: ruled.set,
                balance: rule.balance,
                timeout_ms: rule.timeout_ms,
                mirror: ruled.mirror.filter(|_| mirror.is_some_and(is_mirrored)),
            };
        }
        Decision {
            set: known.set,
            balance: Balance::Least,
            timeout_ms: None,
            mirror: None,
        }
    }
}

fn has_texts(meta: Option<&Meta<'_>>, wanted: &[(String, String)]) -> bool {
    wanted
        .iter()
        .all(|(key, text)| meta.is_some_and(|meta| meta.has_text(key, text)))
}

/// Whether a call is on this side of a share: always the same for a key, at random without one.
fn is_in_share(share: u32, key: Option<&[u8]>, salt: u64, random: &mut Ids) -> bool {
    if share >= SHARE_ALL {
        return true;
    }
    let drawn = match key {
        Some(key) => FixedState::with_seed(salt).hash_one(key),
        None => random.next(),
    };
    // The upper half, for a multiplication instead of a division.
    ((drawn >> 32) * u64::from(SHARE_ALL)) >> 32 < u64::from(share)
}

/// What a rule is, without its share: raising the share keeps those who are in it already.
fn salt(rule: &Rule) -> u64 {
    FixedState::with_seed(SIDES).hash_one((&rule.methods, &rule.meta, &rule.fleet))
}

impl Serving {
    /// Other rules from now on. What is open, and what waits, stays where it is.
    pub(crate) fn set_routes(&mut self, routes: Arc<Routes>) {
        let old = std::mem::take(&mut self.routing.fleets);
        for (_, fleet) in &mut self.fleets {
            fleet.is_ruled = fleet.name.is_none();
        }
        let mut fleets = Vec::with_capacity(routes.rules.len());
        for rule in &routes.rules {
            let mut ruled = |name: &str| {
                let fleet = self.fleet(Some(&name.into()));
                self.fleets[fleet as usize].is_ruled = true;
                fleet
            };
            let fleet = rule.fleet.as_deref().map_or(UNNAMED, &mut ruled);
            let mirror = rule.mirror.as_ref().map(|mirror| ruled(&mirror.fleet));
            fleets.push((fleet, mirror));
        }
        self.routing = Routing::new(routes, fleets);
        for at in old
            .into_iter()
            .flat_map(|(fleet, mirror)| [Some(fleet), mirror])
            .flatten()
        {
            if self.fleets.contains(at as usize) {
                self.release_fleet(at);
            }
        }
        self.remembered.clear();
        for (_, set) in &mut self.sets {
            set.table.is_stale = true; // who may be left out, and for how long, may have changed
        }
        let servers: Vec<u32> = self.servers.iter().map(|(at, _)| at as u32).collect();
        for at in servers {
            self.locate(at);
        }
    }

    /// Finds out what a method's calls may come to, and remembers it.
    pub(super) fn learn(&mut self, hash: u64, method: &str) -> Option<usize> {
        let set_in = |fleet: u32| {
            let patterns = &self.fleets[fleet as usize].patterns;
            patterns.best_match(method).and_then(|pattern| patterns[pattern])
        };
        let ruled = |(rule, (fleet, mirror)): (u32, (u32, Option<u32>))| Ruled {
            rule,
            set: set_in(fleet),
            mirror: mirror.and_then(set_in),
        };
        let known = Known {
            set: set_in(UNNAMED),
            ruled: self.routing.of_method(method).map(ruled).collect(),
        };
        if known.set.is_none() && known.ruled.is_empty() {
            return None; // names that nobody serves are not worth remembering
        }
        Some(self.remembered.insert(hash, method, known))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fluxar_protocol::Id;
    use fluxar_protocol::meta::MetaWriter;

    use super::*;
    use crate::routes::Mirror;
    use crate::serving::lab::{Lab, peer, rule, terms};
    use crate::serving::pick::Picked;
    use crate::serving::{Verdict, Wanted};

    /// One peer for each fleet; the unnamed one is "".
    struct Fleets {
        lab: Lab,
        names: BTreeMap<u32, &'static str>,
    }

    impl Fleets {
        fn new(rules: Vec<Rule>) -> Self {
            let mut fleets = Self {
                lab: Lab::new(3),
                names: BTreeMap::new(),
            };
            for (slot, name) in ["", "red", "blue", "green"].into_iter().enumerate() {
                let mut offering = terms(1);
                offering.fleet = (!name.is_empty()).then(|| name.into());
                let peer = peer(0, slot as u32);
                fleets.lab.serving.offer(peer, Id([1; 16]), ">", &offering);
                let server = fleets.lab.serving.find(peer).unwrap();
                fleets.names.insert(server, name);
            }
            fleets.rules(rules);
            fleets
        }

        fn rules(&mut self, rules: Vec<Rule>) {
            self.lab.serving.set_routes(Arc::new(Routes {
                rules,
                ..Routes::default()
            }));
        }

        fn pick(&mut self, method: &str, meta: &[(&str, &str)], key: Option<&[u8]>) -> Picked {
            let mut writer = MetaWriter::new();
            for (key, text) in meta {
                writer = writer.text(key, text);
            }
            let meta = writer.finish();
            let wanted = Wanted {
                method,
                meta: meta.as_deref().map(Meta::from_checked),
                key,
                avoid: None,
            };
            self.lab.serving.pick(&wanted, 1)
        }

        fn fleet(&mut self, method: &str, meta: &[(&str, &str)], key: Option<&[u8]>) -> &'static str {
            match self.pick(method, meta, key).verdict {
                Verdict::Server(server) => self.names[&server],
                other => panic!("{other:?}"),
            }
        }
    }

    fn of(methods: &str, fleet: &str) -> Rule {
        Rule {
            methods: methods.to_owned(),
            ..rule(Some(fleet))
        }
    }

    fn texts(texts: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |&(key, text): &(&str, &str)| (key.to_owned(), text.to_owned());
        texts.iter().map(owned).collect()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let mut fleets = Fleets::new(vec![
            Rule {
                meta: texts(&[("tenant", "acme"), ("beta", "yes")]),
                ..of("a.*", "blue")
            },
            of("a.b", "red"),
            of("a.>", "green"),
            of("z.gone", "nobody"),
        ]);
        for (method, meta, expected) in [
            ("a.b", &[][..], "red"),
            ("a.b", &[("tenant", "acme")], "red"),
            ("a.b", &[("tenant", "acme"), ("beta", "no")], "red"),
            (
                "a.b",
                &[("beta", "yes"), ("other", "x"), ("tenant", "acme")],
                "blue",
            ),
            ("a.c", &[("beta", "yes"), ("tenant", "acme")], "blue"),
            ("a.c", &[], "green"),
            ("a.b.c", &[("beta", "yes"), ("tenant", "acme")], "green"),
            ("b", &[("beta", "yes"), ("tenant", "acme")], ""),
        ] {
            assert_eq!(fleets.fleet(method, meta, None), expected, "{method} {meta:?}");
            assert_eq!(
                fleets.fleet(method, meta, None),
                expected,
                "remembered: {method} {meta:?}"
            );
        }
        let none = fleets.pick("z.gone", &[], None);
        assert_eq!(
            (none.verdict, none.set),
            (Verdict::Nobody, None),
            "a rule decides even for nobody"
        );
    }

    #[test]
    fn a_text_is_a_text() {
        let mut fleets = Fleets::new(vec![Rule {
            meta: texts(&[("n", "1")]),
            ..of(">", "red")
        }]);
        assert_eq!(fleets.fleet("m", &[("n", "1")], None), "red");
        assert_eq!(fleets.fleet("m", &[("n", "10")], None), "");
        let number = MetaWriter::new().uint("n", 1).finish().unwrap();
        let wanted = Wanted {
            method: "m",
            meta: Some(Meta::from_checked(&number)),
            key: None,
            avoid: None,
        };
        let Verdict::Server(server) = fleets.lab.serving.pick(&wanted, 1).verdict else {
            panic!("somebody serves it");
        };
        assert_eq!(fleets.names[&server], "");
    }

    #[test]
    fn shares_are_kept_to_one_percent_at_random_and_by_key() {
        let with = |share| {
            vec![
                Rule {
                    share,
                    ..of("m", "red")
                },
                Rule {
                    share: SHARE_ALL / 2,
                    ..of("m", "blue")
                },
            ]
        };
        let calls = 100_000;
        let mut fleets = Fleets::new(Vec::new());
        for share in [0, 1_000, 25_000, 99_500, SHARE_ALL] {
            for has_key in [false, true] {
                fleets.rules(with(share));
                let (mut red, mut blue) = (0, 0);
                for nth in 0..calls as u32 {
                    let key = nth.to_be_bytes();
                    match fleets.fleet("m", &[], has_key.then_some(&key[..])) {
                        "red" => red += 1,
                        "blue" => blue += 1,
                        _ => {}
                    }
                }
                let expected = calls as i64 * i64::from(share) / i64::from(SHARE_ALL);
                assert!(
                    (red - expected).abs() <= calls as i64 / 100,
                    "{red} instead of {expected}"
                );
                // The second rule halves what the first one leaves: the two draws are independent of each other.
                let expected = (calls as i64 - expected) / 2;
                assert!(
                    (blue - expected).abs() <= calls as i64 / 100,
                    "{blue} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn a_key_stays_on_its_side_on_all_cores_and_while_the_share_grows() {
        let mut all = Fleets::new(Vec::new());
        let mut other = Fleets::new(Vec::new());
        other.lab = {
            let mut lab = Lab::of_core(1, 99);
            lab.serve(peer(0, 9), &terms(1));
            lab
        };
        let mut before = vec![false; 5_000];
        for share in [1_000, 5_000, 20_000, 50_000, SHARE_ALL] {
            let rules = vec![Rule {
                share,
                ..of("m", "red")
            }];
            all.rules(rules.clone());
            other.rules(rules);
            for (nth, was_in) in before.iter_mut().enumerate() {
                let key = nth.to_be_bytes();
                let is_in = all.fleet("m", &[], Some(&key)) == "red";
                assert_eq!(is_in, all.fleet("m", &[], Some(&key)) == "red");
                // The other core has nobody in the fleet: it says Nobody for the same keys.
                assert_eq!(is_in, other.pick("m", &[], Some(&key)).verdict == Verdict::Nobody);
                assert!(is_in || !*was_in, "{nth} fell out at {share}");
                *was_in = is_in;
            }
        }
        assert!(before.iter().all(|&is_in| is_in));
    }

    #[test]
    fn a_mirror_gets_its_share_of_what_the_rule_takes_and_the_caps_come_along() {
        let mirrored = |share| Rule {
            timeout_ms: Some(250),
            mirror: Some(Mirror {
                fleet: "green".to_owned(),
                share,
            }),
            ..of("m", "red")
        };
        let mut fleets = Fleets::new(vec![mirrored(30_000)]);
        let mut copies = 0;
        for _ in 0..10_000 {
            let picked = fleets.pick("m", &[], None);
            assert_eq!(picked.timeout_ms, Some(250));
            if let Some(copy) = picked.mirror {
                assert_eq!(fleets.names[&copy], "green");
                copies += 1;
            }
        }
        assert!((2_850..=3_150).contains(&copies), "{copies}");
        let other = fleets.pick("n", &[], None);
        assert_eq!((other.timeout_ms, other.mirror), (None, None));
        let mut missing = mirrored(SHARE_ALL);
        missing.mirror = Some(Mirror {
            fleet: "nobody".to_owned(),
            share: SHARE_ALL,
        });
        fleets.rules(vec![missing]);
        assert_eq!(fleets.pick("m", &[], None).mirror, None);
        assert_eq!(fleets.fleet("m", &[], None), "red");
    }

    #[test]
    fn other_rules_count_at_once_and_leave_no_fleet_behind() {
        let mut fleets = Fleets::new(vec![of("m", "red")]);
        assert_eq!(fleets.fleet("m", &[], None), "red");
        fleets.rules(vec![of("m", "blue"), of("n", "empty")]);
        assert_eq!(fleets.fleet("m", &[], None), "blue");
        assert_eq!(fleets.pick("n", &[], None).verdict, Verdict::Nobody);
        let mut late = terms(1);
        late.fleet = Some("empty".into());
        fleets.lab.serving.offer(peer(0, 77), Id([1; 16]), "n", &late);
        let server = fleets.lab.serving.find(peer(0, 77)).unwrap();
        assert_eq!(fleets.pick("n", &[], None).verdict, Verdict::Server(server));
        fleets.rules(Vec::new());
        assert_eq!(fleets.fleet("m", &[], None), "");
        for slot in [0, 1, 2, 3, 77] {
            fleets.lab.serving.lose(peer(0, slot));
        }
        assert_eq!(fleets.lab.serving.fleets.len(), 1, "only the unnamed one");
        fleets.rules(vec![of("m", "red"), of("m", "red")]);
        fleets.rules(vec![of("m", "green")]);
        assert_eq!(fleets.lab.serving.fleets.len(), 2);
        assert_eq!(fleets.lab.serving.sets.len(), 0);
    }

    #[test]
    fn no_rule_reaches_the_gateways_own_methods() {
        let mut fleets = Fleets::new(vec![of(">", "red")]);
        assert_eq!(fleets.pick("$services.list", &[], None).verdict, Verdict::Nobody);
    }
}
