//! Calls against the agent in virtual time, message by message.

use super::*;
use crate::transaction::Connection;

const SDP: &str = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n";
const PHONE: &str = "192.0.2.1:5060";

pub(super) fn hop(address: &str) -> Hop {
    Hop { address: address.parse().unwrap(), connection: None }
}

fn settings() -> Settings {
    Settings {
        address: "198.51.100.1:5060".parse().unwrap(),
        tls: Some("198.51.100.1:5061".parse().unwrap()),
        calls_max: 20,
        calls_per_source_max: 10,
        invites: Rate { per_second: 10.0, burst: 30.0 },
        trunk: None,
    }
}

pub(super) fn agent(now: Instant) -> Agent {
    Agent::new(now, settings(), Random::from_seed(7))
}

fn trunked(now: Instant, registers: bool) -> Agent {
    let credentials = Credentials { user: "gw".into(), password: "secret".into() };
    let address = "203.0.113.5:5060".parse().unwrap();
    let trunk = Trunk { address, domain: "pbx.example".into(), credentials, registers };
    Agent::new(now, Settings { trunk: Some(trunk), ..settings() }, Random::from_seed(7))
}

pub(super) fn sent(agent: &mut Agent) -> Vec<Message> {
    std::iter::from_fn(|| agent.poll_transmit())
        .map(|(_, bytes)| Message::parse(&bytes).expect("what we send can be read"))
        .collect()
}

fn statuses(agent: &mut Agent) -> Vec<u16> {
    sent(agent).iter().map(Message::status).collect()
}

fn events(agent: &mut Agent) -> Vec<Event> {
    std::iter::from_fn(|| agent.poll_event()).collect()
}

/// A request of the telephone.
pub(super) fn request(method: &str, cseq: u32, to_tag: &str, more: &str, body: &str) -> Vec<u8> {
    let via = if method == "ACK" || method == "CANCEL" { "INVITE" } else { method };
    format!(
        "{method} sip:100@198.51.100.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{via}{cseq};rport\r\n\
         From: \"Anna\" <sip:anna@192.0.2.1>;tag=a\r\nTo: <sip:100@198.51.100.1>{to_tag}\r\nCall-ID: c1\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:anna@192.0.2.1>\r\nMax-Forwards: 70\r\n{more}\r\n{body}"
    )
    .into_bytes()
}

fn invite(more: &str) -> Vec<u8> {
    request("INVITE", 1, "", &format!("Content-Type: application/sdp\r\n{more}"), SDP)
}

/// A call that is up; its tag.
pub(super) fn up(agent: &mut Agent, now: Instant, more: &str) -> (u64, String) {
    agent.receive(now, hop(PHONE), &invite(more));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.accept(now, incoming.call, "v=0\r\n".into());
    let tag = format!(";tag={}", sent(agent).last().unwrap().tag("To").unwrap());
    agent.receive(now, hop(PHONE), &request("ACK", 1, &tag, "", ""));
    assert_eq!(events(agent), [Event::Confirmed { call: incoming.call, sdp: None }]);
    (incoming.call, tag)
}

#[test]
fn a_call_from_invite_to_bye() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop("192.0.2.1:49152"), &invite("X-Room: lobby\r\nX-Pin: 4711\r\n"));
    assert_eq!(statuses(&mut agent), [100]);
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    assert_eq!((&*incoming.number, &*incoming.name), ("100", "Anna"));
    assert_eq!((incoming.room.as_deref(), incoming.pin.as_deref()), (Some("lobby"), Some("4711")));
    assert_eq!(incoming.offer.as_deref(), Some(SDP));
    agent.ring(now, incoming.call);
    agent.accept(now, incoming.call, "v=0\r\n".into());
    let (to, bytes) = std::iter::from_fn(|| agent.poll_transmit()).last().unwrap();
    assert_eq!(to, hop("192.0.2.1:49152"), "rport");
    let ok = Message::parse(&bytes).unwrap();
    assert_eq!((ok.status(), &*ok.body), (200, &b"v=0\r\n"[..]));
    assert_eq!(
        ok.header("Via").unwrap(),
        "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKINVITE1;received=192.0.2.1;rport=49152"
    );
    let tag = format!(";tag={}", ok.tag("To").unwrap());
    // The 2xx is repeated until its ACK comes, and the INVITE again changes nothing.
    agent.handle_timeout(now + Duration::from_millis(600));
    agent.receive(now, hop(PHONE), &invite(""));
    assert_eq!(statuses(&mut agent), [200, 200]);
    agent.receive(now, hop(PHONE), &request("ACK", 1, &tag, "", ""));
    agent.handle_timeout(now + Duration::from_secs(40));
    assert_eq!(statuses(&mut agent), [0u16; 0]);
    agent.receive(now, hop(PHONE), &request("BYE", 2, &tag, "", ""));
    agent.receive(now, hop(PHONE), &request("BYE", 2, &tag, "", ""));
    assert_eq!(statuses(&mut agent), [200, 200]);
    assert_eq!(events(&mut agent).last(), Some(&Event::Ended { call: incoming.call, reason: Ended::Bye }));
    agent.receive(now, hop(PHONE), &request("BYE", 3, &tag, "", ""));
    assert_eq!((statuses(&mut agent), agent.calls()), (vec![481], 0));
}

#[test]
fn an_answer_that_nobody_acknowledges_ends_the_call() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &invite(""));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.accept(now, incoming.call, "v=0\r\n".into());
    agent.handle_timeout(now + Duration::from_secs(33));
    assert_eq!(events(&mut agent), [Event::Ended { call: incoming.call, reason: Ended::TimedOut }]);
    assert_eq!(sent(&mut agent).last().unwrap().method(), "BYE");
}

#[test]
fn cancel_ends_what_rings() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &invite(""));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.receive(now, hop(PHONE), &request("CANCEL", 1, "", "", ""));
    assert_eq!(statuses(&mut agent), [100, 200, 487]);
    assert_eq!(events(&mut agent), [Event::Ended { call: incoming.call, reason: Ended::Cancelled }]);
    // The 487 is repeated until its ACK.
    agent.handle_timeout(now + Duration::from_millis(600));
    assert_eq!(statuses(&mut agent), [487]);
    agent.receive(now, hop(PHONE), &request("ACK", 1, ";tag=x", "", ""));
    agent.handle_timeout(now + Duration::from_secs(3));
    assert_eq!(statuses(&mut agent), [0u16; 0]);
    agent.receive(now, hop(PHONE), &request("CANCEL", 9, "", "", ""));
    assert_eq!(statuses(&mut agent), [481]);
}

#[test]
fn an_invite_without_an_offer_is_offered_to() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &request("INVITE", 1, "", "", ""));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    assert_eq!(incoming.offer, None);
    agent.accept(now, incoming.call, SDP.into());
    let tag = format!(";tag={}", sent(&mut agent).last().unwrap().tag("To").unwrap());
    agent.receive(now, hop(PHONE), &request("ACK", 1, &tag, "Content-Type: application/sdp\r\n", SDP));
    assert_eq!(events(&mut agent), [Event::Confirmed { call: incoming.call, sdp: Some(SDP.into()) }]);
}

#[test]
fn a_new_offer_is_answered_and_numbers_only_rise() {
    let now = Instant::now();
    let mut agent = agent(now);
    let (call, tag) = up(&mut agent, now, "");
    let offer = format!("{SDP}a=sendonly\r\n");
    agent.receive(now, hop(PHONE), &request("INVITE", 2, &tag, "Content-Type: application/sdp\r\n", &offer));
    assert_eq!(events(&mut agent), [Event::Offered { call, offer: Some(offer) }]);
    agent.receive(now, hop(PHONE), &request("INVITE", 3, &tag, "", ""));
    assert_eq!(statuses(&mut agent), [491], "one after the other");
    agent.refuse(now, call, 488, "Not Acceptable Here");
    assert_eq!((statuses(&mut agent), agent.calls()), (vec![488], 1), "the call stays");
    agent.receive(now, hop(PHONE), &request("BYE", 1, &tag, "", ""));
    assert_eq!(statuses(&mut agent), [500]);
    agent.receive(
        now,
        hop(PHONE),
        &request("INFO", 4, &tag, "Content-Type: application/dtmf-relay\r\n", "Signal=5\r\nDuration=160\r\n"),
    );
    assert_eq!(events(&mut agent), [Event::Digit { call, digit: b'5' }]);
    let foreign = String::from_utf8(request("BYE", 9, &tag, "", "")).unwrap().replace("Call-ID: c1", "Call-ID: c2");
    sent(&mut agent);
    agent.receive(now, hop(PHONE), foreign.as_bytes());
    assert_eq!((statuses(&mut agent), agent.calls()), (vec![481], 1));
}

#[test]
fn sessions_have_timers() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &invite("Supported: timer\r\nSession-Expires: 30\r\n"));
    let refused = sent(&mut agent).pop().unwrap();
    assert_eq!((refused.status(), refused.header("Min-SE")), (422, Some("90")));
    // They refresh, and do not: the call ends.
    let mut agent = self::agent(now);
    let (call, _) = up(&mut agent, now, "Supported: timer\r\nSession-Expires: 90;refresher=uac\r\n");
    agent.handle_timeout(now + Duration::from_secs(59));
    assert_eq!(agent.calls(), 1);
    agent.handle_timeout(now + Duration::from_secs(61));
    assert_eq!(events(&mut agent), [Event::Ended { call, reason: Ended::Expired }]);
    // We refresh, and they answer: the call stays.
    let mut agent = self::agent(now);
    let (call, _) = up(&mut agent, now, "Supported: timer\r\nSession-Expires: 90;refresher=uas\r\n");
    agent.handle_timeout(now + Duration::from_secs(46));
    let refresh = sent(&mut agent).pop().unwrap();
    assert_eq!((refresh.method(), refresh.header("Session-Expires")), ("INVITE", Some("90;refresher=uac")));
    let ok = Message::response(&refresh, 200, "OK").with("Session-Expires", "90;refresher=uac").write();
    agent.receive(now + Duration::from_secs(46), hop(PHONE), &ok);
    assert_eq!(sent(&mut agent).pop().unwrap().method(), "ACK");
    agent.handle_timeout(now + Duration::from_secs(80));
    assert_eq!((events(&mut agent), agent.calls()), (vec![], 1));
    agent.hang_up(now, call);
}

#[test]
fn a_flood_of_invites_is_bounded() {
    let now = Instant::now();
    let mut agent = agent(now);
    let flood = |n: usize| {
        String::from_utf8(invite("")).unwrap().replace("branch=z9hG4bKINVITE1", &format!("branch=z9hG4bK{n}"))
    };
    for n in 0..1000 {
        let from = format!("192.0.2.{}:5060", n % 4);
        agent.receive(now + Duration::from_millis(n as u64), hop(&from), flood(n).as_bytes());
        assert!(agent.calls() <= 20);
        assert!(
            agent.servers.get(&Key::of(&Message::parse(flood(n).as_bytes()).unwrap()).unwrap()).is_none() || n < 40
        );
    }
    let counted =
        [Counter::RefusedFlood, Counter::RefusedFull, Counter::Calls].map(|counter| agent.counters.get(counter));
    assert_eq!((counted.iter().sum::<u64>(), counted[2]), (1000, 20), "{counted:?}");
    assert!(counted[0] > 500, "{counted:?}");
}

#[test]
fn who_is_locked_out_is_refused_at_once() {
    let now = Instant::now();
    let mut agent = agent(now);
    for _ in 0..5 {
        agent.sources.wrong_pin(now, "192.0.2.1".parse().unwrap());
    }
    agent.receive(now, hop(PHONE), &invite(""));
    assert_eq!((statuses(&mut agent), agent.calls()), (vec![403], 0));
}

#[test]
fn a_trunk_is_registered_with_its_password_and_kept() {
    let now = Instant::now();
    let mut agent = trunked(now, true);
    let trunk = hop("203.0.113.5:5060");
    agent.handle_timeout(now);
    let first = sent(&mut agent).pop().unwrap();
    assert_eq!((first.method(), first.uri()), ("REGISTER", "sip:pbx.example"));
    let challenge = Message::response(&first, 401, "Unauthorized")
        .with("WWW-Authenticate", "Digest realm=\"pbx\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"");
    agent.receive(now, trunk, &challenge.write());
    let second = sent(&mut agent).pop().unwrap();
    assert!(second.header("Authorization").unwrap().contains("username=\"gw\", realm=\"pbx\", nonce=\"n1\""));
    assert_eq!((second.cseq(), second.call_id()), (2, first.call_id()));
    let contact = format!("{};expires=120", second.header("Contact").unwrap());
    agent.receive(now, trunk, &Message::response(&second, 200, "OK").with("Contact", contact).write());
    assert!(agent.is_registered());
    agent.handle_timeout(now + Duration::from_secs(59));
    assert!(sent(&mut agent).is_empty());
    agent.handle_timeout(now + Duration::from_secs(61));
    let third = sent(&mut agent).pop().unwrap();
    // A wrong password is not tried again and again.
    agent.receive(now, trunk, &Message::response(&third, 403, "Forbidden").write());
    agent.handle_timeout(now + Duration::from_secs(1));
    assert!(!agent.is_registered() && sent(&mut agent).is_empty());
}

#[test]
fn a_number_is_called_by_the_trunk() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "+491234", SDP.into()).unwrap();
    let first = sent(&mut agent).pop().unwrap();
    assert_eq!(first.uri(), "sip:+491234@pbx.example");
    agent.receive(
        now,
        trunk,
        &Message::response(&first, 407, "Proxy Authentication Required")
            .with("Proxy-Authenticate", "Digest realm=\"pbx\", nonce=\"n1\"")
            .write(),
    );
    let [ack, second] = &sent(&mut agent)[..] else { panic!("ACK and INVITE") };
    assert_eq!((ack.method(), ack.cseq(), second.cseq()), ("ACK", 1, 2));
    assert!(second.header("Proxy-Authorization").is_some());
    agent.receive(now, trunk, &Message::response(second, 180, "Ringing").write());
    let mut ok = Message::response(second, 200, "OK").with("Contact", "<sip:b@203.0.113.9>");
    ok.set("To", format!("{};tag=b", second.header("To").unwrap()));
    ok.body = SDP.as_bytes().to_vec();
    agent.receive(now, trunk, &ok.write());
    agent.receive(now, trunk, &ok.write());
    let acks = sent(&mut agent);
    assert_eq!(acks.iter().map(|ack| (ack.method(), ack.uri())).collect::<Vec<_>>(), [("ACK", "sip:b@203.0.113.9"); 2]);
    assert_eq!(events(&mut agent), [Event::Accepted { call, sdp: SDP.into() }]);
    agent.hang_up(now, call);
    assert_eq!((sent(&mut agent).pop().unwrap().method(), agent.calls()), ("BYE", 0));
    assert_eq!(agent.dial(now, "a b@evil", SDP.into()), None, "no number");
}

#[test]
fn a_call_that_is_given_up_is_cancelled_when_it_rings() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "100", SDP.into()).unwrap();
    let invite = sent(&mut agent).pop().unwrap();
    agent.hang_up(now, call);
    assert!(sent(&mut agent).is_empty(), "RFC 3261 §9.1: not before a provisional response");
    agent.receive(now, trunk, &Message::response(&invite, 180, "Ringing").write());
    let cancel = sent(&mut agent).pop().unwrap();
    assert_eq!(
        (cancel.method(), cancel.cseq(), cancel.via().unwrap().branch),
        ("CANCEL", 1, invite.via().unwrap().branch)
    );
    agent.receive(now, trunk, &Message::response(&invite, 487, "Request Terminated").write());
    assert_eq!(sent(&mut agent).pop().unwrap().method(), "ACK");
    assert_eq!(events(&mut agent), [Event::Ended { call, reason: Ended::Refused(487) }]);
}

#[test]
fn over_tls_all_goes_by_the_connection_and_by_a_new_one_when_it_is_lost() {
    let now = Instant::now();
    for (scheme, contact) in
        [("sip", "<sip:uprtc@198.51.100.1:5061;transport=tls>"), ("sips", "<sips:uprtc@198.51.100.1:5061>")]
    {
        let mut agent = agent(now);
        let by = |id| Hop { connection: Some(Connection { id, is_tls: true }), ..hop("192.0.2.1:40000") };
        // A proxy that does not stay, whose Contact would be by UDP.
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap().replace(" sip:100@198", &format!(" {scheme}:100@198"));
            text.replace("SIP/2.0/UDP 192.0.2.1:5060", "SIP/2.0/TLS 192.0.2.1:5060").into_bytes()
        };
        agent.receive(now, by(1), &text(invite("Via: SIP/2.0/TLS 192.0.2.9;branch=z9hG4bKother\r\n")));
        let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
        agent.accept(now, incoming.call, "v=0\r\n".into());
        let (to, bytes) = std::iter::from_fn(|| agent.poll_transmit()).last().unwrap();
        let ok = Message::parse(&bytes).unwrap();
        assert_eq!((to, ok.header("Contact")), (by(1), Some(contact)));
        let tag = format!(";tag={}", ok.tag("To").unwrap());
        agent.receive(now, by(1), &text(request("ACK", 1, &tag, "", "")));
        agent.receive(now, by(2), &text(request("OPTIONS", 2, &tag, "", "")));
        assert_eq!(agent.poll_transmit().unwrap().0, by(2));
        // Not by one that is not protected.
        let plain = Hop { connection: Some(Connection { id: 3, is_tls: false }), ..by(1) };
        agent.receive(now, plain, &text(request("OPTIONS", 3, &tag, "", "")));
        agent.poll_transmit().unwrap();
        agent.hang_up(now, incoming.call);
        let (to, bytes) = agent.poll_transmit().unwrap();
        let bye = Message::parse(&bytes).unwrap();
        assert_eq!((to, bye.method()), (by(2), "BYE"));
        assert!(bye.header("Via").unwrap().starts_with("SIP/2.0/TLS 198.51.100.1:5061;"));
    }
}
