//! A server that speaks as much of Redis as a fan-out needs, and does to the messages what a test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is sent for the `n`th message (from 0), in its place.
pub(crate) type Fault = Box<dyn FnMut(u64, Vec<u8>) -> Vec<Vec<u8>> + Send>;

struct Shared {
    subscribers: Vec<(Vec<u8>, TcpStream)>,
    messages: u64,
    fault: Fault,
}

/// Starts one on a port of its own. Its threads end with their connections, and with the process.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let shared = Arc::new(Mutex::new(Shared {
        subscribers: Vec::new(),
        messages: 0,
        fault,
    }));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            stream.set_nodelay(true).expect("an option");
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(stream, &shared));
        }
    });
    address
}

/// One connection, until it ends.
fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let words = command(&mut reader)?;
        match &words[0][..] {
            b"PING" => stream.write_all(b"+PONG\r\n").ok()?,
            b"SUBSCRIBE" => {
                let channel = words[1].clone();
                let mut answer = b"*3\r\n".to_vec();
                bulk(b"subscribe", &mut answer);
                bulk(&channel, &mut answer);
                answer.extend(b":1\r\n");
                let mut shared = shared.lock().expect("no panic");
                stream.write_all(&answer).ok()?;
                let subscriber = stream.try_clone().ok()?;
                shared.subscribers.push((channel, subscriber));
            }
            b"PUBLISH" => {
                let mut shared = shared.lock().expect("no panic");
                let number = shared.messages;
                shared.messages += 1;
                let payloads = (shared.fault)(number, words[2].clone());
                let mut bytes = Vec::new();
                for payload in payloads {
                    bytes.extend(b"*3\r\n");
                    bulk(b"message", &mut bytes);
                    bulk(&words[1], &mut bytes);
                    bulk(&payload, &mut bytes);
                }
                for (channel, subscriber) in &mut shared.subscribers {
                    if *channel == words[1] {
                        // One that has gone hears nothing.
                        let _ = subscriber.write_all(&bytes);
                    }
                }
                stream.write_all(b":1\r\n").ok()?;
            }
            other => panic!(
                "{:?} is more than this server knows",
                String::from_utf8_lossy(other)
            ),
        }
    }
}

fn bulk(bytes: &[u8], into: &mut Vec<u8>) {
    into.extend(format!("${}\r\n", bytes.len()).bytes());
    into.extend(bytes);
    into.extend(b"\r\n");
}

/// An array of texts; `None` at the end of the stream.
fn command(reader: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = number(reader, '*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; number(reader, '$')? + 2];
        reader.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

fn number(reader: &mut impl BufRead, mark: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}
