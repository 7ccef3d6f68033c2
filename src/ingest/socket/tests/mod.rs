mod conversation;
mod handshake;
