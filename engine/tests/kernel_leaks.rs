//! Thousands of connections come and go; what the process had before is what it has after. Alone in its process,
//! because descriptors are counted for the process.

mod kernel_server;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::reactor::ReactorConfig;
use fluxar_engine::uring::UringConfig;
use kernel_server::{STALLED, Server};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn two_thousand_connections_leave_nothing_behind() {
    const ROUNDS: usize = 20;
    const EACH: usize = 100;
    let before_server = descriptors();
    let directory = tempfile::tempdir().expect("directory");
    let unix = format!("unix://{}", directory.path().join("s").display());
    let urls = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0/", &unix];
    let server = Server::start(2, &urls, &UringConfig::default(), &ReactorConfig::default());
    // One connection first, so that whatever is made once is made.
    drop(server.connect(0));
    server.await_connections(0);
    let idle = descriptors();
    for round in 0..ROUNDS {
        let mut streams: Vec<_> = (0..EACH)
            .map(|n| server.connect(usize::from(n % 5 == 0)))
            .collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            let websocket = n % 5 == 0;
            match (websocket, (n + round) % 4) {
                // Opens and says nothing.
                (_, 0) => {}
                // Half a handshake.
                (true, _) => stream
                    .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUpgr")
                    .expect("write"),
                // Echoed and closed in good order.
                (_, 1) => {
                    stream.write_all(b"hello").expect("write");
                    stream.read_exact(&mut [0; 5]).expect("read");
                    stream.shutdown(Shutdown::Write).expect("shutdown");
                    assert_eq!(stream.read(&mut [0]).expect("end"), 0);
                }
                // Closed with its echo unread: the kernel answers with a reset.
                (_, 2) => stream.write_all(&[1; 5000]).expect("write"),
                // Reset.
                _ => {
                    stream.write_all(&[1; 5000]).expect("write");
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
                }
            }
        }
        drop(streams);
        server.await_connections(0);
    }
    let begun = Instant::now();
    while descriptors() > idle {
        assert!(
            begun.elapsed() < STALLED,
            "{} descriptors, {idle} before",
            descriptors()
        );
        thread::sleep(Duration::from_millis(1));
    }
    let mut adopted = 0;
    for ended in server.stop() {
        assert_eq!(
            (ended.connections, ended.open, ended.gathers_lent),
            (0, 0, 0),
            "{ended:?}"
        );
        assert_eq!(ended.free_buffers, usize::from(UringConfig::default().buffers));
        adopted += ended.adopted;
    }
    assert_eq!(adopted as usize, ROUNDS * EACH + 1);
    drop(directory);
    let begun = Instant::now();
    while descriptors() > before_server {
        assert!(
            begun.elapsed() < STALLED,
            "{} descriptors, {before_server} at first",
            descriptors()
        );
        thread::sleep(Duration::from_millis(1));
    }
}
