//! Why somebody is not, or no longer, a member of a queue: in words for a person, and as what a program reads.

use fluxar_protocol::Code;
use fluxar_protocol::meta::MetaWriter;

use super::letters::Failure;
use super::lot::Broken;
use crate::log::LogRefusal;
use crate::logged::letters::BeginRefusal;
use crate::logged::publishing::refusal_words;
use crate::logged::readers::words;

impl Failure {
    /// What was to come next is not there any more, or not whole. `epoch` goes with it: a member that is ended before all
    /// cores have accepted it was told none, and could not say where to go on.
    pub(crate) fn broken(epoch: u64, partition: u16, broken: Broken) -> Self {
        let details = MetaWriter::new()
            .uint("epoch", epoch)
            .uint("partition", partition.into());
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

    /// The queue has no place in a partition, and may have had one that was lost by damage on the disk.
    pub(crate) fn cursors_lost(epoch: u64, partition: u16, first: u64) -> Self {
        let details = MetaWriter::new()
            .uint("epoch", epoch)
            .uint("partition", partition.into())
            .uint("first", first);
        Self {
            code: Code::DataLoss,
            message: format!(
                "places of queues in partition {partition} were damaged on the disk, and this queue's may have been among them; \
                 join with `from` to say where it goes on, \"all\" or behind what is done; \"new\" if it never was"
            )
            .into(),
            details: details.finish(),
            retry_after_ms: None,
        }
    }

    /// The log does not keep a cursor for this queue.
    pub(crate) fn refused(refusal: &LogRefusal) -> Self {
        let (code, message, retry_after_ms) = refusal_words(refusal);
        Self {
            code,
            message,
            details: None,
            retry_after_ms,
        }
    }
}

impl From<BeginRefusal> for Failure {
    fn from(refusal: BeginRefusal) -> Self {
        let (code, message, retry_after_ms, details) = words(&refusal);
        Self {
            code,
            message: message.into(),
            details,
            retry_after_ms,
        }
    }
}
