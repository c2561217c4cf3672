//! Redis addresses: `redis://`, `rediss://`, and several nodes with `redis+cluster://` and `redis+sentinel://`.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// How the nodes of an address belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    Single,
    Cluster,
    Sentinel { service: String },
}

/// A parsed address. `Display` leaves the credentials out.
#[derive(Clone)]
pub(super) struct RedisUrl {
    pub topology: Topology,
    pub tls: bool,
    pub hosts: Vec<(String, u16)>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub db: i64,
    /// The address as it is, for a single node: the driver knows more forms (Unix sockets, options).
    single: String,
}

impl RedisUrl {
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            "`redis.url` is not an address: write redis://HOST:PORT, rediss://, redis+cluster:// or redis+sentinel://"
                .to_string()
        })?;
        let tls = scheme.starts_with("rediss");
        let (kind, default_port) = match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" | "valkey" | "valkeys" => (None, 6379),
            "redis+cluster" | "rediss+cluster" => (Some(true), 6379),
            "redis+sentinel" | "rediss+sentinel" => (Some(false), 26379),
            other => {
                return Err(format!(
                    "`redis.url`: unknown scheme {other:?}; use redis, rediss, redis+cluster or redis+sentinel"
                ));
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((u, h)) => (Some(u), h),
            None => (None, authority),
        };
        let hosts = if kind.is_none() && scheme.ends_with("unix") {
            vec![(path.to_string(), 0)]
        } else {
            parse_hosts(hosts, default_port)?
        };
        let (username, password) = match userinfo {
            None | Some("") => (None, None),
            Some(u) => {
                let (name, password) = u.split_once(':').map_or((u, None), |(n, p)| (n, Some(p)));
                (Some(decode(name)).filter(|n| !n.is_empty()), password.map(decode))
            }
        };
        let path = path.split_once('?').map_or(path, |(p, _)| p);
        let number = |text: &str| -> Result<i64, String> {
            if text.is_empty() {
                Ok(0)
            } else {
                text.parse().map_err(|_| format!("`redis.url`: {text:?} is not a database number"))
            }
        };
        let (topology, db) = match kind {
            None => (Topology::Single, if scheme.ends_with("unix") { 0 } else { number(path)? }),
            Some(true) => (Topology::Cluster, 0),
            Some(false) => {
                let (service, db) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(
                        "`redis.url`: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE needs the service name".into()
                    );
                }
                (Topology::Sentinel { service: service.into() }, number(db)?)
            }
        };
        Ok(Self { topology, tls, hosts, username, password, db, single: url.to_string() })
    }

    /// What the driver connects to.
    pub fn infos(&self) -> Vec<ConnectionInfo> {
        if self.topology == Topology::Single {
            return self.single.as_str().into_connection_info().into_iter().collect();
        }
        let mut settings = redis::RedisConnectionInfo::default().set_db(self.db);
        if let Some(name) = &self.username {
            settings = settings.set_username(name);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        self.addresses()
            .into_iter()
            .filter_map(|a| Some(a.into_connection_info().ok()?.set_redis_settings(settings.clone())))
            .collect()
    }

    pub fn addresses(&self) -> Vec<ConnectionAddr> {
        let one = |(host, port): &(String, u16)| {
            if self.tls {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host.clone(), *port)
            }
        };
        self.hosts.iter().map(one).collect()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
        write!(f, "{}", hosts.join(","))
    }
}

fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<(String, u16)>, String> {
    let mut hosts = Vec::new();
    for part in text.split(',') {
        // An IPv6 address stands in brackets: its colons are not the port's.
        let (host, port) = match part.rsplit_once(':') {
            Some((h, p)) if !p.contains(']') => {
                (h, p.parse().map_err(|_| format!("`redis.url`: {p:?} is not a port"))?)
            }
            _ => (part, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        hosts.push((if host.is_empty() { "127.0.0.1" } else { host }.to_string(), port));
    }
    Ok(hosts)
}

/// Undoes percent-encoding in user names and passwords; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_topology_and_hides_credentials() {
        let c = RedisUrl::parse("rediss+cluster://app:p%40ss@a:7000,b:7001").unwrap();
        assert_eq!((c.topology.clone(), c.tls), (Topology::Cluster, true));
        assert_eq!(c.hosts, [("a".into(), 7000), ("b".into(), 7001)]);
        assert_eq!((c.username.as_deref(), c.password.as_deref()), (Some("app"), Some("p@ss")));
        assert_eq!(c.to_string(), "a:7000,b:7001");
        let s = RedisUrl::parse("redis+sentinel://:pw@s1,s2:26380/main/3").unwrap();
        assert_eq!(s.topology, Topology::Sentinel { service: "main".into() });
        assert_eq!((s.db, s.username, s.password.as_deref()), (3, None, Some("pw")));
        assert_eq!(s.hosts, [("s1".into(), 26379), ("s2".into(), 26380)]);
        let one = RedisUrl::parse("redis://u:secret@[::1]:6390/2").unwrap();
        assert_eq!((one.to_string(), one.db), ("::1:6390".to_string(), 2));
    }

    #[test]
    fn says_what_is_wrong() {
        for (url, part) in [
            ("localhost:6379", "is not an address"),
            ("http://x", "unknown scheme"),
            ("redis://h:port", "is not a port"),
            ("redis+sentinel://h", "needs the service name"),
            ("redis://h/x", "not a database number"),
        ] {
            let e = RedisUrl::parse(url).err().unwrap();
            assert!(e.contains(part), "{url}: {e}");
        }
    }
}
