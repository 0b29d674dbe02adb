//! JetStream: what a session asks the server's API for, and what it acknowledges.
//!
//! ```text
//!   STREAM.CREATE (file storage) ─▶ Ready        PUB subject inbox ─▶ MSG inbox {"stream":…,"seq":…}: Acknowledged
//!   CONSUMER.CREATE (push, all there is, ack all) ─▶ Subscribed      MSG … reply: Event; the last reply of a turn is acknowledged
//! ```
//!
//! All sessions of a run ask for the same stream, which is made once. A consumer is ephemeral and acknowledged cumulatively,
//! with as many messages under way as a gateway's subscription to logged events has by default.

use serde_json::{Value, json};

/// What a consumer has under way at most, messages: a gateway's `limits.unacked_events`.
const UNACKED_MAX: u32 = 4_096;

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
    /// By subscription id: where its newest message is acknowledged.
    owed: Vec<Owed>,
    is_owing: bool,
}

#[derive(Debug)]
struct Owed {
    sid: Vec<u8>,
    reply: Vec<u8>,
    is_due: bool,
}

impl Stored {
    /// A message came that is acknowledged there, and with it all before it.
    #[inline]
    pub(super) fn owe(&mut self, sid: &[u8], reply: &[u8]) {
        self.is_owing = true;
        let known = self.owed.iter_mut().find(|owed| owed.sid == sid);
        match known {
            Some(owed) => {
                owed.reply.clear();
                owed.reply.extend_from_slice(reply);
                owed.is_due = true;
            }
            None => self.owed.push(Owed {
                sid: sid.to_vec(),
                reply: reply.to_vec(),
                is_due: true,
            }),
        }
    }

    #[inline]
    pub(super) fn is_owing(&self) -> bool {
        self.is_owing
    }

    /// Acknowledges what came; an empty message says yes.
    pub(super) fn acknowledge(&mut self, out: &mut Vec<u8>) {
        self.is_owing = false;
        for owed in self.owed.iter_mut().filter(|owed| owed.is_due) {
            owed.is_due = false;
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(&owed.reply);
            out.extend_from_slice(b" 0\r\n\r\n");
        }
    }
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
            "ack_policy": "all",
            "max_ack_pending": UNACKED_MAX,
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
}
