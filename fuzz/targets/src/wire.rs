//! STUN, and the records between the planes.

use proto::id::{SlotId, StreamId};
use proto::plane::{
    Command, DATAGRAM_RECORD_LEN, DatagramHeader, Event, RECORD_LEN, Record, Report, SlotTally, StreamTally,
    TALLY_WORDS_MAX,
};
use proto::stun::{ATTRIBUTES_MAX, ErrorCode, HEADER_LEN, IntegrityKey, Message, UNKNOWN_MAX, Writer};

/// A datagram as STUN. What is written of a message that was read is read again with the same content, signed by a password that
/// proves it and another that does not.
pub fn stun(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    assert!(data.len() >= HEADER_LEN && data.len().is_multiple_of(4));
    assert!(message.unknown_attributes().len() <= UNKNOWN_MAX.min(ATTRIBUTES_MAX));
    let (key, other) = (IntegrityKey::new(b"0123456789012345678901"), IntegrityKey::new(b"another"));
    assert!(!message.check_fingerprint() || message.has_fingerprint());
    assert!(!message.check_integrity(&key) || message.has_integrity());

    let mut out = vec![0; data.len() + 256];
    let mut writer = Writer::binding_request(&mut out, message.transaction_id());
    if let Some(username) = message.username() {
        writer = writer.username(username);
    }
    if let Some(priority) = message.priority() {
        writer = writer.priority(priority);
    }
    if let Some(tie_breaker) = message.ice_controlling() {
        writer = writer.ice_controlling(tie_breaker);
    }
    if let Some(tie_breaker) = message.ice_controlled() {
        writer = writer.ice_controlled(tie_breaker);
    }
    if message.use_candidate() {
        writer = writer.use_candidate();
    }
    let software = message.software().and_then(|software| std::str::from_utf8(software).ok());
    if let Some(software) = software {
        writer = writer.software(software);
    }
    // A message may take all of the 64 KiB that its length can say, and then ours has no room for the signature.
    let Some(len) = writer.integrity(&key).fingerprint().finish() else {
        assert!(data.len() > 60_000);
        return;
    };
    let again = Message::parse(&out[..len]).expect("what is written is read");
    assert!(again.is_binding_request() && again.check_fingerprint());
    assert!(again.check_integrity(&key) && !again.check_integrity(&other));
    assert_eq!(again.transaction_id(), message.transaction_id());
    assert_eq!((again.username(), again.priority()), (message.username(), message.priority()));
    assert_eq!(again.ice_controlling(), message.ice_controlling());
    assert_eq!(again.ice_controlled(), message.ice_controlled());
    assert_eq!(again.use_candidate(), message.use_candidate());
    assert_eq!(again.software(), software.map(str::as_bytes));
    answers(&message);
}

/// What a request is answered is read again too.
fn answers(message: &Message<'_>) {
    let mut out = [0; 256];
    if let Some(address) = message.mapped_address() {
        let len = Writer::binding_success(&mut out, message.transaction_id(), address).finish().expect("there is room");
        let again = Message::parse(&out[..len]).expect("what is written is read").mapped_address();
        // An IPv4 address within IPv6 is written as what it is.
        assert_eq!(again.map(|again| (again.ip(), again.port())), Some((address.ip().to_canonical(), address.port())));
    }
    let error = Writer::binding_error(&mut out, message.transaction_id(), ErrorCode::UnknownAttribute);
    let len = error.unknown_attributes(message.unknown_attributes()).fingerprint().finish().expect("there is room");
    let again = Message::parse(&out[..len]).expect("what is written is read");
    assert!(again.error_code() == Some(420) && again.check_fingerprint());
}

/// Records of the rings between the planes, the rows of their tallies, and datagrams: each is refused, or written and read again as
/// the same. The bytes are taken as one after another of each kind, and fill up with zeros.
pub fn records(data: &[u8]) {
    data.chunks(RECORD_LEN).take(64).for_each(|chunk| record(&filled(chunk)));
    datagram(&filled(&data[..data.len().min(DATAGRAM_RECORD_LEN)]));
    let mut words = [0; TALLY_WORDS_MAX];
    for (word, chunk) in words.iter_mut().zip(data.chunks(8)) {
        *word = u64::from_le_bytes(filled(chunk));
    }
    let (index, generation) = (words[0] as u32, (words[0] >> 32) as u32);
    if generation == 0 {
        return;
    }
    let stream = StreamId::new(index, generation);
    let read = StreamTally::read(stream, &words).expect("its own row");
    assert_eq!(StreamTally::read(stream, &read.write()), Some(read));
    let slot = SlotId::new(index, generation);
    let read = SlotTally::read(slot, &words).expect("its own row");
    assert_eq!(SlotTally::read(slot, &read.write()), Some(read));
}

fn record(record: &Record) {
    if let Some(command) = Command::read(record) {
        assert_eq!(Command::read(&command.write()), Some(command));
        let echo = Report::Echo(command).write();
        assert_eq!(Command::read(&echo), None, "an echo is no command");
        let read = Report::read(&echo).expect("an echo is read");
        assert_eq!(read.write(), echo, "without its secrets it is what it was");
    }
    if let Some(event) = Event::read(record) {
        assert_eq!(Event::read(&event.write()), Some(event));
    }
    if let Some(report) = Report::read(record) {
        let written = report.write();
        let read = Report::read(&written).expect("what is written is read");
        assert_eq!(read.write(), written);
    }
}

fn datagram(record: &[u8; DATAGRAM_RECORD_LEN]) {
    let Some((header, payload)) = DatagramHeader::read(record) else { return };
    assert_eq!(payload.len(), usize::from(header.len));
    let mut again = [0; DATAGRAM_RECORD_LEN];
    DatagramHeader::write(header.kind, header.peer, header.remote, payload, &mut again).expect("it is short enough");
    assert_eq!(DatagramHeader::read(&again), Some((header, payload)));
}

fn filled<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut all = [0; LEN];
    all[..bytes.len()].copy_from_slice(bytes);
    all
}
