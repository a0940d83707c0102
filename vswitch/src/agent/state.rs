//! What must a host still know after its own restart?
//!
//! The state dir: identity, last config, attachments, zones, a seed. A restarted vswitch forwards from it without a
//! controller. Each file is an envelope (what it is, its version, a checksum) around JSON, written beside the old one,
//! flushed, and renamed over it: a crash leaves the one or the other. Configs come often and are told again after a crash
//! of the machine: a new one is written at once, so that it outlives this process, and flushed a little later
//! ([`State::flush_config`]) before it replaces the last one that was.
//!
//! # Failure
//! A file that does not check is moved aside (`FILE.corrupt`), said so, and taken as empty: the controller knows better
//! than half a file. A file of a newer version is left alone, and the start refused.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use hostconfig::{Generation, HostConfig, Keyed, SectionHash};
use net::{Id, Zone, ids::kind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tracing::error;
use uuid::Uuid;

use super::{
    identity::{Identity, IdentityError},
    meters::Kept,
};

/// The version of the envelopes and their contents.
const VERSION: u32 = 1;
const IDENTITY: &str = "identity.pem";
const CONFIG: &str = "config";
/// Newer than [`CONFIG`], perhaps not flushed.
const CONFIG_NEXT: &str = "config.next";
const PORTS: &str = "ports";
const HOST: &str = "host";
/// Incarnations of the controller's store that were replaced.
const REPLACED: &str = "replaced";
/// What was counted at routers' gateways.
const METERS: &str = "meters";

/// Why the state dir can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory can't be read or written.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what was written.
    #[error("{path} is damaged ({why})")]
    Corrupt {
        /// Which one.
        path: String,
        /// How that is known.
        why: String,
    },
    /// A file was written by a newer vswitch.
    #[error(
        "{path} was written by a newer vswitch (version {version}, this one reads up to {VERSION}); start that one, or move the file away"
    )]
    Newer {
        /// Which one.
        path: String,
        /// Its version.
        version: u32,
    },
    /// Another vswitch uses the state dir.
    #[error(
        "another vswitch uses {path}; stop it, or give this one a --run-dir or --state-dir of its own"
    )]
    Locked {
        /// The state dir.
        path: String,
    },
}

/// Where a port's device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attachment {
    /// The path of the network namespace.
    pub(crate) netns: PathBuf,
    /// The device's name in it.
    pub(crate) ifname: String,
    /// Were addresses and routes set by the switch?
    #[serde(rename = "static")]
    pub(crate) fixed: bool,
}

/// What is kept of ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    /// Which port is where.
    pub(crate) attachments: BTreeMap<Id<kind::Port>, Attachment>,
    /// Zones by port. A number is never given twice, so no record of a connection can name another port.
    pub(crate) zones: BTreeMap<Id<kind::Port>, Zone>,
    /// The next number.
    pub(crate) next_zone: u32,
}

impl Ports {
    /// The port's zone; a new number for a new port.
    pub(crate) fn zone(&mut self, port: Id<kind::Port>) -> Zone {
        *self.zones.entry(port).or_insert_with(|| {
            self.next_zone = self.next_zone.saturating_add(1);
            Zone(self.next_zone)
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    seed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredConfig {
    incarnation: Uuid,
    generation: Generation,
    sections: Vec<StoredSection>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSection {
    key: String,
    hash: SectionHash,
    /// Canonical JSON, as text: to be hashed byte by byte.
    body: String,
}

impl From<StoredConfig> for HostConfig {
    fn from(stored: StoredConfig) -> Self {
        let mut config = Self {
            incarnation: stored.incarnation,
            generation: stored.generation,
            ..Self::default()
        };
        for section in stored.sections {
            // A section that this version can't read is left out: the controller sends it again.
            let Ok(key) = section.key.parse() else {
                continue;
            };
            if let Ok(read) = Keyed::decode(key, section.body.into_bytes(), section.hash) {
                config.insert(Arc::new(read));
            }
        }
        config
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    file: String,
    version: u32,
    sha256: String,
}

/// The state dir, held by this process alone.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl State {
    /// Opens it, made if it is not there (mode 0700).
    ///
    /// # Errors
    /// When it can't be made, or another vswitch holds it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| failed("make", dir, e))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Locked {
                path: dir.display().to_string(),
            }),
            Err(e) => Err(failed("lock", &path, e.into())),
        }
    }

    /// The identity that a controller gave; `None` before the first join.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, StateError> {
        let path = self.dir.join(IDENTITY);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let parsed = Identity::from_pem(&bytes).map_err(|e: IdentityError| StateError::Corrupt {
            path: path.display().to_string(),
            why: e.to_string(),
        });
        or_empty(&path, parsed.map(Some))
    }

    /// Keeps an identity.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn keep_identity(&self, identity: &Identity) -> Result<(), StateError> {
        replace(
            &self.dir,
            IDENTITY,
            identity.to_pem().as_bytes(),
            Flush::Now,
        )
    }

    /// The last config; empty at first.
    ///
    /// # Errors
    /// When it can't be read, or is of a newer version.
    pub(crate) fn config(&self) -> Result<HostConfig, StateError> {
        for name in [CONFIG_NEXT, CONFIG] {
            let path = self.dir.join(name);
            if let Some(stored) = or_empty(&path, load::<StoredConfig>(&path))? {
                return Ok(stored.into());
            }
        }
        Ok(HostConfig::default())
    }

    /// Keeps a config: it outlives this process at once, and a crash of the machine when it was flushed.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn keep_config(&self, config: &HostConfig) -> Result<(), StateError> {
        let section = |s: &Arc<Keyed>| StoredSection {
            key: s.key().to_string(),
            hash: s.hash(),
            body: String::from_utf8_lossy(s.bytes()).into_owned(),
        };
        let stored = StoredConfig {
            incarnation: config.incarnation,
            generation: config.generation,
            sections: config.sections.values().map(section).collect(),
        };
        self.keep(CONFIG_NEXT, &stored, Flush::Later)
    }

    /// Flushes the config that was kept last; it replaces the one that was flushed before.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn flush_config(&self) -> Result<(), StateError> {
        let (next, path) = (self.dir.join(CONFIG_NEXT), self.dir.join(CONFIG));
        let flush = || -> io::Result<()> {
            match File::open(&next) {
                Ok(file) => file.sync_all()?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            }
            fs::rename(&next, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        flush().map_err(|e| failed("flush", &path, e))
    }

    /// Attachments and zones; none at first.
    ///
    /// # Errors
    /// When they can't be read, or are of a newer version.
    pub(crate) fn ports(&self) -> Result<Ports, StateError> {
        let path = self.dir.join(PORTS);
        or_empty(&path, load(&path).map(Option::unwrap_or_default))
    }

    /// Keeps attachments and zones.
    ///
    /// # Errors
    /// When they can't be written.
    pub(crate) fn keep_ports(&self, ports: &Ports) -> Result<(), StateError> {
        self.keep(PORTS, ports, Flush::Now)
    }

    /// The incarnations of the controller's store that were replaced, the last one last; none at first.
    ///
    /// # Errors
    /// When they can't be read, or are of a newer version.
    pub(crate) fn replaced(&self) -> Result<Vec<Uuid>, StateError> {
        let path = self.dir.join(REPLACED);
        or_empty(&path, load(&path).map(Option::unwrap_or_default))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// When they can't be written.
    pub(crate) fn keep_replaced(&self, replaced: &[Uuid]) -> Result<(), StateError> {
        self.keep(REPLACED, &replaced, Flush::Now)
    }

    /// What earlier processes counted at routers' gateways; nothing at first.
    ///
    /// # Errors
    /// When it can't be read, or is of a newer version.
    pub(crate) fn meters(&self) -> Result<Vec<Kept>, StateError> {
        let path = self.dir.join(METERS);
        or_empty(&path, load(&path).map(Option::unwrap_or_default))
    }

    /// Keeps it: it outlives this process, and a crash of the machine mostly.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn keep_meters(&self, meters: &[Kept]) -> Result<(), StateError> {
        self.keep(METERS, &meters, Flush::Later)
    }

    /// This host's seed for hashes: made once, kept, so that tables outlive a restart.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub(crate) fn seed(&self) -> Result<u64, StateError> {
        self.seed_or(|| Uuid::new_v4().as_u64_pair().0)
    }

    /// As [`State::seed`], and `fresh` says which one is made.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub(crate) fn seed_or(&self, fresh: impl FnOnce() -> u64) -> Result<u64, StateError> {
        let path = self.dir.join(HOST);
        if let Some(host) = or_empty(&path, load::<Host>(&path))? {
            return Ok(host.seed);
        }
        let seed = fresh();
        self.keep(HOST, &Host { seed }, Flush::Now)?;
        Ok(seed)
    }

    fn keep<T: Serialize>(&self, name: &str, content: &T, flush: Flush) -> Result<(), StateError> {
        let path = self.dir.join(name);
        let body = serde_json::to_vec(content).map_err(|e| failed("encode", &path, e.into()))?;
        let envelope = Envelope {
            file: kind_of(name).to_owned(),
            version: VERSION,
            sha256: hex(&Sha256::digest(&body)),
        };
        let mut bytes =
            serde_json::to_vec(&envelope).map_err(|e| failed("encode", &path, e.into()))?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        replace(&self.dir, name, &bytes, flush)
    }
}

/// Must it outlive a crash of the machine as soon as it is written?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    Now,
    Later,
}

/// What is in a file of this name.
fn kind_of(name: &str) -> &str {
    name.strip_suffix(".next").unwrap_or(name)
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        what,
        path: path.display().to_string(),
        source,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, e)),
    }
}

/// Reads an envelope and what is in it.
fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let corrupt = |why: &dyn std::fmt::Display| StateError::Corrupt {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let end = bytes.iter().position(|b| *b == b'\n');
    let (head, body) = end
        .and_then(|end| Some((bytes.get(..end)?, bytes.get(end + 1..)?)))
        .ok_or_else(|| corrupt(&"it has no header"))?;
    let envelope: Envelope = serde_json::from_slice(head).map_err(|e| corrupt(&e))?;
    if envelope.version > VERSION {
        return Err(StateError::Newer {
            path: path.display().to_string(),
            version: envelope.version,
        });
    }
    let name = path.file_name().and_then(|name| name.to_str());
    if name.map(kind_of) != Some(envelope.file.as_str()) {
        return Err(corrupt(&format!("it is the file {}", envelope.file)));
    }
    if hex(&Sha256::digest(body)) != envelope.sha256 {
        return Err(corrupt(&"its checksum differs"));
    }
    serde_json::from_slice(body)
        .map(Some)
        .map_err(|e| corrupt(&e))
}

/// Moves a damaged file aside, says so, and takes it as empty.
fn or_empty<T: Default>(path: &Path, loaded: Result<T, StateError>) -> Result<T, StateError> {
    match loaded {
        Err(damaged @ StateError::Corrupt { .. }) => {
            let aside = path.with_extension("corrupt");
            error!(%damaged, kept = %aside.display(), "starting without it");
            fs::rename(path, &aside).map_err(|e| failed("move aside", path, e))?;
            Ok(T::default())
        }
        other => other,
    }
}

/// Writes beside, renames over; flushes file and directory if it must.
fn replace(dir: &Path, name: &str, bytes: &[u8], flush: Flush) -> Result<(), StateError> {
    let (path, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        if flush == Flush::Now {
            file.sync_all()?;
        }
        fs::rename(&beside, &path)?;
        match flush {
            Flush::Now => File::open(dir)?.sync_all(),
            Flush::Later => Ok(()),
        }
    };
    write().map_err(|e| failed("write", &path, e))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
    let digits = bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]);
    digits.collect()
}

#[cfg(test)]
mod tests {
    use hostconfig::{AddressSet, Section};

    use super::*;
    use crate::testing::Scratch;

    fn config() -> HostConfig {
        let mut config = HostConfig {
            incarnation: Uuid::from_u128(1),
            generation: Generation(7),
            ..HostConfig::default()
        };
        for n in 1..4 {
            let set = AddressSet {
                part: None,
                id: Uuid::from_u128(n).into(),
                members: ["10.0.0.1/32".parse().unwrap()].into(),
            };
            config.insert(Arc::new(Keyed::new(Section::AddressSet(set)).unwrap()));
        }
        config
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let dir = Scratch::new("state-kept");
        let port = Uuid::from_u128(5).into();
        let (seed, ports) = {
            let state = State::open(dir.path()).unwrap();
            assert_eq!(state.config().unwrap(), HostConfig::default());
            assert_eq!(state.ports().unwrap(), Ports::default());
            assert!(state.identity().unwrap().is_none());
            state.keep_config(&config()).unwrap();
            let mut ports = Ports::default();
            ports.zone(port);
            ports.attachments.insert(
                port,
                Attachment {
                    netns: "/run/netns/a".into(),
                    ifname: "eth0".into(),
                    fixed: true,
                },
            );
            state.keep_ports(&ports).unwrap();
            (state.seed().unwrap(), ports)
        };
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.config().unwrap(), config());
        assert_eq!(state.config().unwrap().digest(), config().digest());
        assert_eq!(state.ports().unwrap(), ports);
        assert_eq!(state.seed().unwrap(), seed);
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_taken_as_empty() {
        let dir = Scratch::new("state-damaged");
        let state = State::open(dir.path()).unwrap();
        state.keep_config(&config()).unwrap();
        let path = dir.path().join(CONFIG_NEXT);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(
            load::<StoredConfig>(&path),
            Err(StateError::Corrupt { .. })
        ));
        assert_eq!(state.config().unwrap(), HostConfig::default());
        assert!(!path.exists() && path.with_extension("corrupt").exists());
        for torn in [&b""[..], b"{}", b"{}\n", b"\xff\n\xff"] {
            fs::write(&path, torn).unwrap();
            assert!(matches!(
                load::<StoredConfig>(&path),
                Err(StateError::Corrupt { .. })
            ));
        }
    }

    #[test]
    fn a_config_that_was_not_flushed_is_the_last_one_unless_it_is_damaged() {
        let dir = Scratch::new("state-flush");
        let state = State::open(dir.path()).unwrap();
        state.flush_config().unwrap(); // none: nothing to do
        state.keep_config(&config()).unwrap();
        state.flush_config().unwrap();
        assert!(dir.path().join(CONFIG).exists() && !dir.path().join(CONFIG_NEXT).exists());
        let mut newer = config();
        newer.generation.0 += 1;
        state.keep_config(&newer).unwrap();
        assert_eq!(state.config().unwrap(), newer);
        // The machine stopped before it was flushed.
        fs::write(dir.path().join(CONFIG_NEXT), "").unwrap();
        assert_eq!(state.config().unwrap(), config());
    }

    #[test]
    fn what_was_replaced_is_known_after_a_restart() {
        let dir = Scratch::new("state-replaced");
        let state = State::open(dir.path()).unwrap();
        assert!(state.replaced().unwrap().is_empty());
        let replaced = [Uuid::from_u128(1), Uuid::from_u128(2)];
        state.keep_replaced(&replaced).unwrap();
        drop(state);
        let again = State::open(dir.path()).unwrap();
        assert_eq!(again.replaced().unwrap(), replaced);
    }

    #[test]
    fn a_file_of_another_name_is_not_taken() {
        let dir = Scratch::new("state-name");
        let state = State::open(dir.path()).unwrap();
        state.seed().unwrap();
        fs::copy(dir.path().join(HOST), dir.path().join(PORTS)).unwrap();
        assert_eq!(state.ports().unwrap(), Ports::default());
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = Scratch::new("state-newer");
        let state = State::open(dir.path()).unwrap();
        state.seed().unwrap();
        let path = dir.path().join(HOST);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
        let refused = state.seed().unwrap_err();
        assert!(
            matches!(refused, StateError::Newer { version: 2, .. }),
            "{refused}"
        );
        assert!(path.exists());
    }

    #[test]
    fn one_vswitch_holds_a_state_dir() {
        let dir = Scratch::new("state-lock");
        let first = State::open(dir.path()).unwrap();
        assert!(matches!(
            State::open(dir.path()),
            Err(StateError::Locked { .. })
        ));
        drop(first);
        State::open(dir.path()).unwrap();
    }

    #[test]
    fn files_are_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = Scratch::new("state-mode");
        let state = State::open(dir.path()).unwrap();
        state.seed().unwrap();
        let mode = fs::metadata(dir.path().join(HOST))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_zone_is_never_given_twice() {
        let mut ports = Ports::default();
        let (a, b) = (Uuid::from_u128(1).into(), Uuid::from_u128(2).into());
        let first = ports.zone(a);
        assert_eq!(ports.zone(a), first);
        ports.zones.remove(&a);
        let second = ports.zone(b);
        assert_ne!(second, first);
        assert_ne!(ports.zone(a), first);
    }
}
