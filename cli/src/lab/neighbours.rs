//! Is there room for all neighbours?
//!
//! The kernel keeps the ARP and ND entries of all network namespaces in one table each, of 1,024 entries by default: a
//! hundred workloads that all speak with each other need ten times that, and would see "no buffer space" instead of
//! replies. A lab that needs more raises the limits and `down` puts them back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::plan::Lab;

/// The limits' names, and what part of the whole each is: when the kernel begins to collect, and hurries, and refuses.
const LIMITS: [(&str, usize); 3] = [("gc_thresh1", 4), ("gc_thresh2", 2), ("gc_thresh3", 1)];

/// A limit that was raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Raised {
    path: PathBuf,
    before: usize,
    now: usize,
}

/// What a lab would raise: entries both ways for each pair of a network, and as much again for others.
pub(crate) fn wanted(lab: &Lab) -> Vec<Raised> {
    let pairs: usize = lab
        .networks
        .iter()
        .map(|network| {
            let members = lab
                .workloads
                .iter()
                .filter(|w| w.network == network.name)
                .count();
            members * members
        })
        .sum();
    let entries = 2 * pairs + 1024;
    let mut raised = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for (name, part) in LIMITS {
            let path = PathBuf::from(format!("/proc/sys/net/{family}/neigh/default/{name}"));
            // Only the first network namespace has them; in another there is nothing to do.
            if let Some(before) = read(&path)
                && before < entries / part
            {
                raised.push(Raised {
                    path,
                    before,
                    now: entries / part,
                });
            }
        }
    }
    // The highest first: the kernel does not mind, a reader of the state may.
    raised.reverse();
    raised
}

fn read(path: &PathBuf) -> Option<usize> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Raised {
    /// Raises it. A kernel that refuses is left as it is: a small lab works all the same.
    pub(crate) fn apply(&self) {
        std::fs::write(&self.path, self.now.to_string()).unwrap_or_default();
    }

    /// Puts it back, unless somebody has changed it since.
    pub(crate) fn revert(&self) {
        if read(&self.path) == Some(self.now) {
            std::fs::write(&self.path, self.before.to_string()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, text: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("overweave-limit-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_limit_is_put_back_unless_somebody_changed_it() {
        let path = limit("back", "1024\n");
        let raised = Raised {
            path: path.clone(),
            before: 1024,
            now: 21_024,
        };
        raised.apply();
        assert_eq!(read(&path), Some(21_024));
        raised.revert();
        assert_eq!(read(&path), Some(1024));
        std::fs::write(&path, "5000").unwrap();
        raised.revert();
        assert_eq!(read(&path), Some(5000));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_wide_lab_needs_an_entry_each_way_for_each_pair() {
        let text = include_str!("../../../configs/labs/twenty-hosts.yaml");
        let lab = crate::lab::check::lab("f", "f", text).unwrap();
        // Whatever this machine's limits are: none is raised to less than what is needed.
        for raised in wanted(&lab) {
            assert!(raised.now > raised.before);
            if raised.path.ends_with("gc_thresh3") {
                assert_eq!(raised.now, 2 * 100 * 100 + 1024);
            }
        }
    }
}
