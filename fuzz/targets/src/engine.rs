//! The engine: what clients say to it, and what an earlier controlplane left for it.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::time::Duration;

use controlplane::engine::{ResourceReply, ResourceRequest};
use controlplane::sdp::{SdpError, parse_fragment, parse_offer};
use proto::signal::{ClientSignal, ServerSignal};

use crate::world::worker::Worker;
use crate::world::{World, grant, page_tracks};

/// Things that are said in a run: enough for offers to build on each other.
const SAID_MAX: usize = 8;

/// Longer than all timers of a peer that never connects, and of one that nobody resumes.
const LONG: Duration = Duration::from_secs(600);

/// What one client says, one after the other; the first byte of each piece is its kind: `o` an offer, `t` a signal in JSON, `w` an offer of
/// another client by WHIP, `f` a trickle fragment of its ICE session or the next one (RFC 8840), `x` the end of the socket. Each offer is
/// answered, and the answer has as many m-sections and is read by our own parser, or refused; the worker is told nothing that it refuses;
/// and nothing of a client that does not connect is left in the end.
pub fn sdp_offers(data: &[u8]) {
    let mut world = World::new();
    let (mut socket, mut resource) = (None, None);
    for piece in crate::pieces(data).take(SAID_MAX) {
        let Some((kind, text)) = piece.split_first() else { continue };
        let text = String::from_utf8_lossy(text);
        let open = |world: &mut World| world.open("blue", grant("Ada"));
        match kind {
            b'o' | b't' => {
                let socket = *socket.get_or_insert_with(|| open(&mut world));
                say(&mut world, socket, *kind, &text);
            }
            b'w' => resource = publish(&mut world, &text).or(resource),
            b'f' => trickle(&mut world, resource.as_deref().unwrap_or("none"), &text),
            b'x' => {
                if let Some(socket) = socket.take() {
                    world.close(socket);
                }
            }
            _ => {}
        }
        socket = socket.filter(|socket| !world.closed.contains(socket));
    }
    if let Some(socket) = socket {
        world.close(socket);
    }
    world.pass(LONG);
    assert!(world.worker().refused.is_empty(), "{:?}", world.worker().refused);
    assert!(world.worker().peers.is_empty() && world.worker().streams.is_empty() && world.worker().slots.is_empty());
    assert!(world.journal.is_empty(), "nobody was connected");
}

fn say(world: &mut World, socket: u64, kind: u8, text: &str) {
    let signal = match kind {
        b'o' => ClientSignal::Offer { sdp: text.into(), tracks: page_tracks() },
        _ => match serde_json::from_str(text) {
            Ok(signal) => signal,
            Err(_) => return,
        },
    };
    let sdp = if let ClientSignal::Offer { sdp, .. } = &signal { Some(sdp.clone()) } else { None };
    world.drain(socket);
    world.say(socket, signal);
    let told = world.drain(socket);
    let Some(sdp) = sdp else { return };
    match told.first() {
        Some(ServerSignal::Answer { sdp: answer }) => answers(&sdp, answer),
        Some(ServerSignal::Error { message, .. }) => assert!(!message.is_empty()),
        other => panic!("an offer is neither answered nor refused: {other:?}"),
    }
}

/// An answer to an offer is one that may be read.
fn answers(offer: &str, answer: &str) {
    let offer = parse_offer(offer).expect("what is answered was read");
    match parse_offer(answer) {
        Ok(answer) => assert_eq!(answer.sections.len(), offer.sections.len()),
        // An answer that rejects everything has no transport.
        Err(SdpError::Missing { .. }) => {}
        Err(error) => panic!("our own answer does not parse: {error}\n{answer}"),
    }
}

fn publish(world: &mut World, sdp: &str) -> Option<String> {
    let request = ResourceRequest::Open { room: "blue".into(), grant: grant("Bob"), from: Vec::new(), sdp: sdp.into() };
    let reply = world.ask(request).ok()?;
    let ResourceReply::Opened { resource, sdp: answer, .. } = reply else { panic!("{reply:?}") };
    answers(sdp, &answer);
    Some(resource)
}

fn trickle(world: &mut World, resource: &str, text: &str) {
    let Ok(fragment) = parse_fragment(text) else { return };
    let request = ResourceRequest::Restart { room: "blue".into(), resource: resource.into(), fragment };
    match world.ask(request) {
        Ok(ResourceReply::Restarted { ufrag, pwd, .. }) => assert!(ufrag.len() >= 4 && pwd.len() >= 22),
        Ok(ResourceReply::Trickled) | Err(_) => {} // The credentials are those that the client has already.
        Ok(other) => panic!("{other:?}"),
    }
}

/// What a controlplane left that served a call of two: the worker, and the journal by the place of each peer.
struct Left {
    worker: Worker,
    journal: BTreeMap<(usize, u32), Vec<u8>>,
}

/// The entries of the journal that the target [`journal`] begins with.
pub fn journal_entries() -> Vec<Vec<u8>> {
    LEFT.with(|left| left.journal.values().cloned().collect())
}

thread_local! {
    static LEFT: LazyCell<Left> = LazyCell::new(|| {
        let mut world = World::new();
        for name in ["Ada", "Bob"] {
            world.join("blue", name);
        }
        Left { worker: world.worker().clone(), journal: world.journal }
    });
}

/// Bytes in the place of the journal's entries of a call of two, in the order of their places; an empty piece leaves what was there. The
/// engine takes over who is in the journal and on the worker, drops the rest from both, is refused nothing, and its own successor takes
/// over the same.
pub fn journal(data: &[u8]) {
    adopted(data);
}

/// How many peers are taken over at first.
pub fn adopted(data: &[u8]) -> usize {
    let mut world = World::new();
    LEFT.with(|left| {
        *world.worker() = left.worker.clone();
        world.journal = left.journal.clone();
    });
    for (entry, piece) in world.journal.values_mut().zip(crate::pieces(data)) {
        if !piece.is_empty() {
            *entry = piece.to_vec();
        }
    }
    let mut counts = Vec::new();
    for _ in 0..2 {
        world.restart_controlplane();
        let places: Vec<u32> = world.worker().peers.keys().copied().collect();
        let count = world.engine.snapshot().totals.adopted;
        assert_eq!(count, places.len() as u64, "who is taken over is on the worker");
        counts.push(places.len());
        assert_eq!(world.journal.keys().map(|(_, place)| *place).collect::<Vec<_>>(), places);
        assert!(world.worker().refused.is_empty(), "{:?}", world.worker().refused);
    }
    assert_eq!(counts[0], counts[1], "a successor takes over the same");
    world.pass(LONG);
    assert!(world.worker().refused.is_empty(), "{:?}", world.worker().refused);
    counts[0]
}
