//! docs/PROTOCOL.md against the types: each of its examples is a signal, none has a field that the types do not know,
//! and no signal, error or reason is missing from the page.

use std::collections::BTreeSet;
use std::path::Path;

use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md")).unwrap()
}

/// The lines of the block of JSON that is marked with `side`.
fn examples(page: &str, side: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!("```json {side}\n")).expect("the page has a block of examples");
    let (block, _) = rest.split_once("```").expect("the block ends");
    block.lines().map(str::to_owned).collect()
}

/// What `T` can be by name, as serde lists it to whoever names none of them.
fn names<T: DeserializeOwned>(nobody: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(nobody).err().expect("nobody is called so").to_string();
    let (_, known) = error.split_once("expected ").expect("serde lists the names");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn check<T: DeserializeOwned + Serialize>(side: &str) {
    let mut shown = BTreeSet::new();
    for line in examples(&page(), side) {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let signal: T = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(serde_json::to_value(&signal).unwrap(), value, "a field of the example is not the signal's: {line}");
        shown.insert(value["type"].as_str().expect("a signal has a type").to_owned());
    }
    assert_eq!(shown, names::<T>(r#"{"type":"?"}"#), "the {side}'s signals");
}

#[test]
fn every_signal_of_a_client_has_an_example() {
    check::<ClientSignal>("client");
}

#[test]
fn every_signal_of_the_server_has_an_example() {
    check::<ServerSignal>("server");
}

#[test]
fn every_error_and_every_reason_is_explained() {
    let page = page();
    let names = names::<ErrorCode>(r#""?""#).into_iter().chain(names::<LeaveReason>(r#""?""#));
    let missing: Vec<String> = names.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/PROTOCOL.md: {missing:?}");
}
