//! Out of descriptors: told, survived, and over as soon as there are some. Alone in its process, whose limit it
//! lowers.

mod kernel_server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use fluxar_engine::reactor::ReactorConfig;
use fluxar_engine::uring::UringConfig;
use kernel_server::Server;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn accepting_pauses_while_there_are_no_descriptors_and_goes_on() {
    let server = Server::start(
        1,
        &["tcp://127.0.0.1:0"],
        &UringConfig::default(),
        &ReactorConfig::default(),
    );
    // Room for what this test itself opens, and then for nothing.
    let null: OwnedFd = std::fs::File::open("/dev/null").expect("open").into();
    let highest = std::fs::read_dir("/proc/self/fd")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u64>().ok())
        .max()
        .expect("some");
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(highest + 8),
            maximum: hard,
        },
    )
    .expect("lower");
    // An accept goes by the limit of when it was armed: this one is taken by the old, the next is armed by the new.
    let mut first = server.connect(0);
    first.write_all(b"!").expect("write");
    first.read_exact(&mut [0]).expect("read");
    let mut hoard: Vec<OwnedFd> = Vec::new();
    while let Ok(more) = null.try_clone() {
        hoard.push(more);
    }
    // One for the client's end. The kernel completes the handshake, but nobody can take the connection.
    hoard.pop();
    let mut waiting = TcpStream::connect(server.socket_address(0)).expect("connect");
    waiting.write_all(b"?").expect("write");
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    waiting.read(&mut [0]).expect_err("not accepted");
    // Who was there is served.
    first.write_all(b"still here").expect("write");
    first.read_exact(&mut [0; 10]).expect("read");
    drop(hoard);
    waiting
        .set_read_timeout(Some(kernel_server::STALLED))
        .expect("timeout");
    waiting.read_exact(&mut [0]).expect("accepted and echoed");
    let failed = server.stop()[0].accepts_failed;
    assert!(
        (1..=30).contains(&failed),
        "{failed} failed accepts: it pauses between them"
    );
}
