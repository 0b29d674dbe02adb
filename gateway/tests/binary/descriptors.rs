//! When the process has no descriptor left, those who are connected stay served, and others come in again later.

use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use fluxar_protocol::Kind;

use crate::process::{Greeted, PATIENCE, Process, command};

#[test]
fn running_out_of_descriptors_is_survived() {
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        .arg("ulimit -n 64; exec \"$0\" \"$@\"")
        .arg(command().get_program())
        .args(["--listen", "tcp://127.0.0.1:0", "--cores", "1", "--no-log"]);
    let mut gateway = Process::spawn(limited);
    let mut first = gateway.client();
    // More than it can take. They are in the kernel's queue, or closed.
    let address = gateway.address("tcp://").to_owned();
    let crowd: Vec<TcpStream> = (0..100)
        .filter_map(|_| TcpStream::connect(&address).ok())
        .collect();
    assert!(crowd.len() > 64);
    for _ in 0..10 {
        first.say(Kind::Ping, None, &[0xf6]);
        assert_eq!(first.hear(), [(Kind::Ping, None)]);
    }
    drop(crowd);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "nobody is let in again");
        let Ok(stream) = TcpStream::connect(&address) else {
            continue;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Greeted::on(stream))).is_ok() {
            break;
        }
    }
    first.say(Kind::Ping, None, &[0xf6]);
    assert_eq!(first.hear(), [(Kind::Ping, None)]);
    gateway.signal("TERM");
    drop(first);
    assert_eq!(gateway.exit_code(), Some(0));
}
