//! Which API calls lead a lab's routers outside, and give workloads addresses there?

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::json;

use super::{Inventory, Projects, project_id, set};
use crate::api::Api;
use crate::lab::plan::Lab;

/// Routers by their projects' ids and names.
pub(super) type Routers = BTreeMap<(String, String), String>;

/// Gateways after all that has a chosen address, then floating IPs.
pub(super) fn lead(
    lab: &Lab,
    api: &Api,
    projects: &Projects,
    routers: &Routers,
    inventory: &Inventory,
) -> anyhow::Result<()> {
    let network = |name: &str| {
        let made = inventory.networks.get(name);
        made.map(|made| &made.id)
            .context("find the external network's id")
    };
    for gateway in &lab.gateways {
        let project = project_id(projects, gateway.project.as_deref())?;
        let router = routers.get(&(project, gateway.router.clone()));
        let router = router.context("find the router's id")?;
        let mut info = json!({"network_id": network(&gateway.network)?});
        set(&mut info, "enable_snat", gateway.snat);
        let body = json!({"router": {"external_gateway_info": info}});
        api.put(&format!("/v2.0/routers/{router}"), &body)
            .with_context(|| format!("gateway of router {}", gateway.router))?;
    }
    for floating in &lab.floating_ips {
        let placed = inventory.workloads.get(&floating.workload);
        let placed = placed.context("find the workload's port")?;
        let of = inventory.networks.get(&placed.network);
        let mut body = json!({
            "floating_network_id": network(&floating.network)?,
            "port_id": placed.port,
            "project_id": of.map(|network| &network.project),
        });
        set(&mut body, "floating_ip_address", floating.ip);
        api.post("/v2.0/floatingips", &json!({"floatingip": body}))
            .with_context(|| format!("floating IP of workload {}", floating.workload))?;
    }
    Ok(())
}
