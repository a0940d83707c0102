//! What may an availability zone be called?
//!
//! A zone is a name that operators give hosts which fail together. Hosts say which they are in; it is no section, since nothing of a host's
//! own forwarding depends on it.

/// The zone of a host that says none, as Neutron's agents have it.
pub const USUAL_ZONE: &str = "nova";

/// The longest name.
const LONGEST: usize = 255;

/// Can a zone be called so?
///
/// # Errors
/// What is wrong with the name.
pub fn check_zone(name: &str) -> Result<(), String> {
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(printable) {
        return Err(format!(
            "'{}' is no name of an availability zone (1 to {LONGEST} printable ASCII characters without spaces and quotes)",
            name.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_zone;

    #[test]
    fn a_zone_has_a_plain_name() {
        for name in ["nova", "eu-west-1a", "row:3/rack.7"] {
            assert_eq!(check_zone(name), Ok(()));
        }
        let long = "z".repeat(256);
        for name in ["", "two words", "a\nb", "a\"b", "zürich", long.as_str()] {
            assert!(check_zone(name).is_err(), "{name}");
        }
    }
}
