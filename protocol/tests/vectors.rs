//! The conformance vectors in `protocol/vectors/`, whose README explains the format.

use std::path::Path;

use fluxar_protocol::exchange::{Verb, verb};
use fluxar_protocol::frame::Deframer;
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::limits::FRAME_BYTES_DEFAULT;
use fluxar_protocol::session::{Kept, is_counted, is_counted_refused};
use fluxar_protocol::stream::{Breach, Heard, Part, State, Stream};
use fluxar_protocol::{Batch, Envelope, Fault, Form, Id, envelope};
use serde_json::{Map, Value, json};

struct Vector {
    /// File and name, for messages.
    title: String,
    input: Vec<u8>,
    fields: Map<String, Value>,
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut vectors = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let parsed: Vec<Map<String, Value>> =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for fields in parsed {
            let title = format!("{file}: {}", fields["name"].as_str().unwrap());
            let input = bytes(&fields["hex"]);
            vectors.push(Vector { title, input, fields });
        }
    }
    vectors
}

#[test]
fn every_vector() {
    let vectors = vectors();
    let mut differences = Vec::new();
    for vector in &vectors {
        let (expected, found) = match vector.fields["kind"].as_str().unwrap() {
            "frame-body" => (expected_body(vector), read_body(&vector.input)),
            "stream" => (expected_stream(vector), read_stream(vector)),
            "stream-life" => (expected_life(vector), live(vector)),
            "hello-payload" => (expected_payload(vector, "hello"), read_hello(&vector.input)),
            "welcome-payload" => (expected_payload(vector, "welcome"), read_welcome(&vector.input)),
            "counted" => (vector.fields["counted"].clone(), count(&vector.input)),
            "session-life" => (expected_again(vector), send_again(vector)),
            kind => panic!("{}: unknown kind {kind}", vector.title),
        };
        if expected != found {
            differences.push(format!(
                "{}\n  expected {expected}\n  found    {found}",
                vector.title
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} differ:\n{}",
        differences.len(),
        vectors.len(),
        differences.join("\n")
    );
}

#[test]
fn there_are_enough_of_them() {
    let vectors = vectors();
    let malformed = vectors
        .iter()
        .filter(|vector| vector.fields.contains_key("error"))
        .count();
    assert!(vectors.len() >= 120, "{} vectors", vectors.len());
    assert!(
        2 * malformed >= vectors.len(),
        "{malformed} of {} are malformed",
        vectors.len()
    );
    let mut titles: Vec<_> = vectors.iter().map(|vector| &vector.title).collect();
    titles.sort();
    assert!(
        titles.windows(2).all(|pair| pair[0] != pair[1]),
        "two vectors with the same name"
    );
}

/// Envelopes that are there, told one way for vector and decoder.
fn expected_body(vector: &Vector) -> Value {
    let count = |key| vector.fields.get(key).cloned().unwrap_or(json!(0));
    match vector.fields.get("error") {
        Some(error) => json!({ "before": count("before"), "error": error, "after": count("after") }),
        None => json!({ "envelopes": vector.fields["envelopes"] }),
    }
}

fn read_body(body: &[u8]) -> Value {
    let (mut envelopes, mut error, mut before) = (Vec::new(), None, 0);
    for decoded in Batch::within(body, FRAME_BYTES_DEFAULT) {
        let fault = match decoded {
            Ok(decoded) => match verb(&decoded.envelope) {
                Ok(verb) => {
                    envelopes.push(told(&decoded.envelope, decoded.form, verb));
                    continue;
                }
                // Understood too late for a reject; its end is known.
                Err(fault) => told_fault(&fault, decoded.envelope.reference.is_none(), false),
            },
            Err(reject) => told_fault(&reject.fault, reject.answer().is_some(), reject.closes()),
        };
        assert!(error.is_none(), "one fault a vector");
        error = Some(fault);
        before = envelopes.len();
    }
    match error {
        Some(error) => json!({ "before": before, "error": error, "after": envelopes.len() - before }),
        None => json!({ "envelopes": envelopes }),
    }
}

fn told(envelope: &Envelope<'_>, form: Form, verb: Verb) -> Value {
    let mut told = json!({
        "type": envelope.kind as u8,
        "id": id_hex(envelope.id),
        "ref": envelope.reference.map(id_hex),
        "target": envelope.target,
        "meta": envelope.meta.map(|meta| hex(meta.as_bytes())),
        "payload": hex(envelope.payload),
        "error": envelope.error.map(hex),
        "form": match form { Form::Compact => "compact", Form::Named => "named" },
        "verb": verb_name(verb),
    });
    if let Verb::StreamPart(_) = verb {
        told["part"] = match Part::read(envelope).unwrap() {
            Part::Grant { bytes } => json!({ "is": "grant", "bytes": bytes }),
            Part::Chunk { bytes, end } => json!({ "is": "chunk", "bytes": bytes, "end": end }),
            Part::End => json!({ "is": "end" }),
            Part::Fail => json!({ "is": "error" }),
        };
    }
    told
}

fn expected_life(vector: &Vector) -> Value {
    let outcome = |step: &Value| step.get("means").unwrap_or(&step["may"]).clone();
    let steps: Vec<_> = vector.fields["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(outcome)
        .collect();
    json!({ "steps": steps, "state": vector.fields["state"] })
}

/// Lives through a stream as its vector says.
fn live(vector: &Vector) -> Value {
    let uint = |key: &str| vector.fields[key].as_u64().unwrap();
    let ends = vector.fields["ends"].as_bool().unwrap();
    let open = match vector.fields["opened"].as_str().unwrap() {
        "here" => Stream::opened_here,
        "there" => Stream::opened_there,
        other => panic!("{}: opened {other}", vector.title),
    };
    let mut stream = open(ends, uint("granted"), uint("credit"));
    let mut steps = Vec::new();
    for step in vector.fields["steps"].as_array().unwrap() {
        if step.get("hear").is_some() {
            steps.push(json!(heard(&mut stream, &bytes(&step["hear"]))));
            continue;
        }
        let before = stream;
        let bytes = step.get("bytes").and_then(Value::as_u64).unwrap_or_default();
        let may = match step["send"].as_str().unwrap() {
            "chunk" => stream.send_chunk(bytes, false).is_ok(),
            "last" => stream.send_chunk(bytes, true).is_ok(),
            "end" => stream.send_end(),
            "grant" => stream.send_grant(bytes),
            "error" => stream.send_fail(),
            "cancel" => stream.send_cancel(),
            other => panic!("{}: sends {other}", vector.title),
        };
        assert!(may || stream == before, "{}: {step}", vector.title);
        steps.push(json!(may));
    }
    let state = match stream.state() {
        State::Idle => "idle",
        State::Active => "active",
        State::Cancelling => "cancelling",
        State::Closed => "closed",
    };
    json!({ "steps": steps, "state": state })
}

fn heard(stream: &mut Stream, bytes: &[u8]) -> &'static str {
    let envelope = envelope::decode(bytes).unwrap().envelope;
    let heard = match verb(&envelope).unwrap() {
        Verb::Cancel(_) => Ok(stream.handle_cancel()),
        Verb::StreamPart(_) => stream.handle(Part::read(&envelope).unwrap()),
        other => panic!("{other:?} is not about a stream"),
    };
    match heard {
        Ok(Heard::Granted) => "granted",
        Ok(Heard::Chunk { is_last: false }) => "chunk",
        Ok(Heard::Chunk { is_last: true }) => "last",
        Ok(Heard::Ended) => "ended",
        Ok(Heard::Failed) => "failed",
        Ok(Heard::Cancelled) => "cancelled",
        Ok(Heard::Ignored) => "ignored",
        Err(Breach::BeyondCredit { .. }) => "beyond",
        Err(Breach::BehindEnd) => "behind",
    }
}

/// Whether each envelope of a body counts.
fn count(body: &[u8]) -> Value {
    Batch::within(body, FRAME_BYTES_DEFAULT)
        .map(|decoded| match decoded {
            Ok(decoded) => is_counted(&decoded.envelope),
            Err(reject) => is_counted_refused(&reject),
        })
        .collect()
}

fn expected_again(vector: &Vector) -> Value {
    let steps = vector.fields["steps"].as_array().unwrap();
    steps
        .iter()
        .filter_map(|step| step.get("again").cloned())
        .collect()
}

/// What is sent again at each resume of a session's life.
fn send_again(vector: &Vector) -> Value {
    let mut kept = Kept::new(usize::MAX);
    let mut told = Vec::new();
    for step in vector.fields["steps"].as_array().unwrap() {
        if let Some(body) = step.get("send") {
            for decoded in Batch::new(&bytes(body)) {
                let decoded = decoded.unwrap();
                if is_counted(&decoded.envelope) {
                    kept.keep(decoded.bytes.to_vec(), 1);
                }
            }
        } else if let Some(recv) = step.get("covered") {
            kept.covered(recv.as_u64().unwrap()).unwrap();
        } else {
            let again = kept.resume(step["resume"].as_u64().unwrap()).ok();
            told.push(again.map(|again| again.map(|(bytes, from)| hex(&bytes[from..])).collect::<String>()));
        }
    }
    json!(told)
}

fn told_fault(fault: &Fault, answered: bool, closes: bool) -> Value {
    json!({ "fault": fault_name(fault), "code": fault.code() as u8, "answered": answered, "closes": closes })
}

fn expected_stream(vector: &Vector) -> Value {
    let error = vector.fields.get("error");
    let partial = if error.is_some() {
        None
    } else {
        vector.fields.get("partial")
    };
    json!({ "bodies": vector.fields["bodies"], "partial": partial, "error": error })
}

/// Reads the stream whole and in pieces of every small size; the results have to be the same.
fn read_stream(vector: &Vector) -> Value {
    let limit_bytes = vector.fields["limit"].as_u64().unwrap() as usize;
    let read = |piece_bytes: usize| {
        let mut deframer = Deframer::new();
        let (mut bodies, mut error) = (Vec::new(), None);
        'stream: for mut piece in vector.input.chunks(piece_bytes) {
            loop {
                match deframer.next(&mut piece, limit_bytes) {
                    Ok(Some(body)) => bodies.push(hex(body)),
                    Ok(None) => break,
                    Err(too_large) => {
                        assert!(too_large.announced_bytes > limit_bytes);
                        error = Some(json!({
                            "fault": "frame_too_large", "code": 8, "answered": false, "closes": true
                        }));
                        break 'stream;
                    }
                }
            }
        }
        let partial = error.is_none().then(|| deframer.is_partial());
        json!({ "bodies": bodies, "partial": partial, "error": error })
    };
    let whole = read(vector.input.len().max(1));
    for piece_bytes in (1..10).chain([100, 1000]) {
        assert_eq!(
            read(piece_bytes),
            whole,
            "{} in pieces of {piece_bytes}",
            vector.title
        );
    }
    whole
}

fn expected_payload(vector: &Vector, key: &str) -> Value {
    match vector.fields.get("error") {
        Some(error) => json!({ "fault": error["fault"], "code": error["code"] }),
        None => vector.fields[key].clone(),
    }
}

fn read_hello(payload: &[u8]) -> Value {
    match Hello::decode(payload) {
        Ok(hello) => json!({
            "v0": hello.v0,
            "caps": caps(hello.caps),
            "max_frame": hello.max_frame,
            "heartbeat_ms": hello.heartbeat_ms,
            "credit": hello.credit,
            "agent": hello.agent,
            "auth": hello.auth.map(|auth| json!({ "scheme": auth.scheme, "token": auth.token })),
            "resume": hello.resume.map(|resume| json!({
                "session": id_hex(resume.session), "token": hex(resume.token), "recv": resume.recv
            })),
        }),
        Err(fault) => json!({ "fault": fault_name(&fault), "code": fault.code() as u8 }),
    }
}

fn read_welcome(payload: &[u8]) -> Value {
    match Welcome::decode(payload) {
        Ok(welcome) => json!({
            "v": welcome.v,
            "session": id_hex(welcome.session),
            "token": welcome.token.map(hex),
            "caps": caps(welcome.caps),
            "max_frame": welcome.max_frame,
            "heartbeat_ms": welcome.heartbeat_ms,
            "credit": welcome.credit,
            "resumed": welcome.resumed,
            "recv": welcome.recv,
            "limits": welcome.limits.map(hex),
            "agent": welcome.agent,
        }),
        Err(fault) => json!({ "fault": fault_name(&fault), "code": fault.code() as u8 }),
    }
}

fn caps(caps: Caps) -> Value {
    json!({
        "zstd": caps.zstd,
        "gzip": caps.gzip,
        "multi": caps.multi,
        "datagram": caps.datagram,
        "resume": caps.resume,
    })
}

fn fault_name(fault: &Fault) -> &'static str {
    match fault {
        Fault::Shape => "shape",
        Fault::Compressed => "compressed",
        Fault::UnknownKind(_) => "unknown_type",
        Fault::NotShortest => "not_shortest",
        Fault::Id => "id",
        Fault::Ref => "ref",
        Fault::Target => "target",
        Fault::Topic(_) => "topic",
        Fault::Meta => "meta",
        Fault::MetaDuplicate => "meta_duplicate",
        Fault::MetaTooLarge => "meta_too_large",
        Fault::MetaValue(_) => "meta_value",
        Fault::Payload(_) => "payload",
        Fault::Error => "error",
        Fault::Names => "names",
        Fault::TooLarge => "too_large",
        Fault::Truncated => "truncated",
        Fault::Hello(_) => "hello",
        _ => "a fault without a name",
    }
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Hello => "hello",
        Verb::Welcome(_) => "welcome",
        Verb::Call => "call",
        Verb::Answer(_) => "answer",
        Verb::StreamOpen => "stream_open",
        Verb::StreamPart(_) => "stream_part",
        Verb::Subscribe => "subscribe",
        Verb::Serve => "serve",
        Verb::SubscriptionNote(_) => "subscription_note",
        Verb::Publish => "publish",
        Verb::Ack(_) => "ack",
        Verb::Close => "close",
        Verb::Cancel(_) => "cancel",
        Verb::Ping => "ping",
        Verb::Pong(_) => "pong",
    }
}

fn id_hex(id: Id) -> String {
    hex(&id.0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}
