//! One connection with one peer: THE CORE of DTLS. Everything that happens goes through [`Dtls::advance`].

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use boring::ssl::{ErrorCode, SslStream, SslVersion};
use proto::plane::{DATAGRAM_LEN_MAX, SrtpProfile};

use super::context::{self, Role};
use super::error::DtlsError;
use super::ffi;
use super::identity::Identity;
use super::keys::{self, KeyMaterial, NAME_LEN};
use super::wire::Wire;

/// Bytes of application data in one record at most: with a header and a tag, in DTLS 1.2 37 bytes, it is a datagram of 1200.
pub const DATA_LEN_MAX: usize = 1160;

/// Something that the caller must know.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The handshake is done. Comes at most once, and first.
    Connected(Box<Connected>),
    /// The connection is over by an error. Nothing comes after it; what is left to transmit (an alert) should be sent.
    Failed(DtlsError),
    /// The peer ended the connection in order (`close_notify`). Nothing comes after it.
    Closed,
}

/// What a finished handshake gives.
#[derive(Debug)]
pub struct Connected {
    /// The version of DTLS.
    pub version: DtlsVersion,
    /// How SRTP is protected, both ways.
    pub profile: SrtpProfile,
    /// Key of what the peer sends.
    pub rx: KeyMaterial,
    /// Key of what we send.
    pub tx: KeyMaterial,
    /// The peer's certificate, DER. The peer has proved that it holds the key; that it is the peer of the signalling
    /// is for the caller to check, by [`fingerprint_matches`](super::fingerprint_matches), before it uses the keys.
    pub peer_certificate_der: Vec<u8>,
}

/// SRTP keys of one transport, both ways.
#[derive(Debug)]
pub struct TransportKeys {
    /// How SRTP is protected.
    pub profile: SrtpProfile,
    /// Key of what the other end sends.
    pub rx: KeyMaterial,
    /// Key of what we send.
    pub tx: KeyMaterial,
}

/// A protocol version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtlsVersion {
    /// DTLS 1.2 (RFC 6347).
    V1_2,
    /// DTLS 1.3 (RFC 9147).
    V1_3,
}

impl fmt::Display for DtlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DtlsVersion::V1_2 => "DTLS 1.2",
            DtlsVersion::V1_3 => "DTLS 1.3",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Handshaking,
    Connected,
    /// Failed or closed, by either side: datagrams are ignored and no timer runs.
    Over,
}

/// A DTLS connection, sans-IO. Feed it by [`handle`](Dtls::handle) and [`handle_timeout`](Dtls::handle_timeout); after
/// each, drain [`poll_transmit`](Dtls::poll_transmit) and [`poll_event`](Dtls::poll_event), and read
/// [`poll_timeout`](Dtls::poll_timeout) again.
///
/// It waits for ever for a silent peer (the retransmissions back off to one a minute): the deadline of a handshake
/// is the caller's, counted from [`started_at`](Dtls::started_at).
pub struct Dtls {
    stream: SslStream<Wire>,
    role: Role,
    state: State,
    started_at: Instant,
    timeout: Option<Instant>,
    events: VecDeque<DtlsEvent>,
}

impl Dtls {
    /// We are the DTLS server (`a=setup:passive`) and wait for the peer's ClientHello.
    pub fn accept(identity: &Identity, now: Instant) -> Result<Dtls, DtlsError> {
        Self::open(identity, now, Role::Server)
    }

    /// We are the DTLS client (`a=setup:active`): the ClientHello is there to transmit at once.
    pub fn connect(identity: &Identity, now: Instant) -> Result<Dtls, DtlsError> {
        let mut dtls = Self::open(identity, now, Role::Client)?;
        dtls.advance(now);
        Ok(dtls)
    }

    fn open(identity: &Identity, now: Instant, role: Role) -> Result<Dtls, DtlsError> {
        let ssl = context::open(identity.context(), role)?;
        let stream = SslStream::new(ssl, Wire::default()).map_err(DtlsError::setup("open a DTLS connection"))?;
        Ok(Dtls { stream, role, state: State::Handshaking, started_at: now, timeout: None, events: VecDeque::new() })
    }

    /// Takes a datagram from the peer. One that is empty, too long or not DTLS is discarded, as are records that do
    /// not authenticate. Returns the application data in it, a record each.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Vec<Vec<u8>> {
        if self.state == State::Over || datagram.is_empty() || datagram.len() > DATAGRAM_LEN_MAX {
            return Vec::new();
        }
        self.stream.get_mut().push(datagram);
        self.advance(now)
    }

    /// The next datagram to send to the peer, at most 1200 bytes.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.stream.get_mut().pop()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Dtls::handle_timeout) is due; `None` while nothing waits. It may lie in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Sends again what is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        self.set_clock(now);
        match ffi::handle_timeout(self.stream.ssl_mut()) {
            Ok(()) => drop(self.advance(now)), // Without a datagram there is no data.
            Err(stack) => self.fail(DtlsError::from_stack(&stack)),
        }
    }

    /// When the connection was made, for the caller's deadline.
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Whether the handshake is done and the connection not over.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Keys of a transport of its own under this connection: others for each context (RFC 5705 §4), and the same at both ends. `None` while
    /// it is not connected.
    pub fn export(&self, context: &[u8]) -> Option<TransportKeys> {
        let keys::SrtpKeys { profile, rx, tx } =
            self.is_connected().then(|| keys::export(self.stream.ssl(), self.role, Some(context)))?.ok()?;
        Some(TransportKeys { profile, rx, tx })
    }

    /// What both ends call this connection, and nobody else knows. `None` while it is not connected.
    pub fn name(&self) -> Option<[u8; NAME_LEN]> {
        self.is_connected().then(|| keys::name(self.stream.ssl()))?.ok()
    }

    /// Ends the connection; a connected peer is told so (`close_notify`, to be transmitted). No event follows.
    pub fn close(&mut self) {
        if self.state == State::Connected {
            // BoringSSL only queues an alert here; whether it could is of no use to a caller that is leaving.
            let _ = self.stream.shutdown();
        }
        self.end();
    }

    /// Lets BoringSSL work on the inbox until it wants more, and takes note of what became of the connection.
    fn advance(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.set_clock(now);
        if self.state == State::Handshaking {
            self.shake();
        }
        let received = if self.state == State::Connected { self.read() } else { Vec::new() };
        if self.state != State::Over {
            self.timeout = ffi::timeout(self.stream.ssl()).map(|left| now + left);
        }
        received
    }

    fn shake(&mut self) {
        let result = match self.role {
            Role::Server => self.stream.accept(),
            Role::Client => self.stream.connect(),
        };
        match result {
            Ok(()) => match self.connected() {
                Ok(connected) => {
                    self.state = State::Connected;
                    self.events.push_back(DtlsEvent::Connected(Box::new(connected)));
                }
                Err(error) => {
                    let _ = self.stream.shutdown();
                    self.fail(error);
                }
            },
            Err(error) if error.would_block() => {}
            Err(error) => self.fail(DtlsError::from_ssl(&error)),
        }
    }

    fn connected(&mut self) -> Result<Connected, DtlsError> {
        let ssl = self.stream.ssl_mut();
        let peer_certificate_der = context::take_certificate(ssl).ok_or(DtlsError::NoCertificate)?;
        let version = match ssl.version2() {
            Some(SslVersion::DTLS1_3) => DtlsVersion::V1_3,
            _ => DtlsVersion::V1_2,
        };
        let keys = keys::export(ssl, self.role, None)?;
        Ok(Connected { version, profile: keys.profile, rx: keys.rx, tx: keys.tx, peer_certificate_der })
    }

    /// Sends application data as one record, at most [`DATA_LEN_MAX`] bytes: it is there to transmit then. Not before the handshake is done.
    pub fn send(&mut self, now: Instant, data: &[u8]) -> bool {
        if self.state != State::Connected || data.len() > DATA_LEN_MAX {
            return false;
        }
        self.set_clock(now);
        self.stream.ssl_write(data).is_ok()
    }

    /// Takes in what comes after the handshake: repeated flights and ACKs are answered inside.
    fn read(&mut self) -> Vec<Vec<u8>> {
        let (mut record, mut received) = ([0; DATAGRAM_LEN_MAX], Vec::new());
        loop {
            match self.stream.ssl_read(&mut record) {
                Ok(len) => received.push(record[..len].to_vec()),
                Err(error) if error.would_block() => return received,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.end();
                    self.events.push_back(DtlsEvent::Closed);
                    return received;
                }
                Err(error) => {
                    self.fail(DtlsError::from_ssl(&error));
                    return received;
                }
            }
        }
    }

    fn fail(&mut self, error: DtlsError) {
        self.end();
        self.events.push_back(DtlsEvent::Failed(error));
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.timeout = None;
    }

    /// BoringSSL's time of day is the age of the connection.
    fn set_clock(&self, now: Instant) {
        ffi::set_clock(now.saturating_duration_since(self.started_at));
    }
}

impl fmt::Debug for Dtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dtls").field("role", &self.role).field("state", &self.state).finish_non_exhaustive()
    }
}
