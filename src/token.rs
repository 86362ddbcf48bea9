//! `uprtc token`: lets somebody into a room.

use std::io::Write;

use controlplane::auth::{Claims, TokenKeys};

use crate::cli::{Common, Token};
use crate::{Failure, options};

/// Prints the token and nothing else, so that a script can use it.
pub(crate) fn print(request: &Token) -> Result<(), Failure> {
    let key = TokenKeys::load_or_create(&options::resolve_state(&request.common)?)?;
    let claims = Claims {
        publish: request.publish,
        subscribe: request.subscribe,
        admin: request.admin,
        ..Claims::new(&request.room, &request.name, request.ttl.as_secs())
    };
    Ok(writeln!(std::io::stdout(), "{}", key.sign(&claims)?)?)
}

/// Makes a key that signs from now on, and prints its `kid`.
pub(crate) fn new_key(common: &Common) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{}", TokenKeys::add(&options::resolve_state(common)?)?)?)
}
