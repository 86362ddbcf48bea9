//! What can go wrong, and whose fault it is.

use boring::error::ErrorStack;
use boring::ssl;

/// Why an identity could not be made, or why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DtlsError {
    /// Ours: BoringSSL refused something that does not depend on the peer, such as a key that does not fit its
    /// certificate.
    #[error("BoringSSL cannot {action}: {reason}")]
    Setup {
        /// What was tried.
        action: &'static str,
        /// What BoringSSL said.
        reason: String,
    },
    /// The peer's: it sent no certificate (RFC 5763 §5 asks both sides for one).
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The peer's: it offered none of our SRTP protection profiles (RFC 5764 §4.1.1), or no `use_srtp` at all.
    #[error("the peer supports none of our SRTP protection profiles")]
    NoSrtpProfile,
    /// The peer ended the connection by a fatal alert (RFC 8446 §6.2); the name is BoringSSL's.
    #[error("the peer refused by the DTLS alert {0}")]
    Alert(String),
    /// The peer broke the protocol, or shares no version, cipher or group with us; the name is BoringSSL's.
    #[error("DTLS with the peer failed: {0}")]
    Protocol(String),
}

impl DtlsError {
    /// For `map_err` on calls that do not depend on the peer.
    pub(super) fn setup(action: &'static str) -> impl FnOnce(ErrorStack) -> DtlsError {
        move |stack| DtlsError::Setup { action, reason: first_reason(&stack) }
    }

    /// From a failure of BoringSSL while it worked on the peer's datagrams.
    pub(super) fn from_stack(stack: &ErrorStack) -> DtlsError {
        let reason = first_reason(stack);
        match reason.as_str() {
            "PEER_DID_NOT_RETURN_A_CERTIFICATE" => DtlsError::NoCertificate,
            alert if alert.starts_with("SSLV3_ALERT_") || alert.starts_with("TLSV1_ALERT_") => DtlsError::Alert(reason),
            _ => DtlsError::Protocol(reason),
        }
    }

    /// The same from `boring`'s wrapper of it.
    pub(super) fn from_ssl(error: &ssl::Error) -> DtlsError {
        match error.ssl_error() {
            Some(stack) => Self::from_stack(stack),
            None => DtlsError::Protocol(error.to_string()),
        }
    }
}

/// The innermost reason of a BoringSSL error stack, which is the first that was pushed.
fn first_reason(stack: &ErrorStack) -> String {
    let reason = stack.errors().first().and_then(|error| error.reason());
    reason.unwrap_or("unknown reason").to_owned()
}
