//! Which room is full?

use super::Finding;
use super::source::Source;

/// Lines of code after which a file is worth a look.
const FULL_FILE: usize = 400;

/// Tells of files with more lines of code than that; blank lines, comments and tests are not
/// counted.
pub(super) fn full_rooms(source: &Source) -> Vec<Finding> {
    let lines = source
        .product
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    if lines <= FULL_FILE {
        return Vec::new();
    }
    vec![Finding::new(
        source.path,
        0,
        format!("{lines} lines of code; is it one subject?"),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_counts_and_comments_blanks_and_tests_do_not() {
        let code = "fn a() {}\n".repeat(FULL_FILE);
        let rest = "// why\n\n".repeat(50) + "#[cfg(test)]\nmod tests {\n fn b() {}\n}\n";
        let full = format!("{code}{rest}");
        assert_eq!(full_rooms(&Source::read("net/src/x.rs", &full)), []);
        let over = format!("{full}fn c() {{}}\n");
        assert_eq!(full_rooms(&Source::read("net/src/x.rs", &over)).len(), 1);
    }
}
