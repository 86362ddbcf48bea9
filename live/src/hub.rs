//! What is on: a window for each room, which its driver fills and players read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::window::{Segment, Window};

/// One room's window, and who waits for it.
#[derive(Debug)]
pub(crate) struct Broadcast {
    window: Mutex<Window>,
    changes: watch::Sender<u64>,
}

impl Broadcast {
    pub(crate) fn new(begin: u64) -> Broadcast {
        Broadcast { window: Mutex::new(Window::new(begin)), changes: watch::Sender::new(0) }
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and tells who waits.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Window) -> Option<Segment>) -> Option<Segment> {
        let segment = change(&mut self.window());
        self.changes.send_modify(|count| *count += 1);
        segment
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// All rooms that are on, by their names.
#[derive(Clone, Default, Debug)]
pub struct Hub(Arc<Mutex<HashMap<String, Arc<Broadcast>>>>);

impl Hub {
    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Arc<Broadcast>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the room is on already.
    pub(crate) fn insert(&self, room: &str, broadcast: &Arc<Broadcast>) -> bool {
        let mut rooms = self.rooms();
        let is_new = !rooms.contains_key(room);
        if is_new {
            rooms.insert(room.to_owned(), Arc::clone(broadcast));
        }
        is_new
    }

    pub(crate) fn remove(&self, room: &str) {
        self.rooms().remove(room);
    }

    pub(crate) fn find(&self, room: &str) -> Option<Arc<Broadcast>> {
        self.rooms().get(room).cloned()
    }
}
