//! A firewall that lets TCP through alone.

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
