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
