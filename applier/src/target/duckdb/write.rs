//! A batch into the tables, set by set.
//!
//! ```text
//! net ─▶ stage (text) ─▶ does every value stay the same? ─▶ old values that stay ─▶ DELETE … USING ─▶ INSERT … SELECT
//! ```
//! No UPDATE: in a large table its commit writes all of a column anew for every row group that it meets.

use std::collections::{BTreeMap, HashSet};

use syncdata_formats::error::Result;

use super::database::Database;
use super::error::DuckdbContext as _;
use super::moved::{self, Moved};
use super::names::quoted;
use super::stage::{self, Altered, Field, Stage};
use super::work::{Kind, Staged, Work, staged};
use super::{one_by_one, tables};
use crate::batch::{Cell, Record};
use crate::table::Table;
use crate::target::{Oddities, Outcome, Rejection};

/// All of the batch, or the record that is to blame: whoever asked rolls back then.
pub(super) fn write(database: &Database, work: &Work) -> Result<Outcome> {
    let mut applied = BTreeMap::new();
    for (table, of_batch) in work.batch.tables.iter().enumerate() {
        match (Writing { database, work, table }).run()? {
            Ok(oddities) => applied.insert(of_batch.target.table.name.clone(), oddities),
            Err(rejection) => return Ok(Outcome::Rejected(rejection)),
        };
    }
    Ok(Outcome::Applied(applied))
}

/// One table of a batch.
struct Writing<'a> {
    database: &'a Database,
    work: &'a Work,
    table: usize,
}

impl Writing<'_> {
    fn run(&self) -> Result<Result<Oddities, Rejection>> {
        let batch = &self.work.batch;
        let of_batch = &batch.tables[self.table];
        let (target, net) = (&of_batch.target, &self.work.nets[self.table]);
        if of_batch.truncated.is_some() {
            self.execute(&format!("DELETE FROM {}", self.sql()))?;
        }
        if !target.key.nettable && !net.in_order.is_empty() {
            return one_by_one::write(self.database, batch, self.table, &net.in_order);
        }
        let moved = match net.in_order.is_empty() {
            true => Moved::default(),
            false => match self.follow(&net.in_order)? {
                Ok(moved) => moved,
                Err(rejection) => return Ok(Err(rejection)),
            },
        };

        let key: &[usize] = if target.key.nettable { &target.key.columns } else { &[] };
        let nothing = vec![Cell::ABSENT; target.table.columns.len()];
        let rows = || staged(net, &moved, &nothing, !key.is_empty());
        let counts = Counts::of(rows(), &target.table);
        if counts.rows == 0 {
            return Ok(Ok(Oddities { missing: net.missing + moved.missing, replaced: moved.replaced }));
        }
        let stage = Stage::new("syncdata_stage", &target.table, key, counts.unchanged.clone());
        stage.make(self.database)?;
        let fields = rows().map(|row| {
            let key = key.iter().enumerate().map(move |(place, &column)| batch.value(row.key(place, column)));
            let fields = row.cells.iter().map(|&cell| match cell {
                Cell::ABSENT => Field::Unchanged,
                cell => Field::Value(batch.value(cell)),
            });
            (row.kind as i8, key, fields)
        });
        stage.fill(self.database, fields)?;
        let altered = stage.altered(self.database)?;
        if !altered.is_empty() {
            let rows: Vec<Staged<'_>> = rows().collect();
            let cell = |altered: &Altered| {
                let row = &rows[altered.row];
                match altered.in_key {
                    true => {
                        let place = key.iter().position(|column| *column == altered.column);
                        row.key(place.expect("a part of the key"), altered.column)
                    }
                    false => row.cells[altered.column],
                }
            };
            let blamed = altered.iter().map(|altered| (altered.column, cell(altered)));
            return Ok(Err(self.rejection(blamed)));
        }
        let missing = self.bring_in(&stage, &counts, moved.deletes.len() as u64)?;
        stage.drop(self.database)?;
        Ok(Ok(Oddities { missing: net.missing + moved.missing + missing, replaced: moved.replaced }))
    }

    /// From the stage into the table; how many rows were not here. So many of those that go are known to be here.
    fn bring_in(&self, stage: &Stage<'_>, counts: &Counts, known: u64) -> Result<u64> {
        let net = &self.work.nets[self.table];
        let (table, local) = (self.sql(), &*self.work.batch.tables[self.table].target.table);
        let columns = &local.columns;
        let mut missing = 0;
        let same = stage.same_key();
        if counts.deletes > 0 {
            let gone = self.execute(&format!(
                "DELETE FROM {table} AS o USING {} AS s WHERE s.kind = 0 AND {same}",
                stage.sql()
            ))?;
            missing += net.expected_deletes.saturating_sub(gone.saturating_sub(known));
        }
        if counts.rows == counts.deletes {
            return Ok(missing);
        }

        let keeps_old = !same.is_empty() && (counts.updates > 0 || !stage.unchanged().is_empty());
        if keeps_old {
            let old: String = stage
                .unchanged()
                .iter()
                .map(|&column| format!(", o.{} AS c{column}", quoted(&columns[column].name)))
                .collect();
            self.execute(&format!(
                "CREATE OR REPLACE TEMPORARY TABLE syncdata_old AS SELECT s.n, s.kind{old} \
                 FROM {table} AS o JOIN {} AS s ON {same} WHERE s.kind > 0",
                stage.sql()
            ))?;
            let select = "SELECT count(*) FROM temp.main.syncdata_old WHERE kind = 1";
            let found: u64 =
                self.database.connection.query_row(select, [], |row| row.get(0)).context(|| self.doing())?;
            missing += counts.updates.saturating_sub(found);
        }
        if !same.is_empty() {
            self.execute(&format!(
                "DELETE FROM {table} AS o USING {} AS s WHERE s.kind > 0 AND {same}",
                stage.sql()
            ))?;
        }
        let old = |column: usize| if keeps_old { format!("old.c{column}") } else { "NULL".to_owned() };
        let values: Vec<String> =
            tables::here(local).map(|column| stage.value(column, &old(column))).collect();
        let from = match keeps_old {
            true => format!(
                "{} AS s LEFT JOIN temp.main.syncdata_old AS old ON old.n = s.n \
                 WHERE s.kind = 2 OR (s.kind = 1 AND old.n IS NOT NULL)",
                stage.sql()
            ),
            false => format!("{} AS s WHERE s.kind = 2", stage.sql()),
        };
        let insert = format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {from} ORDER BY s.n",
            tables::column_list(local),
            values.join(", ")
        );
        self.execute(&insert)?;
        if keeps_old {
            self.execute("DROP TABLE temp.main.syncdata_old")?;
        }
        Ok(missing)
    }

    /// Records that touch keys which move. `Err`: a key of them would not stay the same.
    fn follow(&self, records: &[u32]) -> Result<Result<Moved, Rejection>> {
        let batch = &self.work.batch;
        let target = &batch.tables[self.table].target;
        let keys = moved::keys(batch, &target.key.columns, records);
        let stage = Stage::new("syncdata_keys", &target.table, &target.key.columns, Vec::new());
        stage.make(self.database)?;
        let rows = keys.iter().map(|key| {
            let nothing = target.table.columns.iter().map(|_| Field::Value(None));
            (0, key.iter().map(|&cell| batch.value(cell)), nothing)
        });
        stage.fill(self.database, rows)?;
        let altered = stage.altered(self.database)?;
        if !altered.is_empty() {
            let cell = |altered: &Altered| {
                let place = target.key.columns.iter().position(|column| *column == altered.column);
                keys[altered.row][place.expect("a part of the key")]
            };
            let blamed = altered.iter().map(|altered| (altered.column, cell(altered)));
            return Ok(Err(self.rejection(blamed)));
        }
        let select = format!(
            "SELECT s.n FROM {} AS s WHERE EXISTS (SELECT 1 FROM {} AS o WHERE {})",
            stage.sql(),
            self.sql(),
            stage.same_key()
        );
        let mut statement = self.database.connection.prepare(&select).context(|| self.doing())?;
        let here = statement.query_map([], |row| row.get::<_, i64>(0)).context(|| self.doing())?;
        let here: Vec<i64> = here.collect::<duckdb::Result<_>>().context(|| self.doing())?;
        let here: HashSet<Vec<u8>> = here
            .into_iter()
            .filter_map(|number| keys.get(usize::try_from(number).ok()?))
            .map(|key| moved::text(batch, key))
            .collect();
        stage.drop(self.database)?;
        Ok(Ok(moved::follow(batch, self.table, records, |key| here.contains(key))))
    }

    /// The first record in the source's order that has one of these values.
    fn rejection(&self, values: impl Iterator<Item = (usize, Cell)>) -> Rejection {
        let batch = &self.work.batch;
        let of_batch = &batch.tables[self.table];
        let place = |(column, cell): (usize, Cell)| {
            let says = |record: &Record| {
                let mut fields = batch.data(record).chain(batch.old_keys(record));
                fields.any(|field| field == (column, cell))
            };
            let index = of_batch.records.iter().find(|index| says(&batch.records[**index as usize]))?;
            Some((*index, column))
        };
        let (index, column) = values.filter_map(place).min().expect("every value is one of a record");
        stage::rejection(&batch.records[index as usize], &of_batch.target.table, column)
    }

    fn sql(&self) -> String {
        tables::sql(self.database, &self.work.batch.tables[self.table].target.table.name)
    }

    fn execute(&self, statement: &str) -> Result<u64> {
        let done = self.database.connection.execute(statement, []).context(|| self.doing())?;
        Ok(done as u64)
    }

    fn doing(&self) -> String {
        format!("writing into {}", self.work.batch.tables[self.table].target.table.name)
    }
}

/// How many rows of each kind there are.
#[derive(Debug, Default)]
struct Counts {
    rows: u64,
    deletes: u64,
    updates: u64,
    /// Columns that some row which stays leaves as they are.
    unchanged: Vec<usize>,
}

impl Counts {
    fn of<'a>(rows: impl Iterator<Item = Staged<'a>>, table: &Table) -> Counts {
        let mut counts = Counts::default();
        let mut unchanged = vec![false; table.columns.len()];
        for row in rows {
            counts.rows += 1;
            match row.kind {
                Kind::Delete => {
                    counts.deletes += 1;
                    continue;
                }
                Kind::Update => counts.updates += 1,
                Kind::Insert => {}
            }
            for (unchanged, cell) in unchanged.iter_mut().zip(row.cells) {
                *unchanged |= *cell == Cell::ABSENT;
            }
        }
        counts.unchanged = tables::here(table).filter(|&column| unchanged[column]).collect();
        counts
    }
}
