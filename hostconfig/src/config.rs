//! What is the whole of a host?

use std::{collections::BTreeMap, fmt, sync::Arc};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{Generation, Keyed, SectionHash, SectionKey};

/// What one host should be: sections by key, at a generation of one incarnation of the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostConfig {
    /// Fences hosts after a restore: generations of different incarnations do not compare.
    pub incarnation: Uuid,
    /// The store revision that it was compiled from.
    pub generation: Generation,
    /// Shared: an unchanged section is the same allocation in the next config.
    pub sections: BTreeMap<SectionKey, Arc<Keyed>>,
}

/// Over the keys and hashes of all sections: proves that two ends hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Digest {
    /// Of sections with these hashes, in the order of their keys.
    pub fn over(hashes: impl IntoIterator<Item = SectionHash>) -> Self {
        let mut sha = Sha256::new();
        for hash in hashes {
            sha.update(hash.0);
        }
        Self(sha.finalize().into())
    }
}

impl HostConfig {
    /// The digest over all sections; generation and incarnation are not part of it.
    pub fn digest(&self) -> Digest {
        Digest::over(self.sections.values().map(|section| section.hash()))
    }

    /// Puts a section in.
    pub fn insert(&mut self, section: Arc<Keyed>) {
        self.sections.insert(section.key(), section);
    }
}
