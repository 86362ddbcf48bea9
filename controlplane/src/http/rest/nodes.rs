//! The nodes of the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use proto::plane::PathState;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, Asked, Page, Problem, Site, sample};
use crate::engine::EdgePath;
use crate::nodes::{Node, Refusal};

/// A page of the cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct NodePage {
    /// The name of the cluster. Null: this server is in none.
    cluster: Option<String>,
    /// The name of this node.
    node: Option<String>,
    /// Whether the cluster's engine is connected. While it is not, the list is as it was last known.
    connected: bool,
    /// Whether this node's own record is known to stand, so that the others see it.
    joined: bool,
    /// What is wrong, in one sentence.
    problem: Option<String>,
    /// The nodes, this one too.
    nodes: Vec<NodeView>,
    /// What stands in the cluster's bucket and is not believed.
    refused: Vec<RefusedView>,
    /// `after` of the next page, if there is one.
    next: Option<String>,
}

/// A node.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeView {
    /// Its name.
    node: String,
    /// Whether it is the one that answers.
    is_self: bool,
    /// `here`; `gone`: its lease has ended without a word; `left`: it said that it stops.
    #[schema(pattern = "^(here|gone|left)$")]
    state: &'static str,
    /// Where it is, in its operator's words; may be empty.
    region: String,
    /// In whose network it is, in its operator's words; may be empty.
    carrier: String,
    /// Version of its executable.
    software: String,
    /// Where its HTTP server is.
    url: Option<String>,
    /// SHA-256 of its DTLS certificate, hexadecimal. Another one at each start.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: String,
    /// Of each of its workers, the addresses at which other nodes reach it.
    #[schema(value_type = Vec<Vec<String>>)]
    workers: Vec<Vec<SocketAddr>>,
    /// Peers that it carries.
    #[schema(minimum = 0)]
    peers: u32,
    /// How busy its workers are on the average, thousandths of a core.
    #[schema(minimum = 0, maximum = 1000)]
    busy_permille: u32,
    /// When it started, seconds since 1970 by its own clock.
    started_at: u64,
    /// The revision of its record in the bucket.
    revision: u64,
    /// Seconds since its record was last heard of.
    #[schema(minimum = 0)]
    heard_s: f64,
    /// What the node that answers has measured of its paths to this one in the last 15 s. Empty while nothing crosses between edges.
    paths: Vec<PathView>,
}

/// A path to another edge.
#[derive(Serialize, ToSchema)]
pub(super) struct PathView {
    /// The node that it goes through. Null: it is direct.
    through: Option<String>,
    /// `good`; `bad`: it answers, beyond the thresholds; `dead`: it does not answer; `unknown`: too little was answered to judge it.
    #[schema(pattern = "^(good|bad|dead|unknown)$")]
    state: &'static str,
    /// Round trip, milliseconds. Null as long as nothing was answered.
    #[schema(minimum = 0)]
    rtt_ms: Option<f64>,
    /// Mean difference of two round trips that follow each other, milliseconds.
    #[schema(minimum = 0)]
    jitter_ms: f64,
    /// What did not arrive, of one.
    #[schema(minimum = 0, maximum = 1)]
    loss: f64,
}

impl From<&EdgePath> for PathView {
    fn from(path: &EdgePath) -> PathView {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        PathView {
            through: path.through.clone(),
            state: match path.state {
                PathState::Good => "good",
                PathState::Unknown => "unknown",
                PathState::Bad => "bad",
                PathState::Dead => "dead",
            },
            rtt_ms: path.round_trip.map(milliseconds),
            jitter_ms: milliseconds(path.jitter),
            loss: path.loss,
        }
    }
}

impl NodeView {
    fn new(node: Node, paths: &[EdgePath]) -> NodeView {
        let paths = paths.iter().filter(|path| path.node == node.node).map(PathView::from).collect();
        NodeView {
            paths,
            node: node.node,
            is_self: node.is_self,
            state: node.state,
            region: node.region,
            carrier: node.carrier,
            software: node.software,
            url: node.http,
            fingerprint: node.fingerprint,
            workers: node.workers,
            peers: node.peers,
            busy_permille: node.busy_permille,
            started_at: node.started_at,
            revision: node.revision,
            heard_s: node.heard_s,
        }
    }
}

/// A record that is not believed.
#[derive(Serialize, ToSchema)]
pub(super) struct RefusedView {
    /// Its key.
    key: String,
    /// Why, in a word: `too_long`, `malformed`, `other_version`, `other_name`, `out_of_bounds`, `too_many`, `unsealed`,
    /// `unknown_key`, `forged`.
    reason: &'static str,
    /// And in a sentence.
    detail: String,
}

impl From<(String, Refusal)> for RefusedView {
    fn from((key, refusal): (String, Refusal)) -> RefusedView {
        RefusedView { key, reason: refusal.name(), detail: refusal.to_string() }
    }
}

/// The nodes of the cluster that this server is in.
///
/// By name, with what each says of itself. `cluster` is null and the list empty on a server that is in none. Needs a token for `*`.
#[utoipa::path(get, path = "/v1/nodes", tag = "server", params(Page), responses((status = 200, description = "A page of nodes", body = NodePage)))]
pub(super) async fn list(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Asked(page): Asked<Page>,
) -> Result<Json<NodePage>, Problem> {
    admin.of_everything()?;
    let view = site.nodes.as_ref().map(|nodes| nodes.view());
    let paths = if view.is_some() { sample(&site).await?.edge_paths } else { Vec::new() };
    let nodes = view.iter().flat_map(|view| view.nodes.clone());
    let all = nodes.map(|node| (node.node.clone(), NodeView::new(node, &paths)));
    let (nodes, next) = page.of(all)?;
    Ok(Json(match view {
        Some(view) => NodePage {
            cluster: Some(view.cluster),
            node: Some(view.node),
            connected: view.is_connected,
            joined: view.has_joined,
            problem: view.problem,
            nodes,
            refused: view.refused.into_iter().map(RefusedView::from).collect(),
            next,
        },
        None => NodePage {
            cluster: None,
            node: None,
            connected: false,
            joined: false,
            problem: None,
            nodes,
            refused: Vec::new(),
            next,
        },
    }))
}
