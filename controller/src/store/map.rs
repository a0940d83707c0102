//! How does a reader keep a whole snapshot while the writer goes on?
//!
//! A persistent ordered map: a B+ tree whose nodes are shared. A clone is one reference count; a
//! write copies only the nodes on its way that a snapshot still shares, and edits the rest in place.
//!
//! # Invariants
//! - Keys of a leaf and of a branch ascend; a branch's key is a lower bound of its child.
//! - No node but the root is empty; none holds more than [`MAX`] items.
//!
//! # Cost
//! Look-up O(log n); a write copies at most one node a level, none when the last snapshot was taken before
//! the last write to the same nodes. To copy an item is to count two references, each somewhere else in
//! memory: in a large map that is what a write costs, so nodes are small. A scan steps through the leaves.

use std::sync::Arc;

/// The most items in one node: a level more than with 64, and a third of the items to copy.
const MAX: usize = 16;
/// Below this a node looks for a neighbour to merge with.
const MIN: usize = 4;

#[derive(Debug, Clone)]
enum Node<V> {
    Leaf(Vec<(Arc<str>, V)>),
    Branch(Vec<(Arc<str>, Arc<Node<V>>)>),
}

impl<V> Node<V> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.len(),
        }
    }
}

/// Which child of a branch may hold `key`.
fn child_index<V>(children: &[(Arc<str>, Arc<Node<V>>)], key: &str) -> usize {
    children
        .partition_point(|(bound, _)| bound.as_ref() <= key)
        .saturating_sub(1)
}

/// An ordered map from text keys, cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OrderedMap<V> {
    root: Arc<Node<V>>,
    len: usize,
}

impl<V: Clone> Default for OrderedMap<V> {
    fn default() -> Self {
        Self {
            root: Arc::new(Node::Leaf(Vec::new())),
            len: 0,
        }
    }
}

impl<V: Clone> OrderedMap<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        let mut node = self.root.as_ref();
        loop {
            match node {
                Node::Branch(children) => {
                    node = children.get(child_index(children, key))?.1.as_ref();
                }
                Node::Leaf(items) => {
                    let at = items
                        .binary_search_by(|(have, _)| have.as_ref().cmp(key))
                        .ok()?;
                    return items.get(at).map(|(_, value)| value);
                }
            }
        }
    }

    pub(crate) fn insert(&mut self, key: Arc<str>, value: V) -> Option<V> {
        let (before, split) = insert_into(&mut self.root, key, value);
        if let Some((bound, right)) = split {
            let left = Arc::clone(&self.root);
            self.root = Arc::new(Node::Branch(vec![(Arc::from(""), left), (bound, right)]));
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
        while let Node::Branch(children) = self.root.as_ref() {
            match children.as_slice() {
                [] => self.root = Arc::new(Node::Leaf(Vec::new())),
                [(_, only)] => self.root = Arc::clone(only),
                _ => break,
            }
        }
        before
    }

    /// All entries whose key is `start` or greater, in order.
    pub(crate) fn range(&self, start: &str) -> Iter<'_, V> {
        let mut stack = Vec::with_capacity(4);
        let mut node = self.root.as_ref();
        loop {
            match node {
                Node::Branch(children) => {
                    let at = child_index(children, start);
                    stack.push((node, at + 1));
                    match children.get(at) {
                        Some((_, child)) => node = child.as_ref(),
                        None => break,
                    }
                }
                Node::Leaf(items) => {
                    stack.push((node, items.partition_point(|(key, _)| key.as_ref() < start)));
                    break;
                }
            }
        }
        Iter { stack }
    }
}

type Split<V> = Option<(Arc<str>, Arc<Node<V>>)>;

fn insert_into<V: Clone>(
    node: &mut Arc<Node<V>>,
    key: Arc<str>,
    value: V,
) -> (Option<V>, Split<V>) {
    match Arc::make_mut(node) {
        Node::Leaf(items) => match items.binary_search_by(|(have, _)| have.cmp(&key)) {
            Ok(at) => {
                let before = items
                    .get_mut(at)
                    .map(|slot| std::mem::replace(&mut slot.1, value));
                (before, None)
            }
            Err(at) => {
                items.insert(at, (key, value));
                if items.len() <= MAX {
                    return (None, None);
                }
                // Appending is the common case (ids of one prefix, addresses in order): leave a
                // full node behind then, so that sequential keys do not half-fill the tree.
                let cut = if at + 1 == items.len() { MAX } else { MAX / 2 };
                let right = items.split_off(cut);
                let bound = right
                    .first()
                    .map_or_else(|| Arc::from(""), |(key, _)| Arc::clone(key));
                (None, Some((bound, Arc::new(Node::Leaf(right)))))
            }
        },
        Node::Branch(children) => {
            let at = child_index(children, &key);
            let Some((_, child)) = children.get_mut(at) else {
                unreachable!("a branch has at least one child");
            };
            let (before, split) = insert_into(child, key, value);
            if let Some((bound, right)) = split {
                children.insert(at + 1, (bound, right));
                if children.len() > MAX {
                    let cut = if at + 2 == children.len() {
                        MAX
                    } else {
                        MAX / 2
                    };
                    let right = children.split_off(cut);
                    let bound = right
                        .first()
                        .map_or_else(|| Arc::from(""), |(key, _)| Arc::clone(key));
                    return (before, Some((bound, Arc::new(Node::Branch(right)))));
                }
            }
            (before, None)
        }
    }
}

fn remove_from<V: Clone>(node: &mut Arc<Node<V>>, key: &str) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(items) => {
            let at = items
                .binary_search_by(|(have, _)| have.as_ref().cmp(key))
                .ok()?;
            Some(items.remove(at).1)
        }
        Node::Branch(children) => {
            let at = child_index(children, key);
            let (_, child) = children.get_mut(at)?;
            let before = remove_from(child, key);
            let left_over = child.len();
            if left_over == 0 {
                children.remove(at);
            } else if left_over < MIN {
                merge_around(children, at);
            }
            before
        }
    }
}

/// Joins the child at `at` with a neighbour if both fit in one node.
fn merge_around<V: Clone>(children: &mut Vec<(Arc<str>, Arc<Node<V>>)>, at: usize) {
    let left = if at + 1 < children.len() {
        at
    } else if at > 0 {
        at - 1
    } else {
        return;
    };
    let fits = match (children.get(left), children.get(left + 1)) {
        (Some((_, a)), Some((_, b))) => a.len() + b.len() <= MAX,
        _ => false,
    };
    if !fits {
        return;
    }
    let (_, right) = children.remove(left + 1);
    let Some((_, target)) = children.get_mut(left) else {
        return;
    };
    match (Arc::make_mut(target), right.as_ref()) {
        (Node::Leaf(items), Node::Leaf(more)) => items.extend(more.iter().cloned()),
        (Node::Branch(items), Node::Branch(more)) => items.extend(more.iter().cloned()),
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
                Node::Leaf(items) => {
                    if let Some((key, value)) = items.get(*at) {
                        *at += 1;
                        return Some((key, value));
                    }
                    self.stack.pop();
                }
                Node::Branch(children) => {
                    if let Some((_, child)) = children.get(*at) {
                        *at += 1;
                        self.stack.push((child.as_ref(), 0));
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
            steps in proptest::collection::vec((0_u16..600, any::<bool>(), any::<bool>()), 1..1500),
            from in 0_u16..600,
        ) {
            let mut model = BTreeMap::new();
            let mut map = OrderedMap::default();
            let mut kept: Vec<(OrderedMap<usize>, BTreeMap<String, usize>)> = Vec::new();
            for (at, (key, insert, snapshot)) in steps.into_iter().enumerate() {
                let key = format!("{key:05}");
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
            let from = format!("{from:05}");
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
