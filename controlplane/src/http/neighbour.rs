//! Who holds the other end of a connection from this machine: the kernel says it, and no header can.
//!
//! A proxy on this machine that adds no header of its own cannot be told from its operator by what it sends. It runs as a user of its
//! own, though, and the kernel's table of TCP sockets has the user of each (proc_pid_net(5)).

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::Caller;

/// Whether the other end belongs to root or to the user that we are.
pub(super) fn is_ours(caller: &Caller) -> bool {
    let (true, Some(remote), Some(local)) = (caller.is_near, caller.remote, caller.local) else { return false };
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let user = tables.iter().find_map(|path| user_of(&fs::read_to_string(path).ok()?, remote, local));
    user.is_some_and(|user| user == 0 || user == rustix::process::geteuid().as_raw())
}

/// The user of the socket with these ends, in the kernel's table: a heading, then lines of `number: local remote state queues timer
/// retransmissions user …`.
fn user_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let ends = [local, remote].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_it = [address(words.next()?)?, address(words.next()?)?] == ends;
        if is_it { words.nth(4)?.parse().ok() } else { None }
    })
}

/// `0100007F:1F90`: words of 32 bits as this machine stores them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => IpAddr::from(<[u8; 16]>::try_from([word(0)?, word(1)?, word(2)?, word(3)?].concat()).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_says_whose_connection_it_is() {
        for bound in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to = if bound.starts_with("127") || bound == "[::]:0" { "127.0.0.1" } else { "::1" };
            let client = TcpStream::connect((to, port)).unwrap();
            let (server, _) = listener.accept().unwrap();
            let (remote, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            let caller = Caller { remote: Some(remote), local: Some(local), is_near: true };
            assert!(is_ours(&caller), "{bound}");
            assert!(!is_ours(&Caller { is_near: false, ..caller }));
            let nobody = SocketAddr::new(remote.ip(), remote.port() ^ 1);
            assert!(!is_ours(&Caller { remote: Some(nobody), ..caller }));
            drop(client);
        }
    }

    #[test]
    fn a_proxy_has_a_user_of_its_own() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000    33        0 1 1 0\n";
        let ends =
            |local, remote| (SocketAddr::from(([127, 0, 0, 1], local)), SocketAddr::from(([127, 0, 0, 1], remote)));
        let (client, server) = ends(50_000, 8080);
        assert_eq!(user_of(table, client, server), Some(33));
        assert_eq!(user_of(table, server, client), None, "our own end is another line");
        assert_eq!(user_of("", client, server), None);
    }
}
