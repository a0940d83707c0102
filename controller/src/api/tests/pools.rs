//! Address scopes, pools of subnets and the subnets out of them, as clients see them.

use super::*;

const POOLS: &str = "/v2.0/subnetpools";
const SCOPES: &str = "/v2.0/address-scopes";
const SUBNETS: &str = "/v2.0/subnets";

impl Cloud {
    async fn pool(&self, who: &str, body: Value) -> Value {
        let body = with(json!({"prefixes": ["10.0.0.0/16"]}), body);
        self.made(who, POOLS, "subnetpool", body).await
    }

    async fn scope(&self, who: &str, body: Value) -> String {
        let body = with(json!({"ip_version": 4}), body);
        id(&self.made(who, SCOPES, "address_scope", body).await)
    }

    /// A subnet of a pool on a new network.
    async fn pooled(&self, who: &str, pool: &str, body: Value) -> Value {
        let network = self.network(who).await;
        let own = json!({"network_id": network, "ip_version": 4, "subnetpool_id": pool});
        self.made(who, SUBNETS, "subnet", with(own, body)).await
    }

    async fn unallocated(&self, who: &str, body: Value, status: u16, kind: &str) {
        let network = self.network(who).await;
        let own = json!({"network_id": network, "ip_version": 4});
        let body = json!({"subnet": with(own, body)});
        self.refused(who, "POST", SUBNETS, body, status, kind).await;
    }
}

#[tokio::test]
async fn scopes_and_pools_have_neutrons_shape() {
    let cloud = Cloud::new().await;
    let body = json!({"name": "s", "ip_version": 4});
    let scope = cloud.made("a", SCOPES, "address_scope", body).await;
    assert_eq!(
        scope,
        json!({
            "id": scope["id"], "name": "s", "project_id": A, "tenant_id": A, "ip_version": 4,
            "shared": false,
        })
    );
    let pool = cloud
        .pool(
            "a",
            json!({
                "name": "p", "prefixes": ["10.1.1.0/24", "10.1.0.0/24", "10.9.0.5/16", "10.9.3.0/24"],
                "address_scope_id": scope["id"], "default_prefixlen": "24", "min_prefixlen": 20,
                "max_prefixlen": 28, "description": "d", "tags": ["t"],
            }),
        )
        .await;
    assert_eq!(
        pool,
        json!({
            "id": pool["id"], "name": "p", "description": "d", "project_id": A, "tenant_id": A,
            "revision_number": pool["revision_number"], "created_at": pool["created_at"],
            "updated_at": pool["updated_at"], "tags": ["t"],
            "prefixes": ["10.1.0.0/23", "10.9.0.0/16"], "ip_version": 4, "min_prefixlen": "20",
            "max_prefixlen": "28", "default_prefixlen": "24", "default_quota": null,
            "is_default": false, "shared": false, "address_scope_id": scope["id"],
        })
    );
    let path = format!("{POOLS}/{}", id(&pool));
    assert_eq!(cloud.get("a", &path).await.1["subnetpool"], pool);
    let v6 = cloud.pool("a", json!({"prefixes": ["fd00::/48"]})).await;
    let lengths = ["min_prefixlen", "max_prefixlen", "default_prefixlen"].map(|name| &v6[name]);
    assert_eq!(lengths, [&json!("64"), &json!("128"), &json!("64")]);
    assert_eq!(v6["ip_version"], 6);
    let v4 = cloud.pool("a", json!({})).await;
    let lengths = ["min_prefixlen", "max_prefixlen", "default_prefixlen"].map(|name| &v4[name]);
    assert_eq!(lengths, [&json!("8"), &json!("32"), &json!("8")]);
    for (query, count) in [
        ("ip_version=6", 1),
        ("shared=False", 3),
        ("min_prefixlen=20", 1),
    ] {
        let (_, list) = cloud.get("a", &format!("{POOLS}?{query}")).await;
        assert_eq!(
            list["subnetpools"].as_array().unwrap().len(),
            count,
            "{query}"
        );
    }
    for who in ["b", "r"] {
        let (status, _) = cloud.get(who, &path).await;
        assert_eq!(status, if who == "b" { 404 } else { 200 });
    }
    let (_, quota) = cloud.get("a", &format!("/v2.0/quotas/{A}/details")).await;
    assert_eq!(quota["quota"]["subnetpool"]["used"], 3);
    assert_eq!(quota["quota"]["subnetpool"]["limit"], -1);
}

#[tokio::test]
async fn what_is_wrong_with_a_pool_or_scope_has_a_name() {
    let cloud = Cloud::new().await;
    for body in [
        json!({}),
        json!({"ip_version": 5}),
        json!({"ip_version": "x"}),
    ] {
        let body = json!({"address_scope": body});
        cloud
            .refused("a", "POST", SCOPES, body, 400, "HTTPBadRequest")
            .await;
    }
    let v6 = cloud.scope("a", json!({"ip_version": 6})).await;
    let of_b = cloud.scope("b", json!({})).await;
    for (who, body, status, kind) in [
        ("a", json!({}), 400, "HTTPBadRequest"),
        (
            "a",
            json!({"prefixes": []}),
            400,
            "EmptySubnetPoolPrefixList",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0"]}),
            400,
            "HTTPBadRequest",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/33"]}),
            400,
            "HTTPBadRequest",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8", "10.0.0.1/8"]}),
            400,
            "HTTPBadRequest",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8", "fd00::/8"]}),
            400,
            "PrefixVersionMismatch",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "min_prefixlen": 25, "max_prefixlen": 24}),
            400,
            "IllegalSubnetPoolPrefixBounds",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "max_prefixlen": 33}),
            400,
            "IllegalSubnetPoolPrefixBounds",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "default_prefixlen": 7}),
            400,
            "IllegalSubnetPoolPrefixBounds",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "default_prefixlen": 25, "max_prefixlen": 24}),
            400,
            "IllegalSubnetPoolPrefixBounds",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "shared": true}),
            403,
            "PolicyNotAuthorized",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "is_default": true}),
            403,
            "PolicyNotAuthorized",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "address_scope_id": v6}),
            400,
            "IllegalSubnetPoolIpVersionAssociationToAddressScope",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "address_scope_id": of_b}),
            404,
            "AddressScopeNotFound",
        ),
        (
            "a",
            json!({"prefixes": ["10.0.0.0/8"], "address_scope_id": "foo"}),
            400,
            "HTTPBadRequest",
        ),
        (
            "r",
            json!({"prefixes": ["10.0.0.0/8"]}),
            403,
            "PolicyNotAuthorized",
        ),
    ] {
        let body = json!({"subnetpool": body});
        cloud.refused(who, "POST", POOLS, body, status, kind).await;
    }
    let shared = json!({"address_scope": {"ip_version": 4, "shared": true}});
    cloud
        .refused("a", "POST", SCOPES, shared, 403, "PolicyNotAuthorized")
        .await;
    let pool = cloud.pool("a", json!({})).await;
    let path = format!("{POOLS}/{}", id(&pool));
    for (body, status, kind) in [
        (
            json!({"prefixes": ["10.0.0.0/17"]}),
            400,
            "IllegalSubnetPoolPrefixUpdate",
        ),
        (
            json!({"prefixes": ["fd00::/16"]}),
            400,
            "IllegalSubnetPoolPrefixUpdate",
        ),
        (json!({"shared": true}), 400, "HTTPBadRequest"),
        (json!({"ip_version": 6}), 400, "HTTPBadRequest"),
        (
            json!({"min_prefixlen": 33}),
            400,
            "IllegalSubnetPoolPrefixBounds",
        ),
        (
            json!({"address_scope_id": v6}),
            400,
            "IllegalSubnetPoolIpVersionAssociationToAddressScope",
        ),
        (json!({"is_default": true}), 403, "PolicyNotAuthorized"),
    ] {
        let body = json!({"subnetpool": body});
        cloud.refused("a", "PUT", &path, body, status, kind).await;
    }
    let wider = json!({"subnetpool": {"prefixes": ["10.2.0.0/16", "10.0.0.0/15"]}});
    let (status, shown) = cloud.ask("a", "PUT", &path, wider).await;
    assert_eq!(
        (status, &shown["subnetpool"]["prefixes"]),
        (200, &json!(["10.0.0.0/15", "10.2.0.0/16"]))
    );
}

#[tokio::test]
async fn subnets_get_blocks_that_nobody_else_has() {
    let cloud = Cloud::new().await;
    let pool = cloud
        .pool(
            "a",
            json!({"default_prefixlen": 24, "min_prefixlen": 18, "max_prefixlen": 28}),
        )
        .await;
    let pool = id(&pool);
    let first = cloud.pooled("a", &pool, json!({})).await;
    assert_eq!(first["subnetpool_id"], json!(pool));
    assert_eq!(first["cidr"], "10.0.0.0/24");
    assert_eq!(first["gateway_ip"], "10.0.0.1");
    assert!(first.get("prefixlen").is_none() && first.get("use_default_subnetpool").is_none());
    // The smallest free block that is large enough, as in Neutron.
    for (body, cidr) in [
        (json!({"prefixlen": 26}), "10.0.1.0/26"),
        (json!({"prefixlen": "28"}), "10.0.1.64/28"),
        (json!({"cidr": "10.0.128.0/20"}), "10.0.128.0/20"),
        (json!({"prefixlen": 20}), "10.0.16.0/20"),
        (json!({}), "10.0.2.0/24"),
    ] {
        let subnet = cloud.pooled("a", &pool, body.clone()).await;
        assert_eq!(subnet["cidr"], cidr, "{body}");
    }
    let (_, list) = cloud
        .get("a", &format!("{SUBNETS}?subnetpool_id={pool}"))
        .await;
    assert_eq!(list["subnets"].as_array().unwrap().len(), 6);
    let asks = |body: Value| with(json!({"subnetpool_id": pool}), body);
    for (body, status, kind) in [
        (
            asks(json!({"cidr": "10.0.0.128/25"})),
            409,
            "SubnetAllocationError",
        ),
        (
            asks(json!({"cidr": "10.0.0.0/20"})),
            409,
            "SubnetAllocationError",
        ),
        (
            asks(json!({"cidr": "10.7.0.0/24"})),
            409,
            "SubnetAllocationError",
        ),
        (asks(json!({"cidr": "fd00::/64"})), 400, "InvalidInput"),
        (
            asks(json!({"prefixlen": 29})),
            400,
            "MaxPrefixSubnetAllocationError",
        ),
        (
            asks(json!({"prefixlen": 17})),
            400,
            "MinPrefixSubnetAllocationError",
        ),
        (
            asks(json!({"prefixlen": 18, "ip_version": 6})),
            400,
            "BadRequest",
        ),
        (
            asks(json!({"prefixlen": 24, "cidr": "10.0.9.0/24"})),
            400,
            "BadRequest",
        ),
        (asks(json!({"prefixlen": -1})), 400, "HTTPBadRequest"),
        (
            asks(json!({"use_default_subnetpool": true})),
            400,
            "BadRequest",
        ),
        (
            asks(json!({"allocation_pools": [{"start": "10.0.9.2", "end": "10.0.9.3"}]})),
            400,
            "BadRequest",
        ),
        (json!({"use_default_subnetpool": true}), 400, "BadRequest"),
        (json!({"prefixlen": 24}), 400, "BadRequest"),
        (json!({"subnetpool_id": MISSING}), 404, "SubnetPoolNotFound"),
    ] {
        cloud.unallocated("a", body, status, kind).await;
    }
    cloud
        .unallocated("b", asks(json!({})), 404, "SubnetPoolNotFound")
        .await;
    let path = format!("{POOLS}/{pool}");
    cloud
        .refused(
            "a",
            "DELETE",
            &path,
            Value::Null,
            400,
            "SubnetPoolDeleteError",
        )
        .await;
    // What goes can be had again.
    cloud.gone("a", &format!("{SUBNETS}/{}", id(&first))).await;
    let again = cloud
        .pooled("a", &pool, json!({"cidr": "10.0.0.0/24"}))
        .await;
    assert_eq!(again["cidr"], "10.0.0.0/24");
    let (_, list) = cloud
        .get("a", &format!("{SUBNETS}?fields=network_id"))
        .await;
    for row in list["subnets"].as_array().unwrap() {
        let network = row["network_id"].as_str().unwrap();
        cloud.gone("a", &format!("/v2.0/networks/{network}")).await;
    }
    let whole = cloud.pooled("a", &pool, json!({"prefixlen": 18})).await;
    assert_eq!(whole["cidr"], "10.0.0.0/18");
    for _ in 0..3 {
        cloud.pooled("a", &pool, json!({"prefixlen": 18})).await;
    }
    cloud
        .unallocated(
            "a",
            asks(json!({"prefixlen": 28})),
            409,
            "SubnetAllocationError",
        )
        .await;
}

#[tokio::test]
async fn a_v6_pool_gives_subnets_with_modes() {
    let cloud = Cloud::new().await;
    let pool = cloud
        .pool("a", json!({"prefixes": ["fd00::/47", "fd00:2::/48"]}))
        .await;
    let body = json!({"ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let subnet = cloud.pooled("a", &id(&pool), body).await;
    // The smaller of the two prefixes is used up first.
    assert_eq!(subnet["cidr"], "fd00:2::/64");
    let port = cloud
        .port("a", json!({"network_id": subnet["network_id"]}))
        .await;
    let address = port["fixed_ips"][0]["ip_address"].as_str().unwrap();
    assert!(address.starts_with("fd00:2::"), "{address}");
}

#[tokio::test]
async fn prefixes_are_added_and_taken_but_not_from_subnets() {
    let cloud = Cloud::new().await;
    let pool = id(&cloud.pool("a", json!({"default_prefixlen": 24})).await);
    cloud.pooled("a", &pool, json!({})).await;
    let path = |action: &str| format!("{POOLS}/{pool}/{action}");
    let prefixes = |list: &[&str]| json!({"prefixes": list});
    let (add, remove) = (path("add_prefixes"), path("remove_prefixes"));
    let answer = cloud
        .ask("a", "PUT", &add, prefixes(&["10.1.0.0/16"]))
        .await;
    assert_eq!(answer, (200, prefixes(&["10.0.0.0/15"])));
    let answer = cloud
        .ask("a", "PUT", &remove, prefixes(&["10.0.128.0/17"]))
        .await;
    assert_eq!(answer, (200, prefixes(&["10.0.0.0/17", "10.1.0.0/16"])));
    cloud
        .unallocated(
            "a",
            json!({"subnetpool_id": pool, "cidr": "10.0.128.0/24"}),
            409,
            "SubnetAllocationError",
        )
        .await;
    cloud
        .pooled("a", &pool, json!({"cidr": "10.1.7.0/24"}))
        .await;
    for (action, body, kind) in [
        (
            &remove,
            prefixes(&["10.1.7.0/25"]),
            "IllegalSubnetPoolPrefixUpdate",
        ),
        (
            &remove,
            prefixes(&["10.0.0.0/8"]),
            "EmptySubnetPoolPrefixList",
        ),
        (&remove, prefixes(&["fd00::/8"]), "PrefixVersionMismatch"),
        (&add, prefixes(&["fd00::/8"]), "PrefixVersionMismatch"),
        (&add, json!({}), "HTTPBadRequest"),
        (&add, json!({"prefixes": "10.0.0.0/8"}), "HTTPBadRequest"),
    ] {
        cloud.refused("a", "PUT", action, body, 400, kind).await;
    }
    cloud
        .refused(
            "b",
            "PUT",
            &add,
            prefixes(&["10.3.0.0/16"]),
            404,
            "SubnetPoolNotFound",
        )
        .await;
}

#[tokio::test]
async fn a_projects_share_of_a_pool_is_limited() {
    let cloud = Cloud::new().await;
    let body = json!({"shared": true, "default_prefixlen": 26, "default_quota": 128});
    let pool = id(&cloud.pool("admin", body).await);
    let first = cloud.pooled("a", &pool, json!({})).await;
    cloud.pooled("a", &pool, json!({"prefixlen": 27})).await;
    let asks = |bits: u8| json!({"subnetpool_id": pool, "prefixlen": bits});
    cloud
        .unallocated("a", asks(26), 409, "SubnetPoolQuotaExceeded")
        .await;
    cloud.pooled("a", &pool, json!({"prefixlen": 27})).await;
    cloud
        .unallocated("a", asks(32), 409, "SubnetPoolQuotaExceeded")
        .await;
    // Each project has its own share.
    cloud.pooled("b", &pool, json!({"prefixlen": 25})).await;
    cloud.gone("a", &format!("{SUBNETS}/{}", id(&first))).await;
    cloud.pooled("a", &pool, json!({})).await;
}

#[tokio::test]
async fn one_default_pool_for_each_family() {
    let cloud = Cloud::new().await;
    let asks = |version: u8| json!({"use_default_subnetpool": true, "ip_version": version});
    let body = json!({"is_default": true, "shared": true, "default_prefixlen": 24});
    let pool = cloud.pool("admin", body.clone()).await;
    let hidden = json!({"prefixes": ["fd00::/48"], "is_default": true});
    let hidden = cloud.pool("admin", hidden).await;
    let network = cloud.network("a").await;
    let subnet = with(json!({"network_id": network}), asks(4));
    let subnet = cloud.made("a", SUBNETS, "subnet", subnet).await;
    assert_eq!(
        (&subnet["subnetpool_id"], &subnet["cidr"]),
        (&pool["id"], &json!("10.0.0.0/24"))
    );
    // It does not see the other one.
    cloud.unallocated("a", asks(6), 400, "BadRequest").await;
    let second = with(body, json!({"prefixes": ["10.9.0.0/16"]}));
    let body = json!({"subnetpool": second});
    cloud
        .refused("admin", "POST", POOLS, body, 400, "InvalidInput")
        .await;
    let path = format!("{POOLS}/{}", id(&pool));
    let off = json!({"subnetpool": {"is_default": false}});
    assert_eq!(cloud.ask("admin", "PUT", &path, off).await.0, 200);
    cloud.unallocated("a", asks(4), 400, "BadRequest").await;
    cloud.pool("admin", second).await;
    cloud
        .gone("admin", &format!("{POOLS}/{}", id(&hidden)))
        .await;
    let v6 = json!({"prefixes": ["fd01::/48"], "is_default": true});
    cloud.pool("admin", v6).await;
}

#[tokio::test]
async fn a_networks_subnets_of_a_family_are_of_one_pool_or_scope() {
    let cloud = Cloud::new().await;
    let lengths = json!({"default_prefixlen": 24});
    let pool = |prefix: &str, scope: Option<&String>| {
        with(
            lengths.clone(),
            json!({"prefixes": [prefix], "address_scope_id": scope}),
        )
    };
    let scope = cloud.scope("a", json!({})).await;
    let other = cloud.scope("a", json!({})).await;
    let bare = id(&cloud.pool("a", pool("10.1.0.0/16", None)).await);
    let bare_too = id(&cloud.pool("a", pool("10.2.0.0/16", None)).await);
    let one = id(&cloud.pool("a", pool("10.3.0.0/16", Some(&scope))).await);
    let two = id(&cloud.pool("a", pool("10.4.0.0/16", Some(&scope))).await);
    let three = id(&cloud.pool("a", pool("10.3.0.0/16", Some(&other))).await);
    let six = cloud.scope("a", json!({"ip_version": 6})).await;
    let six = json!({"prefixes": ["fd00::/48"], "address_scope_id": six});
    let six = cloud.pool("a", six).await;
    let on = async |network: &Value, body: Value, kind: Option<&str>| {
        let body = with(json!({"network_id": network, "ip_version": 4}), body);
        let body = json!({"subnet": body});
        match kind {
            Some(kind) => drop(cloud.refused("a", "POST", SUBNETS, body, 400, kind).await),
            None => assert_eq!(cloud.ask("a", "POST", SUBNETS, body).await.0, 201),
        }
    };
    let of = |pool: &String| json!({"subnetpool_id": pool});
    let plain = json!({"cidr": "192.168.0.0/24"});
    let network = &cloud.pooled("a", &bare, json!({})).await["network_id"];
    on(network, of(&bare), None).await;
    on(
        network,
        of(&bare_too),
        Some("NetworkSubnetPoolAffinityError"),
    )
    .await;
    on(
        network,
        plain.clone(),
        Some("NetworkSubnetPoolAffinityError"),
    )
    .await;
    on(network, of(&one), Some("NetworkAddressScopeAffinityError")).await;
    let network = &cloud.pooled("a", &one, json!({})).await["network_id"];
    on(network, of(&two), None).await;
    on(
        network,
        of(&three),
        Some("NetworkAddressScopeAffinityError"),
    )
    .await;
    on(network, of(&bare), Some("NetworkAddressScopeAffinityError")).await;
    on(network, plain, Some("NetworkAddressScopeAffinityError")).await;
    on(
        network,
        json!({"subnetpool_id": six["id"], "ip_version": 6}),
        None,
    )
    .await;
    let (_, shown) = cloud
        .get(
            "a",
            &format!("/v2.0/networks/{}", network.as_str().unwrap()),
        )
        .await;
    let shown = &shown["network"];
    assert_eq!(shown["ipv4_address_scope"], json!(scope));
    assert_eq!(shown["ipv6_address_scope"], six["address_scope_id"]);
    // Neither goes elsewhere: the other one's subnets would stay behind.
    for (path, scope) in [(&one, Some(&other)), (&two, None)] {
        let body = json!({"subnetpool": {"address_scope_id": scope}});
        let path = format!("{POOLS}/{path}");
        cloud
            .refused(
                "a",
                "PUT",
                &path,
                body,
                400,
                "NetworkAddressScopeAffinityError",
            )
            .await;
    }
    let body = json!({"subnetpool": {"address_scope_id": other}});
    let path = format!("{POOLS}/{bare}");
    assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
}

#[tokio::test]
async fn pools_of_a_scope_do_not_overlap() {
    let cloud = Cloud::new().await;
    let scope = cloud.scope("a", json!({})).await;
    let within = |prefixes: &[&str]| json!({"prefixes": prefixes, "address_scope_id": scope});
    let pool = cloud
        .pool("a", within(&["20.0.0.0/18", "30.0.0.0/18"]))
        .await;
    let body = json!({"subnetpool": within(&["40.0.0.0/18", "30.0.0.0/12"])});
    cloud
        .refused("a", "POST", POOLS, body, 409, "AddressScopePrefixConflict")
        .await;
    let other = cloud.pool("a", within(&["20.10.0.0/24"])).await;
    let path = format!("{POOLS}/{}", id(&pool));
    let add = format!("{path}/add_prefixes");
    let prefixes = json!({"prefixes": ["20.0.0.0/12"]});
    cloud
        .refused(
            "a",
            "PUT",
            &add,
            prefixes,
            409,
            "AddressScopePrefixConflict",
        )
        .await;
    let prefixes = json!({"subnetpool": {"prefixes": ["20.0.0.0/12", "30.0.0.0/18"]}});
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            prefixes,
            409,
            "AddressScopePrefixConflict",
        )
        .await;
    let apart = cloud.pool("a", json!({"prefixes": ["20.10.0.0/25"]})).await;
    let body = json!({"subnetpool": {"address_scope_id": scope}});
    let joins = format!("{POOLS}/{}", id(&apart));
    cloud
        .refused(
            "a",
            "PUT",
            &joins,
            body.clone(),
            409,
            "AddressScopePrefixConflict",
        )
        .await;
    let in_use = format!("{SCOPES}/{scope}");
    cloud
        .refused(
            "a",
            "DELETE",
            &in_use,
            Value::Null,
            409,
            "AddressScopeInUse",
        )
        .await;
    cloud.gone("a", &format!("{POOLS}/{}", id(&other))).await;
    assert_eq!(cloud.ask("a", "PUT", &joins, body).await.0, 200);
    let body = json!({"subnetpool": {"address_scope_id": null}});
    for path in [&joins, &path] {
        assert_eq!(cloud.ask("a", "PUT", path, body.clone()).await.0, 200);
    }
    cloud.gone("a", &in_use).await;
}

#[tokio::test]
async fn a_router_joins_subnets_of_one_scope() {
    let cloud = Cloud::new().await;
    let scope = cloud.scope("a", json!({})).await;
    let pool = json!({"default_prefixlen": 24, "address_scope_id": scope});
    let pool = id(&cloud.pool("a", pool).await);
    let near = cloud.pooled("a", &pool, json!({})).await;
    let too = cloud.pooled("a", &pool, json!({})).await;
    let network = cloud.network("a").await;
    let far = cloud.subnet("a", &network, "192.168.0.0/24").await;
    let six = cloud.subnet("a", &network, "fd00::/64").await;
    let router = cloud.made("a", "/v2.0/routers", "router", json!({})).await;
    let path = format!("/v2.0/routers/{}/add_router_interface", id(&router));
    let by = |subnet: &Value| json!({"subnet_id": subnet["id"]});
    for subnet in [&near, &too, &six] {
        assert_eq!(cloud.ask("a", "PUT", &path, by(subnet)).await.0, 200);
    }
    cloud
        .refused("a", "PUT", &path, by(&far), 400, "BadRequest")
        .await;
    // A pool alone on its router may go to another scope, with others it may not.
    let beside =
        json!({"prefixes": ["172.16.0.0/16"], "default_prefixlen": 24, "address_scope_id": scope});
    let beside = id(&cloud.pool("a", beside).await);
    let other = cloud.pooled("a", &beside, json!({})).await;
    let leave = json!({"subnetpool": {"address_scope_id": null}});
    let pool = format!("{POOLS}/{pool}");
    assert_eq!(cloud.ask("a", "PUT", &pool, leave).await.0, 200);
    let back = json!({"subnetpool": {"address_scope_id": scope}});
    assert_eq!(cloud.ask("a", "PUT", &pool, back).await.0, 200);
    assert_eq!(cloud.ask("a", "PUT", &path, by(&other)).await.0, 200);
    let leave = json!({"subnetpool": {"address_scope_id": null}});
    cloud
        .refused("a", "PUT", &pool, leave, 409, "AddressScopeInUse")
        .await;
}

#[tokio::test]
async fn pools_and_scopes_are_shared_by_grants() {
    let cloud = Cloud::new().await;
    let scope = cloud.scope("admin", json!({})).await;
    let scope_path = format!("{SCOPES}/{scope}");
    cloud
        .refused(
            "a",
            "GET",
            &scope_path,
            Value::Null,
            404,
            "AddressScopeNotFound",
        )
        .await;
    let grant = cloud.grant("admin", "address_scope", &scope, A).await;
    let (_, shown) = cloud.get("a", &scope_path).await;
    assert_eq!(shown["address_scope"]["shared"], true);
    let mine = json!({"address_scope_id": scope, "default_prefixlen": 24});
    let pool = id(&cloud.pool("a", mine).await);
    let grants = "/v2.0/rbac-policies";
    let grant_path = format!("{grants}/{grant}");
    cloud
        .refused(
            "admin",
            "DELETE",
            &grant_path,
            Value::Null,
            409,
            "RbacPolicyInUse",
        )
        .await;
    // B may not use the scope, and so not the pool.
    let to_b = json!({"rbac_policy": {
        "object_type": "subnetpool", "object_id": pool, "action": "access_as_shared", "target_tenant": B,
    }});
    cloud
        .refused("a", "POST", grants, to_b, 400, "InvalidInput")
        .await;
    // The scope is another's: what is in it stays as it is.
    let path = format!("{POOLS}/{pool}");
    let wider = json!({"subnetpool": {"prefixes": ["10.0.0.0/8"]}});
    cloud
        .refused(
            "a",
            "PUT",
            &path,
            wider.clone(),
            400,
            "IllegalSubnetPoolUpdate",
        )
        .await;
    assert_eq!(cloud.ask("admin", "PUT", &path, wider).await.0, 200);
    let open = json!({"address_scope": {"shared": true}});
    assert_eq!(cloud.ask("admin", "PUT", &scope_path, open).await.0, 200);
    let close = json!({"address_scope": {"shared": false}});
    cloud
        .refused(
            "admin",
            "PUT",
            &scope_path,
            close,
            400,
            "AddressScopeUpdateError",
        )
        .await;
    let to_b = cloud.grant("a", "subnetpool", &pool, B).await;
    let subnet = cloud.pooled("b", &pool, json!({})).await;
    let to_b = format!("{grants}/{to_b}");
    cloud
        .refused("a", "DELETE", &to_b, Value::Null, 409, "RbacPolicyInUse")
        .await;
    cloud
        .refused(
            "b",
            "PUT",
            &path,
            json!({"subnetpool": {"name": "x"}}),
            403,
            "PolicyNotAuthorized",
        )
        .await;
    cloud.gone("b", &format!("{SUBNETS}/{}", id(&subnet))).await;
    cloud.gone("a", &to_b).await;
    cloud
        .refused("b", "GET", &path, Value::Null, 404, "SubnetPoolNotFound")
        .await;
    // What is shared with all is a grant to all.
    let shared = cloud
        .pool(
            "admin",
            json!({"shared": true, "prefixes": ["10.77.0.0/16"]}),
        )
        .await;
    let (_, list) = cloud
        .get("admin", &format!("{grants}?object_id={}", id(&shared)))
        .await;
    let grant = &list["rbac_policies"][0];
    assert_eq!(grant["target_tenant"], "*");
    cloud
        .gone("admin", &format!("{grants}/{}", id(grant)))
        .await;
    let (status, _) = cloud.get("a", &format!("{POOLS}/{}", id(&shared))).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn many_who_ask_at_once_get_blocks_of_their_own() {
    let cloud = Arc::new(Cloud::new().await);
    let body = json!({"prefixes": ["10.0.0.0/24"], "default_prefixlen": 28});
    let pool = id(&cloud.pool("a", body).await);
    let creators = (0..24).map(|n| {
        let (cloud, pool) = (Arc::clone(&cloud), pool.clone());
        tokio::spawn(async move {
            let network = cloud.network("a").await;
            let bits = 26 + n % 4;
            let body = json!({"network_id": network, "ip_version": 4, "subnetpool_id": pool, "prefixlen": bits});
            cloud.ask("a", "POST", SUBNETS, json!({"subnet": body})).await
        })
    });
    let mut blocks: Vec<net::Prefix> = Vec::new();
    let mut refused = 0;
    for creator in creators.collect::<Vec<_>>() {
        let (status, answer) = creator.await.unwrap();
        if status == 201 {
            blocks.push(answer["subnet"]["cidr"].as_str().unwrap().parse().unwrap());
        } else {
            assert_eq!(
                (status, answer["NeutronError"]["type"].as_str().unwrap()),
                (409, "SubnetAllocationError")
            );
            refused += 1;
        }
    }
    for (at, one) in blocks.iter().enumerate() {
        let overlaps = |other: &net::Prefix| one.overlaps(*other);
        assert!(!blocks.iter().skip(at + 1).any(overlaps), "{blocks:?}");
    }
    // 64 + 32 + 16 + 8 addresses by six of each: more than there are.
    assert!(refused > 0 && blocks.len() > 6, "{blocks:?}");
    let space = crate::rules::blocks::free(&cloud.api.core.store.snapshot(), pool.parse().unwrap());
    let all = ["10.0.0.0/24".parse().unwrap()];
    assert_eq!(space, crate::rules::blocks::without(&all, &blocks));
}
