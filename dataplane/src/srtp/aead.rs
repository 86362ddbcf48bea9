//! The cage: two calls to BoringSSL whose safe forms in `boring` ask for an exclusive borrow of a key that nothing changes,
//! and make an allocated error of each forged packet.
#![allow(unsafe_code)] // See above; BoringSSL allows both calls at any time, even concurrently (aead.h).

use boring::aead::{AeadCtx, Algorithm};
use foreign_types::ForeignType;

use super::AuthError;

pub(super) const NONCE_LEN: usize = 12;
/// RFC 7714 §13: the tag is never shortened.
pub(super) const TAG_LEN: usize = 16;

/// A scheduled key of AES-GCM. BoringSSL erases it when it is dropped.
pub(super) struct Aead(AeadCtx);

impl Aead {
    /// Schedules the start of `key`, as long as `algorithm` has it.
    pub(super) fn new(algorithm: &Algorithm, key: &[u8]) -> Aead {
        assert_eq!((algorithm.nonce_len(), algorithm.max_tag_len()), (NONCE_LEN, TAG_LEN), "it is AES-GCM");
        let context = AeadCtx::new(algorithm, &key[..algorithm.key_length()], TAG_LEN);
        Aead(context.expect("the key is cut to the algorithm's length"))
    }

    /// Encrypts `text` in place, and `rest`, which goes on where it ends, into the start of `out`; then comes the tag, which
    /// covers `associated` too. The length of what was written to `out`.
    ///
    /// # Panics
    /// If `out` is shorter than `rest` and the tag.
    #[inline]
    pub(super) fn encrypt(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: &mut [u8],
        rest: &[u8],
        out: &mut [u8],
    ) -> usize {
        let len = rest.len() + TAG_LEN;
        let out = &mut out[..len];
        let mut written = 0;
        // SAFETY: each pointer comes with the length of the live slice that it is of. `text` is both input and output, which
        // may be the same; `out` is borrowed exclusively, so it overlaps none of the others.
        let is_encrypted = unsafe {
            boring_sys::EVP_AEAD_CTX_seal_scatter(
                self.0.as_ptr(),
                text.as_mut_ptr(),
                out.as_mut_ptr(),
                &mut written,
                out.len(),
                nonce.as_ptr(),
                nonce.len(),
                text.as_ptr(),
                text.len(),
                rest.as_ptr(),
                rest.len(),
                associated.as_ptr(),
                associated.len(),
            )
        };
        assert!(
            is_encrypted == 1 && written == len,
            "there is room, and a datagram is shorter than GCM's limit of 64 GiB"
        );
        len
    }

    /// Authenticates, then decrypts `text` in place. After an error its contents are unspecified.
    #[inline]
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), AuthError> {
        // SAFETY: as in `encrypt`.
        let is_authentic = unsafe {
            boring_sys::EVP_AEAD_CTX_open_gather(
                self.0.as_ptr(),
                text.as_mut_ptr(),
                nonce.as_ptr(),
                nonce.len(),
                text.as_ptr(),
                text.len(),
                tag.as_ptr(),
                tag.len(),
                associated.as_ptr(),
                associated.len(),
            )
        };
        if is_authentic == 1 {
            return Ok(());
        }
        // SAFETY: it has no arguments. The thread's queue of errors holds what was just refused, and keeps its memory.
        unsafe { boring_sys::ERR_clear_error() };
        Err(AuthError)
    }
}
