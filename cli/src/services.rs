//! `fluxar services`: who serves what at a gateway, how it goes, and the draining of one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use ciborium::{Value, cbor};
use fluxar::{Client, Code, Origin};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    args::{Args, Drain, Services, ServicesAction},
    failure::{Failure, Result},
    json,
    output::{decode, print, tell},
    subscribe::interrupted,
};

/// How often a drain looks whether all is done.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// The answer to `$services.list`. What a gateway does not say is absent or null.
#[derive(Debug, Deserialize)]
struct List {
    services: Vec<Row>,
    /// Cores that did not answer in time: their part is missing.
    cores_missing: Option<u32>,
    /// Services for which the answer had no room.
    left_out: Option<u64>,
}

/// The answer to `$services.drain`.
#[derive(Debug, Deserialize)]
struct Marked {
    /// Connections that are meant.
    matched: u64,
    /// Those of them that are up.
    ids: Vec<String>,
    /// Ids for which the answer had no room.
    left_out: u64,
    /// Cores that may not have heard of it.
    cores_missing: u32,
}

/// One offer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    id: Option<String>,
    name: Option<String>,
    methods: Vec<String>,
    fleet: Option<String>,
    zone: Option<String>,
    weight: Option<u32>,
    state: Option<String>,
    ejected_ms: Option<u64>,
    in_flight: Option<u64>,
    in_flight_max: Option<u64>,
    latency_us: Option<u64>,
    answered: Option<u64>,
    failed: Option<u64>,
}

pub(crate) async fn run(args: &Args, command: &Services) -> Result<()> {
    let client = args.client().build().await?;
    let done = match command.watch {
        None => act(args, command, &client).await,
        Some(_) => tokio::select! {
            done = act(args, command, &client) => done,
            () = interrupted() => Ok(()),
        },
    };
    client.close().await;
    done
}

async fn act(args: &Args, command: &Services, client: &Client) -> Result<()> {
    if let Some(ServicesAction::Drain(action)) = &command.action {
        return drain(args, action, client).await;
    }
    let is_terminal = stdout().is_terminal();
    let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
    loop {
        let answer = ask(client, "$services.list", &Value::Null).await?;
        let clear = if command.watch.is_some() && is_terminal && !command.json {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        if command.json {
            print(&json::compact(&answer))?;
        } else {
            let list: List = read(&answer)?;
            print(&format!("{clear}{}", table(&list.services, has_colour)))?;
            if let Some(more @ 1..) = list.left_out {
                tell(&format!("and {more} more, for which one answer has no room"));
            }
            if let Some(missing @ 1..) = list.cores_missing {
                tell(&format!(
                    "{missing} cores of the gateway did not answer in time: what they know is missing"
                ));
            }
        }
        match command.watch {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Ok(()),
        }
    }
}

async fn drain(args: &Args, command: &Drain, client: &Client) -> Result<()> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let peer = &command.peer;
    let wanted =
        cbor!({ "peer" => peer, "on" => !command.off }).map_err(|error| Failure::here(error.to_string()))?;
    let mut ids = BTreeSet::new();
    let marked = loop {
        let mut marked: Marked = read(&ask(client, "$services.drain", &wanted).await?)?;
        ids.extend(std::mem::take(&mut marked.ids));
        if marked.cores_missing == 0 {
            break marked;
        }
        let missing = format!(
            "{peer}: {} cores of the gateway did not answer",
            marked.cores_missing
        );
        if !command.wait {
            return Err(Failure::Refused(format!(
                "{missing}, and may not have heard of it: say it again"
            )));
        }
        if is_over() {
            return Err(Failure::Timeout(missing));
        }
        // To hear it twice does no harm.
        tokio::time::sleep(DRAIN_EVERY).await;
    };
    let who = match marked.matched {
        1 => "1 connection gets".to_owned(),
        count => format!("{count} connections get"),
    };
    let what = if command.off {
        "calls again"
    } else {
        "no new calls"
    };
    tell(&format!("{peer}: {who} {what}"));
    if !command.wait {
        return Ok(());
    }
    if marked.left_out > 0 {
        return Err(Failure::Refused(format!(
            "{peer}: these are too many to wait for; drain fewer of them at a time"
        )));
    }
    if ids.is_empty() {
        tell(&format!("{peer}: none of these is connected"));
        return Ok(());
    }
    // What was given away in the moment of the mark may show behind the first look.
    let mut was_idle = false;
    loop {
        let list: List = read(&ask(client, "$services.list", &Value::Null).await?)?;
        let look = look(&list, &ids);
        match look {
            Look::Idle if was_idle => {
                tell(&format!("{peer}: nothing is open there"));
                return Ok(());
            }
            Look::Gone if was_idle => {
                tell(&format!("{peer}: is gone, or offers nothing any more"));
                return Ok(());
            }
            Look::Hidden => {
                return Err(Failure::Refused(format!(
                    "{peer}: the gateway's list has no room for all its services, and cannot say what is open there"
                )));
            }
            _ => was_idle = matches!(look, Look::Idle | Look::Gone),
        }
        if is_over() {
            return Err(Failure::Timeout(match look {
                Look::Open(open) => format!("{peer}: {open} calls are still open"),
                Look::Partial => format!("{peer}: not all cores of the gateway answer"),
                _ => format!("{peer}: whether all is done is not certain yet"),
            }));
        }
        tokio::time::sleep(DRAIN_EVERY).await;
    }
}

/// What a list says of drained connections.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Look {
    /// So many calls and streams are open there, as far as the cores say that answered.
    Open(u64),
    /// Nothing is, at those that are there.
    Idle,
    /// None of them is in the list.
    Gone,
    /// Nothing that is seen, but cores are missing.
    Partial,
    /// Some are not in the list, which left out rows.
    Hidden,
}

fn look(list: &List, ids: &BTreeSet<String>) -> Look {
    // A peer has a row for each of its fleets, and each tells of all that is open there.
    let mut open_at = BTreeMap::new();
    for row in &list.services {
        if let Some(id) = row.id.as_ref().filter(|id| ids.contains(*id)) {
            let open: &mut u64 = open_at.entry(id).or_default();
            *open = row.in_flight.unwrap_or_default().max(*open);
        }
    }
    let open: u64 = open_at.values().sum();
    match () {
        () if open > 0 => Look::Open(open),
        () if list.cores_missing.unwrap_or_default() > 0 => Look::Partial,
        () if open_at.len() < ids.len() && list.left_out.unwrap_or_default() > 0 => Look::Hidden,
        () if open_at.is_empty() => Look::Gone,
        () => Look::Idle,
    }
}

async fn ask(client: &Client, method: &str, argument: &Value) -> Result<Value> {
    match client.request(method).payload(argument).send_for_bytes().await {
        Ok(answer) => decode(&answer),
        Err(error) if error.origin() == Origin::Answer && is_unknown(error.code()) => {
            Err(Failure::Refused(format!(
                "{}: {}; is it a gateway? `fluxar services` asks one with {method}",
                client.address(),
                error.message()
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a peer says that has never heard of the method.
fn is_unknown(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unimplemented)
}

fn read<T: DeserializeOwned>(answer: &Value) -> Result<T> {
    answer.deserialized().map_err(|error| {
        Failure::here(format!(
            "the gateway's answer cannot be read ({error}); `fluxar call --diag` shows it"
        ))
    })
}

const COLUMNS: [&str; 11] = [
    "ID",
    "NAME",
    "SERVES",
    "FLEET",
    "ZONE",
    "WEIGHT",
    "STATE",
    "IN FLIGHT",
    "LATENCY",
    "ANSWERED",
    "FAILED",
];
/// The first of those that hold numbers, which stand at the right of their columns.
const NUMBERS_FROM: usize = 7;
const NAME: usize = 1;
const SERVES: usize = 2;
const FLEET: usize = 3;
const WEIGHT: usize = 5;
const STATE: usize = 6;

fn table(rows: &[Row], has_colour: bool) -> String {
    if rows.is_empty() {
        return "nobody serves anything".to_owned();
    }
    let mut cells: Vec<[String; COLUMNS.len()]> = rows.iter().map(Row::cells).collect();
    // Who serves the same stands together.
    cells.sort_by(|a, b| {
        [FLEET, SERVES, NAME, 0]
            .map(|column| &a[column])
            .cmp(&[FLEET, SERVES, NAME, 0].map(|column| &b[column]))
    });
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            let of_rows = cells.iter().map(|row| row[column].chars().count());
            of_rows.max().unwrap_or_default().max(COLUMNS[column].len())
        })
        .collect();
    let line = |cells: &[&str], paint: &dyn Fn(usize, String) -> String| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                let is_number = column == WEIGHT || column >= NUMBERS_FROM;
                paint(
                    column,
                    if is_number {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:width$}")
                    },
                )
            });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let painted = |code: &str, text: String| {
        if has_colour && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text
        }
    };
    let mut lines = vec![line(&COLUMNS, &|_, text| painted("2", text))];
    for row in &cells {
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        let state = match row[STATE].split(' ').next() {
            Some("fit") => "32",
            Some("ejected" | "silent" | "down") => "31",
            _ => "33",
        };
        lines.push(line(&row, &|column, text| {
            painted(if column == STATE { state } else { "" }, text)
        }));
    }
    lines.join("\n")
}

impl Row {
    fn cells(&self) -> [String; COLUMNS.len()] {
        let text = |value: &Option<String>| {
            value
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(nothing)
        };
        let number = |value: Option<u64>| value.map_or_else(nothing, |value| value.to_string());
        let state = match self.ejected_ms {
            Some(left @ 1..) if self.state.as_deref() == Some("ejected") => {
                format!("ejected {}", time(Duration::from_millis(left)))
            }
            _ => text(&self.state),
        };
        let in_flight = match self.in_flight_max {
            Some(most) => format!("{}/{most}", number(self.in_flight)),
            None => number(self.in_flight),
        };
        [
            text(&self.id),
            text(&self.name),
            self.methods.join(", "),
            text(&self.fleet),
            text(&self.zone),
            number(self.weight.map(u64::from)),
            state,
            in_flight,
            self.latency_us
                .map_or_else(nothing, |latency| time(Duration::from_micros(latency))),
            number(self.answered),
            number(self.failed),
        ]
    }
}

fn nothing() -> String {
    "-".to_owned()
}

/// With the unit that fits.
fn time(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..1_000 => format!("{us} µs"),
        us @ 1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        us => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let row = |name: &str, state: &str, max| Row {
            id: Some("0/1.2".to_owned()),
            name: Some(name.to_owned()),
            methods: vec!["users.*".to_owned(), "a".to_owned()],
            state: Some(state.to_owned()),
            weight: Some(1),
            in_flight: Some(3),
            in_flight_max: max,
            latency_us: Some(1_250),
            answered: Some(12),
            failed: Some(0),
            ..Row::default()
        };
        let mut ejected = row("b", "ejected", Some(8));
        ejected.ejected_ms = Some(1_500);
        let text = table(&[ejected, row("a-long-name", "fit", None)], false);
        assert_eq!(
            text,
            "\
ID     NAME         SERVES      FLEET  ZONE  WEIGHT  STATE          IN FLIGHT  LATENCY  ANSWERED  FAILED
0/1.2  a-long-name  users.*, a  -      -          1  fit                    3   1.2 ms        12       0
0/1.2  b            users.*, a  -      -          1  ejected 1.5 s        3/8   1.2 ms        12       0"
        );
        assert!(table(&[row("a", "fit", None)], true).contains("\x1b[32mfit  "));
        assert_eq!(table(&[], true), "nobody serves anything");
    }

    #[test]
    fn a_list_may_lack_what_it_does_not_know() {
        let answer =
            cbor!({"services" => [{"id" => "0/1.0", "methods" => ["a"], "fleet" => null, "new" => 1}]})
                .unwrap();
        let list: List = read(&answer).unwrap();
        assert_eq!(list.services[0].cells()[..4], ["0/1.0", "-", "a", "-"]);
        assert!(read::<List>(&Value::Null).is_err());
    }

    #[test]
    fn a_look_is_sure_of_what_it_says() {
        let ids = BTreeSet::from(["0/1.1".to_owned(), "1/1.1".to_owned()]);
        let row = |id: &str, fleet: Option<&str>, in_flight| Row {
            id: Some(id.to_owned()),
            fleet: fleet.map(str::to_owned),
            in_flight: Some(in_flight),
            ..Row::default()
        };
        let list = |services, missing, left_out| List {
            services,
            cores_missing: Some(missing),
            left_out: Some(left_out),
        };
        let others = || row("0/2.1", None, 7);
        let both = |open| vec![row("0/1.1", None, open), row("1/1.1", None, 0), others()];
        let twice = vec![row("0/1.1", None, 3), row("0/1.1", Some("blue"), 3)];
        assert_eq!(look(&list(twice, 0, 0), &ids), Look::Open(3));
        assert_eq!(look(&list(both(2), 1, 0), &ids), Look::Open(2));
        assert_eq!(look(&list(both(0), 1, 0), &ids), Look::Partial);
        assert_eq!(look(&list(both(0), 0, 5), &ids), Look::Idle);
        assert_eq!(look(&list(vec![others()], 0, 0), &ids), Look::Gone);
        assert_eq!(look(&list(vec![others()], 0, 1), &ids), Look::Hidden);
    }
}
