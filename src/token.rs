//! `uprtc token`, `link` and `new-key`: let somebody into a room. All of them use the key that is in the state folder of a
//! server, and none makes the first key: that is the server's.

use std::io::Write;
use std::path::Path;

use controlplane::auth::{ANY_ROOM, Claims, TokenKeys};

use crate::cli::{Common, Token};
use crate::options::Sources;
use crate::running::{self, Running};
use crate::{Failure, reach};

/// Prints the token and nothing else, so that a script can use it. Remarks go to standard error.
pub(crate) fn print(common: &Common, request: &Token) -> Result<(), Failure> {
    let state = running::state(common)?;
    let token = sign(&state, request)?;
    if !request.publish && !request.subscribe && !request.admin {
        remark("this token opens a room and allows nothing in it: --publish, --subscribe and --admin give rights");
    }
    Ok(writeln!(std::io::stdout(), "{token}")?)
}

/// Prints a link that opens a call.
pub(crate) fn link(common: &Common, request: &Token) -> Result<(), Failure> {
    if request.room == ANY_ROOM {
        return Err("a link is for one room: --room with its name".into());
    }
    let state = running::state(common)?;
    let mut request = request.clone();
    if !request.publish && !request.subscribe && !request.admin {
        (request.publish, request.subscribe, request.invite, request.record) = (true, true, true, true);
    }
    let base = link_base(common, &state)?;
    let (room, token) = (&request.room, sign(&state, &request)?);
    Ok(writeln!(std::io::stdout(), "{base}/r/{room}?token={token}")?)
}

/// What the links of the server begin with. Where `public-url` is set here, the server need not run.
fn link_base(common: &Common, state: &Path) -> Result<String, Failure> {
    let common = Common { state: Some(state.to_owned()), ..common.clone() };
    let options = Sources { common, ..Sources::default() }.read()?;
    match options.public_url {
        Some(_) => Ok(reach::link_base(&options, options.listen)),
        None => Ok(Running::find(state)?.link),
    }
}

fn sign(state: &Path, request: &Token) -> Result<String, Failure> {
    let keys = running::keys(state)?;
    let claims = Claims {
        publish: request.publish,
        subscribe: request.subscribe,
        data: request.data,
        admin: request.admin,
        invite: request.invite,
        record: request.record,
        role: request.role,
        ..Claims::new(&request.room, &request.name, request.ttl.as_secs())
    };
    let token = keys.sign(&claims)?;
    if let Some(text) = running::remark(state) {
        remark(&format!("{text}, which does not take this token"));
    }
    Ok(token)
}

fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "uprtc: note: {text}"); // Who closed it does not want it.
}

/// Makes a key that signs from now on, and prints its `kid`.
pub(crate) fn new_key(common: &Common) -> Result<(), Failure> {
    let state = running::state(common)?;
    running::keys(&state)?;
    Ok(writeln!(std::io::stdout(), "{}", TokenKeys::add(&state)?)?)
}
