//! What a run is to do: presets, durations, shares, and what they may be. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::target::Target;
use crate::proto::filter::FilterSet;

/// Descriptors that are not clients': the standard streams, the pollers, libraries.
pub const DESCRIPTORS_RESERVED: usize = 64;

/// Most collectors of one run: each session keeps four bytes for each, and eight more while a gap is open.
pub const COLLECTORS_MAX: usize = 10_000;

/// Longest message of an own collector, in bytes: below what ingest takes in one envelope by default.
pub const PUBLISH_BYTES_MAX: usize = 256 * 1024;

/// Everything a run needs to know. Made by the command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients connect, in turn. At least one.
    pub targets: Vec<Target>,
    /// What every client asks for.
    pub filters: FilterSet,
    /// Clients that read.
    pub clients: usize,
    /// Clients that connect and never read, besides those.
    pub slow: usize,
    /// New connections per second, over all clients.
    pub connects_per_s: f64,
    /// How long the load lasts, from the moment when everybody is connected.
    pub duration: Duration,
    /// Who leaves and comes back while the load lasts.
    pub churn: Option<Churn>,
    /// The collectors this run plays itself.
    pub publishing: Option<Publishing>,
    /// Threads that own the clients' sockets. At least one.
    pub threads: usize,
    /// What stdout gets.
    pub output: Output,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// One object, for programs.
    Json,
}

/// Collectors of this run's own: what they send is counted exactly, and carries the time of its sending.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Where they connect.
    pub target: Target,
    /// How many there are.
    pub collectors: usize,
    /// Messages per second, over all of them.
    pub messages_per_s: f64,
    /// What a client's message is to have, in bytes, about.
    pub message_bytes: usize,
}

/// A size of run that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 100 clients for one minute.
    Light,
    /// 500 clients for two minutes.
    Medium,
    /// 2,000 clients for three minutes.
    Heavy,
}

impl Preset {
    /// Clients that read.
    pub fn clients(self) -> usize {
        match self {
            Self::Light => 100,
            Self::Medium => 500,
            Self::Heavy => 2_000,
        }
    }

    /// How long the load lasts.
    pub fn duration(self) -> Duration {
        match self {
            Self::Light => Duration::from_secs(60),
            Self::Medium => Duration::from_secs(120),
            Self::Heavy => Duration::from_secs(180),
        }
    }
}

/// How many clients leave and come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Churn {
    /// So many clients each second.
    PerSecond(f64),
    /// Such a share of the clients each second, up to 1.
    Share(f64),
}

impl Churn {
    /// Departures per second among so many clients.
    pub fn per_second(self, clients: usize) -> f64 {
        match self {
            Self::PerSecond(rate) => rate,
            Self::Share(share) => share * clients as f64,
        }
    }
}

/// A value that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// See [`Span`].
    #[error("`{0}` is no duration: write seconds, or a number with s, m or h, such as 90, 90s or 1.5m")]
    Span(String),
    /// See [`Churn`].
    #[error(
        "`{0}` is neither clients per second nor a share: write a number from 0.001 to 100,000 such as 20, or a share from \
         0.001% to 100% such as 5%"
    )]
    Churn(String),
    /// See [`Rate`].
    #[error("`{0}` is no rate: write a number from 0.001 to 10,000,000, such as 200")]
    Rate(String),
}

/// Why a run cannot be as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Neither readers nor slow ones.
    #[error("there is nobody to connect: give --clients, --slow or --publish a number above 0")]
    Nobody,
    /// Each socket is a descriptor.
    #[error(
        "{needed} sockets do not fit: this process may open {descriptors} files, of which {DESCRIPTORS_RESERVED} are kept \
         for itself. Raise the hard limit (ulimit -Hn, LimitNOFILE=), split the load over several machines, or use \
         --clients {}", .fitting
    )]
    Descriptors {
        /// Clients and collectors.
        needed: usize,
        /// The hard limit.
        descriptors: usize,
        /// As many clients as there is room for.
        fitting: usize,
    },
}

impl Plan {
    /// Checks what depends on several values, and on what this machine allows: the hard limit of descriptors.
    pub fn check(&self, descriptors: usize) -> Result<(), PlanError> {
        let collectors = self.publishing.as_ref().map_or(0, |publishing| publishing.collectors);
        let others = self.slow + collectors;
        let needed = self.clients + others;
        if needed == 0 {
            return Err(PlanError::Nobody);
        }
        let room = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
        if needed > room {
            let fitting = room.saturating_sub(others);
            return Err(PlanError::Descriptors { needed, descriptors, fitting });
        }
        Ok(())
    }

    /// Clients of both kinds.
    pub fn sockets(&self) -> usize {
        self.clients + self.slow
    }
}

/// A duration as people write it: `90`, `90s`, `1.5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Longest run: a week.
const SPAN_S_MAX: f64 = 7.0 * 86_400.0;

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let units = [("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("", 1.0)];
        let parsed = units.into_iter().find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?;
            // What Rust reads as numbers besides digits (inf, 1e9) nobody means here.
            let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            Some(number.parse::<f64>().ok().filter(|_| plain)? * seconds)
        });
        match parsed.filter(|seconds| *seconds > 0.0 && *seconds <= SPAN_S_MAX) {
            Some(seconds) => Ok(Self(Duration::from_secs_f64(seconds))),
            None => Err(ValueError::Span(text.to_owned())),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// Lowest rate, per second, and lowest share, in percent: about one in a quarter of an hour. The time between two of
/// something much rarer is more than clocks can count.
const RATE_MIN: f64 = 0.001;

/// Most of something per second.
const RATE_MAX: f64 = 10_000_000.0;

/// Most departures per second.
const CHURN_MAX: f64 = 100_000.0;

/// Something per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let rate = text.parse::<f64>().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
        rate.map(Self).ok_or_else(|| ValueError::Rate(text.to_owned()))
    }
}

impl FromStr for Churn {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Churn(text.to_owned());
        let share = text.strip_suffix('%');
        let number = share.unwrap_or(text).parse::<f64>().map_err(|_| bad())?;
        match share {
            Some(_) if (RATE_MIN..=100.0).contains(&number) => Ok(Self::Share(number / 100.0)),
            None if (RATE_MIN..=CHURN_MAX).contains(&number) => Ok(Self::PerSecond(number)),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
impl Plan {
    /// So many clients that read, and nothing else.
    pub(super) fn of_clients(clients: usize) -> Self {
        Self {
            targets: Vec::new(),
            filters: FilterSet::default(),
            clients,
            slow: 0,
            connects_per_s: 1.0,
            duration: Duration::from_secs(1),
            churn: None,
            publishing: None,
            threads: 1,
            output: Output::Table,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Option<f64> {
        text.parse::<Span>().ok().map(|span| span.0.as_secs_f64())
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("60", 60.0), ("90s", 90.0), ("1m", 60.0), ("1.5m", 90.0), ("2h", 7_200.0)] {
            assert_eq!(span(text), Some(seconds), "{text}");
        }
        for text in ["", "0", "-1", "m", "1d", "1e9", "inf", "NaN", "1 m", "8760h"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn churn_is_a_number_or_a_share() {
        let per_second = |text: &str| text.parse::<Churn>().ok().map(|churn| churn.per_second(200));
        assert_eq!(per_second("20"), Some(20.0));
        assert_eq!(per_second("5%"), Some(10.0));
        for text in ["", "0", "%", "101%", "-3", "NaN", "five", "1e-30", "1e-30%"] {
            assert_eq!(per_second(text), None, "{text}");
        }
    }

    #[test]
    fn rates_are_positive_numbers() {
        assert_eq!("200".parse(), Ok(Rate(200.0)));
        assert_eq!("0.5".parse(), Ok(Rate(0.5)));
        for text in ["0", "-1", "NaN", "inf", "fast", "1e-20", "1e-300"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    fn plan(clients: usize, slow: usize) -> Plan {
        Plan { slow, ..Plan::of_clients(clients) }
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_would() {
        assert_eq!(plan(900, 36).check(1_000), Ok(()));
        let error = plan(1_000, 10).check(1_000).unwrap_err();
        assert_eq!(error, PlanError::Descriptors { needed: 1_010, descriptors: 1_000, fitting: 926 });
        assert!(error.to_string().ends_with("--clients 926"), "{error}");
        assert_eq!(plan(0, 0).check(1_000), Err(PlanError::Nobody));
    }
}
