//! In which network namespace does it happen?
//!
//! Devices and sockets are made in the namespace of the thread that makes them, so work in another namespace runs on a
//! scratch thread that enters it and ends: no thread that lives on ever changes its namespace.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// The caller's own.
    Current,
    /// The one that this file names (`/run/netns/NAME`, `/proc/PID/ns/net`).
    Path(PathBuf),
}

/// Why a namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is none of that name.
    #[error("no such network namespace: {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there, but it is no network namespace, or may not be entered.
    #[error("cannot enter network namespace: {}", path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No thread could be started for it.
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] io::Error),
}

impl Netns {
    /// From what a user writes: a path when there is a slash in it, else a name as `ip netns` knows it.
    pub fn named(name: &str) -> Self {
        if name.contains('/') {
            Self::Path(PathBuf::from(name))
        } else {
            Self::Path(Path::new("/run/netns").join(name))
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own unless it is the current one.
    ///
    /// # Errors
    /// When the namespace is not there or can't be entered; what `work` says is the inner result.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let Self::Path(path) = self else {
            return Ok(work());
        };
        let file = File::open(path).map_err(|source| {
            let path = path.clone();
            if source.kind() == io::ErrorKind::NotFound {
                NetnsError::Missing { path }
            } else {
                NetnsError::Enter { path, source }
            }
        })?;
        thread::scope(|scope| {
            let scratch = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, move || {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                    Ok::<_, rustix::io::Errno>(work())
                })
                .map_err(NetnsError::Thread)?;
            match scratch.join() {
                Ok(Ok(done)) => Ok(done),
                Ok(Err(errno)) => Err(NetnsError::Enter {
                    path: path.clone(),
                    source: io::Error::from(errno),
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_where_ip_netns_keeps_it() {
        assert_eq!(
            Netns::named("blue"),
            Netns::Path(PathBuf::from("/run/netns/blue"))
        );
        assert_eq!(
            Netns::named("/proc/7/ns/net"),
            Netns::Path(PathBuf::from("/proc/7/ns/net"))
        );
    }

    #[test]
    fn a_missing_namespace_and_a_file_that_is_none_are_told_apart() {
        let missing = Netns::named("no-such-namespace").enter(|| ());
        assert!(matches!(missing, Err(NetnsError::Missing { .. })));
        let wrong = Netns::named("/dev/null").enter(|| ());
        assert!(matches!(wrong, Err(NetnsError::Enter { .. })));
        assert_eq!(Netns::Current.enter(|| 7).unwrap(), 7);
    }
}
