//! Every setting by its name: what it may be, where it is kept, which plane it concerns, and whether a running plane
//! takes a new value. The settings file, the `UPRTC_…` variables, `--set`, the reload and the test of
//! deploy/uprtc.toml all go by this one table, so none of them can know a key that the others do not.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use controlplane::http::{Audience, NETWORKS_MAX, Network, ORIGINS_MAX, PublicUrl, is_origin};
use controlplane::nodes::{RELAY_IPS_MAX, SERVERS_MAX, is_cluster_name, is_name, is_server};
use controlplane::policy::{
    CLIENT_BPS_CEILING, CLIENT_BPS_FLOOR, DATA_BPS_CEILING, PEERS_MAX_CEILING, PEERS_PER_WORKER_CEILING, SLOTS_CEILING,
    TRACKS_CEILING, VIDEOS_MAX_CEILING, VOICES_MAX_CEILING, VideoCodecs,
};
use dataplane::config::{Backend, Driver, MEDIA_IPS_MAX, SPIN_US_MAX, WORKERS_MAX};
use proto::signal::VideoCodec;
use tracing_subscriber::EnvFilter;

use super::Options;
use crate::cli::parse_duration;
use crate::process::LogFormat;

/// Whom a key concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    Data,
    Control,
    Both,
}

/// One setting.
pub(crate) struct Key {
    /// As in the file; the variable is `UPRTC_` and the same in capitals.
    pub(crate) name: &'static str,
    pub(crate) plane: Plane,
    /// Whether a running plane takes a new value on SIGHUP.
    pub(crate) is_live: bool,
    kind: Kind,
}

/// What a value may be, and its field in [`Options`].
enum Kind {
    Whole { range: RangeInclusive<u64>, get: fn(&Options) -> u64, set: fn(&mut Options, u64) },
    Time { seconds: RangeInclusive<u64>, get: fn(&Options) -> Duration, set: fn(&mut Options, Duration) },
    Flag { get: fn(&Options) -> bool, set: fn(&mut Options, bool) },
    Address { get: fn(&Options) -> SocketAddr, set: fn(&mut Options, SocketAddr) },
    Stun,
    PublicUrl,
    File { get: fn(&Options) -> &PathBuf, set: fn(&mut Options, PathBuf) },
    MediaIps,
    Origins { get: fn(&Options) -> &Vec<String>, set: fn(&mut Options, Vec<String>) },
    Networks,
    Servers,
    Name { is_needed: bool, get: fn(&Options) -> &String, set: fn(&mut Options, String) },
    RelayIps,
    Audience,
    Announce,
    Driver,
    Codecs,
    Backend,
    State,
    Log,
    LogFormat,
}

/// A value as it was written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Written<'a> {
    /// In a variable or on the command line, where everything is text.
    Plain(&'a str),
    Text(&'a str),
    Integer(u64),
    Flag(bool),
    List(Vec<&'a str>),
    /// Something that no key takes.
    Other,
}

macro_rules! whole {
    ($name:literal, $plane:ident, $live:literal, $range:expr, $($field:ident).+) => {
        Key { name: $name, plane: Plane::$plane, is_live: $live, kind: Kind::Whole {
            range: $range, get: |o| o.$($field).+ as u64, set: |o, value| o.$($field).+ = value as _,
        } }
    };
}

macro_rules! time {
    ($name:literal, $plane:ident, $live:literal, $seconds:expr, $($field:ident).+) => {
        Key { name: $name, plane: Plane::$plane, is_live: $live, kind: Kind::Time {
            seconds: $seconds, get: |o| o.$($field).+, set: |o, value| o.$($field).+ = value,
        } }
    };
}

macro_rules! file {
    ($name:literal, $plane:ident, $($field:ident).+) => {
        Key { name: $name, plane: Plane::$plane, is_live: false, kind: Kind::File {
            get: |o| &o.$($field).+, set: |o, value| o.$($field).+ = value,
        } }
    };
}

macro_rules! name {
    ($name:literal, $needed:literal, $($field:ident).+) => {
        Key { name: $name, plane: Plane::Control, is_live: false, kind: Kind::Name {
            is_needed: $needed, get: |o| &o.$($field).+, set: |o, value| o.$($field).+ = value,
        } }
    };
}

/// All settings, in the order of deploy/uprtc.toml.
pub(crate) const KEYS: &[Key] = &[
    Key { name: "state", plane: Plane::Both, is_live: false, kind: Kind::State },
    file!("link-socket", Both, link_socket),
    Key {
        name: "link-group",
        plane: Plane::Both,
        is_live: false,
        kind: Kind::Flag { get: |o| o.link_group, set: |o, value| o.link_group = value },
    },
    Key {
        name: "seccomp",
        plane: Plane::Both,
        is_live: false,
        kind: Kind::Flag { get: |o| o.seccomp, set: |o, value| o.seccomp = value },
    },
    Key { name: "log", plane: Plane::Both, is_live: true, kind: Kind::Log },
    Key { name: "log-format", plane: Plane::Both, is_live: true, kind: Kind::LogFormat },
    Key { name: "media-ip", plane: Plane::Both, is_live: false, kind: Kind::MediaIps },
    Key { name: "announce", plane: Plane::Control, is_live: false, kind: Kind::Announce },
    whole!("media-port", Data, false, 0..=65_535, media_port),
    Key {
        name: "ice-tcp",
        plane: Plane::Data,
        is_live: false,
        kind: Kind::Flag { get: |o| o.ice_tcp, set: |o, value| o.ice_tcp = value },
    },
    Key {
        name: "ice-tcp-listen",
        plane: Plane::Control,
        is_live: false,
        kind: Kind::Flag { get: |o| o.ice_tcp_listen, set: |o, value| o.ice_tcp_listen = value },
    },
    whole!("workers", Data, false, 0..=WORKERS_MAX as u64, workers),
    Key {
        name: "pinned",
        plane: Plane::Data,
        is_live: false,
        kind: Kind::Flag { get: |o| o.is_pinned, set: |o, value| o.is_pinned = value },
    },
    Key { name: "driver", plane: Plane::Data, is_live: false, kind: Kind::Driver },
    Key { name: "io", plane: Plane::Data, is_live: false, kind: Kind::Backend },
    whole!("spin-us", Data, false, 0..=SPIN_US_MAX, spin_us),
    Key {
        name: "listen",
        plane: Plane::Control,
        is_live: false,
        kind: Kind::Address { get: |o| o.listen, set: |o, value| o.listen = value },
    },
    Key { name: "public-url", plane: Plane::Control, is_live: false, kind: Kind::PublicUrl },
    Key { name: "stun", plane: Plane::Control, is_live: false, kind: Kind::Stun },
    file!("tls-cert", Control, tls_cert),
    file!("tls-key", Control, tls_key),
    Key {
        name: "cors-origins",
        plane: Plane::Control,
        is_live: true,
        kind: Kind::Origins { get: |o| &o.cors_origins, set: |o, value| o.cors_origins = value },
    },
    Key {
        name: "frame-origins",
        plane: Plane::Control,
        is_live: true,
        kind: Kind::Origins { get: |o| &o.frame_origins, set: |o, value| o.frame_origins = value },
    },
    Key { name: "trusted-proxies", plane: Plane::Control, is_live: false, kind: Kind::Networks },
    Key { name: "metrics", plane: Plane::Control, is_live: false, kind: Kind::Audience },
    whole!("peers-max", Control, true, 1..=PEERS_MAX_CEILING as u64, rooms.peers_max),
    whole!("client-bps-max", Control, true, 100_000..=1_000_000_000, rooms.client_bps_max),
    whole!("rooms-peers-ceiling", Control, true, 1..=PEERS_MAX_CEILING as u64, rooms.room_peers_ceiling),
    whole!(
        "rooms-client-bps-ceiling",
        Control,
        true,
        CLIENT_BPS_FLOOR as u64..=CLIENT_BPS_CEILING as u64,
        rooms.room_client_bps_ceiling
    ),
    Key { name: "codecs", plane: Plane::Control, is_live: true, kind: Kind::Codecs },
    whole!("voices-max", Control, true, 1..=VOICES_MAX_CEILING as u64, rooms.voices_max),
    whole!("videos-max", Control, true, 0..=VIDEOS_MAX_CEILING as u64, rooms.videos_max),
    whole!("data-bps-max", Control, true, 0..=DATA_BPS_CEILING as u64, rooms.data_bps_max),
    whole!("rooms-max", Control, true, 1..=1_000_000, rooms.rooms_max),
    whole!("peers-per-worker-max", Control, false, 1..=PEERS_PER_WORKER_CEILING as u64, rooms.peers_per_worker_max),
    whole!("room-peers-per-worker", Control, true, 1..=PEERS_MAX_CEILING as u64, rooms.room_peers_per_worker),
    whole!("tracks-max", Control, false, 1..=TRACKS_CEILING as u64, rooms.tracks_max),
    whole!("slots-max", Control, false, 1..=SLOTS_CEILING as u64, rooms.slots_max),
    time!("offer-timeout", Control, true, 1..=300, rooms.offer_timeout),
    time!("handshake-timeout", Control, true, 1..=120, rooms.handshake_timeout),
    time!("resume-timeout", Control, true, 1..=3600, rooms.resume_timeout),
    Key {
        name: "expire-peers",
        plane: Plane::Control,
        is_live: true,
        kind: Kind::Flag { get: |o| o.rooms.expire_peers, set: |o, value| o.rooms.expire_peers = value },
    },
    whole!("half-open-max", Control, true, 1..=65_536, rooms.half_open_max),
    whole!("handshakes-per-second", Control, true, 1..=100_000, rooms.handshakes_per_second),
    Key {
        name: "sockets-max",
        plane: Plane::Control,
        is_live: false,
        kind: Kind::Whole {
            range: 1..=65_000,
            get: |o| o.limits.sockets_max as u64,
            // HTTP bounds its tasks and the engine its table: one number for both.
            set: |o, value| (o.limits.sockets_max, o.rooms.sockets_max) = (value as usize, value as usize),
        },
    },
    whole!("connections-max", Control, false, 1..=65_000, limits.connections_max),
    whole!("tls-half-open-max", Control, false, 1..=65_000, limits.tls_half_open_max),
    time!("head-timeout", Control, false, 1..=120, limits.head_timeout),
    // hyper wants room for 8 KiB at least.
    whole!("head-len-max", Control, false, 8_192..=1_048_576, limits.head_len_max),
    whole!("headers-max", Control, false, 16..=256, limits.headers_max),
    whole!("signal-len-max", Control, false, 16_384..=262_144, limits.signal_len_max),
    whole!("signals-per-second", Control, false, 1..=10_000, limits.signals_per_second),
    whole!("requests-per-second", Control, false, 1..=10_000, limits.requests_per_second),
    whole!("source-requests-per-second", Control, false, 1..=100_000, limits.source_requests_per_second),
    whole!("posts-per-second", Control, false, 1..=10_000, limits.posts_per_second),
    time!("ping-interval", Control, false, 1..=300, limits.ping_interval),
    time!("idle-timeout", Control, false, 2..=3600, limits.idle_timeout),
    time!("write-timeout", Control, false, 1..=120, limits.write_timeout),
    whole!("stun-per-network", Control, false, 1..=1_000_000, stun_rates.per_network),
    whole!("stun-total", Control, false, 1..=1_000_000, stun_rates.total),
    Key { name: "cluster", plane: Plane::Control, is_live: false, kind: Kind::Servers },
    name!("cluster-name", true, cluster.name),
    file!("cluster-ca", Control, cluster.ca),
    file!("cluster-credentials", Control, cluster.credentials),
    time!("cluster-lease", Control, false, 2..=300, cluster.lease),
    name!("node", false, cluster.node),
    name!("region", false, cluster.region),
    name!("carrier", false, cluster.carrier),
    whole!("redirect-above", Control, false, 0..=99, limits.redirect_above),
    Key { name: "relay-ips", plane: Plane::Control, is_live: false, kind: Kind::RelayIps },
];

/// The key of that name, or one line that says which was perhaps meant.
pub(crate) fn find(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    let nearest = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    match nearest.filter(|(distance, _)| distance * 3 <= name.len()) {
        Some((_, meant)) => Err(format!("unknown key {name:?}: did you mean {meant:?}?")),
        None => Err(format!("unknown key {name:?}: deploy/uprtc.toml lists all that there are")),
    }
}

impl Key {
    /// Its variable.
    pub(crate) fn variable(&self) -> String {
        format!("UPRTC_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// What it may be, in the words of deploy/uprtc.toml.
    pub(crate) fn range(&self) -> String {
        match &self.kind {
            Kind::Whole { range, .. } => format!("{} to {}", range.start(), range.end()),
            Kind::Time { seconds, .. } => {
                let text = |seconds: &u64| time_text(Duration::from_secs(*seconds));
                format!("{} to {}", text(seconds.start()), text(seconds.end()))
            }
            Kind::Flag { .. } => "true or false".into(),
            Kind::Address { .. } => "IP:PORT".into(),
            Kind::Stun => "IP:PORT, or empty".into(),
            Kind::PublicUrl => "https://HOST[:PORT][/PREFIX], or empty".into(),
            Kind::File { .. } => "a file".into(),
            Kind::Origins { .. } => format!("0 to {ORIGINS_MAX} of scheme://host[:port], or *"),
            Kind::Networks => format!("0 to {NETWORKS_MAX} of IP or IP/BITS"),
            Kind::Servers => format!("0 to {SERVERS_MAX} of nats://HOST[:PORT] or tls://HOST[:PORT]"),
            Kind::Name { is_needed: true, .. } => "1 to 32 of A-Z a-z 0-9 - _".into(),
            Kind::Name { .. } => "up to 32 of A-Z a-z 0-9 - _".into(),
            Kind::RelayIps => format!("0 to {RELAY_IPS_MAX} addresses"),
            Kind::Audience => "loopback, all or admin".into(),
            Kind::Announce => format!("0 to {MEDIA_IPS_MAX} of IP=IP"),
            Kind::MediaIps => format!("1 to {MEDIA_IPS_MAX} addresses"),
            Kind::Driver => "auto, uring or epoll".into(),
            Kind::Codecs => {
                format!("one or two of {}", VideoCodec::ALL.map(VideoCodec::name).join(", "))
            }
            Kind::Backend => "auto, udp, uring or frames".into(),
            Kind::State => "a folder".into(),
            Kind::Log => "off, error, warn, info, debug or trace, or directives".into(),
            Kind::LogFormat => "text or json".into(),
        }
    }

    /// Sets the field.
    pub(crate) fn apply(&self, options: &mut Options, written: &Written<'_>) -> Result<(), String> {
        let wrong = || format!("{} must be {}", self.name, self.range());
        let text = match written {
            Written::Plain(text) | Written::Text(text) => Some(*text),
            _ => None,
        };
        match &self.kind {
            Kind::Whole { range, set, .. } => {
                let value = match written {
                    Written::Integer(value) => Some(*value),
                    Written::Plain(text) => text.parse().ok(),
                    _ => None,
                };
                set(options, value.filter(|value| range.contains(value)).ok_or_else(wrong)?);
            }
            Kind::Time { seconds, set, .. } => {
                let value = text.and_then(|text| parse_duration(text).ok());
                set(options, value.filter(|value| seconds.contains(&value.as_secs())).ok_or_else(wrong)?);
            }
            Kind::Flag { set, .. } => match written {
                Written::Flag(value) => set(options, *value),
                Written::Plain(text) => set(options, text.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            },
            Kind::Address { set, .. } => {
                set(options, text.and_then(|text| text.parse().ok()).ok_or_else(wrong)?);
            }
            Kind::Stun => {
                let parsed = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
                options.stun = text.and_then(parsed).ok_or_else(wrong)?;
            }
            Kind::PublicUrl => {
                let parsed = |text: &str| if text.is_empty() { Some(None) } else { PublicUrl::parse(text).map(Some) };
                options.public_url = text.and_then(parsed).ok_or_else(wrong)?;
            }
            Kind::File { set, .. } => {
                let text = text.filter(|text| !text.chars().any(char::is_control));
                set(options, PathBuf::from(text.ok_or_else(wrong)?));
            }
            Kind::Origins { set, .. } => set(options, origins(written).ok_or_else(wrong)?),
            Kind::Networks => options.trusted_proxies = networks(written).ok_or_else(wrong)?,
            Kind::Servers => options.cluster.servers = servers(written).ok_or_else(wrong)?,
            Kind::Name { is_needed, set, .. } => {
                // That of the cluster is the only one that is needed.
                let is_good = |text: &&str| match is_needed {
                    true => is_cluster_name(text),
                    false => is_name(text) || text.is_empty(),
                };
                set(options, text.filter(is_good).ok_or_else(wrong)?.to_owned());
            }
            Kind::RelayIps => options.cluster.relay_ips = relay_ips(written).ok_or_else(wrong)?,
            Kind::Announce => options.rooms.announce = announcements(written).ok_or_else(wrong)?,
            Kind::Audience => options.metrics = text.and_then(audience).ok_or_else(wrong)?,
            Kind::MediaIps => options.media_ips = ips(written).ok_or_else(wrong)?,
            Kind::Driver => options.driver = text.and_then(driver).ok_or_else(wrong)?,
            Kind::Codecs => options.rooms.codecs = codecs(written).ok_or_else(wrong)?,
            Kind::Backend => options.backend = text.and_then(backend).ok_or_else(wrong)?,
            Kind::State => options.state = PathBuf::from(text.ok_or_else(wrong)?),
            Kind::Log => {
                let text = text.filter(|text| !text.is_empty() && EnvFilter::try_new(text).is_ok());
                options.log = text.ok_or_else(wrong)?.to_owned();
            }
            Kind::LogFormat => options.log_format = text.and_then(LogFormat::named).ok_or_else(wrong)?,
        }
        Ok(())
    }

    /// Its value as a variable would hold it.
    pub(crate) fn text(&self, options: &Options) -> String {
        match &self.kind {
            Kind::Whole { get, .. } => get(options).to_string(),
            Kind::Time { get, .. } => time_text(get(options)),
            Kind::Flag { get, .. } => get(options).to_string(),
            Kind::Address { get, .. } => get(options).to_string(),
            Kind::Stun => options.stun.map(|stun| stun.to_string()).unwrap_or_default(),
            Kind::PublicUrl => options.public_url.as_ref().map(PublicUrl::to_string).unwrap_or_default(),
            Kind::File { get, .. } => get(options).display().to_string(),
            Kind::Origins { get, .. } => get(options).join(","),
            Kind::Networks => {
                let networks: Vec<String> = options.trusted_proxies.iter().map(Network::to_string).collect();
                networks.join(",")
            }
            Kind::Servers => options.cluster.servers.join(","),
            Kind::Name { get, .. } => get(options).clone(),
            Kind::RelayIps => {
                let ips: Vec<String> = options.cluster.relay_ips.iter().map(IpAddr::to_string).collect();
                ips.join(",")
            }
            Kind::Announce => {
                let pairs = options.rooms.announce.iter().map(|(bound, public)| format!("{bound}={public}"));
                pairs.collect::<Vec<_>>().join(",")
            }
            Kind::Audience => match options.metrics {
                Audience::Machine => "loopback".into(),
                Audience::All => "all".into(),
                Audience::Admin => "admin".into(),
            },
            Kind::MediaIps => {
                let ips: Vec<String> = options.media_ips.iter().map(IpAddr::to_string).collect();
                ips.join(",")
            }
            Kind::Driver => match options.driver {
                Driver::Auto => "auto".into(),
                Driver::Uring => "uring".into(),
                Driver::Epoll => "epoll".into(),
            },
            Kind::Codecs => options.rooms.codecs.iter().map(VideoCodec::name).collect::<Vec<_>>().join(","),
            Kind::Backend => options.backend.map_or("auto", Backend::name).into(),
            Kind::State => options.state.display().to_string(),
            Kind::Log => options.log.clone(),
            Kind::LogFormat => options.log_format.name().into(),
        }
    }

    /// Its value as the settings file would hold it.
    pub(crate) fn toml(&self, options: &Options) -> String {
        let text = self.text(options);
        match &self.kind {
            Kind::Whole { .. } | Kind::Flag { .. } => text,
            Kind::Origins { .. } | Kind::Networks | Kind::Servers | Kind::RelayIps | Kind::Announce
                if text.is_empty() =>
            {
                "[]".into()
            }
            Kind::MediaIps
            | Kind::Origins { .. }
            | Kind::Networks
            | Kind::Servers
            | Kind::RelayIps
            | Kind::Announce
            | Kind::Codecs => {
                format!("[{}]", text.split(',').map(quote).collect::<Vec<_>>().join(", "))
            }
            _ => quote(&text),
        }
    }
}

/// The words of a list; one alone needs no brackets.
fn list<'a>(written: &Written<'a>) -> Option<Vec<&'a str>> {
    Some(match written {
        Written::Plain(text) => text.split(',').map(str::trim).collect(),
        Written::Text(text) => vec![text],
        Written::List(texts) => texts.clone(),
        _ => return None,
    })
}

fn codecs(written: &Written<'_>) -> Option<VideoCodecs> {
    let known = |name: &str| VideoCodec::ALL.into_iter().find(|codec| codec.name() == name);
    let codecs: Vec<VideoCodec> = list(written)?.into_iter().map(known).collect::<Option<_>>()?;
    VideoCodecs::new(&codecs)
}

fn ips(written: &Written<'_>) -> Option<Vec<IpAddr>> {
    let ips: Vec<IpAddr> = list(written)?.into_iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
    (1..=MEDIA_IPS_MAX).contains(&ips.len()).then_some(ips)
}

/// The items of a list that may be empty.
fn items<'a>(written: &Written<'a>) -> Option<Vec<&'a str>> {
    match written {
        Written::Plain(text) | Written::Text(text) => {
            Some(text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect())
        }
        Written::List(texts) => Some(texts.clone()),
        _ => None,
    }
}

/// `BOUND=PUBLIC` of one family each, no bound address twice.
fn announcements(written: &Written<'_>) -> Option<Vec<(IpAddr, IpAddr)>> {
    let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
    for item in items(written)? {
        let (bound, public) = item.split_once('=')?;
        let (bound, public): (IpAddr, IpAddr) = (bound.trim().parse().ok()?, public.trim().parse().ok()?);
        let is_twice = pairs.iter().any(|(known, _)| *known == bound);
        if is_twice || bound.is_ipv4() != public.is_ipv4() || public.is_unspecified() || public.is_multicast() {
            return None;
        }
        pairs.push((bound, public));
    }
    (pairs.len() <= MEDIA_IPS_MAX).then_some(pairs)
}

fn origins(written: &Written<'_>) -> Option<Vec<String>> {
    let origins: Vec<String> = items(written)?.into_iter().map(str::to_ascii_lowercase).collect();
    (origins.len() <= ORIGINS_MAX && origins.iter().all(|origin| is_origin(origin))).then_some(origins)
}

fn servers(written: &Written<'_>) -> Option<Vec<String>> {
    let servers: Vec<String> = items(written)?.into_iter().map(str::to_owned).collect();
    (servers.len() <= SERVERS_MAX && servers.iter().all(|server| is_server(server))).then_some(servers)
}

fn relay_ips(written: &Written<'_>) -> Option<Vec<IpAddr>> {
    let ips: Vec<IpAddr> = items(written)?.into_iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
    let is_reached = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    (ips.len() <= RELAY_IPS_MAX && ips.iter().all(is_reached)).then_some(ips)
}

fn networks(written: &Written<'_>) -> Option<Vec<Network>> {
    let networks: Vec<Network> = items(written)?.into_iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
    (networks.len() <= NETWORKS_MAX).then_some(networks)
}

fn audience(text: &str) -> Option<Audience> {
    match text {
        "loopback" => Some(Audience::Machine),
        "all" => Some(Audience::All),
        "admin" => Some(Audience::Admin),
        _ => None,
    }
}

fn driver(text: &str) -> Option<Driver> {
    match text {
        "auto" => Some(Driver::Auto),
        "uring" => Some(Driver::Uring),
        "epoll" => Some(Driver::Epoll),
        _ => None,
    }
}

/// `Some(None)` is `auto`.
fn backend(text: &str) -> Option<Option<Backend>> {
    let named = Backend::ALL.into_iter().find(|backend| backend.name() == text);
    (named.is_some() || text == "auto").then_some(named)
}

/// In the largest unit that leaves a whole number.
fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let (unit, name) = [(86_400, "d"), (3600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit))
        .unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// How many letters apart two names are (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        assert_eq!((distance("", "abc"), distance("lisen", "listen"), distance("kitten", "sitting")), (3, 1, 3));
        assert!(find("lisen").err().unwrap().contains("\"listen\""));
        assert!(find("peer-max").err().unwrap().contains("\"peers-max\""));
        assert!(find("something-else").err().unwrap().contains("deploy/uprtc.toml"));
    }

    #[test]
    fn names_are_unique_and_each_value_reads_back() {
        let defaults = Options::default();
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.name != key.name), "{}", key.name);
            let mut options = Options::default();
            let text = key.text(&defaults);
            key.apply(&mut options, &Written::Plain(&text)).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(options, defaults, "{}", key.name);
        }
    }

    #[test]
    fn values_outside_their_range_are_refused_with_the_range() {
        let mut options = Options::default();
        for (name, bad, range) in [
            ("peers-max", "0", "1 to 1000"),
            ("peers-max", "1001", "1 to 1000"),
            ("peers-max", "-1", "1 to 1000"),
            ("media-port", "65536", "0 to 65535"),
            ("offer-timeout", "20", "1s to 5m"),
            ("offer-timeout", "6m", "1s to 5m"),
            ("pinned", "yes", "true or false"),
            ("driver", "kqueue", "uring"),
            ("io", "dpdk", "frames"),
            ("listen", "8080", "IP:PORT"),
            ("stun", "3478", "IP:PORT"),
            ("public-url", "call.example", "https://HOST"),
            ("public-url", "https://call.example/?room=x", "https://HOST"),
            ("log-format", "xml", "text or json"),
            ("media-ip", "", "addresses"),
            ("media-ip", "127.0.0.1,localhost", "addresses"),
            ("codecs", "", "one or two"),
            ("codecs", "vp8,vp8", "h264, vp8, vp9, av1"),
            ("codecs", "h264,vp8,vp9", "one or two"),
            ("codecs", "h265", "av1"),
            ("log", "a=b=c", "debug"),
            ("cors-origins", "https://a.example/", "scheme://host"),
            ("cors-origins", "a.example", "scheme://host"),
            ("frame-origins", "https://a.example;script-src", "scheme://host"),
            ("trusted-proxies", "10.0.0.0/33", "IP or IP/BITS"),
            ("trusted-proxies", "proxy.example", "IP or IP/BITS"),
            ("metrics", "everybody", "admin"),
            ("announce", "10.0.0.5", "IP=IP"),
            ("announce", "10.0.0.5=2001:db8::1", "IP=IP"),
            ("announce", "10.0.0.5=192.0.2.1,10.0.0.5=192.0.2.2", "IP=IP"),
            ("announce", "10.0.0.5=0.0.0.0", "IP=IP"),
            ("tls-cert", "a\nb", "a file"),
            ("cluster", "10.0.0.1:4222", "nats://HOST"),
            ("cluster", "nats://ada:secret@10.0.0.1", "nats://HOST"),
            ("cluster-name", "", "1 to 32"),
            ("cluster-name", "eu-rooms", "1 to 32"),
            ("node", "fra.1", "up to 32"),
            ("relay-ips", "0.0.0.0", "0 to 4 addresses"),
            ("cluster-lease", "1s", "2s to 5m"),
        ] {
            let error = find(name).unwrap().apply(&mut options, &Written::Plain(bad)).unwrap_err();
            assert!(error.contains(name) && error.contains(range), "{error}");
        }
        assert_eq!(options, Options::default(), "what is refused changes nothing");
    }
}
