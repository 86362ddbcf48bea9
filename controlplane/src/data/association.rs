//! One peer's SCTP association over its DTLS (RFC 8261), and the data channels on it (RFC 8831). The protocol is the crate `dcsctp`;
//! here are its limits, its clock and the channels.
//!
//! The client begins it: a browser does so as soon as DTLS is done, and until then it takes no memory.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use dcsctp::api::{
    DcSctpSocket, ErrorKind, Message, Options, PpId, SendOptions, SocketEvent, SocketTime, StreamId,
    ZERO_CHECKSUM_ALTERNATE_ERROR_DETECTION_METHOD_LOWER_LAYER_DTLS,
};
use proto::signal::MESSAGE_LEN_MAX;
use serde::{Deserialize, Serialize};

use super::dcep::{Dcep, Reliability};
use super::delay::Delay;
use super::{
    CHANNEL_LEN_MAX, CHANNELS_MAX, LABEL_LEN_MAX, LOSSY_LEN_MAX, LOSSY_LIFETIME, SDK_LABEL, SDK_LABEL_LOSSY,
    SDK_PROTOCOL,
};
use crate::dtls::DATA_LEN_MAX;
use crate::negotiated::DataChannels;
use crate::sdp::SCTP_PORT;

/// Bytes that a framed message may have beside what it says.
const HEADER_LEN_MAX: usize = 1024;

/// Bytes that a client may have on the way to us that are no whole messages yet: one of the longest on each of a few channels.
const WINDOW_LEN: usize = 1024 * 1024;

/// Longest wait for an answer before it is sent again, also on a path that was away for a while.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

const DCEP: PpId = PpId(50);
const TEXT: PpId = PpId(51);
const BINARY: PpId = PpId(53);
const TEXT_EMPTY: PpId = PpId(56);
const BINARY_EMPTY: PpId = PpId(57);

/// A data channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Channel {
    /// What it is for. Of a channel that was negotiated without DCEP `#` and its stream.
    pub(crate) label: String,
    /// What is said on it.
    pub(crate) protocol: String,
    /// How it delivers.
    pub(crate) reliability: Reliability,
    /// Whether nobody has opened it by DCEP: both ends agreed on the stream elsewhere.
    pub(crate) is_negotiated: bool,
}

impl Channel {
    /// Whether it is one that can be opened.
    pub(crate) fn is_valid(&self) -> bool {
        self.label.len() <= LABEL_LEN_MAX && self.protocol.len() <= LABEL_LEN_MAX
    }

    /// A channel for messages of a client module, at a client of another kind.
    pub(crate) fn for_label(label: &str, is_whole: bool) -> Channel {
        let reliability = match is_whole {
            true => Reliability::default(),
            false => Reliability { unordered: true, retransmits_max: Some(0), lifetime_ms: None },
        };
        Channel { label: label.to_owned(), protocol: String::new(), reliability, is_negotiated: false }
    }

    /// Whether it is the client module's, and there the one that delivers everything.
    pub(crate) fn of_sdk(&self) -> Option<bool> {
        match self.label.as_str() {
            SDK_LABEL if self.protocol == SDK_PROTOCOL => Some(true),
            SDK_LABEL_LOSSY if self.protocol == SDK_PROTOCOL => Some(false),
            _ => None,
        }
    }
}

/// What happened on an association.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ChannelEvent {
    /// The client has opened a channel.
    Opened(u16),
    /// A message came.
    Message {
        /// On which channel.
        stream: u16,
        /// Text, or bytes.
        is_text: bool,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A channel is closed, by the client or for a fault of it.
    Closed(Channel),
    /// The association is over.
    Ended(String),
}

/// What became of a message that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Given {
    /// It is on its way.
    Sent,
    /// More than it may have waits on the channel, and it delivers everything.
    Full,
    /// It would come late, and is dropped.
    Dropped,
    /// It is longer than the client takes, and is dropped.
    TooLong,
}

/// An association and its channels.
pub(crate) struct Association {
    socket: Box<dyn DcSctpSocket>,
    begun: Instant,
    now: Instant,
    channels: BTreeMap<u16, Channel>,
    /// The next stream on which we open a channel. The DTLS client has the even ones (RFC 8832 §6).
    next: u16,
    len_max: usize,
    delay: Delay,
    packets: VecDeque<Vec<u8>>,
    events: VecDeque<ChannelEvent>,
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Association").field("channels", &self.channels).finish_non_exhaustive()
    }
}

/// Whether a packet of SCTP begins an association: it has an INIT chunk, alone (RFC 9260 §6.10).
pub(crate) fn begins(packet: &[u8]) -> bool {
    packet.get(12) == Some(&1)
}

impl Association {
    /// One that waits for the client to begin. `is_client`: we are the DTLS client.
    pub(crate) fn new(now: Instant, agreed: DataChannels, is_client: bool) -> Association {
        let options = Options {
            local_port: SCTP_PORT,
            remote_port: agreed.port,
            // A multiple of four, as chunks are padded.
            mtu: DATA_LEN_MAX / 4 * 4,
            max_message_size: MESSAGE_LEN_MAX + HEADER_LEN_MAX,
            max_receiver_window_buffer_size: WINDOW_LEN,
            max_send_buffer_size: CHANNEL_LEN_MAX + MESSAGE_LEN_MAX + HEADER_LEN_MAX,
            per_stream_send_queue_limit: CHANNEL_LEN_MAX + MESSAGE_LEN_MAX + HEADER_LEN_MAX,
            // The peer is there while its consent lives, which is not for SCTP to judge.
            max_retransmissions: None,
            max_timer_backoff_duration: Some(BACKOFF_MAX),
            // libwebrtc's values: paths of real time are shorter than those that RFC 9260 has in mind.
            rto_min: Duration::from_millis(120),
            delayed_ack_max_timeout: Duration::from_millis(20),
            min_rtt_variance: Duration::from_millis(40),
            heartbeat_interval: Duration::ZERO,
            enable_message_interleaving: true,
            zero_checksum_alternate_error_detection_method:
                ZERO_CHECKSUM_ALTERNATE_ERROR_DETECTION_METHOD_LOWER_LAYER_DTLS,
            ..Options::default()
        };
        Association {
            socket: dcsctp::new_socket("peer", &options),
            begun: now,
            now,
            channels: BTreeMap::new(),
            next: u16::from(!is_client),
            len_max: if agreed.len_max == 0 { usize::MAX } else { agreed.len_max as usize },
            delay: Delay::new(now),
            packets: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// When it began.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// Takes a packet.
    pub(crate) fn handle(&mut self, now: Instant, packet: &[u8]) {
        self.set_clock(now);
        self.delay.received(now, packet);
        self.socket.handle_input(packet);
        self.collect();
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.set_clock(now);
        self.collect();
    }

    /// When [`Association::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let at = self.socket.poll_timeout();
        if at == SocketTime::infinite_future() {
            return None;
        }
        self.begun.checked_add(at - SocketTime::zero())
    }

    /// The next packet for the client. Call again until `None`.
    pub(crate) fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    /// What happened next. While it is paused, no message is taken: they wait in SCTP's window.
    pub(crate) fn poll_event(&mut self, is_paused: bool) -> Option<ChannelEvent> {
        while self.events.is_empty()
            && !is_paused
            && let Some(message) = self.socket.get_next_message()
        {
            self.take(message);
            // The window opens again, and DCEP was answered.
            self.collect();
        }
        self.events.pop_front()
    }

    /// Bytes that wait for the client on channels that are not the client module's and deliver everything.
    pub(crate) fn waiting(&self) -> usize {
        let is_raw = |channel: &Channel| channel.of_sdk().is_none() && channel.reliability.is_whole();
        self.channels().filter(|(_, channel)| is_raw(channel)).map(|(stream, _)| self.buffered(stream)).sum()
    }

    /// The channel on a stream.
    pub(crate) fn channel(&self, stream: u16) -> Option<&Channel> {
        self.channels.get(&stream)
    }

    /// All channels.
    pub(crate) fn channels(&self) -> impl Iterator<Item = (u16, &Channel)> {
        self.channels.iter().map(|(&stream, channel)| (stream, channel))
    }

    /// The client module's channel, the one that delivers everything or the other.
    pub(crate) fn of_sdk(&self, is_whole: bool) -> Option<u16> {
        self.channels().find(|(_, channel)| channel.of_sdk() == Some(is_whole)).map(|(stream, _)| stream)
    }

    /// Bytes that wait on a stream.
    pub(crate) fn buffered(&self, stream: u16) -> usize {
        self.socket.buffered_amount(StreamId(stream))
    }

    /// Opens a channel; messages may be sent on it at once (RFC 8832 §6). `None`: there are [`CHANNELS_MAX`].
    pub(crate) fn open(&mut self, now: Instant, channel: Channel) -> Option<u16> {
        if self.channels.len() >= CHANNELS_MAX {
            return None;
        }
        let mut stream = self.next;
        while self.channels.contains_key(&stream) {
            stream = stream.checked_add(2)?;
        }
        self.next = stream.checked_add(2)?;
        let Channel { label, protocol, reliability, .. } = channel.clone();
        self.channels.insert(stream, channel);
        self.put(now, stream, DCEP, Dcep::Open { reliability, label, protocol }.write(), &SendOptions::default());
        Some(stream)
    }

    /// Takes a channel on this stream for granted, as the client does that sends on it.
    pub(crate) fn assume(&mut self, stream: u16) -> bool {
        let is_free = !self.channels.contains_key(&stream) && self.channels.len() < CHANNELS_MAX;
        if is_free {
            self.channels.insert(stream, negotiated(stream));
        }
        is_free
    }

    /// The channel of a label that is not the client module's.
    pub(crate) fn labelled(&self, label: &str) -> Option<u16> {
        let is_it = |channel: &Channel| channel.of_sdk().is_none() && channel.label == label;
        self.channels().find(|(_, channel)| is_it(channel)).map(|(stream, _)| stream)
    }

    /// Sends a message on a channel.
    pub(crate) fn send(&mut self, now: Instant, stream: u16, is_text: bool, bytes: Vec<u8>) -> Given {
        let Some(channel) = self.channels.get(&stream) else { return Given::Dropped };
        let (reliability, is_sdk) = (channel.reliability, channel.of_sdk().is_some());
        let waiting = self.buffered(stream);
        if !is_sdk && bytes.len() > self.len_max {
            return Given::TooLong;
        }
        if reliability.is_whole() && waiting + bytes.len() > CHANNEL_LEN_MAX + HEADER_LEN_MAX {
            return Given::Full;
        }
        if !reliability.is_whole() && (waiting > LOSSY_LEN_MAX || !self.delay.admits(now, bytes.len())) {
            return Given::Dropped;
        }
        // What is not sent in time would only keep the next one waiting.
        let lifetime = (!reliability.is_whole()).then_some(LOSSY_LIFETIME);
        let lifetime =
            reliability.lifetime_ms.map(|ms| Duration::from_millis(ms.into())).into_iter().chain(lifetime).min();
        let options = SendOptions {
            unordered: reliability.unordered,
            lifetime,
            max_retransmissions: reliability.retransmits_max,
            lifecycle_id: None,
        };
        // RFC 8831 §6.6: SCTP has no empty messages.
        let (ppid, bytes) = match (is_text, bytes.is_empty()) {
            (true, false) => (TEXT, bytes),
            (false, false) => (BINARY, bytes),
            (true, true) => (TEXT_EMPTY, vec![0]),
            (false, true) => (BINARY_EMPTY, vec![0]),
        };
        if self.put(now, stream, ppid, bytes, &options) { Given::Sent } else { Given::Dropped }
    }

    /// Closes a channel (RFC 8831 §6.7).
    pub(crate) fn close(&mut self, now: Instant, stream: u16) -> Option<Channel> {
        let channel = self.channels.remove(&stream)?;
        self.reset(now, stream);
        Some(channel)
    }

    fn reset(&mut self, now: Instant, stream: u16) {
        self.set_clock(now);
        // A client without RFC 6525 cannot close channels; it keeps it, and we do not.
        let _ = self.socket.reset_streams(&[StreamId(stream)]);
        self.collect();
    }

    fn put(&mut self, now: Instant, stream: u16, ppid: PpId, bytes: Vec<u8>, options: &SendOptions) -> bool {
        self.set_clock(now);
        let is_taken = self.socket.send(Message::new(StreamId(stream), ppid, bytes), options).is_ok();
        self.collect();
        is_taken
    }

    fn set_clock(&mut self, now: Instant) {
        self.now = now;
        self.socket.advance_time(SocketTime::zero() + now.saturating_duration_since(self.begun));
    }

    fn collect(&mut self) {
        while let Some(event) = self.socket.poll_event() {
            match event {
                SocketEvent::SendPacket(packet) => {
                    self.delay.sent(self.now, &packet);
                    self.packets.push_back(packet);
                }
                SocketEvent::OnAborted(kind, reason) if kind != ErrorKind::NoError => {
                    self.events.push_back(ChannelEvent::Ended(reason));
                }
                SocketEvent::OnAborted(_, reason) => self.events.push_back(ChannelEvent::Ended(reason)),
                SocketEvent::OnClosed() => {
                    self.events.push_back(ChannelEvent::Ended("the client has closed it".into()))
                }
                SocketEvent::OnConnectionRestarted() => {
                    let lost = std::mem::take(&mut self.channels);
                    self.events.extend(lost.into_values().map(ChannelEvent::Closed));
                }
                SocketEvent::OnIncomingStreamReset(streams) => {
                    for StreamId(stream) in streams {
                        if let Some(channel) = self.channels.remove(&stream) {
                            let _ = self.socket.reset_streams(&[StreamId(stream)]); // As above.
                            self.events.push_back(ChannelEvent::Closed(channel));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, message: Message) {
        let Message { stream_id: StreamId(stream), ppid, payload } = message;
        let (is_text, bytes) = match ppid {
            DCEP => return self.take_dcep(stream, &payload),
            TEXT => (true, payload),
            BINARY => (false, payload),
            TEXT_EMPTY => (true, Vec::new()),
            BINARY_EMPTY => (false, Vec::new()),
            _ => return, // Those of RFC 8831 §8 that are deprecated, and what is no WebRTC at all.
        };
        if !self.channels.contains_key(&stream) {
            // RFC 8832 §6: without DCEP both ends have agreed on it elsewhere.
            if !self.assume(stream) {
                return;
            }
        }
        let is_of_text = !is_text || std::str::from_utf8(&bytes).is_ok();
        if is_of_text && bytes.len() <= MESSAGE_LEN_MAX + HEADER_LEN_MAX {
            self.events.push_back(ChannelEvent::Message { stream, is_text, bytes });
        }
    }

    fn take_dcep(&mut self, stream: u16, bytes: &[u8]) {
        match Dcep::parse(bytes) {
            Some(Dcep::Ack) => {}
            Some(Dcep::Open { reliability, label, protocol })
                if self.channels.len() < CHANNELS_MAX && !self.channels.contains_key(&stream) =>
            {
                let channel = Channel { label, protocol, reliability, is_negotiated: false };
                self.channels.insert(stream, channel);
                let ack = Message::new(StreamId(stream), DCEP, Dcep::Ack.write());
                let _ = self.socket.send(ack, &SendOptions::default()); // A full buffer: the client waits for it then.
                self.events.push_back(ChannelEvent::Opened(stream));
            }
            // Not understood, too many, or the stream is taken (RFC 8832 §6: it must be closed).
            _ => {
                let closed = self.channels.remove(&stream);
                let _ = self.socket.reset_streams(&[StreamId(stream)]);
                self.events.extend(closed.map(ChannelEvent::Closed));
            }
        }
    }
}

fn negotiated(stream: u16) -> Channel {
    Channel {
        label: format!("#{stream}"),
        protocol: String::new(),
        reliability: Reliability::default(),
        is_negotiated: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: DataChannels = DataChannels { port: SCTP_PORT, len_max: 0 };

    /// A client of the same library; those of browsers are met in bench/e2e and bench/interop.
    struct Client(Box<dyn DcSctpSocket>);

    impl Client {
        fn new() -> Client {
            let mut socket = dcsctp::new_socket("client", &Options::default());
            socket.connect();
            Client(socket)
        }

        fn send(&mut self, stream: u16, ppid: PpId, bytes: &[u8]) {
            let message = Message::new(StreamId(stream), ppid, bytes.to_vec());
            self.0.send(message, &SendOptions::default()).unwrap();
        }
    }

    /// Carries packets both ways until nothing more comes; every `lost`-th is lost, and time goes on then.
    fn carry(client: &mut Client, server: &mut Association, now: &mut Instant, lost: usize) {
        let begun = server.begun;
        let mut count = 0;
        let mut quiet = 0;
        while quiet < 50 {
            let mut is_quiet = true;
            let mut is_lost = || {
                count += 1;
                lost > 0 && count % lost == 0
            };
            let mut up = Vec::new();
            while let Some(event) = client.0.poll_event() {
                if let SocketEvent::SendPacket(packet) = event {
                    up.push(packet);
                }
            }
            for packet in up {
                is_quiet = false;
                if !is_lost() {
                    server.handle(*now, &packet);
                }
            }
            while let Some(packet) = server.poll_packet() {
                is_quiet = false;
                assert!(packet.len() <= DATA_LEN_MAX);
                if !is_lost() {
                    client.0.handle_input(&packet);
                }
            }
            let polled: Vec<ChannelEvent> = std::iter::from_fn(|| server.poll_event(false)).collect();
            server.events.extend(polled);
            quiet = if is_quiet { quiet + 1 } else { 0 };
            *now += Duration::from_millis(20);
            client.0.advance_time(SocketTime::zero() + (*now - begun));
            server.handle_timeout(*now);
        }
    }

    fn events(server: &mut Association) -> Vec<ChannelEvent> {
        std::iter::from_fn(|| server.poll_event(false)).collect()
    }

    fn open(label: &str) -> Vec<u8> {
        Dcep::Open { reliability: Reliability::default(), label: label.into(), protocol: String::new() }.write()
    }

    #[test]
    fn a_client_opens_a_channel_and_both_ends_send_also_over_a_path_that_loses() {
        for lost in [0, 7] {
            let mut now = Instant::now();
            let (mut client, mut server) = (Client::new(), Association::new(now, AGREED, false));
            client.send(0, DCEP, &open("chat"));
            let long: Vec<u8> = (0..MESSAGE_LEN_MAX).map(|n| n as u8).collect();
            client.send(0, TEXT, "hé".as_bytes());
            client.send(0, BINARY, &long);
            client.send(0, TEXT_EMPTY, &[0]);
            carry(&mut client, &mut server, &mut now, lost);
            let message = |is_text, bytes: &[u8]| ChannelEvent::Message { stream: 0, is_text, bytes: bytes.to_vec() };
            let expected =
                [ChannelEvent::Opened(0), message(true, "hé".as_bytes()), message(false, &long), message(true, b"")];
            assert!(events(&mut server) == expected, "{lost}");
            assert_eq!(server.channel(0).unwrap().label, "chat");

            assert_eq!(server.send(now, 0, false, long.clone()), Given::Sent);
            assert_eq!(server.send(now, 0, true, Vec::new()), Given::Sent);
            carry(&mut client, &mut server, &mut now, lost);
            let taken: Vec<(PpId, usize)> =
                std::iter::from_fn(|| client.0.get_next_message()).map(|m| (m.ppid, m.payload.len())).collect();
            assert!(taken == [(DCEP, 1), (BINARY, long.len()), (TEXT_EMPTY, 1)], "{lost}");
        }
    }

    #[test]
    fn we_open_channels_on_streams_of_our_own_and_a_negotiated_one_needs_no_opening() {
        let mut now = Instant::now();
        let (mut client, mut server) = (Client::new(), Association::new(now, AGREED, false));
        client.send(8, TEXT, b"negotiated");
        carry(&mut client, &mut server, &mut now, 0);
        assert_eq!(server.channel(8), Some(&negotiated(8)));
        let channel = Channel {
            label: "l".into(),
            protocol: "p".into(),
            reliability: Reliability { unordered: true, retransmits_max: Some(0), lifetime_ms: None },
            is_negotiated: false,
        };
        let opened = [server.open(now, channel.clone()), server.open(now, channel)];
        assert_eq!(opened, [Some(1), Some(3)], "odd ones, as the DTLS server");
        carry(&mut client, &mut server, &mut now, 0);
        assert_eq!(client.0.get_next_message().map(|message| message.stream_id), Some(StreamId(1)));
    }

    #[test]
    fn a_stream_that_is_taken_is_closed_and_so_is_what_is_no_dcep() {
        let mut now = Instant::now();
        let (mut client, mut server) = (Client::new(), Association::new(now, AGREED, false));
        client.send(0, DCEP, &open("a"));
        client.send(0, DCEP, &open("b"));
        client.send(2, DCEP, b"\x09");
        carry(&mut client, &mut server, &mut now, 0);
        let events = events(&mut server);
        assert!(
            matches!(&events[..], [ChannelEvent::Opened(0), ChannelEvent::Closed(channel)] if channel.label == "a"),
            "{events:?}"
        );
        assert_eq!(server.channels().count(), 0);
    }

    #[test]
    fn channels_are_bounded_and_so_is_what_waits_on_one() {
        let mut now = Instant::now();
        let (mut client, mut server) = (Client::new(), Association::new(now, AGREED, false));
        for stream in 0..2 * CHANNELS_MAX as u16 {
            client.send(2 * stream, DCEP, &open("a"));
        }
        carry(&mut client, &mut server, &mut now, 0);
        assert_eq!(server.channels().count(), CHANNELS_MAX);
        // The client does not answer any more.
        let given: Vec<Given> = (0..40).map(|_| server.send(now, 0, false, vec![0; 32 * 1024])).collect();
        let sent = given.iter().filter(|given| **given == Given::Sent).count();
        assert!((8..=33).contains(&sent) && given.last() == Some(&Given::Full), "{sent}");
    }

    #[test]
    fn a_message_that_is_longer_than_the_client_takes_is_not_sent() {
        let mut now = Instant::now();
        let agreed = DataChannels { len_max: 1000, ..AGREED };
        let (mut client, mut server) = (Client::new(), Association::new(now, agreed, false));
        client.send(0, DCEP, &open("chat"));
        carry(&mut client, &mut server, &mut now, 0);
        let given = [1001, 1000].map(|len| server.send(now, 0, false, vec![0; len]));
        assert_eq!(given, [Given::TooLong, Given::Sent]);
        carry(&mut client, &mut server, &mut now, 0);
        let taken: Vec<usize> = std::iter::from_fn(|| client.0.get_next_message()).map(|m| m.payload.len()).collect();
        assert_eq!(taken, [1, 1000], "the channel is taken, and goes on");
    }

    /// A path of 50 kb/s and 25 ms each way, on which 50 messages of 1 KiB are said in a second.
    #[test]
    fn what_is_not_reliable_is_not_late_on_a_narrow_path() {
        let begun = Instant::now();
        let mut now = begun;
        let (mut client, mut server) = (Client::new(), Association::new(now, AGREED, false));
        carry(&mut client, &mut server, &mut now, 0);
        let stream = server.open(now, Channel::for_label("lossy", false)).unwrap();
        carry(&mut client, &mut server, &mut now, 0);
        let (mut down, mut up) = (VecDeque::new(), VecDeque::new());
        let (mut is_free_at, mut lags) = (now, Vec::new());
        let start = now;
        while now < start + Duration::from_secs(40) {
            now += Duration::from_millis(1);
            let elapsed = (now - start).as_millis();
            if elapsed.is_multiple_of(20) {
                let mut bytes = vec![0; 1024];
                bytes[..8].copy_from_slice(&u64::try_from(elapsed).unwrap().to_be_bytes());
                server.send(now, stream, false, bytes);
            }
            server.handle_timeout(now);
            while let Some(packet) = server.poll_packet() {
                is_free_at = is_free_at.max(now) + Duration::from_micros(160 * (packet.len() as u64 + 65));
                down.push_back((is_free_at + Duration::from_millis(25), packet));
            }
            while down.front().is_some_and(|(at, _)| *at <= now) {
                client.0.handle_input(&down.pop_front().unwrap().1);
            }
            client.0.advance_time(SocketTime::zero() + (now - begun));
            while let Some(event) = client.0.poll_event() {
                if let SocketEvent::SendPacket(packet) = event {
                    up.push_back((now + Duration::from_millis(25), packet));
                }
            }
            while let Some(message) = client.0.get_next_message() {
                if message.ppid != BINARY {
                    continue; // The opening of the channel.
                }
                let said = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
                lags.push(elapsed as u64 - said);
            }
            while up.front().is_some_and(|(at, _)| *at <= now) {
                let (_, packet) = up.pop_front().unwrap();
                server.handle(now, &packet);
            }
        }
        // One takes 180 ms of the link.
        assert!(lags.len() > 120, "{}", lags.len());
        // What goes before the first is acknowledged waits in the queue.
        let (early, late) = lags.split_at(16);
        assert!(late.iter().all(|lag| *lag <= 300), "{early:?} {late:?}");
    }

    #[test]
    fn hostile_packets_neither_panic_nor_take_memory() {
        use proptest::prelude::*;
        proptest!(ProptestConfig::with_cases(2000), |(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8),
            kind in 0..20u8,
        )| {
            let now = Instant::now();
            let mut server = Association::new(now, AGREED, false);
            for mut packet in packets {
                // With our ports and a zero checksum, so that it is not dropped at the door.
                if packet.len() >= 16 {
                    packet[..4].copy_from_slice(&[0x13, 0x88, 0x13, 0x88]);
                    packet[8..12].fill(0);
                    packet[12] = kind;
                }
                server.handle(now, &packet);
                let polled: Vec<ChannelEvent> = std::iter::from_fn(|| server.poll_event(false)).collect();
                server.events.extend(polled);
                prop_assert!(server.packets.len() <= 64 && server.events.len() <= 64);
            }
        });
    }
}
