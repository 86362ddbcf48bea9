//! What a node says of itself to the others: one record of JSON in the cluster's bucket, under the node's name. Whatever stands
//! there is input: length, version and every field are checked before anything of it is believed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::seal::{Kind, SealRefusal, Seals};
use crate::bus::{NodeNews, Sender};
use crate::hex;

/// Version of what nodes say to each other. Nodes of different versions do not work together.
pub const CLUSTER_VERSION: u32 = 2;

/// Longest record with its seal, bytes. One of a node with 64 workers, each at two addresses, has 4 KiB.
pub(super) const RECORD_LEN_MAX: usize = 16 * 1024;

/// Workers of a node.
pub(super) const WORKERS_MAX: usize = 256;

/// Addresses of a worker.
pub const RELAY_IPS_MAX: usize = 4;

/// Longest name of a node, a region, a carrier or a cluster, bytes.
const NAME_LEN_MAX: usize = 32;

/// Longest address of a node's HTTP server, bytes.
const HTTP_LEN_MAX: usize = 512;

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`CLUSTER_VERSION`] of its executable.
    pub(super) version: u32,
    /// Its name, which is the record's key.
    pub(super) node: String,
    /// Which state folder is behind the name, 32 hexadecimal digits: of two nodes with one name, it tells which is which.
    pub(super) instance: String,
    /// Which start of its controlplane, 16 hexadecimal digits. That of a later start is higher.
    pub(super) run: String,
    /// How much this run has sealed before it: an older record of it has a lower number.
    pub(super) count: u64,
    /// Where it is, in the operator's words; may be empty.
    pub(super) region: String,
    /// In whose network it is, in the operator's words; may be empty.
    pub(super) carrier: String,
    /// Version of its executable.
    pub(super) software: String,
    /// Where its HTTP server is, once that is known.
    pub(super) http: Option<String>,
    /// SHA-256 of its DTLS certificate, 64 hexadecimal digits. Another one at each start.
    pub(super) fingerprint: String,
    /// Where other nodes reach each of its workers; empty while it has no dataplane.
    pub(super) workers: Vec<Vec<SocketAddr>>,
    /// Peers that it carries.
    pub(super) peers: u32,
    /// How busy its workers are on the average, thousandths of a core.
    pub(super) busy_permille: u32,
    /// When its controlplane started, seconds since 1970 by its own clock. Nothing is decided by it.
    pub(super) started_at: u64,
    /// Whether the node says with this that it stops.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_left: bool,
}

/// Why a record is not believed. The others are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It is longer than 16 KiB.
    #[error("it has {0} bytes, and a record has at most 16384")]
    TooLong(usize),
    /// It is no JSON of this form.
    #[error("it is not the record of a node")]
    Malformed,
    /// Its node has another [`CLUSTER_VERSION`].
    #[error("its node speaks version {0} of the cluster, and this one version 2: run one version on all nodes")]
    OtherVersion(u32),
    /// It names another node than its key does.
    #[error("it names another node than its key")]
    OtherName,
    /// One of its fields is out of bounds.
    #[error("its {0} is out of bounds")]
    OutOfBounds(&'static str),
    /// Its revision, its run or its number is not higher than one that was seen: it is of an epoch that has ended, or was put there again.
    #[error("it is older than the one that is known of its node")]
    Stale,
    /// There are more nodes than this one can remember.
    #[error("there are too many nodes")]
    TooMany,
    /// It is not sealed.
    #[error("it is not sealed: it is of another hand than a node's")]
    Unsealed,
    /// It is sealed with none of the keys of this node.
    #[error(
        "it is sealed with another signing key than this node has: give all nodes the same token.key and token-keys.d"
    )]
    UnknownKey,
    /// Its seal is not that of what it says.
    #[error("its seal is forged")]
    Forged,
}

impl Refusal {
    /// The names of all kinds, as metrics have them.
    pub const NAMES: [&str; 10] = [
        "too_long",
        "malformed",
        "other_version",
        "other_name",
        "out_of_bounds",
        "stale",
        "too_many",
        SealRefusal::NAMES[0],
        SealRefusal::NAMES[1],
        SealRefusal::NAMES[2],
    ];

    /// Its place in [`Refusal::NAMES`].
    pub fn index(self) -> usize {
        match self {
            Refusal::TooLong(_) => 0,
            Refusal::Malformed => 1,
            Refusal::OtherVersion(_) => 2,
            Refusal::OtherName => 3,
            Refusal::OutOfBounds(_) => 4,
            Refusal::Stale => 5,
            Refusal::TooMany => 6,
            Refusal::Unsealed => 7,
            Refusal::UnknownKey => 8,
            Refusal::Forged => 9,
        }
    }

    /// Whether what is refused was sealed by no node that this one believes.
    pub(super) fn is_of_seal(self) -> bool {
        matches!(self, Refusal::Unsealed | Refusal::UnknownKey | Refusal::Forged)
    }

    /// Its name in metrics and REST.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

impl From<SealRefusal> for Refusal {
    fn from(refusal: SealRefusal) -> Refusal {
        match refusal {
            SealRefusal::Unsealed => Refusal::Unsealed,
            SealRefusal::UnknownKey => Refusal::UnknownKey,
            SealRefusal::Forged => Refusal::Forged,
        }
    }
}

/// The part of a record that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Record {
    /// Reads what stands under `key`, if a node has sealed it.
    pub(super) fn open(seals: &Seals, key: &str, bytes: &[u8]) -> Result<Record, Refusal> {
        if bytes.len() > RECORD_LEN_MAX {
            return Err(Refusal::TooLong(bytes.len()));
        }
        Self::parse(key, seals.unwrap(Kind::Record, &[key], bytes)?)
    }

    /// As it stands in the bucket.
    pub(super) fn close(&self, seals: &Seals) -> Result<Vec<u8>, Refusal> {
        let bytes = seals.wrap(Kind::Record, &[&self.node], &self.write()?);
        if bytes.len() > RECORD_LEN_MAX { Err(Refusal::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    fn parse(key: &str, bytes: &[u8]) -> Result<Record, Refusal> {
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|_| Refusal::Malformed)?;
        if version != CLUSTER_VERSION {
            return Err(Refusal::OtherVersion(version));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|_| Refusal::Malformed)?;
        match record.node == key {
            true => record.check().map(|()| record),
            false => Err(Refusal::OtherName),
        }
    }

    fn write(&self) -> Result<Vec<u8>, Refusal> {
        self.check()?;
        serde_json::to_vec(self).map_err(|_| Refusal::Malformed)
    }

    /// Whether it was written later than another one of its node.
    pub(super) fn is_after(&self, other: &Record) -> bool {
        (&self.run, self.count) > (&other.run, other.count)
    }

    /// Whether it says the same of how its node is spoken to and sent to.
    pub(super) fn is_reached_as(&self, other: &Record) -> bool {
        let of = |record: &Record| Record { count: 0, peers: 0, busy_permille: 0, http: None, ..record.clone() };
        of(self) == of(other)
    }

    /// What the engine knows of its node.
    pub(super) fn news(&self) -> NodeNews {
        let mut fingerprint = [0; 32];
        let _ = hex::read(&self.fingerprint, &mut fingerprint); // It was checked.
        NodeNews {
            node: Sender { node: self.node.clone(), run: self.run.clone() },
            region: self.region.clone(),
            carrier: self.carrier.clone(),
            fingerprint,
            workers: self.workers.clone(),
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let is_printed = |text: &str, max: usize| text.len() <= max && text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_http = |text: &String| {
            is_printed(text, HTTP_LEN_MAX) && (text.starts_with("http://") || text.starts_with("https://"))
        };
        let is_reached = |address: &SocketAddr| {
            address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        };
        let of_worker = |worker: &Vec<SocketAddr>| worker.len() <= RELAY_IPS_MAX && worker.iter().all(is_reached);
        for (is_good, field) in [
            (is_name(&self.node), "node"),
            (hex::read(&self.instance, &mut [0; 16]).is_some(), "instance"),
            (is_run(&self.run), "run"),
            (self.region.is_empty() || is_name(&self.region), "region"),
            (self.carrier.is_empty() || is_name(&self.carrier), "carrier"),
            (is_printed(&self.software, NAME_LEN_MAX), "software"),
            (self.http.as_ref().is_none_or(is_http), "http"),
            (hex::read(&self.fingerprint, &mut [0; 32]).is_some(), "fingerprint"),
            (self.workers.len() <= WORKERS_MAX && self.workers.iter().all(of_worker), "workers"),
            (self.busy_permille <= 1000, "busy_permille"),
        ] {
            if !is_good {
                return Err(Refusal::OutOfBounds(field));
            }
        }
        Ok(())
    }
}

/// Whether this can be the name of a node, a region, a carrier or a cluster: 1 to 32 of A-Z a-z 0-9 - _. Names are parts of NATS
/// subjects.
pub fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(is_letter)
}

/// Whether this is a run: 16 hexadecimal digits, of lower case, because they are compared.
pub(super) fn is_run(text: &str) -> bool {
    hex::read(text, &mut [0; 8]).is_some() && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether this can be the name of a cluster: its buckets beside the one of its nodes have these ends.
pub fn is_cluster_name(text: &str) -> bool {
    is_name(text) && !["-rooms", "-shared"].iter().any(|end| text.ends_with(end))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::seal::tests::seals;
    use super::*;

    /// A record as a node writes it.
    pub(in crate::nodes) fn record(node: &str) -> Record {
        Record {
            version: CLUSTER_VERSION,
            node: node.into(),
            instance: "0123456789abcdef0123456789abcdef".into(),
            run: "0123456789abcdef".into(),
            count: 1,
            region: "eu".into(),
            carrier: "north".into(),
            software: "0.1.0".into(),
            http: Some("https://fra1.example.com".into()),
            fingerprint: "ab".repeat(32),
            workers: vec![vec!["192.0.2.1:40000".parse().unwrap(), "[2001:db8::1]:40000".parse().unwrap()]],
            peers: 812,
            busy_permille: 310,
            started_at: 1_795_415_232,
            has_left: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (record, seals) = (record("fra1"), seals(7));
        let bytes = record.close(&seals).unwrap();
        assert!(bytes.len() < 600, "{} bytes each time that a lease is renewed", bytes.len());
        assert_eq!(Record::open(&seals, "fra1", &bytes), Ok(record.clone()));
        let farewell = Record { has_left: true, count: 2, ..record.clone() };
        assert_eq!(Record::open(&seals, "fra1", &farewell.close(&seals).unwrap()), Ok(farewell.clone()));
        assert!(farewell.is_after(&record) && !record.is_after(&farewell) && !record.is_after(&record));
        assert!(Record { run: "0123456789abcdf0".into(), ..record.clone() }.is_after(&farewell));
        // A clock that is centuries ahead, or stands at the beginning, changes nothing.
        for started_at in [0, u64::MAX] {
            let record = Record { started_at, ..record.clone() };
            assert_eq!(Record::parse("fra1", &record.write().unwrap()), Ok(record));
        }
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        let good = String::from_utf8(record("fra1").write().unwrap()).unwrap();
        let of = |text: &str| Record::parse("fra1", text.as_bytes()).unwrap_err();
        assert_eq!(of(&good.replace("\"version\":2", "\"version\":3")), Refusal::OtherVersion(3));
        assert_eq!(of("{\"version\":7,\"everything\":\"else\"}"), Refusal::OtherVersion(7), "of any form");
        let open = |bytes: &[u8]| Record::open(&seals(7), "fra1", bytes).unwrap_err();
        assert_eq!(open(&[b' '; 16 << 20]), Refusal::TooLong(16 << 20), "before anything else of it is looked at");
        assert_eq!(open(good.as_bytes()), Refusal::Unsealed);
        assert_eq!(open(&record("fra1").close(&seals(8)).unwrap()), Refusal::UnknownKey);
        let other = seals(7).wrap(Kind::Record, &["fra2"], good.as_bytes());
        assert_eq!(open(&other), Refusal::Forged, "sealed for another key of the bucket");
        for malformed in ["", "{}", "[]", "null", "{\"version\":2}", "{\"version\":-1}", &good[..good.len() - 1]] {
            assert_eq!(of(malformed), Refusal::Malformed, "{malformed}");
        }
        let deep = "[".repeat(8_000);
        assert_eq!(of(&deep), Refusal::Malformed);
        assert_eq!(Record::parse("fra2", good.as_bytes()), Err(Refusal::OtherName));
        for (from, to, field) in [
            ("\"eu\"", "\"e u\"", "region"),
            ("\"north\"", "\"north.>\"", "carrier"),
            ("https://fra1", "ftp://fra1", "http"),
            ("https://fra1", "https://fra1\\u001b", "http"),
            ("abab", "ab", "fingerprint"),
            ("0123456789abcdef0123", "01", "instance"),
            ("\"run\":\"0123456789abcdef", "\"run\":\"0123456789ABCDEF", "run"),
            ("192.0.2.1:40000", "192.0.2.1:0", "workers"),
            ("192.0.2.1:40000", "0.0.0.0:40000", "workers"),
            ("192.0.2.1:40000", "224.0.0.1:40000", "workers"),
            ("310", "1001", "busy_permille"),
        ] {
            assert_eq!(of(&good.replacen(from, to, 1)), Refusal::OutOfBounds(field), "{from} {to}");
        }
        assert_eq!(of(&good.replace("192.0.2.1:40000", "localhost:1")), Refusal::Malformed);
        let crowd = Record { workers: vec![vec![]; WORKERS_MAX + 1], ..record("fra1") };
        assert_eq!(crowd.write(), Err(Refusal::OutOfBounds("workers")), "nor is it written");
        let long = vec!["[2001:db8:1111:2222:3333:4444:5555:6666]:40000".parse().unwrap(); RELAY_IPS_MAX];
        let long = Record { workers: vec![long; WORKERS_MAX], ..record("fra1") };
        assert!(matches!(long.close(&seals(7)), Err(Refusal::TooLong(_))));
    }

    #[test]
    fn names_are_parts_of_subjects() {
        for name in ["a", "fra-1_A", &"x".repeat(32)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a.b", "*", ">", "a b", "é", "a/b", &"x".repeat(33)] {
            assert!(!is_name(name), "{name}");
        }
        assert_eq!(["eu", "rooms", "a-rooms", "-shared"].map(is_cluster_name), [true, true, false, false]);
    }

    #[test]
    fn each_refusal_has_a_name_of_its_own() {
        let all = [
            Refusal::TooLong(1),
            Refusal::Malformed,
            Refusal::OtherVersion(2),
            Refusal::OtherName,
            Refusal::OutOfBounds("x"),
            Refusal::Stale,
            Refusal::TooMany,
            Refusal::Unsealed,
            Refusal::UnknownKey,
            Refusal::Forged,
        ];
        assert_eq!(all.map(Refusal::name), Refusal::NAMES);
        assert!(all[0].to_string().contains(&RECORD_LEN_MAX.to_string()));
        assert!(all[2].to_string().contains(&format!("this one version {CLUSTER_VERSION}")));
    }
}
