//! One signing key: how it is kept in its file, and how it signs and checks tokens.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::{hkdf, hmac};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::claims::Claims;
use super::error::TokenError;
use crate::hex;

/// Bytes of the signing key: as many as the hash gives (RFC 7518 §3.2).
pub const KEY_LEN: usize = 32;

/// File of the signing key in the state folder.
pub const KEY_FILE: &str = "token.key";

/// Longest token that is looked at, bytes. Ours have about 300.
pub const TOKEN_LEN_MAX: usize = 4096;

/// Why the signing key cannot be had. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("cannot use the signing key {}: {source}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The file is not 64 hexadecimal digits.
    #[error("{} is not a signing key: it should hold 64 hexadecimal digits; remove it to have a new one made", .0.display())]
    NotAKey(PathBuf),
    /// Others than its owner may read it.
    #[error("others may read the signing key {path}: chmod 600 {path}", path = .0.display())]
    Exposed(PathBuf),
}

/// The key that signs and checks tokens.
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    derivation: hkdf::Prk,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// A key from its bytes.
    pub fn new(secret: &[u8; KEY_LEN]) -> TokenKey {
        install_provider();
        let mut validation = Validation::new(Algorithm::HS256);
        // Only the signature is checked there: a refusal of ours names the claim.
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let (encoding, decoding) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        let derivation = hkdf::Salt::new(hkdf::HKDF_SHA256, b"uprtc signing key").extract(secret);
        TokenKey { encoding, decoding, validation, derivation }
    }

    /// Bytes for another purpose that follow from the key, and tell nothing of it (RFC 5869).
    pub(super) fn derive<const N: usize>(&self, purpose: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        let filled = self.derivation.expand(purpose, Len(N)).and_then(|bytes| bytes.fill(&mut out));
        filled.expect("what is derived is short: HKDF gives up to 255 hashes");
        out
    }

    /// The key in the state folder, made on the first call with random bytes and mode 0600.
    ///
    /// Two processes that start at once agree on one key: the file appears whole, and only one of them makes it.
    pub fn load_or_create(state: &Path) -> Result<TokenKey, KeyError> {
        let path = state.join(KEY_FILE);
        let file_error = |source| KeyError::File { path: path.clone(), source };
        match read_key(&path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create_key(state, &path).map_err(file_error)?;
                read_key(&path)
            }
            read => read,
        }
    }

    /// The token that says `claims`, or why no server would take it.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        self.sign_as(None, claims)
    }

    pub(super) fn sign_as(&self, kid: Option<&str>, claims: &Claims) -> Result<String, TokenError> {
        claims.check()?;
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|_| TokenError::Malformed)
    }

    /// Checks signature, times and claims of a token, in this order.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_by(token, false)
    }

    /// The same for a token that may have expired.
    pub fn verify_late(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_by(token, true)
    }

    fn verify_by(&self, token: &str, is_late: bool) -> Result<Claims, TokenError> {
        decode_header(token)?;
        let data =
            jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding, &self.validation).map_err(named)?;
        Claims::read(&data.claims, jsonwebtoken::get_current_timestamp(), is_late)
    }
}

/// How much is derived.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// The header of a token, of which nothing is proved yet.
pub(super) fn decode_header(token: &str) -> Result<Header, TokenError> {
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
        // It names no algorithm known at all, such as `none`.
        ErrorKind::Json(error) if error.is_data() => TokenError::Algorithm,
        _ => TokenError::Malformed,
    })?;
    match header.crit {
        Some(_) => Err(TokenError::Critical),
        None => Ok(header),
    }
}

fn named(error: jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

pub(super) fn read_key(path: &Path) -> Result<TokenKey, KeyError> {
    let file_error = |source| KeyError::File { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(file_error)?;
    if file.metadata().map_err(file_error)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).map_err(file_error)?;
    let mut secret = Zeroizing::new([0u8; KEY_LEN]);
    hex::read(text.trim(), &mut *secret).ok_or_else(|| KeyError::NotAKey(path.to_owned()))?;
    Ok(TokenKey::new(&secret))
}

/// Writes a fresh key beside `path` and links it there, which fails if another process was faster: then its key stands.
pub(super) fn create_key(state: &Path, path: &Path) -> io::Result<()> {
    let mut secret = Zeroizing::new([0u8; KEY_LEN]);
    getrandom::fill(&mut *secret).map_err(io::Error::other)?;
    let text = Zeroizing::new(hex::write(&*secret) + "\n");
    let mut suffix = [0u8; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::other)?;
    let draft = state.join(format!("{KEY_FILE}.{}", hex::write(&suffix)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// HS256 on `ring`, the only algorithm that this process can do: confusion of algorithms has nothing to work with.
struct Hs256(hmac::Key);

impl Hs256 {
    fn new(algorithm: &Algorithm, secret: &[u8]) -> Result<Hs256, jsonwebtoken::errors::Error> {
        match algorithm {
            Algorithm::HS256 => Ok(Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret))),
            _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
        }
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, text: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, text).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, text: &[u8], tag: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, text, tag).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Hs256::new(algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Hs256::new(algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// `jsonwebtoken` keeps one provider for each process; this is ours, and there is no other.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| PROVIDER.install_default().expect("no other code of this process uses jsonwebtoken"));
}
