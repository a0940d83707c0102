//! How does the command ask the controller?
//!
//! A small blocking client of the public API: Keystone v3 login, then JSON over HTTP. It is all that the lab and the
//! admin verbs use; they have no other way in than any OpenStack client.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use ureq::Agent;

use crate::clouds::{Auth, Cloud};

/// Answers larger than this are refused: 100,000 ports come to about 90 MB.
const BODY_MAX: u64 = 256 * 1024 * 1024;

/// How long a download may stand still.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the controller refused, as it said it.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {status}{}{kind}: {message}", if kind.is_empty() { "" } else { " " })]
pub(crate) struct ApiRefusal {
    method: String,
    path: String,
    pub(crate) status: u16,
    kind: String,
    message: String,
}

/// A logged-in client.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: Agent,
    network: String,
    identity: String,
    token: String,
    /// The project of the login.
    pub(crate) project: String,
}

/// An HTTP client for control traffic.
fn agent(cloud: &Cloud) -> anyhow::Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_global(Some(Duration::from_mins(2)))
        .proxy(None)
        .user_agent(concat!("overweave/", env!("CARGO_PKG_VERSION")));
    if cloud.auth.auth_url.starts_with("https:") {
        // The provider may have been installed by an earlier client of this process.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        if let Some(path) = &cloud.cacert {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let certificates = ureq::tls::parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect::<Vec<_>>();
            let tls = ureq::tls::TlsConfig::builder()
                .root_certs(ureq::tls::RootCerts::new_with_certs(&certificates))
                .build();
            config = config.tls_config(tls);
        }
    }
    Ok(config.build().into())
}

/// The body of a login, with a password or a token.
fn login_body(auth: &Auth) -> anyhow::Result<Value> {
    let domain = |name: &Option<String>, id: &Option<String>| match (name, id) {
        (_, Some(id)) => json!({"id": id}),
        (Some(name), None) => json!({"name": name}),
        (None, None) => json!({"id": "default"}),
    };
    let identity = if let Some(token) = &auth.token {
        json!({"methods": ["token"], "token": {"id": token}})
    } else {
        let password = auth
            .password
            .as_deref()
            .context("the cloud has no password; set OS_PASSWORD")?;
        let user = match (&auth.user_id, &auth.username) {
            (Some(id), _) => json!({"id": id, "password": password}),
            (None, Some(name)) => {
                json!({"name": name, "password": password, "domain": domain(&auth.user_domain_name, &auth.user_domain_id)})
            }
            (None, None) => bail!("the cloud has no username; set OS_USERNAME"),
        };
        json!({"methods": ["password"], "password": {"user": user}})
    };
    let mut body = json!({"auth": {"identity": identity}});
    let scope = match (&auth.project_id, &auth.project_name) {
        (Some(id), _) => Some(json!({"project": {"id": id}})),
        (None, Some(name)) => Some(
            json!({"project": {"name": name, "domain": domain(&auth.project_domain_name, &auth.project_domain_id)}}),
        ),
        (None, None) => None,
    };
    if let (Some(scope), Some(inner)) = (scope, body.get_mut("auth").and_then(Value::as_object_mut))
    {
        inner.insert("scope".to_owned(), scope);
    }
    Ok(body)
}

/// The address of the network service in a token's catalogue.
fn network_endpoint(token: &Value, region: Option<&str>) -> Option<String> {
    let service = token
        .get("catalog")?
        .as_array()?
        .iter()
        .find(|s| text(s, "type") == "network")?;
    let endpoint = service.get("endpoints")?.as_array()?.iter().find(|e| {
        text(e, "interface") == "public" && region.is_none_or(|region| text(e, "region") == region)
    })?;
    Some(text(endpoint, "url").to_owned())
}

/// A text field, empty if it is not there.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Api {
    /// Logs in.
    ///
    /// # Errors
    /// When the controller can't be reached, or refuses the login.
    pub(crate) fn login(cloud: &Cloud) -> anyhow::Result<Self> {
        let auth_url = cloud.auth.auth_url.trim_end_matches('/');
        if auth_url.is_empty() {
            bail!("the cloud has no auth_url; write it into clouds.yaml, or set OS_AUTH_URL");
        }
        let identity = if auth_url.ends_with("/v3") {
            auth_url.to_owned()
        } else {
            format!("{auth_url}/v3")
        };
        let agent = agent(cloud)?;
        let mut answer = agent
            .post(format!("{identity}/auth/tokens"))
            .send_json(login_body(&cloud.auth)?)
            .map_err(|e| unreachable_at(&identity, &e))?;
        let status = answer.status().as_u16();
        let token = answer
            .headers()
            .get("x-subject-token")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body: Value = answer
            .body_mut()
            .read_json()
            .with_context(|| format!("read the login's answer from {identity}"))?;
        let Some(token) = token.filter(|_| status == 201) else {
            let said = refusal("POST", "/auth/tokens", status, &body);
            return Err(anyhow!(said)
                .context("log in (check username, password and project in clouds.yaml)"));
        };
        let granted = body.get("token").cloned().unwrap_or_default();
        let network = cloud
            .network_endpoint_override
            .clone()
            .or_else(|| network_endpoint(&granted, cloud.region_name.as_deref()))
            .context("the token's catalogue has no network service; set network_endpoint_override in clouds.yaml")?;
        let network = network
            .trim_end_matches('/')
            .trim_end_matches("/v2.0")
            .to_owned();
        let project = granted
            .get("project")
            .map(|p| text(p, "id").to_owned())
            .unwrap_or_default();
        Ok(Self {
            agent,
            network,
            identity,
            token,
            project,
        })
    }

    /// The token of this login.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Reads from the network service; `path` starts with `/v2.0/`.
    ///
    /// # Errors
    /// As the controller refuses.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self
            .agent
            .get(format!("{}{path}", self.network))
            .header("X-Auth-Token", &self.token)
            .call();
        Self::finish("GET", path, &self.network, answer)
    }

    /// Creates in the network service.
    ///
    /// # Errors
    /// As the controller refuses.
    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .agent
            .post(format!("{}{path}", self.network))
            .header("X-Auth-Token", &self.token);
        Self::finish("POST", path, &self.network, request.send_json(body))
    }

    /// Asks the network service for something long, and takes it a part at a time; it may last as long as parts come.
    ///
    /// # Errors
    /// As the controller refuses, when it is cut off, or as `take` fails.
    pub(crate) fn download(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let answer = self
            .agent
            .post(format!("{}{path}", self.network))
            .config()
            .timeout_global(None)
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build()
            .header("X-Auth-Token", &self.token)
            .send_empty();
        let mut answer = match answer {
            Ok(answer) if answer.status().is_success() => answer,
            other => return Self::finish("POST", path, &self.network, other).map(drop),
        };
        let mut body = answer.body_mut().as_reader();
        let mut part = vec![0; 64 * 1024];
        loop {
            let read = body.read(&mut part);
            let read = read.with_context(|| format!("read the answer to POST {path}"))?;
            match part.get(..read) {
                Some(read) if !read.is_empty() => take(read)?,
                _ => return Ok(()),
            }
        }
    }

    /// Changes in the network service.
    ///
    /// # Errors
    /// As the controller refuses.
    pub(crate) fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .agent
            .put(format!("{}{path}", self.network))
            .header("X-Auth-Token", &self.token);
        Self::finish("PUT", path, &self.network, request.send_json(body))
    }

    /// Deletes in the network service.
    ///
    /// # Errors
    /// As the controller refuses.
    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let request = self
            .agent
            .delete(format!("{}{path}", self.network))
            .header("X-Auth-Token", &self.token);
        Self::finish("DELETE", path, &self.network, request.call())
    }

    /// Creates in the identity service; `path` starts after `/v3`.
    ///
    /// # Errors
    /// As the controller refuses.
    pub(crate) fn post_identity(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .agent
            .post(format!("{}{path}", self.identity))
            .header("X-Auth-Token", &self.token);
        Self::finish("POST", path, &self.identity, request.send_json(body))
    }

    fn finish(
        method: &str,
        path: &str,
        at: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let mut answer = answer.map_err(|e| unreachable_at(at, &e))?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(BODY_MAX)
            .read_to_string()
            .with_context(|| format!("read the answer to {method} {path}"))?;
        if (200..300).contains(&status) {
            if text.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&text)
                .with_context(|| format!("read the answer to {method} {path}"));
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Err(refusal(method, path, status, &body).into())
    }
}

fn unreachable_at(url: &str, error: &ureq::Error) -> anyhow::Error {
    anyhow!(
        "no controller answers at {url} ({error}); start one with `overweave controller`, or check clouds.yaml"
    )
}

/// Reads Neutron's, Keystone's and anybody's error bodies.
fn refusal(method: &str, path: &str, status: u16, body: &Value) -> ApiRefusal {
    let inner = ["NeutronError", "error"]
        .iter()
        .find_map(|key| body.get(key))
        .unwrap_or(body);
    let kind = match text(inner, "type") {
        "" => text(inner, "title"),
        kind => kind,
    };
    let message = match (text(inner, "message"), inner.as_str()) {
        ("", Some(plain)) => plain.to_owned(),
        ("", None) => inner.to_string(),
        (message, _) => message.to_owned(),
    };
    ApiRefusal {
        method: method.to_owned(),
        path: path.to_owned(),
        status,
        kind: kind.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_login_is_scoped_to_the_project() {
        let auth = Auth {
            auth_url: "http://a".to_owned(),
            username: Some("admin".to_owned()),
            password: Some("p".to_owned()),
            project_name: Some("admin".to_owned()),
            user_domain_name: Some("Default".to_owned()),
            ..Auth::default()
        };
        assert_eq!(
            login_body(&auth).unwrap(),
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user":
                    {"name": "admin", "password": "p", "domain": {"name": "Default"}}}},
                "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
            }})
        );
    }

    #[test]
    fn a_login_without_a_name_says_what_to_set() {
        let message = login_body(&Auth::default()).unwrap_err().to_string();
        assert!(message.contains("OS_PASSWORD"), "{message}");
    }

    #[test]
    fn refusals_are_read_in_each_form() {
        let neutron = json!({"NeutronError": {"type": "PortNotFound", "message": "no such port", "detail": ""}});
        assert_eq!(
            refusal("GET", "/p", 404, &neutron).to_string(),
            "GET /p: 404 PortNotFound: no such port"
        );
        let keystone = json!({"error": {"code": 401, "title": "Unauthorized", "message": "who?"}});
        assert_eq!(
            refusal("GET", "/p", 401, &keystone).to_string(),
            "GET /p: 401 Unauthorized: who?"
        );
        assert_eq!(
            refusal("GET", "/p", 502, &json!("bad gateway")).to_string(),
            "GET /p: 502: bad gateway"
        );
    }

    #[test]
    fn the_catalogue_names_the_network_service() {
        let token = json!({"catalog": [
            {"type": "identity", "endpoints": [{"interface": "public", "url": "http://i", "region": "R"}]},
            {"type": "network", "endpoints": [
                {"interface": "admin", "url": "http://x", "region": "R"},
                {"interface": "public", "url": "http://n", "region": "R"}]},
        ]});
        assert_eq!(network_endpoint(&token, None).as_deref(), Some("http://n"));
        assert_eq!(
            network_endpoint(&token, Some("R")).as_deref(),
            Some("http://n")
        );
        assert_eq!(network_endpoint(&token, Some("S")), None);
    }
}
