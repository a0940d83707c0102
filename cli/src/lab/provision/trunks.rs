//! Which API calls put a lab's workloads on trunks?

use anyhow::Context;
use serde_json::{Value, json};

use super::Inventory;
use crate::api::Api;
use crate::lab::plan::Lab;

pub(super) fn make(lab: &Lab, api: &Api, inventory: &Inventory) -> anyhow::Result<()> {
    let placed = |name: &str| {
        let placed = inventory.workloads.get(name);
        placed.with_context(|| format!("find the port of workload {name}"))
    };
    for trunk in &lab.trunks {
        let parent = placed(&trunk.parent)?;
        let sub_port = |sub: &crate::lab::file::RawSubPort| {
            let port = &placed(&sub.workload)?.port;
            let (kind, vlan) = ("vlan", sub.vlan);
            Ok(json!({"port_id": port, "segmentation_type": kind, "segmentation_id": vlan}))
        };
        let sub_ports = trunk.sub_ports.iter().map(sub_port);
        let sub_ports: Vec<Value> = sub_ports.collect::<anyhow::Result<_>>()?;
        let network = inventory.networks.get(&parent.network);
        let body = json!({
            "name": trunk.parent,
            "port_id": parent.port,
            "sub_ports": sub_ports,
            "project_id": network.map(|network| &network.project),
        });
        api.post("/v2.0/trunks", &json!({"trunk": body}))
            .with_context(|| format!("trunk of workload {}", trunk.parent))?;
    }
    Ok(())
}
