//! Does it still say what it said?
//!
//! A transcript is a file of commands and their exact answers. A line that starts with `$` is a command; what follows, up to the
//! next command or comment, is its answer. `BLESS=1` rewrites the answers; a reviewer reads the difference.

use std::{env, fmt::Write, fs, path::Path};

/// Plays a transcript: each command is answered by `answer`, and must say what the file says.
///
/// # Panics
/// At the first answer that differs, with both texts.
pub fn play(file: &Path, mut answer: impl FnMut(&str) -> String) {
    let text = fs::read_to_string(file).expect("the transcript is there");
    let mut now = String::new();
    let mut command = None;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("$ ") {
            finish(&mut now, command.take(), &mut answer);
            command = Some(words.to_owned());
        } else if line.starts_with('#') {
            finish(&mut now, command.take(), &mut answer);
            writeln!(now, "{line}").unwrap();
        }
    }
    finish(&mut now, command, &mut answer);
    if env::var_os("BLESS").is_some_and(|v| v == "1") {
        fs::write(file, now).expect("the transcript can be written");
        return;
    }
    let at = text.lines().zip(now.lines()).position(|(a, b)| a != b);
    let at = at.unwrap_or_else(|| text.lines().count().min(now.lines().count()));
    assert!(
        text == now,
        "{} differs from line {} on (BLESS=1 rewrites it); now it says:\n{now}",
        file.display(),
        at + 1
    );
}

fn finish(now: &mut String, command: Option<String>, answer: &mut impl FnMut(&str) -> String) {
    if let Some(command) = command {
        let text = answer(&command);
        writeln!(now, "$ {command}\n{}\n", text.trim_end()).unwrap();
    }
}
