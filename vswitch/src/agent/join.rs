//! How does a host come to be believed?
//!
//! With a token, once: `ow1.<SHA-256 of the CA's public key>.<secret>`, both in base64url. The first half lets the host
//! believe the controller before it has its CA; the second lets the controller believe the host. The host's key is made
//! here and stays here: only a request to sign it goes out.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hostconfig::wire;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tonic::Code;

use super::{
    identity::{self, Identity, IdentityError, Pin},
    link::{self, LinkError},
};
use crate::config::ControllerUrl;

const PREFIX: &str = "ow1";

/// A join token: good for one host, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pin: Pin,
    secret: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").finish_non_exhaustive() // the secret is one
    }
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token (ow1.HASH.SECRET); `overweave host add NAME` prints one")]
pub struct InvalidToken;

impl FromStr for JoinToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(hash), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken);
        };
        let bytes =
            |part: &str| -> Option<[u8; 32]> { URL_SAFE_NO_PAD.decode(part).ok()?.try_into().ok() };
        let pin = bytes(hash).ok_or(InvalidToken)?;
        bytes(secret).ok_or(InvalidToken)?;
        Ok(Self {
            pin,
            secret: secret.to_owned(),
        })
    }
}

impl JoinToken {
    /// The CA that it is of.
    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }
}

/// Why a host did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No controller answers there; it may yet.
    #[error("no controller answers at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        #[source]
        source: LinkError,
    },
    /// Another controller answers there.
    #[error(
        "the controller at {url} is not the one that the join token is of; take a token from that controller (`overweave host add NAME`), or give its address"
    )]
    WrongController {
        /// Where.
        url: String,
    },
    /// The token is used, expired, or of another host.
    #[error(
        "the controller refused the join token ({why}); print a new one with `overweave host add {host}`"
    )]
    Refused {
        /// What the controller said.
        why: String,
        /// For which host.
        host: String,
    },
    /// The controller answered something else.
    #[error("the controller could not take the join: {0}")]
    Answer(String),
    /// What it signed can't be used.
    #[error("the certificate that the controller gave can't be used")]
    Identity(#[from] IdentityError),
    /// The key or the request could not be made.
    #[error("could not make a key")]
    Key(#[from] rcgen::Error),
}

impl JoinError {
    /// Could the same attempt succeed later?
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Joins: one attempt.
///
/// # Errors
/// When no controller answers, it is another one, or it refuses.
pub(crate) async fn join(
    controller: &ControllerUrl,
    host: &str,
    token: &JoinToken,
) -> Result<Identity, JoinError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, host);
    let csr = params.serialize_request(&key)?;

    let verifier = Arc::new(Pinned::new(token.pin));
    let tls = identity::anonymous(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)?;
    let channel = match link::channel(controller, tls).await {
        Ok(channel) => channel,
        Err(_) if verifier.refused() => {
            return Err(JoinError::WrongController {
                url: controller.to_string(),
            });
        }
        Err(source) => {
            return Err(JoinError::Unreachable {
                url: controller.to_string(),
                source,
            });
        }
    };
    let request = wire::JoinRequest {
        host: host.to_owned(),
        token: token.secret.clone(),
        csr_der: csr.der().to_vec(),
    };
    let reply = link::join(channel, request).await.map_err(|status| {
        let why = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists => JoinError::Refused {
                why,
                host: host.to_owned(),
            },
            Code::Unavailable | Code::DeadlineExceeded => JoinError::Unreachable {
                url: controller.to_string(),
                source: LinkError::Status(status),
            },
            code @ (Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss) => JoinError::Answer(format!("{code:?}: {why}")),
        }
    })?;
    let identity = Identity::new(key.serialize_der(), reply.certificate_der, reply.ca_der)?;
    if identity.pin()? != token.pin {
        return Err(JoinError::WrongController {
            url: controller.to_string(),
        });
    }
    Ok(identity)
}

/// Believes only a chain under the CA with this public key, for the controller's name. The controller sends its CA with
/// its chain: before a join a host has no other way to know it.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    /// For a clear error: the TLS library's own is far from its cause.
    refusal: Mutex<bool>,
}

impl Pinned {
    fn new(pin: Pin) -> Self {
        Self {
            pin,
            provider: identity::provider(),
            refusal: Mutex::new(false),
        }
    }

    fn refused(&self) -> bool {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |c: &&CertificateDer<'_>| identity::pin(c).is_ok_and(|pin| pin == self.pin);
        let ca = intermediates.iter().find(pinned);
        let ca = ca.ok_or(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer,
        ))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.judge(end_entity, intermediates, server_name, ocsp_response, now);
        if judged.is_err() {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testkit::Authority;

    fn token(pin: Pin) -> JoinToken {
        let text = format!(
            "ow1.{}.{}",
            URL_SAFE_NO_PAD.encode(pin),
            URL_SAFE_NO_PAD.encode([7; 32])
        );
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_two_times_32_bytes() {
        assert_eq!(token([3; 32]).pin(), [3; 32]);
        let short = URL_SAFE_NO_PAD.encode([7; 31]);
        let full = URL_SAFE_NO_PAD.encode([7; 32]);
        for bad in [
            String::new(),
            format!("ow2.{full}.{full}"),
            format!("ow1.{full}"),
            format!("ow1.{short}.{full}"),
            format!("ow1.{full}.{short}"),
            format!("ow1.{full}.{full}.x"),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidToken), "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", token([3; 32])), "JoinToken { .. }");
    }

    #[test]
    fn only_the_pinned_ca_is_believed_and_only_under_its_name() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let name = identity::controller_name().unwrap();
        let pinned = Pinned::new(identity::pin(ours.ca()).unwrap());
        let judge = |authority: &Authority, dns: &str, ca: &Authority| {
            let (leaf, _) = authority.controller(dns);
            pinned.verify_server_cert(&leaf, &[ca.ca().clone()], &name, &[], UnixTime::now())
        };
        judge(&ours, "controller.overweave", &ours).unwrap();
        assert!(!pinned.refused());
        judge(&theirs, "controller.overweave", &theirs).unwrap_err();
        // Another's certificate with our CA beside it, and our certificate of another name.
        judge(&theirs, "controller.overweave", &ours).unwrap_err();
        judge(&ours, "elsewhere.overweave", &ours).unwrap_err();
        assert!(pinned.refused());
    }
}
