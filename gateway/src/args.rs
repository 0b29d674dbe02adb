//! The command line of `fluxar-gateway`.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, ConfigFault};
use crate::settings::{self, Value};

/// The FLUXAR edge gateway: calls and pub/sub for fleets of services, on io_uring, one loop a core.
///
/// Without arguments it runs on all cores and listens on loopback: TCP 9000, WebSocket 9001 and a Unix socket.
#[derive(Debug, Parser)]
#[command(name = "fluxar-gateway", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    /// Read settings from a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit: 0 if it is good, 2 with every fault and its line if not
    #[arg(long)]
    pub check: bool,

    /// Print the configuration as it stands, each setting with its meaning, and exit
    #[arg(long)]
    pub print_config: bool,

    /// Cores to run on: "all", how many, or a list like 0,2-3
    #[arg(long, value_name = "N|LIST")]
    pub cores: Option<String>,

    /// Listen here instead of the defaults (repeatable): tcp://127.0.0.1:9000, ws://127.0.0.1:9001, unix:///run/fluxar.sock
    #[arg(short, long, value_name = "URL")]
    pub listen: Vec<String>,

    /// Keep the log of events in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_log")]
    pub log_dir: Option<String>,

    /// Keep no log of events: publishing and subscribing at qos 1 and 2 is refused
    #[arg(long)]
    pub no_log: bool,

    /// How much to say: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}

// A line for each paragraph: it is broken as wide as the terminal is.
const AFTER_HELP: &str = "\
What counts, from weak to strong: defaults, the file, the environment (each setting as FLUXAR_SECTION_NAME, e.g. \
FLUXAR_LISTEN=tcp://0.0.0.0:9000,ws://0.0.0.0:9001), the command line.

SIGHUP reads the file and the environment again: rules, upstreams and services change without dropping a connection; \
the log says what changed. A file with a fault changes nothing.

SIGTERM and SIGINT drain: no new connections, a goodbye to each client, what is queued is sent, exit 0. A second one \
ends at once.

First steps, each in a terminal of its own:
  fluxar-gateway
  fluxar sub 'greetings.>'
  fluxar pub greetings.world '{\"hello\": \"world\"}'";

impl Args {
    /// Puts the configuration together from all its sources.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn configuration(
        &self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, Vec<ConfigFault>> {
        let mut config = Config::default();
        let mut faults = Vec::new();
        if let Some(path) = &self.config {
            let source = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => config.read_toml(&source, &text, &mut faults),
                Err(error) => {
                    faults.push(ConfigFault {
                        source,
                        line: None,
                        message: format!("cannot be read: {error}"),
                    });
                }
            }
        }
        config.read_environment(environment, &mut faults);
        if let Some(cores) = &self.cores {
            apply(
                &mut config,
                "cores",
                "--cores",
                Value::Text(cores.clone()),
                &mut faults,
            );
        }
        if !self.listen.is_empty() {
            apply(
                &mut config,
                "listen",
                "--listen",
                Value::List(self.listen.clone()),
                &mut faults,
            );
        }
        let no_log = self.no_log.then_some(("--no-log", ""));
        let log_dir = self.log_dir.as_deref().map(|path| ("--log-dir", path));
        if let Some((option, path)) = no_log.or(log_dir) {
            apply(
                &mut config,
                "log.dir",
                option,
                Value::Text(path.into()),
                &mut faults,
            );
        }
        if let Some(level) = &self.log {
            apply(
                &mut config,
                "log.level",
                "--log",
                Value::Text(level.clone()),
                &mut faults,
            );
        }
        let are_good = faults.is_empty();
        config.check_each(&mut faults);
        if are_good {
            config.check_together(&mut faults);
        }
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(faults)
        }
    }
}

fn apply(config: &mut Config, key: &str, option: &str, value: Value, faults: &mut Vec<ConfigFault>) {
    let Some(setting) = settings::find(key) else {
        return;
    };
    if let Err(message) = (setting.set)(config, value) {
        faults.push(ConfigFault {
            source: option.into(),
            line: None,
            message,
        });
    }
}
