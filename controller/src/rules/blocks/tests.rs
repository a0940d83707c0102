use super::*;
use crate::store::{Embedded, MemoryDisk, ReadRange};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn view() -> View {
    View::of(&Embedded::read(&MemoryDisk::new(Uuid::nil())).unwrap())
}

fn all(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| p(text)).collect()
}

/// Does the simple writes that the functions here return.
fn apply(view: &mut View, writes: Vec<Write>) {
    for write in writes {
        if let Write::Release(key) = &write {
            assert!(view.delete(key), "{key} was not there");
        } else if let Write::Record(key, record) = write {
            assert!(view.entry(&key).is_none(), "{key} was there");
            view.put(key, record);
        } else {
            panic!("{write:?}");
        }
    }
}

#[test]
fn blocks_that_touch_are_joined_and_those_inside_others_go() {
    for (given, want) in [
        (&["10.0.0.0/24", "10.0.1.0/24"][..], &["10.0.0.0/23"][..]),
        (
            &["10.0.1.0/24", "10.0.2.0/24"],
            &["10.0.1.0/24", "10.0.2.0/24"],
        ),
        (
            &["10.0.0.128/25", "10.0.0.0/8", "10.9.0.0/16"],
            &["10.0.0.0/8"],
        ),
        (
            &[
                "10.0.0.0/25",
                "10.0.0.128/26",
                "10.0.0.192/26",
                "10.0.1.0/24",
            ],
            &["10.0.0.0/23"],
        ),
        (&["0.0.0.0/1", "128.0.0.0/1"], &["0.0.0.0/0"]),
        (&["::/1", "8000::/1"], &["::/0"]),
        (&["255.255.255.255/32"], &["255.255.255.255/32"]),
        (&[], &[]),
    ] {
        assert_eq!(merged(all(given)), all(want), "{given:?}");
    }
}

#[test]
fn what_is_left_is_said_by_the_fewest_blocks() {
    for (from, taken, left) in [
        (
            &["10.0.0.0/24"][..],
            &["10.0.0.64/26"][..],
            &["10.0.0.0/26", "10.0.0.128/25"][..],
        ),
        (&["10.0.0.0/24"], &["10.0.0.0/8"], &[]),
        (&["10.0.0.0/24"], &["fd00::/8"], &["10.0.0.0/24"]),
        (&["10.0.0.0/31"], &["10.0.0.1/32"], &["10.0.0.0/32"]),
        (&["10.0.0.0/25", "10.0.0.128/25"], &[], &["10.0.0.0/24"]),
        (&["::/0"], &["8000::/1"], &["::/1"]),
    ] {
        assert_eq!(
            without(&all(from), &all(taken)),
            all(left),
            "{from:?} {taken:?}"
        );
    }
}

#[test]
fn quotas_count_units_and_parts_of_units() {
    let exceeds = |blocks: &[&str], unit, quota| exceed(all(blocks).into_iter(), unit, quota);
    assert!(!exceeds(&["10.0.0.0/30"], 32, 4));
    assert!(exceeds(&["10.0.0.0/30", "10.0.1.0/32"], 32, 4));
    assert!(!exceeds(&["fd00::/64"], 64, 1));
    assert!(exceeds(&["fd00::/63"], 64, 1));
    assert!(!exceeds(&["fd00::/65", "fd01::/65"], 64, 1));
    assert!(exceeds(&["fd00::/65", "fd01::/65", "fd02::/128"], 64, 1));
    assert!(exceeds(&["::/1", "8000::/1"], 64, u64::MAX));
    assert!(!exceeds(&["0.0.0.0/0"], 32, u64::from(u32::MAX) + 1));
}

/// Each address by itself.
fn addresses(blocks: &[Prefix]) -> BTreeSet<u128> {
    let each = |block: &Prefix| number(block.addr())..=number(block.last());
    blocks.iter().flat_map(each).collect()
}

/// The fewest blocks of a set of addresses, found by asking every block there could be.
fn fewest(addresses: &BTreeSet<u128>, like: Prefix) -> Vec<Prefix> {
    let mut blocks: Vec<Prefix> = Vec::new();
    for bits in like.bits()..=width(like.is_ipv4()) {
        let mut seen = BTreeSet::new();
        for address in addresses {
            let address = crate::rules::addresses::address(*address, like.addr());
            let block = Prefix::containing(address, bits).unwrap();
            let known = !seen.insert(block) || blocks.iter().any(|had| holds(*had, block));
            let whole = number(block.addr())..=number(block.last());
            if !known && whole.clone().all(|address| addresses.contains(&address)) {
                blocks.push(block);
            }
        }
    }
    blocks.sort_unstable();
    blocks
}

/// A step: a block of this length, or the one at this place; or one back.
#[derive(Debug, Clone)]
enum Step {
    Next(u8),
    Named(u8, u8),
    Back(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..=6).prop_map(Step::Next),
        2 => (0_u8..=6, 0_u8..80).prop_map(|(bits, at)| Step::Named(bits, at)),
        3 => any::<usize>().prop_map(Step::Back),
    ]
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few enough that many touch.
    let v4 = (0_u32..32, 24_u8..=32).prop_map(|(at, bits)| (IpAddr::V4((at << 6).into()), bits));
    let v6 = (0_u128..32, 60_u8..=70).prop_map(|(at, bits)| (IpAddr::V6((at << 62).into()), bits));
    prop_oneof![v4, v6].prop_map(|(address, bits)| Prefix::containing(address, bits).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The keys say after each step what a naive allocator over single addresses says.
    #[test]
    fn the_free_blocks_are_the_prefixes_without_what_is_taken(
        v6 in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        // Two prefixes of which one has no buddy here: 64 and 16 addresses.
        let (prefixes, base) = if v6 {
            (all(&["fd00::100/122", "fd00::300/124"]), 122)
        } else {
            (all(&["10.0.1.0/26", "10.0.3.0/28"]), 26)
        };
        let pool = Uuid::from_u128(7);
        let mut view = view();
        let writes = set(&view, pool, &prefixes);
        apply(&mut view, writes);
        let mut taken: Vec<Prefix> = Vec::new();
        for step in steps {
            let open = addresses(&without(&prefixes, &taken));
            let before = fewest(&open, prefixes[0]);
            let wanted = match step {
                Step::Next(bits) => {
                    let bits = base + bits;
                    let given = next(&view, pool, &prefixes, bits);
                    // The smallest free block that is large enough, the first of those.
                    let best = before.iter().filter(|block| block.bits() <= bits);
                    let best = best.max_by_key(|block| (block.bits(), std::cmp::Reverse(**block)));
                    let best = best.map(|block| Prefix::new(block.addr(), bits).unwrap());
                    prop_assert_eq!(given, best);
                    given
                }
                Step::Named(bits, at) => {
                    let first = number(prefixes[0].addr()) + u128::from(at);
                    let address = crate::rules::addresses::address(first, prefixes[0].addr());
                    Prefix::containing(address, base + bits).ok()
                }
                Step::Back(at) => {
                    if !taken.is_empty() {
                        let freed = taken.swap_remove(at % taken.len());
                        let writes = release(&view, pool, freed);
                        apply(&mut view, writes);
                    }
                    None
                }
            };
            if let Some(wanted) = wanted {
                let is_free = addresses(&[wanted]).is_subset(&open);
                let writes = take(&view, pool, wanted);
                prop_assert_eq!(writes.is_some(), is_free, "{}", wanted);
                if let Some(writes) = writes {
                    apply(&mut view, writes);
                    taken.push(wanted);
                }
            }
            let open = addresses(&without(&prefixes, &taken));
            let left: BTreeSet<u128> =
                addresses(&prefixes).difference(&addresses(&taken)).copied().collect();
            prop_assert_eq!(&open, &left);
            prop_assert_eq!(free(&view, pool), fewest(&open, prefixes[0]));
        }
    }

    #[test]
    fn joining_changes_no_address(blocks in proptest::collection::vec(any_prefix(), 0..12)) {
        let joined = merged(blocks.clone());
        prop_assert_eq!(&merged(joined.clone()), &joined);
        for block in &blocks {
            prop_assert!(joined.iter().any(|whole| holds(*whole, *block)), "{}", block);
        }
        prop_assert_eq!(without(&joined, &blocks), vec![]);
        prop_assert_eq!(without(&blocks, &[]), joined);
    }
}

#[test]
fn two_who_take_from_the_same_state_meet_at_a_key() {
    let pool = Uuid::from_u128(7);
    let mut view = view();
    let writes = set(&view, pool, &all(&["10.0.0.0/16"]));
    apply(&mut view, writes);
    for (one, other) in [
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("10.0.0.0/24", "10.0.255.0/24"),
        ("10.0.0.0/20", "10.0.7.0/28"),
    ] {
        let (mut first, second) = (view.clone_for_test(), view.clone_for_test());
        let writes = take(&first, pool, p(one)).unwrap();
        apply(&mut first, writes);
        take(&second, pool, p(other)).unwrap();
        let read = |key: &str| {
            let mut reads = second.reads().into_iter();
            reads.any(|read| matches!(read, ReadRange::Key(read) if read == key))
        };
        let met = first.writes().iter().any(|write| read(&write.key));
        assert!(met, "{one} and {other}");
    }
}
