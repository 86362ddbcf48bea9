//! Links between edges over real sockets, by every way out: a worker asks the address that it was told, packets of a transport leave
//! with their headers, in trains or one by one, and what is passed on is as long as it came.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use dataplane::config::FRAME_LEN;
use proto::flow;
use proto::id::RelayId;
use proto::plane::{Counter, Event, PeerCandidate, PeerEdge, RelayOpen, RelayRate, Report};

use crate::rig::{Client, PATIENCE, Rig, on_every_ground, write_packet};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The flows of the transport, and of an edge that passes on.
const TRANSPORT: [u64; 2] = [0xa1, 0xa2];
const THROUGH: [u64; 2] = [0xb1, 0xb2];

#[test]
fn packets_of_a_transport_leave_behind_their_headers_by_every_way() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let [address, _] = rig.addresses();
        let alice = rig.connect(1, V4);
        // It has sent nothing yet, and is asked.
        let other = Client::new(2, ground.clients(V4), address);
        let transport = Client::new(3, ground.clients(V4), address);
        let remote = other.socket.local_addr().unwrap();
        let candidate = PeerCandidate { peer: other.id, place: 0, remote, send_flow: 0, receive_flow: 0 };
        rig.commit(&[&other.commands()[..2], &[candidate.into()]].concat());
        other.consent();
        rig.reports_until(|report| matches!(report, Report::Event(Event::PeerPath(path)) if path.remote == remote));
        let [send_flow, receive_flow] = TRANSPORT;
        let over = PeerEdge { peer: transport.id, edge: other.id, send_flow, receive_flow };
        rig.commit(&[&transport.commands()[..], &[over.into()]].concat());
        let (ssrc, slot_ssrc) = rig.carry(&alice, &transport);
        let (sender, receiver) = (alice.sender(), transport.receiver());
        let mut buffer = [0; 2000];
        let mut speak = |from: u16, headers: &[u8]| {
            let is_media = |bytes: &[u8]| {
                bytes.starts_with(headers)
                    && matches!(bytes[headers.len()..], [0x80..=0xbf, pt, ..] if pt & 0x7f == 111)
            };
            for seq in from..from + 40 {
                let len = write_packet(&mut buffer, &sender, ssrc, seq, &[seq as u8; 300]);
                alice.socket.send(&buffer[..len]).unwrap();
            }
            for seq in from..from + 40 {
                let len = other.receive(&mut buffer, is_media);
                let bytes = &mut buffer[headers.len()..len];
                let header = dataplane::rtp::Header::parse(bytes).unwrap();
                let opened = receiver.unprotect_rtp(slot_ssrc, u64::from(header.seq), header.header_len, bytes);
                assert_eq!(bytes[header.header_len..opened.expect("it is of the transport")], [seq as u8; 300]);
            }
        };
        speak(1, &flow::header(send_flow));
        // Through another edge at the same address: its header is before everything.
        let [send, receive] = THROUGH;
        rig.commit(&[PeerCandidate { send_flow: send, receive_flow: receive, ..candidate }.into()]);
        let mut check = [0; 512];
        let len = other.receive(&mut check, |bytes| bytes.starts_with(&flow::header(send)) && bytes[8..10] == [0, 1]);
        check.copy_within(8..len, 0);
        let len = other.write_answer(&mut check, len - 8);
        other.socket.send(&[&flow::header(receive)[..], &check[..len]].concat()).unwrap();
        rig.reports_until(|report| matches!(report, Report::Event(Event::PeerPath(path)) if path.remote == remote));
        speak(41, &[flow::header(send), flow::header(send_flow)].concat());
        rig.wait_for_counter(Counter::Forwarded, 80);
        assert_eq!(rig.counter(Counter::SendFailed), 0);
        rig.check_conservation();
    });
}

#[test]
fn what_is_passed_on_leaves_as_it_came_up_to_the_longest() {
    on_every_ground(|ground| {
        let mut rig = Rig::start(ground);
        let [address, _] = rig.addresses();
        let [from, to] = [(); 2].map(|()| UdpSocket::bind((ground.clients(V4), 0)).unwrap());
        from.connect(address).unwrap();
        to.connect(address).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        let relay = RelayId::new(0, 1);
        let [flow, to_flow] = THROUGH;
        let [source, target] = [&from, &to].map(|socket| socket.local_addr().unwrap());
        let open = RelayOpen { relay, flow, from: source, to: target, to_flow };
        rig.commit(&[open.into(), RelayRate { relay, bps_max: 100_000_000 }.into()]);
        let mut buffer = [0; 2000];
        for len in (1..=FRAME_LEN).rev().step_by(97).chain([FRAME_LEN + 1, 500]) {
            let rest: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
            from.send(&[&flow::header(flow)[..], &rest].concat()).unwrap();
            if len <= FRAME_LEN {
                let got = loop {
                    match to.recv(&mut buffer) {
                        // This thread probed for io_uring, whose end is told to it by an interruption.
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        got => break got.expect("it is passed on"),
                    }
                };
                assert_eq!(buffer[..got], [&flow::header(to_flow)[..], &rest].concat());
            }
        }
        rig.wait_for_counter(Counter::DroppedTooLarge, 1);
        rig.check_conservation();
    });
}
