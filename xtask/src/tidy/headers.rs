//! Does each module say what question it answers, and each silenced lint why?

use super::Finding;
use super::source::Source;

/// The first line of every Rust file is the first sentence of its module header; a `tests.rs` is the
/// foot of the file whose header speaks for it.
pub(super) fn module_header(source: &Source) -> Vec<Finding> {
    if source.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let first = source
        .text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if first
        .strip_prefix("//!")
        .is_some_and(|sentence| !sentence.trim().is_empty())
    {
        return Vec::new();
    }
    vec![Finding::new(
        source.path,
        1,
        "no module header; begin with `//! ` and the question it answers",
    )]
}

/// Every `allow` and `expect` attribute carries a reason.
pub(super) fn reasons(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for level in ["allow(", "expect("] {
        for (at, _) in source.code.match_indices(level) {
            let before = source.code.get(..at).unwrap_or_default();
            let arguments = source.code.get(at + level.len()..).unwrap_or_default();
            if is_attribute(before) && !balanced(arguments).contains("reason") {
                let line = before.matches('\n').count() + 1;
                let text =
                    format!("`{level}…)` without a reason; say `#[expect(lint, reason = \"…\")]`");
                found.push(Finding::new(source.path, line, text));
            }
        }
    }
    found
}

/// True if what follows `before` stands inside `#[…]` or `#![…]`.
fn is_attribute(before: &str) -> bool {
    let opened = before.rfind("#[").max(before.rfind("#!["));
    let Some(tail) = opened.and_then(|at| before.get(at..)) else {
        return false;
    };
    // Once the attribute's own bracket has closed, `#[x] [y.expect(` is a call.
    let mut depth = 0_usize;
    for letter in tail.chars() {
        match letter {
            '[' => depth += 1,
            ']' if depth == 1 => return false,
            ']' => depth -= 1,
            _ => {}
        }
    }
    depth > 0
}

/// `arguments` up to the parenthesis that closes them.
fn balanced(arguments: &str) -> &str {
    let mut depth = 1_usize;
    for (at, letter) in arguments.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return arguments.get(..at).unwrap_or_default();
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(rule: fn(&Source) -> Vec<Finding>, text: &str) -> Vec<usize> {
        rule(&Source::read("net/src/x.rs", text))
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn a_file_without_a_header_is_refused() {
        assert_eq!(lines(module_header, "use std::fmt;\n"), [1]);
        assert_eq!(lines(module_header, "//!\nuse std::fmt;\n"), [1]);
        assert_eq!(lines(module_header, "// not a header\n"), [1]);
        assert_eq!(lines(module_header, ""), [1]);
        assert_eq!(
            lines(module_header, "\n//! Where does a MAC address live?\n"),
            NONE
        );
    }

    #[test]
    fn the_unit_tests_of_a_file_need_no_header_of_their_own() {
        let without = |path| module_header(&Source::read(path, "use super::*;\n")).len();
        assert_eq!(without("net/src/headers/tests.rs"), 0);
        assert_eq!(without("tests/tests/netns.rs"), 1);
    }

    #[test]
    fn a_bare_allow_is_refused() {
        let bare = "//! x\n#[allow(dead_code)]\nfn a() {}\n#![expect(unused, clippy::all)]\n";
        assert_eq!(lines(reasons, bare), [2, 4]);
        assert_eq!(lines(reasons, "#[cfg_attr(test, allow(dead_code))]"), [1]);
    }

    #[test]
    fn a_reason_a_comment_or_a_call_is_not() {
        assert_eq!(
            lines(reasons, "#[expect(dead_code, reason = \"read by serde\")]"),
            NONE
        );
        assert_eq!(
            lines(reasons, "#[expect(\n    dead_code,\n    reason = \"x\"\n)]"),
            NONE
        );
        assert_eq!(lines(reasons, "// #[allow(dead_code)]"), NONE);
        assert_eq!(
            lines(
                reasons,
                "#[test]\nfn a() { [b.expect(\"c\")]; vec![allow(1)]; }"
            ),
            NONE
        );
    }
}
