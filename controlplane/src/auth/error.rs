//! Why a token is not accepted: each reason has a stable name and one sentence, and a wrong claim is named.

use std::fmt;

use proto::work::Role;

use super::names::NAME_RULE;
use super::times::TTL_MAX_S;

/// Why a token is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("no token: send one as `Authorization: Bearer TOKEN`")]
    Missing,
    /// It is not three parts of base64url with JSON inside.
    #[error("the token is not a JSON Web Token")]
    Malformed,
    /// It is signed otherwise than by HS256.
    #[error("the token is not signed with HS256, the one algorithm that is accepted")]
    Algorithm,
    /// It names a key that this server does not have.
    #[error("the token's kid names no key of this server")]
    Key,
    /// An operator has revoked it.
    #[error("the token was revoked: get a new one")]
    Revoked,
    /// The signature is not of this server's key.
    #[error("the token's signature is not of this server's key")]
    Signature,
    /// It is past its `exp`.
    #[error("the token has expired (exp): get a new one")]
    Expired,
    /// This time of it, `nbf` or `iat`, is to come.
    #[error("the token is not valid yet ({0})")]
    Immature(&'static str),
    /// Its header has `crit`: extensions that must be understood (RFC 7515 §4.1.11), of which we know none.
    #[error("the token's header has crit, and no extension is understood here")]
    Critical,
    /// A claim is missing, of the wrong type, or of a value that cannot be.
    #[error("the token's claims are not those of uprtc: {0}")]
    Claims(ClaimError),
}

impl TokenError {
    /// Stable name of the error, as problem details show it.
    pub const fn code(self) -> &'static str {
        match self {
            TokenError::Missing => "token_missing",
            TokenError::Malformed => "token_malformed",
            TokenError::Algorithm => "token_algorithm",
            TokenError::Key => "token_key",
            TokenError::Revoked => "token_revoked",
            TokenError::Signature => "token_signature",
            TokenError::Expired => "token_expired",
            TokenError::Immature(_) => "token_immature",
            TokenError::Critical => "token_critical",
            TokenError::Claims(_) => "token_claims",
        }
    }
}

/// A claim that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimError {
    /// Its name.
    pub claim: &'static str,
    /// What is wrong.
    pub fault: ClaimFault,
}

/// What is wrong with a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimFault {
    /// It is not there.
    Missing,
    /// It should be a number, as a NumericDate is (RFC 7519 §2).
    NotANumber,
    /// It should be true or false.
    NotABoolean,
    /// It should be a string.
    NotAString,
    /// A time that seems to be in milliseconds.
    Milliseconds,
    /// A time that is too far away to be one.
    FarAway,
    /// A time of more than a token's longest life after its `iat`.
    TooLong,
    /// Not what is kept of the tokens that made it, or of too many.
    NotMakers,
    /// No name of a room, and not `*`.
    NotARoom,
    /// No name that could be shown.
    NotAName,
    /// None of the roles that there are.
    NotARole,
    /// The token is for somebody else.
    OtherAudience,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = self.claim;
        match self.fault {
            ClaimFault::Missing => write!(f, "{claim} is missing"),
            ClaimFault::NotANumber => write!(f, "{claim} is not a number of seconds since 1970"),
            ClaimFault::NotABoolean => write!(f, "{claim} is neither true nor false (without quotes)"),
            ClaimFault::NotAString => write!(f, "{claim} is not a string"),
            ClaimFault::Milliseconds => {
                write!(f, "{claim} is in seconds since 1970, and this looks like milliseconds: divide it by 1000")
            }
            ClaimFault::FarAway => write!(f, "{claim} is in seconds since 1970, and this is too far away to be a time"),
            ClaimFault::TooLong => write!(f, "{claim} is more than {} days after iat", TTL_MAX_S / 86_400),
            ClaimFault::NotMakers => write!(f, "{claim} is not what this server writes: leave it out"),
            ClaimFault::NotARoom => write!(f, "{claim} is neither `*` nor 1 to 64 of [A-Za-z0-9._-]"),
            ClaimFault::NotAName => write!(f, "{claim} is not {NAME_RULE}"),
            ClaimFault::NotARole => {
                let names = Role::ALL.map(Role::name).join(", ");
                write!(f, "{claim} is none of {names}")
            }
            ClaimFault::OtherAudience => write!(f, "{claim} is for somebody else: leave it out"),
        }
    }
}
