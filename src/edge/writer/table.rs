//! A writer's sessions, and which of them are live on which view.

use std::collections::HashMap;
use std::sync::Arc;

use crate::edge::doorbell::{Doorbell, SessionKey, ViewAddress};
use crate::edge::ring::Index;
use crate::edge::session::Session;
use crate::edge::view::View;

/// The sessions of one writer.
pub(super) struct Table {
    /// Views say here that they have grown.
    doorbell: Arc<Doorbell>,
    sessions: Vec<Option<Box<Session>>>,
    free: Vec<usize>,
    generation: u64,
    groups: Vec<Option<Group>>,
    free_groups: Vec<GroupIndex>,
    /// Where each view's group is.
    by_view: HashMap<ViewAddress, GroupIndex>,
}

/// Position of a group in its table: found once per sweep and not once per session.
pub(super) type GroupIndex = usize;

/// Live sessions of one view, which is listened to for as long as there are any.
struct Group {
    view: Arc<View>,
    members: Vec<SessionKey>,
}

impl Table {
    /// An empty one, of the writer with this bell.
    pub(super) fn new(doorbell: Arc<Doorbell>) -> Self {
        Self {
            doorbell,
            sessions: Vec::new(),
            free: Vec::new(),
            generation: 0,
            groups: Vec::new(),
            free_groups: Vec::new(),
            by_view: HashMap::new(),
        }
    }

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

    /// Takes a session out, if it is still here: its socket is closed when it is dropped.
    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Box<Session>> {
        self.get(key)?;
        self.leave_group(key);
        self.free.push(key.slot);
        self.sessions[key.slot].take()
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

    /// From now on the session is swept with its view. What the view has already is for the caller to look after.
    pub(super) fn enter_group(&mut self, key: SessionKey) {
        let Some(session) = self.get(key) else { return };
        let view = session.seat.view().clone();
        let at = match self.by_view.get(&view.address()) {
            Some(at) => *at,
            None => self.add_group(view),
        };
        let Some(group) = self.groups[at].as_mut() else { return };
        group.members.push(key);
        let position = group.members.len() - 1;
        if let Some(session) = self.get(key) {
            session.member = Some((at, position));
        }
    }

    fn add_group(&mut self, view: Arc<View>) -> GroupIndex {
        view.listen(self.doorbell.clone());
        let at = self.free_groups.pop().unwrap_or(self.groups.len());
        self.by_view.insert(view.address(), at);
        let group = Some(Group { view, members: Vec::new() });
        if at == self.groups.len() {
            self.groups.push(group);
        } else {
            self.groups[at] = group;
        }
        at
    }

    /// The session is swept no more.
    pub(super) fn leave_group(&mut self, key: SessionKey) {
        let Some((at, position)) = self.get(key).and_then(|session| session.member.take()) else { return };
        let Some(group) = self.groups[at].as_mut() else { return };
        group.members.swap_remove(position);
        match group.members.get(position).copied() {
            Some(moved) => {
                if let Some(session) = self.get(moved) {
                    session.member = Some((at, position));
                }
            }
            None if group.members.is_empty() => {
                group.view.unlisten(self.doorbell.number);
                self.by_view.remove(&group.view.address());
                self.groups[at] = None;
                self.free_groups.push(at);
            }
            None => {}
        }
    }

    /// Groups whose views have grown since the last call; the others cost nothing.
    pub(super) fn due_groups(&mut self) -> Vec<GroupIndex> {
        let grown = self.doorbell.take_grown();
        // A view may have been left, and even be gone, since it said so.
        let due = grown.iter().filter_map(|address| {
            let at = *self.by_view.get(address)?;
            self.groups[at].as_ref()?.view.attend(self.doorbell.number);
            Some(at)
        });
        due.collect()
    }

    /// The view of a group, if it still has sessions.
    pub(super) fn view(&self, group: GroupIndex) -> Option<&Arc<View>> {
        self.groups.get(group)?.as_ref().map(|group| &group.view)
    }

    /// The session at a position of a group.
    pub(super) fn member(&self, group: GroupIndex, position: usize) -> Option<SessionKey> {
        self.groups.get(group)?.as_ref()?.members.get(position).copied()
    }

    /// How many entries the slowest live session is behind `head`. For one with an interval nothing waits.
    pub(super) fn lag(&self, head: Index) -> u64 {
        let gets_all = |session: &&Session| session.seat.view().key().interval_ms.is_none();
        let behind = self.sessions().filter(|session| session.has_pending()).filter(gets_all);
        behind.map(|session| head.saturating_sub(session.index)).max().unwrap_or(0)
    }
}
