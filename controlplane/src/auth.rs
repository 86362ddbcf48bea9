//! Who may do what in which room: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256, and the keys that sign them.
//!
//! A token is checked once: `http` turns it into [`Claims`] before a socket reaches the engine, and the engine never sees
//! its text. Only HS256 is accepted, whatever the token's header says, and the text of a token is never logged. The HMAC is
//! `ring`'s (docs/decisions/0004-tokens.md).

mod claims;
mod error;
mod key;
mod keys;
mod maker;
mod names;
mod times;

pub use self::claims::{Claims, id_of};
pub use self::error::{ClaimError, ClaimFault, TokenError};
pub use self::key::{KEY_FILE, KEY_LEN, KeyError, TOKEN_LEN_MAX, TokenKey};
pub use self::keys::{KEYS_FOLDER, KEYS_MAX, RELOAD_INTERVAL, TokenKeys};
pub use self::maker::{MAKERS_MAX, Maker};
pub use self::names::{
    ANY_NAME, ANY_ROOM, NAME_LEN_MAX, NAME_PATTERN, NAME_RULE, ROOM_LEN_MAX, is_name_char, is_participant_name,
    is_room_name, skeleton,
};
pub use self::times::{LEEWAY_S, TIME_MAX_S, TTL_MAX_S};
