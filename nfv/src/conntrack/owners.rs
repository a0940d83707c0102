//! Whose connections are there, and which of them may go?
//!
//! Counts by port and by project, and for each port a list of its expendable connections (half open, or over), the oldest at
//! its head.
//!
//! # Invariants
//! - A connection is in its port's list if and only if its stage is expendable.
//! - The counts are the numbers of entries; an owner without any is forgotten, so the maps are bounded by the table.
//!
//! # Attack
//! Whoever floods with half-open connections loses its own first: its port's when the port is at its limit, those of the
//! project's greediest port at the project's, those of the greediest port of all when the table is full.
//!
//! # Cost
//! 8 bytes a connection. The greediest port is remembered; it is looked for among all when that one has none left.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use net::PortId;

use super::ConnId;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

const UNLINKED: Link = Link {
    older: NONE,
    newer: NONE,
};

#[derive(Debug, Clone, Copy)]
struct PortOwner {
    connections: u32,
    expendable: u32,
    oldest: u32,
    newest: u32,
    project: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct ProjectOwner {
    connections: u32,
    greediest: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Owners {
    ports: HashMap<u32, PortOwner, FixedState>,
    projects: HashMap<u32, ProjectOwner, FixedState>,
    greediest: Option<u32>,
    links: Vec<Link>,
}

impl Owners {
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Self {
            ports: HashMap::with_hasher(FixedState::with_seed(seed)),
            projects: HashMap::with_hasher(FixedState::with_seed(seed)),
            greediest: None,
            links: vec![UNLINKED; capacity],
        }
    }

    /// How many bytes of memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
            + self.ports.allocation_size()
            + self.projects.allocation_size()
    }

    pub(super) fn of_port(&self, port: PortId) -> u32 {
        self.ports.get(&port.0).map_or(0, |p| p.connections)
    }

    pub(super) fn of_project(&self, project: u32) -> u32 {
        self.projects.get(&project).map_or(0, |p| p.connections)
    }

    /// Counts a connection.
    pub(super) fn add(&mut self, port: PortId, project: u32) {
        let owner = self.ports.entry(port.0).or_insert(PortOwner {
            connections: 0,
            expendable: 0,
            oldest: NONE,
            newest: NONE,
            project,
        });
        owner.connections += 1;
        owner.project = project;
        self.projects.entry(project).or_default().connections += 1;
    }

    /// Counts a connection no more; it must be out of the list.
    pub(super) fn take(&mut self, port: PortId, project: u32) {
        if let Some(owner) = self.ports.get_mut(&port.0) {
            owner.connections = owner.connections.saturating_sub(1);
            if owner.connections == 0 {
                self.ports.remove(&port.0);
            }
        }
        if let Some(owner) = self.projects.get_mut(&project) {
            owner.connections = owner.connections.saturating_sub(1);
            if owner.connections == 0 {
                self.projects.remove(&project);
            }
        }
    }

    fn link(&mut self, at: u32) -> Option<&mut Link> {
        self.links.get_mut(at as usize)
    }

    /// Says that a connection is expendable: `first` (it is over) or last (it has just begun) of its port's.
    pub(super) fn list(&mut self, conn: ConnId, port: PortId, first: bool) {
        let Some(owner) = self.ports.get_mut(&port.0) else {
            return;
        };
        owner.expendable += 1;
        let (count, project) = (owner.expendable, owner.project);
        let link = if first {
            let older = std::mem::replace(&mut owner.oldest, conn.0);
            if older == NONE {
                owner.newest = conn.0;
            }
            Link {
                older: NONE,
                newer: older,
            }
        } else {
            let newer = std::mem::replace(&mut owner.newest, conn.0);
            if newer == NONE {
                owner.oldest = conn.0;
            }
            Link {
                older: newer,
                newer: NONE,
            }
        };
        if let Some(l) = self.link(link.newer) {
            l.older = conn.0;
        }
        if let Some(l) = self.link(link.older) {
            l.newer = conn.0;
        }
        if let Some(l) = self.link(conn.0) {
            *l = link;
        }
        if count > self.expendable_of(self.greediest) {
            self.greediest = Some(port.0);
        }
        let of_project = self.projects.get(&project).and_then(|p| p.greediest);
        if count > self.expendable_of(of_project)
            && let Some(p) = self.projects.get_mut(&project)
        {
            p.greediest = Some(port.0);
        }
    }

    /// Says that a listed connection is expendable no more.
    pub(super) fn unlist(&mut self, conn: ConnId, port: PortId) {
        let Some(link) = self.link(conn.0) else {
            return;
        };
        let Link { older, newer } = std::mem::replace(link, UNLINKED);
        if let Some(l) = self.link(older) {
            l.newer = newer;
        }
        if let Some(l) = self.link(newer) {
            l.older = older;
        }
        if let Some(owner) = self.ports.get_mut(&port.0) {
            owner.expendable = owner.expendable.saturating_sub(1);
            if owner.oldest == conn.0 {
                owner.oldest = newer;
            }
            if owner.newest == conn.0 {
                owner.newest = older;
            }
        }
    }

    fn expendable_of(&self, port: Option<u32>) -> u32 {
        port.and_then(|p| self.ports.get(&p))
            .map_or(0, |p| p.expendable)
    }

    fn oldest_of(&self, port: u32) -> Option<ConnId> {
        let owner = self.ports.get(&port)?;
        (owner.oldest != NONE).then_some(ConnId(owner.oldest))
    }

    /// The first of the port's connections to go.
    pub(super) fn expendable_in_port(&self, port: PortId) -> Option<ConnId> {
        self.oldest_of(port.0)
    }

    /// The first of the project's connections to go.
    pub(super) fn expendable_in_project(&mut self, project: u32) -> Option<ConnId> {
        let known = self.projects.get(&project).and_then(|p| p.greediest);
        // A port may have moved to another project since.
        let known = known.filter(|p| self.ports.get(p).is_some_and(|o| o.project == project));
        let port = if self.expendable_of(known) > 0 {
            known
        } else {
            self.look_for_greediest(|owner| owner.project == project)
        };
        if let Some(p) = self.projects.get_mut(&project) {
            p.greediest = port;
        }
        self.oldest_of(port?)
    }

    /// The first connection of all to go.
    pub(super) fn expendable_anywhere(&mut self) -> Option<ConnId> {
        if self.expendable_of(self.greediest) == 0 {
            self.greediest = self.look_for_greediest(|_| true);
        }
        self.oldest_of(self.greediest?)
    }

    fn look_for_greediest(&self, is: impl Fn(&PortOwner) -> bool) -> Option<u32> {
        let owners = self.ports.iter().filter(|(_, o)| o.expendable > 0 && is(o));
        owners
            .max_by_key(|(port, o)| (o.expendable, **port))
            .map(|(port, _)| *port)
    }
}
