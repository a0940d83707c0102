//! What does the machine do only when it is asked by its own name?
//!
//! Safe signatures around single instructions. On a machine that has none of them they do nothing.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a hint to the processor has no safe form")
)]

/// Asks for the cache line at the beginning of a value, which is read soon: the processor goes on meanwhile.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing that the program sees, and can't fault, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
