//! What do tests build packets with?
