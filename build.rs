//! Stamps the commit into the binary, for `--version` and `ws_build_info`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TELECAST_COMMIT");
    // Git says where its files are: in a linked worktree `.git` is a file, and a path that does not exist would make cargo
    // run this again for every build. The log of HEAD changes with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| exists(path)) {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = std::env::var("TELECAST_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=TELECAST_COMMIT={commit}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}
