//! The configuration: defaults, then a TOML file, then the environment, then the command line. What is wrong is
//! refused at start, all of it at once, each fault with its line.

use std::fmt;
use std::path::{Path, PathBuf};

use fluxar_engine::listener::Address;
use fluxar_engine::uring::UringConfig;
use fluxar_engine::ws::Origins;
use toml::de::{DeTable, DeValue};

use crate::limits::Limits;
use crate::settings::{self, SETTINGS, Setting, Value};

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
    /// How much it says.
    pub log_level: String,
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

/// Which cores to run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// All that this process may use.
    All,
    /// The first so many of them.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where it came from: a file, a variable, an option.
    pub source: String,
    /// The line in a file, from 1.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source, self.message),
            None => write!(f, "{}: {}", self.source, self.message),
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
            log_level: "info".into(),
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
        self.read_table(&Reading { source, text }, "", root.get_ref(), faults);
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
            let line = line_of(reading.text, name.span().start);
            if let DeValue::Table(inner) = value.get_ref()
                && SETTINGS
                    .iter()
                    .any(|setting| setting.key.starts_with(&format!("{key}.")))
            {
                self.read_table(reading, &key, inner, faults);
                continue;
            }
            let Some(setting) = settings::find(&key) else {
                let message = match settings::nearest(&key) {
                    Some(known) => format!("there is no setting `{key}`; did you mean `{known}`?"),
                    None => format!("there is no setting `{key}`; --print-config lists all"),
                };
                faults.push(ConfigFault {
                    source: reading.source.into(),
                    line: Some(line),
                    message,
                });
                continue;
            };
            if let Err(wrong) = (setting.set)(self, value_of(value.get_ref())) {
                let message = format!("{key}: {wrong}");
                faults.push(ConfigFault {
                    source: reading.source.into(),
                    line: Some(line),
                    message,
                });
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
                continue; // the SDK and the CLI have variables of their own
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

    /// What no single setting can tell is wrong.
    pub fn check_together(&self, faults: &mut Vec<ConfigFault>) {
        let mut fault = |message: String| {
            faults.push(ConfigFault {
                source: "configuration".into(),
                line: None,
                message,
            });
        };
        if !self.engine.buffers.is_power_of_two() {
            fault(format!(
                "engine.buffers: {} is not a power of two",
                self.engine.buffers
            ));
        }
        if (self.limits.max_frame_bytes as usize) > 2 * self.limits.queue_bytes {
            fault(format!(
                "limits.max_frame_bytes: a frame of {} bytes could never be answered in kind, limits.queue_bytes is {}",
                self.limits.max_frame_bytes, self.limits.queue_bytes
            ));
        }
        for (at, url) in self.listen.iter().enumerate() {
            if self.listen[..at].contains(url) {
                fault(format!("listen: {url} stands twice"));
            }
        }
        if let Err(message) = self.cores.pick() {
            fault(format!("cores: {message}"));
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
             # e.g. FLUXAR_LIMITS_QUEUE_BYTES.\n",
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
        out
    }
}

struct Reading<'a> {
    source: &'a str,
    text: &'a str,
}

impl Cores {
    /// Reads `all`, a number, or a list like `0,2-3`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither \"all\", nor a number, nor a list like \"0,2-3\"");
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(count) = text.parse::<usize>() {
            return if count == 0 {
                Err("0 cores cannot run anything".into())
            } else {
                Ok(Self::Count(count))
            };
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last >= 4096 {
                return Err(format!("{part:?} is no range of cores"));
            }
            for core in first..=last {
                if list.contains(&core) {
                    return Err(format!("core {core} stands twice"));
                }
                list.push(core);
            }
        }
        // "0," is a list of one core; a lone number is a count.
        Ok(Self::List(list))
    }

    /// The processors to pin to, out of those that this process may use.
    ///
    /// # Errors
    /// A core that this process may not use, or more than there are.
    pub fn pick(&self) -> Result<Vec<usize>, String> {
        let available: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        if available.is_empty() {
            return Err("this process may use no core that can be found out".into());
        }
        match self {
            Self::All => Ok(available),
            Self::Count(count) if *count <= available.len() => Ok(available[..*count].to_vec()),
            Self::Count(count) => Err(format!(
                "{count} were asked for, this process may use {}",
                available.len()
            )),
            Self::List(list) => match list.iter().find(|core| !available.contains(core)) {
                None => Ok(list.clone()),
                Some(core) => Err(format!(
                    "core {core} is not among those that this process may use ({available:?})"
                )),
            },
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "{}{}",
                    list.join(","),
                    if list.len() == 1 {
                        "-".to_string() + &list[0]
                    } else {
                        String::new()
                    }
                )
            }
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Other("a number of too many digits"),
        },
        DeValue::Array(list) => {
            let texts: Option<Vec<String>> = list
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect();
            texts.map_or(Value::Other("a list of other things than texts"), Value::List)
        }
        DeValue::Boolean(_) => Value::Other("true or false"),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// A variable is text; what it stands for depends on the setting.
fn value_from_text(setting: &Setting, text: &str) -> Value {
    if let Ok(number) = text.trim().parse::<i128>() {
        return Value::Number(number);
    }
    if setting.key == "listen" || text.contains(',') && setting.key == "websocket.origins" {
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
mod tests {
    use super::*;

    fn read(text: &str) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut faults = Vec::new();
        config.read_toml("fluxar.toml", text, &mut faults);
        (config, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_printed_configuration_reads_back_as_itself() {
        let printed = Config::default().to_toml();
        let (config, faults) = read(&printed);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(config.to_toml(), printed);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_lines() {
        let (_, faults) = read(
            "cores = true\n\
             listen = [\"http://127.0.0.1\"]\n\
             \n\
             [limits]\n\
             queue_byte = 5\n\
             heartbeat_ms = 10\n\
             frame_ms = \"soon\"\n",
        );
        assert_eq!(faults.len(), 5, "{faults:#?}");
        for (fault, line) in faults.iter().zip(["1:", "2:", "5:", "6:", "7:"]) {
            assert!(fault.starts_with(&format!("fluxar.toml:{line}")), "{fault}");
        }
        assert!(
            faults[2].contains("did you mean `limits.queue_bytes`"),
            "{}",
            faults[2]
        );
        assert!(faults[3].contains("10 is outside 1000..3600000"), "{}", faults[3]);
    }

    #[test]
    fn a_file_that_is_not_toml_names_the_line() {
        let (_, faults) = read("cores = 1\nlisten = [\n");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("fluxar.toml:"), "{}", faults[0]);
    }

    #[test]
    fn the_environment_overrides_and_is_checked() {
        let mut config = Config::default();
        let mut faults = Vec::new();
        let variables = [
            ("FLUXAR_LIMITS_QUEUE_BYTES", "131072"),
            ("FLUXAR_LISTEN", "tcp://127.0.0.1:0, unix:///tmp/x.sock"),
            ("FLUXAR_CORES", "none"),
            ("FLUXAR_URL", "tcp://elsewhere:1"),
            ("PATH", "/bin"),
        ];
        config.read_environment(
            variables.iter().map(|(k, v)| (k.to_string(), v.to_string())),
            &mut faults,
        );
        assert_eq!(config.limits.queue_bytes, 131_072);
        assert_eq!(config.listen, ["tcp://127.0.0.1:0", "unix:///tmp/x.sock"]);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].source, "FLUXAR_CORES");
    }

    #[test]
    fn cores_are_counts_or_lists() {
        assert_eq!(Cores::parse("all"), Ok(Cores::All));
        assert_eq!(Cores::parse("2"), Ok(Cores::Count(2)));
        assert_eq!(Cores::parse("0,2-3"), Ok(Cores::List(vec![0, 2, 3])));
        assert_eq!(Cores::parse("1-1"), Ok(Cores::List(vec![1])));
        assert!(Cores::parse("0").is_err());
        assert!(Cores::parse("3-1").is_err());
        assert!(Cores::parse("0,0").is_err());
        assert!(Cores::parse("0,x").is_err());
        for cores in [
            Cores::All,
            Cores::Count(2),
            Cores::List(vec![1]),
            Cores::List(vec![0, 2]),
        ] {
            assert_eq!(Cores::parse(&cores.to_string()), Ok(cores));
        }
    }
}
