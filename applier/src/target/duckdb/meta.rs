//! Our own tables in the file, made with it.

use syncdata_formats::error::{Error, Kind, Result};

use super::database::Database;
use super::error::DuckdbContext as _;

const VERSION: i32 = 1;

/// Makes what is not there. `Err`: a newer program has written the file.
pub(super) fn install(database: &Database) -> Result<()> {
    let doing = || "making our own tables in the file".to_owned();
    if !is_there(database)? {
        let statements = include_str!("meta.sql").replace("{c}", &database.catalog);
        return database.in_transaction(|| database.connection.execute_batch(&statements).context(doing));
    }
    check(database)
}

fn is_there(database: &Database) -> Result<bool> {
    let there = "SELECT count(*) > 0 FROM duckdb_tables() \
        WHERE database_name = current_database() AND schema_name = 'syncdata' AND table_name = 'data_sync_version'";
    let found = database.connection.query_row(there, [], |row| row.get(0));
    found.context(|| "looking for our own tables in the file".to_owned())
}

/// `Err`: our own tables are not in it, or a newer program has written them.
pub(super) fn check(database: &Database) -> Result<()> {
    if !is_there(database)? {
        return Err(Error::new(Kind::NotFound, "the file has no tables of ours")
            .hint("look at duckdb_database_path; the first sync or start makes them"));
    }
    let doing = || "looking at our own tables in the file".to_owned();
    let select = format!("SELECT max(version) FROM {}", database.own("data_sync_version"));
    let version: Option<i32> = database.connection.query_row(&select, [], |row| row.get(0)).context(doing)?;
    match version {
        Some(VERSION) => Ok(()),
        Some(version) if version > VERSION => Err(Error::new(
            Kind::Conflict,
            format!("the file was written by a newer program: its own tables are of version {version}, ours of {VERSION}"),
        )
        .hint("install the newer syncdata-applier")),
        _ => Err(Error::new(Kind::StateDamaged, "the file's own tables say no version")),
    }
}
