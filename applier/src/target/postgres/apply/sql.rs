//! The statements that write rows. Names are quoted, values are parameters or COPY data, always as text for the
//! column's own input: an explicit cast to a limited type would cut silently.

use syncdata_formats::digest::Digest;

use crate::table::{Fit, Table};
use crate::target::postgres::step::{Step, StepKind};

/// Planner settings for statements over many rows: it may choose. Elsewhere index plans are forced, since plans
/// made while a table was small would scan it for ever.
pub(crate) const FREE_PLANS: &str =
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";
pub(super) const INDEX_PLANS: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Where a step's rows come from.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// A temporary table that [`stage`] makes.
    Staged(&'a str),
    /// Parameters, one array each.
    Arrays,
}

/// What has another shape has another name: the session may have such tables from somebody else who wrote in it, and one
/// that is there already is taken as it is.
pub(super) fn stage_name(target: &Fit) -> String {
    let shape = format!("{:?} {:?}", target.table, target.key.columns);
    format!("syncdata_stage_{}", &Digest::of(shape.as_bytes()).to_string()[..32])
}

/// An empty temporary table with the columns of the table twice: as values (`n…`) and, of the key, as they
/// were (`o…`).
pub(super) fn stage(name: &str, target: &Fit) -> String {
    let table = &target.table;
    let values = (0..table.columns.len()).map(|c| format!("{} AS n{c}", table.columns[c].sql()));
    let old = target.key.columns.iter().map(|&c| format!("{} AS o{c}", table.columns[c].sql()));
    let columns: Vec<String> = values.chain(old).collect();
    format!(
        "CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA; \
         TRUNCATE pg_temp.{name}",
        columns.join(", "),
        table.sql()
    )
}

pub(super) fn copy_to_stage(name: &str, step: &Step) -> String {
    format!("COPY pg_temp.{name} ({}) FROM STDIN", sent(step).join(", "))
}

pub(super) fn copy_to_table(table: &Table, step: &Step) -> String {
    format!("COPY {} ({}) FROM STDIN", table.name.sql(), table.column_list(&step.columns))
}

/// The statement of a step.
pub(super) fn statement(target: &Fit, step: &Step, rows: Rows<'_>) -> String {
    let table = &target.table;
    let source = source(table, step, rows);
    match step.kind {
        StepKind::Delete => {
            format!("DELETE FROM {} AS t USING {source} WHERE {}", table.sql(), matched(target, step))
        }
        StepKind::Update => {
            let fixed = target.fixed(&step.columns);
            let set = |&c: &usize| format!("{} = s.n{c}", table.columns[c].sql());
            let mut set: Vec<String> =
                step.columns.iter().filter(|column| !fixed.contains(column)).map(set).collect();
            if set.is_empty() {
                // Nothing to write, but which rows are here as they should be is still asked.
                set.extend(step.keys.first().map(|&c| format!("{0} = t.{0}", table.columns[c].sql())));
            }
            let kept = kept(target, &fixed, |c| format!("s.n{c}"));
            let (set, matched) = (set.join(", "), matched(target, step));
            format!("UPDATE {} AS t SET {set} FROM {source} WHERE {matched}{kept}", table.sql())
        }
        StepKind::Insert => {
            let values: Vec<String> = step.columns.iter().map(|c| format!("s.n{c}")).collect();
            format!(
                "INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {source}{}",
                table.name.sql(),
                table.column_list(&step.columns),
                values.join(", "),
                on_conflict(target, &step.columns)
            )
        }
    }
}

/// What [`statement`] has passed over because a column that the server lets nobody update has another value: those
/// rows go, and come again with it.
pub(super) fn replace(target: &Fit, step: &Step, rows: Rows<'_>) -> String {
    let table = &target.table;
    let written: Vec<usize> = (0..table.columns.len()).filter(|&c| !table.columns[c].generated).collect();
    let new = |&c: &usize| match step.columns.contains(&c) {
        true => format!("s.n{c} AS w{c}"),
        false => format!("t.{} AS w{c}", table.columns[c].sql()),
    };
    let new: Vec<String> = written.iter().map(new).collect();
    let values: Vec<String> = written.iter().map(|c| format!("w{c}")).collect();
    let is_fixed = |&c: &usize| format!("t.{} IS DISTINCT FROM s.n{c}", table.columns[c].sql());
    let differs: Vec<String> = target.fixed(&step.columns).iter().map(is_fixed).collect();
    format!(
        "WITH gone AS (DELETE FROM {} AS t USING {} WHERE {} AND ({}) RETURNING {}) \
         INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone",
        table.sql(),
        source(table, step, rows),
        matched(target, step),
        differs.join(" OR "),
        new.join(", "),
        table.name.sql(),
        table.column_list(&written),
        values.join(", ")
    )
}

/// A row for each that is there under the key of one that an INSERT brings.
pub(super) fn there(target: &Fit, step: &Step, rows: Rows<'_>) -> String {
    let (source, matched) = (source(&target.table, step, rows), matched(target, step));
    format!("SELECT 1 FROM {} AS t JOIN {source} ON {matched}", target.table.sql())
}

/// Whether an INSERT of these columns alters a row that is there.
pub(super) fn overwrites(target: &Fit, columns: &[usize]) -> bool {
    target.key.arbiter && columns.iter().any(|&column| !target.table.columns[column].identity_always)
}

/// ` AND t."n" IS NOT DISTINCT FROM …` for each of them.
fn kept(target: &Fit, fixed: &[usize], value: impl Fn(usize) -> String) -> String {
    let column =
        |&c: &usize| format!(" AND t.{} IS NOT DISTINCT FROM {}", target.table.columns[c].sql(), value(c));
    fixed.iter().map(column).collect()
}

/// An INSERT on an existing key is an update of it. (The table goes by the name of `t`.)
pub(super) fn on_conflict(target: &Fit, columns: &[usize]) -> String {
    if !target.key.arbiter {
        return String::new();
    }
    let table = &target.table;
    let set: Vec<String> = columns
        .iter()
        .filter(|&&c| !table.columns[c].identity_always)
        .map(|&c| format!("{0} = EXCLUDED.{0}", table.columns[c].sql()))
        .collect();
    let key = table.column_list(&target.key.columns);
    if set.is_empty() || target.key.keeps {
        format!(" ON CONFLICT ({key}) DO NOTHING")
    } else {
        let kept = kept(target, &target.fixed(columns), |c| format!("EXCLUDED.{}", table.columns[c].sql()));
        let condition = if kept.is_empty() { kept } else { format!(" WHERE true{kept}") };
        format!(" ON CONFLICT ({key}) DO UPDATE SET {}{condition}", set.join(", "))
    }
}

/// One statement for all tables: foreign keys among them allow nothing else.
pub(super) fn truncate<'a>(tables: impl Iterator<Item = &'a Table>) -> String {
    let names: Vec<String> = tables.map(Table::sql).collect();
    format!("TRUNCATE {}", names.join(", "))
}

/// Of rows that share a key, those that were there before this transaction go: what it brings takes their place.
pub(super) fn give_way(table: &Table, columns: &[usize]) -> String {
    let equal = |&c: &usize| {
        let column = &table.columns[c];
        format!("t.{0} {1} o.{0}", column.sql(), column.equality)
    };
    let equal: Vec<String> = columns.iter().map(equal).collect();
    let is_older = |row: &str| {
        format!(
            "pg_catalog.age({row}.xmin) > pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.xid)"
        )
    };
    format!(
        "DELETE FROM {0} AS t WHERE {1} AND EXISTS (SELECT FROM {0} AS o WHERE {2} AND NOT {3})",
        table.sql(),
        is_older("t"),
        equal.join(" AND "),
        is_older("o")
    )
}

/// Whether values stand twice in a unique constraint that the replica role does not enforce.
pub(super) fn has_duplicates(table: &Table, columns: &[usize]) -> String {
    let list = table.column_list(columns);
    let not_null: Vec<String> =
        columns.iter().map(|&c| format!("{} IS NOT NULL", table.columns[c].sql())).collect();
    format!(
        "SELECT EXISTS (SELECT FROM {} WHERE {} GROUP BY {list} HAVING pg_catalog.count(*) > 1)",
        table.sql(),
        not_null.join(" AND ")
    )
}

/// Columns of the rows that are sent: keys, then values.
fn sent(step: &Step) -> Vec<String> {
    let keys = step.keys.iter().map(|c| format!("o{c}"));
    keys.chain(step.columns.iter().map(|c| format!("n{c}"))).collect()
}

fn source(table: &Table, step: &Step, rows: Rows<'_>) -> String {
    let sent = sent(step);
    match rows {
        Rows::Staged(name) => format!("pg_temp.{name} AS s"),
        Rows::Arrays => {
            let columns = step.keys.iter().chain(&step.columns);
            // To the bare type, without a modifier: what is too long is for the assignment to refuse.
            let parsed: Vec<String> = sent
                .iter()
                .zip(columns)
                .map(|(name, &c)| format!("u.{name}::{} AS {name}", table.columns[c].base_type))
                .collect();
            let arrays: Vec<String> = (1..=sent.len()).map(|n| format!("${n}::text[]")).collect();
            format!(
                "(SELECT {} FROM unnest({}) AS u({})) AS s",
                parsed.join(", "),
                arrays.join(", "),
                sent.join(", ")
            )
        }
    }
}

/// The row that is there under the key of one that was sent.
fn matched(target: &Fit, step: &Step) -> String {
    let (table, is_new) = (&target.table, step.kind == StepKind::Insert);
    let (keys, sent) = if is_new { (&target.key.columns, 'n') } else { (&step.keys, 'o') };
    let equal = |&c: &usize| {
        let column = &table.columns[c];
        format!("t.{} {} s.{sent}{c}", column.sql(), column.equality)
    };
    let equal: Vec<String> = keys.iter().map(equal).collect();
    equal.join(" AND ")
}
