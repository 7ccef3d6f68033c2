//! Why a connection did not come to be or ended, and what follows from that. Pure.

use std::io::ErrorKind;
use std::time::Duration;

use crate::proto::frame::FrameError;
use crate::proto::message::{CloseCode, Reconnect};

/// First pause before another attempt; each further one doubles it.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Longest pause: a node that restarts is back within some seconds.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// The end of a connection, or of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The socket could not be made or connected, or broke.
    Socket(ErrorKind),
    /// No place for another socket on this machine.
    NoLocalAddress,
    /// Connecting and the handshake took too long.
    HandshakeTimeout,
    /// An answer other than a WebSocket; with the pause it asks for.
    Refused { status: u16, retry_after: Option<Duration> },
    /// An answer that is no proper HTTP, or to somebody else's handshake.
    BadHandshake,
    /// The server closed; with the pause it asked for before.
    Closed { code: Option<u16>, reconnect_after: Option<Duration> },
    /// The connection ended without a close frame.
    Lost,
    /// The server broke the protocol.
    Protocol(FrameError),
    /// Nothing came for so long that nobody can be there.
    Silent,
    /// Left by this program, to come back.
    Churn,
}

/// What to do about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Connect again after this pause.
    Again(Duration),
    /// It would end the same way.
    Stop,
}

impl End {
    /// For the table: one word or two, the same for all ends that mean the same.
    pub(super) fn label(self) -> String {
        match self {
            Self::Socket(kind) => kind.to_string(),
            Self::NoLocalAddress => "no local port left".to_owned(),
            Self::HandshakeTimeout => "handshake timed out".to_owned(),
            Self::Refused { status, .. } => format!("HTTP {status}"),
            Self::BadHandshake => "no WebSocket handshake".to_owned(),
            Self::Closed { code: None, .. } => "closed without a code".to_owned(),
            Self::Closed { code: Some(code), .. } => match CloseCode::from_number(code) {
                Some(known) => format!("closed {code} ({})", known.meaning()),
                None => format!("closed {code}"),
            },
            Self::Lost => "connection lost".to_owned(),
            Self::Protocol(error) => format!("protocol: {error}"),
            Self::Silent => "server silent".to_owned(),
            Self::Churn => "left on purpose".to_owned(),
        }
    }

    /// What somebody does who wants to stay, after so many attempts without success.
    pub(super) fn next(self, failures: u32) -> Next {
        let pause = BACK_OFF.saturating_mul(1 << failures.min(16)).min(BACK_OFF_MAX);
        match self {
            Self::Churn => Next::Again(Duration::ZERO),
            Self::Closed { reconnect_after: Some(after), .. } => Next::Again(after),
            Self::Closed { code, .. } => {
                match code.and_then(CloseCode::from_number).map(CloseCode::reconnect) {
                    Some(Reconnect::Resume) if failures == 0 => Next::Again(Duration::ZERO),
                    Some(Reconnect::No) => Next::Stop,
                    _ => Next::Again(pause),
                }
            }
            Self::Refused { status: 429 | 500.., retry_after } => Next::Again(retry_after.unwrap_or(pause)),
            Self::Refused { .. } | Self::BadHandshake | Self::Protocol(_) => Next::Stop,
            Self::Socket(_) | Self::NoLocalAddress | Self::HandshakeTimeout | Self::Lost | Self::Silent => {
                Next::Again(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16) -> End {
        End::Closed { code: Some(code), reconnect_after: None }
    }

    #[test]
    fn who_is_sent_elsewhere_goes_at_once_or_when_told() {
        assert_eq!(closed(1012).next(0), Next::Again(Duration::ZERO));
        let told = Duration::from_millis(4_200);
        assert_eq!(End::Closed { code: Some(1012), reconnect_after: Some(told) }.next(3), Next::Again(told));
        assert_eq!(End::Churn.next(0), Next::Again(Duration::ZERO));
    }

    #[test]
    fn who_fails_again_waits_longer_up_to_a_bound() {
        assert_eq!(End::Lost.next(0), Next::Again(BACK_OFF));
        assert_eq!(End::Lost.next(2), Next::Again(BACK_OFF * 4));
        assert_eq!(End::Lost.next(100), Next::Again(BACK_OFF_MAX));
        assert_eq!(closed(1013).next(1), Next::Again(BACK_OFF * 2));
        let busy = |retry_after| End::Refused { status: 503, retry_after };
        assert_eq!(busy(Some(Duration::from_secs(7))).next(0), Next::Again(Duration::from_secs(7)));
        assert_eq!(busy(None).next(0), Next::Again(BACK_OFF));
    }

    #[test]
    fn what_would_end_the_same_way_is_left() {
        for end in [closed(1008), End::Refused { status: 404, retry_after: None }, End::BadHandshake] {
            assert_eq!(end.next(0), Next::Stop, "{end:?}");
        }
    }
}
