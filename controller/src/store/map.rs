//! How does a reader keep a whole snapshot while the writer goes on?
//!
//! A persistent ordered map: a B+ tree whose nodes are shared. A clone is one reference count; a
//! write copies only the nodes on its way that a snapshot still shares, and edits the rest in place.
//!
//! # Invariants
//! - Keys of a node ascend. A branch has one bound fewer than children: the child at `i` has what is at least `bounds[i - 1]` and less than `bounds[i]`.
//! - No node but the root is empty; none holds more than [`MAX`] items.
//!
//! # Cost
//! Look-up O(log n); a write copies at most one node a level, none when the last snapshot was taken before
//! the last write to the same nodes. In a large map each key lies somewhere else in memory, and to look at one, or to count a reference to it,
//! costs more than all else: so a node keeps eight bytes of each key beside it ([`Keys`]), and a branch that is copied shares its bounds, which few writes change.
//! A leaf that is copied counts two references an item, so nodes are small. A scan steps through the leaves.

use std::{cmp::Ordering, sync::Arc};

use arrayvec::ArrayVec;

/// The most items in one node: a level more than with 64, and a third of the items to copy.
const MAX: usize = 16;
/// Below this a node looks for a neighbour to merge with.
const MIN: usize = 4;
/// One more than fit, until the node is split.
const ROOM: usize = MAX + 1;

/// Keys of one node in their order, which are found with one look at most beside the node, if no two begin too much alike.
#[derive(Debug, Clone)]
struct Keys {
    /// One that is or was here: all begin with its first `common` bytes.
    sample: Arc<str>,
    common: usize,
    /// Of each key the eight bytes behind what is common, big-endian, zeros behind its end: they ascend as the keys do, though two may be equal.
    heads: ArrayVec<u64, ROOM>,
    texts: ArrayVec<Arc<str>, ROOM>,
}

/// The eight bytes of `key` from `at`, as a number that compares as they do.
fn head(key: &str, at: usize) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(key.as_bytes().iter().skip(at)) {
        *to = *from;
    }
    u64::from_be_bytes(bytes)
}

/// How many bytes both begin with.
fn alike(a: &str, b: &str) -> usize {
    let pairs = a.as_bytes().iter().zip(b.as_bytes());
    pairs.take_while(|(a, b)| a == b).count()
}

impl Keys {
    /// Of keys that ascend.
    fn of(keys: ArrayVec<Arc<str>, ROOM>) -> Self {
        let (sample, common) = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) => (Arc::clone(first), alike(first, last)),
            _ => (Arc::from(""), 0),
        };
        let heads = keys.iter().map(|key| head(key, common)).collect();
        Self {
            sample,
            common,
            heads,
            texts: keys,
        }
    }

    /// Where `key` is, or where it would be.
    fn find(&self, key: &str) -> Result<usize, usize> {
        let bytes = key.as_bytes();
        let begins = bytes.get(..self.common).unwrap_or(bytes);
        let shared = self.sample.as_bytes().get(..self.common);
        match begins.cmp(shared.unwrap_or_default()) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.texts.len()),
            Ordering::Equal => {}
        }
        let head = head(key, self.common);
        let first = self.heads.partition_point(|have| *have < head);
        let heads = self.heads.iter().zip(&self.texts).enumerate().skip(first);
        for (at, (have, full)) in heads {
            if *have != head {
                return Err(at);
            }
            match full.as_ref().cmp(key) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(at),
                Ordering::Greater => return Err(at),
            }
        }
        Err(self.texts.len())
    }

    /// Puts `key` where [`Self::find`] said that it would be.
    fn insert(&mut self, at: usize, key: Arc<str>) {
        if self.texts.is_empty() {
            let mut keys = ArrayVec::new();
            keys.push(key);
            *self = Self::of(keys);
            return;
        }
        // One between two others begins as they do.
        if at == 0 || at == self.texts.len() {
            let common = alike(&key, &self.sample).min(self.common);
            if common < self.common {
                self.common = common;
                self.heads = self.texts.iter().map(|key| head(key, common)).collect();
            }
        }
        self.heads.insert(at, head(&key, self.common));
        self.texts.insert(at, key);
    }

    fn remove(&mut self, at: usize) -> Option<Arc<str>> {
        self.heads.pop_at(at)?;
        self.texts.pop_at(at)
    }

    /// Keeps those before `at`, and gives the others.
    fn split_off(&mut self, at: usize) -> Self {
        let right = self.texts.drain(at..).collect();
        *self = Self::of(std::mem::take(&mut self.texts));
        Self::of(right)
    }

    /// Takes what is greater than all here.
    fn extend(&mut self, more: impl IntoIterator<Item = Arc<str>>) {
        let mut keys = std::mem::take(&mut self.texts);
        keys.extend(more);
        *self = Self::of(keys);
    }
}

#[derive(Debug, Clone)]
struct Leaf<V> {
    keys: Keys,
    values: ArrayVec<V, ROOM>,
}

#[derive(Debug, Clone)]
struct Branch<V> {
    bounds: Arc<Keys>,
    children: ArrayVec<Node<V>, ROOM>,
}

#[derive(Debug)]
enum Node<V> {
    Leaf(Arc<Leaf<V>>),
    Branch(Arc<Branch<V>>),
}

/// A reference more, whatever `V` is.
impl<V> Clone for Node<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(Arc::clone(leaf)),
            Self::Branch(branch) => Self::Branch(Arc::clone(branch)),
        }
    }
}

impl<V> Node<V> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.values.len(),
            Node::Branch(branch) => branch.children.len(),
        }
    }

    fn empty() -> Self {
        Self::Leaf(Arc::new(Leaf {
            keys: Keys::of(ArrayVec::new()),
            values: ArrayVec::new(),
        }))
    }
}

impl<V> Branch<V> {
    /// Which child may hold `key`.
    fn child_of(&self, key: &str) -> usize {
        match self.bounds.find(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }
}

/// An ordered map from text keys, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OrderedMap<V> {
    root: Node<V>,
    len: usize,
}

impl<V: Clone> Default for OrderedMap<V> {
    fn default() -> Self {
        Self {
            root: Node::empty(),
            len: 0,
        }
    }
}

impl<V: Clone> OrderedMap<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(branch) => node = branch.children.get(branch.child_of(key))?,
                Node::Leaf(leaf) => return leaf.values.get(leaf.keys.find(key).ok()?),
            }
        }
    }

    pub(crate) fn insert(&mut self, key: Arc<str>, value: V) -> Option<V> {
        let (before, split) = insert_into(&mut self.root, key, value);
        if let Some((bound, right)) = split {
            let left = self.root.clone();
            self.root = Node::Branch(Arc::new(Branch {
                bounds: Arc::new(Keys::of([bound].into_iter().collect())),
                children: [left, right].into_iter().collect(),
            }));
        }
        if before.is_none() {
            self.len += 1;
        }
        before
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<V> {
        self.get(key)?; // an absent key must not copy nodes
        let before = remove_from(&mut self.root, key);
        if before.is_some() {
            self.len -= 1;
        }
        while let Node::Branch(branch) = &self.root {
            self.root = match branch.children.as_slice() {
                [] => Node::empty(),
                [only] => only.clone(),
                _ => break,
            };
        }
        before
    }

    /// All entries whose key is `start` or greater, in order.
    pub(crate) fn range(&self, start: &str) -> Iter<'_, V> {
        let mut stack = Vec::with_capacity(6);
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(branch) => {
                    let at = branch.child_of(start);
                    stack.push((node, at + 1));
                    match branch.children.get(at) {
                        Some(child) => node = child,
                        None => break,
                    }
                }
                Node::Leaf(leaf) => {
                    let (Ok(at) | Err(at)) = leaf.keys.find(start);
                    stack.push((node, at));
                    break;
                }
            }
        }
        Iter { stack }
    }
}

type Split<V> = Option<(Arc<str>, Node<V>)>;

/// Where a node with one too many is cut, the last of them having come to `at`. Appending is the common case (ids of one prefix, addresses in
/// order): a full node is left behind then, so that sequential keys do not half-fill the tree.
const fn cut(at: usize, len: usize) -> usize {
    if at + 1 == len { MAX } else { MAX / 2 }
}

fn insert_into<V: Clone>(node: &mut Node<V>, key: Arc<str>, value: V) -> (Option<V>, Split<V>) {
    match node {
        Node::Leaf(leaf) => {
            let leaf = Arc::make_mut(leaf);
            match leaf.keys.find(&key) {
                Ok(at) => {
                    let slot = leaf.values.get_mut(at);
                    (slot.map(|slot| std::mem::replace(slot, value)), None)
                }
                Err(at) => {
                    leaf.keys.insert(at, key);
                    leaf.values.insert(at, value);
                    if leaf.values.len() <= MAX {
                        return (None, None);
                    }
                    let cut = cut(at, leaf.values.len());
                    let keys = leaf.keys.split_off(cut);
                    let values = leaf.values.drain(cut..).collect();
                    let bound = Arc::clone(&keys.sample);
                    (
                        None,
                        Some((bound, Node::Leaf(Arc::new(Leaf { keys, values })))),
                    )
                }
            }
        }
        Node::Branch(branch) => {
            let at = branch.child_of(&key);
            let branch = Arc::make_mut(branch);
            let Some(child) = branch.children.get_mut(at) else {
                unreachable!("a branch has at least one child");
            };
            let (before, split) = insert_into(child, key, value);
            let Some((bound, right)) = split else {
                return (before, None);
            };
            let bounds = Arc::make_mut(&mut branch.bounds);
            bounds.insert(at, bound);
            branch.children.insert(at + 1, right);
            if branch.children.len() <= MAX {
                return (before, None);
            }
            let cut = cut(at + 1, branch.children.len());
            let children = branch.children.drain(cut..).collect();
            let right = Arc::new(bounds.split_off(cut));
            let Some(bound) = bounds.remove(cut - 1) else {
                unreachable!("a bound stands before each child but the first");
            };
            let right = Branch {
                bounds: right,
                children,
            };
            (before, Some((bound, Node::Branch(Arc::new(right)))))
        }
    }
}

fn remove_from<V: Clone>(node: &mut Node<V>, key: &str) -> Option<V> {
    match node {
        Node::Leaf(leaf) => {
            let at = leaf.keys.find(key).ok()?;
            let leaf = Arc::make_mut(leaf);
            leaf.keys.remove(at);
            leaf.values.pop_at(at)
        }
        Node::Branch(branch) => {
            let at = branch.child_of(key);
            let branch = Arc::make_mut(branch);
            let child = branch.children.get_mut(at)?;
            let before = remove_from(child, key);
            let left_over = child.len();
            if left_over == 0 {
                branch.children.remove(at);
                // The next one has from now on what is less, too.
                Arc::make_mut(&mut branch.bounds).remove(at.saturating_sub(1));
            } else if left_over < MIN {
                merge_around(branch, at);
            }
            before
        }
    }
}

/// Joins the child at `at` with a neighbour if both fit in one node.
fn merge_around<V: Clone>(branch: &mut Branch<V>, at: usize) {
    let left = if at + 1 < branch.children.len() {
        at
    } else if at > 0 {
        at - 1
    } else {
        return;
    };
    let fits = match (branch.children.get(left), branch.children.get(left + 1)) {
        (Some(a), Some(b)) => a.len() + b.len() <= MAX,
        _ => false,
    };
    if !fits {
        return;
    }
    let right = branch.children.remove(left + 1);
    let Some(bound) = Arc::make_mut(&mut branch.bounds).remove(left) else {
        unreachable!("a bound stands before each child but the first");
    };
    match (branch.children.get_mut(left), right) {
        (Some(Node::Leaf(target)), Node::Leaf(right)) => {
            let target = Arc::make_mut(target);
            let right = Arc::unwrap_or_clone(right);
            target.keys.extend(right.keys.texts);
            target.values.extend(right.values);
        }
        (Some(Node::Branch(target)), Node::Branch(right)) => {
            let target = Arc::make_mut(target);
            let right = Arc::unwrap_or_clone(right);
            let more = right.bounds.texts.iter().cloned();
            Arc::make_mut(&mut target.bounds).extend(std::iter::once(bound).chain(more));
            target.children.extend(right.children);
        }
        _ => unreachable!("all leaves of a B+ tree are at the same depth"),
    }
}

/// An ordered walk; see [`OrderedMap::range`].
#[derive(Debug)]
pub(crate) struct Iter<'a, V> {
    /// The way down: each node with the index of the item to visit next.
    stack: Vec<(&'a Node<V>, usize)>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Arc<str>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, at) = self.stack.last_mut()?;
            match *node {
                Node::Leaf(leaf) => {
                    if let (Some(key), Some(value)) =
                        (leaf.keys.texts.get(*at), leaf.values.get(*at))
                    {
                        *at += 1;
                        return Some((key, value));
                    }
                    self.stack.pop();
                }
                Node::Branch(branch) => {
                    if let Some(child) = branch.children.get(*at) {
                        *at += 1;
                        self.stack.push((child, 0));
                    } else {
                        self.stack.pop();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The first letters of keys here: alike for long, for a while, not at all, and one the beginning of another.
    const BEGINNINGS: [&str; 5] = ["", "k", "port/0123456789abcdef-", "port/0123456789", "ä\0"];

    #[test]
    fn sequential_keys_fill_the_tree_and_drain_it() {
        let mut map = OrderedMap::default();
        for n in 0..10_000_u32 {
            assert_eq!(map.insert(Arc::from(format!("k/{n:08}")), n), None);
        }
        assert_eq!(map.len(), 10_000);
        assert_eq!(map.get("k/00004242"), Some(&4242));
        assert_eq!(map.range("k/00009990").count(), 10);
        for n in (0..10_000_u32).rev() {
            assert_eq!(map.remove(&format!("k/{n:08}")), Some(n));
        }
        assert_eq!(map.len(), 0);
        assert_eq!(map.range("").count(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_btreemap_and_snapshots_do_not_change(
            steps in proptest::collection::vec((0_u16..600, 0..BEGINNINGS.len(), any::<bool>(), any::<bool>()), 1..1500),
            from in 0_u16..600,
            begins in 0..BEGINNINGS.len(),
        ) {
            let mut model = BTreeMap::new();
            let mut map = OrderedMap::default();
            let mut kept: Vec<(OrderedMap<usize>, BTreeMap<String, usize>)> = Vec::new();
            for (at, (key, begins, insert, snapshot)) in steps.into_iter().enumerate() {
                let key = format!("{}{key:x}", BEGINNINGS[begins]);
                if insert {
                    prop_assert_eq!(map.insert(Arc::from(key.as_str()), at), model.insert(key, at));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
                if snapshot && kept.len() < 5 {
                    kept.push((map.clone(), model.clone()));
                }
            }
            kept.push((map, model));
            let from = format!("{}{from:x}", BEGINNINGS[begins]);
            for (map, model) in kept {
                let have: Vec<_> = map.range("").map(|(k, v)| (k.to_string(), *v)).collect();
                let want: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(have, want);
                let have: Vec<_> = map.range(&from).map(|(k, _)| k.to_string()).collect();
                let want: Vec<_> = model.range(from.clone()..).map(|(k, _)| k.clone()).collect();
                prop_assert_eq!(have, want);
                for key in model.keys() {
                    prop_assert_eq!(map.get(key), model.get(key));
                }
            }
        }
    }
}
