//! What became of the captured tables since the last poll: identity is the oid.
//!
//! The stream names a relation as it was called when the row was written, and never by its oid. Whoever goes by today's
//! names takes the rows of one table for those of another as soon as tables are renamed, attached, detached, dropped and
//! made again. So the catalog of the last poll ([`Memory`]) is held against that of this one, both as they are exactly
//! where the reading ends ([`Look`](crate::source::look::Look)).
//!
//! DDL leaves marks in the catalog: the transaction that wrote a catalog row last (`xmin`). A row that was not written
//! again proves that nothing happened to what it says:
//!
//! | catalog row | written by | unchanged means |
//! |---|---|---|
//! | pg_type, of the row type | rename, another schema or owner | it had this one name all the time |
//! | pg_inherits | becoming a partition | it was a partition of this parent all the time |
//! | pg_attribute, of a system column | the creation alone | (written together with pg_inherits: a partition from birth) |
//! | pg_class: file and TOAST table | see [`Storage`](super::Storage) | no rows but those of the stream |
//! | pg_attribute, of a column | rename, type, default, rights, dropping it | it had this one name all the time, and no value of it was computed anew |
//! | pg_namespace | rename, owner, rights | its tables had these names all the time |
//!
//! Enums and composites that columns are made of are compared by what they consist of ([`types`]): altered, they leave no
//! mark on tables. Of a column that is new there is nothing to compare with: what its rows said before its type was altered
//! is in doubt ([`retyped`](super::retyped)). So is what a label that is new was called before, and what was written by who
//! was open when a type was altered.
//!
//! A changed mark shows the last change only, and none of the earlier ones. The transaction that made a relation may have
//! renamed it too: then both have one mark, and the order of commands inside of it tells
//! ([`is_named_at_birth`](super::Marks::is_named_at_birth)). What follows:
//! - A relation with all its marks is what it was. Its name could not be another's meanwhile: its rows are its table's.
//! - A partition from birth is its parent's, whenever that was: nothing was in it before. Its name may have been another
//!   relation's before: rows of earlier transactions are a gap, and where the order of transactions does not tell, its rows
//!   are counted ([`suspects`](super::suspects)).
//! - A table that became a partition has a known place in the order of commits where its mark is the transaction of a
//!   COMMIT in the stream. Before it the rows are its own, after it the parent's; and what it held at that moment the
//!   parent gained without a row in the stream. So it must have been empty, by our own count of its rows from birth (or
//!   from a TRUNCATE) on; else, or with a mark that is part of a transaction (a savepoint has a number of its own, which
//!   the stream does not tell), it is a gap of the parent.
//! - A partition that was dropped or detached took its rows along, unless it was empty by our count and no row came
//!   under its name since: else it is a gap of the parent. When it went, nobody can say.
//! - Of a partition that was renamed or moved to another schema, rows are in doubt: they may be of another relation that
//!   had one of the names meanwhile, and rows under names in between are nobody's. Each such row is a gap of the parent; a
//!   partition that rests can be renamed freely. To see these rows, such an answer is read without a filter.
//! - A name that now means another table is a gap of that name, as is one that comes into the capture with rows that
//!   never travelled under it. So is a table whose name was away and came back, if rows came meanwhile.
//! - The rows of a table without a TOAST table that lie elsewhere are those after a TRUNCATE, if the stream has one of the
//!   transaction that is the table's mark, or one in a savepoint of it, and if production counts as many as the stream
//!   brought since; else a gap.
//! - Names of columns mean what they mean now in rows that commit after what altered the column last; in earlier rows their
//!   place may tell ([`naming`](super::naming)).
//! - Rows that are written anew by ALTER TABLE, or while a table is unlogged, are not in the stream: a gap. So is a column
//!   name that passed to another column.
//!
//! The first poll of all has no memory. It takes for new what is marked by a transaction that the slot may have seen, and
//! nothing that is older. Where an archive was there before, by a spool that is lost, what has the mark of a transaction
//! in the answer has a gap, and so have partitioned tables: which partitions went meanwhile, nobody can say.
//!
//! Writers and DDL cannot overlap on one table (a row's lock conflicts with that of DDL until the commit), which is why
//! the order of commits is also the order of rows and DDL of a table. A schema that is renamed is not locked so, nor are
//! tables whose enums call a label otherwise: what was found out about these stays in doubt for all transactions that were
//! open ([`beside`](super::beside)). The tables of a schema that is renamed have other names then, and that counts as any
//! other rename. A schema's row that was written again
//! and says the same as before: it was renamed there and back, a gap of the tables that rows came of meanwhile. One that
//! says other rights, or that is new, may have had another name besides: its tables are guests. Their rows are looked for
//! under the names of all schemas, and one under a name that nobody knows is a gap; their own names are in no doubt.
//!
//! All of this holds where the memory is of the place where the answer begins. After a crash between what is published and
//! what is remembered, after a stretch that was passed over, in an answer that goes on, and at the first look of all it is
//! not: then a relation that is new has rows which nobody knows, until the transaction comes that made it.
//!
//! A wider type may write all rows anew as well, and changes none: it explains that rows lie elsewhere, if its own
//! rewrite was the last ([`rewrite`](super::rewrite)). Not seen is what it hides: `SET UNLOGGED` and back before it in the same interval.
//! What other types of columns make of rows that are written anew is told from the types, in [`shape`](super::shape).
//!
//! What cannot be told is a gap of exactly the tables it concerns, for the length of the answer.

mod columns;
mod names;
mod partitions;
#[cfg(test)]
mod tests;
pub(super) mod types;

use std::collections::HashMap;

use syncdata_formats::name::TableName;

use super::{Capture, CatalogTable, Doubt, Memory};

pub(crate) const NOT_CAPTURED: &str = "not captured meanwhile";
pub(crate) const ANOTHER: &str = "another table of this name";
pub(crate) const PARTITION: &str = "partition changed";
pub(crate) const REWRITTEN: &str = "rewritten by ALTER TABLE";
pub(crate) const TYPE: &str = "a type was altered";

/// Completes a capture that knows the catalog of today by what has changed since.
pub(super) fn find(capture: &mut Capture, catalog: &HashMap<u32, &CatalogTable>, memory: &Memory) {
    let mut changes = Changes { capture, catalog, memory };
    changes.unlogged_partitions();
    if memory.seen.is_none() {
        return;
    }
    if !memory.is_new() {
        changes.tables();
        changes.not_carried();
        changes.forgotten();
    }
    changes.inherited();
    changes.unpublished();
    for oid in changes.capture.relations.keys().copied().collect::<Vec<_>>() {
        changes.touched(oid);
        changes.relation(oid);
    }
    changes.gone();
    changes.names();
    changes.names_of_columns();
    changes.types_of_columns();
    changes.newly_altered_types();
    changes.altered_beside_writers();
    changes.beside();
}

pub(super) struct Changes<'a> {
    pub(super) capture: &'a mut Capture,
    /// As it is now.
    pub(super) catalog: &'a HashMap<u32, &'a CatalogTable>,
    pub(super) memory: &'a Memory,
}

impl Changes<'_> {
    fn is_born_since(&self, now: &CatalogTable) -> bool {
        self.memory.seen.is_some()
            && !self.memory.relations.contains_key(&now.oid)
            && !self.memory.is_old(now.marks.born)
    }

    /// From now on a row under that name is a gap of that table.
    fn doubt(&mut self, name: &TableName, table: &TableName, reason: &'static str) {
        if self.capture.tables.contains(table) && !self.is_missed(table) {
            let route = self.capture.routes.entry(name.clone()).or_default();
            route.doubts.insert(Doubt { table: table.clone(), reason, open: None });
        }
    }

    fn is_missed(&self, table: &TableName) -> bool {
        self.capture.missed.iter().any(|missed| missed.table == *table)
    }
}
