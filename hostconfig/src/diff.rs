//! What must change, and in which order?

use std::sync::Arc;

use crate::{HostConfig, Keyed, SectionKey};

/// The way from one config to another: put these in, what others refer to first; then take those out, in reverse.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Sections that are new or changed; what others refer to comes first.
    pub upserts: Vec<Arc<Keyed>>,
    /// Sections that are gone; what refers to others comes first.
    pub removals: Vec<SectionKey>,
}

impl Plan {
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// Applies it.
    pub fn apply(&self, config: &mut HostConfig) {
        for section in &self.upserts {
            config.insert(Arc::clone(section));
        }
        for key in &self.removals {
            config.sections.remove(key);
        }
    }
}

/// What must change to come from `old` to `new`. The order of [`SectionKey`] is the order of reference.
pub fn plan(old: &HostConfig, new: &HostConfig) -> Plan {
    let changed = |s: &&Arc<Keyed>| {
        old.sections
            .get(&s.key())
            .is_none_or(|o| o.hash() != s.hash())
    };
    Plan {
        upserts: new
            .sections
            .values()
            .filter(changed)
            .map(Arc::clone)
            .collect(),
        removals: old
            .sections
            .keys()
            .rev()
            .filter(|k| !new.sections.contains_key(k))
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AddressSet, Section};

    fn config(sets: &std::collections::BTreeMap<u8, u8>) -> HostConfig {
        let mut config = HostConfig::default();
        for (id, member) in sets {
            let prefix = format!("10.0.0.{member}/32").parse().unwrap();
            let set = AddressSet {
                id: uuid::Uuid::from_u128(u128::from(*id)).into(),
                part: None,
                members: [prefix].into(),
            };
            config.insert(Arc::new(Keyed::new(Section::AddressSet(set)).unwrap()));
        }
        config
    }

    proptest! {
        #[test]
        fn applying_the_plan_gives_the_new_config(
            a in prop::collection::btree_map(0u8..8, 0u8..3, 0..8),
            b in prop::collection::btree_map(0u8..8, 0u8..3, 0..8),
        ) {
            let (mut old, new) = (config(&a), config(&b));
            plan(&old, &new).apply(&mut old);
            prop_assert_eq!(old.digest(), new.digest());
            prop_assert!(plan(&old, &new).is_empty());
        }
    }
}
