//! What a configuration says about the log of events: where it is, how large, and `[[log.topic]]`, the rules by topic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fluxar_protocol::target;
use fluxar_shard::log::Settings;
use fluxar_shard::log::class::{Level, TopicRule, terms_of};
use toml::Spanned;
use toml::de::DeValue;

use super::ConfigFault;
use super::table::{Fields, Reading, show_text, tables};
use crate::limits::TOPIC_RULES_MAX;
use crate::settings;

/// The levels as they are written.
const LEVELS: [(&str, Level); 3] = [
    ("memory", Level::Memory),
    ("written", Level::Written),
    ("synced", Level::Synced),
];

/// Where the log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogDir {
    /// Where services of this system, or programs of this user, keep their state; nowhere if there is no such place.
    #[default]
    Usual,
    /// Nowhere: events at qos 1 and 2 are refused.
    Nowhere,
    /// Here.
    At(PathBuf),
}

impl LogDir {
    /// The directory that is meant, and that nobody asked for it: it is only where such files usually are.
    #[must_use]
    pub fn find(&self, environment: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<(PathBuf, bool)> {
        match self {
            Self::Usual => usual(environment),
            Self::Nowhere => None,
            Self::At(path) => Some((path.clone(), false)),
        }
    }
}

/// systemd's state directory, which its unit asked for, or else the user's.
fn usual(environment: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<(PathBuf, bool)> {
    let absolute = |name: &str| {
        let value = environment(name)?;
        // Several directories of one unit are separated by colons.
        let first = value.to_str()?.split(':').next()?.to_owned();
        Path::new(&first).is_absolute().then(|| PathBuf::from(first))
    };
    let users = || {
        absolute("XDG_STATE_HOME")
            .map(|state| state.join("fluxar"))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/fluxar")))
    };
    match absolute("STATE_DIRECTORY") {
        Some(units) => Some((units, false)),
        None => users().map(|path| (path, true)),
    }
}

/// What a configuration says about the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// Where it is.
    pub dir: LogDir,
    /// How it is kept.
    pub settings: Settings,
}

/// Reads `[[log.topic]]`, all of them, in their order.
pub(super) fn read_topics(
    reading: &Reading<'_>,
    at: usize,
    value: &Spanned<DeValue<'_>>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<TopicRule> {
    let mut rules = Vec::new();
    let mut places = Vec::new();
    for (number, (at, table)) in tables(reading, "log.topic", at, value, faults)
        .into_iter()
        .enumerate()
    {
        let what = format!("log.topic {}", number + 1);
        let mut fields = Fields::new(reading, what, at, table, faults);
        if number == TOPIC_RULES_MAX {
            fields.fault(at, &format!("more than {TOPIC_RULES_MAX} rules"));
        }
        let read = read_topic(&mut fields);
        fields.finish();
        places.extend(read.is_some().then_some((number, at)));
        rules.extend(read);
    }
    for circle in circles(&rules) {
        let (number, at) = places[circle[0]];
        let topics: Vec<_> = circle
            .iter()
            .filter_map(|&rule| rules[rule].dead_letter.as_deref())
            .map(|topic| format!("{topic:?}"))
            .collect();
        let message = format!(
            "log.topic {}: dead_letter: what nobody can handle would go round in circles: {}, and again",
            number + 1,
            topics.join(", ")
        );
        faults.push(reading.fault(at, message));
    }
    rules
}

/// The circles of several rules that dead letters would go round in: each as these rules in their turn, from the first of the
/// configuration on.
fn circles(rules: &[TopicRule]) -> Vec<Vec<usize>> {
    let next = |at: usize| {
        let topic = rules[at].dead_letter.as_deref()?;
        if terms_of(topic, rules).deliveries_max == 0 {
            return None; // nothing of it is set aside
        }
        let sets_aside =
            |rule: &TopicRule| rule.dead_letter.is_some() && target::matches(&rule.pattern, topic);
        rules.iter().position(sets_aside)
    };
    let mut circles = Vec::new();
    // From where each was walked to first.
    let mut walked_from = vec![None; rules.len()];
    for first in 0..rules.len() {
        let (mut way, mut at) = (Vec::new(), Some(first));
        while let Some(rule) = at
            && walked_from[rule].is_none()
        {
            walked_from[rule] = Some(first);
            way.push(rule);
            at = next(rule);
        }
        let begin = at.and_then(|at| way.iter().position(|&rule| rule == at));
        // A rule whose own pattern matches is told by itself.
        if let Some(mut circle) = begin
            .map(|begin| way.split_off(begin))
            .filter(|circle| circle.len() > 1)
        {
            let least = (0..circle.len()).min_by_key(|&at| circle[at]).unwrap_or(0);
            circle.rotate_left(least);
            circles.push(circle);
        }
    }
    circles
}

fn read_topic(fields: &mut Fields<'_, '_>) -> Option<TopicRule> {
    let says_pattern = fields.value("pattern").is_some();
    let pattern = fields.topics("pattern");
    if !says_pattern {
        fields.fault(
            fields.at(),
            "it has no `pattern`: which topics? write pattern = \">\" for all",
        );
    }
    let level = match (fields.value("ack"), fields.text("ack")) {
        (Some((_, span)), Some(text)) => {
            let level = LEVELS.iter().find(|(name, _)| *name == text);
            if level.is_none() {
                let known = LEVELS.map(|(name, _)| name);
                let message = match settings::nearest_of(&text, known.into_iter()) {
                    Some(near) => format!("ack: {text:?}; did you mean {near:?}?"),
                    None => format!("ack: {text:?} is none of {}", known.join(", ")),
                };
                fields.fault(span.start, &message);
            }
            level.map(|(_, level)| *level)
        }
        _ => None,
    };
    let always = fields.flag("always");
    let deliveries_max = fields.number("deliveries_max", 0..=1_000_000);
    let dead_letter = match (fields.value("dead_letter"), fields.topic("dead_letter")) {
        (Some((_, span)), Some(topic)) => {
            if pattern
                .as_deref()
                .is_some_and(|pattern| target::matches(pattern, &topic))
            {
                fields.fault(
                    span.start,
                    "dead_letter: its own pattern matches it: what nobody can handle would go round in circles",
                );
            }
            Some(Arc::from(topic))
        }
        _ => None,
    };
    Some(TopicRule {
        pattern: Arc::from(pattern?),
        level,
        always,
        deliveries_max,
        dead_letter,
    })
}

/// Prints them as they read back.
pub(super) fn print_topics(rules: &[TopicRule], out: &mut String) {
    if rules.is_empty() {
        *out += "\n\
            # A rule by topic, as often as needed; for each term the first rule that matches and has it counts.\n\
            # [[log.topic]]\n\
            # pattern = \"metrics.>\"\n\
            # ack = \"memory\"\n";
    }
    for rule in rules {
        let TopicRule {
            pattern,
            level,
            always,
            deliveries_max,
            dead_letter,
        } = rule;
        *out += &format!(
            "\n[[log.topic]]\n# for these topics\npattern = {}\n",
            show_text(pattern)
        );
        if let Some((name, _)) = level.and_then(|level| LEVELS.iter().find(|(_, known)| *known == level)) {
            *out += &format!(
                "# acknowledged, and delivered, once \"synced\" to the disk, \"written\" to the system, or in \"memory\"\n\
                 ack = \"{name}\"\n"
            );
        }
        if let Some(always) = always {
            *out += &format!("# whether events at qos 0 are logged, too\nalways = {always}\n");
        }
        if let Some(deliveries_max) = deliveries_max {
            *out += &format!(
                "# how often members of a group are given one before it is set aside, 0: no bound\n\
                 deliveries_max = {deliveries_max}\n"
            );
        }
        if let Some(dead_letter) = dead_letter {
            *out += &format!("# where it goes then\ndead_letter = {}\n", show_text(dead_letter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).into())
        };
        LogDir::Usual.find(get).map(|(path, is_usual)| {
            let is_units = variables.iter().any(|(name, _)| *name == "STATE_DIRECTORY");
            assert_eq!(is_usual, !is_units, "a unit asks for it");
            path
        })
    }

    #[test]
    fn the_usual_directory_is_the_units_or_else_the_users() {
        let all = [
            ("STATE_DIRECTORY", "/var/lib/fluxar:/var/lib/more"),
            ("XDG_STATE_HOME", "/home/a/state"),
            ("HOME", "/home/a"),
        ];
        assert_eq!(found(&all), Some("/var/lib/fluxar".into()));
        assert_eq!(found(&all[1..]), Some("/home/a/state/fluxar".into()));
        assert_eq!(found(&all[2..]), Some("/home/a/.local/state/fluxar".into()));
        assert_eq!(found(&[]), None);
        assert_eq!(
            found(&[("XDG_STATE_HOME", "relative"), ("HOME", "")]),
            None,
            "the specification says to ignore relative ones"
        );
    }
}
