//! Refusals for people: a person who opens an address in a browser and is refused sees a page with a sentence, where a program
//! sees problem+json (RFC 9457). Every refusal passes here, the framework's own too, which are given a body.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Problem;

const PAGE: &str = include_str!("problem.html");

/// Nothing of the page is a script, and it has one style sheet, which is ours.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Gives each refusal the form that the client can use.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let person = (is_read && wants_page(request.headers())).then(|| request.uri().path().to_owned());
    let response = next.run(request).await;
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return response;
    }
    let known = response.extensions().get::<Problem>().cloned();
    let mut response = match known {
        Some(_) => response,
        None => clothed(response),
    };
    if is_read {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    }
    let problem = response.extensions().get::<Problem>().cloned();
    if let Some((path, problem)) = person.zip(problem) {
        *response.body_mut() = Body::from(page(&path, &problem));
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// An answer of the framework that says little or nothing, as a problem with the same status and header fields.
fn clothed(bare: Response) -> Response {
    let mut response = Problem::of_status(bare.status()).into_response();
    for (name, value) in bare.headers() {
        if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

/// Whether the client would rather have HTML than JSON, and says so by name: browsers do when a person opens an address, and
/// programs send `*/*` (RFC 9110 §12.5.1).
fn wants_page(headers: &HeaderMap) -> bool {
    let weight = |wanted: &[&str]| {
        let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let weights = ranges.flat_map(|ranges| ranges.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next()?;
            let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let is_wanted = wanted.iter().any(|wanted| kind.eq_ignore_ascii_case(wanted));
            is_wanted.then(|| q.map_or(Some(1.0), |q| q.parse::<f32>().ok()))?
        });
        weights.fold(0.0, f32::max)
    };
    let html = weight(&["text/html", "application/xhtml+xml"]);
    html > 0.0 && html >= weight(&["application/json", "application/problem+json"])
}

fn page(path: &str, problem: &Problem) -> String {
    // The way to our root, by a path that stays right behind a proxy with a prefix.
    let depth = path.trim_start_matches('/').matches('/').count();
    let root = if depth == 0 { "./".to_owned() } else { "../".repeat(depth) };
    let (title, advice) = words(problem);
    let detail = escaped(problem.detail());
    let values = [("{root}", root.as_str()), ("{title}", title), ("{detail}", &detail), ("{advice}", advice)];
    let text = values.iter().fold(PAGE.to_owned(), |page, (name, value)| page.replace(name, value));
    text.replace("{status}", problem.status().as_str())
}

/// A title, and what somebody can do who only followed a link.
fn words(problem: &Problem) -> (&'static str, &'static str) {
    const ASK: &str = "If you followed a link to a meeting, ask the person who sent it for a new one.";
    const LATER: &str = "Please try again in a moment.";
    match problem.status() {
        _ if problem.code() == "room_name" => ("This is not the name of a room", ASK),
        StatusCode::NOT_FOUND => ("Page not found", ASK),
        StatusCode::BAD_REQUEST => ("This address cannot be read", ASK),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ("You have no access to this page", ASK),
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::UPGRADE_REQUIRED => ("This address is for programs", ""),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ("The server is busy", LATER),
        status if status.is_server_error() => ("Something went wrong on the server", LATER),
        _ => ("This request cannot be served", ""),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_a_page_and_a_program_does_not() {
        for (accept, is_page) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", true),
            ("text/html;q=0.5, application/json;q=0.4", true),
            ("TEXT/HTML", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("application/json, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("text/html;q=x", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_page(&headers), is_page, "{accept}");
        }
        assert!(!wants_page(&HeaderMap::new()));
    }

    #[test]
    fn a_page_finds_its_root_and_shows_no_markup_of_others() {
        let problem = Problem::not_found("<script>\"&");
        assert!(page("/a", &problem).contains("href=\"./web/style.css\""));
        let deep = page("/r/a/b", &problem);
        assert!(deep.contains("href=\"../../web/style.css\""), "{deep}");
        assert!(
            deep.contains("&lt;script&gt;&quot;&amp;") && !deep.contains("<script") && !deep.contains('{'),
            "{deep}"
        );
    }
}
