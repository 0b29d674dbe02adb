//! SIGHUP: rules change without dropping a connection or a call, and what is wrong changes nothing.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use fluxar_protocol::Kind;

use crate::caller::{Caller, Stream};
use crate::process::{PATIENCE, Process};

type Client = Caller<Stream<TcpStream>>;

fn client(gateway: &Process, agent: &str) -> Client {
    let stream = TcpStream::connect(gateway.address("tcp://")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.set_nodelay(true).expect("an option");
    Caller::on(Stream(stream), agent)
}

/// Serves `echo.who` in a fleet by answering its name, and `echo.hold` by holding the call until `echo.who` comes.
fn serve(gateway: &Process, fleet: &'static str) {
    let mut server = client(gateway, fleet);
    server.serve("echo.>", Some(fleet));
    thread::spawn(move || {
        let mut held = Vec::new();
        loop {
            let call = server.called();
            if call.target.as_deref() == Some("echo.hold") {
                held.push(call);
                continue;
            }
            let mut name = vec![0x60 | fleet.len() as u8];
            name.extend(fleet.as_bytes());
            if call.target.as_deref() == Some("echo.release") {
                for call in held.drain(..) {
                    server.answer(&call, &name);
                }
            }
            server.answer(&call, &name);
        }
    });
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
}

fn route_to(fleet: &str) -> String {
    format!("[[route]]\nmethods = \"echo.>\"\nfleet = \"{fleet}\"\n")
}

/// Calls until `name` answers; each call must be answered by somebody.
fn until_answered_by(caller: &mut Client, name: &[u8]) {
    let begun = std::time::Instant::now();
    while caller.call("echo.who", b"\xf6").expect("an answer") != name {
        assert!(begun.elapsed() < PATIENCE, "the rule is not in force");
    }
}

#[test]
fn a_reload_changes_the_rules_and_drops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    write(&path, &route_to("blue"));
    let mut gateway = Process::start(&["--config", &path.display().to_string()]);
    serve(&gateway, "blue");
    serve(&gateway, "green");
    let mut caller = client(&gateway, "caller");
    until_answered_by(&mut caller, b"\x64blue");
    let held = caller.begin("echo.hold", b"\xf6");

    write(
        &path,
        &format!("[limits]\nqueue_bytes = 2097152\n{}", route_to("green")),
    );
    gateway.signal("HUP");
    let before = gateway.wait_for_log("reloaded: 1 route now");
    assert!(
        before
            .iter()
            .any(|line| line.contains("limits.queue_bytes changed: takes effect at the next start")),
        "{before:?}"
    );
    until_answered_by(&mut caller, b"\x65green");
    // All of them, on whatever core.
    for _ in 0..20 {
        assert_eq!(
            client(&gateway, "another")
                .call("echo.who", b"\xf6")
                .expect("an answer"),
            b"\x65green"
        );
    }

    // Back to blue: the call that it got before the first reload is still open there, and is answered.
    write(&path, &route_to("blue"));
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: 1 route now");
    until_answered_by(&mut caller, b"\x64blue");
    assert_eq!(
        caller.call("echo.release", b"\xf6").expect("an answer"),
        b"\x64blue"
    );
    assert_eq!(caller.outcome(held).expect("an answer"), b"\x64blue");

    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: nothing changed");
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn a_reload_with_faults_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    let file = path.display().to_string();
    write(&path, &route_to("blue"));
    let mut gateway = Process::start(&["--config", &file]);
    serve(&gateway, "blue");
    serve(&gateway, "green");
    let mut caller = client(&gateway, "caller");
    until_answered_by(&mut caller, b"\x64blue");

    write(
        &path,
        &format!("{}percent = 101\nflet = \"green\"\n", route_to("green")),
    );
    gateway.signal("HUP");
    let before = gateway.wait_for_log("not reloaded: 2 faults");
    for (line, what) in [(4, "101 is no percentage"), (5, "did you mean `fleet`?")] {
        let place = format!("{file}:{line}: ");
        assert!(
            before
                .iter()
                .any(|said| said.contains(&place) && said.contains(what)),
            "{before:?}"
        );
    }
    fs::remove_file(&path).expect("it was there");
    gateway.signal("HUP");
    gateway.wait_for_log("cannot be read");
    gateway.wait_for_log("not reloaded: 1 fault in");
    for _ in 0..20 {
        assert_eq!(caller.call("echo.who", b"\xf6").expect("an answer"), b"\x64blue");
    }
    // Whole again, and taken.
    write(&path, &route_to("green"));
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: 1 route now");
    until_answered_by(&mut caller, b"\x65green");
    // It stood still through all of this: no goodbye came.
    caller.send(Kind::Ping, None, None, None, b"\xf6");
    caller.wait(|message| message.kind == Kind::Ping);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn the_level_of_the_log_changes_with_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    write(&path, "");
    let gateway = Process::start(&["--config", &path.display().to_string()]);
    write(&path, "[log]\nlevel = \"debug\"\n");
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: changed: log.level");
    let _client = client(&gateway, "anybody");
    gateway.wait_for_log("connected");
}
