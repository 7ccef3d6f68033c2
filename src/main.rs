//! Arguments → configuration → work → exit code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use telecast::app::{self, Options};
use telecast::broker::nats;
use telecast::cli::{self, Arguments, EXIT_USAGE, LoadArguments, Serving, StatusArguments, Verb};
use telecast::config::{self, ConfigError, Loaded, Role};
use telecast::load;
use telecast::ops::{process, telemetry, version};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not errors; a closed pipe behind them is nobody's problem.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.verb {
        Verb::Standalone { demo, serving } => {
            serve(Role::Standalone, serving, Options { demo, ..Options::default() })
        }
        Verb::Ingest { serving } => serve(Role::Ingest, serving, Options::default()),
        Verb::Edge { serving } => serve(Role::Edge, serving, Options::default()),
        Verb::Config { role, check, serving } => print_configuration(role.into(), check, serving),
        Verb::Load(arguments) => run_load(arguments),
        Verb::Status(arguments) => print_status(&arguments),
        Verb::Version => print_version(),
        Verb::Completions { shell } => written(cli::completions(shell, &mut std::io::stdout())),
        Verb::Man { folder, made } => write_manual(&folder, made),
    }
}

fn serve(role: Role, serving: Serving, mut options: Options) -> ExitCode {
    let Loaded { settings, notes, files, .. } = match configuration(role, serving) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    telemetry::init(&settings.telemetry);
    for note in notes {
        tracing::warn!(event = "configuration_adjusted", "{note}");
    }
    options.files = files;
    app::run(settings, options)
}

fn print_configuration(role: Role, check: bool, serving: Serving) -> ExitCode {
    use std::io::Write as _;
    match configuration(role, serving) {
        Ok(loaded) if check => {
            loaded.notes.iter().for_each(|note| eprintln!("telecast: configuration: note: {note}"));
            ExitCode::SUCCESS
        }
        Ok(loaded) => written(std::io::stdout().write_all(loaded.to_toml().as_bytes())),
        Err(code) => code,
    }
}

fn print_version() -> ExitCode {
    use std::io::Write as _;
    written(writeln!(std::io::stdout(), "telecast {}", version::FULL))
}

fn write_manual(folder: &Path, made: Option<i64>) -> ExitCode {
    match cli::manual(folder, made) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("telecast: man: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// The exit code of an answer that was printed, or that nobody reads any more.
fn written(printed: std::io::Result<()>) -> ExitCode {
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_load(arguments: LoadArguments) -> ExitCode {
    match arguments.plan(&process::machine()) {
        Ok(plan) => load::run(plan),
        Err(error) => {
            eprintln!("telecast: load: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn print_status(arguments: &StatusArguments) -> ExitCode {
    use std::io::Write as _;
    match arguments.run(&cli::environment(), &process::machine()) {
        // Whoever no longer reads the line still gets the code.
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{}", report.text);
            if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("telecast: status: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The configuration, or the exit code after its error has been told: one line, before any log format is known.
fn configuration(role: Role, serving: Serving) -> Result<Loaded, ExitCode> {
    let refused = |error: ConfigError| {
        eprintln!("telecast: configuration: {error}");
        ExitCode::from(EXIT_USAGE)
    };
    let loaded =
        config::load(&serving.inputs(role, cli::environment(), process::machine())).map_err(refused)?;
    // Addresses and credentials that only the client of NATS can judge.
    if let Some(nats) = &loaded.settings.nats {
        nats::check(nats)
            .map_err(|nats::Unusable { key, expected }| refused(loaded.refuse(key, expected)))?;
    }
    Ok(loaded)
}
