//! The meeting page, the client module and their files, compiled into the executable: one file to copy, nothing to
//! mount, and the page is always of the same version as the server.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};

use super::error::Problem;
use super::origins::is_origin;
use super::websocket::base64;
use super::{PublicUrl, Site};
use crate::auth::is_room_name;

/// A file of the page: name, media type, content.
type Asset = (&'static str, &'static str, &'static str);

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Files of `controlplane/web` by their names.
macro_rules! assets {
    ($folder:literal, $($name:literal: $kind:expr),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("../../web/", $folder, $name)))),*]
    };
}

/// Files under `/web/`.
const WEB: &[Asset] = assets! {
    "",
    "app.js": JAVASCRIPT,
    "call.js": JAVASCRIPT,
    "chat.js": JAVASCRIPT,
    "controls.js": JAVASCRIPT,
    "docs.css": CSS,
    "elements.js": JAVASCRIPT,
    "ending.js": JAVASCRIPT,
    "grid.js": JAVASCRIPT,
    "link.js": JAVASCRIPT,
    "lobby.js": JAVASCRIPT,
    "log.js": JAVASCRIPT,
    "people.js": JAVASCRIPT,
    "pickers.js": JAVASCRIPT,
    "plots.js": JAVASCRIPT,
    "quality.js": JAVASCRIPT,
    "record.js": JAVASCRIPT,
    "style.css": CSS,
    "talk.js": JAVASCRIPT,
    "tile.js": JAVASCRIPT,
};

/// Files under `/sdk/`: what an application developer imports, from any origin.
const SDK: &[Asset] = assets! {
    "sdk/",
    "codecs.js": JAVASCRIPT,
    "data.js": JAVASCRIPT,
    "device.js": JAVASCRIPT,
    "edges.js": JAVASCRIPT,
    "error.js": JAVASCRIPT,
    "events.js": JAVASCRIPT,
    "invitation.js": JAVASCRIPT,
    "layers.js": JAVASCRIPT,
    "messages.js": JAVASCRIPT,
    "participant.js": JAVASCRIPT,
    "people.js": JAVASCRIPT,
    "recording.js": JAVASCRIPT,
    "retry.js": JAVASCRIPT,
    "sending.js": JAVASCRIPT,
    "shaper.js": JAVASCRIPT,
    "shown.js": JAVASCRIPT,
    "socket.js": JAVASCRIPT,
    "speaking.js": JAVASCRIPT,
    "transport.js": JAVASCRIPT,
    "types.js": JAVASCRIPT,
    "uprtc.js": JAVASCRIPT,
};

/// The module's types in one file, made from its JSDoc by `tools/sdk-types.mjs`. It is served beside `uprtc.js`, where
/// TypeScript looks for it.
const TYPES: Asset =
    ("uprtc.d.ts", "application/typescript; charset=utf-8", include_str!("../../web/types/uprtc.d.ts"));

/// Bytes of the sources that a page may connect to. Proxies have buffers of 4 KiB for the whole head of an answer.
const SOURCES_LEN_MAX: usize = 2048;

const ROOM: &str = include_str!("../../web/index.html");
const START: &str = include_str!("start.html");

/// Everything comes from this origin, and nothing is inline but the script that loads the meeting page again ([`INLINE`]); whose pages may frame this one is added behind it
/// ([`frame_ancestors`]). `connect-src 'self'` covers the signalling socket (CSP 3 §6.7.2.8: ws and wss match the page's own
/// http and https).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     media-src 'self' blob: mediastream:; connect-src 'self'; base-uri 'none'; form-action 'none'";

/// What `script-src` permits besides: the hash of the meeting page's one inline script (CSP 3 §6.7.3.3). It handles files
/// that do not come, so it cannot be one of them.
static INLINE: LazyLock<String> = LazyLock::new(|| {
    let script =
        ROOM.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>")).map_or("", |(script, _)| script);
    format!("'sha256-{}'", base64(digest(&SHA256, script.as_bytes()).as_ref()))
});

/// The page needs these three devices and no other. `self` is the page's own origin, in a frame too: there the framing page
/// must also hand them on, by `allow="camera; microphone; display-capture"` (Permissions Policy §4.8, §5.1).
const PERMISSIONS_POLICY: &str = "camera=(self), microphone=(self), display-capture=(self), geolocation=()";

/// `GET /`: what this is, for a person who came without a link.
pub(super) async fn start() -> Response {
    page(START.into(), "frame-ancestors 'none'", &[])
}

/// `GET /r/{room}`: the meeting page. It needs no token; the signalling socket that it opens does.
pub(super) async fn room(State(site): State<Arc<Site>>, Path(room): Path<String>) -> Response {
    match is_room_name(&room) {
        true => {
            let edges: Vec<PublicUrl> = site.edges().into_iter().map(|(_, url)| url).collect();
            let html = if edges.len() > 1 { Cow::Owned(told_of_edges(ROOM)) } else { Cow::Borrowed(ROOM) };
            page(html, &frame_ancestors(&site.framers.named()), &edges)
        }
        false => Problem::room_name().into_response(),
    }
}

/// `GET /web/{file}`.
pub(super) async fn web(Path(file): Path<String>) -> Response {
    asset(WEB, &file)
}

/// `GET /sdk/{file}`.
pub(super) async fn sdk(Path(file): Path<String>) -> Response {
    let mut response = if file == TYPES.0 { asset(&[TYPES], &file) } else { asset(SDK, &file) };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    response
}

/// Which pages may show this one in a frame (CSP 3 §6.4.2): those that the operator names, and our own if there are any.
fn frame_ancestors(named: &[String]) -> String {
    match named {
        [] => "frame-ancestors 'none'".to_owned(),
        named => format!("frame-ancestors 'self' {}", named.join(" ")),
    }
}

/// The meeting page with the mark that there are several edges, for which it then asks.
fn told_of_edges(html: &str) -> String {
    html.replacen("<html", "<html data-edges", 1)
}

/// Where the page may connect to besides: other edges, by HTTP and by its sockets (CSP 3 §6.7.2.8: the scheme of a socket has to be named
/// for origins that are not the page's own). As many as fit.
fn connect_src(edges: &[PublicUrl]) -> String {
    let mut sources = "connect-src 'self'".to_owned();
    for origin in edges.iter().map(PublicUrl::origin).filter(|origin| is_origin(origin)) {
        let source = format!(" {origin} {}", origin.replacen("http", "ws", 1));
        if sources.len() + source.len() <= SOURCES_LEN_MAX {
            sources += &source;
        }
    }
    sources
}

fn page(html: Cow<'static, str>, ancestors: &str, edges: &[PublicUrl]) -> Response {
    let policy = CONTENT_SECURITY_POLICY.replace("script-src 'self'", &format!("script-src 'self' {}", *INLINE));
    let policy = policy.replace("connect-src 'self'", &connect_src(edges));
    let policy = format!("{policy}; {ancestors}");
    // Origins are plain ASCII (`is_origin`); if one were not, nobody may frame the page.
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("frame-ancestors 'none'"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(HTML)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (HeaderName::from_static("permissions-policy"), HeaderValue::from_static(PERMISSIONS_POLICY)),
        // The address holds a token until the page takes it out: it must not travel on in a Referer.
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, html).into_response()
}

fn asset(assets: &'static [Asset], file: &str) -> Response {
    let Some((_, kind, content)) = assets.iter().find(|(name, ..)| *name == file) else {
        return Problem::not_found("no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, *content).into_response()
}
