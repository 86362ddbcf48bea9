//! `sip.toml`: where the gateway listens, which numbers lead to which rooms, and its trunk.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::Deserialize;

use crate::agent::{self, Trunk};
use crate::digest::Credentials;
use crate::limits::Rate;
use crate::tls::{self, ServerName};
use crate::transaction::Hop;

/// Numbers that lead somewhere.
const NUMBERS_MAX: usize = 10_000;
/// Fewest digits of a PIN.
const PIN_DIGITS_MIN: usize = 4;

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<(SocketAddr, tls::Files)>,
    pub(crate) public_ip: IpAddr,
    pub(crate) rtp_ports: RangeInclusive<u16>,
    pub(crate) server: Option<String>,
    pub(crate) calls_max: usize,
    pub(crate) calls_per_source_max: usize,
    pub(crate) invites_per_second: f64,
    pub(crate) needs_srtp: bool,
    pub(crate) audio_slots: u32,
    pub(crate) lobby: Option<String>,
    pub(crate) takes_orders: bool,
    pub(crate) transfers: bool,
    pub(crate) orders_token: Option<String>,
    pub(crate) control: Option<Control>,
    pub(crate) trunk: Option<Trunk>,
    /// `HOST:PORT` of the trunk, if its address is to be looked up.
    pub(crate) trunk_host: Option<String>,
    /// Whom the trunk has to be, if it is reached by TLS, and the roots, if the file names some.
    trunk_tls: Option<(ServerName<'static>, Option<PathBuf>)>,
    pub(crate) numbers: Vec<Number>,
}

/// The HTTP of the gateway itself.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
}

/// A number and its room.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Number {
    pub(crate) number: String,
    pub(crate) room: String,
    pub(crate) pin: Option<String>,
    pub(crate) token: Option<String>,
}

impl Number {
    /// One that the controlplane orders a call for.
    pub(crate) fn ordered(room: &str, token: &str) -> Number {
        Number { number: String::new(), room: room.to_owned(), pin: None, token: Some(token.to_owned()) }
    }
}

/// Why `sip.toml` is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is no TOML, or has other keys.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A value is wrong.
    #[error("{key}: {problem}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    listen: SocketAddr,
    tls_listen: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    public_ip: Option<IpAddr>,
    rtp_ports: String,
    server: Option<String>,
    calls_max: usize,
    calls_per_source_max: usize,
    invites_per_second: f64,
    srtp: String,
    audio_slots: u32,
    lobby: Option<String>,
    orders: bool,
    transfers: bool,
    orders_token: Option<String>,
    control: Option<SocketAddr>,
    control_token: Option<String>,
    trunk: Option<FileTrunk>,
    number: Vec<Number>,
}

impl Default for File {
    fn default() -> File {
        File {
            listen: ([127, 0, 0, 1], 5060).into(),
            tls_listen: None,
            tls_cert: None,
            tls_key: None,
            public_ip: None,
            rtp_ports: "20000-29999".to_owned(),
            server: None,
            calls_max: 100,
            calls_per_source_max: 20,
            invites_per_second: 10.0,
            srtp: "optional".to_owned(),
            audio_slots: 8,
            lobby: None,
            orders: false,
            transfers: false,
            orders_token: None,
            control: None,
            control_token: None,
            trunk: None,
            number: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileTrunk {
    address: String,
    #[serde(default)]
    transport: Transport,
    tls_ca: Option<PathBuf>,
    domain: Option<String>,
    user: String,
    password: String,
    #[serde(default)]
    register: bool,
}

/// A name that can be looked up (RFC 1123 §2.1).
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    #[default]
    Udp,
    Tcp,
    Tls,
}

impl Settings {
    /// Reads the text of `sip.toml`.
    pub fn parse(text: &str) -> Result<Settings, SettingsError> {
        let file: File = toml::from_str(text)?;
        let wrong = |key, problem: &str| Err(SettingsError::Value { key, problem: problem.to_owned() });
        let public_ip = file.public_ip.unwrap_or(file.listen.ip());
        if public_ip.is_unspecified() {
            return wrong("public-ip", "say at which address telephones reach this gateway; `listen` names none");
        }
        let tls = match (file.tls_listen, file.tls_cert, file.tls_key) {
            (None, None, None) => None,
            (Some(listen), Some(certificate), Some(key)) => Some((listen, tls::Files { certificate, key })),
            _ => return wrong("tls-listen", "tls-listen, tls-cert and tls-key stand together, or none of them"),
        };
        let ports = file.rtp_ports.split_once('-').and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
        let Some(rtp_ports) =
            ports.filter(|ports: &RangeInclusive<u16>| *ports.start() >= 1024 && ports.end() > ports.start())
        else {
            return wrong("rtp-ports", "a range from 1024 on, such as 20000-29999");
        };
        if !(1..=10_000).contains(&file.calls_max) || file.calls_per_source_max == 0 {
            return wrong("calls-max", "1 to 10000, and calls-per-source-max at least 1");
        }
        if !(0.1..=1000.0).contains(&file.invites_per_second) {
            return wrong("invites-per-second", "0.1 to 1000");
        }
        if !(1..=64).contains(&file.audio_slots) {
            return wrong("audio-slots", "1 to 64");
        }
        let needs_srtp = match file.srtp.as_str() {
            "optional" => false,
            "required" => true,
            _ => return wrong("srtp", "optional or required"),
        };
        if file.control.is_some_and(|control| !control.ip().is_loopback()) {
            return wrong(
                "control",
                "an address of loopback, such as 127.0.0.1:8090; a proxy in front may be elsewhere",
            );
        }
        if file.number.len() > NUMBERS_MAX {
            return wrong("number", "10000 at most");
        }
        for (at, number) in file.number.iter().enumerate() {
            let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
            if !is_word(&number.number) || !is_word(&number.room) {
                return wrong("number", "each has a number and a room, without spaces");
            }
            if file.number[..at].iter().any(|other| other.number == number.number) {
                return wrong("number", &format!("{} stands twice", number.number));
            }
            let is_pin = |pin: &String| pin.len() >= PIN_DIGITS_MIN && pin.bytes().all(|digit| digit.is_ascii_digit());
            if !number.pin.as_ref().is_none_or(is_pin) {
                return wrong("pin", "at least four digits");
            }
        }
        if file.transfers && file.trunk.is_none() {
            return wrong("transfers", "the calls go by the trunk, so there must be one");
        }
        let (mut trunk_tls, mut trunk_host, mut trunk_address) = (None, None, None);
        if let Some(trunk) = &file.trunk {
            trunk_address = trunk.address.parse().ok();
            if trunk_address.is_none() {
                let named = trunk.address.split_once(':').filter(|(host, _)| is_host(host));
                let Some(port) = named.and_then(|(_, port)| port.parse().ok()).filter(|port| *port > 0) else {
                    return wrong("address", "of the trunk: IP:PORT or HOST:PORT, such as sip.provider.example:5060");
                };
                trunk_host = Some(trunk.address.clone());
                trunk_address = Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
            }
        }
        if let Some(trunk) = file.trunk.as_ref().filter(|trunk| trunk.transport == Transport::Tls) {
            let host = trunk.address.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
            let domain = trunk.domain.as_deref().map(|domain| domain.split_once(':').map_or(domain, |(name, _)| name));
            let Ok(name) = ServerName::try_from(domain.unwrap_or(host).to_owned()) else {
                return wrong("domain", "the name or the address that stands in the trunk's certificate");
            };
            trunk_tls = Some((name, trunk.tls_ca.clone()));
        } else if file.trunk.as_ref().is_some_and(|trunk| trunk.tls_ca.is_some()) {
            return wrong("tls-ca", "it has a meaning with transport = \"tls\" alone");
        }
        let trunk = file.trunk.zip(trunk_address).map(|(trunk, address)| Trunk {
            hop: match trunk.transport {
                Transport::Udp => Hop { address, connection: None },
                transport => Hop::trunk(address, transport == Transport::Tls),
            },
            domain: trunk.domain.unwrap_or_else(|| {
                let host = trunk_host.as_deref().and_then(|host| host.split_once(':'));
                host.map_or_else(|| address.to_string(), |(host, _)| host.to_owned())
            }),
            credentials: Credentials { user: trunk.user, password: trunk.password },
            registers: trunk.register,
        });
        Ok(Settings {
            listen: file.listen,
            tls,
            public_ip,
            rtp_ports,
            server: file.server,
            calls_max: file.calls_max,
            calls_per_source_max: file.calls_per_source_max,
            invites_per_second: file.invites_per_second,
            needs_srtp,
            audio_slots: file.audio_slots,
            lobby: file.lobby,
            takes_orders: file.orders,
            transfers: file.transfers,
            orders_token: file.orders_token,
            control: file.control.map(|address| Control { address, token: file.control_token }),
            trunk,
            trunk_host,
            trunk_tls,
            numbers: file.number,
        })
    }

    /// `HOST:PORT` or URL of the server whose rooms these are, if it is said.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Whether calls are made that the server orders.
    pub fn takes_orders(&self) -> bool {
        self.takes_orders
    }

    /// The token by which it waits for orders, if the file has one.
    pub fn orders_token(&self) -> Option<&str> {
        self.orders_token.as_deref()
    }

    /// Calls at once.
    pub fn calls_max(&self) -> usize {
        self.calls_max
    }

    /// Whether a number has no token of its own, so that tokens must be made.
    pub fn needs_tokens(&self) -> bool {
        self.numbers.iter().any(|number| number.token.is_none())
    }

    /// Whether the roots that the system trusts are needed: the trunk is reached by TLS, and the file names none.
    pub fn needs_roots(&self) -> bool {
        matches!(self.trunk_tls, Some((_, None)))
    }

    /// A PEM file with roots, for a trunk whose roots the file does not name.
    pub fn trust(&mut self, roots: PathBuf) {
        if let Some((_, named)) = &mut self.trunk_tls {
            named.get_or_insert(roots);
        }
    }

    /// Whom the trunk has to be, if it is reached by TLS.
    pub(crate) fn trunk_peer(&self) -> Option<tls::Peer> {
        let (name, roots) = self.trunk_tls.clone()?;
        Some(tls::Peer { name, roots: roots.unwrap_or_default() })
    }

    pub(crate) fn agent(&self, address: SocketAddr, tls: Option<SocketAddr>) -> agent::Settings {
        agent::Settings {
            address,
            tls,
            calls_max: self.calls_max,
            calls_per_source_max: self.calls_per_source_max,
            invites: Rate { per_second: self.invites_per_second, burst: 3.0 * self.invites_per_second.max(1.0) },
            transfers: self.transfers,
            trunk: self.trunk.clone(),
        }
    }

    /// Where a dialled number leads.
    pub(crate) fn number(&self, dialled: &str) -> Option<&Number> {
        self.numbers.iter().find(|number| number.number == dialled)
    }

    /// The number of a room, which `X-Room` names.
    pub(crate) fn number_of_room(&self, room: &str) -> Option<&Number> {
        self.numbers.iter().find(|number| number.room == room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = "listen = \"0.0.0.0:5060\"\npublic-ip = \"192.0.2.7\"\nlobby = \"999\"\n\
            [trunk]\naddress = \"203.0.113.5:5060\"\nuser = \"u\"\npassword = \"p\"\nregister = true\n\
            [[number]]\nnumber = \"100\"\nroom = \"demo\"\npin = \"4711\"\n[[number]]\nnumber = \"101\"\nroom = \"open\"\ntoken = \"t\"\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.number("100").unwrap().pin.as_deref(), Some("4711"));
        assert_eq!(settings.number_of_room("open").unwrap().number, "101");
        assert_eq!(settings.trunk.as_ref().unwrap().domain, "203.0.113.5:5060");
        assert!(settings.needs_tokens() && settings.number("102").is_none());
        assert!(Settings::parse("").is_ok());
    }

    #[test]
    fn a_trunk_of_tls_is_known_by_its_name() {
        let text = "[trunk]\naddress = \"203.0.113.5:5061\"\ntransport = \"tls\"\ndomain = \"pbx.example:5061\"\nuser = \"u\"\npassword = \"p\"\n";
        let mut settings = Settings::parse(text).unwrap();
        assert!(settings.needs_roots() && settings.trunk.as_ref().unwrap().hop.is_tls());
        settings.trust("/roots".into());
        let peer = settings.trunk_peer().unwrap();
        assert_eq!((peer.name.to_str().as_ref(), peer.roots), ("pbx.example", PathBuf::from("/roots")));
        let named = text.replace("203.0.113.5", "sip.example").replace("domain = \"pbx.example:5061\"", "");
        let settings = Settings::parse(&named).unwrap();
        assert_eq!(settings.trunk_tls.as_ref().unwrap().0.to_str(), "sip.example");
        assert_eq!(settings.trunk.as_ref().unwrap().domain, "sip.example");
        assert_eq!(settings.trunk_host.as_deref(), Some("sip.example:5061"));
        let mut settings =
            Settings::parse(&text.replace("domain = \"pbx.example:5061\"", "tls-ca = \"/own\"")).unwrap();
        assert!(!settings.needs_roots());
        settings.trust("/roots".into());
        let peer = settings.trunk_peer().unwrap();
        assert_eq!((peer.name.to_str().as_ref(), peer.roots), ("203.0.113.5", PathBuf::from("/own")));
    }

    #[test]
    fn what_is_wrong_is_said_by_its_key() {
        let number = |more: &str| format!("[[number]]\nnumber = \"1\"\nroom = \"r\"\n{more}");
        let trunk =
            |more: &str| format!("[trunk]\naddress = \"192.0.2.1:5061\"\nuser = \"u\"\npassword = \"p\"\n{more}");
        for (text, key) in [
            ("listen = \"0.0.0.0:5060\"".to_owned(), "public-ip"),
            ("rtp-ports = \"5-4\"".to_owned(), "rtp-ports"),
            ("tls-listen = \"127.0.0.1:5061\"".to_owned(), "tls-listen"),
            ("srtp = \"maybe\"".to_owned(), "srtp"),
            ("control = \"192.0.2.1:80\"".to_owned(), "control"),
            (trunk("transport = \"sctp\""), "transport"),
            (trunk("").replace("192.0.2.1:5061", "sip.example"), "address"),
            (trunk("").replace("192.0.2.1:5061", "sip_example:5060"), "address"),
            (trunk("transport = \"tcp\"\ntls-ca = \"x\""), "tls-ca"),
            (trunk("transport = \"tls\"\ndomain = \"a b\""), "domain"),
            ("transfers = true".to_owned(), "transfers"),
            ("calls-max = 0".to_owned(), "calls-max"),
            ("audio-slots = 0".to_owned(), "audio-slots"),
            ("colour = 1".to_owned(), "colour"),
            (number("pin = \"123\""), "pin"),
            (number("[[number]]\nnumber = \"1\"\nroom = \"q\""), "stands twice"),
        ] {
            let error = Settings::parse(&text).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
