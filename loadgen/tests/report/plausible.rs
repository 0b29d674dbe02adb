//! Made-up runs with the shape of real ones: a seed, three invented servers, latencies with a tail.

use std::collections::BTreeMap;

use fluxar_loadgen::measured::{Measured, Phase, ServerUse};
use fluxar_loadgen::record::{Header, Machine, Record, Results, RunIdentity};
use fluxar_loadgen::scenario::{Arrivals, Payload, ProtocolName, Scenario, Target, Workload};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Invented servers: name, CPU a message in ns, median latency in µs.
pub(crate) const SERVERS: [(&str, f64, f64); 4] = [
    ("swift", 38.0, 90.0),
    ("steady", 340.0, 180.0),
    ("sturdy", 790.0, 420.0),
    ("slow", 12_000.0, 2_600.0),
];

/// Random numbers from a seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly between 0 and 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A value near that one: within so much of it, as a part.
    pub(crate) fn near(&mut self, value: f64, part: f64) -> f64 {
        value * (1.0 + part * (2.0 * self.unit() - 1.0))
    }
}

/// A phase of three seconds.
pub(crate) fn phase(random: &mut Random, asked_per_s: Option<f64>, rate: f64, median_us: f64) -> Phase {
    let mut latency_ns = Histogram::<u64>::new(3).expect("three digits");
    for _ in 0..4_000 {
        let mut latency_us = median_us * (0.6 + 0.8 * random.unit());
        if random.unit() < 0.02 {
            latency_us *= 2.0 + 6.0 * random.unit();
        }
        if random.unit() < 0.001 {
            latency_us *= 10.0;
        }
        latency_ns.record((latency_us * 1e3) as u64).expect("it grows");
    }
    let delivered = (rate * 3.0) as u64;
    Phase {
        asked_per_s,
        elapsed_ns: 3_000_000_000,
        sent: delivered,
        delivered,
        arrived: delivered,
        lost: 0,
        told_dropped: 0,
        duplicated: 0,
        out_of_order: 0,
        refused: 0,
        latency_ns,
        stall_ns: 0,
    }
}

/// A run of one phase at that cost.
pub(crate) fn measured(random: &mut Random, ns_per_message: f64, median_us: f64) -> Measured {
    let rate = random.near(8e8 / ns_per_message, 0.04);
    let phase = phase(random, None, rate, median_us);
    with_server(random, vec![phase], ns_per_message)
}

pub(crate) fn with_server(random: &mut Random, phases: Vec<Phase>, ns_per_message: f64) -> Measured {
    let delivered: u64 = phases.iter().map(|phase| phase.delivered).sum();
    let cpu_ns = (random.near(ns_per_message, 0.05) * delivered as f64) as u64;
    Measured {
        phases,
        server: Some(ServerUse {
            cpu_ns,
            saturation: 0.9,
            rss_before_bytes: 9 << 20,
            rss_max_bytes: random.near(14e6, 0.1) as u64,
            rss_after_bytes: 13 << 20,
            switches_voluntary: 4_000,
            switches_involuntary: 70,
        }),
        generator_cpu_ns: 2_100_000_000,
        generator_busy: 0.7,
        warnings: Vec::new(),
        extra: Vec::new(),
    }
}

pub(crate) fn fan_out(subscribers: u32) -> Scenario {
    Scenario {
        workload: Workload::FanOut {
            topics: 1,
            publishers: 1,
            subscribers,
        },
        arrivals: Arrivals::default(),
        payload: Payload::default(),
        warmup_ms: 500,
        duration_ms: 3_000,
    }
}

pub(crate) fn target(name: &str) -> Target {
    Target {
        name: name.to_owned(),
        protocol: ProtocolName::Nats,
        url: "tcp://127.0.0.1:4222".to_owned(),
        subscriber_url: None,
        service_url: None,
        qos: 0,
        batch: true,
    }
}

/// A record of a run against that server.
pub(crate) fn record(
    scenario_name: &str,
    scenario: &Scenario,
    point: &[(&str, Value)],
    server: &str,
    repeat: u32,
    measured: &Measured,
) -> Record {
    let point: BTreeMap<String, Value> = point
        .iter()
        .map(|(field, value)| ((*field).to_owned(), value.clone()))
        .collect();
    let target = target(server);
    let run = RunIdentity {
        campaign: "made up",
        scenario_name,
        point,
        scenario,
        target: &target,
        target_version: Some(format!("{server} 1.2.3")),
        repeat,
    };
    Record::from_measured(run, measured)
}

pub(crate) fn header() -> Header {
    let machine = Machine {
        cpu: "An Invented Processor <9000>".to_owned(),
        cores: 2,
        memory_bytes: 8 << 30,
        kernel: "Linux 6.99".to_owned(),
        commit: "v0.1-7-gabcdef0".to_owned(),
    };
    Header::new("made up", machine)
}

/// A campaign of every kind of figure: a sweep of subscribers, a sweep of rates, steps, a storm with its own figures,
/// losses and warnings. Costs are multiplied by `factor` for the first server.
pub(crate) fn campaign(seed: u64, repeats: u32, factor: f64) -> Results {
    let mut random = Random::new(seed);
    let mut records = Vec::new();
    for subscribers in [1_u32, 10, 100] {
        for repeat in 1..=repeats {
            for (name, cost, median_us) in SERVERS {
                let cost = if name == SERVERS[0].0 { cost * factor } else { cost };
                let cost = cost * (1.0 + 3.0 / f64::from(subscribers));
                let mut measured = measured(&mut random, cost, median_us);
                if name == "swift" && subscribers == 100 {
                    measured.generator_busy = 0.99;
                    measured.warnings.push(format!(
                        "the generator was the limit: its thread was {}% busy",
                        95 + repeat
                    ));
                }
                let point = [("workload.subscribers", json!(subscribers))];
                records.push(record(
                    "fan-out",
                    &fan_out(subscribers),
                    &point,
                    name,
                    repeat,
                    &measured,
                ));
            }
        }
    }
    for rate in [10_000.0, 50_000.0, 200_000.0] {
        for repeat in 1..=repeats {
            for (name, cost, median_us) in SERVERS {
                let slowed = median_us * (1.0 + rate * cost / 1e9 * 3.0);
                let delivered = rate.min(9e8 / cost);
                let phase = phase(&mut random, Some(rate), delivered, slowed);
                let measured = with_server(&mut random, vec![phase], cost);
                let scenario = Scenario {
                    arrivals: Arrivals::Poisson { per_s: rate },
                    ..fan_out(10)
                };
                records.push(record(
                    "open loop",
                    &scenario,
                    &[("arrivals.per_s", json!(rate))],
                    name,
                    repeat,
                    &measured,
                ));
            }
        }
    }
    for repeat in 1..=repeats {
        for (name, cost, median_us) in SERVERS {
            let rates = vec![5_000.0, 20_000.0, 80_000.0];
            let mut phases: Vec<Phase> = rates
                .iter()
                .map(|rate| {
                    phase(
                        &mut random,
                        Some(*rate),
                        rate.min(4e8 / cost),
                        median_us * (1.0 + rate / 40_000.0),
                    )
                })
                .collect();
            if name == "slow" {
                phases[2].lost = 1_234;
                phases[2].told_dropped = 1_000;
            }
            let measured = with_server(&mut random, phases, cost);
            let scenario = Scenario {
                arrivals: Arrivals::Steps { per_s: rates },
                ..fan_out(10)
            };
            records.push(record("steps", &scenario, &[], name, repeat, &measured));
        }
    }
    for repeat in 1..=repeats {
        for (name, cost, median_us) in &SERVERS[..2] {
            let mut measured = measured(&mut random, cost * 100.0, median_us * 3.0);
            measured.extra = vec![
                ("hellos_per_s".to_owned(), random.near(5e6 / cost, 0.1)),
                (
                    "rss_bytes_per_connection".to_owned(),
                    random.near(cost * 20.0, 0.1),
                ),
            ];
            let scenario = Scenario {
                workload: Workload::Storm {
                    connections: 10_000,
                    concurrency: 64,
                    hold: false,
                },
                ..fan_out(1)
            };
            records.push(record("storm", &scenario, &[], name, repeat, &measured));
        }
    }
    Results {
        headers: vec![header()],
        records,
        remarks: Vec::new(),
    }
}
