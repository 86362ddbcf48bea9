//! Problem details (RFC 9457): what goes wrong before a socket is open, said so that a program can act on it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::auth::{MAKERS_MAX, TokenError};

/// What a request for the signalling socket without a token is told: a browser's WebSocket cannot send `Authorization`.
const SOCKET_TOKEN_MISSING: &str =
    "no token: send one as `Authorization: Bearer TOKEN`, or as ?token=TOKEN behind the address";

/// A refusal: status, a stable code, and one sentence for a developer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// Of a change: whether it was acted on, and whether it is kept over a restart.
    done: Option<Done>,
}

/// What became of a change that was not done whole. Extension members of the problem (RFC 9457 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Done {
    acted: bool,
    kept: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), done: None }
    }

    /// One of the signalling socket, whose token may be in the address too.
    pub(super) fn at_socket(self) -> Problem {
        match self.code == TokenError::Missing.code() {
            true => Problem { detail: SOCKET_TOKEN_MISSING.to_owned(), ..self },
            false => self,
        }
    }

    /// For an answer of the framework's own that says nothing but its status.
    pub(super) fn of_status(status: StatusCode) -> Problem {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this address"),
            StatusCode::METHOD_NOT_ALLOWED => return Problem::method_not_allowed(),
            StatusCode::BAD_REQUEST => ("bad_request", "the address or the request cannot be read"),
            _ => ("refused", "the request is refused"),
        };
        Problem::new(status, code, detail)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn not_found(detail: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn method_not_allowed() -> Problem {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address does not answer that method; Allow says which",
        )
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    pub(super) fn room_name() -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "room_name", "a room's name is 1 to 64 of A-Z a-z 0-9 . _ -")
    }

    pub(super) fn not_ready(code: &'static str, detail: &str) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// A change that holds and was acted on, and could not be written down.
    pub(super) fn not_kept() -> Problem {
        let detail = "it is done and holds now, but could not be written down, so it does not hold after a restart: free \
                      space on the disk of the state folder; the server tries again by itself";
        let done = Some(Done { acted: true, kept: false });
        Problem { done, ..Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not_kept", detail) }
    }

    /// An invitation, where a token must be.
    pub(super) fn invitation() -> Problem {
        let detail = "this is an invitation: exchange it for a token with a name, by POST /v1/rooms/{room}/guests";
        Problem::new(StatusCode::FORBIDDEN, "invitation", detail)
    }

    /// A token that was made by a token, and so on, and may make no more.
    pub(super) fn too_many_makers() -> Problem {
        let detail = format!("{MAKERS_MAX} tokens made this one, each by the one before: make a token by one of those");
        Problem::new(StatusCode::FORBIDDEN, "too_many_makers", detail)
    }

    pub(super) fn wrong_room() -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "wrong_room", "the token is for another room")
    }

    pub(super) fn upgrade_required() -> Problem {
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this address speaks WebSocket (RFC 6455)")
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        Problem::new(StatusCode::UNAUTHORIZED, error.code(), error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({
            "type": format!("urn:uprtc:problem:{}", self.code),
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(Done { acted, kept }) = self.done {
            (body["acted"], body["kept"]) = (acted.into(), kept.into());
        }
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            // RFC 6750 §3: a request without a token is told no error.
            StatusCode::UNAUTHORIZED if self.code == TokenError::Missing.code() => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self); // For people: see `people`.
        response
    }
}
