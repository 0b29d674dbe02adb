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
use crate::progress::{Live, Progress};
use crate::record::{Header, JsonlWriter, Machine, RESULTS_FILE, Record, RunIdentity};
use crate::scenario::{Scenario, Target};
use crate::server::{self, Server, find_program};
use crate::slo::{Judged, judge};

/// One run, ready to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// Against whom; addresses are filled in.
    pub target: Target,
    /// What.
    pub scenario: Scenario,
    /// The server's processes, if they are known.
    pub server: Option<Vec<u32>>,
    /// Processors of the generator, one thread each.
    pub generator_cores: Vec<usize>,
    /// Of all that is drawn. The same for every target at a point and a repeat.
    pub seed: u64,
}

/// Does one run, telling how it stands; or says why it could not be done.
pub type Run<'a> = dyn FnMut(&Job, &mut dyn FnMut(&Live)) -> Result<Measured, String> + 'a;

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
    for left_out in &skipped {
        progress.note(&format!(
            "{} is left out of {}: {}",
            left_out.target, left_out.scenario, left_out.why
        ));
    }
    if steps.is_empty() {
        return Err(ConductError::Nothing);
    }
    let mut writer = match out {
        Some(directory) => Some(results(campaign, directory)?),
        None => None,
    };
    let versions: BTreeMap<&str, String> = campaign
        .targets
        .iter()
        .filter_map(|plan| {
            Some((
                plan.target.name.as_str(),
                server::version(&plan.version, &campaign.directory)?,
            ))
        })
        .collect();
    let mut conducted = Conducted {
        skipped,
        ..Conducted::default()
    };
    let mut servers = Servers::default();
    let cores = campaign.generator_cores();
    let mut given_up = GivenUp::default();
    progress.begin(
        steps.len(),
        steps.iter().map(|step| expected(step, campaign)).sum(),
    );
    for step in &steps {
        progress.step(step, expected(step, campaign));
        if given_up.includes(step) {
            continue;
        }
        let outcome = servers
            .target(step.plan, campaign)
            .map_err(|why| (true, why))
            .and_then(|(target, server)| {
                let job = Job {
                    target,
                    scenario: step.point.scenario.clone(),
                    server,
                    generator_cores: cores.clone(),
                    seed: campaign.seed.wrapping_add(u64::from(step.repeat)),
                };
                let measured = run(&job, &mut |live| progress.live(live));
                measured
                    .map(|measured| (job, measured))
                    .map_err(|why| (false, servers.why(step.plan, why)))
            });
        servers.step_done(step.plan);
        match outcome {
            Ok((job, measured)) => {
                let record = record(
                    campaign,
                    step,
                    &job,
                    &measured,
                    versions.get(step.plan.target.name.as_str()),
                );
                if let (Some(writer), Some(directory)) = (&mut writer, out) {
                    writer
                        .record(&record)
                        .map_err(|error| write_error(directory, error))?;
                }
                progress.done(&record);
                conducted.records.push(record);
            }
            Err((is_server, why)) => {
                let title = title(step);
                progress.failure(&format!("FAILED {title}: {why}"));
                conducted.failures.push(format!("{title}: {why}"));
                given_up.add(step, is_server);
            }
        }
        thread::sleep(Duration::from_millis(campaign.pause_ms));
    }
    progress.end();
    for scenario in &campaign.scenarios {
        conducted
            .judged
            .extend(judge(&scenario.name, &scenario.assertions, &conducted.records));
    }
    Ok(conducted)
}

/// The campaign without those optional targets whose program is not here; all others have to be there.
fn without_absent(campaign: &Campaign, progress: &mut Progress) -> Result<Campaign, ConductError> {
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

fn record(
    campaign: &Campaign,
    step: &Step<'_>,
    job: &Job,
    measured: &Measured,
    version: Option<&String>,
) -> Record {
    let identity = RunIdentity {
        campaign: &campaign.name,
        scenario_name: &step.scenario.name,
        point: step.point.at.clone(),
        scenario: &step.point.scenario,
        target: &job.target,
        target_version: version.cloned(),
        repeat: step.repeat,
    };
    Record::from_measured(identity, measured)
}

/// How long a run should take: what the campaign says, and a guess at starting and ending.
fn expected(step: &Step<'_>, campaign: &Campaign) -> Duration {
    const AROUND_MS: u64 = 500;
    let scenario = &step.point.scenario;
    Duration::from_millis(scenario.warmup_ms + scenario.duration_ms + campaign.pause_ms + AROUND_MS)
}

/// A run in words.
fn title(step: &Step<'_>) -> String {
    let mut title = step.scenario.name.clone();
    for (field, value) in &step.point.at {
        title.push_str(&format!(
            " {}={}",
            crate::record::short_field(field),
            crate::record::value_text(value)
        ));
    }
    format!("{title} · {} · repeat {}", step.plan.target.name, step.repeat)
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

    fn add(&mut self, step: &Step<'_>, is_server: bool) {
        let name = step.plan.target.name.clone();
        if is_server {
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
        const FALL: Duration = Duration::from_millis(200);
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

    fn step_done(&mut self, plan: &TargetPlan) {
        if matches!(&plan.server, ServerPlan::Start(start) if start.restart == Restart::Repeat)
            && let Some(server) = self.running.remove(&plan.target.name)
        {
            server.stop();
        }
    }
}
