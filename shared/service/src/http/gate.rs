//! Who is let in: by which name we were called, from which site a browser asks, and with which token.

use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use syncdata_formats::error::{Error, Kind, Result};
use tracing::error;

use super::hosts::Hosts;
use super::problem::{Problem, Sort};
use super::tokens::Tokens;
use crate::config::{Config, Program};

#[derive(Debug)]
pub(super) struct Gate {
    pub(super) address: Option<SocketAddr>,
    is_behind_proxy: bool,
    hosts: Hosts,
    tokens: Tokens,
}

impl Gate {
    /// Also why no token is taken, where one should be.
    pub(super) fn of(program: Program, config: &Config) -> (Gate, Option<String>) {
        let address = config.http_address(program);
        let read = config.api_token_file.as_deref().filter(|_| address.is_some()).map(Tokens::read);
        let (tokens, trouble) = match read.transpose() {
            Ok(tokens) => (tokens.unwrap_or_default(), None),
            Err(refused) => {
                error!(error = %refused.one_line(), hint = refused.hint_text(), "no token of the HTTP API is taken");
                let words = format!("no token of the HTTP API is taken: {}", refused.with_hint());
                (Tokens::default(), Some(words))
            }
        };
        let hosts = Hosts::new(config.http_hosts.clone().unwrap_or_default(), address);
        (Gate { address, is_behind_proxy: config.http_behind_proxy, hosts, tokens }, trouble)
    }

    /// Tokens do not travel in the clear between hosts.
    pub(super) fn may_listen(&self) -> Result<()> {
        match self.address {
            Some(address) if !self.is_behind_proxy && !address.ip().is_loopback() => {
                let message =
                    format!("http_listen {address} is no loopback address, and HTTP is not encrypted");
                Err(Error::new(Kind::BadInput, message).hint(
                    "listen on 127.0.0.1; or put a proxy with TLS before it, and set http_behind_proxy = true and http_hosts",
                ))
            }
            _ => Ok(()),
        }
    }

    /// By a name of ours, and by nobody who sits in a browser at another site.
    pub(super) fn let_in(&self, request: &Parts) -> std::result::Result<(), Problem> {
        let host = one(&request.headers, &HOST)?;
        let host = host.ok_or_else(|| Problem::new(Sort::BadRequest, "the request names no Host"))?;
        // A target with a host in it counts more than the header.
        let targets = [Some(host), request.uri.authority().map(|authority| authority.as_str())];
        for target in targets.into_iter().flatten() {
            if !self.hosts.have(target) {
                return Err(Problem::new(Sort::OtherHost, format!("{target:?} is no name of this service"))
                    .hint("http_hosts lists the names that a request may call it by, beside loopback ones"));
            }
        }
        same_site(request, host)
    }

    pub(super) fn check_token(&self, headers: &HeaderMap) -> std::result::Result<(), Problem> {
        let refused = |detail: &str| {
            Err(Problem::new(Sort::NoToken, detail)
                .hint("Authorization: Bearer TOKEN, one of api_token_file"))
        };
        let Some(given) = one(headers, &AUTHORIZATION)? else {
            return match self.tokens.are_there() {
                true => refused("the request has no token"),
                false => refused(
                    "there is no token that would be taken: api_token_file is not set, or cannot be read",
                ),
            };
        };
        let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match token {
            Some((_, token)) if self.tokens.accept(token.trim().as_bytes()) => Ok(()),
            Some(_) => refused("this is none of the tokens"),
            None => refused("the request has no bearer token"),
        }
    }
}

/// A header that may be there once.
pub(super) fn one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> std::result::Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let bad = |what: &str| Problem::new(Sort::BadRequest, format!("{name} {what}"));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(bad("is there twice")),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| bad("is no plain text")),
    }
}

/// Programs say nothing of sites. Browsers do: only a page of ours may ask, and whoever follows a link to one.
fn same_site(request: &Parts, host: &str) -> std::result::Result<(), Problem> {
    let headers = &request.headers;
    let told = |name: &'static str| one(headers, &HeaderName::from_static(name));
    let elsewhere = |what: String| {
        Err(Problem::new(Sort::FromElsewhere, what)
            .hint("only this service's own page may ask from a browser; other programs send neither of these headers"))
    };
    let follows_a_link = request.method == hyper::Method::GET
        && told("sec-fetch-mode")? == Some("navigate")
        && told("sec-fetch-dest")? == Some("document");
    match told("sec-fetch-site")? {
        None | Some("same-origin" | "none") => {}
        Some(_) if follows_a_link => {}
        Some(site) => return elsewhere(format!("a page of another site asks (Sec-Fetch-Site: {site})")),
    }
    let Some(origin) = one(headers, &ORIGIN)? else { return Ok(()) };
    let authority = ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
    match authority {
        Some(authority) if authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => elsewhere(format!("a page of another site asks (Origin: {origin})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn gate(listen: &str, more: &[(&str, &str)]) -> Gate {
        let mut given = vec![("SYNCDATA_HTTP_LISTEN", listen)];
        given.extend(more);
        let env =
            |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = Config::load(None, env, &Overrides::default()).expect("right");
        Gate::of(Program::Applier, &config).0
    }

    fn refusal(gate: &Gate, method: &str, headers: &[(&str, &str)]) -> Option<Sort> {
        let mut request = hyper::Request::builder().method(method).uri("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let refused = gate.let_in(&parts).err();
        refused.map(|problem| problem.sort())
    }

    #[test]
    fn who_is_called_by_another_name_or_asked_from_another_site_refuses() {
        let gate = gate("127.0.0.1:9187", &[]);
        let host = ("host", "localhost:9187");
        let said = |more: &[(&str, &str)]| refusal(&gate, "POST", &[&[host], more].concat());
        assert_eq!(refusal(&gate, "GET", &[]), Some(Sort::BadRequest));
        assert_eq!(refusal(&gate, "GET", &[host, host]), Some(Sort::BadRequest));
        assert_eq!(refusal(&gate, "GET", &[("host", "evil.example:9187")]), Some(Sort::OtherHost));
        for fine in [
            &[][..],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:9187")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://LOCALHOST:9187")],
        ] {
            assert_eq!(said(fine), None, "{fine:?}");
        }
        for foreign in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            &[("origin", "null")],
            &[("origin", "http://localhost:8080")],
            &[("origin", "http://evil.example")],
            &[("origin", "file://localhost:9187")],
        ] {
            assert_eq!(said(foreign), Some(Sort::FromElsewhere), "{foreign:?}");
        }
        let link = [
            host,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(refusal(&gate, "GET", &link), None, "a link that somebody follows");
        assert_eq!(refusal(&gate, "GET", &link[..3]), Some(Sort::FromElsewhere), "a frame");
    }

    #[test]
    fn only_loopback_is_open_without_a_proxy() {
        for (listen, is_open) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.7:1", false),
        ] {
            assert_eq!(gate(listen, &[]).may_listen().is_ok(), is_open, "{listen}");
            assert!(gate(listen, &[("SYNCDATA_HTTP_BEHIND_PROXY", "true")]).may_listen().is_ok(), "{listen}");
        }
    }
}
