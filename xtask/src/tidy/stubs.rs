//! What was left for later?
//!
//! A stub answers as if it were the thing. What is not written yet is absent, or has an issue.

use super::Finding;
use super::source::Source;

/// Macros that stand for code that is not there.
const STUBS: &[&str] = &["todo!", "unimplemented!"];

/// Words that mark a promise in a comment.
const PROMISES: &[&str] = &["TODO", "FIXME", "XXX"];

/// Refuses stubs, and promises in comments that name no issue.
pub(super) fn left_for_later(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, (code, text)) in source.code.lines().zip(source.text.lines()).enumerate() {
        for stub in STUBS.iter().filter(|stub| code.contains(**stub)) {
            let text = format!("{stub}: what is not written yet is absent, or has an issue");
            found.push(Finding::new(source.path, index + 1, text));
        }
        // Only a line that is nothing but comment: its code is blank.
        let comment = text
            .trim_start()
            .strip_prefix("//")
            .filter(|_| code.trim().is_empty());
        if comment.is_some_and(promises_without_issue) {
            let text = "a promise without an issue; say TODO(#number)";
            found.push(Finding::new(source.path, index + 1, text));
        }
    }
    found
}

/// True if a promise stands in `comment` without an issue's number behind it.
fn promises_without_issue(comment: &str) -> bool {
    PROMISES.iter().any(|promise| {
        comment.match_indices(promise).any(|(at, _)| {
            let after = comment.get(at + promise.len()..).unwrap_or_default();
            !after.starts_with("(#")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        let found = left_for_later(&Source::read("net/src/x.rs", text));
        found.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_stub_is_refused() {
        assert_eq!(
            lines("fn a() {\n    todo!()\n}\nfn b() { unimplemented!(\"x\") }\n"),
            [2, 4]
        );
    }

    #[test]
    fn a_promise_without_an_issue_is_refused() {
        assert_eq!(lines("//! x\n// TODO: mend\n    // FIXME soon\n"), [2, 3]);
    }

    #[test]
    fn an_issue_a_string_and_a_method_are_not() {
        assert!(lines("// TODO(#12): when the kernel can\n").is_empty());
        assert!(lines("let a = \"todo!()\"; let b = todo;\n").is_empty());
    }
}
