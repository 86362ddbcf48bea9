//! By which tokens a token was made: what is kept of each of them, so that a revocation of one reaches all that came of it.
//!
//! A token that is made by the bearer of another one (`POST /v1/tokens`, an invitation, a guest's token) carries the claim
//! `made_by`: its maker, its maker's maker, and so on, the oldest first. It does not outlive them, and a revocation that
//! concerns one of them concerns it (docs/decisions/0037-tokens-made-by-tokens.md).

use serde::{Deserialize, Serialize};

use crate::hex;

/// Makers of one token. An application's token for `*` makes that of a room's admin, that one a participant's, which makes an
/// invitation, which makes a guest's: four makers, and about 200 bytes in a token.
pub const MAKERS_MAX: usize = 4;

/// What is kept of a token that made another one. Written as `{token}.{name}.{iat}`, with `.*` behind it if it
/// governed everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Maker {
    /// What stands for it, a hash ([`Claims::identity`](super::Claims::identity)).
    pub token: String,
    /// What stands for its name, a hash.
    pub name: String,
    /// When it was made, seconds since 1970.
    pub iat: u64,
    /// Whether it made the other one by its right over everything. The revocations of a single room do not concern it then.
    pub governs_everything: bool,
}

impl From<Maker> for String {
    fn from(Maker { token, name, iat, governs_everything }: Maker) -> String {
        let end = if governs_everything { ".*" } else { "" };
        format!("{token}.{name}.{iat}{end}")
    }
}

impl TryFrom<String> for Maker {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Maker, &'static str> {
        let (rest, governs_everything) = text.strip_suffix(".*").map_or((text.as_str(), false), |rest| (rest, true));
        let parts: Vec<&str> = rest.split('.').collect();
        let [token, name, iat] = parts[..] else { return Err("not the three parts of a maker") };
        let is_id = |id: &str| hex::read(id, &mut [0; 8]).is_some();
        match iat.parse() {
            Ok(iat) if is_id(token) && is_id(name) => {
                Ok(Maker { token: token.to_owned(), name: name.to_owned(), iat, governs_everything })
            }
            _ => Err("not the parts of a maker"),
        }
    }
}
