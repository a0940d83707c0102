//! Which secrets does a project have?
//!
//! An embedded Barbican: secrets, each with a payload that is sealed by the [`Keyring`], and containers, which name secrets. They are records of the
//! project's own, `secret/PROJECT/ID` and `container/PROJECT/ID` ([ADR 29](../../docs/adr/0029-keys-and-tls.md)).
//!
//! # Invariants
//! - A payload is in the store sealed, for its secret's id, and nowhere else.
//! - One that has expired is as if it were not there.

mod bundle;
mod keyring;

pub use bundle::{Bundles, Unusable};
pub(crate) use keyring::KEY_FILE;
pub use keyring::{Keyring, KeyringError, Sealed, Unopened};

use crate::{
    store::{Read, Record},
    time::Seconds,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of a payload.
pub const LARGEST: usize = 20_000;
/// Secrets of a project, and containers.
pub const MOST: usize = 1_000;
/// Secrets that a container names.
pub const MOST_NAMED: usize = 64;

/// The forms of a payload.
pub const CONTENT_TYPES: &[&str] = &[TEXT, BYTES];
/// Text in UTF-8.
pub const TEXT: &str = "text/plain";
/// Any bytes.
pub const BYTES: &str = "application/octet-stream";

/// What secrets are, by Barbican's words.
pub const SECRET_TYPES: &[&str] = &[
    "symmetric",
    "public",
    "private",
    "passphrase",
    "certificate",
    "opaque",
];

/// A type of container: its word, the names that it must have, and those that it may; `None`: any.
pub type ContainerType = (
    &'static str,
    &'static [&'static str],
    Option<&'static [&'static str]>,
);

/// What containers are, by Barbican's words.
pub const CONTAINER_TYPES: &[ContainerType] = &[
    ("generic", &[], None),
    (
        "rsa",
        &["public_key", "private_key"],
        Some(&["private_key_passphrase"]),
    ),
    (
        CERTIFICATE,
        &["certificate"],
        Some(&["private_key", "private_key_passphrase", "intermediates"]),
    ),
];
/// The type of a certificate with its key.
pub const CERTIFICATE: &str = "certificate";

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its id.
    pub id: Uuid,
    /// What its project calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is.
    pub secret_type: String,
    /// Kept for who asks.
    #[serde(default)]
    pub algorithm: Option<String>,
    /// Kept for who asks.
    #[serde(default)]
    pub bit_length: Option<u32>,
    /// Kept for who asks.
    #[serde(default)]
    pub mode: Option<String>,
    /// From when on it is not there any more.
    #[serde(default)]
    pub expiration: Option<Seconds>,
    /// Who made it.
    pub creator_id: String,
    /// When.
    pub created: Seconds,
    /// When it was given its payload.
    pub updated: Seconds,
    /// The payload's form, and the payload; none while it is only announced.
    #[serde(default)]
    pub payload: Option<(String, Sealed)>,
}

/// Secrets under names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: Uuid,
    /// What its project calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Its type's word.
    pub kind: String,
    /// Who made it.
    pub creator_id: String,
    /// When.
    pub created: Seconds,
    /// The secrets, by what each is in it.
    pub secrets: Vec<(String, Uuid)>,
}

/// Where a secret's payload is sealed for.
pub fn place(id: Uuid) -> String {
    format!("secret/{id}")
}

/// The key of a project's secret.
pub fn secret_key(project: &str, id: Uuid) -> String {
    format!("secret/{project}/{id}")
}

/// The key of a project's container.
pub fn container_key(project: &str, id: Uuid) -> String {
    format!("container/{project}/{id}")
}

/// A project's secret, if it is there and has not expired.
pub fn secret<R: Read>(read: &R, project: &str, id: Uuid, now: Seconds) -> Option<Arc<Secret>> {
    let found = read.get::<Secret>(&secret_key(project, id))?;
    is_there(&found, now).then_some(found)
}

/// A project's container.
pub fn container<R: Read>(read: &R, project: &str, id: Uuid) -> Option<Arc<Container>> {
    read.get(&container_key(project, id))
}

/// Has a secret not expired?
pub fn is_there(secret: &Secret, now: Seconds) -> bool {
    secret.expiration.is_none_or(|end| now < end)
}

/// The id at the end of a reference, as clients name one: whatever the server's name in it, `…/secrets/ID` for the word `secrets`.
pub fn referred(reference: &str, word: &str) -> Option<Uuid> {
    let (path, id) = reference.trim_end_matches('/').rsplit_once('/')?;
    let last = path.rsplit('/').next()?;
    (last == word).then(|| id.parse().ok()).flatten()
}

/// The records of this kind; `None` if it is not one of keys.
pub fn decode(kind: &str, bytes: &[u8]) -> Option<Result<Arc<dyn Record>, serde_json::Error>> {
    fn json<T: Record + serde::de::DeserializeOwned>(
        bytes: &[u8],
    ) -> Result<Arc<dyn Record>, serde_json::Error> {
        serde_json::from_slice::<T>(bytes).map(|value| Arc::new(value) as Arc<dyn Record>)
    }
    match kind {
        "secret" => Some(json::<Secret>(bytes)),
        "container" => Some(json::<Container>(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_what_stands_at_its_end() {
        let id = Uuid::from_u128(7);
        for before in [
            "http://[::1]:9696/key-manager/v1/",
            "https://elsewhere/v1/",
            "/",
        ] {
            let reference = format!("{before}secrets/{id}");
            assert_eq!(referred(&reference, "secrets"), Some(id), "{reference}");
            assert_eq!(referred(&format!("{reference}/"), "secrets"), Some(id));
            assert_eq!(referred(&reference, "containers"), None);
        }
        for none in [
            "",
            "/",
            "secrets",
            &format!("secrets/{id}x"),
            &id.to_string(),
        ] {
            assert_eq!(referred(none, "secrets"), None, "{none}");
        }
    }
}
