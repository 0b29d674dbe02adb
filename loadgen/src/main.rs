//! `loadgen`: reads what was typed, has it done, says what came out, and ends with a code that scripts can use.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use fluxar_engine::rlimit::raise_descriptor_limit;
use fluxar_loadgen::args::{Args, Command, CompareArgs, FindKneeArgs, ReportArgs, RunArgs};
use fluxar_loadgen::campaign::Campaign;
use fluxar_loadgen::compare::{self, compare};
use fluxar_loadgen::conduct::{Conducted, Stage, conduct, without_absent};
use fluxar_loadgen::find_knee::find_knees;
use fluxar_loadgen::interrupt;
use fluxar_loadgen::knee::{Limit, Search};
use fluxar_loadgen::order::order;
use fluxar_loadgen::progress::Progress;
use fluxar_loadgen::record::{self, Header, JsonlWriter, Machine, RESULTS_FILE, Results, now_rfc3339};
use fluxar_loadgen::report;
use fluxar_loadgen::run::run;
use fluxar_loadgen::single;
use fluxar_loadgen::table::{Tone, colours_on, painted};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How it ended, unless it was well.
enum End {
    /// An assertion failed, or something is worse.
    Failed,
    /// The command line or the campaign is wrong: how.
    Usage(String),
    /// A run failed, or its results could not be written or read: why, unless that was said already.
    Run(Option<String>),
}

impl End {
    fn run(why: impl ToString) -> End {
        End::Run(Some(why.to_string()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Servers that are started inherit the limit. What it does not suffice for is told by the run that needs more.
    let _ = raise_descriptor_limit();
    let end = match &args.command {
        Command::Run(args) => run_campaign(args),
        Command::FindKnee(args) => find_knee(args),
        Command::Compare(args) => compare_results(args),
        Command::Report(args) => report_results(args),
        single => run_single(single),
    };
    let (code, message) = match end {
        Ok(()) => (0, None),
        Err(End::Failed) => (1, None),
        Err(End::Usage(message)) => (2, Some(message)),
        Err(End::Run(message)) => (3, message),
    };
    if let Some(message) = message {
        // Whoever cannot read it still has the code.
        let _ = writeln!(io::stderr(), "{message}");
    }
    ExitCode::from(code)
}

fn run_campaign(args: &RunArgs) -> Result<(), End> {
    let mut campaign = read(&args.file, &args.only)?;
    if args.quick {
        campaign.make_quick();
    }
    if let Some(repeats) = args.repeats {
        campaign.repeat(repeats);
    }
    if args.plan {
        return plan(&campaign);
    }
    let out = match &args.out {
        Some(directory) => directory.clone(),
        None => Path::new("loadgen-results").join(format!("{}-{}", campaign.name, moment())),
    };
    interrupt::on_signal(format!(
        "interrupted; finished runs are kept in {0} (`loadgen report {0}` shows them)",
        out.display()
    ))
    .map_err(End::run)?;
    let conducted = carry_out(&campaign, Some(&out), args.quiet)?;
    // The file itself belongs to its results: it says what they are results of.
    fs::copy(&args.file, out.join("campaign.toml")).map_err(|error| cannot_write(&out, &error))?;
    write_reports(&out)?;
    conclude(&conducted)
}

fn run_single(command: &Command) -> Result<(), End> {
    let (campaign, doing) = match single::campaign(command) {
        Ok(Some(single)) => single,
        Ok(None) => return Ok(()),
        Err(message) => return Err(End::Usage(message)),
    };
    interrupt::on_signal("interrupted".to_owned()).map_err(End::run)?;
    if let Some(words) = single::upstream_configuration(&campaign).filter(|_| !doing.quiet) {
        // Whoever cannot read it learns of it if it fails.
        let _ = writeln!(io::stderr(), "{words}");
    }
    let conducted = carry_out(&campaign, doing.out.as_deref(), doing.quiet)?;
    if let Some(out) = &doing.out {
        write_reports(out)?;
    }
    conclude(&conducted)
}

fn find_knee(args: &FindKneeArgs) -> Result<(), End> {
    let mut campaign = match &args.file {
        Some(file) => read(file, &args.only)?,
        None => single::knee_campaign(args).map_err(End::Usage)?,
    };
    let slos = single::slos(&args.slos, &campaign).map_err(|wrong| End::Usage(format!("--slo {wrong}")))?;
    if let Some(cores) = &args.cores {
        campaign.generator_cores.clone_from(&cores.0);
    }
    if let Some(duration) = args.duration {
        campaign.measure_for_ms(duration.as_millis() as u64);
    }
    if args.from > args.to {
        return Err(End::Usage("--from is higher than --to".into()));
    }
    interrupt::on_signal("interrupted".to_owned()).map_err(End::run)?;
    let mut progress = Progress::to_stderr(args.quiet);
    let campaign = without_absent(&campaign, &mut progress).map_err(End::run)?;
    let mut writer = None;
    if let Some(out) = &args.out {
        let mut opened =
            JsonlWriter::append(&out.join(RESULTS_FILE)).map_err(|error| cannot_write(out, &error))?;
        let header = Header::new(&campaign.name, Machine::here());
        opened
            .header(&header)
            .map_err(|error| cannot_write(out, &error))?;
        writer = Some(opened);
    }
    let mut unwritten = None;
    let mut run = run;
    let mut stage = Stage::new(&campaign, &mut run);
    let bounds = Search {
        from_per_s: args.from,
        to_per_s: args.to,
        precision: args.precision / 100.0,
    };
    let found = find_knees(
        &campaign,
        &slos,
        bounds,
        &mut stage,
        &mut progress,
        &mut |record| {
            if let Some(Err(error)) = writer.as_mut().map(|writer| writer.record(record)) {
                unwritten = Some(error);
            }
        },
    );
    for found in &found {
        say(&format!("{found}\n"))?;
    }
    if let Some(out) = &args.out {
        if let Some(error) = unwritten {
            return Err(cannot_write(out, &error));
        }
        write_reports(out)?;
    }
    if found.iter().any(|found| found.knee.is_err()) {
        return Err(End::Run(None));
    }
    let never = |found: &fluxar_loadgen::find_knee::Found| matches!(&found.knee, Ok(knee) if knee.kept_per_s.is_none() && knee.limit == Limit::Server);
    if found.iter().any(never) {
        Err(End::Failed)
    } else {
        Ok(())
    }
}

fn compare_results(args: &CompareArgs) -> Result<(), End> {
    let a = record::read(&args.a).map_err(|error| End::Usage(error.to_string()))?;
    let b = record::read(&args.b).map_err(|error| End::Usage(error.to_string()))?;
    let comparison = compare(&a, &b, compare::Options::default());
    say(&comparison.render(colours_on(&io::stdout())))?;
    if args.fail_on_worse && comparison.has_worse() {
        Err(End::Failed)
    } else {
        Ok(())
    }
}

fn report_results(args: &ReportArgs) -> Result<(), End> {
    let results = record::read(&args.results).map_err(|error| End::Usage(error.to_string()))?;
    for remark in &results.remarks {
        say(&format!("note: {remark}\n"))?;
    }
    let colours = colours_on(&io::stdout());
    say(&report::summary(&results.records, colours))?;
    if let (Some(document), Some(marker)) = (&args.into, &args.marker) {
        return put_into(&results, document, marker);
    }
    let directory = match args.results.parent() {
        Some(parent) if !args.results.is_dir() => parent,
        _ => &args.results,
    };
    write_reports(directory)
}

/// Puts the tables into a document, between their markers.
fn put_into(results: &Results, document: &Path, marker: &str) -> Result<(), End> {
    let name = document.display();
    let text = fs::read_to_string(document).map_err(|error| {
        End::Usage(format!(
            "{name} cannot be read: {error}; give a document that is there"
        ))
    })?;
    // Below a heading of the document's own, which is of the third level.
    let tables: String = report::markdown(results)
        .lines()
        .map(|line| {
            if line.starts_with("##") {
                format!("##{line}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let text = report::replace_between(&text, marker, &tables)
        .map_err(|error| End::Usage(format!("{name}: {error}")))?;
    fs::write(document, text).map_err(|error| cannot_write(document, &error))
}

fn read(file: &Path, only: &[String]) -> Result<Campaign, End> {
    let mut campaign = Campaign::read(file).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let s = if lines.len() == 1 { "" } else { "s" };
        End::Usage(format!(
            "{}\n{} fault{s}; nothing was run",
            lines.join("\n"),
            lines.len()
        ))
    })?;
    campaign.keep_only(only).map_err(End::Usage)?;
    Ok(campaign)
}

fn carry_out(campaign: &Campaign, out: Option<&Path>, quiet: bool) -> Result<Conducted, End> {
    let mut progress = Progress::to_stderr(quiet);
    let conducted = conduct(campaign, out, &mut progress, &mut run).map_err(End::run)?;
    if !conducted.records.is_empty() {
        say(&report::summary(&conducted.records, colours_on(&io::stdout())))?;
    }
    Ok(conducted)
}

/// Makes the reports of a directory's records, and says where they are.
fn write_reports(directory: &Path) -> Result<(), End> {
    let results = match record::read(directory) {
        Ok(results) => results,
        // Everything failed, which was said.
        Err(record::ReadError::Empty { .. }) => return Ok(()),
        Err(error) => return Err(End::run(error)),
    };
    let written: Vec<PathBuf> =
        report::write_all(&results, directory).map_err(|error| cannot_write(directory, &error))?;
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    say(&format!("\nwritten: {}\n", names.join(", ")))
}

/// Says what was asserted and what failed; that makes the end.
fn conclude(conducted: &Conducted) -> Result<(), End> {
    let colours = colours_on(&io::stdout());
    let mut text = String::new();
    for judged in &conducted.judged {
        let (mark, tone) = if judged.holds() {
            ("ok  ", Tone::Faint)
        } else {
            ("FAIL", Tone::Bad)
        };
        text.push_str(&painted(&format!("{mark} {judged}"), tone, colours));
        text.push('\n');
    }
    for unjudged in &conducted.unjudged {
        text.push_str(&painted(&format!("not judged: {unjudged}"), Tone::Faint, colours));
        text.push('\n');
    }
    let failed = conducted.judged.iter().filter(|judged| !judged.holds()).count();
    if !conducted.judged.is_empty() {
        let all = conducted.judged.len();
        text.push_str(&format!("{} of {all} assertions held\n", all - failed));
    }
    // Single runs said it just before.
    if conducted.failures.len() > 1 || !conducted.records.is_empty() {
        for failure in &conducted.failures {
            let line = painted(&format!("FAILED {failure}"), Tone::Bad, colours);
            text.push_str(&format!("{line}\n"));
        }
    }
    if !text.is_empty() {
        say(&format!("\n{text}"))?;
    }
    if !conducted.failures.is_empty() {
        Err(End::Run(None))
    } else if failed > 0 {
        Err(End::Failed)
    } else {
        Ok(())
    }
}

/// What would be run.
fn plan(campaign: &Campaign) -> Result<(), End> {
    let (steps, skipped) = order(campaign);
    let mut text = String::new();
    for step in &steps {
        text.push_str(&format!("{}\n", step.title()));
    }
    for left_out in skipped {
        text.push_str(&format!(
            "not: {} · {}: {}\n",
            left_out.scenario, left_out.target, left_out.why
        ));
    }
    let ms: u64 = steps
        .iter()
        .map(|step| step.point.scenario.warmup_ms + step.point.scenario.duration_ms + campaign.pause_ms)
        .sum();
    let s = if steps.len() == 1 { "" } else { "s" };
    text.push_str(&format!(
        "{} run{s}, at least {} s\n",
        steps.len(),
        ms.div_ceil(1_000)
    ));
    say(&text)
}

fn cannot_write(path: &Path, error: &io::Error) -> End {
    End::run(format!("{} cannot be written: {error}", path.display()))
}

/// This moment, fit for a file's name.
fn moment() -> String {
    now_rfc3339()
        .replace([':', '-'], "")
        .replace('T', "-")
        .replace('Z', "")
}

/// Writes to standard output. A reader that has gone (`| head`) is no fault.
fn say(text: &str) -> Result<(), End> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(End::run(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
