//! Who may import whom, held by reading the sources as text.
//!
//! Comments, and modules under `#[cfg(test)]`, may say and use what they like.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};

/// One source file, without comments and test modules.
struct Source {
    /// Below `src`, with `/`.
    path: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: &PathBuf| (path.clone(), without_comments(&std::fs::read_to_string(path).unwrap()));
    let texts: Vec<(PathBuf, String)> = files.iter().map(read).collect();
    let tests: Vec<PathBuf> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let source = |(path, text): &(PathBuf, String)| Source {
        path: path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/"),
        code: without_tests(text),
    };
    let is_test = |path: &Path| tests.iter().any(|module| path.with_extension("").starts_with(module));
    texts.iter().filter(|(path, _)| !is_test(path)).map(source).collect()
}

/// Files (or folders) that `text` declares as modules for tests only: `#[cfg(test)] mod name;`. Without extension.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && let Some(declared) = lines.next().and_then(|next| next.strip_suffix(';'))
            && let Some((_, name)) = declared.split_once("mod ")
        {
            found.push(folder.join(name));
        }
    }
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Drops line comments. A `//` inside a string ends the line too early, which hides at most the rest of that line; URLs are the
/// only such strings, and no rule looks for what stands behind one.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Drops what follows `#[cfg(test)]`: a `mod … { … }` up to the brace that closes it, in the same column as it began, which
/// is what rustfmt guarantees; or one line, for anything else.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let Some(mut next) = lines.next() else { break };
        while next.trim_start().starts_with("#[") {
            next = lines.next().unwrap_or_default();
        }
        if next.trim_end().ends_with('{') {
            let end = format!("{}}}", " ".repeat(indent));
            lines.by_ref().find(|line| line.trim_end() == end);
        }
    }
    kept.join("\n")
}

/// Whether `code` names `word` as whole path segments: `tokio` is not in `my_tokio`; `metrics::` is in `metrics::counter!`.
fn names(code: &str, word: &str) -> bool {
    let part = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && (word.ends_with("::") || !after.is_some_and(part))
    })
}

/// Modules of this crate that `code` imports or names by path, grouped imports (`crate::{a, b}`) included.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(group) => {
                let mut depth = 1_usize;
                let top_level: String = group
                    .chars()
                    .take_while(|character| {
                        match character {
                            '{' => depth += 1,
                            '}' => depth -= 1,
                            _ => {}
                        }
                        depth > 0
                    })
                    .collect();
                // Nested groups repeat their head's module; extra names in them match no module of ours.
                found.extend(top_level.split([',', '{', '}']).map(name));
            }
        }
    }
    found
}

/// Asserts that files under `folder` import only the `allowed` modules of this crate (and their own).
fn imports_only(folder: &str, allowed: &[&str]) {
    const MODULES: &[&str] = &[
        "app", "broker", "cli", "cluster", "config", "demo", "edge", "fairness", "ingest", "load", "ops",
        "proto", "sync",
    ];
    let own = folder.trim_end_matches('/');
    for source in sources().iter().filter(|source| belongs(&source.path, own)) {
        for module in imports(&source.code).iter().filter(|module| MODULES.contains(&module.as_str())) {
            let fine = module == own || allowed.contains(&module.as_str());
            assert!(fine, "src/{} imports crate::{module}; {own} may import only {allowed:?}", source.path);
        }
    }
}

/// Asserts that files for which `inside` holds do not name any of `words`.
fn never_names(inside: impl Fn(&str) -> bool, words: &[&str], why: &str) {
    for source in sources().iter().filter(|source| inside(&source.path)) {
        for word in words {
            assert!(!names(&source.code, word), "src/{} names {word}: {why}", source.path);
        }
    }
}

fn belongs(path: &str, module: &str) -> bool {
    path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
}

#[test]
fn proto_is_pure() {
    never_names(
        |path| belongs(path, "proto"),
        &[
            "tokio",
            "tracing",
            "metrics::",
            "std::fs",
            "std::net",
            "std::env",
            "std::thread",
            "SystemTime",
            "Instant",
        ],
        "proto has no input or output, no clock, no logs",
    );
    for source in sources().iter().filter(|source| belongs(&source.path, "proto")) {
        assert!(
            !source.code.contains("::now()"),
            "src/{} reads a clock; proto is given the time",
            source.path
        );
    }
}

#[test]
fn proto_imports_nothing_of_ours() {
    imports_only("proto", &[]);
}

#[test]
fn the_nats_client_is_named_only_by_the_nats_broker() {
    never_names(
        |path| !(path == "broker/nats.rs" || path.starts_with("broker/nats/")),
        &["async_nats"],
        "only the broker's NATS side knows the client",
    );
}

#[test]
fn the_broker_knows_neither_writers_nor_readers() {
    imports_only("broker", &["proto", "config", "sync"]);
}

#[test]
fn ingest_and_edge_do_not_know_each_other() {
    imports_only("ingest", &["proto", "broker", "config", "fairness", "ops", "sync"]);
    imports_only("edge", &["proto", "broker", "config", "fairness", "ops", "sync"]);
}

#[test]
fn ingest_and_edge_use_the_port_and_not_a_broker_behind_it() {
    never_names(
        |path| belongs(path, "ingest") || belongs(path, "edge"),
        &["MemoryBroker", "NatsBroker"],
        "which broker there is, is decided in app",
    );
}

#[test]
fn the_fair_budget_knows_nobody_who_uses_it_and_its_core_is_pure() {
    imports_only("fairness", &["ops", "sync"]);
    never_names(
        |path| path == "fairness/core.rs",
        &["tokio", "tracing", "metrics::", "Instant", "SystemTime"],
        "the accounts are told the time",
    );
}

#[test]
fn operations_know_no_role() {
    imports_only("ops", &["broker", "config", "proto", "sync"]);
}

#[test]
fn the_configuration_knows_only_the_vocabulary() {
    imports_only("config", &["proto"]);
    never_names(
        |path| belongs(path, "config"),
        &["tokio", "tracing"],
        "a configuration is read before anything runs",
    );
}

#[test]
fn the_command_line_starts_nothing() {
    imports_only("cli", &["config", "load", "ops", "proto"]);
    never_names(|path| belongs(path, "cli"), &["tokio"], "arguments are read before anything runs");
}

#[test]
fn the_load_generator_is_a_peer_like_any_other() {
    imports_only("load", &["proto", "sync"]);
}

#[test]
fn only_main_uses_the_composition_root() {
    never_names(
        |path| !belongs(path, "app") && path != "main.rs" && path != "lib.rs",
        &["crate::app"],
        "everything is put together in one place",
    );
}

#[test]
fn every_task_has_an_owner() {
    never_names(|_| true, &["tokio::spawn"], "spawn on a JoinSet or TaskTracker that somebody awaits");
}

/// A guard lives longer than it looks: one that did froze a node. What is behind [`Locked`] is reached through a closure.
/// (tokio's own mutex holds up tasks and no threads.)
#[test]
fn data_behind_a_lock_is_reached_through_a_closure() {
    const GUARDED: &[&str] = &["Mutex", "MutexGuard", "RwLock", "RwLockReadGuard", "RwLockWriteGuard"];
    imports_only("sync", &[]);
    for source in sources().iter().filter(|source| !belongs(&source.path, "sync")) {
        let code = source.code.replace("tokio::sync::Mutex", "");
        for word in GUARDED {
            assert!(!names(&code, word), "src/{} names {word}: use crate::sync::Locked", source.path);
        }
    }
}

#[test]
fn a_file_is_a_sitting() {
    // Some slack over the 400 lines that are wanted: tests in the file do not count, a table may.
    const LINES_MAX: usize = 450;
    for source in sources() {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LINES_MAX, "src/{} has {lines} lines of code: split it by meaning", source.path);
    }
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let code = "use crate::{edge::View, ops::{meters, node}};\n// async_nats\nlet x = crate::proto::line::scan();\n\
                #[cfg(test)]\nmod tests {\n    use tokio::time;\n}\nfn my_tokio() {}\n";
    let code = without_tests(&without_comments(code));
    for (word, named) in [("tokio", false), ("async_nats", false), ("my_tokio", true), ("edge::", true)] {
        assert_eq!(names(&code, word), named, "{word}");
    }
    let found = imports(&code);
    assert!(
        ["edge", "ops", "proto"].iter().all(|module| found.iter().any(|name| name == module)),
        "{found:?}"
    );
    let declared =
        test_modules(Path::new("src/edge/mod.rs"), "#[cfg(test)]\npub(crate) mod fixtures;\nmod view;\n");
    assert_eq!(declared, [PathBuf::from("src/edge/fixtures")]);
    let paths: Vec<String> = sources().into_iter().map(|source| source.path).collect();
    assert!(paths.len() > 10 && !paths.iter().any(|path| path == "config/tests.rs"), "{paths:?}");
}
