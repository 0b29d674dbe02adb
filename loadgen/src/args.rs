//! What can be typed.

mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::scenario::ProtocolName;

pub use workloads::{
    CallsArgs, ChurnArgs, FanOutArgs, IdleArgs, MixedArgs, ReplayArgs, Sends, SlowArgs, StoreArgs, StormArgs,
    StreamArgs, UpstreamArgs,
};

const RUN_HELP: &str = "\
Examples:
  loadgen run bench/campaigns/first.toml
  loadgen run bench/campaigns/peers.toml --plan
  loadgen run bench/campaigns/peers.toml --only fluxar --only nats --only ten-topics
  loadgen run mine.toml --quick && loadgen run mine.toml --repeats 10 --out before

docs/loadgen.md says what stands in a campaign file.";

const KNEE_HELP: &str = "\
A rate is broken if an SLO fails, if less is sent than was asked for, or if any message is lost or
refused; where some loss is acceptable, an SLO says how much: --slo 'lost < 100'. SLOs are FIGURE OP
NUMBER, with TARGET: in front or not; `at` and `when` are for campaign files.

Examples:
  loadgen find-knee --subscribers 10 --slo 'p99_ms < 5'
  loadgen find-knee --url tcp://127.0.0.1:4222 --slo 'p99_9_ms < 10' --slo 'lost < 100' --from 50k
  loadgen find-knee bench/campaigns/latency.toml --only steady --slo 'p99_us < 1000'";

const AFTER_HELP: &str = "\
Examples:
  fluxar-gateway &                           a server to measure
  loadgen fan-out                            1 publisher, 1 subscriber, a full window
  loadgen fan-out --subscribers 100 --rate 10k --assert 'p99_ms < 5'
  loadgen store --qos 1 --publishers 8       publishes until they are stored
  loadgen replay --qos 1                     a million stored events to one who comes late
  loadgen calls --clients 64
  loadgen stream --clients 10 --streams 20   services send as fast as 200 readers grant
  loadgen run bench/campaigns/first.toml     starts its servers itself, and leaves an HTML page
  loadgen find-knee --subscribers 10 --slo 'p99_ms < 5'
  loadgen compare before/ after/

Exit codes:
  0  done, and all that was asserted held
  1  an assertion failed (compare --fail-on-worse: something is worse)
  2  the command line or the campaign file is wrong
  3  a run failed: a server did not start, could not be reached, or broke off
  130  interrupted

docs/loadgen.md has a first campaign in five minutes, and what each figure means.";

/// Measure messaging servers: FLUXAR gateways, and NATS, Redis and MQTT beside them.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a campaign file: scenarios × targets × sweeps, interleaved
    Run(RunArgs),
    /// Search the highest rate at which a promise is kept
    FindKnee(FindKneeArgs),
    /// Say what changed between two campaigns, and whether it is more than noise
    Compare(CompareArgs),
    /// Make the tables, the CSV and the HTML page of a campaign again from its records
    Report(ReportArgs),
    /// Publishers and subscribers of topics, against a server that runs
    FanOut(FanOutArgs),
    /// Publishes that a server stores and acknowledges (takes --qos 1)
    Store(StoreArgs),
    /// Store events, then have subscribers come late and ask for all (takes --qos 1)
    Replay(ReplayArgs),
    /// Calls through a server to a service and back
    Calls(CallsArgs),
    /// Calls to services that listen, to which the server connects
    Upstream(UpstreamArgs),
    /// Streams through a server, between clients and services
    Stream(StreamArgs),
    /// Connect, say hello, close, as often as the server can
    Storm(StormArgs),
    /// Hold connections that say nothing, then speak to all of them
    Idle(IdleArgs),
    /// A fan-out beside subscribers that stop reading
    Slow(SlowArgs),
    /// A fan-out on which further subscribers come and go
    Churn(ChurnArgs),
    /// A fan-out and calls at once
    Mixed(MixedArgs),
}

/// `loadgen run`
#[derive(Debug, ClapArgs)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// The campaign file
    pub file: PathBuf,

    /// Directory for records and reports [default: loadgen-results/NAME-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Only this target or scenario; may be given several times
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,

    /// How often each target runs at each point, instead of what the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: Option<u32>,

    /// One repeat of a second each: to see whether the campaign works, not for figures
    #[arg(long)]
    pub quick: bool,

    /// Say what would be run, and run nothing
    #[arg(long)]
    pub plan: bool,

    /// Say nothing while it runs but what fails
    #[arg(short, long)]
    pub quiet: bool,
}

/// `loadgen find-knee`
#[derive(Debug, ClapArgs)]
#[command(after_help = KNEE_HELP)]
pub struct FindKneeArgs {
    /// A campaign file: the knee of each target at each point. Without it: of the server at --url, in a fan-out
    pub file: Option<PathBuf>,

    /// What has to hold, as in a campaign's `assert`; may be given several times
    #[arg(long = "slo", required = true, value_name = "ASSERTION")]
    pub slos: Vec<String>,

    /// The first rate that is tried
    #[arg(long, value_parser = rate, value_name = "RATE", default_value = "1000")]
    pub from: f64,

    /// The highest rate that is tried
    #[arg(long, value_parser = rate, value_name = "RATE", default_value = "5M")]
    pub to: f64,

    /// How close to the knee the answer has to be, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub precision: f64,

    /// With a file: only this target or scenario; may be given several times
    #[arg(long, value_name = "NAME", requires = "file")]
    pub only: Vec<String>,

    /// Without a file: topics, each with publishers and subscribers of its own
    #[command(flatten)]
    pub fan: Fan,

    /// The server.
    #[command(flatten)]
    pub against: Against,

    /// How long each run is measured
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub duration: Option<Duration>,

    /// Bytes of a payload, its stamp included
    #[arg(long, value_parser = bytes, value_name = "BYTES", conflicts_with = "file")]
    pub bytes: Option<usize>,

    /// Processors of the generator, one thread each, such as 1 or 2-3
    #[arg(long, value_parser = cores, value_name = "LIST")]
    pub cores: Option<Cores>,

    /// Directory for the records of all runs
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Say nothing while it runs but what fails
    #[arg(short, long)]
    pub quiet: bool,
}

/// `loadgen compare`
#[derive(Debug, ClapArgs)]
pub struct CompareArgs {
    /// A results.jsonl, or a campaign's directory
    pub a: PathBuf,

    /// What it is compared with
    pub b: PathBuf,

    /// Exit with 1 if something is worse in B
    #[arg(long)]
    pub fail_on_worse: bool,
}

/// `loadgen report`
#[derive(Debug, ClapArgs)]
pub struct ReportArgs {
    /// A campaign's directory, or its results.jsonl
    pub results: PathBuf,

    /// Put the tables into this Markdown document, between `<!-- begin NAME -->` and `<!-- end NAME -->`
    #[arg(long, value_name = "DOCUMENT", requires = "marker")]
    pub into: Option<PathBuf>,

    /// The NAME of these markers
    #[arg(long, value_name = "NAME", requires = "into")]
    pub marker: Option<String>,
}

/// A server that runs.
#[derive(Debug, Clone, ClapArgs)]
pub struct Against {
    /// Where it is: tcp://host:port, ws://host:port/ or unix:///path
    #[arg(long, default_value = "tcp://127.0.0.1:9000", env = "FLUXAR_URL")]
    pub url: String,

    /// Where subscribers and services connect, if elsewhere
    #[arg(long, value_name = "URL")]
    pub subscriber_url: Option<String>,

    /// Services listen here, and the server connects to them: its configuration has an upstream of that address
    #[arg(long, value_name = "URL")]
    pub service_url: Option<String>,

    /// What it speaks [default: what the port is known for, else fluxar]
    #[arg(long, value_enum)]
    pub protocol: Option<Speaks>,

    /// Quality of service: 1 has publishes stored and acknowledged (NATS: by JetStream; Redis: in streams)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub qos: u8,

    /// FLUXAR: send each envelope in a frame of its own
    #[arg(long)]
    pub no_batch: bool,

    /// Its process, whose CPU time and memory are measured [default: who listens there, if it is this machine]
    #[arg(long)]
    pub pid: Option<u32>,
}

/// A protocol's name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Speaks {
    /// FLUXAR
    Fluxar,
    /// NATS core, or JetStream
    Nats,
    /// Redis publish and subscribe, or streams
    Redis,
    /// MQTT 3.1.1
    Mqtt3,
    /// MQTT 5
    Mqtt5,
    /// A bare relay of FLUXAR frames
    Relay,
}

impl From<Speaks> for ProtocolName {
    fn from(speaks: Speaks) -> ProtocolName {
        match speaks {
            Speaks::Fluxar => ProtocolName::Fluxar,
            Speaks::Nats => ProtocolName::Nats,
            Speaks::Redis => ProtocolName::Redis,
            Speaks::Mqtt3 => ProtocolName::Mqtt3,
            Speaks::Mqtt5 => ProtocolName::Mqtt5,
            Speaks::Relay => ProtocolName::Relay,
        }
    }
}

/// When messages are due, and what they carry.
#[derive(Debug, Clone, ClapArgs)]
pub struct Load {
    /// Closed loop: so many messages under way from each publisher [default: 1000]
    #[arg(long, value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..))]
    pub window: Option<u32>,

    /// Open loop: so many messages a second from all publishers together (50000, 50k, 1.5M)
    #[arg(long, value_parser = rate, conflicts_with = "window")]
    pub rate: Option<f64>,

    /// Open loop: at random times instead of evenly spaced
    #[arg(long, requires = "rate", conflicts_with = "burst")]
    pub poisson: bool,

    /// Open loop: so many at once
    #[arg(long, value_name = "MESSAGES", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub burst: Option<u32>,

    /// Bytes of a payload, its stamp included (64, 1KiB)
    #[arg(long, value_parser = bytes, default_value = "64")]
    pub bytes: usize,

    /// Payloads from a file of JSON lines, a JSON array or a CBOR sequence
    #[arg(long, value_name = "FILE", conflicts_with = "bytes")]
    pub documents: Option<PathBuf>,
}

/// How long and how often, and what becomes of it.
#[derive(Debug, Clone, ClapArgs)]
pub struct Doing {
    /// How long it is measured (500ms, 5s, 2m)
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "3s")]
    pub duration: Duration,

    /// How long it runs before
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "500ms")]
    pub warmup: Duration,

    /// How often
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,

    /// Processors of the generator, one thread each, such as 1 or 2-3 [default: the last one]
    #[arg(long, value_parser = cores, value_name = "LIST")]
    pub cores: Option<Cores>,

    /// What has to hold, such as 'p99_ms < 5' or 'lost == 0'; may be given several times
    #[arg(long = "assert", value_name = "ASSERTION")]
    pub assertions: Vec<String>,

    /// Directory for records and reports
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Of all that is drawn by chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Say nothing while it runs but what fails
    #[arg(short, long)]
    pub quiet: bool,
}

/// Who publishes and who subscribes.
#[derive(Debug, Clone, ClapArgs)]
pub struct Fan {
    /// Topics, each with publishers and subscribers of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub topics: u32,

    /// Publishers of each topic
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub publishers: u32,

    /// Subscribers of each topic
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub subscribers: u32,
}

/// A list of processors. (A type of its own, since clap gives `Vec` a meaning.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

/// `1`, `0,2-3`
fn cores(text: &str) -> Result<Cores, String> {
    let wrong = || format!("{text:?} is no list of processors such as 1 or 0,2-3");
    let available = crate::campaign::available_cores();
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        for core in first..=last.min(first + available.len()) {
            if !available.contains(&core) {
                return Err(format!(
                    "core {core} is not among those that this process may use ({available:?})"
                ));
            }
            cores.push(core);
        }
    }
    if cores.is_empty() {
        Err(wrong())
    } else {
        Ok(Cores(cores))
    }
}

/// `500ms`, `5s`, `2m`
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 500ms, 5s or 2m");
    let at = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// `50000`, `50k`, `1.5M`, `50k/s`
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no rate such as 50000, 50k or 1.5M (messages a second)");
    let number = text.strip_suffix("/s").unwrap_or(text);
    let (number, times) = match number.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => number
            .strip_suffix('M')
            .map_or((number, 1.0), |number| (number, 1e6)),
    };
    let rate: f64 = number.replace('_', "").parse().map_err(|_| wrong())?;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate * times)
    } else {
        Err(wrong())
    }
}

/// `64`, `1KiB`
fn bytes(text: &str) -> Result<usize, String> {
    let least = crate::stamp::PAYLOAD_BYTES_MIN;
    let wrong = || {
        format!(
            "{text:?} is no size such as 64 or 1KiB; the smallest is {least}, since payloads carry a stamp"
        )
    };
    let (number, times) = match text.strip_suffix("KiB") {
        Some(number) => (number, 1024),
        None => (text, 1),
    };
    let bytes = number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(times));
    bytes.filter(|bytes| *bytes >= least).ok_or_else(wrong)
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent < 100.0 => Ok(percent),
        _ => Err(format!("{text:?} is no share such as 5 (percent)")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_rates_and_sizes() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("x").is_err());
        assert_eq!(rate("50k/s"), Ok(50_000.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(rate("1_000"), Ok(1_000.0));
        assert!(rate("0").is_err() && rate("-1").is_err() && rate("inf").is_err());
        assert_eq!(bytes("1KiB"), Ok(1_024));
        assert!(bytes("8").is_err());
    }
}
