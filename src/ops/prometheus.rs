//! `/metrics`: the recorder behind [`crate::ops::meters`], and its text.

use std::fmt::Write as _;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::config::Role;
use crate::ops::node::{Lifecycle, Node};
use crate::ops::{process, version};
use crate::proto::channel::CollectorId;
use crate::proto::printable::printable;
use crate::sync::Locked;

/// Content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Buckets of durations in seconds. Without buckets the exporter would make summaries, which no dashboard can add up over
/// nodes. Delivery takes 1 to 50 ms when all is well; the upper end is the time-outs.
const SECONDS_BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Collectors that are named in the metrics: the only ids that ever become a label, and so few that they are bounded.
const BUSIEST_MAX: usize = 10;
/// The metric that names them. Not one of the recorder's: that would keep collectors that are among the busiest no more.
pub const BUSIEST: &str = "ws_collector_lines_per_second";
/// Its help.
pub const BUSIEST_HELP: &str =
    "Metrics per second of this node's ten busiest collectors, averaged over about ten seconds.";

/// Histograms keep every sample until they are drained; without scrapes nobody would.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static EXPORTER: OnceLock<Exporter> = OnceLock::new();
/// Held while the recorder is installed: who comes second at the same moment gets the one of the first.
static INSTALLING: LazyLock<Locked<()>> = LazyLock::new(|| Locked::empty("installing the recorder"));

/// Renders the metrics of this process.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    process: Collector,
}

/// Why metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("the metrics recorder cannot be installed: {0}")]
pub struct InstallError(String);

/// Installs the recorder of this process, or hands out the one that is. Comes before `Meters::register`, whose handles
/// belong to the recorder of that moment.
pub fn install(role: Role) -> Result<Exporter, InstallError> {
    INSTALLING.with(|()| install_alone(role))
}

fn install_alone(role: Role) -> Result<Exporter, InstallError> {
    if let Some(exporter) = EXPORTER.get() {
        return Ok(exporter.clone());
    }
    let failed = |error: &dyn std::fmt::Display| InstallError(error.to_string());
    let handle = PrometheusBuilder::new()
        .set_buckets(SECONDS_BUCKETS)
        .map_err(|error| failed(&error))?
        .install_recorder()
        .map_err(|error| failed(&error))?;
    let process = Collector::default();
    process.describe();
    describe_identity(role);
    Ok(EXPORTER.get_or_init(|| Exporter { handle, process }).clone())
}

impl Exporter {
    /// Every metric, current as of now.
    pub fn render(&self, node: &Node) -> String {
        process::export(node);
        let current = node.lifecycle();
        for state in Lifecycle::ALL {
            let gauge = metrics::gauge!("ws_server_state", "state" => state.as_str());
            gauge.set(f64::from(u8::from(state == current)));
        }
        self.process.collect();
        let mut text = self.handle.render();
        write_busiest(&mut text, &node.busiest(BUSIEST_MAX));
        text
    }

    /// Drains histograms now and then. Never ends; the owner drops or cancels it.
    pub async fn upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn write_busiest(text: &mut String, busiest: &[(CollectorId, f64)]) {
    // Writing into memory cannot fail.
    let _ = writeln!(text, "# HELP {BUSIEST} {BUSIEST_HELP}\n# TYPE {BUSIEST} gauge");
    for (collector, rate) in busiest {
        // The format has no escape for what steers a terminal, and people read it there.
        let id = printable(collector.as_str()).replace('\\', r"\\").replace('"', "\\\"");
        let _ = writeln!(text, "{BUSIEST}{{collector=\"{id}\"}} {rate:.1}");
    }
}

fn describe_identity(role: Role) {
    metrics::describe_gauge!("ws_server_state", "1 for the state this process is in, 0 for the others.");
    metrics::describe_gauge!("ws_build_info", "Always 1; version, commit and role are labels.");
    let labels = [("version", version::NUMBER), ("commit", version::COMMIT), ("role", role.as_str())];
    metrics::gauge!("ws_build_info", &labels).set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_collectors_are_named_whatever_their_names() {
        let mut text = String::new();
        write_busiest(&mut text, &[(CollectorId::new(r#"a"b\c"#).unwrap(), 12.34)]);
        assert!(text.ends_with("ws_collector_lines_per_second{collector=\"a\\\"b\\\\c\"} 12.3\n"), "{text}");
        assert!(text.starts_with("# HELP ws_collector_lines_per_second "), "{text}");
        write_busiest(&mut text, &[(CollectorId::new("a\u{202e}b").unwrap(), 1.0)]);
        assert!(text.ends_with("{collector=\"a\\\\u{202e}b\"} 1.0\n"), "{text}");
    }
}
