//! The counters of a worker's stats page.

/// Declares the counters of the stats page: an enum, its names, its count, and what each of them counts. The comment of a
/// counter is its HELP line in `/metrics`, so it is one plain sentence for operators.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal),* $(,)?) => {
        /// One counter of a worker's stats page. Received and relay_received together equal forwarded, consumed, punted and
        /// every dropped_* together: each packet has one fate. All only grow, but for those that [`Counter::is_gauge`] names.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $name),* }

        impl Counter {
            /// All counters, in page order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// The name under which metrics show it. One that ends in `_micros` counts microseconds.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text),* }
            }
            /// What is counted, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Counter::$name => concat!($($doc),+).trim_ascii()),* }
            }
            /// Whether it says how many there are now, and so may fall.
            pub const fn is_gauge(self) -> bool {
                matches!(self, Counter::PeersOpen | Counter::RoutesOpen | Counter::TcpOpen)
            }
        }

        pub(super) const COUNTER_LAYOUT: &str = concat!("Counters{", $($text, ",",)* "}");
    };
}

counters! {
    /// Datagrams taken from the kernel.
    Received => "received",
    /// Bytes of the datagrams taken from the kernel.
    ReceivedBytes => "received_bytes",
    /// Packets taken from other workers of the same edge, for receivers of this one.
    RelayReceived => "relay_received",
    /// Packets that were accepted for forwarding, to any number of receivers, also to none.
    Forwarded => "forwarded",
    /// Datagrams that ended at this worker with effect: STUN checks, RTCP, and retransmissions that filled a gap.
    Consumed => "consumed",
    /// Datagrams handed to the controlplane, which are those of DTLS.
    Punted => "punted",
    /// Datagrams dropped because they are empty, or their first byte is of no protocol that is served here (RFC 7983).
    DroppedUnknownProtocol => "dropped_unknown_protocol",
    /// Datagrams dropped because no authenticated check came from their address.
    DroppedUnknownAddress => "dropped_unknown_address",
    /// Datagrams between edges dropped because this worker receives no such flow.
    DroppedFlowUnknown => "dropped_flow_unknown",
    /// Datagrams between edges dropped because they came from an address that is not the other edge's.
    DroppedFlowSource => "dropped_flow_source",
    /// Datagrams of other edges dropped because this worker passes on no more in their direction.
    DroppedFlowRate => "dropped_flow_rate",
    /// Datagrams dropped because they are malformed STUN, or neither a Binding request nor a response.
    DroppedStunMalformed => "dropped_stun_malformed",
    /// Checks dropped because their USERNAME names no peer of this worker.
    DroppedStunUnknownUfrag => "dropped_stun_unknown_ufrag",
    /// Checks dropped because their MESSAGE-INTEGRITY or FINGERPRINT is wrong.
    DroppedStunIntegrity => "dropped_stun_integrity",
    /// Authentic checks dropped because another peer has checked from the same address within 10 s.
    DroppedStunPathTaken => "dropped_stun_path_taken",
    /// STUN responses dropped because they answer no check of this worker from that address.
    DroppedStunUnexpected => "dropped_stun_unexpected",
    /// Datagrams dropped because they are malformed DTLS records.
    DroppedDtlsMalformed => "dropped_dtls_malformed",
    /// DTLS datagrams dropped because the peer, or all peers together, sent more than their rate.
    DroppedPuntRate => "dropped_punt_rate",
    /// DTLS datagrams dropped because the ring to the controlplane was full.
    DroppedPuntFull => "dropped_punt_full",
    /// SRTP and SRTCP packets dropped because they came before the keys.
    DroppedNoKeys => "dropped_no_keys",
    /// Packets dropped because they are malformed RTP.
    DroppedRtpMalformed => "dropped_rtp_malformed",
    /// RTP packets dropped because they belong to no negotiated stream.
    DroppedUnknownStream => "dropped_unknown_stream",
    /// SRTP packets dropped because their authentication failed.
    DroppedSrtpAuth => "dropped_srtp_auth",
    /// SRTP packets dropped because they were seen before or are older than the replay window (RFC 3711 section 3.3.2).
    DroppedSrtpReplay => "dropped_srtp_replay",
    /// Authentic RTP packets dropped because their stream is carried from another SSRC now, such as a better encoding.
    DroppedOtherSsrc => "dropped_other_ssrc",
    /// SRTCP packets dropped because their authentication failed, they were seen before, or their content is malformed.
    DroppedSrtcp => "dropped_srtcp",
    /// Packets of audio dropped because their track, or all tracks of its peer, send more than the room allows.
    DroppedAudioRate => "dropped_audio_rate",
    /// Packets of video, and retransmissions, dropped because their track, or all tracks of its peer, send more than the room allows.
    DroppedVideoRate => "dropped_video_rate",
    /// Retransmissions dropped because the packet had arrived, is too old, or is only padding.
    DroppedRtxUseless => "dropped_rtx_useless",
    /// RTP packets dropped because their payload type was not negotiated.
    DroppedPayloadType => "dropped_payload_type",
    /// Datagrams dropped because they are larger than a packet buffer.
    DroppedTooLarge => "dropped_too_large",
    /// Packets from another worker dropped because their stream no longer exists here.
    DroppedRelayStale => "dropped_relay_stale",

    /// Packets tried under the next roll-over counter because the nearest one failed (RFC 3711 section 3.3.1).
    SrtpSecondTries => "srtp_second_tries",

    /// Datagrams of other edges that were passed on, which are among those forwarded.
    FlowsPassedOn => "flows_passed_on",
    /// Bytes of the datagrams of other edges that were passed on.
    FlowsPassedOnBytes => "flows_passed_on_bytes",

    /// Packets handed to other workers, counted once for each worker.
    Relayed => "relayed",
    /// Packets not handed to another worker because the ring to it was full, which its receivers see as loss.
    RelayFull => "relay_full",

    /// RTP packets sent to receivers, counted once for each receiver.
    Sent => "sent",
    /// Bytes of the RTP packets sent to receivers.
    SentBytes => "sent_bytes",
    /// Send operations of the kernel, each for one packet or for several equal ones to one receiver (a train).
    SentTrains => "sent_trains",
    /// Packets of any kind that were sent as Ethernet frames through AF_XDP.
    SentFrames => "sent_frames",
    /// Packets of any kind that were sent through the sockets although frames are in use.
    FramesToSockets => "frames_to_sockets",
    /// Datagrams of any kind that the kernel refused to send, or for which no buffer was free.
    SendFailed => "send_failed",
    /// H.264 parameter sets sent ahead of a keyframe that came without them.
    ParameterSetsSent => "parameter_sets_sent",
    /// Copies not sent because the receiver waits for a keyframe.
    HeldForKeyframe => "held_for_keyframe",
    /// Copies not sent at once because the receiver changes to another encoding, and the frame before is not complete.
    HeldForFrame => "held_for_frame",
    /// Copies of video not sent because the receiver's path is too slow for them: they would have waited for too long.
    HeldForPace => "held_for_pace",
    /// Copies of video not sent because they are of a temporal or spatial layer that the receiver's path does not carry, or that it does not show.
    HeldForLayer => "held_for_layer",
    /// Dependency descriptors received that are cut short, or of a template that their stream does not have.
    DescriptorsMalformed => "descriptors_malformed",
    /// Extensions `video-layers-allocation` received, in which publishers say what they send of their encodings.
    AllocationsReceived => "allocations_received",
    /// The same that are cut short.
    AllocationsMalformed => "allocations_malformed",
    /// Copies of video that waited until the receiver's path was ready for them.
    Paced => "paced",
    /// Copies not sent because the receiver has not negotiated the codec that the stream is in.
    HeldCodec => "held_codec",
    /// Copies not sent because they are older than the receiver's switch to this stream, or their number was used.
    HeldStale => "held_stale",
    /// Copies not sent because the receiver has no keys, no path or no consent yet.
    HeldNotReady => "held_not_ready",
    /// Changes of a receiver from one encoding of a track to another.
    EncodingsSwitched => "encodings_switched",
    /// Times that a receiver's slot was paused, so that no video leaves through it.
    SlotsPaused => "slots_paused",
    /// Retransmissions sent to receivers.
    RtxSent => "rtx_sent",
    /// Packets of audio sent to receivers again as they were, because they asked for them.
    AudioResent => "audio_resent",
    /// Copies of packets of audio sent to receivers that lose many, before they ask.
    AudioCopies => "audio_copies",
    /// Packets of audio not passed on because nobody speaks in them, or others are louder, in a room with more voices than it passes on.
    AudioNotPassed => "audio_not_passed",
    /// Packets of audio sent to receivers as RED (RFC 2198), with one or two before them, because they lose many.
    AudioRedSent => "audio_red_sent",
    /// Packets of audio that left for another edge by a second path as well, because the first one loses many.
    AudioTwice => "audio_twice",
    /// Packets of audio that were lost on the way from their publisher and taken from a later one of RED.
    AudioRedRecovered => "audio_red_recovered",
    /// Sequence numbers that receivers asked for by NACK.
    NackReceived => "nack_received",
    /// Sequence numbers asked for by NACK that are no longer in the history.
    NackMissed => "nack_missed",
    /// Sequence numbers asked for by NACK again within a round trip (of audio: also before they could arrive), or beyond the budget
    /// for repair.
    NackThrottled => "nack_throttled",
    /// Sequence numbers that publishers were asked for by NACK.
    NackSent => "nack_sent",
    /// Gaps of publishers' streams that were filled by a retransmission or a late packet.
    Recovered => "recovered",
    /// Gaps of publishers' streams that were given up.
    Lost => "lost",
    /// Keyframe requests (PLI and FIR) received from receivers.
    KeyframeRequestsReceived => "keyframe_requests_received",
    /// Keyframe requests sent to publishers, after merging.
    KeyframeRequestsSent => "keyframe_requests_sent",
    /// Keyframe requests handed to the worker of the publisher, after merging.
    KeyframeRequestsRelayed => "keyframe_requests_relayed",
    /// Keyframes wanted for receivers whose repair was refused because their path is full, and that still lacked it a second later.
    KeyframesForRefusedRepairs => "keyframes_for_refused_repairs",
    /// Transport-cc feedback packets sent to publishers.
    TransportCcSent => "transport_cc_sent",
    /// Transport-cc feedback packets received from receivers of media.
    TransportCcReceived => "transport_cc_received",
    /// Packets that receivers reported by transport-cc feedback as received, and that the history of what was sent does not have.
    TransportCcUnknown => "transport_cc_unknown",
    /// Packets sent only to find out whether a receiver's path carries more: repeated ones as RTX, or padding.
    ProbePacketsSent => "probe_packets_sent",
    /// REMB packets sent to publishers that have no transport-cc.
    RembSent => "remb_sent",
    /// RTCP compound packets sent.
    RtcpSent => "rtcp_sent",
    /// Datagrams sent for the controlplane.
    Injected => "injected",
    /// Datagrams of the controlplane not sent because the peer is unknown, or its address has not answered and was sent enough.
    InjectRefused => "inject_refused",
    /// STUN Binding success responses sent.
    BindingAnswered => "binding_answered",
    /// Checks of this worker's own sent to peers' addresses, to ask for consent (RFC 7675).
    ChecksSent => "checks_sent",
    /// Checks of this worker's own that were answered.
    ChecksAnswered => "checks_answered",
    /// Probes of paths to other edges sent.
    PathProbesSent => "path_probes_sent",
    /// Probes of paths to other edges that were answered.
    PathProbesAnswered => "path_probes_answered",
    /// Times that what goes to another edge was moved to a better path.
    PathsMoved => "paths_moved",
    /// Addresses given up because they answered none of the checks with which a peer's media would have moved there.
    PathsUnanswered => "paths_unanswered",
    /// Peers whose address answers no more while their media still comes from there: they are sent no media any more.
    ConsentsLapsed => "consents_lapsed",
    /// TCP connections that are open now.
    TcpOpen => "tcp_open",
    /// TCP connections accepted.
    TcpAccepted => "tcp_accepted",
    /// TCP connections closed as soon as they were made, because their address or the worker has as many as it may have.
    TcpRefused => "tcp_refused",
    /// TCP connections closed because no peer's authenticated check has come by them in time, or because their peer has left.
    TcpUnowned => "tcp_unowned",
    /// TCP connections closed because a frame on them is shorter or longer than any packet of a peer.
    TcpMalformed => "tcp_malformed",
    /// Packets that left by TCP, or wait in the buffer of their connection.
    TcpSent => "tcp_sent",
    /// Packets of video not sent by TCP because their receiver reads too slowly.
    TcpVideoDropped => "tcp_video_dropped",
    /// Other packets not sent by TCP, because their receiver reads nothing or the connection has ended.
    TcpDropped => "tcp_dropped",
    /// Events not told to the controlplane because the ring to it was full.
    EventsLost => "events_lost",
    /// Passes of the worker's loop.
    Turns => "turns",
    /// Times that the worker's loop went to sleep.
    Parks => "parks",
    /// Processor time of the worker, user and kernel, without the time spent looking for work in vain.
    BusyMicros => "busy_micros",
    /// Processor time that the worker spent looking for work in vain before it slept (setting spin-us).
    SpinMicros => "spin_micros",
    /// Peers open now.
    PeersOpen => "peers_open",
    /// Routes open now, each from one stream, or one encoding of a track, to one receiver.
    RoutesOpen => "routes_open",
}
