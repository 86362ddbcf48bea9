//! Datagrams that cross the planes: punted up, injected down.

use std::net::SocketAddr;

use super::field::Field;
use super::value::DatagramKind;
use super::{DATAGRAM_LEN_MAX, DATAGRAM_RECORD_LEN};
use crate::id::PeerId;

/// A datagram that crosses the planes: punted up or injected down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramHeader {
    /// Why it crosses.
    pub kind: DatagramKind,
    /// Whose.
    pub peer: PeerId,
    /// Punted: where it came from. Injected: where to send it; the worker refuses an address that the peer
    /// has not validated by an authenticated check.
    pub remote: SocketAddr,
    /// Bytes of payload, at most [`DATAGRAM_LEN_MAX`].
    pub len: u16,
}

const DATAGRAM_HEADER_LEN: usize = 1 + 8 + 19 + 2;
const _: () = assert!(DATAGRAM_HEADER_LEN + DATAGRAM_LEN_MAX <= DATAGRAM_RECORD_LEN);
const _: () = assert!(DATAGRAM_RECORD_LEN.is_multiple_of(64));
pub(super) const DATAGRAM_LAYOUT: &str = "Datagram{kind:u8,peer:PeerId,remote:SocketAddr,len:u16,bytes:[u8;1500]}";

impl DatagramHeader {
    /// Writes header and payload into a record. `None` if the payload is longer than [`DATAGRAM_LEN_MAX`].
    pub fn write(
        kind: DatagramKind,
        peer: PeerId,
        remote: SocketAddr,
        payload: &[u8],
        record: &mut [u8; DATAGRAM_RECORD_LEN],
    ) -> Option<()> {
        if payload.len() > DATAGRAM_LEN_MAX {
            return None;
        }
        kind.write(&mut record[..1]);
        peer.write(&mut record[1..9]);
        remote.write(&mut record[9..28]);
        (payload.len() as u16).write(&mut record[28..30]);
        record[DATAGRAM_HEADER_LEN..][..payload.len()].copy_from_slice(payload);
        Some(())
    }

    /// Reads a record that another process wrote: the header and the payload.
    pub fn read(record: &[u8; DATAGRAM_RECORD_LEN]) -> Option<(DatagramHeader, &[u8])> {
        let header = DatagramHeader {
            kind: DatagramKind::read(&record[..1])?,
            peer: PeerId::read(&record[1..9])?,
            remote: SocketAddr::read(&record[9..28])?,
            len: u16::read(&record[28..30])?,
        };
        let len = usize::from(header.len);
        (len <= DATAGRAM_LEN_MAX).then(|| (header, &record[DATAGRAM_HEADER_LEN..][..len]))
    }
}
