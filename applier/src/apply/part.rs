//! A table's part of a segment, transaction by transaction.

use std::fs::File;

use syncdata_formats::change::{Commit, Record};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::segment::SegmentReader;
use syncdata_service::own_files;

use crate::archive::fetch::Fetched;

/// What one transaction has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub records: u64,
    /// Of the transaction, its COMMIT.
    pub last_line: u64,
    pub commit: Commit,
}

/// Those of the transactions that have records of the table. A thread of its own reads them. `None`: there is no file.
pub(crate) async fn parts(fetched: &Fetched, table: String) -> Result<Option<Vec<Part>>> {
    let Some(file) = fetched.file.clone() else { return Ok(None) };
    let (segment, line_bytes_max) = (fetched.segment.clone(), fetched.line_bytes_max);
    let work = move || {
        let source = own_files::read_plain(&file)?;
        let reader = SegmentReader::<File>::ahead(source, segment.manifest())?;
        read(reader.with_line_bytes_max(line_bytes_max), &table)
    };
    let read = tokio::task::spawn_blocking(work).await;
    let read =
        read.unwrap_or_else(|_| Err(Error::new(Kind::Io, "the thread that reads a segment ended early")));
    read.map(Some)
}

fn read(mut reader: SegmentReader<File>, table: &str) -> Result<Vec<Part>> {
    let (mut parts, mut records) = (Vec::new(), 0);
    loop {
        let line = reader.line() + 1;
        match reader.next()? {
            Some(Record::Row(row)) => records += u64::from(row.table == table),
            Some(Record::Long(long)) => records += u64::from(long.table == table),
            Some(Record::Commit(commit)) => {
                if records > 0 {
                    parts.push(Part { records, last_line: line, commit });
                }
                records = 0;
            }
            None => return Ok(parts),
        }
    }
}
