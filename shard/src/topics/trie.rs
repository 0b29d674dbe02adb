//! Wildcard patterns, token by token.
//!
//! A node is a prefix of some pattern. All edges of the trie are in one hash table, keyed by parent and token, so a
//! node owns no table; the edge `*` is also held in its node, for it is tried on every visit.

use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::ControlFlow;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
const ONE: &str = "*";
const REST: &str = ">";

#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Slab<Node>,
    edges: HashTable<u32>,
    hasher: FixedState,
}

#[derive(Debug)]
struct Node {
    /// The token on the edge that leads here.
    token: Box<str>,
    parent: u32,
    /// The child behind `*`.
    one: u32,
    /// Children, the one behind `*` included.
    children: u32,
    /// The pattern that ends here.
    here: u32,
    /// The pattern that ends here with `>`.
    rest: u32,
}

impl Node {
    fn new(parent: u32, token: &str) -> Self {
        Self {
            token: token.into(),
            parent,
            one: NONE,
            children: 0,
            here: NONE,
            rest: NONE,
        }
    }
}

impl Trie {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE, ""));
        Self {
            nodes,
            edges: HashTable::new(),
            hasher: hasher.clone(),
        }
    }

    /// Adds a checked pattern that is not there yet.
    pub(crate) fn insert(&mut self, text: &str, pattern: u32) {
        let mut at = ROOT;
        for token in text.split('.') {
            if token == REST {
                self.nodes[at as usize].rest = pattern;
                return;
            }
            at = match self.child(at, token) {
                Some(child) => child,
                None => self.add(at, token),
            };
        }
        self.nodes[at as usize].here = pattern;
    }

    /// Removes a pattern, and the nodes that were there for it alone.
    pub(crate) fn remove(&mut self, text: &str) {
        let mut at = ROOT;
        let mut ends_with_rest = false;
        for token in text.split('.') {
            ends_with_rest = token == REST;
            if !ends_with_rest {
                let Some(child) = self.child(at, token) else {
                    return;
                };
                at = child;
            }
        }
        let node = &mut self.nodes[at as usize];
        *(if ends_with_rest {
            &mut node.rest
        } else {
            &mut node.here
        }) = NONE;
        while at != ROOT && self.nodes[at as usize].is_bare() {
            at = self.prune(at);
        }
    }

    /// Shows the patterns that match a name, the most specific first. Never deeper than the deepest pattern.
    pub(crate) fn visit<B>(
        &self,
        name: &str,
        found: &mut impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.visit_from(ROOT, Some(name), found)
    }

    fn visit_from<B>(
        &self,
        at: u32,
        rest: Option<&str>,
        found: &mut impl FnMut(u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let node = &self.nodes[at as usize];
        let Some(rest) = rest else {
            return if node.here == NONE {
                ControlFlow::Continue(())
            } else {
                found(node.here)
            };
        };
        let (token, tail) = match rest.split_once('.') {
            Some((token, tail)) => (token, Some(tail)),
            None => (rest, None),
        };
        let literals = node.children - u32::from(node.one != NONE);
        if literals > 0
            && token != ONE
            && let Some(child) = self.child(at, token)
        {
            self.visit_from(child, tail, found)?;
        }
        if at == ROOT && token.starts_with('$') {
            return ControlFlow::Continue(()); // the gateway's own names: no wildcard reaches them
        }
        if node.one != NONE {
            self.visit_from(node.one, tail, found)?;
        }
        if node.rest != NONE {
            found(node.rest)?;
        }
        ControlFlow::Continue(())
    }

    fn child(&self, parent: u32, token: &str) -> Option<u32> {
        let is_it = |&at: &u32| {
            let node = &self.nodes[at as usize];
            node.parent == parent && &*node.token == token
        };
        self.edges.find(hash(&self.hasher, parent, token), is_it).copied()
    }

    fn add(&mut self, parent: u32, token: &str) -> u32 {
        let child = self.nodes.insert(Node::new(parent, token)) as u32;
        let Self { nodes, edges, hasher } = self;
        edges.insert_unique(hash(hasher, parent, token), child, |&at| {
            let node = &nodes[at as usize];
            hash(hasher, node.parent, &node.token)
        });
        let parent = &mut nodes[parent as usize];
        parent.children += 1;
        if token == ONE {
            parent.one = child;
        }
        child
    }

    /// Takes a bare node away; its parent.
    fn prune(&mut self, at: u32) -> u32 {
        let node = self.nodes.remove(at as usize);
        if let Ok(edge) = self
            .edges
            .find_entry(hash(&self.hasher, node.parent, &node.token), |&other| other == at)
        {
            edge.remove();
        }
        let parent = &mut self.nodes[node.parent as usize];
        parent.children -= 1;
        if parent.one == at {
            parent.one = NONE;
        }
        node.parent
    }

    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.children == 0 && self.here == NONE && self.rest == NONE
    }
}

fn hash(hasher: &FixedState, parent: u32, token: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    parent.hash(&mut hasher);
    hasher.write(token.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_pattern_leaves_no_node() {
        let mut trie = Trie::new(&FixedState::with_seed(7));
        let patterns = ["a.*", "a.*.b", "*", ">", "a.>", "a.b.>", "*.*.>", "$s.*"];
        for (at, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern, at as u32);
        }
        for pattern in patterns {
            trie.remove(pattern);
        }
        assert_eq!((trie.nodes(), trie.edges.len()), (1, 0));
    }
}
