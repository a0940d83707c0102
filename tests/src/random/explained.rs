//! Is what `explain` tells what happens?

use std::net::IpAddr;

use net::{DropReason, Fragment};
use vswitch::datapath::explain::{Ending, Step, explain_key};

use super::{Op, Player, Scenario};
use crate::{fabric::Fabric, plan::PortUuid, traffic::Between};

/// Each frame of a scenario, as the first thing that a fresh fabric sees: what `explain` tells is what happens on the sender's host.
pub fn explained(scenario: &Scenario) {
    let built = scenario.build();
    let sends = |op: &Op| matches!(op, Op::Send(..) | Op::Route(..));
    for (n, op) in scenario.ops.iter().enumerate().filter(|(_, op)| sends(op)) {
        let mut player = Player {
            fabric: Fabric::new(built.plan.clone()),
            oracles: vec![],
            built: scenario.build(),
            received: vec![],
            tcp_port: 20_000,
        };
        // What routers say unasked is nobody's answer.
        player.fabric.settle();
        player.fabric.receive();
        let (from, frames) = match op {
            Op::Send(from, to, kind, number, v6) => {
                let from = player.port(*from);
                let plan = player.fabric.plan.clone();
                let between = Between {
                    plan: &plan,
                    from,
                    to: player.peer(from, *to),
                    v6: *v6,
                };
                (from, player.frame(&between, (*kind, *number), &|f| f))
            }
            Op::Route(from, to, kind, number, v6, ttl) => {
                let from = player.port(*from);
                (from, player.routed(from, *to, (*kind, *number), *v6, *ttl))
            }
            _ => continue,
        };
        // A fragment that waits for its first goes nowhere yet.
        let goes = |frame: &&Vec<u8>| {
            net::Headers::parse(frame).is_ok_and(|(_, key)| key.ip_frag != Fragment::Later as u8)
        };
        if let Some(frame) = frames.iter().find(goes) {
            player.explained(&format!("step {n}, {op:?}"), from, frame);
        }
    }
}

impl Player {
    fn explained(&mut self, what: &str, from: PortUuid, frame: &[u8]) {
        let host = self.fabric.plan.host_of(from);
        let (headers, mut key) = net::Headers::parse(frame).unwrap();
        key.set_origin(net::Origin::Port(self.fabric.dense(from)));
        let len = frame.len() - usize::from(headers.l3_at);
        let tables = self.fabric.tables(host);
        let told = explain_key(tables, &key, Some(len), String::new(), self.fabric.now());
        let (before, sent) = (self.fabric.ledger(host), self.fabric.wires().counts().sent);
        let received = self.fabric.send(from, frame);
        let (after, sent_then) = (self.fabric.ledger(host), self.fabric.wires().counts().sent);
        let here = received
            .iter()
            .filter(|r| self.fabric.plan.host_of(r.port) == host);
        let mut here: Vec<String> = here.map(|r| r.port.to_string()).collect();
        let dropped = |reason: &str| {
            let reason = DropReason::ALL.iter().find(|r| r.name() == reason).unwrap();
            after.dropped(*reason) - before.dropped(*reason)
        };
        match &told.verdict {
            Ending::Delivered { to } => {
                let vteps = to.iter().filter(|t| t.parse::<IpAddr>().is_ok()).count();
                let mut ports: Vec<_> = to
                    .iter()
                    .filter(|t| t.parse::<IpAddr>().is_err())
                    .cloned()
                    .collect();
                ports.sort();
                here.sort();
                assert_eq!(ports, here, "{what}: {told}");
                assert_eq!(
                    sent_then - sent,
                    u64::try_from(vteps).unwrap(),
                    "{what}: {told}"
                );
            }
            Ending::Answered { .. } => {
                // By each router that speaks there. What a DHCPv6 client says decides whether it hears anything.
                here.dedup();
                let silent = here.is_empty() && key.l4_dst == 547;
                assert!(silent || here == [from.to_string()], "{what}: {told}");
            }
            Ending::Dropped { reason, .. } => {
                let hears = |step: &Step| step.says.contains("its sender is told");
                let hears = told.steps.iter().any(hears);
                let heard: Vec<_> = hears.then(|| from.to_string()).into_iter().collect();
                assert_eq!(here, heard, "{what}: {told}");
                assert_eq!(dropped(reason), 1, "{what}: {told}");
            }
        }
    }
}
