//! Availability zones: what hosts say, and what names them.

use super::*;
use crate::{hosts::Seat, resources::Host};

const ZONES: &str = "/v2.0/availability_zones";

impl Cloud {
    /// A host that said that it is in a zone.
    async fn host_in(&self, name: &str, zone: &str) {
        self.host_on(name, &[]).await;
        let host = Host::by_name(&self.api.core.store.snapshot(), name).unwrap();
        self.stands(host.meta.id, &[], zone).await;
    }
}

fn zone(name: &str, resource: &str, state: &str) -> Value {
    json!({"name": name, "resource": resource, "state": state})
}

#[tokio::test]
async fn zones_are_those_that_hosts_say_and_go_with_them() {
    let cloud = Cloud::new().await;
    assert_eq!(
        cloud.get("a", ZONES).await.1,
        json!({"availability_zones": []}),
        "there is no host"
    );
    cloud.host_on("h1", &[]).await;
    cloud.host_in("h2", "west").await;
    let body = json!({"name": "far", "vtep": "192.0.2.9"});
    let hosts = "/v2.0/overweave/hosts";
    cloud.made("admin", hosts, "host", body).await;
    let (_, all) = cloud.get("a", ZONES).await;
    let nova = [
        zone("nova", "network", "available"),
        zone("nova", "router", "available"),
    ];
    let west = zone("west", "router", "available");
    let mut listed = nova.to_vec();
    listed.extend([zone("west", "network", "available"), west.clone()]);
    assert_eq!(all, json!({"availability_zones": listed}));
    let path = format!("{ZONES}?name=west&resource=router");
    let (_, one) = cloud.get("a", &path).await;
    assert_eq!(one, json!({"availability_zones": [west]}));
    let (_, agents) = cloud.get("admin", "/v2.0/agents?host=h2").await;
    let agent = &agents["agents"][0];
    assert_eq!(agent["availability_zone"], "west");
    // A zone without a host in service is not available; one without a host is none.
    let path = format!("/v2.0/agents/{}", id(agent));
    let down = json!({"agent": {"admin_state_up": false}});
    assert_eq!(cloud.ask("admin", "PUT", &path, down).await.0, 200);
    let (_, one) = cloud
        .get("a", &format!("{ZONES}?name=west&fields=state"))
        .await;
    let state = json!({"state": "unavailable"});
    assert_eq!(one, json!({"availability_zones": [state, state]}));
    assert_eq!(
        cloud.ask("admin", "DELETE", &path, Value::Null).await.0,
        204
    );
    let (_, all) = cloud.get("a", ZONES).await;
    assert_eq!(all, json!({"availability_zones": nova}));
}

#[tokio::test]
async fn routers_and_networks_name_zones_that_are_there() {
    let cloud = Cloud::new().await;
    cloud.host_in("h1", "west").await;
    let hints = json!({"availability_zone_hints": ["west"]});
    for (path, key) in [("/v2.0/routers", "router"), ("/v2.0/networks", "network")] {
        let made = cloud.made("a", path, key, hints.clone()).await;
        assert_eq!(made["availability_zone_hints"], json!(["west"]));
        assert_eq!(made["availability_zones"], json!([]), "it is nowhere yet");
        let plain = cloud.made("a", path, key, json!({})).await;
        assert_eq!(plain["availability_zone_hints"], json!([]));
        for (hints, status, kind) in [
            (json!(["west", "mars"]), 404, "AvailabilityZoneNotFound"),
            (json!(["nova"]), 404, "AvailabilityZoneNotFound"),
            (json!("west"), 400, "HTTPBadRequest"),
            (json!([7]), 400, "HTTPBadRequest"),
            (json!(vec!["west"; 65]), 400, "HTTPBadRequest"),
        ] {
            let body = json!({key: {"availability_zone_hints": hints}});
            cloud.refused("a", "POST", path, body, status, kind).await;
        }
        let one = format!("{path}/{}", id(&made));
        let body = json!({key: hints});
        cloud
            .refused("a", "PUT", &one, body, 400, "HTTPBadRequest")
            .await;
    }
}

#[tokio::test]
async fn what_is_on_a_host_is_in_its_zone() {
    let cloud = Cloud::new().await;
    for (host, zone) in [("h1", "west"), ("h2", "east"), ("h3", "west")] {
        cloud.host_in(host, zone).await;
    }
    let network = cloud.network("admin").await;
    let path = format!("/v2.0/networks/{network}");
    for (host, zones) in [
        ("h1", json!(["west"])),
        ("h3", json!(["west"])),
        ("h2", json!(["east", "west"])),
    ] {
        let body = json!({"network_id": network, "binding:host_id": host});
        cloud.port("admin", body).await;
        let (_, shown) = cloud.get("admin", &path).await;
        assert_eq!(shown["network"]["availability_zones"], zones);
    }
    // A router is where its gateway is.
    let (external, _) = cloud.external("203.0.113.0/24").await;
    let body = json!({"external_gateway_info": {"network_id": external}});
    let router = cloud.made("admin", "/v2.0/routers", "router", body).await;
    assert_eq!(router["availability_zones"], json!([]));
    let query = format!("/v2.0/ports?device_id={}", id(&router));
    let (_, ports) = cloud.get("admin", &query).await;
    let placement = crate::hosts::Placement {
        port: id(&ports["ports"][0]).parse::<uuid::Uuid>().unwrap().into(),
        from: Seat {
            host: None,
            left: None,
        },
        to: Seat::at(&"h2".into()),
        may_move: false,
    };
    let store = cloud.api.core.store.as_ref();
    let now = crate::time::Seconds::new(1);
    assert!(crate::hosts::place(store, placement, now).await.unwrap());
    let (_, shown) = cloud
        .get("admin", &format!("/v2.0/routers/{}", id(&router)))
        .await;
    assert_eq!(shown["router"]["availability_zones"], json!(["east"]));
}
