//! Whom this machine trusts to sign certificates. A library that was built into the program looks where the machine that
//! built it keeps them, which another distribution does not.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::ssl::SslConnectorBuilder;

/// Debian, Red Hat, SUSE, Alpine and macOS.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables in which somebody names others: these alone count then.
const NAMED: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Beside those that the builder has from the start.
pub(crate) fn trust_machine(builder: &mut SslConnectorBuilder) -> Result<(), ErrorStack> {
    match bundle(|name| std::env::var_os(name).is_some(), |path| Path::new(path).exists()) {
        Some(path) => builder.set_ca_file(path),
        None => Ok(()),
    }
}

fn bundle(is_set: impl Fn(&str) -> bool, is_there: impl Fn(&str) -> bool) -> Option<&'static str> {
    if NAMED.iter().any(|name| is_set(name)) {
        return None;
    }
    BUNDLES.into_iter().find(|path| is_there(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_own_bundle_is_found_unless_somebody_names_another() {
        let red_hat = |path: &str| path == BUNDLES[1];
        assert_eq!(bundle(|_| false, red_hat), Some("/etc/pki/tls/certs/ca-bundle.crt"));
        assert_eq!(bundle(|_| false, |_| false), None);
        assert_eq!(bundle(|name| name == "SSL_CERT_FILE", red_hat), None);
    }
}
