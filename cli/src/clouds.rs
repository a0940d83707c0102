//! Which cloud is meant, and how does one log in?
//!
//! `clouds.yaml` is read as OpenStack's clients do: the file that `OS_CLIENT_CONFIG_FILE` names, else the first of
//! `./clouds.yaml`, `~/.config/openstack/clouds.yaml` and `/etc/openstack/clouds.yaml`; the cloud that `--os-cloud`
//! or `OS_CLOUD` names, else the login in `OS_AUTH_URL` and its companions, else the file's only cloud. Last comes
//! the file that a controller on this machine wrote for its admin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// What a controller with the default data directory writes.
const OF_THE_CONTROLLER: &str = "/var/lib/overweave/controller/clouds.yaml";

/// Which cloud a client verb speaks to.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct CloudArgs {
    /// The cloud in clouds.yaml (its only one if not given)
    #[arg(long, env = "OS_CLOUD", value_name = "NAME")]
    pub(crate) os_cloud: Option<String>,
}

/// A cloud and the login to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Cloud {
    pub(crate) auth: Auth,
    pub(crate) region_name: Option<String>,
    pub(crate) network_endpoint_override: Option<String>,
    pub(crate) cacert: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the keys of clouds.yaml")]
pub(crate) struct Auth {
    pub(crate) auth_url: String,
    pub(crate) username: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) project_name: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) user_domain_name: Option<String>,
    pub(crate) user_domain_id: Option<String>,
    pub(crate) project_domain_name: Option<String>,
    pub(crate) project_domain_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CloudsFile {
    #[serde(default)]
    clouds: BTreeMap<String, Cloud>,
}

/// The environment, as far as it matters; an argument so that tests have their own.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Finds the cloud.
///
/// # Errors
/// One that says where it looked and what to do.
pub(crate) fn find(args: &CloudArgs, env: Env<'_>) -> anyhow::Result<Cloud> {
    let file = file(env)?;
    let mut clouds = match &file {
        Some(path) => read(path)?,
        None => BTreeMap::new(),
    };
    let shown = file.as_deref().map_or_else(
        || "clouds.yaml".to_owned(),
        |path| path.display().to_string(),
    );
    if let Some(name) = &args.os_cloud {
        return match clouds.remove(name) {
            Some(cloud) => Ok(cloud),
            None if file.is_none() => bail!(
                "no clouds.yaml found for cloud `{name}`; point OS_CLIENT_CONFIG_FILE at the one that the controller wrote (DATA-DIR/clouds.yaml)"
            ),
            None => bail!("{shown}: no cloud `{name}`; it has: {}", names(&clouds)),
        };
    }
    if let Some(cloud) = of_env(env) {
        return Ok(cloud);
    }
    match clouds.len() {
        0 if file.is_none() => {
            bail!(
                "no cloud to speak to; point OS_CLIENT_CONFIG_FILE at the clouds.yaml that the controller wrote (DATA-DIR/clouds.yaml)"
            )
        }
        0 => bail!("{shown}: has no cloud; point OS_CLIENT_CONFIG_FILE at another file"),
        1 => clouds
            .pop_first()
            .map(|(_, cloud)| cloud)
            .context("take the only cloud"),
        _ => bail!(
            "{shown}: which cloud? pass --os-cloud or set OS_CLOUD to one of: {}",
            names(&clouds)
        ),
    }
}

fn names(clouds: &BTreeMap<String, Cloud>) -> String {
    clouds
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn file(env: Env<'_>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = env("OS_CLIENT_CONFIG_FILE") {
        let named = PathBuf::from(named);
        if !named.exists() {
            bail!(
                "{}: no such file, though OS_CLIENT_CONFIG_FILE names it",
                named.display()
            );
        }
        return Ok(Some(named));
    }
    let home = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")));
    let places = [
        Some(PathBuf::from(".")),
        home.map(|h| h.join("openstack")),
        Some(PathBuf::from("/etc/openstack")),
    ];
    let found = places
        .into_iter()
        .flatten()
        .flat_map(|place| ["clouds.yaml", "clouds.yml"].map(|name| place.join(name)))
        .chain([PathBuf::from(OF_THE_CONTROLLER)])
        .find(|path| path.is_file());
    Ok(found)
}

/// Reads one file.
///
/// # Errors
/// When it can't be read, or is no clouds.yaml.
pub(crate) fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Cloud>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file: CloudsFile =
        serde_norway::from_str(&text).with_context(|| format!("{}", path.display()))?;
    Ok(file.clouds)
}

fn of_env(env: Env<'_>) -> Option<Cloud> {
    let auth = Auth {
        auth_url: env("OS_AUTH_URL")?,
        username: env("OS_USERNAME"),
        user_id: env("OS_USER_ID"),
        password: env("OS_PASSWORD"),
        token: env("OS_TOKEN"),
        project_name: env("OS_PROJECT_NAME"),
        project_id: env("OS_PROJECT_ID"),
        user_domain_name: env("OS_USER_DOMAIN_NAME"),
        user_domain_id: env("OS_USER_DOMAIN_ID"),
        project_domain_name: env("OS_PROJECT_DOMAIN_NAME"),
        project_domain_id: env("OS_PROJECT_DOMAIN_ID"),
    };
    Some(Cloud {
        auth,
        region_name: env("OS_REGION_NAME"),
        network_endpoint_override: env("OS_NETWORK_ENDPOINT_OVERRIDE"),
        cacert: env("OS_CACERT").map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "clouds:\n  a: {auth: {auth_url: 'http://a/identity/v3', username: u, password: p}}\n  b: {auth: {auth_url: 'http://b'}, verify: false}\n";

    fn written(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!(
            "overweave-clouds-{}-{name}.yaml",
            std::process::id()
        ));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn with(path: &Path, more: &[(&str, &str)], cloud: Option<&str>) -> anyhow::Result<Cloud> {
        let path = path.display().to_string();
        let env = |name: &str| match name {
            "OS_CLIENT_CONFIG_FILE" => Some(path.clone()),
            _ => more
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned()),
        };
        find(
            &CloudArgs {
                os_cloud: cloud.map(str::to_owned),
            },
            &env,
        )
    }

    #[test]
    fn the_named_cloud_is_taken() {
        let path = written("named", TWO);
        assert_eq!(
            with(&path, &[], Some("a")).unwrap().auth.auth_url,
            "http://a/identity/v3"
        );
        let message = with(&path, &[], Some("c")).unwrap_err().to_string();
        assert!(message.ends_with("no cloud `c`; it has: a, b"), "{message}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn without_a_name_the_environment_then_the_only_cloud() {
        let path = written("only", TWO);
        let message = with(&path, &[], None).unwrap_err().to_string();
        assert!(
            message.contains("--os-cloud") && message.contains("a, b"),
            "{message}"
        );
        let env = [("OS_AUTH_URL", "http://c"), ("OS_USERNAME", "x")];
        assert_eq!(with(&path, &env, None).unwrap().auth.auth_url, "http://c");
        std::fs::write(&path, "clouds: {overweave: {auth: {auth_url: 'http://o'}}}").unwrap();
        assert_eq!(with(&path, &[], None).unwrap().auth.auth_url, "http://o");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let message = with(Path::new("/nowhere/clouds.yaml"), &[], None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("OS_CLIENT_CONFIG_FILE"), "{message}");
    }
}
