//! What readers get: a copy of the file, since the process that owns it locks them out. Whoever has opened an earlier one
//! keeps it.
//!
//! ```text
//! COPY FROM DATABASE ─▶ <path>.published.part ─▶ opened to read, 0444, synced ─▶ <path>.published
//! ```

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncdata_formats::error::{Context as _, Error, Kind, Result};

use super::cursor;
use super::database::{Database, Options};
use super::error::DuckdbContext as _;
use super::meta;
use super::tables;

/// As the copy is attached while it is written.
const CATALOG: &str = "syncdata_published";

/// Readers may read it, and nobody writes into it.
const MODE: u32 = 0o444;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The last segment that is in it.
    pub segment: u64,
    pub bytes: u64,
    pub took: Duration,
}

/// Where readers find the copy of a file.
pub(super) fn published(path: &Path) -> PathBuf {
    beside(path, ".published")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// Makes the copy of what is committed by now, and puts it in the place of the one before.
pub(super) fn publish(database: &Database, path: &Path) -> Result<Published> {
    let started = Instant::now();
    let (to, part) = (published(path), beside(path, ".published.part"));
    let doing = || format!("publishing {}", to.display());
    // What an earlier process has left.
    for left in [&part, &beside(&part, ".wal")] {
        remove(left).context(doing)?;
    }
    let written = write(database, &part);
    if written.is_err() {
        // Nobody reads it; the next time removes it too.
        let _ = remove(&part);
    }
    written?;

    let segment = looked_through(database, &part)?;
    fs::set_permissions(&part, Permissions::from_mode(MODE)).context(doing)?;
    let file = File::open(&part).context(doing)?;
    file.sync_all().context(doing)?;
    let bytes = file.metadata().context(doing)?.len();
    // Of somebody who has opened the copy to write: the next reader would take it for a part of the new one.
    let foreign = beside(&to, ".wal");
    if foreign.exists() {
        tracing::warn!(file = %foreign.display(), "somebody has written into the copy for readers; that is thrown away");
        remove(&foreign).context(doing)?;
    }
    fs::rename(&part, &to).context(doing)?;
    if let Some(folder) = to.parent() {
        // The name lives in the folder: left unsynced, a power cut can still take it back.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|folder| folder.sync_all()).context(doing)?;
    }
    Ok(Published { segment, bytes, took: started.elapsed() })
}

/// All of it in one transaction: it is of one moment.
fn write(database: &Database, part: &Path) -> Result<()> {
    let doing = || format!("copying the file to {}", part.display());
    let text =
        part.to_str().ok_or_else(|| Error::bad_input("a path that is UTF-8", &part.to_string_lossy()))?;
    let literal = format!("'{}'", text.replace('\'', "''"));
    let run = |statement: &str| database.connection.execute_batch(statement).context(doing);
    run(&format!("DETACH DATABASE IF EXISTS {CATALOG}"))?;
    run(&format!("ATTACH {literal} AS {CATALOG}"))?;
    let copied = run("BEGIN TRANSACTION")
        .and_then(|()| run(&format!("COPY FROM DATABASE {} TO {CATALOG}", database.catalog)))
        .and_then(|()| run("COMMIT"));
    if copied.is_err() {
        let _ = run("ROLLBACK");
    }
    let detached = run(&format!("DETACH {CATALOG}"));
    copied.and(detached)?;
    match beside(part, ".wal").exists() {
        true => Err(Error::new(Kind::Io, "DuckDB has left a part of the copy in its log")),
        false => Ok(()),
    }
}

/// As a reader opens it: with all of the tables, and the segment up to which it is.
fn looked_through(database: &Database, part: &Path) -> Result<u64> {
    let copy = Database::open_to_read(Options::to_read(part.to_owned()))?;
    meta::check(&copy)?;
    let checkpoint = cursor::checkpoint(&copy)?;
    for (table, known) in cursor::tables(&copy)? {
        let there = tables::kept(&copy, &table)?;
        if known.relation.is_some() && there.is_empty() && !tables::kept(database, &table)?.is_empty() {
            return Err(Error::new(Kind::Corrupt, format!("the copy for readers has no {table}")));
        }
    }
    Ok(checkpoint.seq())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
