//! Names of ports and options of their DHCP clients, as a client sees them.

use super::*;

const OPTIONS: &str = "extra_dhcp_opts";

fn option(name: &str, value: impl Into<Value>) -> Value {
    json!({"opt_name": name, "opt_value": value.into()})
}

#[tokio::test]
async fn options_are_set_one_by_one() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    let body = json!({"network_id": network, OPTIONS: [
        option("bootfile-name", "pxelinux.0"),
        {"opt_name": "server-ip-address", "opt_value": "1.2.3.4", "ip_version": 4},
        option("mtu", Value::Null),
    ]});
    let port = cloud.port("a", body).await;
    let shown =
        |name: &str, value: &str| json!({"opt_name": name, "opt_value": value, "ip_version": 4});
    let server = shown("server-ip-address", "1.2.3.4");
    assert_eq!(
        port[OPTIONS],
        json!([shown("bootfile-name", "pxelinux.0"), server])
    );
    let path = format!("/v2.0/ports/{}", id(&port));
    let put = async |options: Value| {
        let body = json!({"port": {OPTIONS: options}});
        let (status, port) = cloud.ask("a", "PUT", &path, body).await;
        assert_eq!(status, 200, "{port}");
        port["port"][OPTIONS].clone()
    };
    let told = put(json!([
        option("bootfile-name", Value::Null),
        option("tftp-server", "9.9.9.9")
    ]))
    .await;
    assert_eq!(told, json!([server, shown("tftp-server", "9.9.9.9")]));
    // Nothing said, nothing changed; another value takes the first one's place; one of another family is another option.
    for nothing in [json!([]), Value::Null] {
        assert_eq!(put(nothing).await.as_array().unwrap().len(), 2);
    }
    let told = put(json!([
        option("server-ip-address", "1.2.3.5"),
        {"opt_name": "ntp-server", "opt_value": "fd00::1", "ip_version": "6"},
    ]))
    .await;
    assert_eq!(told[0]["opt_value"], "1.2.3.5");
    assert_eq!(
        told[2],
        json!({"opt_name": "ntp-server", "opt_value": "fd00::1", "ip_version": 6})
    );
    for (bad, why) in [
        (json!([{"opt_value": "x"}]), "No valid key specs"),
        (json!([option("no-such-option", "x")]), "no-such-option"),
        (json!([option("mtu", "big")]), "big"),
        (json!([option("mtu", "")]), "No valid key specs"),
        (json!("mtu"), "not a list"),
    ] {
        let body = json!({"port": {OPTIONS: bad}});
        let (status, answer) = cloud.ask("a", "PUT", &path, body).await;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer["NeutronError"]["type"], "InvalidInput");
        let message = answer["NeutronError"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    let (_, after) = cloud.get("a", &path).await;
    assert_eq!(
        after["port"][OPTIONS], told,
        "a refused change changes nothing"
    );
    let many: Vec<_> = (128..160)
        .map(|n: u8| option(&n.to_string(), "x"))
        .collect();
    let body = json!({"port": {OPTIONS: many}});
    cloud
        .refused("a", "PUT", &path, body, 400, "InvalidInput")
        .await;
}

#[tokio::test]
async fn ports_have_names_in_their_networks_domain() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.20.0.0/24").await;
    let made = async |more: Value| {
        let mut body = json!({"network_id": network});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        cloud.port("a", body).await
    };
    let port = made(json!({"fixed_ips": [{"ip_address": "10.20.0.50"}]})).await;
    assert_eq!(
        (&port["dns_name"], &port["dns_domain"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(
        port["dns_assignment"],
        json!([{"ip_address": "10.20.0.50", "hostname": "host-10-20-0-50", "fqdn": "host-10-20-0-50.openstacklocal."}])
    );
    let named = made(json!({"dns_name": "MyHost"})).await;
    let fqdn = |port: &Value| {
        port["dns_assignment"][0]["fqdn"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(fqdn(&named), "myhost.openstacklocal.");
    let path = format!("/v2.0/networks/{network}");
    let put = async |domain: &str| {
        let body = json!({"network": {"dns_domain": domain}});
        cloud.ask("a", "PUT", &path, body).await
    };
    let (status, answer) = put("example.org.").await;
    assert_eq!(
        (status, &answer["network"]["dns_domain"]),
        (200, &json!("example.org."))
    );
    let of = async |port: &Value| {
        let (_, shown) = cloud.get("a", &format!("/v2.0/ports/{}", id(port))).await;
        fqdn(&shown["port"])
    };
    assert_eq!(of(&named).await, "myhost.example.org.");
    assert_eq!(of(&port).await, "host-10-20-0-50.example.org.");
    // A port's own domain is that of its name alone.
    let own = made(json!({"dns_name": "d1", "dns_domain": "Test.org."})).await;
    assert_eq!(
        (fqdn(&own).as_str(), &own["dns_domain"]),
        ("d1.test.org.", &json!("test.org."))
    );
    // A whole name is in the domain that it would have anyway.
    let whole = made(json!({"dns_name": "web.example.org."})).await;
    assert_eq!(whole["dns_assignment"][0]["hostname"], "web.example.org.");
    assert_eq!(fqdn(&whole), "web.example.org.");
    for name in ["web.example.com.", "example.org.", ".", "bad_name!", "-a"] {
        let body = json!({"port": {"network_id": network, "dns_name": name}});
        cloud
            .refused("a", "POST", "/v2.0/ports", body, 400, "HTTPBadRequest")
            .await;
    }
    let (status, answer) = put("example org").await;
    assert_eq!(status, 400);
    assert_eq!(
        answer["NeutronError"]["message"],
        "Invalid input for dns_domain. Reason: 'example org' is not a FQDN."
    );
}
