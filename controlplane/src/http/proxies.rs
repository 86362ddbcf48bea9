//! Proxies in front of the server: the address that the client used, which only they know. A proxy says so by `Forwarded`
//! (RFC 7239) or by `X-Forwarded-Proto`, `-Host`, `-For` and `-Prefix`. Anybody can write these fields, so they are believed
//! only from the addresses that the setting `trusted-proxies` names.
//!
//! What they say decides what the `Location` of a WHIP session begins with, and which origin is our own page's. Where nobody
//! says it, a `Location` is relative: a client resolves it against the address that it asked (RFC 9110 §10.2.2), which is
//! right behind any proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Problem;
use super::{Caller, Client, Site};
use crate::limited::Owner;

/// Networks that can be named, at most.
pub const NETWORKS_MAX: usize = 64;

/// Entries of a list of proxies that are looked at. More than two or three proxies in a row are rare.
const HOPS_MAX: usize = 16;

/// Longest path prefix, bytes.
const PREFIX_LEN_MAX: usize = 256;

/// An IP network in CIDR notation (RFC 4632): an address and how many of its first bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// This machine: where a proxy stands unless the operator says otherwise.
    pub const LOOPBACK: [Network; 2] = [
        Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
        Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
    ];

    /// Whether the address is in it. An IPv4 address that came by an IPv6 socket counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (u32::from(own) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (u128::from(own) ^ u128::from(other)) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    /// `10.0.0.0/8`, or an address, which is a network of one.
    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(drop)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(drop)?,
            Some(_) => return Err(()),
            None => bits_max,
        };
        (bits <= bits_max).then_some(Network { address, bits }).ok_or(())
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Where the client believes to be: scheme, authority and path prefix, such as `https://edge.example.com/calls`. `None`
/// where nobody knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Base(pub(super) Option<Arc<str>>);

/// Looks once at each request how it came here. Handlers find the outcome as [`Base`], and in `Host` the host that the client
/// asked.
pub(super) async fn look(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    if let Err(problem) = check_host(request.version(), request.headers()) {
        return problem.into_response();
    }
    let caller = request.extensions().get::<Caller>().copied();
    let told = caller.filter(|caller| caller.remote.is_some_and(|remote| site.trusts(remote.ip())));
    let told = told.and_then(|_| Told::read(request.headers(), |address| site.trusts(address)));
    if let Some(host) = told.as_ref().and_then(|told| HeaderValue::from_str(told.host.as_ref()?.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let remote = || Some(caller?.remote?.ip());
    if let Some(client) = told.as_ref().and_then(|told| told.client).or_else(remote) {
        request.extensions_mut().insert(Client(Owner::Source(client.into())));
    }
    let public_url = || site.public_url().map(|url| url.as_str().to_owned());
    let base = match told {
        Some(told) => told.base(request.headers()).or_else(public_url),
        None => public_url().or_else(|| {
            let local = caller?.local?;
            direct(request.headers(), local, site.tls.is_some())
        }),
    };
    request.extensions_mut().insert(Base(base.map(Arc::from)));
    next.run(request).await
}

/// One `Host`, which says where the request was sent (RFC 9112 §3.2). HTTP/1.0 has none.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_good = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(|host| host.is_empty() || authority(host).is_some()),
        (None, _) => version < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    let detail = "a request has one Host, which says where it was sent (RFC 9112 section 3.2)";
    is_good.then_some(()).ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "host", detail))
}

/// The base of a client that came without a proxy: `Host` has the port that it came to. A proxy that passes `Host` on has
/// another port, and does not say which scheme it was asked by.
fn direct(headers: &HeaderMap, local: SocketAddr, is_secure: bool) -> Option<String> {
    let host = authority(headers.get(header::HOST)?.to_str().ok()?)?;
    let (scheme, default) = if is_secure { ("https", 443) } else { ("http", 80) };
    (host.port_u16().unwrap_or(default) == local.port()).then(|| format!("{scheme}://{host}"))
}

/// What trusted proxies say of the client's request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Who asked the outermost trusted proxy.
    client: Option<IpAddr>,
    /// `http` or `https`.
    scheme: Option<&'static str>,
    host: Option<Authority>,
    /// Begins with a slash and does not end with one; or empty.
    prefix: String,
}

impl Told {
    /// `None`: no proxy says anything.
    fn read(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<Told> {
        let prefix = list(headers, "x-forwarded-prefix");
        let mut told = match elements(headers) {
            elements if !elements.is_empty() => Told::of_forwarded(&elements, is_trusted),
            _ => {
                let (clients, schemes, hosts) = (
                    list(headers, "x-forwarded-for"),
                    list(headers, "x-forwarded-proto"),
                    list(headers, "x-forwarded-host"),
                );
                if [&clients, &schemes, &hosts, &prefix].iter().all(|list| list.is_empty()) {
                    return None;
                }
                let hop = outermost(clients.iter().map(|client| node(client)), is_trusted);
                Told {
                    client: at(&clients, hop).and_then(|client| node(client)),
                    scheme: at(&schemes, hop).and_then(|scheme| known_scheme(scheme)),
                    host: at(&hosts, hop).and_then(|host| authority(host)),
                    prefix: String::new(),
                }
            }
        };
        told.prefix = prefix.first().and_then(|prefix| plain_prefix(prefix)).unwrap_or_default();
        Some(told)
    }

    fn of_forwarded(elements: &[Vec<(String, String)>], is_trusted: impl Fn(IpAddr) -> bool) -> Told {
        let value = |element: &Vec<(String, String)>, name: &str| {
            element.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone())
        };
        let clients = elements.iter().map(|element| value(element, "for").and_then(|client| node(&client)));
        let element = at(elements, outermost(clients, is_trusted));
        Told {
            client: element.and_then(|element| node(&value(element, "for")?)),
            scheme: element.and_then(|element| known_scheme(&value(element, "proto")?)),
            host: element.and_then(|element| authority(&value(element, "host")?)),
            prefix: String::new(),
        }
    }

    fn base(&self, headers: &HeaderMap) -> Option<String> {
        let asked = || authority(headers.get(header::HOST)?.to_str().ok()?);
        let host = self.host.clone().or_else(asked)?;
        Some(format!("{}://{host}{}", self.scheme?, self.prefix))
    }
}

/// How many entries from the right of a list are those of trusted proxies, at least one. Each proxy adds an entry about who
/// asked it; an entry counts if all proxies to the right of it are trusted (RFC 7239 §8.1: what is further left may be forged).
fn outermost(clients: impl DoubleEndedIterator<Item = Option<IpAddr>>, is_trusted: impl Fn(IpAddr) -> bool) -> usize {
    1 + clients.rev().take(HOPS_MAX).take_while(|client| client.is_some_and(&is_trusted)).count()
}

/// The entry `hop` from the right, or the first one if there are fewer: some proxies replace the list by one entry.
fn at<T>(list: &[T], hop: usize) -> Option<&T> {
    list.get(list.len().saturating_sub(hop))
}

/// The entries of a list in a header field.
fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let entries = values.flat_map(|value| value.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(str::to_owned).collect()
}

/// The elements of `Forwarded`, each with its parameters (RFC 7239 §4). Names have no case; a value may be quoted.
fn elements(headers: &HeaderMap) -> Vec<Vec<(String, String)>> {
    let mut elements = Vec::new();
    for text in headers.get_all(header::FORWARDED).iter().filter_map(|value| value.to_str().ok()) {
        for element in split_unquoted(text, ',') {
            let pairs = split_unquoted(element, ';').into_iter().filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.trim().to_ascii_lowercase(), unquoted(value.trim())))
            });
            elements.push(pairs.collect());
        }
    }
    elements
}

/// Splits where the separator is not inside a quoted string.
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(|c: char| {
        let was_escaped = is_escaped;
        is_escaped = is_quoted && !was_escaped && c == '\\';
        if c == '"' && !was_escaped {
            is_quoted = !is_quoted;
        }
        c == separator && !is_quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn unquoted(value: &str) -> String {
    match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(inside) => inside.replace('\\', ""),
        None => value.to_owned(),
    }
}

/// The address of a node: IPv4, IPv6 with or without brackets, each perhaps with a port (RFC 7239 §6).
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(address, _)| address);
    let port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(port)
}

fn known_scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|known| text.eq_ignore_ascii_case(known))
}

pub(super) fn authority(text: &str) -> Option<Authority> {
    text.parse::<Authority>().ok().filter(|host| !host.as_str().contains('@'))
}

/// A path prefix without its last slash, if it is one that can stand in an address as it is.
fn plain_prefix(text: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    let prefix = text.trim_end_matches('/');
    let is_prefix = prefix.starts_with('/') && !prefix.starts_with("//") && prefix.len() <= PREFIX_LEN_MAX;
    let has_dots = prefix.split('/').any(|segment| segment == "." || segment == "..");
    (is_prefix && !has_dots && prefix.bytes().all(is_plain)).then(|| prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_other() {
        for (network, inside, outside) in [
            ("127.0.0.0/8", "127.1.2.3", "128.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("10.0.0.0/9", "10.127.0.1", "10.128.0.1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "edge.example", "10.0.0/8"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    fn base(fields: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("edge.example:8080"));
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let told = Told::read(&headers, |address| Network::LOOPBACK.iter().any(|network| network.contains(address)));
        told.unwrap_or_else(|| panic!("{fields:?} says something")).base(&headers)
    }

    #[test]
    fn what_proxies_say_becomes_the_base() {
        type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let cases: [Case; 12] = [
            (&[("x-forwarded-proto", "https")], Some("https://edge.example:8080")),
            (&[("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "a.example")], Some("https://a.example")),
            (
                &[("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example"), ("x-forwarded-prefix", "/calls/")],
                Some("https://a.example/calls"),
            ),
            (&[("forwarded", "for=192.0.2.7;proto=https;host=a.example")], Some("https://a.example")),
            (
                &[("forwarded", "For=\"[2001:db8::1]:4711\"; Proto=https; Host=\"a.example:8443\"")],
                Some("https://a.example:8443"),
            ),
            // `Forwarded` is the standard, so it wins.
            (&[("forwarded", "proto=https"), ("x-forwarded-proto", "http")], Some("https://edge.example:8080")),
            // The client wrote the first entry, our proxy the last one.
            (
                &[("forwarded", "proto=https;host=evil.example, for=192.0.2.7;proto=http;host=a.example")],
                Some("http://a.example"),
            ),
            (
                &[
                    ("x-forwarded-for", "198.51.100.1, 192.0.2.7"),
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "evil.example, a.example"),
                ],
                Some("http://a.example"),
            ),
            // Two proxies of ours in a row: the outer one knows.
            (
                &[
                    ("x-forwarded-for", "192.0.2.7, 127.0.0.2"),
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "a.example, inner.example"),
                ],
                Some("https://a.example"),
            ),
            // No scheme: nobody knows.
            (&[("x-forwarded-for", "192.0.2.7")], None),
            (&[("x-forwarded-proto", "gopher")], None),
            (
                &[("x-forwarded-proto", "https"), ("x-forwarded-prefix", "//evil.example")],
                Some("https://edge.example:8080"),
            ),
        ];
        for (fields, expected) in cases {
            assert_eq!(base(fields).as_deref(), expected, "{fields:?}");
        }
        assert_eq!(Told::read(&HeaderMap::new(), |_| true), None);
    }

    #[test]
    fn a_request_has_one_host() {
        let has = |version, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            check_host(version, &headers).is_ok()
        };
        assert!(has(Version::HTTP_11, &["edge.example"]) && has(Version::HTTP_11, &["[::1]:8080"]));
        assert!(has(Version::HTTP_10, &[]), "it did not know Host yet");
        for bad in [&[][..], &["a", "a"], &["a", "b"], &["a b"], &["a/b"]] {
            assert!(!has(Version::HTTP_11, bad), "{bad:?}");
        }
        assert!(!has(Version::HTTP_10, &["a", "b"]));
    }

    #[test]
    fn the_client_is_who_asked_the_outermost_trusted_proxy() {
        for (fields, client) in [
            (&[("x-forwarded-for", "198.51.100.1, 192.0.2.7")][..], Some("192.0.2.7")),
            (&[("x-forwarded-for", "198.51.100.1, 192.0.2.7, 127.0.0.1")], Some("192.0.2.7")),
            (&[("forwarded", "for=\"[2001:db8::1]:4711\";proto=https")], Some("2001:db8::1")),
            (&[("forwarded", "for=unknown")], None),
            (&[("x-forwarded-proto", "https")], None),
        ] {
            let headers =
                fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let told = Told::read(&headers.collect(), |address| address.is_loopback()).unwrap();
            assert_eq!(told.client, client.map(|client| client.parse().unwrap()), "{fields:?}");
        }
    }

    #[test]
    fn quotes_hold_separators_together() {
        assert_eq!(split_unquoted("a=\"x,y\\\",z\", b=c", ','), ["a=\"x,y\\\",z\"", "b=c"]);
        assert_eq!(unquoted("\"x\\\"y\""), "x\"y");
        for bad in ["/a/../b", "a", "//a", "/a?b", "/a b", "/\u{e4}"] {
            assert_eq!(plain_prefix(bad), None, "{bad}");
        }
        assert_eq!(plain_prefix("/a/b/").as_deref(), Some("/a/b"));
    }

    #[test]
    fn who_came_without_a_proxy_is_where_host_says() {
        let direct = |host: &'static str, port: u16, is_secure| {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            direct(&headers, SocketAddr::from(([192, 0, 2, 1], port)), is_secure)
        };
        assert_eq!(direct("edge.example:8080", 8080, false).as_deref(), Some("http://edge.example:8080"));
        assert_eq!(direct("edge.example", 443, true).as_deref(), Some("https://edge.example"));
        assert_eq!(direct("[2001:db8::1]:8443", 8443, true).as_deref(), Some("https://[2001:db8::1]:8443"));
        assert_eq!(direct("edge.example", 8080, false), None, "a proxy passed its own Host on");
    }
}
