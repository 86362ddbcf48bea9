//! A peer of the doctor's own call, by the crate `client`: it offers one m-section of Opus, checks its path (RFC 8445),
//! agrees on keys by DTLS (RFC 5764) and speaks SRTP. Its signals go to the engine without HTTP.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use client::dtls::{Identity, Version};
use client::ice::Credentials;
use client::random::Random;
use client::rtp;
use client::sdp::{self, OfferSection};
use client::srtp::{OVERHEAD_MAX, Profile};
use client::transport::{DropReason, Received, Transport};
use controlplane::driver::{Handle, Outlet, Queued};
use controlplane::engine::{Grant, SocketId};
use proto::signal::{ClientSignal, Kind, ServerSignal};
use proto::stun::{Message, TransactionId, Writer};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::Failure;

/// Room of the call.
const ROOM: &str = "doctor";

/// How long an answer by UDP may take before the question is asked again, and how often it is asked.
const RETRY: Duration = Duration::from_millis(200);
const TRIES: usize = 20;

/// How long keys may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// SSRC of what is sent.
const SSRC: u32 = 0x0d0c_7042;

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

/// A peer with keys.
pub(super) struct Peer {
    socket: UdpSocket,
    transport: Transport,
    version: Version,
    /// Payload type of Opus, by the answer.
    pt: u8,
    sent: u16,
    /// Kept so that the engine does not think that we are gone.
    _signals: (SocketId, Outlet),
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
        let mut random = Random::from_system();
        ask_stun(&socket, stun, TransactionId(random.bytes())).await?;
        let identity = Identity::generate()?;
        let ice = Credentials::generate(&mut random);
        let ssrcs = (role == Role::Sends).then_some((SSRC, None));
        let sections = [OfferSection { mid: "0".into(), kind: Kind::Audio, ssrcs, has_track: true, rids: Vec::new() }];
        let fingerprint = identity.fingerprint();
        let offer = sdp::write_offer(&sdp::Offer { ice: &ice, fingerprint, sections: &sections });
        let grant = Grant { room: ROOM.into(), name: name.into(), publish: true, subscribe: true, ..Grant::default() };
        let (id, mut signals) = handle.open(ROOM, grant).await.ok_or("the engine has ended")?;
        handle.signal(id, ClientSignal::Offer { sdp: offer, tracks: Vec::new() }).await;
        let answer = sdp::parse_answer(&answer(&mut signals).await?, &sections)?;
        let mut transport = Transport::new(Instant::now(), ice, &identity, random);
        transport.set_answer(&answer);
        let connected = timeout(CONNECT_TIMEOUT, client::udp::connect(&mut transport, &socket)).await;
        let version = match connected {
            Ok(version) => version?,
            Err(_) if transport.ice().selected().is_none() => {
                let candidates = &answer.candidates;
                return Err(format!("{candidates:?} does not answer connectivity checks").into());
            }
            Err(_) => return Err("DTLS does not end".into()),
        };
        let pt = answer.sections[0].pt;
        Ok(Peer { socket, transport, version, pt, sent: 0, _signals: (id, signals) })
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn profile(&mut self) -> Option<Profile> {
        self.transport.session().map(|session| session.profile())
    }

    /// Sends one packet that says when it was sent.
    pub(super) async fn send(&mut self, at: Duration) -> Result<(), Failure> {
        self.sent += 1;
        let mut packet = [0; DATAGRAM_LEN];
        let timestamp = u32::from(self.sent) * 960; // 20 ms of 48 kHz.
        let fields = rtp::Fields { marker: false, pt: self.pt, seq: self.sent, timestamp, ssrc: SSRC };
        let header_len = rtp::write(&mut packet[..DATAGRAM_LEN - OVERHEAD_MAX], &fields, &[]);
        let len = header_len + PAYLOAD_LEN;
        packet[header_len..len].copy_from_slice(&payload(at));
        let session = self.transport.session().ok_or("there are no keys")?;
        let len = session.protect_rtp(&mut packet, len);
        let to = self.transport.ice().selected().ok_or("there is no path")?;
        self.socket.send_to(&packet[..len], to).await?;
        Ok(())
    }

    /// The next packet of the other: when it was sent.
    pub(super) async fn receive(&mut self) -> Result<Duration, Failure> {
        let mut datagram = [0; DATAGRAM_LEN];
        loop {
            let (len, from) = self.socket.recv_from(&mut datagram).await?;
            let now = Instant::now();
            match self.transport.receive(now, from, &mut datagram[..len]) {
                Received::Rtp(packet) => return sent_at(packet).ok_or_else(|| "a packet arrived altered".into()),
                Received::Dropped(DropReason::Srtp(error)) => return Err(error.into()),
                // The server may ask for our last flight, or our consent, again.
                Received::Consumed => {
                    while let Some((to, bytes)) = self.transport.poll_transmit(now) {
                        self.socket.send_to(&bytes, to).await?;
                    }
                }
                Received::Rtcp(_) | Received::Dropped(_) => (),
            }
        }
    }
}

/// When a packet was sent, if it is as it was.
fn sent_at(packet: &[u8]) -> Option<Duration> {
    let received = packet.get(rtp::Header::parse(packet)?.len..)?;
    let at = Duration::from_micros(u64::from_be_bytes(*received.first_chunk()?));
    (received == payload(at)).then_some(at)
}

/// When it was sent, in microseconds, and a pattern that depends on it.
fn payload(at: Duration) -> [u8; PAYLOAD_LEN] {
    let micros = at.as_micros() as u64;
    let mut payload = [0; PAYLOAD_LEN];
    payload[..8].copy_from_slice(&micros.to_be_bytes());
    for (offset, byte) in payload.iter_mut().enumerate().skip(8) {
        *byte = (micros as usize + offset) as u8;
    }
    payload
}

/// Waits for the answer to the offer.
async fn answer(signals: &mut Outlet) -> Result<String, Failure> {
    loop {
        match signals.recv().await {
            Some(Queued::Signal(signal)) => match serde_json::from_str(&signal.into_parts().0)? {
                ServerSignal::Answer { sdp } => return Ok(sdp),
                ServerSignal::Error { message, .. } => return Err(message.into()),
                _ => {}
            },
            Some(Queued::Probe) => {} // Who asks is in this process, too.
            Some(Queued::Close(_)) | None => return Err("the engine hung up".into()),
        }
    }
}

/// Asks the STUN server for our own address, which on one machine is what the socket is bound to.
async fn ask_stun(socket: &UdpSocket, server: SocketAddr, id: TransactionId) -> Result<(), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_was_altered_is_noticed() {
        let at = Duration::from_micros(0x1234_5678);
        assert_eq!(payload(at), payload(at));
        assert_ne!(payload(at), payload(at + Duration::from_micros(1)));
    }
}
