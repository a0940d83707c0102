//! Whose network does this thread see?
//!
//! Named network namespaces as `ip netns` knows them (a bind mount under `/run/netns`), made, entered and removed
//! without a process. A thread enters one and stays until it ends; its sockets and child processes belong to that
//! namespace, and no other thread notices.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::netlink::Netlink;

/// Where `ip netns` keeps its names.
const ROOT: &str = "/run/netns";

/// The file that names a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Whether a namespace of that name is there.
pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// What tells this namespace from any other, also through another name.
pub(crate) fn identity(name: &str) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(path(name)).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Makes namespaces, each with its loopback up.
///
/// # Errors
/// When one is already there, or the caller may not.
pub(crate) fn create(names: &[String]) -> anyhow::Result<()> {
    prepare_root()?;
    // One thread walks through all of them: each unshare takes it from the last into a fresh one.
    std::thread::scope(|scope| {
        scope
            .spawn(|| names.iter().try_for_each(|name| create_here(name)))
            .join()
            .map_err(|_panic| anyhow!("the thread that makes namespaces died"))?
    })
}

/// `ip netns` wants its directory to be a shared mount, so that names appear in every mount namespace.
fn prepare_root() -> anyhow::Result<()> {
    std::fs::create_dir_all(ROOT).context("make /run/netns")?;
    let share = || {
        rustix::mount::mount_change(
            ROOT,
            MountPropagationFlags::SHARED | MountPropagationFlags::REC,
        )
    };
    match share() {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(ROOT, ROOT)
                .context("mount /run/netns on itself")?;
            share().context("share /run/netns")
        }
        Err(Errno::PERM) => Err(anyhow!("may not mount; run the lab as root")),
        Err(e) => Err(e).context("share /run/netns"),
    }
}

fn create_here(name: &str) -> anyhow::Result<()> {
    let file = path(name);
    File::create_new(&file).with_context(|| {
        format!("make namespace {name} (if an earlier lab left it, run `overweave lab down`, or `ip netns delete {name}`)")
    })?;
    let made = unshare().and_then(|()| {
        rustix::mount::mount_bind("/proc/thread-self/ns/net", &file)
            .context("name the namespace")?;
        let mut netlink = Netlink::open()?;
        netlink.up(1)
    });
    if made.is_err() {
        // Nothing half-made stays; the first error is the one to tell.
        remove(name).unwrap_or_default();
    }
    made.with_context(|| format!("make namespace {name}"))
}

fn unshare() -> anyhow::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for CLONE_FILES and CLONE_FS; a network namespace is neither"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET).context("leave the network namespace")
}

/// Removes a namespace's name. What lives in it ends with its last process.
///
/// # Errors
/// When it is there and can't be removed.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    let file = path(name);
    match rustix::mount::unmount(&file, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e).with_context(|| format!("unmount {}", file.display())),
    }
    match std::fs::remove_file(&file) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("remove {}", file.display())),
    }
}

/// Moves the calling thread into a namespace, for the rest of its life.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn join(name: &str) -> anyhow::Result<()> {
    let file = open(name)?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter namespace {name}"))
}

/// A handle on a namespace.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn open(name: &str) -> anyhow::Result<File> {
    File::open(path(name)).with_context(|| format!("open namespace {name}"))
}

/// Does some work inside a namespace and comes back with its result.
///
/// # Errors
/// When the namespace can't be entered, or the work fails.
pub(crate) fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                join(name)?;
                work()
            })
            .join()
            .map_err(|_panic| anyhow!("a thread in namespace {name} died"))?
    })
}
