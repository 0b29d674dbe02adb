//! What is asked of the log for an event, and the configured rules by topic.

use std::sync::Arc;

use fluxar_protocol::target;

/// What "acknowledged" promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// It is in this process's memory: survives neither its end nor power loss.
    Memory,
    /// The system took it: survives the end of the process, not power loss.
    Written,
    /// It is on the disk: survives power loss.
    #[default]
    Synced,
}

/// How events of one run are treated; a run holds events of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Class {
    /// When they are acknowledged, and delivered.
    pub level: Level,
    /// qos 2: the ids are remembered, and one that comes again is not stored again.
    pub once: bool,
    /// `retain`: the last of each key is kept.
    pub retain: bool,
    /// Some have `ttl_ms`: whoever delivers them looks.
    pub expires: bool,
}

/// One rule of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    /// Which topics.
    pub pattern: Arc<str>,
    /// Their level; `None`: as a later rule that matches says.
    pub level: Option<Level>,
    /// Whether publishes at qos 0 are logged, too.
    pub always: Option<bool>,
    /// How often an event is given to members of a group before it is set aside (to `dead_letter`, if there is one).
    pub deliveries_max: Option<u32>,
    /// The topic to which events go that no member of a group could handle.
    pub dead_letter: Option<Arc<str>>,
}

/// What the rules say about one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicTerms {
    /// When its events are acknowledged.
    pub level: Level,
    /// Whether publishes at qos 0 are logged, too.
    pub always: bool,
    /// 0: no bound.
    pub deliveries_max: u32,
    /// See [`TopicRule::dead_letter`].
    pub dead_letter: Option<Arc<str>>,
}

/// Reads the rules in order; for each term the first rule that matches and says something counts.
#[must_use]
pub fn terms_of(topic: &str, rules: &[TopicRule]) -> TopicTerms {
    let mut terms = TopicTerms::default();
    let (mut level, mut always, mut deliveries_max) = (None, None, None);
    for rule in rules.iter().filter(|rule| target::matches(&rule.pattern, topic)) {
        level = level.or(rule.level);
        always = always.or(rule.always);
        deliveries_max = deliveries_max.or(rule.deliveries_max);
        if terms.dead_letter.is_none() {
            terms.dead_letter.clone_from(&rule.dead_letter);
        }
    }
    terms.level = level.unwrap_or_default();
    terms.always = always.unwrap_or_default();
    terms.deliveries_max = deliveries_max.unwrap_or_default();
    terms
}
