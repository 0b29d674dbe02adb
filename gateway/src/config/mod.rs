//! The configuration: defaults, then a TOML file, then the environment, then the command line. What is wrong is
//! refused at start, all of it at once, each fault with its line; on SIGHUP it is read again ([`crate::reload`]).
//!
//! Single settings go by the table in [`crate::settings`]. Fleets that are dialled (`[[upstream]]`), rules (`[[route]]`)
//! and rules of the log (`[[log.topic]]`) are lists of tables, read in `upstream.rs`, `route.rs` and `log.rs` by way of
//! `table.rs`.

mod cores;
mod fault;
mod log;
mod route;
mod table;
mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_engine::uring::UringConfig;
use fluxar_engine::ws::Origins;
use fluxar_shard::Routes;
use fluxar_shard::routes::{Ejection, RetryBudget, Rule};
use toml::de::{DeTable, DeValue};

pub use self::cores::Cores;
pub use self::fault::ConfigFault;
pub use self::log::{LogConfig, LogDir};
pub use self::route::Remark;
use self::table::{Reading, line_of, value_of};
pub(crate) use self::table::{checked_name, show_text};
use crate::limits::Limits;
use crate::services::AdminFrom;
use crate::settings::{self, SETTINGS, Setting, Value};
use crate::upstreams::{Health, Services, Upstream};

/// What a gateway is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which cores it runs on.
    pub cores: Cores,
    /// Where it listens, as URLs.
    pub listen: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Which web pages may connect.
    pub origins: Origins,
    /// The engine's sizes.
    pub engine: EngineSizes,
    /// Services: how they are found, dialled and judged.
    pub services: ServiceConfig,
    /// Who may ask for `$services.…`.
    pub admin_from: AdminFrom,
    /// The log of events.
    pub log: LogConfig,
    /// How much it says.
    pub log_level: String,
    /// Variables of the environment that look like settings and are none; what is said about each.
    pub stray_variables: Vec<String>,
}

/// What a configuration says about services. All of it can change while the gateway runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceConfig {
    /// Where this gateway stands.
    pub zone: Option<String>,
    /// Active health.
    pub health: Health,
    /// Passive health.
    pub ejection: Ejection,
    /// What may be sent a second time.
    pub retries: RetryBudget,
    /// Fleets that are dialled.
    pub upstreams: Vec<Upstream>,
    /// Which call goes where.
    pub rules: Vec<Rule>,
}

/// Sizes of a core's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSizes {
    /// How long a core looks for mail before it parks, µs.
    pub spin_us: u32,
    /// Submission entries; completions have four times as many.
    pub ring_entries: u32,
    /// Receive buffers.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Letters under way between two cores.
    pub mailbox_letters: usize,
}

impl EngineSizes {
    /// What a core's ring is made with.
    #[must_use]
    pub fn uring(&self) -> UringConfig {
        let entries = self.ring_entries.next_power_of_two();
        UringConfig {
            entries,
            cq_entries: entries.saturating_mul(4).min(65_536),
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            ..UringConfig::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cores: Cores::All,
            listen: vec![
                "tcp://127.0.0.1:9000".into(),
                "ws://127.0.0.1:9001".into(),
                format!("unix://{}", default_socket_path().display()),
            ],
            limits: Limits::default(),
            origins: Origins::Loopback,
            engine: EngineSizes {
                spin_us: 0,
                ring_entries: 1024,
                buffers: 1024,
                buffer_bytes: 16 * 1024,
                mailbox_letters: 4096,
            },
            services: ServiceConfig::default(),
            admin_from: AdminFrom::default(),
            log: LogConfig::default(),
            log_level: "info".into(),
            stray_variables: Vec::new(),
        }
    }
}

/// The Unix socket of a gateway that was told nothing: in the user's runtime directory if there is one.
fn default_socket_path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if Path::new(&directory).is_dir() => Path::new(&directory).join("fluxar.sock"),
        _ if Path::new("/run").is_dir() && is_root() => PathBuf::from("/run/fluxar.sock"),
        _ => std::env::temp_dir().join("fluxar.sock"),
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata("/proc/self") {
        Ok(metadata) => metadata,
        Err(_) => return false,
    }) == 0
}

impl Config {
    /// Reads a TOML text over what is there already. All faults are collected; what is right is taken.
    pub fn read_toml(&mut self, source: &str, text: &str, faults: &mut Vec<ConfigFault>) {
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                faults.push(ConfigFault {
                    source: source.into(),
                    line: error.span().map(|span| line_of(text, span.start)),
                    message: error.message().to_string(),
                });
                return;
            }
        };
        let first = faults.len();
        self.read_table(&Reading::new(source, text), "", root.get_ref(), faults);
        faults[first..].sort_by_key(|fault| fault.line);
    }

    fn read_table(
        &mut self,
        reading: &Reading<'_>,
        section: &str,
        table: &DeTable<'_>,
        faults: &mut Vec<ConfigFault>,
    ) {
        for (name, value) in table {
            let key = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            let at = name.span().start;
            match key.as_str() {
                "upstream" => {
                    self.services.upstreams = upstream::read_all(reading, at, value, faults);
                    continue;
                }
                "route" => {
                    self.services.rules = route::read_all(reading, at, value, faults);
                    continue;
                }
                "log.topic" => {
                    self.log.settings.topics = log::read_topics(reading, at, value, faults);
                    continue;
                }
                _ => {}
            }
            if let DeValue::Table(inner) = value.get_ref()
                && SETTINGS
                    .iter()
                    .any(|setting| setting.key.starts_with(&format!("{key}.")))
            {
                self.read_table(reading, &key, inner, faults);
                continue;
            }
            let Some(setting) = settings::find(&key) else {
                faults.push(reading.fault(at, unknown(&key)));
                continue;
            };
            if let Err(wrong) = (setting.set)(self, value_of(value.get_ref())) {
                faults.push(reading.fault(at, format!("{key}: {wrong}")));
            }
        }
    }

    /// Reads the environment: `FLUXAR_LISTEN`, `FLUXAR_LIMITS_QUEUE_BYTES`, … Lists are separated by commas.
    pub fn read_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
        faults: &mut Vec<ConfigFault>,
    ) {
        for (variable, text) in variables.filter(|(variable, _)| variable.starts_with("FLUXAR_")) {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == variable) else {
                // The SDK and the CLI have variables of their own, and what runs containers may put others here.
                self.stray_variables.extend(stray(&variable));
                continue;
            };
            if let Err(wrong) = (setting.set)(self, value_from_text(setting, &text)) {
                faults.push(ConfigFault {
                    source: variable,
                    line: None,
                    message: wrong,
                });
            }
        }
    }

    /// What is wrong whatever the other settings say, and takes a look at all sources to tell.
    pub fn check_each(&self, faults: &mut Vec<ConfigFault>) {
        for (at, url) in self.listen.iter().enumerate() {
            if self.listen[..at].contains(url) {
                faults.push(ConfigFault::of_all(format!("listen: {url} stands twice")));
            }
        }
        if let Err(message) = self.cores.pick() {
            faults.push(ConfigFault::of_all(format!("cores: {message}")));
        }
    }

    /// What no single setting can tell is wrong: worth asking where each of them is good.
    pub fn check_together(&self, faults: &mut Vec<ConfigFault>) {
        let mut fault = |message: String| faults.push(ConfigFault::of_all(message));
        if !self.engine.buffers.is_power_of_two() {
            fault(format!(
                "engine.buffers: {} is not a power of two",
                self.engine.buffers
            ));
        }
        let segment_bytes = self.log.settings.segment_bytes;
        if segment_bytes < 2 * u64::from(self.limits.max_frame_bytes) {
            fault(format!(
                "log.segment_bytes: {segment_bytes} is less than twice limits.max_frame_bytes, which is {}",
                self.limits.max_frame_bytes
            ));
        }
        let unsynced_bytes = self.log.settings.unsynced_bytes_max;
        if unsynced_bytes < 2 * self.limits.max_frame_bytes as usize {
            fault(format!(
                "log.unsynced_bytes: {unsynced_bytes} is less than twice limits.max_frame_bytes, which is {}",
                self.limits.max_frame_bytes
            ));
        }
        if (self.limits.max_frame_bytes as usize) > 2 * self.limits.queue_bytes {
            fault(format!(
                "limits.max_frame_bytes: a frame of {} bytes could never be answered in kind, limits.queue_bytes is {}",
                self.limits.max_frame_bytes, self.limits.queue_bytes
            ));
        }
        let Ejection {
            first_ms, most_ms, ..
        } = self.services.ejection;
        if first_ms > most_ms {
            fault(format!(
                "services.ejection_first_ms: {first_ms} is more than services.ejection_most_ms, which is {most_ms}"
            ));
        }
    }

    /// What is allowed, and worth a second look.
    #[must_use]
    pub fn remarks(&self) -> Vec<Remark> {
        let mut remarks = route::remarks(&self.services.rules, &self.services.upstreams);
        // Whoever cannot have the cores is told so when they are started.
        let cores = self.cores.pick().map_or(1, |cores| cores.len());
        remarks.extend(upstream::remarks(&self.services.upstreams, cores));
        remarks.extend(self.stray_variables.iter().map(|message| Remark {
            is_warning: true,
            message: message.clone(),
        }));
        remarks
    }

    /// What the cores are told about services, at start and after each reload.
    #[must_use]
    pub fn services(&self) -> Services {
        let ServiceConfig {
            zone,
            health,
            ejection,
            retries,
            upstreams,
            rules,
        } = &self.services;
        Services {
            routes: Arc::new(Routes {
                rules: rules.clone(),
                zone: zone.clone(),
                ejection: *ejection,
                retries: *retries,
            }),
            upstreams: upstreams.clone(),
            health: *health,
            admin_from: self.admin_from,
        }
    }

    /// The listening addresses, which [`Config::read_toml`] and friends have checked.
    ///
    /// # Errors
    /// The first that is none.
    pub fn addresses(&self) -> Result<Vec<Address>, String> {
        self.listen
            .iter()
            .map(|url| Address::parse(url).map_err(|error| error.to_string()))
            .collect()
    }

    /// As TOML, each setting with its meaning: the example configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::from(
            "# Fluxar Gateway. Every setting as it stands; each can also be given as an environment variable,\n\
             # e.g. FLUXAR_LIMITS_QUEUE_BYTES. SIGHUP takes over services, admin.from, log.level, [[upstream]] and [[route]];\n\
             # the rest takes effect at the next start.\n",
        );
        let mut section = "";
        for setting in SETTINGS {
            let (of, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if of != section {
                out += &format!("\n[{of}]\n");
                section = of;
            }
            out += &format!("# {}\n{name} = {}\n", setting.what, (setting.show)(self));
        }
        upstream::print_all(&self.services.upstreams, &mut out);
        route::print_all(&self.services.rules, &mut out);
        log::print_topics(&self.log.settings.topics, &mut out);
        out
    }
}

/// What is said about a key that is none.
fn unknown(key: &str) -> String {
    match settings::nearest(key, &["upstream", "route", "log.topic"]) {
        Some(known @ ("upstream" | "route" | "log.topic")) => {
            format!("there is no setting `{key}`; did you mean `[[{known}]]`?")
        }
        Some(known) => format!("there is no setting `{key}`; did you mean `{known}`?"),
        None => format!("there is no setting `{key}`; --print-config lists all"),
    }
}

/// What is said about a variable that is no setting, if it was probably meant to be one.
fn stray(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("FLUXAR_")?;
    let settings: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let names = settings.iter().filter_map(|known| known.strip_prefix("FLUXAR_"));
    if let Some(near) = settings::nearest_of(name, names) {
        return Some(format!(
            "{variable} is no setting and is not used; did you mean FLUXAR_{near}?"
        ));
    }
    let section = name.split_once('_')?.0.to_lowercase();
    let mut sections = SETTINGS.iter().filter_map(|setting| setting.key.split_once('.'));
    sections.any(|(known, _)| known == section).then(|| {
        format!("{variable} is no setting and is not used; --print-config lists those of [{section}]")
    })
}

/// A variable is text; what it stands for depends on the setting.
fn value_from_text(setting: &Setting, text: &str) -> Value {
    if let Ok(number) = text.trim().parse::<i128>() {
        return Value::Number(number);
    }
    if ["listen", "admin.from"].contains(&setting.key)
        || text.contains(',') && setting.key == "websocket.origins"
    {
        return Value::List(
            text.split(',')
                .map(|part| part.trim().to_string())
                .filter(|part| !part.is_empty())
                .collect(),
        );
    }
    Value::Text(text.trim().to_string())
}

#[cfg(test)]
mod tests;
