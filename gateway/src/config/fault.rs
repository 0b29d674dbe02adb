//! What is wrong with a configuration, and where it stands.

use std::fmt;

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where it came from: a file, a variable, an option.
    pub source: String,
    /// The line in a file, from 1.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ConfigFault {
    /// Of all sources together.
    pub(super) fn of_all(message: String) -> Self {
        Self {
            source: "configuration".into(),
            line: None,
            message,
        }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source, self.message),
            None => write!(f, "{}: {}", self.source, self.message),
        }
    }
}
