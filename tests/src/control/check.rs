//! What must hold at each step, and what after quiet?

use controller::{
    hosts::publish::Conn,
    resource::Objects,
    resources::{Network, Port, trunk::Trunking},
};
use hostconfig::{
    Section, SectionKey,
    wire::{self, from_controller},
};

use super::Region;

impl Region {
    /// Notes which sections the host now proves by running them with an open device.
    pub(super) fn prove(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).unwrap();
        let Some(running) = host.machine.running() else {
            return;
        };
        let open = host.machine.open();
        for (key, section) in &running.sections {
            let (SectionKey::Port(id), Section::Port(port)) = (key, section.body()) else {
                continue;
            };
            let network = running.sections.get(&SectionKey::Network(port.network));
            let up = network.is_some_and(
                |network| matches!(network.body(), Section::Network(network) if network.admin_up),
            );
            let device = port.trunk.map_or(*id, |trunk| trunk.parent);
            if port.admin_up && up && open.contains(&device) {
                host.proofs.insert((*id, section.hash()));
            }
        }
    }

    /// Is it no more than what differs?
    pub(super) fn check_update(&mut self, conn: Conn, message: &wire::FromController) {
        let Some(from_controller::Message::Update(update)) = &message.message else {
            return;
        };
        let link = self.links.get_mut(&conn).unwrap();
        let host = &link.host;
        let believed = link.believed.as_mut().expect("it said hello");
        if update.whole {
            assert!(link.blank, "{host} named what it holds and is told all");
            believed.clear();
        }
        for section in &update.upserts {
            let before = believed.insert(section.key.clone(), section.hash.clone());
            let same = before.as_ref() == Some(&section.hash);
            assert!(!same, "{host} holds {} and is told it again", section.key);
        }
        for key in &update.removals {
            assert!(believed.remove(key).is_some(), "{host} does not hold {key}");
        }
    }

    /// Is every port that is shown as ACTIVE proved?
    pub(super) fn check_status(&self) {
        let brain = self.brain();
        let compiler = brain.publisher.compiler();
        let settled = |name: &str| {
            let mut links = self.links.values().rev();
            links
                .find(|link| {
                    link.host == name && link.reign == self.reign && link.believed.is_some()
                })
                .is_some_and(|link| link.settled)
        };
        for (name, host) in &self.hosts {
            let Some(config) = compiler.config(&name.as_str().into()) else {
                continue;
            };
            for (key, section) in &config.sections {
                let SectionKey::Port(id) = key else { continue };
                let active = brain.core.status.is_port_realised(id.uuid(), host.id);
                let proved = host.proofs.contains(&(*id, section.hash()));
                assert!(
                    !active || proved || !settled(name),
                    "port {id} is ACTIVE, {name} has not proved it"
                );
            }
        }
    }

    /// What a host runs differs from what the store says of it; or what the controller knows of it is not so.
    fn complaint_of(&self, name: &str) -> Option<String> {
        let (brain, host) = (self.brain(), &self.hosts[name]);
        let wanted = brain.wanted(name)?;
        let compiled = brain.publisher.compiler().config(&name.into())?;
        if compiled.digest() != wanted.digest() {
            return Some("the compiler has not followed the store".to_owned());
        }
        let Some(running) = host.machine.running() else {
            return Some("it runs nothing".to_owned());
        };
        if running.incarnation != wanted.incarnation || running.digest() != wanted.digest() {
            let plan = hostconfig::diff::plan(&running, &wanted);
            let lacks: Vec<_> = plan.upserts.iter().map(|s| s.key().to_string()).collect();
            return Some(format!("it lacks {lacks:?}, has {:?}", plan.removals));
        }
        let lag = brain.publisher.lags().find(|(at, _)| at.as_str() == name);
        match lag {
            None => Some("it has no session".to_owned()),
            Some((_, 0)) => None,
            Some((_, lag)) => Some(format!("it has not proved the last {lag} generations")),
        }
    }

    /// Asserts that every host that can be reached has what the store says, and that every port is ACTIVE that can be.
    pub fn assert_converged(&self) {
        for (name, host) in &self.hosts {
            if host.agent.is_none() || host.away {
                continue;
            }
            if let Some(complaint) = self.complaint_of(name) {
                panic!("{name}: {complaint}\n{}", self.tail());
            }
        }
        let snapshot = self.brain().snapshot();
        for port in snapshot.objects::<Port>() {
            let network = snapshot.object::<Network>(port.network_id);
            let (device, carried) = match port.trunk {
                Some(Trunking::SubPort { parent, up, .. }) => (parent, up),
                Some(Trunking::Parent { .. }) | None => (port.meta.id, true),
            };
            let up = port.admin_state_up && network.unwrap().admin_state_up && carried;
            let Some(host) = self.hosts.get(&port.host) else {
                assert_eq!(
                    self.status(port.meta.id),
                    "DOWN",
                    "unbound {}",
                    port.meta.id
                );
                continue;
            };
            if host.agent.is_none() || host.away {
                continue;
            }
            let open = host.machine.open().contains(&device.into());
            let expected = if up && open { "ACTIVE" } else { "DOWN" };
            let status = self.status(port.meta.id);
            assert_eq!(
                status,
                expected,
                "{} of {}\n{}",
                port.meta.id,
                port.host,
                self.tail()
            );
            assert!(open || !self.workloads, "{} is not attached", port.meta.id);
        }
    }
}
