//! Simulcast by RID (RFC 8853, RFC 8851): which of the encodings that a client would send are taken.
//!
//! A section is answered with simulcast if two encodings or more can be: it is video in codecs of which a keyframe can be told
//! ([`CODECS`]), and it has a MID and the header extensions by which packets say whose they are (RFC 8852). Of each position of
//! `a=simulcast:send` the first alternative is taken, of more than [`TRACK_ENCODINGS_MAX`] positions the first. One that is
//! offered as paused (`~`) is taken as the others are: it is the client's to begin with it. Restrictions of a RID are what the
//! client says of itself, and are heeded as far as they keep it from the codec. Whatever else is offered is answered without
//! simulcast, and the client sends one encoding.

use proto::id::{Pt, Rid};
use proto::plane::{Codec, Extension, TRACK_ENCODINGS_MAX};

use super::codec::parse_pt;
use super::{OfferedCodec, OfferedEncoding, RIDS_MAX, Section, SectionKind};

/// Codecs with which simulcast is served.
const CODECS: [Codec; 2] = [Codec::H264, Codec::Vp8];

/// `rid:<id> send|recv [pt=<pt>,…;<restriction>=<value>;…]` (RFC 8851 §4), if the client sends it.
pub(super) fn parse_rid(value: &str) -> Option<OfferedEncoding> {
    let mut words = value.split_ascii_whitespace();
    let (id, direction) = (words.next()?, words.next()?);
    let rid = rid_of(id).filter(|_| direction == "send")?;
    let list = words.flat_map(|word| word.split(';')).find_map(|word| word.strip_prefix("pt="));
    let pts: Option<Vec<Pt>> = list.map(|list| list.split(',').filter_map(parse_pt).collect());
    Some(OfferedEncoding { rid, pts })
}

/// What may be the id of an encoding (RFC 8851 §10; RFC 8852 §3.1 leaves it 16 bytes).
fn rid_of(id: &str) -> Option<Rid> {
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    Rid::parse(id.as_bytes()).filter(|_| is_id)
}

/// The encodings that are offered together, in their order: `simulcast:send <list> [recv <list>]` (RFC 8853 §5.1), each list of
/// alternatives with commas between, and semicolons between the lists.
pub(super) fn offered_encodings(value: Option<&str>, rids: &[OfferedEncoding]) -> Vec<OfferedEncoding> {
    let words: Vec<&str> = value.unwrap_or_default().split_ascii_whitespace().collect();
    let list = words.windows(2).find(|pair| pair[0] == "send").map(|pair| pair[1]);
    let mut encodings: Vec<OfferedEncoding> = Vec::new();
    for alternatives in list.unwrap_or_default().split(';').take(RIDS_MAX) {
        let first = alternatives.split(',').find_map(|id| {
            let rid = rid_of(id.strip_prefix('~').unwrap_or(id))?;
            rids.iter().find(|offered| offered.rid == rid)
        });
        encodings.extend(first.filter(|first| encodings.iter().all(|other| other.rid != first.rid)).cloned());
    }
    encodings
}

/// The encodings in which a section is taken that is answered with these codecs; none if it is taken as one.
pub fn choose_encodings(section: &Section, codecs: &[OfferedCodec]) -> Vec<Rid> {
    let has = |wanted: Extension| {
        let is_sent = |offered: &&super::SectionExtension| offered.extension == wanted && offered.direction.may_send();
        section.extensions.iter().find(is_sent).is_some()
    };
    let is_known = section.kind == SectionKind::Video && codecs.iter().all(|codec| CODECS.contains(&codec.codec));
    if !is_known || section.mid.is_empty() || !has(Extension::Mid) || !has(Extension::Rid) {
        return Vec::new();
    }
    let is_in = |pts: &Vec<Pt>| codecs.first().is_some_and(|codec| pts.contains(&codec.pt));
    let usable = section.encodings.iter().filter(|encoding| encoding.pts.as_ref().is_none_or(is_in));
    let rids: Vec<Rid> = usable.map(|encoding| encoding.rid).take(TRACK_ENCODINGS_MAX).collect();
    if rids.len() < 2 { Vec::new() } else { rids }
}

impl Section {
    /// Whether retransmissions of an encoding say whose they are (RFC 8852 §3.2).
    pub fn names_repairs(&self) -> bool {
        let is_sent = |offered: &super::SectionExtension| offered.direction.may_send();
        self.extensions.iter().any(|offered| offered.extension == Extension::RepairedRid && is_sent(offered))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rids(of: &[&str]) -> Vec<OfferedEncoding> {
        of.iter().filter_map(|value| parse_rid(value)).collect()
    }

    fn names(value: &str, of: &[&str]) -> Vec<String> {
        let encodings = offered_encodings(Some(value), &rids(of));
        encodings.iter().map(|encoding| encoding.rid.as_str().to_owned()).collect()
    }

    #[test]
    fn encodings_are_offered_in_their_order() {
        let all = ["a send", "b send pt=96,97;max-width=640", "c send max-fps=30", "d recv"];
        assert_eq!(names("send a;b;c", &all), ["a", "b", "c"]);
        assert_eq!(names("recv d send c;a", &all), ["c", "a"], "what is received stands apart");
        assert_eq!(names("send a;~b", &all), ["a", "b"], "paused");
        assert_eq!(names("send x,b;a,c", &all), ["b", "a"], "the first alternative that has a line");
        assert_eq!(names("send a;a;b", &all), ["a", "b"], "each once");
        for none in ["send d", "send", "recv a;b", "", "send ;;;~;,"] {
            assert!(names(none, &all).is_empty(), "{none:?}");
        }
        assert_eq!(rids(&all)[1].pts, Some(vec![96, 97]));
        assert_eq!(rids(&all)[2].pts, None);
        assert_eq!(rids(&["a b", "ä send", "seventeen-letters send", "a.b send"]), []);
    }

    proptest! {
        #[test]
        fn any_text_offers_a_few_that_have_a_line(value in "[a-c~,; ]{0,40}", of in "[a-c]{0,3}") {
            let lines = rids(&of.chars().map(|id| format!("{id} send")).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
            let encodings = offered_encodings(Some(&format!("send {value}")), &lines);
            prop_assert!(encodings.iter().all(|encoding| lines.contains(encoding)));
        }
    }
}
