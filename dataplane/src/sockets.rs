//! Leaf: by which of the worker's sockets an address is reached that nothing has come from yet.

use std::net::{IpAddr, SocketAddr};

use crate::path::Path;

/// The addresses of a worker's sockets, in their order. None: there is one socket, for all.
#[derive(Default)]
pub(crate) struct Sockets(Vec<IpAddr>);

/// How far an address is known. Sockets of the scope of an address are tried first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Loopback,
    Private,
    Global,
}

fn scope(ip: IpAddr) -> Scope {
    match ip.to_canonical() {
        ip if ip.is_loopback() => Scope::Loopback,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Scope::Private,
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Private,
        _ => Scope::Global,
    }
}

impl Sockets {
    pub(crate) fn new(ips: &[IpAddr]) -> Sockets {
        Sockets(ips.to_vec())
    }

    /// The path to an address by the `turn`th socket of its family, those of its scope first. `None` if there is none.
    pub(crate) fn path_to(&self, remote: SocketAddr, turn: u8) -> Option<Path> {
        if self.0.is_empty() {
            return Some(Path::new(0, remote));
        }
        let of_family = |is_near: bool| {
            let fits =
                move |ip: &IpAddr| ip.is_ipv4() == remote.is_ipv4() && (scope(*ip) == scope(remote.ip())) == is_near;
            self.0.iter().enumerate().filter(move |(_, ip)| fits(ip)).map(|(at, _)| at)
        };
        let count = of_family(true).chain(of_family(false)).count();
        let at = usize::from(turn).checked_rem(count)?;
        let socket = of_family(true).chain(of_family(false)).nth(at)?;
        Some(Path::new(socket as u8, remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_the_family_take_turns_and_those_of_the_scope_are_first() {
        let ips = ["127.0.0.1", "203.0.113.1", "::1", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        let sockets = Sockets::new(&ips);
        let turns = |remote: &str| -> Vec<Option<u8>> {
            (0..4).map(|turn| sockets.path_to(remote.parse().unwrap(), turn).map(|path| path.socket)).collect()
        };
        assert_eq!(turns("198.51.100.1:1"), [Some(1), Some(0), Some(3), Some(1)]);
        assert_eq!(turns("10.9.9.9:1"), [Some(3), Some(0), Some(1), Some(3)]);
        assert_eq!(turns("[2001:db8::1]:1"), [Some(2); 4]);
        assert_eq!(Sockets::new(&ips[..2]).path_to("[::1]:1".parse().unwrap(), 0), None);
        let any = Sockets::default().path_to("[::1]:1".parse().unwrap(), 3);
        assert_eq!(any.map(|path| path.socket), Some(0));
    }
}
