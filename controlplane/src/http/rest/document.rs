//! The interface's own description: OpenAPI 3.1 generated from the handlers and what they take and show, and a page
//! made from it that needs no script and nothing from elsewhere.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{data, edges, invitations, nodes, peers, revocations, rooms, service, tasks, views};

#[derive(OpenApi)]
#[openapi(
    info(title = "uprtc", description = "Rooms, peers, tokens and the server, for operators and application servers."),
    paths(
        rooms::list,
        rooms::put,
        rooms::patch,
        rooms::get,
        rooms::delete,
        data::send,
        revocations::revoke,
        revocations::list,
        revocations::delete,
        revocations::revoke_everywhere,
        revocations::list_everywhere,
        revocations::delete_everywhere,
        invitations::invite,
        invitations::accept,
        peers::list,
        peers::get,
        peers::delete,
        peers::relocate,
        peers::mute,
        tasks::start,
        tasks::list,
        tasks::get,
        tasks::stop,
        service::mint,
        service::server,
        nodes::list,
        edges::list,
        edges::ping
    ),
    components(schemas(views::ProblemDetails))
)]
struct Interface;

/// Refusals that any address may answer with.
const REFUSALS: &[(&str, &str)] = &[
    ("400", "The address or the body cannot be read"),
    ("401", "No token, or not one that is good here"),
    ("403", "Not an admin token, or for another room, or beyond what it may do"),
    ("404", "There is no such thing"),
    ("408", "The request did not come whole in time"),
    ("429", "Too many requests with this token, or with those of this room"),
    ("503", "The server is stopping"),
];

/// Of these, those of addresses that need no token.
const PUBLIC_REFUSALS: [&str; 2] = ["400", "408"];

/// And those with a body besides.
const BODY_REFUSALS: &[(&str, &str)] = &[
    ("413", "The body is too long"),
    ("415", "The body is not application/json"),
    ("422", "A field is missing, unknown, or out of its bounds"),
    (
        "500",
        "It is done and holds (`acted`), but could not be written down (`kept`), so it does not hold after a restart",
    ),
    ("507", "A limit of the server is reached"),
];

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
static PAGE: LazyLock<String> = LazyLock::new(|| page(&DOCUMENT));

/// `GET /openapi.json`
pub(in crate::http) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], DOCUMENT.to_string())
        .into_response()
}

/// `GET /docs`
pub(in crate::http) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE.as_str()).into_response()
}

/// What utoipa gathered, with what all addresses have in common.
fn document() -> Value {
    let mut document = serde_json::to_value(Interface::openapi()).expect("a document is JSON");
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["components"]["securitySchemes"] =
        json!({"admin": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}});
    document["security"] = json!([{"admin": []}]);
    // Relative to where the document is (OpenAPI 3.1 §4.8.5): right under a proxy's path prefix too.
    document["servers"] = json!([{"url": "./"}]);
    // utoipa has no word for "one of these fields".
    let one_of = [("text", "binary"), ("binary", "text")].map(
        |(said, other)| json!({"required": [said], "properties": {said: {"type": "string"}, other: {"type": "null"}}}),
    );
    document["components"]["schemas"]["DataRequest"]["oneOf"] = json!(one_of);
    let operations = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operation in operations.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
        let of_body: &[_] = if operation.get("requestBody").is_some() { BODY_REFUSALS } else { &[] };
        let is_kept = operation["tags"][0] == "rooms" || operation["tags"][0] == "revocations";
        let is_delete = operation["operationId"].as_str().is_some_and(|id| id.starts_with("delete"));
        let not_kept = BODY_REFUSALS.iter().filter(|(status, _)| is_kept && is_delete && *status == "500");
        let is_public = operation.get("security").is_some();
        let of_all = REFUSALS.iter().filter(|(status, _)| !is_public || PUBLIC_REFUSALS.contains(status));
        for (status, description) in of_all.chain(of_body).chain(not_kept) {
            operation["responses"][status] = json!({
                "description": description,
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
            });
        }
        let id = format!(
            "{}_{}",
            operation["tags"][0].as_str().unwrap_or(""),
            operation["operationId"].as_str().unwrap_or("")
        );
        operation["operationId"] = json!(id);
    }
    document
}

/// The page of a document: each address with what it takes and answers, then the shapes.
fn page(document: &Value) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>uprtc REST</title><link rel=\"stylesheet\" href=\"web/docs.css\">\
         <main><h1>uprtc REST</h1><p>Every request brings <code>Authorization: Bearer</code> with an admin token \
         (<code>uprtc token --admin --room '*' --name ops</code>); to invite and to accept an invitation, other \
         tokens do, and the edges are told without any. Refusals are <code>application/problem+json</code> \
         with a stable <code>code</code>. The same for programs: <a href=\"openapi.json\">openapi.json</a>.</p>",
    );
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            operation_section(&mut html, path, method, operation);
        }
    }
    html.push_str("<h2>Shapes</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let name = escape(name);
        add(
            &mut html,
            format_args!("<section id=\"{name}\"><h3>{name}</h3><p>{}</p><dl>", text(&schema["description"])),
        );
        for (field, shape) in schema["properties"].as_object().into_iter().flatten() {
            let type_ = type_of(shape);
            add(
                &mut html,
                format_args!("<dt><code>{}</code> {type_}</dt><dd>{}</dd>", escape(field), text(&shape["description"])),
            );
        }
        html.push_str("</dl></section>");
    }
    html.push_str("</main></html>\n");
    html
}

fn operation_section(html: &mut String, path: &str, method: &str, operation: &Value) {
    let (method, path) = (method.to_uppercase(), escape(path));
    add(
        html,
        format_args!("<section><h2><code>{method} {path}</code></h2><p><b>{}</b></p>", text(&operation["summary"])),
    );
    add(html, format_args!("<p>{}</p><dl>", text(&operation["description"])));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let shape = type_of(&parameter["schema"]);
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let about = text(&parameter["description"]);
        add(html, format_args!("<dt><code>{name}</code> in {place}, {shape}</dt><dd>{about}</dd>"));
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        add(html, format_args!("<dt>body</dt><dd>{}</dd>", type_of(body)));
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let shape = response["content"].as_object().and_then(|content| content.values().next());
        let shape = shape.map_or(String::new(), |content| format!(": {}", type_of(&content["schema"])));
        add(html, format_args!("<dt>{status}</dt><dd>{}{shape}</dd>", text(&response["description"])));
    }
    html.push_str("</dl></section>");
}

/// A schema in a few words: a link to the shape, or its type and bounds.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    let mut words = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one),
    };
    if words == "array" {
        words = format!("list of {}", type_of(&schema["items"]));
    }
    for (bound, word) in [("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"), ("pattern", "like")] {
        if !schema[bound].is_null() {
            let value = schema[bound].as_str().map_or_else(|| schema[bound].to_string(), str::to_owned);
            add(&mut words, format_args!(" {word} <code>{}</code>", escape(&value)));
        }
    }
    words
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn add(html: &mut String, words: std::fmt::Arguments<'_>) {
    html.write_fmt(words).expect("writing to a String does not fail");
}
