//! The `[[target]]`s of a campaign file, or of a file that several campaigns share.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use toml::Value;
use toml::de::DeTable;

use super::fields::{Fields, Reading};
use super::read::MS_MAX;
use super::{Fault, Restart, ServerPlan, StartPlan, TargetPlan, check_url};
use crate::scenario::{ProtocolName, Target};

/// Reads a file that holds targets and nothing else.
pub(super) fn read_file(path: &Path) -> io::Result<Result<Vec<TargetPlan>, Vec<Fault>>> {
    let text = fs::read_to_string(path)?;
    let source = path.display().to_string();
    let mut reading = Reading::new(&source, &text);
    let mut targets = Vec::new();
    match DeTable::parse(&text) {
        Ok(root) => {
            let mut fields = Fields::new(root.get_ref(), 0, "the file of targets");
            read_all(&mut reading, &mut fields, &mut targets);
            fields.finish(&mut reading);
        }
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reading.fault(at, error.message().to_owned());
        }
    }
    reading.faults.sort_by_key(|fault| fault.line);
    Ok(if reading.faults.is_empty() {
        Ok(targets)
    } else {
        Err(reading.faults)
    })
}

/// Reads all `[[target]]`s behind those that there are.
pub(super) fn read_all(reading: &mut Reading<'_>, file: &mut Fields<'_, '_>, targets: &mut Vec<TargetPlan>) {
    for (table, at) in file.tables(reading, "target") {
        let plan = read_one(reading, table, at);
        if targets.iter().any(|other| other.target.name == plan.target.name) {
            reading.fault(
                at,
                format!("there are two targets of the name {:?}", plan.target.name),
            );
        }
        targets.push(plan);
    }
}

fn read_one(reading: &mut Reading<'_>, table: &DeTable<'_>, at: usize) -> TargetPlan {
    let mut fields = Fields::new(table, at, "target");
    let name = fields.text_needed(reading, "name", "nats");
    fields.what = format!("target {name:?}");
    if name
        .chars()
        .any(|c| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
    {
        fields.wrong(
            reading,
            "name",
            "letters, digits, `-`, `_` and `.` only, so that assertions can name it",
        );
    }
    let protocol = match fields.text_needed(reading, "protocol", "fluxar").as_str() {
        "" => ProtocolName::Fluxar,
        text => ProtocolName::deserialize(Value::String(text.to_owned())).unwrap_or_else(|_| {
            let known = "fluxar, nats, redis, mqtt3, mqtt5, relay";
            fields.wrong(
                reading,
                "protocol",
                format!("there is no {text:?}; there are {known}"),
            );
            ProtocolName::Fluxar
        }),
    };
    let url = fields.text_needed(reading, "url", "tcp://127.0.0.1:{port}");
    let subscriber_url = fields.text(reading, "subscriber_url");
    let service_url = fields.text(reading, "service_url");
    for (name, url) in [
        ("url", Some(&url)),
        ("subscriber_url", subscriber_url.as_ref()),
        ("service_url", service_url.as_ref()),
    ] {
        if let Some(Err(wrong)) = url.filter(|url| !url.is_empty()).map(|url| check_url(url)) {
            fields.wrong(reading, name, wrong);
        }
    }
    let target = Target {
        name,
        protocol,
        url,
        subscriber_url,
        service_url,
        qos: fields.number(reading, "qos", 0..=1).unwrap_or(0) as u8,
        batch: fields.flag(reading, "batch").unwrap_or(true),
    };
    let start = start(reading, &mut fields);
    let pid = fields.number(reading, "pid", 1..=u64::from(u32::MAX));
    let pid_of = fields.text(reading, "pid_of");
    let server = match (start, pid, pid_of) {
        (Some(start), None, None) => ServerPlan::Start(start),
        (None, Some(pid), None) => ServerPlan::Pid(pid as u32),
        (None, None, Some(url)) => ServerPlan::PidOf(url),
        (None, None, None) => ServerPlan::Elsewhere,
        _ => {
            reading.fault(
                at,
                format!("{}: only one of command, pid and pid_of can be true", fields.what),
            );
            ServerPlan::Elsewhere
        }
    };
    if !matches!(server, ServerPlan::Start(_)) {
        for name in ["url", "subscriber_url", "service_url"] {
            if table
                .get(name)
                .and_then(|url| url.get_ref().as_str())
                .is_some_and(|url| url.contains('{'))
            {
                fields.wrong(
                    reading,
                    name,
                    "placeholders are filled when the server is started; give its `command`",
                );
            }
        }
    }
    let plan = TargetPlan {
        target,
        server,
        version: fields.texts(reading, "version").unwrap_or_default(),
        optional: fields.flag(reading, "optional").unwrap_or(false),
    };
    fields.finish(reading);
    plan
}

fn start(reading: &mut Reading<'_>, fields: &mut Fields<'_, '_>) -> Option<StartPlan> {
    let has_command = fields.get("command").is_some();
    let command = fields.texts(reading, "command").unwrap_or_default();
    if has_command && command.first().is_none_or(String::is_empty) {
        fields.wrong(reading, "command", "give a list: the program and its arguments");
    }
    let restart = match fields.text(reading, "restart").as_deref() {
        None | Some("repeat") => Restart::Repeat,
        Some("campaign") => Restart::Campaign,
        Some(other) => {
            fields.wrong(
                reading,
                "restart",
                format!("there is no {other:?}; there are \"repeat\" and \"campaign\""),
            );
            Restart::Repeat
        }
    };
    let only_started = ["cores", "env", "files", "restart", "ready_ms", "stop_ms"];
    if !has_command {
        for name in only_started {
            if fields.get(name).is_some() {
                fields.wrong(
                    reading,
                    name,
                    "this is for servers that are started; give its `command`",
                );
            }
        }
        return None;
    }
    let plan = StartPlan {
        command,
        cores: fields.cores(reading, "cores").unwrap_or_default(),
        env: fields
            .read(reading, "env", "a table of texts")
            .unwrap_or_default(),
        files: fields
            .read(reading, "files", "a table of texts")
            .unwrap_or_default(),
        restart,
        ready_ms: fields.number(reading, "ready_ms", 1..=MS_MAX).unwrap_or(10_000),
        stop_ms: fields.number(reading, "stop_ms", 0..=MS_MAX).unwrap_or(5_000),
    };
    for name in plan.files.keys() {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            fields.wrong(
                reading,
                "files",
                format!("{name:?}: give names without a path; they are written into {{dir}}"),
            );
        }
    }
    Some(plan)
}
