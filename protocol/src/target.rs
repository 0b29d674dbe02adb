//! Dotted names: topics, methods, and the patterns that match them [P-5.1].
//!
//! Only the rules stand here, with a plain matcher that is the oracle of the shard's tables. Tokens are compared
//! byte for byte; `*` and `>` mean something only as whole tokens of a pattern.

use crate::error::Fault;
use crate::limits::{TARGET_BYTES_MAX, TARGET_TOKENS_MAX};

/// Stands for exactly one token of a name.
const ONE: &[u8] = b"*";
/// Stands for one or more tokens at the end of a name.
const REST: &[u8] = b">";

/// Checks a topic or a method: 1..=16 tokens, none empty, no `*` or `>` token, first token not beginning with `$`
/// unless `system` allows it.
///
/// # Errors
/// [`Fault::Topic`] says which rule.
#[inline]
pub fn check_name(name: &str, system: bool) -> Result<(), Fault> {
    if !is_plain(name.as_bytes()) {
        check_tokens(name, |_, token| match token {
            ONE | REST => Err(Fault::Topic("a name may not hold the wildcard tokens `*` or `>`")),
            _ => Ok(()),
        })?;
    }
    if !system && is_system(name) {
        return Err(Fault::Topic("names that begin with `$` belong to the gateway"));
    }
    Ok(())
}

/// Checks a pattern: tokens like a name's, `*` as a whole token anywhere, `>` as the last.
///
/// # Errors
/// [`Fault::Topic`] says which rule.
pub fn check_pattern(pattern: &str) -> Result<(), Fault> {
    check_tokens(pattern, |is_last, token| match token {
        REST if !is_last => Err(Fault::Topic(
            "`>` stands for the rest and can only be the last token",
        )),
        _ => Ok(()),
    })
}

/// Whether a pattern has wildcards.
#[must_use]
pub fn is_wild(pattern: &str) -> bool {
    pattern
        .as_bytes()
        .split(is_dot)
        .any(|token| matches!(token, ONE | REST))
}

/// Whether a name or pattern is in the gateway's own part: its first token begins with `$`.
#[must_use]
pub fn is_system(target: &str) -> bool {
    target.starts_with('$')
}

/// Whether a checked pattern matches a checked name, token by token.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    if is_system(name) && !is_system(pattern) {
        return false; // a wildcard never reaches the gateway's own names
    }
    let mut name_tokens = name.as_bytes().split(is_dot);
    for token in pattern.as_bytes().split(is_dot) {
        match (token, name_tokens.next()) {
            (_, None) => return false,
            (REST, Some(_)) => return true,
            (ONE, Some(_)) => {}
            (_, Some(name_token)) if token == name_token => {}
            _ => return false,
        }
    }
    name_tokens.next().is_none()
}

/// Whether a name keeps all rules but the one on `$`, and has no `*` or `>` at all: eight bytes at a time. Of others
/// it says nothing.
#[inline]
fn is_plain(name: &[u8]) -> bool {
    let (words, rest) = name.as_chunks();
    // The bytes behind the last whole word, with zeros behind them.
    let last_word = match name.last_chunk() {
        Some(last) if !rest.is_empty() => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        Some(_) => 0,
        None => rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    // In each byte the highest bit says something about that byte of the name.
    let (mut wrong, mut dots_count) = (0, 0);
    // A dot at the very beginning is wrong as one behind another dot is.
    let mut dot_before = 0x80;
    for word in words.chain([last_word]) {
        let dots = bytes_equal(word, b'.');
        wrong |= dots & (dots << 8 | dot_before);
        wrong |= bytes_equal(word, ONE[0]) | bytes_equal(word, REST[0]);
        dot_before = dots >> 56;
        dots_count += (dots >> 7).wrapping_mul(EACH) >> 56;
    }
    let ends_well = name.last().is_some_and(|last| !is_dot(last));
    wrong == 0 && ends_well && dots_count < TARGET_TOKENS_MAX as u64 && name.len() <= TARGET_BYTES_MAX
}

/// One in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each byte of `word` that is `byte`.
#[inline]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const LOW_BITS: u64 = 0x7f * EACH;
    let differing = word ^ (EACH * byte as u64);
    !(((differing & LOW_BITS) + LOW_BITS) | differing | LOW_BITS)
}

/// What holds for names and patterns alike; `rule` sees each token and whether it is the last.
#[inline]
fn check_tokens(target: &str, rule: impl Fn(bool, &[u8]) -> Result<(), Fault>) -> Result<(), Fault> {
    if target.is_empty() {
        return Err(Fault::Topic("it is empty"));
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Fault::Topic("it is longer than 255 bytes"));
    }
    let target = target.as_bytes();
    let (mut count, mut start) = (0, 0);
    // One pass over the bytes: no byte of a longer character is a dot.
    for end in 0..=target.len() {
        let is_last = end == target.len();
        if !is_last && !is_dot(&target[end]) {
            continue;
        }
        let token = &target[start..end];
        start = end + 1;
        count += 1;
        if token.is_empty() {
            return Err(Fault::Topic("a token between dots is empty"));
        }
        if count > TARGET_TOKENS_MAX {
            return Err(Fault::Topic("it has more than 16 tokens"));
        }
        rule(is_last, token)?;
    }
    Ok(())
}

#[inline]
fn is_dot(byte: &u8) -> bool {
    *byte == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "a.".repeat(15) + "a";
        for name in ["a", "users.get", "größe.µ", "a*.b>", "a.$b", longest.as_str()] {
            assert_eq!(check_name(name, false), Ok(()), "{name}");
        }
        let too_many = "a.".repeat(16) + "a";
        let too_long = "a".repeat(256);
        for name in [
            "", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "$keys", "$", &too_many, &too_long,
        ] {
            assert!(matches!(check_name(name, false), Err(Fault::Topic(_))), "{name}");
        }
        assert_eq!(check_name("$keys.get", true), Ok(()));
        assert!(check_name("$keys.*", true).is_err());
    }

    #[test]
    fn a_plain_name_is_one_without_faults_and_wildcards() {
        let plain = |name: &[u8]| {
            let tokens = || name.split(is_dot);
            name.len() <= 255
                && tokens().count() <= 16
                && tokens().all(|token| !token.is_empty())
                && !name.iter().any(|byte| matches!(byte, b'*' | b'>'))
        };
        for number in 0..4_u32.pow(9) {
            // Nine bytes, and those at the end of a longer name: they lie over the border of two words.
            let bytes: [u8; 9] =
                core::array::from_fn(|at| [b'a', b'.', 0xae, b'*'][(number >> (2 * at)) as usize % 4]);
            for name in [&bytes[..(number % 10) as usize], &bytes] {
                assert_eq!(is_plain(name), plain(name), "{name:x?}");
            }
            let longer = [b"plant", &bytes[..]].concat();
            assert_eq!(is_plain(&longer), plain(&longer), "{longer:x?}");
        }
        for len in [253, 254, 255, 256, 300] {
            for tokens in [1, 15, 16, 17] {
                let mut name = alloc::vec![b'a'; len];
                (1..tokens).for_each(|token| name[3 * token] = b'.');
                assert_eq!(is_plain(&name), plain(&name), "{len} {tokens}");
            }
        }
    }

    #[test]
    fn patterns() {
        for pattern in ["a", "*", ">", "a.*.c", "*.*.>", "$sys.>", "a*.b"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["", "a..b", ">.a", "a.>.b", ".>", &("*.".repeat(16) + "*")] {
            assert!(
                matches!(check_pattern(pattern), Err(Fault::Topic(_))),
                "{pattern}"
            );
        }
    }

    #[test]
    fn matching() {
        for (pattern, name) in [
            ("a.b", "a.b"),
            ("*.b", "a.b"),
            ("a.*", "a.b"),
            (">", "a"),
            (">", "a.b.c"),
            ("a.>", "a.b"),
            ("*.>", "a.b.c"),
            ("$sys.*", "$sys.load"),
            ("a.>", "a.$b"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a.b", "a"),
            ("a", "a.b"),
            ("a.*", "a"),
            ("*", "a.b"),
            ("a.>", "a"),
            ("*.>", "a"),
            (">", "$sys.load"),
            ("*.load", "$sys.load"),
            ("a*.b", "ab.b"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn wildcards_are_whole_tokens() {
        assert!(is_wild("a.*.b") && is_wild(">") && !is_wild("a*.b>"));
    }
}
