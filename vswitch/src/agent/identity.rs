//! Who is this host, and whom does it believe?
//!
//! A key made here, the certificate that a controller signed for it, and that controller's CA. Nobody else's certificate
//! counts: the CA is pinned, and the controller is known by a fixed name, so that its address may change.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
    pem::{self, PemObject as _},
};
use sha2::{Digest as _, Sha256};

/// The name in every controller's certificate.
pub(crate) const CONTROLLER_NAME: &str = "controller.overweave";
/// HTTP/2, which gRPC speaks.
const ALPN: &[u8] = b"h2";

/// The SHA-256 of a CA's `SubjectPublicKeyInfo`.
pub(crate) type Pin = [u8; 32];

/// Why an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is not three PEM blocks.
    #[error("it does not hold a key, a certificate and a CA in PEM")]
    Shape,
    /// The PEM can't be read.
    #[error("its PEM can't be read: {0}")]
    Pem(pem::Error),
    /// A certificate can't be read.
    #[error("a certificate can't be read: {0}")]
    Certificate(webpki::Error),
    /// The TLS library refuses it.
    #[error("{0}")]
    Tls(rustls::Error),
    /// The controller's name can't be used.
    #[error("the name {CONTROLLER_NAME} is refused")]
    Name,
}

/// What a host keeps after it joined.
#[derive(Clone)]
pub(crate) struct Identity {
    /// PKCS#8; it never leaves the host.
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive() // the key is a secret
    }
}

impl Identity {
    /// From what a join gave.
    ///
    /// # Errors
    /// When key and certificate do not belong together, or the CA can't be read.
    pub(crate) fn new(
        key: Vec<u8>,
        certificate: Vec<u8>,
        ca: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let identity = Self {
            key,
            certificate: certificate.into(),
            ca: ca.into(),
        };
        identity.tls()?;
        identity.pin()?;
        Ok(identity)
    }

    /// From the file in the state dir.
    ///
    /// # Errors
    /// When it is not what [`Identity::to_pem`] wrote.
    pub(crate) fn from_pem(bytes: &[u8]) -> Result<Self, IdentityError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(IdentityError::Pem)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(IdentityError::Pem)?;
        let Ok([certificate, ca]) = <[CertificateDer<'_>; 2]>::try_from(certificates) else {
            return Err(IdentityError::Shape);
        };
        Self::new(
            key.secret_pkcs8_der().to_vec(),
            certificate.to_vec(),
            ca.to_vec(),
        )
    }

    /// Key, certificate and CA, in one file: they change together or not at all.
    pub(crate) fn to_pem(&self) -> String {
        let mut text = String::new();
        block(&mut text, "PRIVATE KEY", &self.key);
        block(&mut text, "CERTIFICATE", &self.certificate);
        block(&mut text, "CERTIFICATE", &self.ca);
        text
    }

    /// Which CA it is of.
    ///
    /// # Errors
    /// When the CA's certificate can't be read.
    pub(crate) fn pin(&self) -> Result<Pin, IdentityError> {
        pin(&self.ca).map_err(IdentityError::Certificate)
    }

    /// How it speaks TLS: it shows its certificate, and believes its CA alone.
    ///
    /// # Errors
    /// When the TLS library refuses a part of it.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).map_err(IdentityError::Tls)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate.clone()], key)
            .map_err(IdentityError::Tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

/// The one crypto provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The TLS of a join: no certificate to show, whoever `verifier` believes.
///
/// # Errors
/// When the TLS library refuses it.
pub(crate) fn anonymous(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The controller's name, for TLS.
///
/// # Errors
/// Never: it is a constant.
pub(crate) fn controller_name() -> Result<ServerName<'static>, IdentityError> {
    ServerName::try_from(CONTROLLER_NAME).or(Err(IdentityError::Name))
}

/// The SHA-256 of a certificate's `SubjectPublicKeyInfo`.
pub(crate) fn pin(certificate: &CertificateDer<'_>) -> Result<Pin, webpki::Error> {
    let read = webpki::EndEntityCert::try_from(certificate)?;
    Ok(Sha256::digest(read.subject_public_key_info()).into())
}

fn block(text: &mut String, label: &str, der: &[u8]) {
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testkit::Authority;

    #[test]
    fn an_identity_survives_its_file() {
        let (identity, ca) = Authority::new().host("h1");
        let read = Identity::from_pem(identity.to_pem().as_bytes()).unwrap();
        assert_eq!(read.to_pem(), identity.to_pem());
        assert_eq!(read.pin().unwrap(), pin(&ca).unwrap());
    }

    #[test]
    fn a_key_and_a_certificate_that_do_not_belong_together_are_refused() {
        let authority = Authority::new();
        let ((one, _), (other, _)) = (authority.host("h1"), authority.host("h2"));
        let mixed = Identity::new(one.key, other.certificate.to_vec(), other.ca.to_vec());
        assert!(matches!(mixed, Err(IdentityError::Tls(_))));
        assert!(matches!(
            Identity::from_pem(b""),
            Err(IdentityError::Pem(_))
        ));
    }

    #[test]
    fn the_key_is_not_printed() {
        let (identity, _) = Authority::new().host("h1");
        assert_eq!(format!("{identity:?}"), "Identity { .. }");
    }
}
