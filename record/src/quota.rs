//! What a folder may have.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a folder has, and what it may have: one for all recordings that go there.
#[derive(Clone, Default, Debug)]
pub struct Quota {
    used: Arc<AtomicU64>,
    limit: Option<u64>,
}

impl Quota {
    /// Of a folder, with all that is in it already.
    pub fn measure(folder: &Path, limit: Option<u64>) -> io::Result<Quota> {
        let used = if limit.is_some() { size(folder)? } else { 0 };
        Ok(Quota { used: Arc::new(AtomicU64::new(used)), limit })
    }

    /// Takes so many bytes, or says how many are used and may be.
    pub(crate) fn take(&self, len: u64) -> Result<(), (u64, u64)> {
        let used = self.used.fetch_add(len, Ordering::Relaxed);
        match self.limit.filter(|&limit| used + len > limit) {
            Some(quota) => {
                self.used.fetch_sub(len, Ordering::Relaxed);
                Err((used, quota))
            }
            None => Ok(()),
        }
    }

    /// Gives them back.
    pub(crate) fn give(&self, len: u64) {
        let less = |used: u64| Some(used.saturating_sub(len));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less); // It always has a value.
    }
}

/// Bytes in a folder, with all below it.
fn size(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |sum, entry| {
        let entry = entry?;
        let kind = entry.metadata()?;
        let len = if kind.is_dir() { size(&entry.path())? } else { kind.len() };
        Ok(sum + len)
    })
}
