//! Puts the results of the last runs of both benchmarks into one Markdown table, on standard output:
//! `micro TARGET_FOLDER`. Instructions and times are per thing, and not per run.

use std::path::Path;
use std::process::ExitCode;

use micro::{STEPS, Step};
use serde_json::Value;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(target), None) = (arguments.next(), arguments.next()) else {
        eprintln!(
            "micro: usage: micro TARGET_FOLDER (as in: micro bench/target); `make bench-micro` calls this"
        );
        return ExitCode::from(64);
    };
    match STEPS.iter().map(|step| row(Path::new(&target), step)).collect::<Result<Vec<String>, String>>() {
        Ok(rows) => {
            println!("| step | per | ns | instructions | change | bytes/s |\n|---|---|---|---|---|---|");
            rows.iter().for_each(|row| println!("{row}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("micro: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One step's line of the table.
fn row(target: &Path, step: &Step) -> Result<String, String> {
    let prepared = step.prepare();
    let times = target.join(format!("criterion/micro/{}/new/estimates.json", step.id));
    let run_ns = number(&read(&times)?, "/median/point_estimate", &times)?;
    let counts = target.join(format!("gungraun/micro/instructions/steps/step.{}/summary.json", step.id));
    let (run_instructions, change) = instructions(&read(&counts)?, &counts)?;
    let things = prepared.things as f64;
    let bytes = match prepared.bytes {
        0 => String::new(),
        bytes => bytes_per_second(bytes as f64 / run_ns * 1e9),
    };
    let (title, per) = (step.title, step.per);
    let (ns, instructions) = (figure(run_ns / things), figure(run_instructions / things));
    Ok(format!("| {title} | {per} | {ns} | {instructions} | {change} | {bytes} |"))
}

/// Instructions of a run, and how that compares with the run before this one, if there was one.
fn instructions(summary: &Value, path: &Path) -> Result<(f64, String), String> {
    const COUNT: &str = "/profiles/0/data/total/metrics/Ir/values";
    match summary.pointer(&format!("{COUNT}/both")) {
        None => Ok((number(summary, &format!("{COUNT}/new"), path)?, String::new())),
        Some(_) => {
            let new = number(summary, &format!("{COUNT}/both/0"), path)?;
            let old = number(summary, &format!("{COUNT}/both/1"), path)?;
            Ok((new, format!("{:+.2} %", (new / old - 1.0) * 100.0)))
        }
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("{}: {error}: run `make bench-micro` to measure every step", path.display())
    })?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn number(value: &Value, pointer: &str, path: &Path) -> Result<f64, String> {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.ok_or_else(|| format!("{}: there is no number at {pointer}", path.display()))
}

/// Three figures say enough of small costs, and whole numbers of others.
fn figure(cost: f64) -> String {
    match cost {
        ..10.0 => format!("{cost:.2}"),
        10.0..100.0 => format!("{cost:.1}"),
        _ => format!("{cost:.0}"),
    }
}

fn bytes_per_second(rate: f64) -> String {
    match rate {
        1e9.. => format!("{:.1} GB", rate / 1e9),
        _ => format!("{:.0} MB", rate / 1e6),
    }
}
