//! Who is a host, and who is the controller?
//!
//! A CA of the controller's own, made at the first start, signs a certificate for each host that joins
//! and, at each start, one for the controller's fixed name. Hosts know the CA by the hash of its public
//! key, which is in the join token: so they need no other trust, and no address is ever part of it.
//!
//! # Invariants
//! - A host's certificate counts only while the host's record in the store names its fingerprint:
//!   deleting the host, or joining anew, ends the old one. Expiry is not what it is revoked by.
//! - The CA's key is readable by the controller's user alone. If the certificate is lost it is made
//!   again from the key: the pin stays.
//!
//! # Attack
//! Of a request for a certificate only the public key is taken, and its proof of possession; names,
//! usages and extensions are this file's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use crate::private;

/// The name that hosts expect, whatever the address.
pub const CONTROLLER_NAME: &str = "controller.overweave";
/// What follows a host's name in its certificate.
const HOST_SUFFIX: &str = ".host.overweave";
const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.pem";

/// Why there is no CA, or it did not sign.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file can't be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key or certificate can't be made or read.
    #[error("cannot make or read a key or certificate")]
    Certificate(#[from] rcgen::Error),
    /// The CA's certificate is not that of its key.
    #[error("the certificate is not that of {KEY_FILE}, move it away: {0}")]
    Mismatch(PathBuf),
    /// TLS can't be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The check of client certificates can't be set up.
    #[error("cannot set up the check of host certificates")]
    Verifier(#[from] VerifierBuilderError),
}

/// The controller's CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("pin", &self.pin())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the CA of a data dir, or makes it there.
    ///
    /// # Errors
    /// When a file is in the way, or holds something else.
    pub fn open(data_dir: &Path) -> Result<Self, PkiError> {
        let key_path = data_dir.join(KEY_FILE);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::File { path, source }
        };
        let key = match fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(data_dir).map_err(failed(data_dir))?;
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                private::write(&key_path, &key.serialize_pem()).map_err(failed(&key_path))?;
                key
            }
            Err(error) => return Err(failed(&key_path)(error)),
        };
        let path = data_dir.join(CERTIFICATE_FILE);
        let certificate = match fs::read(&path) {
            Ok(pem) => {
                use rustls_pki_types::pem::PemObject as _;
                let read = CertificateDer::from_pem_slice(&pem);
                read.or(Err(PkiError::Mismatch(path.clone())))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let certificate = ca_params().self_signed(&key)?;
                private::write(&path, &certificate.pem()).map_err(failed(&path))?;
                certificate.der().clone()
            }
            Err(error) => return Err(failed(&path)(error)),
        };
        Self::new(certificate, key, path)
    }

    fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        path: PathBuf,
    ) -> Result<Self, PkiError> {
        let ours = x509_parser::certificate::X509Certificate::from_der(&certificate)
            .is_ok_and(|(_, read)| read.public_key().raw == key.subject_public_key_info());
        if !ours {
            return Err(PkiError::Mismatch(path));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// The hash of the CA's public key, as join tokens name it.
    pub fn pin(&self) -> String {
        let spki = self.issuer.key().subject_public_key_info();
        URL_SAFE_NO_PAD.encode(Sha256::digest(spki))
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs a host's key.
    ///
    /// # Errors
    /// When the request can't be read, or does not prove that its sender has the key.
    pub fn sign_host(&self, host: &str, csr: &[u8]) -> Result<CertificateDer<'static>, PkiError> {
        let csr = CertificateSigningRequestDer::from(csr);
        let asked = CertificateSigningRequestParams::from_der(&csr)?;
        let params = leaf_params(
            host,
            &format!("{host}{HOST_SUFFIX}"),
            ExtendedKeyUsagePurpose::ClientAuth,
        )?;
        let signed = params.signed_by(&asked.public_key, &self.issuer)?;
        Ok(signed.der().clone())
    }

    /// TLS for the hosts' listener: the controller's name under this CA; a client may show a
    /// certificate of this CA, and no other.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn server_config(&self) -> Result<ServerConfig, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf_params(
            CONTROLLER_NAME,
            CONTROLLER_NAME,
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        let own = params.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = provider();
        let hosts =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // With the CA's own certificate: a host that joins finds by it the key that its token names.
        let chain = vec![own.der().clone(), self.certificate.clone()];
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(hosts)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "overweave CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params
}

fn leaf_params(
    name: &str,
    dns: &str,
    usage: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(vec![dns.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    Ok(params)
}

/// 127 random bits, positive as RFC 5280 §4.1.2.2 wants it.
fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[0] &= 0x7f;
    SerialNumber::from(bytes.to_vec())
}

/// By what a host's record names a certificate.
pub fn fingerprint(certificate: &[u8]) -> String {
    format!("{:x}", Sha256::digest(certificate))
}

/// The host that a certificate of this CA was given to.
pub fn host_of(certificate: &[u8]) -> Option<String> {
    let (_, read) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = read.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::DNSName(name) = name else {
            return None;
        };
        name.strip_suffix(HOST_SUFFIX).map(ToOwned::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn data_dir() -> PathBuf {
        std::env::temp_dir().join(format!("ow-pki-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn the_ca_is_the_same_after_a_restart_and_its_key_is_private() {
        let dir = data_dir();
        let first = Authority::open(&dir).unwrap();
        let again = Authority::open(&dir).unwrap();
        assert_eq!(first.pin(), again.pin());
        assert_eq!(first.certificate(), again.certificate());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(dir.join(KEY_FILE)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(dir.join(CERTIFICATE_FILE)).unwrap();
        assert_eq!(Authority::open(&dir).unwrap().pin(), first.pin());
        fs::remove_file(dir.join(KEY_FILE)).unwrap();
        assert!(matches!(Authority::open(&dir), Err(PkiError::Mismatch(_))));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_host_gets_its_own_name_whatever_it_asks_for() {
        let dir = data_dir();
        let authority = Authority::open(&dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = authority.sign_host("rack-1.h_7", &csr(&key)).unwrap();
        assert_eq!(host_of(&certificate).as_deref(), Some("rack-1.h_7"));
        let (_, read) = x509_parser::certificate::X509Certificate::from_der(&certificate).unwrap();
        assert_eq!(read.public_key().raw, key.subject_public_key_info());
        let usage = read.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(!read.is_ca());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_request_without_proof_of_the_key_is_refused() {
        let dir = data_dir();
        let authority = Authority::open(&dir).unwrap();
        let mut forged = csr(&KeyPair::generate().unwrap());
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(authority.sign_host("h1", &forged).is_err());
        assert!(authority.sign_host("h1", b"nonsense").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
