//! Dotted names: topics, methods, and the patterns that match them [P-5.1].
//!
//! Only the rules stand here, with a plain matcher that is the oracle of the shard's tables.

use crate::error::Fault;

/// Checks a topic or a method: 1..=16 tokens, none empty, no `*` or `>` token, first token not beginning with `$`
/// unless `system` allows it.
///
/// # Errors
/// [`Fault::Topic`] says which rule.
pub fn check_name(name: &str, system: bool) -> Result<(), Fault> {
    let _ = (name, system);
    todo!()
}

/// Checks a pattern: tokens like a name's, `*` as a whole token anywhere, `>` as the last.
///
/// # Errors
/// [`Fault::Topic`] says which rule.
pub fn check_pattern(pattern: &str) -> Result<(), Fault> {
    let _ = pattern;
    todo!()
}

/// Whether a pattern has wildcards.
#[must_use]
pub fn is_wild(pattern: &str) -> bool {
    let _ = pattern;
    todo!()
}

/// Whether a checked pattern matches a checked name, token by token.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let _ = (pattern, name);
    todo!()
}
