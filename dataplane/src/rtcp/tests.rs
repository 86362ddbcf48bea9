use super::writer::nack_entries;
use super::*;
use crate::twcc::ArrivalLog;

fn only(compound: &[u8]) -> Packet<'_> {
    let mut all = packets(compound);
    let packet = all.next().unwrap().unwrap();
    assert!(all.next().is_none());
    packet
}

fn errors(compound: &[u8]) -> Vec<RtcpError> {
    packets(compound).filter_map(Result::err).collect()
}

/// What `write` puts into a compound.
fn written(write: impl FnOnce(&mut CompoundWriter<'_>)) -> Vec<u8> {
    let mut out = [0xee; 2048];
    let mut writer = CompoundWriter::new(&mut out);
    write(&mut writer);
    let len = writer.finish();
    out[..len].to_vec()
}

const BLOCK: ReportBlock = ReportBlock {
    ssrc: 0xbc5e_9a40,
    fraction_lost: 128,
    cumulative_lost: -5,
    highest_seq: 0x0001_46e1,
    jitter: 273,
    last_sr: 0x09f3_6432,
    delay_since_last_sr: 150_137,
};

#[test]
fn a_sender_report_says_what_was_written() {
    let bytes = written(|w| assert_eq!(w.sender_report(7, 1 << 63 | 5, 9, 10, 11, &[BLOCK]), 28 + 24));
    assert_eq!(bytes[..4], [0x81, 200, 0, 12]);
    let Packet::SenderReport(report) = only(&bytes) else { panic!("not a sender report") };
    assert_eq!((report.ssrc, report.ntp, report.rtp_timestamp), (7, 1 << 63 | 5, 9));
    assert_eq!((report.packets, report.octets), (10, 11));
    assert_eq!(report.blocks().collect::<Vec<_>>(), [BLOCK]);
}

#[test]
fn blocks_beyond_31_follow_in_receiver_reports() {
    let blocks = vec![BLOCK; 70];
    let of = |write: fn(&mut CompoundWriter<'_>, &[ReportBlock])| {
        let mut bytes = vec![0; 4096];
        let mut writer = CompoundWriter::new(&mut bytes);
        write(&mut writer, &blocks);
        let len = writer.finish();
        let counts = packets(&bytes[..len]).map(|packet| match packet.unwrap() {
            Packet::SenderReport(report) => (true, report.blocks().count()),
            Packet::ReceiverReport(report) => (false, report.blocks().count()),
            other => panic!("{other:?}"),
        });
        counts.collect::<Vec<_>>()
    };
    let sender = of(|w, blocks| assert!(w.sender_report(1, 2, 3, 4, 5, blocks) > 0));
    assert_eq!(sender, [(true, 31), (false, 31), (false, 8)]);
    let receiver = of(|w, blocks| assert!(w.receiver_report(1, blocks) > 0));
    assert_eq!(receiver, [(false, 31), (false, 31), (false, 8)]);
}

#[test]
fn cumulative_loss_is_24_bits_signed_and_clamped() {
    let through = |lost| {
        let bytes = written(|w| {
            w.receiver_report(1, &[ReportBlock { cumulative_lost: lost, ..BLOCK }]);
        });
        let Packet::ReceiverReport(report) = only(&bytes) else { panic!("not a receiver report") };
        report.blocks().next().unwrap().cumulative_lost
    };
    assert_eq!([through(0), through(-1), through(8_388_607)], [0, -1, 8_388_607]);
    assert_eq!([through(i32::MAX), through(i32::MIN)], [8_388_607, -8_388_608]);
}

#[test]
fn a_nack_is_packed_and_unpacked() {
    let lost = [65_534, 65_535, 0, 14, 15, 100];
    let bytes = written(|w| assert_eq!(w.nack(1, 2, &lost), 12 + 3 * 4, "65534..=14, 15, 100"));
    let Packet::Nack(nack) = only(&bytes) else { panic!("not a NACK") };
    assert_eq!((nack.sender_ssrc, nack.media_ssrc), (1, 2));
    assert_eq!(nack.lost().collect::<Vec<_>>(), lost);
    assert!(written(|w| assert_eq!(w.nack(1, 2, &[]), 0)).is_empty());
}

#[test]
fn a_nack_entry_reaches_16_packets_on() {
    assert_eq!(nack_entries(&[10, 10, 26]).collect::<Vec<_>>(), [10 << 16 | 0x8000]);
    assert_eq!(nack_entries(&[10, 27]).collect::<Vec<_>>(), [10 << 16, 27 << 16]);
    assert_eq!(nack_entries(&[10, 11]).collect::<Vec<_>>(), [10 << 16 | 1]);
}

#[test]
fn keyframe_requests() {
    let bytes = written(|w| {
        assert_eq!(w.pli(1, 2), 12);
        assert_eq!(w.fir(1, 2, 200), 20);
    });
    let all: Vec<_> = packets(&bytes).map(Result::unwrap).collect();
    assert_eq!(all[0], Packet::Pli { sender_ssrc: 1, media_ssrc: 2 });
    let Packet::Fir(fir) = all[1] else { panic!("not a FIR") };
    assert_eq!((fir.sender_ssrc, fir.entries().collect::<Vec<_>>()), (1, vec![(2, 200)]));
}

#[test]
fn a_cname_ends_with_a_zero_and_fills_its_word() {
    for (cname, len) in [("", 4 + 8), ("a", 4 + 8), ("ab", 4 + 12), ("abcdef", 4 + 16)] {
        let bytes = written(|w| assert_eq!(w.sdes_cname(5, cname), len, "{cname}"));
        assert_eq!(only(&bytes), Packet::Sdes);
        assert_eq!(bytes.last(), Some(&0));
        assert_eq!(bytes[9] as usize, cname.len());
    }
    let long = "x".repeat(300);
    assert_eq!(written(|w| assert!(w.sdes_cname(5, &long) > 0))[9], 255);
}

#[test]
fn remb_estimates_saturate() {
    let remb = |exponent_mantissa: [u8; 3]| {
        let mut bytes = vec![0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend_from_slice(b"REMB\x01");
        bytes.extend_from_slice(&exponent_mantissa);
        bytes.extend_from_slice(&[0, 0, 0, 9]);
        let Packet::Remb(remb) = only(&bytes) else { panic!("not a REMB") };
        assert_eq!((remb.sender_ssrc, remb.ssrcs().collect::<Vec<_>>()), (1, vec![9]));
        remb.bps
    };
    // From draft-alvestrand-rmcat-remb's layout: exponent in six bits, mantissa in eighteen.
    assert_eq!(remb([0x02, 0, 0]), 1 << 17);
    assert_eq!(remb([1 << 2, 0, 3]), 6);
    assert_eq!(remb([46 << 2 | 3, 0xff, 0xff]), 0x3ffff << 46);
    assert_eq!(remb([47 << 2 | 3, 0xff, 0xff]), u64::MAX);
    assert_eq!(remb([63 << 2, 0, 1]), 1 << 63);
    assert_eq!(remb([63 << 2, 0, 0]), 0);
}

#[test]
fn other_packets_are_named_and_skipped() {
    let app = [0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e'];
    let xr = [0x80, 207, 0, 1, 0, 0, 0, 1];
    let afb = [0x8f, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, b'J', b'U', b'N', b'K'];
    let sli = [0x82, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let bye = [0x82, 203, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let bytes: Vec<u8> = [&app[..], &xr, &afb, &sli, &bye].concat();
    let all: Vec<_> = packets(&bytes).map(Result::unwrap).collect();
    assert_eq!(all[..2], [Packet::App, Packet::Xr]);
    assert_eq!(all[2..4], [Packet::Unknown { pt: 206, fmt: 15 }, Packet::Unknown { pt: 206, fmt: 2 }]);
    let Packet::Bye(bye) = all[4] else { panic!("not a BYE") };
    assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn room_comes_back_as_it_was_written() {
    let room = |bps, is_needed| Headroom { bps, is_needed };
    let told = [(1, room(0, true)), (2, room(123_456, false)), (u32::MAX, Headroom::NONE), (3, room(u32::MAX, true))];
    let bytes = written(|w| assert_eq!(w.rooms(9, &told), 12 + 8 * told.len()));
    let Packet::Rooms(rooms) = only(&bytes) else { panic!("no rooms") };
    assert!(rooms.rooms().eq(told));
    // Cut within an entry, and of another name.
    let mut cut = bytes[..bytes.len() - 4].to_vec();
    cut[3] -= 1;
    assert!(packets(&cut).all(|packet| packet.is_err()));
    let mut other = bytes.clone();
    other[8] = b'x';
    assert_eq!(only(&other), Packet::App);
}

#[test]
fn a_broken_packet_does_not_hide_those_after_it() {
    let good = written(|w| assert!(w.pli(1, 2) > 0));
    let cut_report = [0x81, 201, 0, 1, 0, 0, 0, 1];
    let bytes = [&cut_report[..], &good].concat();
    let all: Vec<_> = packets(&bytes).collect();
    assert_eq!(all, [Err(RtcpError::Truncated), Ok(Packet::Pli { sender_ssrc: 1, media_ssrc: 2 })]);
}

#[test]
fn a_broken_frame_ends_the_iteration() {
    assert_eq!(errors(&[0x80, 201, 0]), [RtcpError::Length]);
    assert_eq!(errors(&[0x80, 201, 0, 2, 0, 0, 0, 1]), [RtcpError::Length]);
    assert_eq!(errors(&[0x40, 201, 0, 0, 0x80]), [RtcpError::Version]);
    let mut trailing = written(|w| assert!(w.pli(1, 2) > 0));
    trailing.push(0x80);
    assert_eq!(errors(&trailing), [RtcpError::Length]);
    assert_eq!(packets(&[]).count(), 0);
}

#[test]
fn padding_is_taken_off() {
    let padded = |padding: u8| [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, padding];
    assert_eq!(only(&padded(4)), Packet::Pli { sender_ssrc: 1, media_ssrc: 2 });
    assert_eq!(errors(&padded(0)), [RtcpError::Padding]);
    assert_eq!(errors(&padded(13)), [RtcpError::Padding]);
    assert_eq!(errors(&padded(8)), [RtcpError::Truncated], "the padding takes the media SSRC");
    assert_eq!(errors(&[0xa0, 200, 0, 0]), [RtcpError::Padding]);
}

#[test]
fn without_room_nothing_is_written_and_the_rest_stays() {
    let mut log = ArrivalLog::new(64);
    log.push(1, 1_000);
    let mut out = [0; 20];
    let mut writer = CompoundWriter::new(&mut out);
    assert_eq!(writer.pli(1, 2), 12);
    assert_eq!(writer.pli(1, 2), 0);
    assert_eq!(writer.fir(1, 2, 3), 0);
    assert_eq!(writer.nack(1, 2, &[1]), 0);
    assert_eq!(writer.sdes_cname(1, "a name that is long"), 0);
    assert_eq!(writer.sender_report(1, 2, 3, 4, 5, &[]), 0);
    assert_eq!(writer.receiver_report(1, &[BLOCK]), 0);
    assert_eq!(writer.transport_cc(1, 2, &mut log), 0);
    assert!(log.has_unreported(), "what could not be written is still to be reported");
    assert_eq!((writer.bye(9), writer.len(), writer.finish()), (8, 20, 20));
    let all: Vec<_> = packets(&out).map(Result::unwrap).collect();
    assert!(matches!(all[..], [Packet::Pli { .. }, Packet::Bye(_)]));
}

#[test]
fn a_report_that_fits_only_in_part_is_taken_back() {
    let mut out = [0; 4 + 4 + 31 * 24 + 8];
    let mut writer = CompoundWriter::new(&mut out);
    assert_eq!(writer.receiver_report(1, &[BLOCK; 32]), 0);
    assert!(writer.is_empty());
}

#[test]
fn feedback_is_framed() {
    let mut log = ArrivalLog::new(64);
    log.push(5, 64_000);
    let bytes = written(|w| {
        assert_eq!(w.transport_cc(1, 2, &mut log), 12 + 12);
        assert_eq!(w.transport_cc(1, 2, &mut log), 0, "all is said");
    });
    let Packet::TransportCc(feedback) = only(&bytes) else { panic!("not transport-cc") };
    assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (1, 2));
    assert_eq!(feedback.statuses().collect::<Vec<_>>(), [(5, Some(0))]);
}
