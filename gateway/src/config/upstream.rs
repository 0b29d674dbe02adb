//! `[[upstream]]`: fleets that the gateway dials.

use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_shard::limits::WEIGHT_MAX;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigFault;
use super::route::Remark;
use super::table::{Fields, Reading, show_text, tables, value_of};
use crate::limits::ENDPOINTS_MAX;
use crate::settings::Value;
use crate::upstreams::{Endpoint, Upstream};

const WEIGHTS: std::ops::RangeInclusive<i128> = 1..=WEIGHT_MAX as i128;
const IN_FLIGHT: std::ops::RangeInclusive<i128> = 1..=(u32::MAX - 1) as i128;

/// What an upstream says for those of its endpoints that say nothing themselves.
struct Terms {
    weight: u32,
    zone: Option<Arc<str>>,
    in_flight_max: u32,
}

/// Reads all of them.
pub(super) fn read_all(
    reading: &Reading<'_>,
    at: usize,
    value: &Spanned<DeValue<'_>>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<Upstream> {
    let mut upstreams: Vec<Upstream> = Vec::new();
    let mut endpoints = 0;
    for (number, (at, table)) in tables(reading, "upstream", at, value, faults)
        .into_iter()
        .enumerate()
    {
        let what = format!("upstream {}", number + 1);
        let mut fields = Fields::new(reading, what, at, table, faults);
        let upstream = read(&mut fields, &upstreams);
        if let Some(upstream) = &upstream {
            endpoints += upstream.endpoints.len();
            if endpoints > ENDPOINTS_MAX {
                fields.fault(at, &format!("more than {ENDPOINTS_MAX} endpoints together"));
            }
        }
        fields.finish();
        upstreams.extend(upstream);
    }
    upstreams
}

/// Reads one; `None` if it has no name or no endpoint to go by.
fn read(fields: &mut Fields<'_, '_>, others: &[Upstream]) -> Option<Upstream> {
    let at = fields.at();
    let says_name = fields.value("name");
    let name = fields.name("name");
    match (&name, &says_name) {
        (Some(name), Some((_, span))) => {
            fields.rename(format!("upstream {name}"));
            if others.iter().any(|other| *other.name == **name) {
                fields.fault(span.start, "the name is taken by an upstream above");
            }
        }
        (_, None) => fields.fault(at, "it has no `name`; rules and people call it by one"),
        (None, Some(_)) => {}
    }
    let terms = Terms {
        weight: fields.number("weight", WEIGHTS).unwrap_or(1),
        zone: fields.name("zone").map(Arc::from),
        in_flight_max: fields.number("in_flight", IN_FLIGHT).unwrap_or(u32::MAX),
    };
    let methods = fields.patterns("methods").unwrap_or_default();
    let connections = fields.number("connections", 1..=1_024).unwrap_or(1);
    let resolve_ms = fields
        .number("resolve_ms", 100..=3_600_000)
        .unwrap_or(Upstream::RESOLVE_MS);
    let connect_ms = fields
        .number("connect_ms", 50..=60_000)
        .unwrap_or(Upstream::CONNECT_MS);
    let endpoints = read_endpoints(fields, &terms)?;
    Some(Upstream {
        name: name?.into(),
        endpoints,
        methods: methods.into_iter().map(Arc::from).collect(),
        connections,
        resolve_ms,
        connect_ms,
    })
}

/// Reads `endpoints`; `None` if there are none.
fn read_endpoints(fields: &mut Fields<'_, '_>, terms: &Terms) -> Option<Vec<Endpoint>> {
    let Some((value, span)) = fields.value("endpoints") else {
        let at = fields.at();
        fields.fault(
            at,
            "it has no `endpoints`; write endpoints = [\"tcp://HOST:PORT\"]",
        );
        return None;
    };
    let DeValue::Array(list) = value else {
        let kind = value_of(value).kind();
        fields.fault(
            span.start,
            &format!("endpoints: {kind} where a list of addresses or tables belongs"),
        );
        return None;
    };
    if list.is_empty() {
        fields.fault(
            span.start,
            "endpoints: an empty list; there would be nobody to dial",
        );
        return None;
    }
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(list.len());
    for item in list {
        let at = item.span().start;
        let endpoint = match item.get_ref() {
            DeValue::Table(table) => read_endpoint(fields, at, table, terms),
            other => match value_of(other) {
                Value::Text(url) => match dialled(&url) {
                    Ok(address) => Some(Endpoint {
                        address,
                        text: url.into(),
                        weight: terms.weight,
                        zone: terms.zone.clone(),
                        in_flight_max: terms.in_flight_max,
                        drain: false,
                    }),
                    Err(wrong) => {
                        fields.fault(at, &format!("endpoints: {wrong}"));
                        None
                    }
                },
                other => {
                    let message = format!(
                        "endpoints: {} where an address or a table with `url` belongs",
                        other.kind()
                    );
                    fields.fault(at, &message);
                    None
                }
            },
        };
        let Some(endpoint) = endpoint else { continue };
        if endpoints.iter().any(|before| before.address == endpoint.address) {
            let message = format!(
                "endpoints: {} stands twice; give it more `weight` or more `connections`",
                endpoint.text
            );
            fields.fault(at, &message);
        }
        endpoints.push(endpoint);
    }
    Some(endpoints)
}

/// Reads `{ url = …, weight = … }`.
fn read_endpoint<'t, 'i>(
    of: &mut Fields<'t, 'i>,
    at: usize,
    table: &'t DeTable<'i>,
    terms: &Terms,
) -> Option<Endpoint> {
    let mut fields = of.inner(at, table, "endpoints");
    let says_url = fields.value("url");
    let url = fields.text("url");
    let address = match (&url, says_url) {
        (Some(url), Some((_, span))) => match dialled(url) {
            Ok(address) => Some(address),
            Err(wrong) => {
                fields.fault(span.start, &format!("url: {wrong}"));
                None
            }
        },
        (_, None) => {
            fields.fault(at, "a table without `url`");
            None
        }
        (None, Some(_)) => None,
    };
    let weight = fields.number("weight", WEIGHTS).unwrap_or(terms.weight);
    let zone = match fields.name("zone") {
        Some(zone) => Some(zone.into()),
        None => terms.zone.clone(),
    };
    let in_flight_max = fields
        .number("in_flight", IN_FLIGHT)
        .unwrap_or(terms.in_flight_max);
    let drain = fields.flag("drain").unwrap_or(false);
    fields.finish();
    Some(Endpoint {
        address: address?,
        text: url?.into(),
        weight,
        zone,
        in_flight_max,
        drain,
    })
}

/// An address that can be dialled.
fn dialled(url: &str) -> Result<Address, String> {
    let address = Address::parse(url).map_err(|error| error.to_string())?;
    match &address {
        Address::Tcp { port: 0, .. } | Address::WebSocket { port: 0, .. } => {
            Err(format!("{url:?}: port 0 cannot be dialled"))
        }
        _ => Ok(address),
    }
}

/// Endpoints that get more at a time than was meant: a connection takes one at least.
pub(super) fn remarks(upstreams: &[Upstream], cores: usize) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for upstream in upstreams {
        let connections = u64::from(upstream.connections.max(1)) * cores as u64;
        for endpoint in &upstream.endpoints {
            let in_flight = endpoint.in_flight_max;
            if u64::from(in_flight) < connections {
                let message = format!(
                    "upstream {}: {} may get {connections} at a time, not {in_flight} (in_flight): one on each connection, {} of each of {cores} cores",
                    upstream.name, endpoint.text, upstream.connections
                );
                remarks.push(Remark {
                    is_warning: true,
                    message,
                });
            }
        }
    }
    remarks
}

/// Prints them as they read back.
pub(super) fn print_all(upstreams: &[Upstream], out: &mut String) {
    if upstreams.is_empty() {
        *out += "\n\
            # A fleet of services that the gateway dials, as often as needed; docs/services.md tells the rest.\n\
            # [[upstream]]\n\
            # name = \"users\"\n\
            # endpoints = [\"tcp://10.0.0.7:9000\", { url = \"unix:///run/users.sock\", weight = 2, in_flight = 64 }]\n\
            # methods = [\"users.>\"]\n";
    }
    for upstream in upstreams {
        let Upstream {
            name,
            endpoints,
            methods,
            connections,
            resolve_ms,
            connect_ms,
        } = upstream;
        let methods: Vec<String> = methods.iter().map(|method| show_text(method)).collect();
        *out += &format!(
            "\n[[upstream]]\n\
             # its name: rules call it their `fleet`\n\
             name = {}\n\
             # methods that it serves without any rule, beside services that dialled in\n\
             methods = [{}]\n\
             # connections of each core to each address\n\
             connections = {connections}\n\
             # how often names are looked up again\n\
             resolve_ms = {resolve_ms}\n\
             # how long a connection and its hello may take\n\
             connect_ms = {connect_ms}\n\
             # where its services are, with their terms; in_flight: at a time at each address, shared by all connections\n\
             endpoints = [\n",
            show_text(name),
            methods.join(", "),
        );
        for endpoint in endpoints {
            let Endpoint {
                address: _,
                text,
                weight,
                zone,
                in_flight_max,
                drain,
            } = endpoint;
            *out += &format!("    {{ url = {}, weight = {weight}", show_text(text));
            if let Some(zone) = zone {
                *out += &format!(", zone = {}", show_text(zone));
            }
            if *in_flight_max != u32::MAX {
                *out += &format!(", in_flight = {in_flight_max}");
            }
            *out += &format!(", drain = {drain} }},\n");
        }
        *out += "]\n";
    }
}
