//! What happened in a life, kept short while it happens, and worded only when a promise was broken.

use std::fmt::Write;

use fluxar_protocol::Code;

use super::auditor::{EventName, Place};

/// Lines around a broken promise.
const LINES_MOST: usize = 80;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// To the gateway, the disk or the network.
    Upheaval(String),
    Published(EventName),
    Acknowledged(EventName, Place),
    Refused(EventName, Code),
    /// A subscriber was given an event.
    Given {
        who: u32,
        event: EventName,
        place: Place,
        dup: u64,
    },
    /// A subscriber acknowledged up to there, or exactly that.
    Acks {
        who: u32,
        place: Place,
    },
    /// A subscriber was told that nothing for it lies up to there.
    Moved {
        who: u32,
        place: Place,
    },
    /// A connection of somebody came or went, a subscription was accepted or ended.
    Contact {
        who: u32,
        what: String,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<(u64, What)>);

impl History {
    pub(crate) fn note(&mut self, at_ns: u64, what: What) {
        self.0.push((at_ns, what));
    }

    /// The last of what has to do with an event, a place, a subscriber; and everything that touched all.
    pub(crate) fn around(&self, events: &[EventName], place: Option<Place>, who: Option<u32>) -> String {
        let concerns = |what: &What| match what {
            What::Upheaval(_) => true,
            What::Published(of) | What::Refused(of, _) => events.contains(of),
            What::Acknowledged(of, at) => events.contains(of) || Some(*at) == place,
            What::Given {
                event: of, place: at, ..
            } => events.contains(of) || Some(*at) == place,
            What::Acks { who: one, place: at } | What::Moved { who: one, place: at } => {
                Some(*one) == who && place.is_some_and(|place| place.0 == at.0)
            }
            What::Contact { who: one, .. } => Some(*one) == who,
        };
        let lines: Vec<&(u64, What)> = self.0.iter().filter(|(_, what)| concerns(what)).collect();
        let mut text = String::new();
        if lines.len() > LINES_MOST {
            let _ = writeln!(text, "  … {} before", lines.len() - LINES_MOST);
        }
        for (at_ns, what) in &lines[lines.len().saturating_sub(LINES_MOST)..] {
            let _ = writeln!(text, "  {:>10.3} ms  {what:?}", *at_ns as f64 / 1e6);
        }
        text
    }
}
