use std::{process::Command, sync::LazyLock};

use hostconfig::{
    chain::Elsewhere,
    proxy::{Hsts, HttpMember, HttpPool, Pem},
};

use super::*;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn place() -> Place<'static> {
    static HELD: LazyLock<Certificates> = LazyLock::new(|| Certificates::of(&whole()).unwrap());
    Place {
        certificates: &HELD,
        root: Path::new("/run/it's/root"),
        socket: Path::new("/run/it's/stats.sock"),
        mark: 7,
    }
}

fn rule(of: HttpPart, compare: Compare, value: &str) -> HttpRule {
    HttpRule {
        of,
        compare,
        value: value.to_owned(),
        invert: value.len().is_multiple_of(2),
    }
}

const TEXT: &str = r#"it's "$HOME" \ %[src] %% # {a} [b] --x"#;

/// A rule of each kind and comparison.
fn rules() -> Vec<HttpRule> {
    let parts = || {
        [
            HttpPart::HostName,
            HttpPart::Path,
            HttpPart::FileType,
            HttpPart::Header("X-$A#b".to_owned()),
            HttpPart::Cookie("a|b".to_owned()),
        ]
    };
    let compares = [
        Compare::StartsWith,
        Compare::EndsWith,
        Compare::Contains,
        Compare::EqualTo,
    ];
    let rules = compares
        .into_iter()
        .flat_map(|compare| parts().map(|of| rule(of, compare, TEXT)));
    let mut rules: Vec<_> = rules.collect();
    rules.extend(parts().map(|of| rule(of, Compare::Regex, r"^a'b\.(c|d)$")));
    rules
}

fn policies() -> Vec<HttpPolicy> {
    let to = || "https://example.org/%41?it's=$a".to_owned();
    let actions = [
        HttpAction::Pool(id(22)),
        HttpAction::Url {
            to: to(),
            code: 302,
        },
        HttpAction::Prefix {
            to: to(),
            code: 308,
        },
        HttpAction::Reject,
    ];
    let policies = (50..).zip(actions).map(|(n, action)| HttpPolicy {
        id: id(n),
        rules: rules(),
        action,
    });
    policies.collect()
}

fn listener(n: u16, pool: u128) -> HttpListener {
    HttpListener {
        id: id(n.into()),
        port: n,
        connection_limit: Some(7),
        client_timeout: 1,
        connect_timeout: 2,
        member_timeout: 3,
        insert: vec![
            InsertHeader::ForwardedFor,
            InsertHeader::ForwardedPort,
            InsertHeader::ForwardedProto,
        ],
        policies: vec![],
        pool: Some(id(pool)),
        tls: None,
    }
}

fn pool(
    n: u128,
    algorithm: HttpAlgorithm,
    persistence: HttpPersistence,
    probe: Option<HealthProbe>,
) -> HttpPool {
    let addresses = ["10.0.0.1", "fd00::1"].into_iter().zip(31..);
    let members = addresses.map(|(address, n)| HttpMember {
        id: id(n),
        address: address.parse().unwrap(),
        port: 8080,
        weight: 256,
        backup: n == 32,
    });
    HttpPool {
        id: id(n),
        algorithm,
        persistence: Some(persistence),
        members: members.collect(),
        monitor: probe.map(|probe| Monitor {
            id: id(41).into(),
            probe,
            delay_ms: 5000,
            timeout_ms: 1000,
            rise: 2,
            fall: 3,
            elsewhere: vec![Elsewhere {
                member: id(31).into(),
                addr: "10.0.0.9".parse().unwrap(),
                port: 99,
            }],
        }),
    }
}

/// A certificate with its key, made once for each name: what stands for it in memory must not change.
fn pem(name: &str) -> Pem {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Pem::new(certificate.pem() + &key.serialize_pem())
}

/// A proxy with every field, and texts that mean something to HAProxy.
fn whole() -> Proxy {
    let http = HealthProbe::Http {
        request: "GET /%41?it's HTTP/1.1\r\nHost: %[src]\r\n\r\n".to_owned(),
        codes: vec![(200, 204), (301, 301)],
    };
    let app = HttpPersistence::AppCookie("JSESSIONID".to_owned());
    let mut first = listener(80, 21);
    first.policies = policies();
    let mut secure = listener(443, 21);
    secure.tls = Some(HttpTls {
        certificates: vec![pem("a.example"), pem("b.example")],
        versions: vec![TlsVersion::V12, TlsVersion::V13],
        ciphers: Some(
            "TLS_AES_256_GCM_SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
                .to_owned(),
        ),
        alpn: vec![Alpn::H2, Alpn::Http11, Alpn::Http10],
        hsts: Some(Hsts {
            max_age: 1000,
            subdomains: true,
            preload: true,
        }),
    });
    Proxy {
        port: id(1).into(),
        listeners: vec![first, listener(81, 21), listener(82, 23), secure],
        pools: vec![
            pool(
                21,
                HttpAlgorithm::RoundRobin,
                HttpPersistence::HttpCookie,
                Some(http),
            ),
            pool(
                22,
                HttpAlgorithm::LeastConnections,
                HttpPersistence::SourceIp,
                None,
            ),
            pool(23, HttpAlgorithm::SourceIp, app, Some(HealthProbe::Tcp)),
        ],
    }
}

#[test]
fn all_of_a_section_is_written_down() {
    let text = render(&whole(), place()).unwrap();
    for line in [
        r"    chroot '/run/it'\''s/root'",
        "    maxconn 7",
        "    description 7",
        "    fd-hard-limit 40100",
        "    option forwardfor",
        "    timeout client 1ms",
        "    timeout connect 2ms",
        "    timeout server 3ms",
        r"    http-request redirect location 'https://example.org/%%41?it'\''s=$a' code 302 if",
        "    balance leastconn",
        "    cookie SRV insert indirect nocache",
        "    stick match res.cook('JSESSIONID')"
            .replace("match res", "store-response res")
            .as_str(),
        "    http-request set-header X-Forwarded-Proto http\n",
        "    http-request set-header X-Forwarded-Proto https\n",
        "    http-after-response set-header Strict-Transport-Security 'max-age=1000; includeSubDomains; preload'\n",
        r"    http-check send meth 'GET' uri '/%41?it'\''s' ver 'HTTP/1.1' hdr 'Host' '%%[src]'",
        "    http-check expect status 200-204,301",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let bound = |text: &str| {
        let lines = text.lines().filter(|line| line.contains(" ssl "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let binds = bound(&text);
    assert_eq!(binds.len(), 2, "{text}");
    let paths: Vec<_> = place().certificates.paths(id(443)).collect();
    let how = format!(
        " ssl crt '{}' crt '{}' no-sslv3 no-tlsv10 no-tlsv11 ciphersuites 'TLS_AES_256_GCM_SHA384' \
         ciphers 'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256' alpn h2,http/1.1,http/1.0",
        paths[0].display(),
        paths[1].display()
    );
    assert_eq!(binds[0], format!("    bind *:443{how}"));
    assert_eq!(binds[1], format!("    bind :::443 v6only{how}"));
    let server = |address: &str| {
        text.lines()
            .filter(|l| l.contains(address))
            .collect::<Vec<_>>()
    };
    let name = backend_name(id(21), id(80));
    let [first, plain, tracked, asked, _] = server(" 10.0.0.1:8080 ")[..] else {
        panic!("{text}");
    };
    assert!(first.ends_with(" check inter 5000ms fall 3 rise 2 addr 10.0.0.9 port 99"));
    let tracks = format!(" cookie {0} track {name}/{0}", id(31));
    assert!(tracked.ends_with(&tracks), "{tracked}");
    assert!(plain.ends_with(" weight 256"));
    assert!(asked.contains(" check "));
    assert!(server(" [fd00::1]:8080 ")[0].contains(" backup "));
}

#[test]
fn who_is_refused_is_so_first_and_members_serve_last() {
    let text = render(&whole(), place()).unwrap();
    let at = |what: &str| text.find(what).unwrap();
    let deny = at("http-request deny");
    let (location, prefix) = (at("redirect location"), at("redirect prefix"));
    assert!(deny < location && location < prefix && prefix < at("use_backend"));
}

/// By HAProxy itself, where it is installed.
#[test]
fn haproxy_understands_it() {
    let Some(program) = crate::proxy::program() else {
        assert!(
            std::env::var_os("OVERWEAVE_REQUIRE_ROOT").is_none_or(|v| v != "1"),
            "no HAProxy"
        );
        return;
    };
    let dir = std::env::temp_dir().join(format!("overweave-render-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("root")).unwrap();
    let place = Place {
        certificates: place().certificates,
        root: &dir.join("root"),
        socket: &dir.join("stats.sock"),
        mark: 1,
    };
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, render(&whole(), place).unwrap()).unwrap();
    let output = Command::new(program)
        .arg("-c")
        .arg("-f")
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_text_that_could_end_a_line_or_a_word_is_refused() {
    let refused = |change: fn(&mut Proxy)| {
        let mut proxy = whole();
        change(&mut proxy);
        render(&proxy, place()).unwrap_err()
    };
    let unfit =
        refused(|proxy| "a\nb".clone_into(&mut proxy.listeners[0].policies[0].rules[0].value));
    assert_eq!(
        unfit.to_string(),
        r#"a rule's value: "a\nb" has a character that cannot be written down"#
    );
    refused(|proxy| {
        proxy.listeners[0].policies[0].rules[0].of = HttpPart::Header("a) -m found".to_owned());
    });
    refused(|proxy| {
        let pool = &mut proxy.pools[2];
        pool.persistence = Some(HttpPersistence::AppCookie("it's".to_owned()));
    });
    refused(|proxy| {
        let to = "http://a/\r\nX: y".to_owned();
        proxy.listeners[0].policies[1].action = HttpAction::Url { to, code: 302 };
    });
    refused(|proxy| {
        let tls = proxy.listeners[3].tls.as_mut().unwrap();
        tls.ciphers = Some("AES256-SHA\n    bind :1".to_owned());
    });
    let bare = Place {
        certificates: &Certificates::default(),
        ..place()
    };
    assert_eq!(render(&whole(), bare), Err(Unfit::NoCertificate(id(443))));
    let none = refused(|proxy| drop(proxy.pools.remove(1)));
    assert_eq!(none, Unfit::NoPool(id(22)));
    let ping = refused(|proxy| proxy.pools[0].monitor.as_mut().unwrap().probe = HealthProbe::Ping);
    assert_eq!(ping, Unfit::Probe(id(21)));
}
