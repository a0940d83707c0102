//! How does TLS end at a listener?
//!
//! A listener of `TERMINATED_HTTPS` names secrets of its project. What they hold is read when they are named, and kept with the listener, sealed for it: what
//! becomes of the secrets after that changes nothing until they are named again.

use super::{Listener, LoadBalancer, invalid};
use crate::{
    keys::{Keyring, Sealed, Unusable},
    refusal::Refusal,
    resource::Objects as _,
    rules::{Caller, Change, Judged, Write},
    store::View,
};
use hostconfig::{
    Pem,
    proxy::{Alpn, Hsts, HttpTls, TlsVersion},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The protocol of listeners that end TLS.
pub(super) const TERMINATED: &str = "TERMINATED_HTTPS";
/// Certificates that a listener shows by name, besides its default.
const NAMES: usize = 64;
/// Letters of a reference, and of a list of ciphers.
const LONGEST: (usize, usize) = (255, 2048);

/// What Octavia takes where nothing is said.
const VERSIONS: &[&str] = &["TLSv1.2", "TLSv1.3"];
const PROTOCOLS: &[&str] = &["h2", "http/1.1", "http/1.0"];

/// A certificate with its key, by the reference that led to it.
pub(crate) type Kept = (String, Sealed);

/// Where a listener's certificates are sealed for.
fn place(listener: Uuid) -> String {
    format!("listener/{listener}")
}

/// The references that a request names.
pub(crate) fn references(said: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let own = said.get("default_tls_container_ref");
    let others = said.get("sni_container_refs").and_then(Value::as_array);
    let others = others.into_iter().flatten();
    own.into_iter().chain(others).filter_map(Value::as_str)
}

fn is_reference(value: &Value) -> bool {
    let text = value.as_str();
    text.is_some_and(|text| {
        (1..=LONGEST.0).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    })
}

/// A reference to a secret or container.
pub(super) fn reference_shape(value: &Value) -> Result<Value, String> {
    if is_reference(value) {
        Ok(value.clone())
    } else {
        Err(format!("'{value}' is no reference"))
    }
}

/// References, each once.
pub(super) fn references_shape(value: &Value) -> Result<Value, String> {
    let list = value
        .as_array()
        .filter(|list| list.len() <= NAMES && list.iter().all(is_reference));
    let list = list.ok_or_else(|| format!("'{value}' is no list of {NAMES} references at most"))?;
    let mut once: Vec<&Value> = Vec::with_capacity(list.len());
    for reference in list {
        if !once.contains(&reference) {
            once.push(reference);
        }
    }
    Ok(json!(once))
}

/// Names of ciphers, as OpenSSL separates them.
pub(super) fn ciphers_shape(value: &Value) -> Result<Value, String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match value.as_str() {
        Some(text) if text.len() <= LONGEST.1 && text.split(':').all(is_name) => Ok(value.clone()),
        _ => Err(format!(
            "'{value}' is no list of ciphers by OpenSSL's names"
        )),
    }
}

/// Words of `T`, each once.
fn words<T: DeserializeOwned + PartialEq>(value: &Value) -> Result<Value, String> {
    let list = value.as_array();
    let list = list.ok_or_else(|| format!("'{value}' is not a list"))?;
    let mut known: Vec<T> = Vec::new();
    for word in list {
        let read = serde_json::from_value(word.clone());
        let read = read.map_err(|error: serde_json::Error| format!("'{word}': {error}"))?;
        if known.contains(&read) {
            return Err(format!("'{word}' is there twice"));
        }
        known.push(read);
    }
    Ok(value.clone())
}

/// Versions of TLS.
pub(super) fn versions_shape(value: &Value) -> Result<Value, String> {
    words::<TlsVersion>(value)
}

/// Protocols in TLS.
pub(super) fn protocols_shape(value: &Value) -> Result<Value, String> {
    words::<Alpn>(value)
}

/// It names what it shows, if it ends TLS, and keeps it.
pub(super) fn secured(view: &View, change: &Change<'_, Listener>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    if after.protocol != TERMINATED {
        unsaid(after)?;
        return Ok(Vec::new());
    }
    if after.hsts_max_age.is_none() && (after.hsts_include_subdomains || after.hsts_preload) {
        return Err(invalid(
            "HSTS configuration options hsts_include_subdomains and hsts_preload only make sense if hsts_max_age is set as well.",
        ));
    }
    let mut listener = after.clone();
    if listener.tls_versions.is_empty() {
        listener.tls_versions = owned(VERSIONS);
    }
    if change.made().is_some() && !change.names("alpn_protocols") {
        listener.alpn_protocols = owned(PROTOCOLS);
    }
    let own = listener.default_tls_container_ref.iter();
    let mut all: Vec<(&str, &String)> = own.map(|own| ("default_tls_container_ref", own)).collect();
    for other in &listener.sni_container_refs {
        if !all.iter().any(|(_, known)| *known == other) {
            all.push(("sni_container_refs", other));
        }
    }
    if all.is_empty() {
        return Err(invalid(format_args!(
            "An SNI or default certificate container reference must be provided for {TERMINATED} protocol listeners."
        )));
    }
    // Whose it is was judged by the rule before this one.
    let balancer = view.object::<LoadBalancer>(after.loadbalancer_id);
    let project = balancer.map(|balancer| balancer.meta.project_id.clone());
    let project = project.unwrap_or_default();
    let mut kept: Vec<Kept> = Vec::with_capacity(all.len());
    for (field, reference) in all {
        let before = after.certificates.iter().find(|kept| kept.0 == *reference);
        let sealed = match before.filter(|_| !change.names(field)) {
            Some((_, sealed)) => sealed.clone(),
            None => seal(change, &project, reference)?,
        };
        kept.push((reference.clone(), sealed));
    }
    listener.certificates = kept;
    if listener == *after {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(listener)])
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What a reference leads to, sealed for the listener.
fn seal(change: &Change<'_, Listener>, project: &str, reference: &str) -> Result<Sealed, Refusal> {
    let unusable = |why: Unusable| {
        let why = if why == Unusable::Missing {
            String::new()
        } else {
            format!(": {why}")
        };
        let text = format!("Could not retrieve certificate: {reference}{why}");
        Refusal::invalid("CertificateRetrievalException", text)
    };
    let moment = change.moment;
    let pem = moment.bundles.of(project, reference).map_err(unusable)?;
    let keyring = moment.facts.keyring.as_ref();
    let keyring = keyring.ok_or_else(|| unusable(Unusable::Missing))?;
    let rolled = moment.dice.named(&format!("nonce/{reference}"));
    let Some(nonce) = rolled.first_chunk() else {
        unreachable!("a digest has 32 bytes");
    };
    let id = change.subject().map_or_else(Uuid::nil, |l| l.meta.id);
    Ok(keyring.seal(&place(id), *nonce, pem.text().as_bytes()))
}

/// Who does not end TLS says nothing of it.
fn unsaid(listener: &Listener) -> Result<(), Refusal> {
    if listener.default_tls_container_ref.is_some() || !listener.sni_container_refs.is_empty() {
        return Err(invalid(format_args!(
            "Certificate container references are only allowed on {TERMINATED} protocol listeners."
        )));
    }
    for (name, is_said) in [
        ("tls_versions", !listener.tls_versions.is_empty()),
        ("tls_ciphers", listener.tls_ciphers.is_some()),
        ("alpn_protocols", !listener.alpn_protocols.is_empty()),
        ("hsts_max_age", listener.hsts_max_age.is_some()),
        ("hsts_include_subdomains", listener.hsts_include_subdomains),
        ("hsts_preload", listener.hsts_preload),
    ] {
        if is_said {
            return Err(invalid(format_args!(
                "{name} is only allowed on {TERMINATED} protocol listeners."
            )));
        }
    }
    Ok(())
}

/// How a proxy ends it; the certificates are not in it yet.
pub(super) fn ends(listener: &Listener) -> Option<HttpTls> {
    fn read<T: DeserializeOwned>(words: &[String]) -> Vec<T> {
        let words = words.iter();
        let read = words.filter_map(|word| serde_json::from_value(json!(word)).ok());
        read.collect()
    }
    (listener.protocol == TERMINATED).then(|| HttpTls {
        certificates: Vec::new(),
        versions: read(&listener.tls_versions),
        ciphers: listener.tls_ciphers.clone(),
        alpn: read(&listener.alpn_protocols),
        hsts: listener.hsts_max_age.map(|max_age| Hsts {
            max_age,
            subdomains: listener.hsts_include_subdomains,
            preload: listener.hsts_preload,
        }),
    })
}

/// A listener's certificates, opened; none if one does not open.
pub(crate) fn opened(keyring: &Keyring, listener: Uuid, sealed: &[Sealed]) -> Option<Vec<Pem>> {
    let place = place(listener);
    let opened = sealed.iter().map(|sealed| {
        let text = keyring.unseal(&place, sealed).ok()?;
        String::from_utf8(text).ok().map(Pem::new)
    });
    opened.collect()
}
