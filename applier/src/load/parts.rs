//! The rows of a snapshot, from its files into a table.
//!
//! ```text
//! backup host ─▶ cache (size, SHA-256) ─▶ thread: unpack, rebuild, SHA-256 ─▶ COPY, ended once the rows are proved
//!      └── the next part meanwhile
//! ```

use std::pin::pin;
use std::time::{Duration, Instant};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::own_files;
use syncdata_service::postgres::ServerContext as _;

use bytes::Bytes;
use futures_util::SinkExt as _;
use syncdata_formats::manifest::ChangeFile;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{Part, TableCopy, pour};
use syncdata_service::progress::Progress;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use crate::archive::fetch::{FetchedPart, Source};
use crate::table::{Difference, Table, lacking};

/// Pieces of at most 256 KiB between the thread and the connection.
const PIECES_WAITING: usize = 4;

/// `COPY … FROM STDIN` for rows as the snapshot has them, into a shadow of the table.
pub(crate) fn statement(copy: &TableCopy, table: &Table, shadow: &TableName) -> Result<String, Difference> {
    let column = |name: &String| table.column(name).ok_or_else(|| lacking(name, Some(&copy.relation), table));
    let columns = copy.columns.iter().map(column).collect::<Result<Vec<usize>, _>>()?;
    if columns.is_empty() {
        // COPY has no word for rows without columns.
        return Ok(format!("COPY {} FROM STDIN", shadow.sql()));
    }
    Ok(format!("COPY {} ({}) FROM STDIN", shadow.sql(), table.column_list(&columns)))
}

/// Copies all rows; every part is proved before its rows stay. How long the files took from the backup host.
pub(crate) async fn copy_in(
    client: &Client,
    source: &Source,
    copy: &TableCopy,
    statement: &str,
    progress: &mut Progress,
) -> Result<Duration> {
    // One part waits in the cache while the one before it is copied.
    let (sender, mut fetched) = mpsc::channel(1);
    let (source, parts) = (source.clone(), copy.parts.clone());
    let fetching = tokio::spawn(async move {
        for part in parts {
            let started = Instant::now();
            let fetched = source.part(&part).await.map(|fetched| (part, fetched, started.elapsed()));
            let failed = fetched.is_err();
            if sender.send(fetched).await.is_err() || failed {
                return;
            }
        }
    });
    let (mut rows, mut transfer) = (0, Duration::ZERO);
    while let Some(next) = fetched.recv().await {
        let (part, fetched, took) = next?;
        transfer += took;
        rows += copy_part(client, &part, &fetched, statement).await?;
        progress.add(part.content_bytes);
        fetched.clean()?;
    }
    fetching.await.map_err(|_| Error::new(Kind::Io, "fetching parts of a snapshot ended early"))?;
    if rows == copy.rows {
        return Ok(transfer);
    }
    let message = format!("the snapshot says {} rows, its parts had {rows}", copy.rows);
    Err(Error::new(Kind::Corrupt, message))
}

async fn copy_part(client: &Client, part: &Part, fetched: &FetchedPart, statement: &str) -> Result<u64> {
    let doing = || "copying rows of a snapshot".to_owned();
    let sink = client.copy_in::<_, Bytes>(statement).await.context(doing)?;
    let mut sink = pin!(sink);
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING);
    let (part, paths) = (part.clone(), fetched.files.clone());
    let pouring = tokio::task::spawn_blocking(move || {
        let mut next = paths.into_iter();
        let open = |_: &ChangeFile| {
            let path = next.next().ok_or_else(|| Error::new(Kind::Io, "a part lost a file"))?;
            own_files::read_plain(&path)
        };
        pour(&part, open, |piece| {
            let sent = sender.blocking_send(Bytes::copy_from_slice(piece));
            sent.map_err(|_| Error::new(Kind::Io, "the server takes no more rows"))
        })
    });
    let mut refused = false;
    while let Some(piece) = pieces.recv().await {
        if sink.feed(piece).await.is_err() {
            // The server's reason comes with the end.
            refused = true;
            break;
        }
    }
    drop(pieces);
    let poured = pouring.await.map_err(|_| Error::new(Kind::Io, "unpacking a part panicked"))?;
    match poured {
        // Dropped unfinished, the COPY fails on the server, and none of its rows stay.
        Err(error) if !refused => Err(error),
        _ => Ok(sink.finish().await.context(doing)?),
    }
}
