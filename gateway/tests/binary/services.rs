//! `$services.list` and `$services.drain`, through a gateway of several cores, and who is answered.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use fluxar_protocol::{Code, Kind};
use minicbor::Decoder;

use crate::caller::{Caller, Road, Stream, WebSocket};
use crate::process::{PATIENCE, Process};

type Client = Caller<Stream<TcpStream>>;

fn tcp(gateway: &Process, agent: &str) -> Client {
    let stream = TcpStream::connect(gateway.address("tcp://")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    Caller::on(Stream(stream), agent)
}

/// A row of a list, as far as these tests look.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    id: String,
    name: String,
    fleet: Option<String>,
    methods: Vec<String>,
    in_flight: u64,
    state: String,
    answered: u64,
    keys: usize,
}

/// The rows, and how many cores are missing.
fn decode(payload: &[u8]) -> (Vec<Row>, u64) {
    let mut d = Decoder::new(payload);
    let (mut rows, mut missing) = (Vec::new(), u64::MAX);
    for _ in 0..d.map().unwrap().unwrap() {
        match d.str().unwrap() {
            "services" => {
                for _ in 0..d.array().unwrap().unwrap() {
                    rows.push(decode_row(&mut d));
                }
            }
            "cores_missing" => missing = d.u64().unwrap(),
            "left_out" => assert_eq!(d.u64().unwrap(), 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(d.position(), payload.len());
    (rows, missing)
}

fn decode_row(d: &mut Decoder<'_>) -> Row {
    let keys = d.map().unwrap().unwrap();
    let mut row = Row {
        keys: keys as usize,
        ..Row::default()
    };
    for _ in 0..keys {
        match d.str().unwrap() {
            "id" => row.id = d.decode::<Option<&str>>().unwrap().unwrap_or("-").into(),
            "name" => row.name = d.str().unwrap().into(),
            "fleet" => row.fleet = d.decode().unwrap(),
            "methods" => row.methods = d.decode().unwrap(),
            "in_flight" => row.in_flight = d.u64().unwrap(),
            "state" => row.state = d.str().unwrap().into(),
            "answered" => row.answered = d.u64().unwrap(),
            _ => d.skip().unwrap(),
        }
    }
    row
}

fn list<R: Road>(client: &mut Caller<R>) -> Vec<Row> {
    let payload = client.call("$services.list", b"\xf6").expect("a list");
    let (rows, missing) = decode(&payload);
    assert_eq!(missing, 0, "every core has told");
    rows
}

/// `{peer, on}`.
fn wish(peer: &str, on: bool) -> Vec<u8> {
    let mut payload = vec![0xa2, 0x64];
    payload.extend(b"peer");
    payload.extend([0x78, peer.len() as u8]);
    payload.extend(peer.as_bytes());
    payload.extend([0x62, b'o', b'n', if on { 0xf5 } else { 0xf4 }]);
    payload
}

/// The ids of who was marked.
fn drain<R: Road>(client: &mut Caller<R>, peer: &str, on: bool) -> Result<Vec<String>, Code> {
    let payload = client
        .call("$services.drain", &wish(peer, on))
        .map_err(|(code, _)| code)?;
    let mut d = Decoder::new(&payload);
    assert_eq!(d.map().unwrap(), Some(4));
    assert_eq!(d.str().unwrap(), "matched");
    let matched = d.u32().unwrap();
    assert_eq!(d.str().unwrap(), "ids");
    let ids: Vec<String> = d.decode().unwrap();
    assert!(ids.len() <= matched as usize);
    for key in ["left_out", "cores_missing"] {
        assert_eq!((d.str().unwrap(), d.u32().unwrap()), (key, 0));
    }
    Ok(ids)
}

#[test]
fn services_are_listed_and_drained_over_all_cores() {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    let gateway = Process::start(&["--cores", &cores.to_string()]);
    // Connections are spread over the cores: the two servers are on two, and so are the callers.
    let mut servers = [tcp(&gateway, "echo/1"), tcp(&gateway, "echo/2")];
    let mut callers = [tcp(&gateway, "a"), tcp(&gateway, "b")];
    for server in &mut servers {
        server.serve("echo.it", None);
    }
    servers[0].serve("echo.other", Some("canary"));
    let rows = list(&mut callers[0]);
    let mut told: Vec<_> = rows
        .iter()
        .map(|row| (row.name.as_str(), row.fleet.as_deref(), row.methods.join(" ")))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            ("echo/1", None, "echo.it".to_owned()),
            ("echo/1", Some("canary"), "echo.other".to_owned()),
            ("echo/2", None, "echo.it".to_owned()),
        ]
    );
    assert!(
        rows.iter().all(|row| row.keys == 15 && row.state == "fit"),
        "{rows:?}"
    );

    // One call from each caller is held open by the first server; the second is out of the way.
    assert_eq!(drain(&mut callers[1], "echo/2", true).unwrap().len(), 1);
    let calls: Vec<_> = callers
        .iter_mut()
        .map(|caller| caller.begin("echo.it", b"\x01"))
        .collect();
    let held = [servers[0].called(), servers[0].called()];
    for caller in &mut callers {
        let rows = list(caller);
        let row = |name| rows.iter().find(|row| row.name == name).expect("a row");
        assert_eq!(
            (row("echo/1").in_flight, row("echo/1").state.as_str()),
            (2, "fit")
        );
        assert_eq!(
            (row("echo/2").in_flight, row("echo/2").state.as_str()),
            (0, "draining")
        );
    }

    // The other way round, by id: new calls go to the second, what is open at the first is finished.
    let id = list(&mut callers[0])
        .into_iter()
        .find(|row| row.name == "echo/1")
        .expect("a row")
        .id;
    assert_eq!(drain(&mut callers[0], "echo/2", false).unwrap().len(), 1);
    assert_eq!(drain(&mut callers[0], &id, true), Ok(vec![id]));
    for _ in 0..10 {
        for caller in &mut callers {
            let call = caller.begin("echo.it", b"\x02");
            let at_second = servers[1].called();
            servers[1].answer(&at_second, b"\x02");
            assert_eq!(caller.outcome(call), Ok(b"\x02".to_vec()));
        }
    }
    for call in &held {
        servers[0].answer(call, b"\x01");
    }
    for (caller, call) in callers.iter_mut().zip(calls) {
        assert_eq!(caller.outcome(call), Ok(b"\x01".to_vec()));
    }
    let rows = list(&mut callers[1]);
    let answered: u64 = rows
        .iter()
        .filter(|row| row.fleet.is_none())
        .map(|row| row.answered)
        .sum();
    assert_eq!(answered, 22, "{rows:?}");

    assert_eq!(drain(&mut callers[0], "nobody", true), Err(Code::NotFound));
    assert_eq!(drain(&mut callers[0], "0/9999.1", true), Err(Code::NotFound));
}

#[test]
fn what_the_gateway_does_not_have_is_named_with_what_it_has() {
    let gateway = Process::start(&[]);
    let mut client = tcp(&gateway, "a");
    let (code, message) = client.call("$services.lst", b"\xf6").expect_err("a refusal");
    assert_eq!(code, Code::Unimplemented);
    assert!(
        message.contains("$services.list") && message.contains("$services.drain"),
        "{message}"
    );
    let (code, message) = client.call("$services.drain", b"\x61a").expect_err("a refusal");
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("\"peer\""), "{message}");
    let open = client.send(Kind::Stream, None, Some("$services.list"), None, b"\xf6");
    let refused = client.wait(|message| message.reference == Some(open));
    assert_eq!(refused.error.map(|(code, _)| code), Some(Code::Unimplemented));
}

#[test]
fn only_this_machine_s_own_programs_are_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("unix://{}", folder.path().join("fluxar.sock").display());
    let path = folder.path().join("fluxar.toml");
    std::fs::write(&path, "[admin]\nfrom = [\"unix\"]\n").expect("a file");
    let open = Process::start(&["--listen", &url]);
    let web = |gateway: &Process| {
        let stream = TcpStream::connect(gateway.address("ws://")).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Caller::on(WebSocket::open(stream), "page")
    };
    let unix = |gateway: &Process| {
        let stream = UnixStream::connect(gateway.address("unix://")).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Caller::on(Stream(stream), "local")
    };
    let denied = |outcome: Result<Vec<u8>, (Code, String)>| {
        let (code, message) = outcome.expect_err("a refusal");
        assert_eq!(code, Code::PermissionDenied);
        assert!(message.contains("admin.from"), "{message}");
    };
    denied(web(&open).call("$services.list", b"\xf6"));
    denied(web(&open).call("$services.drain", &wish("a", true)));
    denied(web(&open).call("$anything", b"\xf6"));
    assert_eq!(list(&mut tcp(&open, "a")), []);
    assert_eq!(list(&mut unix(&open)), []);
    drop(open);

    let closed = Process::start(&["--listen", &url, "--config", &path.display().to_string()]);
    denied(tcp(&closed, "a").call("$services.list", b"\xf6"));
    let mut local = unix(&closed);
    assert_eq!(list(&mut local), []);
    // Nobody at all, from now on, on connections that stand too.
    std::fs::write(&path, "[admin]\nfrom = []\n").expect("a file");
    closed.signal("HUP");
    closed.wait_for_log("reloaded: changed: admin.from");
    let begun = Instant::now();
    loop {
        match local.call("$services.list", b"\xf6") {
            Ok(_) => assert!(begun.elapsed() < PATIENCE, "the setting is not in force"),
            refused => break denied(refused),
        }
    }
}

#[test]
fn an_endpoint_that_nobody_listens_at_is_listed_as_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    // Nobody has this socket.
    let url = format!("unix://{}", folder.path().join("service.sock").display());
    let text = format!("[[upstream]]\nname = \"users\"\nendpoints = [\"{url}\"]\nmethods = [\"users.>\"]\n");
    std::fs::write(&path, text).expect("a file");
    let gateway = Process::start(&["--cores", "1", "--config", &path.display().to_string()]);
    assert!(
        gateway
            .banner
            .iter()
            .any(|line| line.contains("dials") && line.contains(&url)),
        "{:?}",
        gateway.banner
    );
    let mut client = tcp(&gateway, "a");
    let rows = list(&mut client);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(
        (row.id.as_str(), row.name.as_str(), row.state.as_str()),
        ("-", url.as_str(), "down")
    );
    assert_eq!(row.fleet.as_deref(), Some("users"));
    for name in ["users", url.as_str()] {
        // It counts, and has no id.
        assert_eq!(drain(&mut client, name, true), Ok(vec![]));
    }
    let (code, _) = client.call("users.get", b"\xf6").expect_err("a refusal");
    assert_eq!(code, Code::Unavailable);
}

/// A service that listens, and answers its name to every call, on as many connections as come.
fn listen(path: &Path, name: &'static [u8]) {
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut service = Caller::welcoming(Stream(stream), "service/1");
                loop {
                    let call = service.called();
                    service.answer(&call, name);
                }
            });
        }
    });
}

#[test]
fn endpoints_are_listed_drained_and_taken_out_by_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    let [a, b] = ["a.sock", "b.sock"].map(|name| folder.path().join(name));
    listen(&a, b"\x61a");
    listen(&b, b"\x61b");
    let [url_a, url_b] = [a, b].map(|path| format!("unix://{}", path.display()));
    let configure = |urls: &[&String]| {
        let text = format!("[[upstream]]\nname = \"users\"\nmethods = [\"users.>\"]\nendpoints = {urls:?}\n");
        std::fs::write(&path, text).expect("a file");
    };
    configure(&[&url_a, &url_b]);
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    let gateway = Process::start(&[
        "--cores",
        &cores.to_string(),
        "--config",
        &path.display().to_string(),
    ]);
    let mut clients = [tcp(&gateway, "x"), tcp(&gateway, "y")];
    let begun = Instant::now();
    let rows = loop {
        let rows = list(&mut clients[0]);
        if rows.iter().filter(|row| row.state == "fit").count() == 2 * cores {
            break rows;
        }
        assert!(begun.elapsed() < PATIENCE, "{rows:?}");
    };
    assert!(
        rows.iter()
            .all(|row| row.fleet.as_deref() == Some("users") && row.methods == ["users.>"]),
        "{rows:?}"
    );

    // One endpoint drains: all connections to it, on all cores.
    let ids_of = |url: Option<&str>| -> BTreeSet<String> {
        let are_meant = rows.iter().filter(|row| url.is_none_or(|url| row.name == url));
        are_meant.map(|row| row.id.clone()).collect()
    };
    let as_set = |drained: Result<Vec<String>, Code>| BTreeSet::from_iter(drained.expect("an answer"));
    assert_eq!(as_set(drain(&mut clients[0], &url_a, true)), ids_of(Some(&url_a)));
    for _ in 0..20 {
        for client in &mut clients {
            assert_eq!(client.call("users.get", b"\xf6"), Ok(b"\x61b".to_vec()));
        }
    }
    assert_eq!(as_set(drain(&mut clients[0], "users", false)), ids_of(None));
    let begun = Instant::now();
    while clients[0].call("users.get", b"\xf6") != Ok(b"\x61a".to_vec()) {
        assert!(begun.elapsed() < PATIENCE, "it gets nothing any more");
    }
    // By its id: that connection alone, also behind a reload that gives it other terms.
    let id = &rows.iter().find(|row| row.name == url_a).expect("a row").id;
    assert_eq!(drain(&mut clients[0], id, true), Ok(vec![id.clone()]));
    std::fs::write(
        &path,
        format!(
            "[[upstream]]\nname = \"users\"\nmethods = [\"users.>\"]\nweight = 2\nendpoints = [{url_a:?}, {url_b:?}]\n"
        ),
    )
    .expect("a file");
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: upstream changed: users");
    let state = |rows: &[Row]| {
        let row = rows.iter().find(|row| row.id == *id).cloned();
        row.unwrap_or_default().state
    };
    assert_eq!(state(&list(&mut clients[1])), "draining");

    // It is taken out while calls go on: none of them fails.
    configure(&[&url_b]);
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: upstream changed: users");
    let begun = Instant::now();
    loop {
        for client in &mut clients {
            client.call("users.get", b"\xf6").expect("an answer");
        }
        let rows = list(&mut clients[1]);
        if rows.iter().all(|row| row.name == url_b) {
            assert_eq!(rows.len(), cores, "{rows:?}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{rows:?}");
    }
    // And all of it: nobody is left.
    std::fs::write(&path, "").expect("a file");
    gateway.signal("HUP");
    gateway.wait_for_log("reloaded: upstream removed: users");
    let begun = Instant::now();
    while clients[0].call("users.get", b"\xf6").is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it still gets calls");
    }
    let (code, _) = clients[0].call("users.get", b"\xf6").expect_err("a refusal");
    assert_eq!(code, Code::Unavailable);
}
