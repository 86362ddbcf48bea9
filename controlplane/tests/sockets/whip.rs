//! WHIP (RFC 9725) and WHEP from outside: each MUST of the RFC that a server can break, by its section, over a plain TCP
//! client against the whole controlplane, with a browser's DTLS behind the worker. No public conformance suite exists;
//! this is ours. Where time must pass, see resources.rs.

use std::sync::Arc;
use std::time::Duration;

use controlplane::auth::{Claims, TokenKey};
use controlplane::dtls::Identity;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::edge::{ANY, Controlplane, DEADLINE, Dataplane, Folder};
use crate::world;

/// Chromium sends and would receive: a microphone and a camera.
const SENDRECV: &str = include_str!("../offers/chromium_sendrecv.sdp");

const SDP: &str = "Content-Type: application/sdp\r\n";
const FRAGMENT: &str = "Content-Type: application/trickle-ice-sdpfrag\r\n";

fn sendonly() -> String {
    SENDRECV.replace("a=sendrecv", "a=sendonly")
}

fn recvonly() -> String {
    SENDRECV.replace("a=sendrecv", "a=recvonly")
}

/// A controlplane with its dataplane, and what every request needs.
struct Edge {
    folder: Folder,
    browser: Arc<Identity>,
    controlplane: Controlplane,
    dataplane: Dataplane,
    token: String,
}

impl Edge {
    async fn start() -> Edge {
        let folder = Folder::new();
        let browser = Arc::new(Identity::generate().unwrap());
        let controlplane = Controlplane::start(&folder.0, ANY).await;
        let dataplane = Dataplane::start(&folder.0, browser.clone());
        controlplane.until_readyz(200).await;
        let mut edge = Edge { folder, browser, controlplane, dataplane, token: String::new() };
        edge.token = edge.sign(Claims { publish: true, subscribe: true, ..Claims::new("demo", "Ada", 60) });
        edge
    }

    fn sign(&self, claims: Claims) -> String {
        TokenKey::load_or_create(&self.folder.0).unwrap().sign(&claims).unwrap()
    }

    /// A request with the token and these further header lines.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let headers = format!("Authorization: Bearer {}\r\n{headers}", self.token);
        self.raw(method, path, &headers, body).await
    }

    /// A name of the edge, with the port that it is at.
    fn host(&self) -> String {
        format!("edge.test:{}", self.controlplane.listening.http.port())
    }

    /// A path of the edge out of a `Location` that is absolute.
    fn path_of(&self, location: &str) -> String {
        location.strip_prefix(&format!("http://{}", self.host())).expect("absolute").to_owned()
    }

    async fn raw(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let host = if headers.starts_with("Host: ") { String::new() } else { format!("Host: {}\r\n", self.host()) };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}");
        let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(self.controlplane.listening.http).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer { head: head.to_owned(), body: body.to_owned() }
    }

    async fn offer(&self, path: &str, sdp: &str) -> Answer {
        self.ask("POST", path, SDP, &world::with_fingerprint(sdp, &self.browser)).await
    }

    /// Publishes; the path of the resource and its entity tag.
    async fn publish(&self) -> (String, String) {
        let created = self.offer("/whip/demo", &sendonly()).await;
        assert_eq!(created.status(), 201, "{}", created.body);
        let location = created.header("location").unwrap();
        (self.path_of(location), created.header("etag").unwrap().to_owned())
    }

    /// Waits until so many peers of the room are connected, as metrics tell.
    async fn until_connected(&self, peers: usize) {
        let want = format!("uprtc_dtls_completed_total {peers}");
        let is = async {
            while !self.raw("GET", "/metrics", "", "").await.body.contains(&want) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, is).await.expect("the peers connect");
    }

    /// Peers in rooms now.
    async fn peers(&self) -> usize {
        let page = self.raw("GET", "/metrics", "", "").await.body;
        let line = page.lines().find_map(|line| line.strip_prefix("uprtc_peers "));
        line.expect("it is on the page").parse().unwrap()
    }

    async fn end(self) -> world::worker::Worker {
        self.controlplane.stop(true).await;
        self.dataplane.end()
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.split_once(':').is_some_and(|(given, _)| given.eq_ignore_ascii_case(name));
        self.head.lines().find(is_it).map(|line| line.split_once(':').unwrap().1.trim())
    }

    /// What a problem says to developers.
    fn detail(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["detail"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        assert_eq!(self.header("access-control-allow-origin"), Some("*"), "a page must be able to read why");
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["status"], self.status());
        assert!(!body["detail"].as_str().unwrap().is_empty());
        (self.status(), body["code"].as_str().unwrap().to_owned())
    }
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn section_4_2_a_post_is_answered_201_with_answer_location_and_etag() {
    let edge = Edge::start().await;
    let created = edge.offer("/whip/demo", &sendonly()).await;
    assert_eq!(created.status(), 201, "{}", created.body);
    assert_eq!(created.header("content-type"), Some("application/sdp"));
    assert_eq!(created.header("content-length"), Some(&*created.body.len().to_string()), "ffmpeg needs it");
    let location = created.header("location").unwrap();
    assert!(edge.path_of(location).starts_with("/whip/demo/sessions/"), "{location}");
    assert!(location.len() - location.rfind('/').unwrap() > 64, "not to be guessed (§5)");
    let etag = created.header("etag").unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "a strong entity tag (§4.3.1): {etag}");
    let stun = created.header("link").unwrap();
    assert!(stun.starts_with("<stun:127.0.0.1:") && stun.ends_with(">; rel=\"ice-server\""), "§4.6: {stun}");
    // §4.2, §4.4.1: one bundled, multiplexed transport, recvonly, and every candidate, for none can be told later.
    for line in ["a=ice-lite", "a=rtcp-mux", "a=setup:passive", "a=recvonly", "a=end-of-candidates"] {
        assert!(created.body.lines().any(|l| l == line), "{line} is missing in {}", created.body);
    }
    assert!(created.body.contains("a=group:BUNDLE 0 1\r\n") && created.body.contains(" 127.0.0.1 40000 typ host"));
    assert_eq!(created.body.matches("a=recvonly").count(), 2);
    edge.until_connected(1).await;
    let worker = edge.end().await;
    assert_eq!((worker.peers.len(), worker.streams.len(), worker.slots.len()), (1, 2, 0));
    assert!(worker.refused.is_empty(), "{:?}", worker.refused);
}

#[tokio::test]
async fn section_4_2_a_sendrecv_offer_is_answered_recvonly_and_a_players_sendonly() {
    let edge = Edge::start().await;
    let created = edge.offer("/whip/demo", SENDRECV).await;
    assert_eq!((created.status(), created.body.matches("a=recvonly").count()), (201, 2));
    let played = edge.offer("/whep/demo", SENDRECV).await;
    assert_eq!((played.status(), played.body.matches("a=sendonly").count()), (201, 2));
    let played = edge.offer("/whep/demo", &recvonly()).await;
    assert_eq!((played.status(), played.body.matches("a=sendonly").count()), (201, 2));
    edge.until_connected(3).await;
    let worker = edge.end().await;
    assert_eq!((worker.streams.len(), worker.slots.len(), worker.routes.len()), (2, 4, 4));
}

#[tokio::test]
async fn section_4_2_the_location_is_where_the_client_sees_the_server() {
    let edge = Edge::start().await;
    let sdp = world::with_fingerprint(&sendonly(), &edge.browser);
    let host = edge.host();
    let told = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Prefix: /calls\r\n";
    for (path, headers, begin) in [
        ("/whip/demo", "", format!("http://{host}/whip/demo/sessions/")),
        // A trusted proxy says it: this machine is trusted, unless the operator wants otherwise.
        ("/whip/demo", "X-Forwarded-Proto: https\r\n", format!("https://{host}/whip/demo/sessions/")),
        ("/whip/demo", told, "https://a.test/calls/whip/demo/sessions/".into()),
        (
            "/whip/demo",
            "Forwarded: for=192.0.2.7;proto=https;host=b.test\r\n",
            "https://b.test/whip/demo/sessions/".into(),
        ),
        // A proxy that does not say how it was asked: relative to what was asked (RFC 9110 section 10.2.2).
        ("/whip/demo", "X-Forwarded-Proto: gopher\r\n", "demo/sessions/".into()),
        ("/whip/demo", "X-Forwarded-For: 192.0.2.7\r\n", "demo/sessions/".into()),
        ("/whip/demo/Ada", "X-Forwarded-For: 192.0.2.7\r\n", "sessions/".into()),
        ("/whip/demo", "Host: edge.test\r\n", "demo/sessions/".into()),
        ("/whip/demo/Ada", "Host: edge.test\r\n", "sessions/".into()),
    ] {
        let (host, rest) = if headers.starts_with("Host") { (headers, "") } else { ("", headers) };
        let headers = format!("{host}Authorization: Bearer {}\r\n{SDP}{rest}", edge.token);
        let created = edge.raw("POST", path, &headers, &sdp).await;
        let location = created.header("location").unwrap_or_else(|| panic!("{headers}: {}", created.body));
        assert!(location.starts_with(&begin), "{headers}: {location}");
        let id = location.rsplit('/').next().unwrap();
        assert_eq!(edge.ask("DELETE", &format!("/whip/demo/sessions/{id}"), "", "").await.status(), 200);
    }
    edge.end().await;
}

#[tokio::test]
async fn section_4_2_what_is_no_offer_is_refused_by_its_status() {
    let edge = Edge::start().await;
    let json = edge.ask("POST", "/whip/demo", "Content-Type: application/json\r\n", &sendonly()).await;
    assert_eq!(json.problem(), is(415, "media_type"));
    assert_eq!(json.header("accept-post"), Some("application/sdp"));
    assert_eq!(edge.ask("POST", "/whip/demo", "", &sendonly()).await.problem(), is(415, "media_type"));
    let html = edge.ask("POST", "/whip/demo", &format!("{SDP}Accept: text/html, image/*\r\n"), &sendonly()).await;
    assert_eq!(html.problem(), is(406, "not_acceptable"));
    assert_eq!(edge.offer("/whip/demo", "v=0\r\nnonsense\r\n").await.problem(), is(400, "bad_sdp"));
    assert_eq!(edge.offer("/whip/demo", "").await.problem(), is(400, "bad_sdp"));
    assert_eq!(edge.offer("/whip/no%20room", &sendonly()).await.problem(), is(400, "room_name"));
    let long = "a".repeat(300 * 1024);
    assert_eq!(edge.ask("POST", "/whip/demo", SDP, &long).await.problem(), is(413, "too_much"));
    // §4.4.3: all or nothing. The wrong way, and a codec that nobody serves.
    assert_eq!(edge.offer("/whip/demo", &recvonly()).await.problem(), is(422, "unsupported_offer"));
    assert_eq!(edge.offer("/whep/demo", &sendonly()).await.problem(), is(422, "unsupported_offer"));
    let unknown = sendonly().replace("opus/48000/2", "parrot/48000/2");
    assert_eq!(edge.offer("/whip/demo", &unknown).await.problem(), is(422, "unsupported_offer"));
    let typed = edge.ask("POST", "/whip/demo", "Content-Type: Application/SDP; charset=utf-8\r\n", "").await;
    assert_eq!(typed.problem(), is(400, "bad_sdp"));
    assert!(edge.end().await.peers.is_empty());
}

#[tokio::test]
async fn section_4_1_other_methods_are_405() {
    let edge = Edge::start().await;
    let (resource, _) = edge.publish().await;
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        for path in ["/whip/demo", "/whip/demo/Ada", "/whep/demo", "/whep/demo/Ada"] {
            let answer = edge.ask(method, path, "", "").await;
            assert_eq!(answer.problem(), is(405, "method_not_allowed"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("POST, OPTIONS"));
        }
    }
    for method in ["GET", "PUT", "POST"] {
        let answer = edge.ask(method, &resource, "", "").await;
        assert_eq!(answer.problem(), is(405, "method_not_allowed"), "{method}");
        assert_eq!(answer.header("allow"), Some("PATCH, DELETE, OPTIONS"));
    }
    assert_eq!(edge.ask("HEAD", &resource, "", "").await.status(), 405);
    edge.end().await;
}

#[tokio::test]
async fn section_4_2_options_tells_what_may_be_posted_to_pages_of_any_origin() {
    let edge = Edge::start().await;
    let preflight = "Origin: https://studio.test\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = edge.raw("OPTIONS", "/whip/demo", preflight, "").await;
    assert_eq!((answer.status(), answer.header("accept-post")), (200, Some("application/sdp")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST, OPTIONS"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("Authorization, Content-Type, If-Match"));
    let created = edge.offer("/whip/demo", &sendonly()).await;
    let exposed = created.header("access-control-expose-headers").unwrap();
    assert!(["Location", "ETag", "Link"].iter().all(|name| exposed.contains(name)), "{exposed}");
    let answer = edge.raw("OPTIONS", "/whep/demo/sessions/any", preflight, "").await;
    assert_eq!(answer.header("accept-patch"), Some("application/trickle-ice-sdpfrag"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("PATCH, DELETE, OPTIONS"));
    edge.end().await;
}

#[tokio::test]
async fn section_4_7_whoever_opens_a_session_needs_a_token_and_one_that_is_sent_must_be_good() {
    let edge = Edge::start().await;
    let (resource, tag) = edge.publish().await;
    let if_match = format!("{FRAGMENT}If-Match: {tag}\r\n");
    for (method, path, headers) in [
        ("POST", "/whip/demo", SDP),
        ("POST", "/whep/demo", SDP),
        ("PATCH", &*resource, &*if_match),
        ("DELETE", &*resource, ""),
    ] {
        if method == "POST" {
            let answer = edge.raw(method, path, headers, "").await;
            assert_eq!(answer.problem(), is(401, "token_missing"), "{method} {path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            let detail = answer.detail();
            assert!(detail.contains("Authorization: Bearer") && !detail.contains("?token="), "{detail}");
        }
        let forged = format!("Authorization: Bearer a.b.c\r\n{headers}");
        let answer = edge.raw(method, path, &forged, "").await;
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        let elsewhere = edge.sign(Claims { publish: true, subscribe: true, ..Claims::new("other", "Eve", 60) });
        let answer = edge.raw(method, path, &format!("Authorization: Bearer {elsewhere}\r\n{headers}"), "").await;
        assert_eq!(answer.problem(), is(403, "wrong_room"));
    }
    for (path, claims, sdp) in [
        ("/whip/demo", Claims { subscribe: true, ..Claims::new("demo", "Ada", 60) }, sendonly()),
        ("/whep/demo", Claims { publish: true, ..Claims::new("demo", "Ada", 60) }, recvonly()),
    ] {
        let headers = format!("Authorization: Bearer {}\r\n{SDP}", edge.sign(claims));
        assert_eq!(edge.raw("POST", path, &headers, &sdp).await.problem(), is(403, "forbidden"));
    }
    // Who is in stays in when the token expires, and must be able to leave.
    let expired = edge.sign(Claims { exp: 1, ..Claims::new("demo", "Ada", 0) });
    let headers = format!("Authorization: Bearer {expired}\r\n");
    assert_eq!(
        edge.raw("POST", "/whip/demo", &format!("{headers}{SDP}"), "").await.problem(),
        is(401, "token_expired")
    );
    assert_eq!(edge.raw("DELETE", &resource, &headers, "").await.status(), 200);
    edge.end().await;
}

/// Some clients, MediaMTX's page among them, send their token to the endpoint alone. The session's address is a secret of its
/// own (docs/decisions/0027).
#[tokio::test]
async fn section_4_7_a_session_is_patched_and_deleted_by_its_address_alone() {
    let edge = Edge::start().await;
    let (resource, tag) = edge.publish().await;
    assert!(resource.rsplit('/').next().unwrap().len() >= 64, "256 bits: {resource}");
    let candidate = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
                     a=mid:0\r\na=candidate:1 1 UDP 2113929471 192.0.2.7 50312 typ host\r\n";
    let trickled = edge.raw("PATCH", &resource, &format!("{FRAGMENT}If-Match: {tag}\r\n"), candidate).await;
    assert_eq!(trickled.status(), 204, "{}", trickled.body);
    let elsewhere = resource.replace("/demo/", "/other/");
    assert_eq!(edge.raw("DELETE", &elsewhere, "", "").await.problem(), is(404, "not_found"));
    let guessed = format!("/whip/demo/sessions/{}", "0".repeat(32));
    assert_eq!(edge.raw("DELETE", &guessed, "", "").await.problem(), is(404, "not_found"));
    assert_eq!(edge.raw("DELETE", &resource, "", "").await.status(), 200);
    assert!(edge.end().await.peers.is_empty());
}

/// A refusal says what the room has and what was offered, so that one knows which of them to change.
#[tokio::test]
async fn a_refused_offer_is_told_which_codecs_there_are() {
    let edge = Edge::start().await;
    let av1 = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
        a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=fingerprint:sha-256 0:0\r\na=setup:actpass\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
        a=rtpmap:111 opus/48000/2\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 45 46\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\n\
        a=rtpmap:45 AV1/90000\r\na=rtpmap:46 rtx/90000\r\na=fmtp:46 apt=45\r\n";
    let fingerprint = format!("a=fingerprint:sha-256 {}", ["00"; 32].join(":"));
    let av1 = av1.replace("a=fingerprint:sha-256 0:0", &fingerprint);
    let video_alone = av1.replace("BUNDLE 0 1", "BUNDLE 1");
    let (head, rest) = video_alone.split_once("m=audio").unwrap();
    let video_alone = format!("{head}m=video{}", rest.split_once("m=video").unwrap().1);
    for offer in [&av1, &video_alone] {
        let refused = edge.ask("POST", "/whip/demo", SDP, offer).await;
        assert_eq!(refused.problem(), is(422, "unsupported_offer"), "{offer}");
        let detail = refused.detail();
        assert!(detail.contains("AV1") && detail.contains("H264 or VP8") && !detail.contains("rtx"), "{detail}");
    }
    let outside = edge
        .ask("POST", "/whip/demo", SDP, &av1.replace("AV1", "VP8").replace("a=rtcp-mux\r\na=rtpmap:45", "a=rtpmap:45"))
        .await;
    assert!(outside.detail().contains("rtcp-mux"), "{}", outside.detail());
    edge.end().await;
}

#[tokio::test]
async fn section_4_2_a_delete_ends_the_session() {
    let edge = Edge::start().await;
    let (resource, tag) = edge.publish().await;
    edge.until_connected(1).await;
    let stranger = format!("/whip/demo/sessions/{}", "0".repeat(64));
    assert_eq!(edge.ask("DELETE", &stranger, "", "").await.problem(), is(404, "not_found"));
    assert_eq!(edge.ask("DELETE", &resource, "", "").await.status(), 200);
    assert_eq!(edge.ask("DELETE", &resource, "", "").await.status(), 200, "asked again for want of an answer");
    let late = format!("{FRAGMENT}If-Match: {tag}\r\n");
    assert_eq!(edge.ask("PATCH", &resource, &late, "").await.problem(), is(404, "not_found"));
    assert!(edge.end().await.peers.is_empty());
}

/// What a browser trickles.
const GATHERED: &str = "a=ice-ufrag:s4Uv\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
    a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag s4Uv\r\na=end-of-candidates\r\n";

#[tokio::test]
async fn section_4_3_2_candidates_trickle_under_the_entity_tag() {
    let edge = Edge::start().await;
    let (resource, tag) = edge.publish().await;
    let patch = async |headers: String, body: &str| edge.ask("PATCH", &resource, &headers, body).await;
    let taken = patch(format!("{FRAGMENT}If-Match: {tag}\r\n"), GATHERED).await;
    assert_eq!((taken.status(), &*taken.body, taken.header("etag")), (204, "", None));
    assert_eq!(patch(format!("{FRAGMENT}If-Match: \"x\", {tag}\r\n"), GATHERED).await.status(), 204);
    // §4.3.1: the precondition.
    assert_eq!(patch(FRAGMENT.to_owned(), GATHERED).await.problem(), is(428, "tag_missing"));
    assert_eq!(patch(format!("{FRAGMENT}If-Match: \"x\"\r\n"), GATHERED).await.problem(), is(412, "other_tag"));
    assert_eq!(patch(format!("{FRAGMENT}If-Match: W/{tag}\r\n"), GATHERED).await.problem(), is(412, "other_tag"));
    let typed = patch(format!("{SDP}If-Match: {tag}\r\n"), GATHERED).await;
    assert_eq!(typed.problem(), is(415, "media_type"));
    assert_eq!(typed.header("accept-patch"), Some("application/trickle-ice-sdpfrag"));
    let tagged = format!("{FRAGMENT}If-Match: {tag}\r\n");
    assert_eq!(patch(tagged.clone(), "nonsense").await.problem(), is(400, "bad_sdp"));
    // A lite agent has no use for any candidate, so there is none that it would not take.
    for odd in [
        "1 1 udp 2122260223 fe80::1%eth0 61764 typ host",
        "1 1 sctp 1 192.0.2.1 9 typ host",
        "a_b 300 UDP 99999999999 nobody.local 99999 typ pigeon raddr",
        "parrot",
    ] {
        let body = GATHERED.replace("a=end", &format!("a=candidate:{odd}\r\na=end"));
        assert_eq!(patch(tagged.clone(), &body).await.status(), 204, "{odd}");
    }
    let many = "a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n".repeat(1000);
    assert_eq!(patch(tagged.clone(), &GATHERED.replace("a=end", &format!("{many}a=end"))).await.status(), 204);
    for mid in ["7", "longer-than-any-mid-of-ours"] {
        assert_eq!(patch(tagged.clone(), &GATHERED.replace("a=mid:0", &format!("a=mid:{mid}"))).await.status(), 204);
    }
    edge.end().await;
}

#[tokio::test]
async fn section_4_3_3_an_ice_restart_gives_other_credentials_and_another_tag() {
    let edge = Edge::start().await;
    let (resource, before) = edge.publish().await;
    edge.until_connected(1).await;
    let any = format!("{FRAGMENT}If-Match: \"*\"\r\n");
    // The same credentials as in the offer are no restart, and none at all cannot be one.
    assert_eq!(edge.ask("PATCH", &resource, &any, GATHERED).await.status(), 204);
    let none = edge.ask("PATCH", &resource, &any, "a=end-of-candidates\r\n").await;
    assert_eq!(none.problem(), is(400, "bad_sdp"));

    let again = GATHERED.replace("s4Uv", "again");
    let restarted = edge.ask("PATCH", &resource, &any, &again).await;
    assert_eq!(restarted.status(), 200, "{}", restarted.body);
    assert_eq!(restarted.header("content-type"), Some("application/trickle-ice-sdpfrag"));
    let tag = restarted.header("etag").unwrap().to_owned();
    assert_ne!(tag, before);
    let value = |name: &str| restarted.body.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let (ufrag, pwd) = (value("a=ice-ufrag:"), value("a=ice-pwd:"));
    assert!(restarted.body.contains("a=mid:0\r\n") && restarted.body.contains(" 127.0.0.1 40000 typ host"));
    assert!(restarted.body.ends_with("a=end-of-candidates\r\n"));

    // What is gathered for the session before comes too late (§4.3.1), and RFC 9110's own way to say any is understood.
    let late = format!("{FRAGMENT}If-Match: {before}\r\n");
    assert_eq!(edge.ask("PATCH", &resource, &late, &again).await.problem(), is(412, "other_tag"));
    assert_eq!(edge.ask("PATCH", &resource, &format!("{FRAGMENT}If-Match: {tag}\r\n"), &again).await.status(), 204);
    let more = format!("{FRAGMENT}If-Match: *\r\n");
    assert_eq!(edge.ask("PATCH", &resource, &more, &GATHERED.replace("s4Uv", "third")).await.status(), 200);
    let worker = edge.end().await;
    let peer = worker.peers.values().next().unwrap();
    assert!(peer.rx.is_some() && peer.tx.is_some(), "SRTP stands");
    assert_ne!(peer.open.ufrag, ufrag.as_bytes(), "the third credentials are installed");
    assert_eq!((ufrag.len(), pwd.len(), worker.streams.len()), (8, 24, 2));
    assert!(worker.refused.is_empty(), "{:?}", worker.refused);
}

#[tokio::test]
async fn section_4_5_who_cannot_be_served_now_is_told_when_to_come_again() {
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let controlplane = Controlplane::start(&folder.0, ANY).await;
    let claims = Claims { publish: true, ..Claims::new("demo", "Ada", 60) };
    let token = TokenKey::load_or_create(&folder.0).unwrap().sign(&claims).unwrap();
    let elsewhere = Folder::new();
    let edge = Edge {
        folder,
        browser: browser.clone(),
        controlplane,
        dataplane: Dataplane::start(&elsewhere.0, browser),
        token,
    };
    let answer = edge.offer("/whip/demo", &sendonly()).await;
    assert_eq!(answer.problem(), is(503, "no_dataplane"));
    assert!(answer.header("retry-after").unwrap().parse::<u32>().is_ok());
    // A resource of a predecessor may still be told by the worker: not gone, but not known yet either.
    let resource = format!("/whip/demo/sessions/{}", "0".repeat(64));
    assert_eq!(edge.ask("DELETE", &resource, "", "").await.problem(), is(503, "no_dataplane"));
    edge.end().await;
}

#[tokio::test]
async fn a_resource_is_known_to_the_next_controlplane() {
    let mut edge = Edge::start().await;
    let (resource, tag) = edge.publish().await;
    edge.until_connected(1).await;
    let http = edge.controlplane.listening.http;
    edge.controlplane.stop(false).await;
    edge.controlplane = Controlplane::start(&edge.folder.0, http).await;
    edge.controlplane.until_readyz(200).await;
    let patched = edge.ask("PATCH", &resource, &format!("{FRAGMENT}If-Match: {tag}\r\n"), GATHERED).await;
    assert_eq!(patched.status(), 204, "its tag stands: {}", patched.body);
    assert_eq!(edge.ask("DELETE", &resource, "", "").await.status(), 200);
    assert!(edge.end().await.peers.is_empty());
}

#[tokio::test]
async fn the_name_of_the_address_is_one_that_the_token_allows() {
    let edge = Edge::start().await;
    let publisher = |name: &str| Claims { publish: true, ..Claims::new("demo", name, 60) };
    let offer = async |claims: Claims, path: &str| {
        let headers = format!("Authorization: Bearer {}\r\n{SDP}", edge.sign(claims));
        edge.raw("POST", path, &headers, &world::with_fingerprint(&sendonly(), &edge.browser)).await
    };
    assert_eq!(offer(publisher("Ada"), "/whip/demo/Ada").await.status(), 201);
    assert_eq!(offer(publisher("Ada"), "/whip/demo/Bob").await.problem(), is(403, "other_name"));
    assert_eq!(offer(publisher("*"), "/whip/demo/Bob").await.status(), 201);
    assert_eq!(offer(Claims { admin: true, ..publisher("Ada") }, "/whip/demo/Cyd").await.status(), 201);
    edge.end().await;
}

#[tokio::test]
async fn a_revocation_removes_publishers_too_and_their_tokens_can_only_leave() {
    let mut edge = Edge::start().await;
    let admin = edge.sign(Claims { admin: true, ..Claims::new("*", "operator", 60) });
    let revoke = async |edge: &Edge, body: &str| {
        let headers = format!("Authorization: Bearer {admin}\r\nContent-Type: application/json\r\n");
        let answer = edge.raw("POST", "/v1/rooms/demo/revocations", &headers, body).await;
        assert_eq!(answer.status(), 201, "{}", answer.body);
    };
    let publish = async |edge: &Edge, path: &str| {
        let created = edge.offer(path, &sendonly()).await;
        assert_eq!(created.status(), 201, "{}", created.body);
        edge.path_of(created.header("location").unwrap())
    };
    let trickle = async |edge: &Edge, resource: &str| {
        edge.ask("PATCH", resource, &format!("{FRAGMENT}If-Match: \"*\"\r\n"), GATHERED).await.status()
    };

    // By the identity of one token: who came by it goes, and it opens nothing any more, and others do.
    let claims = Claims { publish: true, ..Claims::new("demo", "Ada", 60) };
    let other = publish(&edge, "/whip/demo").await;
    edge.token = edge.sign(claims.clone());
    let resource = publish(&edge, "/whip/demo").await;
    assert_eq!(edge.peers().await, 2);
    revoke(&edge, &format!(r#"{{"jti":"{}"}}"#, claims.jti)).await;
    assert_eq!(edge.peers().await, 1);
    assert_eq!(edge.offer("/whip/demo", &sendonly()).await.problem(), is(401, "token_revoked"));
    assert_eq!(trickle(&edge, &resource).await, 401);
    assert_eq!(trickle(&edge, &other).await, 401, "whosever resource it is");
    assert_eq!(edge.ask("DELETE", &resource, "", "").await.status(), 200, "it has ended already");
    assert_eq!(edge.ask("DELETE", &other, "", "").await.status(), 200, "to end something it is good enough");

    // By the name in the token, whatever name the address gave.
    edge.token = edge.sign(Claims { publish: true, ..Claims::new("demo", "*", 60) });
    let studio = publish(&edge, "/whip/demo/Studio").await;
    assert_eq!(trickle(&edge, &studio).await, 204);
    revoke(&edge, r#"{"name":"*"}"#).await;
    assert_eq!(edge.peers().await, 0);
    assert!(edge.end().await.peers.is_empty());
}
