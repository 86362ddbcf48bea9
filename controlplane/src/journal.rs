//! What a controlplane leaves for its successor: one entry for each connected peer, in the shared memory of its
//! worker's link, never on disk.
//!
//! An entry says what the worker does not know: the room, the name, the session, what the tracks show. It holds no
//! keys and no secret: of the session only the hash by which a client that shows it is recognised. To the
//! successor the entries are input: one that does not read, or does not fit what is installed, is dropped.

use serde::{Deserialize, Serialize};

use proto::id::PeerId;

use crate::member::{Slot, Track};
use crate::negotiated::Negotiated;
use crate::policy::Grant;
use crate::sdp::OpusParams;
use crate::session::SessionHash;

/// Bytes of an entry that always find room in a slot of the journal.
pub(crate) const ENTRY_LEN_MAX: usize = 8_000;

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its place on the worker; the index is the entry's slot.
    #[serde(with = "crate::ids::pair")]
    pub(crate) peer: PeerId,
    /// Its room.
    pub(crate) room: String,
    /// Its id as others see it.
    pub(crate) id: String,
    /// What its token allows, and its name.
    pub(crate) grant: Grant,
    /// By what it is recognised.
    pub(crate) session: SessionHash,
    /// What it publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// Whom it wants to receive, if not everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) from: Vec<String>,
    /// What it declares of Opus where it receives.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(crate) hears: Option<OpusParams>,
    /// Whether it has an HTTP resource instead of a socket; the session is the resource's id.
    #[serde(rename = "w", alias = "is_resource", default)]
    pub(crate) is_resource: bool,
    /// The room that it joined by, if it was moved since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<String>,
    /// What a subsequent offer of it must agree with.
    #[serde(rename = "terms")]
    pub(crate) negotiated: Negotiated,
}

impl Entry {
    /// The bytes of the entry.
    pub(crate) fn write(&self) -> Vec<u8> {
        let bytes = serde_json::to_vec(self).expect("an entry has only strings, numbers and lists");
        assert!(bytes.len() <= ENTRY_LEN_MAX, "tracks_max and slots_max keep an entry within its slot");
        bytes
    }

    /// Reads the entry of a slot. `None` if it is none, or that of another slot.
    pub(crate) fn read(slot: u32, bytes: &[u8]) -> Option<Entry> {
        let entry: Entry = serde_json::from_slice(bytes).ok()?;
        let has_groups = entry.slots.iter().enumerate().all(|(n, slot)| {
            entry.slots[..n].iter().all(|other| (other.kind, other.sync_group) != (slot.kind, slot.sync_group))
        });
        (entry.peer.index == slot && entry.peer.generation != 0 && has_groups).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{Rid, SlotId, StreamId};
    use proto::plane::{Codec, TRACK_ENCODINGS_MAX};
    use proto::signal::{Kind, Source};
    use proto::work::Role;

    use crate::auth::{MAKERS_MAX, Maker, TIME_MAX_S};
    use crate::member::{Encoding, Format};
    use crate::policy::{
        FROM_LEN_MAX, FROM_MAX, NAME_CHARS_MAX, ROOM_CHARS_MAX, SIMULCAST_TRACKS_MAX, SLOTS_CEILING, TRACKS_CEILING,
    };

    fn largest() -> Entry {
        let format = |codec| Format { codec, pt: 127, rtx_pt: 127 };
        let formats = (format(Codec::H264), Some(format(Codec::Vp8)));
        let track = Track {
            stream: StreamId::new(u32::MAX, u32::MAX),
            mid: "m".repeat(16),
            source: Source::ScreenAudio,
            is_active: false,
            formats,
            is_muted: true,
            is_paused: true,
            audio_bps: Some(510_000),
            encodings: Vec::new(),
        };
        let encoding = Encoding { stream: track.stream, rid: Rid::parse(&[b'r'; 16]).unwrap() };
        let in_several = Track { encodings: vec![encoding; TRACK_ENCODINGS_MAX], ..track.clone() };
        let slot = |sync_group| Slot {
            slot: SlotId::new(u32::MAX, u32::MAX),
            mid: "\u{7e}".repeat(16),
            kind: Kind::Video,
            sync_group,
            is_paused: true,
            formats,
            red_pt: 0, // Only of audio, whose slots have no second codec.
            carries: None,
        };
        Entry {
            peer: PeerId::new(4095, u32::MAX),
            room: "r".repeat(ROOM_CHARS_MAX),
            id: "i".repeat(16),
            grant: Grant {
                room: "r".repeat(ROOM_CHARS_MAX),
                name: "\u{1f600}".repeat(NAME_CHARS_MAX),
                publish: false,
                data: false,
                subscribe: false,
                admin: false,
                role: Some(Role::Feed),
                expires_at: Some(u64::MAX),
                issued_to: Some("f".repeat(16)),
                token: Some("f".repeat(16)),
                made_by: vec![
                    Maker {
                        token: "f".repeat(16),
                        name: "f".repeat(16),
                        iat: TIME_MAX_S,
                        governs_everything: true
                    };
                    MAKERS_MAX
                ]
                .into(),
            },
            session: SessionHash::of("session"),
            tracks: [vec![track; TRACKS_CEILING - SIMULCAST_TRACKS_MAX], vec![in_several; SIMULCAST_TRACKS_MAX]]
                .concat(),
            slots: (0..SLOTS_CEILING as u8).map(slot).collect(),
            from: vec!["\"".repeat(FROM_LEN_MAX / FROM_MAX); FROM_MAX],
            hears: Some(OpusParams {
                maxaveragebitrate: Some(510_000),
                maxplaybackrate: Some(47_999),
                minptime: Some(120),
                ptime: Some(120),
                maxptime: Some(120),
                ..OpusParams::default()
            }),
            is_resource: true,
            home: Some("h".repeat(ROOM_CHARS_MAX)),
            negotiated: Negotiated::largest(),
        }
    }

    #[test]
    fn the_largest_entry_fits_and_comes_back() {
        let entry = largest();
        assert_eq!(Entry::read(4095, &entry.write()), Some(entry.clone()));
        assert_eq!(Entry::read(4094, &entry.write()), None);
        let room = ENTRY_LEN_MAX - entry.write().len();
        assert!(room >= 128, "{room} bytes are left for what an entry will hold next");
    }

    #[test]
    fn two_slots_of_one_sync_group_are_no_entry() {
        let mut entry = largest();
        entry.slots[7].sync_group = 3;
        assert_eq!(Entry::read(4095, &entry.write()), None);
    }

    #[test]
    fn an_entry_shows_no_session() {
        assert!(!String::from_utf8(largest().write()).unwrap().contains("\"session\":\"session\""));
    }

    proptest! {
        #[test]
        fn what_is_no_entry_is_refused(cut in 0usize..2000, at in 0usize..2000, byte in any::<u8>(), junk: Vec<u8>) {
            prop_assert_eq!(Entry::read(0, &junk), None);
            let mut bytes = largest().write();
            bytes[at] = byte;
            let _ = Entry::read(4095, &bytes);
            bytes.truncate(cut);
            prop_assert_eq!(Entry::read(4095, &bytes), None);
        }
    }
}
