//! Where may memory be touched by hand?

use super::source::{Source, lines_with_word};
use super::{File, Finding};

/// The two files that may, and the benches, whose counting allocator has no safe form.
const ROOMS: &[&str] = &["vswitch/src/io/sys.rs", "net/src/arch.rs"];

/// Crates that forbid it: no attribute inside them may permit it again.
const FORBIDDING: &[&str] = &["hostconfig", "overlay", "nfv"];

/// Refuses `unsafe` outside its rooms.
pub(super) fn rooms(source: &Source) -> Vec<Finding> {
    if ROOMS.contains(&source.path) || source.path.contains("/benches/") {
        return Vec::new();
    }
    lines_with_word(&source.code, "unsafe")
        .map(|line| {
            let text = format!("unsafe here; its rooms are {}", ROOMS.join(" and "));
            Finding::new(source.path, line, text)
        })
        .collect()
}

/// Refuses a pure crate that does not forbid unsafe code.
pub(super) fn forbidden(files: &[File]) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in FORBIDDING {
        let path = format!("{name}/src/lib.rs");
        for file in files.iter().filter(|file| file.path == path) {
            if !Source::read(&file.path, &file.text)
                .code
                .contains("#![forbid(unsafe_code)]")
            {
                found.push(Finding::new(
                    &path,
                    0,
                    "does not say `#![forbid(unsafe_code)]`",
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_outside_its_rooms_is_refused() {
        let text = "//! x\nfn a() { unsafe { b() } }\n";
        assert_eq!(rooms(&Source::read("nfv/src/x.rs", text)).len(), 1);
        assert_eq!(rooms(&Source::read("tests/src/x.rs", text)).len(), 1);
        assert_eq!(rooms(&Source::read("vswitch/src/io/sys.rs", text)), []);
        assert_eq!(
            rooms(&Source::read(
                "nfv/src/x.rs",
                "#![forbid(unsafe_code)] // unsafe"
            )),
            []
        );
    }

    #[test]
    fn a_pure_crate_must_forbid_it() {
        let file = |text: &str| File {
            path: "nfv/src/lib.rs".into(),
            text: text.into(),
        };
        assert_eq!(forbidden(&[file("//! x\n")]).len(), 1);
        assert_eq!(
            forbidden(&[file("//! x\n// #![forbid(unsafe_code)]\n")]).len(),
            1
        );
        assert_eq!(forbidden(&[file("//! x\n#![forbid(unsafe_code)]\n")]), []);
    }
}
