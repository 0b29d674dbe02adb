//! Why something was not done, ready to be told to the peer that asked for it.

use std::borrow::Cow;
use std::fmt;

use fluxar_protocol::{Code, ErrorBody};

/// A refusal: what goes into the `error` field of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of failure it is.
    pub code: Code,
    /// For a person: what was wrong, with numbers, and what to do.
    pub message: Cow<'static, str>,
}

impl Refusal {
    pub(crate) const fn fixed(code: Code, message: &'static str) -> Self {
        Self {
            code,
            message: Cow::Borrowed(message),
        }
    }

    pub(crate) const fn worded(code: Code, message: String) -> Self {
        Self {
            code,
            message: Cow::Owned(message),
        }
    }

    /// The same, to be encoded.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            code: self.code,
            message: &self.message,
            details: None,
            retry_after_ms: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
