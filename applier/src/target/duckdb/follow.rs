//! A table that the source describes otherwise than before: it is written anew with the columns that it has now, in the
//! transaction of the rows that come after that, where each of its values keeps its text. DuckDB's own ALTER would do for
//! one change at most: several in a transaction that writes rows too cannot be committed.

use std::collections::BTreeMap;

use syncdata_formats::error::Result;
use syncdata_formats::manifest::{Column, Generated, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::types::keeps_text;

use super::cursor::{self, Known, json};
use super::database::Database;
use super::error::DuckdbContext as _;
use super::names::{self, quoted};
use super::tables;
use super::types::Mapping;
use crate::table::Difference;

/// Brings the table from how it was described to how it is. `Err`: what has become of it does not follow by itself.
pub(super) fn follow(
    database: &Database,
    table: &TableName,
    known: &Known,
    before: &Relation,
    now: &Relation,
) -> Result<Result<(), Difference>> {
    let here = tables::kept(database, table)?;
    let plan = match Plan::of(before, now, &here, |name| tables::is_text(database, table, name)) {
        Ok(plan) => plan,
        Err(what) => return Ok(Err(unlike(table, what))),
    };
    for added in &plan.added {
        if !is_kept(database, table, added)? {
            let what = format!(
                "column {} is new at the source and {} there, and what older rows have in it is not what {} holds",
                quoted(&added.name),
                added.type_name,
                added.mapping.sql()
            );
            return Ok(Err(unlike(table, what)));
        }
    }
    if plan.changes {
        let sql = tables::sql(database, table);
        let anew = format!("CREATE OR REPLACE TABLE {sql} AS SELECT {} FROM {sql}", plan.values.join(", "));
        database
            .connection
            .execute_batch(&anew)
            .context(|| format!("giving {table} the columns that it has at the source"))?;
        tracing::info!(%table, "table made anew with the columns that it has at the source");
    }

    let now_has = |gone: &Column| now.columns.iter().any(|column| column.name == gone.name);
    let gone = known.gone.iter().chain(&plan.gone).filter(|gone| !now_has(gone));
    let gone: BTreeMap<&str, &Column> = gone.map(|gone| (gone.name.as_str(), gone)).collect();
    let gone: Vec<&Column> = gone.into_values().collect();
    let key = known.state.source_key.as_ref().map(|key| renamed(key, &plan.renamed));
    let (relation, gone, key) = (json(now), json(&gone), key.map(|key| json(&key)));
    cursor::note(
        database,
        table,
        "relation = ?, gone = ?, source_key = coalesce(?, source_key)",
        &[&relation, &gone, &key],
    )?;
    Ok(Ok(()))
}

/// Whether both have the same columns.
pub fn is_same_shape(one: &Relation, other: &Relation) -> bool {
    let alike = |one: &Column, other: &Column| {
        (&one.name, &one.type_name, one.attnum) == (&other.name, &other.type_name, other.attnum)
            && is_virtual(one) == is_virtual(other)
    };
    one.columns.len() == other.columns.len()
        && one.columns.iter().zip(&other.columns).all(|(one, other)| alike(one, other))
}

fn renamed(key: &[String], renamed: &BTreeMap<String, String>) -> Vec<String> {
    key.iter().map(|name| renamed.get(name).unwrap_or(name).clone()).collect()
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Of each column that the table has then, in their order.
    values: Vec<String>,
    /// It is not just as it was.
    changes: bool,
    added: Vec<Added>,
    gone: Vec<Column>,
    renamed: BTreeMap<String, String>,
}

/// A column, and what rows that are older have in it.
#[derive(Debug, PartialEq, Eq)]
struct Added {
    name: String,
    type_name: String,
    mapping: Mapping,
    missing: Option<String>,
}

impl Added {
    fn value(&self) -> String {
        let value = self.missing.as_deref().map_or_else(
            || "NULL".to_owned(),
            |text| self.mapping.read(&format!("CAST({} AS VARCHAR)", plain(text))),
        );
        format!("CAST({value} AS {})", self.mapping.sql())
    }
}

/// DuckDB knows no escapes in it but the doubled quote.
fn plain(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn is_virtual(column: &Column) -> bool {
    column.generated == Some(Generated::Virtual)
}

impl Plan {
    /// `here` are the columns of the table in the file, with their types. `Err` says what cannot follow.
    fn of(
        relation: &Relation,
        now: &Relation,
        here: &[(String, String)],
        is_text: impl Fn(&str) -> bool,
    ) -> Result<Plan, String> {
        let before = &relation.columns;
        let columns = now.columns.iter().filter(|column| !is_virtual(column));
        let is_numbered = before.iter().chain(&now.columns).all(|column| column.attnum.is_some());
        let is_old = |old: &&Column, column: &Column| match is_numbered {
            true => old.attnum == column.attnum,
            false => old.name == column.name,
        };
        let mut plan = Plan::default();
        let mut taken = Vec::new();
        for column in columns {
            let name = quoted(&column.name);
            let Some(old) = before.iter().find(|old| is_old(old, column)) else {
                if !is_numbered && before.iter().any(|old| !is_virtual(old) && !has(&now.columns, &old.name))
                {
                    return Err(format!(
                        "column {name} has come and another one gone, and the archive does not say whether it is a new name"
                    ));
                }
                let mapping =
                    if is_text(&column.name) { Mapping::Text } else { Mapping::of(&column.type_name) };
                let added = Added {
                    name: column.name.clone(),
                    type_name: column.type_name.clone(),
                    mapping,
                    missing: column.missing.clone(),
                };
                plan.values.push(format!("{} AS {name}", added.value()));
                plan.changes = true;
                plan.added.push(added);
                continue;
            };
            if is_virtual(old) {
                return Err(format!("column {name} was computed at the source, and is no more"));
            }
            let Some((_, kept_as)) = here.iter().find(|(here, _)| *here == old.name) else {
                return Err(format!("column {} is not in the file any more", quoted(&old.name)));
            };
            taken.push(&old.name);
            let value = converted(old, column, kept_as, is_text(&column.name))?;
            let value = relabelled(value, (labels(relation, old), labels(now, column)), column)?;
            plan.changes |= value != quoted(&old.name) || old.name != column.name;
            if old.name != column.name {
                plan.renamed.insert(old.name.clone(), column.name.clone());
            }
            plan.values.push(format!("{value} AS {name}"));
        }
        let kept = before.iter().filter(|old| !is_virtual(old));
        plan.gone = kept.filter(|old| !taken.contains(&&old.name)).cloned().collect();
        plan.changes |= !plan.gone.is_empty();
        // What somebody else has added stays.
        for (name, _) in here.iter().filter(|(name, _)| !has(before, name)) {
            if now.columns.iter().any(|column| names::is_same(&column.name, name)) {
                return Err(format!("column {} is in the file already, and none of ours", quoted(name)));
            }
            plan.values.push(quoted(name));
        }
        Ok(plan)
    }
}

fn has(columns: &[Column], name: &str) -> bool {
    columns.iter().any(|column| column.name == name)
}

/// The values of a column as its type is now, as an expression.
fn converted(old: &Column, now: &Column, kept_as: &str, is_text: bool) -> Result<String, String> {
    let (from, natural) = (Mapping::of(&old.type_name), Mapping::of(&now.type_name));
    let value = quoted(&old.name);
    if old.type_name == now.type_name && !is_text {
        return Ok(value);
    }
    let from = match kept_as {
        "VARCHAR" => Mapping::Text,
        kept_as if kept_as == from.sql() => from,
        _ => return Err(format!("column {value} is {kept_as} in the file, which we have not made it")),
    };
    let is_text = is_text || from == Mapping::Text && Mapping::of(&old.type_name) != Mapping::Text;
    let to = if is_text { Mapping::Text } else { natural };
    // Where the source had to write other texts, the archive says that changes of the table are lost.
    let is_exact = keeps_text(&old.type_name, &now.type_name) || (from, to) == (Mapping::Text, Mapping::Text);
    let printed = from.print(&value);
    match (is_exact, to, printed) {
        (true, to, _) if to == from => Ok(value),
        (true, Mapping::Text, Some(printed)) => Ok(printed),
        (true, to, Some(_)) if from != Mapping::Text => Ok(format!("CAST({value} AS {})", to.sql())),
        _ => Err(format!(
            "column {value} was {} at the source and is {} now, which its values here do not become as they are",
            old.type_name, now.type_name
        )),
    }
}

/// The labels of an enum, or of its arrays' elements.
fn labels<'a>(relation: &'a Relation, column: &Column) -> Option<&'a [String]> {
    let name = column.type_name.trim_end_matches("[]");
    relation.types.get(name).map(Vec::as_slice)
}

/// Labels keep their places, and none goes: as many as there were are the same ones, by whatever names.
fn relabelled(
    value: String,
    (before, now): (Option<&[String]>, Option<&[String]>),
    column: &Column,
) -> Result<String, String> {
    let (Some(before), Some(now)) = (before, now) else { return Ok(value) };
    if before.iter().all(|label| now.contains(label)) {
        return Ok(value);
    }
    if before.len() != now.len() || column.type_name.ends_with("[]") {
        return Err(format!(
            "labels of {}, in column {}, have other names now",
            column.type_name,
            quoted(&column.name)
        ));
    }
    let pairs = before.iter().zip(now).filter(|(before, now)| before != now);
    let cases: String = pairs.map(|(old, new)| format!(" WHEN {} THEN {}", plain(old), plain(new))).collect();
    Ok(format!("CASE {value}{cases} ELSE {value} END"))
}

fn is_kept(database: &Database, table: &TableName, added: &Added) -> Result<bool> {
    let Some(text) = added.missing.as_deref() else { return Ok(true) };
    if text.contains('\0') {
        return Ok(false);
    }
    let Some(kept) = added.mapping.kept(&format!("CAST({} AS VARCHAR)", plain(text))) else {
        return Ok(true);
    };
    let looked = database.connection.query_row(&format!("SELECT {kept}"), [], |row| row.get(0));
    looked.context(|| format!("looking at a new column of {table}"))
}

/// The table, as it is described now, is another one than is here.
fn unlike(table: &TableName, what: String) -> Difference {
    Difference { what: format!("{table}: {what}"), remedy: tables::resync(table), in_doubt: false }
}

#[cfg(test)]
mod tests {
    use syncdata_formats::manifest::ReplicaIdentity;

    use super::*;

    fn column(number: u16, name: &str, type_name: &str) -> Column {
        Column { name: name.into(), type_name: type_name.into(), attnum: Some(number), ..Column::default() }
    }

    fn plan(before: &[Column], now: Vec<Column>) -> Result<Plan, String> {
        let here: Vec<(String, String)> =
            before.iter().map(|old| (old.name.clone(), Mapping::of(&old.type_name).sql())).collect();
        let relation = |columns| Relation::new(columns, Vec::new(), ReplicaIdentity::Default);
        Plan::of(&relation(before.to_vec()), &relation(now), &here, |name| name == "as_text")
    }

    #[test]
    fn columns_are_told_by_their_numbers() {
        let before = [column(1, "a", "integer"), column(2, "b", "text"), column(3, "c", "date")];
        let missing = Some("7".to_owned());
        let now = vec![
            column(1, "b", "bigint"),
            column(2, "a", "text"),
            Column { missing, ..column(4, "d", "integer") },
            column(5, "as_text", "date"),
        ];
        let plan = plan(&before, now).expect("it follows");
        assert_eq!(
            plan.values,
            [
                r#"CAST("a" AS BIGINT) AS "b""#,
                r#""b" AS "a""#,
                r#"CAST(TRY_CAST(CAST('7' AS VARCHAR) AS INTEGER) AS INTEGER) AS "d""#,
                r#"CAST(NULL AS VARCHAR) AS "as_text""#,
            ]
        );
        assert_eq!(plan.gone, [column(3, "c", "date")]);
    }

    #[test]
    fn types_follow_where_every_text_stays() {
        for (old, new, value) in [
            ("character varying(10)", "character varying(20)", Some(r#""v""#)),
            ("character varying(10)", "text", Some(r#""v""#)),
            ("public.mood", "public.feeling", Some(r#""v""#)),
            ("integer", "bigint", Some(r#"CAST("v" AS BIGINT)"#)),
            ("integer", "numeric", Some(r#"CAST("v" AS VARCHAR)"#)),
            ("integer", "numeric(12,0)", Some(r#"CAST("v" AS DECIMAL(12,0))"#)),
            ("numeric(10,2)", "numeric(12,2)", Some(r#"CAST("v" AS DECIMAL(12,2))"#)),
            ("numeric(10,2)", "numeric", Some(r#"CAST("v" AS VARCHAR)"#)),
            ("timestamp(0) without time zone", "timestamp without time zone", Some(r#""v""#)),
            ("integer", "numeric(12,2)", None),
            ("bigint", "integer", None),
            ("text", "integer", None),
            ("numeric(10,2)", "numeric(12,4)", None),
            ("real", "double precision", None),
            ("real", "text", None),
        ] {
            let plan = plan(&[column(1, "v", old)], vec![column(1, "v", new)]);
            let value = value.map(|value| vec![format!(r#"{value} AS "v""#)]);
            assert_eq!(plan.map(|plan| plan.values).ok(), value, "{old} to {new}");
        }
    }

    #[test]
    fn labels_that_have_other_names_are_followed_by_their_places() {
        let labels = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let of = |before: &str, now: &str, type_name: &str| {
            let (before, now) = (labels(before), labels(now));
            relabelled("v".to_owned(), (Some(&before), Some(&now)), &column(1, "v", type_name)).ok()
        };
        assert_eq!(of("a b", "a b c", "mood").as_deref(), Some("v"));
        assert_eq!(
            of("a b it's", "b a it's", "mood").as_deref(),
            Some("v"),
            "the same names in other places are none of ours to judge"
        );
        assert_eq!(of("a it's", "b it's", "mood").as_deref(), Some("CASE v WHEN 'a' THEN 'b' ELSE v END"));
        assert_eq!(of("a b", "c b d", "mood"), None);
        assert_eq!(of("a b", "c b", "mood[]"), None);
    }

    #[test]
    fn what_nothing_tells_is_not_guessed() {
        let unnumbered = |name: &str| Column { attnum: None, ..column(0, name, "text") };
        let renamed = plan(&[unnumbered("a")], vec![unnumbered("b")]).expect_err("it may be a new name");
        assert!(renamed.contains("whether it is a new name"), "{renamed}");
        assert!(plan(&[unnumbered("a")], vec![unnumbered("a"), unnumbered("b")]).expect("added").changes);
        assert!(!plan(&[column(1, "a", "text")], vec![column(1, "a", "text")]).expect("the same").changes);
    }
}
