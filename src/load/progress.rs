//! The bar on stderr, while a run lasts and only where somebody sees it.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::plan::Plan;
use super::shared::{Glance, Phase};

/// How often the figures change: fast enough to see, slow enough to read.
const INTERVAL: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Progress {
    bar: ProgressBar,
    sockets: u64,
    before: (Instant, u64),
    per_second: u64,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        let shown = std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(plan.duration.as_millis() as u64), target);
        // The template is a constant; were it wrong, the usual look would do.
        if let Ok(style) = ProgressStyle::with_template("{prefix:11} {bar:30} {msg}") {
            bar.set_style(style);
        }
        Self { bar, sockets: plan.sockets() as u64, before: (Instant::now(), 0), per_second: 0 }
    }

    pub(super) fn show(&mut self, phase: Phase, glance: &Glance, running: Duration) {
        if self.bar.is_hidden() {
            return;
        }
        let now = Instant::now();
        let since = now.saturating_duration_since(self.before.0);
        if since >= INTERVAL {
            let came = glance.deliveries.saturating_sub(self.before.1) as f64;
            self.per_second = (came / since.as_secs_f64()) as u64;
            self.before = (now, glance.deliveries);
        }
        let prefix = match phase {
            Phase::Connecting => "connecting",
            Phase::Running => "load",
            Phase::Settling => "settling",
            Phase::Ending => "ending",
        };
        self.bar.set_prefix(prefix);
        if phase == Phase::Running {
            self.bar.set_position(running.as_millis() as u64);
        }
        let Glance { open, .. } = glance;
        self.bar.set_message(format!("{open}/{} clients  {} messages/s", self.sockets, self.per_second));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
