//! The flags of `telecast load`, and the way from there to a plan.

use clap::{Args, ValueEnum};

use crate::config::Machine;
use crate::load::plan::{
    COLLECTORS_MAX, Churn, Output, PUBLISH_BYTES_MAX, Plan, PlanError, Preset, Publishing, Rate, Span,
};
use crate::load::target::{Target, TargetError};
use crate::proto::filter::{FilterSet, FilterSetError};

pub(super) const EXAMPLES: &str = "\
Examples:
  telecast load                                       100 clients for a minute on ws://localhost:9090/ws
  telecast load heavy --url ws://edge-1:3002/ws --url ws://edge-2:3002/ws
                                                      2,000 clients on two edges, what they get is whatever flows
  telecast load medium --publish 10 --publish-rate 200
                                                      and ten collectors of its own, whose messages are counted exactly
  telecast load --url ws://edge:3002 --ingest ws://ingest:9090 --publish 10 --slow 10 --reconnect 5%
                                                      10 clients never read, 5 in 100 leave and resume each second
  telecast load light --json | jq .latency_ms.p99     for programs

Clients connect, then the load lasts for the duration, then what was published is waited for. Without --publish nothing is
written to the cluster; duplicates and order are then judged by offsets, latency and loss stay unknown.

Exit codes:
  0   every client was connected at the end; nothing came twice, out of order or against the filters, and nothing was
      missing that no gap had announced
  1   otherwise; the last row of the table says what
  64  flags that cannot be used, or more clients than this machine lets a process have";

/// What a run is made of.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadArguments {
    /// Size of the run: light 100 clients for 60 s, medium 500 for 120 s, heavy 2,000 for 180 s; flags override
    #[arg(value_enum, value_name = "PRESET")]
    size: Option<PresetName>,
    /// The same as PRESET
    #[arg(long, value_enum, conflicts_with = "size")]
    preset: Option<PresetName>,
    /// Where clients connect; several share them evenly
    #[arg(long = "url", value_name = "URL", default_value = "ws://localhost:9090/ws")]
    urls: Vec<String>,
    /// Clients that read [default: the preset's]
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// New connections per second
    #[arg(long, value_name = "N", default_value = "500")]
    rate: Rate,
    /// How long the load lasts once everybody is connected: 60, 90s, 5m [default: the preset's]
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// What clients ask for, such as '*.cpu{cpu=cpu-total}'; all get the union of several
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Clients besides those that connect and never read
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow: usize,
    /// Clients that leave without a word and resume elsewhere, each second: a number, or a share such as 5%
    #[arg(long, value_name = "N|N%")]
    reconnect: Option<Churn>,
    /// Collectors to play, whose messages are counted exactly: this writes to the cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=COLLECTORS_MAX as i64))]
    publish: Option<u32>,
    /// Where those connect [default: /ws/collector on the first URL's host, right for standalone]
    #[arg(long, value_name = "URL", requires = "publish")]
    ingest: Option<String>,
    /// Messages per second over all those collectors [default: 10 for each]
    #[arg(long, value_name = "N", requires = "publish")]
    publish_rate: Option<Rate>,
    /// About so many bytes has one of their messages as a client gets it, at least some 210
    #[arg(long, value_name = "N", requires = "publish", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=PUBLISH_BYTES_MAX as i64))]
    publish_bytes: u32,
    /// Threads for clients [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// A preset, as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// 100 clients for 60 s
    Light,
    /// 500 clients for 120 s
    Medium,
    /// 2,000 clients for 180 s
    Heavy,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Light => Self::Light,
            PresetName::Medium => Self::Medium,
            PresetName::Heavy => Self::Heavy,
        }
    }
}

/// Why flags make no plan.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `--url` or `--ingest`.
    #[error("{0}")]
    Target(#[from] TargetError),
    /// `--filter`.
    #[error("--filter: {0}")]
    Filter(#[from] FilterSetError),
    /// Values that do not go together, or not on this machine.
    #[error("{0}")]
    Plan(#[from] PlanError),
}

impl LoadArguments {
    /// The plan, checked against what this machine allows.
    pub fn plan(self, machine: &Machine) -> Result<Plan, LoadError> {
        let preset: Preset = self.size.or(self.preset).unwrap_or(PresetName::Light).into();
        let targets: Vec<Target> =
            self.urls.iter().map(|url| Target::of_clients(url)).collect::<Result<_, _>>()?;
        let publishing = match self.publish {
            None => None,
            Some(collectors) => Some(Publishing {
                target: match &self.ingest {
                    Some(url) => Target::of_collectors(url)?,
                    None => targets[0].for_collectors(),
                },
                collectors: collectors as usize,
                messages_per_s: self.publish_rate.map_or(f64::from(collectors) * 10.0, |rate| rate.0),
                message_bytes: self.publish_bytes as usize,
            }),
        };
        let plan = Plan {
            targets,
            filters: FilterSet::parse(self.filters.iter().map(String::as_str))?,
            clients: self.clients.unwrap_or_else(|| preset.clients()),
            slow: self.slow,
            connects_per_s: self.rate.0,
            duration: self.duration.map_or_else(|| preset.duration(), |span| span.0),
            churn: self.reconnect,
            publishing,
            threads: self.threads.map_or_else(|| (machine.cores / 2).max(1), usize::from),
            output: if self.json { Output::Json } else { Output::Table },
        };
        plan.check(machine.descriptors as usize)?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Arguments, Verb};

    fn plan(line: &str) -> Result<Plan, String> {
        let words = ["telecast", "load"].into_iter().chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Verb::Load(arguments) = arguments.verb else { panic!("{line}: another verb") };
        let machine = Machine { host_name: "h".to_owned(), cores: 8, descriptors: 10_000 };
        arguments.plan(&machine).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_override_presets() {
        let sizes = |line: &str| plan(line).map(|plan| (plan.clients, plan.duration.as_secs()));
        assert_eq!(sizes(""), Ok((100, 60)));
        assert_eq!(sizes("medium"), Ok((500, 120)));
        assert_eq!(sizes("--preset heavy"), Ok((2_000, 180)));
        assert_eq!(sizes("heavy --clients 7 --duration 1.5m"), Ok((7, 90)));
        assert!(plan("light --preset heavy").is_err());
    }

    #[test]
    fn collectors_go_to_the_first_url_unless_told_otherwise() {
        let plan_ = plan("--url one:9090/ws --url two:1 --publish 3 --publish-bytes 128").unwrap();
        let publishing = plan_.publishing.unwrap();
        assert_eq!(publishing.target.to_string(), "ws://one:9090/ws/collector");
        assert_eq!((publishing.messages_per_s, publishing.message_bytes), (30.0, 128));
        assert_eq!((plan_.targets.len(), plan_.threads), (2, 4));
        let elsewhere = plan("--publish 1 --ingest ingest:9 --publish-rate 0.5").unwrap().publishing.unwrap();
        assert_eq!(elsewhere.target.to_string(), "ws://ingest:9/ws/collector");
        assert_eq!(elsewhere.messages_per_s, 0.5);
        assert_eq!(plan("").unwrap().duration, Duration::from_secs(60));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_would_be_right() {
        for (line, part) in [
            ("--clients 20000", "--clients 9936"),
            ("--clients 0", "--clients"),
            ("--url https://edge", "ws://"),
            ("--filter cpu", "cpu"),
            ("--duration soon", "90s"),
            ("--rate 0", "200"),
            ("--reconnect 200%", "5%"),
            ("--publish 0", "1..=10000"),
            ("--publish-rate 5", "--publish"),
            ("--threads 0", "1..=256"),
            ("huge", "heavy"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
