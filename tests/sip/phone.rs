//! A telephone: baresip, which plays a tone and records what it hears.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{DEADLINE, Folder, until};
use crate::{Scene, free_address};

/// Where Debian has its modules.
const MODULES: [&str; 2] = ["/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules"];

pub(crate) struct Phone {
    child: Child,
    folder: Folder,
    control: SocketAddr,
}

impl Phone {
    /// Calls a number of the gateway, and says a tone there. `parameters` are those of the account.
    pub(crate) fn call(scene: &Scene, name: &str, number: &str, hertz: u32, parameters: &str) -> Phone {
        Phone::call_to(scene, name, &format!("sip:{number}@{}", scene.sip), hertz, parameters)
    }

    /// The same to any address.
    pub(crate) fn call_to(scene: &Scene, name: &str, to: &str, hertz: u32, parameters: &str) -> Phone {
        let listen = "127.0.0.1:0".parse().unwrap();
        // What its encoder takes, as it does not resample.
        let format = if parameters.contains("opus") { (48_000, 2) } else { (8000, 1) };
        Phone::start(scene, name, listen, (hertz, format), parameters, &["-e", &format!("d {to}")])
    }

    /// The same over TLS, with SRTP.
    pub(crate) fn call_by_tls(scene: &Scene, name: &str, number: &str, hertz: u32) -> Phone {
        let listen = "127.0.0.1:0".parse().unwrap();
        let to = format!("d sip:{number}@{};transport=tls", scene.tls.unwrap());
        let parameters = ";mediaenc=srtp-mand;audio_codecs=pcmu/8000/1";
        Phone::start(scene, name, listen, (hertz, (8000, 1)), parameters, &["-e", &to])
    }

    /// Answers whoever calls it at this address.
    pub(crate) fn await_call(scene: &Scene, name: &str, listen: SocketAddr) -> Phone {
        Phone::start(scene, name, listen, (440, (8000, 1)), ";answermode=auto", &[])
    }

    /// Rings at this address when it is called, and answers nobody.
    pub(crate) fn ring(scene: &Scene, name: &str, listen: SocketAddr) -> Phone {
        Phone::start(scene, name, listen, (440, (8000, 1)), "", &[])
    }

    fn start(
        scene: &Scene,
        name: &str,
        listen: SocketAddr,
        (hertz, format): (u32, (u32, u16)),
        parameters: &str,
        arguments: &[&str],
    ) -> Phone {
        let folder = Folder::new();
        let at = |name: &str| folder.0.join(name);
        fs::create_dir(at("heard")).unwrap();
        fs::write(at("tone.wav"), wave(hertz, format)).unwrap();
        fs::write(at("contacts"), "").unwrap();
        fs::write(at("accounts"), format!("<sip:{name}@{}>;regint=0{parameters}\n", scene.sip)).unwrap();
        let modules = MODULES.iter().find(|path| fs::metadata(path).is_ok()).unwrap_or(&MODULES[0]);
        let control = free_address();
        let mut config = format!(
            "poll_method epoll\nsip_listen {listen}\nmodule_path {modules}\nctrl_tcp_listen {control}\naudio_buffer 20-160\n\
             audio_source aufile,{}\naudio_player aubridge,{name}\naudio_alert aubridge,alert\nsnd_path {}\n\
             audio_srate 0-0\nopus_bitrate 32000\n",
            at("tone.wav").display(),
            at("heard").display()
        );
        for module in ["g711", "opus", "aufile", "aubridge", "auconv", "auresamp", "sndfile", "srtp"] {
            if fs::metadata(format!("{modules}/{module}.so")).is_ok() {
                writeln!(config, "module {module}.so").unwrap();
            }
        }
        config += "module_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n";
        fs::write(at("config"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let child = Command::new("baresip")
            .arg("-f")
            .arg(&folder.0)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Phone { child, folder, control }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    pub(crate) fn wait_for_media(&self) {
        let begun = Instant::now();
        while !self.log().contains("incoming rtp for") {
            assert!(begun.elapsed() < DEADLINE, "no media at the telephone: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has the other end call somebody else.
    pub(crate) fn transfer(&self, to: &str) {
        self.command("transfer", to);
    }

    fn command(&self, command: &str, parameters: &str) {
        let mut stream = until("the telephone's control", || TcpStream::connect(self.control).ok());
        let command = format!("{{\"command\":\"{command}\",\"params\":\"{parameters}\",\"token\":\"t\"}}");
        write!(stream, "{}:{command},", command.len()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = stream.read(&mut [0; 4096]);
    }

    /// Sends digits as RTP events (RFC 4733), by the telephone's own remote control.
    pub(crate) fn dial(&mut self, digits: &str) {
        let mut stream = until("the telephone's control", || TcpStream::connect(self.control).ok());
        for digit in digits.chars() {
            let command = format!("{{\"command\":\"sndcode\",\"params\":\"{digit}\",\"token\":\"t\"}}");
            write!(stream, "{}:{command},", command.len()).unwrap();
            std::thread::sleep(Duration::from_millis(350));
        }
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = stream.read(&mut [0; 4096]);
    }

    /// Hangs up, and has recorded this in the last two seconds.
    pub(crate) fn hang_up(mut self) -> Vec<f32> {
        self.end();
        let heard = fs::read_dir(self.folder.0.join("heard")).unwrap().flatten().map(|entry| entry.path());
        let heard: Vec<PathBuf> = heard.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).collect();
        let [file] = &heard[..] else { panic!("{heard:?}: {}", self.log()) };
        let bytes = fs::read(file).unwrap();
        let samples: Vec<f32> = bytes[44..]
            .chunks_exact(2)
            .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
            .collect();
        assert!(samples.len() >= 16_000, "{} samples: {}", samples.len(), self.log());
        samples[samples.len() - 16_000..].to_vec()
    }

    fn end(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.end();
    }
}

/// Half a minute of a tone as a WAV file.
pub(crate) fn wave(hertz: u32, (rate, channels): (u32, u16)) -> Vec<u8> {
    let (frames, frame_len) = (rate * 30, 2 * channels);
    let data_len = frames * u32::from(frame_len);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data_len).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    [1, channels].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [rate, rate * u32::from(frame_len)].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [frame_len, 16].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.extend(b"data");
    bytes.extend(data_len.to_le_bytes());
    let step = std::f64::consts::TAU * f64::from(hertz) / f64::from(rate);
    for at in 0..frames {
        let sample = (10_000.0 * (step * f64::from(at)).sin()) as i16;
        (0..channels).for_each(|_| bytes.extend(sample.to_le_bytes()));
    }
    bytes
}
