//! The send position of one SSRC, and the only way to protect: which packet indices (RFC 3711 §3.3.1) have left under the
//! key. An index that left once never leaves again with other bytes, because the keystream of two packets would be the same.
//! A packet may leave again as it is (a retransmission without RTX): what comes out is compared with the seal of what left,
//! and where they differ, nothing leaves. So whoever asks for it may be wrong about any part of the packet.

use super::window::{ReplayWindow, Replayed, SentWindow, Window};
use super::{Crypto, RTCP_INDEX_MAX};
use crate::config::STREAM_AUDIO_KEPT;

/// Where a sender is: the index that follows all that have left. Plain, so that it can be saved and restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// No index from here on has left.
    pub next: u64,
}

/// A position that was to be restored is behind the one that was reached: its indices would leave a second time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a send position cannot go back")]
pub struct Backwards;

/// Sends SRTP packets of one SSRC. What has left is in a window, so that a late packet may still leave under its own index.
pub(crate) struct Sender<W = Window> {
    ssrc: u32,
    /// See [`is_video`](Self::is_video).
    is_video: bool,
    sent: W,
    /// Of the newest packets, where they may leave again.
    seals: Option<Box<Seals>>,
}

/// Packets of one SSRC that may leave again: the newest, as many of audio as are kept.
pub(crate) const SEALS: usize = STREAM_AUDIO_KEPT;

/// By the low bits of its index, the end of each packet that left: eight bytes of its authentication tag, which depends on
/// every byte of header and payload. A packet that differs has another tag but for one in 2^64. A seal of another index
/// does not fit either, so the indices need not be remembered.
struct Seals([u64; SEALS]);

impl Seals {
    fn of(packet: &[u8]) -> u64 {
        packet.last_chunk().map_or(0, |tag| u64::from_be_bytes(*tag))
    }

    fn place(&mut self, index: u64) -> &mut u64 {
        &mut self.0[index as usize % SEALS]
    }
}

/// The sender of a stream whose packets leave in order.
pub(crate) type OrderedSender = Sender<Ordered>;

/// What has left where packets leave in order: everything before the next index.
#[derive(Default)]
pub(crate) struct Ordered {
    next: u64,
}

impl ReplayWindow for Ordered {
    const WIDTH: u64 = 1;

    fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    fn check(&self, index: u64) -> Result<(), Replayed> {
        if index < self.next { Err(Replayed) } else { Ok(()) }
    }

    fn update(&mut self, index: u64) {
        self.next = self.next.max(index + 1);
    }
}

impl SentWindow for Ordered {
    fn up_to(highest: u64) -> Ordered {
        Ordered { next: highest + 1 }
    }
}

impl<W: SentWindow> Sender<W> {
    /// A sender whose first index is `first`.
    pub(crate) fn new(ssrc: u32, first: u64) -> Self {
        let sent = first.checked_sub(1).map_or_else(W::default, W::up_to);
        Sender { ssrc, is_video: true, sent, seals: None }
    }

    /// Whether its packets are the first to be dropped on a path that does not take all: video is, until its slot carries
    /// something else, and RTX is video's.
    #[inline]
    pub(crate) fn is_video(&self) -> bool {
        self.is_video
    }

    /// What it sends from now on.
    pub(crate) fn set_video(&mut self, is_video: bool) {
        self.is_video = is_video;
    }

    /// From now on packets may leave again. The memory for that is taken here.
    pub(crate) fn seal(&mut self) {
        self.seals.get_or_insert_with(|| Box::new(Seals([0; SEALS])));
    }

    /// The SSRC that it sends from.
    #[inline]
    pub(crate) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The index that follows all that have left.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.sent.highest().map_or(0, |highest| highest + 1)
    }

    /// Whether a packet may leave under this index: none has, and it is not too old to tell.
    #[cfg(test)]
    fn may_send(&self, index: u64) -> bool {
        self.sent.check(index).is_ok()
    }

    /// Protects a packet under this index as [`Crypto::protect_rtp`] does, and remembers that it has left. `None`: nothing
    /// may leave, because the index has left before or the key is used up.
    #[inline]
    #[must_use = "without a length the buffer still holds plaintext"]
    pub(crate) fn protect(
        &mut self,
        crypto: &Crypto,
        index: u64,
        header_len: usize,
        buffer: &mut [u8],
        len: usize,
        rest: &[u8],
    ) -> Option<usize> {
        self.sent.check(index).ok()?;
        let len = crypto.protect_rtp(self.ssrc, index, header_len, buffer, len, rest)?;
        self.sent.update(index);
        if let Some(seals) = &mut self.seals {
            *seals.place(index) = Seals::of(&buffer[..len]);
        }
        Some(len)
    }

    /// Protects a packet that has left under this index as [`protect`](Self::protect) did, given as it was given then. `None`:
    /// nothing may leave, because it has not left, or this would not be the same bytes.
    #[must_use = "without a length the buffer must not leave"]
    pub(crate) fn protect_again(
        &mut self,
        crypto: &Crypto,
        index: u64,
        header_len: usize,
        buffer: &mut [u8],
        len: usize,
        rest: &[u8],
    ) -> Option<usize> {
        let seals = self.seals.as_mut()?;
        if self.sent.check(index).is_ok() {
            return None;
        }
        let len = crypto.protect_rtp(self.ssrc, index, header_len, buffer, len, rest)?;
        (*seals.place(index) == Seals::of(&buffer[..len])).then_some(len)
    }

    /// Where it is.
    #[cfg_attr(not(test), expect(dead_code, reason = "checkpoints read it"))]
    pub(crate) fn position(&self) -> Position {
        Position { next: self.next() }
    }

    /// Goes on from a position that was saved. Everything before it counts as sent.
    #[cfg_attr(not(test), expect(dead_code, reason = "checkpoints restore it"))]
    pub(crate) fn restore(&mut self, position: Position) -> Result<(), Backwards> {
        if position.next < self.next() {
            return Err(Backwards);
        }
        let (seals, is_video) = (self.seals.take(), self.is_video);
        *self = Sender { seals, is_video, ..Sender::new(self.ssrc, position.next) };
        Ok(())
    }
}

/// Sends SRTCP packets to one peer. All of our SSRCs share one count, which is more than RFC 3711 §3.2.1 asks for: an index
/// is used with one SSRC at most. It is 31 bits long and does not wrap (RFC 3711 §9.2).
#[derive(Default)]
pub(crate) struct RtcpSender {
    /// The last index that left; the first is 1.
    last: u32,
}

impl RtcpSender {
    /// Protects a compound packet in place as [`Crypto::protect_rtcp`] does, under the next index. `None`: the indices are
    /// used up, decades of reports away, and nothing may leave.
    #[must_use = "without a length the buffer still holds plaintext"]
    pub(crate) fn protect(&mut self, crypto: &Crypto, buffer: &mut [u8], len: usize) -> Option<usize> {
        let index = self.last.checked_add(1).filter(|index| *index <= RTCP_INDEX_MAX)?;
        let len = crypto.protect_rtcp(index, buffer, len)?;
        self.last = index;
        Some(len)
    }

    /// Where it is.
    #[cfg_attr(not(test), expect(dead_code, reason = "checkpoints read it"))]
    pub(crate) fn position(&self) -> Position {
        Position { next: u64::from(self.last) + 1 }
    }

    /// Goes on from a position that was saved.
    #[cfg_attr(not(test), expect(dead_code, reason = "checkpoints restore it"))]
    pub(crate) fn restore(&mut self, position: Position) -> Result<(), Backwards> {
        if position.next <= u64::from(self.last) {
            return Err(Backwards);
        }
        self.last = u32::try_from(position.next - 1).unwrap_or(RTCP_INDEX_MAX).min(RTCP_INDEX_MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::plane::{KEY_LEN_MAX, SALT_LEN_MAX, SrtpProfile};

    use super::super::INDEX_MAX;
    use super::*;

    fn crypto() -> Crypto {
        Crypto::new(SrtpProfile::AeadAes128Gcm, &[1; KEY_LEN_MAX], &[2; SALT_LEN_MAX])
    }

    fn protects(sender: &mut Sender, index: u64) -> bool {
        let mut buffer = [0; 64];
        sender.protect(&crypto(), index, 12, &mut buffer, 20, &[]).is_some()
    }

    #[test]
    fn no_index_leaves_twice() {
        let mut sender = Sender::<Window>::new(7, 100);
        assert_eq!(sender.next(), 100);
        assert!(!sender.may_send(99) && !protects(&mut sender, 99), "before its first");
        assert!(protects(&mut sender, 100) && protects(&mut sender, 103) && protects(&mut sender, 101));
        assert_eq!(sender.next(), 104);
        assert!(!protects(&mut sender, 101) && !protects(&mut sender, 103));
        assert!(sender.may_send(102), "a gap is filled late");
        let mut from_zero = Sender::<Window>::new(7, 0);
        assert_eq!(from_zero.next(), 0);
        assert!(protects(&mut from_zero, 0) && !protects(&mut from_zero, 0));
    }

    /// Header of 12 bytes, then the payload; what leaves, if anything does.
    fn packet_of(header: u8, payload: &[u8]) -> ([u8; 128], usize) {
        let mut buffer = [0; 128];
        buffer[..12].fill(header);
        buffer[12..12 + payload.len()].copy_from_slice(payload);
        (buffer, 12 + payload.len())
    }

    fn leaves(
        sender: &mut Sender,
        crypto: &Crypto,
        index: u64,
        again: bool,
        (mut buffer, len): ([u8; 128], usize),
    ) -> Option<Vec<u8>> {
        let len = match again {
            false => sender.protect(crypto, index, 12, &mut buffer, len, &[]),
            true => sender.protect_again(crypto, index, 12, &mut buffer, len, &[]),
        };
        len.map(|len| buffer[..len].to_vec())
    }

    /// Of all packets that are asked to leave again, only the one that left does, byte for byte: whatever index, header or
    /// payload they are asked with.
    #[test]
    fn no_index_leaves_twice_with_other_bytes() {
        for profile in [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80] {
            let crypto = Crypto::new(profile, &[1; KEY_LEN_MAX], &[2; SALT_LEN_MAX]);
            let mut sender = Sender::<Window>::new(7, 100);
            assert_eq!(leaves(&mut sender, &crypto, 100, true, packet_of(0, b"early")), None, "nothing has left");
            let mut left: std::collections::BTreeMap<u64, Vec<u8>> = Default::default();
            let payload = |index: u64| [index as u8; 40];
            sender.seal();
            for index in (100..300).filter(|index| index % 7 != 0) {
                let bytes = leaves(&mut sender, &crypto, index, false, packet_of(index as u8, &payload(index)));
                left.insert(index, bytes.expect("it leaves once"));
            }
            let next = sender.next();
            for index in 0..400 {
                for (header, len, change) in
                    (0..=255u8).flat_map(|header| [(header, 40, 0), (header, 39, 0), (header, 40, 1)])
                {
                    let mut bytes = payload(index);
                    bytes[20] ^= change;
                    let again = leaves(&mut sender, &crypto, index, true, packet_of(header, &bytes[..len]));
                    let is_same = header == index as u8 && len == 40 && change == 0;
                    let is_in_place = |later: &u64| (later - index).is_multiple_of(SEALS as u64);
                    let is_newest = !left.range(index + 1..).any(|(later, _)| is_in_place(later));
                    let may_leave = is_same && is_newest && left.contains_key(&index);
                    assert_eq!(again.is_some(), may_leave, "{profile:?} {index} {header} {len} {change}");
                    assert!(again.is_none_or(|bytes| left[&index] == bytes));
                }
            }
            assert_eq!(sender.next(), next, "nothing of it moves the position");
            let other = Crypto::new(profile, &[9; KEY_LEN_MAX], &[2; SALT_LEN_MAX]);
            assert_eq!(
                leaves(&mut sender, &other, 299, true, packet_of(299u64 as u8, &payload(299))),
                None,
                "another key"
            );
        }
    }

    #[test]
    fn a_sender_that_does_not_seal_sends_nothing_again() {
        let (crypto, mut sender) = (crypto(), Sender::<Window>::new(7, 100));
        assert!(leaves(&mut sender, &crypto, 100, false, packet_of(1, b"once")).is_some());
        assert_eq!(leaves(&mut sender, &crypto, 100, true, packet_of(1, b"once")), None);
    }

    #[test]
    fn what_did_not_leave_has_not_used_its_index() {
        let mut sender = Sender::<Window>::new(7, INDEX_MAX);
        assert!(!protects(&mut sender, INDEX_MAX + 1), "the key is used up");
        assert_eq!(sender.next(), INDEX_MAX);
        assert!(protects(&mut sender, INDEX_MAX));
    }

    #[test]
    fn a_position_is_restored_forwards_only() {
        for first in [1, 63, 64, 65, 1000, 70_000] {
            let mut sender = Sender::<Window>::new(7, first);
            assert!(protects(&mut sender, first));
            let saved = sender.position();
            assert_eq!(saved.next, first + 1);
            assert!(protects(&mut sender, first + 1));
            assert_eq!(sender.restore(saved), Err(Backwards));
            let ahead = Position { next: first + 10_000 };
            assert_eq!(sender.restore(ahead), Ok(()));
            assert_eq!(sender.position(), ahead);
            assert!((0..ahead.next).rev().take(2000).all(|index| !sender.may_send(index)), "all before it has left");
            assert!(protects(&mut sender, ahead.next + 3));
            assert!((0..3).all(|n| protects(&mut sender, ahead.next + n)), "nothing after it has");
        }
        let mut ordered = OrderedSender::new(7, 5);
        assert_eq!(ordered.restore(Position { next: 300 }), Ok(()));
        assert!(!ordered.may_send(299) && ordered.may_send(300));
    }

    #[test]
    fn rtcp_counts_from_one_and_ends() {
        let mut sender = RtcpSender::default();
        let mut buffer = [0; 64];
        assert!(sender.protect(&crypto(), &mut buffer, 8).is_some());
        assert_eq!(sender.position(), Position { next: 2 });
        assert_eq!(sender.restore(Position { next: 1 }), Err(Backwards));
        assert_eq!(sender.restore(Position { next: RTCP_INDEX_MAX.into() }), Ok(()));
        assert!(sender.protect(&crypto(), &mut buffer, 8).is_some());
        assert!(sender.protect(&crypto(), &mut buffer, 8).is_none(), "the last index has left");
    }
}
