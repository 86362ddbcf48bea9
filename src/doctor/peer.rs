//! A peer of the doctor's own call: the smallest client that does what every client must. It offers one m-section of
//! Opus, checks its path (RFC 8445), shakes hands by DTLS (RFC 5764) and speaks SRTP. `bench` has a full one, made of
//! another stack; this one is in the executable, so it is made of what the executable has.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use controlplane::dtls::{Connected, Dtls, DtlsEvent, DtlsVersion, Identity, fingerprint_matches};
use controlplane::engine::{Grant, SocketId};
use controlplane::link::{Handle, ToSocket};
use dataplane::rtp;
use dataplane::srtp::{Crypto, Window};
use proto::plane::SrtpProfile;
use proto::signal::{ClientSignal, ServerSignal};
use proto::stun::{IntegrityKey, Message, TransactionId, Writer};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::call::seed;
use crate::Failure;

/// Room of the call.
const ROOM: &str = "doctor";

/// How long an answer by UDP may take before the question is asked again, and how often it is asked.
const RETRY: Duration = Duration::from_millis(200);
const TRIES: usize = 20;

/// SSRC and payload type of what is sent.
const SSRC: u32 = 0x0d0c_7042;
const OPUS: u8 = 111;

/// Bytes of a packet's payload: when it was sent, and a pattern.
const PAYLOAD_LEN: usize = 120;

/// Longest datagram.
const DATAGRAM_LEN: usize = 1600;

/// Which way its m-section goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Sends,
    Receives,
}

/// What an answer says that a peer needs.
#[derive(Debug)]
struct Answer {
    ufrag: String,
    password: String,
    fingerprint: Vec<u8>,
    candidate: SocketAddr,
}

/// A peer with keys.
pub(super) struct Peer {
    socket: UdpSocket,
    dtls: Dtls,
    connected: Connected,
    tx: Crypto,
    rx: Crypto,
    window: Window,
    sent: u16,
    /// Kept so that the engine does not think that we are gone.
    _signals: (SocketId, mpsc::Receiver<ToSocket>),
}

impl Peer {
    /// Joins; returns when media can be protected.
    pub(super) async fn join(
        handle: &Handle,
        name: &str,
        role: Role,
        ip: IpAddr,
        stun: SocketAddr,
    ) -> Result<Peer, Failure> {
        let socket = UdpSocket::bind((ip, 0)).await?;
        ask_stun(&socket, stun).await?;
        let identity = Identity::generate()?;
        let random: String = seed()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let (ufrag, password) = random.split_at(8);
        let offer = offer(role, ufrag, password, &identity.fingerprint_sha256());
        let grant = Grant { room: ROOM.into(), name: name.into(), publish: true, subscribe: true, ..Grant::default() };
        let (id, mut signals) = handle.open(ROOM, grant).await.ok_or("the engine has ended")?;
        handle.signal(id, ClientSignal::Offer { sdp: offer, tracks: Vec::new() }).await;
        let answer = parse_answer(&answer(&mut signals).await?).ok_or("the answer lacks what a peer needs")?;
        check(&socket, &answer, ufrag).await?;
        let (dtls, connected) = shake_hands(&socket, &answer, &identity).await?;
        let tx = Crypto::new(connected.profile, &connected.tx.key, &connected.tx.salt);
        let rx = Crypto::new(connected.profile, &connected.rx.key, &connected.rx.salt);
        Ok(Peer { socket, dtls, connected, tx, rx, window: Window::new(), sent: 0, _signals: (id, signals) })
    }

    pub(super) fn version(&self) -> DtlsVersion {
        self.connected.version
    }

    pub(super) fn profile(&self) -> SrtpProfile {
        self.connected.profile
    }

    /// Sends one packet that says when it was sent.
    pub(super) async fn send(&mut self, at: Duration) -> Result<(), Failure> {
        self.sent += 1;
        let mut packet = [0; DATAGRAM_LEN];
        let timestamp = u32::from(self.sent) * 960; // 20 ms of 48 kHz.
        let header_len = rtp::HeaderWriter::new(&mut packet, false, OPUS, self.sent, timestamp, SSRC).finish();
        let len = header_len + PAYLOAD_LEN;
        packet[header_len..len].copy_from_slice(&payload(at));
        let index = u64::from(self.sent);
        let len = self.tx.protect_rtp(SSRC, index, header_len, &mut packet, len, &[]).ok_or("the key is used up")?;
        self.socket.send(&packet[..len]).await?;
        Ok(())
    }

    /// The next packet of the other: when it was sent.
    pub(super) async fn receive(&mut self) -> Result<Duration, Failure> {
        let mut datagram = [0; DATAGRAM_LEN];
        loop {
            let len = self.socket.recv(&mut datagram).await?;
            match datagram[..len] {
                // RFC 7983: DTLS, then RTP; RFC 5761 §4: 192 to 223 is RTCP.
                [20..=63, ..] => self.repeat_flight(len, &datagram).await?,
                [128..=191, kind, ..] if !(192..=223).contains(&kind) => {
                    return self.unprotect(&mut datagram[..len]).ok_or_else(|| "a packet arrived altered".into());
                }
                _ => {}
            }
        }
    }

    /// The server's last flight may ask for ours again.
    async fn repeat_flight(&mut self, len: usize, datagram: &[u8]) -> Result<(), Failure> {
        self.dtls.handle(Instant::now(), &datagram[..len]);
        transmit(&self.socket, &mut self.dtls).await
    }

    fn unprotect(&mut self, packet: &mut [u8]) -> Option<Duration> {
        let header = rtp::Header::parse(packet).ok()?;
        let index = self.window.estimate(header.seq);
        self.window.check(index).ok()?;
        let len = self.rx.unprotect_rtp(header.ssrc, index, header.header_len, packet).ok()?;
        self.window.update(index);
        let received = packet.get(header.header_len..len)?;
        let at = Duration::from_micros(u64::from_be_bytes(received.get(..8)?.try_into().ok()?));
        (received == payload(at)).then_some(at)
    }
}

/// When it was sent, in microseconds, and a pattern that depends on it.
fn payload(at: Duration) -> [u8; PAYLOAD_LEN] {
    let micros = at.as_micros() as u64;
    let mut payload = [0; PAYLOAD_LEN];
    payload[..8].copy_from_slice(&micros.to_be_bytes());
    for (place, byte) in payload.iter_mut().enumerate().skip(8) {
        *byte = (micros as usize + place) as u8;
    }
    payload
}

/// Waits for the answer to the offer.
async fn answer(signals: &mut mpsc::Receiver<ToSocket>) -> Result<String, Failure> {
    loop {
        match signals.recv().await {
            Some(ToSocket::Signal(signal)) => match *signal {
                ServerSignal::Answer { sdp } => return Ok(sdp),
                ServerSignal::Error { message, .. } => return Err(message.into()),
                _ => {}
            },
            Some(ToSocket::Probe) => {} // Who asks is in this process, too.
            Some(ToSocket::Close(_)) | None => return Err("the engine hung up".into()),
        }
    }
}

fn offer(role: Role, ufrag: &str, password: &str, fingerprint: &[u8]) -> String {
    let fingerprint: Vec<String> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let direction = match role {
        Role::Sends => format!("a=sendonly\r\na=msid:doctor microphone\r\na=ssrc:{SSRC} cname:doctor\r\n"),
        Role::Receives => "a=recvonly\r\n".to_owned(),
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
         a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n\
         a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:{OPUS} opus/48000/2\r\n{direction}",
        fingerprint.join(":")
    )
}

fn parse_answer(sdp: &str) -> Option<Answer> {
    let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name));
    let fingerprint = value("a=fingerprint:sha-256 ")?.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    let candidate: Vec<&str> = value("a=candidate:")?.split(' ').collect();
    Some(Answer {
        ufrag: value("a=ice-ufrag:")?.to_owned(),
        password: value("a=ice-pwd:")?.to_owned(),
        fingerprint: fingerprint.collect::<Option<_>>()?,
        candidate: SocketAddr::new(candidate.get(4)?.parse().ok()?, candidate.get(5)?.parse().ok()?),
    })
}

/// Asks the STUN server for our own address, which on one machine is what the socket is bound to.
async fn ask_stun(socket: &UdpSocket, server: SocketAddr) -> Result<(), Failure> {
    let id = TransactionId(seed()?[..12].try_into()?);
    let mut request = [0; 64];
    let len = Writer::binding_request(&mut request, id).fingerprint().finish().ok_or("no room")?;
    let mut answer = [0; DATAGRAM_LEN];
    for _ in 0..TRIES {
        socket.send_to(&request[..len], server).await?;
        let Ok(received) = timeout(RETRY, socket.recv_from(&mut answer)).await else { continue };
        let message = Message::parse(&answer[..received?.0])?;
        return match message.mapped_address() {
            Some(address) if message.transaction_id() == id && address == socket.local_addr()? => Ok(()),
            other => Err(format!("STUN says that we are {other:?}").into()),
        };
    }
    Err("the STUN server does not answer".into())
}

/// One authenticated connectivity check that also selects the path (RFC 8445 §7.2).
async fn check(socket: &UdpSocket, answer: &Answer, ufrag: &str) -> Result<(), Failure> {
    socket.connect(answer.candidate).await?;
    let key = IntegrityKey::new(answer.password.as_bytes());
    let id = TransactionId(seed()?[..12].try_into()?);
    let mut request = [0; 256];
    let len = Writer::binding_request(&mut request, id)
        .username(format!("{}:{ufrag}", answer.ufrag).as_bytes())
        .priority(0x6e00_01ff)
        .ice_controlling(1)
        .use_candidate()
        .integrity(&key)
        .fingerprint()
        .finish()
        .ok_or("no room")?;
    let mut datagram = [0; DATAGRAM_LEN];
    for _ in 0..TRIES {
        socket.send(&request[..len]).await?;
        let Ok(received) = timeout(RETRY, socket.recv(&mut datagram)).await else { continue };
        let message = Message::parse(&datagram[..received?])?;
        if message.transaction_id() == id && message.mapped_address().is_some() && message.check_integrity(&key) {
            return Ok(());
        }
    }
    Err(format!("{} does not answer connectivity checks", answer.candidate).into())
}

/// DTLS as the client, and the look at the server's certificate.
async fn shake_hands(socket: &UdpSocket, answer: &Answer, identity: &Identity) -> Result<(Dtls, Connected), Failure> {
    let mut dtls = Dtls::connect(identity, Instant::now())?;
    let mut datagram = [0; DATAGRAM_LEN];
    loop {
        transmit(socket, &mut dtls).await?;
        match dtls.poll_event() {
            Some(DtlsEvent::Connected(connected)) => {
                return match fingerprint_matches(&connected.peer_certificate_der, "sha-256", &answer.fingerprint)? {
                    true => Ok((dtls, *connected)),
                    false => Err("the certificate is not the one of the answer".into()),
                };
            }
            Some(DtlsEvent::Failed(error)) => return Err(error.into()),
            Some(DtlsEvent::Closed) => return Err("the server closed DTLS".into()),
            None => {}
        }
        let now = Instant::now();
        let due = dtls.poll_timeout().map_or(RETRY, |at| at.saturating_duration_since(now));
        match timeout(due, socket.recv(&mut datagram)).await {
            Ok(len) => {
                let datagram = &datagram[..len?];
                if matches!(datagram, [20..=63, ..]) {
                    dtls.handle(Instant::now(), datagram);
                }
            }
            Err(_) => dtls.handle_timeout(Instant::now()),
        }
    }
}

async fn transmit(socket: &UdpSocket, dtls: &mut Dtls) -> Result<(), Failure> {
    while let Some(datagram) = dtls.poll_transmit() {
        socket.send(&datagram).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gives_what_a_peer_needs() {
        let sdp = "v=0\r\na=ice-ufrag:ab\r\na=ice-pwd:cd\r\na=fingerprint:sha-256 0A:FF\r\n\
                   a=candidate:1 1 udp 2130706431 ::1 40000 typ host\r\n";
        let answer = parse_answer(sdp).unwrap();
        assert_eq!((answer.ufrag.as_str(), answer.password.as_str()), ("ab", "cd"));
        assert_eq!((answer.fingerprint, answer.candidate), (vec![10, 255], "[::1]:40000".parse().unwrap()));
        assert!(parse_answer("v=0\r\na=ice-ufrag:ab\r\n").is_none());
        assert!(parse_answer(&sdp.replace("0A:FF", "0A:XY")).is_none());
    }

    #[test]
    fn a_payload_that_was_altered_is_noticed() {
        let at = Duration::from_micros(0x1234_5678);
        assert_eq!(payload(at), payload(at));
        assert_ne!(payload(at), payload(at + Duration::from_micros(1)));
    }
}
