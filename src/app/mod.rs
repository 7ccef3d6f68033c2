//! The composition root: builds a role from its settings, owns its tasks, drains it.

use std::process::ExitCode;

use crate::config::Settings;

/// What the command line says beyond the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Collect this machine's own metrics.
    pub demo: bool,
}

/// Runs the process to its end.
pub fn run(_settings: Settings, _options: Options) -> ExitCode {
    ExitCode::SUCCESS
}
