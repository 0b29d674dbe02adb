//! What peers call themselves: thousands of connections of one software share one text.

use std::collections::HashSet;
use std::sync::Arc;

/// Different names that a core remembers at a time; who comes with another one has none.
const NAMES_MAX: usize = 1_024;
/// Longer names are cut.
const NAME_BYTES_MAX: usize = 128;

/// The names of one core's peers.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    names: HashSet<Arc<str>>,
}

impl Agents {
    /// The shared text of a name; `None` if it is empty, or if too many are in use.
    pub(crate) fn name(&mut self, agent: &str) -> Option<Arc<str>> {
        let end = (0..=NAME_BYTES_MAX.min(agent.len()))
            .rev()
            .find(|end| agent.is_char_boundary(*end));
        let agent = &agent[..end.unwrap_or(0)];
        if agent.is_empty() {
            return None;
        }
        if let Some(name) = self.names.get(agent) {
            return Some(Arc::clone(name));
        }
        if self.names.len() >= NAMES_MAX {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            if self.names.len() >= NAMES_MAX {
                return None;
            }
        }
        let name: Arc<str> = agent.into();
        self.names.insert(Arc::clone(&name));
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shared_cut_and_bounded() {
        let mut agents = Agents::default();
        assert_eq!(agents.name(""), None);
        let one = agents.name("tour/1").expect("a name");
        assert!(Arc::ptr_eq(&one, &agents.name("tour/1").expect("a name")));
        let long = "ü".repeat(100);
        assert_eq!(agents.name(&long).expect("a name").len(), NAME_BYTES_MAX);
        let held: Vec<_> = (0..2 * NAMES_MAX)
            .filter_map(|n| agents.name(&format!("agent/{n}")))
            .collect();
        assert!(held.len() < NAMES_MAX && agents.names.len() == NAMES_MAX);
        assert_eq!(agents.name("one too many"), None);
        drop(held);
        assert!(agents.name("there is room again").is_some());
        assert!(agents.names.len() < 10, "{}", agents.names.len());
    }
}
