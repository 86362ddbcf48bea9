//! The edges that a client can join at, and something tiny to measure the way there. Without a token: who wants to join needs it before
//! anything else, and the addresses of edges are in the DNS anyway.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::proxies::Base;
use super::super::{PublicUrl, Site};
use crate::nodes::Edge;

/// How long an answer may be kept: load and nodes change about as often.
const CACHED: &str = "public, max-age=5";

/// Load is told in these steps: a client needs no more, and others are not told exactly who is in a call here.
const PEERS_STEP: u32 = 10;
const BUSY_STEP: u32 = 50;

/// The edges of the cluster.
#[derive(Serialize, ToSchema)]
pub(super) struct EdgeList {
    /// The edge that answers comes first, then one of each region by turns, those that are less busy before others. 32 at most.
    edges: Vec<EdgeView>,
}

/// An edge.
#[derive(Serialize, ToSchema)]
pub(super) struct EdgeView {
    /// The name of its node. Null: it is in no cluster.
    name: Option<String>,
    /// Where it is, in its operator's words; may be empty.
    region: String,
    /// In whose network it is, in its operator's words; may be empty.
    carrier: String,
    /// Where clients reach it, without a `/` at the end. Null: where it was asked.
    url: Option<String>,
    /// Peers that it carries, in tens. Null: not known.
    #[schema(minimum = 0)]
    peers: Option<u32>,
    /// How busy its workers are on the average, thousandths of a core, in steps of 50. Null: not known.
    #[schema(minimum = 0, maximum = 1000)]
    busy_permille: Option<u32>,
}

impl From<(Edge, PublicUrl)> for EdgeView {
    fn from((edge, url): (Edge, PublicUrl)) -> EdgeView {
        EdgeView {
            name: Some(edge.node),
            region: edge.region,
            carrier: edge.carrier,
            url: Some(url.as_str().to_owned()),
            peers: Some(edge.peers / PEERS_STEP * PEERS_STEP),
            busy_permille: Some(edge.busy_permille / BUSY_STEP * BUSY_STEP),
        }
    }
}

/// The edges that a client can join at.
///
/// Those of the cluster that are here, this one first; a server in no cluster is alone. No token is needed. A node that is stopping, that has no
/// dataplane, or of which is not known where clients reach it, is left out.
#[utoipa::path(get, path = "/v1/edges", tag = "edges", security(()), responses((status = 200, description = "The edges", body = EdgeList)))]
pub(super) async fn list(State(site): State<Arc<Site>>, Extension(Base(base)): Extension<Base>) -> Response {
    let (own, others): (Vec<_>, Vec<_>) = site.edges().into_iter().partition(|(edge, _)| edge.is_self);
    let alone = || EdgeView {
        name: site.nodes.as_ref().map(|nodes| nodes.node().to_owned()),
        region: String::new(),
        carrier: String::new(),
        url: base.as_deref().map(str::to_owned),
        peers: None,
        busy_permille: None,
    };
    let own = own.into_iter().next().map_or_else(alone, EdgeView::from);
    let edges = [own].into_iter().chain(others.into_iter().map(EdgeView::from)).collect();
    ([(header::CACHE_CONTROL, CACHED)], Json(EdgeList { edges })).into_response()
}

/// Measure the way to this edge.
///
/// Costs nothing and says nothing. A second request on the same connection takes one round trip.
#[utoipa::path(get, path = "/v1/edges/ping", tag = "edges", security(()), responses((status = 204, description = "It is here")))]
pub(super) async fn ping(_: Request) -> Response {
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")]).into_response()
}
