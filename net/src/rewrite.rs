//! How is a field changed without breaking its checksums?
