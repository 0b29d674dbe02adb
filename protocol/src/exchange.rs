//! What a message *is*: its type together with whether its ref is set [P-3.7], and the checks of its own fields.

use crate::envelope::{Envelope, Id, Kind};
use crate::error::Fault;
use crate::target;

/// The verb of a message. Borrowed parts are in the envelope that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Opens or resumes a session.
    Hello,
    /// Accepts or refuses it.
    Welcome(Id),
    /// A request; target is the method.
    Call,
    /// The response to one.
    Answer(Id),
    /// Opens a stream; target is the method.
    StreamOpen,
    /// A chunk, grant or end of one.
    StreamPart(Id),
    /// Subscribes to topics; target is the pattern.
    Subscribe,
    /// Offers to serve the methods that match target.
    Serve,
    /// About a subscription: accepted, refused, run header, cursor, end, drops.
    SubscriptionNote(Id),
    /// Publishes to the topic in target.
    Publish,
    /// Acknowledges a publish or, by a subscriber, events.
    Ack(Id),
    /// Closes the session in good order.
    Close,
    /// Ends the exchange that ref began.
    Cancel(Id),
    /// Heartbeat.
    Ping,
    /// Its answer.
    Pong(Id),
}

/// Reads the verb and checks what the type demands of target and meta (a call has a method, a publish a topic, a
/// subscribe a pattern, the registered meta keys that the type uses have values of their type). Whatever else
/// stands in the envelope is ignored.
///
/// # Errors
/// [`Fault::Target`], [`Fault::Topic`], [`Fault::MetaValue`]: refused, the connection lives. With ref set the message
/// is ignored rather than answered.
#[inline]
pub fn verb(envelope: &Envelope<'_>) -> Result<Verb, Fault> {
    let verb = match &envelope.reference {
        None => match envelope.kind {
            Kind::Hello => Verb::Hello,
            Kind::Call => Verb::Call,
            Kind::Stream => Verb::StreamOpen,
            Kind::Subscribe => Verb::Subscribe,
            Kind::Event => Verb::Publish,
            Kind::Cancel => Verb::Close,
            Kind::Ping => Verb::Ping,
        },
        Some(id) => match envelope.kind {
            Kind::Hello => Verb::Welcome(*id),
            Kind::Call => Verb::Answer(*id),
            Kind::Stream => Verb::StreamPart(*id),
            Kind::Subscribe => Verb::SubscriptionNote(*id),
            Kind::Event => Verb::Ack(*id),
            Kind::Cancel => Verb::Cancel(*id),
            Kind::Ping => Verb::Pong(*id),
        },
    };
    match verb {
        Verb::Publish => target::check_name(envelope.target.ok_or(Fault::Target)?, false)?,
        Verb::Call | Verb::StreamOpen => target::check_name(envelope.target.ok_or(Fault::Target)?, true)?,
        Verb::Subscribe => target::check_pattern(envelope.target.ok_or(Fault::Target)?)?,
        _ => {}
    }
    let Some(meta) = envelope.meta else {
        return Ok(verb);
    };
    meta.check_values(envelope.kind, envelope.reference.is_some())?;
    if verb == Verb::Subscribe && meta.flag("serve")? {
        if envelope.target.is_some_and(target::is_system) {
            return Err(Fault::Topic(
                "methods that begin with `$` are served by the gateway itself",
            ));
        }
        return Ok(Verb::Serve);
    }
    Ok(verb)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::meta::{Meta, MetaWriter};

    fn read(
        kind: Kind,
        reference: Option<Id>,
        target: Option<&str>,
        meta: Option<Vec<u8>>,
    ) -> Result<Verb, Fault> {
        let meta = meta.as_deref().map(Meta::from_checked);
        verb(&Envelope {
            kind,
            id: Id([1; 16]),
            reference,
            target,
            meta,
            payload: &[0xf6],
            error: None,
        })
    }

    #[test]
    fn type_and_ref_make_the_verb() {
        let id = Id([7; 16]);
        for (kind, opening, continuing) in [
            (Kind::Hello, Verb::Hello, Verb::Welcome(id)),
            (Kind::Call, Verb::Call, Verb::Answer(id)),
            (Kind::Stream, Verb::StreamOpen, Verb::StreamPart(id)),
            (Kind::Subscribe, Verb::Subscribe, Verb::SubscriptionNote(id)),
            (Kind::Event, Verb::Publish, Verb::Ack(id)),
            (Kind::Cancel, Verb::Close, Verb::Cancel(id)),
            (Kind::Ping, Verb::Ping, Verb::Pong(id)),
        ] {
            assert_eq!(read(kind, None, Some("a.b"), None), Ok(opening));
            assert_eq!(read(kind, Some(id), None, None), Ok(continuing));
            assert_eq!(
                read(kind, Some(id), Some("a..>"), None),
                Ok(continuing),
                "a target is ignored there"
            );
        }
        let serve = |flag| MetaWriter::new().flag("serve", flag).finish();
        assert_eq!(
            read(Kind::Subscribe, None, Some("a.*"), serve(true)),
            Ok(Verb::Serve)
        );
        assert_eq!(
            read(Kind::Subscribe, None, Some("a.*"), serve(false)),
            Ok(Verb::Subscribe)
        );
        assert_eq!(read(Kind::Call, None, Some("a"), serve(true)), Ok(Verb::Call));
    }

    #[test]
    fn openings_need_their_target() {
        for kind in [Kind::Call, Kind::Stream, Kind::Subscribe, Kind::Event] {
            assert_eq!(read(kind, None, None, None), Err(Fault::Target));
            assert!(matches!(
                read(kind, None, Some("a..b"), None),
                Err(Fault::Topic(_))
            ));
        }
        for kind in [Kind::Hello, Kind::Cancel, Kind::Ping] {
            assert!(read(kind, None, Some("..>"), None).is_ok());
        }
        for kind in [Kind::Call, Kind::Stream, Kind::Event] {
            assert!(matches!(
                read(kind, None, Some("a.*"), None),
                Err(Fault::Topic(_))
            ));
        }
    }

    #[test]
    fn the_gateways_own_names_are_called_and_subscribed_to_only() {
        let serve = MetaWriter::new().flag("serve", true).finish();
        assert!(matches!(
            read(Kind::Event, None, Some("$sys.a"), None),
            Err(Fault::Topic(_))
        ));
        assert!(matches!(
            read(Kind::Subscribe, None, Some("$sys.>"), serve),
            Err(Fault::Topic(_))
        ));
        assert_eq!(
            read(Kind::Subscribe, None, Some("$sys.>"), None),
            Ok(Verb::Subscribe)
        );
        assert_eq!(read(Kind::Call, None, Some("$keys.get"), None), Ok(Verb::Call));
    }

    #[test]
    fn values_of_registered_keys_are_checked() {
        let qos = MetaWriter::new().uint("qos", 3).finish();
        assert_eq!(
            read(Kind::Event, None, Some("a"), qos.clone()),
            Err(Fault::MetaValue("qos"))
        );
        assert_eq!(read(Kind::Call, None, Some("a"), qos), Ok(Verb::Call));
        let serve = MetaWriter::new().uint("serve", 1).finish();
        assert_eq!(
            read(Kind::Subscribe, None, Some("a"), serve),
            Err(Fault::MetaValue("serve"))
        );
        let end = MetaWriter::new().uint("end", 1).finish();
        assert_eq!(
            read(Kind::Subscribe, Some(Id([0; 16])), None, end),
            Err(Fault::MetaValue("end"))
        );
    }
}
