//! Where does this host stand?
//!
//! For people (`status`), for supervisors (`/healthz`), for monitors (the agent's part of `/metrics`).

use std::fmt::Write as _;

use hostconfig::{Section, SectionKey, group::Direction};
use net::{Id, ids::kind};
use serde_json::{Value, json};

use super::{Agent, Switch, Wire};
use crate::{
    local::{Answer, Refusal, code},
    stats::{Metric, MetricKind, metric},
};

/// The agent's metrics, in the order of their values below.
pub const METRICS: &[Metric] = &[
    metric(
        "vswitch_controller_connected",
        MetricKind::Gauge,
        &[],
        "Does a stream to the controller stand?",
    ),
    metric(
        "vswitch_config_generation",
        MetricKind::Gauge,
        &[],
        "The generation that the workers run.",
    ),
    metric(
        "vswitch_configs_applied_total",
        MetricKind::Counter,
        &[],
        "Configs that the workers were made to run.",
    ),
    metric(
        "vswitch_config_complaints",
        MetricKind::Gauge,
        &[],
        "Sections that could not be realised.",
    ),
    metric(
        "vswitch_config_sections",
        MetricKind::Gauge,
        &[],
        "Sections of the config.",
    ),
    metric(
        "vswitch_ports_bound",
        MetricKind::Gauge,
        &[],
        "Ports that the controller bound to this host.",
    ),
    metric(
        "vswitch_ports_active",
        MetricKind::Gauge,
        &[],
        "Ports that this host proved to be forwarding.",
    ),
    PART,
];

/// One for each limit, behind the others.
const PART: Metric = metric(
    "vswitch_limit_part_bits_per_second",
    MetricKind::Gauge,
    &["policy", "direction"],
    "What this host has now of a QoS policy's limit that all hosts share.",
);

impl<S: Switch, W: Wire> Agent<S, W> {
    /// Joined and configured?
    pub(super) fn health(&self) -> Result<Answer, Refusal> {
        if self.tls.is_none() {
            return Err(Refusal::new(code::UNAVAILABLE, self.unjoined.clone()));
        }
        if self.running.told.incarnation.is_nil() {
            let why = if self.session.is_connected() {
                "connected, but told nothing yet"
            } else {
                "joined, but not connected to the controller yet"
            };
            return Err(Refusal::new(code::UNAVAILABLE, why));
        }
        Ok(Answer {
            ok: json!({"healthy": true}),
            text: "ok\n".to_owned(),
        })
    }

    /// All of it; `switch` is the workers' part.
    pub(super) fn status(&self, switch: &Value) -> Answer {
        let told = &self.running.told;
        let connected = self.session.is_connected();
        let link = match (&self.tls, connected) {
            (None, _) => self.unjoined.as_str(),
            (Some(_), true) => "connected",
            (Some(_), false) => "not connected; forwarding on",
        };
        let complaints = &self.running.complaints;
        let mut text = format!(
            "host {} (vtep {}), {} workers\ncontroller {}: {link}\ngeneration {}, {} sections, {} complaints\n",
            self.me.host,
            self.me.underlay.vtep,
            self.me.workers,
            self.me.controller,
            told.generation,
            told.sections.len(),
            complaints.len(),
        );
        let mut ports = Vec::new();
        for (id, state) in &self.states() {
            let name = self.port(*id).map_or("", |port| &port.name);
            let attachment = self.ports.attachments.get(id);
            let trunk = self.port(*id).and_then(|port| port.trunk);
            let place = match (trunk, attachment) {
                (Some(trunk), _) => format!("vlan {} of {}", trunk.vlan, trunk.parent),
                (None, Some(a)) => format!("{} in {}", a.ifname, a.netns.display()),
                (None, None) => "-".to_owned(),
            };
            let word = if state.active { "ACTIVE" } else { "DOWN" };
            // Writing to a String does not fail.
            writeln!(text, "port {id} {name} {word} {place} {}", state.reason).unwrap_or_default();
            ports.push(json!({
                "id": id, "name": name, "attached": state.attached, "active": state.active,
                "reason": state.reason, "attachment": attachment, "trunk": trunk,
            }));
        }
        let limits = self.limits(&mut text);
        let complaints: Vec<_> = complaints
            .iter()
            .map(|c| json!({"section": c.key, "text": c.text}))
            .collect();
        let ok = json!({
            "host": self.me.host,
            "version": env!("CARGO_PKG_VERSION"),
            "vtep": self.me.underlay.vtep,
            "underlay_mtu": self.me.underlay.mtu,
            "workers": self.me.workers,
            "switch": switch,
            "controller": self.me.controller,
            "joined": self.tls.is_some(),
            "connected": connected,
            "incarnation": told.incarnation,
            "generation": told.generation,
            "sections": told.sections.len(),
            "ports": ports,
            "limits": limits,
            "complaints": complaints,
        });
        Answer { ok, text }
    }

    fn port(&self, id: Id<kind::Port>) -> Option<&hostconfig::Port> {
        let section = self.running.told.sections.get(&SectionKey::Port(id))?;
        let Section::Port(port) = section.body() else {
            return None;
        };
        Some(port)
    }

    /// The agent's own metrics, in Prometheus' text format, behind those of the switch.
    pub(super) fn metrics(&self, text: &mut String) {
        let states = self.states();
        let running = &self.running;
        let values = [
            u64::from(self.session.is_connected()),
            running.told.generation.get(),
            self.applied,
            count(running.complaints.len()),
            count(running.told.sections.len()),
            count(states.len()),
            count(states.values().filter(|s| s.active).count()),
        ];
        for (metric, value) in METRICS.iter().zip(values) {
            let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
            // Writing to a String does not fail.
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )
            .unwrap_or_default();
        }
        let (name, kind, help) = (PART.name, PART.kind.name(), PART.help);
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
        for (way, (part, _)) in &self.parts.shown {
            let (policy, direction) = (way.node, word(way.direction));
            let labels = format!("policy=\"{policy}\",direction=\"{direction}\"");
            writeln!(text, "{name}{{{labels}}} {part}").unwrap_or_default();
        }
    }

    /// What this host has of limits that it shares with others: a line and an object for each.
    pub(super) fn limits(&self, text: &mut String) -> Value {
        let shown = self.parts.shown.iter();
        shown
            .map(|(way, (part, limit))| {
                let (policy, direction) = (way.node, word(way.direction));
                // Writing to a String does not fail.
                writeln!(
                    text,
                    "limit {policy} {direction}: {part} of {limit} bit/s here"
                )
                .unwrap_or_default();
                json!({"policy": policy, "direction": direction, "part_bps": part, "limit_bps": limit})
            })
            .collect()
    }
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
