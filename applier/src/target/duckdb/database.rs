//! The connection to the file, and how its statements name what is in it.

use std::cell::Cell;
use std::path::PathBuf;

use duckdb::{AccessMode, Config, Connection};
use syncdata_formats::error::Result;

use super::error::DuckdbContext as _;
use super::names::quoted;

/// Where the file lies, and what DuckDB may take of this machine.
#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    pub memory_limit_bytes: u64,
    pub threads: u16,
    /// Columns that are kept as text whatever their type is: `table.column`.
    pub text_columns: Vec<String>,
}

impl Options {
    /// To look at a file only.
    pub fn to_read(path: PathBuf) -> Options {
        Options { path, memory_limit_bytes: 256 << 20, threads: 1, text_columns: Vec::new() }
    }
}

/// The connection, and what its statements name.
pub(super) struct Database {
    pub connection: Connection,
    /// The file's name in statements, quoted.
    pub catalog: String,
    pub stem: String,
    pub text_columns: Vec<String>,
    /// A transaction is under way. DuckDB's own answer to that is always no.
    is_open: Cell<bool>,
}

impl Database {
    /// Makes the file where there is none.
    pub(super) fn open(options: Options) -> Result<Database> {
        Database::open_as(options, AccessMode::ReadWrite)
    }

    /// Nothing of it is changed, and who else reads it goes on.
    pub(super) fn open_to_read(options: Options) -> Result<Database> {
        Database::open_as(options, AccessMode::ReadOnly)
    }

    fn open_as(options: Options, mode: AccessMode) -> Result<Database> {
        let Options { path, memory_limit_bytes, threads, text_columns } = options;
        let doing = || format!("opening {}", path.display());
        let connection = config(memory_limit_bytes, threads)
            .and_then(|config| config.access_mode(mode))
            .and_then(|config| Connection::open_with_flags(&path, config))
            .context(doing)?;
        let stem: String =
            connection.query_row("SELECT current_database()", [], |row| row.get(0)).context(doing)?;
        Database::of(connection, stem, text_columns)
    }

    fn of(connection: Connection, stem: String, text_columns: Vec<String>) -> Result<Database> {
        let doing = || format!("opening {stem}");
        // What is printed has the zone of whoever reads; what we read and print is UTC. Without the extension nothing else is.
        if has_setting(&connection, "TimeZone").context(doing)? {
            connection.execute_batch("SET TimeZone = 'UTC'").context(doing)?;
        }
        let catalog = quoted(&stem);
        Ok(Database { connection, catalog, stem, text_columns, is_open: Cell::new(false) })
    }

    /// Another connection to the same file, which sees what is committed.
    pub(super) fn beside(&self) -> Result<Database> {
        let connection = self.connection.try_clone().context(|| "connecting once more".to_owned())?;
        Database::of(connection, self.stem.clone(), self.text_columns.clone())
    }

    /// A table of ours.
    pub(super) fn own(&self, table: &str) -> String {
        format!("{}.syncdata.{table}", self.catalog)
    }

    /// In one transaction, outside of which nothing of it was.
    pub(super) fn in_transaction<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begin()?;
        match work() {
            Ok(done) => {
                self.commit()?;
                Ok(done)
            }
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// One that somebody stopped waiting for in the middle is rolled back first.
    pub(super) fn begin(&self) -> Result<()> {
        self.roll_back();
        let begun = self.connection.execute_batch("BEGIN TRANSACTION");
        begun.context(|| "beginning a transaction".to_owned())?;
        self.is_open.set(true);
        Ok(())
    }

    pub(super) fn commit(&self) -> Result<()> {
        let committed = self.connection.execute_batch("COMMIT").context(|| "committing".to_owned());
        match committed {
            Ok(()) => self.is_open.set(false),
            Err(_) => self.roll_back(),
        }
        committed
    }

    pub(super) fn roll_back(&self) {
        if self.is_open.replace(false) {
            // An error that has ended the file's use has ended the transaction too.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn config(memory_limit_bytes: u64, threads: u16) -> duckdb::Result<Config> {
    Config::default()
        .enable_autoload_extension(false)?
        .max_memory(&format!("{memory_limit_bytes}B"))?
        .threads(i64::from(threads.max(1)))
}

fn has_setting(connection: &Connection, name: &str) -> duckdb::Result<bool> {
    let select = "SELECT count(*) > 0 FROM duckdb_settings() WHERE lower(name) = lower(?)";
    connection.query_row(select, [name], |row| row.get(0))
}
