//! `overweave controller backup` and `restore`: who has the store, and so, who is asked?
//!
//! A running controller holds its data dir's lock: then it is asked for the backup, through the `clouds.yaml` that it wrote
//! there. Otherwise the store is read. Both write the same text.

use std::path::Path;

use anyhow::{Context, bail};
use controller::store::{BackupFile, DiskError};

use crate::api::Api;
use crate::clouds;
use crate::say::{self, Progress};

/// Writes a backup, of a running controller or of its data dir.
pub(super) fn backup(data_dir: &Path, file: &Path) -> anyhow::Result<()> {
    let progress = Progress::new();
    progress.step(format!("writing {}", file.display()));
    let (records, of) = match controller::backup(data_dir, file) {
        Ok(records) => (records, "the store"),
        Err(DiskError::InUse(_)) => (running(data_dir, file)?, "the running controller"),
        Err(error) => return Err(error).context("back up the store"),
    };
    drop(progress);
    let shown = file.display();
    say::out(&format!(
        "{shown}: {records} records of {of}; keep it secret"
    ))
}

/// Writes a backup that a running controller makes.
fn running(data_dir: &Path, file: &Path) -> anyhow::Result<u64> {
    let shown = data_dir.display();
    let ask = || format!("a controller runs on {shown}; ask it for a backup");
    let mut known = clouds::read(&data_dir.join("clouds.yaml")).with_context(ask)?;
    let Some(cloud) = known.remove("overweave") else {
        bail!("{shown}/clouds.yaml: no cloud `overweave`, by which to ask the running controller");
    };
    let api = Api::login(&cloud).with_context(ask)?;
    let mut to = BackupFile::create(file)?;
    api.download("/v2.0/overweave/backup", |part| Ok(to.write(part)?))
        .with_context(ask)?;
    to.keep().context("receive the backup")
}

/// Makes a data dir of a backup.
pub(super) fn restore(file: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let shown = data_dir.display();
    let records = match controller::restore(file, data_dir) {
        Ok(records) => records,
        Err(DiskError::InUse(_)) => bail!(
            "a controller runs on {shown}: stop it and move {shown} away, or restore to another --data-dir; then start it on what was restored"
        ),
        Err(error) => return Err(error).context("restore"),
    };
    say::out(&format!("{shown}: {records} records restored"))
}
