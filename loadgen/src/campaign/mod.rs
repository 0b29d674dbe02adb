//! A campaign: which scenarios are run against which targets, how often, and what they promise.
//!
//! ```text
//!   campaign.toml ─> read ─> Campaign ─> order ─> conduct: servers, runs, records, judgement
//!                     └ sweeps are spread out: each scenario has its points
//! ```
//!
//! `docs/loadgen.md` describes the file; `bench/campaigns/` has examples.

mod fields;
mod read;
mod sweep;
mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use fields::nearest;
pub use fields::{Fault, available_cores};

use crate::record::{short_field, value_text};
use crate::scenario::{ProtocolName, Scenario, Target};
use crate::slo::Assertion;

/// Everything that a file says, or a command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Campaign {
    /// How results call it.
    pub name: String,
    /// Where the file stands; paths in it are relative to this.
    pub directory: PathBuf,
    /// How often each target runs at each point.
    pub repeats: u32,
    /// Between two runs, ms: connections of the one before are closed meanwhile.
    pub pause_ms: u64,
    /// Processors of the generator, one thread each; empty: chosen from those that no target is pinned to.
    pub generator_cores: Vec<usize>,
    /// Of all that is drawn: arrivals, sizes, documents.
    pub seed: u64,
    /// Against whom.
    pub targets: Vec<TargetPlan>,
    /// What.
    pub scenarios: Vec<ScenarioPlan>,
}

/// One target and how it comes to run.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetPlan {
    /// How to speak to it. Its addresses may hold `{port}` and `{dir}` until the server is started.
    pub target: Target,
    /// Whose process it is.
    pub server: ServerPlan,
    /// A command that prints its version.
    pub version: Vec<String>,
    /// Is left out, instead of being a fault, if its program is not installed.
    pub optional: bool,
}

/// Whose process a target is.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerPlan {
    /// Ours: started for the campaign, ended by it.
    Start(StartPlan),
    /// It runs already, as this process.
    Pid(u32),
    /// It runs already, as whatever process listens on this address of this machine.
    PidOf(String),
    /// It runs already, somewhere: nothing is known of its process.
    Elsewhere,
}

/// How a server is started. `{port}`, `{port2}`… stand for free ports, `{dir}` for a directory of its own, in the
/// command, the environment, the files and the target's addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct StartPlan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Processors that it is pinned to; empty: all.
    pub cores: Vec<usize>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// Written into its directory first: name → text.
    pub files: BTreeMap<String, String>,
    /// When it is started afresh.
    pub restart: Restart,
    /// How long it may take to accept connections, ms.
    pub ready_ms: u64,
    /// How long it may take to end when told to, ms; then it is killed.
    pub stop_ms: u64,
}

/// When a server is started afresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// For every repeat of every point, so that no run inherits anything.
    Repeat,
    /// Once for the whole campaign.
    Campaign,
}

/// One `[[scenario]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenarioPlan {
    /// How results call it.
    pub name: String,
    /// One, or as many as the sweep has.
    pub points: Vec<Point>,
    /// Only these; empty: all.
    pub targets: Vec<String>,
    /// Instead of the campaign's.
    pub repeats: Option<u32>,
    /// What it promises.
    pub assertions: Vec<Assertion>,
}

/// One choice of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Field → value; empty without a sweep.
    pub at: BTreeMap<String, Value>,
    /// The scenario with these values.
    pub scenario: Scenario,
}

/// ` subscribers=10 bytes=64`: what is behind the scenario's name in a line.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (field, value) in &self.at {
            write!(f, " {}={}", short_field(field), value_text(value))?;
        }
        Ok(())
    }
}

impl Campaign {
    /// Reads a campaign file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Campaign, Vec<Fault>> {
        let source = path.display().to_string();
        let fault = |message: String| {
            vec![Fault {
                source: source.clone(),
                line: None,
                message,
            }]
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            fault(format!(
                "cannot be read: {error}; give the path of a campaign file"
            ))
        })?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        Campaign::parse(&source, &text, &directory)
    }

    /// Reads the text of a campaign file that stands in that directory.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(source: &str, text: &str, directory: &Path) -> Result<Campaign, Vec<Fault>> {
        read::parse(source, text, directory)
    }

    /// Keeps what the names say: targets of these names if there are any, and scenarios of these names if there are any.
    ///
    /// # Errors
    /// A name that is neither.
    pub fn keep_only(&mut self, names: &[String]) -> Result<(), String> {
        let is_target = |name: &String| self.targets.iter().any(|plan| plan.target.name == *name);
        let is_scenario = |name: &String| self.scenarios.iter().any(|plan| plan.name == *name);
        for name in names {
            if !is_target(name) && !is_scenario(name) {
                let targets: Vec<&str> = self
                    .targets
                    .iter()
                    .map(|plan| plan.target.name.as_str())
                    .collect();
                let scenarios: Vec<&str> = self.scenarios.iter().map(|plan| plan.name.as_str()).collect();
                return Err(format!(
                    "--only {name}: there is no target or scenario of that name; targets: {}; scenarios: {}",
                    targets.join(", "),
                    scenarios.join(", ")
                ));
            }
        }
        let (some_targets, some_scenarios) = (names.iter().any(is_target), names.iter().any(is_scenario));
        if some_targets {
            self.targets.retain(|plan| names.contains(&plan.target.name));
        }
        if some_scenarios {
            self.scenarios.retain(|plan| names.contains(&plan.name));
        }
        Ok(())
    }

    /// Whether an assertion that did not come from the file can be judged in this campaign: the targets that it names are
    /// there, and some point of every scenario is meant.
    ///
    /// # Errors
    /// What cannot be found, and what there is.
    pub fn check(&self, assertion: &Assertion) -> Result<(), String> {
        if let Some(message) = read::unknown_targets(assertion, &self.targets).into_iter().next() {
            return Err(message);
        }
        self.scenarios
            .iter()
            .try_for_each(|plan| read::check_reach(assertion, plan))
    }

    /// Makes it short: one repeat, a second each. Good for seeing whether a campaign works, not for figures.
    pub fn make_quick(&mut self) {
        self.repeats = 1;
        for plan in &mut self.scenarios {
            plan.repeats = None;
            for point in &mut plan.points {
                point.scenario.warmup_ms = point.scenario.warmup_ms.min(200);
                point.scenario.duration_ms = point.scenario.duration_ms.min(1_000);
            }
        }
    }

    /// Each target runs so often at each point, whatever the file says.
    pub fn repeat(&mut self, repeats: u32) {
        self.repeats = repeats;
        for plan in &mut self.scenarios {
            plan.repeats = None;
        }
    }

    /// Every run is measured for so long, whatever the file says.
    pub fn measure_for_ms(&mut self, duration_ms: u64) {
        for point in self.scenarios.iter_mut().flat_map(|plan| &mut plan.points) {
            point.scenario.duration_ms = duration_ms.max(1);
        }
    }

    /// The processors of the generator: as the file says, or the last of those that no target is pinned to.
    #[must_use]
    pub fn generator_cores(&self) -> Vec<usize> {
        if !self.generator_cores.is_empty() {
            return self.generator_cores.clone();
        }
        let taken = |core: &usize| {
            self.targets
                .iter()
                .any(|plan| matches!(&plan.server, ServerPlan::Start(start) if start.cores.contains(core)))
        };
        let available = available_cores();
        let free = available.iter().rev().find(|core| !taken(core));
        free.or(available.last()).copied().into_iter().collect()
    }
}

impl TargetPlan {
    /// A server that runs already: what the command line makes of `--url`.
    #[must_use]
    pub fn running(target: Target, server: ServerPlan) -> TargetPlan {
        TargetPlan {
            target,
            server,
            version: Vec::new(),
            optional: false,
        }
    }
}

impl ScenarioPlan {
    /// A scenario without a sweep.
    #[must_use]
    pub fn single(name: &str, scenario: Scenario, assertions: Vec<Assertion>) -> ScenarioPlan {
        ScenarioPlan {
            name: name.to_owned(),
            points: vec![Point {
                at: BTreeMap::new(),
                scenario,
            }],
            targets: Vec::new(),
            repeats: None,
            assertions,
        }
    }
}

/// What an address says that a person gave: the protocol that its port or scheme usually carries.
#[must_use]
pub fn protocol_of_url(url: &str) -> ProtocolName {
    match url.rsplit(':').next().map(|port| port.trim_end_matches('/')) {
        Some("4222") => ProtocolName::Nats,
        Some("6379") => ProtocolName::Redis,
        Some("1883") => ProtocolName::Mqtt5,
        _ => ProtocolName::Fluxar,
    }
}

/// Whether an address can be dialled: `tcp://HOST:PORT`, `ws://HOST:PORT`, `unix:///PATH`. Placeholders pass.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), String> {
    let probe = url.replace("{dir}", "/tmp");
    let mut filled = String::new();
    let mut rest = probe.as_str();
    while let Some((before, behind)) = rest.split_once("{port") {
        let Some((number, after)) = behind.split_once('}') else {
            return Err(format!("{url:?}: a `}}` is missing behind {{port"));
        };
        if !number.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(format!(
                "{url:?}: placeholders are {{dir}}, {{port}}, {{port2}}, …"
            ));
        }
        filled.push_str(before);
        filled.push_str("65000");
        rest = after;
    }
    filled.push_str(rest);
    fluxar_engine::listener::Address::parse(&filled)
        .map(drop)
        .map_err(|error| error.to_string())
}
