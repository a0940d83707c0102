//! Whatever is asked for in whatever order, the books balance.

use super::*;
use crate::{
    api::Scene,
    resource::{Objects, address_key},
    resources::{
        AddressGroup, FloatingIp, Network, Port, Router, SecurityGroup, SecurityGroupRule, Subnet,
        port::{FLOATING_OWNER, GATEWAY_OWNER},
        router,
    },
    rules::addresses::{floor_key, number},
    store::{Embedded, MemoryDisk},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn view() -> View {
    View::of(&Embedded::read(&MemoryDisk::new(Uuid::nil())).unwrap())
}

fn moment(step: u64) -> Moment {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&step.to_be_bytes());
    Moment {
        now: Seconds::new(step),
        dice: Dice::new(seed),
        bundles: Arc::default(),
        facts: Arc::default(),
    }
}

fn member() -> Caller {
    Caller {
        project_id: "p".to_owned(),
        member: true,
        ..Caller::default()
    }
}

/// A create as the API does it: defaults filled in, then judged.
fn create<T: Resource>(view: &mut View, step: u64, body: &Value) -> Result<Arc<T>, Refusal> {
    let moment = moment(step);
    let given: Given = body.as_object().unwrap().keys().cloned().collect();
    let mut fields: Map<String, Value> = Map::new();
    for field in T::SPEC.fields() {
        match field.absent {
            crate::resource::Absent::Bool(value) => {
                fields.insert(field.name.to_owned(), json!(value))
            }
            crate::resource::Absent::Int(value) => {
                fields.insert(field.name.to_owned(), json!(value))
            }
            crate::resource::Absent::Text(value) => {
                fields.insert(field.name.to_owned(), json!(value))
            }
            crate::resource::Absent::List => fields.insert(field.name.to_owned(), json!([])),
            crate::resource::Absent::Object => fields.insert(field.name.to_owned(), json!({})),
            crate::resource::Absent::Null => fields.insert(field.name.to_owned(), Value::Null),
            crate::resource::Absent::Required | crate::resource::Absent::Computed => None,
        };
    }
    for (name, value) in body.as_object().unwrap() {
        let name = if T::asked_apart(name) {
            format!("asked:{name}")
        } else {
            name.clone()
        };
        fields.insert(name, value.clone());
    }
    fields.insert("id".to_owned(), json!(moment.dice.uuid()));
    fields.insert("project_id".to_owned(), json!("p"));
    let object = T::SPEC.ops.build(fields)?;
    let enacted = enact(view, Order::Create(object, given), &member(), &moment)?;
    let object = enacted.object.unwrap();
    Ok(Arc::new(
        object.as_any().downcast_ref::<T>().unwrap().clone(),
    ))
}

fn update<T: Resource>(view: &mut View, step: u64, id: Uuid, body: &Value) -> Result<(), Refusal> {
    let before = stored(view, T::SPEC, id).ok_or_else(|| Refusal::missing(T::SPEC.title, id))?;
    let mut fields = before.to_map();
    for (name, value) in body.as_object().unwrap() {
        let name = if T::asked_apart(name) {
            format!("asked:{name}")
        } else {
            name.clone()
        };
        fields.insert(name, value.clone());
    }
    let after = T::SPEC.ops.build(fields)?;
    let given: Given = body.as_object().unwrap().keys().cloned().collect();
    enact(
        view,
        Order::Update(before, after, given),
        &member(),
        &moment(step),
    )
    .map(drop)
}

fn delete<T: Resource>(view: &mut View, step: u64, id: Uuid) -> Result<(), Refusal> {
    let before = stored(view, T::SPEC, id).ok_or_else(|| Refusal::missing(T::SPEC.title, id))?;
    enact(
        view,
        Order::Delete(before, Given::new()),
        &member(),
        &moment(step),
    )
    .map(drop)
}

fn act<T: Resource>(
    view: &mut View,
    step: u64,
    id: Uuid,
    action: &str,
    arguments: &Value,
) -> Result<Map<String, Value>, Refusal> {
    let object = stored(view, T::SPEC, id).ok_or_else(|| Refusal::missing(T::SPEC.title, id))?;
    let arguments = arguments.as_object().unwrap();
    super::act(view, object, action, arguments, &member(), &moment(step)).map(|(_, reply)| reply)
}

/// Gateways and floating IPs have their ports, those nobody else has; whom a floating IP leads to is claimed.
fn outside(view: &View, ports: &[Arc<Port>]) {
    let of = |owner: &str| -> BTreeMap<Uuid, String> {
        let owned = ports.iter().filter(|port| port.device_owner == owner);
        owned
            .map(|port| (port.meta.id, port.device_id.clone()))
            .collect()
    };
    let routers = view.objects::<Router>();
    let gateways = routers.iter().filter_map(|router| {
        let gateway = router.gateway?;
        let port = view
            .object::<Port>(gateway.port_id)
            .expect("the gateway's port");
        assert_eq!(port.network_id, gateway.network_id);
        Some((gateway.port_id, router.meta.id.to_string()))
    });
    assert_eq!(of(GATEWAY_OWNER), gateways.collect());
    let floating = view.objects::<FloatingIp>();
    let holders = floating.iter().map(|floating| {
        let holder = view
            .object::<Port>(floating.holder.unwrap())
            .expect("the holder");
        let held: Vec<_> = holder.fixed_ips.iter().map(|ip| ip.ip_address).collect();
        assert_eq!(held, [floating.floating_ip_address.unwrap()]);
        (holder.meta.id, floating.meta.id.to_string())
    });
    assert_eq!(of(FLOATING_OWNER), holders.collect());
    let claimed = floating.iter().filter_map(|floating| {
        let (port, address) = (floating.port_id?, floating.fixed_ip_address?);
        let key = format!("fipport/{port}/{address}/{}", floating.floating_network_id);
        let holder = view.object::<Port>(port).expect("whose it is");
        assert!(holder.fixed_ips.iter().any(|ip| ip.ip_address == address));
        Some((key, floating.meta.id))
    });
    let claims: BTreeMap<String, Uuid> = view
        .scan("fipport/")
        .map(|(key, entry)| (key.to_owned(), entry.peek::<Claim>().unwrap().holder))
        .collect();
    assert_eq!(claims, claimed.collect());
    for floating in &floating {
        let leads = floating.port_id.is_some() || !floating.forwards.is_empty();
        assert_eq!(floating.router_id.is_some(), leads);
        let router = floating
            .router_id
            .map(|id| view.object::<Router>(id).expect("its router"));
        let by = router
            .and_then(|router| router.gateway)
            .map(|gateway| gateway.network_id);
        assert!(!leads || by == Some(floating.floating_network_id));
    }
}

/// How many objects of a kind are a project's.
fn owned<T: Resource>(view: &View, project: &str) -> u64 {
    let all = view.objects::<T>();
    let own = all
        .iter()
        .filter(|object| object.meta().project_id == project);
    own.count() as u64
}

/// The claims are the ports' addresses, the quota is the rows, no child is without a parent, and
/// below the floor nothing is free. All of it is this project's.
pub(crate) fn balance(view: &View, project: &str) {
    let ports: Vec<Arc<Port>> = view.objects();
    let subnets: Vec<Arc<Subnet>> = view.objects();
    let mut held: BTreeMap<String, Uuid> = BTreeMap::new();
    for port in &ports {
        assert!(view.object::<Network>(port.network_id).is_some());
        for fixed in &port.fixed_ips {
            let subnet = view
                .object::<Subnet>(fixed.subnet_id)
                .expect("the address has a subnet");
            assert!(subnet.cidr.contains(fixed.ip_address));
            let key = address_key(fixed.subnet_id, fixed.ip_address);
            assert_eq!(
                held.insert(key, port.meta.id),
                None,
                "two ports with one address"
            );
        }
        assert_eq!(port.wanted, None);
    }
    let claims: BTreeMap<String, Uuid> = view
        .scan("ip/")
        .map(|(key, entry)| (key.to_owned(), entry.peek::<Claim>().unwrap().holder))
        .collect();
    assert_eq!(claims, held);
    let interfaces: BTreeMap<String, Uuid> = ports
        .iter()
        .filter(|port| router::is_interface(view, port))
        .flat_map(|port| {
            let router = router::router_of(port).unwrap();
            assert!(view.object::<Router>(router).is_some());
            let fixed = port.fixed_ips.iter();
            fixed.map(move |ip| (format!("iface/{router}/{}", ip.subnet_id), port.meta.id))
        })
        .collect();
    let claims: BTreeMap<String, Uuid> = view
        .scan("iface/")
        .map(|(key, entry)| (key.to_owned(), entry.peek::<Claim>().unwrap().holder))
        .collect();
    assert_eq!(claims, interfaces);
    assert_eq!(view.scan("mac/").count(), ports.len());
    assert_eq!(view.scan("vni/").count(), view.objects::<Network>().len());
    outside(view, &ports);
    for (kind, rows) in [
        ("port", owned::<Port>(view, project)),
        ("subnet", owned::<Subnet>(view, project)),
        ("network", owned::<Network>(view, project)),
        ("router", owned::<Router>(view, project)),
        ("floatingip", owned::<FloatingIp>(view, project)),
        ("security_group", owned::<SecurityGroup>(view, project)),
        (
            "security_group_rule",
            owned::<SecurityGroupRule>(view, project),
        ),
    ] {
        assert_eq!(quotas::used(view, project, kind), rows, "{kind}");
    }
    for subnet in &subnets {
        assert!(view.object::<Network>(subnet.network_id).is_some());
        let floor = view
            .get::<u128>(&floor_key(subnet.meta.id))
            .map_or(0, |floor| *floor);
        for pool in &subnet.allocation_pools {
            for at in number(pool.start)..=number(pool.end).min(floor.saturating_sub(1)) {
                let key = address_key(subnet.meta.id, addresses::address(at, pool.start));
                assert!(view.entry(&key).is_some(), "{at:x} is free below the floor");
            }
        }
    }
    for (key, _) in view.scan("by/") {
        let mut parts = key.split('/');
        let storage = parts.nth(1).unwrap();
        let id = key.rsplit('/').next().unwrap();
        assert!(
            view.entry(&format!("{storage}/{id}")).is_some(),
            "{key} leads nowhere"
        );
    }
}

#[derive(Debug, Clone)]
enum Act {
    CreateAny(usize),
    CreateAt(usize, u8),
    Move(usize, u8),
    Delete(usize),
    Pool(u8, u8),
    AddSlaac(usize),
    DropSubnet(usize),
    DropNetwork(usize),
    Attach(usize, usize),
    Bring(usize, usize),
    Detach(usize, usize),
    Route(usize, u8),
    DropRouter(usize),
}

fn any_act() -> impl Strategy<Value = Act> {
    let net = 0_usize..2;
    prop_oneof![
        6 => net.clone().prop_map(Act::CreateAny),
        3 => (net.clone(), 0_u8..18).prop_map(|(net, at)| Act::CreateAt(net, at)),
        3 => (0_usize..20, 0_u8..18).prop_map(|(port, at)| Act::Move(port, at)),
        4 => (0_usize..20).prop_map(Act::Delete),
        1 => (1_u8..14, 0_u8..6).prop_map(|(start, len)| Act::Pool(start, len)),
        1 => net.clone().prop_map(Act::AddSlaac),
        1 => (0_usize..4).prop_map(Act::DropSubnet),
        1 => net.prop_map(Act::DropNetwork),
        3 => (0_usize..2, 0_usize..4).prop_map(|(router, subnet)| Act::Attach(router, subnet)),
        2 => (0_usize..2, 0_usize..20).prop_map(|(router, port)| Act::Bring(router, port)),
        2 => (0_usize..2, 0_usize..4).prop_map(|(router, subnet)| Act::Detach(router, subnet)),
        1 => (0_usize..2, 0_u8..18).prop_map(|(router, at)| Act::Route(router, at)),
        1 => (0_usize..2).prop_map(Act::DropRouter),
    ]
}

fn perform(view: &mut View, step: u64, event: &Act, networks: &[Uuid]) -> Result<(), Refusal> {
    let ports: Vec<Uuid> = view
        .objects::<Port>()
        .iter()
        .map(|port| port.meta.id)
        .collect();
    let port = |at: usize| ports.get(at).copied().unwrap_or(Uuid::nil());
    let ids = |ids: Vec<Uuid>, at: usize| ids.get(at).copied().unwrap_or(Uuid::nil());
    let subnets = view.objects::<Subnet>();
    let subnets: Vec<Uuid> = subnets.iter().map(|subnet| subnet.meta.id).collect();
    let subnet = |at: usize| ids(subnets.clone(), at);
    let routers = view.objects::<Router>();
    let routers: Vec<Uuid> = routers.iter().map(|router| router.meta.id).collect();
    let router = |at: usize| ids(routers.clone(), at);
    let address = |at: u8| json!([{"ip_address": format!("10.0.0.{at}")}]);
    match event {
        Act::CreateAny(net) => {
            create::<Port>(view, step, &json!({"network_id": networks[*net]})).map(drop)
        }
        Act::CreateAt(net, at) => {
            let body = json!({"network_id": networks[*net], "fixed_ips": address(*at)});
            create::<Port>(view, step, &body).map(drop)
        }
        Act::Move(at, to) => {
            update::<Port>(view, step, port(*at), &json!({"fixed_ips": address(*to)}))
        }
        Act::Delete(at) => delete::<Port>(view, step, port(*at)),
        Act::Pool(start, len) => {
            let subnet = view
                .objects::<Subnet>()
                .iter()
                .find(|s| s.cidr.is_ipv4())
                .cloned();
            let Some(subnet) = subnet else { return Ok(()) };
            let pool = json!([{
                "start": format!("10.0.0.{start}"),
                "end": format!("10.0.0.{}", (start + len).min(14)),
            }]);
            let body = json!({"allocation_pools": pool, "gateway_ip": null});
            update::<Subnet>(view, step, subnet.meta.id, &body)
        }
        Act::AddSlaac(net) => {
            let body = json!({
                "network_id": networks[*net], "ip_version": 6, "cidr": "fd00::/64",
                "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac",
            });
            create::<Subnet>(view, step, &body).map(drop)
        }
        Act::DropSubnet(at) => {
            let subnets = view.objects::<Subnet>();
            let Some(subnet) = subnets.get(*at) else {
                return Ok(());
            };
            delete::<Subnet>(view, step, subnet.meta.id)
        }
        Act::DropNetwork(net) => delete::<Network>(view, step, networks[*net]),
        Act::Attach(at, to) => {
            let body = json!({"subnet_id": subnet(*to)});
            act::<Router>(view, step, router(*at), "add_router_interface", &body).map(drop)
        }
        Act::Bring(at, with) => {
            let body = json!({"port_id": port(*with)});
            act::<Router>(view, step, router(*at), "add_router_interface", &body).map(drop)
        }
        Act::Detach(at, from) => {
            let body = json!({"subnet_id": subnet(*from)});
            act::<Router>(view, step, router(*at), "remove_router_interface", &body).map(drop)
        }
        Act::Route(at, via) => {
            let via = format!("10.0.0.{via}");
            let body = json!({"routes": [{"destination": "172.16.0.0/12", "nexthop": via}]});
            act::<Router>(view, step, router(*at), "add_extraroutes", &body).map(drop)
        }
        Act::DropRouter(at) => delete::<Router>(view, step, router(*at)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_books_balance_after_any_history(acts in proptest::collection::vec(any_act(), 1..80)) {
        let mut view = view();
        let mut networks = Vec::new();
        for step in 0..2 {
            let network = create::<Network>(&mut view, step, &json!({})).unwrap();
            let body = json!({"network_id": network.meta.id, "ip_version": 4, "cidr": "10.0.0.0/28"});
            create::<Subnet>(&mut view, step + 10, &body).unwrap();
            networks.push(network.meta.id);
            create::<Router>(&mut view, step + 20, &json!({})).unwrap();
        }
        for (step, act) in acts.iter().enumerate() {
            // A refusal undoes the whole transaction, as the store does.
            let mut attempt = view.clone_for_test();
            if perform(&mut attempt, step as u64 + 100, act, &networks).is_ok() {
                view = attempt;
            }
            balance(&view, "p");
        }
    }
}

#[test]
fn a_full_subnet_is_exactly_full_and_a_freed_address_is_used_at_once() {
    let mut view = view();
    let network = create::<Network>(&mut view, 1, &json!({})).unwrap().meta.id;
    let body = json!({"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/28"});
    create::<Subnet>(&mut view, 2, &body).unwrap();
    let mut ports = Vec::new();
    for step in 0..13 {
        let port = create::<Port>(&mut view, 10 + step, &json!({"network_id": network})).unwrap();
        assert_eq!(
            port.fixed_ips[0].ip_address.to_string(),
            format!("10.0.0.{}", step + 2)
        );
        ports.push(port);
    }
    let full = create::<Port>(&mut view, 50, &json!({"network_id": network})).unwrap_err();
    assert!(matches!(
        full,
        Refusal::Conflict {
            name: "IpAddressGenerationFailure",
            ..
        }
    ));
    delete::<Port>(&mut view, 51, ports[5].meta.id).unwrap();
    let port = create::<Port>(&mut view, 52, &json!({"network_id": network})).unwrap();
    assert_eq!(port.fixed_ips, ports[5].fixed_ips);
    balance(&view, "p");
}

#[test]
fn the_same_seed_makes_the_same_writes() {
    let run = || {
        let mut view = view();
        let network = create::<Network>(&mut view, 1, &json!({})).unwrap().meta.id;
        create::<Port>(&mut view, 2, &json!({"network_id": network})).unwrap();
        let writes: Vec<String> = view.writes().iter().map(|w| format!("{w:?}")).collect();
        writes
    };
    assert_eq!(run(), run());
}

#[test]
fn tables_and_structs_name_the_same_fields() {
    let mut view = view();
    let network = create::<Network>(&mut view, 1, &json!({})).unwrap();
    let body = json!({"network_id": network.meta.id, "ip_version": 4, "cidr": "10.0.0.0/28"});
    let subnet = create::<Subnet>(&mut view, 2, &body).unwrap();
    let port = create::<Port>(&mut view, 3, &json!({"network_id": network.meta.id})).unwrap();
    let router = create::<Router>(&mut view, 4, &json!({})).unwrap();
    let addresses = create::<AddressGroup>(&mut view, 5, &json!({})).unwrap();
    let group = view.objects::<SecurityGroup>().pop().unwrap();
    let rule = view.objects::<SecurityGroupRule>().pop().unwrap();
    let objects: [Arc<dyn Object>; 7] = [network, subnet, port, router, addresses, group, rule];
    let snapshot = Embedded::read(&MemoryDisk::new(Uuid::nil())).unwrap();
    let (status, caller) = (crate::status::StatusBoard::default(), Caller::system());
    let scene = Scene {
        snapshot: &snapshot,
        status: &status,
        facts: &Facts::default(),
        caller: &caller,
        now: Seconds::default(),
    };
    for object in objects {
        let stored = object.to_map();
        let spec = object.spec();
        for field in spec.fields().filter(|field| !field.derived) {
            assert!(
                stored.contains_key(field.name),
                "{}.{}",
                spec.singular,
                field.name
            );
        }
        // What the table does not list is for the rules alone, and never shown.
        let own = ["is_default", "tags", "name"];
        for name in stored.keys().filter(|name| !own.contains(&name.as_str())) {
            assert!(spec.field(name).is_some(), "{}.{name}", spec.singular);
        }
        let shown = scene.render_whole(object.as_ref());
        let seen = spec
            .fields()
            .filter(|field| field.read != crate::resource::Policy::Nobody && !field.optional);
        assert_eq!(shown.len(), seen.count());
    }
}
