//! The queue from the engine to the cluster's task, bounded by count. The engine never waits for the cluster: what finds the queue
//! full is dropped and counted, and the task then tells the engine that the cluster was away, so that everything is said anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::bus::Order;

/// Orders that may wait for the cluster's task: some for each of a thousand rooms, which are all said anew at once.
pub const ORDERS_MAX: usize = 4096;

/// The engine's end of the queue.
#[derive(Debug)]
pub struct Orders {
    queue: mpsc::Sender<Order>,
    dropped: Arc<AtomicU64>,
}

/// The cluster's end of the queue.
#[derive(Debug)]
pub struct OrderOutlet {
    queue: mpsc::Receiver<Order>,
    dropped: Arc<AtomicU64>,
}

/// A queue; see the module.
pub fn orders() -> (Orders, OrderOutlet) {
    let (queue, outlet) = mpsc::channel(ORDERS_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    (Orders { queue, dropped: dropped.clone() }, OrderOutlet { queue: outlet, dropped })
}

impl Orders {
    /// Hands over an order, if there is room for it.
    pub fn push(&self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(order) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl OrderOutlet {
    /// The next order; `None`: the engine has ended.
    pub async fn next(&mut self) -> Option<Order> {
        self.queue.recv().await
    }

    /// The next order, if there is one.
    pub fn try_next(&mut self) -> Option<Order> {
        self.queue.try_recv().ok()
    }

    /// How many were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted_and_the_rest_keeps_its_order() {
        let (orders, mut outlet) = orders();
        let listen = |number: usize| Order::Listen { room: number.to_string() };
        (0..ORDERS_MAX + 3).for_each(|number| orders.push(listen(number)));
        assert_eq!(outlet.dropped(), 3);
        assert_eq!(outlet.try_next(), Some(listen(0)));
        orders.push(listen(9));
        let rest: Vec<Order> = std::iter::from_fn(|| outlet.try_next()).collect();
        assert_eq!((rest.len(), &rest[0], rest.last()), (ORDERS_MAX, &listen(1), Some(&listen(9))));
        drop(outlet);
        orders.push(listen(0));
    }
}
