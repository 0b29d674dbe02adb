//! Which processors the cores run on, as a person says it.

use std::fmt;

/// Which cores to run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// All that this process may use.
    All,
    /// The first so many of them.
    Count(usize),
    /// Exactly these.
    List(Vec<usize>),
}

impl Cores {
    /// Reads `all`, a number, or a list like `0,2-3`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither \"all\", nor a number, nor a list like \"0,2-3\"");
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(count) = text.parse::<usize>() {
            return if count == 0 {
                Err("0 cores cannot run anything".into())
            } else {
                Ok(Self::Count(count))
            };
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last >= 4096 {
                return Err(format!("{part:?} is no range of cores"));
            }
            for core in first..=last {
                if list.contains(&core) {
                    return Err(format!("core {core} stands twice"));
                }
                list.push(core);
            }
        }
        // "0," is a list of one core; a lone number is a count.
        Ok(Self::List(list))
    }

    /// The processors to pin to, out of those that this process may use.
    ///
    /// # Errors
    /// A core that this process may not use, or more than there are.
    pub fn pick(&self) -> Result<Vec<usize>, String> {
        let available: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        if available.is_empty() {
            return Err("this process may use no core that can be found out".into());
        }
        match self {
            Self::All => Ok(available),
            Self::Count(count) if *count <= available.len() => Ok(available[..*count].to_vec()),
            Self::Count(count) => Err(format!(
                "{count} were asked for, this process may use {}",
                available.len()
            )),
            Self::List(list) => match list.iter().find(|core| !available.contains(core)) {
                None => Ok(list.clone()),
                Some(core) => Err(format!(
                    "core {core} is not among those that this process may use ({available:?})"
                )),
            },
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "{}{}",
                    list.join(","),
                    if list.len() == 1 {
                        "-".to_string() + &list[0]
                    } else {
                        String::new()
                    }
                )
            }
        }
    }
}
