//! The whole controlplane as it runs: doors, driver, engine, and the real link to a strict worker on a thread of its
//! own, with a browser's DTLS behind it. The client is another WebSocket implementation with Chromium's offer.

use std::path::Path;
use std::sync::Arc;

use controlplane::Listening;
use controlplane::auth::{Claims, TokenKey};
use controlplane::dtls::Identity;
use futures_util::{SinkExt, StreamExt};
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, PeerState, ServerSignal};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::edge::{ANY, Controlplane, DEADLINE, Dataplane, Folder};
use crate::world;

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(state: &Path, listening: Listening) -> Client {
        let claims = Claims { publish: true, subscribe: true, ..Claims::new("demo", "Ada", 60) };
        let token = TokenKey::load_or_create(state).unwrap().sign(&claims).unwrap();
        let address = format!("ws://{}/v1/rooms/demo/signal?token={token}", listening.http);
        Client(timeout(DEADLINE, connect_async(address)).await.unwrap().unwrap().0)
    }

    async fn say(&mut self, signal: ClientSignal) {
        self.0.send(Message::text(serde_json::to_string(&signal).unwrap())).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        timeout(DEADLINE, self.0.next()).await.expect("a signal in time").expect("an open socket").unwrap()
    }

    /// The first signal of which `pick` makes something.
    async fn until<T>(&mut self, mut pick: impl FnMut(ServerSignal) -> Option<T>) -> T {
        loop {
            let text = match self.next().await {
                Message::Text(text) => text,
                Message::Ping(_) => continue,
                other => panic!("a signal is due, not {other:?}"),
            };
            if let Some(found) = pick(serde_json::from_str(&text).unwrap()) {
                return found;
            }
        }
    }

    async fn close_code(&mut self) -> CloseCode {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.expect("a code").code;
            }
        }
    }

    /// Joins; the session and the moment when keys are agreed.
    async fn join(&mut self, browser: &Identity) -> String {
        let session = self.until(|signal| match signal {
            ServerSignal::Welcome { session, stun, resumed: false, .. } => Some((session, stun)),
            other => panic!("a welcome comes first, not {other:?}"),
        });
        let (session, stun) = session.await;
        assert!(stun.is_some_and(|stun| stun.starts_with("stun:127.0.0.1:")));
        let sdp = world::with_fingerprint(world::PAGE, browser);
        self.say(ClientSignal::Offer { sdp, tracks: world::page_tracks() }).await;
        let answer = self.until(|signal| match signal {
            ServerSignal::Answer { sdp } => Some(sdp),
            ServerSignal::Error { .. } => panic!("{signal:?}"),
            _ => None,
        });
        assert!(answer.await.contains(" 127.0.0.1 40000 typ host"));
        self.until(|signal| world::is_state(&signal, PeerState::Connected).then_some(())).await;
        session
    }
}

#[tokio::test]
async fn without_a_dataplane_an_offer_is_refused_by_name() {
    let folder = Folder::new();
    let controlplane = Controlplane::start(&folder.0, ANY).await;
    assert_eq!(controlplane.readyz().await, 503);
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    let browser = Identity::generate().unwrap();
    let sdp = world::with_fingerprint(world::PAGE, &browser);
    client.say(ClientSignal::Offer { sdp, tracks: world::page_tracks() }).await;
    let code = client.until(|signal| match signal {
        ServerSignal::Error { code, .. } => Some(code),
        _ => None,
    });
    assert_eq!(code.await, ErrorCode::NoDataplane);
    controlplane.stop(false).await;
}

#[tokio::test]
async fn a_join_goes_through_the_link_and_survives_another_controlplane() {
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let first = Controlplane::start(&folder.0, ANY).await;
    let dataplane = Dataplane::start(&folder.0, browser.clone());
    first.until_readyz(200).await;
    let http = first.listening.http;
    let mut client = Client::open(&folder.0, first.listening).await;
    let session = client.join(&browser).await;

    first.stop(false).await;
    assert_eq!(client.close_code().await, CloseCode::Restart);
    drop(client);

    let second = Controlplane::start(&folder.0, http).await;
    second.until_readyz(200).await;
    let mut client = Client::open(&folder.0, second.listening).await;
    client.say(ClientSignal::Resume { session: session.clone() }).await;
    let resumed = client.until(|signal| match signal {
        ServerSignal::Welcome { session, resumed: true, .. } => Some(session),
        ServerSignal::Error { .. } => panic!("{signal:?}"),
        _ => None,
    });
    assert_eq!(resumed.await, session);
    second.stop(true).await;
    client.until(|signal| world::is_bye(&signal, LeaveReason::ServerStopping, true).then_some(())).await;
    let worker = dataplane.end();
    let peer = worker.peers.values().next().expect("the peer stands");
    assert!(peer.rx.is_some() && peer.tx.is_some());
    assert!(worker.refused.is_empty(), "{:?}", worker.refused);
    assert_eq!((worker.streams.len(), worker.slots.len()), (3, 15));
}

#[tokio::test]
async fn the_end_of_the_dataplane_is_told_and_another_is_taken() {
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let controlplane = Controlplane::start(&folder.0, ANY).await;
    let dataplane = Dataplane::start(&folder.0, browser.clone());
    controlplane.until_readyz(200).await;
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    client.join(&browser).await;
    dataplane.end();
    client.until(|signal| world::is_bye(&signal, LeaveReason::MediaRestarted, true).then_some(())).await;
    controlplane.until_readyz(503).await;

    let dataplane = Dataplane::start(&folder.0, browser.clone());
    controlplane.until_readyz(200).await;
    let mut client = Client::open(&folder.0, controlplane.listening).await;
    client.join(&browser).await;
    controlplane.stop(true).await;
    assert_eq!(dataplane.end().peers.len(), 1);
}
