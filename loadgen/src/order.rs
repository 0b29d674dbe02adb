//! In which order a campaign's runs come: interleaved, so that whatever drifts on a machine (its clock, its neighbours,
//! its memory) drifts over all targets alike.
//!
//! ```text
//!   for each scenario, for each of its points:   repeat 1: a b c    repeat 2: b c a    repeat 3: c a b   …
//! ```
//!
//! No target always goes first. What a target cannot do is left out, and told.

use crate::campaign::{Campaign, Point, ScenarioPlan, TargetPlan};
use crate::scenario::{ProtocolName, Target, Workload};

/// One run to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step<'a> {
    /// Of which scenario.
    pub scenario: &'a ScenarioPlan,
    /// At which of its points.
    pub point: &'a Point,
    /// Against whom.
    pub plan: &'a TargetPlan,
    /// Counts from 1.
    pub repeat: u32,
    /// Of so many.
    pub repeats: u32,
}

impl Step<'_> {
    /// In words: `fan-out subscribers=10 · nats · repeat 2`.
    #[must_use]
    pub fn title(&self) -> String {
        format!(
            "{}{} · {} · repeat {}",
            self.scenario.name, self.point, self.plan.target.name, self.repeat
        )
    }
}

/// A target that does not run in a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The scenario's name.
    pub scenario: String,
    /// The target's name.
    pub target: String,
    /// Why.
    pub why: String,
}

/// All runs of a campaign, and who is left out of what.
#[must_use]
pub fn order(campaign: &Campaign) -> (Vec<Step<'_>>, Vec<Skipped>) {
    let mut steps = Vec::new();
    let mut skipped = Vec::new();
    for scenario in &campaign.scenarios {
        let mut able: Vec<&TargetPlan> = Vec::new();
        for plan in &campaign.targets {
            let name = &plan.target.name;
            if !scenario.targets.is_empty() && !scenario.targets.contains(name) {
                continue;
            }
            let workloads = scenario.points.iter().map(|point| &point.scenario.workload);
            match workloads
                .filter_map(|workload| unable(&plan.target, workload))
                .next()
            {
                Some(why) => skipped.push(Skipped {
                    scenario: scenario.name.clone(),
                    target: name.clone(),
                    why: why.to_owned(),
                }),
                None => able.push(plan),
            }
        }
        let repeats = scenario.repeats.unwrap_or(campaign.repeats);
        for point in &scenario.points {
            for repeat in 1..=repeats {
                let first = (repeat as usize - 1) % able.len().max(1);
                for plan in able.iter().cycle().skip(first).take(able.len()) {
                    steps.push(Step {
                        scenario,
                        point,
                        plan,
                        repeat,
                        repeats,
                    });
                }
            }
        }
    }
    (steps, skipped)
}

/// Why a target cannot do a workload, known by its protocol.
fn unable(target: &Target, workload: &Workload) -> Option<&'static str> {
    use ProtocolName::{Fluxar, Mqtt3, Mqtt5, Nats, Redis, Relay};
    if target.protocol != Fluxar && matches!(workload, Workload::Stream { .. }) {
        return Some("it has no streams");
    }
    if target.protocol != Fluxar && target.service_url.is_some() {
        return Some("it connects to nobody");
    }
    let calls = matches!(workload, Workload::Calls { .. } | Workload::Mixed { .. });
    let stores = matches!(workload, Workload::Store { .. } | Workload::Replay { .. });
    let fans_out = stores || matches!(workload, Workload::FanOut { .. });
    if stores && target.qos == 0 {
        return Some("at qos 0 it stores nothing: it takes qos = 1");
    }
    match target.protocol {
        Redis if calls => Some("Redis has no calls"),
        Mqtt3 | Mqtt5 if calls => Some("MQTT has no calls here"),
        Relay if calls => Some("a relay has no calls"),
        Relay if matches!(workload, Workload::Storm { .. } | Workload::Idle { .. }) => {
            Some("a relay has no hello that could be answered")
        }
        Relay if target.qos > 0 => Some("its publishes are not acknowledged, so qos 1 has no meaning"),
        Nats | Redis if target.qos > 0 && !fans_out => Some("what it stores (qos = 1) has no place there"),
        Mqtt3 | Mqtt5 if matches!(workload, Workload::Replay { .. }) => {
            Some("MQTT keeps nothing that a subscriber could go back to")
        }
        Fluxar | Nats | Redis | Mqtt3 | Mqtt5 | Relay => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn campaign() -> Campaign {
        let text = r#"
            campaign.repeats = 3
            [[target]]
            name = "a"
            protocol = "fluxar"
            url = "tcp://127.0.0.1:1"
            [[target]]
            name = "b"
            protocol = "nats"
            url = "tcp://127.0.0.1:1"
            [[target]]
            name = "c"
            protocol = "redis"
            url = "tcp://127.0.0.1:1"
            [[scenario]]
            name = "fan"
            workload = { kind = "fan-out" }
            sweep = { "workload.subscribers" = [1, 10] }
            [[scenario]]
            name = "calls"
            repeats = 1
            workload = { kind = "calls" }
            [[scenario]]
            name = "only"
            repeats = 1
            targets = ["b"]
            workload = { kind = "fan-out" }
        "#;
        Campaign::parse("test", text, Path::new("")).expect("a campaign")
    }

    #[test]
    fn repeats_are_interleaved_and_nobody_always_goes_first() {
        let campaign = campaign();
        let (steps, _) = order(&campaign);
        let names = |from: usize, to: usize| {
            let names = steps[from..to].iter().map(|step| step.plan.target.name.as_str());
            names.collect::<String>()
        };
        assert_eq!(names(0, 9), "abcbcacab");
        assert_eq!(names(9, 18), "abcbcacab");
        let repeats: Vec<u32> = steps[..9].iter().map(|step| step.repeat).collect();
        assert_eq!(repeats, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert_eq!(steps[8].point.at["workload.subscribers"], 1);
        assert_eq!(steps[9].point.at["workload.subscribers"], 10);
    }

    #[test]
    fn who_cannot_do_a_workload_is_left_out_and_told() {
        let campaign = campaign();
        let (steps, skipped) = order(&campaign);
        let calls: String = steps
            .iter()
            .filter(|step| step.scenario.name == "calls")
            .map(|step| step.plan.target.name.as_str())
            .collect();
        assert_eq!(calls, "ab");
        assert_eq!(skipped.len(), 1);
        assert_eq!(
            (skipped[0].scenario.as_str(), skipped[0].target.as_str()),
            ("calls", "c")
        );
        assert_eq!(
            steps.iter().filter(|step| step.scenario.name == "only").count(),
            1
        );
    }

    #[test]
    fn what_is_stored_takes_those_who_store() {
        let target = |protocol, qos| Target {
            name: "t".into(),
            protocol,
            url: String::new(),
            subscriber_url: None,
            service_url: None,
            qos,
            batch: true,
        };
        let store = Workload::Store {
            topics: 1,
            publishers: 1,
        };
        let replay = Workload::Replay {
            events: 1,
            subscribers: 1,
        };
        let churn = Workload::Churn {
            subscribers: 1,
            churn_per_s: 1.0,
        };
        use ProtocolName::{Fluxar, Mqtt5, Nats, Redis, Relay};
        let able = |protocol, qos, workload| unable(&target(protocol, qos), workload).is_none();
        for protocol in [Fluxar, Nats, Redis, Mqtt5, Relay] {
            assert!(!able(protocol, 0, &store) && !able(protocol, 0, &replay));
            assert_eq!(able(protocol, 1, &store), protocol != Relay);
            assert_eq!(able(protocol, 1, &replay), !matches!(protocol, Mqtt5 | Relay));
            assert_eq!(able(protocol, 1, &churn), matches!(protocol, Fluxar | Mqtt5));
        }
    }
}
