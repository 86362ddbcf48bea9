//! Who is called and can be heard before it answers: a trunk that the test plays, message by message.

use std::f32::consts::TAU;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::telephones::{mu, unmu};
use super::{Scene, harness, measure, runtime, talk};

/// The called end of one call.
struct Called {
    signals: UdpSocket,
    from: SocketAddr,
    invite: String,
    media: SocketAddr,
}

impl Called {
    /// Waits for the call.
    fn new(signals: UdpSocket, media: SocketAddr) -> Called {
        signals.set_read_timeout(Some(harness::DEADLINE)).unwrap();
        let mut datagram = [0; 4096];
        let (len, from) = signals.recv_from(&mut datagram).expect("an INVITE");
        let invite = String::from_utf8(datagram[..len].to_vec()).unwrap();
        assert!(invite.starts_with("INVITE "), "{invite}");
        Called { signals, from, invite, media }
    }

    fn respond(&self, status: &str) {
        let copied = ["Via: ", "From: ", "Call-ID: ", "CSeq: "];
        let lines = self.invite.lines().filter(|line| copied.iter().any(|name| line.starts_with(name)));
        let to = self.invite.lines().find(|line| line.starts_with("To: ")).unwrap();
        let own = self.signals.local_addr().unwrap();
        let (ip, port) = (self.media.ip(), self.media.port());
        let sdp =
            format!("v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n");
        let text = format!(
            "SIP/2.0 {status}\r\n{}\r\n{to};tag=called\r\nContact: <sip:carl@{own}>\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            lines.collect::<Vec<_>>().join("\r\n"),
            sdp.len(),
        );
        self.signals.send_to(text.as_bytes(), self.from).unwrap();
    }

    /// Where the gateway receives RTP, as its offer says.
    fn gateway(&self) -> SocketAddr {
        let audio = self.invite.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap();
        SocketAddr::new(self.from.ip(), audio.split(' ').next().unwrap().parse().unwrap())
    }
}

/// Says 440 Hz there, and keeps what comes.
struct Sound {
    heard: Arc<Mutex<Vec<f32>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sound {
    fn new(socket: UdpSocket, to: SocketAddr) -> Sound {
        let (heard, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (keeps, ends) = (Arc::clone(&heard), Arc::clone(&is_over));
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut seq, mut datagram) = (0u16, [0; 2048]);
            while !ends.load(Ordering::Relaxed) {
                // What comes every 20 ms is the clock; before it comes, the time of waiting is.
                if let Ok(len) = socket.recv(&mut datagram) {
                    keeps.lock().unwrap().extend(datagram[12..len].iter().map(|code| unmu(*code)));
                }
                let at = u32::from(seq) * 160;
                let mut packet = vec![0x80, 0];
                packet.extend(seq.to_be_bytes());
                packet.extend(at.to_be_bytes());
                packet.extend([0, 0, 0, 7]);
                packet.extend((at..at + 160).map(|at| mu(0.3 * (TAU * 440.0 * at as f32 / 8000.0).sin())));
                let _ = socket.send_to(&packet, to);
                seq += 1;
            }
        });
        Sound { heard, is_over, thread: Some(thread) }
    }

    /// How loud the room is in what has come since it was asked last.
    fn room(&self) -> f32 {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        assert!(heard.len() > 8000, "{} samples", heard.len());
        measure::amplitude(&heard, 8000, 850.0)
    }
}

impl Drop for Sound {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What rings, or says that nobody is there, is heard in the room, and hears nothing of it before it has answered.
#[test]
fn who_is_called_is_heard_before_the_answer() {
    let [signals, media] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let (address, media_address) = (signals.local_addr().unwrap(), media.local_addr().unwrap());
    let trunk = format!("trunk = {{ address = \"{address}\", user = \"gw\", password = \"p\" }}");
    let Some(scene) = Scene::new("early media", &trunk) else { return };
    runtime().block_on(async {
        let mut room = scene.peer("open", "speaker", true).await;
        scene.calls("carl");
        let called = Called::new(signals, media_address);
        called.respond("183 Session Progress");
        let sound = Sound::new(media, called.gateway());
        talk(&mut room, &[440.0], 2, || scene.log()).await;
        assert!(sound.room() < 0.001, "before the answer");
        called.respond("200 OK");
        talk(&mut room, &[440.0], 1, || scene.log()).await;
        sound.room();
        talk(&mut room, &[440.0], 2, || scene.log()).await;
        let there = sound.room();
        assert!(there > 0.2, "{there}");
    });
}
