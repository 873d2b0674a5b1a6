//! Statements that are not prepared, and how rows are copied.

use bytes::Bytes;
use futures_util::SinkExt as _;
use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::sql;

/// COPY data is handed over in pieces: the server holds each whole.
const COPY_PIECE_BYTES: usize = 256 << 10;

pub(in crate::target::postgres) async fn control(client: &Client, statement: &str) -> Result<()> {
    client.batch_execute(statement).await.context(|| statement.to_owned())?;
    Ok(())
}

/// A statement over many rows; how many it hit.
pub(super) async fn freely(client: &Client, statement: &str) -> Result<u64, tokio_postgres::Error> {
    let statements = format!("{}; {statement}; {}", sql::FREE_PLANS, sql::INDEX_PLANS);
    let answers = client.simple_query(&statements).await?;
    // Those of the settings are 0.
    let hits = |answer: &SimpleQueryMessage| match answer {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    };
    Ok(answers.iter().map(hits).sum())
}

pub(super) async fn copy(
    client: &Client,
    statement: &str,
    text: &Bytes,
) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    let mut rest = text.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(COPY_PIECE_BYTES));
        // The server's reason comes with the end.
        if sink.feed(piece).await.is_err() {
            break;
        }
    }
    sink.finish().await
}
