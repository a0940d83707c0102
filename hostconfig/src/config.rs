//! What is the whole of a host?

use std::{collections::BTreeMap, fmt, sync::Arc};

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

/// Over the hashes of all sections, which are over key and body: proves that two ends hold the same.
///
/// Two sums of 128 bits: of the hashes, and of their squares. So it follows a section that comes or goes at the cost of that section, however
/// many there are. Both ends are ours: it finds what was lost, not who would forge (that is TLS's).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Default for Digest {
    /// Of no sections.
    fn default() -> Self {
        Self([0; 32])
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Digest {
    /// Of sections with these hashes, in any order.
    pub fn over(hashes: impl IntoIterator<Item = SectionHash>) -> Self {
        let mut digest = Self::default();
        for hash in hashes {
            digest.add(hash);
        }
        digest
    }

    /// A section with this hash came.
    pub fn add(&mut self, hash: SectionHash) {
        self.combine(hash, u128::wrapping_add);
    }

    /// A section with this hash went.
    pub fn take(&mut self, hash: SectionHash) {
        self.combine(hash, u128::wrapping_sub);
    }

    fn combine(&mut self, hash: SectionHash, with: fn(u128, u128) -> u128) {
        let hash = u128::from_be_bytes(hash.0);
        let (sums, _) = self.0.as_chunks_mut::<16>();
        for (sum, power) in sums.iter_mut().zip([hash, hash.wrapping_mul(hash)]) {
            *sum = with(u128::from_be_bytes(*sum), power).to_be_bytes();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_digest_follows_what_comes_and_goes(
            steps in proptest::collection::vec((any::<bool>(), 1_u8..24), 0..80),
        ) {
            let of = |n: u8| SectionHash([n; 16]);
            let mut held = std::collections::BTreeSet::new();
            let mut digest = Digest::default();
            for (comes, n) in steps {
                if comes && held.insert(n) {
                    digest.add(of(n));
                }
                if !comes && held.remove(&n) {
                    digest.take(of(n));
                }
                prop_assert_eq!(digest, Digest::over(held.iter().map(|n| of(*n))));
                prop_assert_eq!(digest == Digest::default(), held.is_empty());
            }
        }
    }

    #[test]
    fn sections_that_trade_places_have_another_digest_than_one_that_is_there_twice() {
        let (one, two) = (SectionHash([1; 16]), SectionHash([2; 16]));
        let all = [
            Digest::over([one]),
            Digest::over([one, one]),
            Digest::over([one, two]),
        ];
        assert_eq!(Digest::over([one, two]), Digest::over([two, one]));
        for (at, digest) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == digest), Some(at));
        }
    }
}
