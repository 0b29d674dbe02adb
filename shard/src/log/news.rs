//! What whoever runs a gateway should know of a log that works: that the disk refuses, that it takes writes again, and what of
//! the log was found damaged. Told once each; `poll_news` hands it out, and the gateway's log says it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Log;
use super::disk::DiskFault;

/// What waits to be told; more is counted.
const WAITING_MAX: usize = 64;

/// Something that happened to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogNews {
    /// The disk refuses what is to be written: publishers are refused until it takes it.
    Refuses(DiskFault),
    /// It has taken it.
    TakesAgain,
    /// Events were found damaged.
    Damaged {
        /// Of which partition.
        partition: u16,
        /// The first offset.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Rows of tables were found damaged: those of a batch, or one.
    RowsDamaged {
        /// Of which partition.
        partition: u16,
        /// The offset of the first one's event.
        first: u64,
        /// Of the last one's.
        last: u64,
        /// How many they are.
        count: u64,
        /// The first one's topic.
        topic: Arc<str>,
    },
    /// So many more damaged places, of which nobody has taken the news in time.
    More(u64),
}

/// What the disk has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// To make a segment.
    Create,
    /// To write to one, or to sync it.
    Write,
}

#[derive(Debug, Default)]
pub(super) struct News {
    waiting: VecDeque<LogNews>,
    left_out: u64,
    refused: Option<Refused>,
}

impl News {
    fn push(&mut self, news: LogNews) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(news);
        } else {
            self.left_out += 1;
        }
    }

    fn refuses(&mut self, what: Refused, fault: &DiskFault) {
        if self.refused.is_none() {
            self.push(LogNews::Refuses(fault.clone()));
        }
        // A write that fails says more than a file that could be made: that it is over is known when one is safe.
        if self.refused != Some(Refused::Write) {
            self.refused = Some(what);
        }
    }

    fn took(&mut self, what: Refused) {
        if self.refused == Some(what) {
            self.refused = None;
            self.push(LogNews::TakesAgain);
        }
    }

    /// A segment could not be made.
    pub(super) fn not_created(&mut self, fault: &DiskFault) {
        self.refuses(Refused::Create, fault);
    }

    /// A write or a sync failed.
    pub(super) fn not_written(&mut self, fault: &DiskFault) {
        self.refuses(Refused::Write, fault);
    }

    /// A segment was made.
    pub(super) fn created(&mut self) {
        self.took(Refused::Create);
    }

    /// Something is safe.
    pub(super) fn synced(&mut self) {
        self.took(Refused::Write);
    }

    /// Rows with these offsets, which ascend, were found damaged; the topic is the first one's.
    pub(super) fn rows_damaged(&mut self, partition: u16, offsets: &[u64], topic: Arc<str>) {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return;
        };
        self.push(LogNews::RowsDamaged {
            partition,
            first,
            last,
            count: offsets.len() as u64,
            topic,
        });
    }
}

impl Log {
    /// The next thing that whoever runs the gateway should know.
    pub fn poll_news(&mut self) -> Option<LogNews> {
        let news = &mut self.news;
        news.waiting.pop_front().or_else(|| {
            let left_out = std::mem::take(&mut news.left_out);
            (left_out > 0).then_some(LogNews::More(left_out))
        })
    }

    /// Remembers, and tells, that these events of a partition of this core are damaged.
    pub(super) fn note_damage(&mut self, partition: u16, first: u64, last: u64) {
        let Some(at) = self.index(partition) else { return };
        if self.partitions[at].note_damage(first, last) {
            self.news.push(LogNews::Damaged {
                partition,
                first,
                last,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_once_and_so_is_its_end() {
        let mut news = News::default();
        let broken = DiskFault::Failed("a cable".to_owned());
        for _ in 0..3 {
            news.not_created(&DiskFault::Full);
            news.synced(); // what was made before takes more
        }
        news.created();
        news.created();
        for _ in 0..3 {
            news.not_written(&broken);
            news.not_created(&DiskFault::Full);
            news.created();
        }
        news.synced();
        let told: Vec<LogNews> = news.waiting.drain(..).collect();
        assert_eq!(
            told,
            [
                LogNews::Refuses(DiskFault::Full),
                LogNews::TakesAgain,
                LogNews::Refuses(broken),
                LogNews::TakesAgain,
            ]
        );
    }
}
