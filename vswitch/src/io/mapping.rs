//! How do connections outlive the process?
//!
//! A connection table is a file of fixed-size entries, mapped into memory and shared: the process that dies leaves it to the
//! next one, which takes it up where it stood. `nfv` gets the entries as a slice and knows nothing of files.
//!
//! # Invariants
//! - One process at a time: the file is locked for as long as it is mapped.
//! - A file of another layout, entry size or capacity is begun anew; its entries are never read as something else.
//!
//! # Attack
//! The file is made with mode 0600 in the switch's own state directory: whoever writes there is the switch.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    marker::PhantomData,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::sys;

/// The file's first page: who made it and how; entries begin at the next.
const PAGE: usize = 4096;
const MAGIC: [u8; 8] = *b"OWCONN\0\x01";

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    layout: u64,
    entry_bytes: u64,
    capacity: u64,
}

/// Why a table could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// Another process has it.
    #[error("connection table is in use by another process: {}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The table would not fit memory.
    #[error("connection table of {capacity} entries is too large")]
    TooLarge {
        /// How many entries were asked for.
        capacity: usize,
    },
    /// The file could not be made or mapped.
    #[error("cannot map connection table: {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was said.
        #[source]
        source: io::Error,
    },
}

/// A table of entries in a shared mapping.
#[derive(Debug)]
pub struct ConnMapping<E> {
    map: sys::Mapping,
    capacity: usize,
    fresh: bool,
    /// Holds the lock.
    _file: File,
    _entries: PhantomData<E>,
}

impl<E: FromBytes + IntoBytes + Immutable> ConnMapping<E> {
    /// Maps the table in `path`, making it when there is none. `layout` is the version of `E`: a file of another one is begun anew.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn open(path: &Path, layout: u64, capacity: usize) -> Result<Self, MappingError> {
        let io = |source| MappingError::Io {
            path: path.to_owned(),
            source,
        };
        let header = Header {
            magic: MAGIC,
            layout,
            entry_bytes: size_of::<E>() as u64,
            capacity: capacity as u64,
        };
        let len = capacity
            .checked_mul(size_of::<E>())
            .and_then(|l| l.checked_add(PAGE))
            .filter(|l| isize::try_from(*l).is_ok() && align_of::<E>() <= PAGE)
            .ok_or(MappingError::TooLarge { capacity })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(MappingError::Busy {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let size = u64::try_from(len).unwrap_or(u64::MAX);
        if file.metadata().map_err(io)?.len() != size {
            // To nothing first: what grows again is zero.
            file.set_len(0).map_err(io)?;
            file.set_len(size).map_err(io)?;
        }
        let mut map = sys::Mapping::new(file.as_fd(), len).map_err(io)?;
        let stands = Header::read_from_prefix(map.bytes()).ok().map(|(h, _)| h);
        let fresh = stands != Some(header);
        if fresh {
            drop(map);
            file.set_len(0).map_err(io)?;
            file.set_len(size).map_err(io)?;
            map = sys::Mapping::new(file.as_fd(), len).map_err(io)?;
            super::offload::put(map.bytes_mut(), 0, header.as_bytes());
        }
        Ok(Self {
            map,
            capacity,
            fresh,
            _file: file,
            _entries: PhantomData,
        })
    }

    /// Was it begun anew, all entries zero?
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// How many entries it has.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl<E: FromBytes + IntoBytes + Immutable> AsRef<[E]> for ConnMapping<E> {
    fn as_ref(&self) -> &[E] {
        let bytes = self.map.bytes().get(PAGE..).unwrap_or_default();
        <[E]>::ref_from_bytes(bytes).unwrap_or_default()
    }
}

impl<E: FromBytes + IntoBytes + Immutable> AsMut<[E]> for ConnMapping<E> {
    fn as_mut(&mut self) -> &mut [E] {
        let bytes = self.map.bytes_mut().get_mut(PAGE..).unwrap_or_default();
        <[E]>::mut_from_bytes(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("overweave-mapping-{}-{name}", std::process::id()))
    }

    #[test]
    fn entries_outlive_the_mapping_and_a_changed_layout_starts_anew() {
        let path = scratch("life");
        let mut table = ConnMapping::<u64>::open(&path, 1, 1000).unwrap();
        assert!(table.is_fresh());
        assert_eq!(table.as_ref().len(), 1000);
        table.as_mut()[999] = 42;
        let second = ConnMapping::<u64>::open(&path, 1, 1000);
        assert!(matches!(second, Err(MappingError::Busy { .. })));
        drop(table);
        let table = ConnMapping::<u64>::open(&path, 1, 1000).unwrap();
        assert!(!table.is_fresh());
        assert_eq!(table.as_ref()[999], 42);
        drop(table);
        // The same size in bytes, another layout.
        let table = ConnMapping::<u32>::open(&path, 1, 2000).unwrap();
        assert!(table.is_fresh());
        assert!(table.as_ref().iter().all(|e| *e == 0));
        drop(table);
        let table = ConnMapping::<u32>::open(&path, 2, 2000).unwrap();
        assert!(table.is_fresh());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_table_that_no_memory_holds_is_refused() {
        let path = scratch("large");
        let huge = ConnMapping::<u64>::open(&path, 1, usize::MAX);
        assert!(matches!(huge, Err(MappingError::TooLarge { .. })));
        let nowhere = ConnMapping::<u64>::open(Path::new("/nonexistent/x"), 1, 1);
        assert!(matches!(nowhere, Err(MappingError::Io { .. })));
    }
}
