//! What nodes say to each other on the subjects of NATS: under which subject, from whom, and what is refused of it. Without I/O.
//!
//! A message has its sender in its headers: node, run, and how many the sender has said before. The last puts in order what came by
//! several subjects at once. One of a room has the room's name, too, because only its hash is in the subject.

use super::record::{CLUSTER_VERSION, is_name};
use crate::bus::Sender;
use crate::hex;
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
}

impl MessageRefusal {
    /// The names of all kinds, as metrics have them.
    pub(super) const NAMES: [&str; 5] = ["too_long", "no_sender", "other_version", "other_room", "namesake"];
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
        let is_run = |run: &&str| hex::read(run, &mut [0; 8]).is_some();
        let from = header(NODE).filter(|node| is_name(node)).zip(header(RUN).filter(is_run));
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

#[cfg(test)]
mod tests {
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
            (VERSION, "2", MessageRefusal::OtherVersion),
            (VERSION, "x", MessageRefusal::NoSender),
            (NODE, "a.b", MessageRefusal::NoSender),
            (RUN, "0123", MessageRefusal::NoSender),
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
    fn each_refusal_has_a_name() {
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::Namesake as usize], "namesake");
        assert_eq!(MessageRefusal::NAMES[MessageRefusal::TooLong as usize], "too_long");
    }
}
