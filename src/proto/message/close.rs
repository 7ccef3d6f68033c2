//! Close codes: what a connection's end means, and whether to come back.
//!
//! A proxy between a client and a node closes with codes of its own, 1001 or 1000 when it restarts, 1002 or 1011 when it is broken. So
//! only a code that nothing but Telecast sends for this reason ends a client for good.

/// Why a WebSocket connection ends (RFC 6455 section 7.4; codes from 4000 on are ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The peer was asked to close, or is done.
    Normal,
    /// The page was left.
    GoingAway,
    /// Frames against RFC 6455.
    Protocol,
    /// A kind of message that is not read here.
    UnsupportedData,
    /// A text message or close reason that is no UTF-8, or a compressed message that cannot be inflated.
    InvalidData,
    /// Not allowed (any more): a token ran out, a limit was ignored.
    Policy,
    /// A message larger than the node reads.
    TooLarge,
    /// A fault of the server.
    Internal,
    /// The node is draining.
    Draining,
    /// The node is full or not ready.
    TryLater,
    /// The client takes too little for too long.
    SlowClient,
    /// The collector id has another writer.
    CollectorConflict,
    /// No answer to pings.
    Idle,
}

/// What a client should do after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reconnect {
    /// Nothing: every attempt would end the same way.
    No,
    /// Connect again, to any node, with the last offset.
    Resume,
    /// The same, but only after a pause that grows.
    BackOff,
}

impl CloseCode {
    /// Every code, in order of number.
    pub const ALL: [Self; 13] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::UnsupportedData,
        Self::InvalidData,
        Self::Policy,
        Self::TooLarge,
        Self::Internal,
        Self::Draining,
        Self::TryLater,
        Self::SlowClient,
        Self::CollectorConflict,
        Self::Idle,
    ];

    /// The table: number, meaning, what the peer should do.
    const fn row(self) -> (u16, &'static str, Reconnect) {
        match self {
            Self::Normal => (1000, "closed as asked", Reconnect::BackOff),
            Self::GoingAway => (1001, "going away", Reconnect::BackOff),
            Self::Protocol => (1002, "frames against RFC 6455", Reconnect::BackOff),
            Self::UnsupportedData => (1003, "a kind of message that is not read here", Reconnect::BackOff),
            Self::InvalidData => (
                1007,
                "text that is not UTF-8, or compressed data that cannot be inflated",
                Reconnect::BackOff,
            ),
            Self::Policy => (1008, "not allowed", Reconnect::No),
            Self::TooLarge => (1009, "a message larger than this node reads", Reconnect::BackOff),
            Self::Internal => (1011, "a fault of the server", Reconnect::BackOff),
            Self::Draining => (1012, "the node is draining", Reconnect::Resume),
            Self::TryLater => (1013, "the node is full or not ready", Reconnect::BackOff),
            Self::SlowClient => (4008, "too slow for too long", Reconnect::Resume),
            Self::CollectorConflict => (4009, "the collector id has another writer", Reconnect::BackOff),
            Self::Idle => (4010, "no answer to pings", Reconnect::Resume),
        }
    }

    /// As the close frame carries it.
    pub const fn number(self) -> u16 {
        self.row().0
    }

    /// For people; the close frame's reason unless there is a better one.
    pub const fn meaning(self) -> &'static str {
        self.row().1
    }

    /// What the peer should do.
    pub const fn reconnect(self) -> Reconnect {
        self.row().2
    }

    /// The code with this number, if it is one of ours.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }
}
