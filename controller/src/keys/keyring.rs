//! How are secrets kept from whoever reads the store?
//!
//! Sealed with one key, which is in no store but in a file of its own beside it. What is sealed is so for one place, and does not open for another.
//!
//! # Attack
//! Rules may run again with the same dice and other values, so the same nonce may seal two texts. AES-256-GCM-SIV bears that (RFC 8452): who sees both
//! learns whether they are equal, and no more.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};

use crate::private;

/// The key's file in a data dir.
pub(crate) const KEY_FILE: &str = "secrets.key";
/// Bytes of a key.
const KEY: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file can't be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has something else.
    #[error("not a key of {KEY} bytes in base64: {0}")]
    NoKey(PathBuf),
    /// The store has secrets, and the file is not there.
    #[error("the store has secrets, and their key is gone: {0}")]
    Lost(PathBuf),
}

/// What was sealed with another key, for another place, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not open with this controller's key")]
pub struct Unopened;

/// A sealed text: the nonce and what AES-256-GCM-SIV made of it, in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// The key that secrets are sealed with.
pub struct Keyring(LessSafeKey);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    /// The keyring of this key.
    pub fn of(key: &[u8; KEY]) -> Self {
        match UnboundKey::new(&AES_256_GCM_SIV, key) {
            Ok(key) => Self(LessSafeKey::new(key)),
            Err(_) => unreachable!("the key has the algorithm's length"),
        }
    }

    /// Reads the key of a data dir, or makes one there if nothing is sealed yet.
    ///
    /// # Errors
    /// When the file can't be used, or is gone while the store has secrets.
    pub fn open(data_dir: &Path, is_used: bool) -> Result<Self, KeyringError> {
        let path = data_dir.join(KEY_FILE);
        let failed = |source| KeyringError::File {
            path: path.clone(),
            source,
        };
        let mut key = [0; KEY];
        match fs::read_to_string(&path) {
            Ok(text) => {
                let read = BASE64.decode(text.trim());
                let read = read.ok().and_then(|read| <[u8; KEY]>::try_from(read).ok());
                key = read.ok_or_else(|| KeyringError::NoKey(path.clone()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_used => {
                return Err(KeyringError::Lost(path));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rand::rng().fill_bytes(&mut key);
                private::write(&path, &(BASE64.encode(key) + "\n")).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Self::of(&key))
    }

    /// Seals bytes for one place.
    pub fn seal(&self, place: &str, nonce: [u8; NONCE_LEN], bytes: &[u8]) -> Sealed {
        let mut text = bytes.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .0
            .seal_in_place_append_tag(nonce_of, Aad::from(place), &mut text);
        if sealed.is_err() {
            unreachable!("a text of some kilobytes is no longer than the algorithm takes")
        }
        let mut whole = nonce.to_vec();
        whole.append(&mut text);
        Sealed(BASE64.encode(whole))
    }

    /// The bytes that were sealed for this place.
    ///
    /// # Errors
    /// When they were not, or not with this key.
    pub fn unseal(&self, place: &str, sealed: &Sealed) -> Result<Vec<u8>, Unopened> {
        let whole = BASE64.decode(&sealed.0).ok().ok_or(Unopened)?;
        let (nonce, text) = whole.split_first_chunk::<NONCE_LEN>().ok_or(Unopened)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut text);
        let length = opened.ok().ok_or(Unopened)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_for_its_place_and_unchanged() {
        let ring = Keyring::of(&[7; KEY]);
        let sealed = ring.seal("secret/1", [1; NONCE_LEN], b"very secret");
        assert_eq!(ring.unseal("secret/1", &sealed).unwrap(), b"very secret");
        assert_eq!(ring.unseal("secret/2", &sealed), Err(Unopened));
        assert_eq!(
            Keyring::of(&[8; KEY]).unseal("secret/1", &sealed),
            Err(Unopened)
        );
        let mut bytes = BASE64.decode(&sealed.0).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let changed = Sealed(BASE64.encode(&bytes));
            assert_eq!(ring.unseal("secret/1", &changed), Err(Unopened), "{at}");
            bytes[at] ^= 1;
        }
        for short in ["", "AAAA", "not base64!"] {
            let short = Sealed(short.to_owned());
            assert_eq!(ring.unseal("secret/1", &short), Err(Unopened));
        }
        assert_eq!(format!("{sealed:?} {ring:?}"), "Sealed Keyring");
    }

    #[test]
    fn the_key_is_made_once_its_owners_alone_and_never_anew_for_what_is_sealed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("ow-keyring-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).unwrap();
        let sealed = Keyring::open(&dir, false)
            .unwrap()
            .seal("x", [0; NONCE_LEN], b"y");
        let path = dir.join(KEY_FILE);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = Keyring::open(&dir, true).unwrap();
        assert_eq!(again.unseal("x", &sealed).unwrap(), b"y");
        fs::write(&path, "no key").unwrap();
        assert!(matches!(
            Keyring::open(&dir, true),
            Err(KeyringError::NoKey(_))
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            Keyring::open(&dir, true),
            Err(KeyringError::Lost(_))
        ));
        assert!(!path.exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
