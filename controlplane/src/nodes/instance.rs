//! What a node remembers of itself in its state folder: which instance it is, so that it has its name back at once after a
//! restart, and which cluster it has been in, so that a restart does not wait for the engine.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::CLUSTER_VERSION;
use super::settings::Settings;
use crate::hex;

/// Its name in the state folder.
pub(super) const NODE_FILE: &str = "node.json";

/// Longest file that is read, bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Where a node has been: what decides whether it is let in. The servers' names for it, not the secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Membership {
    version: u32,
    cluster: String,
    servers: Vec<String>,
    ca: Option<PathBuf>,
    credentials: Option<PathBuf>,
    node: String,
    lease_s: u64,
}

impl Membership {
    fn of(settings: &Settings) -> Membership {
        Membership {
            version: CLUSTER_VERSION,
            cluster: settings.name.clone(),
            servers: settings.servers.clone(),
            ca: settings.ca.clone(),
            credentials: settings.credentials.clone(),
            node: settings.node.clone(),
            lease_s: settings.lease.as_secs(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    instance: String,
    /// Of the run that began last.
    #[serde(default)]
    start: u32,
    joined: Option<Membership>,
}

/// This instance of a node.
#[derive(Debug)]
pub(super) struct Instance {
    path: PathBuf,
    /// 32 hexadecimal digits.
    pub(super) id: String,
    start: u32,
    joined: Option<Membership>,
}

impl Instance {
    /// That of a state folder. What cannot be read is made anew: then the name is free when the last lease has ended.
    pub(super) fn load_or_create(state: &Path) -> io::Result<Instance> {
        if let Some(instance) = Self::load(state) {
            return Ok(instance);
        }
        let instance = Instance { path: state.join(NODE_FILE), id: random::<16>()?, start: 0, joined: None };
        instance.write().map(|()| instance)
    }

    /// That of a state folder, if it has one that can be read.
    pub(super) fn load(state: &Path) -> Option<Instance> {
        let (path, mut text) = (state.join(NODE_FILE), Vec::new());
        fs::File::open(&path).ok()?.take(FILE_LEN_MAX).read_to_end(&mut text).ok()?;
        let Written { instance: id, start, joined } = serde_json::from_slice(&text).ok()?;
        hex::read(&id, &mut [0; 16])?;
        Some(Instance { path, id, start, joined })
    }

    /// A new run of it: 16 hexadecimal digits, higher than those of all its runs before, by this machine's clock (seconds since 1970), or by
    /// what is remembered where that clock has gone back. A full disk keeps no run from beginning: calls may be waiting for it.
    pub(super) fn begin(&mut self, now: u64) -> io::Result<String> {
        self.start = u32::try_from(now).unwrap_or(u32::MAX).max(self.start.saturating_add(1));
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the state folder does not remember this start of the node; its clock tells the next one");
        }
        Ok(format!("{:08x}{}", self.start, random::<4>()?))
    }

    /// Whether this instance has been in the cluster of these settings, under this name.
    pub(super) fn has_joined(&self, settings: &Settings) -> bool {
        self.joined.as_ref() == Some(&Membership::of(settings))
    }

    /// Remembers that.
    pub(super) fn remember(&mut self, settings: &Settings) -> io::Result<()> {
        if self.has_joined(settings) {
            return Ok(());
        }
        self.joined = Some(Membership::of(settings));
        self.write()
    }

    /// Whole or not at all.
    fn write(&self) -> io::Result<()> {
        let draft = self.path.with_extension("draft");
        let text = serde_json::to_vec_pretty(&Written {
            instance: self.id.clone(),
            start: self.start,
            joined: self.joined.clone(),
        })?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)
    }
}

/// So many random bytes, as hexadecimal digits.
pub(super) fn random<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::write(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_outlives_a_restart_and_knows_where_it_has_been() {
        let folder = std::env::temp_dir().join(format!("uprtc-instance-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let settings = Settings::example();
        let mut instance = Instance::load_or_create(&folder).unwrap();
        assert!(!instance.has_joined(&settings));
        instance.remember(&settings).unwrap();
        let again = Instance::load_or_create(&folder).unwrap();
        assert_eq!((again.id.len(), &again.id, again.has_joined(&settings)), (32, &instance.id, true));
        // Runs follow each other, whatever the clock says.
        let (mut again, mut runs) = (again, Vec::new());
        for now in [1_795_415_232, 1_795_415_232, 7, u64::MAX] {
            runs.push(again.begin(now).unwrap());
            again = Instance::load(&folder).unwrap();
        }
        assert!(runs.is_sorted() && runs.iter().all(|run| run.len() == 16), "{runs:?}");
        assert_eq!((&runs[0][..8], &runs[1][..8], &runs[2][..8]), ("6b03dcc0", "6b03dcc1", "6b03dcc2"));
        // Where it is may change; who it is to the engine may not.
        assert!(again.has_joined(&Settings { region: "eu".into(), ..settings.clone() }));
        assert!(!again.has_joined(&Settings { node: "fra2".into(), ..settings.clone() }));
        assert!(!again.has_joined(&Settings { servers: vec!["nats://b".into()], ..settings }));
        fs::write(folder.join(NODE_FILE), "nonsense").unwrap();
        assert_ne!(Instance::load_or_create(&folder).unwrap().id, instance.id);
        fs::remove_dir_all(&folder).unwrap();
    }
}
