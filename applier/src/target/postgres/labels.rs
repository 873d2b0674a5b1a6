//! Labels of enums that the source calls otherwise than before. No change says so: rows there have the new name at once,
//! and rows here the old one, until somebody renames it here too.

use std::collections::BTreeMap;

use postgres_protocol::escape::escape_literal;
use syncdata_formats::error::Result;
use syncdata_formats::manifest::{Column, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

use crate::table::{Renamed, SourceColumns, renamed};
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::schema;
use crate::target::postgres::writers::{self, UNDER_REPLICA};

/// The labels of each column of an enum type.
pub(super) type Labels = BTreeMap<String, Vec<String>>;
/// Old names with the new ones, where these are known, of each such column.
type OldLabels = BTreeMap<String, BTreeMap<String, Option<String>>>;

/// A row has a label that the source calls otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldLabel {
    column: String,
    old: String,
    new: Option<String>,
    /// Of the column here, as a statement names it, where it is an enum.
    enum_type: Option<String>,
    /// Writes of others are refused here: under the replica role they are not.
    is_guarded: bool,
}

impl OldLabel {
    /// What happened, and what to do.
    pub(super) fn reason(&self, table: &TableName) -> String {
        let OldLabel { column, old, new, enum_type, is_guarded } = self;
        let column = identifier(column);
        let what =
            format!("label {old:?} in column {column} of {table} has another name at the source by now");
        let word = table.shell_word();
        match (new, enum_type) {
            (Some(new), Some(enum_type)) => format!(
                "{what}; run: ALTER TYPE {enum_type} RENAME VALUE {} TO {}  -- then: syncdata-applier retry {word}",
                literal(old),
                literal(new)
            ),
            (Some(new), None) => {
                let update = format!(
                    "UPDATE {} SET {column} = {} WHERE {column} = {}",
                    table.sql(),
                    literal(new),
                    literal(old)
                );
                let update = match is_guarded {
                    true => format!("BEGIN; {UNDER_REPLICA}; {update}; COMMIT"),
                    false => update,
                };
                format!("{what}; run: {update}  -- then: syncdata-applier retry {word}")
            }
            (None, _) => format!(
                "{what}; run: syncdata-applier resync {word}  # from a snapshot that is newer: syncdata-archiver snapshot, \
                 on the production host"
            ),
        }
    }
}

/// What the source's labels are now, and what its columns were called before. In the transaction of the rows.
pub(super) async fn note(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    relation: &Relation,
    names_before: &SourceColumns,
) -> Result<()> {
    let labels = of(relation);
    let noting = || format!("noting the labels of {table}");
    let select =
        format!("SELECT source_labels, old_labels FROM {meta}.data_sync_table_state WHERE table_name = $1");
    let Some(row) = client.query_opt(&select, &[&table.to_string()]).await.context(noting)? else {
        return Ok(());
    };
    let old: Option<OldLabels> =
        row.get::<_, Option<&str>>(1).and_then(|text| serde_json::from_str(text).ok());
    let known = parse(row.get(0));
    if known == labels {
        return Ok(());
    }
    let renames = renames(relation, names_before);
    let known = under_new_names(known, &renames);
    let mut old = under_new_names(old.unwrap_or_default(), &renames);
    let unknown = labels.iter().filter(|(column, _)| !known.contains_key(*column));
    old.extend(strange(client, table, unknown).await?);
    for (column, before) in &known {
        let Some(now) = labels.get(column) else { continue };
        for gone in before.iter().filter(|label| !now.contains(label)) {
            let is_new_name = |label: &&String| renamed(before, now, label) == Renamed::From(gone);
            let new = now.iter().find(is_new_name).cloned();
            old.entry(column.clone()).or_default().insert(gone.clone(), new);
        }
    }
    // A name that another label has again by now says nothing of the row that has it: nobody is told to rename it.
    for (column, names) in &mut old {
        let Some(now) = labels.get(column) else { continue };
        names.iter_mut().filter(|(name, _)| now.contains(name)).for_each(|(_, new)| *new = None);
    }
    // Here the column has its former name until somebody renames it.
    for (was, now) in renames.iter().filter(|(was, _)| !labels.contains_key(*was)) {
        if let Some(names) = old.get(now).cloned() {
            old.insert(was.clone(), names);
        }
    }
    write(client, meta, table, Some(&labels), &old).await
}

/// Columns that have other names by now, by their numbers.
fn renames(relation: &Relation, names_before: &SourceColumns) -> BTreeMap<String, String> {
    let renamed = |column: &Column| {
        let was = names_before.get(&column.attnum?).filter(|was| **was != column.name)?;
        Some((was.clone(), column.name.clone()))
    };
    relation.columns.iter().filter_map(renamed).collect()
}

fn under_new_names<T>(noted: BTreeMap<String, T>, renames: &BTreeMap<String, String>) -> BTreeMap<String, T> {
    let now = |name: String| renames.get(&name).cloned().unwrap_or(name);
    noted.into_iter().map(|(column, about)| (now(column), about)).collect()
}

/// Texts in columns of which nobody has said the labels so far, and that are none of theirs: rows that somebody vouched for
/// may be older than a new name. A column that is an enum here has labels of its own.
async fn strange(
    client: &impl GenericClient,
    table: &TableName,
    labels: impl Iterator<Item = (&String, &Vec<String>)>,
) -> Result<OldLabels> {
    const NAMED_MAX: u32 = 10;
    let labels: Vec<(&String, &Vec<String>)> = labels.collect();
    let mut strange = OldLabels::new();
    if labels.is_empty() {
        return Ok(strange);
    }
    let loaded = schema::load(client, std::slice::from_ref(table)).await?;
    let Some(local) = loaded.get(table) else { return Ok(strange) };
    for (column, labels) in labels {
        let Some(place) = local.column(column) else { continue };
        let name = local.columns[place].sql();
        let text = format!("pg_catalog.format({}, {name})", escape_literal("%s"));
        let select = format!(
            "SELECT DISTINCT {text} FROM {} WHERE {name} IS NOT NULL AND {text} <> ALL ($1) AND NOT EXISTS ( \
                SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                WHERE a.attrelid = $2 AND a.attname = $3 AND t.typtype = 'e') LIMIT {NAMED_MAX}",
            local.sql()
        );
        let rows = client.query(&select, &[labels, &local.oid, column]).await;
        let rows = rows.context(|| format!("looking for texts that are no label in {table}"))?;
        if !rows.is_empty() {
            strange.insert(column.clone(), rows.iter().map(|row| (row.get(0), None)).collect());
        }
    }
    Ok(strange)
}

/// What was noted. What cannot be read is as good as nothing known.
pub(super) fn parse(text: Option<&str>) -> Labels {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The table was made anew: nothing of before counts.
pub(crate) async fn begin(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    relation: &Relation,
) -> Result<()> {
    write(client, meta, table, Some(&of(relation)), &OldLabels::new()).await
}

/// Somebody says that the rows which are here are the source's: what labels are called here is what they are called there.
pub(super) async fn vouch(client: &impl GenericClient, meta: &MetaSchema, table: &TableName) -> Result<()> {
    let loaded = schema::load(client, std::slice::from_ref(table)).await?;
    let Some(found) = loaded.get(table) else { return Ok(()) };
    let select = "SELECT a.attname::text, ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e \
        WHERE e.enumtypid = a.atttypid ORDER BY e.enumsortorder) \
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'e' \
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = client.query(select, &[&found.oid]).await;
    let rows = rows.context(|| format!("reading the labels of {table}"))?;
    let labels: Labels = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    write(client, meta, table, Some(&labels), &OldLabels::new()).await
}

/// The first row of each table that has an old label; what no row has any more is forgotten.
pub(super) async fn look(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[&TableName],
) -> Result<BTreeMap<TableName, OldLabel>> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let select = format!(
        "SELECT table_name, old_labels, source_labels FROM {meta}.data_sync_table_state \
         WHERE table_name = ANY ($1) AND old_labels IS NOT NULL"
    );
    let rows = client.query(&select, &[&names]).await;
    let mut found = BTreeMap::new();
    for row in rows.context(|| "reading which labels have other names".to_owned())? {
        let name: TableName = row.get::<_, &str>(0).parse()?;
        let old: OldLabels = serde_json::from_str(row.get(1)).unwrap_or_default();
        match first(client, meta, &name, &old, &parse(row.get(2))).await? {
            Old::Found(label) => drop(found.insert(name, label)),
            Old::Nowhere(left) => write(client, meta, &name, None, &left).await?,
        }
    }
    Ok(found)
}

/// What became of old labels.
enum Old {
    Found(OldLabel),
    /// No row has one; but these have not been looked for, because their column is not here under that name.
    Nowhere(OldLabels),
}

async fn first(
    client: &impl GenericClient,
    meta: &MetaSchema,
    name: &TableName,
    old: &OldLabels,
    labels: &Labels,
) -> Result<Old> {
    let loaded = schema::load(client, std::slice::from_ref(name)).await?;
    let Some(table) = loaded.get(name) else { return Ok(Old::Nowhere(old.clone())) };
    let mut left = old.clone();
    for (column, names) in old {
        let Some(place) = table.column(column) else { continue };
        left.remove(column);
        // Under the name that it has at the source and under its former one it is one column.
        let is_of_source = |column: &String| labels.contains_key(column);
        left.retain(|other, same| same != names || is_of_source(other) == is_of_source(column));
        let local = &table.columns[place];
        for (label, new) in names {
            let select = format!(
                "SELECT EXISTS (SELECT FROM {} WHERE pg_catalog.format({}, {}) = $1), \
                 EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                         WHERE a.attrelid = $2 AND a.attname = $3 AND t.typtype = 'e')",
                table.sql(),
                escape_literal("%s"),
                local.sql()
            );
            let row = client.query_one(&select, &[label, &table.oid, column]).await;
            let row = row.context(|| format!("looking for old labels in {name}"))?;
            if row.get(0) {
                let enum_type = row.get::<_, bool>(1).then(|| local.type_name.clone());
                let (column, old) = (column.clone(), label.clone());
                let is_guarded = writers::triggers_stand(client, meta).await?;
                return Ok(Old::Found(OldLabel { column, old, new: new.clone(), enum_type, is_guarded }));
            }
        }
    }
    Ok(Old::Nowhere(left))
}

fn of(relation: &Relation) -> Labels {
    let labels = relation
        .columns
        .iter()
        .filter_map(|column| Some((column.name.clone(), relation.types.get(&column.type_name)?.clone())));
    labels.collect()
}

/// `labels`: `None` leaves them as they are.
async fn write(
    client: &impl GenericClient,
    meta: &MetaSchema,
    table: &TableName,
    labels: Option<&Labels>,
    old: &OldLabels,
) -> Result<()> {
    let update = format!(
        "UPDATE {meta}.data_sync_table_state SET source_labels = coalesce($2, source_labels), old_labels = $3 \
         WHERE table_name = $1"
    );
    // Labels may have characters that the database has not.
    let json = |text: String| crate::target::postgres::kept::ascii(&text);
    let labels = labels.map(|labels| json(serde_json::to_string(labels).expect("names are its keys")));
    let old = (!old.is_empty()).then(|| json(serde_json::to_string(old).expect("names are its keys")));
    client
        .execute(&update, &[&table.to_string(), &labels, &old])
        .await
        .context(|| format!("noting the labels of {table}"))?;
    Ok(())
}
