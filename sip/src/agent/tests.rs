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
        transfers: false,
        trunk: None,
    }
}

pub(super) fn agent(now: Instant) -> Agent {
    Agent::new(now, settings(), Random::from_seed(7))
}

pub(super) fn trunked(now: Instant, registers: bool) -> Agent {
    trunked_by(now, hop("203.0.113.5:5060"), registers)
}

fn trunked_by(now: Instant, hop: Hop, registers: bool) -> Agent {
    let credentials = Credentials { user: "gw".into(), password: "secret".into() };
    let trunk = Trunk { hop, domain: "pbx.example".into(), credentials, registers };
    Agent::new(now, Settings { trunk: Some(trunk), transfers: true, ..settings() }, Random::from_seed(7))
}

/// What a NOTIFY of ours tells, and how it says that it goes on.
fn told(notify: &Message) -> (String, String) {
    assert_eq!((notify.method(), notify.header("Content-Type")), ("NOTIFY", Some("message/sipfrag;version=2.0")));
    (String::from_utf8(notify.body.clone()).unwrap(), notify.header("Subscription-State").unwrap().to_owned())
}

#[test]
fn a_call_is_transferred_and_told_how_far_that_is() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let (call, tag) = up(&mut agent, now, "");
    let to = "Refer-To: <sip:200@pbx.example?Replaces=7%40x%3Bto-tag%3Dp%3Bfrom-tag%3Dq>\r\n";
    agent.receive(now, hop(PHONE), &request("REFER", 2, &tag, to, ""));
    let [accepted, trying] = &sent(&mut agent)[..] else { panic!("202 and NOTIFY") };
    assert_eq!((accepted.status(), trying.header("Event")), (202, Some("refer;id=2")));
    assert_eq!(told(trying), ("SIP/2.0 100 Trying\r\n".into(), "active;expires=180".into()));
    let replaces = Some("7@x;to-tag=p;from-tag=q".to_owned());
    assert_eq!(events(&mut agent), [Event::Referred { call, number: "200".into(), replaces: replaces.clone() }]);
    // One at a time.
    agent.receive(now, hop(PHONE), &request("REFER", 3, &tag, to, ""));
    assert_eq!(statuses(&mut agent), [491]);
    let transfer = Some(Transfer { by: call, replaces });
    let other = agent.dial(now, "200", SDP.into(), transfer).unwrap();
    let invite = sent(&mut agent).pop().unwrap();
    assert_eq!(invite.header("Replaces"), Some("7@x;to-tag=p;from-tag=q"));
    agent.receive(now, trunk, &Message::response(&invite, 100, "Trying").write());
    assert!(sent(&mut agent).is_empty(), "it knows");
    for _ in 0..2 {
        agent.receive(now, trunk, &Message::response(&invite, 180, "Ringing").write());
    }
    let ringing = sent(&mut agent);
    assert_eq!((ringing.len(), told(&ringing[0]).0), (1, "SIP/2.0 180 Ringing\r\n".into()));
    let mut ok = Message::response(&invite, 200, "OK").with("Contact", "<sip:b@203.0.113.9>");
    ok.set("To", format!("{};tag=b", invite.header("To").unwrap()));
    ok.body = SDP.as_bytes().to_vec();
    agent.receive(now, trunk, &ok.write());
    let [_ack, done] = &sent(&mut agent)[..] else { panic!("ACK and NOTIFY") };
    assert_eq!(told(done), ("SIP/2.0 200 OK\r\n".into(), "terminated;reason=noresource".into()));
    // Who asked hangs up, and the other call goes on.
    agent.receive(now, hop(PHONE), &request("BYE", 4, &tag, "", ""));
    sent(&mut agent);
    assert_eq!(agent.calls(), 1);
    agent.hang_up(now, other);
    assert_eq!(sent(&mut agent).len(), 1, "BYE, and nobody is told");
}

#[test]
fn a_transfer_that_fails_is_told_and_another_may_follow() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let (call, tag) = up(&mut agent, now, "");
    let refer = |agent: &mut Agent, cseq| {
        let to = "Refer-To: <sip:200@pbx.example>\r\n";
        agent.receive(now, hop(PHONE), &request("REFER", cseq, &tag, to, ""));
        let trying = sent(agent).pop().unwrap();
        agent.receive(now, hop(PHONE), &Message::response(&trying, 200, "OK").write());
        let transfer = Some(Transfer { by: call, replaces: None });
        (agent.dial(now, "200", SDP.into(), transfer).unwrap(), sent(agent).pop().unwrap())
    };
    let (_, invite) = refer(&mut agent, 2);
    agent.receive(now, trunk, &Message::response(&invite, 486, "Busy Here").write());
    assert_eq!(told(&sent(&mut agent).pop().unwrap()).0, "SIP/2.0 486 Busy Here\r\n");
    // Nobody answers at all, and one that we give up.
    refer(&mut agent, 3);
    agent.handle_timeout(now + crate::transaction::TIMEOUT);
    assert_eq!(told(&sent(&mut agent).pop().unwrap()).0, "SIP/2.0 408 Request Timeout\r\n");
    let (other, invite) = refer(&mut agent, 4);
    agent.receive(now, trunk, &Message::response(&invite, 180, "Ringing").write());
    agent.hang_up(now, other);
    sent(&mut agent);
    agent.receive(now, trunk, &Message::response(&invite, 487, "Request Terminated").write());
    assert_eq!(told(&sent(&mut agent).pop().unwrap()).0, "SIP/2.0 487 Request Terminated\r\n");
    // Who does not want to know is told no more.
    refer(&mut agent, 5);
    let trying = |agent: &mut Agent| sent(agent).into_iter().rfind(|message| message.method() == "NOTIFY");
    agent.tell_referrer(now, call, 183);
    let progress = trying(&mut agent).unwrap();
    agent.receive(now, hop(PHONE), &Message::response(&progress, 481, "Call/Transaction Does Not Exist").write());
    agent.tell_referrer(now, call, 200);
    assert!(trying(&mut agent).is_none());
}

#[test]
fn what_cannot_be_transferred_is_refused() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let (call, tag) = up(&mut agent, now, "");
    let mut cseq = 1;
    let mut refer = |agent: &mut Agent, more: &str| {
        cseq += 1;
        agent.receive(now, hop(PHONE), &request("REFER", cseq, &tag, more, ""));
        statuses(agent)
    };
    for (more, status) in [
        ("", 400),
        ("Refer-To: <sip:1@x>\r\nRefer-To: <sip:2@x>\r\n", 400),
        ("Refer-To: <sip:1@x>, <sip:2@x>\r\n", 400),
        ("Refer-To: <tel:+49301>\r\n", 416),
        ("Refer-To: <sip:x>\r\n", 400),
        ("Refer-To: <sip:a%20b@x>\r\n", 400),
        ("Refer-To: <sip:1@x?Replaces=a%0D%0AX-Room%3A%20b>\r\n", 400),
    ] {
        assert_eq!(refer(&mut agent, more), [status], "{more}");
    }
    assert!(events(&mut agent).is_empty());
    // As often as somebody may call.
    let mut taken = 0;
    loop {
        match refer(&mut agent, "Refer-To: <sip:1@x>\r\n")[..] {
            [202, _] => agent.tell_referrer(now, call, 403),
            [503] => break,
            ref other => panic!("{other:?}"),
        }
        taken += 1;
        sent(&mut agent);
    }
    assert_eq!(taken, 29, "and the call itself");
    // Where nobody may, it is no method of ours.
    let mut agent = self::agent(now);
    let (_, tag) = up(&mut agent, now, "");
    agent.receive(now, hop(PHONE), &request("REFER", 2, &tag, "Refer-To: <sip:1@x>\r\n", ""));
    assert_eq!(statuses(&mut agent), [405]);
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
fn a_trunk_of_tls_is_spoken_to_by_a_connection_that_may_be_a_new_one() {
    let now = Instant::now();
    let trunk = Hop::trunk("203.0.113.5:5061".parse().unwrap(), true);
    let mut agent = trunked_by(now, trunk, true);
    agent.handle_timeout(now);
    let register = |agent: &mut Agent| {
        let (hop, bytes) = agent.poll_transmit().expect("REGISTER");
        assert_eq!(hop, trunk);
        Message::parse(&bytes).unwrap()
    };
    let first = register(&mut agent);
    assert_eq!(first.header("Contact"), Some("<sip:gw@198.51.100.1:5061;transport=tls>"));
    agent.receive(now, trunk, &Message::response(&first, 200, "OK").write());
    assert!(agent.is_registered());
    // It is lost: registered again in a few seconds, and not at once if that fails.
    agent.trunk_closed(now);
    agent.handle_timeout(now + REGISTER_ANEW / 2);
    assert!(!agent.is_registered() && sent(&mut agent).is_empty());
    agent.handle_timeout(now + REGISTER_ANEW);
    register(&mut agent);
    agent.trunk_not_reached(now + REGISTER_ANEW);
    agent.trunk_closed(now + REGISTER_ANEW);
    agent.handle_timeout(now + 2 * REGISTER_ANEW);
    assert!(sent(&mut agent).is_empty());
    let call = agent.dial(now, "100", SDP.into(), None).unwrap();
    sent(&mut agent);
    agent.trunk_not_reached(now);
    assert_eq!(events(&mut agent), [Event::Ended { call, reason: Ended::Refused(503) }]);
    // A request that comes in a call of its connection by another one does not change where it goes.
    let text = String::from_utf8(invite("")).unwrap().replace("SIP/2.0/UDP", "SIP/2.0/TLS");
    agent.receive(now, trunk, text.as_bytes());
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.accept(now, incoming.call, "v=0\r\n".into());
    let tag = format!(";tag={}", sent(&mut agent).last().unwrap().tag("To").unwrap());
    let other = Hop { connection: Some(Connection { id: 7, is_tls: true }), ..trunk };
    agent.receive(now, other, &request("ACK", 1, &tag, "", ""));
    agent.receive(now, other, &request("INFO", 2, &tag, "", ""));
    assert_eq!(agent.poll_transmit().unwrap().0, other, "its response goes where it came from");
    agent.hang_up(now, incoming.call);
    assert_eq!(agent.poll_transmit().unwrap().0, trunk);
}

#[test]
fn a_trunk_is_called_and_registered_where_it_is_found() {
    let now = Instant::now();
    let mut agent = trunked_by(now, hop("0.0.0.0:5060"), true);
    agent.handle_timeout(now);
    assert!(sent(&mut agent).is_empty() && agent.dial(now, "100", SDP.into(), None).is_none());
    for address in ["203.0.113.5:5060", "203.0.113.6:5060"] {
        let address = address.parse().unwrap();
        assert!(agent.trunk_is_at(now, address));
        agent.handle_timeout(now);
        let (to, bytes) = agent.poll_transmit().unwrap();
        let register = Message::parse(&bytes).unwrap();
        assert_eq!((register.method(), register.uri(), to.address), ("REGISTER", "sip:pbx.example", address));
        agent.receive(now, to, &Message::response(&register, 200, "OK").write());
        assert!(!agent.trunk_is_at(now, address));
        agent.handle_timeout(now);
        assert!(sent(&mut agent).is_empty() && agent.dial(now, "100", SDP.into(), None).is_some());
        assert_eq!(agent.poll_transmit().unwrap().0.address, address);
    }
}

#[test]
fn a_number_is_called_by_the_trunk() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "+491234", SDP.into(), None).unwrap();
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
    assert_eq!(agent.dial(now, "a b@evil", SDP.into(), None), None, "no number");
}

#[test]
fn what_is_said_before_the_answer_is_told_once_and_counts_where_the_answer_says_nothing() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "100", SDP.into(), None).unwrap();
    let invite = sent(&mut agent).pop().unwrap();
    let response = |status, body: &str| {
        let mut response = Message::response(&invite, status, "x").with("Contact", "<sip:b@203.0.113.9>");
        response.set("To", format!("{};tag=b", invite.header("To").unwrap()));
        response.body = body.as_bytes().to_vec();
        response.write()
    };
    let early = |sdp: &str| Event::Early { call, sdp: sdp.into() };
    for body in ["", "a", "a", "b"] {
        agent.receive(now, trunk, &response(183, body));
    }
    assert_eq!(events(&mut agent), [early("a"), early("b")]);
    agent.receive(now, trunk, &response(200, ""));
    assert_eq!(events(&mut agent), [Event::Accepted { call, sdp: "b".into() }]);
    agent.receive(now, trunk, &response(183, "c"));
    assert!(events(&mut agent).is_empty());
}

#[test]
fn a_call_that_is_given_up_is_cancelled_when_it_rings() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "100", SDP.into(), None).unwrap();
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

/// A response that is to be acknowledged.
fn reliable(invite: &Message, status: u16, tag: &str, rseq: u32) -> Message {
    let mut response = Message::response(invite, status, "Progress")
        .with("Contact", format!("<sip:{tag}@203.0.113.9>"))
        .with("Record-Route", "<sip:p2;lr>")
        .with("Record-Route", "<sip:p1;lr>")
        .with("Require", "100rel")
        .with("RSeq", rseq.to_string());
    response.set("To", format!("{};tag={tag}", invite.header("To").unwrap()));
    response
}

#[test]
fn who_requires_it_acknowledges_that_it_rings() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &invite("Require: 100rel\r\n"));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.ring(now, incoming.call);
    agent.ring(now, incoming.call);
    let ringing = sent(&mut agent).pop().unwrap();
    assert_eq!((ringing.status(), ringing.header("Require")), (180, Some("100rel")));
    let rseq: u32 = ringing.header("RSeq").unwrap().parse().unwrap();
    assert!(rseq > 0);
    // Again and again, at doubled intervals, until it is acknowledged by its number.
    let after = |ms| now + Duration::from_millis(ms);
    for (ms, repeats) in [(400, 0), (500, 1), (1400, 0), (1500, 1)] {
        agent.handle_timeout(after(ms));
        assert_eq!(statuses(&mut agent), vec![180; repeats], "{ms}");
    }
    let tag = format!(";tag={}", ringing.tag("To").unwrap());
    let prack = |cseq, rack: &str| request("PRACK", cseq, &tag, &format!("RAck: {rack}\r\n"), "");
    for (cseq, rack, status) in [
        (2, "x 1 INVITE".to_owned(), 400),
        (3, format!("{} 1 INVITE", rseq.wrapping_add(1)), 481),
        (4, format!("{rseq} 2 INVITE"), 481),
        (5, format!("{rseq} 1 INVITE"), 200),
        (6, format!("{rseq} 1 INVITE"), 481),
    ] {
        agent.receive(after(1600), hop(PHONE), &prack(cseq, &rack));
        assert_eq!(statuses(&mut agent), [status], "{rack}");
    }
    agent.handle_timeout(after(40_000));
    assert_eq!((statuses(&mut agent), agent.calls()), (vec![], 1));
    agent.accept(after(40_000), incoming.call, "v=0\r\n".into());
    assert_eq!(statuses(&mut agent), [200]);
}

#[test]
fn who_does_not_acknowledge_that_it_rings_is_refused() {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop(PHONE), &invite("Require: 100rel\r\n"));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.ring(now, incoming.call);
    sent(&mut agent);
    agent.handle_timeout(now + Duration::from_secs(33));
    assert!(statuses(&mut agent).contains(&504));
    assert_eq!(events(&mut agent), [Event::Ended { call: incoming.call, reason: Ended::TimedOut }]);
    // Who answers at once is not asked, and repeats nothing that is no longer true.
    let mut agent = self::agent(now);
    agent.receive(now, hop(PHONE), &invite("Require: 100rel\r\n"));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.ring(now, incoming.call);
    agent.accept(now, incoming.call, "v=0\r\n".into());
    assert_eq!(statuses(&mut agent), [100, 180, 200]);
    agent.handle_timeout(now + Duration::from_millis(600));
    assert_eq!(statuses(&mut agent), [200]);
    // Without an offer the first of them would have to offer.
    agent.receive(now, hop(PHONE), &request("INVITE", 1, "", "Require: 100rel\r\nX: 1\r\n", ""));
    let mut agent = self::agent(now);
    agent.receive(now, hop(PHONE), &request("INVITE", 1, "", "Require: 100rel\r\n", ""));
    let Some(Event::Incoming(incoming)) = agent.poll_event() else { panic!("no call") };
    agent.ring(now, incoming.call);
    assert_eq!(statuses(&mut agent), [100]);
}

#[test]
fn what_rings_elsewhere_is_acknowledged_in_its_order() {
    let now = Instant::now();
    let mut agent = trunked(now, false);
    let trunk = hop("203.0.113.5:5060");
    let call = agent.dial(now, "+491234", SDP.into(), None).unwrap();
    let invite = sent(&mut agent).pop().unwrap();
    assert!(invite.lists("Supported", "100rel"));
    let pracks = |agent: &mut Agent| -> Vec<(String, String)> {
        let all = sent(agent).into_iter().map(|prack| {
            assert_eq!((prack.method(), prack.tag("From")), ("PRACK", invite.tag("From")));
            assert_eq!(prack.all("Route").collect::<Vec<_>>(), ["<sip:p1;lr>", "<sip:p2;lr>"]);
            (prack.uri().to_owned(), prack.header("RAck").unwrap().to_owned())
        });
        all.collect()
    };
    let of = |uri: &str, rack: &str| vec![(uri.to_owned(), rack.to_owned())];
    let mut progress = reliable(&invite, 183, "b", 7);
    progress.body = SDP.as_bytes().to_vec();
    agent.receive(now, trunk, &progress.write());
    assert_eq!(pracks(&mut agent), of("sip:b@203.0.113.9", "7 1 INVITE"));
    // Again; one that was overtaken; the next one; and another end of a forking proxy.
    agent.receive(now, trunk, &progress.write());
    agent.receive(now, trunk, &reliable(&invite, 180, "b", 9).write());
    assert_eq!(pracks(&mut agent), []);
    agent.receive(now, trunk, &reliable(&invite, 180, "b", 8).write());
    assert_eq!(pracks(&mut agent), of("sip:b@203.0.113.9", "8 1 INVITE"));
    agent.receive(now, trunk, &reliable(&invite, 180, "c", 1).write());
    assert_eq!(pracks(&mut agent), of("sip:c@203.0.113.9", "1 1 INVITE"));
    // A PRACK that nobody answers is sent again.
    agent.handle_timeout(now + Duration::from_millis(500));
    assert_eq!(pracks(&mut agent).len(), 3);
    // Many ends are bounded.
    for end in 0..100 {
        agent.receive(now, trunk, &reliable(&invite, 180, &format!("x{end}"), 1).write());
    }
    assert_eq!(pracks(&mut agent).len(), 6);
    // The answer was in the first response; the 2xx need not say it again (§5).
    let mut ok = reliable(&invite, 200, "b", 1);
    ok.headers.retain(|(name, _)| name != "Require" && name != "RSeq");
    agent.receive(now, trunk, &ok.write());
    assert_eq!(sent(&mut agent).pop().unwrap().header("CSeq"), Some("1 ACK"));
    let early = Event::Early { call, sdp: SDP.into() };
    assert_eq!(events(&mut agent), [early, Event::Accepted { call, sdp: SDP.into() }]);
}
