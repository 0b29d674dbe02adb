//! A run without a file: flags become a campaign with one target and one scenario.

use std::path::PathBuf;

use crate::args::{Against, CallsArgs, ChurnArgs, Command, Doing, Fan, FindKneeArgs, Load, UpstreamArgs};
use crate::args::{FanOutArgs, IdleArgs, MixedArgs, ReplayArgs, SlowArgs, StoreArgs, StormArgs, StreamArgs};
use crate::campaign::{Campaign, ScenarioPlan, ServerPlan, TargetPlan, check_url, protocol_of_url};
use crate::scenario::{Arrivals, Direction, Payload, ProtocolName, Scenario, Stops, Target, Workload};
use crate::server::listeners;
use crate::slo::{Assertion, Bound};

/// Where services listen if nobody says otherwise.
const SERVICE_URL: &str = "tcp://127.0.0.1:9100";

/// The campaign that a command's flags describe, and how to do it; `None` for commands that have other arguments.
///
/// # Errors
/// What is wrong with a flag that clap cannot know.
pub fn campaign(command: &Command) -> Result<Option<(Campaign, Doing)>, String> {
    let (name, workload, load, against, doing) = match command {
        Command::FanOut(FanOutArgs {
            fan,
            load,
            against,
            doing,
        }) => ("fan-out", fan_out(fan), Some(load), against, doing),
        Command::Store(StoreArgs {
            topics,
            publishers,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Store {
                topics: *topics,
                publishers: *publishers,
            };
            ("store", workload, Some(load), against, doing)
        }
        Command::Replay(args) => return replay(args).map(Some),
        Command::Calls(CallsArgs {
            clients,
            in_flight,
            services,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Calls {
                clients: *clients,
                in_flight: *in_flight,
                services: *services,
            };
            ("calls", workload, Some(load), against, doing)
        }
        Command::Upstream(UpstreamArgs {
            clients,
            in_flight,
            services,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Calls {
                clients: *clients,
                in_flight: *in_flight,
                services: *services,
            };
            ("upstream", workload, Some(load), against, doing)
        }
        Command::Stream(args) => return stream(args).map(Some),
        Command::Storm(StormArgs {
            connections,
            concurrency,
            hold,
            against,
            doing,
        }) => {
            let workload = Workload::Storm {
                connections: *connections,
                concurrency: *concurrency,
                hold: *hold,
            };
            ("storm", workload, None, against, doing)
        }
        Command::Idle(IdleArgs {
            connections,
            concurrency,
            silent,
            against,
            doing,
        }) => {
            let workload = Workload::Idle {
                connections: *connections,
                concurrency: *concurrency,
                speak: !silent,
            };
            ("idle", workload, None, against, doing)
        }
        Command::Slow(SlowArgs {
            healthy,
            stopped,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Slow {
                healthy: *healthy,
                stopped: *stopped,
            };
            ("slow", workload, Some(load), against, doing)
        }
        Command::Churn(ChurnArgs {
            subscribers,
            churn,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Churn {
                subscribers: *subscribers,
                churn_per_s: *churn,
            };
            ("churn", workload, Some(load), against, doing)
        }
        Command::Mixed(MixedArgs {
            subscribers,
            clients,
            in_flight,
            load,
            against,
            doing,
        }) => {
            let workload = Workload::Mixed {
                subscribers: *subscribers,
                clients: *clients,
                in_flight: *in_flight,
            };
            ("mixed", workload, Some(load), against, doing)
        }
        Command::Run(_) | Command::FindKnee(_) | Command::Compare(_) | Command::Report(_) => return Ok(None),
    };
    let scenario = Scenario {
        arrivals: load.map_or_else(Arrivals::default, arrivals),
        payload: load.map_or_else(Payload::default, payload),
        workload,
        warmup_ms: doing.warmup.as_millis() as u64,
        duration_ms: (doing.duration.as_millis() as u64).max(1),
    };
    single(name, scenario, against, doing).map(Some)
}

fn replay(args: &ReplayArgs) -> Result<(Campaign, Doing), String> {
    let scenario = Scenario {
        workload: Workload::Replay {
            events: args.events,
            subscribers: args.subscribers,
        },
        arrivals: Arrivals::default(),
        payload: Payload::Fixed { bytes: args.bytes },
        warmup_ms: 0,
        duration_ms: (args.doing.duration.as_millis() as u64).max(1),
    };
    single("replay", scenario, &args.against, &args.doing)
}

fn stream(args: &StreamArgs) -> Result<(Campaign, Doing), String> {
    let doing = &args.doing;
    let window_bytes =
        u32::try_from(args.window).map_err(|_| format!("--window {}: take less than 4 GiB", args.window))?;
    if args.window < 2 * args.bytes {
        let least = 2 * args.bytes;
        return Err(format!(
            "--window {window_bytes} is too small for chunks of {} bytes: take at least {least}",
            args.bytes
        ));
    }
    if args.clients + args.stopped == 0 {
        return Err("--clients 0: nobody would open a stream".to_owned());
    }
    let direction = Direction::from(args.direction);
    if args.stop_reading && direction != Direction::Down {
        return Err("--stop-reading takes --direction down: a service has streams of others too".to_owned());
    }
    let scenario = Scenario {
        workload: Workload::Stream {
            clients: args.clients,
            streams: args.streams,
            services: args.services,
            direction,
            window_bytes,
            chunks: args.chunks,
            stopped: args.stopped,
            stops: if args.stop_reading {
                Stops::Reading
            } else {
                Stops::Granting
            },
        },
        arrivals: match args.rate {
            None => Arrivals::default(),
            Some(per_s) if args.poisson => Arrivals::Poisson { per_s },
            Some(per_s) => Arrivals::Constant { per_s },
        },
        payload: match &args.documents {
            Some(path) => Payload::File { path: path.clone() },
            None => Payload::Fixed { bytes: args.bytes },
        },
        warmup_ms: doing.warmup.as_millis() as u64,
        duration_ms: (doing.duration.as_millis() as u64).max(1),
    };
    single("stream", scenario, &args.against, doing)
}

fn single(
    name: &str,
    scenario: Scenario,
    against: &Against,
    doing: &Doing,
) -> Result<(Campaign, Doing), String> {
    let assertions = assertions(&doing.assertions)?;
    let mut campaign = against_one(name, against, ScenarioPlan::single(name, scenario, assertions))?;
    if name == "upstream" {
        for plan in &mut campaign.targets {
            plan.target
                .service_url
                .get_or_insert_with(|| SERVICE_URL.to_owned());
        }
    }
    for assertion in campaign.scenarios.iter().flat_map(|plan| &plan.assertions) {
        campaign
            .check(assertion)
            .map_err(|wrong| format!("--assert {:?}: {wrong}", assertion.text))?;
    }
    campaign.repeats = doing.repeats;
    campaign.seed = doing.seed;
    campaign.generator_cores = doing
        .cores
        .as_ref()
        .map(|cores| cores.0.clone())
        .unwrap_or_default();
    Ok((campaign, doing.clone()))
}

/// What a gateway that runs has to have in its configuration for services that listen; `None` if there are none.
#[must_use]
pub fn upstream_configuration(campaign: &Campaign) -> Option<String> {
    let target = &campaign.targets.first()?.target;
    // Where clients connect to the services themselves, there is nobody to be configured.
    let url = target.service_url.as_ref().filter(|url| **url != target.url)?;
    let services = match campaign.scenarios.first()?.points.first()?.scenario.workload {
        Workload::Calls { services, .. } | Workload::Stream { services, .. } => services.max(1),
        Workload::Mixed { .. } => 1,
        _ => return None,
    };
    let are = match services {
        1 => "1 connection of the server is".to_owned(),
        _ => format!("{services} connections of the server are"),
    };
    Some(format!(
        "Services listen on {url}, and {are} waited for, up to a minute. A gateway makes as many on each of its cores \
         by this in its configuration:\n\n    [[upstream]]\n    \
         name = \"load\"\n    endpoints = [\"{url}\"]\n    methods = [\"load.>\"]\n    connections = {services}\n"
    ))
}

/// The fan-out whose knee is searched if no file says otherwise.
///
/// # Errors
/// What is wrong with a flag that clap cannot know.
pub fn knee_campaign(args: &FindKneeArgs) -> Result<Campaign, String> {
    let scenario = Scenario {
        workload: fan_out(&args.fan),
        arrivals: Arrivals::Constant { per_s: args.from },
        payload: Payload::Fixed {
            bytes: args.bytes.unwrap_or(64),
        },
        warmup_ms: 500,
        duration_ms: 3_000,
    };
    against_one(
        "find-knee",
        &args.against,
        ScenarioPlan::single("fan-out", scenario, Vec::new()),
    )
}

/// Reads assertions of the command line.
///
/// # Errors
/// The first that is none.
pub fn assertions(texts: &[String]) -> Result<Vec<Assertion>, String> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|wrong| format!("{text:?}: {wrong}")))
        .collect()
}

/// Reads the promises of a search, each of which is judged by single runs at rates that the search chooses.
///
/// # Errors
/// What cannot be promised there.
pub fn slos(texts: &[String], campaign: &Campaign) -> Result<Vec<Assertion>, String> {
    let slos = assertions(texts)?;
    for slo in &slos {
        let wrong = |why: &str| format!("{:?}: {why}", slo.text);
        if slo.at_per_s.is_some() {
            return Err(wrong(
                "`at` has no place here: the search chooses the rates; leave it out",
            ));
        }
        if !slo.when.is_empty() {
            let why = "`when` has no place here: each point has its knee; choose scenarios by --only";
            return Err(wrong(why));
        }
        if matches!(slo.bound, Bound::Share { .. }) {
            let why = "one target runs at a time, so there is none to compare with; give a number";
            return Err(wrong(why));
        }
        campaign.check(slo).map_err(|why| wrong(&why))?;
    }
    Ok(slos)
}

fn against_one(name: &str, against: &Against, scenario: ScenarioPlan) -> Result<Campaign, String> {
    for url in [
        Some(&against.url),
        against.subscriber_url.as_ref(),
        against.service_url.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        check_url(url)?;
        if url.contains('{') {
            return Err(format!(
                "{url:?}: placeholders are for campaign files, which start servers themselves"
            ));
        }
    }
    let protocol = against
        .protocol
        .map_or_else(|| protocol_of_url(&against.url), ProtocolName::from);
    let target = Target {
        name: called(protocol).to_owned(),
        protocol,
        url: against.url.clone(),
        subscriber_url: against.subscriber_url.clone(),
        service_url: against.service_url.clone(),
        qos: against.qos,
        batch: !against.no_batch,
    };
    let server = match against.pid {
        Some(pid) => ServerPlan::Pid(pid),
        None if listeners(&against.url).is_empty() => ServerPlan::Elsewhere,
        None => ServerPlan::PidOf(against.url.clone()),
    };
    Ok(Campaign {
        name: name.to_owned(),
        directory: PathBuf::new(),
        repeats: 1,
        pause_ms: 100,
        generator_cores: Vec::new(),
        seed: 1,
        targets: vec![TargetPlan::running(target, server)],
        scenarios: vec![scenario],
    })
}

fn called(protocol: ProtocolName) -> &'static str {
    match protocol {
        ProtocolName::Fluxar => "fluxar",
        ProtocolName::Nats => "nats",
        ProtocolName::Redis => "redis",
        ProtocolName::Mqtt3 => "mqtt3",
        ProtocolName::Mqtt5 => "mqtt5",
        ProtocolName::Relay => "relay",
    }
}

fn fan_out(fan: &Fan) -> Workload {
    Workload::FanOut {
        topics: fan.topics,
        publishers: fan.publishers,
        subscribers: fan.subscribers,
    }
}

fn arrivals(load: &Load) -> Arrivals {
    match load.rate {
        None => load
            .window
            .map_or_else(Arrivals::default, |messages| Arrivals::Window { messages }),
        Some(per_s) if load.poisson => Arrivals::Poisson { per_s },
        Some(per_s) => match load.burst {
            Some(burst) => Arrivals::Bursts { per_s, burst },
            None => Arrivals::Constant { per_s },
        },
    }
}

fn payload(load: &Load) -> Payload {
    match &load.documents {
        Some(path) => Payload::File { path: path.clone() },
        None => Payload::Fixed { bytes: load.bytes },
    }
}
