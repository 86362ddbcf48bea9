//! What the gateway counts, by the names of its metrics.

/// Each counter, its metric and what it counts.
macro_rules! counters {
    ($($name:ident $metric:literal $help:literal)*) => {
        /// A counter of the gateway.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Counter { $($name),* }

        /// Name of the metric, and its HELP.
        pub(crate) const TEXTS: &[(&str, &str)] = &[$(($metric, $help)),*];
    };
}

counters! {
    Messages "messages_total" "SIP messages received"
    DroppedRate "messages_dropped_rate_total" "SIP messages of a source beyond its rate"
    DroppedMalformed "messages_dropped_malformed_total" "SIP messages that could not be read, and not be answered"
    DroppedStray "messages_dropped_stray_total" "responses and ACKs that belong to nothing"
    DroppedFull "messages_dropped_full_total" "requests for which there was no transaction left"
    RefusedMalformed "requests_malformed_total" "requests that were answered with 400 or 505 before they were looked at"
    RefusedFlood "invites_refused_flood_total" "INVITEs of a source beyond its rate, answered with 503"
    RefusedFull "invites_refused_full_total" "INVITEs beyond the calls that are allowed, answered with 486 or 503"
    Refused "invites_refused_total" "INVITEs refused for another reason: no such number, no codec, no room, locked out"
    Calls "calls_total" "calls that began"
    Transfers "transfers_total" "transfers that telephones have asked for, and that were tried"
    TransfersRefused "transfers_refused_total" "transfers that were refused: nothing to call, too many, or one at a time"
    WrongPins "pins_wrong_total" "wrong PINs"
    TlsFailed "tls_failed_total" "connections whose TLS handshake failed, or was too slow"
    TlsReloads "tls_reloads_total" "renewed certificates that were taken over"
    TlsReloadsFailed "tls_reloads_failed_total" "changed certificates or keys that could not be used; the old pair stays"
    TrunkNotReached "trunk_not_reached_total" "connections to the trunk that could not be opened"
    RtpReceived "rtp_received_total" "RTP packets received from telephones"
    RtpForeign "rtp_dropped_foreign_total" "RTP packets from another address than the negotiated one"
    RtpMalformed "rtp_dropped_malformed_total" "packets on an RTP port that are no RTP of the negotiated payload types"
    RtpSrtp "rtp_dropped_srtp_total" "SRTP packets that do not authenticate, or are replays"
    RtpLate "rtp_dropped_late_total" "RTP packets that came after they should have been played"
    RtpSent "rtp_sent_total" "RTP packets sent to telephones"
    Concealed "frames_concealed_total" "frames of a telephone that did not come and were concealed"
    RoomLate "room_packets_late_total" "packets of a room that came after they should have been played to a telephone"
    RoomLost "room_packets_lost_total" "packets of a room that did not come at all, of calls that have ended"
    RtpLostThere "rtp_lost_there_total" "RTP packets to telephones that did not come there, as they say, of calls that have ended"
    RtcpReceived "rtcp_received_total" "RTCP datagrams received from telephones"
    RtcpForeign "rtcp_dropped_foreign_total" "RTCP from another address than the negotiated one"
    RtcpMalformed "rtcp_dropped_malformed_total" "datagrams on an RTCP port that are no compound of RTCP"
    RtcpSrtcp "rtcp_dropped_srtcp_total" "SRTCP that does not authenticate, or is a replay"
    RtcpRate "rtcp_dropped_rate_total" "RTCP of a call beyond five a second"
    RtcpSent "rtcp_sent_total" "RTCP datagrams sent to telephones"
    RoundTrips "" ""
    RoundTripMicros "" ""
    RtpLost "rtp_lost_total" "RTP packets of telephones that did not come at all, of calls that have ended"
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Counters([u64; TEXTS.len()]);

impl Default for Counters {
    fn default() -> Counters {
        Counters([0; TEXTS.len()])
    }
}

impl Counters {
    pub(crate) fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    pub(crate) fn add_many(&mut self, counter: Counter, many: u64) {
        self.0[counter as usize] += many;
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds those of a call that ended.
    pub(crate) fn merge(&mut self, other: &Counters) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }

    /// With their names, those that have one of their own.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let all = TEXTS.iter().zip(self.0).map(|((metric, help), value)| (*metric, *help, value));
        all.filter(|(metric, _, _)| !metric.is_empty())
    }
}
