//! The tables that are printed in the end.

use std::fmt::Display;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::stage::Stage;

/// A line of a table.
pub(crate) fn line(what: &str, value: impl Display) {
    println!("{what:<44}{value:>14}");
}

/// Median, 99th percentile and the most of some times.
pub(crate) fn spread(samples: &mut [u64]) -> String {
    samples.sort_unstable();
    let at = |share: f64| {
        let last = samples.len().saturating_sub(1);
        let rank = (last as f64 * share).round() as usize;
        samples.get(rank).copied().unwrap_or(0)
    };
    format!("{} / {} / {}", at(0.5), at(0.99), at(1.0))
}

/// What the clients of a stage lived through. Whether all promises held.
pub(crate) fn conclude(stage: &Stage, took: Duration) -> bool {
    let book = stage.book.open();
    line("events acknowledged", book.acked.len());
    line(
        "publishes refused for a moment",
        stage.refused.load(Ordering::Relaxed),
    );
    line("handled behind a later one", book.reordered);
    for (who, account) in &book.subscribers {
        line(
            &format!("{who}: handled, told again"),
            format!("{}, {}", account.events.len(), account.repeats),
        );
    }
    let mut pauses_ms = stage.pauses_ms.lock().unwrap_or_else(PoisonError::into_inner);
    line(
        "ms of silence for a client that was cut off",
        spread(&mut pauses_ms),
    );
    line("seconds", took.as_secs());
    for fault in &book.faults {
        println!("BROKEN: {fault}");
    }
    if book.fault_count == 0 {
        println!("all promises held");
    } else {
        println!("{} faults", book.fault_count);
    }
    book.fault_count == 0
}
