//! Digits as RTP events (RFC 4733): read, each once, and written.

/// Sound of a digit that we send, in samples of 8 kHz: 100 ms, and as much silence behind it.
pub(crate) const DIGIT_TICKS: u16 = 5;
/// How often the last packet of an event goes out (§2.5.1.4).
const ENDS: u16 = 3;
const DIGITS: &[u8; 16] = b"0123456789*#ABCD";

/// Reads the events of one stream.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// RTP time of the last event: all its packets have it.
    last: Option<u32>,
}

impl Receiver {
    /// The digit, with the first packet of its event that arrives, be it the last one.
    pub(crate) fn receive(&mut self, timestamp: u32, payload: &[u8]) -> Option<u8> {
        let [event, ..] = *payload.first_chunk::<4>()?;
        // A late packet of an event before the last one is no new digit.
        let is_new = self.last.is_none_or(|last| timestamp.wrapping_sub(last).cast_signed() > 0);
        if !is_new {
            return None;
        }
        let digit = *DIGITS.get(usize::from(event))?;
        self.last = Some(timestamp);
        Some(digit)
    }
}

/// One packet of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EventPacket {
    pub(crate) payload: [u8; 4],
    pub(crate) marker: bool,
}

/// Writes digits, one packet for each 20 ms.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    queue: std::collections::VecDeque<u8>,
    /// Packets of the current one that went out.
    tick: u16,
}

/// Digits that wait.
const QUEUE_MAX: usize = 64;

impl Sender {
    /// Queues a digit; others are left out.
    pub(crate) fn push(&mut self, digit: u8) {
        let event = DIGITS.iter().position(|own| *own == digit.to_ascii_uppercase());
        if let Some(event) = event.filter(|_| self.queue.len() < QUEUE_MAX) {
            self.queue.push_back(event as u8);
        }
    }

    /// The packet of this tick. Its RTP time is that of the event's first packet, which the marker tells.
    pub(crate) fn tick(&mut self, samples: u16) -> Option<EventPacket> {
        let event = *self.queue.front()?;
        let tick = self.tick;
        self.tick += 1;
        if tick >= DIGIT_TICKS + ENDS {
            // The pause: whoever hears two equal digits hears two.
            if self.tick >= 2 * DIGIT_TICKS + ENDS {
                self.queue.pop_front();
                self.tick = 0;
            }
            return None;
        }
        let is_end = tick >= DIGIT_TICKS;
        let duration = samples * (tick + 1).min(DIGIT_TICKS);
        let [high, low] = duration.to_be_bytes();
        // Volume: -10 dBm0.
        Some(EventPacket { payload: [event, u8::from(is_end) << 7 | 10, high, low], marker: tick == 0 })
    }

    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_once_each() {
        let (mut sender, mut receiver, mut time, mut heard) =
            (Sender::default(), Receiver::default(), u32::MAX - 500, Vec::new());
        b"1122#*0d".iter().for_each(|digit| sender.push(*digit));
        let mut begun = time;
        for _ in 0..200 {
            if let Some(packet) = sender.tick(160) {
                if packet.marker {
                    begun = time;
                }
                heard.extend(receiver.receive(begun, &packet.payload));
            }
            time = time.wrapping_add(160);
        }
        assert_eq!(heard, b"1122#*0D");
        assert!(!sender.is_busy());
    }

    #[test]
    fn the_last_packet_alone_is_a_digit_and_a_late_one_is_none() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.receive(1000, &[5, 0x8A, 3, 32]), Some(b'5'));
        assert_eq!(receiver.receive(1000, &[5, 0x8A, 3, 32]), None);
        assert_eq!(receiver.receive(840, &[4, 0x8A, 3, 32]), None);
        assert_eq!(receiver.receive(2000, &[16, 0, 0, 0]), None, "a hook flash is no digit");
        assert_eq!(receiver.receive(2000, &[1, 0]), None, "cut short");
    }
}
