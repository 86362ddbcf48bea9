//! How the two planes meet: a Unix socket in the state folder, over which the dataplane hands each worker's memory
//! to the controlplane.
//!
//! The messages are small JSON datagrams, so that two builds which agree on nothing else can still read each other's
//! refusal. After the attachment the controlplane may hand TCP connections over ([`LinkSocket::hand_over`]); otherwise the socket is
//! silent, and its end says that the other side died.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs, io};

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};

use super::ends::{ControlLink, Wakes, WorkerLink};
use super::region::{JOURNAL, Region};
use super::{CONTRACT, journal};

/// How long either side waits for the other's next message of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest handshake message, bytes; the addresses of one worker are the longest part.
const MESSAGE_LEN_MAX: usize = 16 * 1024;
/// Most workers of a dataplane: one for each core.
const WORKERS_MAX: usize = 1024;
/// Descriptors that come with each worker: memory, the worker's wake, the controlplane's wake.
const DESCRIPTORS: usize = 3;
/// Controlplanes that may wait to be accepted.
const BACKLOG: i32 = 8;

/// The contract of a build: both must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contract {
    /// [`CONTRACT_VERSION`](crate::plane::CONTRACT_VERSION).
    pub version: u32,
    /// Hash of every record and size.
    pub layout: u64,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.version, self.layout >> 32)
    }
}

/// Why the planes did not meet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The two processes are of different builds.
    #[error(
        "controlplane has contract {controlplane}, dataplane {dataplane}: restart both from the same uprtc executable"
    )]
    Contract {
        /// That of the controlplane.
        controlplane: Contract,
        /// That of the dataplane.
        dataplane: Contract,
    },
    /// A dataplane already serves this socket.
    #[error("another dataplane serves {}: stop it, or choose another state folder with --state", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// Nobody answers at the socket.
    #[error("no dataplane answers at {}: start `uprtc dataplane` with the same --state ({source})", path.display())]
    Absent {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The other process belongs to another user.
    #[error(
        "the other plane runs as user {uid}, group {gid}: start both as the same user, or as two users with one primary \
         group and `link-group`"
    )]
    Stranger {
        /// Its user.
        uid: u32,
        /// Its primary group.
        gid: u32,
    },
    /// The other process said something that the handshake does not have.
    #[error("the other plane broke the handshake: {0}")]
    Protocol(&'static str),
    /// The kernel refused something.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LinkError {
    /// For `map_err`: the kernel refused `what`.
    pub(super) fn os<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> LinkError + Copy {
        move |source| LinkError::Os { what, source: source.into() }
    }
}

/// Which processes a plane takes for the other plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Those of the same user, and of root.
    #[default]
    User,
    /// Also those of another user whose primary group is the same. So the two planes can be two users, and the one that reads
    /// strangers' packets cannot read the signing key of the other.
    Group,
}

impl Access {
    /// The mode of the link socket.
    fn mode(self) -> Mode {
        match self {
            Access::User => Mode::RUSR | Mode::WUSR,
            Access::Group => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP,
        }
    }

    /// Refuses a peer of the socket that is neither.
    fn check(self, socket: &OwnedFd) -> Result<(), LinkError> {
        let peer = sockopt::socket_peercred(socket)
            .map_err(LinkError::os("ask who is at the other end of the link socket"))?;
        let is_user = peer.uid == rustix::process::geteuid() || peer.uid.is_root();
        let is_group = self == Access::Group && peer.gid == rustix::process::getegid();
        match is_user || is_group {
            true => Ok(()),
            false => Err(LinkError::Stranger { uid: peer.uid.as_raw(), gid: peer.gid.as_raw() }),
        }
    }
}

/// Where the planes meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The socket.
    pub path: PathBuf,
    /// Who may be at its other end.
    pub access: Access,
}

/// At this path, for one user.
impl From<&Path> for Endpoint {
    fn from(path: &Path) -> Endpoint {
        Endpoint { path: path.to_owned(), access: Access::User }
    }
}

/// At this path, for one user.
impl From<&PathBuf> for Endpoint {
    fn from(path: &PathBuf) -> Endpoint {
        path.as_path().into()
    }
}

/// What the controlplane says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    contract: Contract,
}

/// What the dataplane says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
enum Answer {
    /// The contracts agree; this many [`Answer::Worker`] follow.
    Welcome { workers: usize },
    /// They do not.
    Refused { contract: Contract },
    /// One worker, with its three descriptors.
    Worker { info: WorkerInfo },
    /// Another controlplane took over; this link is dead.
    Replaced,
}

/// What the controlplane says later, with the descriptor of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct Connection {
    worker: usize,
}

/// What the controlplane learns about a worker when it attaches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The UDP addresses that it is bound to, one for each media address.
    pub addresses: Vec<SocketAddr>,
    /// The TCP addresses at which it accepts connections (RFC 6544); empty if it accepts none.
    pub tcp_addresses: Vec<SocketAddr>,
    /// Which attachment this is; each later one has a higher number, also after a restart of the dataplane.
    pub epoch: u64,
}

/// Where a worker receives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// See [`WorkerInfo::addresses`].
    pub udp: Vec<SocketAddr>,
    /// See [`WorkerInfo::tcp_addresses`].
    pub tcp: Vec<SocketAddr>,
}

/// By UDP alone.
impl From<Vec<SocketAddr>> for Addresses {
    fn from(udp: Vec<SocketAddr>) -> Addresses {
        Addresses { udp, tcp: Vec::new() }
    }
}

/// A worker as the server keeps it.
#[derive(Debug)]
struct Worker {
    addresses: Addresses,
    /// The memory of the current attachment: the next one inherits its journal.
    region: Option<Arc<Region>>,
}

/// The dataplane's side of the meeting: accepts one controlplane after the other. The newest wins.
#[derive(Debug)]
pub struct LinkServer {
    listener: OwnedFd,
    endpoint: Endpoint,
    /// Locked while this dataplane lives; holds the last epoch.
    lock: Lock,
    epoch: u64,
    workers: Vec<Worker>,
    attached: Option<OwnedFd>,
}

impl LinkServer {
    /// Listens for a controlplane, on behalf of workers bound to these addresses. The mode of the socket is 0600, or 0660 for
    /// [`Access::Group`].
    ///
    /// A lock file beside the socket, its path + `.lock`, tells a live dataplane from the socket that a dead one left
    /// behind; it also keeps the epoch, so that epochs rise across restarts.
    pub fn bind(
        endpoint: impl Into<Endpoint>,
        workers: impl IntoIterator<Item: Into<Addresses>>,
    ) -> Result<LinkServer, LinkError> {
        let endpoint = endpoint.into();
        let path = &endpoint.path;
        let (lock, epoch) = take_lock(path)?;
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(LinkError::Os { what: "remove a stale link socket", source });
            }
            _ => {}
        }
        let os = LinkError::os("listen on the link socket in the state folder");
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(os)?;
        // Before bind, Linux gives the socket's own mode to the file: no moment in which others could connect.
        rustix::fs::fchmod(&listener, endpoint.access.mode()).map_err(os)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).map_err(os)?).map_err(os)?;
        // The umask may have taken the group's rights from it.
        rustix::fs::chmod(path, endpoint.access.mode()).map_err(os)?;
        rustix::net::listen(&listener, BACKLOG).map_err(os)?;
        let workers =
            workers.into_iter().map(|addresses| Worker { addresses: addresses.into(), region: None }).collect();
        Ok(LinkServer { listener, endpoint, lock, epoch, workers, attached: None })
    }

    /// Waits for a controlplane and attaches it: one link for each worker, in order, to be handed to the workers.
    ///
    /// The previous controlplane, if it still lives, is told that it was replaced. An error concerns this one
    /// attempt and leaves the current attachment as it is, unless the newcomer had already been welcomed; report it
    /// and accept again.
    pub fn accept(&mut self) -> Result<Vec<WorkerLink>, LinkError> {
        let socket = rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC))
            .map_err(LinkError::os("accept a controlplane"))?;
        set_timeout(&socket, Some(HANDSHAKE_TIMEOUT))?;
        self.endpoint.access.check(&socket)?;
        let (hello, _) = receive::<Hello>(&socket)?;
        if hello.contract != CONTRACT {
            send(&socket, &Answer::Refused { contract: CONTRACT }, &[])?;
            return Err(LinkError::Contract { controlplane: hello.contract, dataplane: CONTRACT });
        }
        send(&socket, &Answer::Welcome { workers: self.workers.len() }, &[])?;
        if let Some(old) = self.attached.take() {
            // It may be dead already, which is the usual reason for the new one.
            let _ = send(&old, &Answer::Replaced, &[]);
        }
        self.raise_epoch()?;
        let links = self.hand_over(&socket)?;
        self.attached = Some(socket);
        Ok(links)
    }

    /// The socket of the attached controlplane: readable when it hands a connection over, or has ended.
    pub fn attached(&self) -> Option<BorrowedFd<'_>> {
        self.attached.as_ref().map(AsFd::as_fd)
    }

    /// The next TCP connection that the attached controlplane hands over, and the worker that it is for. Never waits. A controlplane
    /// that has ended, or says anything else, is attached no longer.
    pub fn take_connection(&mut self) -> Result<Option<(usize, OwnedFd)>, LinkError> {
        let Some(attached) = &self.attached else { return Ok(None) };
        let error = match receive_with::<Connection>(attached, RecvFlags::DONTWAIT) {
            Ok(None) => return Ok(None),
            Ok(Some((Connection { worker }, mut descriptors))) if worker < self.workers.len() => {
                match (descriptors.pop(), descriptors.is_empty()) {
                    (Some(connection), true) => return Ok(Some((worker, connection))),
                    _ => LinkError::Protocol("a connection comes with one descriptor"),
                }
            }
            Ok(Some(_)) => LinkError::Protocol("a connection is for a worker that there is not"),
            Err(error) => error,
        };
        self.attached = None;
        Err(error)
    }

    /// Makes fresh memory for each worker, with the journal of the previous, and sends it.
    fn hand_over(&mut self, socket: &OwnedFd) -> Result<Vec<WorkerLink>, LinkError> {
        let eventfd = LinkError::os("make an eventfd");
        let mut links = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (region, memory) = Region::create(self.epoch)?;
            if let Some(previous) = &worker.region {
                for (slot, bytes) in journal::entries(&previous[JOURNAL]) {
                    journal::write(&region[JOURNAL], slot, &bytes).expect("it was an entry a moment ago");
                }
            }
            let wakes = Wakes::create().map_err(eventfd)?;
            let Addresses { udp, tcp } = worker.addresses.clone();
            let info = WorkerInfo { addresses: udp, tcp_addresses: tcp, epoch: self.epoch };
            send(socket, &Answer::Worker { info }, &[memory.as_fd(), wakes.worker.as_fd(), wakes.control.as_fd()])?;
            links.push((Arc::new(region), wakes));
        }
        // Only now, when the newcomer has everything, does it become the one whose journal counts.
        for (worker, (region, _)) in self.workers.iter_mut().zip(&links) {
            worker.region = Some(region.clone());
        }
        Ok(links.into_iter().map(|(region, wakes)| WorkerLink::new(region, wakes)).collect())
    }

    fn raise_epoch(&mut self) -> Result<(), LinkError> {
        self.epoch += 1;
        let os = LinkError::os("write the epoch into the link's lock file");
        self.lock.0.rewind().map_err(os)?;
        // Always 20 digits, so that a shorter text never leaves digits of a longer one behind.
        self.lock.0.write_all(format!("{:020}\n", self.epoch).as_bytes()).map_err(os)
    }
}

/// Readable when a controlplane waits to be accepted.
impl AsFd for LinkServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for LinkServer {
    fn drop(&mut self) {
        // The lock is still held, so this cannot be a successor's socket.
        let _ = fs::remove_file(&self.endpoint.path);
    }
}

/// A locked file. Closing it is not enough to unlock it: a child process that was just forked has the file open too, until it
/// starts another program (flock(2)).
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Locks `path` + `.lock` and reads the last epoch out of it; 0 if there is none or it is unreadable.
fn take_lock(path: &Path) -> Result<(Lock, u64), LinkError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let os = LinkError::os("open the link's lock file in the state folder");
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_path)
        .map_err(os)?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => LinkError::Taken { path: path.to_owned() },
        fs::TryLockError::Error(source) => os(source),
    })?;
    let lock = Lock(lock);
    let mut text = String::new();
    let is_readable = (&lock.0).take(64).read_to_string(&mut text).is_ok();
    let epoch = text.trim().parse().ok().filter(|&epoch| is_readable && epoch < u64::MAX / 2).unwrap_or(0);
    Ok((lock, epoch))
}

/// A controlplane's attachment to a dataplane.
#[derive(Debug)]
pub struct Attached {
    /// One link for each worker, in worker order.
    pub workers: Vec<(ControlLink, WorkerInfo)>,
    /// Silent while the attachment lives.
    pub socket: LinkSocket,
}

/// Why an attachment ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The dataplane died. Attach again, to its successor.
    Died,
    /// Another controlplane attached. This one should end: attaching again would start a fight.
    Replaced,
}

/// The socket of an attachment: it becomes readable when the attachment has ended.
#[derive(Debug)]
pub struct LinkSocket(OwnedFd);

impl LinkSocket {
    /// The process of the dataplane, if it can be seen from here: it may be in a container of its own.
    pub fn dataplane_pid(&self) -> Option<u32> {
        let peer = sockopt::socket_peercred(&self.0).ok()?;
        u32::try_from(peer.pid.as_raw_pid()).ok().filter(|&pid| pid > 0)
    }

    /// Hands a TCP connection over to a worker, which serves it from now on. Never waits: with an error the connection is to be closed.
    pub fn hand_over(&self, worker: usize, connection: impl AsFd) -> Result<(), LinkError> {
        send_with(&self.0, &Connection { worker }, &[connection.as_fd()], SendFlags::DONTWAIT)
    }

    /// How the attachment ended, or `None` while it lives. Never waits.
    pub fn lost(&self) -> Option<Lost> {
        let mut message = [0; 256];
        loop {
            return match rustix::net::recv(&self.0, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => match serde_json::from_slice(&message[..len.min(message.len())]) {
                    Ok(Answer::Replaced) => Some(Lost::Replaced),
                    _ => Some(Lost::Died),
                },
                Err(rustix::io::Errno::AGAIN) => None,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => Some(Lost::Died),
            };
        }
    }
}

/// Readable when the attachment has ended; ask [`LinkSocket::lost`] how.
impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Attaches to the dataplane that listens there. Waits at most a few seconds, never for ever.
pub fn attach(endpoint: impl Into<Endpoint>) -> Result<Attached, LinkError> {
    let Endpoint { path, access } = &endpoint.into();
    let os = LinkError::os("open the link socket");
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(os)?;
    set_timeout(&socket, Some(HANDSHAKE_TIMEOUT))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).map_err(os)?)
        .map_err(|errno| LinkError::Absent { path: path.to_owned(), source: errno.into() })?;
    access.check(&socket)?;
    send(&socket, &Hello { contract: CONTRACT }, &[])?;
    let workers = match receive::<Answer>(&socket)?.0 {
        Answer::Welcome { workers } if workers <= WORKERS_MAX => workers,
        Answer::Refused { contract } => {
            return Err(LinkError::Contract { controlplane: CONTRACT, dataplane: contract });
        }
        _ => return Err(LinkError::Protocol("the first answer is neither a welcome nor a refusal")),
    };
    let workers = (0..workers).map(|_| receive_worker(&socket)).collect::<Result<_, _>>()?;
    set_timeout(&socket, None)?;
    Ok(Attached { workers, socket: LinkSocket(socket) })
}

fn receive_worker(socket: &OwnedFd) -> Result<(ControlLink, WorkerInfo), LinkError> {
    let (Answer::Worker { info }, descriptors) = receive(socket)? else {
        return Err(LinkError::Protocol("a worker was due"));
    };
    let [memory, worker, control] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors)
        .map_err(|_| LinkError::Protocol("a worker comes with three descriptors"))?;
    let region = Region::open(memory.as_fd())?;
    if region.epoch() != info.epoch {
        return Err(LinkError::Protocol("the shared memory is of another epoch"));
    }
    Ok((ControlLink::new(Arc::new(region), Wakes { worker, control }), info))
}

fn set_timeout(socket: &OwnedFd, timeout: Option<Duration>) -> Result<(), LinkError> {
    let os = LinkError::os("set a timeout on the link socket");
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, timeout).map_err(os)?;
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, timeout).map_err(os)
}

fn send<T: Serialize>(socket: &OwnedFd, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
    send_with(socket, message, descriptors, SendFlags::empty())
}

fn send_with<T: Serialize>(
    socket: &OwnedFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), LinkError> {
    let bytes = serde_json::to_vec(message).expect("handshake messages have nothing that JSON cannot say");
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(LinkError::Protocol("a worker has too many addresses"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the space is for {DESCRIPTORS} descriptors");
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL | flags)
    })
    .map(drop)
    .map_err(LinkError::os("send on the link socket"))
}

fn receive<T: for<'de> Deserialize<'de>>(socket: &OwnedFd) -> Result<(T, Vec<OwnedFd>), LinkError> {
    receive_with(socket, RecvFlags::empty())?.ok_or(LinkError::Protocol("it said nothing for two seconds"))
}

/// The next message; `None` if none came in time, or none is there with [`RecvFlags::DONTWAIT`].
fn receive_with<T: for<'de> Deserialize<'de>>(
    socket: &OwnedFd,
    flags: RecvFlags,
) -> Result<Option<(T, Vec<OwnedFd>)>, LinkError> {
    let mut bytes = vec![0; MESSAGE_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | flags;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    });
    let message = match received {
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        received => received.map_err(LinkError::os("receive on the link socket"))?,
    };
    // Taken first, so that they are closed whatever else is wrong.
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.bytes == 0 {
        return Err(LinkError::Protocol("it hung up"));
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(LinkError::Protocol("a message is too long"));
    }
    let value = serde_json::from_slice(&bytes[..message.bytes])
        .map_err(|_| LinkError::Protocol("a message is not of the handshake"))?;
    Ok(Some((value, descriptors)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::take_lock;

    #[test]
    fn a_lock_ends_although_a_child_process_still_has_the_file() {
        let folder = std::env::temp_dir().join(format!("uprtc-lock-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("link.sock");
        let (lock, _) = take_lock(&path).unwrap();
        let as_a_child_has_it = lock.0.try_clone().unwrap();
        take_lock(&path).unwrap_err();
        drop(lock);
        take_lock(&path).unwrap();
        drop(as_a_child_has_it);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
