//! STUN (RFC 8489) for both planes: a view of a received message and a writer of ours.
//!
//! The worker answers connectivity checks with it (RFC 8445 §7.3), the controlplane answers plain Binding requests.
//! Both work on bytes in place; nothing here allocates. Short-term credentials only, with HMAC-SHA1, because that is
//! what ICE uses (RFC 8445 §7.2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};

/// Bytes of a STUN header (RFC 8489 §5).
pub const HEADER_LEN: usize = 20;
/// The magic cookie (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
/// Most attributes that a message may have; an ICE check has about eight.
pub const ATTRIBUTES_MAX: usize = 64;
/// Unknown comprehension-required attributes that are kept for an UNKNOWN-ATTRIBUTES answer.
pub const UNKNOWN_MAX: usize = 8;

const INTEGRITY_LEN: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Attribute types (RFC 8489 §18.3, RFC 8445 §20.3).
mod attribute {
    pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(super) const REALM: u16 = 0x0014;
    pub(super) const NONCE: u16 = 0x0015;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    pub(super) const SOFTWARE: u16 = 0x8022;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    pub(super) const ICE_CONTROLLING: u16 = 0x802A;
}

/// The Binding method (RFC 8489 §18.2); the only one that ICE uses.
pub const BINDING: u16 = 0x001;

/// What a message is to its transaction (RFC 8489 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// Answers well.
    Success,
    /// Answers badly.
    Error,
}

impl Class {
    /// Bits C1 and C0 where they stand in the message type.
    const fn bits(self) -> u16 {
        match self {
            Class::Request => 0x000,
            Class::Indication => 0x010,
            Class::Success => 0x100,
            Class::Error => 0x110,
        }
    }
}

/// The 96 random bits that tie an answer to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransactionId(pub [u8; 12]);

/// Error codes that we send (RFC 8489 §14.8, RFC 8445 §7.3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum ErrorCode {
    /// The request is malformed or lacks what it must have.
    BadRequest = 400,
    /// The credentials are wrong.
    Unauthenticated = 401,
    /// A comprehension-required attribute is unknown.
    UnknownAttribute = 420,
    /// Both sides believe that they are controlling, or controlled.
    RoleConflict = 487,
    /// We failed.
    ServerError = 500,
}

impl ErrorCode {
    /// The reason phrase that RFC 8489 §14.8 suggests.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "Bad Request",
            ErrorCode::Unauthenticated => "Unauthenticated",
            ErrorCode::UnknownAttribute => "Unknown Attribute",
            ErrorCode::RoleConflict => "Role Conflict",
            ErrorCode::ServerError => "Server Error",
        }
    }
}

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StunError {
    /// Shorter than a header.
    #[error("{0} bytes are too few for a STUN header")]
    TooShort(usize),
    /// The first two bits are not zero, or the magic cookie is missing.
    #[error("not STUN: the first two bits or the magic cookie are wrong")]
    NotStun,
    /// The length field is no multiple of four, or not what the datagram has after the header.
    #[error("the length field says {field}, the datagram has {actual} bytes after the header")]
    Length {
        /// What the header says.
        field: usize,
        /// What there is.
        actual: usize,
    },
    /// An attribute is longer than what is left of the message.
    #[error("attribute {kind:#06x} reaches past the end of the message")]
    AttributeOverrun {
        /// Its type.
        kind: u16,
    },
    /// An attribute does not have the length of its type.
    #[error("attribute {kind:#06x} has {len} bytes, which its type does not allow")]
    AttributeLength {
        /// Its type.
        kind: u16,
        /// Its length, bytes.
        len: usize,
    },
    /// More than [`ATTRIBUTES_MAX`].
    #[error("more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    /// FINGERPRINT is not the last attribute (RFC 8489 §14.7).
    #[error("FINGERPRINT is not the last attribute")]
    FingerprintNotLast,
}

/// A password ready for use: the two keyed SHA-1 states, so that a check hashes only the message.
#[derive(Clone)]
pub struct IntegrityKey(Hmac<Sha1>);

impl IntegrityKey {
    /// The key of short-term credentials: the password itself (RFC 8489 §9.1.1; ours and ICE's are ASCII, which
    /// OpaqueString leaves as it is).
    pub fn new(password: &[u8]) -> Self {
        Self(Hmac::new_from_slice(password).expect("HMAC takes keys of any length"))
    }

    /// What makes the same key of a password and is no longer than a block of SHA-1: a longer password is hashed (RFC 2104 §2).
    pub fn shortened(password: &[u8]) -> Vec<u8> {
        if password.len() > 64 { Sha1::digest(password).to_vec() } else { password.to_vec() }
    }

    /// HMAC over a message up to an attribute at `end`, with the header's length reaching to `len`.
    fn mac(&self, bytes: &[u8], end: usize, len: u16) -> Hmac<Sha1> {
        let mut mac = self.0.clone();
        mac.update(&bytes[..2]);
        mac.update(&len.to_be_bytes());
        mac.update(&bytes[4..end]);
        mac
    }
}

impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntegrityKey(..)")
    }
}

/// A well-formed STUN message in the bytes of a datagram.
///
/// Of an attribute that occurs twice only the first counts (RFC 8489 §14), and after MESSAGE-INTEGRITY nothing but
/// FINGERPRINT counts (§14.5): what follows is not authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    username: Option<&'a [u8]>,
    mapped: Option<SocketAddr>,
    error_code: Option<u16>,
    priority: Option<u32>,
    has_use_candidate: bool,
    ice_controlling: Option<u64>,
    ice_controlled: Option<u64>,
    software: Option<&'a [u8]>,
    /// Offset of MESSAGE-INTEGRITY's header.
    integrity_at: Option<usize>,
    /// Offset of FINGERPRINT's header.
    fingerprint_at: Option<usize>,
    unknown: [u16; UNKNOWN_MAX],
    unknown_len: u8,
}

impl<'a> Message<'a> {
    /// Parses a whole datagram. `Err` unless it is exactly one well-formed message.
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, StunError> {
        let mut message = Self::parse_header(datagram)?;
        let mut at = HEADER_LEN;
        let mut count = 0;
        while at < datagram.len() {
            if message.fingerprint_at.is_some() {
                return Err(StunError::FingerprintNotLast);
            }
            count += 1;
            if count > ATTRIBUTES_MAX {
                return Err(StunError::TooManyAttributes);
            }
            // The length is a multiple of four and `at` stays one, so an attribute header is always whole.
            let kind = be16(datagram, at);
            let len = usize::from(be16(datagram, at + 2));
            let value =
                datagram.get(at + 4..).and_then(|rest| rest.get(..len)).ok_or(StunError::AttributeOverrun { kind })?;
            if message.integrity_at.is_none() || kind == attribute::FINGERPRINT {
                message.take(kind, value, at)?;
            }
            // The whole is a multiple of four long, so the padding is there whenever the value is.
            at += 4 + len.next_multiple_of(4);
        }
        Ok(message)
    }

    fn parse_header(datagram: &'a [u8]) -> Result<Message<'a>, StunError> {
        if datagram.len() < HEADER_LEN {
            return Err(StunError::TooShort(datagram.len()));
        }
        let kind = be16(datagram, 0);
        if kind & 0xc000 != 0 || be32(datagram, 4) != MAGIC_COOKIE {
            return Err(StunError::NotStun);
        }
        let (field, actual) = (usize::from(be16(datagram, 2)), datagram.len() - HEADER_LEN);
        if field != actual || !field.is_multiple_of(4) {
            return Err(StunError::Length { field, actual });
        }
        let class = match kind & 0x110 {
            0x000 => Class::Request,
            0x010 => Class::Indication,
            0x100 => Class::Success,
            _ => Class::Error,
        };
        Ok(Message {
            bytes: datagram,
            class,
            method: kind & 0x000f | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2,
            username: None,
            mapped: None,
            error_code: None,
            priority: None,
            has_use_candidate: false,
            ice_controlling: None,
            ice_controlled: None,
            software: None,
            integrity_at: None,
            fingerprint_at: None,
            unknown: [0; UNKNOWN_MAX],
            unknown_len: 0,
        })
    }

    /// Notes one attribute.
    fn take(&mut self, kind: u16, value: &'a [u8], at: usize) -> Result<(), StunError> {
        let wrong_length = StunError::AttributeLength { kind, len: value.len() };
        match kind {
            attribute::USERNAME => _ = self.username.get_or_insert(value),
            attribute::SOFTWARE => _ = self.software.get_or_insert(value),
            attribute::XOR_MAPPED_ADDRESS => {
                let address = xor_address(value, self.bytes).ok_or(wrong_length)?;
                self.mapped.get_or_insert(address);
            }
            attribute::ERROR_CODE => {
                let &[_, _, class, number, ..] = value else { return Err(wrong_length) };
                self.error_code.get_or_insert(u16::from(class & 7) * 100 + u16::from(number));
            }
            attribute::PRIORITY => {
                let priority = u32::from_be_bytes(value.try_into().map_err(|_| wrong_length)?);
                self.priority.get_or_insert(priority);
            }
            attribute::USE_CANDIDATE if value.is_empty() => self.has_use_candidate = true,
            attribute::ICE_CONTROLLING => {
                let tie_breaker = u64::from_be_bytes(value.try_into().map_err(|_| wrong_length)?);
                self.ice_controlling.get_or_insert(tie_breaker);
            }
            attribute::ICE_CONTROLLED => {
                let tie_breaker = u64::from_be_bytes(value.try_into().map_err(|_| wrong_length)?);
                self.ice_controlled.get_or_insert(tie_breaker);
            }
            attribute::MESSAGE_INTEGRITY if value.len() == INTEGRITY_LEN => self.integrity_at = Some(at),
            attribute::FINGERPRINT if value.len() == 4 => self.fingerprint_at = Some(at),
            attribute::USE_CANDIDATE | attribute::MESSAGE_INTEGRITY | attribute::FINGERPRINT => {
                return Err(wrong_length);
            }
            attribute::MAPPED_ADDRESS | attribute::UNKNOWN_ATTRIBUTES | attribute::REALM | attribute::NONCE => {}
            unknown if unknown < 0x8000 => self.note_unknown(unknown),
            _ => {}
        }
        Ok(())
    }

    fn note_unknown(&mut self, kind: u16) {
        if let Some(place) = self.unknown.get_mut(usize::from(self.unknown_len)) {
            *place = kind;
            self.unknown_len += 1;
        }
    }

    /// What the message is to its transaction.
    pub const fn class(&self) -> Class {
        self.class
    }

    /// Its method, 12 bits; [`BINDING`] is the one of ICE.
    pub const fn method(&self) -> u16 {
        self.method
    }

    /// Whether it is a Binding request.
    pub fn is_binding_request(&self) -> bool {
        self.class == Class::Request && self.method == BINDING
    }

    /// Its transaction.
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }

    /// USERNAME: in a check "receiver's ufrag:sender's ufrag" (RFC 8445 §7.2.2).
    pub const fn username(&self) -> Option<&'a [u8]> {
        self.username
    }

    /// XOR-MAPPED-ADDRESS, as the address that it means.
    pub const fn mapped_address(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// ERROR-CODE, 0 to 955.
    pub const fn error_code(&self) -> Option<u16> {
        self.error_code
    }

    /// PRIORITY of a check (RFC 8445 §7.1.1).
    pub const fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// Whether the check nominates (RFC 8445 §7.1.2).
    pub const fn use_candidate(&self) -> bool {
        self.has_use_candidate
    }

    /// Tie-breaker of a sender that is controlling (RFC 8445 §7.1.3).
    pub const fn ice_controlling(&self) -> Option<u64> {
        self.ice_controlling
    }

    /// Tie-breaker of a sender that is controlled.
    pub const fn ice_controlled(&self) -> Option<u64> {
        self.ice_controlled
    }

    /// SOFTWARE: the sender's own word about itself.
    pub const fn software(&self) -> Option<&'a [u8]> {
        self.software
    }

    /// The first [`UNKNOWN_MAX`] comprehension-required attributes that we do not know. A request that has any is
    /// answered with 420 (RFC 8489 §6.3.1).
    pub fn unknown_attributes(&self) -> &[u16] {
        &self.unknown[..usize::from(self.unknown_len)]
    }

    /// Whether there is a MESSAGE-INTEGRITY.
    pub const fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and right (RFC 8489 §14.5), compared in constant time.
    #[must_use]
    pub fn check_integrity(&self, key: &IntegrityKey) -> bool {
        let Some(at) = self.integrity_at else { return false };
        let end = at + 4 + INTEGRITY_LEN;
        // The length that was hashed ends with MESSAGE-INTEGRITY, whatever follows.
        let len = (end - HEADER_LEN) as u16;
        key.mac(self.bytes, at, len).verify_slice(&self.bytes[at + 4..end]).is_ok()
    }

    /// Whether there is a FINGERPRINT.
    pub const fn has_fingerprint(&self) -> bool {
        self.fingerprint_at.is_some()
    }

    /// Whether FINGERPRINT is there and right (RFC 8489 §14.7).
    #[must_use]
    pub fn check_fingerprint(&self) -> bool {
        self.fingerprint_at.is_some_and(|at| be32(self.bytes, at + 4) == fingerprint(&self.bytes[..at]))
    }
}

/// Writes a message into a buffer, attribute by attribute, in the order called.
///
/// [`Writer::integrity`] goes after all others and [`Writer::fingerprint`] last. A buffer that is too small is
/// reported once, by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    has_room: bool,
}

impl<'a> Writer<'a> {
    /// A Binding request.
    pub fn binding_request(out: &'a mut [u8], id: TransactionId) -> Self {
        Self::new(out, Class::Request, id)
    }

    /// A Binding success response, with the address that the request came from. An IPv4 address mapped into IPv6
    /// is written as IPv4, which is what the client has.
    pub fn binding_success(out: &'a mut [u8], id: TransactionId, mapped: SocketAddr) -> Self {
        let mut writer = Self::new(out, Class::Success, id);
        writer.xor_mapped_address(mapped, id);
        writer
    }

    /// A Binding error response.
    pub fn binding_error(out: &'a mut [u8], id: TransactionId, code: ErrorCode) -> Self {
        let mut writer = Self::new(out, Class::Error, id);
        let (number, reason) = (code as u16, code.reason().as_bytes());
        if let Some(value) = writer.attribute(attribute::ERROR_CODE, 4 + reason.len()) {
            value[..4].copy_from_slice(&[0, 0, (number / 100) as u8, (number % 100) as u8]);
            value[4..].copy_from_slice(reason);
        }
        writer
    }

    fn new(out: &'a mut [u8], class: Class, id: TransactionId) -> Self {
        let has_room = out.len() >= HEADER_LEN;
        if has_room {
            // BINDING's bits all stand below C0, so the type is a plain sum.
            out[..2].copy_from_slice(&(BINDING | class.bits()).to_be_bytes());
            out[2..4].fill(0);
            out[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            out[8..HEADER_LEN].copy_from_slice(&id.0);
        }
        Self { out, len: HEADER_LEN, has_room }
    }

    /// USERNAME, at most 508 bytes (RFC 8489 §14.3).
    pub fn username(mut self, username: &[u8]) -> Self {
        self.put(attribute::USERNAME, username);
        self
    }

    /// PRIORITY.
    pub fn priority(mut self, priority: u32) -> Self {
        self.put(attribute::PRIORITY, &priority.to_be_bytes());
        self
    }

    /// ICE-CONTROLLING with our tie-breaker.
    pub fn ice_controlling(mut self, tie_breaker: u64) -> Self {
        self.put(attribute::ICE_CONTROLLING, &tie_breaker.to_be_bytes());
        self
    }

    /// ICE-CONTROLLED with our tie-breaker.
    pub fn ice_controlled(mut self, tie_breaker: u64) -> Self {
        self.put(attribute::ICE_CONTROLLED, &tie_breaker.to_be_bytes());
        self
    }

    /// USE-CANDIDATE: nominate.
    pub fn use_candidate(mut self) -> Self {
        self.put(attribute::USE_CANDIDATE, &[]);
        self
    }

    /// SOFTWARE.
    pub fn software(mut self, software: &str) -> Self {
        self.put(attribute::SOFTWARE, software.as_bytes());
        self
    }

    /// UNKNOWN-ATTRIBUTES, with a 420.
    pub fn unknown_attributes(mut self, kinds: &[u16]) -> Self {
        if let Some(value) = self.attribute(attribute::UNKNOWN_ATTRIBUTES, 2 * kinds.len()) {
            for (place, kind) in value.chunks_exact_mut(2).zip(kinds) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
        }
        self
    }

    /// MESSAGE-INTEGRITY over everything so far.
    pub fn integrity(mut self, key: &IntegrityKey) -> Self {
        let at = self.len;
        if self.attribute(attribute::MESSAGE_INTEGRITY, INTEGRITY_LEN).is_some() {
            let mac = key.mac(self.out, at, (self.len - HEADER_LEN) as u16).finalize().into_bytes();
            self.out[at + 4..self.len].copy_from_slice(&mac);
        }
        self
    }

    /// FINGERPRINT over everything so far.
    pub fn fingerprint(mut self) -> Self {
        let at = self.len;
        if self.attribute(attribute::FINGERPRINT, 4).is_some() {
            self.write_length();
            let value = fingerprint(&self.out[..at]);
            self.out[at + 4..self.len].copy_from_slice(&value.to_be_bytes());
        }
        self
    }

    /// The message's length, bytes; `None` if the buffer is too small for it.
    pub fn finish(mut self) -> Option<usize> {
        self.write_length();
        self.has_room.then_some(self.len)
    }

    fn xor_mapped_address(&mut self, address: SocketAddr, id: TransactionId) {
        let mask = address_mask(&id.0);
        let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
        let (family, len) = match address.ip().to_canonical() {
            IpAddr::V4(_) => (1, 4),
            IpAddr::V6(_) => (2, 16),
        };
        let Some(value) = self.attribute(attribute::XOR_MAPPED_ADDRESS, 4 + len) else { return };
        value[..2].copy_from_slice(&[0, family]);
        value[2..4].copy_from_slice(&port.to_be_bytes());
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => value[4..].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => value[4..].copy_from_slice(&ip.octets()),
        }
        value[4..].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }

    fn put(&mut self, kind: u16, bytes: &[u8]) {
        if let Some(value) = self.attribute(kind, bytes.len()) {
            value.copy_from_slice(bytes);
        }
    }

    /// Room for an attribute's value, with its header and padding written; `None` if the buffer is too small.
    fn attribute(&mut self, kind: u16, len: usize) -> Option<&mut [u8]> {
        let (value, end) = (self.len + 4, self.len + 4 + len.next_multiple_of(4));
        if !self.has_room || end > self.out.len() || end - HEADER_LEN > usize::from(u16::MAX) {
            self.has_room = false;
            return None;
        }
        self.out[self.len..self.len + 2].copy_from_slice(&kind.to_be_bytes());
        self.out[self.len + 2..value].copy_from_slice(&(len as u16).to_be_bytes());
        self.out[value + len..end].fill(0);
        self.len = end;
        Some(&mut self.out[value..value + len])
    }

    fn write_length(&mut self) {
        if self.has_room {
            self.out[2..4].copy_from_slice(&((self.len - HEADER_LEN) as u16).to_be_bytes());
        }
    }
}

/// The value of FINGERPRINT for what stands before it.
fn fingerprint(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes) ^ FINGERPRINT_XOR
}

/// What XOR-MAPPED-ADDRESS is masked with: magic cookie, then transaction id (RFC 8489 §14.2).
fn address_mask(id: &[u8]) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(id);
    mask
}

fn xor_address(value: &[u8], message: &[u8]) -> Option<SocketAddr> {
    let &[_, family, port_0, port_1, ref masked @ ..] = value else { return None };
    let port = u16::from_be_bytes([port_0, port_1]) ^ (MAGIC_COOKIE >> 16) as u16;
    let mut octets = address_mask(&message[8..HEADER_LEN]);
    octets.iter_mut().zip(masked).for_each(|(byte, masked)| *byte ^= masked);
    let ip = match (family, masked.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
        (2, 16) => IpAddr::V6(Ipv6Addr::from(octets)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Big-endian u16 at an offset that the caller has checked.
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Big-endian u32 at an offset that the caller has checked.
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
