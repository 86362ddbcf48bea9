//! `uprtc token`: lets somebody into a room.

use controlplane::auth::{Claims, TokenKey};

use crate::cli::Token;
use crate::{Failure, options};

/// Prints the token and nothing else, so that a script can use it.
pub(crate) fn print(request: &Token) -> Result<(), Failure> {
    let key = TokenKey::load_or_create(&options::resolve_state(&request.common)?)?;
    let claims = Claims {
        publish: request.publish,
        subscribe: request.subscribe,
        admin: request.admin,
        ..Claims::new(&request.room, &request.name, request.ttl.as_secs())
    };
    println!("{}", key.sign(&claims)?);
    Ok(())
}
