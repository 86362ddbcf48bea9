//! Where services and those who order work meet: one place that requests look into at once, and a bell for those who wait for an order.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::services::Services;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    services: Mutex<Services>,
    changed: Notify,
}

impl Desk {
    /// Looks something up.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Services) -> T) -> T {
        look(&mut self.services.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes something, and wakes those who wait.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Services) -> T) -> T {
        let changed = self.look(change);
        self.changed.notify_waiters();
        changed
    }

    /// Waits for a change after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}
