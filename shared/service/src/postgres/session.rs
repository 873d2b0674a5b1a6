//! One connection and the task that reads it.

use crate::postgres::ServerContext as _;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection};
use tracing::{debug, warn};

use super::failure::{connect_failure, not_connected, sqlstate};
use super::notice::{Notice, NoticeQueue, Notices};
use super::tls::{self, Connector};
use super::{PinnedSettings, PostgresSettings, SslMode, password};
use syncdata_formats::error::{Context, Error, Kind, Result};

/// From the first packet to the first answer: a server that says nothing must not hold us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that vanished is found within about two minutes (60 + 3 × 20 s), far below a poll's interval.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_RETRIES: u32 = 3;

/// A connection to PostgreSQL whose notices can be read. Dropping it ends the connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    notices: NoticeQueue,
    ended: watch::Receiver<bool>,
    canceller: Canceller,
    version: ServerVersion,
}

/// Hears what the server says to a session.
#[derive(Clone, Debug)]
pub struct Listener(NoticeQueue);

impl Listener {
    /// What was said since it was last taken.
    pub fn notices(&self) -> Vec<Notice> {
        self.0.look()
    }
}

/// Ends what a session is doing, from elsewhere.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    connector: Connector,
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("connector", &self.connector).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    /// As in `server_version_num`: 150018 is 15.18.
    pub num: u32,
    /// As the server writes it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub text: String,
}

impl ServerVersion {
    pub fn major(&self) -> u32 {
        self.num / 10_000
    }

    /// What we ask for came with 14: statistics of slots, `client_connection_check_interval`, `pg_read_all_data`.
    fn check(&self) -> Result<()> {
        const OLDEST_MAJOR: u32 = 14;
        if self.major() >= OLDEST_MAJOR {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("PostgreSQL {} is too old", self.text))
            .hint(format!("PostgreSQL {OLDEST_MAJOR} or newer is needed")))
    }
}

impl Session {
    /// Connects, pins the settings, and reads them back. `application_name` is what administrators see in
    /// `pg_stat_activity`.
    pub async fn open(
        settings: &PostgresSettings,
        application_name: &str,
        pinned: &PinnedSettings,
    ) -> Result<Session> {
        let doing = || format!("connecting to PostgreSQL as {}", settings.location());
        let late =
            || Error::new(Kind::Unreachable, format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()));
        let opening = async {
            let (client, notices, ended, connector) = connect(settings, application_name).await?;
            // First: what is pinned is not known to every older server.
            let version = prepare(&client, pinned).await.context(doing)?;
            let canceller = Canceller { token: client.cancel_token(), connector };
            Ok(Session { client, notices, ended, canceller, version })
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opening).await;
        opened.unwrap_or_else(|_| Err(late()).context(doing))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// For `transaction()`.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    pub fn version(&self) -> &ServerVersion {
        &self.version
    }

    /// What the server said since the last call. All that it said before an answer is here once the answer is.
    pub fn take_notices(&self) -> Notices {
        self.notices.take()
    }

    /// For somebody who waits for an answer of this session: what the server says meanwhile, without taking it.
    pub fn listener(&self) -> Listener {
        Listener(self.notices.clone())
    }

    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until the connection is gone, whoever ended it.
    pub async fn closed(&self) {
        let mut ended = self.ended.clone();
        // An error means that the task is gone: so is the connection.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Canceller {
    /// Asks the server to cancel what the session is doing; it may have finished meanwhile.
    pub async fn cancel(&self) -> Result<()> {
        self.connector
            .cancel(&self.token)
            .await
            .map_err(|error| connect_failure("asking PostgreSQL to cancel a statement", error))
    }
}

type Connected = (Client, NoticeQueue, watch::Receiver<bool>, Connector);

async fn connect(settings: &PostgresSettings, application_name: &str) -> Result<Connected> {
    let mut config = driver_config(settings, application_name);
    if settings.is_socket() || settings.ssl_mode == SslMode::Disable {
        return connect_plain(&config, settings).await;
    }
    let connector = tls::connector(settings)
        .context(|| format!("connecting to PostgreSQL as {}", settings.location()))?;
    if settings.ssl_mode != SslMode::Prefer {
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        return connect_tls(&config, settings, connector).await;
    }
    if lets_others_read(&settings.host) {
        warn_once(&settings.host);
    }
    config.ssl_mode(tokio_postgres::config::SslMode::Prefer);
    match connect_tls(&config, settings, connector).await {
        // As libpq: a server that has TLS but cannot do it with us, or wants none from us, gets a second try.
        // (libpq tries a wrong password twice too, and locks the account in half the time.)
        Err(error) if error.kind() == Kind::Refused && is_about_tls(&error) => {
            debug!(error = %error.one_line(), "no connection with TLS, trying without");
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            // The first error is the one to mend.
            connect_plain(&config, settings).await.map_err(|_| error)
        }
        connected => connected,
    }
}

fn driver_config(settings: &PostgresSettings, application_name: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&settings.host)
        .port(settings.port)
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(application_name)
        .ssl_mode(tokio_postgres::config::SslMode::Disable)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
    if let Some(password) = password::find(settings) {
        config.password(password.expose());
    }
    config
}

async fn prepare(client: &Client, pinned: &PinnedSettings) -> Result<ServerVersion> {
    let version = read_version(client).await?;
    version.check()?;
    pinned.apply_to_session(client).await?;
    pinned.read_back(client).await?;
    Ok(version)
}

async fn connect_plain(config: &tokio_postgres::Config, settings: &PostgresSettings) -> Result<Connected> {
    let connected = config.connect(tokio_postgres::NoTls).await;
    let (client, connection) = connected.map_err(|error| not_connected(settings, "", error))?;
    let (notices, ended) = read_in_background(connection);
    Ok((client, notices, ended, Connector::Plain))
}

async fn connect_tls(
    config: &tokio_postgres::Config,
    settings: &PostgresSettings,
    tls: tls::Tls,
) -> Result<Connected> {
    let connected = config.connect(tls.clone()).await;
    let (client, connection) = connected.map_err(|error| not_connected(settings, " with TLS", error))?;
    let (notices, ended) = read_in_background(connection);
    Ok((client, notices, ended, Connector::Tls(tls)))
}

/// Reads until the connection ends. A notice is in the queue before the answer that follows it is handed out:
/// this task handles the server's messages one by one.
fn read_in_background<S, T>(mut connection: Connection<S, T>) -> (NoticeQueue, watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let notices = NoticeQueue::default();
    let (ended, watch_ended) = watch::channel(false);
    let queue = notices.clone();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => queue.push(Notice::new(&notice)),
                Ok(_) => {}
                // Whoever waits for an answer gets this error too.
                Err(error) => {
                    debug!(%error, "connection ended");
                    break;
                }
            }
        }
        ended.send_replace(true);
    });
    (notices, watch_ended)
}

async fn read_version(client: &Client) -> Result<ServerVersion> {
    const READ: &str = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
        pg_catalog.current_setting('server_version')";
    let row = client.query_typed_one(READ, &[]).await;
    let row = row.context(|| "asking for the server's version".to_owned())?;
    let num: i32 = row.get(0);
    let num = u32::try_from(num).map_err(|_| Error::bad_input("a server version", &num.to_string()))?;
    Ok(ServerVersion { num, text: row.get(1) })
}

/// The handshake failed, or no line of pg_hba.conf lets us in this way.
fn is_about_tls(error: &Error) -> bool {
    sqlstate(error).is_none_or(|code| *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// With `prefer`, somebody between here and there can have plain text by answering "no TLS".
pub fn lets_others_read(host: &str) -> bool {
    host != "localhost" && !host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Once is enough: the daemons connect again and again.
fn warn_once(host: &str) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        warn!(host, "pg_sslmode is prefer: somebody in between can have plain text; set verify-full");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_refused_by_its_name() {
        let version = |num, text: &str| ServerVersion { num, text: text.to_owned() };
        let error = version(130_022, "13.22").check().expect_err("too old");
        assert!(error.report().contains("PostgreSQL 13.22 is too old"), "{error:?}");
        assert!(error.report().contains("PostgreSQL 14 or newer"), "{error:?}");
        assert!(version(140_024, "14.24").check().is_ok());
    }

    #[test]
    fn a_warning_for_every_host_that_is_not_this_one() {
        for (host, warned) in [
            ("db.example.org", true),
            ("10.0.0.7", true),
            ("localhost", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(lets_others_read(host), warned, "{host}");
        }
    }
}
