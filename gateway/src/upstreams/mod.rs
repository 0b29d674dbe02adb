//! Services that the gateway dials: what the configuration says about them, and the pool of connections that each core
//! keeps to them.
//!
//! | file | what it does |
//! |---|---|
//! | `pool` | which connections there should be, and when to dial again |
//! | `opening` | the session that this side opens, and its end |
//! | `resolver` | looks names up, on a thread of its own |
//! | `announcer` | says how endpoints fare, once for each change |

pub mod announcer;
pub mod opening;
pub mod pool;
pub mod resolver;

use std::net::IpAddr;
use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_shard::Routes;

use crate::services::AdminFrom;

/// All about services that a configuration says. Given to every core at start, and again when it is reloaded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Services {
    /// Which call goes where.
    pub routes: Arc<Routes>,
    /// Who is dialled.
    pub upstreams: Vec<Upstream>,
    /// When a serving peer counts as silent.
    pub health: Health,
    /// Who may ask for `$services.…`.
    pub admin_from: AdminFrom,
}

/// A fleet that is dialled.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name; rules refer to it as their fleet.
    pub name: Arc<str>,
    /// Where its peers are.
    pub endpoints: Vec<Endpoint>,
    /// Patterns of methods that it serves without any rule, beside the peers that dialled in.
    pub methods: Vec<Arc<str>>,
    /// Connections of each core to each address.
    pub connections: u32,
    /// How often names are looked up again, ms.
    pub resolve_ms: u32,
    /// How long a connection and its hello may take, ms.
    pub connect_ms: u32,
}

impl Upstream {
    /// [`Upstream::resolve_ms`] of one that says nothing.
    pub const RESOLVE_MS: u32 = 30_000;
    /// [`Upstream::connect_ms`] of one that says nothing.
    pub const CONNECT_MS: u32 = 5_000;
}

/// One address, or a name that stands for several.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to dial; its host may be a name.
    pub address: Address,
    /// As the configuration says it.
    pub text: Arc<str>,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Arc<str>>,
    /// Calls and streams at a time at each of its addresses, over all connections of all cores; `u32::MAX`: any number.
    pub in_flight_max: u32,
    /// It finishes what it has and gets nothing new.
    pub drain: bool,
}

impl Endpoint {
    /// The part of [`Endpoint::in_flight_max`] that one of so many connections has, counted from 0: all parts together
    /// are the whole, but none is less than 1.
    #[must_use]
    pub fn in_flight_part(&self, nth: u32, connections: u32) -> u32 {
        let connections = connections.max(1);
        if self.in_flight_max == u32::MAX {
            return u32::MAX;
        }
        let part = self.in_flight_max / connections + u32::from(nth < self.in_flight_max % connections);
        part.max(1)
    }

    /// Whether its host is a name, to be looked up before it can be dialled.
    #[must_use]
    pub fn is_named(&self) -> bool {
        match &self.address {
            Address::Tcp { host, .. } | Address::WebSocket { host, .. } => host.parse::<IpAddr>().is_err(),
            Address::Unix { .. } => false,
        }
    }
}

/// Active health: when a serving peer, dialled or not, is pinged and when it counts as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Silent for so long it is pinged, ms. 0: only by its heartbeat.
    pub ping_ms: u32,
    /// Silent for so long after that it gets no new calls until it speaks, ms.
    pub silent_ms: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            ping_ms: 500,
            silent_ms: 500,
        }
    }
}

/// What a host name stands for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint, as the configuration says it.
    pub endpoint: Arc<str>,
    /// Its addresses, each with an IP address for a host.
    pub addresses: Vec<Address>,
}
