//! Claims about line protocol.
