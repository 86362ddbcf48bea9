//! Data of a room: messages between its peers, by data channels or by the signalling socket.
//!
//! Where it stands in a call: the worker punts what is application data after the handshake, [`crate::dtls`] decrypts it, and the peer's
//! [`Exchange`] makes messages of it (SCTP by the crate `dcsctp`, channels by [`dcep`], RFC 8832). The engine relays each message to
//! the others: to the client module framed ([`message`]) and acknowledged ([`mailbox`]), to other clients as it is, by the label of
//! their channels. Nobody's slow link delays others: what waits for one receiver is bounded, and given up beyond that.
//!
//! In the order in which a message meets them: [`association`] (SCTP and channels), [`message`] (what it says), [`sent`] (for whom it
//! waits), [`mailbox`] (what waits for one receiver), [`exchange`] (all of these of one peer).
//!
//! Everything here is sans-IO: bytes and the time go in, bytes and messages come out.

mod association;
mod dcep;
mod delay;
mod exchange;
pub mod hostile;
mod mailbox;
mod message;
mod sent;

pub(crate) use self::association::{Channel, ChannelEvent};
pub(crate) use self::exchange::{Exchange, Exchanged, RawDelivery};
pub(crate) use self::mailbox::{Delivery, Mailbox, Way};
pub(crate) use self::message::{Assembly, Framed, Message, Payload, parse_frame, parts, relayed};
pub(crate) use self::sent::{Sent, Taking};

/// Bytes of a label, or of a protocol, of a channel that are kept.
pub(crate) const LABEL_LEN_MAX: usize = 64;

/// Peers that a message names at most.
pub(crate) const TO_MAX: usize = 64;

/// Channels that one peer may have open.
pub(crate) const CHANNELS_MAX: usize = 64;

/// Bytes of messages that wait for one receiver, or for its acknowledgement; beyond that it is too slow. It is all that one sender may have
/// without an acknowledgement, as it is counted here.
pub(crate) const MAILBOX_LEN_MAX: usize = SENT_LEN_MAX + 128 * 1024;

/// Bytes of a sender's messages that others have acknowledged and a receiver has not; beyond that it is too slow. Half of what a sender may have
/// unacknowledged, so that one slow receiver does not hold up a sender.
pub(crate) const BEHIND_LEN_MAX: usize = SENT_LEN_MAX / 2;

/// Bytes that wait on one channel of a client of another kind, of which nobody knows what it has; beyond that the channel is closed.
pub(crate) const CHANNEL_LEN_MAX: usize = 1024 * 1024;

/// Where that much waits on the channels of all receivers, their sender is read no further: SCTP's window closes, and the sender slows down to
/// the quickest of them …
pub(crate) const CHANNEL_LEN_FULL: usize = 256 * 1024;
/// … until one of them has no more than this.
pub(crate) const CHANNEL_LEN_LOW: usize = 128 * 1024;

/// Bytes that may be on the way to a receiver by a data channel without its acknowledgement. 64 KiB are acknowledged at a time, so this keeps a
/// path of 200 Mb/s and a round trip of 10 ms full.
pub(crate) const FLIGHT_LEN_CHANNEL: usize = 384 * 1024;

/// The same by a socket, whose queue is bounded more tightly.
pub(crate) const FLIGHT_LEN_SOCKET: usize = 64 * 1024;

/// … and messages: half of what the queue of a socket holds, because a socket whose queue is full is cut off.
pub(crate) const FLIGHT_SOCKET_MAX: usize = 128;

/// Messages without an acknowledgement that a sender may have.
pub(crate) const SENT_MAX: usize = 512;

/// … and bytes of them.
pub(crate) const SENT_LEN_MAX: usize = 1024 * 1024;

/// Bytes of a message that is not reliable on the socket.
pub(crate) const LOSSY_LEN_SOCKET_MAX: usize = 16 * 1024;

/// How late a message that is not reliable may be sent, and how much of them may wait.
pub(crate) const LOSSY_LIFETIME: std::time::Duration = std::time::Duration::from_millis(100);
/// … bytes, and what they take in those 100 ms at 5 Mb/s.
pub(crate) const LOSSY_LEN_MAX: usize = 64 * 1024;

/// Bytes that count for a datagram, for a message, and for each copy of it, beside what they carry: small ones cost as much as these.
pub(crate) const DATAGRAM_COST: usize = 100;
pub(crate) const MESSAGE_COST: usize = 200;

/// Bytes of data, as they are counted, that all peers together may send in a second. A message counts when it comes and for each copy, so this is
/// 320 Mb/s from one to one, and half of what one core does (docs/MEASURING.md): the other half is for handshakes and signals.
pub(crate) const DATA_TOTAL: u32 = 80_000_000;

/// The protocol of the client module's channels.
pub(crate) const SDK_PROTOCOL: &str = "uprtc.data.1";
/// The label of its reliable one.
pub(crate) const SDK_LABEL: &str = "uprtc";
/// And of the other.
pub(crate) const SDK_LABEL_LOSSY: &str = "uprtc-lossy";
