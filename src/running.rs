//! Which servers run on this machine, and which of them an operator's command means. A command that talks to a server finds
//! it here and nowhere else: by the state folder, in which the controlplane writes where it listens.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use controlplane::auth::{KEY_FILE, KeyError, TokenKeys};
use controlplane::driver::SOCKET_FILE;
use controlplane::{LOCK_FILE, RUNNING_FILE};
use serde::{Deserialize, Serialize};

use crate::cli::Common;
use crate::options::{self, Options, Sources};
use crate::{Failure, reach};

/// The state folder of the units in deploy/systemd.
const STATE_OF_UNITS: &str = "/var/lib/uprtc";

/// How long a controlplane that is just starting may take to say where it listens, and how often it is looked for.
const START_TIMEOUT: Duration = Duration::from_secs(2);
const START_RETRY: Duration = Duration::from_millis(50);

/// What a running controlplane says of itself, in [`RUNNING_FILE`] of its state folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Where it serves HTTP.
    pub(crate) listen: SocketAddr,
    /// The certificate that it serves with, if it does.
    pub(crate) certificate: Option<PathBuf>,
    /// What its links begin with, as people elsewhere reach it.
    pub(crate) link: String,
    /// The socket at which it attaches to the dataplane. Earlier versions did not say it: theirs is in the state folder.
    #[serde(default)]
    pub(crate) link_socket: Option<PathBuf>,
}

impl Running {
    /// Of a controlplane with these options that listens there.
    pub(crate) fn new(options: &Options, listen: SocketAddr) -> Running {
        let certificate = options.tls().map(|files| files.certificate);
        let certificate = certificate.map(|path| path.canonicalize().unwrap_or(path));
        Running { listen, certificate, link: reach::link_base(options, listen), link_socket: Some(options.link().path) }
    }

    /// Writes it down, whole or not at all. The server serves all the same if it cannot be.
    pub(crate) fn write(&self, state: &Path) {
        let path = state.join(RUNNING_FILE);
        let draft = path.with_extension("json.new");
        let text = serde_json::to_string(self).unwrap_or_default() + "\n";
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            fs::rename(&draft, &path)
        };
        if let Err(error) = write() {
            tracing::warn!("operators' commands will not find this server: cannot write {}: {error}", path.display());
        }
    }

    /// The server that runs with this state folder, or one line that says that none does, and which others do.
    pub(crate) fn find(state: &Path) -> Result<Running, Failure> {
        let path = state.join(RUNNING_FILE);
        let begun = Instant::now();
        loop {
            if let Err(error) = fs::metadata(state) {
                return Err(unusable(state, &error.into()));
            }
            if let Err(error) = File::open(state.join(LOCK_FILE))
                && error.kind() == ErrorKind::PermissionDenied
            {
                return Err(unusable(state, &error.into()));
            }
            if !Planes::find(state).controlplane {
                return Err(format!("no server runs with the state folder {}{}", state.display(), others(state)).into());
            }
            match fs::read(&path) {
                Ok(text) => {
                    let why = |error| format!("cannot read {}: {error}: is another version running?", path.display());
                    return Ok(serde_json::from_slice(&text).map_err(why)?);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(unusable(state, &error.into())),
                Err(_) if begun.elapsed() > START_TIMEOUT => {
                    let shown = state.display();
                    return Err(format!("the server of the state folder {shown} is starting: try again shortly").into());
                }
                Err(_) => std::thread::sleep(START_RETRY),
            }
        }
    }
}

/// Which planes run with a state folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Planes {
    pub(crate) dataplane: bool,
    pub(crate) controlplane: bool,
}

impl Planes {
    pub(crate) fn find(state: &Path) -> Planes {
        let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
        let running: Option<Running> =
            fs::read(state.join(RUNNING_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let socket = running.and_then(|running| running.link_socket).unwrap_or_else(|| state.join(SOCKET_FILE));
        let dataplane = link_sockets().contains(&socket) || states_with_dataplane().contains(&state);
        let controlplane = match File::open(state.join(LOCK_FILE)) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            // Another user's. Its planes come together.
            Err(error) => error.kind() == ErrorKind::PermissionDenied && dataplane,
        };
        Planes { dataplane, controlplane }
    }

    fn any(self) -> bool {
        self.dataplane || self.controlplane
    }
}

/// The paths of Unix sockets, by the kernel's list of them, which everybody may read: to connect would be to attach.
fn link_sockets() -> BTreeSet<PathBuf> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    sockets.lines().filter_map(|line| line.split_once(" /").map(|(_, path)| format!("/{path}").into())).collect()
}

/// State folders that a dataplane listens in.
fn states_with_dataplane() -> BTreeSet<PathBuf> {
    let is_link = |path: &PathBuf| path.file_name().is_some_and(|name| name == SOCKET_FILE);
    link_sockets().into_iter().filter(is_link).filter_map(|path| Some(path.parent()?.to_owned())).collect()
}

/// The state folder that a command means: the one that is named; else that of a server that runs, the user's own before that
/// of the systemd units; else one of these two in which a server has run.
pub(crate) fn state(common: &Common) -> Result<PathBuf, Failure> {
    let named = Sources { common: common.clone(), ..Sources::default() }.named_state()?;
    match named {
        Some(state) => state.canonicalize().map_err(|error| unusable(&state, &error.into())),
        None => {
            let own = options::default_state().ok();
            let usual: Vec<PathBuf> = own.into_iter().chain([PathBuf::from(STATE_OF_UNITS)]).collect();
            // Where namespaces share a network, the kernel lists sockets of folders that are not here.
            let is_running = |state: &Path| fs::metadata(state).is_ok() && Planes::find(state).any();
            // What this user may not look into may have one.
            let has_key = |state: &Path| match fs::symlink_metadata(state.join(KEY_FILE)) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::PermissionDenied,
            };
            choose(&usual, is_running, has_key).ok_or_else(|| {
                let (looked, others) = (list(&usual, " and "), others(Path::new("")));
                format!("no server runs or has run with {looked}{others}: start one, or name its folder with --state")
                    .into()
            })
        }
    }
}

/// Of the usual folders one with a server that runs, else one in which a server has run. What else runs on the machine is
/// named and not taken: it may be anybody's, and gone in a moment.
fn choose(usual: &[PathBuf], is_running: impl Fn(&Path) -> bool, has_key: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let running = usual.iter().find(|state| is_running(state));
    running.or_else(|| usual.iter().find(|state| has_key(state))).cloned()
}

fn list(paths: &[PathBuf], between: &str) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(between)
}

/// The signing keys in a state folder. None is made: a token of a key that no server has opens nothing.
pub(crate) fn keys(state: &Path) -> Result<TokenKeys, Failure> {
    match TokenKeys::load(state) {
        Ok(Some(keys)) => Ok(keys),
        Ok(None) => {
            let why = "a server makes it at its first start, and none has run with this state folder";
            Err(format!("there is no signing key {}: {why}{}", state.join(KEY_FILE).display(), others(state)).into())
        }
        Err(KeyError::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(unusable(state, &source.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// What a state folder with a key is to be warned of, when no server runs with it and others do.
pub(crate) fn remark(state: &Path) -> Option<String> {
    let others = others(state);
    (!Planes::find(state).any() && !others.is_empty())
        .then(|| format!("no server runs with the state folder {}{others}", state.display()))
}

/// Which servers run with other state folders, as the end of a sentence.
fn others(state: &Path) -> String {
    let mut running = states_with_dataplane();
    running.remove(state);
    match running.len() {
        0 => String::new(),
        1..=3 => {
            let others: Vec<PathBuf> = running.into_iter().collect();
            format!("; one runs with --state {}", list(&others, ", one with --state "))
        }
        many => format!("; {many} servers run with others"),
    }
}

/// Why a state folder cannot be used, and as whom it could be.
fn unusable(state: &Path, error: &Failure) -> Failure {
    let shown = state.display();
    let is_missing = error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound);
    if is_missing {
        return format!("there is no state folder {shown}: no server has run with it{}", others(state)).into();
    }
    let owner = state.ancestors().find_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.uid());
    match owner.filter(|&uid| uid != rustix::process::geteuid().as_raw()) {
        Some(uid) => {
            let user = user(uid).unwrap_or_else(|| format!("'#{uid}'"));
            format!("cannot use the state folder {shown}: {error}; it belongs to another user: sudo -u {user} uprtc …")
                .into()
        }
        None => format!("cannot use the state folder {shown}: {error}").into(),
    }
}

/// The name of a user, by passwd(5).
pub(crate) fn user(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?;
    line.split(':').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_means_the_server_that_runs() {
        let usual = [PathBuf::from("/home/ada/.local/state/uprtc"), PathBuf::from(STATE_OF_UNITS)];
        let [own, units] = [usual[0].as_path(), usual[1].as_path()];
        let chosen = |running: &[&Path], keys: &[&Path]| {
            choose(&usual, |state| running.contains(&state), |state| keys.contains(&state))
        };
        assert_eq!(chosen(&[units], &[own, units]).as_deref(), Some(units), "running wins over what once ran");
        assert_eq!(chosen(&[own, units], &[]).as_deref(), Some(own));
        assert_eq!(chosen(&[], &[own, units]).as_deref(), Some(own));
        assert_eq!(chosen(&[], &[units]).as_deref(), Some(units));
        assert_eq!(chosen(&[], &[]), None);
    }

    #[test]
    fn users_have_names() {
        assert_eq!(user(0).as_deref(), Some("root"));
        assert_eq!(user(4_000_000_000), None);
    }
}
