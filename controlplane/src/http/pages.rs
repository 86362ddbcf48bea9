//! The meeting page, the client module and their files, compiled into the executable: one file to copy, nothing to
//! mount, and the page is always of the same version as the server.

use axum::extract::Path;
use axum::http::header::{self, HeaderName};
use axum::response::{IntoResponse, Response};

use super::error::Problem;
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
    "controls.js": JAVASCRIPT,
    "docs.css": CSS,
    "elements.js": JAVASCRIPT,
    "ending.js": JAVASCRIPT,
    "grid.js": JAVASCRIPT,
    "lobby.js": JAVASCRIPT,
    "people.js": JAVASCRIPT,
    "pickers.js": JAVASCRIPT,
    "quality.js": JAVASCRIPT,
    "style.css": CSS,
    "tile.js": JAVASCRIPT,
};

/// Files under `/sdk/`: what an application developer imports, from any origin.
const SDK: &[Asset] = assets! {
    "sdk/",
    "device.js": JAVASCRIPT,
    "error.js": JAVASCRIPT,
    "participant.js": JAVASCRIPT,
    "people.js": JAVASCRIPT,
    "retry.js": JAVASCRIPT,
    "sending.js": JAVASCRIPT,
    "shaper.js": JAVASCRIPT,
    "socket.js": JAVASCRIPT,
    "speaking.js": JAVASCRIPT,
    "transport.js": JAVASCRIPT,
    "types.js": JAVASCRIPT,
    "uprtc.js": JAVASCRIPT,
};

const ROOM: &str = include_str!("../../web/index.html");
const START: &str = include_str!("start.html");

/// Everything comes from this origin and nothing is inline; nobody may frame the page. `connect-src 'self'` covers
/// the signalling socket (CSP 3 §6.7.2.8: ws and wss match the page's own http and https).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     media-src 'self' blob: mediastream:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page needs these three devices and no other.
const PERMISSIONS_POLICY: &str = "camera=(self), microphone=(self), display-capture=(self), geolocation=()";

/// `GET /`: what this is, for a person who came without a link.
pub(super) async fn start() -> Response {
    page(START)
}

/// `GET /r/{room}`: the meeting page. It needs no token; the signalling socket that it opens does.
pub(super) async fn room(Path(room): Path<String>) -> Response {
    match is_room_name(&room) {
        true => page(ROOM),
        false => Problem::room_name().into_response(),
    }
}

/// `GET /web/{file}`.
pub(super) async fn web(Path(file): Path<String>) -> Response {
    asset(WEB, &file)
}

/// `GET /sdk/{file}`.
pub(super) async fn sdk(Path(file): Path<String>) -> Response {
    let mut response = asset(SDK, &file);
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, header::HeaderValue::from_static("*"));
    response
}

fn page(html: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HTML),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS_POLICY),
        // The address holds the token: it must not travel on in a Referer.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
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
