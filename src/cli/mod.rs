//! The command line: what can be asked of the program, and the way from there to a configuration.
//!
//! Only verbs that exist are offered. Nothing is started here; `status` asks a node that runs.

mod install;
mod load;
mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{Inputs, Machine, Role};
use crate::ops::version;

pub use install::{completions, manual};
pub use load::{LoadArguments, LoadError, PresetName};
pub use status::{Report, StatusArguments, UrlError};

/// Folder of `default.toml` and `<role>.toml`, unless `TELECAST_CONFIG_DIR` names another.
const CONFIG_FOLDER: &str = "config";

/// Exit code of a command line or configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  telecast standalone --demo             this machine's metrics on port 9090
  telecast standalone                    collectors write to port 9090, clients read
  telecast ingest --nats nats://n:4222   one of many nodes that take collectors
  telecast edge --nats nats://n:4222     one of many nodes that serve clients
  telecast config --role edge            what an edge would use, and from where
  telecast config --role edge --check    whether an edge would start with its configuration
  telecast load heavy --publish 10       how much a node stands: 2,000 clients, ten collectors
  telecast status                        whether the node on this machine does its work

Configuration, each above the one before:
  built-in values, config/default.toml, config/ROLE.toml, --config FILE, environment, flags.
  config/default.toml explains every key.

Environment:
  TELECAST__EDGE__THROTTLE_MS  sets edge.throttle_ms, and so on for every key
  TELECAST_CONFIG_DIR          folder of default.toml and ROLE.toml [config]
  NATS_URL                     nats.url
  LOG_LEVEL                    telemetry.level (error, warn, info, debug, …)
  LOG_FORMAT                   telemetry.format (auto, json, pretty)
  WS_MAX_CONNECTIONS           edge.max_connections
  WS_WORKER_THREADS            server.worker_threads
  WS_THROTTLE_MS               edge.throttle_ms
  METRICS_PORT                 server.metrics_listen
  METRICS_ENABLED              server.metrics_enabled (true, false)

Exit codes:
  0   stopped as asked (SIGTERM or SIGINT, after draining); status: healthy or degraded
  1   could not go on; the last log line says why; status: unhealthy, or no node answers
  64  unusable command line or configuration; stderr names the flag or key
  70  stood still for server.watchdog_timeout_ms; the log says what its threads did, and what started it starts it anew

Signals:
  SIGTERM, SIGINT  drain, then stop; a second one stops at once
  SIGHUP           from a terminal that closes: as SIGTERM; otherwise ignored with a log line, as the configuration is
                   read at start only (what is logged can change at run time: PUT /admin/log-level)";

/// Live metrics, relayed from many collectors to any number of browsers and programs.
#[derive(Debug, Parser)]
#[command(name = "telecast", version = version::FULL, after_help = EXAMPLES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the program can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Take collectors and serve clients in one process; needs nothing else
    Standalone {
        /// Collect this machine's own metrics every second
        #[arg(long)]
        demo: bool,
        /// What every serving node takes.
        #[command(flatten)]
        serving: Serving,
    },
    /// Take collectors and write their metrics to the log on NATS
    Ingest {
        /// What every serving node takes.
        #[command(flatten)]
        serving: Serving,
    },
    /// Follow the log on NATS and serve clients
    Edge {
        /// What every serving node takes.
        #[command(flatten)]
        serving: Serving,
    },
    /// Print the effective configuration as TOML: origins shown, secrets masked
    Config {
        /// The role whose configuration to print
        #[arg(long, value_enum, default_value_t = RoleName::Standalone)]
        role: RoleName,
        /// Print nothing but mistakes and notes: exit code 0 if a node would start with this configuration, else 64
        #[arg(long)]
        check: bool,
        /// What every serving node takes.
        #[command(flatten)]
        serving: Serving,
    },
    /// Connect many clients and check what they get: the stress test
    Load(LoadArguments),
    /// Ask a running node for its health: one line, and exit code 0 while it does its work
    Status(StatusArguments),
    /// Print the version and the commit it was built from
    Version,
    /// Print what completes this program's verbs and flags in a shell
    Completions {
        /// The shell that reads it
        shell: Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// Made if it is not there
        folder: PathBuf,
        /// Seconds since 1970 of the day that the pages are dated with [default: now]
        #[arg(long, value_name = "SECONDS")]
        made: Option<i64>,
    },
}

/// What every serving node takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Serving {
    /// Address to listen on; HOST is an IP address or localhost
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// NATS servers, separated by commas
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Name of this node, unique in the cluster [default: the host name]
    #[arg(long, value_name = "ID")]
    pub node: Option<String>,
    /// Configuration file on top of config/default.toml and config/ROLE.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A role, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Ingest and edge in one process
    Standalone,
    /// Takes collectors
    Ingest,
    /// Serves clients
    Edge,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Standalone => Self::Standalone,
            RoleName::Ingest => Self::Ingest,
            RoleName::Edge => Self::Edge,
        }
    }
}

impl Serving {
    /// Everything the configuration of a node in `role` is made of, the environment included.
    pub fn inputs(self, role: Role, variables: Vec<(String, String)>, machine: Machine) -> Inputs {
        let moved = variables.iter().find(|(name, value)| name == "TELECAST_CONFIG_DIR" && !value.is_empty());
        let folder = moved.map_or(CONFIG_FOLDER, |(_, value)| value.as_str()).into();
        let folder_required = moved.is_some();
        let Self { listen, nats, node, config } = self;
        Inputs { role, folder, folder_required, file: config, variables, listen, nats, node, machine }
    }
}

/// The environment, without what is no text: no key of ours could be set by it.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_serving_role_takes_the_same_flags() {
        for role in ["standalone", "ingest", "edge", "config"] {
            let line = ["telecast", role, "--listen", "1", "--nats", "2", "--node", "3", "--config", "4"];
            assert!(Arguments::try_parse_from(line).is_ok(), "{role}");
        }
        assert!(Arguments::try_parse_from(["telecast", "edge", "--demo"]).is_err());
    }

    #[test]
    fn help_names_every_short_name_of_the_environment() {
        for (name, key) in crate::config::SHORT_NAMES {
            assert!(EXAMPLES.contains(name) && EXAMPLES.contains(key), "{name}");
        }
    }

    #[test]
    fn the_folder_of_the_files_can_be_moved() {
        let machine = Machine { host_name: "h".to_owned(), cores: 1, descriptors: 1024 };
        let inputs = |variables| Serving::default().inputs(Role::Edge, variables, machine.clone());
        assert_eq!(inputs(Vec::new()).folder, PathBuf::from("config"));
        let moved = inputs(vec![("TELECAST_CONFIG_DIR".to_owned(), "/etc/telecast".to_owned())]);
        assert_eq!(moved.folder, PathBuf::from("/etc/telecast"));
    }
}
