//! Which envelopes are counted [P-7.7]. Both sides decide it from the envelope alone, so that they agree.

use crate::envelope::{Envelope, Kind};
use crate::error::Reject;

/// Whether an envelope counts: it is kept by its sender, and counted by its receiver, whatever that makes of it.
///
/// Not counted are hellos and pings, which belong to a connection; every event with ref null, whether published or
/// delivered, and the headers of runs, since publishers and cursors have ways of their own to lose none [P-5.9]; and
/// the goodbye, behind which there is no session.
#[inline]
#[must_use]
pub fn is_counted(envelope: &Envelope<'_>) -> bool {
    match (envelope.kind, envelope.reference.is_some()) {
        (Kind::Event | Kind::Cancel, false) | (Kind::Hello | Kind::Ping, _) => false,
        (Kind::Subscribe, true) => envelope.meta.is_none_or(|meta| meta.get("run").is_none()),
        _ => true,
    }
}

/// The same of an envelope that was refused when its fields were read: its type and ref decide, as far as they could be
/// read; what could not be read is no exception.
#[must_use]
pub fn is_counted_refused(reject: &Reject) -> bool {
    !matches!(
        (reject.kind, reject.has_ref),
        (Some(Kind::Event | Kind::Cancel), Some(false)) | (Some(Kind::Hello | Kind::Ping), _)
    )
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::envelope::{Form, Id, decode};
    use crate::meta::{Meta, MetaWriter};

    fn envelope(kind: Kind, reference: Option<Id>, meta: Option<&[u8]>) -> Envelope<'_> {
        Envelope {
            kind,
            id: Id([1; 16]),
            reference,
            target: Some("a.b"),
            meta: meta.map(Meta::from_checked),
            payload: &[],
            error: None,
        }
    }

    #[test]
    fn type_and_ref_decide() {
        let reference = Some(Id([2; 16]));
        for (kind, opening, continuing) in [
            (Kind::Hello, false, false),
            (Kind::Call, true, true),
            (Kind::Stream, true, true),
            (Kind::Subscribe, true, true),
            (Kind::Event, false, true),
            (Kind::Cancel, false, true),
            (Kind::Ping, false, false),
        ] {
            assert_eq!(is_counted(&envelope(kind, None, None)), opening, "{kind:?}");
            assert_eq!(
                is_counted(&envelope(kind, reference, None)),
                continuing,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn of_notes_about_a_subscription_only_the_headers_of_runs_are_not() {
        let reference = Some(Id([2; 16]));
        let run = MetaWriter::new().uint("run", 3).finish();
        let dropped = MetaWriter::new().uint("dropped", 3).finish();
        assert!(!is_counted(&envelope(Kind::Subscribe, reference, run.as_deref())));
        assert!(is_counted(&envelope(
            Kind::Subscribe,
            reference,
            dropped.as_deref()
        )));
        // Anywhere else the key means nothing.
        assert!(is_counted(&envelope(Kind::Subscribe, None, run.as_deref())));
        assert!(is_counted(&envelope(Kind::Call, reference, run.as_deref())));
        // A header that cannot be understood is one all the same.
        let strange = MetaWriter::new().text("run", "many").finish();
        assert!(!is_counted(&envelope(
            Kind::Subscribe,
            reference,
            strange.as_deref()
        )));
    }

    /// Sender and receiver agree on what is refused, too, as long as its fault hides neither type nor ref.
    #[test]
    fn a_refused_one_counts_as_it_would_have() {
        let reference = Some(Id([2; 16]));
        for kind in (1..=7).filter_map(Kind::from_number) {
            for reference in [None, reference] {
                let mut bytes = Vec::new();
                let sent = envelope(kind, reference, None);
                sent.encode(Form::Compact, &mut bytes);
                // Its payload becomes a text that is not UTF-8.
                let error_at = bytes.len() - 1;
                bytes.splice(error_at - 1..error_at, [0x61, 0xff]);
                let reject = decode(&bytes).expect_err("not UTF-8");
                assert_eq!(
                    is_counted_refused(&reject),
                    is_counted(&sent),
                    "{kind:?} {reference:?}"
                );
                assert_eq!(reject.end, Some(bytes.len()));
            }
        }
        // A type that is none.
        let mut bytes = Vec::new();
        envelope(Kind::Call, None, None).encode(Form::Compact, &mut bytes);
        bytes[1] = 9;
        assert!(is_counted_refused(&decode(&bytes).expect_err("no such type")));
    }
}
