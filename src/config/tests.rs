use std::path::Path;
use std::time::Duration;

use super::keys::{Builtin, KEYS, Kind};
use super::layers::{Layer, Parsed, Values};
use super::*;

/// Inputs that find no files and a roomy machine.
fn inputs(role: Role) -> Inputs {
    Inputs {
        role,
        folder: "/nonexistent".into(),
        folder_required: false,
        file: None,
        variables: Vec::new(),
        listen: None,
        nats: None,
        node: None,
        machine: Machine { host_name: "host-7".to_owned(), cores: 3, descriptors: 1 << 20 },
    }
}

fn with(role: Role, variables: &[(&str, &str)]) -> Inputs {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Inputs { variables, ..inputs(role) }
}

/// The error of one environment variable, as an operator reads it.
fn refusal(name: &str, value: &str) -> String {
    load(&with(Role::Edge, &[(name, value)])).map(|_| ()).unwrap_err().to_string()
}

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn built_in_values_are_enough_for_every_role() {
    for (role, listen, nats) in [
        (Role::Standalone, "0.0.0.0:9090", None),
        (Role::Ingest, "0.0.0.0:9090", Some("nats://localhost:4222")),
        (Role::Edge, "0.0.0.0:3002", Some("nats://localhost:4222")),
    ] {
        let settings = load(&inputs(role)).unwrap().settings;
        assert_eq!(settings.server.listen.to_string(), listen);
        assert_eq!(settings.nats.as_ref().map(|nats| nats.url.as_str()), nats);
        assert_eq!(settings.node.id, "host-7");
        assert_eq!(settings.server.worker_threads, 3);
        assert_eq!(settings.edge.heartbeat, Duration::from_secs(15));
        assert_eq!(settings.log.max_bytes, if nats.is_some() { 1 << 30 } else { 64 << 20 });
    }
}

#[test]
fn a_later_layer_wins() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "default.toml",
        "[edge]\nthrottle_ms = 1\nheartbeat_ms = 1001\nring_bytes_max = 8000001\n[log]\nshards = 2",
    );
    write("edge.toml", "[edge]\nthrottle_ms = 2\nheartbeat_ms = 1002\nring_bytes_max = 8000002\n");
    write("ingest.toml", "[edge]\nthrottle_ms = 9");
    write("mine.toml", "[edge]\nthrottle_ms = 3\nheartbeat_ms = 1003");
    let mut inputs = with(
        Role::Edge,
        &[("TELECAST__EDGE__THROTTLE_MS", "4"), ("WS_THROTTLE_MS", "5"), ("NATS_URL", "nats://a")],
    );
    inputs.folder = folder.path().to_owned();
    inputs.file = Some(folder.path().join("mine.toml"));
    inputs.nats = Some("nats://b".to_owned());
    let settings = load(&inputs).unwrap().settings;
    assert_eq!(settings.edge.throttle, Duration::from_millis(4), "the full name wins over the short one");
    assert_eq!(settings.edge.heartbeat, Duration::from_millis(1003));
    assert_eq!(settings.edge.ring_bytes_max, 8_000_002);
    assert_eq!(settings.log.shards, 2);
    assert_eq!(settings.nats.unwrap().url, "nats://b");
}

#[test]
fn short_names_of_the_environment_set_their_keys() {
    let inputs = with(
        Role::Edge,
        &[
            ("LOG_LEVEL", "DEBUG"),
            ("LOG_FORMAT", "JSON"),
            ("NATS_URL", "nats://nats:4222"),
            ("WS_MAX_CONNECTIONS", "500"),
            ("WS_WORKER_THREADS", "8"),
            ("WS_THROTTLE_MS", "100"),
            ("METRICS_PORT", "9100"),
            ("METRICS_ENABLED", "False"),
            ("TELECAST__EDGE__SLOW_CLIENT__POLICY", "disconnect"),
            ("TELECAST__NODE__ID", "edge-1"),
            ("TELECAST_CONFIG_DIR", "no key"),
        ],
    );
    let settings = load(&inputs).unwrap().settings;
    assert_eq!(settings.telemetry.level, "warn,telecast=debug");
    assert_eq!(settings.telemetry.format, LogFormat::Json);
    assert_eq!(settings.nats.unwrap().url, "nats://nats:4222");
    assert_eq!(settings.edge.max_connections, 500);
    assert_eq!(settings.server.worker_threads, 8);
    assert_eq!(settings.edge.throttle, Duration::from_millis(100));
    assert_eq!(settings.server.metrics_listen.unwrap().to_string(), "0.0.0.0:9100");
    assert!(!settings.server.metrics_enabled);
    assert_eq!(settings.edge.slow_client_policy, SlowClientPolicy::Disconnect);
    assert_eq!(settings.node.id, "edge-1");
}

#[test]
fn an_empty_variable_is_not_set() {
    let settings = load(&with(Role::Edge, &[("NATS_URL", ""), ("TELECAST__EDGE__THROTTLE_MS", "")])).unwrap();
    assert_eq!(settings.settings.nats.unwrap().url, "nats://localhost:4222");
}

#[test]
fn a_port_changes_the_listener_of_its_role_and_yields_to_the_flag() {
    let variables = [("TELECAST__EDGE__PORT", "3004"), ("TELECAST__INGEST__PORT", "9999")];
    let listen = |inputs: &Inputs| load(inputs).unwrap().settings.server.listen.to_string();
    assert_eq!(listen(&with(Role::Edge, &variables)), "0.0.0.0:3004");
    assert_eq!(listen(&with(Role::Ingest, &variables)), "0.0.0.0:9999");
    assert_eq!(listen(&with(Role::Standalone, &[("TELECAST__SERVER__PORT", "81")])), "0.0.0.0:81");
    let flagged = Inputs { listen: Some("127.0.0.1:5".to_owned()), ..with(Role::Edge, &variables) };
    assert_eq!(listen(&flagged), "127.0.0.1:5");
    let standalone = load(&with(Role::Standalone, &variables)).unwrap();
    assert_eq!(standalone.settings.server.listen.port(), 9090);
    assert!(standalone.notes[0].contains("use server.port"), "{:?}", standalone.notes);
}

#[test]
fn an_unknown_key_is_refused_by_name_and_layer_with_the_nearest_key() {
    let text = refusal("TELECAST__EDGE__MAX_CONECTIONS", "5");
    assert!(text.contains("edge.max_conections"), "{text}");
    assert!(text.contains("environment variable TELECAST__EDGE__MAX_CONECTIONS"), "{text}");
    assert!(text.contains("did you mean edge.max_connections?"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("default.toml"), "[egde]\nthrottle_ms = 1").unwrap();
    let error = load(&Inputs { folder: folder.path().to_owned(), ..inputs(Role::Edge) }).unwrap_err();
    assert!(matches!(&error, ConfigError::UnknownKey { key, layer: Layer::File(_), .. } if key == "egde"));
}

#[test]
fn an_impossible_value_is_refused_with_what_is_allowed() {
    for (name, value, key, allowed) in [
        ("TELECAST__LOG__SHARDS", "0", "log.shards = \"0\"", "1 to 64"),
        ("TELECAST__LOG__SHARDS", "65", "log.shards", "1 to 64"),
        ("TELECAST__LOG__REPLICAS", "2", "log.replicas", "one of 1, 3, 5"),
        ("TELECAST__LOG__STORAGE", "tape", "log.storage", "\"file\", \"memory\""),
        ("TELECAST__EDGE__HEARTBEAT_MS", "0", "edge.heartbeat_ms", "1000 to 300000"),
        ("TELECAST__EDGE__SLOW_CLIENT__POLICY", "kill", "edge.slow_client.policy", "\"disconnect\""),
        ("TELECAST__COLLECTOR__ENVELOPE_BYTES_MAX", "1048576", "collector.envelope_bytes_max", "983040"),
        ("TELECAST__SERVER__LISTEN", "example.org:80", "server.listen", "an IP address"),
        ("TELECAST__NODE__ID", "two words", "node.id", "without spaces"),
        ("LOG_LEVEL", "verbose", "telemetry.level", "error, warn, info"),
        ("NATS_URL", "http://nats", "nats.url", "nats://localhost:4222"),
        ("METRICS_ENABLED", "off", "server.metrics_enabled", "true or false"),
        ("METRICS_PORT", "tcp://10.0.0.1:80", "server.metrics_listen", "HOST:PORT or PORT"),
        ("WS_THROTTLE_MS", "-1", "edge.throttle_ms", "whole number"),
    ] {
        let text = refusal(name, value);
        assert!(text.contains(key) && text.contains(allowed) && text.contains(name), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_where_the_later_one_was_given() {
    for (name, value, problem) in [
        ("TELECAST__EDGE__SLOW_CLIENT__TIMEOUT_MS", "14999", "at least 15000 (edge.heartbeat_ms)"),
        ("TELECAST__EDGE__HEARTBEAT_MS", "60001", "at most 60000 (edge.slow_client.timeout_ms)"),
        (
            "TELECAST__COLLECTOR__MESSAGE_BYTES_MAX",
            "524287",
            "at least 524288 (collector.envelope_bytes_max)",
        ),
        (
            "TELECAST__COLLECTOR__BUFFER_BYTES_MAX",
            "4194303",
            "at least 4194304 (collector.message_bytes_max)",
        ),
        ("TELECAST__EDGE__VIEW_BYTES_MAX", "4194303", "at least 4194304 (8 × collector.envelope_bytes_max)"),
        (
            "TELECAST__COLLECTOR__PING_INTERVAL_MS",
            "15001",
            "at most 15000 (1/2 of collector.idle_timeout_ms)",
        ),
        ("TELECAST__LOG__MAX_AGE_S", "119", "at least 120 (log.duplicate_window_s)"),
        ("TELECAST__LOG__DUPLICATE_WINDOW_S", "29", "at least 30 (twice nats.request_timeout_ms)"),
        ("TELECAST__NATS__USER", "me", "accompanied by nats.password"),
        ("METRICS_PORT", "3002", "another address than server.listen"),
    ] {
        let text = refusal(name, value);
        assert!(text.contains(problem) && text.contains(name), "{text}");
    }
    let error = load(&with(Role::Standalone, &[("TELECAST__LOG__REPLICAS", "3")])).unwrap_err().to_string();
    assert!(error.contains("the embedded log has one copy"), "{error}");
}

#[test]
fn a_cluster_role_without_nats_is_refused() {
    let error = load(&Inputs { nats: Some(String::new()), ..inputs(Role::Edge) }).unwrap_err().to_string();
    assert!(error.starts_with("nats.url is not set"), "{error}");
    assert!(
        load(&Inputs { nats: Some(String::new()), ..inputs(Role::Standalone) })
            .unwrap()
            .settings
            .nats
            .is_none()
    );
}

#[test]
fn files_that_cannot_be_used_end_the_start() {
    let missing = Inputs { file: Some("/nonexistent/x.toml".into()), ..inputs(Role::Edge) };
    assert!(load(&missing).unwrap_err().to_string().starts_with("/nonexistent/x.toml: cannot be read"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), "[edge]\nthrottle_ms = = 1").unwrap();
    let error =
        load(&Inputs { folder: folder.path().to_owned(), ..inputs(Role::Edge) }).unwrap_err().to_string();
    assert!(error.contains("edge.toml: line 2 is not TOML") && !error.contains('\n'), "{error}");
}

#[test]
fn secrets_never_appear() {
    let variables = [
        ("TELECAST__ADMIN__TOKEN", "s3cret"),
        ("TELECAST__NATS__USER", "me"),
        ("TELECAST__NATS__PASSWORD", "s3cret"),
        ("NATS_URL", "nats://me:s3cret@one:4222,tls://s3cret@two"),
    ];
    let loaded = load(&with(Role::Edge, &variables)).unwrap();
    assert_eq!(loaded.settings.admin.token, Some(Secret("s3cret".to_owned())));
    let shown = format!("{:?}\n{}", loaded.settings, loaded.to_toml());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(
        shown.contains(r#"url = "nats://***@one:4222,tls://***@two"  # environment variable NATS_URL"#),
        "{shown}"
    );
    let text = refusal("TELECAST__ADMIN__TOKEN", "s3cret\u{7}");
    assert!(!text.contains("s3cret") && text.contains("admin.token"), "{text}");
    assert!(refusal("NATS_URL", "http://me:s3cret@one").contains("***@one"));
}

#[test]
fn the_listing_is_a_configuration_with_the_same_meaning() {
    let mut given =
        with(Role::Edge, &[("TELECAST__EDGE__PORT", "3004"), ("LOG_LEVEL", "warn,telecast::edge=TRACE")]);
    given.machine.descriptors = 1024;
    let first = load(&given).unwrap();
    assert_eq!(first.settings.edge.max_connections, 768);
    assert!(first.notes[0].contains("lowered from 10000"), "{:?}", first.notes);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("listing.toml");
    std::fs::write(&file, first.to_toml()).unwrap();
    let second = load(&Inputs { file: Some(file), ..inputs(Role::Edge) }).unwrap();
    assert_eq!(format!("{:?}", first.settings), format!("{:?}", second.settings));
}

#[test]
fn a_name_with_one_underscore_where_two_belong_ends_the_start_and_says_the_right_one() {
    for (name, right) in [
        ("TELECAST_EDGE_MAX_CONNECTIONS", "TELECAST__EDGE__MAX_CONNECTIONS"),
        ("TELECAST_EDGE__THROTTLE_MS", "TELECAST__EDGE__THROTTLE_MS"),
        ("TELECAST_NODE_ID", "TELECAST__NODE__ID"),
        ("TELECAST_EDGE_SLOW_CLIENT_POLICY", "TELECAST__EDGE__SLOW_CLIENT__POLICY"),
        ("TELECAST_EDGE_MAX_CONECTIONS", "TELECAST__EDGE__MAX_CONNECTIONS"),
    ] {
        let error = refusal(name, "7");
        assert!(error.contains(name) && error.contains(right), "{error}");
    }
    // What Kubernetes sets for a Service called telecast-edge, and what other programs read.
    for (name, value) in [
        ("TELECAST_EDGE_PORT", "tcp://10.0.0.7:80"),
        ("TELECAST_EDGE_SERVICE_HOST", "10.0.0.7"),
        ("TELECAST_EDGE_SERVICE_PORT", "80"),
        ("TELECAST_EDGE_PORT_80_TCP_ADDR", "10.0.0.7"),
        ("TELECAST_NATS_SERVICE_PORT", "4222"),
        ("TELECAST_SERVER", "http://localhost:9090"),
        ("TELECAST_TOKEN", "abc"),
        ("TELECAST_URL", "http://localhost:9090"),
        ("TELECAST_COMMIT", "abc"),
    ] {
        assert!(load(&with(Role::Edge, &[(name, value)])).is_ok(), "{name}");
    }
}

#[test]
fn a_folder_of_files_that_was_asked_for_has_to_exist() {
    let asked = Inputs { folder_required: true, ..inputs(Role::Edge) };
    let error = load(&asked).unwrap_err().to_string();
    assert!(error.contains("/nonexistent") && error.contains("TELECAST_CONFIG_DIR"), "{error}");
}

#[test]
fn the_files_that_were_read_are_known() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.toml"), "[edge]\nthrottle_ms = 1").unwrap();
    let loaded = load(&Inputs { folder: folder.path().to_owned(), ..inputs(Role::Edge) }).unwrap();
    assert_eq!(loaded.files, [folder.path().join("edge.toml")]);
}

#[test]
fn default_toml_documents_every_key_with_its_built_in_value() {
    let path = repository("config/default.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file = Values::builtin(Role::Standalone);
    let mut set = Vec::new();
    for assignment in layers::read_file(&path, true).unwrap().unwrap() {
        set.push(assignment.key.name);
        file.assign(assignment).unwrap();
    }
    let builtin = Values::builtin(Role::Standalone);
    let mut section = String::new();
    let mut documented = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") {
            documented.push(format!("{section}.{name}"));
        }
    }
    for key in KEYS {
        assert!(documented.iter().any(|name| name == key.name), "{} is not in config/default.toml", key.name);
        let fixed = matches!(key.builtin, Builtin::Integer(_) | Builtin::Switch(_) | Builtin::Text(_));
        assert_eq!(
            set.contains(&key.name),
            fixed,
            "{}: set if and only if its built-in value is fixed",
            key.name
        );
        let of = |values: &Values| values.get(key.name).map(|(value, _): &(Parsed, Layer)| value.clone());
        assert_eq!(of(&file), of(&builtin), "{}", key.name);
    }
}

#[test]
fn the_files_beside_it_change_nothing() {
    for role in [Role::Standalone, Role::Ingest, Role::Edge] {
        let with_files = load(&Inputs { folder: repository("config"), ..inputs(role) }).unwrap().settings;
        assert_eq!(format!("{with_files:?}"), format!("{:?}", load(&inputs(role)).unwrap().settings));
    }
}

#[test]
fn every_bound_has_its_unit_in_its_name() {
    for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::Integer(..))) {
        let counts = [
            "worker_threads",
            "shards",
            "max_connections",
            "connections_max",
            "connections_per_address_max",
            "connects_per_address_per_s_max",
            "pending_connections_max",
            "replay_concurrency_max",
            "views_max",
            "views_per_address_max",
            "series_max",
            "level",
        ];
        let channels = [
            "ids_per_connection_max",
            "channels_max",
            "channels_per_collector_max",
            "new_channels_per_second_max",
        ];
        let name = key.name.rsplit('.').next().unwrap();
        let has_unit = ["_ms", "_s", "_bytes", "bytes_max", "_bytes_min", "_bytes_per_second_min"]
            .iter()
            .any(|unit| name.ends_with(unit));
        assert!(has_unit || counts.contains(&name) || channels.contains(&name), "{name}");
    }
}
