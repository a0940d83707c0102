//! How is a password kept and checked?
//!
//! As argon2id with the parameters that OWASP names for a server (19 MiB, two passes): some 20 ms, so
//! both functions belong on the blocking pool.

use argon2::{
    Argon2, PasswordHash, PasswordHasher, PasswordVerifier,
    password_hash::{Salt, SaltString},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// The hash of a password with this salt.
///
/// # Errors
/// When the password is longer than argon2 takes (4 GiB).
pub fn hash(
    password: &str,
    salt: [u8; Salt::RECOMMENDED_LENGTH],
) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::from_b64(&STANDARD_NO_PAD.encode(salt))?;
    Ok(Argon2::default()
        .hash_password(password.as_bytes(), &salt)?
        .to_string())
}

/// Is it the password of this hash? Without a hash it takes as long, and the answer is no.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    // The hash of a password that nobody knows: somebody unknown must not be told apart by time.
    const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let parsed = PasswordHash::new(hash.unwrap_or(NOBODY));
    let verified = parsed.is_ok_and(|parsed| {
        Argon2::default()
            .verify_password(password.as_bytes(), &parsed)
            .is_ok()
    });
    verified && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_verifies() {
        let hashed = hash("correct horse", [7; 16]).unwrap();
        assert!(hashed.starts_with("$argon2id$"));
        assert!(verify("correct horse", Some(&hashed)));
        assert!(!verify("wrong", Some(&hashed)));
        assert!(!verify("", None));
        assert!(!verify("x", Some("not a hash")));
    }
}
