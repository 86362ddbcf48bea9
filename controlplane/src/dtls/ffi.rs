//! The cage: the seven calls to BoringSSL that the `boring` crate has no safe form of.
//!
//! Three are the retransmission timer, which a sans-IO user must drive by itself (a socket-based one never sees
//! it); one gives BoringSSL the caller's clock in place of the system's; one bounds what an unauthenticated peer can
//! make it allocate, and two what a connection keeps when its handshake is done. Each is a plain call on a pointer that
//! `boring` owns and lends; nothing is kept.
#![allow(unsafe_code)] // DTLSv1_* and these settings exist only in boring-sys.

use std::cell::Cell;
use std::time::Duration;

use boring::error::ErrorStack;
use boring::ssl::{SslContextBuilder, SslRef};
use foreign_types::ForeignTypeRef;

thread_local! {
    /// What BoringSSL takes for the time of day while it works on a connection: that connection's age.
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Sets the time that BoringSSL sees on this thread until the next call. Every entry into a connection sets it
/// first, so connections with different epochs share a thread without meeting.
pub(super) fn set_clock(age: Duration) {
    CLOCK.set(age);
}

/// The callback for [`use_clock`].
unsafe extern "C" fn read_clock(_ssl: *const boring_sys::SSL, out: *mut boring_sys::timeval) {
    // `try_with`, because a panic must not unwind into C: while the thread is torn down the clock stands at zero.
    let age = CLOCK.try_with(Cell::get).unwrap_or_default();
    // SAFETY: BoringSSL passes a pointer to a timeval on its own stack, valid for this call (ssl_lib.cc,
    // ssl_ctx_get_current_time); the write initialises it whole.
    unsafe {
        out.write(boring_sys::timeval {
            tv_sec: age.as_secs().try_into().unwrap_or(i64::MAX),
            tv_usec: age.subsec_micros().into(),
        });
    }
}

/// Makes connections of this context live on [`set_clock`] time.
pub(super) fn use_clock(context: &mut SslContextBuilder) {
    // SAFETY: the builder owns a live SSL_CTX, and the callback is a plain function that outlives it.
    unsafe { boring_sys::SSL_CTX_set_current_time_cb(context.as_ptr(), Some(read_clock)) }
}

/// Bounds the certificate message, and so the buffer that one fragment header of it makes BoringSSL reserve, bytes.
/// BoringSSL never goes below its bound for other messages, 16 KiB.
pub(super) fn set_certificate_len_max(context: &mut SslContextBuilder, len: usize) {
    // SAFETY: the builder owns a live SSL_CTX; the call stores a number.
    unsafe { boring_sys::SSL_CTX_set_max_cert_list(context.as_ptr(), len) }
}

/// Sets the first retransmission timeout; each further one of the same flight doubles it (RFC 6347 §4.2.4.1).
pub(super) fn set_initial_timeout(ssl: &mut SslRef, timeout: Duration) {
    let timeout_ms = timeout.as_millis().try_into().unwrap_or(u32::MAX);
    // SAFETY: the reference proves a live SSL, borrowed uniquely.
    unsafe { boring_sys::DTLSv1_set_initial_timeout_duration(ssl.as_ptr(), timeout_ms) }
}

/// Makes a connection forget, once its handshake is done, how it was configured and, as server, the peer's certificate:
/// 4 KiB of the 11 that it would hold for the hours of a call.
pub(super) fn forget_after_handshake(ssl: &mut SslRef) {
    // SAFETY: the reference proves a live SSL, borrowed uniquely; each call stores a flag.
    unsafe {
        boring_sys::SSL_set_shed_handshake_config(ssl.as_ptr(), 1);
        boring_sys::SSL_set_retain_only_sha256_of_client_certs(ssl.as_ptr(), 1);
    }
}

/// How long until [`handle_timeout`] has something to do, counted from the clock; `None` while no timer runs.
pub(super) fn timeout(ssl: &SslRef) -> Option<Duration> {
    let mut left = boring_sys::timeval { tv_sec: 0, tv_usec: 0 };
    // SAFETY: the reference proves a live SSL; `left` is valid for the write and not kept.
    let is_set = unsafe { boring_sys::DTLSv1_get_timeout(ssl.as_ptr(), &mut left) };
    // BoringSSL gives 0 <= tv_usec < 1,000,000 and no negative seconds; out of that range means "now".
    let secs = u64::try_from(left.tv_sec).unwrap_or(0);
    let micros = u64::try_from(left.tv_usec).unwrap_or(0);
    (is_set == 1).then(|| Duration::from_secs(secs) + Duration::from_micros(micros))
}

/// Sends again what the expired timers say: the last flight, or ACKs (RFC 9147 §7.1). Nothing if none has expired.
pub(super) fn handle_timeout(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    // SAFETY: the reference proves a live SSL, borrowed uniquely. The call writes through the BIO that `boring`
    // installed, whose stream is ours and is not otherwise borrowed while `ssl` is.
    let result = unsafe { boring_sys::DTLSv1_handle_timeout(ssl.as_ptr()) };
    if result < 0 { Err(ErrorStack::get()) } else { Ok(()) }
}
