//! How it ends: in good order at the first signal, at once at the second.

use std::io::{Read, Write};
use std::net::TcpStream;

use fluxar_protocol::{Code, Kind};

use crate::process::{PATIENCE, Process, command, unix_client};

#[test]
fn a_signal_drains_tells_everybody_and_exits_0() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.sock");
    let url = format!("unix://{}", path.display());
    for signal in ["TERM", "INT"] {
        let mut gateway = Process::start(&["--listen", &url]);
        assert_eq!(
            gateway.banner[0],
            format!("Fluxar Gateway {}", env!("CARGO_PKG_VERSION"))
        );
        let mut tcp = gateway.client();
        let mut unix = unix_client(gateway.address("unix://"));
        let mut ws = TcpStream::connect(gateway.address("ws://")).expect("a connection");
        ws.set_read_timeout(Some(PATIENCE)).expect("an option");
        ws.write_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
              Sec-WebSocket-Protocol: fluxar.v0\r\n\r\n",
        )
        .expect("the gateway reads");
        let mut first = [0; 12];
        ws.read_exact(&mut first).expect("a response");
        assert_eq!(&first, b"HTTP/1.1 101");

        gateway.signal(signal);
        let goodbye = (Kind::Cancel, Some(Code::Unavailable));
        assert_eq!(tcp.hear_all(), [goodbye]);
        assert_eq!(unix.hear_all(), [goodbye]);
        // The rest of the response, a message with the goodbye, a close frame with 1001, the end.
        let mut rest = Vec::new();
        let mut piece = [0; 1024];
        while !rest.ends_with(&[0x88, 0x02, 0x03, 0xe9]) {
            let bytes = ws.read(&mut piece).expect("a close frame");
            assert_ne!(bytes, 0, "the end without a close frame: {}", rest.escape_ascii());
            rest.extend_from_slice(&piece[..bytes]);
        }
        let message = rest.windows(2).position(|two| two == [0x87, 0x06]);
        assert!(
            message.is_some(),
            "no goodbye in front of it: {}",
            rest.escape_ascii()
        );
        drop((tcp, unix, ws));
        assert_eq!(gateway.exit_code(), Some(0), "after SIG{signal}");
        assert!(!path.exists(), "the socket's file is gone");
    }
}

#[test]
fn a_second_signal_exits_1_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("unix://{}", folder.path().join("fluxar.sock").display());
    let mut gateway = Process::start(&["--listen", &url]);
    // Somebody who does not read what is queued makes the draining last: a Unix socket holds little.
    let mut stuck = unix_client(gateway.address("unix://"));
    stuck.say(Kind::Subscribe, Some("self.talk"), &[0xf6]);
    let mut payload = vec![0x59, 0x40, 0x00];
    payload.resize(3 + 0x4000, 0x42);
    for _ in 0..50 {
        stuck.say(Kind::Event, Some("self.talk"), &payload);
    }
    gateway.signal("TERM");
    gateway.wait_for_log("draining");
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(1));
    drop(stuck);
}

#[test]
fn nobody_waits_for_who_does_not_read_the_log() {
    let mut command = command();
    command.args(["--listen", "tcp://127.0.0.1:0", "--cores", "1", "--log", "debug"]);
    let mut gateway = Process::spawn_unread(command);
    // Each of them is worth some lines, and a pipe holds no more than 64 KiB.
    for _ in 0..1_000 {
        drop(gateway.client());
    }
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn one_that_was_killed_leaves_a_socket_file_that_is_no_hindrance() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.sock");
    let url = format!("unix://{}", path.display());
    let mut gateway = Process::start(&["--listen", &url]);
    gateway.signal("KILL");
    assert_eq!(gateway.exit_code(), None);
    assert!(path.exists());
    let mut gateway = Process::start(&["--listen", &url]);
    let _ = unix_client(gateway.address("unix://"));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}
