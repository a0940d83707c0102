//! How do API ids become indices?

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

/// How many places must be free before one is used again: whoever still holds the old index for a moment finds nothing there.
const REST: usize = 64;

/// Values by key, each at an index that stays while its key does.
#[derive(Clone)]
pub struct Dense<K, V> {
    ids: BTreeMap<K, u32>,
    slots: Vec<Option<V>>,
    free: VecDeque<u32>,
}

impl<K, V> Default for Dense<K, V> {
    fn default() -> Self {
        Self {
            ids: BTreeMap::new(),
            slots: Vec::new(),
            free: VecDeque::new(),
        }
    }
}

impl<K: fmt::Debug, V> fmt::Debug for Dense<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.ids).finish()
    }
}

impl<K: Ord + Clone, V> Dense<K, V> {
    /// The index of a key, given anew if it has none.
    pub fn reserve(&mut self, key: &K) -> u32 {
        if let Some(&id) = self.ids.get(key) {
            return id;
        }
        let id = if self.free.len() > REST {
            self.free.pop_front()
        } else {
            None
        };
        let id = id.unwrap_or_else(|| {
            self.slots.push(None);
            // Four billion objects do not fit one host's memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.ids.insert(key.clone(), id);
        id
    }

    /// Puts a value at its key's index.
    pub fn put(&mut self, key: &K, value: V) -> u32 {
        let id = self.reserve(key);
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = Some(value);
        }
        id
    }

    /// Forgets the keys that `keep` refuses and returns their indices.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) -> Vec<u32> {
        let mut gone = Vec::new();
        self.ids.retain(|key, id| {
            let stays = keep(key);
            if !stays {
                gone.push(*id);
            }
            stays
        });
        for &id in &gone {
            if let Some(slot) = self.slots.get_mut(id as usize) {
                *slot = None;
            }
            self.free.push_back(id);
        }
        gone
    }

    /// The value at an index.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&V> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// The index of a key, whether it has a value or not.
    pub fn id(&self, key: &K) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// The index and value of a key.
    pub fn by_key(&self, key: &K) -> Option<(u32, &V)> {
        let id = *self.ids.get(key)?;
        Some((id, self.get(id)?))
    }

    /// All that have a value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> + '_ {
        self.ids
            .iter()
            .filter_map(|(k, id)| Some((*id, k, self.get(*id)?)))
    }

    /// One past the largest index.
    pub fn bound(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_with_its_key_and_rests_before_it_is_used_again() {
        let mut d = Dense::default();
        let one = d.put(&"one", 1);
        let two = d.put(&"two", 2);
        assert_eq!(d.retain(|k| *k == "one"), [two]);
        assert_eq!(d.get(two), None);
        assert_ne!(d.put(&"three", 3), two);
        assert_eq!(d.by_key(&"one"), Some((one, &1)));
        let many: Vec<String> = (0..=REST).map(|n| n.to_string()).collect();
        let mut d: Dense<String, ()> = Dense::default();
        for k in &many {
            d.put(k, ());
        }
        d.retain(|_| false);
        assert_eq!(d.put(&"again".to_owned(), ()), 0);
    }
}
