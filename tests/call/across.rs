//! One room on several edges, each a running `uprtc run` of its own in a cluster with a real nats-server: what people of one edge send
//! arrives at those of the other to the byte, and goes on while planes and the cluster die.

use bench::media::Kind;
use bench::peer::Settings;
use proto::signal::ErrorCode;

use super::nats::{self, Nats};
use super::server::{Server, until};
use super::{Guest, assert_complete, assert_slots, assert_sound, converse, others};

/// Edges of one cluster.
fn edges(nats: &Nats, count: usize, more: &[&str]) -> Vec<Server> {
    let cluster = format!("cluster={}", nats.url());
    let start = |n: usize| {
        let node = format!("node=edge{n}");
        let settings = [&[cluster.as_str(), node.as_str(), "cluster-lease=5s"], more].concat();
        Server::with(1, &settings)
    };
    (0..count).map(start).collect()
}

async fn join(edge: &Server, id: u32) -> Guest {
    // The estimate of a busy machine would leave out videos.
    Guest::join(edge, "across", Settings { tells_arrivals: false, ..Settings::new(id) }).await
}

#[tokio::test]
async fn people_at_two_edges_hear_and_see_each_other() {
    if nats::program("one room on two edges").is_none() {
        return;
    }
    let nats = Nats::start("");
    let edges = edges(&nats, 2, &[]);
    let mut guests = Vec::new();
    for (edge, id) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
        guests.push(join(&edges[edge], id).await);
    }
    for (guest, report) in guests.iter().zip(converse(&guests, 200, 80).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        assert_slots(&report, &others);
    }
    // Each track crosses once: of two publishers there, two transports come and two go.
    for edge in &edges {
        assert_eq!(edge.metric("uprtc_edge_transports"), 4);
    }
}

#[tokio::test]
async fn a_call_over_two_edges_survives_each_controlplane_and_the_cluster() {
    if nats::program("a call over two edges").is_none() {
        return;
    }
    let mut nats = Nats::start("");
    let edges = edges(&nats, 2, &[]);
    let mut guests = vec![join(&edges[0], 1).await, join(&edges[1], 2).await];
    converse(&guests, 50, 20).await;
    for edge in &edges {
        edge.kill("controlplane").await;
        for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
            assert_complete(&report, &others(&guests, guest.id));
        }
    }
    // Without the cluster nothing changes, and who joins is heard by those of his own edge.
    nats.kill(0);
    let third = join(&edges[0], 3).await;
    third.perceives(&[1], 50, 20).await;
    for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
        assert_complete(&report, &others(&guests, guest.id));
    }
    nats.start_again(0);
    guests.push(third);
    converse(&guests, 100, 40).await;
}

#[tokio::test]
async fn who_leaves_at_one_edge_is_gone_at_the_other() {
    if nats::program("who leaves at another edge").is_none() {
        return;
    }
    let nats = Nats::start("");
    let edges = edges(&nats, 2, &["peers-max=2"]);
    let (first, second) = (join(&edges[0], 1).await, join(&edges[1], 2).await);
    first.perceives(&[2], 20, 5).await;
    second.perceives(&[1], 20, 5).await;
    // The room is full over both.
    let third = join(&edges[1], 3).await;
    let report = third.sees("that the room is full", |report| !report.errors.is_empty()).await;
    assert_eq!((report.errors[0].0, report.answers), (ErrorCode::RoomFull, 0), "two are in, and two may be");
    first.peer.leave().await;
    second.sees("that the first has left", |report| report.others.is_empty()).await;
    until("the transports to end", || edges.iter().all(|edge| edge.metric("uprtc_edge_transports") == 0)).await;
    let fourth = join(&edges[0], 4).await;
    fourth.perceives(&[2], 20, 5).await;
}

#[tokio::test]
async fn a_keyframe_is_asked_for_across_edges() {
    if nats::program("keyframes across edges").is_none() {
        return;
    }
    let nats = Nats::start("");
    let edges = edges(&nats, 2, &[]);
    let first = join(&edges[0], 1).await;
    first.sees("its first frames", |report| report.sent.frames > 20).await;
    let keyframes = first.peer.report().sent.keyframes;
    let second = join(&edges[1], 2).await;
    let report = second.perceives(&[1], 20, 10).await;
    assert!(first.peer.report().sent.keyframes > keyframes, "somebody who comes late is sent a whole picture");
    assert_eq!(report.track(1, Kind::Video).skipped, 0);
}
