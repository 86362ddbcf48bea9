//! From command line, settings file and defaults to one set of options. Whether they can work is for the plane to say
//! that they concern.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Failure;
use crate::cli::{Common, Doors, Media, MediaIps};

/// Longest settings file that is read, bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// What a plane or a supervisor runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) state: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) stun: SocketAddr,
    pub(crate) media_ips: Vec<IpAddr>,
    pub(crate) media_port: u16,
    pub(crate) workers: usize,
}

/// The settings file: the same names as the options. What it says and nobody knows is an error, because a
/// misspelt limit would otherwise be no limit.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    state: Option<PathBuf>,
    listen: Option<SocketAddr>,
    cors_origin: Vec<String>,
    stun: Option<SocketAddr>,
    media_ip: Vec<IpAddr>,
    media_port: Option<u16>,
    workers: Option<usize>,
}

/// Options from all three sources, in a state folder that exists.
pub(crate) fn resolve(common: &Common, ips: &MediaIps, media: &Media, doors: &Doors) -> Result<Options, Failure> {
    let file = read_file(common)?;
    let given_ips = if ips.media_ip.is_empty() { file.media_ip } else { ips.media_ip.clone() };
    Ok(Options {
        state: state_folder(common.state.clone().or(file.state))?,
        listen: doors.listen.or(file.listen).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
        cors_origins: if doors.cors_origin.is_empty() { file.cors_origin } else { doors.cors_origin.clone() },
        stun: doors.stun.or(file.stun).unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 3478))),
        media_ips: if given_ips.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { given_ips },
        media_port: media.media_port.or(file.media_port).unwrap_or(40_000),
        workers: media.workers.or(file.workers).unwrap_or_else(cores),
    })
}

/// A worker for each core that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The state folder that `uprtc token` reads.
pub(crate) fn resolve_state(common: &Common) -> Result<PathBuf, Failure> {
    let file = read_file(common)?;
    state_folder(common.state.clone().or(file.state))
}

fn read_file(common: &Common) -> Result<File, Failure> {
    let Some(path) = &common.config else { return Ok(File::default()) };
    let unreadable = |error| format!("cannot read the settings file {}: {error}", path.display());
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LEN_MAX {
        return Err(format!("the settings file {} is longer than {FILE_LEN_MAX} bytes", path.display()).into());
    }
    parse(&std::fs::read_to_string(path).map_err(unreadable)?)
        .map_err(|error| format!("the settings file {} is wrong: {error}", path.display()).into())
}

fn parse(text: &str) -> Result<File, toml::de::Error> {
    toml::from_str(text)
}

/// The state folder, made if need be with mode 0700: whoever reads it can sign tokens.
fn state_folder(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path,
        None => default_state(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
            .ok_or("neither XDG_STATE_HOME nor HOME is set: say where the state folder is with --state")?,
    };
    make_folder(&path).map_err(|error| format!("cannot make the state folder {}: {error}", path.display()))?;
    // Children and messages show it, whatever the folder that they were started in.
    path.canonicalize().map_err(|error| format!("cannot use the state folder {}: {error}", path.display()).into())
}

fn default_state(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute()); // The specification wants it absolute.
    let base =
        xdg.or_else(|| home.filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".local/state")))?;
    Some(base.join("uprtc"))
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_file_has_the_names_of_the_options() {
        let file = parse(
            "listen = '0.0.0.0:80'\nstun = '[::]:3478'\nmedia-ip = ['192.0.2.1', '2001:db8::1']\nmedia-port = 50000\n\
             workers = 8\nstate = '/var/lib/uprtc'\n",
        )
        .unwrap();
        assert_eq!(file.media_ip.len(), 2);
        assert_eq!((file.media_port, file.workers), (Some(50_000), Some(8)));
        let error = parse("lisen = '0.0.0.0:80'\n").unwrap_err().to_string();
        assert!(error.contains("lisen"), "{error}");
        assert!(parse("media-port = 70000\n").is_err());
    }

    #[test]
    fn the_default_state_folder_follows_the_environment() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(default_state(Some("/x".into()), Some("/home/a".into())), path("/x/uprtc"));
        assert_eq!(default_state(None, Some("/home/a".into())), path("/home/a/.local/state/uprtc"));
        assert_eq!(default_state(Some("relative".into()), Some("/home/a".into())), path("/home/a/.local/state/uprtc"));
        assert_eq!(default_state(None, None), None);
    }
}
