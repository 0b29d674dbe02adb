//! What a reload changes: the configuration was read again while the gateway runs.
//!
//! Services (`[services]`, `[[upstream]]`, `[[route]]`), `admin.from` and `log.level` are taken over at once. What the
//! cores were built with (listeners, limits, sizes) stays as it is until the next start, and is named.

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::settings::SETTINGS;
use crate::upstreams::Upstream;

/// The differences between the configuration that is in force and one that was just read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Upstreams that are new.
    pub added: Vec<Arc<str>>,
    /// Upstreams that are gone.
    pub removed: Vec<Arc<str>>,
    /// Upstreams with other endpoints or other terms.
    pub changed: Vec<Arc<str>>,
    /// How many rules there are now, if they are others than before.
    pub routes: Option<usize>,
    /// Settings that are taken over.
    pub settings: Vec<&'static str>,
    /// Settings that take effect at the next start.
    pub later: Vec<&'static str>,
}

impl Changes {
    /// What is different.
    #[must_use]
    pub fn between(running: &Config, read: &Config) -> Self {
        let (before, after) = (&running.services.upstreams, &read.services.upstreams);
        let named = |upstreams: &[Upstream], name: &str| {
            upstreams.iter().find(|upstream| &*upstream.name == name).cloned()
        };
        let mut changes = Self::default();
        for upstream in after {
            match named(before, &upstream.name) {
                None => changes.added.push(Arc::clone(&upstream.name)),
                Some(old) if old != *upstream => changes.changed.push(Arc::clone(&upstream.name)),
                Some(_) => {}
            }
        }
        changes.removed = before
            .iter()
            .filter(|upstream| named(after, &upstream.name).is_none())
            .map(|upstream| Arc::clone(&upstream.name))
            .collect();
        if running.services.rules != read.services.rules {
            changes.routes = Some(read.services.rules.len());
        }
        for setting in SETTINGS {
            if (setting.show)(running) != (setting.show)(read) {
                let list = if setting.is_live() {
                    &mut changes.settings
                } else {
                    &mut changes.later
                };
                list.push(setting.key);
            }
        }
        if running.log.settings.topics != read.log.settings.topics {
            changes.later.push("log.topic");
        }
        changes
    }

    /// Whether everything that is taken over is as before.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        Self {
            later: Vec::new(),
            ..self.clone()
        } == Self::default()
    }
}

/// What is taken over, for the log.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        for (what, names) in [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
        ] {
            if !names.is_empty() {
                let s = if names.len() == 1 { "" } else { "s" };
                parts.push(format!("upstream{s} {what}: {}", names.join(", ")));
            }
        }
        if let Some(count) = self.routes {
            let s = if count == 1 { "" } else { "s" };
            parts.push(format!("{count} route{s} now"));
        }
        if !self.settings.is_empty() {
            parts.push(format!("changed: {}", self.settings.join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}

/// Takes over into the running configuration what can change while it runs.
pub fn take_over(running: &mut Config, read: Config) {
    running.services = read.services;
    running.admin_from = read.admin_from;
    running.log_level = read.log_level;
    running.stray_variables = read.stray_variables;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let (mut config, mut faults) = (Config::default(), Vec::new());
        config.read_toml("fluxar.toml", text, &mut faults);
        assert_eq!(faults, []);
        config
    }

    const UPSTREAM: &str = "endpoints = [\"tcp://a:1\"]\n";

    #[test]
    fn changes_are_named() {
        let before = config(&format!(
            "[[upstream]]\nname = \"stays\"\n{UPSTREAM}[[upstream]]\nname = \"goes\"\n{UPSTREAM}\
             [[upstream]]\nname = \"other\"\n{UPSTREAM}[[route]]\nfleet = \"a\"\n"
        ));
        let after = config(&format!(
            "[limits]\nqueue_bytes = 131072\n[services]\nping_ms = 100\n[log]\nlevel = \"debug\"\n\
             [[upstream]]\nname = \"stays\"\n{UPSTREAM}[[upstream]]\nname = \"comes\"\n{UPSTREAM}\
             [[upstream]]\nname = \"other\"\nweight = 2\n{UPSTREAM}\
             [[route]]\nfleet = \"a\"\n[[route]]\nfleet = \"b\"\n"
        ));
        let changes = Changes::between(&before, &after);
        assert_eq!(
            changes.to_string(),
            "upstream added: comes; upstream removed: goes; upstream changed: other; 2 routes now; \
             changed: services.ping_ms, log.level"
        );
        assert_eq!(changes.later, ["limits.queue_bytes"]);
        assert!(!changes.is_nothing());
    }

    #[test]
    fn what_needs_a_start_is_named_again_each_time() {
        let mut running = Config::default();
        let read = config("[limits]\nqueue_bytes = 131072\n[[route]]\nfleet = \"a\"\n");
        for first in [true, false] {
            let changes = Changes::between(&running, &read);
            assert_eq!(changes.is_nothing(), !first);
            assert_eq!(changes.later, ["limits.queue_bytes"]);
            take_over(&mut running, read.clone());
        }
        assert_eq!(running.services, read.services);
        assert_ne!(running.limits, read.limits);
    }

    #[test]
    fn all_that_is_live_is_taken_over() {
        let mut running = Config::default();
        let read = config(
            "[services]\nzone = \"a\"\nping_ms = 1\nsilent_ms = 11\nejection_failures = 1\nejection_first_ms = 11\n\
             ejection_most_ms = 12\nslow_start_ms = 1\nejection_percent = 1\nretry_percent = 1\nretry_least_per_s = 1\n\
             [admin]\nfrom = []\n[log]\nlevel = \"trace\"\n",
        );
        let live = SETTINGS.iter().filter(|setting| setting.is_live());
        let changes = Changes::between(&running, &read);
        assert_eq!(
            changes.settings,
            live.map(|setting| setting.key).collect::<Vec<_>>()
        );
        take_over(&mut running, read.clone());
        assert!(Changes::between(&running, &read).is_nothing());
    }
}
