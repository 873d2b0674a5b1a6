//! Says something to a web address: one POST of a JSON document, signed, within ten seconds. No redirect is followed: who
//! may tell us where to go could have us ask whatever this host reaches.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use syncdata_formats::error::{Error, Kind, Result};

use crate::hmac;
use crate::secret::Secret;
use crate::web::{self, Failure, Stream};

/// From the name to the answer.
const PATIENCE: Duration = Duration::from_secs(10);

const SIGNATURE: &str = "X-Syncdata-Signature";

/// Where to. Printing it shows the host alone: paths of such addresses are secrets.
#[derive(Clone)]
pub struct Webhook {
    uri: hyper::Uri,
    host: String,
    port: u16,
    /// Read each time: a new one is taken without a word, and who only reads settings need not read it.
    secret_file: Option<PathBuf>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "webhook at {}:{}", self.host, self.port)
    }
}

impl Webhook {
    pub fn new(url: &str) -> Result<Webhook> {
        let bad = || {
            Error::new(Kind::BadInput, "alert_webhook is no web address")
                .hint("http:// or https://, a host, and a path: https://alerts.example.com/hook")
        };
        let uri: hyper::Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad()),
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(port);
        Ok(Webhook { uri, host, port, secret_file: None })
    }

    #[must_use]
    pub fn signed_with(self, secret_file: Option<PathBuf>) -> Webhook {
        Webhook { secret_file, ..self }
    }

    /// `Err`: it was not taken, as far as anybody knows.
    pub async fn post(&self, document: &Value) -> Result<()> {
        let late = |_| Error::new(Kind::Unreachable, format!("{self:?} did not answer within {PATIENCE:?}"));
        let answered = tokio::time::timeout(PATIENCE, self.exchange(document)).await.map_err(late)??;
        if (200..300).contains(&answered) {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("{self:?} answered {answered}")))
    }

    async fn exchange(&self, document: &Value) -> Result<u16> {
        let broken =
            |error: hyper::Error| Error::new(Kind::Unreachable, format!("{self:?} hung up")).caused_by(error);
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        let answer = sender.send_request(self.request(document)?);
        // The connection has to be driven while the answer is awaited; how it ends, the answer says.
        let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
        let answer = tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        };
        Ok(answer.map_err(broken)?.status().as_u16())
    }

    fn request(&self, document: &Value) -> Result<hyper::Request<Full<Bytes>>> {
        let body = document.to_string();
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().expect("looked at before").as_str();
        let mut request = hyper::Request::post(path)
            .header(HOST, authority)
            .header(USER_AGENT, concat!("syncdata/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json");
        if let Some(file) = &self.secret_file {
            let secret = Secret::of_file("alert_webhook_secret_file", file)?;
            let hash = hmac::sha256_hex(secret.expose().as_bytes(), body.as_bytes())?;
            request = request.header(SIGNATURE, format!("sha256={hash}"));
        }
        request
            .body(Full::new(body.into()))
            .map_err(|error| Error::new(Kind::BadInput, "alert_webhook cannot be asked").caused_by(error))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let is_tls = self.uri.scheme_str() == Some("https");
        web::connect(&self.host, self.port, is_tls).await.map_err(|failure| match failure {
            Failure::OutOfReach(error) => {
                Error::new(Kind::Unreachable, format!("{self:?} is out of reach")).caused_by(error)
            }
            Failure::Tls(error) => Error::new(Kind::Refused, format!("{self:?}: TLS failed: {error}")).hint(
                "its certificate has to be signed by an authority that this machine trusts, or by one of the file that \
                 SSL_CERT_FILE in the environment of the daemon names; and made out to the host of alert_webhook",
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_are_taken_and_their_paths_are_not_told() {
        let webhook = Webhook::new("https://alerts.example.com/services/T0/canary").expect("an address");
        assert_eq!(format!("{webhook:?}"), "webhook at alerts.example.com:443");
        assert_eq!(Webhook::new("http://[::1]:8080").expect("an address").host, "::1");
        for bad in ["", "alerts.example.com", "ftp://x/", "https://me:secret@x/", "http://", "/hook"] {
            assert!(Webhook::new(bad).is_err(), "{bad} was taken");
        }
    }
}
