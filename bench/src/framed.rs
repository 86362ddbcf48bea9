//! Between a peer's UDP socket and a TCP connection to the server: each datagram is a frame there (RFC 4571 §2), and each frame a
//! datagram here. So a peer of another stack can be one whose network blocks UDP.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Connects to the server's TCP address. The peer sends to the address that this returns, and the task passes on what comes until
/// the connection ends.
pub(crate) async fn connect(server: SocketAddr, peer: SocketAddr) -> io::Result<SocketAddr> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let udp = UdpSocket::bind(SocketAddr::new(peer.ip(), 0)).await?;
    udp.connect(peer).await?;
    let address = udp.local_addr()?;
    tokio::spawn(async move {
        let (mut from_server, mut to_server) = stream.into_split();
        tokio::select! {
            end = pass_up(&udp, &mut to_server) => end,
            end = pass_down(&udp, &mut from_server) => end,
        }
    });
    Ok(address)
}

async fn pass_up(udp: &UdpSocket, to_server: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    let mut frame = vec![0; 2 + 2048];
    loop {
        // The peer may not be there yet, or any more: an ICMP message says so.
        let Ok(len) = udp.recv(&mut frame[2..]).await else { continue };
        frame[..2].copy_from_slice(&(len as u16).to_be_bytes());
        to_server.write_all(&frame[..2 + len]).await?;
    }
}

async fn pass_down(udp: &UdpSocket, from_server: &mut (impl AsyncReadExt + Unpin)) -> io::Result<()> {
    let mut packet = vec![0; usize::from(u16::MAX)];
    loop {
        let len = usize::from(from_server.read_u16().await?);
        from_server.read_exact(&mut packet[..len]).await?;
        let _ = udp.send(&packet[..len]).await; // As above.
    }
}
