//! The packets of a worker in the clear, each of them once. Whoever needs one later (the fan-out of this turn, the answer to a
//! NACK, the lane to another worker) holds a [`Handle`], which goes stale by itself when the packet is overwritten.
//!
//! Memory is bounded whatever the number of streams. Packets of streams that have receivers here are *kept*: they overwrite
//! the oldest kept packet of the worker, but a stream that has used up its quota overwrites its own oldest instead, so that no
//! publisher can push out what others' receivers may still ask for. Audio has shorter places and a quota of its own, so it
//! does not push out video, nor video it. All other packets only *pass*: they last for as long as a turn needs them.

use proto::id::{Ssrc, StreamId};

use crate::config::{
    AUDIO_KEPT_LEN, AUDIO_KEPT_MAX, ENCODING_KEPT_MAX, EVEN_LEN, FRAME_LEN, KEPT_PACKETS_MAX, PASSING_PACKETS_MAX,
    STREAM_AUDIO_KEPT, STREAM_KEPT_MAX, STREAM_KEPT_MIN, STREAMS_KEPT_WHOLE,
};
use crate::picture::Renumber;

/// Which packets an index counts: those of one SSRC of a stream. A stream that changes its SSRC counts anew, and a
/// repair must not find the new packet under the old number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) stream: StreamId,
    pub(crate) ssrc: Ssrc,
}

/// Where the payload of a packet begins, at the least: AES works on aligned blocks.
const PAYLOAD_ALIGN: usize = 16;
/// Bytes of one place: header, payload, and room for padding behind it.
const STRIDE: usize = stride(FRAME_LEN);
/// The same of one for audio.
const AUDIO_STRIDE: usize = stride(AUDIO_KEPT_LEN);
/// Places of packets that pass, behind those of kept video.
const PASSING_FROM: usize = KEPT_PACKETS_MAX;
/// Places of kept audio, behind those.
const AUDIO_FROM: usize = KEPT_PACKETS_MAX + PASSING_PACKETS_MAX;
const PLACES: usize = AUDIO_FROM + AUDIO_KEPT_MAX;

const fn stride(len: usize) -> usize {
    (len + PAYLOAD_ALIGN + EVEN_LEN).next_multiple_of(PAYLOAD_ALIGN)
}

/// Where the bytes of a place are.
#[inline]
fn bytes_of(place: usize) -> std::ops::Range<usize> {
    let (start, len) = match place.checked_sub(AUDIO_FROM) {
        None => (place * STRIDE, STRIDE),
        Some(place) => (AUDIO_FROM * STRIDE + place * AUDIO_STRIDE, AUDIO_STRIDE),
    };
    start..start + len
}

/// What is known of the packet at one place.
#[derive(Clone, Copy)]
struct Entry {
    source: Source,
    index: u64,
    /// Number of the packet among all that were stored; 0 for none.
    serial: u64,
    head_len: u16,
    payload_len: u16,
}

/// No stream.
const NONE: Source = Source { stream: StreamId::new(u32::MAX, 0), ssrc: 0 };
const EMPTY: Entry = Entry { source: NONE, index: 0, serial: 0, head_len: 0, payload_len: 0 };

impl Entry {
    fn payload_start(&self) -> usize {
        usize::from(self.head_len).next_multiple_of(PAYLOAD_ALIGN)
    }
}

/// A packet in the store, for as long as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    place: u32,
    serial: u64,
}

/// Where the kept packets of one stream are, by the low bits of their index. As many as its quota.
pub(crate) struct Kept {
    places: Box<[u16]>,
    is_audio: bool,
}
const _: () = assert!(PLACES <= 1 << u16::BITS);

impl Kept {
    /// None yet, of a stream of video whose publisher has so many other tracks of video that were there before.
    pub(crate) fn video(others: usize) -> Kept {
        Kept::of_quota(if others < STREAMS_KEPT_WHOLE { STREAM_KEPT_MAX } else { STREAM_KEPT_MIN }, false)
    }

    /// The same of one of several encodings of a track.
    pub(crate) fn of_encoding(others: usize) -> Kept {
        Kept::of_quota(if others < STREAMS_KEPT_WHOLE { ENCODING_KEPT_MAX } else { STREAM_KEPT_MIN }, false)
    }

    /// None yet, of a stream of audio.
    pub(crate) fn audio() -> Kept {
        Kept::of_quota(STREAM_AUDIO_KEPT, true)
    }

    fn of_quota(quota: usize, is_audio: bool) -> Kept {
        Kept { places: vec![0; quota].into_boxed_slice(), is_audio }
    }

    /// Longest packet that is kept.
    #[inline]
    fn len_max(&self) -> usize {
        if self.is_audio { AUDIO_KEPT_LEN } else { FRAME_LEN }
    }

    pub(crate) fn quota(&self) -> usize {
        self.places.len()
    }

    #[inline]
    fn slot_of(&self, index: u64) -> usize {
        // The length is a power of two.
        index as usize & (self.places.len() - 1)
    }
}

/// A payload on its way to one receiver.
pub(crate) struct Payload<'a> {
    body: Body<'a>,
    /// Header and extensions of the packet that it came in.
    head: &'a [u8],
    renumber: Option<Renumber>,
}

enum Body<'a> {
    /// In the store: so many bytes, followed by room for padding.
    Stored(&'a mut [u8], usize),
    /// Elsewhere.
    Bare(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// A payload that is not from the store, and is not padded.
    pub(crate) fn bare(bytes: &'a [u8]) -> Payload<'a> {
        Payload { body: Body::Bare(bytes), head: &[], renumber: None }
    }

    /// The same with the head of a packet that it goes ahead of.
    pub(crate) fn ahead_of(self, head: &'a [u8]) -> Payload<'a> {
        Payload { head, ..self }
    }

    /// Header and extensions of the packet that it came in.
    #[inline]
    pub(crate) fn head(&self) -> &'a [u8] {
        self.head
    }

    /// The same with the numbers of pictures that the receiver gets.
    #[inline]
    pub(crate) fn renumbered(self, renumber: Option<Renumber>) -> Payload<'a> {
        Payload { renumber, ..self }
    }

    /// Length without padding.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.body {
            Body::Stored(_, len) => *len,
            Body::Bare(bytes) => bytes.len(),
        }
    }

    /// Writes the start of the payload, as far as it is the receiver's own, to `out`. How much that is, and the rest of the
    /// payload with so many bytes of padding (RFC 3550 §5.1), fewer than [`EVEN_LEN`].
    #[inline]
    pub(crate) fn split(self, padding: usize, out: &mut [u8]) -> (usize, &'a [u8]) {
        let len = self.len();
        let bytes = match self.body {
            Body::Stored(bytes, _) => {
                if padding > 0 {
                    // Counts for other receivers may stand before it: the bytes of padding before the last mean nothing.
                    bytes[len + padding - 1] = padding as u8;
                }
                &bytes[..len + padding]
            }
            Body::Bare(bytes) => bytes,
        };
        let Some(renumber) = self.renumber else { return (0, bytes) };
        let start = len.min(Renumber::LEN_MAX);
        out[..start].copy_from_slice(&bytes[..start]);
        renumber.write(&mut out[..start]);
        (start, &bytes[start..])
    }

    /// Whether there is room for padding behind it.
    #[inline]
    pub(crate) fn may_be_padded(&self) -> bool {
        matches!(self.body, Body::Stored(..))
    }
}

/// See the module.
pub struct Store {
    bytes: Box<[u8]>,
    /// Kept packets of video, those that pass, kept packets of audio.
    entries: Box<[Entry]>,
    next_kept: usize,
    next_audio: usize,
    next_passing: usize,
    serial: u64,
    /// Packets from this number on are needed in this turn.
    needed_from: u64,
}

impl Store {
    pub(crate) fn new() -> Store {
        Store {
            bytes: vec![0; bytes_of(PLACES - 1).end].into_boxed_slice(),
            entries: vec![EMPTY; PLACES].into_boxed_slice(),
            next_kept: 0,
            next_audio: 0,
            next_passing: 0,
            serial: 0,
            needed_from: 1,
        }
    }

    /// Forgets all packets.
    pub(crate) fn clear(&mut self) {
        self.entries.fill(EMPTY);
    }

    /// Whether one more packet might overwrite one that this turn needs.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.serial + 1 >= self.needed_from + PASSING_PACKETS_MAX as u64
    }

    /// The packets that were stored by now are not needed for this turn any more.
    pub(crate) fn end_turn(&mut self) {
        self.needed_from = self.serial + 1;
    }

    /// Stores a packet of a stream, given as head and payload, for repairs. One that comes later than a newer one which is in
    /// its place only passes, as does one that would overwrite what this turn needs.
    #[inline]
    pub(crate) fn keep(&mut self, source: Source, kept: &mut Kept, index: u64, head: &[u8], payload: &[u8]) -> Handle {
        let slot = kept.slot_of(index);
        let former = usize::from(kept.places[slot]);
        let entry = &self.entries[former];
        // A place that was never used points at somebody else's packet, or at an index that has another place.
        let is_own = entry.source.stream == source.stream && kept.slot_of(entry.index) == slot;
        let is_overtaken = is_own && entry.source == source && entry.index > index;
        let is_needed = is_own && entry.serial >= self.needed_from;
        if is_overtaken || is_needed || head.len() + payload.len() > kept.len_max() {
            return self.pass(head, payload);
        }
        let place = if is_own {
            former
        } else {
            let place = self.next_place(kept.is_audio);
            kept.places[slot] = place as u16;
            place
        };
        self.put(place, source, index, head, payload)
    }

    /// The place of the oldest kept packet.
    #[inline]
    fn next_place(&mut self, is_audio: bool) -> usize {
        let (next, first, count) = match is_audio {
            true => (&mut self.next_audio, AUDIO_FROM, AUDIO_KEPT_MAX),
            false => (&mut self.next_kept, 0, KEPT_PACKETS_MAX),
        };
        let place = first + *next;
        *next = (*next + 1) % count;
        place
    }

    /// Stores a packet for this turn alone.
    #[inline]
    pub(crate) fn pass(&mut self, head: &[u8], payload: &[u8]) -> Handle {
        let place = PASSING_FROM + self.next_passing;
        self.next_passing = (self.next_passing + 1) % PASSING_PACKETS_MAX;
        // Nobody can be sent the head of a packet that is too long for a frame: only its payload is of use.
        let head = if head.len() + payload.len() > FRAME_LEN { &[] } else { head };
        self.put(place, NONE, 0, head, payload)
    }

    #[inline]
    fn put(&mut self, place: usize, source: Source, index: u64, head: &[u8], payload: &[u8]) -> Handle {
        self.serial += 1;
        let (head_len, payload_len) = (head.len() as u16, payload.len() as u16);
        let entry = Entry { source, index, serial: self.serial, head_len, payload_len };
        let frame = &mut self.bytes[bytes_of(place)];
        frame[..head.len()].copy_from_slice(head);
        let start = entry.payload_start();
        frame[start..start + payload.len()].copy_from_slice(payload);
        frame[start + payload.len()..][..EVEN_LEN].fill(0);
        self.entries[place] = entry;
        Handle { place: place as u32, serial: self.serial }
    }

    /// The entry of a packet, if it is still there.
    #[inline]
    fn entry(&self, handle: Handle) -> Option<&Entry> {
        self.entries.get(handle.place as usize).filter(|entry| entry.serial == handle.serial)
    }

    /// Head and payload of a packet, if they are still there.
    pub(crate) fn packet(&self, handle: Handle) -> Option<[&[u8]; 2]> {
        let entry = self.entry(handle)?;
        let frame = &self.bytes[bytes_of(handle.place as usize)];
        let (head, payload) = (&frame[..entry.head_len.into()], &frame[entry.payload_start()..]);
        Some([head, &payload[..entry.payload_len.into()]])
    }

    /// The payload of a packet, if it is still there.
    #[inline]
    pub(crate) fn payload(&mut self, handle: Handle) -> Option<Payload<'_>> {
        let entry = *self.entry(handle)?;
        let (start, len) = (entry.payload_start(), usize::from(entry.payload_len));
        let (head, rest) = self.bytes[bytes_of(handle.place as usize)].split_at_mut(start);
        let (head, bytes) = (&head[..entry.head_len.into()], &mut rest[..len + EVEN_LEN]);
        Some(Payload { body: Body::Stored(bytes, len), head, renumber: None })
    }

    /// The kept packet of a stream with this index, if it is still there.
    pub(crate) fn find(&self, source: Source, kept: &Kept, index: u64) -> Option<Handle> {
        let place = kept.places[kept.slot_of(index)];
        let entry = self.entries.get(usize::from(place))?;
        let is_it = entry.source == source && entry.index == index;
        is_it.then_some(Handle { place: place.into(), serial: entry.serial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: u64 = STREAM_KEPT_MAX as u64;
    const ALL: u64 = KEPT_PACKETS_MAX as u64;

    fn source(stream: u32, ssrc: u32) -> Source {
        Source { stream: StreamId::new(stream, 1), ssrc }
    }

    fn keep(store: &mut Store, source: Source, kept: &mut Kept, index: u64) -> Handle {
        let bytes = index.to_be_bytes();
        let handle = store.keep(source, kept, index, &bytes[..4], &bytes[4..]);
        store.end_turn();
        handle
    }

    fn found(store: &Store, source: Source, kept: &Kept, index: u64) -> Option<u64> {
        let [head, payload] = store.packet(store.find(source, kept, index)?)?;
        Some(u64::from_be_bytes([head, payload].concat().try_into().unwrap()))
    }

    #[test]
    fn what_is_recent_is_found_and_only_that() {
        let (a, b, renamed) = (source(0, 7), source(1, 7), source(0, 8));
        let mut store = Store::new();
        let (mut in_a, mut in_b) = (Kept::video(0), Kept::video(0));
        assert_eq!(store.find(a, &in_a, 0), None, "an unused place is not a packet");
        for index in 0..ALL {
            keep(&mut store, a, &mut in_a, index);
        }
        let last = ALL - 1;
        assert_eq!(found(&store, a, &in_a, last), Some(last));
        assert_eq!(found(&store, a, &in_a, last - QUOTA + 1), Some(last - QUOTA + 1));
        assert_eq!(found(&store, a, &in_a, last - QUOTA), None);
        keep(&mut store, b, &mut in_b, last);
        assert_eq!(found(&store, b, &in_b, last), Some(last));
        assert_eq!(found(&store, a, &in_b, last), None, "another stream's packet is not found");
        assert_eq!(found(&store, renamed, &in_a, last), None, "nor that of the stream's former SSRC");
        let late = keep(&mut store, a, &mut in_a, last - QUOTA);
        assert!(found(&store, a, &in_a, last).is_some(), "a packet that comes very late does not push out a newer one");
        assert!(store.packet(late).is_some(), "but it passes");
        let (mut young, mut in_young) = (Store::new(), Kept::video(0));
        keep(&mut young, a, &mut in_young, 9);
        keep(&mut young, a, &mut in_young, 8);
        assert_eq!(found(&young, a, &in_young, 8), Some(8), "out of order, into a place that was never used");
        store.clear();
        assert_eq!((found(&store, b, &in_b, last), store.packet(late)), (None, None));
    }

    #[test]
    fn a_stream_that_floods_overwrites_itself() {
        let (quiet, flood) = (source(0, 1), source(1, 2));
        let mut store = Store::new();
        let (mut in_quiet, mut in_flood) = (Kept::video(0), Kept::video(0));
        for index in 0..QUOTA {
            keep(&mut store, quiet, &mut in_quiet, index);
        }
        // Runs, jumps by what its places count, and other SSRCs.
        for n in 0..10 * ALL {
            let index = if n % 3 == 0 { n } else { n * QUOTA };
            keep(&mut store, Source { ssrc: n as u32 / 100, ..flood }, &mut in_flood, index);
        }
        assert!((0..QUOTA).all(|index| found(&store, quiet, &in_quiet, index) == Some(index)));
        assert!(store.next_kept <= 2 * QUOTA as usize, "it holds no more than its quota");
    }

    #[test]
    fn one_publisher_holds_less_than_half_however_many_streams_it_has() {
        let quota: usize = (0..crate::config::PEER_STREAMS_MAX).map(|others| Kept::video(others).places.len()).sum();
        assert!(quota <= KEPT_PACKETS_MAX / 2, "{quota}");
    }

    #[test]
    fn audio_has_places_and_a_quota_of_its_own() {
        const AUDIO_QUOTA: u64 = STREAM_AUDIO_KEPT as u64;
        let (video, audio, other) = (source(0, 1), source(1, 2), source(2, 3));
        let mut store = Store::new();
        let (mut in_video, mut in_audio, mut in_other) = (Kept::video(0), Kept::audio(), Kept::audio());
        keep(&mut store, video, &mut in_video, 7);
        keep(&mut store, other, &mut in_other, 7);
        for index in 0..4 * AUDIO_KEPT_MAX as u64 {
            keep(&mut store, audio, &mut in_audio, index);
        }
        let last = 4 * AUDIO_KEPT_MAX as u64 - 1;
        assert_eq!(found(&store, audio, &in_audio, last - AUDIO_QUOTA + 1), Some(last - AUDIO_QUOTA + 1));
        assert_eq!(found(&store, audio, &in_audio, last - AUDIO_QUOTA), None);
        assert_eq!(found(&store, video, &in_video, 7), Some(7));
        assert_eq!(found(&store, other, &in_other, 7), Some(7));
        // One that is too long for its place passes whole, and the longest that is kept touches no neighbour.
        let before = keep(&mut store, audio, &mut in_audio, last + 1);
        let longest = store.keep(audio, &mut in_audio, last + 2, &[1; 20], &[2; AUDIO_KEPT_LEN - 20]);
        let after = keep(&mut store, audio, &mut in_audio, last + 3);
        assert!(
            store
                .packet(longest)
                .is_some_and(|[head, payload]| head == [1; 20] && payload.len() == AUDIO_KEPT_LEN - 20)
        );
        assert!([before, after].iter().all(|handle| store.packet(*handle).is_some()));
        let long = store.keep(audio, &mut in_audio, last + 4, &[1; 20], &[2; AUDIO_KEPT_LEN]);
        assert_eq!(store.packet(long).map(|[_, payload]| payload.len()), Some(AUDIO_KEPT_LEN));
        assert_eq!(store.find(audio, &in_audio, last + 4), None);
    }

    #[test]
    fn nothing_that_a_turn_needs_is_overwritten_in_it() {
        let a = source(0, 7);
        let (mut store, mut kept) = (Store::new(), Kept::video(0));
        let mut handles = Vec::new();
        while !store.is_full() {
            let n = handles.len() as u64;
            handles.push(store.keep(a, &mut kept, n * QUOTA, b"head", &n.to_be_bytes()));
        }
        assert_eq!(handles.len(), PASSING_PACKETS_MAX);
        for (n, handle) in handles.iter().enumerate() {
            let kept = store.packet(*handle).map(|[_, payload]| payload.to_vec());
            assert_eq!(kept, Some(n.to_be_bytes().to_vec()));
        }
        store.end_turn();
        assert!(!store.is_full());
        keep(&mut store, a, &mut kept, 1000 * QUOTA);
        assert_eq!(store.packet(handles[0]), None, "its place was taken");
    }

    #[test]
    fn a_handle_goes_stale_by_itself() {
        let mut store = Store::new();
        let first = store.pass(b"head", b"payload");
        assert_eq!(store.packet(first), Some([&b"head"[..], &b"payload"[..]]));
        let padded = store.payload(first).map(|payload| payload.split(3, &mut []).1.to_vec());
        assert_eq!(padded, Some(b"payload\0\0\x03".to_vec()));
        for _ in 0..PASSING_PACKETS_MAX {
            store.pass(b"", b"other");
        }
        assert!(store.packet(first).is_none() && store.payload(first).is_none());
    }
}
