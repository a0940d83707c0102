//! Listeners that end TLS: what they name, keep and show, and what of it a proxy is told.

use super::{
    lbaas::{Farm, ROOT, made, refused},
    *,
};
use crate::{
    compile::{intent::Object, view},
    store::Read as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hostconfig::{
    Pem,
    proxy::{Alpn, Hsts, HttpListener, TlsVersion},
};
use rcgen::{CertificateParams, KeyPair};

const SECRETS: &str = "/key-manager/v1/secrets";

/// A certificate and its key as OpenSSL 3 bundles them: AES-256, no password.
const MODERN: &str = "\
    MIIEPAIBAzCCA/IGCSqGSIb3DQEHAaCCA+MEggPfMIID2zCCApIGCSqGSIb3DQEHBqCCAoMwggJ/AgEAMIICeAYJKoZIhvcN\
    AQcBMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAh3qmEUn/Rh7gICCAAwDAYIKoZIhvcNAgkFADAdBglghkgBZQME\
    ASoEEMyGeo8rXiHUW6TLwRd6jHWAggIQQGZOwOcQ3LMXyANWPAdNUkuq76aMxGkjhizz0EeLSyUC3eLV1pmyrlx2FRHYgOVD\
    jTbdT10fWAwe4QcqwszNlz3ZMW+Ugi4Mv+fGzJftiiZqpmE1lHytxnnVc0jYClMb/K5J7IKpyvYqKYAonOaQG4CVHV3J87ql\
    VA9t3qLE9eyFrQjpoFwOlkFJrnBb3V5AhO0eY0Vw4QnDU2RL3jNUEY8pxNcgUzy3H9NpLeblUw9rYm18hY8D3Y2s6UGylcuA\
    25pPZrbcS+kB358MXh/hBEaJZL5SdEcc+cy5kyNHF3621l/i/Dd/ax1zrZ4SOiFHIeZOPCSJq0l3LxO3XssmCcbNDvxOY22e\
    lc5Tsdip0lQA6M/yBjuPN2wcQ6Rnrx3+wCuHhZXZcwKEFvDs0FKKup6wx5Z+RYPEHeuQSTTGkBtikBqxv0ipE+JBzomhfHjQ\
    ywIbjY1IdmE5Tb3TFx24o4B9tQxFFjOvn7FGyjIun8pCR8+4kPgQIGylaBOm7PkjA7hOLu5YMweQGngczhXACENRHJ2mmsXe\
    qToqCIR90Ky/Qb8JP+QIFfCmAwMTJKaIRolytj8vz8VRqjRZeUacABbmNmvSoyToOx8Kfd5/dhmqdrdcvOsvbL8PImb0NzMn\
    wMpTljRtfELXC3TuPXwksTq0oHRlBPN6HbT+DlG/uOSq5GBjsTlG0NwBTx9k6AA9MIIBQQYJKoZIhvcNAQcBoIIBMgSCAS4w\
    ggEqMIIBJgYLKoZIhvcNAQwKAQKgge8wgewwVwYJKoZIhvcNAQUNMEowKQYJKoZIhvcNAQUMMBwECCSdtLaTXM8TAgIIADAM\
    BggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQAcDsfaDPVd03KaWdPlbTbASBkHdhinVQsGpOH9ZvhWZpLY3eSjR4EkGSB035\
    HUabJQq3N90gB8j1tGNoV8J/wtV7w0ueNDHD5LVKDU+EeYUVZqw1qjFUtqLP7l8+EaJeONbYPEo+ZwZ+N7v6LMSvT/t0dmWy\
    crA9V1KlleBcfQdqfb4jQ0b/hc1iYUS5n/Y94jfTBTjg6vE3F6MBkiawH5BWujElMCMGCSqGSIb3DQEJFTEWBBTDdEQac6B7\
    gUjo9u3qA3TimvD77jBBMDEwDQYJYIZIAWUDBAIBBQAEIH90cYtnBfnIIbFCyE7ADYjZe6QouTW8TigFhvJSW2mJBAi/3cy+\
    c9uUpAICCAA=";

/// The same as older ones do: RC2 and 3DES.
const LEGACY: &str = "\
    MIIDsgIBAzCCA3gGCSqGSIb3DQEHAaCCA2kEggNlMIIDYTCCAlcGCSqGSIb3DQEHBqCCAkgwggJEAgEAMIICPQYJKoZIhvcN\
    AQcBMBwGCiqGSIb3DQEMAQYwDgQIzhYdF96ROUECAggAgIICEGHKWe0bU+JYMeAFxWsml+RUfInknkRWFFnxT6jl0HUtrfN8\
    qupuOBsvr8NeQcuNlpIyklW6aG33rqvccllw6nG/FKIyqvBkr0wXsQbQfjuV0GhApgfYs59okpuDljl5l5A6bSTRegpYBux8\
    zlqSIZqYyiRL0IiPlC2jBQkTQEfoUn2sGUkIIzIU3des5Tm/LOkhfTgsPdnArOFSrwyvsBUScVOXTASouU3zhK5PE4z2AQ2C\
    pHjd8iiRkU+6HWdCE3WDWLjSy/vFm5JeeH5oQTaMQnZ9U8NBrZXhrEyz4aYvcHsEGBQmRdlV8YPMrkt0KPjCbNFbN8VQt0V2\
    i6HABXLA01IE3jrX9jZxE/6E1PKnYti+bCD5OZgKSWOrXCuAdKkm+lfQDUJ8XqWnSK4etgK3GbIZ5UF4abUFFFyXtCUswrmo\
    WHq7aJDALJA/6yz1egX+Ullkasc8y7nBCZerR8UQcXfJn8TmE4NFFRJYF2GpprjloYH1n9rpv8lYSTgiFQJJ62ouguQIFK8u\
    dYDLe7Tn341C1K0hKe9T0HVbdabRWKf2OKbszpLgCZbHGcUTHp2y85GNvk0CbVa//KaF46IMLY45gSqteKjcfKfGpVC19KZV\
    QIzBsXiMl+IgmniNRwP2nW+c3npWwRy1Q6s1i7L5EBCFyCK5Skf905a6KF0+LykdYshWyxiQHQUYRWkuljCCAQIGCSqGSIb3\
    DQEHAaCB9ASB8TCB7jCB6wYLKoZIhvcNAQwKAQKggbQwgbEwHAYKKoZIhvcNAQwBAzAOBAijuDGjdiNqiAICCAAEgZA81qay\
    v6VahDv49Joc4b4t/IXsTOBbXnb+YEA1jIGTm0w5uEneqblaGL+4Bluio8JqRHUdXZXL0xlWqUMv41JCuxWpRT5tZ27BQe4p\
    oJnP1hhZKocg5Xv+AvuVFsdz9J02YLG/QLVGo3Rx9MwJSvwOk6RwVykj4Up1UZA060Gq6Vn2vKpvubsOBUweQ2iqOlkxJTAj\
    BgkqhkiG9w0BCRUxFgQUw3REGnOge4FI6Pbt6gN04prw++4wMTAhMAkGBSsOAwIaBQAEFIY8/U91F8NSSbhinCQvDYczMGcR\
    BAiUqOz4EQtUWwICCAA=";

/// The same with a password.
const LOCKED: &str = "\
    MIIEPAIBAzCCA/IGCSqGSIb3DQEHAaCCA+MEggPfMIID2zCCApIGCSqGSIb3DQEHBqCCAoMwggJ/AgEAMIICeAYJKoZIhvcN\
    AQcBMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAh911xsl1PO5QICCAAwDAYIKoZIhvcNAgkFADAdBglghkgBZQME\
    ASoEEKg+oAFlBhapHE7QnNy/tGqAggIQ84J0N8O04J4LcRdyNDdfDpvJEeQlQnFyjRnZAw/rts8K0kF0F1A8B6TgKUmC4C5D\
    9HiuSAZhlhgE7pCGFj98IUxvWBHtJHxQOM4Qg/ii2Sx8nXg2CvuB4mR0O4bugCXvcb+pGYr54ZwtI+53d5u6uFd/sUAh6VWM\
    Y5UyfnZam57Eq03hfn4we9BUE9G8tl0O3u6XIDUDxbJlqcwF29ZhKXZOVSRgu8KQrwbmPdiWXTWPP7kshIYWMTl3YcJynnrd\
    LYD+u0IiNIBh8HcDru0PrgZ8vv+JSJ9evAEaJIR6cAogJ4V31LI4Al5VtkfhoOotWPBQAODHbjjDjnmTX/olz7jPlG3c8P+c\
    kYVkFffI8WYsXl/Rkz7sbHs5ENI0TnG4rsgeXg4N5nhV35AjlZK69/HTXok0zNZEPG2hnMO5oD1Y8nDb3HEi736wep6HB1G3\
    k+GFBG9SEXgt/7zEUNvaam/ElaPrQopBdMp6XINq7wGfteFg4hlU30iHLnA5M412Qqp4qaeII6njO6IVHpZLb1s6ieOH+14q\
    fUNTvcyQPw2MuqdMs9VhJ/FQ0NGOcRwS6v6HdZzLto1j0gOqkescPcDe/cff7TV1pWMP9TTckaORnRT70sm6B9jt5TcC0P0r\
    JMLNY3SMYYDHMh6X1GvQiyqANz2poyo+33eKG2nzU6oaqwzENb9JOP8C+FaRofU3MIIBQQYJKoZIhvcNAQcBoIIBMgSCAS4w\
    ggEqMIIBJgYLKoZIhvcNAQwKAQKgge8wgewwVwYJKoZIhvcNAQUNMEowKQYJKoZIhvcNAQUMMBwECHj2NCnghauTAgIIADAM\
    BggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQvAHu+JrQwoZe9FSETHncJASBkGh8QpwP27A41wfIPKz83080+5uJcziqW2Bu\
    n5LL5yWd3xGxNfYdqtH9abF5wJK7GxvhfS9xeujiQEMgmBByROKJOrfGhkBy8j3QOI/Q8PCLkex+jRcHNxfrFMD/6mKimQ7X\
    CIq1bEHb44QHbUW6fX7jsgfYRn6U/i2S0LYj6VJU9lVhkLR2Eeynb4xreJxtwDElMCMGCSqGSIb3DQEJFTEWBBTDdEQac6B7\
    gUjo9u3qA3TimvD77jBBMDEwDQYJYIZIAWUDBAIBBQAEIEez2mJuqH/Ir1mdCZJ1cGcl0iLHxfyBOLYgB+C8Dz2pBAjycy4D\
    iZnTMwICCAA=";

/// A certificate of this name and its key, in PEM.
fn certified(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

impl Farm {
    /// A secret; the reference to it.
    async fn stored(&self, who: &str, text: &str, in_base64: bool) -> String {
        let mut body = json!({"payload": text, "payload_content_type": "text/plain"});
        if in_base64 {
            body["payload_content_type"] = json!("application/octet-stream");
            body["payload_content_encoding"] = json!("base64");
        }
        let (status, made) = self.cloud.ask(who, "POST", SECRETS, body).await;
        assert_eq!(status, 201, "{made}");
        made["secret_ref"].as_str().unwrap().to_owned()
    }

    /// A container of type certificate with these parts; the reference to it.
    async fn contained(&self, parts: &[(&str, &str)]) -> String {
        let mut refs = Vec::new();
        for (name, text) in parts {
            let secret_ref = self.stored("a", text, false).await;
            refs.push(json!({"name": name, "secret_ref": secret_ref}));
        }
        let body = json!({"type": "certificate", "secret_refs": refs});
        let path = "/key-manager/v1/containers";
        let (status, made) = self.cloud.ask("a", "POST", path, body).await;
        assert_eq!(status, 201, "{made}");
        made["container_ref"].as_str().unwrap().to_owned()
    }

    async fn certificate(&self, name: &str) -> String {
        let (certificate, key) = certified(name);
        self.contained(&[("certificate", &certificate), ("private_key", &key)])
            .await
    }

    fn secure(&self, more: Value) -> Value {
        let body = json!({
            "loadbalancer_id": self.id(), "protocol": "TERMINATED_HTTPS", "protocol_port": 443,
        });
        with(body, more)
    }

    /// The listeners that the proxy's host is told.
    fn told(&self) -> Vec<HttpListener> {
        let core = &self.cloud.api.core;
        let objects = view::objects(&core.store.snapshot(), &core.facts);
        for object in objects {
            if let Object::Proxy(proxy) = object {
                return proxy.section.listeners.clone();
            }
        }
        Vec::new()
    }

    /// The certificates that the one listener shows, by the names in them.
    fn names(&self) -> Vec<String> {
        let told = self.told();
        let [listener] = told.as_slice() else {
            panic!("{told:?}");
        };
        let certificates = &listener.tls.as_ref().unwrap().certificates;
        certificates.iter().map(name_in).collect()
    }
}

/// The name in a certificate, which has its key with it.
fn name_in(pem: &Pem) -> String {
    use rustls_pki_types::pem::PemObject as _;
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let text = pem.text();
    let parts: Vec<_> = text
        .match_indices("-----BEGIN ")
        .map(|(at, _)| &text[at..])
        .collect();
    let kinds = parts
        .iter()
        .map(|part| part[11..].split('-').next().unwrap());
    let kinds: Vec<&str> = kinds.collect();
    let (key, chain) = kinds.split_last().unwrap();
    assert!(key.ends_with("PRIVATE KEY"), "{kinds:?}");
    assert!(
        !chain.is_empty() && chain.iter().all(|kind| *kind == "CERTIFICATE"),
        "{kinds:?}"
    );
    let first = rustls_pki_types::CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let (_, read) = X509Certificate::from_der(&first).unwrap();
    let names = read.subject_alternative_name().unwrap().unwrap();
    let GeneralName::DNSName(name) = &names.value.general_names[0] else {
        panic!("{names:?}");
    };
    (*name).to_owned()
}

#[tokio::test]
async fn a_listener_shows_what_its_references_hold_and_keeps_it() {
    let farm = Farm::new().await;
    let (first, second) = (
        farm.certificate("a.example").await,
        farm.certificate("b.example").await,
    );
    let body = farm.secure(json!({
        "default_tls_container_ref": first, "sni_container_refs": [second, first, second],
    }));
    let listener = made(&farm.cloud, "listeners", "listener", body).await;
    assert_eq!(listener["default_tls_container_ref"], json!(first));
    assert_eq!(listener["sni_container_refs"], json!([second, first]));
    assert_eq!(listener["tls_versions"], json!(["TLSv1.2", "TLSv1.3"]));
    assert_eq!(
        listener["alpn_protocols"],
        json!(["h2", "http/1.1", "http/1.0"])
    );
    assert_eq!(listener["tls_ciphers"], Value::Null);
    assert_eq!(farm.names(), ["a.example", "b.example"]);
    let told = farm.told()[0].tls.clone().unwrap();
    assert_eq!(told.versions, [TlsVersion::V12, TlsVersion::V13]);
    assert_eq!(told.alpn, [Alpn::H2, Alpn::Http11, Alpn::Http10]);
    assert_eq!(farm.heard().chains, 1);
    // Neither an answer nor the store has a key.
    let (_, whole) = farm.cloud.get("a", &format!("{ROOT}/listeners")).await;
    assert!(whole["listeners"][0].get("certificates").is_none());
    let snapshot = farm.cloud.api.core.store.snapshot();
    for (key, entry) in snapshot.scan("") {
        let bytes = String::from_utf8(entry.record().encode().unwrap()).unwrap();
        assert!(!bytes.contains("PRIVATE KEY"), "{key}");
    }
    assert!(!format!("{:?}", farm.told()).contains("PRIVATE"));

    // What becomes of a secret changes nothing until it is named again.
    for reference in [&first, &second] {
        let path = reference.strip_prefix("http://cloud.example:9696").unwrap();
        assert_eq!(
            farm.cloud.ask("a", "DELETE", path, Value::Null).await.0,
            204
        );
    }
    let path = format!("listeners/{}", id(&listener));
    let other = json!({"name": "x", "tls_versions": ["TLSv1.3"], "alpn_protocols": ["http/1.1"], "tls_ciphers": "TLS_AES_256_GCM_SHA384"});
    farm.changed(&path, "listener", other).await;
    assert_eq!(farm.names(), ["a.example", "b.example"]);
    let told = farm.told()[0].tls.clone().unwrap();
    assert_eq!(told.versions, [TlsVersion::V13]);
    assert_eq!(told.alpn, [Alpn::Http11]);
    assert_eq!(told.ciphers.as_deref(), Some("TLS_AES_256_GCM_SHA384"));
    assert_eq!(told.hsts, None);
    let strict = json!({"hsts_max_age": 1000, "hsts_include_subdomains": true});
    farm.changed(&path, "listener", strict).await;
    let told = farm.told()[0].tls.clone().unwrap();
    let wanted = Hsts {
        max_age: 1000,
        subdomains: true,
        preload: false,
    };
    assert_eq!(told.hsts, Some(wanted));
    let whole = format!("{ROOT}/{path}");
    let again = json!({"listener": {"default_tls_container_ref": first}});
    let (status, answer) = farm.cloud.ask("a", "PUT", &whole, again).await;
    assert_eq!(status, 400, "{answer}");
    let third = farm.certificate("c.example").await;
    let change = json!({"default_tls_container_ref": third, "sni_container_refs": null});
    let unset = whole.clone();
    let (status, answer) = farm
        .cloud
        .ask("a", "PUT", &unset, json!({"listener": change}))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(farm.names(), ["c.example"]);
    let none = json!({"listener": {"default_tls_container_ref": null}});
    let (status, answer) = farm.cloud.ask("a", "PUT", &whole, none).await;
    let text = answer["faultstring"].as_str().unwrap();
    assert!(
        status == 400 && text.contains("must be provided"),
        "{answer}"
    );

    // It serves pools of HTTP, and is balanced as those.
    let pool = json!({"listener_id": listener["id"], "protocol": "HTTP", "lb_algorithm": "LEAST_CONNECTIONS"});
    let pool = made(&farm.cloud, "pools", "pool", pool).await;
    assert_eq!(farm.told()[0].pool.unwrap().to_string(), id(&pool));
    let policy = json!({"listener_id": listener["id"], "action": "REJECT"});
    made(&farm.cloud, "l7policies", "l7policy", policy).await;
    farm.gone(&path).await;
    assert!(farm.told().is_empty());
}

#[tokio::test]
async fn bundles_of_openssl_are_read() {
    let farm = Farm::new().await;
    for (port, bundle) in [(443, MODERN), (444, LEGACY)] {
        let reference = farm.stored("a", bundle, true).await;
        let body = json!({"default_tls_container_ref": reference, "protocol_port": port});
        let listener = made(&farm.cloud, "listeners", "listener", farm.secure(body)).await;
        assert_eq!(farm.names(), ["of-openssl.example"]);
        farm.gone(&format!("listeners/{}", id(&listener))).await;
    }
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_in_octavias_words() {
    let farm = Farm::new().await;
    let (certificate, key) = certified("a.example");
    let (_, other) = certified("b.example");
    let good = farm.certificate("c.example").await;
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let elsewhere = farm.stored("b", MODERN, true).await;
    let (_, announced) = farm.cloud.ask("a", "POST", SECRETS, json!({})).await;
    let announced = announced["secret_ref"].as_str().unwrap().to_owned();
    let both = |key| [("certificate", certificate.as_str()), ("private_key", key)];
    let text = farm.stored("a", &certificate, false).await;
    for (reference, why) in [
        (format!("http://x/v1/secrets/{MISSING}"), ""),
        (format!("http://x/v1/containers/{MISSING}"), ""),
        ("nonsense".to_owned(), ""),
        (elsewhere, ""),
        (announced, ""),
        (
            farm.contained(&both(&other)).await,
            "Key and x509 certificate do not match",
        ),
        (farm.contained(&both("no key")).await, "no key of RSA"),
        (farm.contained(&both(locked)).await, "passphrase"),
        (farm.contained(&both(&key)[..1]).await, "no key of RSA"),
        (
            farm.contained(&[("certificate", "x"), ("private_key", &key)])
                .await,
            "Could not read X509",
        ),
        (
            farm.stored("a", LOCKED, true).await,
            "PKCS12 bundle is unreadable",
        ),
        (
            farm.stored("a", &BASE64.encode("nonsense"), true).await,
            "PKCS12 bundle is unreadable",
        ),
        (text, "PKCS12 bundle is unreadable"),
    ] {
        let body = farm.secure(json!({"sni_container_refs": [good, reference]}));
        let path = format!("{ROOT}/listeners");
        let (status, answer) = farm
            .cloud
            .ask("a", "POST", &path, json!({"listener": body}))
            .await;
        let text = answer["faultstring"].as_str().unwrap_or_default();
        let wanted = format!("Could not retrieve certificate: {reference}");
        assert!(
            status == 400 && text.starts_with(&wanted) && text.contains(why),
            "{answer}"
        );
        assert_eq!(text.len() == wanted.len(), why.is_empty(), "{answer}");
    }
    for (body, words) in [
        (
            farm.secure(json!({})),
            "must be provided for TERMINATED_HTTPS protocol listeners",
        ),
        (
            json!({"protocol": "HTTP", "default_tls_container_ref": good}),
            "only allowed on TERMINATED_HTTPS",
        ),
        (
            json!({"protocol": "HTTPS", "sni_container_refs": [good]}),
            "only allowed on TERMINATED_HTTPS",
        ),
        (
            json!({"protocol": "HTTP", "tls_versions": ["TLSv1.3"]}),
            "tls_versions",
        ),
        (
            json!({"protocol": "TCP", "tls_ciphers": "AES256-SHA"}),
            "tls_ciphers",
        ),
        (
            json!({"protocol": "HTTP", "hsts_max_age": 1}),
            "hsts_max_age is only allowed",
        ),
        (
            json!({"default_tls_container_ref": good, "hsts_preload": true}),
            "only make sense if hsts_max_age is set",
        ),
        (
            json!({"protocol": "HTTP", "alpn_protocols": ["h2"]}),
            "alpn_protocols",
        ),
        (
            json!({"default_tls_container_ref": good, "tls_versions": ["SSLv3"]}),
            "tls_versions",
        ),
        (
            json!({"default_tls_container_ref": good, "tls_versions": ["TLSv1.3", "TLSv1.3"]}),
            "tls_versions",
        ),
        (
            json!({"default_tls_container_ref": good, "tls_ciphers": "a b"}),
            "tls_ciphers",
        ),
        (
            json!({"default_tls_container_ref": good, "tls_ciphers": ""}),
            "tls_ciphers",
        ),
        (
            json!({"default_tls_container_ref": good, "alpn_protocols": ["spdy"]}),
            "alpn_protocols",
        ),
        (
            json!({"default_tls_container_ref": 7}),
            "default_tls_container_ref",
        ),
        (json!({"sni_container_refs": ["a b"]}), "sni_container_refs"),
        (
            json!({"sni_container_refs": vec!["x"; 65]}),
            "sni_container_refs",
        ),
    ] {
        let body = json!({"listener": farm.secure(body)});
        let text = refused(&farm.cloud, "a", "POST", "listeners", body, 400).await;
        assert!(text.contains(words), "{text}");
    }
    assert!(farm.told().is_empty());
}

#[tokio::test]
async fn a_listener_whose_certificates_do_not_open_is_not_told() {
    let farm = Farm::new().await;
    let reference = farm.certificate("a.example").await;
    let body = farm.secure(json!({"default_tls_container_ref": reference}));
    made(&farm.cloud, "listeners", "listener", body).await;
    assert_eq!(farm.told().len(), 1);
    let snapshot = farm.cloud.api.core.store.snapshot();
    for keyring in [None, Some(Arc::new(Keyring::of(&[8; 32])))] {
        let facts = Facts {
            keyring,
            ..Facts::default()
        };
        let objects = view::objects(&snapshot, &facts);
        for object in objects {
            if let Object::Proxy(proxy) = object {
                assert!(proxy.section.listeners.is_empty());
            }
        }
    }
}
