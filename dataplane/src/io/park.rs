//! Parking: how a worker with nothing to do sleeps until a file descriptor becomes readable or a time comes.
//!
//! Each descriptor has a task of its own for as long as it is watched. The task arms one poll operation when the
//! worker parks and leaves it armed, over any number of turns, until it fires: nothing is re-armed or cancelled in
//! a turn. A poll operation looks at the level when it is armed, so what arrives between the last look at a socket
//! and the parking wakes the worker at once.
//!
//! monoio can await readiness of any descriptor on both of its drivers, but only through a socket type: so every
//! descriptor, an eventfd too, is a `UdpSocket` for it. (Its `File::read_at` awaits an eventfd on io_uring only;
//! on epoll it fails at once.)

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The watched descriptors of one worker and the flag that their tasks raise.
pub(super) struct Parking {
    signal: Rc<Signal>,
    watches: Vec<Watch>,
}

/// A watched descriptor. It is watched until `Parking::unwatch`.
#[derive(Clone)]
pub struct Watch {
    state: Rc<State>,
}

impl Watch {
    /// Whether the descriptor became readable since this was asked last.
    pub fn take_fired(&self) -> bool {
        self.state.has_fired.take()
    }
}

/// What the tasks tell the worker.
#[derive(Default)]
struct Signal {
    is_raised: Cell<bool>,
    worker: RefCell<Option<Waker>>,
    /// Tasks that have not ended.
    tasks: Cell<usize>,
}

impl Signal {
    fn raise(&self) {
        self.is_raised.set(true);
        if let Some(worker) = &*self.worker.borrow() {
            worker.wake_by_ref();
        }
    }

    /// Remembers whom to wake. Wakers of one task are equal, so this clones once.
    fn register(&self, context: &Context<'_>) {
        remember(&self.worker, context);
    }
}

/// What the worker tells a task.
#[derive(Default)]
struct State {
    is_armed: Cell<bool>,
    is_retired: Cell<bool>,
    has_fired: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl State {
    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

fn remember(place: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut place = place.borrow_mut();
    match &*place {
        Some(known) if known.will_wake(context.waker()) => {}
        _ => *place = Some(context.waker().clone()),
    }
}

impl Parking {
    /// Nothing watched. Must be used inside a runtime.
    pub(super) fn new() -> Self {
        Self { signal: Rc::default(), watches: Vec::new() }
    }

    /// Wakes the worker when `fd` becomes readable. It stays the caller's to read.
    pub(super) fn watch(&mut self, fd: impl AsFd) -> io::Result<Watch> {
        let duplicate: OwnedFd = fd.as_fd().try_clone_to_owned()?;
        let pollable = monoio::net::udp::UdpSocket::from_std(UdpSocket::from(duplicate))?;
        let state = Rc::<State>::default();
        self.signal.tasks.set(self.signal.tasks.get() + 1);
        monoio::spawn(run_watch(pollable, state.clone(), self.signal.clone()));
        let watch = Watch { state };
        self.watches.push(watch.clone());
        Ok(watch)
    }

    /// Ends a watch; its task ends at the next parking.
    pub(super) fn unwatch(&mut self, watch: &Watch) {
        watch.state.is_retired.set(true);
        watch.state.wake();
        self.watches.retain(|other| !Rc::ptr_eq(&other.state, &watch.state));
    }

    /// Sleeps until a watched descriptor is readable or the deadline, to the next millisecond, has passed.
    pub(super) async fn park(&self, deadline: Option<Instant>) {
        self.signal.is_raised.set(false);
        for watch in &self.watches {
            if !watch.state.is_armed.replace(true) {
                watch.state.wake();
            }
        }
        let raised = poll_fn(|context| {
            self.signal.register(context);
            if self.signal.is_raised.get() { Poll::Ready(()) } else { Poll::Pending }
        });
        match deadline {
            None => raised.await,
            Some(deadline) => {
                let mut raised = pin!(raised);
                let mut elapsed = pin!(monoio::time::sleep_until(monoio::time::Instant::from_std(deadline)));
                poll_fn(|context| {
                    if raised.as_mut().poll(context).is_ready() {
                        return Poll::Ready(());
                    }
                    elapsed.as_mut().poll(context)
                })
                .await;
            }
        }
    }

    /// Ends all watches and waits for their tasks, so that no poll operation keeps a socket, and with it a port, open
    /// in the kernel.
    pub(super) async fn close(&mut self) {
        for watch in self.watches.drain(..) {
            watch.state.is_retired.set(true);
            watch.state.wake();
        }
        poll_fn(|context| {
            self.signal.register(context);
            if self.signal.tasks.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The task of one descriptor.
async fn run_watch(pollable: monoio::net::udp::UdpSocket, state: Rc<State>, signal: Rc<Signal>) {
    while wait_until_armed(&state).await && wait_until_readable(&pollable, &state).await {
        state.is_armed.set(false);
        state.has_fired.set(true);
        signal.raise();
    }
    signal.tasks.set(signal.tasks.get() - 1);
    signal.raise();
}

/// False when the watch is over.
async fn wait_until_armed(state: &State) -> bool {
    poll_fn(|context| {
        if state.is_retired.get() {
            return Poll::Ready(false);
        }
        remember(&state.task, context);
        if state.is_armed.get() { Poll::Ready(true) } else { Poll::Pending }
    })
    .await
}

/// False when the watch is over. A failed poll operation counts as readable: the worker looks, finds what there is
/// (a socket error, or nothing), and the next parking polls again.
async fn wait_until_readable(pollable: &monoio::net::udp::UdpSocket, state: &State) -> bool {
    let mut readable = pin!(pollable.readable(false));
    poll_fn(|context| {
        if state.is_retired.get() {
            return Poll::Ready(false);
        }
        remember(&state.task, context);
        readable.as_mut().poll(context).map(|_| true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Driver;
    use crate::io::block_on;
    use rustix::event::{EventfdFlags, eventfd};
    use std::time::Duration;

    /// The drivers that work here; io_uring is left out where the kernel or a sandbox refuses it.
    fn drivers() -> impl Iterator<Item = Driver> {
        let uring = monoio::utils::detect_uring().then_some(Driver::Uring);
        if uring.is_none() {
            crate::require::left_out("uring", "the io_uring driver", "monoio finds no io_uring");
        }
        uring.into_iter().chain([Driver::Epoll])
    }

    /// Runs a test on each driver.
    fn on_both<F: Future<Output = ()>>(test: impl Fn(Driver) -> F) {
        for driver in drivers() {
            block_on(driver, test(driver)).unwrap();
        }
    }

    fn far() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(5))
    }

    fn new_eventfd() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    fn raise(fd: &OwnedFd) {
        rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
    }

    fn clear(fd: &OwnedFd) {
        rustix::io::read(fd, &mut [0; 8]).unwrap();
    }

    fn pair() -> (UdpSocket, UdpSocket) {
        let (left, right) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        left.connect(right.local_addr().unwrap()).unwrap();
        right.set_nonblocking(true).unwrap();
        (left, right)
    }

    fn poke(socket: &UdpSocket) {
        socket.send(b"x").unwrap();
    }

    fn drain(socket: &UdpSocket) {
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
    }

    /// Wakes by `wake` on another thread once this one has had time to park, and says how long the parking took.
    async fn park_while(parking: &Parking, wake: impl FnOnce() + Send + 'static) -> Duration {
        let started = Instant::now();
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            wake();
        });
        parking.park(far()).await;
        let parked = started.elapsed();
        waker.join().unwrap();
        parked
    }

    #[test]
    fn a_datagram_ends_the_parking() {
        on_both(|driver| async move {
            let (left, right) = pair();
            let mut parking = Parking::new();
            let watch = parking.watch(&right).unwrap();
            for _ in 0..3 {
                let sender = left.try_clone().unwrap();
                let parked = park_while(&parking, move || poke(&sender)).await;
                assert!(
                    parked >= Duration::from_millis(15) && parked < Duration::from_secs(4),
                    "{driver:?} {parked:?}"
                );
                assert!(watch.take_fired() && !watch.take_fired());
                drain(&right);
            }
        });
    }

    #[test]
    fn an_eventfd_ends_the_parking() {
        on_both(|driver| async move {
            let wake = new_eventfd();
            let mut parking = Parking::new();
            let watch = parking.watch(&wake).unwrap();
            for _ in 0..3 {
                let other = wake.try_clone().unwrap();
                let parked = park_while(&parking, move || raise(&other)).await;
                assert!(
                    parked >= Duration::from_millis(15) && parked < Duration::from_secs(4),
                    "{driver:?} {parked:?}"
                );
                assert!(watch.take_fired());
                clear(&wake);
            }
        });
    }

    #[test]
    fn a_deadline_ends_the_parking() {
        on_both(|driver| async move {
            let (_left, right) = pair();
            let mut parking = Parking::new();
            let watch = parking.watch(&right).unwrap();
            for ms in [1, 7, 30] {
                let started = Instant::now();
                parking.park(Some(started + Duration::from_millis(ms))).await;
                let parked = started.elapsed();
                assert!(
                    parked >= Duration::from_millis(ms) && parked < Duration::from_secs(4),
                    "{driver:?} {parked:?}"
                );
                assert!(!watch.take_fired());
            }
        });
    }

    #[test]
    fn what_came_before_the_parking_ends_it_at_once() {
        on_both(|driver| async move {
            let (left, right) = pair();
            let wake = new_eventfd();
            let mut parking = Parking::new();
            let (socket, event) = (parking.watch(&right).unwrap(), parking.watch(&wake).unwrap());
            for round in 0..100 {
                let started = Instant::now();
                if round % 2 == 0 {
                    poke(&left)
                } else {
                    raise(&wake)
                }
                parking.park(far()).await;
                assert!(started.elapsed() < Duration::from_secs(4), "{driver:?}: lost wake {round}");
                assert_eq!((socket.take_fired(), event.take_fired()), (round % 2 == 0, round % 2 == 1));
                if round % 2 == 0 { drain(&right) } else { clear(&wake) }
            }
        });
    }

    #[test]
    fn what_is_left_unread_ends_every_parking() {
        on_both(|_| async {
            let (left, right) = pair();
            let mut parking = Parking::new();
            let watch = parking.watch(&right).unwrap();
            poke(&left);
            for _ in 0..5 {
                let started = Instant::now();
                parking.park(far()).await;
                assert!(started.elapsed() < Duration::from_secs(4) && watch.take_fired());
            }
            drain(&right);
        });
    }

    #[test]
    fn a_watch_that_is_over_wakes_nobody() {
        on_both(|driver| async move {
            let (old, new) = (new_eventfd(), new_eventfd());
            let mut parking = Parking::new();
            let first = parking.watch(&old).unwrap();
            parking.park(Some(Instant::now() + Duration::from_millis(2))).await;
            parking.unwatch(&first);
            let second = parking.watch(&new).unwrap();
            raise(&old);
            // Once for the news that the old task has ended.
            parking.park(Some(Instant::now() + Duration::from_millis(10))).await;
            let started = Instant::now();
            parking.park(Some(started + Duration::from_millis(20))).await;
            assert!(started.elapsed() >= Duration::from_millis(20), "{driver:?}");
            assert!(!first.take_fired() && !second.take_fired());
            raise(&new);
            parking.park(far()).await;
            assert!(second.take_fired());
        });
    }

    #[test]
    fn a_closed_parking_leaves_the_port_free() {
        for driver in drivers() {
            let address = block_on(driver, async {
                let (_left, right) = pair();
                let address = right.local_addr().unwrap();
                let mut parking = Parking::new();
                parking.watch(&right).unwrap();
                parking.park(Some(Instant::now() + Duration::from_millis(2))).await;
                parking.close().await;
                address
            })
            .unwrap();
            let deadline = Instant::now() + Duration::from_secs(2);
            while let Err(error) = UdpSocket::bind(address) {
                assert!(Instant::now() < deadline, "{driver:?}: {address} is still taken: {error}");
                std::thread::yield_now();
            }
        }
    }
}
