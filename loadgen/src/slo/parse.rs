//! How an assertion is read.

use std::str::FromStr;

use super::{Assertion, Bound, Operator, Pick, figures, is_figure};
use crate::campaign::nearest;

/// A piece of an assertion.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A name or a number: letters, digits, `_`, `.`, `-`.
    Word(String),
    /// An operator or a bracket.
    Sign(String),
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = Tokens {
            tokens: tokens(text)?,
            at: 0,
        };
        let mut names = vec![rest.word("a figure such as p99_ms")?];
        while rest.take(",") {
            names.push(rest.word("a target's name")?);
        }
        let (targets, figure) = if rest.take(":") {
            (names, rest.word("a figure such as p99_ms")?)
        } else if names.len() == 1 {
            (Vec::new(), names.remove(0))
        } else {
            return Err("after the targets, `:` and a figure belong, as in `a, b: p99_ms < 5`".into());
        };
        check_figure(&figure)?;
        let operator = rest
            .sign()
            .and_then(|sign| Operator::parse(&sign))
            .ok_or_else(|| format!("after `{figure}`, one of < <= > >= == belongs"))?;
        let bound = rest.bound()?;
        let mut assertion = Assertion {
            text: text.trim().to_owned(),
            targets,
            figure,
            operator,
            bound,
            at_per_s: None,
            when: Vec::new(),
        };
        while let Some(word) = rest.optional_word() {
            match word.as_str() {
                "at" => assertion.at_per_s = Some(rest.rate()?),
                "when" => assertion.when = rest.conditions()?,
                other => {
                    return Err(format!(
                        "`{other}` at the end; `at RATE/s` or `when FIELD = VALUE` may stand there"
                    ));
                }
            }
        }
        if rest.at < rest.tokens.len() {
            return Err(
                "there is something behind the end; `at RATE/s` or `when FIELD = VALUE` may stand there"
                    .into(),
            );
        }
        Ok(assertion)
    }
}

/// Only a name that is surely misspelt is refused: workloads have figures of their own.
fn check_figure(name: &str) -> Result<(), String> {
    const UNITS: &[&str] = &[
        "_ns",
        "_us",
        "_ms",
        "_s",
        "_bytes",
        "_per_s",
        "_per_connection",
        "_per_message",
    ];
    if is_figure(name) {
        return Ok(());
    }
    let known = figures();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => Err(format!("there is no figure `{name}`; did you mean `{near}`?")),
        None if UNITS.iter().any(|unit| name.ends_with(unit)) => Ok(()),
        None => Err(format!(
            "there is no figure `{name}`; there are {}",
            known.join(", ")
        )),
    }
}

struct Tokens {
    tokens: Vec<Token>,
    at: usize,
}

impl Tokens {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let is_there = matches!(self.tokens.get(self.at), Some(Token::Sign(found)) if found == sign);
        self.at += usize::from(is_there);
        is_there
    }

    fn sign(&mut self) -> Option<String> {
        match self.next() {
            Some(Token::Sign(sign)) => Some(sign),
            _ => None,
        }
    }

    fn optional_word(&mut self) -> Option<String> {
        let Some(Token::Word(word)) = self.tokens.get(self.at) else {
            return None;
        };
        self.at += 1;
        Some(word.clone())
    }

    fn word(&mut self, expected: &str) -> Result<String, String> {
        self.optional_word()
            .ok_or_else(|| format!("{expected} is missing"))
    }

    /// `5`, `nats`, `0.5 * nats`, `0.5 * min(nats, redis)`.
    fn bound(&mut self) -> Result<Bound, String> {
        let first = self.word("the right side, a number or a target,")?;
        let (factor, name) = match number(&first) {
            Some(number) if !self.take("*") => return Ok(Bound::Number(number)),
            Some(factor) => (factor, self.word("a target's name behind `*`")?),
            None => (1.0, first),
        };
        if !self.take("(") {
            return Ok(Bound::Share {
                factor,
                of: Pick::Min,
                targets: vec![name],
            });
        }
        let of = match name.as_str() {
            "min" => Pick::Min,
            "max" => Pick::Max,
            other => return Err(format!("`{other}(` is unknown; there are min(…) and max(…)")),
        };
        let mut targets = vec![self.word("a target's name")?];
        while self.take(",") {
            targets.push(self.word("a target's name")?);
        }
        if !self.take(")") {
            return Err(format!("`)` is missing behind {}", targets.join(", ")));
        }
        Ok(Bound::Share { factor, of, targets })
    }

    /// `50000/s`
    fn rate(&mut self) -> Result<f64, String> {
        let wrong = || "behind `at`, a rate belongs, such as 50000/s".to_owned();
        let rate = number(&self.word("a rate such as 50000/s")?).ok_or_else(wrong)?;
        if self.take("/") && self.optional_word().as_deref() == Some("s") && rate > 0.0 {
            Ok(rate)
        } else {
            Err(wrong())
        }
    }

    fn conditions(&mut self) -> Result<Vec<(String, String)>, String> {
        let mut conditions = Vec::new();
        loop {
            let field = self.word("behind `when`, a field of the sweep")?;
            if !(self.take("=") || self.take("==")) {
                return Err(format!("behind `when {field}`, `= VALUE` belongs"));
            }
            conditions.push((field, self.word("a value")?));
            if !self.take(",") {
                return Ok(conditions);
            }
        }
    }
}

/// Underscores may part the digits: `50_000`.
fn number(word: &str) -> Option<f64> {
    let starts = word.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '.');
    starts.then(|| word.replace('_', "").parse().ok()).flatten()
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '<' | '>' | '=' => rest.find(|c: char| !matches!(c, '<' | '>' | '=')),
            ':' | ',' | '*' | '(' | ')' | '/' => Some(1),
            first if is_word(first) => rest.find(|c: char| !is_word(c)),
            other => return Err(format!("`{other}` has no meaning here")),
        };
        let (token, behind) = rest.split_at(end.unwrap_or(rest.len()));
        tokens.push(if is_word(first) {
            Token::Word(token.to_owned())
        } else {
            Token::Sign(token.to_owned())
        });
        rest = behind.trim_start();
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Assertion {
        text.parse().unwrap_or_else(|wrong| panic!("{text}: {wrong}"))
    }

    #[test]
    fn a_figure_and_a_number() {
        let assertion = parse("p99_ms < 5");
        assert_eq!(assertion.figure, "p99_ms");
        assert_eq!(assertion.operator, Operator::Less);
        assert_eq!(assertion.bound, Bound::Number(5.0));
        assert!(assertion.is_about("anybody"));
    }

    #[test]
    fn all_parts_together() {
        let assertion = parse(
            "fluxar, fluxar-ws: p99_9_us <= 0.5 * min(nats, redis) at 50_000/s when workload.subscribers = 10, bytes = 64",
        );
        assert_eq!(assertion.targets, ["fluxar", "fluxar-ws"]);
        assert_eq!(
            assertion.bound,
            Bound::Share {
                factor: 0.5,
                of: Pick::Min,
                targets: vec!["nats".into(), "redis".into()]
            }
        );
        assert_eq!(assertion.at_per_s, Some(50_000.0));
        assert_eq!(
            assertion.when,
            [
                ("workload.subscribers".into(), "10".into()),
                ("bytes".into(), "64".into())
            ]
        );
        assert!(assertion.is_about("fluxar-ws") && !assertion.is_about("nats"));
    }

    #[test]
    fn others_may_stand_alone_and_are_not_judged_by_themselves() {
        let assertion = parse("server_ns_per_message<=nats");
        assert_eq!(
            assertion.bound,
            Bound::Share {
                factor: 1.0,
                of: Pick::Min,
                targets: vec!["nats".into()]
            }
        );
        assert!(assertion.is_about("fluxar") && !assertion.is_about("nats"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("", "p99_ms"),
            ("p99_ms", "<="),
            ("p99_ms < ", "right side"),
            ("p99_ms << 5", "<="),
            ("p9_ms < 5", "did you mean"),
            ("loss == 0", "did you mean `lost`"),
            ("nonsense < 5", "there are server_ns_per_message"),
            ("p99_ms < 5 ms", "`ms` at the end"),
            ("p99_ms < 5 at once", "50000/s"),
            ("p99_ms < 5 when x", "= VALUE"),
            ("p99_ms < 2 * avg(a, b)", "min(…)"),
            ("p99_ms < 2 * min(a, b", "`)`"),
            ("a, b p99_ms < 5", "a, b:"),
            ("p99_ms < 5 % 2", "`%`"),
        ] {
            let wrong = text.parse::<Assertion>().expect_err(text);
            assert!(wrong.contains(word), "{text}: {wrong}");
        }
    }

    #[test]
    fn workloads_may_have_figures_of_their_own() {
        assert_eq!(parse("cut_off_after_ms > 100").figure, "cut_off_after_ms");
    }
}
