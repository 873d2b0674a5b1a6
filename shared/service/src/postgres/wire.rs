//! Messages of PostgreSQL's protocol as bytes on a socket, for the one kind of session that the driver does not have.

use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_postgres::error::SqlState;

use super::failure::kind_of;
use syncdata_formats::error::{Context, Error, Kind, Result};

/// No value is longer, and a message is a value with a few words around it.
const MESSAGE_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// Whatever carries the bytes.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

impl fmt::Debug for dyn Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}

/// One message of the server.
#[derive(Debug)]
pub(super) struct Message {
    pub tag: u8,
    pub body: Bytes,
}

pub(super) fn lost(error: std::io::Error) -> Error {
    Error::new(Kind::Unreachable, "the connection to PostgreSQL is lost").caused_by(error)
}

fn malformed() -> Error {
    Error::new(Kind::Corrupt, "the server sent a message that is not of PostgreSQL's protocol")
}

/// The next message; `buffer` holds what was read beyond it.
pub(super) async fn receive(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<Message> {
    const HEADER: usize = 5;
    while buffer.len() < HEADER {
        more(from, buffer).await?;
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(malformed());
    }
    while buffer.len() < length + 1 {
        buffer.reserve(length + 1 - buffer.len());
        more(from, buffer).await?;
    }
    let mut message = buffer.split_to(length + 1).freeze();
    let tag = message.get_u8();
    message.advance(4);
    Ok(Message { tag, body: message })
}

async fn more(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<()> {
    match from.read_buf(buffer).await.map_err(lost)? {
        0 => Err(Error::new(Kind::Unreachable, "the server has closed the connection")),
        _ => Ok(()),
    }
}

pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<()> {
    to.write_all(message).await.map_err(lost)?;
    to.flush().await.map_err(lost)
}

/// What an ErrorResponse or a NoticeResponse says.
#[derive(Debug)]
pub(super) struct Said {
    pub severity: String,
    pub code: String,
    pub message: String,
}

impl Said {
    pub(super) fn parse(body: &Bytes) -> Said {
        let mut said = Said { severity: String::new(), code: String::new(), message: String::new() };
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => said.severity = text,
                b'S' if said.severity.is_empty() => said.severity = text,
                b'C' => said.code = text,
                b'M' => said.message = text,
                _ => {}
            }
        }
        said
    }

    pub(super) fn into_error(self) -> Error {
        let kind = kind_of(&SqlState::from_code(&self.code));
        Error::new(kind, format!("{} ({})", self.message, self.code))
    }
}

/// The rows of an answer to one simple query, as text.
pub(super) fn row(body: &Bytes) -> Result<Vec<Option<String>>> {
    let mut rest = body.clone();
    let columns = rest.try_get_u16().map_err(|_| malformed())?;
    let mut row = Vec::new();
    for _ in 0..columns {
        let length = rest.try_get_i32().map_err(|_| malformed())?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= rest.len() => {
                let value = rest.split_to(length);
                let text = std::str::from_utf8(&value).map_err(|_| malformed())?;
                Some(text.to_owned())
            }
            Ok(_) => return Err(malformed()),
        });
    }
    Ok(row)
}

pub(super) fn number(body: &mut Bytes) -> Result<u64> {
    body.try_get_u64().map_err(|_| malformed()).context(|| "reading the stream".to_owned())
}

pub(super) fn byte(body: &mut Bytes) -> Result<u8> {
    body.try_get_u8().map_err(|_| malformed())
}

pub(super) fn code(body: &mut Bytes) -> Result<i32> {
    body.try_get_i32().map_err(|_| malformed())
}
