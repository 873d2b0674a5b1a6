//! The names that we may be called by. A browser that somebody leads to this address under a name of their own (DNS
//! rebinding) says that name as its Host, and is refused.

use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug)]
pub(super) struct Hosts {
    /// Beside loopback names and the address itself, which nobody else can have. Lower case, without ports.
    names: Vec<String>,
    address: Option<IpAddr>,
}

impl Hosts {
    pub(super) fn new(names: Vec<String>, address: Option<SocketAddr>) -> Hosts {
        Hosts { names, address: address.map(|address| address.ip()) }
    }

    /// `authority`: a Host, with a port or without.
    pub(super) fn have(&self, authority: &str) -> bool {
        let Some(name) = name_of(authority) else { return false };
        let is_ours = |ip: IpAddr| ip.is_loopback() || Some(ip) == self.address;
        name == "localhost" || ip_of(&name).is_some_and(is_ours) || self.names.contains(&name)
    }
}

fn ip_of(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

/// Without the port. `None`: no host and port.
fn name_of(authority: &str) -> Option<String> {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']')? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, rest) = authority.split_at(end);
    let port = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    (!name.is_empty() && is_port(port)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_list_loopback_and_the_address_itself_are_ours() {
        let address = Some("10.0.0.7:9187".parse().expect("an address"));
        let hosts = Hosts::new(Vec::new(), address);
        for ours in ["localhost", "LOCALHOST:80", "127.0.0.1:9187", "127.9.9.9", "[::1]:9187", "10.0.0.7"] {
            assert!(hosts.have(ours), "{ours}");
        }
        for other in [
            "",
            ":",
            ":9187",
            "x",
            "evil.example:9187",
            "localhost.evil.example",
            "localhost@evil.example",
            "10.0.0.8",
            "[::1",
            "[::1]x",
            "::1",
            "127.0.0.1:port",
            "127.0.0.1:999999",
            "localhost:80:80",
            "localhost ",
            "[fd00::7]",
            "127.0.0.1.",
            "0.0.0.0",
            "[::ffff:10.0.0.8]",
        ] {
            assert!(!hosts.have(other), "{other}");
        }
    }

    #[test]
    fn a_list_adds_to_them() {
        let hosts = Hosts::new(vec!["sync.example.org".into(), "[fd00::7]".into()], None);
        for ours in [
            "sync.example.org",
            "Sync.Example.org:443",
            "[FD00::7]:1",
            "localhost",
            "127.0.0.1:9187",
            "[::1]",
        ] {
            assert!(hosts.have(ours), "{ours}");
        }
        for other in ["example.org", "sync.example.org.evil.example", "10.0.0.7", "[fd00::8]"] {
            assert!(!hosts.have(other), "{other}");
        }
    }
}
