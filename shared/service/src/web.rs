//! A connection to a host of the web: plain, or with TLS to whom this machine trusts.

use std::fmt;
use std::pin::Pin;

use openssl::ssl::{SslConnector, SslMethod};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::authorities;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is none.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens there, or the name is nobody's.
    OutOfReach(std::io::Error),
    /// Somebody does, and is not believed or cannot speak TLS; in words.
    Tls(String),
}

/// An address without its brackets, or a name; its certificate has to be made out to it.
pub async fn connect(host: &str, port: u16, is_tls: bool) -> Result<Box<dyn Stream>, Failure> {
    let plain = TcpStream::connect((host, port)).await.map_err(Failure::OutOfReach)?;
    // A question is sent whole, and its answer awaited: nothing is won by waiting for more to send.
    plain.set_nodelay(true).map_err(Failure::OutOfReach)?;
    if !is_tls {
        return Ok(Box::new(plain));
    }
    let refused = |error: &dyn fmt::Display| Failure::Tls(error.to_string());
    let mut connector = SslConnector::builder(SslMethod::tls()).map_err(|error| refused(&error))?;
    authorities::trust_machine(&mut connector).map_err(|error| refused(&error))?;
    let ssl = connector.build().configure().and_then(|ssl| ssl.into_ssl(host));
    let stream = ssl.and_then(|ssl| SslStream::new(ssl, plain));
    let mut stream = stream.map_err(|error| refused(&error))?;
    Pin::new(&mut stream).connect().await.map_err(|error| refused(&error))?;
    Ok(Box::new(stream))
}
