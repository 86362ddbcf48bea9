//! SIP over TCP and TLS: connections, each read by a task that cuts it into messages. Bounded in number, in time and in what waits.
//! Others open them, but for the one to the trunk, which is opened when something is to be sent.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::message::{Framed, framed};
use crate::tls::{Tls, TlsAcceptor, TlsStream};
use crate::transaction::{Connection, Hop};

/// Connections at most, and of one address: one host cannot keep all others out.
const CONNECTIONS_MAX: usize = 1024;
const CONNECTIONS_PER_SOURCE_MAX: usize = 256;
/// A connection that is silent for so long is closed; telephones send a sign of life every few minutes at most.
const IDLE_MAX: Duration = Duration::from_secs(900);
/// How long a TLS handshake may take, with opening the connection if it is ours, and how long who is written to may take nothing.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// When the kernel asks whether the trunk is still there, so that a network that has forgotten the connection is noticed before a call is lost in it …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … and how long the trunk may acknowledge nothing.
const TRUNK_SILENT_MAX: Duration = Duration::from_secs(20);
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Messages that wait to be written, and their bytes. A proxy may have all calls on one connection, and what a connection loses is not said
/// again: a burst of calls, each with three responses of a kilobyte, must find room.
const WAITING_MAX: usize = 512;
const WAITING_LEN_MAX: usize = 512 * 1024;

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Hop, Vec<u8>),
    Closed(u64),
    /// A TLS handshake that failed.
    NoTls,
    /// Why the trunk cannot be reached.
    NoTrunk(String),
}

#[derive(Debug)]
struct Open {
    source: IpAddr,
    write: mpsc::Sender<Vec<u8>>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(crate) struct Connections {
    open: HashMap<u64, Open>,
    next: u64,
    arrivals: mpsc::Sender<Arrival>,
}

impl Connections {
    pub(crate) fn new(arrivals: mpsc::Sender<Arrival>) -> Connections {
        Connections { open: HashMap::new(), next: Connection::TRUNK + 1, arrivals }
    }

    /// Sees to it that there is a connection to the trunk, or will be. What is sent meanwhile waits.
    pub(crate) fn reach(&mut self, hop: Hop, tls: &Tls) {
        let (id, address) = (Connection::TRUNK, hop.address);
        if self.open.get(&id).is_some_and(|open| !open.write.is_closed()) {
            return;
        }
        let secure = tls.trunk();
        if hop.is_tls() && secure.is_none() {
            return; // Never in clear instead.
        }
        let written = self.open(id, address);
        let arrivals = self.arrivals.clone();
        tokio::spawn(async move {
            let opened = async {
                let stream = TcpStream::connect(address).await?;
                watch(&stream)?;
                Ok(match secure {
                    None => Way::Tcp(stream),
                    Some((connector, name)) => Way::Tls(Box::new(connector.connect(name, stream).await?)),
                })
            };
            let failed = match timeout(HANDSHAKE_MAX, opened).await {
                Ok(Ok(Way::Tcp(stream))) => return carry(stream, hop, written, &arrivals).await,
                Ok(Ok(Way::Tls(stream))) => return carry(stream, hop, written, &arrivals).await,
                Ok(Err(error)) => io::Error::to_string(&error),
                Err(_) => format!("it took more than {} s", HANDSHAKE_MAX.as_secs()),
            };
            drop(written);
            let _ = arrivals.send(Arrival::NoTrunk(failed)).await;
        });
    }

    /// Keeps a connection. What is to be written on it.
    fn open(&mut self, id: u64, address: SocketAddr) -> Written {
        let (write, messages) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        self.open.insert(id, Open { source: address.ip(), write, waiting: Arc::clone(&waiting) });
        Written { messages, waiting }
    }

    /// Takes a connection, unless there are too many; with TLS, if there is an acceptor.
    pub(crate) fn accept(&mut self, stream: TcpStream, address: SocketAddr, acceptor: Option<TlsAcceptor>) {
        let source = address.ip();
        let of_source = self.open.values().filter(|open| open.source == source).count();
        if self.open.len() >= CONNECTIONS_MAX || of_source >= CONNECTIONS_PER_SOURCE_MAX {
            return;
        }
        let id = self.next;
        self.next += 1;
        let written = self.open(id, address);
        let hop = Hop { address, connection: Some(Connection { id, is_tls: acceptor.is_some() }) };
        let arrivals = self.arrivals.clone();
        tokio::spawn(async move {
            match acceptor {
                None => carry(stream, hop, written, &arrivals).await,
                Some(acceptor) => match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => carry(stream, hop, written, &arrivals).await,
                    _ => {
                        drop(written);
                        let _ = arrivals.send(Arrival::NoTls).await;
                        let _ = arrivals.send(Arrival::Closed(id)).await;
                    }
                },
            }
        });
    }

    /// Sends a message, if the connection is still there and takes it.
    pub(crate) fn send(&self, id: u64, bytes: Vec<u8>) {
        let Some(open) = self.open.get(&id) else { return };
        let len = bytes.len();
        let waiting = open.waiting.fetch_add(len, Ordering::Relaxed) + len;
        if waiting > WAITING_LEN_MAX || open.write.try_send(bytes).is_err() {
            open.waiting.fetch_sub(len, Ordering::Relaxed);
        }
    }

    /// Closes a connection.
    pub(crate) fn leave(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// Forgets a connection; not the one to the trunk that was opened since.
    pub(crate) fn closed(&mut self, id: u64) {
        if self.open.get(&id).is_some_and(|open| open.write.is_closed()) {
            self.open.remove(&id);
        }
    }
}

/// A connection that we have opened.
enum Way {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Has the kernel close a connection whose other end is gone.
fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 3)?;
    sockopt::set_tcp_user_timeout(stream, TRUNK_SILENT_MAX.as_millis() as u32)?;
    Ok(())
}

/// What is to be written.
struct Written {
    messages: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// Reads and writes messages until the connection is closed, and says that it is.
async fn carry(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    hop: Hop,
    written: Written,
    arrivals: &mpsc::Sender<Arrival>,
) {
    exchange(stream, hop, written, arrivals).await;
    if let Some(Connection { id, .. }) = hop.connection {
        let _ = arrivals.send(Arrival::Closed(id)).await;
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    hop: Hop,
    mut written: Written,
    arrivals: &mpsc::Sender<Arrival>,
) {
    let mut bytes = Vec::new();
    'open: loop {
        tokio::select! {
            read = timeout(IDLE_MAX, stream.read_buf(&mut bytes)) => {
                if !matches!(read, Ok(Ok(len)) if len > 0) {
                    break;
                }
                loop {
                    match framed(&bytes) {
                        Framed::More => break,
                        Framed::Lost => break 'open,
                        Framed::Ping(len) => {
                            bytes.drain(..len);
                            if !write(&mut stream, b"\r\n").await {
                                break 'open;
                            }
                        }
                        Framed::Whole(len) => {
                            let message = bytes.drain(..len).collect();
                            if arrivals.send(Arrival::Message(hop, message)).await.is_err() {
                                break 'open;
                            }
                        }
                    }
                }
            }
            message = written.messages.recv() => match message {
                Some(message) if write(&mut stream, &message).await => {
                    written.waiting.fetch_sub(message.len(), Ordering::Relaxed);
                }
                _ => break,
            },
        }
    }
}

/// False: the other end takes nothing.
async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let all = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(timeout(WRITE_MAX, all).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A connection, and its other end.
    async fn connected(connections: &mut Connections) -> (u64, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        connections.accept(stream, address, None);
        (connections.next - 1, other)
    }

    #[tokio::test]
    async fn a_burst_of_responses_is_written_whole_and_who_reads_none_has_bounds() {
        let (arrive, _arrivals) = mpsc::channel(16);
        let mut connections = Connections::new(arrive);
        let (id, mut other) = connected(&mut connections).await;
        // A hundred calls of one proxy, before the task of the connection runs.
        (0..300).for_each(|_| connections.send(id, vec![b'x'; 1000]));
        let mut read = vec![0; 300_000];
        timeout(Duration::from_secs(10), other.read_exact(&mut read)).await.expect("all of them").unwrap();
        (0..10_000).for_each(|_| connections.send(id, vec![b'x'; 1000]));
        let waiting = &connections.open[&id].waiting;
        assert!((500_000..=WAITING_LEN_MAX).contains(&waiting.load(Ordering::Relaxed)), "{waiting:?}");
    }

    #[tokio::test]
    async fn one_address_has_not_all_connections() {
        let (arrive, _arrivals) = mpsc::channel(1024);
        let (mut connections, mut others) = (Connections::new(arrive), Vec::new());
        for _ in 0..CONNECTIONS_PER_SOURCE_MAX + 10 {
            others.push(connected(&mut connections).await);
        }
        assert_eq!(connections.open.len(), CONNECTIONS_PER_SOURCE_MAX);
        // The next one is closed at once.
        let (_, mut last) = others.pop().unwrap();
        assert_eq!(last.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_connection_to_the_trunk_is_opened_when_it_is_needed_and_again() {
        let (arrive, mut arrivals) = mpsc::channel(16);
        let mut connections = Connections::new(arrive);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (trunk, tls) = (Hop::trunk(listener.local_addr().unwrap(), false), Tls::new(None, None).unwrap());
        let say = |connections: &mut Connections, what: &str| {
            connections.reach(trunk, &tls);
            connections.send(Connection::TRUNK, what.into());
        };
        say(&mut connections, "a");
        say(&mut connections, "b");
        for what in [*b"ab", *b"cd"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = [0; 2];
            stream.read_exact(&mut read).await.unwrap();
            assert_eq!(read, what, "both on one connection");
            drop(stream);
            let Some(Arrival::Closed(id)) = arrivals.recv().await else { panic!("it is closed") };
            say(&mut connections, "c");
            connections.closed(id);
            assert!(connections.open.contains_key(&id), "not the one that was opened since");
            say(&mut connections, "d");
        }
        drop(listener);
        let (arrive, mut arrivals) = mpsc::channel(16);
        let mut connections = Connections::new(arrive);
        say(&mut connections, "e");
        assert!(matches!(arrivals.recv().await, Some(Arrival::NoTrunk(_))));
        assert!(connections.open[&Connection::TRUNK].write.is_closed());
        // Without a certificate's authority there is no TLS, and nothing goes in clear instead.
        connections.closed(Connection::TRUNK);
        connections.reach(Hop::trunk(trunk.address, true), &tls);
        assert!(connections.open.is_empty());
    }
}
