//! Any bytes as a client's message: nothing panics, an error is short, and every answer to it is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telecast_fuzz::proto::message::{ClientMessage, ServerMessage};

fuzz_target!(|input: &[u8]| {
    let answer = match ClientMessage::parse(input) {
        Ok(ClientMessage::Ping { id }) => ServerMessage::Pong { id: id.as_ref() }.to_json(),
        Ok(ClientMessage::Subscribe { id, .. } | ClientMessage::Replay { id, .. }) => {
            ServerMessage::Ack { id: id.as_ref(), matching: None, interval_ms: None }.to_json()
        }
        Err(error) => {
            assert!(error.message.len() < 1024, "{}", error.message);
            let message =
                ServerMessage::Error { id: error.id.as_ref(), code: error.code, message: &error.message };
            message.to_json()
        }
    };
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    if let Some(id) = answer.get("id") {
        let message: serde_json::Value = serde_json::from_slice(input).expect("an id was read");
        assert_eq!(&message["id"], id, "an id comes back as it was");
    }
});
