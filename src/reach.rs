//! How this edge is reached from elsewhere: what its links begin with, and whether its media addresses are its own.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use controlplane::tls::Names;

use crate::Failure;
use crate::options::Options;

/// What a link begins with, without a `/` at its end: `public-url`; or else the name of the certificate, if it has exactly
/// one; or else the address.
pub(crate) fn link_base(options: &Options, http: SocketAddr) -> String {
    if let Some(url) = &options.public_url {
        return url.as_str().to_owned();
    }
    let Some(files) = options.tls() else { return format!("http://{}", authority(address(http, options), 80)) };
    match Names::read(&files.certificate).ok().as_ref().and_then(Names::single) {
        Some(name) if http.port() == 443 => format!("https://{name}"),
        Some(name) => format!("https://{name}:{}", http.port()),
        None => format!("https://{}", authority(address(http, options), 443)),
    }
}

/// Where everything is listened at, people reach the first media address.
pub(crate) fn address(http: SocketAddr, options: &Options) -> SocketAddr {
    match options.public_ip() {
        Some(ip) if http.ip().is_unspecified() => SocketAddr::new(ip, http.port()),
        _ => options.rooms.announced(http),
    }
}

fn authority(address: SocketAddr, default_port: u16) -> String {
    match (address.port() == default_port, address.ip()) {
        (false, _) => address.to_string(),
        (true, IpAddr::V4(ip)) => ip.to_string(),
        (true, IpAddr::V6(ip)) => format!("[{ip}]"),
    }
}

/// Refuses media addresses that are not of this machine, in words that know of NAT: in a cloud the public address is what
/// people know, and it is on no interface.
pub(crate) fn check_media_ips(options: &Options) -> Result<(), Failure> {
    let is_foreign =
        |ip: &&IpAddr| UdpSocket::bind((**ip, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable);
    match options.media_ips.iter().find(is_foreign) {
        None => Ok(()),
        Some(&ip) => {
            let own = source_towards(ip).map_or("YOURS".to_owned(), |own| own.to_string());
            Err(format!(
                "media-ip {ip} is not an address of this machine. If a NAT translates it to one of yours, as clouds do, name \
                 yours and announce this one: --media-ip {own} --announce {own}={ip}. Else name one that `ip addr` shows"
            )
            .into())
        }
    }
}

/// The address of this machine from which packets to `remote` would leave. None is sent: a connected UDP socket asks the
/// kernel's routes only.
pub(crate) fn source_towards(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[cfg(test)]
mod tests {
    use controlplane::http::PublicUrl;

    use super::*;

    #[test]
    fn a_link_begins_as_people_reach_the_server() {
        let http = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut options = Options { media_ips: vec!["10.0.0.5".parse().unwrap()], ..Options::default() };
        assert_eq!(link_base(&options, http("127.0.0.1:8080")), "http://127.0.0.1:8080");
        assert_eq!(link_base(&options, http("0.0.0.0:80")), "http://10.0.0.5");
        options.rooms.announce = vec![("10.0.0.5".parse().unwrap(), "203.0.113.7".parse().unwrap())];
        assert_eq!(link_base(&options, http("0.0.0.0:8080")), "http://203.0.113.7:8080");
        assert_eq!(link_base(&options, http("10.0.0.5:8080")), "http://203.0.113.7:8080");
        options.media_ips = vec!["2001:db8::1".parse().unwrap()];
        assert_eq!(link_base(&options, http("[::]:80")), "http://[2001:db8::1]");
        options.public_url = PublicUrl::parse("https://call.example/calls/");
        assert_eq!(link_base(&options, http("127.0.0.1:8080")), "https://call.example/calls");
    }

    #[test]
    fn a_public_address_that_is_on_no_interface_names_announce() {
        let mut options = Options::default();
        assert!(check_media_ips(&options).is_ok());
        // 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
        options.media_ips.push("203.0.113.7".parse().unwrap());
        let line = check_media_ips(&options).unwrap_err().to_string();
        assert!(line.contains("=203.0.113.7") && line.contains("--announce") && line.contains("--media-ip"), "{line}");
    }
}
