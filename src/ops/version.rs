//! Which program this is.

/// Version of the package.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("TELECAST_COMMIT");

/// Both, as `--version` gives them.
pub const FULL: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TELECAST_COMMIT"), ")");
