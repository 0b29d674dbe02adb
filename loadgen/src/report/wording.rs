//! A scenario in words.

use crate::record::{Point, short_field, value_text};
use crate::scenario::{Arrivals, Direction, Payload, Scenario, Stops, Workload};
use crate::units::{bytes, count, per_second};

/// What is done, how messages arrive, what they carry, how long.
pub(super) fn scenario(scenario: &Scenario) -> String {
    let seconds = |ms: u64| format!("{} s", ms as f64 / 1e3);
    let mut parts = vec![workload(&scenario.workload)];
    if has_arrivals(&scenario.workload) {
        match (&scenario.workload, &scenario.arrivals) {
            // Calls have their own window, which is told already.
            (Workload::Calls { .. }, Arrivals::Window { .. }) => parts.push("closed loop".to_owned()),
            // How it was stored is of no matter.
            (Workload::Replay { .. }, _) => return format!("{}; {}", parts[0], payload(&scenario.payload)),
            (Workload::Store { .. }, Arrivals::Window { messages }) => parts.push(format!(
                "closed loop, window of {} unacknowledged",
                count(f64::from(*messages))
            )),
            (Workload::Stream { .. }, Arrivals::Window { .. }) => {
                parts.push("as fast as credit allows".to_owned());
            }
            _ => parts.push(arrivals(&scenario.arrivals)),
        }
        parts.push(payload(&scenario.payload));
        parts.push(format!(
            "{} measured after {} of warm-up",
            seconds(scenario.duration_ms),
            seconds(scenario.warmup_ms)
        ));
    }
    parts.join("; ")
}

/// What the sweep goes through: `subscribers: 1, 10, 100`. Empty without one.
pub(super) fn sweep(points: &[&Point<'_>]) -> String {
    let mut fields: Vec<(&str, Vec<String>)> = Vec::new();
    for (field, value) in points.iter().flat_map(|point| point.choices.iter()) {
        let text = value_text(value);
        match fields.iter_mut().find(|(known, _)| known == field) {
            Some((_, values)) if values.contains(&text) => {}
            Some((_, values)) => values.push(text),
            None => fields.push((field, vec![text])),
        }
    }
    let words: Vec<String> = fields
        .iter()
        .map(|(field, values)| format!("{}: {}", short_field(field), values.join(", ")))
        .collect();
    words.join("; ")
}

fn has_arrivals(workload: &Workload) -> bool {
    !matches!(workload, Workload::Storm { .. } | Workload::Idle { .. })
}

fn workload(workload: &Workload) -> String {
    let many = |number: u32, one: &str, more: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{} {more}", count(f64::from(number))),
    };
    match workload {
        Workload::FanOut {
            topics,
            publishers,
            subscribers,
        } => {
            let fan_out = format!(
                "{} to {}",
                many(*publishers, "publisher", "publishers"),
                many(*subscribers, "subscriber", "subscribers")
            );
            if *topics == 1 {
                fan_out
            } else {
                format!("{} topics, each {fan_out}", count(f64::from(*topics)))
            }
        }
        Workload::Store { topics, publishers } => format!(
            "{}, {} each, stored and acknowledged",
            many(*topics, "topic", "topics"),
            many(*publishers, "publisher", "publishers")
        ),
        Workload::Replay { events, subscribers } => format!(
            "{} events were stored, then {} came for all of them",
            count(*events as f64),
            many(*subscribers, "subscriber", "subscribers")
        ),
        Workload::Calls {
            clients,
            in_flight,
            services,
        } => format!(
            "{} with {} in flight each, {}",
            many(*clients, "client", "clients"),
            many(*in_flight, "call", "calls"),
            many(*services, "service", "services")
        ),
        Workload::Storm {
            connections,
            concurrency,
            hold,
        } => format!(
            "{} connect and say hello, {} at a time{}",
            many(*connections, "connection", "connections"),
            count(f64::from(*concurrency)),
            if *hold {
                "; all stay until the last is in"
            } else {
                ""
            }
        ),
        Workload::Idle {
            connections, speak, ..
        } => format!(
            "{} that say nothing{}",
            many(*connections, "connection", "connections"),
            if *speak { ", then all are spoken to" } else { "" }
        ),
        Workload::Slow { healthy, stopped } => format!(
            "1 publisher to {} and {} reading",
            many(*healthy, "subscriber", "subscribers"),
            many(*stopped, "that stops", "that stop")
        ),
        Workload::Churn {
            subscribers,
            churn_per_s,
        } => format!(
            "1 publisher to {}; further ones come and go at {}",
            many(*subscribers, "subscriber", "subscribers"),
            per_second(*churn_per_s)
        ),
        Workload::Stream {
            clients,
            streams,
            services,
            direction,
            window_bytes,
            chunks,
            stopped,
            stops,
        } => {
            let sends = match direction {
                Direction::Down => "the services send",
                Direction::Up => "the clients send",
                Direction::Both => "both send",
            };
            let lasts = chunks.map_or_else(String::new, |chunks| {
                format!(", each of {}", many(chunks, "chunk", "chunks"))
            });
            let stops = match stops {
                Stops::Granting => "that nobody grants any more",
                Stops::Reading => "that nobody reads any more",
            };
            let beside = match stopped {
                0 => String::new(),
                _ => format!(" beside {} {stops}", many(*stopped, "client's", "clients'")),
            };
            format!(
                "{} with {}{lasts}, {}, {sends}, windows of {}{beside}",
                many(*clients, "client", "clients"),
                many(*streams, "stream each", "streams each"),
                many(*services, "service", "services"),
                bytes(f64::from(*window_bytes))
            )
        }
        Workload::Mixed {
            subscribers,
            clients,
            in_flight,
        } => format!(
            "1 publisher to {} beside {} with {} in flight each",
            many(*subscribers, "subscriber", "subscribers"),
            many(*clients, "client", "clients"),
            many(*in_flight, "call", "calls")
        ),
    }
}

fn arrivals(arrivals: &Arrivals) -> String {
    match arrivals {
        Arrivals::Window { messages } => format!("closed loop, window of {}", count(f64::from(*messages))),
        Arrivals::Constant { per_s } => format!("open loop, {} evenly", per_second(*per_s)),
        Arrivals::Poisson { per_s } => format!("open loop, {} at random (Poisson)", per_second(*per_s)),
        Arrivals::Bursts { per_s, burst } => {
            format!(
                "open loop, {} in bursts of {}",
                per_second(*per_s),
                count(f64::from(*burst))
            )
        }
        Arrivals::Ramp { from_per_s, to_per_s } => {
            format!(
                "open loop, rising from {} to {}",
                per_second(*from_per_s),
                per_second(*to_per_s)
            )
        }
        Arrivals::Steps { per_s } => {
            let steps: Vec<String> = per_s.iter().map(|rate| per_second(*rate)).collect();
            format!("open loop, steps of {}", steps.join(", "))
        }
    }
}

fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Fixed { bytes } => format!("{} bytes", count(*bytes as f64)),
        Payload::Distribution { sizes } => {
            let smallest = sizes.iter().map(|(bytes, _)| *bytes).min().unwrap_or(0);
            let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
            format!(
                "{} to {} bytes by weight",
                count(smallest as f64),
                count(largest as f64)
            )
        }
        Payload::File { path } => match path.file_name() {
            Some(name) => format!("documents of {}", name.to_string_lossy()),
            None => "documents of a file".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_with_who_sends_and_who_stops() {
        let told = |workload, arrivals| {
            scenario(&Scenario {
                workload,
                arrivals,
                payload: Payload::default(),
                warmup_ms: 500,
                duration_ms: 2_000,
            })
        };
        let workload = Workload::Stream {
            clients: 2,
            streams: 10,
            services: 1,
            direction: Direction::Down,
            window_bytes: 65_536,
            chunks: Some(5),
            stopped: 1,
            stops: Stops::Reading,
        };
        assert_eq!(
            told(workload.clone(), Arrivals::default()),
            "2 clients with 10 streams each, each of 5 chunks, 1 service, the services send, windows of 64.0 KiB beside 1 \
             client's that nobody reads any more; as fast as credit allows; 64 bytes; 2 s measured after 0.5 s of warm-up"
        );
        assert!(told(workload, Arrivals::Constant { per_s: 100.0 }).contains("open loop, 100/s evenly"));
    }

    #[test]
    fn what_is_stored_is_told_with_what_the_window_counts() {
        let told = |workload| {
            scenario(&Scenario {
                workload,
                arrivals: Arrivals::default(),
                payload: Payload::default(),
                warmup_ms: 500,
                duration_ms: 2_000,
            })
        };
        let store = Workload::Store {
            topics: 1,
            publishers: 8,
        };
        assert_eq!(
            told(store),
            "1 topic, 8 publishers each, stored and acknowledged; closed loop, window of 1,000 unacknowledged; 64 bytes; \
             2 s measured after 0.5 s of warm-up"
        );
        let replay = Workload::Replay {
            events: 5_000,
            subscribers: 1,
        };
        assert_eq!(
            told(replay),
            "5,000 events were stored, then 1 subscriber came for all of them; 64 bytes"
        );
    }
}
