//! An RTP packet with the rights it has at each point of its way: [`SrtpPacket`] can only be unprotected,
//! [`RtpPacket`] can only be written into a slot (where the outbox protects it). The bytes are the same.

use proto::id::MID_LEN_MAX;
use proto::plane::{Counter, EXTENSION_COUNT_MAX, Extension, ExtensionIds};

use crate::bucket::Bucket;
use crate::config::{
    EVEN_LEN, EVEN_LEN_MAX, FRAME_LEN, Micros, PAYLOAD_LEN_MAX, SECOND_TRIES_BURST, SECOND_TRIES_RATE,
};
use crate::dependency;
use crate::rtp::{self, EXTENSION_VALUE_LEN_MAX, Header, HeaderWriter};
use crate::srtp::{Crypto, Narrow, ReplayWindow};
use crate::store::Payload;

/// A packet from the network, its header readable and not yet believed.
pub(crate) struct SrtpPacket<'a> {
    header: Header,
    bytes: &'a mut [u8],
}

/// Why a packet could not be unprotected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unprotect {
    /// Its index was seen before or is too old.
    Replayed,
    /// Its tag is wrong.
    Forged,
}

impl Unprotect {
    /// The packet's fate.
    pub(crate) fn counter(self) -> Counter {
        match self {
            Unprotect::Replayed => Counter::DroppedSrtpReplay,
            Unprotect::Forged => Counter::DroppedSrtpAuth,
        }
    }
}

/// The same sequence number in the next round (RFC 3711 §3.3.1: `ROC + 1`).
const ROUND: u64 = 1 << 16;

/// When a packet of one peer may be tried under a second roll-over counter. The nearest index is wrong for ever if the first
/// packets of an SSRC were lost before its sequence numbers wrapped, or more than 2^15 in a row: then authentication
/// decides. What that costs is bounded, because anybody who can write a source address may send what fails twice.
pub(crate) struct SecondTries {
    bucket: Bucket,
    /// The last packet under an SSRC that is known was not authentic, so the next one is copied before it is tried: what
    /// fails is lost.
    is_doubtful: bool,
    /// How many there were.
    count: u32,
}

impl SecondTries {
    pub(crate) fn new(now: Micros) -> Self {
        let bucket = Bucket::new(SECOND_TRIES_BURST, SECOND_TRIES_RATE, now);
        SecondTries { bucket, is_doubtful: false, count: 0 }
    }

    fn take(&mut self, now: Micros) -> bool {
        let is_taken = self.bucket.take(now);
        self.count += u32::from(is_taken);
        is_taken
    }

    /// How many second tries there were since the last call.
    #[inline]
    pub(crate) fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count).into()
    }
}

impl<'a> SrtpPacket<'a> {
    pub(crate) fn parse(bytes: &'a mut [u8]) -> Option<Self> {
        let header = Header::parse(bytes).ok()?;
        Some(SrtpPacket { header, bytes })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// A header extension, before anybody has vouched for it: good for choosing the stream whose keys then decide.
    pub(crate) fn claimed_extension(&self, id: u8) -> Option<&[u8]> {
        self.header.extensions(self.bytes).find(|(i, _)| *i == id).map(|(_, value)| value)
    }

    /// Checks the window, then authenticates and decrypts in place, then updates the window (RFC 3711 §3.3).
    #[inline]
    pub(crate) fn unprotect(
        self,
        crypto: &Crypto,
        window: &mut impl ReplayWindow,
        tries: &mut SecondTries,
        now: Micros,
    ) -> Result<RtpPacket<'a>, Unprotect> {
        let index = window.estimate(self.header.seq);
        if window.is_too_old(index) {
            // Or the sender has gone on for most of a round while nothing of it arrived.
            if !tries.take(now) {
                return Err(Unprotect::Replayed);
            }
            return self.open(crypto, window, index + ROUND).map_err(|_| Unprotect::Replayed);
        }
        window.check(index).map_err(|_| Unprotect::Replayed)?;
        if tries.is_doubtful || window.highest().is_none() {
            return self.open_doubtful(crypto, window, index, tries, now);
        }
        let opened = self.open(crypto, window, index);
        tries.is_doubtful = opened.is_err();
        opened
    }

    /// Tries the nearest index, then the one a round later.
    #[cold]
    fn open_doubtful(
        self,
        crypto: &Crypto,
        window: &mut impl ReplayWindow,
        index: u64,
        tries: &mut SecondTries,
        now: Micros,
    ) -> Result<RtpPacket<'a>, Unprotect> {
        let Header { ssrc, header_len, .. } = self.header;
        let mut copy = [0; FRAME_LEN];
        let mut copy = copy.get_mut(..self.bytes.len());
        if let Some(copy) = &mut copy {
            copy.copy_from_slice(self.bytes);
        }
        if let Ok(len) = crypto.unprotect_rtp(ssrc, index, header_len, self.bytes) {
            tries.is_doubtful = false;
            return Ok(self.opened(window, index, len));
        }
        // What is longer than a frame could not be forwarded either.
        let Some(copy) = copy.filter(|_| tries.take(now)) else { return Err(Unprotect::Forged) };
        self.bytes.copy_from_slice(copy);
        self.open(crypto, window, index + ROUND)
    }

    /// Authenticates and decrypts a packet whose index the window has seen, and leaves that as it is.
    pub(crate) fn unprotect_again(self, crypto: &Crypto, window: &impl ReplayWindow) -> Option<RtpPacket<'a>> {
        let index = window.estimate(self.header.seq);
        self.open(crypto, &mut Narrow::default(), index).ok()
    }

    /// Authenticates and decrypts it under this index, then updates the window.
    #[inline]
    fn open(self, crypto: &Crypto, window: &mut impl ReplayWindow, index: u64) -> Result<RtpPacket<'a>, Unprotect> {
        let Header { ssrc, header_len, .. } = self.header;
        match crypto.unprotect_rtp(ssrc, index, header_len, self.bytes) {
            Ok(len) => Ok(self.opened(window, index, len)),
            Err(_) => Err(Unprotect::Forged),
        }
    }

    /// It is authentic.
    #[inline]
    fn opened(self, window: &mut impl ReplayWindow, index: u64, len: usize) -> RtpPacket<'a> {
        window.update(index);
        let bytes: &'a [u8] = &self.bytes[..len];
        let payload_len = rtp::payload_len(&self.header, bytes);
        let (head, rest) = bytes.split_at(self.header.header_len);
        let payload = &rest[..payload_len.unwrap_or(0)];
        RtpPacket { header: self.header, index, head, payload, is_malformed: payload_len.is_none() }
    }
}

/// An authentic packet in the clear. Padding is already off.
#[derive(Clone, Copy)]
pub(crate) struct RtpPacket<'a> {
    pub(crate) header: Header,
    /// Its index (ROC and sequence number) in its stream.
    pub(crate) index: u64,
    /// Header and extensions, as received.
    pub(crate) head: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// Its padding is longer than itself. It arrived all the same.
    pub(crate) is_malformed: bool,
}

impl<'a> RtpPacket<'a> {
    /// A packet that was stored or that another worker unprotected: head, and payload without padding.
    pub(crate) fn from_parts(head: &'a [u8], payload: &'a [u8], index: u64) -> Option<Self> {
        let header = Header::parse(head).ok().filter(|header| header.header_len == head.len())?;
        Some(RtpPacket { header, index, head, payload, is_malformed: false })
    }

    /// A header extension's value.
    pub(crate) fn extension(&self, id: u8) -> Option<&'a [u8]> {
        if id == 0 {
            return None;
        }
        self.header.extensions(self.head).find(|(i, _)| *i == id).map(|(_, value)| value)
    }

    /// Where the dependency descriptor stands in the head, and its bytes.
    #[inline]
    pub(crate) fn descriptor(&self, id: u8) -> Option<(Place, &'a [u8])> {
        let value = self.extension(id)?;
        let at = (value.as_ptr() as usize - self.head.as_ptr() as usize) as u16;
        Some((Place { at, len: value.len() as u8 }, value))
    }

    /// The extensions that travel with the packet from publisher to receiver.
    pub(crate) fn carried(&self, ids: &ExtensionIds) -> Carried {
        let mut carried = Carried::default();
        for (id, value) in self.header.extensions(self.head) {
            let Some(extension) = CARRIED.into_iter().find(|&e| ids[e as usize] == id) else { continue };
            // Longer ones could not be written.
            if carried.count < CARRIED.len() && value.len() <= EXTENSION_VALUE_LEN_MAX {
                let item = &mut carried.items[carried.count];
                (item.0, item.1) = (extension as u8, value.len() as u8);
                item.2[..value.len()].copy_from_slice(value);
                carried.count += 1;
            }
        }
        carried
    }
}

/// Where a dependency descriptor stands in a head.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) at: u16,
    pub(crate) len: u8,
}

/// The dependency descriptor that a packet leaves with: that in the head of the packet that its payload came in, with another number.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) place: Place,
    /// Frame number for the receiver.
    pub(crate) number: u16,
    pub(crate) role: Role,
}

/// What parameter sets that are written ahead of a keyframe make of its packets' descriptors: the first packet of a frame has the structure, and
/// says that the frame begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It is the packet that the descriptor came with.
    Own,
    /// It is the first that goes ahead of that: the frame begins with it and does not end.
    First,
    /// It comes behind the first: the frame does not begin, nor does it end unless it is the packet that the descriptor came with.
    Between,
    Behind,
}

impl Descriptor {
    /// Its bytes, and which bits of the first one stay.
    #[inline]
    fn bytes<'a>(&self, head: &'a [u8]) -> (&'a [u8], u8) {
        let Place { at, len } = self.place;
        let (len, mask) = match self.role {
            Role::Own => (len.into(), 0xff),
            Role::First => (len.into(), !dependency::ENDS),
            Role::Between => (dependency::SHORT_LEN, !(dependency::STARTS | dependency::ENDS)),
            Role::Behind => (dependency::SHORT_LEN, !dependency::STARTS),
        };
        (head.get(at.into()..usize::from(at) + len).unwrap_or_default(), mask)
    }
}

const _: () = assert!(Extension::ALL.len() <= EXTENSION_COUNT_MAX);

/// Extensions that belong to the media rather than to one hop.
const CARRIED: [Extension; 4] =
    [Extension::AudioLevel, Extension::PlayoutDelay, Extension::AbsCaptureTime, Extension::VideoOrientation];

/// The longest header that [`Outgoing`] writes: fixed header, extension block with transport-cc, abs-send-time, MID and
/// what is carried, padded. A dependency descriptor of more than 16 bytes is written where there is room for it beside this.
const HEADER_LEN_MAX: usize =
    (12 + 4 + (1 + 2) + (1 + 3) + (1 + MID_LEN_MAX) + (1 + CARRIED.len()) * (1 + 16)).next_multiple_of(4);
/// What the two-byte form takes more: a byte of each element, and padding.
const TWO_BYTE_LEN: usize = (4 + CARRIED.len()).next_multiple_of(4);
const RTX_PREFIX_LEN: usize = 2;
const _: () = assert!(
    HEADER_LEN_MAX + RTX_PREFIX_LEN + PAYLOAD_LEN_MAX + Crypto::OVERHEAD_MAX <= FRAME_LEN,
    "the largest payload fits a frame as RTX with every extension"
);

/// The values of the carried extensions that one packet has.
#[derive(Clone, Copy, Default)]
pub(crate) struct Carried {
    /// Extension, length and value.
    items: [(u8, u8, [u8; EXTENSION_VALUE_LEN_MAX]); CARRIED.len()],
    count: usize,
}

impl Carried {
    /// These, and one more unless the packet has it already.
    pub(crate) fn and(&self, extension: Extension, value: &[u8]) -> Carried {
        let mut carried = *self;
        let has_it = self.items[..self.count].iter().any(|(of, ..)| *of == extension as u8);
        if let Some(item) = carried.items.get_mut(self.count).filter(|_| !has_it) {
            (item.0, item.1) = (extension as u8, value.len() as u8);
            item.2[..value.len()].copy_from_slice(value);
            carried.count += 1;
        }
        carried
    }
}

/// What the receiver's side of a route writes into a packet's header.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) marker: bool,
    pub(crate) pt: u8,
    pub(crate) seq: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    /// The receiver's extension ids.
    pub(crate) ids: &'a ExtensionIds,
    pub(crate) mid: &'a [u8],
    pub(crate) transport_cc_seq: u16,
    pub(crate) abs_send_time: [u8; 3],
    pub(crate) carried: &'a Carried,
    pub(crate) descriptor: Option<Descriptor>,
    /// Whether packets like this one are likely to be its neighbours, so that equal lengths make one train of them:
    /// then it is padded (RFC 3550 §5.1) to a multiple of [`EVEN_LEN`].
    pub(crate) is_evened: bool,
}

/// An RTP packet of which the beginning is written.
pub(crate) struct Begun<'a> {
    /// Length of header and extensions.
    pub(crate) header_len: usize,
    /// Length of what is written.
    pub(crate) len: usize,
    /// What comes behind it.
    pub(crate) rest: &'a [u8],
}

impl Outgoing<'_> {
    /// Writes header, `prefix` (an RTX packet's original sequence number) and the receiver's own start of the payload into a
    /// frame; the rest of the payload and padding are to follow.
    #[inline]
    pub(crate) fn write<'a>(&self, frame: &mut [u8], prefix: &[u8], payload: Payload<'a>) -> Begun<'a> {
        let mut writer = HeaderWriter::new(frame, self.marker, self.pt, self.seq, self.timestamp, self.ssrc);
        // An id of 0 and an empty value write nothing.
        let id = |extension: Extension| self.ids[extension as usize];
        let described = id(Extension::DependencyDescriptor);
        let descriptor = self.descriptor.filter(|_| described != 0).map(|of| (of.bytes(payload.head()), of.number));
        if let Some(((bytes, _), _)) = descriptor.filter(|((bytes, _), _)| bytes.len() > EXTENSION_VALUE_LEN_MAX) {
            let rest = bytes.len() + prefix.len() + payload.len() + Crypto::OVERHEAD_MAX;
            if HEADER_LEN_MAX + TWO_BYTE_LEN + rest <= FRAME_LEN {
                writer.use_two_bytes();
            }
        }
        writer.extension(id(Extension::TransportCc), &self.transport_cc_seq.to_be_bytes());
        writer.extension(id(Extension::AbsSendTime), &self.abs_send_time);
        writer.extension(id(Extension::Mid), self.mid);
        for (extension, len, value) in &self.carried.items[..self.carried.count] {
            writer.extension(self.ids[usize::from(*extension)], &value[..usize::from(*len)]);
        }
        if let Some(((bytes, mask), number)) = descriptor
            && writer.extension(described, bytes)
            && let [first, high, low, ..] = writer.last(bytes.len())
        {
            *first &= mask;
            [*high, *low] = number.to_be_bytes();
        }
        let header_len = writer.finish();
        let prefix_end = header_len + prefix.len();
        frame[header_len..prefix_end].copy_from_slice(prefix);
        let whole = prefix_end + payload.len();
        let even = whole.next_multiple_of(EVEN_LEN);
        let is_padded = self.is_evened && payload.may_be_padded() && even <= EVEN_LEN_MAX;
        let padding = if is_padded { even - whole } else { 0 };
        if padding > 0 {
            frame[0] |= rtp::PADDING_BIT;
        }
        let (start_len, rest) = payload.split(padding, &mut frame[prefix_end..]);
        Begun { header_len, len: prefix_end + start_len, rest }
    }
}
