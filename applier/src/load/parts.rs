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

use super::Halt;
use crate::archive::fetch::FetchedPart;
use crate::archive::source::Source;
use crate::table::{Column, Difference, Table, lacking};
use crate::target::postgres::apply::altered;

/// Pieces of at most 256 KiB between the thread and the connection.
const PIECES_WAITING: usize = 4;

/// How rows as the snapshot has them get into a shadow of the table.
#[derive(Debug)]
pub(crate) struct Way {
    /// In which the rows end up.
    table: TableName,
    /// `COPY … FROM STDIN`.
    copy: String,
    /// Values of types that are known by name alone stand as text first, until it is clear that nothing alters them.
    by_text: Option<ByText>,
}

#[derive(Debug)]
struct ByText {
    make: String,
    /// For each such column whether a value of it would be altered, and what to do then.
    look: Vec<(String, String)>,
    /// Rows that have passed into the shadow.
    pass: String,
}

const TEXTS: &str = "pg_temp.syncdata_load_texts";

impl Way {
    pub(crate) fn new(copy: &TableCopy, table: &Table, shadow: &TableName) -> Result<Way, Difference> {
        let straight = statement(copy, table, shadow)?;
        let columns: Vec<usize> = copy.columns.iter().filter_map(|name| table.column(name)).collect();
        let by_name = |column: &&usize| table.columns[**column].is_by_name;
        if !columns.iter().any(|column| by_name(&column)) {
            return Ok(Way { table: table.name.clone(), copy: straight, by_text: None });
        }
        let list = table.column_list(&columns);
        let cast = |column: &usize, value: &dyn Fn(&Column, &str) -> String| {
            let local = &table.columns[*column];
            let sql = local.sql();
            if by_name(&column) { format!("{} AS {sql}", value(local, &sql)) } else { sql }
        };
        let text = |_: &Column, sql: &str| format!("{sql}::text");
        let texts: Vec<String> = columns.iter().map(|column| cast(column, &text)).collect();
        let values = columns.iter().map(|column| cast(column, &altered::converted));
        let look = columns.iter().filter(by_name).map(|&column| {
            let column = &table.columns[column];
            let altered = altered::is_altered(column, &column.sql());
            (format!("SELECT EXISTS (SELECT FROM {TEXTS} WHERE {altered})"), altered::words(table, column))
        });
        let by_text = ByText {
            make: format!(
                "DROP TABLE IF EXISTS {TEXTS}; CREATE TEMPORARY TABLE {TEXTS} AS SELECT {} FROM {} WITH NO DATA",
                texts.join(", "),
                shadow.sql(),
                TEXTS = TEXTS.trim_start_matches("pg_temp.")
            ),
            look: look.collect(),
            pass: format!(
                "INSERT INTO {} ({list}) SELECT {} FROM {TEXTS}; TRUNCATE {TEXTS}",
                shadow.sql(),
                values.collect::<Vec<String>>().join(", ")
            ),
        };
        let copy = format!("COPY {TEXTS} ({list}) FROM STDIN");
        Ok(Way { table: table.name.clone(), copy, by_text: Some(by_text) })
    }

    async fn begin(&self, client: &Client) -> Result<()> {
        let Some(by_text) = &self.by_text else { return Ok(()) };
        client.batch_execute(&by_text.make).await.context(|| "making room for values as text".to_owned())
    }

    /// After a part. Refused: a value of it would be altered.
    async fn pass(&self, client: &Client) -> Result<(), Halt> {
        let Some(by_text) = &self.by_text else { return Ok(()) };
        for (look, words) in &by_text.look {
            let found = client.query_one(look, &[]).await;
            if found.context(|| "looking for values that would be altered".to_owned())?.get(0) {
                return Err(Halt::refused(&self.table, words));
            }
        }
        Ok(client.batch_execute(&by_text.pass).await.context(|| "taking values over".to_owned())?)
    }

    async fn end(&self, client: &Client) -> Result<()> {
        if self.by_text.is_none() {
            return Ok(());
        }
        let drop = format!("DROP TABLE IF EXISTS {TEXTS}");
        client.batch_execute(&drop).await.context(|| "giving room back".to_owned())
    }
}

fn statement(copy: &TableCopy, table: &Table, shadow: &TableName) -> Result<String, Difference> {
    let column = |name: &String| table.column(name).ok_or_else(|| lacking(name, Some(&copy.relation), table));
    let columns = copy.columns.iter().map(column).collect::<Result<Vec<usize>, _>>()?;
    if columns.is_empty() {
        // COPY has no word for rows without columns.
        return Ok(format!("COPY {} FROM STDIN", shadow.sql()));
    }
    Ok(format!("COPY {} ({}) FROM STDIN", shadow.sql(), table.column_list(&columns)))
}

/// Copies all rows; every part is proved before its rows stay. How long the files took from the backup host. Refused: a
/// value would be altered.
pub(crate) async fn copy_in(
    client: &Client,
    source: &Source,
    copy: &TableCopy,
    way: &Way,
    progress: &mut Progress,
) -> Result<Duration, Halt> {
    way.begin(client).await?;
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
        let copied = copy_part(client, &part, &fetched, &way.copy).await?;
        rows += copied;
        way.pass(client).await?;
        progress.add_rows(copied);
        progress.add(part.content_bytes);
        fetched.clean()?;
    }
    fetching.await.map_err(|_| Error::new(Kind::Io, "fetching parts of a snapshot ended early"))?;
    way.end(client).await?;
    if rows == copy.rows {
        return Ok(transfer);
    }
    let message = format!("the snapshot says {} rows, its parts had {rows}", copy.rows);
    Err(Error::new(Kind::Corrupt, message).into())
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
