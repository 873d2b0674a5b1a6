//! Why the rows here are not those of a table's position, and what to do.

use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal, shell_word};

use crate::plan::not_found;
use crate::table::Altered;
use crate::target::postgres::labels::OldLabel;

/// Why the rows here are not those of the table's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    NotFound,
    /// The name belongs to another table now.
    Replaced,
    /// A partition is gone.
    PartGone,
    /// A crash would empty it, or has done so.
    Unlogged,
    /// All rows of it, or of a partition, went or were written anew, and none of its changes did that.
    Rewritten,
    /// A partition came that has rows of its own.
    PartWithRows(String),
    /// A table inherits from it that has rows of its own and is not synced: queries of the one show the other's rows.
    HeirWithRows {
        heir: String,
        parent: String,
    },
    /// A label of an enum has another name here alone.
    Relabelled {
        enum_type: String,
        was: String,
        is: String,
        can_be_taken_back: bool,
    },
    /// A composite that a column is made of has other attributes.
    TypeAltered,
    /// A column is not as it was when the rows were right.
    Altered(Altered),
    /// Another applier, whose tables are in that schema, writes into it too.
    Shared(String),
    /// Something else than its changes has changed them.
    Touched,
    /// It, or that partition, had rows, and none came back with the dump that the database was restored from.
    NotRestored(String),
    /// It and another synced table are parts of each other here: queries of the one show rows of the other.
    Nested {
        part: String,
        parent: String,
        whole: String,
    },
    /// The position is of another moment than the rows: a dump of our tables was restored, and the table was not.
    OtherMoment,
    /// Some have a label that the source calls otherwise by now.
    OldLabel(OldLabel),
}

impl Lost {
    /// What happened, and what to do.
    pub fn reason(&self, table: &TableName) -> String {
        let resync = format!("syncdata-applier resync {}", table.shell_word());
        match self {
            Lost::NotFound => format!("{}, then: {resync}", not_found(table)),
            Lost::Replaced => format!(
                "the local table is another one than its rows were written to: it was dropped and made again, or \
                 renamed; run: {resync}"
            ),
            Lost::PartGone => {
                format!("a partition of the local table is gone, and its rows with it; run: {resync}")
            }
            Lost::Unlogged => format!(
                "the local table is UNLOGGED: a crash of its server empties it; run: ALTER TABLE {} SET LOGGED  -- then: \
                 {resync}",
                table.sql()
            ),
            Lost::Rewritten => format!(
                "the local table was emptied, or all of its rows were written anew, by something else than its changes; \
                 run: {resync}"
            ),
            Lost::PartWithRows(part) => format!(
                "partition {part} was attached to the local table with rows of its own; run: {resync}"
            ),
            Lost::HeirWithRows { heir, parent } => format!(
                "{heir} inherits from the local table, is not synced and has rows, which queries of {table} show too; run: \
                 ALTER TABLE {heir} NO INHERIT {parent}  -- then, if {table} is quarantined: syncdata-applier retry {}",
                table.shell_word()
            ),
            Lost::Relabelled { enum_type, was, is, can_be_taken_back: false } => format!(
                "label {was:?} of {enum_type} has another name here, {is:?}, and rows say so; run: {resync}"
            ),
            Lost::Relabelled { enum_type, was, is, can_be_taken_back: true } => format!(
                "label {was:?} of {enum_type} has another name here, {is:?}, and rows say so; run: ALTER TYPE {enum_type} RENAME \
                 VALUE {} TO {}  -- then: syncdata-applier retry {}; or: {resync}",
                literal(is),
                literal(was),
                table.shell_word()
            ),
            Lost::TypeAltered => {
                format!(
                    "a type that a column is made of has other attributes than before, and so have its values; run: {resync}"
                )
            }
            Lost::Altered(altered) => format!("{}{resync}", what_altered(table, altered)),
            Lost::Shared(schema) => format!(
                "an applier whose own tables are in schema {} writes into it too; run: SYNCDATA_META_SCHEMA={} \
                 syncdata-applier remove-tables {}  # then: {resync}",
                identifier(schema),
                shell_word(schema),
                table.shell_word()
            ),
            Lost::NotRestored(part) => format!(
                "{part} had rows, and none came back with the dump that the local database was restored from; run: {resync}"
            ),
            Lost::Nested { part, parent, whole } => format!(
                "{part} is a partition of {whole} here, and both are synced: each shows, and takes, rows of the other; run: \
                 ALTER TABLE {parent} DETACH PARTITION {part}  -- then, if {table} is quarantined: syncdata-applier retry {}",
                table.shell_word()
            ),
            Lost::Touched => format!("its rows are no longer those of its position; run: {resync}"),
            Lost::OtherMoment => format!(
                "its position was restored from a dump, and its rows may be of another moment; run: {resync}"
            ),
            Lost::OldLabel(old) => old.reason(table),
        }
    }

    /// However it is afterwards: its rows may be others since.
    pub(super) fn stays(&self) -> bool {
        match self {
            Lost::Unlogged
            | Lost::Rewritten
            | Lost::TypeAltered
            | Lost::Altered(_)
            | Lost::Shared(_)
            | Lost::NotRestored(_) => true,
            Lost::NotFound
            | Lost::Replaced
            | Lost::PartGone
            | Lost::PartWithRows(_)
            | Lost::HeirWithRows { .. }
            | Lost::Nested { .. }
            | Lost::Relabelled { .. }
            | Lost::Touched
            | Lost::OtherMoment
            | Lost::OldLabel(_) => false,
        }
    }
}

/// What happened, up to the command that makes the rows right.
fn what_altered(table: &TableName, altered: &Altered) -> String {
    match altered {
        Altered::Converted { column, was, is } => format!(
            "column {0} of {table} was {was} and is {is} now: its values may have been altered with it; run: ALTER TABLE {1} \
             ALTER COLUMN {0} TYPE {was}  -- then: ",
            identifier(column),
            table.sql()
        ),
        Altered::Computed { column } => format!(
            "column {} of {table} is computed by another expression than before; run: ",
            identifier(column)
        ),
        Altered::Remade { column } => format!(
            "column {} of {table} is another one than its rows were written to: it was dropped and made again; run: ",
            identifier(column)
        ),
    }
}
