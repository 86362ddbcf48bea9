//! A firewall that lets TCP through alone, or one of its ports.

use weak::{Command, Direction, Settings, Which};

fn packet(version: u8, protocol: u8) -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[0] = version << 4;
    packet[if version == 4 { 9 } else { 6 }] = protocol;
    packet
}

#[test]
fn udp_is_dropped_until_it_passes_again() {
    let Ok(Command::Set(Which::Both, block)) = Command::parse("both udp=drop") else { panic!() };
    let Ok(Command::Set(Which::Both, pass)) = Command::parse("both udp=pass") else { panic!() };
    assert!(Command::parse("both udp=maybe").is_err());
    let mut link = Direction::new(Settings::default(), 1, 0);
    let carried = |link: &mut Direction| {
        let mut count = 0;
        for packet in [packet(4, 17), packet(6, 17), packet(4, 6), packet(6, 6)] {
            link.push(0, packet);
        }
        link.poll(0, |_| count += 1);
        count
    };
    assert_eq!(carried(&mut link), 4);
    link.set(0, &block);
    assert_eq!(carried(&mut link), 2);
    link.set(0, &pass);
    assert_eq!(carried(&mut link), 4);
}

#[test]
fn one_port_of_tcp_passes_both_ways() {
    let Ok(Command::Set(Which::Both, block)) = Command::parse("both tcp=443") else { panic!() };
    let Ok(Command::Set(Which::Both, pass)) = Command::parse("both tcp=pass") else { panic!() };
    assert!(Command::parse("both tcp=70000").is_err());
    let mut link = Direction::new(Settings::default(), 1, 0);
    let segment = |version: u8, ports: [u16; 2]| {
        let mut packet = packet(version, 6);
        packet[0] |= if version == 4 { 5 } else { 0 };
        let at = if version == 4 { 20 } else { 40 };
        packet[at..at + 2].copy_from_slice(&ports[0].to_be_bytes());
        packet[at + 2..at + 4].copy_from_slice(&ports[1].to_be_bytes());
        packet
    };
    let mut carried = |change: &_| {
        let mut count = 0;
        link.set(0, change);
        for packet in
            [segment(4, [443, 50_000]), segment(6, [50_000, 443]), segment(4, [40_000, 50_000]), packet(4, 17)]
        {
            link.push(0, packet);
        }
        link.poll(0, |_| count += 1);
        count
    };
    assert_eq!(carried(&block), 3);
    assert_eq!(carried(&pass), 4);
}
