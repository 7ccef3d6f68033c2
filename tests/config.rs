//! The binary's command line and configuration, from the outside: what an operator types, sees and gets as exit code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;
use std::process::{Command, Output};

/// The binary with a clean environment, in a folder without configuration files.
fn telecast(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telecast"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Asserts that the start fails with 64 and exactly one line on stderr that holds `words`.
fn refused(arguments: &[&str], variables: &[(&str, &str)], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = telecast(folder.path(), arguments, variables);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(output.stdout.is_empty());
    for word in words {
        assert!(stderr.contains(word), "{word} is not in: {stderr}");
    }
}

fn listing(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = telecast(folder, arguments, variables);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_bad_configuration_exits_with_64_and_names_key_and_layer() {
    for role in ["standalone", "ingest", "edge", "config"] {
        refused(
            &[role],
            &[("TELECAST__EDGE__THROTTLE_MS", "soon")],
            &["edge.throttle_ms", "soon", "TELECAST__EDGE__THROTTLE_MS"],
        );
    }
    refused(&["edge"], &[("TELECAST__EDGE__SPEED", "9")], &["edge.speed", "no such key"]);
    refused(&["edge", "--listen", "nowhere"], &[], &["server.listen", "nowhere", "--listen"]);
    refused(&["edge", "--nats", ""], &[], &["nats.url"]);
    refused(&["edge", "--config", "absent.toml"], &[], &["absent.toml", "cannot be read"]);
    refused(
        &["edge"],
        &[("TELECAST__SERVER__CORS_ORIGINS", "https://dash.example.com/")],
        &["server.cors_origins", "without a path", "https://dash.example.com"],
    );
    refused(
        &["edge"],
        &[("TELECAST_EDGE_THROTTLE_MS", "5")],
        &["TELECAST__EDGE__THROTTLE_MS", "did you mean"],
    );
    refused(&["edge"], &[("TELECAST_CONFIG_DIR", "/absent")], &["/absent", "TELECAST_CONFIG_DIR"]);
    refused(&["edge", "--nats", "nats://one:99999"], &[], &["nats.url", "--nats"]);
    refused(&["ingest"], &[("LOG_LEVEL", "loud")], &["telemetry.level", "LOG_LEVEL", "debug"]);
}

/// The client of NATS reads both again and again: what it could never read ends the start, and shows no secret.
#[test]
fn an_address_or_a_credentials_file_that_could_never_work_exits_with_64() {
    for address in ["nats://[::1", "nats://one:port", "nats://:4222", "nats://user:5ecret@one:70000"] {
        for role in ["standalone", "ingest", "edge", "config"] {
            refused(&[role, "--nats", address], &[], &["nats.url"]);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telecast.creds");
    let path = file.to_str().unwrap();
    let variables = [("TELECAST__NATS__CREDENTIALS_FILE", path)];
    refused(&["edge"], &variables, &["nats.credentials_file", path, "No such file"]);
    std::fs::write(&file, "a password, perhaps").unwrap();
    refused(&["ingest"], &variables, &["nats.credentials_file", path, "USER NKEY SEED"]);
    // Where there is no NATS, nobody reads it.
    let output = telecast(folder.path(), &["config", "--check"], &variables);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_check_says_nothing_about_a_configuration_that_a_node_would_start_with() {
    let folder = tempfile::tempdir().unwrap();
    let output = telecast(folder.path(), &["config", "--role", "edge", "--check"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    refused(&["config", "--check"], &[("TELECAST__EDGE__SPEED", "9")], &["edge.speed"]);
}

#[test]
fn the_version_is_printed_for_the_verb_as_for_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let [verb, flag] = ["version", "--version"].map(|word| listing(folder.path(), &[word], &[]));
    assert!(verb.starts_with(concat!("telecast ", env!("CARGO_PKG_VERSION"), " (")), "{verb}");
    assert_eq!(verb, flag);
}

#[test]
fn a_refusal_does_not_print_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let output = telecast(folder.path(), &["edge"], &[("TELECAST__ADMIN__TOKEN", "tr0ub4dor\t")]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("admin.token") && !stderr.contains("tr0ub4dor"), "{stderr}");
}

#[test]
fn bad_flags_exit_with_64_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| telecast(folder.path(), arguments, &[]);
    for arguments in [&["edge", "--loud"][..], &["relay"], &["edge", "--listen"], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["edge", "--help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert!(version.starts_with(concat!("telecast ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
}

#[test]
fn files_are_found_in_the_working_directory_or_where_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("config/default.toml", "[log]\nshards = 3");
    write("config/edge.toml", "[edge]\nthrottle_ms = 30");
    write("elsewhere/edge.toml", "[edge]\nthrottle_ms = 70");
    let edge = ["config", "--role", "edge"];
    let text = listing(folder.path(), &edge, &[]);
    assert!(text.contains("shards = 3  # config/default.toml"), "{text}");
    assert!(text.contains("throttle_ms = 30  # config/edge.toml"), "{text}");
    let text = listing(folder.path(), &edge, &[("TELECAST_CONFIG_DIR", "elsewhere")]);
    assert!(text.contains("throttle_ms = 70  # elsewhere/edge.toml"), "{text}");
    assert!(text.contains("shards = 1\n"), "{text}");
}

#[test]
fn the_listing_masks_secrets_and_names_origins() {
    let folder = tempfile::tempdir().unwrap();
    let text = listing(
        folder.path(),
        &["config", "--role", "ingest", "--node", "ingest-7", "--nats", "nats://me:tr0ub4dor@nats:4222"],
        &[("TELECAST__ADMIN__TOKEN", "tr0ub4dor"), ("LOG_LEVEL", "INFO")],
    );
    assert!(!text.contains("tr0ub4dor"), "{text}");
    for line in [
        "id = \"ingest-7\"  # --node",
        "url = \"nats://***@nats:4222\"  # --nats",
        "token = \"***\"  # environment variable TELECAST__ADMIN__TOKEN",
        "level = \"info\"  # environment variable LOG_LEVEL",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}
