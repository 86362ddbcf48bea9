//! A peer whose packets come and go over a TCP connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use proto::plane::Counter;

use super::{Client, PATIENCE, Rig};

/// A peer with a connection. The socket of `client` is for its UDP.
pub struct TcpClient {
    pub client: Client,
    pub stream: TcpStream,
}

impl TcpClient {
    pub fn send(&mut self, packet: &[u8]) {
        let mut frame = [0; 2050];
        frame[..2].copy_from_slice(&(packet.len() as u16).to_be_bytes());
        frame[2..][..packet.len()].copy_from_slice(packet);
        self.stream.write_all(&frame[..2 + packet.len()]).unwrap();
    }

    /// Waits for a packet that is as wanted.
    pub fn receive(&mut self, buffer: &mut [u8], is_wanted: impl Fn(&[u8]) -> bool) -> usize {
        loop {
            let mut prefix = [0; 2];
            read_exact(&mut self.stream, &mut prefix);
            let len = usize::from(u16::from_be_bytes(prefix));
            read_exact(&mut self.stream, &mut buffer[..len]);
            if is_wanted(&buffer[..len]) {
                return len;
            }
        }
    }

    /// Waits for a media packet.
    pub fn receive_rtp(&mut self, buffer: &mut [u8]) -> usize {
        self.receive(buffer, |bytes| bytes[0] >> 6 == 2 && !(192..=223).contains(&bytes[1]))
    }

    /// Sends a check and waits for its answer.
    pub fn check(&mut self) {
        let mut buffer = [0; 2048];
        let len = self.client.write_check(&mut buffer);
        self.send(&buffer[..len]);
        self.receive(&mut buffer, |bytes| bytes[..2] == [1, 1]);
    }

    /// Waits until the worker asks its address, and answers.
    pub fn consent(&mut self) {
        let mut buffer = [0; 2048];
        let len = self.receive(&mut buffer, |bytes| bytes[..2] == [0, 1]);
        let len = self.client.write_answer(&mut buffer, len);
        self.send(&buffer[..len]);
    }
}

/// An interruption is no end: see [`Client::receive`].
fn read_exact(stream: &mut TcpStream, mut buffer: &mut [u8]) {
    while !buffer.is_empty() {
        match stream.read(buffer) {
            Ok(0) => panic!("the worker has closed the connection"),
            Ok(len) => buffer = &mut buffer[len..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("nothing comes by the connection: {error}"),
        }
    }
}

impl Rig {
    /// The worker's TCP addresses: IPv4, IPv6.
    pub fn tcp_addresses(&self) -> [SocketAddr; 2] {
        self.dataplane.tcp_addresses()[self.worker].as_slice().try_into().unwrap()
    }

    /// A connection to the worker.
    pub fn dial(&self, family: IpAddr) -> TcpStream {
        let stream = TcpStream::connect(self.tcp_addresses()[usize::from(family.is_ipv6())]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Opens a peer, keys it, and lets it prove its connection.
    pub fn connect_tcp(&mut self, index: u32, family: IpAddr) -> TcpClient {
        let place = usize::from(family.is_ipv6());
        let client = Client::new(index, self.clients[place], self.addresses()[place]);
        self.commit(&client.commands());
        self.dial_as(client, family)
    }

    /// Lets a peer that is open prove a new connection.
    pub fn dial_as(&mut self, client: Client, family: IpAddr) -> TcpClient {
        let mut client = TcpClient { client, stream: self.dial(family) };
        let answered = self.counter(Counter::ChecksAnswered);
        client.check();
        client.consent();
        self.wait_for_counter(Counter::ChecksAnswered, answered + 1);
        client
    }
}
