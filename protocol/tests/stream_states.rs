//! Every message of a stream in every state that one of its ends can be in [P-3.11], spelled out.
//!
//! A row of the table is `message => what it means, state behind it, Δ credit, Δ granted`. Each stream starts with a
//! credit of 100 bytes and has granted 50; a plain chunk has 10 bytes, one beyond the credit 1 more than there is.

use fluxar_protocol::stream::{Breach, Heard, Part, State, Stream, Unsendable};

const CREDIT_BYTES: u64 = 100;
const GRANTED_BYTES: u64 = 50;

/// The seven states that an end can be in: the four of the specification, and which directions have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Idle,
    /// Both directions are open.
    Active,
    /// This side has ended its own.
    ActiveSent,
    /// The other side has ended its own.
    ActiveHeard,
    /// This side has cancelled.
    CancellingHere,
    /// The other side has cancelled.
    CancellingThere,
    Closed,
}
use At::*;

const ALL: [At; 7] = [
    Idle,
    Active,
    ActiveSent,
    ActiveHeard,
    CancellingHere,
    CancellingThere,
    Closed,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Input {
    /// Messages that arrive.
    HearGrant,
    HearChunk,
    HearChunkBeyond,
    HearLast,
    HearLastBeyond,
    HearEnd,
    HearFail,
    HearCancel,
    /// Messages that this side wants to send.
    SendGrant,
    SendGrantOfNothing,
    SendChunk,
    SendChunkBeyond,
    SendLast,
    SendLastBeyond,
    SendEnd,
    SendFail,
    SendCancel,
    /// The connection is lost, or the time is up.
    Close,
}
use Input::*;

const INPUTS: usize = 18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Heard(Heard),
    Breach(Breach),
    /// It is to be sent.
    Send,
    /// There is nothing to send.
    Nothing,
    Unsendable(Unsendable),
}

const GRANTED: Output = Output::Heard(Heard::Granted);
const CHUNK: Output = Output::Heard(Heard::Chunk { is_last: false });
const LAST: Output = Output::Heard(Heard::Chunk { is_last: true });
const ENDED: Output = Output::Heard(Heard::Ended);
const FAILED: Output = Output::Heard(Heard::Failed);
const CANCELLED: Output = Output::Heard(Heard::Cancelled);
const IGNORED: Output = Output::Heard(Heard::Ignored);
const BEHIND_END: Output = Output::Breach(Breach::BehindEnd);
const BEYOND: Output = Output::Breach(Breach::BeyondCredit {
    chunk_bytes: GRANTED_BYTES + 1,
    credit_bytes: GRANTED_BYTES,
});
const SEND: Output = Output::Send;
const NOTHING: Output = Output::Nothing;
const NO_CREDIT: Output = Output::Unsendable(Unsendable::NoCredit {
    credit_bytes: CREDIT_BYTES,
});
const OVER: Output = Output::Unsendable(Unsendable::Ended);
const UNWANTED: Output = Output::Unsendable(Unsendable::Cancelled);

/// State, message, what it means, state behind it, change of the credit, change of what is granted.
#[rustfmt::skip]
const TABLE: &[(At, Input, Output, At, i64, i64)] = &[
    // Nothing is open: what comes is late or forged, and nothing can be sent.
    (Idle, HearGrant,          IGNORED,    Idle,   0, 0),
    (Idle, HearChunk,          IGNORED,    Idle,   0, 0),
    (Idle, HearChunkBeyond,    IGNORED,    Idle,   0, 0),
    (Idle, HearLast,           IGNORED,    Idle,   0, 0),
    (Idle, HearLastBeyond,     IGNORED,    Idle,   0, 0),
    (Idle, HearEnd,            IGNORED,    Idle,   0, 0),
    (Idle, HearFail,           IGNORED,    Idle,   0, 0),
    (Idle, HearCancel,         IGNORED,    Idle,   0, 0),
    (Idle, SendGrant,          NOTHING,    Idle,   0, 0),
    (Idle, SendGrantOfNothing, NOTHING,    Idle,   0, 0),
    (Idle, SendChunk,          OVER,       Idle,   0, 0),
    (Idle, SendChunkBeyond,    OVER,       Idle,   0, 0),
    (Idle, SendLast,           OVER,       Idle,   0, 0),
    (Idle, SendLastBeyond,     OVER,       Idle,   0, 0),
    (Idle, SendEnd,            NOTHING,    Idle,   0, 0),
    (Idle, SendFail,           NOTHING,    Closed, 0, 0),
    (Idle, SendCancel,         NOTHING,    Idle,   0, 0),
    (Idle, Close,              NOTHING,    Closed, 0, 0),

    (Active, HearGrant,          GRANTED,    Active,          10,  0),
    (Active, HearChunk,          CHUNK,      Active,           0, -10),
    (Active, HearChunkBeyond,    BEYOND,     Closed,           0,  0),
    (Active, HearLast,           LAST,       ActiveHeard,      0, -10),
    (Active, HearLastBeyond,     BEYOND,     Closed,           0,  0),
    (Active, HearEnd,            ENDED,      ActiveHeard,      0,  0),
    (Active, HearFail,           FAILED,     Closed,           0,  0),
    (Active, HearCancel,         CANCELLED,  CancellingThere,  0,  0),
    (Active, SendGrant,          SEND,       Active,           0,  10),
    (Active, SendGrantOfNothing, NOTHING,    Active,           0,  0),
    (Active, SendChunk,          SEND,       Active,         -10,  0),
    (Active, SendChunkBeyond,    NO_CREDIT,  Active,           0,  0),
    (Active, SendLast,           SEND,       ActiveSent,     -10,  0),
    (Active, SendLastBeyond,     NO_CREDIT,  Active,           0,  0),
    (Active, SendEnd,            SEND,       ActiveSent,       0,  0),
    (Active, SendFail,           SEND,       Closed,           0,  0),
    (Active, SendCancel,         SEND,       CancellingHere,   0,  0),
    (Active, Close,              NOTHING,    Closed,           0,  0),

    // This side only reads, as the opener of a stream of answers does.
    (ActiveSent, HearGrant,          IGNORED,    ActiveSent,      0,  0),
    (ActiveSent, HearChunk,          CHUNK,      ActiveSent,      0, -10),
    (ActiveSent, HearChunkBeyond,    BEYOND,     Closed,          0,  0),
    (ActiveSent, HearLast,           LAST,       Closed,          0, -10),
    (ActiveSent, HearLastBeyond,     BEYOND,     Closed,          0,  0),
    (ActiveSent, HearEnd,            ENDED,      Closed,          0,  0),
    (ActiveSent, HearFail,           FAILED,     Closed,          0,  0),
    (ActiveSent, HearCancel,         ENDED,      Closed,          0,  0),
    (ActiveSent, SendGrant,          SEND,       ActiveSent,      0,  10),
    (ActiveSent, SendGrantOfNothing, NOTHING,    ActiveSent,      0,  0),
    (ActiveSent, SendChunk,          OVER,       ActiveSent,      0,  0),
    (ActiveSent, SendChunkBeyond,    OVER,       ActiveSent,      0,  0),
    (ActiveSent, SendLast,           OVER,       ActiveSent,      0,  0),
    (ActiveSent, SendLastBeyond,     OVER,       ActiveSent,      0,  0),
    (ActiveSent, SendEnd,            NOTHING,    ActiveSent,      0,  0),
    (ActiveSent, SendFail,           SEND,       Closed,          0,  0),
    (ActiveSent, SendCancel,         SEND,       CancellingHere,  0,  0),
    (ActiveSent, Close,              NOTHING,    Closed,          0,  0),

    // This side only writes.
    (ActiveHeard, HearGrant,          GRANTED,    ActiveHeard,     10,  0),
    (ActiveHeard, HearChunk,          BEHIND_END, Closed,           0,  0),
    (ActiveHeard, HearChunkBeyond,    BEHIND_END, Closed,           0,  0),
    (ActiveHeard, HearLast,           BEHIND_END, Closed,           0,  0),
    (ActiveHeard, HearLastBeyond,     BEHIND_END, Closed,           0,  0),
    (ActiveHeard, HearEnd,            BEHIND_END, Closed,           0,  0),
    (ActiveHeard, HearFail,           FAILED,     Closed,           0,  0),
    (ActiveHeard, HearCancel,         CANCELLED,  CancellingThere,  0,  0),
    (ActiveHeard, SendGrant,          NOTHING,    ActiveHeard,      0,  0),
    (ActiveHeard, SendGrantOfNothing, NOTHING,    ActiveHeard,      0,  0),
    (ActiveHeard, SendChunk,          SEND,       ActiveHeard,    -10,  0),
    (ActiveHeard, SendChunkBeyond,    NO_CREDIT,  ActiveHeard,      0,  0),
    (ActiveHeard, SendLast,           SEND,       Closed,         -10,  0),
    (ActiveHeard, SendLastBeyond,     NO_CREDIT,  ActiveHeard,      0,  0),
    (ActiveHeard, SendEnd,            SEND,       Closed,           0,  0),
    (ActiveHeard, SendFail,           SEND,       Closed,           0,  0),
    (ActiveHeard, SendCancel,         SEND,       Closed,           0,  0),
    (ActiveHeard, Close,              NOTHING,    Closed,           0,  0),

    // What is still under way is thrown away, until the other side's end arrives; credit is kept to all the same.
    (CancellingHere, HearGrant,          IGNORED,    CancellingHere,  0,  0),
    (CancellingHere, HearChunk,          IGNORED,    CancellingHere,  0, -10),
    (CancellingHere, HearChunkBeyond,    BEYOND,     Closed,          0,  0),
    (CancellingHere, HearLast,           ENDED,      Closed,          0, -10),
    (CancellingHere, HearLastBeyond,     BEYOND,     Closed,          0,  0),
    (CancellingHere, HearEnd,            ENDED,      Closed,          0,  0),
    (CancellingHere, HearFail,           FAILED,     Closed,          0,  0),
    (CancellingHere, HearCancel,         ENDED,      Closed,          0,  0),
    (CancellingHere, SendGrant,          NOTHING,    CancellingHere,  0,  0),
    (CancellingHere, SendGrantOfNothing, NOTHING,    CancellingHere,  0,  0),
    (CancellingHere, SendChunk,          OVER,       CancellingHere,  0,  0),
    (CancellingHere, SendChunkBeyond,    OVER,       CancellingHere,  0,  0),
    (CancellingHere, SendLast,           OVER,       CancellingHere,  0,  0),
    (CancellingHere, SendLastBeyond,     OVER,       CancellingHere,  0,  0),
    (CancellingHere, SendEnd,            NOTHING,    CancellingHere,  0,  0),
    (CancellingHere, SendFail,           SEND,       Closed,          0,  0),
    (CancellingHere, SendCancel,         NOTHING,    CancellingHere,  0,  0),
    (CancellingHere, Close,              NOTHING,    Closed,          0,  0),

    // The cancel was the other side's end; all that this side may still send is its own: end, error or cancel.
    (CancellingThere, HearGrant,          IGNORED,    CancellingThere,  0, 0),
    (CancellingThere, HearChunk,          BEHIND_END, Closed,           0, 0),
    (CancellingThere, HearChunkBeyond,    BEHIND_END, Closed,           0, 0),
    (CancellingThere, HearLast,           BEHIND_END, Closed,           0, 0),
    (CancellingThere, HearLastBeyond,     BEHIND_END, Closed,           0, 0),
    (CancellingThere, HearEnd,            BEHIND_END, Closed,           0, 0),
    (CancellingThere, HearFail,           FAILED,     Closed,           0, 0),
    (CancellingThere, HearCancel,         IGNORED,    CancellingThere,  0, 0),
    (CancellingThere, SendGrant,          NOTHING,    CancellingThere,  0, 0),
    (CancellingThere, SendGrantOfNothing, NOTHING,    CancellingThere,  0, 0),
    (CancellingThere, SendChunk,          UNWANTED,   CancellingThere,  0, 0),
    (CancellingThere, SendChunkBeyond,    UNWANTED,   CancellingThere,  0, 0),
    (CancellingThere, SendLast,           UNWANTED,   CancellingThere,  0, 0),
    (CancellingThere, SendLastBeyond,     UNWANTED,   CancellingThere,  0, 0),
    (CancellingThere, SendEnd,            SEND,       Closed,           0, 0),
    (CancellingThere, SendFail,           SEND,       Closed,           0, 0),
    (CancellingThere, SendCancel,         SEND,       Closed,           0, 0),
    (CancellingThere, Close,              NOTHING,    Closed,           0, 0),

    // Late messages are ignored, and a stream that is over stays it.
    (Closed, HearGrant,          IGNORED, Closed, 0, 0),
    (Closed, HearChunk,          IGNORED, Closed, 0, 0),
    (Closed, HearChunkBeyond,    IGNORED, Closed, 0, 0),
    (Closed, HearLast,           IGNORED, Closed, 0, 0),
    (Closed, HearLastBeyond,     IGNORED, Closed, 0, 0),
    (Closed, HearEnd,            IGNORED, Closed, 0, 0),
    (Closed, HearFail,           IGNORED, Closed, 0, 0),
    (Closed, HearCancel,         IGNORED, Closed, 0, 0),
    (Closed, SendGrant,          NOTHING, Closed, 0, 0),
    (Closed, SendGrantOfNothing, NOTHING, Closed, 0, 0),
    (Closed, SendChunk,          OVER,    Closed, 0, 0),
    (Closed, SendChunkBeyond,    OVER,    Closed, 0, 0),
    (Closed, SendLast,           OVER,    Closed, 0, 0),
    (Closed, SendLastBeyond,     OVER,    Closed, 0, 0),
    (Closed, SendEnd,            NOTHING, Closed, 0, 0),
    (Closed, SendFail,           NOTHING, Closed, 0, 0),
    (Closed, SendCancel,         NOTHING, Closed, 0, 0),
    (Closed, Close,              NOTHING, Closed, 0, 0),
];

/// Every way into a state that a row begins in, beginning with an open by either side.
fn streams_in(at: At) -> Vec<Stream> {
    let here = |ends| Stream::opened_here(ends, GRANTED_BYTES, CREDIT_BYTES);
    let there = |ends| Stream::opened_there(ends, GRANTED_BYTES, CREDIT_BYTES);
    let then = |mut stream: Stream, inputs: &[Input]| {
        for input in inputs {
            apply(&mut stream, *input);
        }
        stream
    };
    let both = |inputs: &[Input]| vec![then(here(false), inputs), then(there(false), inputs)];
    match at {
        Idle => vec![Stream::default()],
        Active => both(&[]),
        ActiveSent => [vec![here(true)], both(&[SendEnd])].concat(),
        ActiveHeard => [vec![there(true)], both(&[HearEnd])].concat(),
        CancellingHere => [
            vec![then(here(true), &[SendCancel])],
            both(&[SendCancel]),
            both(&[SendEnd, SendCancel]),
        ]
        .concat(),
        CancellingThere => [
            vec![then(there(true), &[HearCancel])],
            both(&[HearCancel]),
            both(&[HearEnd, HearCancel]),
        ]
        .concat(),
        Closed => [
            both(&[SendEnd, HearEnd]),
            both(&[HearEnd, SendEnd]),
            both(&[SendEnd, HearCancel]),
            both(&[HearEnd, SendCancel]),
            both(&[SendCancel, HearCancel]),
            both(&[HearCancel, SendCancel]),
            both(&[SendCancel, HearEnd]),
            both(&[HearCancel, SendEnd]),
            both(&[SendFail]),
            both(&[HearFail]),
            both(&[HearChunkBeyond]),
            both(&[Close]),
            vec![then(here(true), &[HearEnd]), then(there(true), &[SendEnd])],
        ]
        .concat(),
    }
}

fn at(stream: &Stream) -> At {
    match (stream.state(), stream.has_sent_end(), stream.has_received_end()) {
        (State::Idle, false, false) => Idle,
        (State::Active, false, false) => Active,
        (State::Active, true, false) => ActiveSent,
        (State::Active, false, true) => ActiveHeard,
        (State::Cancelling, true, false) => CancellingHere,
        (State::Cancelling, false, true) => CancellingThere,
        (State::Closed, true, true) => Closed,
        other => panic!("{other:?} is no state"),
    }
}

fn apply(stream: &mut Stream, input: Input) -> Output {
    let beyond_granted = stream.granted_bytes() + 1;
    let beyond_credit = stream.credit_bytes() + 1;
    let hear = |stream: &mut Stream, part| stream.handle(part).map_or_else(Output::Breach, Output::Heard);
    let chunk = |bytes, end| Part::Chunk { bytes, end };
    let flag = |is_sent: bool| if is_sent { Output::Send } else { Output::Nothing };
    let sent = |result: Result<(), Unsendable>| result.map_or_else(Output::Unsendable, |()| Output::Send);
    match input {
        HearGrant => hear(stream, Part::Grant { bytes: 10 }),
        HearChunk => hear(stream, chunk(10, false)),
        HearChunkBeyond => hear(stream, chunk(beyond_granted, false)),
        HearLast => hear(stream, chunk(10, true)),
        HearLastBeyond => hear(stream, chunk(beyond_granted, true)),
        HearEnd => hear(stream, Part::End),
        HearFail => hear(stream, Part::Fail),
        HearCancel => Output::Heard(stream.handle_cancel()),
        SendGrant => flag(stream.send_grant(10)),
        SendGrantOfNothing => flag(stream.send_grant(0)),
        SendChunk => sent(stream.send_chunk(10, false)),
        SendChunkBeyond => sent(stream.send_chunk(beyond_credit, false)),
        SendLast => sent(stream.send_chunk(10, true)),
        SendLastBeyond => sent(stream.send_chunk(beyond_credit, true)),
        SendEnd => flag(stream.send_end()),
        SendFail => flag(stream.send_fail()),
        SendCancel => flag(stream.send_cancel()),
        Close => {
            stream.close();
            Output::Nothing
        }
    }
}

#[test]
fn every_message_in_every_state() {
    for row in TABLE {
        let (from, input, output, to, credit, granted) = *row;
        for before in streams_in(from) {
            assert_eq!(at(&before), from, "{row:?}");
            let mut after = before;
            assert_eq!(apply(&mut after, input), output, "{row:?} from {before:?}");
            assert_eq!(at(&after), to, "{row:?} from {before:?}");
            let change = |after: u64, before: u64| after as i64 - before as i64;
            assert_eq!(
                change(after.credit_bytes(), before.credit_bytes()),
                credit,
                "{row:?}"
            );
            assert_eq!(
                change(after.granted_bytes(), before.granted_bytes()),
                granted,
                "{row:?}"
            );
        }
    }
}

#[test]
fn the_table_leaves_nothing_out() {
    let mut cells: Vec<_> = TABLE.iter().map(|row| (row.0, row.1)).collect();
    cells.sort_unstable();
    cells.dedup();
    assert_eq!(cells.len(), TABLE.len(), "a cell stands twice");
    assert_eq!(cells.len(), ALL.len() * INPUTS);
}

/// What one end sends is what the other hears: two ends that only do what their table allows never break a rule, and
/// whatever they do, both close once each has said its last.
#[test]
fn a_mirror_image_never_breaks_the_rules() {
    const SENDS: [Input; 8] = [
        SendGrant,
        SendChunk,
        SendChunkBeyond,
        SendLast,
        SendLastBeyond,
        SendEnd,
        SendFail,
        SendCancel,
    ];
    // All runs of five sends by either end, each heard at once.
    let turns = 2 * SENDS.len();
    for run in 0..turns.pow(5) {
        let mut left = Stream::opened_here(false, GRANTED_BYTES, CREDIT_BYTES);
        let mut right = Stream::opened_there(false, CREDIT_BYTES, GRANTED_BYTES);
        let mut rest = run;
        for _ in 0..5 {
            let (end, other) = if rest % 2 == 0 {
                (&mut left, &mut right)
            } else {
                (&mut right, &mut left)
            };
            let input = SENDS[rest / 2 % SENDS.len()];
            rest /= turns;
            let output = apply(end, input);
            if output == SEND {
                let heard = match input {
                    SendGrant => HearGrant,
                    SendChunk => HearChunk,
                    SendLast => HearLast,
                    SendEnd => HearEnd,
                    SendFail => HearFail,
                    SendCancel => HearCancel,
                    other => panic!("{other:?} was sent"),
                };
                let heard = apply(other, heard);
                assert!(
                    matches!(heard, Output::Heard(_)),
                    "{input:?} was {heard:?} in run {run}"
                );
            }
            assert_eq!(
                end.state() == State::Closed,
                other.state() == State::Closed,
                "run {run}"
            );
            if end.state() == State::Active {
                assert_eq!(end.has_sent_end(), other.has_received_end(), "run {run}");
                assert_eq!(other.has_sent_end(), end.has_received_end(), "run {run}");
                if !end.has_sent_end() {
                    assert_eq!(end.credit_bytes(), other.granted_bytes(), "run {run}");
                }
            }
        }
        for (end, other) in [(0, 1), (1, 0)] {
            let mut ends = [left, right];
            if ends[end].send_end() {
                ends[other].handle(Part::End).expect("an end may be sent");
            }
            [left, right] = ends;
        }
        assert_eq!(
            (left.state(), right.state()),
            (State::Closed, State::Closed),
            "run {run}"
        );
    }
}

#[test]
fn credit_saturates() {
    let mut stream = Stream::opened_here(false, u64::MAX, u64::MAX);
    assert_eq!(stream.handle(Part::Grant { bytes: u64::MAX }), Ok(Heard::Granted));
    assert_eq!(stream.credit_bytes(), u64::MAX);
    assert!(stream.send_grant(u64::MAX));
    assert_eq!(stream.granted_bytes(), u64::MAX);
    assert_eq!(stream.send_chunk(u64::MAX, false), Ok(()));
    assert_eq!(stream.credit_bytes(), 0);
}
