//! What foreign keys of the copy do beside what is written, where they act. Which rows a record makes them change is asked before
//! it is written. The source's own keys would have changed the same rows: then the stream has a later change of each.

use std::collections::BTreeMap;

use syncdata_formats::change::Op;
use syncdata_formats::error::Result;
use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

use super::param::TextParam;
use super::row::{self, Acting, Acts};
use super::watched::Changed;
use super::{Failed, Prepared, Writer};
use crate::batch::{Batch, Record};
use crate::table::{Column, Table, TextEquality};

/// All of the database: they may act by way of tables that nobody syncs. What a partition inherits its root says.
const ACTING: &str = "
SELECT coalesce(pg_catalog.pg_partition_root(f.confrelid)::oid, f.confrelid),
    coalesce(pg_catalog.pg_partition_root(f.conrelid)::oid, f.conrelid),
    rn.nspname::text, root.relname::text,
    CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
    f.confdeltype::text, f.confupdtype::text,
    ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY AS k(attnum, place)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place),
    ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY AS k(attnum, place)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.place),
    ARRAY(SELECT pg_catalog.format('r.%I OPERATOR(%I.%s) t.%I', a.attname, s.nspname, o.oprname, b.attname)
              || CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.attcollation
                      THEN pg_catalog.format(' COLLATE %I.%I', ls.nspname, l.collname) ELSE '' END
          FROM unnest(f.confkey, f.conkey, f.conpfeqop) WITH ORDINALITY AS k(referenced, referring, op, place)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.referenced
          JOIN pg_catalog.pg_attribute b ON b.attrelid = f.conrelid AND b.attnum = k.referring
          JOIN pg_catalog.pg_operator o ON o.oid = k.op
          JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
          LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
          LEFT JOIN pg_catalog.pg_namespace ls ON ls.oid = l.collnamespace
          ORDER BY k.place),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = f.conrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_catalog.pg_constraint f
JOIN pg_catalog.pg_class c ON c.oid = f.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class root ON root.oid = coalesce(pg_catalog.pg_partition_root(f.conrelid)::oid, f.conrelid)
JOIN pg_catalog.pg_namespace rn ON rn.oid = root.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0
    AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
ORDER BY f.oid";

/// See the module.
#[derive(Debug, Default)]
pub(in crate::target::postgres) struct Actions {
    keys: Vec<ForeignKey>,
    /// Rows that were changed, of which the stream has not said so yet.
    unsaid: Vec<Hit>,
}

#[derive(Debug)]
struct ForeignKey {
    /// The roots of partitions.
    referenced: u32,
    referring: u32,
    table: TableName,
    /// The table itself, as it is read.
    from: String,
    on_delete: Action,
    on_update: Action,
    columns: Vec<String>,
    referenced_columns: Vec<String>,
    /// `r."id" OPERATOR(pg_catalog.=) t."p"`, for each of its columns.
    equal: Vec<String>,
    /// All that the table has.
    all_columns: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Delete,
    /// Columns of the key get another value.
    Set,
}

/// A row on which a foreign key acts.
#[derive(Debug)]
struct Hit {
    table: TableName,
    /// As it was before, by its columns' names.
    row: BTreeMap<String, Option<String>>,
    action: Action,
    columns: Vec<String>,
}

impl Action {
    fn of(letter: &str) -> Action {
        match letter {
            "c" => Action::Delete,
            "n" | "d" => Action::Set,
            _ => Action::Nothing,
        }
    }
}

impl ForeignKey {
    fn action(&self, acts: Acts) -> Action {
        match acts {
            Acts::Delete => self.on_delete,
            Acts::Update => self.on_update,
            Acts::Replace => Action::Nothing,
        }
    }

    /// Where it is in `SELECT tableoid, ctid, … FROM … AS t`.
    fn image(&self) -> String {
        let text = |name: &String| {
            let column = format!("t.{}", identifier(name));
            format!("CASE WHEN pg_catalog.num_nulls({column}) = 0 THEN pg_catalog.format('%s', {column}) END")
        };
        let texts: Vec<String> = self.all_columns.iter().map(text).collect();
        format!("t.tableoid, t.ctid::text, ARRAY[{}]::text[]", texts.join(", "))
    }

    fn hit(&self, action: Action, values: Vec<Option<String>>) -> Hit {
        let row = self.all_columns.iter().cloned().zip(values).collect();
        Hit { table: self.table.clone(), row, action, columns: self.columns.clone() }
    }

    fn referenced_columns(&self) -> String {
        let names: Vec<String> = self.referenced_columns.iter().map(|name| identifier(name)).collect();
        names.join(", ")
    }
}

impl Actions {
    pub(in crate::target::postgres) async fn read(client: &Client) -> Result<Actions> {
        let rows = client.query(ACTING, &[]).await;
        let mut keys = Vec::new();
        for row in rows.context(|| "looking for foreign keys that act".to_owned())? {
            let on_update = match row.get(6) {
                "c" => Action::Set,
                other => Action::of(other),
            };
            keys.push(ForeignKey {
                referenced: row.get(0),
                referring: row.get(1),
                table: TableName::new(row.get::<_, &str>(2), row.get::<_, &str>(3))?,
                from: row.get(4),
                on_delete: Action::of(row.get(5)),
                on_update,
                columns: row.get(7),
                referenced_columns: row.get(8),
                equal: row.get(9),
                all_columns: row.get(10),
            });
        }
        Ok(Actions { keys, unsaid: Vec::new() })
    }

    /// Tables with rows that foreign keys of the copy have changed, and the stream has not.
    pub(in crate::target::postgres) fn unsaid(&self) -> impl Iterator<Item = &TableName> {
        self.unsaid.iter().map(|hit| &hit.table)
    }

    /// Whether a foreign key here may act on what is written for that record.
    fn may_act(&self, batch: &Batch, record: &Record) -> bool {
        let of = &batch.tables[record.table];
        let (table, key) = (&of.target.table, &of.target.key.columns);
        let by_key = of.replica_identity() != ReplicaIdentity::Index;
        let goes_and_comes = || {
            let is_fixed = |(place, column): (usize, &Column)| {
                column.identity_always && !(by_key && key.contains(&place))
            };
            table.columns.iter().enumerate().any(is_fixed)
        };
        match record.op {
            Op::Delete => table.acts_on_delete,
            Op::Update => {
                table.acts_on_update || table.acts_on_delete && (goes_and_comes() || moves(batch, record))
            }
            // One that is there under its key takes the new values.
            Op::Insert => {
                let is_other = |fk: &&ForeignKey| {
                    fk.referenced == table.oid
                        && fk.on_update != Action::Nothing
                        && fk
                            .referenced_columns
                            .iter()
                            .any(|name| table.column(name).is_none_or(|place| !key.contains(&place)))
                };
                table.acts_on_delete && goes_and_comes()
                    || table.acts_on_update && self.keys.iter().any(|fk| is_other(&fk))
            }
            Op::Truncate => false,
        }
    }

    /// The stream has a change of a row: one of what foreign keys have done.
    fn say(&mut self, batch: &Batch, record: &Record) {
        let of = &batch.tables[record.table];
        let table = &of.target.table;
        if self.unsaid.iter().all(|hit| hit.table != table.name) {
            return;
        }
        let old: BTreeMap<usize, Option<&str>> =
            batch.old_keys(record).map(|(column, cell)| (column, batch.value(cell))).collect();
        let new: BTreeMap<usize, Option<&str>> =
            batch.data(record).map(|(column, cell)| (column, batch.value(cell))).collect();
        let key = &of.target.key;
        let of_key = |values: &BTreeMap<usize, Option<&str>>| {
            !key.columns.is_empty() && key.columns.iter().all(|column| values.contains_key(column))
        };
        let whole = match record.op {
            Op::Insert => &new,
            Op::Update | Op::Delete => &old,
            Op::Truncate => return,
        };
        let by_key = of_key(whole) && !key.by_image;
        if whole.is_empty() || record.op == Op::Insert && !by_key {
            return;
        }
        let finds = |column: &usize| whole.contains_key(column) && (!by_key || key.columns.contains(column));
        let is_same = |hit: &Hit, place: usize, value: Option<&str>| {
            let column = &table.columns[place];
            let prints_otherwise = || of.other_types().any(|(other, _)| other == place);
            let here = hit.row.get(&column.name);
            here.is_none_or(|here| {
                same(column, here.as_deref(), value) || prints_otherwise() && here.is_some()
            })
        };
        let is_said = |hit: &Hit| {
            let is_of_row = hit.table == table.name
                && whole.iter().all(|(column, value)| !finds(column) || is_same(hit, *column, *value));
            if !is_of_row || record.op != Op::Update {
                return is_of_row;
            }
            // A row that is gone here takes no new values.
            let set: Vec<usize> = hit.columns.iter().filter_map(|name| table.column(name)).collect();
            let is_written = hit.action == Action::Set && set.iter().all(|column| new.contains_key(column));
            // Nor does one that is not found any more: then nothing else may have changed in it.
            let is_found = !set.iter().any(finds);
            let others =
                || new.iter().all(|(column, value)| set.contains(column) || is_same(hit, *column, *value));
            is_written && (is_found || others())
        };
        if by_key {
            self.unsaid.retain(|hit| !is_said(hit));
        } else if let Some(place) = self.unsaid.iter().position(is_said) {
            self.unsaid.remove(place);
        }
    }

    /// The source has emptied these.
    fn say_truncated(&mut self, batch: &Batch) {
        let is_truncated = |name: &TableName| {
            batch.tables.iter().any(|of| of.truncated.is_some() && of.target.table.name == *name)
        };
        self.unsaid.retain(|hit| !is_truncated(&hit.table));
    }
}

impl Writer {
    /// Whether foreign keys here may change rows beside what the batch does: then only source order says which of them were
    /// still there.
    pub(in crate::target::postgres) fn foreign_keys_act(&self, prepared: &Prepared) -> bool {
        let batch = &prepared.batch;
        let may_act = |actions: &Actions| batch.records.iter().any(|record| actions.may_act(batch, record));
        self.actions.as_ref().is_some_and(may_act)
    }

    /// Before a batch, in which foreign keys act or do not.
    pub(super) fn listen(&mut self, prepared: &Prepared, foreign_keys_act: bool) {
        let Some(actions) = &mut self.actions else { return };
        let batch = &prepared.batch;
        actions.say_truncated(batch);
        if foreign_keys_act {
            return;
        }
        for of in &batch.tables {
            for &record in &of.records {
                actions.say(batch, &batch.records[record as usize]);
            }
        }
    }

    /// Before a record that is written in source order: what was said by it, and whether it acts.
    pub(super) fn listen_to(&mut self, batch: &Batch, record: &Record) -> bool {
        let Some(actions) = &mut self.actions else { return false };
        actions.say(batch, record);
        actions.may_act(batch, record)
    }

    /// What foreign keys will do beside that record, once all before it are written.
    pub(super) async fn foresee(
        &mut self,
        client: &Client,
        prepared: &Prepared,
        index: u32,
    ) -> Result<(), Failed> {
        let batch = &prepared.batch;
        let record = &batch.records[index as usize];
        let table = &batch.tables[record.table].target.table;
        for acting in row::acting(batch, record) {
            let asked = async {
                match acting.acts {
                    Acts::Replace if table.acts_on_delete => {
                        refuse_to_replace(client, batch, table, &acting).await?;
                    }
                    Acts::Replace => {}
                    Acts::Delete | Acts::Update => self.ask(client, batch, record, &acting).await?,
                }
                Ok(())
            };
            asked.await.map_err(|error| Failed::of(prepared, index, error))?;
        }
        Ok(())
    }

    async fn ask(&mut self, client: &Client, batch: &Batch, record: &Record, acting: &Acting) -> Result<()> {
        let Some(mut actions) = self.actions.take() else { return Ok(()) };
        let mut hits = self.hits(client, &actions.keys, batch, record, acting).await;
        if let Ok(hits) = &mut hits {
            actions.unsaid.append(hits);
        }
        self.actions = Some(actions);
        hits.map(|_| ())
    }

    async fn hits(
        &mut self,
        client: &Client,
        keys: &[ForeignKey],
        batch: &Batch,
        record: &Record,
        acting: &Acting,
    ) -> Result<Vec<Hit>> {
        let table = &batch.tables[record.table].target.table;
        let doing = || format!("asking on which rows foreign keys to {} act", table.name);
        // By where they lie, with their places in `hits`; the record's own rows have none.
        let mut known: BTreeMap<(u32, String), Option<usize>> = BTreeMap::new();
        let mut hits: Vec<Hit> = Vec::new();
        let mut again: Vec<TableName> = Vec::new();
        // What acts further: that key, and the rows on which it has acted.
        let mut further: Vec<(usize, Action, Vec<u32>, Vec<String>)> = Vec::new();

        for (number, fk) in keys.iter().enumerate() {
            let action = fk.action(acting.acts);
            if fk.referenced != table.oid || action == Action::Nothing {
                continue;
            }
            let mut values = acting.values.clone();
            let changed = match acting.acts {
                Acts::Update => {
                    let data = batch
                        .data(record)
                        .filter(|field| fk.referenced_columns.contains(&table.columns[field.0].name));
                    let differs: Vec<String> = data
                        .map(|(column, cell)| {
                            values.push(cell);
                            format!("{} IS DISTINCT FROM ${}", table.columns[column].sql(), values.len())
                        })
                        .collect();
                    if differs.is_empty() {
                        continue;
                    }
                    format!(" AND ({})", differs.join(" OR "))
                }
                Acts::Delete | Acts::Replace => String::new(),
            };
            let select = format!(
                "SELECT {}, r.tableoid, r.ctid::text FROM (SELECT tableoid, ctid, {} FROM {} WHERE {}{changed}) AS r \
                 JOIN {} AS t ON {}",
                fk.image(),
                fk.referenced_columns(),
                table.sql(),
                acting.condition,
                fk.from,
                fk.equal.join(" AND ")
            );
            let statement = self.prepared(client, &select).await?;
            let values = values.iter().map(|&cell| TextParam(batch.value(cell)));
            let rows = client.query_raw(&statement, values).await.context(doing)?;
            let rows = futures_util::TryStreamExt::try_collect::<Vec<_>>(rows).await.context(doing)?;
            let (mut oids, mut places) = (Vec::new(), Vec::new());
            for row in rows {
                let (oid, place): (u32, String) = (row.get(0), row.get(1));
                let own: (u32, String) = (row.get(3), row.get(4));
                let mut hit = fk.hit(action, row.get(2));
                let is_own = own == (oid, place.clone());
                if acting.acts == Acts::Delete {
                    // It goes by itself.
                    known.entry(own).or_insert(None);
                    if is_own {
                        continue;
                    }
                } else if is_own {
                    // It has the record's values by then.
                    for (column, cell) in batch.data(record) {
                        let name = table.columns[column].name.clone();
                        hit.row.insert(name, batch.value(cell).map(str::to_owned));
                    }
                }
                note(&mut known, &mut hits, &mut again, (oid, place.clone()), hit);
                oids.push(oid);
                places.push(place);
            }
            if !oids.is_empty() {
                further.push((number, action, oids, places));
            }
        }

        while let Some((number, action, oids, places)) = further.pop() {
            let before = &keys[number];
            for (number, fk) in keys.iter().enumerate() {
                let is_touched = action == Action::Delete
                    || fk.referenced_columns.iter().any(|name| before.columns.contains(name));
                let next = if action == Action::Delete { fk.on_delete } else { fk.on_update };
                if fk.referenced != before.referring || next == Action::Nothing || !is_touched {
                    continue;
                }
                let select = format!(
                    "SELECT {} FROM (SELECT {} FROM {} WHERE ctid = ANY ($2::text[]::tid[]) AND (tableoid, ctid) IN \
                     (SELECT o, p FROM unnest($1::oid[], $2::text[]::tid[]) AS u (o, p))) AS r JOIN {} AS t ON {}",
                    fk.image(),
                    fk.referenced_columns(),
                    before.from,
                    fk.from,
                    fk.equal.join(" AND ")
                );
                let statement = self.prepared(client, &select).await?;
                let rows = client.query(&statement, &[&oids, &places]).await.context(doing)?;
                let (mut oids, mut places) = (Vec::new(), Vec::new());
                for row in rows {
                    let (oid, place): (u32, String) = (row.get(0), row.get(1));
                    let hit = fk.hit(next, row.get(2));
                    if note(&mut known, &mut hits, &mut again, (oid, place.clone()), hit) {
                        oids.push(oid);
                        places.push(place);
                    }
                }
                if !oids.is_empty() {
                    further.push((number, next, oids, places));
                }
            }
        }

        if let Some(watched) = &mut self.watched {
            for hit in &hits {
                let changed = match hit.action {
                    Action::Delete => Changed::deleted(1),
                    Action::Set | Action::Nothing => Changed::updated(1),
                };
                watched.hit(&hit.table, changed);
            }
            again.iter().for_each(|table| watched.hit(table, Changed::updated(1)));
        }
        Ok(hits)
    }
}

/// Whether this is news of that row, from which it goes further: the first key that acts on it, or one that takes what
/// others would have altered.
fn note(
    known: &mut BTreeMap<(u32, String), Option<usize>>,
    hits: &mut Vec<Hit>,
    again: &mut Vec<TableName>,
    place: (u32, String),
    hit: Hit,
) -> bool {
    let Some(earlier) = known.get(&place) else {
        known.insert(place, Some(hits.len()));
        hits.push(hit);
        return true;
    };
    let Some(earlier) = earlier.and_then(|at| hits.get_mut(at)) else { return false };
    let is_taken = hit.action == Action::Delete && earlier.action != Action::Delete;
    let is_set_again = earlier.action == Action::Set && hit.action == Action::Set;
    // Else how often it changes depends on the names of triggers: what is certain is counted, and more is not believed.
    if is_set_again && hit.columns.iter().all(|column| !earlier.columns.contains(column)) {
        again.push(hit.table);
    }
    if is_taken {
        earlier.action = Action::Delete;
    } else {
        earlier.columns.extend(hit.columns);
    }
    is_taken
}

/// The server's own word, where the row would have to go and to come again.
async fn refuse_to_replace(client: &Client, batch: &Batch, table: &Table, acting: &Acting) -> Result<()> {
    let doing = || format!("writing into {}", table.name);
    let select = format!("SELECT FROM {} WHERE {}", table.sql(), acting.condition);
    let statement = client.prepare(&select).await.context(doing)?;
    let values = acting.values.iter().map(|&cell| TextParam(batch.value(cell)));
    if client.execute_raw(&statement, values).await.context(doing)? > 0 {
        client.batch_execute(&no_update(table)).await.context(doing)?;
    }
    Ok(())
}

/// Updates no row, and is refused for the column that nobody may update.
fn no_update(table: &Table) -> String {
    let fixed: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.identity_always)
        .map(|column| format!("{0} = {0}", column.sql()))
        .collect();
    format!("UPDATE {} SET {} WHERE false", table.sql(), fixed.join(", "))
}

/// Whether the row has another key afterwards.
fn moves(batch: &Batch, record: &Record) -> bool {
    let of = &batch.tables[record.table];
    let is_full = of.replica_identity() == ReplicaIdentity::Full;
    let is_other = |(column, old)| {
        let new = batch.data(record).find(|field| field.0 == column);
        new.is_some_and(|(_, new)| batch.value(old) != batch.value(new))
    };
    let mut old = batch.old_keys(record);
    old.any(|field| (!is_full || of.target.key.columns.contains(&field.0)) && is_other(field))
}

/// Whether a value that is here is the one that was sent.
fn same(column: &Column, here: Option<&str>, sent: Option<&str>) -> bool {
    let (Some(here), Some(sent)) = (here, sent) else { return here.is_none() == sent.is_none() };
    let digits = |text: &str| -> String {
        let text = text.strip_prefix('-').unwrap_or(text);
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        }
    };
    here == sent
        || match column.text_equality {
            TextEquality::Exact => column.base_type.ends_with("bool") && here.get(..1) == sent.get(..1),
            TextEquality::Numeric => digits(here) == digits(sent),
            TextEquality::Padded => here.trim_end_matches(' ') == sent.trim_end_matches(' '),
            TextEquality::Unknown => false,
        }
}
