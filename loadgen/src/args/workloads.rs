//! The options of single runs: one command for each workload.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Against, Doing, Fan, Load, bytes, rate};
use crate::scenario::Direction;

const ASSERT_HELP: &str = "\
Assertions: FIGURE OP NUMBER, such as
  p50_ms p99_ms p99_9_us max_ms stall_ms     lost duplicated out_of_order refused
  sent_per_s delivered_per_s                 server_ns_per_message rss_max_mib server_busy
docs/loadgen.md says what each is.";

macro_rules! workload_args {
    ($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $kind:ty,)* } $load:ident) => {
        workload_args!(@ $(#[$doc])* $name {
            $($(#[$meta])* $field: $kind,)*
            /// When messages are due.
            #[command(flatten)]
            $load: Load,
        });
    };
    ($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $kind:ty,)* }) => {
        workload_args!(@ $(#[$doc])* $name { $($(#[$meta])* $field: $kind,)* });
    };
    (@ $(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, ClapArgs)]
        #[command(after_help = ASSERT_HELP)]
        pub struct $name {
            $($(#[$meta])* pub $field: $kind,)*
            /// The server.
            #[command(flatten)]
            pub against: Against,
            /// How long and how often.
            #[command(flatten)]
            pub doing: Doing,
        }
    };
}

workload_args!(
    /// `loadgen fan-out`
    FanOutArgs {
        /// Who publishes and who subscribes.
        #[command(flatten)]
        fan: Fan,
    } load
);

workload_args!(
    /// `loadgen store`
    StoreArgs {
        /// Topics, each with publishers of its own
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        topics: u32,
        /// Publishers of each topic
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        publishers: u32,
    } load
);

workload_args!(
    /// `loadgen replay`
    ReplayArgs {
        /// Events that are stored first
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
        events: u64,
        /// Subscribers that then ask for all of them
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        subscribers: u32,
        /// Bytes of a payload, its stamp included (64, 1KiB)
        #[arg(long, value_parser = bytes, default_value = "64")]
        bytes: usize,
    }
);

workload_args!(
    /// `loadgen calls`
    CallsArgs {
        /// Connections that call
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        clients: u32,
        /// Calls that each has open at a time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        in_flight: u32,
        /// Connections that serve
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        services: u32,
    } load
);

workload_args!(
    /// `loadgen upstream`
    UpstreamArgs {
        /// Connections that call
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        clients: u32,
        /// Calls that each has open at a time
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        in_flight: u32,
        /// Connections of the server that are waited for
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        services: u32,
    } load
);

workload_args!(
    /// `loadgen stream`
    StreamArgs {
        /// Connections that open streams
        #[arg(long, default_value_t = 1)]
        clients: u32,
        /// Streams that each has open
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        streams: u32,
        /// Connections that serve
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        services: u32,
        /// Who sends: the services (down), the clients (up), or both
        #[arg(long, value_enum, default_value_t = Sends::Down)]
        direction: Sends,
        /// What a reader grants its writer (65536, 64KiB); at least two of the largest chunks
        #[arg(long, value_parser = bytes, default_value = "64KiB", value_name = "BYTES")]
        window: usize,
        /// A stream ends after so many chunks and is opened again [default: all stay]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        chunks: Option<u32>,
        /// Further clients whose streams nobody grants any more once the warm-up is over
        #[arg(long, default_value_t = 0)]
        stopped: u32,
        /// They do not read from their connections either
        #[arg(long, requires = "stopped")]
        stop_reading: bool,
        /// Open loop: so many chunks a second on all streams together, instead of as fast as credit allows
        #[arg(long, value_parser = rate)]
        rate: Option<f64>,
        /// Open loop: at random times instead of evenly spaced
        #[arg(long, requires = "rate")]
        poisson: bool,
        /// Bytes of a chunk, its stamp included (64, 1KiB)
        #[arg(long, value_parser = bytes, default_value = "64")]
        bytes: usize,
        /// Chunks from a file of JSON lines, a JSON array or a CBOR sequence
        #[arg(long, value_name = "FILE", conflicts_with = "bytes")]
        documents: Option<PathBuf>,
    }
);

/// Who sends the chunks of streams.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Sends {
    /// The services
    Down,
    /// The clients
    Up,
    /// Both
    Both,
}

impl From<Sends> for Direction {
    fn from(sends: Sends) -> Direction {
        match sends {
            Sends::Down => Direction::Down,
            Sends::Up => Direction::Up,
            Sends::Both => Direction::Both,
        }
    }
}

workload_args!(
    /// `loadgen storm`
    StormArgs {
        /// How many altogether
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        connections: u32,
        /// How many are under way at a time
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
        concurrency: u32,
        /// All stay until the last one is in
        #[arg(long)]
        hold: bool,
    }
);

workload_args!(
    /// `loadgen idle`
    IdleArgs {
        /// How many
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        connections: u32,
        /// How many connect at a time
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
        concurrency: u32,
        /// Do not speak to them at the end
        #[arg(long)]
        silent: bool,
    }
);

workload_args!(
    /// `loadgen slow`
    SlowArgs {
        /// Subscribers that read
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        healthy: u32,
        /// Subscribers that stop reading
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        stopped: u32,
    } load
);

workload_args!(
    /// `loadgen churn`
    ChurnArgs {
        /// Subscribers that stay
        #[arg(long, default_value_t = 1)]
        subscribers: u32,
        /// Connections a second that come, subscribe, hear one event and go
        #[arg(long, value_parser = rate, default_value = "100", value_name = "RATE")]
        churn: f64,
    } load
);

workload_args!(
    /// `loadgen mixed`
    MixedArgs {
        /// Subscribers of the one topic
        #[arg(long, default_value_t = 1)]
        subscribers: u32,
        /// Connections that call
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        clients: u32,
        /// Calls that each has open
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        in_flight: u32,
    } load
);
