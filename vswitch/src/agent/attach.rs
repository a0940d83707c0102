//! How does a workload get its device?
//!
//! Somebody on this host asks for a port's device in a namespace. That may come before the controller's word of the port:
//! the request waits for it, and for the port to be ACTIVE. The attachment is on disk before the device is made, so that a
//! crash in between leaves nothing that nobody knows of.
//!
//! # Failure
//! An open tap keeps its namespace alive, also when nothing else does. So the switch lets go of it when the namespace's name
//! is gone, or names another one: looked after every [`LOOK_EVERY`], and whenever the port is attached.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostconfig::{FunctionKind, HostConfig, Location, Section, SectionKey};
use net::{Id, Now, ids::kind};
use serde_json::json;
use tracing::{info, warn};

use super::{
    Agent, DeviceError, Switch, Wanted, Wire, device::netns_at, report::Device, state::Attachment,
};
use crate::{
    io::{netns::Netns, tap::IfName},
    local::{Answer, Attach, Refusal, Reply, code},
};

/// For the port's config, and for the port to be ACTIVE.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a port that is bound elsewhere: long enough for a binding that just changed.
const PATIENCE_ELSEWHERE: Duration = Duration::from_secs(2);
/// How long a namespace that was deleted may live on.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Requests that wait at a time.
const WAITING_MAX: usize = 1024;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    attach: Attach,
    at: Attachment,
    reply: Reply,
    since: Now,
    pub(super) deadline: Now,
}

impl Waiting {
    pub(super) fn refuse(self, refusal: Refusal) {
        drop(self.reply.send(Err(refusal))); // a caller that did not wait
    }
}

/// How far a request got.
enum Step {
    Done(Answer),
    Refused(Refusal),
    /// Not yet; what to say when this long was too long.
    Later(Refusal, Duration),
}

impl<S: Switch, W: Wire> Agent<S, W> {
    pub(super) fn attach(&mut self, attach: Attach, reply: Reply, now: Now) {
        let refuse = |reply: Reply, refusal| drop(reply.send(Err(refusal)));
        if self.waiting.len() >= WAITING_MAX {
            let full = "too many attachments wait already";
            return refuse(reply, Refusal::new(code::UNAVAILABLE, full));
        }
        if let Err(invalid) = attach.ifname.parse::<IfName>() {
            return refuse(reply, Refusal::new(code::BAD_REQUEST, invalid.to_string()));
        }
        let Netns::Path(path) = Netns::named(&attach.netns) else {
            return refuse(
                reply,
                Refusal::new(code::BAD_REQUEST, "no namespace is named"),
            );
        };
        let Some(netns) = resolved(&path) else {
            let missing = format!("no such network namespace: {}", path.display());
            return refuse(reply, Refusal::new(code::NO_NAMESPACE, missing));
        };
        let at = Attachment {
            netns,
            ifname: attach.ifname.clone(),
            fixed: attach.fixed,
        };
        self.waiting.push(Waiting {
            attach,
            at,
            reply,
            since: now,
            deadline: now + PATIENCE,
        });
    }

    /// Serves the requests that can be, and refuses those that waited too long.
    pub(super) fn attach_waiting(&mut self, now: Now) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            match self.try_attach(waiting.attach.port, &waiting.at) {
                Step::Done(answer) => drop(waiting.reply.send(Ok(answer))),
                Step::Refused(refusal) => waiting.refuse(refusal),
                Step::Later(refusal, patience) => {
                    waiting.deadline = waiting.since + patience;
                    if now >= waiting.deadline {
                        waiting.refuse(refusal);
                    } else {
                        self.waiting.push(waiting);
                    }
                }
            }
        }
    }

    fn try_attach(&mut self, port: Id<kind::Port>, at: &Attachment) -> Step {
        self.let_go_of_lost(Some(port));
        if let Some(step) = self.conflict(port, at) {
            return step;
        }
        let config = Arc::clone(&self.running.config);
        let Some((section, network)) = sections(&config, port) else {
            return self.absent(port);
        };
        if let Some(trunk) = section.trunk {
            let (parent, vlan) = (trunk.parent, trunk.vlan);
            let text = format!(
                "port {port} is a sub-port of a trunk: attach its parent {parent}, whose frames with VLAN {vlan} are this port's"
            );
            return Step::Refused(Refusal::new(code::SUB_PORT, text));
        }
        if self.devices.get(&port) != Some(&Device::Open) {
            let before = self.ports.attachments.insert(port, at.clone());
            self.keep_ports();
            let wanted = Wanted {
                port: section,
                network,
                at,
                labelled: is_labelled(&self.running.config, port),
            };
            if let Err(error) = self.switch.create(&wanted) {
                match before {
                    Some(before) => self.ports.attachments.insert(port, before),
                    None => self.ports.attachments.remove(&port),
                };
                self.keep_ports();
                return Step::Refused(Refusal::new(error.code, error.message));
            }
            self.opened(port, at);
            let old = before.filter(|old| (&old.netns, &old.ifname) != (&at.netns, &at.ifname));
            if let Some(old) = old
                && let Err(error) = self.switch.delete(port, &old)
            {
                warn!(%port, %error, "the port's device of before is left behind");
            }
            info!(%port, netns = %at.netns.display(), ifname = at.ifname, "attached");
        }
        match self.states().get(&port) {
            Some(state) if state.active => Step::Done(Answer {
                ok: json!({
                    "port": port, "active": true, "netns": at.netns, "ifname": at.ifname,
                    "mac": section.mac, "mtu": network.mtu,
                    "addresses": section.fixed_ips.iter().map(|ip| ip.addr).collect::<Vec<_>>(),
                }),
                text: format!(
                    "port {port} is ACTIVE as {} in {}\n",
                    at.ifname,
                    at.netns.display()
                ),
            }),
            Some(state) => Step::Later(
                Refusal::new(
                    code::TIMEOUT,
                    format!("port {port} is attached, but not ACTIVE: {}", state.reason),
                ),
                PATIENCE,
            ),
            None => self.absent(port),
        }
    }

    /// Is the port's device elsewhere, or another's here?
    fn conflict(&self, port: Id<kind::Port>, at: &Attachment) -> Option<Step> {
        let open = self.devices.get(&port) == Some(&Device::Open);
        if let Some(is) = self.ports.attachments.get(&port)
            && open
            && (&is.netns, &is.ifname) != (&at.netns, &at.ifname)
        {
            return Some(Step::Refused(Refusal::new(
                code::ATTACHED_ELSEWHERE,
                format!(
                    "port {port} is attached as {} in {}; `overweave port detach {port}` first",
                    is.ifname,
                    is.netns.display()
                ),
            )));
        }
        let other = self.ports.attachments.iter().find(|(id, other)| {
            **id != port && (&other.netns, &other.ifname) == (&at.netns, &at.ifname)
        });
        let (other, _) = other.filter(|(id, _)| self.devices.get(id) == Some(&Device::Open))?;
        Some(Step::Refused(Refusal::new(
            code::NAME_TAKEN,
            format!("{} in {} is port {other}", at.ifname, at.netns.display()),
        )))
    }

    /// What is known of a port that this host does not run.
    fn absent(&self, port: Id<kind::Port>) -> Step {
        let told = &self.running.told.sections;
        if told.contains_key(&SectionKey::Port(port)) {
            let key = SectionKey::Port(port).to_string();
            let complaint = self.running.complaints.iter().find(|c| c.key == key);
            let why = complaint.map_or("its config can't be realised", |c| &c.text);
            return Step::Later(
                Refusal::new(code::TIMEOUT, format!("port {port}: {why}")),
                PATIENCE,
            );
        }
        let endpoint = told
            .get(&SectionKey::Endpoint(port))
            .map(|s| s.body().clone());
        if let Some(Section::Endpoint(endpoint)) = endpoint {
            let place = match endpoint.at {
                Location::Vtep(vtep) => match self.host_of(vtep) {
                    Some(host) => format!("bound to host {host}"),
                    None => format!("bound to the host with VTEP {vtep}"),
                },
                Location::Virtual => "a virtual address of every switch".to_owned(),
            };
            let message = format!(
                "port {port} is {place}; bind it here with `openstack port set --host {} {port}`",
                self.me.host
            );
            return Step::Later(
                Refusal::new(code::BOUND_ELSEWHERE, message),
                PATIENCE_ELSEWHERE,
            );
        }
        let mut message = format!(
            "the controller told this host ({}) of no port {port}; check its id, and bind it with `openstack port set --host {} {port}`",
            self.me.host, self.me.host
        );
        if !self.session.is_connected() {
            message.push_str(" (this host is not connected to its controller)");
        }
        Step::Later(Refusal::new(code::UNKNOWN_PORT, message), PATIENCE)
    }

    fn host_of(&self, vtep: std::net::IpAddr) -> Option<String> {
        let vteps = self.running.told.sections.get(&SectionKey::Vteps)?;
        let Section::Vteps(vteps) = vteps.body() else {
            return None;
        };
        let known = vteps.vteps.get(&vtep)?;
        (!known.host.is_empty()).then(|| known.host.clone())
    }

    pub(super) fn detach(&mut self, port: Id<kind::Port>) -> Result<Answer, Refusal> {
        let Some(at) = self.ports.attachments.get(&port).cloned() else {
            let nothing = format!("port {port} is not attached on this host");
            return Err(Refusal::new(code::NOT_ATTACHED, nothing));
        };
        self.switch.close(port);
        self.devices.remove(&port);
        if let Err(DeviceError { code, message }) = self.switch.delete(port, &at) {
            // The attachment stays known, so that detaching can be tried again.
            self.devices.insert(port, Device::Broken(message.clone()));
            return Err(Refusal::new(code, message));
        }
        self.ports.attachments.remove(&port);
        self.keep_ports();
        info!(%port, "detached");
        Ok(Answer {
            ok: json!({"port": port}),
            text: format!("port {port} is detached\n"),
        })
    }

    /// Makes the devices follow the config that the workers now run; `old` is what they ran before.
    pub(super) fn follow(&mut self, old: &HostConfig) {
        let config = Arc::clone(&self.running.config);
        for (id, at) in self.ports.attachments.clone() {
            let own = sections(&config, id).filter(|(port, _)| port.trunk.is_none());
            let Some((port, network)) = own else {
                // Unbound, or its trunk's parent has it: the device stays in its namespace, without a carrier.
                if self.devices.remove(&id).is_some() {
                    self.switch.close(id);
                }
                continue;
            };
            let wanted = Wanted {
                port,
                network,
                at: &at,
                labelled: is_labelled(&config, id),
            };
            let done = match self.devices.get(&id) {
                Some(Device::Open) => match sections(old, id) {
                    Some((p, n))
                        if p.mac == port.mac
                            && n.mtu == network.mtu
                            && is_labelled(old, id) == wanted.labelled =>
                    {
                        continue;
                    }
                    _ => self.switch.change(&wanted),
                },
                Some(Device::Broken(_)) => continue, // until someone attaches it again
                None => self.switch.open(&wanted).map(|()| {
                    self.opened(id, &at);
                }),
            };
            if let Err(error) = done {
                warn!(port = %id, %error, "no device");
                self.switch.close(id);
                self.devices.insert(id, Device::Broken(error.message));
            }
        }
    }

    fn opened(&mut self, port: Id<kind::Port>, at: &Attachment) {
        self.devices.insert(port, Device::Open);
        match netns_at(&at.netns) {
            Some(netns) => drop(self.inside.insert(port, netns)),
            None => drop(self.inside.remove(&port)),
        }
    }

    /// Lets go of devices whose namespace is gone, or of one that is.
    pub(super) fn let_go_of_lost(&mut self, only: Option<Id<kind::Port>>) {
        let attachments = &self.ports.attachments;
        let lost: Vec<_> = self
            .devices
            .iter()
            .filter(|(id, device)| **device == Device::Open && only.is_none_or(|o| o == **id))
            .map(|(id, _)| *id)
            .filter(|id| {
                let now = attachments.get(id).and_then(|at| netns_at(&at.netns));
                now.is_none() || now.as_ref() != self.inside.get(id)
            })
            .collect();
        for port in lost {
            warn!(%port, "the port's network namespace is gone");
            self.switch.close(port);
            let why = "its network namespace is gone; attach the port again";
            self.devices.insert(port, Device::Broken(why.to_owned()));
        }
    }

    /// An attachment of a port that nobody knows any more, in a namespace that is gone, is history.
    pub(super) fn forget_lost_attachments(&mut self, told: &HostConfig) {
        let lost = |id: &Id<kind::Port>, netns: &PathBuf| {
            !told.sections.contains_key(&SectionKey::Port(*id)) && !netns.exists()
        };
        self.ports.attachments.retain(|id, at| !lost(id, &at.netns));
    }
}

/// One spelling of a namespace's path: its directory's own. The file itself may be a link that leads nowhere by name
/// (`/proc/PID/ns/net`).
fn resolved(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?.canonicalize().ok()?;
    path.exists().then_some(dir.join(path.file_name()?))
}

/// A port and its network, if the workers run them.
/// Do frames go to a port, and come from it, under labels?
fn is_labelled(config: &HostConfig, port: Id<kind::Port>) -> bool {
    let functions = config.sections.values().flat_map(|section| {
        if let Section::Chain(chain) = section.body() {
            chain.functions.as_slice()
        } else {
            &[]
        }
    });
    let mut instances = functions.flat_map(|function| {
        if let FunctionKind::Appliance(appliance) = &function.kind {
            appliance.instances.as_slice()
        } else {
            &[]
        }
    });
    instances.any(|i| i.labelled && [i.ingress, i.egress].contains(&port))
}

fn sections(
    config: &HostConfig,
    port: Id<kind::Port>,
) -> Option<(&hostconfig::Port, &hostconfig::Network)> {
    let Section::Port(port) = config.sections.get(&SectionKey::Port(port))?.body() else {
        return None;
    };
    let network = config.sections.get(&SectionKey::Network(port.network))?;
    let Section::Network(network) = network.body() else {
        return None;
    };
    Some((port, network))
}
