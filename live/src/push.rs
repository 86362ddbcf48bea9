//! A push by RTMP to a CDN: header and parts through a pipe to an ffmpeg child, which only packs them anew. A child that ends is started again.
//!
//! The stream's key is in a file that the child reads as it starts, and which others cannot read: command lines are seen by everybody on the
//! machine. Its messages, which would have the key, are passed on to nobody.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Parts that wait for the child: half a minute.
const PIECES_MAX: usize = 64;
/// Between two starts of the child: it doubles from the first to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Who lived so long failed for another reason than the one before.
const LIVED: Duration = Duration::from_secs(60);
/// How long the child may take for what it has when the stream ends.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a part may take: a server that takes nothing is left.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a stream goes.
#[derive(Clone)]
pub struct Target {
    /// `rtmp://HOST[:PORT]/APP`, or `rtmps://`.
    url: String,
    key: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Target {
    /// Of an address whose last part is the key, unless it is given beside it. None if it is none of RTMP.
    pub fn parse(url: &str, key: Option<&str>) -> Option<Target> {
        let rest = url.strip_prefix("rtmp://").or_else(|| url.strip_prefix("rtmps://"))?;
        let (url, key) = match key {
            Some(key) => (url.trim_end_matches('/'), key),
            None => url.rsplit_once('/')?,
        };
        let has_app = url.split('/').nth(3).is_some_and(|app| !app.is_empty()) && !rest.starts_with('/');
        let is_plain =
            |text: &str| !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic() && char != '\\');
        (has_app && is_plain(url) && is_plain(key)).then(|| Target { url: url.to_owned(), key: key.to_owned() })
    }

    /// As it may be seen.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// What somebody gets who takes all of it.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Init(Bytes),
    Part { bytes: Bytes, is_independent: bool },
}

/// A push that goes on.
pub(crate) struct Push {
    pieces: Option<mpsc::Sender<Piece>>,
    is_behind: bool,
    task: Option<JoinHandle<()>>,
}

impl Push {
    pub(crate) fn start(ffmpeg: &str, target: Target) -> Push {
        let (pieces, out) = mpsc::channel(PIECES_MAX);
        let task = tokio::spawn(push(ffmpeg.to_owned(), target, out));
        Push { pieces: Some(pieces), is_behind: false, task: Some(task) }
    }

    /// Who is too slow gets none until the next keyframe.
    pub(crate) fn put(&mut self, piece: Piece) {
        self.is_behind &= matches!(piece, Piece::Part { is_independent: false, .. });
        if let Some(pieces) = self.pieces.as_ref().filter(|_| !self.is_behind) {
            self.is_behind = pieces.try_send(piece).is_err();
        }
    }

    /// Ends the stream.
    pub(crate) async fn finish(&mut self) {
        drop(self.pieces.take());
        if let Some(mut task) = self.task.take()
            && timeout(2 * END_TIMEOUT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort(); // And the child with it.
        }
    }
}

/// The key, where only this user reads it; it is removed with the value.
struct KeyFile(PathBuf);

impl KeyFile {
    fn write(key: &str) -> io::Result<KeyFile> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("uprtc-rtmp-{}-{number}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let kept = KeyFile(path);
        writeln!(file, "rtmp_playpath={key}")?;
        Ok(kept)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // Somebody else may have done it.
    }
}

/// Why a child is not fed any more.
enum Over {
    /// Nothing comes.
    Finished,
    /// What comes next has another header.
    Changed(Bytes),
    Failed(String),
}

async fn push(ffmpeg: String, target: Target, mut pieces: mpsc::Receiver<Piece>) {
    let (mut init, mut wait) = (None, WAIT.0);
    let mut waits_until = Instant::now();
    loop {
        // A stream begins with a header and a keyframe.
        let first = match pieces.recv().await {
            None => return,
            Some(Piece::Init(bytes)) => {
                init = Some(bytes);
                continue;
            }
            Some(Piece::Part { is_independent: false, .. }) => continue,
            Some(Piece::Part { bytes, .. }) => bytes,
        };
        let Some(header) = init.clone().filter(|_| Instant::now() >= waits_until) else { continue };
        let begun = Instant::now();
        match feed(&ffmpeg, &target, [header, first], &mut pieces).await {
            Over::Finished => return,
            Over::Changed(header) => init = Some(header),
            Over::Failed(reason) => {
                wait = if begun.elapsed() > LIVED { WAIT.0 } else { (wait * 2).min(WAIT.1) };
                waits_until = Instant::now() + wait;
                let (to, wait) = (target.url(), wait.as_secs_f32());
                tracing::warn!(event = "live_push_ended", to, reason, wait, "a push ended; it is started again");
            }
        }
    }
}

async fn feed(ffmpeg: &str, target: &Target, begin: [Bytes; 2], pieces: &mut mpsc::Receiver<Piece>) -> Over {
    let failed = |error: io::Error| Over::Failed(error.to_string());
    let file = match KeyFile::write(&target.key) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    let child = Command::new(ffmpeg)
        .args(["-hide_banner", "-loglevel", "quiet", "-f", "mp4", "-i", "pipe:0"])
        .args(["-c", "copy", "-f", "flv", "-flvflags", "no_duration_filesize", "-fpre"])
        .arg(&file.0)
        .arg(&target.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let Some(mut stdin) = child.stdin.take() else { return Over::Finished };
    let write = async {
        let mut next = begin.to_vec();
        loop {
            for bytes in next.drain(..) {
                match timeout(WRITE_TIMEOUT, stdin.write_all(&bytes)).await {
                    Ok(Ok(())) => (),
                    Ok(Err(error)) => return failed(error),
                    Err(_) => return Over::Failed("the server takes nothing".to_owned()),
                }
            }
            match pieces.recv().await {
                None => return Over::Finished,
                Some(Piece::Init(bytes)) => return Over::Changed(bytes),
                Some(Piece::Part { bytes, .. }) => next.push(bytes),
            }
        }
    };
    let over = tokio::select! {
        over = write => over,
        status = child.wait() => Over::Failed(status.map_or_else(|error| error.to_string(), |status| status.to_string())),
    };
    drop(stdin);
    if !matches!(over, Over::Failed(_)) {
        end(child).await;
    }
    over
}

/// Lets it send what it has.
async fn end(mut child: Child) {
    if timeout(END_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.start_kill(); // It may have ended by now.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_key_to_itself() {
        let target = Target::parse("rtmp://live.example/app/name/se-cret?x=1", None).unwrap();
        assert_eq!((target.url(), target.key.as_str()), ("rtmp://live.example/app/name", "se-cret?x=1"));
        assert!(!format!("{target:?}").contains("se-cret"));
        let target = Target::parse("rtmps://live.example:443/app/", Some("key")).unwrap();
        assert_eq!((target.url(), target.key.as_str()), ("rtmps://live.example:443/app", "key"));
        for wrong in ["http://x/app/key", "rtmp://x", "rtmp://x/key", "rtmp://x/app/", "rtmp://x/app/a b", "rtmp:///"] {
            assert!(Target::parse(wrong, None).is_none(), "{wrong}");
        }
        assert!(Target::parse("rtmp://x/app", Some("a\nb")).is_none());
    }

    #[test]
    fn the_key_is_in_a_file_of_our_own() {
        use std::os::unix::fs::PermissionsExt;

        let file = KeyFile::write("secret").unwrap();
        let path = file.0.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "rtmp_playpath=secret\n");
        drop(file);
        assert!(!path.exists());
    }

    /// A server of RTMP that takes one stream, of this key, into a file.
    struct Server {
        child: std::process::Child,
        file: PathBuf,
    }

    impl Server {
        fn start(port: u16, name: &str) -> Server {
            let file = std::env::temp_dir().join(format!("uprtc-push-{name}-{}.mkv", std::process::id()));
            let url = format!("rtmp://127.0.0.1:{port}/app/the-key");
            let mut command = std::process::Command::new("ffmpeg");
            command.args(["-v", "warning", "-y", "-listen", "1", "-i", &url, "-c", "copy", "-flush_packets", "1"]);
            let command = command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            Server { child: command.spawn().unwrap(), file }
        }

        fn len(&self) -> u64 {
            fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
        }

        /// What it complained about, and the codecs that it got.
        fn end(mut self) -> (String, String) {
            let _ = self.child.kill();
            let said = io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
            let shown = ["-v", "error", "-of", "csv", "-show_entries", "stream=codec_name"];
            let output = std::process::Command::new("ffprobe").args(shown).arg(&self.file).output().unwrap();
            (said, String::from_utf8(output.stdout).unwrap())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_file(&self.file);
        }
    }

    /// Command lines of our children that push.
    fn pushing() -> Vec<String> {
        let line = |entry: fs::DirEntry| {
            Some(String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned())
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(line).filter(|line| line.contains("\0-fpre\0")).collect()
    }

    #[tokio::test]
    async fn a_push_begins_again_after_its_server_and_shows_its_key_to_nobody() {
        if std::process::Command::new("ffprobe").arg("-version").stdout(Stdio::null()).status().is_err() {
            return crate::require::left_out("ffmpeg", "a push by RTMP", "ffmpeg is not installed");
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let target = Target::parse(&format!("rtmp://127.0.0.1:{port}/app/the-key"), None).unwrap();
        let mut push = Push::start("ffmpeg", target);
        let mut camera = crate::cut::tests::Camera::new(25);
        let mut encoder = crate::encode::Encoder::aac("ffmpeg");
        let mut cutter = crate::cut::Cutter::new(encoder.config());
        let (mut begin, mut servers) = (0, Vec::new());
        let begun = Instant::now();
        let mut server: Option<Server> = None;
        let mut lines = Vec::new();
        while servers.len() < 2 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} streams", servers.len());
            let (micros, frame) = camera.next();
            cutter.picture(micros, frame, false);
            while begin < crate::mix::sample(micros) {
                encoder.put(begin, vec![0.0; 2 * crate::mix::FRAME]);
                begin += crate::mix::FRAME as i64;
            }
            while let Some(sound) = encoder.take() {
                cutter.sound(sound);
            }
            while let Some(cut) = cutter.poll(micros).unwrap() {
                push.put(match cut {
                    crate::cut::Cut::Init(bytes) => Piece::Init(bytes.into()),
                    crate::cut::Cut::Part { bytes, is_independent, .. } => {
                        Piece::Part { bytes: bytes.into(), is_independent }
                    }
                });
            }
            lines.extend(pushing());
            // The first one begins when nobody was there for a second; it is killed with ten kilobytes of a stream.
            if server.is_none() && begun.elapsed() > Duration::from_secs(1) {
                server = Some(Server::start(port, &servers.len().to_string()));
            }
            if let Some(done) = server.take_if(|server| server.len() > 10_000) {
                servers.push(done.end());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        push.finish().await;
        for (said, codecs) in servers {
            assert!(!said.contains("Unexpected stream"), "the key is another: {said}");
            assert_eq!(codecs, "stream,h264\nstream,aac\n");
        }
        assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains("the-key")), "{lines:?}");
    }
}
