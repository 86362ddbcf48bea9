//! The ffmpeg of this machine: whether it is there, new enough, and has what a feed needs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::child::{Launcher, Starter};

/// Oldest version that is taken: that of Ubuntu 22.04.
const VERSION_MIN: (u32, u32) = (4, 4);
/// Since then there is `-fps_mode`.
const FPS_MODE: (u32, u32) = (5, 1);

/// Why there is no ffmpeg to use. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FfmpegError {
    /// It does not start.
    #[error(
        "{0} does not start ({1}): a feed needs ffmpeg. Install it (Debian and Ubuntu: apt install ffmpeg), or name it by --ffmpeg"
    )]
    Missing(PathBuf, std::io::Error),
    /// Too old.
    #[error("{0} is version {1}, and a feed needs {major}.{minor} or later", major = VERSION_MIN.0, minor = VERSION_MIN.1)]
    Old(PathBuf, String),
    /// Built without something.
    #[error("{0} was built without {1}, which a feed needs. The packages of Debian and Ubuntu have it")]
    Lacks(PathBuf, &'static str),
}

/// Looks at it.
pub(crate) async fn find(program: &Path, launcher: Launcher, needs_srt: bool) -> Result<Starter, FfmpegError> {
    let said = ask(program, "-version").await?;
    let version = said.lines().next().and_then(|line| line.strip_prefix("ffmpeg version ")).unwrap_or_default();
    let numbers = numbers(version);
    if numbers.is_some_and(|numbers| numbers < VERSION_MIN) {
        let version = version.split(' ').next().unwrap_or_default();
        return Err(FfmpegError::Old(program.into(), version.to_owned()));
    }
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    if !has(&ask(program, "-encoders").await?, "libx264") {
        return Err(FfmpegError::Lacks(program.into(), "the encoder libx264"));
    }
    if needs_srt && !has(&ask(program, "-protocols").await?, "srt") {
        return Err(FfmpegError::Lacks(program.into(), "the protocol srt"));
    }
    // A version without numbers is one of the developers' own, of today.
    let has_fps_mode = numbers.is_none_or(|numbers| numbers >= FPS_MODE);
    Ok(Starter { launcher, ffmpeg: program.into(), has_fps_mode })
}

async fn ask(program: &Path, what: &str) -> Result<String, FfmpegError> {
    let mut command = Command::new(program);
    command.args(["-hide_banner", what]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| FfmpegError::Missing(program.into(), error))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of `5.1.9-0+deb12u1`, `n6.0`, `7.1`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('n').split(|char: char| !char.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let read = ["5.1.9-0+deb12u1", "n6.0", "7.1 Copyright", "4.2.7-0ubuntu0.1", "N-118000-gabc", ""].map(numbers);
        assert_eq!(read, [Some((5, 1)), Some((6, 0)), Some((7, 1)), Some((4, 2)), None, None]);
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_with_what_to_do() {
        let launcher = Launcher { program: "/bin/false".into(), arguments: Vec::new(), with_network: "x".into() };
        let error = find(Path::new("/nowhere/ffmpeg"), launcher.clone(), true).await.unwrap_err();
        assert!(error.to_string().contains("apt install ffmpeg"), "{error}");
        let error = find(Path::new("/bin/true"), launcher, true).await.unwrap_err();
        assert!(matches!(error, FfmpegError::Lacks(..)), "{error}");
    }
}
