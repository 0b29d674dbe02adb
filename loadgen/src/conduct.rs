//! Carries a campaign out: starts servers, runs, writes each record down, goes on after a failure, judges at the end.
//!
//! ```text
//!   for each step of the order:   server fresh or kept ─> run ─> record ─> results.jsonl ─> server ended ─> pause
//! ```
//!
//! The run itself is a parameter, so that this can be tested without a generator.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::campaign::{Campaign, Restart, ServerPlan, TargetPlan};
use crate::measured::Measured;
use crate::order::{Skipped, Step, order};
use crate::progress::Progress;
use crate::record::{Header, JsonlWriter, Machine, RESULTS_FILE, Record, RunIdentity};
use crate::run::{GeneratorConfig, RunError, RunOrder, Snapshot};
use crate::scenario::Target;
use crate::server::{self, Server, find_program};
use crate::slo::{Bound, Judged, Outcome, judge};

/// Does one run, telling how it stands: [`crate::run::run`].
pub type Run<'a> = dyn FnMut(&RunOrder, &mut dyn FnMut(&Snapshot)) -> Result<Measured, RunError> + 'a;

/// What came of a campaign.
#[derive(Debug, Clone, Default)]
pub struct Conducted {
    /// All runs that were done.
    pub records: Vec<Record>,
    /// What they were held against.
    pub judged: Vec<Judged>,
    /// Runs that could not be done: which, and why.
    pub failures: Vec<String>,
    /// Targets that were left out of scenarios.
    pub skipped: Vec<Skipped>,
    /// Assertions that nothing could be held against: they are about targets that do not take part, or compare with such.
    pub unjudged: Vec<String>,
}

/// Why a campaign could not be carried out at all.
#[derive(Debug)]
pub enum ConductError {
    /// Programs and processes that are not there.
    Absent(Vec<String>),
    /// Nothing is left to be run.
    Nothing,
    /// Results cannot be written.
    Write {
        /// Where.
        path: String,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for ConductError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConductError::Absent(faults) => f.write_str(&faults.join("\n")),
            ConductError::Nothing => {
                f.write_str("nothing is left to be run: no target can do any of the scenarios")
            }
            ConductError::Write { path, error } => {
                write!(
                    f,
                    "results cannot be written to {path}: {error}; choose another place by --out"
                )
            }
        }
    }
}

impl std::error::Error for ConductError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConductError::Write { error, .. } => Some(error),
            ConductError::Absent(_) | ConductError::Nothing => None,
        }
    }
}

/// Carries it out; records are also written into `out`, if there is one.
///
/// # Errors
/// Nothing can be run or nothing can be written. Single runs that fail are told in [`Conducted::failures`].
pub fn conduct(
    campaign: &Campaign,
    out: Option<&Path>,
    progress: &mut Progress,
    run: &mut Run<'_>,
) -> Result<Conducted, ConductError> {
    let campaign = &without_absent(campaign, progress)?;
    let (steps, skipped) = order(campaign);
    let mut conducted = Conducted::default();
    for left_out in skipped {
        conducted.leave_out(left_out, progress);
    }
    if steps.is_empty() {
        return Err(ConductError::Nothing);
    }
    let mut writer = match out {
        Some(directory) => Some(results(campaign, directory)?),
        None => None,
    };
    let mut stage = Stage::new(campaign, run);
    let mut given_up = GivenUp::default();
    let runs_ms = steps.iter().map(|step| expected_ms(step, campaign)).sum();
    progress.begin(steps.len(), Duration::from_millis(runs_ms));
    for step in &steps {
        progress.step(step, Duration::from_millis(expected_ms(step, campaign)));
        if given_up.includes(step) {
            continue;
        }
        match stage.perform(step, progress) {
            Ok(record) => {
                if let (Some(writer), Some(directory)) = (&mut writer, out) {
                    writer
                        .record(&record)
                        .map_err(|error| write_error(directory, error))?;
                }
                progress.done(&record);
                conducted.records.push(record);
            }
            Err(failure) => {
                given_up.add(step, &failure);
                conducted.fail(step, failure, progress);
            }
        }
        thread::sleep(Duration::from_millis(campaign.pause_ms));
    }
    progress.end();
    conducted.judge(campaign);
    Ok(conducted)
}

impl Conducted {
    fn leave_out(&mut self, skipped: Skipped, progress: &mut Progress) {
        progress.note(&format!(
            "{} is left out of {}: {}",
            skipped.target, skipped.scenario, skipped.why
        ));
        self.skipped.push(skipped);
    }

    fn fail(&mut self, step: &Step<'_>, failure: Failure, progress: &mut Progress) {
        match failure {
            Failure::Unable(why) => {
                let skipped = Skipped {
                    scenario: step.scenario.name.clone(),
                    target: step.plan.target.name.clone(),
                    why,
                };
                self.leave_out(skipped, progress);
            }
            Failure::Server(why) | Failure::Run(why) => {
                let title = step.title();
                progress.failure(&format!("FAILED {title}: {why}"));
                self.failures.push(format!("{title}: {why}"));
            }
        }
    }

    /// Assertions that are about targets of which none takes part, or compare with such, are told, not judged. One of the
    /// others that no run could be held against counts as failed.
    fn judge(&mut self, campaign: &Campaign) {
        for scenario in &campaign.scenarios {
            let is_left_out = |name: &str| {
                let mut skipped = self.skipped.iter();
                skipped.any(|skipped| skipped.scenario == scenario.name && skipped.target == name)
            };
            let taking_part: Vec<&str> = campaign
                .targets
                .iter()
                .map(|plan| plan.target.name.as_str())
                .filter(|name| {
                    scenario.targets.is_empty() || scenario.targets.iter().any(|only| only == name)
                })
                .filter(|name| !is_left_out(name))
                .collect();
            let mut assertions = Vec::new();
            for assertion in &scenario.assertions {
                let without = match &assertion.bound {
                    Bound::Share { targets, .. }
                        if !targets.iter().any(|name| taking_part.contains(&name.as_str())) =>
                    {
                        targets.join(", ")
                    }
                    _ if !taking_part.iter().any(|name| assertion.is_about(name)) => {
                        assertion.targets.join(", ")
                    }
                    _ => {
                        assertions.push(assertion.clone());
                        continue;
                    }
                };
                let name = &scenario.name;
                self.unjudged.push(match &without[..] {
                    "" => format!("{name}: {assertion}"),
                    without => format!("{name}: {assertion} (without {without})"),
                });
            }
            self.judged
                .extend(judge(&scenario.name, &assertions, &self.records));
            for assertion in &assertions {
                if judge(&scenario.name, std::slice::from_ref(assertion), &self.records).is_empty() {
                    let about = taking_part.iter().filter(|name| assertion.is_about(name));
                    self.judged.push(Judged {
                        title: scenario.name.clone(),
                        target: about.copied().collect::<Vec<_>>().join(", "),
                        assertion: assertion.without_targets().to_owned(),
                        outcome: Outcome::Unknown("there is no run to judge it by".to_owned()),
                    });
                }
            }
        }
    }
}

/// Why a run came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The server could not be started; it will not be the next time either.
    Server(String),
    /// The run could not be done.
    Run(String),
    /// The protocol cannot do this workload.
    Unable(String),
}

/// Where runs are done: the servers that run, and what is the same for all runs.
pub struct Stage<'a, 'r> {
    campaign: &'a Campaign,
    run: &'a mut Run<'r>,
    servers: Servers,
    versions: BTreeMap<&'a str, String>,
    generator: GeneratorConfig,
}

impl<'a, 'r> Stage<'a, 'r> {
    /// Asks the targets for their versions; nothing is started yet.
    #[must_use]
    pub fn new(campaign: &'a Campaign, run: &'a mut Run<'r>) -> Stage<'a, 'r> {
        let mut versions = BTreeMap::new();
        for plan in &campaign.targets {
            if let Some(version) = server::version(&plan.version, &campaign.directory) {
                versions.insert(plan.target.name.as_str(), version);
            }
        }
        Stage {
            campaign,
            run,
            servers: Servers::default(),
            versions,
            generator: GeneratorConfig {
                cores: campaign.generator_cores(),
                ..GeneratorConfig::default()
            },
        }
    }

    /// Does one run, its server started before and, if it is to be fresh each time, ended behind.
    ///
    /// # Errors
    /// Why there is nothing to be recorded.
    pub fn perform(&mut self, step: &Step<'_>, progress: &mut Progress) -> Result<Record, Failure> {
        let started = self.servers.target(step.plan, self.campaign);
        let (target, server) = started.map_err(Failure::Server)?;
        let order = RunOrder {
            target,
            scenario: step.point.scenario.clone(),
            server,
            generator: self.generator.clone(),
            // The same for every target at a point and a repeat.
            seed: self.campaign.seed.wrapping_add(u64::from(step.repeat)),
        };
        let measured = (self.run)(&order, &mut |snapshot| progress.live(snapshot));
        let measured = measured.map_err(|error| match error {
            RunError::Unable { .. } => Failure::Unable(error.to_string()),
            error => Failure::Run(self.servers.why(step.plan, error.to_string())),
        });
        self.servers.run_done(step.plan);
        let identity = RunIdentity {
            campaign: &self.campaign.name,
            scenario_name: &step.scenario.name,
            point: step.point.at.clone(),
            scenario: &step.point.scenario,
            target: &order.target,
            target_version: self.versions.get(step.plan.target.name.as_str()).cloned(),
            repeat: step.repeat,
        };
        Ok(Record::from_measured(identity, &measured?))
    }
}

/// The campaign without those optional targets whose program is not here.
///
/// # Errors
/// Others that are not here.
pub fn without_absent(campaign: &Campaign, progress: &mut Progress) -> Result<Campaign, ConductError> {
    let mut present = campaign.clone();
    let mut faults = Vec::new();
    present.targets.retain(|plan| {
        let name = &plan.target.name;
        let fault = match &plan.server {
            ServerPlan::Start(start) => {
                let program = start.command.first().map_or("", String::as_str);
                find_program(program, &campaign.directory).is_none().then(|| {
                    format!(
                        "target {name}: there is no program {program:?} beside loadgen or on the PATH; install it, give \
                         its path in `command`, or leave the target out"
                    )
                })
            }
            ServerPlan::Pid(pid) => (!Path::new(&format!("/proc/{pid}")).exists())
                .then(|| format!("target {name}: there is no process {pid}; give the pid of the server that runs")),
            ServerPlan::PidOf(url) => server::listeners(url).is_empty().then(|| {
                format!(
                    "target {name}: no process that can be seen from here listens on {url}; start it, or give `pid` \
                     (other users' processes are seen by root alone)"
                )
            }),
            ServerPlan::Elsewhere => None,
        };
        match fault {
            Some(fault) if plan.optional => progress.note(&format!("{fault} (left out: it is optional)")),
            Some(fault) => {
                faults.push(fault);
                return false;
            }
            None => return true,
        }
        false
    });
    if faults.is_empty() {
        Ok(present)
    } else {
        Err(ConductError::Absent(faults))
    }
}

fn results(campaign: &Campaign, directory: &Path) -> Result<JsonlWriter, ConductError> {
    let write = |error| write_error(directory, error);
    let mut writer = JsonlWriter::append(&directory.join(RESULTS_FILE)).map_err(write)?;
    writer
        .header(&Header::new(&campaign.name, Machine::here()))
        .map_err(write)?;
    Ok(writer)
}

fn write_error(directory: &Path, error: io::Error) -> ConductError {
    ConductError::Write {
        path: directory.display().to_string(),
        error,
    }
}

/// How long a run should take: what the campaign says, and a guess at starting and ending.
fn expected_ms(step: &Step<'_>, campaign: &Campaign) -> u64 {
    const AROUND_MS: u64 = 500;
    let scenario = &step.point.scenario;
    scenario.warmup_ms + scenario.duration_ms + campaign.pause_ms + AROUND_MS
}

/// What is not tried again: a server that does not start, a point at which a target failed.
#[derive(Default)]
struct GivenUp {
    targets: Vec<String>,
    points: Vec<(String, BTreeMap<String, serde_json::Value>, String)>,
}

impl GivenUp {
    fn includes(&self, step: &Step<'_>) -> bool {
        let name = &step.plan.target.name;
        self.targets.contains(name)
            || self.points.iter().any(|(scenario, point, target)| {
                *scenario == step.scenario.name && *point == step.point.at && target == name
            })
    }

    fn add(&mut self, step: &Step<'_>, failure: &Failure) {
        let name = step.plan.target.name.clone();
        if matches!(failure, Failure::Server(_)) {
            self.targets.push(name);
        } else {
            self.points
                .push((step.scenario.name.clone(), step.point.at.clone(), name));
        }
    }
}

/// The servers that run.
#[derive(Default)]
struct Servers {
    running: BTreeMap<String, Server>,
}

impl Servers {
    /// The target with its addresses filled in, and its processes; its server is started if need be.
    fn target(
        &mut self,
        plan: &TargetPlan,
        campaign: &Campaign,
    ) -> Result<(Target, Option<Vec<u32>>), String> {
        match &plan.server {
            ServerPlan::Start(start) => {
                let name = &plan.target.name;
                if let Some(server) = self.running.get_mut(name)
                    && let Some(why) = server.ended()
                {
                    self.running.remove(name);
                    return Err(why);
                }
                if !self.running.contains_key(name) {
                    let server = Server::start(&plan.target, start, &campaign.directory)
                        .map_err(|error| error.to_string())?;
                    self.running.insert(name.clone(), server);
                }
                let server = &self.running[name];
                Ok((server.target().clone(), Some(server.pids())))
            }
            ServerPlan::Pid(pid) => Ok((plan.target.clone(), Some(vec![*pid]))),
            ServerPlan::PidOf(url) => {
                let pids = server::listeners(url);
                if pids.is_empty() {
                    return Err(format!("no process listens on {url} any more"));
                }
                Ok((plan.target.clone(), Some(pids)))
            }
            ServerPlan::Elsewhere => Ok((plan.target.clone(), None)),
        }
    }

    /// Why a run failed, and whether its server is to blame.
    fn why(&mut self, plan: &TargetPlan, why: String) -> String {
        /// A server that fell in the run may still be falling.
        const FALL: Duration = Duration::from_secs(1);
        let Some(server) = self.running.get_mut(&plan.target.name) else {
            return why;
        };
        let asked = Instant::now();
        loop {
            match server.ended() {
                Some(ended) => return format!("{why}; {ended}"),
                None if asked.elapsed() > FALL => return why,
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn run_done(&mut self, plan: &TargetPlan) {
        if matches!(&plan.server, ServerPlan::Start(start) if start.restart == Restart::Repeat)
            && let Some(server) = self.running.remove(&plan.target.name)
        {
            server.stop();
        }
    }
}
