//! What a campaign promises: assertions such as `p99_ms < 5 at 50000/s`, how they are written and how they are judged.
//!
//! ```text
//!   [TARGET[, TARGET…]:] FIGURE OP BOUND [at RATE/s] [when FIELD = VALUE[, FIELD = VALUE…]]
//!
//!   BOUND   a number, or a share of what other targets reached at the same point of the same campaign:
//!           nats   0.5 * nats   0.5 * min(nats, redis)   max(nats, redis)
//!   at      only the phase (or the runs) for which that rate was asked
//!   when    only those points of the sweep; the field by its path or by its last name
//! ```
//!
//! A figure is judged by its median over the repeats; what must not happen at all (lost, duplicated, out_of_order,
//! refused) by the worst repeat. Without targets, an assertion holds for all of them, except for those that its bound
//! names.

mod figure;
mod judge;
mod parse;

pub use figure::{figure, figures, is_figure, phase_at};
pub use judge::{Judged, Outcome, judge};

use std::fmt;

/// One promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    /// As it was written.
    pub text: String,
    /// Of whom; empty: of all.
    pub targets: Vec<String>,
    /// What is compared, see [`figure()`].
    pub figure: String,
    /// How.
    pub operator: Operator,
    /// With what.
    pub bound: Bound,
    /// Only where so many messages a second were asked for.
    pub at_per_s: Option<f64>,
    /// Only where the sweep chose this: field and value as a campaign file says them.
    pub when: Vec<(String, String)>,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `==`
    Equal,
}

/// The right side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// A number.
    Number(f64),
    /// So many times what others reached.
    Share {
        /// How many times.
        factor: f64,
        /// Which of them, if they are several.
        of: Pick,
        /// Their names.
        targets: Vec<String>,
    },
}

/// Which of several figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Operator {
    /// Whether it holds.
    #[must_use]
    pub fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Operator::Less => left < right,
            Operator::AtMost => left <= right,
            Operator::More => left > right,
            Operator::AtLeast => left >= right,
            Operator::Equal => left == right,
        }
    }

    fn parse(text: &str) -> Option<Operator> {
        Some(match text {
            "<" => Operator::Less,
            "<=" => Operator::AtMost,
            ">" => Operator::More,
            ">=" => Operator::AtLeast,
            "==" | "=" => Operator::Equal,
            _ => return None,
        })
    }
}

impl Assertion {
    /// As it was written, without the targets in front.
    #[must_use]
    pub fn without_targets(&self) -> &str {
        match self.text.split_once(':') {
            Some((_, behind)) if !self.targets.is_empty() => behind.trim_start(),
            _ => &self.text,
        }
    }

    /// Every target that it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let others = match &self.bound {
            Bound::Number(_) => &[][..],
            Bound::Share { targets, .. } => targets,
        };
        self.targets.iter().chain(others).map(String::as_str)
    }

    /// Whether it is about that target.
    #[must_use]
    pub fn is_about(&self, target: &str) -> bool {
        if self.targets.is_empty() {
            !self.names().any(|name| name == target)
        } else {
            self.targets.iter().any(|name| name == target)
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
