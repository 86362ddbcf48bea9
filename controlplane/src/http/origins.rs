//! Pages of other origins: which may read what (CORS, Fetch §3.2), and which may open a signalling socket, to which
//! CORS does not apply.
//!
//! | | no origin is named | some are |
//! |---|---|---|
//! | REST | none | those |
//! | WHIP and WHEP | any | those |
//! | the edges, and asking the socket's address by plain HTTP | any | those, and the pages of the cluster's edges |
//! | the signalling socket | any | those, the page's own, and the pages of the cluster's edges; what is no browser sends no `Origin` |
//!
//! No cookie is ever looked at, so a page can do nothing without a token that it was given. Naming origins is for who wants
//! tokens to be used on his own pages alone.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Site;
use super::error::Problem;

/// The origin that stands for all of them.
const ANY: &str = "*";

/// Origins that can be named, at most.
pub const ORIGINS_MAX: usize = 64;

/// Whether this can be the name of an origin: `*`, or scheme, host and perhaps a port as a browser sends them.
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return text == ANY };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    is_scheme && !authority.is_empty() && authority.bytes().all(is_plain)
}

/// The origins that an operator named. They may change while connections are open.
#[derive(Debug, Default)]
pub(super) struct Origins(RwLock<Arc<[String]>>);

impl Origins {
    pub(super) fn new(named: Vec<String>) -> Origins {
        Origins(RwLock::new(named.into()))
    }

    pub(super) fn replace(&self, named: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = named.into();
    }

    pub(super) fn named(&self) -> Arc<[String]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn name(&self, origin: &HeaderValue) -> bool {
        self.named().iter().any(|named| named == ANY || named.as_bytes() == origin.as_bytes())
    }

    /// Whether a socket may be opened from where this request comes from.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        let is_own = authority.zip(own).is_some_and(|(authority, own)| authority.eq_ignore_ascii_case(own));
        match self.named().is_empty() || is_own || self.name(origin) {
            true => Ok(()),
            false => {
                let detail = "pages of this origin may not open a signalling socket: cors-origins names those that may";
                Err(Problem::new(StatusCode::FORBIDDEN, "origin", detail))
            }
        }
    }
}

/// Whether a socket may be opened from where this request comes from. The meeting page of an edge is as good as our own: it goes to
/// another edge of its cluster when its own has died.
pub(super) fn admit(site: &Site, headers: &HeaderMap) -> Result<(), Problem> {
    let is_ours = || headers.get(header::ORIGIN).is_some_and(|origin| has_page(site, origin));
    site.origins.admit(headers).or_else(|problem| if is_ours() { Ok(()) } else { Err(problem) })
}

/// Whether it is the meeting page of an edge of our cluster.
fn has_page(site: &Site, origin: &HeaderValue) -> bool {
    let nodes = site.nodes.as_ref().zip(origin.to_str().ok());
    nodes.is_some_and(|(nodes, origin)| is_origin(origin) && nodes.has_page(origin))
}

/// Says to browsers what a page may read.
pub(super) async fn cross_origin(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    match request.uri().path() {
        path if path.starts_with("/v1/") && path.ends_with("/signal") => asking(&site, request, next).await,
        "/v1/edges" | "/v1/edges/ping" => {
            let mut response = asking(&site, request, next).await;
            // Who may read the answer may read how long it took (Resource Timing §4.5.1).
            if let Some(allowed) = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned() {
                response.headers_mut().insert(HeaderName::from_static("timing-allow-origin"), allowed);
            }
            response
        }
        path if path.starts_with("/v1/") => rest(&site.origins, request, next).await,
        path if path.starts_with("/whip/") || path.starts_with("/whep/") => media(&site.origins, request, next).await,
        _ => next.run(request).await,
    }
}

async fn rest(origins: &Origins, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_preflight = request.method() == Method::OPTIONS
        && origin.is_some()
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let is_allowed = origin.as_ref().is_some_and(|origin| origins.name(origin));
    let mut response = match is_preflight && is_allowed {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = origin.filter(|_| is_allowed) else { return response };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("location, retry-after"));
    if is_preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// A page that may open a socket may read why it was refused. Nothing in the answer is more than the token in the address already tells.
async fn asking(site: &Site, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.run(request).await;
    let allowed = match site.origins.named().is_empty() {
        true => Some(HeaderValue::from_static(ANY)),
        false => origin.filter(|origin| site.origins.name(origin) || has_page(site, origin)),
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
    response
}

/// What is allowed to pages of any origin is narrowed to those that are named.
async fn media(origins: &Origins, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.run(request).await;
    if origins.named().is_empty() {
        return response;
    }
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    match origin.filter(|origin| origins.name(origin)) {
        Some(origin) => headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        None => headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN),
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for origin in ["*", "https://a.example", "http://127.0.0.1:8080", "http://[::1]:80", "capacitor://localhost"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in
            ["", "a.example", "https://", "https://a.example/", "https://A.example", "null", "https://a b", "://a"]
        {
            assert!(!is_origin(text), "{text}");
        }
    }

    #[test]
    fn sockets_are_for_the_named_and_for_our_own_page() {
        let origins = Origins::default();
        let ask = |origins: &Origins, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("edge.example:8443"));
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            origins.admit(&headers).is_ok()
        };
        assert!(ask(&origins, Some("https://evil.example")), "nobody is named");
        origins.replace(vec!["https://app.example".into()]);
        for (origin, is_admitted) in [
            (None, true),
            (Some("https://app.example"), true),
            (Some("https://edge.example:8443"), true),
            (Some("https://edge.example"), false),
            (Some("https://evil.example"), false),
            (Some("https://app.example.evil.example"), false),
            (Some("null"), false),
        ] {
            assert_eq!(ask(&origins, origin), is_admitted, "{origin:?}");
        }
        origins.replace(vec!["*".into()]);
        assert!(ask(&origins, Some("https://evil.example")));
    }
}
