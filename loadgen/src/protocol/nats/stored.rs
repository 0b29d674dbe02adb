//! JetStream: what a session asks the server's API for, and what it answers to its flow control.
//!
//! ```text
//!   STREAM.CREATE (file storage) ─▶ Ready        PUB subject inbox ─▶ MSG inbox {"stream":…,"seq":…}: Acknowledged
//!   CONSUMER.CREATE (push, all there is, ordered) ─▶ Subscribed      MSG … : Event; HMSG … reply: flow control, which is answered
//! ```
//!
//! All sessions of a run ask for the same stream, which is made once; who asks while it is being made may have to ask again. Subscribers are what client libraries call ordered
//! consumers: the server keeps their place in memory, is acknowledged nothing, and asks now and then whether what it sent was
//! taken. That is what a gateway does for a subscription without a name; a consumer that is acknowledged has its place on disk.

use serde_json::{Value, json};

/// How often a consumer that has nothing to deliver says so, ns: the server wants this where there is flow control. What client
/// libraries ask for.
const IDLE_HEARTBEAT_NS: u64 = 5_000_000_000;

/// How often a stream is asked for again before its refusal is believed.
const ASKED_AGAIN_MAX: u32 = 100;

/// The last token of a reply subject says what is replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyTo {
    /// The stream that was asked for.
    Stream,
    /// A consumer that was asked for.
    Consumer,
    /// A publish.
    Publish,
    /// A call.
    Call,
}

pub(super) const STREAM_TOKEN: &[u8] = b"s";
pub(super) const CONSUMER_TOKEN: &[u8] = b"c";
/// Goes before the number of a publish.
pub(super) const PUBLISH_TOKEN: u8 = b'p';

impl ReplyTo {
    /// By the subject that the reply came on.
    #[inline]
    pub(super) fn of(subject: &[u8]) -> ReplyTo {
        let token = subject.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        match token {
            STREAM_TOKEN => ReplyTo::Stream,
            CONSUMER_TOKEN => ReplyTo::Consumer,
            [PUBLISH_TOKEN, ..] => ReplyTo::Publish,
            _ => ReplyTo::Call,
        }
    }
}

/// What a session with JetStream keeps.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Publishes so far; their replies are told apart as client libraries do it.
    pub(super) published: u64,
    /// How often the stream was asked for again.
    asked_again: u32,
}

impl Stored {
    /// Whether the stream is to be asked for again, after this answer. While the server makes it for one session, it may tell
    /// another that it overlaps with one that is there: itself. Soon it finds it by its name, and says that all is well.
    pub(super) fn asks_again(&mut self, reply: &[u8]) -> bool {
        const SUBJECTS_OVERLAP: u64 = 10_065;
        let said: Value = serde_json::from_slice(reply).unwrap_or_default();
        let again = said["error"]["err_code"] == SUBJECTS_OVERLAP && self.asked_again < ASKED_AGAIN_MAX;
        self.asked_again += u32::from(again);
        again
    }
}

/// Whether a message is none that was published, but the consumer's own: a heartbeat, or flow control.
#[inline]
pub(super) fn is_status(headers: &[u8]) -> bool {
    headers.starts_with(b"NATS/1.0 100")
}

/// Where a status of a consumer is answered, by an empty message: flow control where a reply goes, a heartbeat where it says that
/// the consumer waits for such an answer.
pub(super) fn answer_to<'a>(headers: &'a [u8], reply: Option<&'a [u8]>) -> Option<&'a [u8]> {
    const STALLED: &[u8] = b"Nats-Consumer-Stalled:";
    reply.or_else(|| {
        let mut lines = headers.split(|byte| *byte == b'\n');
        lines.find_map(|line| Some(line.strip_prefix(STALLED)?.trim_ascii()))
    })
}

/// The stream of a run, by its topics: `load.ab12.t0` → `load-ab12` with the subjects `load.ab12.>`.
pub(super) fn stream(topics: &[String]) -> (String, String) {
    let first = topics.first().map_or("load", String::as_str);
    let prefix = first.rsplit_once('.').map_or(first, |(prefix, _)| prefix);
    (prefix.replace('.', "-"), format!("{prefix}.>"))
}

/// Asks for a stream on disk: subject and body.
pub(super) fn create_stream(topics: &[String]) -> (String, String) {
    let (name, subjects) = stream(topics);
    let body = json!({
        "name": name,
        "subjects": [subjects],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": 1,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
    });
    (format!("$JS.API.STREAM.CREATE.{name}"), body.to_string())
}

/// Asks for a consumer of one topic, from the first message on, that delivers there.
pub(super) fn create_consumer(topics: &[String], topic: usize, deliver: &str) -> (String, String) {
    let (name, _) = stream(topics);
    let body = json!({
        "stream_name": name,
        "config": {
            "deliver_subject": deliver,
            "deliver_policy": "all",
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": true,
            "num_replicas": 1,
            "flow_control": true,
            "idle_heartbeat": IDLE_HEARTBEAT_NS,
            "filter_subject": topics[topic],
            "replay_policy": "instant",
        },
    });
    (format!("$JS.API.CONSUMER.CREATE.{name}"), body.to_string())
}

/// Whether a publish was stored; else what the server said.
#[inline]
pub(super) fn is_stored(reply: &[u8]) -> Result<(), String> {
    // An error stands before everything else.
    if reply.starts_with(b"{\"stream\":") {
        return Ok(());
    }
    done(reply)
}

/// What became of a request to the API.
pub(super) fn done(reply: &[u8]) -> Result<(), String> {
    let said: Value = serde_json::from_slice(reply).unwrap_or_default();
    match &said["error"] {
        Value::Null if said.is_object() => Ok(()),
        Value::Null => Err("JetStream answered with what is no JSON".to_owned()),
        error => {
            let description = error["description"].as_str().unwrap_or("without a reason");
            Err(format!("JetStream refused: {description}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_say_whether_it_was_done() {
        assert_eq!(is_stored(b"{\"stream\":\"load\", \"seq\":7}"), Ok(()));
        let refused = b"{\"error\":{\"code\":503,\"description\":\"insufficient resources\"},\"stream\":\"load\",\"seq\":0}";
        assert_eq!(
            is_stored(refused),
            Err("JetStream refused: insufficient resources".into())
        );
        assert!(done(b"").is_err() && done(b"{\"error\":{}}").is_err());
        assert_eq!(done(b"{\"type\":\"x\",\"did_create\":true}"), Ok(()));
    }

    #[test]
    fn a_stream_has_the_topics_of_its_run() {
        let topics = ["load.ab12.t0".to_owned(), "load.ab12.t1".to_owned()];
        assert_eq!(stream(&topics), ("load-ab12".into(), "load.ab12.>".into()));
        let (subject, body) = create_consumer(&topics, 1, "there");
        assert_eq!(subject, "$JS.API.CONSUMER.CREATE.load-ab12");
        assert!(body.contains("\"filter_subject\":\"load.ab12.t1\""), "{body}");
    }

    #[test]
    fn a_consumer_is_answered_where_it_asks() {
        let flow = b"NATS/1.0 100 FlowControl Request\r\n\r\n";
        assert_eq!(answer_to(flow, Some(b"$JS.FC.x")), Some(&b"$JS.FC.x"[..]));
        let idle = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\n\r\n";
        assert_eq!(answer_to(idle, None), None);
        let stalled = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: $JS.FC.y\r\n\r\n";
        assert_eq!(answer_to(stalled, None), Some(&b"$JS.FC.y"[..]));
        assert!(is_status(idle) && !is_status(b"NATS/1.0\r\nkey: value\r\n\r\n") && !is_status(b""));
    }
}
