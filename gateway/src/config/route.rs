//! `[[route]]`: rules by which calls and streams find their fleet.

use fluxar_protocol::limits::META_KEYS_MAX;
use fluxar_shard::routes::{Balance, Mirror, Rule, SHARE_ALL};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigFault;
use super::table::{Fields, Reading, show_percent, show_text, tables, value_of};
use crate::limits::ROUTES_MAX;
use crate::settings::{self, Value};
use crate::upstreams::Upstream;

/// What `balance` may say.
const BALANCES: [(&str, Balance); 3] = [
    ("least", Balance::Least),
    ("round_robin", Balance::RoundRobin),
    ("key", Balance::Key),
];

/// Something that is allowed, and worth a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Whether it is probably a mistake.
    pub is_warning: bool,
    /// What is remarkable.
    pub message: String,
}

/// Reads all of them, in their order.
pub(super) fn read_all(
    reading: &Reading<'_>,
    at: usize,
    value: &Spanned<DeValue<'_>>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (number, (at, table)) in tables(reading, "route", at, value, faults)
        .into_iter()
        .enumerate()
    {
        let mut fields = Fields::new(reading, format!("route {}", number + 1), at, table, faults);
        if number == ROUTES_MAX {
            fields.fault(at, &format!("more than {ROUTES_MAX} rules"));
        }
        rules.push(read(&mut fields));
        fields.finish();
    }
    rules
}

fn read(fields: &mut Fields<'_, '_>) -> Rule {
    let methods = fields.pattern("methods").unwrap_or_else(|| ">".into());
    let meta = match fields.table("meta") {
        Some((at, table)) => read_meta(fields, at, table),
        None => Vec::new(),
    };
    let share = fields.percent("percent").unwrap_or(SHARE_ALL);
    let fleet = fields.name("fleet");
    let balance = match (fields.value("balance"), fields.text("balance")) {
        (Some((_, span)), Some(text)) => match BALANCES.iter().find(|(name, _)| *name == text) {
            Some((_, balance)) => *balance,
            None => {
                let known = BALANCES.map(|(name, _)| name);
                let message = match settings::nearest_of(&text, known.into_iter()) {
                    Some(known) => format!("balance: {text:?}; did you mean {known:?}?"),
                    None => format!("balance: {text:?} is none of {}", known.join(", ")),
                };
                fields.fault(span.start, &message);
                Balance::default()
            }
        },
        _ => Balance::default(),
    };
    let timeout_ms = fields.number("timeout_ms", 1..=86_400_000);
    let mirror = match fields.table("mirror") {
        Some((at, table)) => read_mirror(fields, at, table, fleet.as_deref()),
        None => None,
    };
    Rule {
        methods,
        meta,
        share,
        fleet,
        balance,
        mirror,
        timeout_ms,
    }
}

/// Reads `meta = { KEY = "TEXT" }`.
fn read_meta<'i>(fields: &mut Fields<'_, 'i>, at: usize, table: &DeTable<'i>) -> Vec<(String, String)> {
    if table.is_empty() {
        fields.fault(
            at,
            "meta: an empty table; leave it out, or write meta = { KEY = \"TEXT\" }",
        );
    }
    if table.len() > META_KEYS_MAX {
        fields.fault(
            at,
            &format!("meta: no message has more than {META_KEYS_MAX} keys"),
        );
    }
    let mut wanted = Vec::new();
    for (key, value) in table {
        match value_of(value.get_ref()) {
            Value::Text(text) => wanted.push((key.get_ref().to_string(), text)),
            other => {
                let message = format!(
                    "meta.{}: {} where a text belongs; only texts can be matched",
                    key.get_ref(),
                    other.kind()
                );
                fields.fault(key.span().start, &message);
            }
        }
    }
    wanted
}

/// Reads `mirror = { fleet = …, percent = … }`.
fn read_mirror<'t, 'i>(
    of: &mut Fields<'t, 'i>,
    at: usize,
    table: &'t DeTable<'i>,
    fleet: Option<&str>,
) -> Option<Mirror> {
    let mut fields = of.inner(at, table, "mirror");
    let says_fleet = fields.value("fleet").is_some();
    let mirrored = fields.name("fleet");
    let share = fields.percent("percent").unwrap_or(SHARE_ALL);
    if !says_fleet {
        fields.fault(at, "it has no `fleet` to go to");
    }
    if mirrored.is_some() && mirrored.as_deref() == fleet {
        fields.fault(at, "to the fleet that answers: it would do everything twice");
    }
    fields.finish();
    Some(Mirror {
        fleet: mirrored?,
        share,
    })
}

/// Rules whose fleet is no upstream: meant for services that dial in, or a slip.
pub(super) fn remarks(rules: &[Rule], upstreams: &[Upstream]) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let mirrored = rule.mirror.as_ref().map(|mirror| &mirror.fleet);
        for fleet in rule.fleet.iter().chain(mirrored) {
            let names = || upstreams.iter().map(|upstream| &*upstream.name);
            if names().any(|name| name == fleet) {
                continue;
            }
            let number = number + 1;
            remarks.push(match settings::nearest_of(fleet, names()) {
                Some(near) => Remark {
                    is_warning: true,
                    message: format!(
                        "route {number}: no upstream is named {fleet:?}, only services that dial in can be in that fleet; \
                         did you mean {near:?}?"
                    ),
                },
                None => Remark {
                    is_warning: false,
                    message: format!(
                        "route {number}: the fleet {fleet:?} is no upstream; it has the services that dial in and join it"
                    ),
                },
            });
        }
    }
    remarks
}

/// Prints them as they read back.
pub(super) fn print_all(rules: &[Rule], out: &mut String) {
    if rules.is_empty() {
        *out += "\n\
            # A rule, as often as needed; the first that matches decides. Here: 5 % of the calls go to the fleet \"canary\".\n\
            # [[route]]\n\
            # methods = \"users.>\"\n\
            # percent = 5\n\
            # fleet = \"canary\"\n";
    }
    for rule in rules {
        let Rule {
            methods,
            meta,
            share,
            fleet,
            balance,
            mirror,
            timeout_ms,
        } = rule;
        *out += &format!(
            "\n[[route]]\n\
             # for these methods, a pattern\n\
             methods = {}\n",
            show_text(methods)
        );
        if !meta.is_empty() {
            let wanted: Vec<String> = meta
                .iter()
                .map(|(key, text)| format!("{} = {}", show_text(key), show_text(text)))
                .collect();
            *out += &format!(
                "# whose meta has these texts\nmeta = {{ {} }}\n",
                wanted.join(", ")
            );
        }
        *out += &format!(
            "# the share that it takes; the rest goes on to the next rule\npercent = {}\n",
            show_percent(*share)
        );
        if let Some(fleet) = fleet {
            *out += &format!("# who serves them\nfleet = {}\n", show_text(fleet));
        }
        let balance = BALANCES
            .iter()
            .find(|(_, known)| known == balance)
            .map_or("least", |(name, _)| name);
        *out += &format!("# which of them: \"least\", \"round_robin\" or \"key\"\nbalance = \"{balance}\"\n");
        if let Some(mirror) = mirror {
            *out += &format!(
                "# copied there, the answers thrown away\nmirror = {{ fleet = {}, percent = {} }}\n",
                show_text(&mirror.fleet),
                show_percent(mirror.share)
            );
        }
        if let Some(timeout_ms) = timeout_ms {
            *out += &format!("# no asker waits longer, ms\ntimeout_ms = {timeout_ms}\n");
        }
    }
}
