//! A telephone of another make: linphonec, whose sound is files instead of devices.

use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Folder, until};
use super::measure;
use super::phone::wave;
use super::{Scene, require, runtime, talk};

pub(crate) struct Linphone {
    child: Child,
    keys: ChildStdin,
    pub(crate) folder: Folder,
}

impl Linphone {
    /// Says a tone to whom it calls. None where there is none.
    pub(crate) fn start(what: &str, hertz: u32) -> Option<Linphone> {
        let folder = Folder::new();
        let at = |name: &str| folder.0.join(name);
        // Ports that nobody has, and no names and servers of the network.
        fs::write(
            at("rc"),
            "[sip]\nsip_port=-1\nsip_tcp_port=-1\nsip_tls_port=-1\nuse_ipv6=0\n[rtp]\naudio_rtp_port=-1\n\
             [net]\ndns_srv_enabled=0\n",
        )
        .unwrap();
        fs::write(at("tone.wav"), wave(hertz, (8000, 1))).unwrap();
        fs::create_dir_all(at(".local/share/linphone")).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let spawned = Command::new("linphonec")
            .args(["-d", "0", "-c"])
            .arg(at("rc"))
            .env("HOME", &folder.0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                require::left_out("telephones", what, format!("linphonec: {error}"));
                return None;
            }
        };
        let keys = child.stdin.take().unwrap();
        let mut phone = Linphone { child, keys, folder };
        phone.enter("soundcard use files");
        let (tone, heard) = (phone.folder.0.join("tone.wav"), phone.folder.0.join("heard.wav"));
        phone.enter(&format!("play {}", tone.display()));
        phone.enter(&format!("record {}", heard.display()));
        Some(phone)
    }

    pub(crate) fn enter(&mut self, line: &str) {
        writeln!(self.keys, "{line}").unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// Hangs up. How loud a tone was in the last two seconds that it has heard.
    fn hang_up(mut self, hertz: f32) -> f32 {
        self.enter("terminate");
        // The head of the file is written at the end.
        let file = self.folder.0.join("heard.wav");
        let bytes = until("its recording", || fs::read(&file).ok().filter(|bytes| bytes.starts_with(b"RIFF")));
        let (head, sound) = bytes.split_first_chunk::<44>().unwrap();
        assert_eq!(head[22..24], [1, 0], "channels");
        let rate = u32::from_le_bytes(head[24..28].try_into().unwrap());
        let samples = sound.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
        let samples: Vec<f32> = samples.map(|sample| f32::from(sample) / 32_768.0).collect();
        measure::amplitude(&samples[samples.len().saturating_sub(2 * rate as usize)..], rate, hertz)
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
fn linphone_is_heard_in_a_room_and_hears_it() {
    let Some(scene) = Scene::new("linphone", "") else { return };
    let Some(mut phone) = Linphone::start("linphone", 600) else { return };
    runtime().block_on(async {
        let mut room = scene.peer("open", "speaker", true).await;
        phone.enter(&format!("call sip:100@{}", scene.sip));
        talk(&mut room, &[600.0], 3, || phone.log() + &scene.log()).await;
        let heard = phone.hang_up(850.0);
        assert!(heard > 0.1, "{heard}");
        scene.has_calls(0);
        assert!(scene.metric("rtcp_sent_total") > 0, "{}", scene.log());
    });
}
