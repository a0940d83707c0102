//! How is a controller saved, and made again?
//!
//! A backup holds the store and what is of use only with it: the hosts' CA and the admin's cloud. It is taken of a stopped
//! controller's data dir by [`backup`], of a running one through its API (`api/backup.rs`); both are the same text.
//! [`restore`] makes a data dir of it.

use crate::{
    Core,
    keys::KEY_FILE,
    resources,
    store::{self, BackupFile, Beside, DiskError, Embedded, RedbDisk, Scribe},
};
use std::path::Path;

/// Without its CA every host would have to join anew, nobody knows the admin's password but `clouds.yaml`, and without their key no secret opens.
const BESIDE: &[&str] = &["ca.key", "ca.pem", "clouds.yaml", KEY_FILE];

/// Writes a backup of a stopped controller. Keep it secret. The number of records.
///
/// # Errors
/// When a controller runs ([`DiskError::InUse`]: ask it), the store cannot be read, or the file cannot be written.
pub fn backup(data_dir: &Path, file: &Path) -> Result<u64, DiskError> {
    let disk = RedbDisk::open_existing(data_dir, resources::decode)?;
    let beside = Beside::read(data_dir, BESIDE)?;
    let mut scribe = Scribe::new(Embedded::read(&disk)?, beside);
    let mut to = BackupFile::create(file)?;
    while let Some(part) = scribe.part()? {
        to.write(&part)?;
    }
    to.keep()
}

/// What writes a backup of a running controller: all that was acknowledged up to now is in it.
pub(crate) fn scribe(core: &Core) -> Result<Scribe, DiskError> {
    let beside = match core.data_dir() {
        Some(dir) => Beside::read(dir, BESIDE)?,
        None => Beside::default(),
    };
    Ok(Scribe::new(core.store.snapshot(), beside))
}

/// Makes a store from a backup in a data dir that has none, as a new incarnation, and the CA and `clouds.yaml` with it.
///
/// # Errors
/// When the backup is damaged, a controller runs on the data dir, or a store or one of the files is there.
pub fn restore(file: &Path, data_dir: &Path) -> Result<u64, DiskError> {
    store::restore(file, data_dir, BESIDE, resources::decode)
}
