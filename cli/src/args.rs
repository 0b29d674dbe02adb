//! What can be typed.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::log::Log;
use clap::{Args as ClapArgs, Parser, Subcommand};
use fluxar::{Auth, Begin, Client, ClientBuilder, Cursor};

const AFTER_HELP: &str = "\
Exit codes:
  0  done; also: ended by Ctrl-C (sub, serve, stream, services --watch), or by a closed pipe
  1  the other side answered with an error, or ended the subscription or the offer;
     log verify found damage
  2  the command line is wrong, or a name or address cannot be used
  3  cannot connect, or the connection was lost
  4  it took longer than --timeout, or than the other side allows
  5  a payload could not be read or written (bad JSON, bad file, too large), or a log not be read

Payloads are JSON here and CBOR on the wire. What JSON lacks is written as
  {\"$bytes\": \"base64url\"}  {\"$tag\": 1, \"value\": …}  {\"$map\": [[key, value], …]}
  {\"$float\": \"NaN\"}  {\"$int\": \"…\"}
in both directions, so that nothing is lost.";

/// Publish, subscribe, call, stream, serve and ping over FLUXAR.
#[derive(Debug, Parser)]
#[command(name = "fluxar", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// Address of the gateway or peer: tcp://host:port, ws://host:port or unix:///path
    #[arg(
        long,
        global = true,
        env = "FLUXAR_URL",
        default_value = "tcp://127.0.0.1:9000"
    )]
    pub(crate) url: String,

    /// How long to wait: for the connection, for an answer, for a stream's end, for the --count-th event (500ms, 5s, 2m)
    #[arg(long, global = true, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,

    /// Bearer token for the hello
    #[arg(long, global = true, env = "FLUXAR_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// Speak the named form on the wire: readable in a packet dump
    #[arg(long, global = true)]
    pub(crate) named: bool,

    /// Say on stderr what happens to the connection
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish an event, or one for each line of stdin
    Pub(Pub),
    /// Subscribe to topics and print their events
    Sub(Sub),
    /// Call a method and print its answer
    Call(Call),
    /// Open a stream and print its items
    Stream(Stream),
    /// Serve a method: echo, a fixed answer, or a command
    Serve(Serve),
    /// List who serves what, and drain one of them
    Services(Services),
    /// Look inside a gateway's data directory, also while no gateway runs
    Log(Log),
    /// Measure round trips to the other side
    Ping(Ping),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pub {
    /// Topic, e.g. orders.created
    pub(crate) topic: String,

    /// The payload as JSON; `-` takes each line of stdin as one event; nothing is null
    #[arg(conflicts_with = "file", allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,

    /// Take the payload from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Publish it so many times
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,

    /// Pause between two events
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) interval: Option<Duration>,

    /// The payload is text as it stands, not JSON
    #[arg(long)]
    pub(crate) raw_text: bool,

    /// 0: sent, not acknowledged. 1: stored at least once. 2: stored exactly once. Stored ones are sent again until the
    /// gateway says so, for --timeout (30 s)
    #[arg(long, default_value_t = 0, value_name = "0-2", value_parser = clap::value_parser!(u8).range(..3))]
    pub(crate) qos: u8,

    /// What the event is about; with --retain the last one for each key is kept
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// Keep it as the last one for its key: `sub --retain` gets it first; a null payload takes the key out
    #[arg(long)]
    pub(crate) retain: bool,

    /// Do not deliver it any more so long after it was stored
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) ttl: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sub {
    /// Patterns: `*` is one token, `>` is one or more at the end. An event that several match is printed for each
    #[arg(required = true, value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,

    /// Join a group: each event goes to one of its members
    #[arg(long)]
    pub(crate) group: Option<String>,

    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// 0: events as they pass. 1: stored events, at least once. 2: each once; needs --durable. --durable, --from,
    /// --retain and --in-flight mean 1
    #[arg(long, value_name = "0-2", value_parser = clap::value_parser!(u8).range(..3))]
    pub(crate) qos: Option<u8>,

    /// Name of a cursor that the gateway keeps: whoever comes with it goes on behind what was acknowledged
    #[arg(long, value_name = "NAME")]
    pub(crate) durable: Option<String>,

    /// Where to begin: `new`, `all`, so long ago (`15m`), a time (2026-11-22T09:30:00Z), or behind a place
    /// (EPOCH:PARTITION@OFFSET,… as -v prints it at the end). With --durable it starts over there each time
    #[arg(long, value_parser = begin, value_name = "PLACE")]
    pub(crate) from: Option<Begin>,

    /// First the last event for each key, as it was published with --retain
    #[arg(long, conflicts_with = "group")]
    pub(crate) retain: bool,

    /// With --retain: leave out what is damaged of those on the gateway's disk, instead of ending
    #[arg(long, requires = "retain")]
    pub(crate) skip_damaged: bool,

    /// Of a group: take at most so many events that are not acknowledged
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,

    /// Do not acknowledge what was printed: it comes again. Then no more than the gateway lets be open come at all
    #[arg(long)]
    pub(crate) no_ack: bool,

    #[command(flatten)]
    pub(crate) style: Style,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Call {
    /// Method, e.g. users.get
    pub(crate) method: String,

    /// The argument as JSON; `-` takes it from stdin; nothing is null
    #[arg(allow_hyphen_values = true)]
    pub(crate) argument: Option<String>,

    /// It may run twice: tried once more elsewhere when the peer that serves it is lost before it answers
    #[arg(long)]
    pub(crate) idempotent: bool,

    /// Ask a second peer as well if the first has not answered so many milliseconds later
    #[arg(long, value_name = "MS", requires = "idempotent")]
    pub(crate) hedge_ms: Option<u64>,

    #[command(flatten)]
    pub(crate) routing: Routing,

    #[command(flatten)]
    pub(crate) style: Style,
}

/// How a gateway chooses who serves a call or a stream, and when.
#[derive(Debug, ClapArgs)]
pub(crate) struct Routing {
    /// Priority where it has to queue: 0 to 7, higher first
    #[arg(long, value_name = "0-7", value_parser = clap::value_parser!(u8).range(..8))]
    pub(crate) prio: Option<u8>,

    /// What has the same key goes to the same peer, where the route hashes
    #[arg(long)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Stream {
    /// Method, e.g. llm.complete
    pub(crate) method: String,

    /// The request as JSON; nothing is null
    #[arg(allow_hyphen_values = true)]
    pub(crate) argument: Option<String>,

    /// Send each line of this file as an item (JSON), then end this direction; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Cancel after so many items
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    #[command(flatten)]
    pub(crate) routing: Routing,

    /// Print CBOR diagnostic notation
    #[arg(long)]
    pub(crate) diag: bool,
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("answer").required(true))]
pub(crate) struct Serve {
    /// Method or pattern of methods, e.g. users.*
    pub(crate) method: String,

    /// Answer with the argument
    #[arg(long, group = "answer")]
    pub(crate) echo: bool,

    /// Answer with this JSON
    #[arg(long, group = "answer", value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) reply: Option<String>,

    /// Run a command for each call: the argument is its stdin and its stdout is the answer, both JSON. The method is in
    /// FLUXAR_METHOD. An exit code other than 0 is answered `internal` with the end of its stderr
    #[arg(last = true, group = "answer", value_name = "COMMAND")]
    pub(crate) command: Vec<String>,

    /// Serve streams. A command's stdout lines are the items, its stdin the request and then the caller's items, a line
    /// each; --echo sends the caller's items back; --reply sends each element of its array
    #[arg(long)]
    pub(crate) stream: bool,

    /// Pause between two items of --stream --reply
    #[arg(long, value_parser = duration, value_name = "TIME", requires_all = ["stream", "reply"])]
    pub(crate) interval: Option<Duration>,

    /// Share of the calls, compared with others that serve the same
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) weight: Option<u32>,

    /// Most calls and streams at a time; the gateway keeps the others until there is room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight: Option<u32>,

    /// Where this runs: calls prefer those who serve in the gateway's own zone
    #[arg(long)]
    pub(crate) zone: Option<String>,

    /// The fleet to join, which only rules of the gateway's configuration lead to
    #[arg(long)]
    pub(crate) fleet: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Services {
    /// Print the gateway's answer as JSON, in one line
    #[arg(long)]
    pub(crate) json: bool,

    /// Again and again, until Ctrl-C
    #[arg(long, value_parser = duration, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", require_equals = true)]
    pub(crate) watch: Option<Duration>,

    #[command(subcommand)]
    pub(crate) action: Option<ServicesAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServicesAction {
    /// Give one no new calls; those that it has go on
    Drain(Drain),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Drain {
    /// Its id or name (all that have it) as `fluxar services` shows them, an endpoint's URL, or an upstream's name
    #[arg(value_name = "ID|NAME")]
    pub(crate) peer: String,

    /// Give it calls again
    #[arg(long)]
    pub(crate) off: bool,

    /// Return when the calls that it has are done
    #[arg(long, conflicts_with = "off")]
    pub(crate) wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ping {
    /// How many round trips
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,

    /// Pause between two of them
    #[arg(long, default_value = "100ms", value_parser = duration, value_name = "TIME")]
    pub(crate) interval: Duration,

    /// Print one JSON object, times in microseconds
    #[arg(long)]
    pub(crate) json: bool,
}

/// How payloads are printed.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Style {
    /// Print CBOR diagnostic notation
    #[arg(long, conflicts_with = "json")]
    pub(crate) diag: bool,

    /// Print compact JSON, one value a line, also on a terminal (the default when stdout is no terminal)
    #[arg(long)]
    pub(crate) json: bool,
}

impl Args {
    /// The client that the global options describe.
    pub(crate) fn client(&self) -> ClientBuilder {
        let agent = concat!("fluxar-cli/", env!("CARGO_PKG_VERSION"));
        let mut client = Client::connect(&self.url)
            .agent(agent)
            .named(self.named)
            .reconnect(false);
        if let Some(timeout) = self.timeout {
            client = client.connect_timeout(timeout).call_timeout(timeout);
        }
        if let Some(token) = &self.token {
            client = client.auth(Auth::bearer(token));
        }
        client
    }
}

/// Reads `500ms`, `5s`, `2m`, `7d` or `1.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic() || c == 'µ')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" => return Err("a unit is missing: 500ms, 5s, 2m".to_owned()),
        _ => return Err(format!("`{unit}` is no unit of time: us, ms, s, m, h or d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// Reads where a subscription begins.
fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "new" => return Ok(Begin::New),
        "all" => return Ok(Begin::All),
        _ => {}
    }
    if text.contains('@') {
        let cursor: Cursor = text
            .parse()
            .map_err(|error: fluxar::Error| error.message().to_owned())?;
        return Ok(Begin::Behind(cursor));
    }
    if let Ok(ago) = duration(text) {
        let time = SystemTime::now().checked_sub(ago);
        return time
            .map(Begin::Time)
            .ok_or_else(|| "that is too long ago".to_owned());
    }
    time(text).map(Begin::Time).ok_or_else(|| {
        "new, all, so long ago (15m), a time (2026-11-22T09:30:00Z), or EPOCH:PARTITION@OFFSET,…".to_owned()
    })
}

/// Reads a time of day in UTC, as RFC 3339 writes it: `2026-11-22T09:30:00Z`, perhaps with a fraction.
fn time(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<[u64; 3]> {
        let numbers: Option<Vec<u64>> = text.split(separator).map(|number| number.parse().ok()).collect();
        numbers?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |month| match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_valid {
        return None;
    }
    let before = year - 1;
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leap_days(before) - leap_days(1969)
        + (1..month).map(days_of).sum::<u64>()
        + day
        - 1;
    let seconds = Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second);
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    UNIX_EPOCH.checked_add(seconds + Duration::try_from_secs_f64(fraction).ok()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        assert!(duration("5").unwrap_err().contains("unit is missing"));
        assert!(
            duration("5w").unwrap_err().contains("or d")
                && duration("s").is_err()
                && duration("-1s").is_err()
        );
    }

    #[test]
    fn beginnings_are_words_times_and_places() {
        assert_eq!(begin("all"), Ok(Begin::All));
        let Ok(Begin::Behind(cursor)) = begin("97216:12@3051,13@0") else {
            panic!("a place");
        };
        assert_eq!(cursor.to_string(), "97216:12@3051,13@0");
        let Ok(Begin::Time(ago)) = begin("15m") else {
            panic!("a time");
        };
        let passed = ago.elapsed().unwrap();
        assert!(passed >= Duration::from_secs(900) && passed < Duration::from_secs(1000));
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-03-01T00:00:00Z", 951_868_800.0),
            ("2024-02-29T23:59:59.5Z", 1_709_251_199.5),
            ("2026-11-22T09:30:00Z", 1_795_339_800.0),
            ("2100-03-01T00:00:00Z", 4_107_542_400.0),
        ] {
            let Ok(Begin::Time(time)) = begin(text) else {
                panic!("{text}");
            };
            assert_eq!(
                time.duration_since(UNIX_EPOCH).unwrap(),
                Duration::from_secs_f64(seconds),
                "{text}"
            );
        }
        for text in [
            "",
            "old",
            "5",
            "7:1@x",
            "2026-11-22",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T09:30:00+01:00",
            "1969-12-31T00:00:00Z",
        ] {
            assert!(begin(text).is_err(), "{text}");
        }
    }
}
