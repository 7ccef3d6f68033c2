mod conversation;
mod frames;
mod handshake;
