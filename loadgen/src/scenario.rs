//! What a run does, as a campaign file says it: the workload, how its messages arrive, what they carry, how long.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One scenario, every choice made: sweeps are already spread out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What is done.
    pub workload: Workload,
    /// When messages are due.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// What they carry.
    #[serde(default)]
    pub payload: Payload,
    /// Not measured, in ms.
    #[serde(default = "default_warmup_ms")]
    pub warmup_ms: u64,
    /// Measured, in ms.
    #[serde(default = "default_duration_ms")]
    pub duration_ms: u64,
}

fn default_warmup_ms() -> u64 {
    500
}

fn default_duration_ms() -> u64 {
    3_000
}

/// What connections do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Workload {
    /// Publishers and subscribers of topics.
    FanOut {
        /// Topics, each with publishers and subscribers of its own.
        #[serde(default = "one")]
        topics: u32,
        /// Of each topic.
        #[serde(default = "one")]
        publishers: u32,
        /// Of each topic.
        #[serde(default = "one")]
        subscribers: u32,
    },
    /// Publishes that the server stores and acknowledges; nobody listens. The window of a closed loop counts publishes that were
    /// not acknowledged.
    Store {
        /// Topics, each with publishers of its own.
        #[serde(default = "one")]
        topics: u32,
        /// Of each topic.
        #[serde(default = "one")]
        publishers: u32,
    },
    /// Events are stored, which is not measured; then subscribers come late and ask for all of them.
    Replay {
        /// How many.
        #[serde(default = "default_events")]
        events: u64,
        /// Each gets all.
        #[serde(default = "one")]
        subscribers: u32,
    },
    /// Requests through the server to serving sessions that send them back, and their answers.
    Calls {
        /// Connections that call.
        #[serde(default = "one")]
        clients: u32,
        /// Calls that each has open at a time (closed loop).
        #[serde(default = "one")]
        in_flight: u32,
        /// Connections that serve.
        #[serde(default = "one")]
        services: u32,
    },
    /// Connects, says hello, waits to be accepted, and closes, as often as it can.
    Storm {
        /// How many altogether.
        connections: u32,
        /// How many are under way at a time.
        #[serde(default = "default_concurrency")]
        concurrency: u32,
        /// All stay until the last one is in.
        #[serde(default)]
        hold: bool,
    },
    /// Connections that are there and say nothing; then each is spoken to.
    Idle {
        /// How many.
        connections: u32,
        /// How many connect at a time.
        #[serde(default = "default_concurrency")]
        concurrency: u32,
        /// Whether each of them is then subscribed and spoken to: one event to all, and a ping from each.
        #[serde(default = "yes")]
        speak: bool,
    },
    /// A fan-out beside subscribers that stop reading.
    Slow {
        /// Subscribers that read.
        #[serde(default = "two")]
        healthy: u32,
        /// Subscribers that stop reading when the warm-up is over.
        #[serde(default = "one")]
        stopped: u32,
    },
    /// A fan-out on which further subscribers come and go.
    Churn {
        /// Subscribers that stay.
        #[serde(default = "one")]
        subscribers: u32,
        /// Connections a second that come, subscribe, hear one event and go.
        churn_per_s: f64,
    },
    /// Streams between clients and services.
    Stream {
        /// Connections that open streams.
        #[serde(default = "one")]
        clients: u32,
        /// Streams that each has open.
        #[serde(default = "one")]
        streams: u32,
        /// Connections that serve.
        #[serde(default = "one")]
        services: u32,
        /// Who sends chunks.
        #[serde(default)]
        direction: Direction,
        /// What the reader of a stream grants its writer, bytes. At least two of the largest chunks.
        #[serde(default = "default_window_bytes")]
        window_bytes: u32,
        /// A stream ends after so many chunks, and is opened again. Otherwise all stay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunks: Option<u32>,
        /// Further clients, whose streams nobody reads any more once the warm-up is over.
        #[serde(default)]
        stopped: u32,
        /// How they stop.
        #[serde(default)]
        stops: Stops,
    },
    /// Fan-out and calls at once, on the same server.
    Mixed {
        /// Subscribers of the one topic.
        subscribers: u32,
        /// Connections that call.
        clients: u32,
        /// Calls that each has open.
        #[serde(default = "one")]
        in_flight: u32,
    },
}

/// Who sends the chunks of streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The service.
    #[default]
    Down,
    /// The client.
    Up,
    /// Both.
    Both,
}

/// How the readers of stopped clients stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stops {
    /// They grant nothing more, and take what still comes.
    #[default]
    Granting,
    /// They read nothing more from their connections. Only where services alone send.
    Reading,
}

fn default_events() -> u64 {
    1_000_000
}

fn default_window_bytes() -> u32 {
    64 * 1024
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn yes() -> bool {
    true
}

fn default_concurrency() -> u32 {
    64
}

/// When messages are due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arrivals {
    /// Closed loop: each publisher has up to so many messages that not all of its subscribers have received. (Calls
    /// have their own `in_flight`, which counts instead.)
    Window {
        /// How many.
        messages: u32,
    },
    /// Open loop: evenly spaced.
    Constant {
        /// All publishers together.
        per_s: f64,
    },
    /// Open loop: exponentially distributed gaps.
    Poisson {
        /// On average, all publishers together.
        per_s: f64,
    },
    /// Open loop: so many at once, so many times a second.
    Bursts {
        /// On average, all publishers together.
        per_s: f64,
        /// In one burst.
        burst: u32,
    },
    /// Open loop: a rate that rises evenly over the measured time.
    Ramp {
        /// At the start.
        from_per_s: f64,
        /// At the end.
        to_per_s: f64,
    },
    /// Open loop: rates one after another, each for an equal part of the measured time and reported as a phase.
    Steps {
        /// All publishers together.
        per_s: Vec<f64>,
    },
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals::Window { messages: 1_000 }
    }
}

/// What messages carry. Every payload begins with a [`crate::stamp`]; sizes include it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Payload {
    /// A CBOR map of a handful of fields, so many bytes altogether.
    Fixed {
        /// At least [`crate::stamp::PAYLOAD_BYTES_MIN`].
        bytes: usize,
    },
    /// Sizes drawn by weight.
    Distribution {
        /// Sizes in bytes with their weights.
        sizes: Vec<(usize, f64)>,
    },
    /// Documents from a file: JSON lines, a JSON array, or a CBOR sequence. JSON is made CBOR once, at the start, so
    /// that all targets carry the same bytes.
    File {
        /// Relative to the campaign file.
        path: PathBuf,
    },
}

impl Default for Payload {
    fn default() -> Self {
        Payload::Fixed { bytes: 64 }
    }
}

/// To whom: one server and how to speak to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// How tables and plots call it.
    pub name: String,
    /// What it speaks.
    pub protocol: ProtocolName,
    /// `tcp://host:port`, `unix:///path`, `ws://host:port/`.
    pub url: String,
    /// Where subscribers (and serving sessions) connect, if elsewhere, for example by WebSocket.
    #[serde(default)]
    pub subscriber_url: Option<String>,
    /// Where services listen, instead of connecting: the server connects to them (a gateway's `[[upstream]]`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_url: Option<String>,
    /// Quality of service of publishes and subscriptions: 0, or 1: stored and acknowledged (NATS: JetStream; Redis: streams).
    #[serde(default)]
    pub qos: u8,
    /// Whether a FLUXAR client puts what it sends in one turn into one frame, as the SDK does (default), or each
    /// envelope into a frame of its own.
    #[serde(default = "yes")]
    pub batch: bool,
}

/// What a target speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolName {
    /// FLUXAR, over whatever the URL says.
    Fluxar,
    /// NATS core; at qos 1 JetStream.
    Nats,
    /// Redis publish and subscribe; at qos 1 streams.
    Redis,
    /// MQTT 3.1.1.
    Mqtt3,
    /// MQTT 5.
    Mqtt5,
    /// Bytes that a relay hands to every other connection (`engine/examples/relay.rs`): frames of FLUXAR's length
    /// prefix, no hello. The first byte that a connection sends says whether it publishes or subscribes.
    Relay,
}
