//! Reading, printing and refusing configurations.

use super::*;
use crate::upstreams::Endpoint;
use fluxar_shard::routes::{Balance, Mirror};

fn read(text: &str) -> (Config, Vec<String>) {
    let mut config = Config::default();
    let mut faults = Vec::new();
    config.read_toml("fluxar.toml", text, &mut faults);
    (config, faults.iter().map(ToString::to_string).collect())
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let printed = Config::default().to_toml();
    let (config, faults) = read(&printed);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(config.to_toml(), printed);
}

#[test]
fn all_faults_are_told_at_once_with_their_lines() {
    let (_, faults) = read(
        "cores = true\n\
         listen = [\"http://127.0.0.1\"]\n\
         \n\
         [limits]\n\
         queue_byte = 5\n\
         heartbeat_ms = 10\n\
         frame_ms = \"soon\"\n",
    );
    assert_eq!(faults.len(), 5, "{faults:#?}");
    for (fault, line) in faults.iter().zip(["1:", "2:", "5:", "6:", "7:"]) {
        assert!(fault.starts_with(&format!("fluxar.toml:{line}")), "{fault}");
    }
    assert!(
        faults[2].contains("did you mean `limits.queue_bytes`"),
        "{}",
        faults[2]
    );
    assert!(faults[3].contains("10 is outside 1000..3600000"), "{}", faults[3]);
}

#[test]
fn a_file_that_is_not_toml_names_the_line() {
    let (_, faults) = read("cores = 1\nlisten = [\n");
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("fluxar.toml:"), "{}", faults[0]);
}

#[test]
fn the_environment_overrides_and_is_checked() {
    let mut config = Config::default();
    let mut faults = Vec::new();
    let variables = [
        ("FLUXAR_LIMITS_QUEUE_BYTES", "131072"),
        ("FLUXAR_LISTEN", "tcp://127.0.0.1:0, unix:///tmp/x.sock"),
        ("FLUXAR_CORES", "none"),
        ("FLUXAR_URL", "tcp://elsewhere:1"),
        ("PATH", "/bin"),
    ];
    config.read_environment(
        variables.iter().map(|(k, v)| (k.to_string(), v.to_string())),
        &mut faults,
    );
    assert_eq!(config.limits.queue_bytes, 131_072);
    assert_eq!(config.listen, ["tcp://127.0.0.1:0", "unix:///tmp/x.sock"]);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].source, "FLUXAR_CORES");
}

#[test]
fn cores_are_counts_or_lists() {
    assert_eq!(Cores::parse("all"), Ok(Cores::All));
    assert_eq!(Cores::parse("2"), Ok(Cores::Count(2)));
    assert_eq!(Cores::parse("0,2-3"), Ok(Cores::List(vec![0, 2, 3])));
    assert_eq!(Cores::parse("1-1"), Ok(Cores::List(vec![1])));
    assert!(Cores::parse("0").is_err());
    assert!(Cores::parse("3-1").is_err());
    assert!(Cores::parse("0,0").is_err());
    assert!(Cores::parse("0,x").is_err());
    for cores in [
        Cores::All,
        Cores::Count(2),
        Cores::List(vec![1]),
        Cores::List(vec![0, 2]),
    ] {
        assert_eq!(Cores::parse(&cores.to_string()), Ok(cores));
    }
}
/// The faults of a text, which must have none but these lines: (line, what is said).
fn faults_of(text: &str, expected: &[(usize, &str)]) {
    let (_, faults) = read(text);
    assert_eq!(faults.len(), expected.len(), "{text}\n{faults:#?}");
    for (fault, (line, what)) in faults.iter().zip(expected) {
        assert!(
            fault.starts_with(&format!("fluxar.toml:{line}: ")) && fault.contains(what),
            "line {line}, {what:?}: {fault}"
        );
    }
}

const SERVICES: &str = r#"
[services]
zone = "a"
ping_ms = 250
ejection_failures = 3

[[upstream]]
name = "users"
endpoints = [
    "tcp://10.0.0.7:9000",
    { url = "unix:///run/users.sock", weight = 2, zone = "b", in_flight = 64, drain = true },
]
methods = ["users.>", "sessions.*"]
connections = 2
weight = 3
zone = "a"
in_flight = 100

[[upstream]]
name = "shadow"
endpoints = ["ws://shadow.example:9001/x"]

[[route]]
methods = "users.>"
meta = { tenant = "acme", "with space" = "quo\"te" }
percent = 12.5
fleet = "users"
balance = "key"
mirror = { fleet = "shadow", percent = 0.001 }
timeout_ms = 2000

[[route]]
fleet = "canary"
"#;

#[test]
fn upstreams_and_routes_are_read() {
    let (config, faults) = read(SERVICES);
    assert_eq!(faults, Vec::<String>::new());
    let services = config.services();
    assert_eq!(services.health.ping_ms, 250);
    assert_eq!(services.routes.ejection.failures, 3);
    assert_eq!(services.routes.zone.as_deref(), Some("a"));
    let [users, shadow] = &services.upstreams[..] else {
        panic!("{:?}", services.upstreams);
    };
    assert_eq!((&*users.name, users.connections), ("users", 2));
    assert_eq!(
        users.methods.iter().map(|m| &**m).collect::<Vec<_>>(),
        ["users.>", "sessions.*"]
    );
    assert_eq!(
        users.endpoints,
        [
            Endpoint {
                address: Address::parse("tcp://10.0.0.7:9000").unwrap(),
                text: "tcp://10.0.0.7:9000".into(),
                weight: 3,
                zone: Some("a".into()),
                in_flight_max: 100,
                drain: false,
            },
            Endpoint {
                address: Address::parse("unix:///run/users.sock").unwrap(),
                text: "unix:///run/users.sock".into(),
                weight: 2,
                zone: Some("b".into()),
                in_flight_max: 64,
                drain: true,
            },
        ]
    );
    assert_eq!(shadow.endpoints[0].in_flight_max, u32::MAX);
    assert_eq!((shadow.connections, shadow.resolve_ms), (1, Upstream::RESOLVE_MS));
    let [rule, canary] = &services.routes.rules[..] else {
        panic!("{:?}", services.routes.rules);
    };
    assert_eq!(
        *rule,
        Rule {
            methods: "users.>".into(),
            meta: vec![
                ("tenant".into(), "acme".into()),
                ("with space".into(), "quo\"te".into())
            ],
            share: 12_500,
            fleet: Some("users".into()),
            balance: Balance::Key,
            mirror: Some(Mirror {
                fleet: "shadow".into(),
                share: 1,
            }),
            timeout_ms: Some(2_000),
        }
    );
    assert_eq!((canary.methods.as_str(), canary.share), (">", 100_000));
}

#[test]
fn printed_services_read_back_as_themselves() {
    let (config, _) = read(SERVICES);
    let printed = config.to_toml();
    let (again, faults) = read(&printed);
    assert_eq!(faults, Vec::<String>::new(), "{printed}");
    assert_eq!(again.services, config.services);
    assert_eq!(again.to_toml(), printed);
}

#[test]
fn faults_of_upstreams_have_their_lines() {
    faults_of(
        "[[upstream]]\n\
         endpoints = [\"tcp://a:1\"]\n\
         [[upstream]]\n\
         name = \"\"\n\
         endpoints = []\n\
         [[upstream]]\n\
         name = \"users\"\n\
         [[upstream]]\n\
         name = \"users\"\n\
         endpoints = [\n\
           \"a:1\",\n\
           \"tcp://a:0\",\n\
           \"tcp://a:1\",\n\
           { url = \"tcp://a:1\", wieght = 2 },\n\
           { weight = 0 },\n\
           { url = 7, drain = \"yes\" },\n\
           7,\n\
         ]\n\
         endpoint = 1\n\
         methods = [\"users.>.x\"]\n\
         connections = 0\n\
         in_flight = 0\n\
         resolve_ms = 1\n\
         colour = \"red\"\n",
        &[
            (1, "upstream 1: it has no `name`"),
            (4, "name: a name has 1 to 255 bytes"),
            (5, "nobody to dial"),
            (6, "upstream users: it has no `endpoints`"),
            (11, "write the transport in front"),
            (12, "port 0 cannot be dialled"),
            (14, "did you mean `weight`"),
            (14, "tcp://a:1 stands twice"),
            (15, "a table without `url`"),
            (15, "weight: 0 is outside 1..65536"),
            (16, "url: a number where a text belongs"),
            (16, "drain: a text where true or false belongs"),
            (17, "a number where an address or a table with `url` belongs"),
            (19, "did you mean `endpoints`"),
            (20, "methods: \"users.>.x\" is no pattern"),
            (21, "connections: 0 is outside 1..1024"),
            (22, "in_flight: 0 is outside"),
            (23, "resolve_ms: 1 is outside"),
            (24, "there is no `colour` here; known are name, "),
        ],
    );
    faults_of(
        "[[upstream]]\nname = \"x\"\nendpoints = [\"tcp://a:1\"]\n\
         [[upstream]]\nname = \"x\"\nendpoints = [\"tcp://a:1\"]\n",
        &[(5, "upstream x: the name is taken by an upstream above")],
    );
    faults_of(
        "upstream = \"tcp://a:1\"\n",
        &[(
            1,
            "upstream: a text where tables belong; begin each with a line [[upstream]]",
        )],
    );
    faults_of("[upstream]\nname = \"x\"\n", &[(1, "[[upstream]]")]);
    faults_of(
        "[[upstreams]]\nname = \"x\"\n",
        &[(1, "did you mean `[[upstream]]`?")],
    );
}

#[test]
fn faults_of_routes_have_their_lines() {
    faults_of(
        "[[route]]\n\
         methods = \"users..x\"\n\
         percent = 100.5\n\
         fleet = 7\n\
         balance = \"roundrobin\"\n\
         timeout_ms = 0\n\
         meta = { tenant = 7, other = \"x\" }\n\
         mirror = { percent = -1 }\n\
         [[route]]\n\
         method = \"users.>\"\n\
         fleet = \"a\"\n\
         mirror = { fleet = \"a\" }\n\
         [[route]]\n\
         methods = \"$services.>\"\n\
         percent = \"5\"\n\
         meta = {}\n\
         balance = 1\n\
         [[route]]\n\
         percent = 0.0001\n\
         mirror = \"a\"\n\
         balance = \"fastest\"\n",
        &[
            (2, "route 1: methods: \"users..x\" is no pattern of methods"),
            (3, "100.5 is no percentage"),
            (4, "fleet: a number where a text belongs"),
            (5, "did you mean \"round_robin\"?"),
            (6, "timeout_ms: 0 is outside 1.."),
            (7, "meta.tenant: a number where a text belongs"),
            (8, "route 1: mirror: percent: -1 is no percentage"),
            (8, "route 1: mirror: it has no `fleet`"),
            (10, "did you mean `methods`"),
            (12, "it would do everything twice"),
            (14, "begins with `$`"),
            (15, "percent: a text where a percentage belongs"),
            (16, "meta: an empty table"),
            (17, "balance: a number where a text belongs"),
            (19, "0.0001 is no percentage"),
            (20, "mirror: a text where a table belongs"),
            (21, "\"fastest\" is none of least, round_robin, key"),
        ],
    );
}

#[test]
fn faults_of_service_settings_have_their_lines() {
    faults_of(
        "[services]\n\
         zone = \"a\\u0007\"\n\
         ping = 5\n\
         retry_percent = 101\n\
         [admin]\n\
         from = [\"unix\", \"anywhere\"]\n\
         [limits]\n\
         stream_window_bytes = 1\n",
        &[
            (2, "control character"),
            (3, "there is no setting `services.ping`"),
            (4, "101 is outside 0..100"),
            (6, "\"anywhere\" is neither \"unix\" nor \"loopback\""),
            (8, "1 is outside 4096..16777216"),
        ],
    );
    let (config, faults) = read("[services]\nejection_first_ms = 9000\nejection_most_ms = 8000\n");
    assert_eq!(faults, Vec::<String>::new());
    let mut faults = Vec::new();
    config.check_together(&mut faults);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].message.contains("services.ejection_most_ms"),
        "{faults:?}"
    );
}

#[test]
fn there_may_be_only_so_many_rules_and_endpoints() {
    let routes = "[[route]]\nfleet = \"a\"\n".repeat(crate::limits::ROUTES_MAX + 1);
    faults_of(
        &routes,
        &[(2 * crate::limits::ROUTES_MAX + 1, "more than 1024 rules")],
    );
    let endpoints: Vec<String> = (1..=crate::limits::ENDPOINTS_MAX + 1)
        .map(|port| format!("\"tcp://a:{port}\""))
        .collect();
    let text = format!(
        "[[upstream]]\nname = \"a\"\nendpoints = [{}]\n",
        endpoints.join(", ")
    );
    faults_of(&text, &[(1, "more than 4096 endpoints")]);
}

#[test]
fn a_fleet_that_is_no_upstream_is_remarked_and_a_slip_warned_of() {
    let (config, _) = read(
        "[[upstream]]\nname = \"users\"\nendpoints = [\"tcp://a:1\"]\n\
         [[route]]\nfleet = \"users\"\n\
         [[route]]\nfleet = \"canary\"\n\
         [[route]]\nfleet = \"users\"\nmirror = { fleet = \"user\" }\n",
    );
    let remarks = config.remarks();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(
        !remarks[0].is_warning && remarks[0].message.contains("route 2"),
        "{remarks:?}"
    );
    assert!(
        remarks[1].is_warning && remarks[1].message.contains("did you mean \"users\""),
        "{remarks:?}"
    );
}

#[test]
fn who_may_administer_comes_from_the_environment_too() {
    let mut config = Config::default();
    let mut faults = Vec::new();
    for (value, names) in [
        ("unix", vec!["unix"]),
        ("", vec![]),
        ("unix,loopback", vec!["unix", "loopback"]),
    ] {
        let variables = [("FLUXAR_ADMIN_FROM".to_string(), value.to_string())];
        config.read_environment(variables.into_iter(), &mut faults);
        assert_eq!(faults, []);
        assert_eq!(config.admin_from.names(), names);
    }
}

#[test]
fn an_endpoint_that_cannot_have_so_little_at_a_time_is_remarked() {
    let upstream = "[[upstream]]\nname = \"users\"\nconnections = 3\n\
        endpoints = [{ url = \"tcp://a:1\", in_flight = 2 }, { url = \"tcp://b:1\", in_flight = 3 }, \"tcp://c:1\"]\n";
    let (config, _) = read(&format!("cores = 1\n{upstream}"));
    let remarks = config.remarks();
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(
        remarks[0].is_warning
            && remarks[0]
                .message
                .contains("tcp://a:1 may get 3 at a time, not 2"),
        "{remarks:?}"
    );
}

const LOG: &str = r#"
[log]
dir = "/var/lib/fluxar"
partitions = 16
retain_bytes = 1073741824

[[log.topic]]
pattern = "metrics.>"
ack = "memory"

[[log.topic]]
pattern = "work.*"
ack = "written"
always = true
deliveries_max = 5
dead_letter = "dead.work"
"#;

#[test]
fn the_log_is_read_and_printed() {
    let (config, faults) = read(LOG);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(config.log.dir, LogDir::At("/var/lib/fluxar".into()));
    let settings = &config.log.settings;
    assert_eq!((settings.partitions, settings.retain_bytes), (16, 1 << 30));
    let terms = fluxar_shard::log::class::terms_of("work.a", &settings.topics);
    assert_eq!(terms.level, fluxar_shard::log::class::Level::Written);
    assert!(terms.always);
    assert_eq!(
        (terms.deliveries_max, terms.dead_letter.as_deref()),
        (5, Some("dead.work"))
    );
    let printed = config.to_toml();
    let (again, faults) = read(&printed);
    assert_eq!(faults, Vec::<String>::new(), "{printed}");
    assert_eq!(again.log, config.log);
    assert_eq!(again.to_toml(), printed);
}

#[test]
fn faults_of_the_log_have_their_lines() {
    faults_of(
        "[log]\n\
         dir = 7\n\
         partitions = 0\n\
         segment_byte = 5\n\
         [[log.topic]]\n\
         ack = \"sinced\"\n\
         [[log.topic]]\n\
         pattern = \"a..b\"\n\
         ack = 1\n\
         always = \"yes\"\n\
         [[log.topic]]\n\
         pattern = \"work.>\"\n\
         deliveries_max = -1\n\
         dead_letter = \"work.dead\"\n\
         [[log.topic]]\n\
         pattern = \"$sys.>\"\n\
         dead_letter = \"dead.*\"\n\
         retain = true\n",
        &[
            (2, "log.dir: a number where a path belongs"),
            (3, "0 is outside 1..4096"),
            (4, "did you mean `log.segment_bytes`"),
            (5, "log.topic 1: it has no `pattern`"),
            (6, "did you mean \"synced\"?"),
            (8, "\"a..b\" is no pattern of topics"),
            (9, "ack: a number where a text belongs"),
            (10, "always: a text where true or false belongs"),
            (13, "deliveries_max: -1 is outside"),
            (14, "would go round in circles"),
            (17, "\"dead.*\" is no topic"),
            (18, "there is no `retain` here"),
        ],
    );
    faults_of(
        "[[log.topics]]\npattern = \">\"\n",
        &[(1, "did you mean `[[log.topic]]`?")],
    );
    for setting in ["segment_bytes", "unsynced_bytes"] {
        let (config, _) = read(&format!("[log]\n{setting} = 1048576\n"));
        let mut faults = Vec::new();
        config.check_together(&mut faults);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let message = &faults[0].message;
        assert!(message.starts_with(&format!("log.{setting}: ")), "{message}");
        assert!(message.contains("limits.max_frame_bytes"), "{message}");
    }
}

#[test]
fn dead_letters_do_not_go_round_in_circles_over_several_rules() {
    let rule = |pattern: &str, dead_letter: &str, deliveries_max: u32| {
        format!(
            "[[log.topic]]\npattern = \"{pattern}\"\ndead_letter = \"{dead_letter}\"\ndeliveries_max = {deliveries_max}\n"
        )
    };
    let circle = [
        rule("a.>", "b.dead", 5),
        rule("b.>", "c.dead", 5),
        rule("c.*", "a.dead", 5),
    ]
    .concat();
    faults_of(
        &circle,
        &[(
            1,
            "log.topic 1: dead_letter: what nobody can handle would go round in circles: \"b.dead\", \"c.dead\", \"a.dead\", and again",
        )],
    );
    // One that leads into a circle is not of it.
    let tail = rule("x.>", "a.dead", 5) + &circle;
    faults_of(&tail, &[(1 + 4, "log.topic 2: ")]);
    // What stops somewhere is none: nothing is set aside there, or an earlier rule says something else of it.
    let ends = [rule("a.>", "b.dead", 5), rule("b.>", "a.dead", 0)].concat();
    faults_of(&ends, &[]);
    let other = [
        rule("b.dead", "z", 5),
        rule("a.>", "b.dead", 5),
        rule("b.>", "a.dead", 5),
    ]
    .concat();
    faults_of(&other, &[]);
}

#[test]
fn a_log_that_is_nowhere_is_said_by_an_empty_text() {
    let mut config = Config::default();
    let mut faults = Vec::new();
    let variables = [("FLUXAR_LOG_DIR".to_string(), String::new())];
    config.read_environment(variables.into_iter(), &mut faults);
    assert_eq!(faults, []);
    assert_eq!(config.log.dir, LogDir::Nowhere);
}

#[test]
fn what_is_known_is_listed_once() {
    let (_, faults) = read("[[route]]\nbogus = 1\n");
    let said = faults.join("\n");
    assert_eq!(said.matches("balance").count(), 1, "{said}");
}
