//! The streaming replication protocol, as far as a reader of a logical slot needs it. The driver does not speak it.
//!
//! ```text
//! connect, TLS, password ─▶ pin the settings ─▶ START_REPLICATION ─▶ Incoming: data, signs of life, notices
//!                                                                └─▶ Outgoing: how far all is durable
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect as _};

use super::wire::{self, Message, Said, Socket};
use super::{PinnedSettings, PostgresSettings, SslMode, password, tls};
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_formats::lsn::Lsn;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH_MICROS: u64 = 946_684_800_000_000;

/// A session that can be made a stream.
#[derive(Debug)]
pub struct Replication {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
}

/// What the server sends.
#[derive(Debug)]
pub struct Incoming {
    socket: ReadHalf<Box<dyn Socket>>,
    buffer: BytesMut,
}

/// What it is told.
#[derive(Debug)]
pub struct Outgoing {
    socket: WriteHalf<Box<dyn Socket>>,
}

#[derive(Debug)]
pub enum Told {
    /// What the output plugin wrote, and the place of the WAL that it is about.
    Data {
        lsn: Lsn,
        bytes: Bytes,
    },
    /// All that committed before was sent before this.
    Alive {
        sent: Lsn,
        wants_answer: bool,
    },
    Notice {
        severity: String,
        message: String,
    },
}

impl Replication {
    /// Connects as `Session::open` does, to a process that sends WAL.
    pub async fn open(
        settings: &PostgresSettings,
        application_name: &str,
        pinned: &PinnedSettings,
    ) -> Result<Replication> {
        let doing = || format!("connecting to PostgreSQL for replication as {}", settings.location());
        let opening = async {
            let mut replication = Replication { socket: connect(settings).await?, buffer: BytesMut::new() };
            replication.log_in(settings, application_name).await?;
            for sql in pinned.as_statements() {
                replication.query(&sql).await?;
            }
            let (names, wanted): (Vec<&str>, Vec<&str>) = pinned.expected().unzip();
            let read = names.iter().map(|name| format!("pg_catalog.current_setting('{name}', true)"));
            let found = replication.query(&format!("SELECT {}", read.collect::<Vec<_>>().join(", "))).await?;
            let found = found.into_iter().next().unwrap_or_default();
            match names
                .iter()
                .zip(&wanted)
                .zip(&found)
                .find(|((_, wanted), found)| found.as_deref() != Some(wanted))
            {
                None if found.len() == names.len() => Ok(replication),
                None => Err(Error::new(Kind::Conflict, "the settings of the session could not be read back")),
                Some(((name, wanted), found)) => Err(Error::new(
                    Kind::Conflict,
                    format!("the setting {name} is {found:?} although {wanted:?} was set"),
                )),
            }
        };
        let late = || Error::new(Kind::Unreachable, "no answer in time");
        timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(late())).context(doing)
    }

    async fn log_in(&mut self, settings: &PostgresSettings, application_name: &str) -> Result<()> {
        let mut hello = BytesMut::new();
        let parameters = [
            ("user", settings.user.as_str()),
            ("database", &settings.database),
            ("replication", "database"),
            ("application_name", application_name),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut hello).map_err(wire::lost)?;
        wire::send(&mut self.socket, &hello).await?;
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            let Message { tag, mut body } = self.receive().await?;
            match tag {
                b'Z' => return Ok(()),
                b'R' => {
                    let mut answer = BytesMut::new();
                    let secret = || {
                        let none =
                            || Error::new(Kind::Refused, "the server wants a password, and none is set");
                        password::find(settings).ok_or_else(none)
                    };
                    match wire::code(&mut body)? {
                        0 => {}
                        3 => frontend::password_message(secret()?.expose().as_bytes(), &mut answer)
                            .map_err(wire::lost)?,
                        5 => {
                            let salt =
                                body.get(..4).and_then(|salt| salt.try_into().ok()).unwrap_or_default();
                            let secret = secret()?;
                            let hash = md5_hash(settings.user.as_bytes(), secret.expose().as_bytes(), salt);
                            frontend::password_message(hash.as_bytes(), &mut answer).map_err(wire::lost)?;
                        }
                        10 => {
                            let secret = secret()?;
                            let begun = sasl::ScramSha256::new(
                                secret.expose().as_bytes(),
                                sasl::ChannelBinding::unsupported(),
                            );
                            frontend::sasl_initial_response(
                                sasl::SCRAM_SHA_256,
                                begun.message(),
                                &mut answer,
                            )
                            .map_err(wire::lost)?;
                            scram = Some(begun);
                        }
                        11 => {
                            let begun = scram.as_mut().ok_or_else(unknown_login)?;
                            begun.update(&body).map_err(wire::lost)?;
                            frontend::sasl_response(begun.message(), &mut answer).map_err(wire::lost)?;
                        }
                        // Whoever does not know the password does not get past this.
                        12 => scram.as_mut().ok_or_else(unknown_login)?.finish(&body).map_err(wire::lost)?,
                        _ => return Err(unknown_login()),
                    }
                    if !answer.is_empty() {
                        wire::send(&mut self.socket, &answer).await?;
                    }
                }
                _ => {}
            }
        }
    }

    /// The next message that is no error.
    async fn receive(&mut self) -> Result<Message> {
        let message = wire::receive(&mut self.socket, &mut self.buffer).await?;
        if message.tag == b'E' {
            return Err(Said::parse(&message.body).into_error());
        }
        Ok(message)
    }

    /// A simple query; its rows as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.ask(sql).await?;
        let mut rows = Vec::new();
        loop {
            let Message { tag, body } = self.receive().await?;
            match tag {
                b'D' => rows.push(wire::row(&body)?),
                b'Z' => return Ok(rows),
                _ => {}
            }
        }
    }

    async fn ask(&mut self, sql: &str) -> Result<()> {
        let mut query = BytesMut::new();
        frontend::query(sql, &mut query).map_err(wire::lost)?;
        wire::send(&mut self.socket, &query).await
    }

    /// Makes it a stream.
    pub async fn start(mut self, command: &str) -> Result<(Incoming, Outgoing)> {
        let starting = async {
            self.ask(command).await?;
            while self.receive().await?.tag != b'W' {}
            Ok(())
        };
        let late = || Error::new(Kind::Unreachable, "no answer in time");
        timeout(CONNECT_TIMEOUT, starting).await.unwrap_or_else(|_| Err(late()))?;
        let (read, write) = tokio::io::split(self.socket);
        Ok((Incoming { socket: read, buffer: self.buffer }, Outgoing { socket: write }))
    }
}

fn unknown_login() -> Error {
    Error::new(Kind::Refused, "the server asks for a way to log in that is not known here")
}

impl Incoming {
    pub async fn next(&mut self) -> Result<Told> {
        loop {
            let Message { tag, mut body } = wire::receive(&mut self.socket, &mut self.buffer).await?;
            match tag {
                b'd' => match wire::byte(&mut body)? {
                    b'w' => {
                        let lsn = Lsn::from_u64(wire::number(&mut body)?);
                        let (_end, _clock) = (wire::number(&mut body)?, wire::number(&mut body)?);
                        return Ok(Told::Data { lsn, bytes: body });
                    }
                    b'k' => {
                        let sent = Lsn::from_u64(wire::number(&mut body)?);
                        let _clock = wire::number(&mut body)?;
                        return Ok(Told::Alive { sent, wants_answer: wire::byte(&mut body)? != 0 });
                    }
                    _ => {}
                },
                b'E' => return Err(Said::parse(&body).into_error()),
                b'N' => {
                    let Said { severity, message, .. } = Said::parse(&body);
                    return Ok(Told::Notice { severity, message });
                }
                b'c' | b'C' | b'Z' => {
                    return Err(Error::new(Kind::Unreachable, "the server has ended the stream"));
                }
                _ => {}
            }
        }
    }
}

impl Outgoing {
    /// All before `durable` may be forgotten. `asks`: for a sign of life.
    pub async fn tell(&mut self, durable: Lsn, asks: bool) -> Result<()> {
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        for _written_flushed_applied in 0..3 {
            status.put_u64(durable.as_u64());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        status.put_u64(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(EPOCH_MICROS));
        status.put_u8(u8::from(asks));
        let mut message = BytesMut::with_capacity(status.len() + 5);
        frontend::CopyData::new(status.freeze()).map_err(wire::lost)?.write(&mut message);
        wire::send(&mut self.socket, &message).await
    }

    /// The server's process ends soon after.
    pub async fn end(&mut self) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        frontend::terminate(&mut message);
        wire::send(&mut self.socket, &message).await
    }
}

async fn connect(settings: &PostgresSettings) -> Result<Box<dyn Socket>> {
    if settings.is_socket() {
        let path = format!("{}/.s.PGSQL.{}", settings.host, settings.port);
        return Ok(Box::new(UnixStream::connect(path).await.map_err(wire::lost)?));
    }
    let mode = settings.ssl_mode;
    if mode == SslMode::Disable {
        return Ok(Box::new(tcp(settings).await?));
    }
    let secured = async {
        let mut plain = tcp(settings).await?;
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        wire::send(&mut plain, &request).await?;
        match plain.read_u8().await.map_err(wire::lost)? {
            b'S' => {}
            _ if mode == SslMode::Prefer => return Ok(Box::new(plain) as Box<dyn Socket>),
            _ => return Err(Error::new(Kind::Refused, "the server does not support TLS")),
        }
        let mut connector = tls::connector(settings)?;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Kind::Refused, format!("TLS with the server failed: {error}"))
        };
        let handshake = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &settings.host)
            .map_err(|error| failed(error.into()))?;
        Ok(Box::new(handshake.connect(plain).await.map_err(failed)?) as Box<dyn Socket>)
    };
    match secured.await {
        // As the other sessions, and libpq: a second try without.
        Err(error) if mode == SslMode::Prefer && error.kind() == Kind::Refused => {
            Ok(Box::new(tcp(settings).await?))
        }
        connected => connected,
    }
}

async fn tcp(settings: &PostgresSettings) -> Result<TcpStream> {
    let socket = TcpStream::connect((settings.host.as_str(), settings.port)).await.map_err(wire::lost)?;
    socket.set_nodelay(true).map_err(wire::lost)?;
    Ok(socket)
}
