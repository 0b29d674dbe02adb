//! Services that the gateway dials: simulated, and on real sockets.
#![forbid(unsafe_code)]

mod real;
mod simulated;

use fluxar_engine::listener::Address;
use fluxar_gateway::upstreams::{Endpoint, Services, Upstream};

/// One upstream, `users`, that serves `users.*` at these addresses, with what `change` makes of it.
fn users(addresses: &[Address], change: impl FnOnce(&mut Services)) -> Services {
    let endpoints = addresses
        .iter()
        .map(|address| Endpoint {
            address: address.clone(),
            text: address.to_string().into(),
            weight: 1,
            zone: None,
            in_flight_max: u32::MAX,
            drain: false,
        })
        .collect();
    let mut services = Services {
        upstreams: vec![Upstream {
            name: "users".into(),
            endpoints,
            methods: vec!["users.*".into()],
            connections: 1,
            resolve_ms: Upstream::RESOLVE_MS,
            connect_ms: Upstream::CONNECT_MS,
        }],
        ..Services::default()
    };
    change(&mut services);
    services
}
