//! What a caller must know before the room: its number where the lobby was called, and its PIN. Digits in, decisions out.

use std::time::{Duration, Instant};

use crate::settings::{Number, Settings};

/// Digits that are remembered of one entry.
const DIGITS_MAX: usize = 32;
/// Wrong entries of one call; the source has a limit of its own.
const TRIES_MAX: u32 = 3;
/// How long the caller has for it all.
pub(crate) const ENTRY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is to be done now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Wait,
    /// The caller is asked for the next entry.
    Ask,
    /// That was wrong; ask again.
    Wrong,
    /// That was wrong, for the last time.
    Over,
    Enter(Box<Number>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    number: Option<Number>,
    /// Whether the number was entered and not dialled.
    is_lobby: bool,
    digits: String,
    tries: u32,
    until: Instant,
}

impl Entry {
    /// Of a call for this number; without one for the lobby.
    pub(crate) fn new(now: Instant, number: Option<Number>) -> Entry {
        Entry { is_lobby: number.is_none(), number, digits: String::new(), tries: 0, until: now + ENTRY_TIMEOUT }
    }

    pub(crate) fn is_late(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Takes a digit; `#` ends an entry and `*` begins it again.
    pub(crate) fn digit(&mut self, digit: u8, settings: &Settings) -> Step {
        match digit {
            b'0'..=b'9' if self.digits.len() < DIGITS_MAX => self.digits.push(char::from(digit)),
            b'*' => self.digits.clear(),
            b'#' => return self.entered(settings),
            _ => (),
        }
        // A PIN of the right length needs no `#`; in the lobby that would tell which rooms there are.
        let pin = self.number.as_ref().filter(|_| !self.is_lobby).and_then(|number| number.pin.as_ref());
        if pin.is_some_and(|pin| pin.len() == self.digits.len()) { self.entered(settings) } else { Step::Wait }
    }

    fn entered(&mut self, settings: &Settings) -> Step {
        let digits = std::mem::take(&mut self.digits);
        if digits.is_empty() {
            return Step::Wait;
        }
        match &self.number {
            // A room that does not exist is told only after a PIN, as a wrong one.
            None => {
                let found = settings.number(&digits).cloned();
                let is_open = found.as_ref().is_some_and(|number| number.pin.is_none());
                match found {
                    Some(number) if is_open => Step::Enter(Box::new(number)),
                    found => {
                        self.number = Some(found.unwrap_or_else(|| nowhere(&digits)));
                        Step::Ask
                    }
                }
            }
            Some(number) if number.pin.as_ref().is_some_and(|pin| is_equal(pin.as_bytes(), digits.as_bytes())) => {
                Step::Enter(Box::new(number.clone()))
            }
            Some(_) => {
                self.tries += 1;
                if self.tries >= TRIES_MAX { Step::Over } else { Step::Wrong }
            }
        }
    }
}

/// A number that leads nowhere, whose PIN nobody can enter.
fn nowhere(digits: &str) -> Number {
    Number { number: digits.to_owned(), room: String::new(), pin: Some(String::new()), token: None }
}

/// In a time that does not depend on where they differ.
pub(crate) fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Samples of a sound that says something: two short tones ask for an entry, one low one says that it was wrong.
pub(crate) fn sound(step: &Step, rate: u32) -> Vec<f32> {
    let tone = |hertz: f32, ms: u32| {
        let step = std::f32::consts::TAU * hertz / rate as f32;
        (0..rate / 1000 * ms).map(move |at| 0.2 * (step * at as f32).sin())
    };
    let silence = (0..rate / 10).map(|_| 0.0);
    match step {
        Step::Wait => Vec::new(),
        Step::Ask => tone(880.0, 120).chain(silence).chain(tone(880.0, 120)).collect(),
        Step::Wrong | Step::Over => tone(220.0, 500).collect(),
        Step::Enter(_) => tone(660.0, 120).chain(tone(990.0, 160)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = "[[number]]\nnumber = \"100\"\nroom = \"demo\"\npin = \"4711\"\n[[number]]\nnumber = \"101\"\nroom = \"open\"\n";
        Settings::parse(text).unwrap()
    }

    fn enter(entry: &mut Entry, digits: &str) -> Step {
        let settings = settings();
        digits.bytes().map(|digit| entry.digit(digit, &settings)).last().unwrap()
    }

    fn entry(number: Option<&str>) -> Entry {
        Entry::new(Instant::now(), number.and_then(|number| settings().number(number).cloned()))
    }

    #[test]
    fn the_right_pin_opens_with_and_without_its_end() {
        let room = |step: Step| if let Step::Enter(number) = step { number.room } else { panic!("{step:?}") };
        assert_eq!(room(enter(&mut entry(Some("100")), "4711")), "demo");
        assert_eq!(room(enter(&mut entry(Some("100")), "99*4711")), "demo");
        assert_eq!(room(enter(&mut entry(None), "101#")), "open");
        let mut lobby = entry(None);
        assert_eq!(enter(&mut lobby, "100#"), Step::Ask);
        assert_eq!(enter(&mut lobby, "4711"), Step::Wait);
        assert_eq!(room(enter(&mut lobby, "#")), "demo");
    }

    #[test]
    fn wrong_ones_end_the_call_and_do_not_tell_which_rooms_there_are() {
        let mut known = entry(Some("100"));
        assert_eq!(["1111", "47#", "4712"].map(|pin| enter(&mut known, pin)), [Step::Wrong, Step::Wrong, Step::Over]);
        for number in ["100#", "555#"] {
            let mut lobby = entry(None);
            assert_eq!(enter(&mut lobby, number), Step::Ask);
            assert_eq!(enter(&mut lobby, "0000#"), Step::Wrong);
        }
        let mut flood = entry(None);
        assert_eq!(enter(&mut flood, &"7".repeat(10_000)), Step::Wait);
        assert_eq!(flood.digits.len(), DIGITS_MAX);
        assert!(entry(None).is_late(Instant::now() + ENTRY_TIMEOUT));
    }
}
