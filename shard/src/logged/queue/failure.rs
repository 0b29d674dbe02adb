//! Why somebody is not, or no longer, a member of a queue: in words for a person, and as what a program reads.

use fluxar_protocol::Code;
use fluxar_protocol::meta::MetaWriter;

use super::letters::Failure;
use super::lot::Broken;
use crate::log::LogRefusal;

/// When it is worth another try, if what is in the way passes by itself, ms.
const RETRY_AFTER_MS: u32 = 1_000;

impl Failure {
    /// What was to come next is not there any more, or not whole.
    pub(crate) fn broken(partition: u16, broken: Broken) -> Self {
        let details = MetaWriter::new().uint("partition", partition.into());
        let (code, message, details) = match broken {
            Broken::Gone { first } => (
                Code::OutOfRange,
                format!(
                    "the log was cut before this queue got there: partition {partition} begins at offset {first} now; \
                     join with `from` to go on there"
                ),
                details.uint("first", first),
            ),
            Broken::Damaged { first, last } => (
                Code::DataLoss,
                format!(
                    "offsets {first} to {last} of partition {partition} are damaged on the disk; \
                     join with `from` behind them to go on"
                ),
                details.uint("first", first).uint("last", last),
            ),
        };
        Self {
            code,
            message: message.into(),
            details: details.finish(),
            retry_after_ms: None,
        }
    }

    /// The log does not keep a cursor for this queue.
    pub(crate) fn refused(refusal: &LogRefusal) -> Self {
        let (code, message, again) = match refusal {
            LogRefusal::Recovering => (
                Code::Unavailable,
                "the log is being recovered; join again in a moment".into(),
                true,
            ),
            LogRefusal::Stopping => (
                Code::Unavailable,
                "the gateway is shutting down; join again after its restart".into(),
                true,
            ),
            LogRefusal::NoLog => (
                Code::FailedPrecondition,
                "this gateway has no log: set `log.dir`".into(),
                false,
            ),
            LogRefusal::DiskFailed(why) => (
                Code::Unavailable,
                format!("the log's disk fails: {why}").into(),
                true,
            ),
            LogRefusal::TooManyCursors => (
                Code::ResourceExhausted,
                "the log keeps no more cursors (`log.cursors`)".into(),
                false,
            ),
            LogRefusal::Behind | LogRefusal::DiskFull | LogRefusal::TooManyIds | LogRefusal::TooManyRows => (
                Code::ResourceExhausted,
                "the log takes nothing at the moment; join again in a moment".into(),
                true,
            ),
        };
        Self {
            code,
            message,
            details: None,
            retry_after_ms: again.then_some(RETRY_AFTER_MS),
        }
    }

    pub(crate) fn unknown_epoch(epoch: u64, ours: u64) -> Self {
        Self {
            code: Code::OutOfRange,
            message: format!(
                "positions of epoch {epoch} mean nothing to these logs, whose epoch is {ours}; join with \
                 another `from`"
            )
            .into(),
            details: MetaWriter::new().uint("epoch", ours).finish(),
            retry_after_ms: None,
        }
    }

    pub(crate) fn never_given_out(partition: u16, offset: u64, committed: u64) -> Self {
        Self {
            code: Code::OutOfRange,
            message: format!(
                "offset {offset} of partition {partition} was not given out yet: the last one is {committed}"
            )
            .into(),
            details: MetaWriter::new()
                .uint("partition", partition.into())
                .uint("last", committed)
                .finish(),
            retry_after_ms: None,
        }
    }
}
