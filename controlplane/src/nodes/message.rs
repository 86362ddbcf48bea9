//! What nodes say to each other on the subjects of NATS: under which subject, from whom, and what is refused of it. Without I/O.
//!
//! A message has its sender in its headers: node, run, and how many the sender has said before. The last puts in order what came by
//! several subjects at once, and tells what is said again by somebody who listened. One of a room has the room's name, too, because only
//! its hash is in the subject. All of it is sealed.

use std::collections::BTreeMap;

use super::record::{CLUSTER_VERSION, is_name, is_run};
use super::roster::NODES_MAX;
use super::seal::{Kind, SealRefusal, Seals};
use crate::bus::Sender;
pub(super) use crate::shared::key_of;

/// Longest message, bytes. NATS itself takes 1 MiB unless its configuration says otherwise.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// Names of the headers.
pub(super) const VERSION: &str = "Uprtc-Version";
pub(super) const NODE: &str = "Uprtc-Node";
pub(super) const RUN: &str = "Uprtc-Run";
pub(super) const COUNT: &str = "Uprtc-Count";
pub(super) const ROOM: &str = "Uprtc-Room";
/// Of a question: that its sender may ask it.
pub(super) const PROOF: &str = "Uprtc-Proof";
/// Of what a node says to itself, to learn that its subscriptions stand.
pub(super) const MARK: &str = "Uprtc-Mark";
/// The seal on the subject, all the others of these headers, and the message.
pub(super) const SEAL: &str = "Uprtc-Seal";

/// Messages of a node that may be overtaken by later ones and are taken all the same.
const OVERTAKEN_MAX: u64 = u128::BITS as u64;

/// The subject on which nodes speak of a room.
pub(super) fn of_room(cluster: &str, key: &str) -> String {
    format!("uprtc.{cluster}.room.{key}")
}

/// The subject on which one node is spoken to.
pub(super) fn of_node(cluster: &str, node: &str) -> String {
    format!("uprtc.{cluster}.node.{node}")
}

/// The subject on which one node is asked.
pub(super) fn of_question(cluster: &str, node: &str) -> String {
    format!("uprtc.{cluster}.ask.{node}")
}

/// The subject, with the number of the question behind it, on which one node is answered.
pub(super) fn of_answer(cluster: &str, node: &str) -> String {
    format!("uprtc.{cluster}.answer.{node}")
}

/// What the headers of a message say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heading {
    pub(super) from: Sender,
    pub(super) count: u64,
    pub(super) room: Option<String>,
    pub(super) mark: Option<u64>,
}

/// Why a message is not told to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MessageRefusal {
    /// It is longer than [`MESSAGE_LEN_MAX`].
    TooLong,
    /// Its headers do not say who sent it.
    NoSender,
    /// Its sender speaks another version.
    OtherVersion,
    /// The room in its headers is not that of its subject.
    OtherRoom,
    /// Its sender has the name of this node, and is another.
    Namesake,
    /// It is not sealed.
    Unsealed,
    /// It is sealed with none of the keys of this node.
    UnknownKey,
    /// Its seal is not that of what it says.
    Forged,
    /// It is of a run that has ended, was heard before, or is older than what may be overtaken.
    Replayed,
}

impl MessageRefusal {
    /// The names of all kinds, as metrics have them.
    pub(super) const NAMES: [&str; 9] = [
        "too_long",
        "no_sender",
        "other_version",
        "other_room",
        "namesake",
        SealRefusal::NAMES[0],
        SealRefusal::NAMES[1],
        SealRefusal::NAMES[2],
        "replayed",
    ];
}

impl From<SealRefusal> for MessageRefusal {
    fn from(refusal: SealRefusal) -> MessageRefusal {
        match refusal {
            SealRefusal::Unsealed => MessageRefusal::Unsealed,
            SealRefusal::UnknownKey => MessageRefusal::UnknownKey,
            SealRefusal::Forged => MessageRefusal::Forged,
        }
    }
}

impl Heading {
    /// As the headers of a message.
    pub(super) fn write(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (VERSION, CLUSTER_VERSION.to_string()),
            (NODE, self.from.node.clone()),
            (RUN, self.from.run.clone()),
            (COUNT, self.count.to_string()),
        ];
        headers.extend(self.room.iter().map(|room| (ROOM, room.clone())));
        headers.extend(self.mark.iter().map(|mark| (MARK, mark.to_string())));
        headers
    }

    /// The same with the seal on it, its subject and the message.
    pub(super) fn sealed(&self, seals: &Seals, subject: &str, payload: &[u8]) -> Vec<(&'static str, String)> {
        let mut headers = self.write();
        headers.push((SEAL, self.with_about(subject, |about| seals.seal(Kind::Message, about, payload))));
        headers
    }

    /// Whether this is the seal on it, its subject and the message.
    pub(super) fn check(
        &self,
        seals: &Seals,
        subject: &str,
        seal: Option<&str>,
        payload: &[u8],
    ) -> Result<(), MessageRefusal> {
        let seal = seal.ok_or(MessageRefusal::Unsealed)?;
        Ok(self.with_about(subject, |about| seals.check(seal, Kind::Message, about, payload))?)
    }

    fn with_about<T>(&self, subject: &str, make: impl FnOnce(&[&str]) -> T) -> T {
        let mark = self.mark.map(|mark| mark.to_string()).unwrap_or_default();
        let room = self.room.as_deref().unwrap_or_default();
        make(&[subject, &self.from.node, &self.from.run, &self.count.to_string(), room, &mark])
    }

    /// Reads the headers of a message that came by the subject of the room with this key, or of this node. `None`: it is this node's own, and
    /// not a mark.
    pub(super) fn read<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        len: usize,
        key: Option<&str>,
        own: &Sender,
    ) -> Result<Option<Heading>, MessageRefusal> {
        if len > MESSAGE_LEN_MAX {
            return Err(MessageRefusal::TooLong);
        }
        let number = |name: &str| header(name).and_then(|text| text.parse::<u64>().ok());
        let Some(version) = number(VERSION) else { return Err(MessageRefusal::NoSender) };
        if version != u64::from(CLUSTER_VERSION) {
            return Err(MessageRefusal::OtherVersion);
        }
        let from = header(NODE).filter(|node| is_name(node)).zip(header(RUN).filter(|run| is_run(run)));
        let (Some((node, run)), Some(count)) = (from, number(COUNT)) else { return Err(MessageRefusal::NoSender) };
        let mark = number(MARK);
        if node == own.node {
            if run != own.run {
                return Err(MessageRefusal::Namesake);
            }
            if mark.is_none() {
                return Ok(None);
            }
        }
        let room = header(ROOM);
        if key.map(str::to_owned) != room.map(key_of) {
            return Err(MessageRefusal::OtherRoom);
        }
        let from = Sender { node: node.to_owned(), run: run.to_owned() };
        Ok(Some(Heading { from, count, room: room.map(str::to_owned), mark }))
    }
}

/// What was heard of one node.
#[derive(Debug)]
struct Heard {
    run: String,
    /// That of the last record of it. A message of a later run may come before the record of that run.
    recorded: String,
    /// The highest number.
    count: u64,
    /// Which of those below it were heard, the nearest in the lowest bit.
    before: u128,
}

/// What was heard of each node, so that nothing is told twice.
#[derive(Debug, Default)]
pub(super) struct Window(BTreeMap<String, Heard>);

impl Window {
    /// This run of a node is here and has said so much at least, by its record. What it and its earlier runs have said before is not
    /// news any more.
    pub(super) fn begin(&mut self, from: &Sender, count: u64) {
        match self.0.get_mut(&from.node) {
            Some(heard) if heard.recorded == from.run => {}
            Some(heard) if heard.run == from.run => heard.recorded.clone_from(&from.run),
            Some(_) | None => self.insert(from, count, from.run.clone()),
        }
    }

    fn insert(&mut self, from: &Sender, count: u64, recorded: String) {
        if self.0.len() >= NODES_MAX && !self.0.contains_key(&from.node) {
            self.0.pop_first();
        }
        self.0.insert(from.node.clone(), Heard { run: from.run.clone(), recorded, count, before: 0 });
    }

    /// Whether a message is news.
    pub(super) fn take(&mut self, from: &Sender, count: u64) -> bool {
        let heard = match self.0.get_mut(&from.node) {
            Some(heard) if from.run < heard.run => return false,
            Some(heard) if from.run == heard.run => heard,
            known => {
                let recorded = known.map(|heard| std::mem::take(&mut heard.recorded)).unwrap_or_default();
                self.insert(from, count, recorded);
                return true;
            }
        };
        if count > heard.count {
            // The highest one until now is one of those below.
            let ahead = count - heard.count;
            let shifted = heard.before.checked_shl(u32::try_from(ahead).unwrap_or(u32::MAX)).unwrap_or_default();
            let was = 1_u128.checked_shl(u32::try_from(ahead - 1).unwrap_or(u32::MAX)).unwrap_or_default();
            (heard.count, heard.before) = (count, shifted | was);
            return true;
        }
        let behind = heard.count - count;
        if behind == 0 || behind > OVERTAKEN_MAX {
            return false;
        }
        let bit = 1_u128 << (behind - 1);
        let is_news = heard.before & bit == 0;
        heard.before |= bit;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::seals;
    use super::*;

    fn sender(node: &str) -> Sender {
        Sender { node: node.into(), run: "0123456789abcdef".into() }
    }

    fn read(
        headers: &[(&'static str, String)],
        len: usize,
        key: Option<&str>,
    ) -> Result<Option<Heading>, MessageRefusal> {
        let header = |name: &str| headers.iter().find(|(of, _)| *of == name).map(|(_, value)| value.as_str());
        Heading::read(header, len, key, &sender("own"))
    }

    #[test]
    fn subjects_are_of_a_cluster_and_have_no_name_of_a_room() {
        let key = key_of("a room.>");
        assert_eq!((key.len(), of_node("prod", "fra1").as_str()), (32, "uprtc.prod.node.fra1"));
        assert_eq!(
            [of_question("prod", "fra1"), of_answer("prod", "fra1")],
            ["uprtc.prod.ask.fra1", "uprtc.prod.answer.fra1"]
        );
        assert_eq!(of_room("prod", &key), format!("uprtc.prod.room.{key}"));
        assert!(key.bytes().all(|byte| byte.is_ascii_hexdigit()) && key != key_of("a room.*"));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_refused_by_name() {
        let heading = Heading { from: sender("other"), count: 7, room: Some("standup".into()), mark: None };
        let key = key_of("standup");
        let headers = heading.write();
        assert_eq!(read(&headers, 64 * 1024, Some(&key)), Ok(Some(heading.clone())));
        assert_eq!(read(&headers, 64 * 1024 + 1, Some(&key)), Err(MessageRefusal::TooLong));
        assert_eq!(read(&headers, 0, Some(&key_of("else"))), Err(MessageRefusal::OtherRoom));
        assert_eq!(read(&headers, 0, None), Err(MessageRefusal::OtherRoom), "to a node");
        assert_eq!(read(&[], 0, None), Err(MessageRefusal::NoSender));
        for (name, wrong, refusal) in [
            (VERSION, "1", MessageRefusal::OtherVersion),
            (VERSION, "x", MessageRefusal::NoSender),
            (NODE, "a.b", MessageRefusal::NoSender),
            (RUN, "0123", MessageRefusal::NoSender),
            (RUN, "0123456789ABCDEF", MessageRefusal::NoSender),
            (COUNT, "-1", MessageRefusal::NoSender),
            (ROOM, "stand", MessageRefusal::OtherRoom),
        ] {
            let mut headers = headers.clone();
            headers.iter_mut().filter(|(of, _)| *of == name).for_each(|(_, value)| *value = wrong.into());
            assert_eq!(read(&headers, 0, Some(&key)), Err(refusal), "{name} {wrong}");
            headers.retain(|(of, _)| *of != name);
            assert!(read(&headers, 0, Some(&key)).is_err(), "without {name}");
        }
        let own = Heading { from: sender("own"), ..heading.clone() };
        assert_eq!(read(&own.write(), 0, Some(&key)), Ok(None), "what this node said itself");
        let namesake = Heading { from: Sender { run: "f".repeat(16), ..sender("own") }, ..heading.clone() };
        assert_eq!(read(&namesake.write(), 0, Some(&key)), Err(MessageRefusal::Namesake));
        let mark = Heading { from: sender("own"), count: 8, room: None, mark: Some(3) };
        assert_eq!(read(&mark.write(), 0, None), Ok(Some(mark)));
    }

    #[test]
    fn a_message_is_sealed_with_its_subject_and_all_of_its_headers() {
        let heading = Heading { from: sender("a"), count: 7, room: Some("standup".into()), mark: None };
        let headers = heading.sealed(&seals(7), "s", b"x");
        let seal = &headers.last().unwrap().1;
        let check =
            |heading: &Heading, subject: &str, payload: &[u8]| heading.check(&seals(7), subject, Some(seal), payload);
        assert_eq!(check(&heading, "s", b"x"), Ok(()));
        let later = Sender { run: "1123456789abcdef".into(), ..sender("a") };
        for other in [
            Heading { from: sender("b"), ..heading.clone() },
            Heading { from: later, ..heading.clone() },
            Heading { count: 8, ..heading.clone() },
            Heading { room: Some("other".into()), ..heading.clone() },
            Heading { room: None, ..heading.clone() },
            Heading { mark: Some(7), ..heading.clone() },
        ] {
            assert_eq!(check(&other, "s", b"x"), Err(MessageRefusal::Forged), "{other:?}");
        }
        assert_eq!(check(&heading, "t", b"x"), Err(MessageRefusal::Forged));
        assert_eq!(check(&heading, "s", b"y"), Err(MessageRefusal::Forged));
        assert_eq!(heading.check(&seals(7), "s", None, b"x"), Err(MessageRefusal::Unsealed));
        assert_eq!(heading.check(&seals(8), "s", Some(seal), b"x"), Err(MessageRefusal::UnknownKey));
    }

    #[test]
    fn what_is_said_again_is_no_news_whatever_came_between() {
        let mut window = Window::default();
        let mut random = 1_u64;
        let (mut told, mut news) = (std::collections::BTreeSet::new(), 0);
        let mut highest = 0;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Mostly onward, often back, and at times far ahead.
            let count = match random % 16 {
                0..9 => highest + 1 + random % 3,
                9 => highest + random % 400,
                _ => highest.saturating_sub(random % 200),
            };
            let is_news = window.take(&sender("a"), count);
            let is_old = count + OVERTAKEN_MAX < highest;
            let is_new = highest == 0 || !is_old && !told.contains(&count);
            assert_eq!(is_news, is_new, "{count} after {highest}");
            if is_news {
                told.insert(count);
                highest = highest.max(count);
                news += 1;
            }
        }
        assert!(news > 5_000 && news < 19_000, "{news}");
    }

    #[test]
    fn what_a_run_said_that_has_ended_is_no_news() {
        let run = |run: &str| Sender { node: "a".into(), run: run.into() };
        let mut window = Window::default();
        assert!(window.take(&run("1"), 5) && window.take(&run("2"), 1), "a later run");
        assert!(!window.take(&run("1"), 6), "an earlier one");
        // A record says that there is a third one, which has said 900 things before this node listened.
        window.begin(&run("3"), 900);
        assert!(!window.take(&run("2"), 2) && !window.take(&run("3"), 900 - OVERTAKEN_MAX - 1));
        assert!(window.take(&run("3"), 901) && window.take(&run("3"), 900 - OVERTAKEN_MAX + 1));
        window.begin(&run("3"), 5000);
        assert!(window.take(&run("3"), 902), "what is known of it already stands");
        assert!(window.take(&run("3"), u64::MAX) && !window.take(&run("3"), 903));
        // A fourth run speaks before its record is here, and the record of the third is told once more meanwhile.
        assert!(window.take(&run("4"), 7));
        window.begin(&run("3"), 6000);
        assert!(!window.take(&run("4"), 7) && !window.take(&run("3"), u64::MAX));
        window.begin(&run("4"), 1);
        assert!(!window.take(&run("4"), 7) && window.take(&run("4"), 8));
        // Another state folder has the name, and a clock that is behind.
        window.begin(&run("0"), 1);
        assert!(window.take(&run("0"), 2) && !window.take(&run("0"), 2));
        for node in 0..2 * NODES_MAX {
            window.take(&sender(&format!("n{node}")), 1);
        }
        assert_eq!(window.0.len(), NODES_MAX);
    }

    #[test]
    fn each_refusal_has_a_name() {
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::Unsealed as usize], "unsealed");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::UnknownKey as usize], "unknown_key");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::Forged as usize], "forged");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::Replayed as usize], "replayed");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::Namesake as usize], "namesake");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::TooLong as usize], "too_long");
    }
}
