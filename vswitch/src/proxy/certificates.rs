//! Where does the program read its certificates?
//!
//! In memory of this process: each is a file without a name, which the program opens by this process's descriptor. So no key is in any directory, and none
//! but who may look into this process comes to it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use hostconfig::{Pem, Proxy};
use rustix::fs::{MemfdFlags, memfd_create};
use uuid::Uuid;

/// The certificates of a configuration; they are there for as long as this is.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// By listener, in its order.
    held: BTreeMap<Uuid, Vec<OwnedFd>>,
}

impl Certificates {
    /// Those of a proxy.
    ///
    /// # Errors
    /// When there is no memory, or there are no descriptors.
    pub(super) fn of(proxy: &Proxy) -> io::Result<Self> {
        let mut held = BTreeMap::new();
        for listener in &proxy.listeners {
            let all = listener.tls.iter().flat_map(|tls| &tls.certificates);
            let all: io::Result<Vec<OwnedFd>> = all.map(hold).collect();
            held.insert(listener.id, all?);
        }
        Ok(Self { held })
    }

    /// Where a listener's are.
    pub(super) fn paths(&self, listener: Uuid) -> impl Iterator<Item = PathBuf> {
        let own = std::process::id();
        let held = self.held.get(&listener).into_iter().flatten();
        held.map(move |file| PathBuf::from(format!("/proc/{own}/fd/{}", file.as_raw_fd())))
    }
}

fn hold(pem: &Pem) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("certificate", MemfdFlags::CLOEXEC)?);
    file.write_all(pem.text().as_bytes())?;
    Ok(file.into())
}
