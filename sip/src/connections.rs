//! SIP over TCP: connections, each read by a task that cuts it into messages. Bounded in number, in time and in what waits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::message::{Framed, framed};
use crate::transaction::Hop;

/// Connections at most.
const CONNECTIONS_MAX: usize = 1024;
/// A connection that is silent for so long is closed; telephones send a sign of life every few minutes at most.
const IDLE_MAX: Duration = Duration::from_secs(900);
/// Messages that wait to be written.
const WAITING_MAX: usize = 32;

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Hop, Vec<u8>),
    Closed(u64),
}

#[derive(Debug)]
pub(crate) struct Connections {
    open: HashMap<u64, mpsc::Sender<Vec<u8>>>,
    next: u64,
    arrivals: mpsc::Sender<Arrival>,
}

impl Connections {
    pub(crate) fn new(arrivals: mpsc::Sender<Arrival>) -> Connections {
        Connections { open: HashMap::new(), next: 1, arrivals }
    }

    /// Takes a connection, unless there are too many.
    pub(crate) fn accept(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.open.len() >= CONNECTIONS_MAX {
            return;
        }
        let (id, (write, written)) = (self.next, mpsc::channel(WAITING_MAX));
        self.next += 1;
        self.open.insert(id, write);
        let hop = Hop { address, connection: Some(id) };
        tokio::spawn(carry(stream, hop, id, written, self.arrivals.clone()));
    }

    /// Sends a message, if the connection is still there and takes it.
    pub(crate) fn send(&self, id: u64, bytes: Vec<u8>) {
        if let Some(write) = self.open.get(&id) {
            let _ = write.try_send(bytes);
        }
    }

    pub(crate) fn closed(&mut self, id: u64) {
        self.open.remove(&id);
    }
}

async fn carry(
    mut stream: TcpStream,
    hop: Hop,
    id: u64,
    mut written: mpsc::Receiver<Vec<u8>>,
    arrivals: mpsc::Sender<Arrival>,
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
                            if stream.write_all(b"\r\n").await.is_err() {
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
            message = written.recv() => match message {
                Some(message) if stream.write_all(&message).await.is_ok() => (),
                _ => break,
            },
        }
    }
    let _ = arrivals.send(Arrival::Closed(id)).await;
}
