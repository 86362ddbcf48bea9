//! One decision of an operator at a time: what a request and what another node of the cluster decide, each with the order to the engine that
//! goes with it.

use tokio::sync::{Mutex, MutexGuard, Notify};

/// See the module.
#[derive(Debug, Default)]
pub struct Administering {
    turn: Mutex<()>,
    decided: Notify,
}

impl Administering {
    /// Waits for the turn. It ends when this is dropped.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Something was decided here.
    pub fn notify(&self) {
        self.decided.notify_one();
    }

    /// Waits until something was decided here since this was last waited for. One task may wait.
    pub async fn decided(&self) {
        self.decided.notified().await;
    }
}
