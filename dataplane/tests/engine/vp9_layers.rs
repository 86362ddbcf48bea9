//! VP9 with spatial layers that its payload descriptors alone say (RFC 9628 §4.2), in virtual time: full SVC and K-SVC, in flexible mode and not.

use proto::plane::*;
use rtp::codecs::vp9::Vp9Packet;
use rtp::packetizer::Depacketizer;

use crate::layered::*;

/// Two spatial layers and two temporal ones.
struct Svc {
    is_k_svc: bool,
    is_flexible: bool,
    picture: u16,
    base: u8,
    /// Pictures since the last keyframe.
    place: u16,
}

impl Svc {
    fn new(is_k_svc: bool, is_flexible: bool) -> Svc {
        Svc { is_k_svc, is_flexible, picture: 32_700, base: 250, place: 0 }
    }
}

impl Camera for Svc {
    const CODEC: Codec = Codec::Vp9;

    fn picture(&mut self, is_key: bool) -> Vec<Piece> {
        self.place = if is_key { 0 } else { self.place + 1 };
        self.picture = (self.picture + 1) & 0x7fff;
        let temporal = (self.place % 2) as u8;
        self.base = self.base.wrapping_add(u8::from(temporal == 0));
        let mut pieces = Vec::new();
        for spatial in 0..2u8 {
            for at in 0..2 {
                let is_predicted = self.place > 0;
                let is_inter = spatial > 0 && (!self.is_k_svc || is_key);
                let flag = |is: bool, bit: u8| if is { bit } else { 0 };
                let has_sizes = is_key && spatial == 0 && at == 0;
                let begins = flag(at == 0, 0x08) | flag(at == 1, 0x04) | flag(has_sizes, 0x02);
                let alone = spatial > 0 || (self.is_k_svc && !is_key);
                let flags = 0xa0 | flag(is_predicted, 0x40) | flag(self.is_flexible, 0x10) | begins | u8::from(alone);
                let [high, low] = self.picture.to_be_bytes();
                let layers = temporal << 5 | 0x10 | spatial << 1 | u8::from(is_inter);
                let mut payload = vec![flags, 0x80 | high, low, layers];
                match self.is_flexible {
                    false => payload.push(self.base),
                    true if is_predicted => payload.push(if temporal == 0 { 2 } else { 1 } << 1),
                    true => {}
                }
                if has_sizes {
                    payload.push(1 << 5 | 0x10);
                    payload.extend([320u16, 180, 640, 360].iter().flat_map(|side| side.to_be_bytes()));
                }
                payload.resize(if spatial == 0 { 150 } else { 400 }, 7);
                pieces.push(Piece { payload, descriptor: None, marker: at == 1 && spatial == 1 });
            }
        }
        pieces
    }
}

/// Frames by spatial layer and by temporal layer, after a look at the numbers.
fn frames(packets: &[rtp::packet::Packet], are_in_a_row: bool) -> ([usize; 2], [usize; 2]) {
    let (mut spatial, mut temporal) = ([0; 2], [0; 2]);
    let mut last: Option<(u16, u16, u32, bool)> = None;
    for packet in packets {
        let mut vp9 = Vp9Packet::default();
        vp9.depacketize(&packet.payload).expect("VP9");
        let header = &packet.header;
        if let Some((seq, id, timestamp, ended)) = last {
            assert_eq!(header.sequence_number, seq.wrapping_add(1), "sequence numbers close up");
            let is_next = header.timestamp != timestamp;
            assert_eq!(is_next, ended, "the last packet of a picture has the marker, and no other");
            if are_in_a_row {
                assert_eq!(vp9.picture_id, (id + u16::from(is_next)) & 0x7fff, "PictureIDs close up");
            }
        }
        last = Some((header.sequence_number, vp9.picture_id, header.timestamp, header.marker));
        spatial[usize::from(vp9.sid)] += usize::from(vp9.b);
        temporal[usize::from(vp9.tid)] += usize::from(vp9.b);
    }
    (spatial, temporal)
}

#[test]
fn spatial_layers_of_vp9_are_sent_as_they_are_shown() {
    for (is_k_svc, is_flexible) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut call = Call::new(Svc::new(is_k_svc, is_flexible), 5_000_000);
        frames(&call.run(5 * SECOND), !is_flexible);
        let whole = if is_k_svc { [0, 40] } else { [40, 40] };
        assert_eq!(frames(&call.run(2 * SECOND), !is_flexible).0, whole, "{is_k_svc} {is_flexible}");
        call.show(180);
        call.run(2 * SECOND);
        assert_eq!(frames(&call.run(2 * SECOND), !is_flexible).0, [40, 0], "{is_k_svc} {is_flexible}");
        call.show(360);
        call.run(4 * SECOND);
        assert_eq!(frames(&call.run(2 * SECOND), !is_flexible).0, whole, "{is_k_svc} {is_flexible}");
        assert_eq!(call.world.counter(Counter::DescriptorsMalformed), 0);
    }
}

#[test]
fn temporal_layers_of_spatial_ones_are_left_out_before_the_video_is_paused() {
    for is_flexible in [false, true] {
        let mut call = Call::new(Svc::new(true, is_flexible), 5_000_000);
        frames(&call.run(5 * SECOND), !is_flexible);
        call.capacity = 46_000;
        call.run(15 * SECOND);
        let (spatial, temporal) = frames(&call.run(4 * SECOND), !is_flexible);
        println!("{spatial:?} {temporal:?}");
        assert!(spatial[0] >= 25 && spatial[1] <= 4, "{spatial:?}");
        assert!(temporal[0] >= 25 && temporal[1] < temporal[0], "{temporal:?}");
    }
}
