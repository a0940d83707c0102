//! Which library may read bytes here?
//!
//! `net::headers` is the only place where bytes become headers on a packet's way. The libraries
//! that could do the same have rooms of their own; a `use` elsewhere is refused.

use super::Finding;
use super::source::{Source, lines_with_word};

/// A library, where it is welcome, and why not elsewhere. An exception inside a welcome folder is
/// refused again.
struct Door {
    library: &'static str,
    /// True if unit tests of any crate may use it.
    in_tests: bool,
    rooms: &'static [&'static str],
    but_not: &'static [&'static str],
    why: &'static str,
}

/// The files on the way of every packet.
const FAST_PATH: &[&str] = &[
    "vswitch/src/io/",
    "vswitch/src/worker.rs",
    "vswitch/src/datapath/mod.rs",
    "vswitch/src/datapath/ingress.rs",
    "vswitch/src/datapath/cache.rs",
    "vswitch/src/datapath/flow.rs",
    "vswitch/src/datapath/execute.rs",
    "vswitch/src/datapath/egress.rs",
];

const DOORS: &[Door] = &[
    Door {
        library: "etherparse",
        in_tests: true,
        rooms: &["tests/", "fuzz/", "cli/src/", "vswitch/src/"],
        but_not: FAST_PATH,
        why: "net::headers parses on a packet's way; etherparse is its oracle and reads captures",
    },
    Door {
        library: "smoltcp",
        in_tests: true,
        rooms: &["tests/", "vswitch/src/"],
        but_not: FAST_PATH,
        why: "smoltcp serves where a stack is wanted, never on the fast path",
    },
    Door {
        library: "pnet",
        in_tests: false,
        rooms: &["tests/", "xtask/"],
        but_not: &[],
        why: "its parsers panic on malformed input: only tests and tools may use pnet",
    },
];

/// Refuses a parser library outside its rooms.
pub(super) fn doors(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for door in DOORS {
        let under = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
        if under(door.rooms) && !under(door.but_not) {
            continue;
        }
        let code = if door.in_tests {
            &source.product
        } else {
            &source.code
        };
        for line in lines_with_word(code, door.library) {
            found.push(Finding::new(
                source.path,
                line,
                format!("{} here: {}", door.library, door.why),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, text: &str) -> bool {
        !doors(&Source::read(path, text)).is_empty()
    }

    #[test]
    fn a_second_parser_on_the_packets_way_is_refused() {
        assert!(refused(
            "net/src/headers.rs",
            "use etherparse::SlicedPacket;"
        ));
        assert!(refused(
            "vswitch/src/datapath/ingress.rs",
            "use smoltcp::wire::ArpPacket;"
        ));
        assert!(refused(
            "vswitch/src/io/tap.rs",
            "fn f() { etherparse::check() }"
        ));
        assert!(refused("controller/src/lib.rs", "use smoltcp::wire;"));
    }

    #[test]
    fn pnet_is_refused_even_in_unit_tests() {
        assert!(refused(
            "net/src/headers.rs",
            "#[cfg(test)]\nmod tests { use pnet::packet::Packet; }"
        ));
        assert!(!refused("tests/src/netns.rs", "use pnet::datalink;"));
    }

    #[test]
    fn the_oracle_and_the_stack_have_their_rooms() {
        assert!(!refused(
            "net/src/headers.rs",
            "#[cfg(test)]\nmod tests { use etherparse::err; }"
        ));
        assert!(!refused(
            "vswitch/src/datapath/explain.rs",
            "use etherparse::SlicedPacket;"
        ));
        assert!(!refused(
            "tests/src/guest.rs",
            "use smoltcp::iface::Interface;"
        ));
        assert!(!refused(
            "net/src/headers.rs",
            "// etherparse is the oracle of the tests"
        ));
    }
}
