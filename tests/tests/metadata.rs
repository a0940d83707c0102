//! What workloads hear of themselves, by real clients. Needs root; .config/nextest.toml says beside whom.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tests::netns::{Lab, allowed, overweave, printed, until};

const V4: &str = "http://169.254.169.254";
const V6: &str = "http://[fe80::a9fe:a9fe%25eth0]";

/// How long what takes milliseconds may take where much else runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What curl prints of a page, and the status behind it.
fn page(lab: &Lab, from: &str, url: &str, more: &[&str]) -> (String, String) {
    let curl = ["curl", "-g", "-s", "-m", "5", "-w", "\n%{http_code}", url];
    let text = lab.exec(from, &[&curl[..], more].concat());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), code.to_owned())
}

fn ok(lab: &Lab, from: &str, url: &str) -> String {
    let (body, code) = page(lab, from, url, &[]);
    assert_eq!(code, "200", "{from}: {url}: {body}");
    body
}

/// The API's answer to a request with this body.
fn ask(lab: &Lab, method: &str, path: &str, body: &Value) -> Value {
    let clouds = lab.path("clouds.yaml");
    let text = fs::read_to_string(&clouds).unwrap();
    let mut lines = text.lines().map(str::trim);
    let url = lines.find_map(|l| l.strip_prefix("auth_url:")).unwrap();
    let url = url.trim().trim_matches(['"', '\'']);
    let (base, _) = url.split_once("/identity").unwrap();
    let token = Command::new(overweave())
        .args(["token"])
        .env("OS_CLIENT_CONFIG_FILE", &clouds)
        .env("OS_CLOUD", "overweave")
        .output();
    let token = printed("token", &token.unwrap());
    let header = format!("X-Auth-Token: {}", token.trim());
    let (url, body) = (format!("{base}/v2.0/{path}"), body.to_string());
    let mut curl = Command::new("curl");
    curl.args(["-sf", "-X", method, "-H", &header, &url]);
    if method != "GET" && method != "DELETE" {
        curl.args(["-H", "Content-Type: application/json", "-d", &body]);
    }
    let answer = printed(&url, &curl.output().unwrap());
    serde_json::from_str(&answer).unwrap_or_default()
}

fn port(lab: &Lab, name: &str) -> Value {
    let found = ask(lab, "GET", &format!("ports?name={name}"), &Value::Null);
    found["ports"][0].clone()
}

#[test]
fn each_workload_hears_its_own_whatever_its_address_and_no_router_is_needed() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up("metadata", "t-metadata-one");
    // Two tenants, the same two addresses, two hosts; both families; red has a router, blue none.
    let ids = |lab: &Lab| {
        for base in [V4, V6] {
            let url = format!("{base}/latest/meta-data/instance-id");
            assert_eq!(ok(lab, "red-1", &url), "i-red-1");
            assert_eq!(ok(lab, "blue-1", &url), "i-blue-1");
            for other in ["red-2", "blue-2"] {
                let id = port(lab, other)["id"].as_str().unwrap().to_owned();
                assert_eq!(ok(lab, other, &url), id, "nothing is set: the port's id");
            }
        }
    };
    ids(&lab);
    for base in [V4, V6] {
        let data = ok(&lab, "red-1", &format!("{base}/latest/user-data"));
        assert_eq!(data, "#cloud-config\nfqdn: red-1.example.org\n");
        let data = ok(
            &lab,
            "blue-2",
            &format!("{base}/openstack/latest/user_data"),
        );
        assert_eq!(data, "#!/bin/sh\necho blue\n");
        let (_, code) = page(&lab, "red-2", &format!("{base}/latest/user-data"), &[]);
        assert_eq!(code, "404", "nothing is set");
        lab.ok("red-1", &["ping", "-c", "1", "-W", "2", "169.254.169.254"]);
        lab.ok(
            "blue-1",
            &["ping", "-c", "1", "-W", "2", "fe80::a9fe:a9fe%eth0"],
        );
    }
    let told: Value = serde_json::from_str(&ok(
        &lab,
        "red-1",
        &format!("{V4}/openstack/latest/meta_data.json"),
    ))
    .unwrap();
    assert_eq!(told["uuid"], "i-red-1");
    assert_eq!(told["hostname"], "red-1.example.org");
    assert_eq!(told["project_id"], port(&lab, "red-1")["project_id"]);
    assert_eq!(told["keys"][0]["name"], "me");
    // Refused: what a proxy forwarded, and every other method.
    let root = format!("{V4}/latest/meta-data/instance-id");
    let relayed = page(&lab, "red-1", &root, &["-H", "X-Forwarded-For: 10.40.0.12"]);
    assert_eq!(relayed.1, "403");
    let written = page(&lab, "red-1", &root, &["-X", "PUT"]);
    assert_eq!(written.1, "405");
    // Requests that come as super-frames, and many at once.
    let long = format!("X-Long: {}", "x".repeat(7000));
    assert_eq!(page(&lab, "blue-1", &root, &["-H", &long]).1, "200");
    user_data_changes(&lab);
    a_flood_is_its_ports_own(&lab);
    // The walk says so.
    let explained = lab.ok(
        "h1",
        &[
            &overweave().display().to_string(),
            "explain",
            "--run-dir",
            &run_dir(&lab, "h1"),
            "--port",
            port(&lab, "red-1")["id"].as_str().unwrap(),
            "tcp 10.40.0.11:4000 > 169.254.169.254:80",
        ],
    );
    assert!(explained.contains("metadata service"), "{explained}");
    // A switch that dies answers again when it is back.
    let command = lab.kill("h1");
    lab.restart("h1", &command);
    let url = format!("{V4}/latest/meta-data/instance-id");
    until("it answers again", Duration::from_secs(15), || {
        page(&lab, "red-1", &url, &["-m", "1"]).1 == "200"
    });
    ids(&lab);
    for host in ["h1", "h2"] {
        assert_eq!(lab.metric(host, "vswitch_unaccounted_segments"), 0);
    }
}

fn run_dir(lab: &Lab, host: &str) -> String {
    let (_, pid) = lab
        .processes()
        .into_iter()
        .find(|(what, _)| what.ends_with(host))
        .unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let mut args = command.split('\0').skip_while(|arg| *arg != "--run-dir");
    args.nth(1).unwrap().to_owned()
}

/// What the API is told is heard; what it takes away is gone; 48 KB arrive whole.
fn user_data_changes(lab: &Lab) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let id = port(lab, "red-2")["id"].as_str().unwrap().to_owned();
    let set = |told: Value| {
        let path = format!("ports/{id}");
        ask(
            lab,
            "PUT",
            &path,
            &json!({"port": {"overweave:metadata": told}}),
        );
    };
    let large = "0123456789abcdef".repeat(3071);
    for data in ["first", "second", large.as_str()] {
        set(json!({"user_data": STANDARD.encode(data)}));
        let url = format!("{V4}/latest/user-data");
        until("the new user data", PATIENCE, || {
            page(lab, "red-2", &url, &[]).0 == data
        });
        let url = format!("{V6}/latest/user-data");
        assert_eq!(ok(lab, "red-2", &url), data);
    }
    set(Value::Null);
    until("no user data", PATIENCE, || {
        page(lab, "red-2", &format!("{V4}/latest/user-data"), &[]).1 == "404"
    });
}

/// A workload that opens what it can and says nothing is refused more; another on the same host is answered meanwhile.
fn a_flood_is_its_ports_own(lab: &Lab) {
    let script = "import socket,time\nall=[]\nfor n in range(64):\n s=socket.socket()\n s.setblocking(False)\n s.connect_ex(('169.254.169.254',80))\n all.append(s)\nprint('open',flush=True)\ntime.sleep(30)\n";
    let mut flood = lab
        .command("red-1", &["python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(flood.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "open\n");
    until("connections are refused", PATIENCE, || {
        lab.metric("h1", "vswitch_metadata_refused_total{limit=\"port\"}") > 0
    });
    assert!(lab.metric("h1", "vswitch_metadata_connections") <= 16);
    let url = format!("{V4}/latest/meta-data/instance-id");
    // The flood goes on: its neighbour waits for nobody.
    assert_eq!(ok(lab, "blue-1", &url), "i-blue-1");
    flood.kill().unwrap();
    flood.wait().unwrap();
    until("red-1 is answered again", Duration::from_secs(20), || {
        page(lab, "red-1", &url, &[]).1 == "200"
    });
}

/// Each by its own tag, though they share one device: the parent and its two sub-ports.
#[test]
fn sub_ports_of_a_trunk_hear_their_own() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("trunk", "t-trunk-metadata");
    let page_of = |who: &str, base: &str| {
        let url = format!("{base}/latest/meta-data/instance-id");
        page(&lab, who, &url, &[]).0
    };
    let id = |who: &str| port(&lab, who)["id"].as_str().unwrap().to_owned();
    let own = id("c1");
    let told = json!({"port": {"overweave:metadata": {"instance_id": "i-c1"}}});
    ask(&lab, "PUT", &format!("ports/{own}"), &told);
    for base in [V4, V6] {
        until("what was set", PATIENCE, || page_of("c1", base) == "i-c1");
        for other in ["vm", "c2"] {
            assert_eq!(page_of(other, base), id(other), "{other} {base}");
        }
    }
    // Taken from its trunk it hears nothing, and its parent goes on.
    let found = ask(&lab, "GET", "trunks", &Value::Null);
    let trunk = found["trunks"][0]["id"].as_str().unwrap();
    let path = format!("trunks/{trunk}/remove_subports");
    ask(
        &lab,
        "PUT",
        &path,
        &json!({"sub_ports": [{"port_id": own}]}),
    );
    until("silence", PATIENCE, || {
        let url = format!("{V4}/latest/meta-data/instance-id");
        page(&lab, "c1", &url, &["-m", "1"]).1 == "000"
    });
    assert_eq!(page_of("vm", V4), id("vm"));
    assert_eq!(page_of("c2", V6), id("c2"));
}

/// The data sources of a real cloud-init read what is set. Where it is (the folder with its modules) `OVERWEAVE_CLOUD_INIT` says.
#[test]
fn cloud_init_reads_it() {
    if !allowed() {
        return;
    }
    let Some(modules) = std::env::var_os("OVERWEAVE_CLOUD_INIT") else {
        eprintln!(
            "cloud-init is not on this machine: OVERWEAVE_CLOUD_INIT names no folder; nothing was read"
        );
        return;
    };
    let lab = Lab::up("metadata", "t-cloud-init");
    let reader = tests::netns::repository().join("tests/cloud-init/read.py");
    let modules = format!("PYTHONPATH={}", modules.to_string_lossy());
    for source in ["OpenStack", "Ec2"] {
        let reader = reader.display().to_string();
        let command = ["env", &modules, "/usr/bin/python3", &reader, source];
        let read: Value = serde_json::from_str(&lab.ok("red-1", &command)).unwrap();
        assert_eq!(read["instance_id"], "i-red-1", "{source}: {read}");
        assert_eq!(read["hostname"], "red-1");
        let data = "#cloud-config\nfqdn: red-1.example.org\n";
        assert_eq!(read["user_data"], data);
        let key = read["keys"][0].as_str().unwrap();
        assert!(key.starts_with("ssh-ed25519 "), "{key}");
        if source == "OpenStack" {
            let mac = port(&lab, "red-1")["mac_address"].clone();
            assert_eq!(read["network"]["links"][0]["ethernet_mac_address"], mac);
            // As cloud-init would set it up.
            assert_eq!(read["network_config"]["config"][0]["mac_address"], mac);
            assert_eq!(read["network_config"]["config"][0]["name"], "eth0");
        }
    }
}

/// A host whose configuration names a Nova passes on what ports with a device ask, signed.
#[test]
fn nova_answers_for_its_instances() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up("metadata", "t-nova");
    let secret = lab.path("metadata-secret");
    fs::write(&secret, "hush\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let script = lab.path("nova.py");
    fs::write(&script, NOVA).unwrap();
    // In the host's own namespace, where its switch reaches it.
    let mut nova = lab
        .command("h2", &["python3", &script.display().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(nova.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "nova\n");
    let config = lab.path("nova.toml");
    let text = format!(
        "[nova_metadata]\nhost = \"127.0.0.1\"\nport = 8775\nshared_secret_file = {:?}\n",
        secret.display().to_string()
    );
    fs::write(&config, text).unwrap();
    let mut command = lab.kill("h2");
    command.extend(["--config".to_owned(), config.display().to_string()]);
    lab.restart("h2", &command);
    let url = format!("{V4}/latest/meta-data/instance-id");
    let own = port(&lab, "red-2")["id"].as_str().unwrap().to_owned();
    until("it answers again", Duration::from_secs(15), || {
        page(&lab, "red-2", &url, &["-m", "1"]).0 == own
    });
    let path = format!("ports/{own}");
    let device = "0b7f4b9c-3f3e-4d53-9a39-0d6dbb6ed7f5";
    ask(&lab, "PUT", &path, &json!({"port": {"device_id": device}}));
    let project = port(&lab, "red-2")["project_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let expected = format!("{device} {project} 10.40.0.12 /latest/meta-data/instance-id");
    until("nova answers", PATIENCE, || {
        page(&lab, "red-2", &url, &["-H", "X-Instance-ID: another"]).0 == expected
    });
    let by_v6 = format!("{V6}/latest/meta-data/instance-id");
    let expected = expected.replace("10.40.0.12", "fd00:40::12");
    assert_eq!(ok(&lab, "red-2", &by_v6), expected, "by that of its own");
    assert_eq!(page(&lab, "red-2", &format!("{V4}/none"), &[]).1, "404");
    // Whose owner set something is answered by that.
    assert_eq!(
        ok(&lab, "blue-2", &format!("{V4}/latest/user-data")),
        "#!/bin/sh\necho blue\n"
    );
    nova.kill().unwrap();
    nova.wait().unwrap();
    assert_eq!(page(&lab, "red-2", &url, &[]).1, "503", "nobody is there");
}

/// Says back who it is told asks, if the signature is right.
const NOVA: &str = r"
import hashlib, hmac, http.server
class Nova(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        device = self.headers.get('X-Instance-ID', '')
        signed = hmac.new(b'hush', device.encode(), hashlib.sha256).hexdigest()
        good = hmac.compare_digest(signed, self.headers.get('X-Instance-ID-Signature', ''))
        code = 403 if not good else 404 if self.path == '/none' else 200
        said = ' '.join([device, self.headers['X-Tenant-ID'], self.headers['X-Forwarded-For'], self.path]).encode()
        self.send_response(code)
        self.send_header('Content-Length', str(len(said)))
        self.end_headers()
        self.wfile.write(said)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8775), Nova)
print('nova', flush=True)
server.serve_forever()
";
