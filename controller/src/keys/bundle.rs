//! What does a reference of a listener lead to?
//!
//! A secret that is a PKCS #12 bundle without a password, or a container of type `certificate` whose secrets are in PEM: a certificate, those that it follows
//! from, and its key. What comes of it is PEM that a proxy reads.
//!
//! # Attack
//! A bundle says itself how long its password is hashed, up to a million rounds for each of its parts: it is read before a transaction, never in one.

use super::{CERTIFICATE, Keyring, container, place, referred, secret};
use crate::{store::Read, time::Seconds};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hostconfig::Pem;
use p12_keystore::Pkcs12Archive;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use std::{collections::BTreeMap, fmt::Write as _};
use uuid::Uuid;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// Certificates of a bundle.
const CHAIN: usize = 16;

/// Why a reference leads to nothing that a listener can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no such secret or container of the project, or it has no payload.
    #[error("there is none of this project")]
    Missing,
    /// A secret is no bundle.
    #[error(
        "The PKCS12 bundle is unreadable. Please check the PKCS12 bundle validity. In addition, make sure it does not require a pass phrase."
    )]
    Bundle,
    /// A container is of another type.
    #[error("the container is not of type certificate")]
    Container,
    /// There is no certificate.
    #[error("Could not read X509 from PEM")]
    Certificate,
    /// More certificates than anybody needs.
    #[error("more than {CHAIN} certificates")]
    Chain,
    /// There is no key that can be used.
    #[error("there is no key of RSA, ECDSA or Ed25519 in PEM")]
    Key,
    /// The key is encrypted.
    #[error("a key that needs a passphrase can't be used")]
    Passphrase,
    /// The key is another certificate's.
    #[error("Key and x509 certificate do not match")]
    Mismatch,
}

/// What the references of a request lead to, by project and reference.
#[derive(Debug, Clone, Default)]
pub struct Bundles(BTreeMap<(String, String), Result<Pem, Unusable>>);

impl Bundles {
    /// Reads what each of these leads to.
    pub fn read<R: Read>(
        read: &R,
        keyring: &Keyring,
        named: impl IntoIterator<Item = (String, String)>,
        now: Seconds,
    ) -> Self {
        let read = named.into_iter().map(|(project, reference)| {
            let found = self::read(read, (keyring, now), &project, &reference);
            ((project, reference), found)
        });
        Self(read.collect())
    }

    /// What a reference leads to in a project.
    ///
    /// # Errors
    /// When it can't be used.
    pub fn of(&self, project: &str, reference: &str) -> Result<&Pem, Unusable> {
        let found = self.0.get(&(project.to_owned(), reference.to_owned()));
        found.ok_or(Unusable::Missing)?.as_ref().map_err(|why| *why)
    }
}

type Chain = Vec<CertificateDer<'static>>;

fn read<R: Read>(
    read: &R,
    (keyring, now): (&Keyring, Seconds),
    project: &str,
    reference: &str,
) -> Result<Pem, Unusable> {
    let payload = |id: Uuid| -> Result<Vec<u8>, Unusable> {
        let found = secret(read, project, id, now).ok_or(Unusable::Missing)?;
        let (_, sealed) = found.payload.as_ref().ok_or(Unusable::Missing)?;
        let opened = keyring.unseal(&place(id), sealed);
        opened.ok().ok_or(Unusable::Missing)
    };
    if let Some(id) = referred(reference, "secrets") {
        let (chain, keys) = unpacked(&payload(id)?)?;
        return joined(chain, keys);
    }
    let id = referred(reference, "containers").ok_or(Unusable::Missing)?;
    let container = container(read, project, id).ok_or(Unusable::Missing)?;
    if container.kind != CERTIFICATE {
        return Err(Unusable::Container);
    }
    let part = |name: &str| {
        let part = container.secrets.iter().find(|(known, _)| known == name);
        part.map(|(_, id)| payload(*id)).transpose()
    };
    if part("private_key_passphrase")?.is_some() {
        return Err(Unusable::Passphrase);
    }
    let mut chain = certificates(&part("certificate")?.ok_or(Unusable::Certificate)?)?;
    if let Some(more) = part("intermediates")? {
        chain.extend(certificates(&more)?);
    }
    let key = part("private_key")?.ok_or(Unusable::Key)?;
    if key.windows(ENCRYPTED.len()).any(|text| text == ENCRYPTED) {
        return Err(Unusable::Passphrase);
    }
    let key = PrivateKeyDer::from_pem_slice(&key);
    joined(chain, vec![key.ok().ok_or(Unusable::Key)?])
}

/// What stands before a key that needs a passphrase.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

fn certificates(pem: &[u8]) -> Result<Chain, Unusable> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Chain, _>>();
    let read = read.ok().filter(|chain| !chain.is_empty());
    read.ok_or(Unusable::Certificate)
}

/// What a bundle holds.
fn unpacked(bytes: &[u8]) -> Result<(Chain, Vec<PrivateKeyDer<'static>>), Unusable> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, "");
    let archive = archive.ok().ok_or(Unusable::Bundle)?;
    let chain = archive.certs.iter();
    let chain = chain.map(|bag| CertificateDer::from(bag.cert.as_der().to_vec()));
    let keys = archive.keys.iter();
    let keys = keys.map(|bag| PrivatePkcs8KeyDer::from(bag.key.as_der().to_vec()).into());
    Ok((chain.collect(), keys.collect()))
}

/// A certificate with its key first, the others behind, and the key.
fn joined(mut chain: Chain, keys: Vec<PrivateKeyDer<'static>>) -> Result<Pem, Unusable> {
    if chain.is_empty() {
        return Err(Unusable::Certificate);
    }
    if chain.len() > CHAIN {
        return Err(Unusable::Chain);
    }
    let Ok([key]) = <[_; 1]>::try_from(keys) else {
        return Err(Unusable::Key);
    };
    let own = any_supported_type(&key).ok();
    let own = own.and_then(|own| own.public_key().map(|public| public.to_vec()));
    let own = own.ok_or(Unusable::Key)?;
    let mut is_its = None;
    for (at, certificate) in chain.iter().enumerate() {
        let read = X509Certificate::from_der(certificate);
        let (_, read) = read.ok().ok_or(Unusable::Certificate)?;
        if is_its.is_none() && read.public_key().raw == own {
            is_its = Some(at);
        }
    }
    let leaf = chain.remove(is_its.ok_or(Unusable::Mismatch)?);
    chain.insert(0, leaf);
    let mut text = String::new();
    for certificate in &chain {
        armour(&mut text, "CERTIFICATE", certificate);
    }
    let label = if let PrivateKeyDer::Pkcs1(_) = &key {
        "RSA PRIVATE KEY"
    } else if let PrivateKeyDer::Sec1(_) = &key {
        "EC PRIVATE KEY"
    } else {
        "PRIVATE KEY"
    };
    armour(&mut text, label, key.secret_der());
    Ok(Pem::new(text))
}

/// Writes bytes as RFC 7468 has them.
fn armour(out: &mut String, label: &str, bytes: &[u8]) {
    let text = BASE64.encode(bytes);
    let mut write = |line: &str| {
        if writeln!(out, "{line}").is_err() {
            unreachable!("a text takes all that is written")
        }
    };
    write(&format!("-----BEGIN {label}-----"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        write(line);
        rest = more;
    }
    write(&format!("-----END {label}-----"));
}
