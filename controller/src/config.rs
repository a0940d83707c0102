//! What did the operator set?
//!
//! The controller's TOML file: [`RawConfig`] is its text, [`Config`] what was found valid.

use crate::{policy::Files, resources::dns};
use serde::Deserialize;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The text of the file; everything may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Where the API listens.
    pub listen: Option<String>,
    /// Where hosts connect.
    pub hosts_listen: Option<String>,
    /// Where the store is.
    pub data_dir: Option<PathBuf>,
    /// What the underlay carries, in bytes of IP packet.
    pub underlay_mtu: Option<i64>,
    /// The domain of networks that have none.
    pub dns_domain: Option<String>,
    /// Who is asked for names on networks whose subnets name nobody.
    pub dns_resolvers: Option<Vec<String>>,
    /// Connections of the API at once.
    pub max_connections: Option<i64>,
    /// The Keystone that judges tokens.
    pub keystone: Option<String>,
    /// Whose certificates that one may have.
    pub keystone_ca: Option<PathBuf>,
    /// Who may do what, where that is not as built in.
    pub policy_file: Option<PathBuf>,
    /// More of that, a file each.
    pub policy_dir: Option<PathBuf>,
    /// HTTPS instead of HTTP.
    pub tls: Option<RawTls>,
}

/// The `[tls]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where hosts connect; the API's address with port 9697 if not set.
    pub hosts_listen: Option<SocketAddr>,
    /// Where the store is.
    pub data_dir: PathBuf,
    /// What the underlay carries, in bytes of IP packet.
    pub underlay_mtu: Option<u16>,
    /// The domain of networks that have none, with a dot at its end; empty: their ports have no names.
    pub dns_domain: String,
    /// Who is asked for names on networks whose subnets name nobody.
    pub dns_resolvers: Vec<IpAddr>,
    /// Connections of the API at once.
    pub max_connections: usize,
    /// The Keystone that judges tokens, by its `auth_url`; the embedded one if not set.
    pub keystone: Option<String>,
    /// PEM file of the certificates that may have signed that one's; the system's if not set.
    pub keystone_ca: Option<PathBuf>,
    /// Who may do what, where that is not as built in.
    pub policies: Files,
    /// HTTPS instead of HTTP.
    pub tls: Option<Tls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Loopback: nobody is served on a network before somebody says so.
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9696),
            hosts_listen: None,
            data_dir: PathBuf::from("/var/lib/overweave/controller"),
            // Unknown: networks get 1450, which any Ethernet carries over IPv4.
            underlay_mtu: None,
            // Neutron's.
            dns_domain: dns::DEFAULT_DOMAIN.to_owned(),
            // Only the operator knows whom workloads reach by their routers.
            dns_resolvers: Vec::new(),
            // Below the usual limit of 1024 descriptors.
            max_connections: 900,
            // Whoever has no OpenStack yet has one identity service less to run.
            keystone: None,
            keystone_ca: None,
            policies: Files::default(),
            tls: None,
        }
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or has a key or type that does not belong there.
    #[error("{path}:{line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with which key.
        reason: String,
    },
    /// A value is not acceptable.
    #[error("{path}: {key}: {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// One line that names the file, the place and what is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let source = text.lines().nth(line - 1).unwrap_or_default().trim();
            let message = error.message().replace('\n', " ");
            let reason = format!("{message} (in `{source}`)");
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                reason,
            }
        })?;
        raw.validate(path)
    }

    /// Where hosts connect.
    pub fn hosts_addr(&self) -> SocketAddr {
        self.hosts_listen
            .unwrap_or_else(|| SocketAddr::new(self.listen.ip(), 9697))
    }
}

/// An error on one line, with what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl RawConfig {
    fn validate(self, path: &Path) -> Result<Config, ConfigError> {
        let default = Config::default();
        let wrong = |key: &'static str, reason: String| ConfigError::Value {
            path: path.to_owned(),
            key,
            reason,
        };
        let address = |key: &'static str, text: &str| {
            text.parse::<SocketAddr>().map_err(|error| {
                wrong(
                    key,
                    format!("not ADDRESS:PORT, as in 127.0.0.1:9696 ({error}): {text}"),
                )
            })
        };
        let bounded = |key: &'static str, value: i64, least: i64, most: i64| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(wrong(
                    key,
                    format!("out of range ({least}..={most}): {value}"),
                ))
            }
        };
        let underlay_mtu = match self.underlay_mtu {
            Some(value) => u16::try_from(bounded("underlay_mtu", value, 576, 65_535)?).ok(),
            None => None,
        };
        let dns_domain = match self.dns_domain {
            Some(text) => {
                let mut domain = text.to_ascii_lowercase();
                if !domain.is_empty() && !domain.ends_with('.') {
                    domain.push('.');
                }
                dns::check_domain(&domain).map_err(|reason| wrong("dns_domain", reason))?;
                domain
            }
            None => default.dns_domain.clone(),
        };
        let resolvers = self.dns_resolvers.unwrap_or_default();
        if resolvers.len() > dns::RESOLVERS {
            let most = dns::RESOLVERS;
            return Err(wrong(
                "dns_resolvers",
                format!("more than {most}: {}", resolvers.len()),
            ));
        }
        let resolvers = resolvers
            .iter()
            .map(|text| dns::resolver(text).map_err(|reason| wrong("dns_resolvers", reason)));
        let dns_resolvers = resolvers.collect::<Result<_, _>>()?;
        let max_connections = match self.max_connections {
            Some(value) => bounded("max_connections", value, 1, 1_000_000)?,
            None => 900,
        };
        if let Some(url) = &self.keystone {
            let judge = crate::api::Judge::new(url, self.keystone_ca.as_deref());
            judge.map_err(|error| wrong("keystone", with_causes(&error)))?;
        } else if self.keystone_ca.is_some() {
            return Err(wrong(
                "keystone_ca",
                "is of no use without keystone".to_owned(),
            ));
        }
        let policies = Files {
            file: self.policy_file,
            dir: self.policy_dir,
        };
        Ok(Config {
            listen: match self.listen {
                Some(text) => address("listen", &text)?,
                None => default.listen,
            },
            hosts_listen: match self.hosts_listen {
                Some(text) => Some(address("hosts_listen", &text)?),
                None => None,
            },
            data_dir: self.data_dir.unwrap_or(default.data_dir),
            underlay_mtu,
            dns_domain,
            dns_resolvers,
            max_connections: usize::try_from(max_connections).unwrap_or(default.max_connections),
            keystone: self.keystone,
            keystone_ca: self.keystone_ca,
            policies,
            tls: self.tls.map(|tls| Tls {
                cert: tls.cert,
                key: tls.key,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("controller.toml"))
    }

    #[test]
    fn everything_may_be_left_out() {
        assert_eq!(parse("").unwrap(), Config::default());
        let config =
            parse("listen = \"[::1]:80\"\nunderlay_mtu = 9100\n[tls]\ncert = \"c\"\nkey = \"k\"");
        let config = config.unwrap();
        assert_eq!(config.hosts_addr(), "[::1]:9697".parse().unwrap());
        assert_eq!(config.underlay_mtu, Some(9100));
        assert!(config.tls.is_some());
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_place() {
        for (text, parts) in [
            ("listen = 5", &["controller.toml:1", "listen"][..]),
            (
                "\nlisten = \"here\"",
                &["controller.toml", "listen", "here"],
            ),
            ("\n\nlistne = \"x\"", &["controller.toml:3", "listne"]),
            ("underlay_mtu = 5", &["underlay_mtu", "576"]),
            ("dns_domain = \"a b\"", &["dns_domain", "a b"]),
            (
                "dns_resolvers = [\"10.0.0.1\", \"ns.example.org\"]",
                &["dns_resolvers", "ns.example.org"],
            ),
            (
                "dns_resolvers = [\"127.0.0.53\"]",
                &["dns_resolvers", "127.0.0.53"],
            ),
            (
                "dns_resolvers = [\"169.254.169.254\"]",
                &["dns_resolvers", "169.254.169.254"],
            ),
            (
                "dns_resolvers = [\"fe80::1\"]",
                &["dns_resolvers", "fe80::1"],
            ),
            (
                "underlay_mtu = \"big\"",
                &["controller.toml:1", "underlay_mtu"],
            ),
            ("keystone = \"k.example\"", &["keystone", "https://HOST"]),
            (
                "keystone_ca = \"ca.pem\"",
                &["keystone_ca", "without keystone"],
            ),
            ("[tls]\ncert = \"c\"", &["controller.toml:1", "key"]),
            ("=", &["controller.toml:1"]),
        ] {
            let text = parse(text).unwrap_err().to_string();
            assert!(!text.contains('\n'), "{text}");
            for part in parts {
                assert!(text.contains(part), "{text}: {part}");
            }
        }
    }

    #[test]
    fn the_sample_file_shows_every_key_in_a_form_that_is_good() {
        let sample = include_str!("../../configs/controller.toml");
        // A line that is commented out has no space behind the mark, prose has.
        let all: String = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let full = parse(&all).unwrap();
        assert!(full.tls.is_some() && full.hosts_listen.is_some());
        let error = toml::from_str::<RawConfig>("nonsense = 1").unwrap_err();
        let keys = error.message().split_once("expected one of ").unwrap().1;
        let keys: Vec<&str> = keys.split('`').skip(1).step_by(2).collect();
        assert!(
            keys.contains(&"listen") && keys.contains(&"tls"),
            "{keys:?}"
        );
        for key in keys {
            let (value, section) = (format!("\n{key} = "), format!("\n[{key}]\n"));
            assert!(all.contains(&value) || all.contains(&section), "{key}");
        }
    }
}
