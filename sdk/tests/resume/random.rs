//! Connections that break at any moment: between envelopes, and within them, on either way. The gateway that is played
//! here keeps to the protocol; what it carries out, and what the program gets, is counted.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fluxar_protocol::{
    Batch, Form, frame,
    session::{self, Kept, TOKEN_BYTES, Tokens},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const CUTS: u64 = 200;
/// Chunks under way on the stream.
const WINDOW: u64 = 20;

/// A session, as a gateway holds it. It answers calls with their payload, and sends chunks back.
struct Session {
    tokens: Tokens,
    /// Makes tokens that differ.
    connections: u8,
    received: session::Received,
    kept: Kept<Vec<u8>>,
    answered: HashMap<Id, Vec<u8>>,
    random: Random,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Session {
    fn new(seed: u64) -> Self {
        Self {
            tokens: Tokens::new([0; TOKEN_BYTES]),
            connections: 0,
            received: session::Received::default(),
            kept: Kept::new(1 << 20),
            answered: HashMap::new(),
            random: Random(seed),
        }
    }

    /// Serves one connection until it is cut.
    async fn serve(&mut self, mut socket: TcpStream) -> Option<()> {
        let cut_after = self.random.below(40);
        let mut said = self.greet(&mut socket, cut_after).await?;
        for _ in 0..cut_after {
            let body = read(&mut socket).await?;
            for envelope in Batch::new(&body) {
                let envelope = envelope.expect("the client speaks well").envelope;
                if session::is_counted(&envelope) {
                    self.received.take(1);
                }
                self.handle(&envelope, &mut said);
                // The rest of the frame has arrived, and nothing becomes of it.
                if self.random.below(100) == 0 {
                    return None;
                }
            }
            if self.random.below(8) == 0 {
                // A part of it leaves.
                let part = self.random.below(said.len() as u64 + 1) as usize;
                said.truncate(part);
                socket.write_all(&said).await.ok()?;
                return None;
            }
            socket.write_all(&said).await.ok()?;
            said.clear();
        }
        None
    }

    /// Takes the hello. What is to be said next stands in what it returns.
    async fn greet(&mut self, socket: &mut TcpStream, cut_after: u64) -> Option<Vec<u8>> {
        let body = read(socket).await?;
        let hello = Batch::new(&body).next().unwrap().unwrap().envelope;
        let id = hello.id;
        let hello = Hello::decode(hello.payload).unwrap();
        self.connections = self.connections.wrapping_add(1);
        let next = [self.connections; TOKEN_BYTES];
        let mut again = Vec::new();
        let token = match &hello.resume {
            None => {
                assert!(self.answered.is_empty(), "the session began, and goes on");
                self.tokens = Tokens::new(next);
                next
            }
            Some(resume) => {
                let token = self
                    .tokens
                    .take_over(resume.token, next)
                    .expect("a token that is good");
                for (bytes, from) in self.kept.resume(resume.recv).expect("nothing was forgotten") {
                    again.push(bytes[from..].to_vec());
                }
                token
            }
        };
        let welcome = Welcome {
            session: SESSION,
            token: Some(&token),
            caps: Caps {
                resume: true,
                ..Caps::default()
            },
            resumed: hello.resume.is_some(),
            recv: self.received.tell(),
            ..raw::welcome(65_536)
        };
        let mut payload = Vec::new();
        welcome.encode(&mut payload);
        let mut said = Vec::new();
        say(&envelope(Kind::Hello, Some(id), &payload), &mut said);
        if cut_after == 0 {
            // The answer is lost, or what stands behind it.
            let part = self.random.below(said.len() as u64 + 1) as usize;
            socket.write_all(&said[..part]).await.ok()?;
            return None;
        }
        for envelopes in again {
            said.extend_from_slice(&frame::prefix(envelopes.len()));
            said.extend_from_slice(&envelopes);
        }
        socket.write_all(&said).await.ok()?;
        Some(Vec::new())
    }

    fn handle(&mut self, envelope: &Envelope<'_>, said: &mut Vec<u8>) {
        self.tokens.confirm();
        if let Some(recv) = envelope.meta.and_then(|meta| meta.uint("recv").unwrap()) {
            self.kept.covered(recv).expect("a count of what was sent");
        }
        let reply = |kind, to, payload| raw::envelope(kind, Some(to), payload);
        match (envelope.kind, envelope.reference) {
            (Kind::Call, None) => {
                let before = self.answered.insert(envelope.id, envelope.payload.to_vec());
                assert_eq!(before, None, "a call came twice");
                self.say_counted(&reply(Kind::Call, envelope.id, envelope.payload), said);
            }
            (Kind::Stream, Some(stream)) if envelope.meta.is_none() => {
                self.say_counted(&reply(Kind::Stream, stream, envelope.payload), said);
                let credit = MetaWriter::new()
                    .uint("credit", envelope.payload.len() as u64)
                    .finish();
                let grant = Envelope {
                    meta: credit.as_deref().map(Meta::from_checked),
                    ..reply(Kind::Stream, stream, &[])
                };
                self.say_counted(&grant, said);
            }
            (Kind::Ping, None) => {
                let recv = MetaWriter::new().uint("recv", self.received.tell()).finish();
                let pong = Envelope {
                    meta: recv.as_deref().map(Meta::from_checked),
                    ..reply(Kind::Ping, envelope.id, &[])
                };
                say(&pong, said);
            }
            _ => {}
        }
    }

    fn say_counted(&mut self, envelope: &Envelope<'_>, said: &mut Vec<u8>) {
        let begin = said.len() + frame::PREFIX_BYTES;
        say(envelope, said);
        self.kept.keep(said[begin..].to_vec(), 1);
    }
}

fn say(envelope: &Envelope<'_>, said: &mut Vec<u8>) {
    let mut body = Vec::new();
    envelope.encode(Form::Compact, &mut body);
    said.extend_from_slice(&frame::prefix(body.len()));
    said.extend_from_slice(&body);
}

async fn read(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let len = socket.read_u32().await.ok()?;
    let mut body = vec![0; len as usize];
    socket.read_exact(&mut body).await.ok()?;
    Some(body)
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_comes_twice_over_many_cuts() {
    let (gateway, client) = Gateway::bind().await;
    let cuts = Arc::new(AtomicU64::new(0));
    let cuts_there = cuts.clone();
    let serving = tokio::spawn(async move {
        let mut session = Session::new(0x5eed);
        while let Ok((socket, _)) = gateway.listener.accept().await {
            let _ = session.serve(socket).await;
            cuts_there.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The first welcome may be cut as well.
    let client = in_time(client.keep_dialing(true).build()).await.unwrap();
    let mut callers = Vec::new();
    for caller in 0..4_u64 {
        let (client, cuts) = (client.clone(), cuts.clone());
        callers.push(tokio::spawn(async move {
            let mut made = 0;
            while cuts.load(Ordering::Relaxed) < CUTS {
                let number = caller << 32 | made;
                let call = client.request("echo").timeout(raw::PATIENCE).payload(&number);
                assert_eq!(call.send::<u64>().await.unwrap(), number);
                made += 1;
            }
            made
        }));
    }
    let (sink, mut items) = client.duplex::<u64, u64>("echo", &()).await.unwrap();
    let (mut sent, mut came) = (0, 0);
    while cuts.load(Ordering::Relaxed) < CUTS || came < sent {
        while sent < came + WINDOW && cuts.load(Ordering::Relaxed) < CUTS {
            in_time(sink.send(&sent)).await.unwrap();
            sent += 1;
        }
        if came < sent {
            assert_eq!(
                in_time(items.next()).await.unwrap().unwrap(),
                came,
                "in order, each once"
            );
            came += 1;
        }
    }
    let mut made = 0;
    for caller in callers {
        made += in_time(caller).await.unwrap();
    }
    assert!(
        made > CUTS && came > CUTS,
        "{made} calls and {came} items over {CUTS} cuts"
    );
    assert!(client.resumes() > CUTS / 2, "{} resumes", client.resumes());
    serving.abort();
}
