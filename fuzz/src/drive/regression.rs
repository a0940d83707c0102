//! Which inputs once made a target panic?
//!
//! Each is a text file of hex digits in `tests/regressions/`, named by its target and its content,
//! so that a reviewer can read it and saving it twice changes nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};

const FOLDER: &str = "tests/regressions";

/// The saved inputs of `target`, in the order of their names.
///
/// # Errors
/// When one can't be read, or is no hex.
pub fn of_target(root: &Path, target: &str) -> Result<Vec<Vec<u8>>> {
    let folder = root.join(FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {FOLDER}"))? {
        let path = entry.with_context(|| format!("list {FOLDER}"))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if belongs(&name, target) {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        from_hex(&text).with_context(|| format!("read {} as hex", path.display()))
    };
    paths.iter().map(read).collect()
}

/// True for `TARGET-DIGITS.hex`, not for another target whose name only begins alike.
fn belongs(name: &str, target: &str) -> bool {
    name.strip_suffix(".hex")
        .and_then(|stem| stem.rsplit_once('-'))
        .is_some_and(|(of, _)| of == target)
}

/// Saves an input; its path from the root.
///
/// # Errors
/// When it can't be written.
pub fn save(root: &Path, target: &str, input: &[u8]) -> Result<String> {
    let path = format!("{FOLDER}/{target}-{:016x}.hex", fnv1a(input));
    std::fs::create_dir_all(root.join(FOLDER)).with_context(|| format!("make {FOLDER}"))?;
    std::fs::write(root.join(&path), to_hex(input) + "\n")
        .with_context(|| format!("write {path}"))?;
    Ok(path)
}

/// As hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(
        String::with_capacity(bytes.len() * 2),
        |mut digits, byte| {
            let _written = write!(digits, "{byte:02x}");
            digits
        },
    )
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let pair = std::str::from_utf8(pair).context("hex digits are ASCII")?;
        if pair.len() != 2 {
            bail!("an odd number of hex digits: {}", digits.len());
        }
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            bail!("not hex: {pair}");
        }
        bytes.push(u8::from_str_radix(pair, 16).with_context(|| format!("not hex: {pair}"))?);
    }
    Ok(bytes)
}

/// Names a file by its content; not for secrets.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_comes_back_as_it_went() {
        let bytes = [0, 1, 0xab, 0xff];
        assert_eq!(from_hex(&to_hex(&bytes)).unwrap(), bytes);
        assert_eq!(from_hex(" 00\n01 ").unwrap(), [0, 1]);
    }

    #[test]
    fn what_is_not_hex_is_an_error() {
        assert!(from_hex("0").is_err());
        assert!(from_hex("zz").is_err());
        assert!(from_hex("+1").is_err());
        assert!(from_hex("é").is_err());
    }

    #[test]
    fn a_target_gets_only_its_own_files() {
        assert!(belongs("vxlan-00.hex", "vxlan"));
        assert!(!belongs("vxlan-gpe-00.hex", "vxlan"));
        assert!(!belongs("README.md", "vxlan"));
    }

    #[test]
    fn a_saved_input_is_found_again() {
        let root = std::env::temp_dir().join(format!("overweave-fuzz-{}", std::process::id()));
        let path = save(&root, "headers", &[1, 2, 3]).unwrap();
        assert_eq!(save(&root, "headers", &[1, 2, 3]).unwrap(), path);
        assert_eq!(of_target(&root, "headers").unwrap(), [vec![1, 2, 3]]);
        assert_eq!(of_target(&root, "vxlan").unwrap(), Vec::<Vec<u8>>::new());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
