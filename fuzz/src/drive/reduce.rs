//! What is the least input that still fails?

/// Attempts before the reduction settles for what it has.
const ATTEMPTS: usize = 5_000;

/// Removes pieces, large ones first, then zeroes bytes, as long as `fails` holds.
pub(super) fn reduced(input: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut least = input.to_vec();
    let mut attempts = 0;
    let mut piece = least.len().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < least.len() && attempts < ATTEMPTS {
            attempts += 1;
            let to = (from + piece).min(least.len());
            let mut smaller = least.clone();
            smaller.drain(from..to);
            if fails(&smaller) {
                least = smaller;
            } else {
                from = to;
            }
        }
        piece /= 2;
    }
    for at in 0..least.len() {
        if attempts >= ATTEMPTS {
            break;
        }
        attempts += 1;
        let mut plainer = least.clone();
        if let Some(byte) = plainer.get_mut(at).filter(|byte| **byte != 0) {
            *byte = 0;
            if fails(&plainer) {
                least = plainer;
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let input: Vec<u8> = (0..200).collect();
        let fails = |bytes: &[u8]| bytes.contains(&77) && bytes.len() >= 3;
        let least = reduced(&input, fails);
        assert!(fails(&least));
        assert_eq!(least.len(), 3);
        assert_eq!(least.iter().filter(|byte| **byte != 0).count(), 1);
    }

    #[test]
    fn the_empty_input_stays_empty() {
        assert!(reduced(&[], |_| true).is_empty());
    }
}
