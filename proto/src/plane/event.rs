//! What a worker tells the controlplane.

use std::net::SocketAddr;

use super::command::{Command, KEY_LEN_MAX, PeerKeys, SALT_LEN_MAX};
use super::field::Field;
use super::record::records;
use super::value::{PathState, Refusal};
use super::{RECORD_LEN, Record};
use crate::id::{PeerId, StreamId};

records! {
    /// Worker to controlplane.
    Event, EVENT_LAYOUT {
        /// A batch took effect.
        Committed = 1 {
            /// Number of the batch.
            batch: u64,
        }
        /// A command of a batch was refused; the rest of the batch stands.
        Refused = 2 {
            /// Number of the next commit when it was read.
            batch: u64,
            /// Tag of the command, 0 if unreadable.
            tag: u16,
            /// Index of the object that it names.
            index: u32,
            /// Why.
            refusal: Refusal,
        }
        /// The peer's path was selected or moved: an address from which an authenticated check came (RFC 8445 §7.3), and which
        /// has answered one of ours.
        PeerPath = 3 {
            /// Whose.
            peer: PeerId,
            /// Where its packets go now.
            remote: SocketAddr,
            /// Whether a check from there carried USE-CANDIDATE.
            nominated: u8,
        }
        /// The selected path has not answered a check of ours for the consent time (RFC 7675 §5.1, 30 s), and no authentic
        /// packet came from it: nothing is sent to the peer any more.
        PeerExpired = 4 {
            /// Whose.
            peer: PeerId,
        }
        /// End of the echoes that a [`Describe`](super::Describe) asked for.
        Described = 6 {
            /// How many records were echoed.
            count: u64,
        }
        /// No authentic packet of a stream for about two seconds, or none yet although its peer has keys for so long. Not of
        /// RTX, and not of mirrors: who receives the stream from its peer says it. A description repeats it.
        StreamSilent = 7 {
            /// Which.
            stream: StreamId,
        }
        /// An authentic packet of a stream that was silent.
        StreamResumed = 8 {
            /// Which.
            stream: StreamId,
        }
        /// Neither an authenticated check nor an authentic packet on the selected path for about eight seconds, which is
        /// longer than the longest interval of checks (RFC 7675 §5.1: 6 s). A description repeats it.
        PeerSilent = 9 {
            /// Whose.
            peer: PeerId,
        }
        /// An authenticated check or an authentic packet of a peer that was silent.
        PeerResumed = 10 {
            /// Whose.
            peer: PeerId,
        }
        /// For about five seconds no slot, on whichever worker, was sent this encoding of a track or wanted it, while a smaller
        /// one flows. A description repeats it.
        EncodingIdle = 11 {
            /// Which.
            stream: StreamId,
        }
        /// A slot wants an encoding that was idle.
        EncodingWanted = 12 {
            /// Which.
            stream: StreamId,
        }
        /// Somebody speaks in a stream of audio, by the levels that its packets tell (RFC 6464), or is louder or quieter by 6 dB than was
        /// told; of one stream at most twice a second. Not of mirrors. A description repeats it.
        StreamSpeaks = 13 {
            /// Which.
            stream: StreamId,
            /// How loud: 127 plus the level in dBov, 0 to 127.
            loudness: u8,
        }
        /// Nobody speaks in a stream any more: no packet of half a second is loud, or none comes.
        StreamQuiet = 14 {
            /// Which.
            stream: StreamId,
        }
        /// Receivers of an encoding, on whichever worker, whose paths do not carry the next better one have more room than it takes. One
        /// that is told takes the place of the one before. Not of mirrors. A description repeats it.
        EncodingRate = 15 {
            /// Which.
            stream: StreamId,
            /// What the path of each of its receivers has room for, bit/s of payload; 0: nobody needs more than its publisher sends
            /// of its own.
            bps: u32,
        }
        /// What the probes of a path between edges have measured: each second while anything is sent between the two, each five seconds
        /// else, and when its state has changed.
        PathMeasured = 16 {
            /// The link.
            peer: PeerId,
            /// Number of the candidate ([`PeerCandidate`](super::PeerCandidate)).
            place: u8,
            /// Round trip, microseconds, the median of the newest five; 0 as long as nothing was answered.
            rtt_us: u32,
            /// What did not arrive, in a million.
            loss_ppm: u32,
            /// Mean difference of two round trips that follow each other, microseconds.
            jitter_us: u32,
            /// How it is.
            state: PathState,
        }
        /// Packets of a peer are being lost on the way to the worker, about a tenth or more: by the gaps in its transport-wide numbers, after
        /// three or more of them. At most once in five seconds while that goes on. A description does not repeat it.
        PeerLosing = 17 {
            /// Whose.
            peer: PeerId,
        }
    }
}

/// Bit of a tag in the event ring: the record is not an event but the echo of an installed command.
const ECHO_BIT: u16 = 0x8000;

/// What a record of the event ring says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// Something happened.
    Event(Event),
    /// Something is installed: the command that opened it, with the key and salt of [`PeerKeys`] blanked.
    Echo(Command),
}

impl Report {
    /// The record as it lies in the event ring.
    pub fn write(&self) -> Record {
        match self {
            Report::Event(event) => event.write(),
            Report::Echo(command) => {
                let command = match *command {
                    Command::PeerKeys(keys) => {
                        Command::PeerKeys(PeerKeys { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX], ..keys })
                    }
                    other => other,
                };
                let mut record = command.write();
                (command.tag() | ECHO_BIT).write(&mut record[..2]);
                record
            }
        }
    }

    /// Reads a record that the worker wrote; `None` unless it is valid.
    pub fn read(record: &Record) -> Option<Self> {
        let tag = u16::read(&record[..2])?;
        if tag & ECHO_BIT == 0 {
            return Event::read(record).map(Report::Event);
        }
        let mut command = *record;
        (tag & !ECHO_BIT).write(&mut command[..2]);
        Command::read(&command).map(Report::Echo)
    }
}
