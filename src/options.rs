//! From settings file, `UPRTC_…` variables, command line and defaults to one set of options; each of these wins over
//! those before it. Whether the options can work is for the plane to say that they concern.

mod cluster;
mod keys;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use controlplane::driver::SOCKET_FILE;
use controlplane::engine::Settings;
use controlplane::http::{Audience, Limits, Network, PublicUrl};
use controlplane::stun_server::Rates;
use controlplane::tls;
use dataplane::config::{Backend, Driver};
use proto::link::{Access, Endpoint};
use toml::de::{DeTable, DeValue};

use self::cluster::Cluster;
use self::keys::{KEYS, Key, Plane, Written};
use crate::cli::{Common, Endpoints, Media, MediaIps};
use crate::process::LogFormat;
use crate::{Failure, process};

/// Longest settings file that is read, bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// The variable that names the settings file.
const CONFIG_VARIABLE: &str = "UPRTC_CONFIG";

/// Where STUN is served unless it is set (RFC 8489 §8.1).
const STUN_PORT: u16 = 3478;

/// What a plane or a supervisor runs with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Options {
    /// Where everything of this edge lies. Empty only before [`Sources::resolve`] is done.
    pub(crate) state: PathBuf,
    /// Empty: in the state folder; see [`Options::link`].
    pub(crate) link_socket: PathBuf,
    /// Whether the planes may be two users of one primary group.
    pub(crate) link_group: bool,
    /// Whether the planes give up system calls after their start.
    pub(crate) seccomp: bool,
    /// Directives of the log.
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) media_ips: Vec<IpAddr>,
    pub(crate) media_port: u16,
    /// Whether workers accept media over TCP, too.
    pub(crate) ice_tcp: bool,
    /// Whether `listen` takes media over TCP, too.
    pub(crate) ice_tcp_listen: bool,
    /// 0 only before [`Sources::resolve`] is done.
    pub(crate) workers: usize,
    pub(crate) is_pinned: bool,
    pub(crate) driver: Driver,
    /// None: what a probe finds cheaper.
    pub(crate) backend: Option<Backend>,
    /// Microseconds.
    pub(crate) spin_us: u64,
    pub(crate) listen: SocketAddr,
    /// Under which address clients reach the endpoints, if it is set.
    pub(crate) public_url: Option<PublicUrl>,
    /// None: the first media address; see [`Options::stun`].
    pub(crate) stun: Option<SocketAddr>,
    /// Empty: no TLS.
    pub(crate) tls_cert: PathBuf,
    pub(crate) tls_key: PathBuf,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) frame_origins: Vec<String>,
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) metrics: Audience,
    /// What the engine allows.
    pub(crate) rooms: Settings,
    /// What the endpoints allow.
    pub(crate) limits: Limits,
    pub(crate) stun_rates: Rates,
    pub(crate) cluster: Cluster,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            state: PathBuf::new(),
            link_socket: PathBuf::new(),
            link_group: false,
            seccomp: true,
            log: "info".into(),
            log_format: LogFormat::Text,
            media_ips: vec![Ipv4Addr::LOCALHOST.into()],
            media_port: 40_000,
            ice_tcp: true,
            ice_tcp_listen: false,
            workers: 0,
            is_pinned: true,
            driver: Driver::Auto,
            backend: None,
            spin_us: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            public_url: None,
            stun: None,
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            cors_origins: Vec::new(),
            frame_origins: Vec::new(),
            trusted_proxies: Network::LOOPBACK.into(),
            metrics: Audience::default(),
            rooms: Settings::default(),
            limits: Limits::default(),
            stun_rates: Rates::default(),
            cluster: Cluster::default(),
        }
    }
}

impl Options {
    /// Under which address clients reach the first media address.
    pub(crate) fn public_ip(&self) -> Option<IpAddr> {
        self.media_ips.first().map(|&ip| self.rooms.announced(SocketAddr::new(ip, 0)).ip())
    }

    /// Addresses of this machine under which `listen` takes media over TCP.
    pub(crate) fn ice_tcp_ips(&self) -> Vec<IpAddr> {
        match (self.ice_tcp_listen, self.listen.ip()) {
            (false, _) => Vec::new(),
            (true, IpAddr::V4(ip)) if ip.is_unspecified() => {
                self.media_ips.iter().copied().filter(IpAddr::is_ipv4).collect()
            }
            (true, ip) if ip.is_unspecified() => self.media_ips.clone(),
            (true, ip) => vec![ip],
        }
    }

    /// Where the planes meet, and who they may be.
    pub(crate) fn link(&self) -> Endpoint {
        let path = match self.link_socket.as_os_str().is_empty() {
            true => self.state.join(SOCKET_FILE),
            false => self.link_socket.clone(),
        };
        Endpoint { path, access: if self.link_group { Access::Group } else { Access::User } }
    }

    /// Where STUN is served: as it is set, or at the first media address, because who reaches the one reaches the other.
    pub(crate) fn stun(&self) -> SocketAddr {
        let follow = || self.media_ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        self.stun.unwrap_or_else(|| SocketAddr::new(follow(), STUN_PORT))
    }

    /// The certificate that the endpoints speak TLS with, if they do.
    pub(crate) fn tls(&self) -> Option<tls::Files> {
        let files = tls::Files { certificate: self.tls_cert.clone(), key: self.tls_key.clone() };
        (!self.tls_cert.as_os_str().is_empty()).then_some(files)
    }
}

/// Where options come from, kept so that they can be read again.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) common: Common,
    pub(crate) ips: MediaIps,
    pub(crate) media: Media,
    pub(crate) endpoints: Endpoints,
}

/// Who reads its options again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Supervisor,
    Dataplane,
    Controlplane,
}

impl Sources {
    /// Options from all sources. Touches nothing but the settings file.
    pub(crate) fn read(&self) -> Result<Options, Failure> {
        let mut options = self.gather(&mut Vec::new())?;
        if options.state.as_os_str().is_empty() {
            options.state = default_state()?;
        }
        Ok(options)
    }

    /// The same, with an empty state folder if none is named. Remarks for the log are added to `remarks`.
    fn gather(&self, remarks: &mut Vec<String>) -> Result<Options, Failure> {
        let mut options = Options::default();
        let config = self.common.config.clone().or_else(config_in_environment);
        if let Some(path) = config {
            apply_file(&mut options, &path, &read_file(&path)?)?;
        }
        apply_variables(&mut options, std::env::vars_os(), remarks)?;
        self.apply_command_line(&mut options)?;
        check_together(&options)?;
        if options.workers == 0 {
            options.workers = cores();
        }
        Ok(options)
    }

    /// Options from all sources, in a state folder that exists, with the log as they say.
    pub(crate) fn resolve(&self) -> Result<Options, Failure> {
        let mut remarks = Vec::new();
        let mut options = self.gather(&mut remarks)?;
        // First of all, so that no line is of another format than the settings say.
        process::set_log(&options.log, options.log_format);
        remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
        if options.state.as_os_str().is_empty() {
            options.state = default_state()?;
        }
        options.state = state_folder(&options.state)?;
        Ok(options)
    }

    /// The state folder that the command line, a variable or the settings file names.
    pub(crate) fn named_state(&self) -> Result<Option<PathBuf>, Failure> {
        let state = self.gather(&mut Vec::new())?.state;
        Ok((!state.as_os_str().is_empty()).then_some(state))
    }

    /// Reads all sources again and brings `current` up to date where that is possible while running; says in the log
    /// what changed and what needs a restart. False: something is wrong in them, and all stays as it was.
    pub(crate) fn reload(&self, current: &mut Options, role: Role) -> bool {
        let next = match self.resolve() {
            Ok(next) => next,
            Err(failure) => {
                tracing::error!("settings are not reloaded: {failure}");
                return false;
            }
        };
        tracing::info!("settings are reloaded");
        for key in KEYS {
            let (was, is) = (key.text(current), key.text(&next));
            if was == is {
            } else if key.is_live {
                let applied = key.apply(current, &Written::Plain(&is));
                debug_assert_eq!(applied, Ok(()), "its own text");
                if role.tells_of(key) {
                    tracing::info!("{} is {is} from now on, was {was}", key.name);
                }
            } else if role.tells_of(key) {
                tracing::warn!("{} = {is} needs a restart; until then it is {was}", key.name);
            }
        }
        true
    }

    fn apply_command_line(&self, options: &mut Options) -> Result<(), Failure> {
        for setting in &self.common.set {
            let (name, value) = setting.split_once('=').ok_or_else(|| format!("--set {setting}: not KEY=VALUE"))?;
            keys::find(name.trim())
                .and_then(|key| key.apply(options, &Written::Plain(value.trim())))
                .map_err(|error| format!("--set {setting}: {error}"))?;
        }
        if let Some(state) = &self.common.state {
            options.state.clone_from(state);
        }
        if !self.ips.media_ip.is_empty() {
            options.media_ips.clone_from(&self.ips.media_ip);
        }
        options.media_port = self.media.media_port.unwrap_or(options.media_port);
        options.workers = match self.media.workers {
            // In the file 0 stands for all cores; asked for in so many words it is a mistake.
            Some(0) => return Err("--workers 0: give --workers a number from 1, best one for each core".into()),
            Some(workers) => workers,
            None => options.workers,
        };
        if let Some(how) = &self.media.io {
            keys::find("io")?.apply(options, &Written::Plain(how)).map_err(|error| format!("--io {how}: {error}"))?;
        }
        options.listen = self.endpoints.listen.unwrap_or(options.listen);
        options.stun = self.endpoints.stun.or(options.stun);
        let endpoints = &self.endpoints;
        for (name, given) in
            [("tls-cert", &endpoints.tls_cert), ("tls-key", &endpoints.tls_key), ("public-url", &endpoints.public_url)]
        {
            if let Some(given) = given {
                keys::find(name)?.apply(options, &Written::Plain(given)).map_err(|error| format!("--{error}"))?;
            }
        }
        if !self.endpoints.cors_origin.is_empty() {
            let origins = Written::List(self.endpoints.cors_origin.iter().map(String::as_str).collect());
            let key = keys::find("cors-origins")?;
            key.apply(options, &origins).map_err(|error| format!("--cors-origin: {error}"))?;
        }
        if !self.endpoints.announce.is_empty() {
            let pairs = Written::List(self.endpoints.announce.iter().map(String::as_str).collect());
            let key = keys::find("announce")?;
            key.apply(options, &pairs).map_err(|error| format!("--{error}"))?;
        }
        Ok(())
    }
}

impl Role {
    /// Whether a change of this key is this process's to report. A supervisor passes some on as options of the command
    /// line, which stay as they are; of these its planes see no change.
    fn tells_of(self, key: &Key) -> bool {
        let is_passed_on = ["state", "media-ip", "media-port", "workers", "io", "listen", "stun"].contains(&key.name);
        match self {
            Role::Supervisor => is_passed_on,
            Role::Dataplane => key.plane != Plane::Control,
            Role::Controlplane => key.plane != Plane::Data,
        }
    }
}

/// The whole of the options as a settings file, without the state folder, whose path may be no text.
pub(crate) fn write(options: &Options) -> String {
    let header =
        "# What `uprtc run` started its planes with, for planes that it starts again. Changes here are lost.\n";
    let lines = KEYS.iter().filter(|key| key.name != "state");
    lines.fold(header.to_owned(), |text, key| format!("{text}{} = {}\n", key.name, key.toml(options)))
}

/// The settings file that a variable names.
pub(crate) fn config_in_environment() -> Option<PathBuf> {
    std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from)
}

/// Options of lines KEY=VALUE.
#[cfg(test)]
pub(crate) fn from_lines(lines: &[&str]) -> Result<Options, Failure> {
    let set = lines.iter().map(|line| (*line).to_owned()).collect();
    let sources = Sources { common: Common { set, ..Common::default() }, ..Sources::default() };
    let mut options = Options { workers: 1, ..Options::default() };
    sources.apply_command_line(&mut options)?;
    check_together(&options).map(|()| options)
}

/// The variables that stand for keys.
pub(crate) fn variables() -> impl Iterator<Item = String> {
    KEYS.iter().map(Key::variable).chain([CONFIG_VARIABLE.to_owned()])
}

/// A worker for each core that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn read_file(path: &Path) -> Result<String, Failure> {
    let unreadable = |error| format!("cannot read the settings file {}: {error}", path.display());
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LEN_MAX {
        return Err(format!("the settings file {} is longer than {FILE_LEN_MAX} bytes", path.display()).into());
    }
    Ok(std::fs::read_to_string(path).map_err(unreadable)?)
}

/// Takes over what a settings file says. What nobody knows is an error, because a misspelt limit would otherwise be
/// no limit.
fn apply_file(options: &mut Options, path: &Path, text: &str) -> Result<(), Failure> {
    let at = |offset: usize, message: &str| {
        let line = text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
        format!("{}:{line}: {message}", path.display())
    };
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        at(offset, &error.message().replace('\n', " "))
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start); // The first mistake is the one to report.
    for (name, value) in entries {
        let key = keys::find(name.get_ref()).map_err(|error| at(name.span().start, &error))?;
        key.apply(options, &written(value.get_ref())).map_err(|error| at(value.span().start, &error))?;
    }
    Ok(())
}

fn written<'a>(value: &'a DeValue<'_>) -> Written<'a> {
    match value {
        DeValue::String(text) => Written::Text(text),
        DeValue::Integer(integer) => {
            u64::from_str_radix(integer.as_str(), integer.radix()).map_or(Written::Other, Written::Integer)
        }
        DeValue::Boolean(flag) => Written::Flag(*flag),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map_or(Written::Other, Written::List)
        }
        _ => Written::Other,
    }
}

/// Takes over the `UPRTC_…` variables. One that is no key is not refused: where containers run, the environment is
/// full of names that others chose (a Kubernetes service called `uprtc` gives every pod UPRTC_PORT). One that is nearly
/// a key is mentioned.
fn apply_variables(
    options: &mut Options,
    variables: impl Iterator<Item = (OsString, OsString)>,
    remarks: &mut Vec<String>,
) -> Result<(), Failure> {
    for (name, value) in variables {
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix("UPRTC_")) else { continue };
        let key = match keys::find(&name.to_ascii_lowercase().replace('_', "-")) {
            Ok(key) => key,
            Err(error) if error.contains("did you mean") => {
                remarks.push(format!("UPRTC_{name} is ignored: {error}"));
                continue;
            }
            Err(_) => continue,
        };
        let value = value.to_str().ok_or_else(|| format!("{}: not UTF-8", key.variable()))?;
        if value.is_empty() {
            continue; // As good as unset, for scripts that cannot leave it out.
        }
        key.apply(options, &Written::Plain(value)).map_err(|error| format!("{}={value}: {error}", key.variable()))?;
    }
    Ok(())
}

/// What single values cannot show.
fn check_together(options: &Options) -> Result<(), Failure> {
    let slots = options.rooms.slots();
    let needed = (slots.audio + slots.video) as usize;
    if options.rooms.slots_max < needed {
        let (peers, has) = (options.rooms.peers_max, options.rooms.slots_max);
        return Err(
            format!("slots-max = {has} is too few for peers-max = {peers}: to see all others takes {needed}").into()
        );
    }
    if options.tls_cert.as_os_str().is_empty() != options.tls_key.as_os_str().is_empty() {
        return Err("tls-cert and tls-key belong together: give both, or neither for plain HTTP".into());
    }
    if let Some((bound, _)) = options.rooms.announce.iter().find(|(bound, _)| !options.media_ips.contains(bound)) {
        return Err(format!("announce names {bound}, which is not in media-ip").into());
    }
    if options.limits.idle_timeout <= options.limits.ping_interval {
        return Err("idle-timeout must be longer than ping-interval, or every socket is cut off".into());
    }
    Ok(options.cluster.check()?)
}

/// The state folder, made if need be with mode 0700: whoever reads it can sign tokens.
fn state_folder(path: &Path) -> Result<PathBuf, Failure> {
    make_folder(path).map_err(|error| format!("cannot make the state folder {}: {error}", path.display()))?;
    // Children and messages show it, whatever the folder that they were started in.
    path.canonicalize().map_err(|error| format!("cannot use the state folder {}: {error}", path.display()).into())
}

/// The state folder of who names none.
pub(crate) fn default_state() -> Result<PathBuf, Failure> {
    state_of_user(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
        .ok_or_else(|| "neither XDG_STATE_HOME nor HOME is set: say where the state folder is with --state".into())
}

fn state_of_user(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute()); // The specification wants it absolute.
    let base =
        xdg.or_else(|| home.filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local/state")))?;
    Some(base.join("uprtc"))
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests;
