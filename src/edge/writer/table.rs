//! A writer's sessions, and which of them are live on which view.

use std::collections::HashMap;
use std::sync::Arc;

use crate::edge::doorbell::SessionKey;
use crate::edge::ring::Index;
use crate::edge::session::Session;
use crate::edge::view::{Cursor, View};

/// A view's address: it is held by its group, so no other view can have the same.
pub(super) type ViewAddress = usize;

/// The sessions of one writer.
#[derive(Default)]
pub(super) struct Table {
    sessions: Vec<Option<Box<Session>>>,
    free: Vec<usize>,
    generation: u64,
    groups: HashMap<ViewAddress, Group>,
}

struct Group {
    view: Arc<View>,
    /// The view's end when its sessions were last swept.
    swept: Cursor,
    members: Vec<SessionKey>,
}

impl Table {
    /// The key that the next session must have, to be inserted before anything else happens to the table.
    pub(super) fn next_key(&mut self) -> SessionKey {
        self.generation += 1;
        let slot = self.free.last().copied().unwrap_or(self.sessions.len());
        SessionKey { slot, generation: self.generation }
    }

    /// Adds a session whose key is the last one that [`Table::next_key`] gave.
    pub(super) fn insert(&mut self, session: Session) {
        let slot = session.key.slot;
        let session = Some(Box::new(session));
        if slot == self.sessions.len() {
            self.sessions.push(session);
        } else {
            self.free.pop();
            self.sessions[slot] = session;
        }
    }

    /// The session, if it is still here.
    pub(super) fn get(&mut self, key: SessionKey) -> Option<&mut Session> {
        let session = self.sessions.get_mut(key.slot)?.as_deref_mut()?;
        (session.key == key).then_some(session)
    }

    /// Takes the session out, of its group as well.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Box<Session>> {
        self.get(key)?;
        self.leave_group(key);
        let session = self.sessions[key.slot].take();
        self.free.push(key.slot);
        session
    }

    /// Everybody.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().flatten().map(|session| &**session)
    }

    /// Everybody's keys.
    pub(super) fn keys(&self) -> Vec<SessionKey> {
        self.sessions().map(|session| session.key).collect()
    }

    /// The keys of one of `parts` equal parts of the sessions.
    pub(super) fn keys_of_part(&self, part: usize, parts: usize) -> Vec<SessionKey> {
        self.sessions.iter().skip(part).step_by(parts).flatten().map(|session| session.key).collect()
    }

    /// From now on the session is swept with its view.
    pub(super) fn enter_group(&mut self, key: SessionKey) {
        let Some(session) = self.get(key) else { return };
        let view = session.seat.view().clone();
        let address = Arc::as_ptr(&view) as ViewAddress;
        let group = self.groups.entry(address);
        let group = group.or_insert_with(|| Group { swept: view.end(), view, members: Vec::new() });
        group.members.push(key);
        let position = group.members.len() - 1;
        if let Some(session) = self.get(key) {
            session.member = Some((address, position));
        }
    }

    /// The session is swept no more.
    pub(super) fn leave_group(&mut self, key: SessionKey) {
        let Some((address, position)) = self.get(key).and_then(|session| session.member.take()) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&address) else { return };
        group.members.swap_remove(position);
        match group.members.get(position).copied() {
            Some(moved) => {
                if let Some(session) = self.get(moved) {
                    session.member = Some((address, position));
                }
            }
            None if group.members.is_empty() => drop(self.groups.remove(&address)),
            None => {}
        }
    }

    /// Views that have grown since the last call.
    pub(super) fn due_groups(&mut self) -> Vec<ViewAddress> {
        let due = self.groups.iter_mut().filter_map(|(address, group)| {
            let end = group.view.end();
            let grown = end != group.swept;
            group.swept = end;
            grown.then_some(*address)
        });
        due.collect()
    }

    /// The session at a position of a group.
    pub(super) fn member(&self, view: ViewAddress, position: usize) -> Option<SessionKey> {
        self.groups.get(&view)?.members.get(position).copied()
    }

    /// How many entries the slowest live session is behind `head`.
    pub(super) fn lag(&self, head: Index) -> u64 {
        let live = self.sessions().filter(|session| session.is_live());
        live.map(|session| head.saturating_sub(session.index)).max().unwrap_or(0)
    }
}
