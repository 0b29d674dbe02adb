//! Letters on their way to other cores.
//!
//! What all cores must know is written once and handed out core by core. A pattern or a group waits here at most
//! once, and what is told is how things are when its turn comes: a subscription that comes and goes a thousand times
//! between two polls costs one letter a core, or none.

use std::collections::VecDeque;

use crate::letter::Letter;

/// Something that all other cores are to be told.
#[derive(Debug)]
pub(crate) enum News {
    /// The interest in this topic pattern.
    Pattern(u32),
    /// The members of this group.
    Group(u32),
    /// This.
    Letter(Letter),
}

#[derive(Debug)]
pub(crate) struct Post {
    core: u16,
    cores: u16,
    /// To one core each.
    single: VecDeque<(u16, Letter)>,
    news: VecDeque<News>,
    /// What is being handed out, and to whom next.
    circular: Option<(Letter, u16)>,
}

impl Post {
    pub(crate) fn new(core: u16, cores: u16) -> Self {
        Self {
            core,
            cores,
            single: VecDeque::new(),
            news: VecDeque::new(),
            circular: None,
        }
    }

    /// Whether there is anybody to write to.
    pub(crate) fn is_alone(&self) -> bool {
        self.cores == 1
    }

    /// Whether there is anything to post.
    #[inline]
    pub(crate) fn has_letters(&self) -> bool {
        !self.single.is_empty() || !self.news.is_empty() || self.circular.is_some()
    }

    pub(crate) fn cores(&self) -> u16 {
        self.cores
    }

    pub(crate) fn send(&mut self, core: u16, letter: Letter) {
        self.single.push_back((core, letter));
    }

    pub(crate) fn announce(&mut self, news: News) {
        if !self.is_alone() {
            self.news.push_back(news);
        }
    }

    /// The next piece of news that is due to be worded.
    pub(crate) fn next_news(&mut self) -> Option<News> {
        if self.circular.is_some() {
            None
        } else {
            self.news.pop_front()
        }
    }

    /// Words it: this letter goes to every other core.
    pub(crate) fn circulate(&mut self, letter: Letter) {
        self.circular = Some((letter, 0));
    }

    pub(crate) fn next(&mut self) -> Option<(u16, Letter)> {
        let Some((letter, next)) = &mut self.circular else {
            return self.single.pop_front();
        };
        if *next == self.core {
            *next += 1;
        }
        let to = *next;
        *next += 1;
        let is_last = *next >= self.cores || (*next == self.core && *next + 1 == self.cores);
        if is_last {
            return self.circular.take().map(|(letter, _)| (to, letter));
        }
        Some((to, letter.clone()))
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::Id;

    use super::*;
    use crate::peer::PeerId;

    #[test]
    fn a_circular_reaches_every_other_core_once() {
        for cores in 2..6 {
            for core in 0..cores {
                let mut post = Post::new(core, cores);
                let server = PeerId {
                    slot: 1,
                    generation: 1,
                    core,
                };
                post.circulate(Letter::Withdraw {
                    server,
                    sub: Id([1; 16]),
                });
                let to: Vec<_> = std::iter::from_fn(|| post.next()).map(|(to, _)| to).collect();
                let others: Vec<_> = (0..cores).filter(|&other| other != core).collect();
                assert_eq!(to, others, "{core} of {cores}");
            }
        }
    }
}
