//! Arguments of the commands that take several, and the values that operations take.

use std::path::PathBuf;

use syncdata_formats::error::Result;
use syncdata_formats::name::TableName;
use syncdata_formats::time::Moment;
use syncdata_service::config::Config;
use uuid::Uuid;

use crate::archive::range::TimeRange;
use crate::history::row::RowOf;
use crate::history::{AsOf, Order};
use crate::operations::consistency::CheckType;
use crate::operations::setup::Wanted;
use crate::operations::{Answer, consistency, dead_letters};
use crate::plan::state::Want;
use crate::target::postgres::executions::{self, Came, Trigger};

/// Where the first rows of a new table come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum From {
    /// From the newest base copy that has it; without one, from the archive's first segment
    Auto,
    /// From a base copy in the archive
    Snapshot,
    /// From the archive's first segment
    Start,
    /// They are there already: loaded with pg_dump, just now
    Now,
}

impl From {
    /// The base that the tables wait for; none where the rows are there.
    pub(super) fn want(self) -> Option<Want> {
        match self {
            From::Auto => Some(Want::Auto),
            From::Snapshot => Some(Want::Snapshot),
            From::Start => Some(Want::Start),
            From::Now => None,
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct SetupArguments {
    /// Create the role of the settings (pg_user), and give it the rights that it needs
    #[arg(long)]
    pub(super) create_role: bool,
    /// Create the database of the settings (pg_database)
    #[arg(long)]
    pub(super) create_database: bool,
    /// Create the tables that are missing, as the archive describes them
    #[arg(long)]
    pub(super) create_tables: bool,
    /// Tables and patterns, instead of all that are captured
    #[arg(long, value_name = "A,B", num_args = 1..)]
    pub(super) tables: Vec<String>,
    /// The role's password; else that of the settings, else it is asked for, or made
    #[arg(long, value_name = "FILE", requires = "create_role")]
    pub(super) password_file: Option<PathBuf>,
    /// Connect as this role, a DBA's, instead of pg_user; its password is looked for in ~/.pgpass
    #[arg(long = "as", value_name = "ROLE")]
    pub(super) login: Option<String>,
}

impl SetupArguments {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            role: self.create_role,
            database: self.create_database,
            tables: self.create_tables,
            patterns: self.tables.clone(),
            password_file: self.password_file.clone(),
            login: self.login.clone(),
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReplayArguments {
    /// From this day (its midnight UTC) or time of commit on
    #[arg(long, value_name = "T")]
    from: Moment,
    /// Up to, and without, this day or time
    #[arg(long, value_name = "T")]
    to: Moment,
    /// Tables and patterns of the whitelist, instead of all
    #[arg(long, value_name = "A,B", num_args = 1..)]
    tables: Vec<String>,
    /// Apply the range alone to copies of the tables in this schema, and leave the live ones as they are
    #[arg(long, value_name = "SCHEMA")]
    pub(super) into: Option<String>,
    /// Only say what there is to do
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

impl ReplayArguments {
    pub(super) fn order(&self) -> Result<Order> {
        let range = TimeRange::new(Some(self.from), Some(self.to))?;
        let tables = (!self.tables.is_empty()).then(|| self.tables.join(","));
        Ok(Order { range, tables, dry_run: self.dry_run })
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct AsOfArguments {
    /// The moment: a day (its midnight UTC) or a time
    time: Moment,
    /// Where the tables are made; the live ones are left as they are
    #[arg(long, value_name = "SCHEMA")]
    into: String,
    /// Tables and patterns of the whitelist, instead of all
    #[arg(long, value_name = "A,B", num_args = 1..)]
    tables: Vec<String>,
}

/// What may be asked about proofs.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Consistency {
    /// The newest proof of every table
    Status,
    /// What the newest proofs say of tables, check by check
    Check {
        /// Names, schema.* or *; several in a list or as words
        tables: Vec<String>,
        /// Some of the checks, instead of all
        #[arg(long, value_enum, value_delimiter = ',')]
        types: Vec<CheckType>,
        /// Until the newest proof of the archive has been compared; at once if it has been
        #[arg(long)]
        wait: bool,
    },
    /// Rows of a table that are not as the archive says, and who is to blame
    Rows { table: String },
    /// One row, now, against the archive
    Validate {
        table: String,
        /// A value for each column of the key
        #[arg(required = true)]
        key: Vec<String>,
    },
    /// Bring exactly the rows that differ to what the archive says of them, and compare again
    Repair {
        table: String,
        /// Only say what there is to do
        #[arg(long)]
        dry_run: bool,
    },
}

impl Consistency {
    pub(super) async fn answer(self, config: &Config) -> Result<Answer> {
        match self {
            Consistency::Status => consistency::status(config).await,
            Consistency::Check { tables, types, wait } => {
                let sync = async || super::commands::sync(config.clone()).await.map(drop);
                let check = consistency::check(config, &tables, &types, wait.then_some(sync));
                let work = async { Ok(check.await?.answer()) };
                let named = (!tables.is_empty()).then_some(tables.as_slice());
                let came = |answer: &Answer| Came::to(serde_json::json!({"exit_code": answer.exit_code}));
                let kind = (executions::Kind::Check, Trigger::Command);
                executions::noted(config, kind, named, work, came).await
            }
            Consistency::Rows { table } => consistency::rows(config, &table, None).await,
            Consistency::Validate { table, key } => consistency::rows(config, &table, Some(key)).await,
            Consistency::Repair { table, dry_run } => consistency::repair(config, &table, dry_run).await,
        }
    }
}

/// What may be asked about records that tables could not take.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum DeadLetters {
    /// Those that are open, oldest first
    List {
        /// Of these tables alone: names, schema.* or *, in a list
        table: Option<String>,
        /// Also those that are settled
        #[arg(long)]
        all: bool,
    },
    /// One of them with its record, which holds values of the row
    Show { id: Uuid },
    /// Let its table go on from the record that failed
    Retry { id: Uuid },
    /// Let its table go on after the transaction of the record, of which it takes nothing; that is remembered for ever
    Skip {
        id: Uuid,
        /// Why: kept for ever
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

impl DeadLetters {
    pub(super) fn order(self) -> dead_letters::DeadLetters {
        match self {
            DeadLetters::List { table, all } => dead_letters::DeadLetters::List { table, all },
            DeadLetters::Show { id } => dead_letters::DeadLetters::Show { id },
            DeadLetters::Retry { id } => dead_letters::DeadLetters::Retry { id },
            DeadLetters::Skip { id, reason } => dead_letters::DeadLetters::Skip { id, reason },
        }
    }
}

impl AsOfArguments {
    pub(super) fn order(self) -> AsOf {
        let tables = (!self.tables.is_empty()).then(|| self.tables.join(","));
        AsOf { at: self.time.0, schema: self.into, tables }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct HistoryArguments {
    /// The table, as the archive names it
    table: TableName,
    /// The row's key: a value for each of its columns, in their order
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true)]
    key: Vec<String>,
    /// From this day (its midnight UTC) or time of commit on
    #[arg(long, value_name = "T")]
    from: Option<Moment>,
    /// Up to, and without, this day or time
    #[arg(long, value_name = "T")]
    to: Option<Moment>,
}

impl HistoryArguments {
    pub(super) fn row(self) -> Result<RowOf> {
        Ok(RowOf { table: self.table, key: self.key, range: TimeRange::new(self.from, self.to)? })
    }
}
