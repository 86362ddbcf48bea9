//! What reads strangers' bytes here, as functions of bytes for `fuzz/targets`. Each panics if what it holds is not so.

use std::time::{Duration, Instant};

use client::random::Random;

use crate::agent::{Agent, Event, Settings, Transfer, Trunk};
use crate::digest::Credentials;
use crate::limits::Rate;
use crate::message::{Framed, HEADERS_MAX, MESSAGE_LEN_MAX, Malformed, Message, framed};
use crate::sdp::Remote;
use crate::transaction::Hop;

/// Between messages; within one, what the agent said last: the tag of its response, and the branch of its request.
const SEPARATOR: u8 = 0x1e;
const TAG: u8 = 0x1f;
const BRANCH: u8 = 0x1d;
/// Messages that are looked at.
const MESSAGES_MAX: usize = 64;

/// A datagram, or the front of a stream, as SIP. What is read is written and read again alike; what is refused can be answered.
pub fn sip(bytes: &[u8]) {
    if let Framed::Whole(len) | Framed::Ping(len) = framed(bytes) {
        assert!(len > 0 && len <= bytes.len());
    }
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(Malformed::Refuse(message, status, reason)) => {
            assert!((400..700).contains(&status));
            assert!(!Message::response(&message, status, reason).write().is_empty());
            return;
        }
        Err(Malformed::Drop) => return,
    };
    if let Ok(text) = std::str::from_utf8(&message.body) {
        sdp(text);
    }
    let written = message.write();
    // Names in their long form and a Content-Length may be more than what came.
    if written.len() > MESSAGE_LEN_MAX || message.headers.len() >= HEADERS_MAX {
        return;
    }
    let again = Message::parse(&written).expect("what is written is read");
    let all = |message: &Message| -> Vec<_> {
        message.headers.iter().filter(|(name, _)| name != "Content-Length").cloned().collect()
    };
    assert_eq!((&again.start, &again.body), (&message.start, &message.body));
    assert_eq!(all(&again), all(&message));
}

/// An offer or an answer of a telephone.
fn sdp(text: &str) {
    let plain = Remote::parse(text, false);
    // Who wants SRTP takes nothing that is not taken without.
    if let Ok(remote) = Remote::parse(text, true) {
        assert!(remote.crypto.is_some() && plain.is_ok());
    }
}

/// Messages one after the other to an agent that is registered at a trunk, calls by it, and lets calls be transferred. The first byte of each says how
/// long after the one before it comes, and whether it comes from a stranger or from the trunk. Whatever comes, the agent's answers go where requests came
/// from, what it sends can be read, its tables are bounded, and the call of somebody else goes on.
pub fn calls(bytes: &[u8]) {
    let address = |text: &str| Hop { address: text.parse().expect("an address"), connection: None };
    let (stranger, trunk, somebody) =
        (address("192.0.2.99:5060"), address("203.0.113.5:5060"), address("192.0.2.1:5060"));
    let credentials = Credentials { user: "gw".into(), password: "secret".into() };
    let settings = Settings {
        address: address("198.51.100.1:5060").address,
        tls: None,
        calls_max: 8,
        calls_per_source_max: 4,
        invites: Rate { per_second: 1000.0, burst: 1000.0 },
        transfers: true,
        trunk: Some(Trunk { hop: trunk, domain: "pbx.example".into(), credentials, registers: true }),
    };
    let mut now = Instant::now();
    let mut agent = Agent::new(now, settings, Random::from_seed(7));
    let mut last = Last::default();
    let request = |method: &str, cseq: u32, tag: &str| {
        format!(
            "{method} sip:100@198.51.100.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK{method}{cseq};rport\r\n\
             From: <sip:a@192.0.2.1>;tag=a\r\nTo: <sip:100@198.51.100.1>{tag}\r\nCall-ID: c\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:a@192.0.2.1>\r\nMax-Forwards: 70\r\n\r\n"
        )
    };
    agent.receive(now, somebody, request("INVITE", 1, "").as_bytes());
    last.settle(&mut agent, now, false);
    let own = format!(";tag={}", last.tag);
    agent.receive(now, somebody, request("ACK", 1, &own).as_bytes());
    agent.dial(now, "200", "v=0\r\n".into(), None);
    agent.handle_timeout(now);
    last.settle(&mut agent, now, false);
    // Who knows it may end that call.
    last.tag.clear();
    for piece in bytes.split(|byte| *byte == SEPARATOR).take(MESSAGES_MAX) {
        let Some((&first, message)) = piece.split_first() else { continue };
        now += Duration::from_millis(50 * u64::from(first >> 1));
        let hop = if first & 1 == 0 { stranger } else { trunk };
        let mut said = Vec::new();
        for &byte in message {
            match byte {
                TAG => said.extend_from_slice(last.tag.as_bytes()),
                BRANCH => said.extend_from_slice(last.branch.as_bytes()),
                _ => said.push(byte),
            }
        }
        agent.receive(now, hop, &said);
        let is_refusal = matches!(Message::parse(&said), Err(Malformed::Refuse(..)));
        let answered = last.settle(&mut agent, now, is_refusal);
        // A copy is answered where the first one was; nobody is who has not asked.
        let has_asked = |to: &Hop| [stranger, trunk].iter().any(|asked| asked.address.ip() == to.address.ip());
        assert!(answered.iter().all(has_asked), "{answered:?}");
        agent.handle_timeout(now);
        last.settle(&mut agent, now, false);
        assert!(agent.calls() <= 8);
    }
    // Longer ago than any retransmission, so that it is a request of its own; and within the session's time.
    agent.receive(now, somebody, request("INFO", 2, &own).as_bytes());
    assert_eq!(last.settle(&mut agent, now, false), [somebody], "the other call goes on");
}

/// What the agent said last.
#[derive(Default)]
struct Last {
    tag: String,
    branch: String,
}

impl Last {
    /// Does what a gateway would, and reads what is sent. Where responses went.
    fn settle(&mut self, agent: &mut Agent, now: Instant, is_refusal: bool) -> Vec<Hop> {
        let sdp = || "v=0\r\n".to_owned();
        while let Some(event) = agent.poll_event() {
            match event {
                Event::Incoming(incoming) if incoming.number == "busy" => {
                    agent.refuse(now, incoming.call, 486, "Busy Here")
                }
                Event::Incoming(incoming) => {
                    agent.ring(now, incoming.call);
                    if incoming.number != "rings" {
                        agent.accept(now, incoming.call, sdp());
                    }
                }
                Event::Offered { call, .. } => agent.accept(now, call, sdp()),
                Event::Referred { call, number, replaces } => {
                    if agent.dial(now, &number, sdp(), Some(Transfer { by: call, replaces })).is_none() {
                        agent.tell_referrer(now, call, 503);
                    }
                }
                Event::Confirmed { .. }
                | Event::Early { .. }
                | Event::Accepted { .. }
                | Event::Digit { .. }
                | Event::Ended { .. } => (),
            }
        }
        let mut answered = Vec::new();
        while let Some((to, bytes)) = agent.poll_transmit() {
            let message = match Message::parse(&bytes) {
                Ok(message) => message,
                // The refusal of what could not be read repeats its header fields.
                Err(_) if is_refusal => {
                    answered.push(to);
                    continue;
                }
                Err(error) => panic!("what is sent can be read: {error:?}: {}", String::from_utf8_lossy(&bytes)),
            };
            if message.status() == 0 {
                self.branch = message.via().map(|via| via.branch.to_owned()).unwrap_or_default();
            } else {
                answered.push(to);
                self.tag = message.tag("To").map_or_else(|| std::mem::take(&mut self.tag), str::to_owned);
            }
        }
        answered
    }
}
