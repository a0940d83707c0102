//! nfv.
