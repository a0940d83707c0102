//! How does a program hold one end of a wire, frame by frame?
//!
//! A tap without a virtio-net header and without offloads: the kernel finishes checksums and cuts super-frames before
//! it hands a frame over, so that each read is one packet as a wire would carry it. For what stands in for a wire (the
//! lab's relay); a port of the switch is a [`Tap`](super::tap::Tap).
//!
//! # Invariants
//! - The device lives as long as its descriptor: whoever is killed leaves none behind.
//!
//! # References
//! Linux: Documentation/networking/tuntap.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

use super::{sys, tap::IfName};

/// Makes the tap `name`, down, in the calling thread's network namespace. Reads and writes of it do not block.
///
/// # Errors
/// What the kernel says: the name is taken, the tun driver is missing, or the caller lacks `CAP_NET_ADMIN`.
pub fn open(name: &IfName) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    sys::tun_attach(fd.as_fd(), name.to_string().as_bytes(), flags)?;
    Ok(fd)
}
