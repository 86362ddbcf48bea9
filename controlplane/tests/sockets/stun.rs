//! The STUN server over real sockets, asked by messages that are written here byte by byte (RFC 8489 §5).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use controlplane::stun_server::{Counts, Rates, serve};
use proto::stun::Message;
use tokio::net::UdpSocket;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(5);
const TRANSACTION: [u8; 12] = *b"twelve bytes";

async fn server(ip: &str, rates: Rates) -> (SocketAddr, Arc<Counts>) {
    let socket = UdpSocket::bind(format!("{ip}:0")).await.unwrap();
    let address = socket.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let shared = counts.clone();
    tokio::spawn(async move { serve(socket, rates, &shared).await });
    (address, counts)
}

/// A message of this type with these attributes, already padded.
fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((attributes.len() as u16).to_be_bytes());
    bytes.extend(0x2112_A442u32.to_be_bytes());
    bytes.extend(TRANSACTION);
    bytes.extend(attributes);
    bytes
}

async fn ask(server: SocketAddr, request: &[u8]) -> (Vec<u8>, SocketAddr) {
    let client = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    client.send_to(request, server).await.unwrap();
    let mut answer = vec![0; 1500];
    let (len, from) = timeout(DEADLINE, client.recv_from(&mut answer)).await.expect("an answer in time").unwrap();
    assert_eq!(from, server);
    answer.truncate(len);
    (answer, client.local_addr().unwrap())
}

fn count(counts: &Counts, fate: &str) -> u64 {
    counts.read().into_iter().find(|(name, _)| *name == fate).unwrap().1
}

#[tokio::test]
async fn a_client_learns_its_address() {
    for ip in ["127.0.0.1", "[::1]"] {
        let (server, counts) = server(ip, Rates::default()).await;
        let (answer, client) = ask(server, &message(0x0001, &[])).await;
        assert_eq!(answer[..2], [0x01, 0x01], "Binding success");
        assert_eq!(answer[8..20], TRANSACTION);
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.mapped_address(), Some(client));
        assert!(answer.has_fingerprint() && answer.check_fingerprint());
        assert_eq!(count(&counts, "answered"), 1);
    }
}

#[tokio::test]
async fn an_attribute_that_must_be_understood_and_is_not_is_named() {
    let (server, counts) = server("127.0.0.1", Rates::default()).await;
    // 0x7fee must be comprehended, 0xc057 need not be (RFC 8489 §14).
    let request = message(0x0001, &[0xc0, 0x57, 0, 4, 1, 2, 3, 4, 0x7f, 0xee, 0, 0]);
    let (answer, _) = ask(server, &request).await;
    assert_eq!(answer[..2], [0x01, 0x11], "Binding error");
    assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(420));
    let unknown = [0x00, 0x0a, 0x00, 0x02, 0x7f, 0xee];
    assert!(answer.windows(6).any(|window| window == unknown), "{answer:02x?}");
    assert!(answer.len() <= 3 * request.len());
    assert_eq!(count(&counts, "refused"), 1);
}

#[tokio::test]
async fn what_is_no_binding_request_gets_no_answer() {
    let (server, counts) = server("127.0.0.1", Rates::default()).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = message(0x0001, &[]);
    let mut bad_cookie = request.clone();
    bad_cookie[4] ^= 1;
    let bad_fingerprint = message(0x0001, &[0x80, 0x28, 0, 4, 1, 2, 3, 4]);
    let hostile: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        request[..19].to_vec(),
        bad_cookie,
        bad_fingerprint,
        message(0x0011, &[]),             // an indication
        message(0x0101, &[]),             // a response
        message(0x0003, &[]),             // Allocate: TURN is not served
        message(0x0001, &[0, 6, 0, 200]), // an attribute that leaves the message
        vec![0xff; 1400],
    ];
    for datagram in &hostile {
        client.send_to(datagram, server).await.unwrap();
    }
    client.send_to(&request, server).await.unwrap(); // Answered last, so the others were seen before.
    let mut answer = [0; 1500];
    let (len, _) = timeout(DEADLINE, client.recv_from(&mut answer)).await.unwrap().unwrap();
    assert!(Message::parse(&answer[..len]).unwrap().mapped_address().is_some());
    assert_eq!(count(&counts, "ignored"), hostile.len() as u64);
}

#[tokio::test]
async fn a_flood_is_answered_at_its_rate_only() {
    let (server, counts) = server("127.0.0.1", Rates { per_network: 5, total: 1000 }).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..50 {
        client.send_to(&message(0x0001, &[]), server).await.unwrap();
    }
    let seen = async {
        while count(&counts, "answered") + count(&counts, "limited") < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, seen).await.expect("all are counted");
    assert!((5..10).contains(&count(&counts, "answered")), "{:?}", counts.read());
}
