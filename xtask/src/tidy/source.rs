//! What is code in a source file, and what is comment, text or test?
//!
//! Rules look for words, so they must not find them in a comment or a string. A full parser would
//! be a dependency of the one command that has to build first; this reads just enough of Rust's
//! lexical grammar to blank comments and literals, keeping every byte's line.

/// A source file, ready for rules.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    /// The text with comments and literals blanked.
    pub(super) code: String,
    /// `code` with unit tests blanked too; empty for a file that is a test as a whole.
    pub(super) product: String,
}

impl<'a> Source<'a> {
    pub(super) fn read(path: &'a str, text: &'a str) -> Self {
        let code = blank_hidden(text);
        let product = if is_test_file(path) {
            String::new()
        } else {
            blank_tests(&code)
        };
        Self {
            path,
            text,
            code,
            product,
        }
    }
}

/// True for files that only tests, benches and examples compile.
fn is_test_file(path: &str) -> bool {
    let folder =
        |name: &str| path.starts_with(&format!("{name}/")) || path.contains(&format!("/{name}/"));
    path.ends_with("/tests.rs")
        || ["tests", "benches", "examples", "testkit"]
            .into_iter()
            .any(folder)
}

/// The lines (from 1) on which `word` stands as a whole identifier.
pub(super) fn lines_with_word<'t>(
    code: &'t str,
    word: &'t str,
) -> impl Iterator<Item = usize> + 't {
    code.lines()
        .enumerate()
        .filter(move |(_, line)| identifiers(line).any(|found| found == word))
        .map(|(index, _)| index + 1)
}

/// The identifiers of a line of code, in order.
pub(super) fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

fn blank_hidden(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let after_word = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let hidden = hidden_length(rest, after_word);
        let (taken, left) = rest.split_at(if hidden == 0 {
            letter.len_utf8()
        } else {
            hidden
        });
        if hidden == 0 {
            code.push(letter);
        } else {
            code.extend(
                taken
                    .chars()
                    .map(|hid| if hid == '\n' { '\n' } else { ' ' }),
            );
        }
        rest = left;
    }
    code
}

/// How many bytes at the start of `rest` are a comment or a literal.
fn hidden_length(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    if rest.starts_with('\'') {
        return character_length(rest);
    }
    if after_word {
        0
    } else {
        raw_string_length(rest)
    }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(tail) = rest.get(at..) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            match tail.chars().next() {
                Some(letter) => at += letter.len_utf8(),
                None => break,
            }
        }
    }
    rest.len()
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// A character literal's length; 0 for a lifetime.
fn character_length(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), _) => quoted_length(rest, '\''),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn raw_string_length(rest: &str) -> usize {
    let Some(body) = ["r", "br", "cr"].iter().find_map(|prefix| {
        rest.strip_prefix(prefix)
            .filter(|tail| tail.starts_with(['"', '#']))
    }) else {
        return 0;
    };
    let hashes = body.len() - body.trim_start_matches('#').len();
    let Some(inside) = body.trim_start_matches('#').strip_prefix('"') else {
        return 0; // a raw identifier
    };
    let closing = format!("\"{}", "#".repeat(hashes));
    match inside.find(&closing) {
        Some(at) => rest.len() - inside.len() + at + closing.len(),
        None => rest.len(),
    }
}

fn blank_tests(code: &str) -> String {
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test"]
        .iter()
        .filter_map(|mark| rest.find(mark))
        .min()
    {
        let (before, tests) = rest.split_at(start);
        let (item, after) = tests.split_at(item_length(tests));
        product.push_str(before);
        product.extend(
            item.chars()
                .map(|letter| if letter == '\n' { '\n' } else { ' ' }),
        );
        rest = after;
    }
    product.push_str(rest);
    product
}

/// The length of the item at the start of `code`: to its semicolon or its closing brace.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text = "let a = \"unsafe \\\" {\"; // unsafe\nlet b = r#\"unsafe \"\" \"#; /* unsafe\n/* in */ */ let c = '\"'; fn f<'a>() {}\n";
        let code = blank_hidden(text);
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(!code.contains("unsafe"), "{code}");
        assert!(
            code.contains("let b =") && code.contains("let c ="),
            "{code}"
        );
        assert!(code.contains("fn f<'a>() {}"), "{code}");
    }

    #[test]
    fn escaped_and_multibyte_characters_end_where_they_end() {
        assert_eq!(
            blank_hidden(r"['\'', 'é', '\u{41}', 'x']").replace(' ', ""),
            "[,,,]"
        );
        assert_eq!(blank_hidden("br\"\\\" x"), "      x");
        assert_eq!(blank_hidden("r#type x"), "r#type x");
    }

    #[test]
    fn unit_tests_are_not_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { { } } }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let source = Source::read("net/src/x.rs", text);
        assert!(source.product.contains("fn a") && source.product.contains("fn c"));
        assert!(source.product.contains("fn d"));
        assert!(!source.product.contains("fn b") && !source.product.contains("more"));
        assert_eq!(source.product.lines().count(), text.lines().count());
    }

    #[test]
    fn a_test_file_has_no_product() {
        for path in [
            "net/src/headers/tests.rs",
            "tests/src/lab.rs",
            "nfv/benches/chain.rs",
        ] {
            assert_eq!(Source::read(path, "fn a() {}").product, "", "{path}");
        }
        assert_ne!(Source::read("net/src/testing.rs", "fn a() {}").product, "");
    }

    #[test]
    fn words_are_whole_identifiers() {
        let lines: Vec<usize> =
            lines_with_word("unsafe_code\nx unsafe{\nunsafer", "unsafe").collect();
        assert_eq!(lines, [2]);
    }
}
