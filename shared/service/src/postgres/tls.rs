//! TLS as libpq does it: which certificates are trusted, which are shown, and whose name is compared.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::LazyLock;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::{MakeTlsConnector, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, NoTls};

use super::{PostgresSettings, SslMode};
use crate::authorities::trust_machine;
use crate::small_file;
use syncdata_formats::error::{Context, Error, Kind, Result};

/// How a connection, and the one that cancels it, is wrapped.
#[derive(Clone)]
pub(super) enum Connector {
    Plain,
    Tls(Tls),
}

/// How a server's certificate is looked at, once it shows one.
#[derive(Clone)]
pub(super) enum Tls {
    /// Not at all, and we show none: what settings that say nothing of it come to.
    Anybody,
    Checked(MakeTlsConnector),
}

/// OpenSSL reads all authorities of the machine for every connector, which takes longer than all else of a session's
/// beginning. Here none of them counts: one connector does for all sessions, and none where no server speaks TLS.
static ANYBODY: LazyLock<Result<MakeTlsConnector, ErrorStack>> = LazyLock::new(|| {
    let mut builder = builder()?;
    builder.set_verify(SslVerifyMode::NONE);
    let mut connector = MakeTlsConnector::new(builder.build());
    connector.set_callback(|tls, _| {
        tls.set_verify_hostname(false);
        Ok(())
    });
    Ok(connector)
});

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + fmt::Debug + Send + Sync + 'static,
{
    type Stream = TlsStream<S>;
    type TlsConnect = Handshake;
    type Error = ErrorStack;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, ErrorStack> {
        Ok(Handshake { tls: self.clone(), host: host.to_owned() })
    }
}

/// With one server, if it wants one.
pub(super) struct Handshake {
    tls: Tls,
    host: String,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + fmt::Debug + Send + Sync + 'static,
{
    type Stream = TlsStream<S>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<TlsStream<S>, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let mut connector = match self.tls {
                Tls::Anybody => ANYBODY.clone()?,
                Tls::Checked(connector) => connector,
            };
            MakeTlsConnect::<S>::make_tls_connect(&mut connector, &self.host)?.connect(stream).await
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Connector::Plain => "Plain",
            Connector::Tls(_) => "Tls",
        })
    }
}

impl Connector {
    pub(super) async fn cancel(&self, token: &CancelToken) -> Result<(), tokio_postgres::Error> {
        match self {
            Connector::Plain => token.cancel_query(NoTls).await,
            Connector::Tls(tls) => token.cancel_query(tls.clone()).await,
        }
    }
}

/// The connector for a mode other than `disable`.
pub(super) fn connector(settings: &PostgresSettings) -> Result<Tls> {
    let (roots, own) = (trusted(settings)?, own_certificate(settings)?);
    if roots == Roots::Anybody && own.is_none() {
        return Ok(Tls::Anybody);
    }
    let mut builder = builder().map_err(openssl_failed)?;
    trust(&mut builder, &roots)?;
    if let Some((cert, key)) = own {
        show(&mut builder, &cert, &key)?;
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    let compare_name = settings.ssl_mode == SslMode::VerifyFull;
    connector.set_callback(move |tls, _| {
        tls.set_verify_hostname(compare_name);
        Ok(())
    });
    Ok(Tls::Checked(connector))
}

fn builder() -> Result<SslConnectorBuilder, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    Ok(builder)
}

/// Who may have signed the server's certificate.
#[derive(Debug, PartialEq, Eq)]
enum Roots {
    Anybody,
    Machine,
    File(PathBuf),
}

/// Where a file of authorities is at hand it counts in every mode, as in libpq. A file that was named and is
/// missing is refused in every mode: a slip of the pen must not turn the check off.
fn trusted(settings: &PostgresSettings) -> Result<Roots> {
    let mode = settings.ssl_mode;
    let named = settings.ssl_files.root_cert.as_ref();
    if named.is_some_and(|path| path == Path::new("system")) {
        return match mode {
            SslMode::VerifyFull => Ok(Roots::Machine),
            // Anybody gets a certificate for some name from those authorities.
            _ => {
                Err(Error::new(Kind::BadInput, "pg_sslrootcert = \"system\" proves nothing without the name")
                    .hint("set pg_sslmode = \"verify-full\""))
            }
        };
    }
    let path = named.cloned().unwrap_or_else(|| settings.home.join(".postgresql/root.crt"));
    let needed = named.is_some() || matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match path.exists() {
        true => Ok(Roots::File(path)),
        false if needed => {
            let message = format!("the file of trusted authorities {} does not exist", path.display());
            Err(Error::new(Kind::BadInput, message)
                .hint("put the server's authority there, or set pg_sslrootcert; pg_sslmode says how much is checked"))
        }
        false => Ok(Roots::Anybody),
    }
}

fn trust(builder: &mut SslConnectorBuilder, roots: &Roots) -> Result<()> {
    match roots {
        Roots::Anybody => builder.set_verify(SslVerifyMode::NONE),
        // The builder trusts the machine's authorities from the start.
        Roots::Machine => {
            trust_machine(builder).map_err(openssl_failed)?;
            builder.set_verify(SslVerifyMode::PEER);
        }
        Roots::File(path) => {
            let nobody = X509StoreBuilder::new().map_err(openssl_failed)?.build();
            builder.set_cert_store(nobody);
            small_file::check_plain(path)?;
            builder.set_ca_file(path).map_err(|error| unusable(path, "authorities", error))?;
            builder.set_verify(SslVerifyMode::PEER);
        }
    }
    Ok(())
}

/// Our certificate and its key, where there are any.
fn own_certificate(settings: &PostgresSettings) -> Result<Option<(PathBuf, PathBuf)>> {
    let files = &settings.ssl_files;
    let cert = files.cert.clone().unwrap_or_else(|| settings.home.join(".postgresql/postgresql.crt"));
    if files.cert.is_none() && !cert.exists() {
        return Ok(None);
    }
    let key = files.key.clone().unwrap_or_else(|| settings.home.join(".postgresql/postgresql.key"));
    Ok(Some((cert, key)))
}

fn show(builder: &mut SslConnectorBuilder, cert: &Path, key: &Path) -> Result<()> {
    small_file::check_plain(cert)?;
    builder.set_certificate_chain_file(cert).map_err(|error| unusable(cert, "our certificate", error))?;
    let doing = || format!("reading the private key {}", key.display());
    let metadata = fs::metadata(key).context(doing)?;
    if is_exposed(metadata.uid(), metadata.mode()) {
        let message = format!(
            "others may read the private key {} (mode {:04o})",
            key.display(),
            metadata.mode() & 0o7777
        );
        return Err(Error::new(Kind::BadInput, message).hint(format!("chmod 0600 {}", key.display())));
    }
    let pem = small_file::read(key, small_file::OPERATORS_BYTES_MAX).context(doing)?;
    // Without the callback, OpenSSL would ask for a passphrase on the terminal, and a daemon would hang there.
    let private = PKey::private_key_from_pem_callback(&pem, |_| Ok(0))
        .map_err(|error| unusable(key, "a private key without passphrase", error))?;
    builder.set_private_key(&private).map_err(|error| unusable(key, "the key of our certificate", error))
}

/// libpq's rule: nobody but the owner, or root's file for a group.
fn is_exposed(owner: u32, mode: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

fn unusable(path: &Path, what: &str, error: ErrorStack) -> Error {
    Error::new(Kind::BadInput, format!("{} cannot be used as {what}", path.display())).caused_by(error)
}

fn openssl_failed(error: ErrorStack) -> Error {
    Error::new(Kind::Io, "setting up TLS").caused_by(error)
}
