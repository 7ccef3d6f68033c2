//! The forms in which messages go over the wire. Pure.

/// How a session's messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// WebSocket frames.
    WebSocket,
    /// WebSocket frames, compressed where that makes a message smaller.
    Deflated,
    /// Server-sent events.
    Events,
}

impl Wire {
    /// A WebSocket's, compressed if the connection has agreed on that.
    pub(crate) fn of_websocket(deflated: bool) -> Self {
        if deflated { Self::Deflated } else { Self::WebSocket }
    }
}

/// Whether what begins like this is a message, and nothing that a transport has besides: a ping, pong or close frame, or a
/// comment or a time to come back among events. The first bit of a server's frame is always set, that of text never.
pub(crate) fn is_message(first: u8) -> bool {
    match first & 0x80 {
        0 => !matches!(first, b':' | b'r'),
        _ => !crate::proto::frame::is_control(first),
    }
}
