//! Children of ffmpeg: one that reads a feed's frames and writes them in another form, and one that listens for SRT. They parse what
//! strangers made, so each is started by a launcher that leaves it little (`Launcher`), is fed by a pipe and read from a pipe, and
//! ends with us.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::flv::{self, Kind, Tag};
use crate::plan::Encoding;

/// Pieces that wait for a child.
const INPUT_MAX: usize = 128;
/// Pieces that wait for us.
const OUTPUT_MAX: usize = 64;
/// Bytes that are read at once.
const PIECE_LEN: usize = 64 * 1024;
/// What is kept of what it complains about.
const COMPLAINT_LEN_MAX: usize = 300;

/// What starts a child: a program that gives up rights and becomes ffmpeg.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments; those of the child follow.
    pub arguments: Vec<OsString>,
    /// One more argument for a child that may use the network.
    pub with_network: OsString,
}

/// The ffmpeg of this machine, as `ffmpeg::find` found it.
#[derive(Clone, Debug)]
pub(crate) struct Starter {
    pub(crate) launcher: Launcher,
    pub(crate) ffmpeg: PathBuf,
    /// Since 5.1 it knows `-fps_mode` for `-vsync`.
    pub(crate) has_fps_mode: bool,
}

/// A child that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Child {
    /// None: it has all that it gets.
    input: Option<mpsc::Sender<Vec<u8>>>,
    output: mpsc::Receiver<Vec<u8>>,
    /// What it said last, when it has ended.
    complaint: JoinHandle<String>,
    _child: tokio::process::Child,
}

impl Starter {
    /// The child that makes samples of AAC: 48 kHz, stereo, 16 bits; silence where there is nothing, from time 0 of its input on.
    pub(crate) fn samples(&self) -> std::io::Result<Child> {
        let filter = "aresample=48000:async=1000:first_pts=0";
        let out = ["-map", "0:a:0", "-af", filter, "-ac", "2", "-f", "s16le"];
        let child = self.pipe(&out)?;
        child.feed(flv::header(Kind::Audio).to_vec());
        Ok(child)
    }

    /// The child that encodes H.264 anew.
    pub(crate) fn pictures(&self, encoding: &Encoding) -> std::io::Result<Child> {
        let &Encoding { bps, lines, framerate } = encoding;
        let scale = format!("scale=w=-2:h='trunc(min(ih,{lines})/2)*2':flags=bilinear,format=yuv420p");
        let (rate, bps, interval) = (format!("{framerate:.3}"), bps.to_string(), format!("{:.0}", framerate.ceil()));
        let (mode, variable) = if self.has_fps_mode { ("-fps_mode", "vfr") } else { ("-vsync", "vfr") };
        let how = ["-map", "0:v:0", "-vf", &scale, mode, variable, "-r", &rate, "-c:v", "libx264", "-threads", "2"];
        let fast = ["-preset", "superfast", "-tune", "zerolatency", "-profile:v", "baseline"];
        let rates = ["-b:v", &bps, "-maxrate", &bps, "-bufsize", &bps, "-g", &interval, "-sc_threshold", "0"];
        let out = ["-f", "flv", "-flvflags", "no_duration_filesize"];
        let child = self.pipe(&[&how[..], &fast, &rates, &out].concat())?;
        child.feed(flv::header(Kind::Video).to_vec());
        Ok(child)
    }

    /// From a pipe to a pipe, times as they are. It begins with the first frame: looking at more of them takes seconds.
    fn pipe(&self, out: &[&str]) -> std::io::Result<Child> {
        let input = ["-copyts", "-protocol_whitelist", "pipe", "-probesize", "4096"];
        let input = [
            &input[..],
            &["-analyzeduration", "1", "-fpsprobesize", "0", "-threads", "1", "-f", "flv", "-i", "pipe:0"],
        ]
        .concat();
        self.start(&[&input[..], out].concat(), false)
    }

    /// The child that listens for SRT and hands on what it brings, as FLV. The address, with the passphrase in it, goes to its
    /// standard input, since everybody on the machine can read command lines.
    pub(crate) fn srt(&self, address: &str) -> std::io::Result<Child> {
        let input = ["-protocol_whitelist", "pipe,srt", "-f", "concat", "-safe", "0", "-i", "pipe:0"];
        let out = ["-map", "0:v:0?", "-map", "0:a:0?", "-c", "copy", "-f", "flv", "-flvflags", "no_duration_filesize"];
        let mut child = self.start(&[&input[..], &out].concat(), true)?;
        child.feed(format!("ffconcat version 1.0\nfile {address}\n").into_bytes());
        child.input = None;
        Ok(child)
    }

    fn start(&self, arguments: &[&str], has_network: bool) -> std::io::Result<Child> {
        let Launcher { program, arguments: begin, with_network } = &self.launcher;
        let mut command = Command::new(program);
        command.args(begin).args(has_network.then_some(with_network)).arg(&self.ffmpeg);
        command.args(["-hide_banner", "-nostdin", "-loglevel", "error"]).args(arguments);
        command.args(["-flush_packets", "1", "pipe:1"]);
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let piped = "it was started with pipes";
        let (stdin, stdout) = (child.stdin.take().expect(piped), child.stdout.take().expect(piped));
        let (input, pieces) = mpsc::channel(INPUT_MAX);
        let (pieces_out, output) = mpsc::channel(OUTPUT_MAX);
        tokio::spawn(write(stdin, pieces));
        tokio::spawn(read(stdout, pieces_out));
        let complaint = tokio::spawn(complaint(child.stderr.take().expect(piped)));
        Ok(Child { input: Some(input), output, complaint, _child: child })
    }
}

impl Child {
    /// Hands it a tag with this time; false: it is too slow, or has ended.
    pub(crate) fn feed_tag(&self, tag: &Tag, timestamp: u32) -> bool {
        let mut bytes = Vec::with_capacity(tag.body.len() + 15);
        tag.write(timestamp, &mut bytes);
        self.feed(bytes)
    }

    fn feed(&self, bytes: Vec<u8>) -> bool {
        self.input.as_ref().is_some_and(|input| input.try_send(bytes).is_ok())
    }

    /// What it writes next; None: it has ended. May be cancelled and called again.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.output.recv().await
    }

    /// Its last words.
    pub(crate) async fn complaint(self) -> String {
        self.complaint.await.unwrap_or_default()
    }
}

async fn write(mut stdin: ChildStdin, mut pieces: mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return; // It has ended, and its output says so.
        }
    }
}

async fn read(mut stdout: ChildStdout, pieces: mpsc::Sender<Vec<u8>>) {
    let mut piece = vec![0; PIECE_LEN];
    while let Ok(len @ 1..) = stdout.read(&mut piece).await {
        if pieces.send(piece[..len].to_vec()).await.is_err() {
            return;
        }
    }
}

async fn complaint(mut stderr: ChildStderr) -> String {
    let (mut last, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(len @ 1..) = stderr.read(&mut piece).await {
        last.extend_from_slice(&piece[..len]);
        let old = last.len().saturating_sub(COMPLAINT_LEN_MAX);
        last.drain(..old);
    }
    String::from_utf8_lossy(&last).lines().next_back().unwrap_or_default().to_owned()
}
