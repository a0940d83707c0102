//! What does each word of the API change?
//!
//! An [`Entry`] belongs to one attribute of a resource, or to one alias of the list of extensions: it asks for it and shows what differs
//! then (a packet, what a workload is told, what a query finds), and that it is as before when it is undone. A [`Region`] is what it asks:
//! the whole controller behind its API, the agents of three hosts, and their switches.
//!
//! # Invariants
//! - An entry that saw no difference fails, and one that did not name its attribute in a write that was accepted.
//! - What an entry made is gone when it ends, so the entries of a table share a region.

mod api;
mod frames;
mod kept;
mod people;
mod probes;
mod region;
mod scene;
pub mod told;

pub use api::{id, spec, with};
pub use frames::{Seen, Sent};
pub use kept::{KEPT, kept, no_effect, settable};
pub use people::{A, ADMIN, B, SERVICE};
pub use probes::Serves;
pub use region::{HOSTS, PHYSICAL, Region, ZONES};
pub use scene::{MAC_A, MAC_B, Net, Nic};

use serde_json::{Value, json};

/// The evidence for one attribute (`port.mac_address`) or alias (`dvr`).
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Of what.
    pub of: &'static str,
    /// Shows it.
    pub prove: fn(&mut Region),
}

/// An entry.
pub const fn entry(of: &'static str, prove: fn(&mut Region)) -> Entry {
    Entry { of, prove }
}

/// Proves all entries of a table in one region.
pub fn prove(table: &[Entry]) {
    let mut region = Region::new();
    for entry in table {
        region.named.clear();
        region.prove_one(entry.of, entry.prove);
    }
}

/// Is it nothing but a word that something does not go?
fn is_refusal(line: &str) -> bool {
    line.starts_with("nobody ")
        || line.starts_with("dropped: ")
        || line.contains(" icmp 3/")
        || line.contains(" icmp 1/")
}

#[expect(clippy::print_stdout, reason = "a test that fails shows what it saw")]
fn show(what: &str) {
    println!("{what}");
}

impl Region {
    /// Proves one entry, and takes away what it made.
    pub fn prove_one(&mut self, of: &str, prove: fn(&mut Self)) {
        show(of);
        self.differed = 0;
        prove(self);
        assert!(self.differed > 0, "{of}: nothing was compared");
        if let Some((kind, attribute)) = of.split_once('.') {
            let named = |(of, name, _): &(String, String, &str)| {
                (of.as_str(), name.as_str()) == (kind, attribute)
            };
            let any = self.named.iter().any(named);
            assert!(any, "{of}: no request named it: {:?}", self.named);
        }
        self.clear();
    }

    /// What is seen without, with, and again without: the second differs, the third does not.
    pub fn differs(
        &mut self,
        mut without: impl FnMut(&mut Self) -> Seen,
        with: impl FnOnce(&mut Self) -> Seen,
    ) {
        let before = without(self);
        let after = with(self);
        let again = without(self);
        self.judge(&before, &after, &again);
    }

    fn judge(&mut self, before: &Seen, after: &Seen, again: &Seen) {
        show(&format!("  without {before:?}\n  with    {after:?}"));
        assert_ne!(before, after, "it makes no difference");
        // A packet that is lost for another reason than the attribute's would differ from one that is refused.
        let arrives = |seen: &Seen| seen.iter().any(|line| !is_refusal(line));
        assert!(
            arrives(before) || arrives(after),
            "nothing is seen either way"
        );
        assert_eq!(
            before, again,
            "undone it is not as before; with it: {after:#?}"
        );
        self.differed += 1;
    }

    /// An attribute is given another value, and then its first one again.
    pub fn by_update(
        &mut self,
        (kind, id): (&str, &str),
        (attribute, value): (&str, &Value),
        mut probe: impl FnMut(&mut Self) -> Seen,
    ) {
        let first = self.show(kind, id)[attribute].clone();
        let before = probe(self);
        self.set(kind, id, &json!({attribute: value}));
        let after = probe(self);
        self.set(kind, id, &json!({attribute: first}));
        let again = probe(self);
        self.judge(&before, &after, &again);
    }

    /// An object is made without an attribute, with it, and without; each goes before the next.
    pub fn by_create(
        &mut self,
        (kind, base): (&str, &Value),
        (attribute, value): (&str, &Value),
        mut probe: impl FnMut(&mut Self, &Value) -> Seen,
    ) {
        let given = with(base, &json!({attribute: value}));
        let mut seen = |body: &Value| {
            let made = self.make(kind, body);
            let seen = probe(self, &made);
            self.remove(kind, id(&made));
            seen
        };
        let (before, after, again) = (seen(base), seen(&given), seen(base));
        self.judge(&before, &after, &again);
    }

    /// Both: to make it with the attribute is to give it later.
    pub fn both(
        &mut self,
        (kind, base): (&str, &Value),
        (attribute, value): (&str, &Value),
        mut probe: impl FnMut(&mut Self, &Value) -> Seen,
    ) {
        let made = self.make(kind, base);
        let first = self.show(kind, id(&made))[attribute].clone();
        let before = probe(self, &made);
        self.set(kind, id(&made), &json!({attribute: value}));
        let after = probe(self, &made);
        self.set(kind, id(&made), &json!({attribute: first}));
        let again = probe(self, &made);
        self.judge(&before, &after, &again);
        self.remove(kind, id(&made));
        let given = self.make(kind, &with(base, &json!({attribute: value})));
        let at_once = probe(self, &given);
        self.remove(kind, id(&given));
        assert_eq!(
            after, at_once,
            "to make it with {attribute} is to give it later"
        );
    }
}
