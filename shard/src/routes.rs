//! Rules by which calls and streams find their fleet: by method, by `meta`, by share. Made by the gateway from its
//! configuration, the same for all cores, replaced as a whole when it is reloaded.
//!
//! Rules are tried in the order of the configuration; the first that matches decides. What none matches goes to the
//! peers that offered to serve its method outside of any named fleet.

/// All that a configuration says about services.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routes {
    /// The rules, in their order.
    pub rules: Vec<Rule>,
    /// Where this gateway stands: peers of the same zone are preferred.
    pub zone: Option<String>,
    /// When a peer is left out for a while.
    pub ejection: Ejection,
    /// How many calls may be sent a second time.
    pub retries: RetryBudget,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The methods that it is for: a pattern [P-5.1].
    pub methods: String,
    /// Keys of `meta` with the texts that they must have, all of them.
    pub meta: Vec<(String, String)>,
    /// It takes this share of what it matches, in thousandths of a percent (100,000: all); the rest goes on to the next
    /// rule. Calls with the same `key` are always on the same side.
    pub share: u32,
    /// The fleet: peers that dialled in and offered with this `group`, and the endpoints of the upstream of this name.
    /// `None`: those outside of any named fleet.
    pub fleet: Option<String>,
    /// Which of them.
    pub balance: Balance,
    /// Also sent there, and the answer thrown away. Calls only.
    pub mirror: Option<Mirror>,
    /// An asker that says nothing, or more, waits so long, ms.
    pub timeout_ms: Option<u32>,
}

/// [`Rule::share`] of everything.
pub const SHARE_ALL: u32 = 100_000;

/// A copy of what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub fleet: String,
    /// How much of it, as in [`Rule::share`].
    pub share: u32,
}

/// How one of a fleet's peers is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// Two at random (by weight); the one with less to do and the quicker answers gets it.
    #[default]
    Least,
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// By `meta.key`: equal keys go to the same peer as long as it is there and not loaded beyond a quarter over the
    /// average; without a key as [`Balance::Least`].
    Key,
}

/// Passive health: when a peer's answers say that it is better left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// So many failures in a row (`unavailable`, `internal`, `unknown`, `data_loss`, or no answer in time) eject it. 0: never.
    pub failures: u32,
    /// For how long at first, ms; doubled each time up to `most_ms`.
    pub first_ms: u32,
    /// The longest, ms.
    pub most_ms: u32,
    /// It comes back slowly: from a tenth of its weight to all of it over this time, ms.
    pub slow_start_ms: u32,
    /// At most so many percent of a fleet are left out at a time; beyond, they are used all the same.
    pub percent_max: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            first_ms: 5_000,
            most_ms: 60_000,
            slow_start_ms: 5_000,
            percent_max: 50,
        }
    }
}

/// How many calls a fleet may be sent a second time (retries and hedges), so that trouble does not double its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of the calls of the last ten seconds.
    pub percent: u32,
    /// And so many a second in any case.
    pub least_per_s: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            least_per_s: 10,
        }
    }
}
