//! What the documentation says about keys, paths, codes and files is what the program has.
//!
//! `UPDATE_DOCUMENTATION=1 cargo test --test documentation` writes the tables of docs/configuration.md and docs/metrics.md anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use telecast::ops::meters::{CATALOGUE, Described};
use telecast::ops::paths::PATHS;
use telecast::proto::message::CloseCode;

const BEGIN: &str = "<!-- generated from config/default.toml -->\n";
const BEGIN_METRICS: &str = "<!-- generated from src/ops/meters.rs -->\n";
const END: &str = "<!-- end of what is generated -->\n";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README and everything in docs.
fn documents() -> Vec<String> {
    let in_docs = fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let markdown = in_docs.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".md"));
    markdown.map(|name| format!("docs/{name}")).chain(["README.md".to_owned()]).collect()
}

/// One key of config/default.toml.
struct Documented {
    section: String,
    name: String,
    value: String,
    /// A key without a built-in value shows an example.
    is_example: bool,
    meaning: String,
}

fn keys() -> Vec<Documented> {
    let text = read("config/default.toml");
    let (mut section, mut comment, mut keys) = (String::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").filter(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            comment.clear();
        } else if let (Some((name, value)), false) = (key, section.is_empty()) {
            let meaning = if comment.is_empty() { "as above".to_owned() } else { comment.join(" ") };
            comment.clear();
            keys.push(Documented {
                section: section.clone(),
                name: name.to_owned(),
                value: value.to_owned(),
                is_example: bare.len() < line.len(),
                meaning,
            });
        } else if bare.len() < line.len() {
            comment.push(bare);
        } else {
            comment.clear();
        }
    }
    keys
}

fn tables() -> String {
    let mut text = String::new();
    let mut section = String::new();
    for key in keys() {
        if key.section != section {
            let _ = write!(text, "\n### {}\n\n| key | built-in | meaning |\n|---|---|---|\n", key.section);
            section.clone_from(&key.section);
        }
        let value =
            if key.is_example { format!("none; like `{}`", key.value) } else { format!("`{}`", key.value) };
        let meaning = key.meaning.replace('|', "\\|");
        let _ = writeln!(text, "| `{}.{}` | {value} | {meaning} |", key.section, key.name);
    }
    text.push('\n');
    text
}

/// The part of `path` between `begin` and the end of what is generated is `expected`, or becomes it where that is asked for.
fn check_generated(path: &str, begin: &str, expected: &str) {
    let text = read(path);
    let (before, rest) = text.split_once(begin).expect("a generated part");
    let (generated, after) = rest.split_once(END).expect("its end");
    if std::env::var_os("UPDATE_DOCUMENTATION").is_some() {
        return fs::write(repository(path), [before, begin, expected, END, after].concat()).unwrap();
    }
    assert_eq!(generated, expected, "{path} is out of date: UPDATE_DOCUMENTATION=1 writes it anew");
}

#[test]
fn the_tables_of_keys_are_those_of_the_defaults_file() {
    check_generated("docs/configuration.md", BEGIN, &tables());
}

#[test]
fn the_table_of_metrics_is_that_of_the_program() {
    let mut text = "\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
    let mut metrics: Vec<&Described> = CATALOGUE.iter().collect();
    metrics.sort_by_key(|metric| metric.name);
    for Described { name, kind, unit, label, help } in metrics {
        let label = label.map_or_else(String::new, |label| {
            let (name, values) = label();
            format!("`{name}`: {}", values.join(", "))
        });
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {label} | {help} |", unit.as_str());
    }
    text.push('\n');
    check_generated("docs/metrics.md", BEGIN_METRICS, &text);
}

#[test]
fn every_path_close_code_and_error_code_is_explained() {
    let protocol = read("docs/protocol.md");
    for served in PATHS {
        assert!(
            protocol.contains(&format!("`{}`", served.path)),
            "docs/protocol.md leaves out {}",
            served.path
        );
    }
    for code in CloseCode::ALL {
        let row = format!("| {} | {} |", code.number(), code.meaning());
        assert!(protocol.contains(&row), "docs/protocol.md has no row {row}");
    }
    // The codes are an enum without a list; its source is the list.
    let source = read("src/proto/message/mod.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.strip_suffix("\","))
        .collect();
    assert!(codes.len() >= 10, "{codes:?}");
    for code in codes {
        assert!(protocol.contains(&format!("`{code}`")), "docs/protocol.md leaves out {code}");
    }
}

#[test]
fn every_link_to_a_file_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = repository(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(folder.join(file).exists(), "{document} links to {file}, which is not there");
        }
    }
}

#[test]
fn every_make_target_that_is_mentioned_exists() {
    let makefile = read("Makefile");
    for document in documents() {
        let text = read(&document);
        for target in text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()) {
            assert!(makefile.contains(&format!("\n{target}:")), "{document}: there is no `make {target}`");
        }
    }
}

/// Every Rust source below a folder.
fn sources(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_map_names_exists() {
    let (mut all, map) = (String::new(), read("src/lib.rs"));
    ["src", "tests"].iter().for_each(|folder| sources(&repository(folder), &mut all));
    let rows = map.lines().filter(|line| line.starts_with("//! | ") && line.as_bytes()[6].is_ascii_digit());
    let names: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        assert!(all.contains(&format!("fn {name}(")), "src/lib.rs names a test that is not there: {name}");
    }
}
