//! What happens by the clock: heartbeats, pings, the reaper, the gauge of the slowest session, and the waves of a drain.

use std::time::Duration;

use tokio::time::Instant;

use super::{TOO_MANY_CONTROL_FRAMES, Writer};
use crate::config::SlowClientPolicy;
use crate::edge::doorbell::SessionKey;
use crate::edge::encode::{self, Said};
use crate::edge::hub::Head;
use crate::edge::session::{Mode, Session};
use crate::ops::meters::Transport;
use crate::proto::message::{CloseCode, GoodbyeReason, ServerMessage};

/// Between two ticks. Each looks at one part of the sessions, so that thousands of heartbeats are spread over a second
/// instead of holding up the data once in a second.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// A poll that waits hears a new place so often: what its client comes back with at its end is this old at most.
const POLL_HEARTBEAT: Duration = Duration::from_secs(1);
/// Parts: every session is looked at once in a second.
const PARTS: usize = 20;

/// Goes round the sessions of one writer.
#[derive(Default)]
pub(super) struct Clock {
    part: usize,
    /// The newest heartbeat: idle sessions at one place share it.
    heartbeat: Option<(String, Said)>,
}

impl Clock {
    /// A heartbeat; false when too much is waiting.
    fn tell_place(&mut self, session: &mut Session, now: Instant) -> bool {
        session.offset_sent = now;
        if session.placeless {
            return true;
        }
        session.untold = false;
        let token = session.at.token();
        if self.heartbeat.as_ref().is_none_or(|(same, _)| *same != token) {
            let said = Said::of(&ServerMessage::Heartbeat { offset: &token });
            self.heartbeat = Some((token, said));
        }
        let frame = self.heartbeat.as_ref().map(|(_, said)| said.on(session.wire()));
        frame.is_none_or(|frame| session.outbox.put_control(frame))
    }
}

impl Writer {
    /// Looks at the next part of the sessions.
    pub(super) fn tick(&mut self) {
        let heartbeat = self.shared.settings.heartbeat;
        // Two pings without an answer and some time for the last one's way.
        let silence_max = heartbeat * 2 + Duration::from_secs(5);
        let blocked_max = self.shared.settings.slow_client_timeout;
        let disconnects = self.shared.settings.slow_client_policy == SlowClientPolicy::Disconnect;
        let message_timeout = self.shared.settings.client_message_timeout;
        let head = self.hub.head();
        let now = self.turn.now;
        for key in self.table.keys_of_part(self.clock.part, PARTS) {
            let Some(session) = self.table.get(key) else { continue };
            if session.has_to_wait() {
                session.inbound.iter_mut().for_each(|inbound| inbound.paused = false);
                self.receive(key);
            }
            self.settle(key);
            let Some(session) = self.table.get(key) else { continue };
            if let Mode::Closing { until, .. } = session.mode {
                if now >= until {
                    self.end(key);
                }
            } else if let Some(since) = session.blocked_since {
                // It is not asked for a sign of life that would come behind everything it has not read.
                if now.saturating_duration_since(since) >= blocked_max {
                    self.drop_slow(key, "nothing was read for too long");
                } else if disconnects && session.misses_frames() && !self.hub.holds(&session.at) {
                    self.drop_slow(key, "overtaken by the stream");
                }
            } else if session.inbound.as_ref().is_some_and(|inbound| inbound.is_late(now, message_timeout)) {
                let most = message_timeout.as_secs_f64();
                let reason = format!("a message was not complete within {most} s");
                // Not as a fault of the client's: a line that stalls is no reason to stay away.
                self.close(key, CloseCode::SlowClient, &reason, None);
            } else if session.socket.converses()
                && now.saturating_duration_since(session.heard) >= silence_max
            {
                self.close(key, CloseCode::Idle, "", None);
            } else {
                self.keep_alive(key, &head, heartbeat);
            }
        }
        self.clock.part = (self.clock.part + 1) % PARTS;
        if self.clock.part == 0 {
            self.shared.note_lag(self.doorbell.number, self.table.lag(head.index));
        }
    }

    fn keep_alive(&mut self, key: SessionKey, head: &Head, heartbeat: Duration) {
        let now = self.turn.now;
        let Some(session) = self.table.get(key) else { return };
        session.note_idle(head);
        let untold = now.saturating_duration_since(session.offset_sent);
        let mut fits = true;
        // One that is still on its way too: its client goes on from there if its time ends before.
        let polls_for_long = session.transport == Transport::Poll && untold >= POLL_HEARTBEAT;
        if untold >= heartbeat || (polls_for_long && session.untold) {
            fits &= self.clock.tell_place(session, now);
        }
        if now.saturating_duration_since(session.ping_sent) >= heartbeat {
            session.ping_sent = now;
            fits &= session.outbox.put_control(encode::ping(session.wire()));
        }
        match (fits, session.outbox.is_empty()) {
            (true, true) => {}
            (true, false) => self.pump(key),
            (false, _) => self.drop_slow(key, TOO_MANY_CONTROL_FRAMES),
        }
    }

    /// Tells a session its place at once, to be written with the next step.
    pub(super) fn tell_place(&mut self, key: SessionKey) {
        let (head, now) = (self.hub.head(), self.turn.now);
        let Some(session) = self.table.get(key) else { return };
        session.note_idle(&head);
        if !self.clock.tell_place(session, now) {
            self.drop_slow(key, TOO_MANY_CONTROL_FRAMES);
        }
    }

    /// The next clients of a drain: each gets everything that was begun, its offset, and when to come back.
    pub(super) fn send_wave_away(&mut self, clients: usize) {
        let staying = self.table.sessions().filter(|session: &&Session| !session.is_closing());
        let wave: Vec<SessionKey> = staying.map(|session| session.key).take(clients).collect();
        for key in wave {
            self.close(key, CloseCode::Draining, "", Some(GoodbyeReason::Draining));
        }
    }
}
