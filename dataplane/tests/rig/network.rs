//! A network for tests: two namespaces and a cable between them, as root. The thread that asks for it is at one end; what
//! shall be at the other is run there. All of it ends with the threads, so nothing is left behind.

#![allow(unsafe_code)] // A thread's namespace has no safe form here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::{fs, io, thread};

/// The cable's end where the dataplane is, and its addresses.
pub const DEVICE: &str = "edge";
pub const EDGE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1))];
/// The end where the clients are.
pub const CLIENT_DEVICE: &str = "clients";
pub const CLIENTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2))];

type Job = Box<dyn FnOnce() + Send>;

/// The two ends of a cable. The calling thread is where the clients are.
pub struct Network {
    edge: Sender<Job>,
}

impl Network {
    /// Gives the calling thread a network of its own, and lays a cable to another.
    fn lay() -> io::Result<Network> {
        leave()?;
        let here = fs::read_link("/proc/thread-self")?;
        let here = here.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let (edge, jobs) = channel::<Job>();
        thread::Builder::new().name("edge".into()).spawn(move || {
            for job in jobs {
                job();
            }
        })?;
        let network = Network { edge };
        let [edge_v4, edge_v6] = EDGE;
        network.at_edge(move || -> io::Result<()> {
            leave()?;
            ip("link set lo up")?;
            // Two queues, for two workers that send frames.
            ip(&format!(
                "link add {DEVICE} numtxqueues 2 numrxqueues 2 type veth \
                 peer name {CLIENT_DEVICE} numtxqueues 2 numrxqueues 2 netns {here}"
            ))?;
            ip(&format!("addr add {edge_v4}/24 dev {DEVICE}"))?;
            ip(&format!("addr add {edge_v6}/64 dev {DEVICE} nodad"))?;
            ip(&format!("link set {DEVICE} up"))
        })?;
        let [v4, v6] = CLIENTS;
        ip("link set lo up")?;
        ip(&format!("addr add {v4}/24 dev {CLIENT_DEVICE}"))?;
        ip(&format!("addr add {v6}/64 dev {CLIENT_DEVICE} nodad"))?;
        ip(&format!("link set {CLIENT_DEVICE} up"))?;
        Ok(network)
    }

    /// Runs something where the dataplane is; threads that it starts stay there.
    pub fn at_edge<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, outcome) = channel();
        let job: Job = Box::new(move || drop(done.send(job())));
        self.edge.send(job).expect("the edge's thread lives as long as the network");
        outcome.recv().expect("what runs at the edge does not panic")
    }
}

/// Runs a test in a network of its own; says so in one line and passes over it where that takes more privilege.
pub fn in_network(test: impl FnOnce(Network) + Send) {
    thread::scope(|scope| {
        let body = scope.spawn(|| match Network::lay() {
            Ok(network) => test(network),
            Err(error) => {
                super::require::left_out("namespaces", "a test in a network of its own, which takes root", error)
            }
        });
        if let Err(panic) = body.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// `ip`, in the namespace of the calling thread.
pub fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments}: {}", said.trim()))) }
}

/// Gives the calling thread a network of its own.
fn leave() -> io::Result<()> {
    // SAFETY: no memory is given; the thread's sockets are new from here on.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
