//! What is made in production: the same that `scripts/triggers.sql` makes, which a DBA can read and run.

use postgres_protocol::escape::escape_literal;
use syncdata_formats::Result;
use syncdata_formats::name::SlotName;
use tokio_postgres::GenericClient;

use crate::source::ask::many;

const CREATION: &str = include_str!("../../../../scripts/triggers.sql");
const REMOVAL: &str = include_str!("../../../../scripts/triggers-remove.sql");

/// What makes the schema, without any table. Run again, it leaves the same behind.
pub(crate) fn creation(owner: &str, slot: &SlotName) -> String {
    filled(section(CREATION, "objects"), owner, slot, "")
}

/// What makes the triggers of these tables: statements that are a transaction each, or why there can be none.
pub(crate) async fn for_tables(
    client: &(impl GenericClient + Sync),
    owner: &str,
    slot: &SlotName,
    oids: &[u32],
) -> Result<Vec<Result<String, String>>> {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = filled(section(CREATION, "tables"), owner, slot, &oids.join(","));
    let rows = many(client, "asking what triggers the tables need", &sql, &[]).await?;
    let each = |row: &tokio_postgres::Row| {
        let refusal = row.get::<_, Option<String>>(1).unwrap_or_default();
        row.get::<_, Option<String>>(2).ok_or(refusal)
    };
    Ok(rows.iter().map(each).collect())
}

/// What takes all of it away: a transaction each, the schema last.
pub(crate) async fn removal(client: &(impl GenericClient + Sync)) -> Result<Vec<String>> {
    let rows = many(client, "asking which triggers are ours", section(REMOVAL, "tables"), &[]).await?;
    let objects = section(REMOVAL, "objects").to_owned();
    Ok(rows.iter().map(|row| row.get(1)).chain([objects]).collect())
}

fn section<'a>(script: &'a str, name: &str) -> &'a str {
    let (_, after) = script.split_once(&format!("-- {name}\n")).expect("a section of our script");
    let (section, _) = after.split_once(&format!("-- end of {name}\n")).expect("its end");
    section
}

/// With what psql's variables stand for.
fn filled(section: &str, owner: &str, slot: &SlotName, tables: &str) -> String {
    section
        .replace(":'owner'", &escape_literal(owner))
        .replace(":'slot'", &escape_literal(slot.as_str()))
        .replace(":'tables'", &escape_literal(tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_psql_is_left_in_what_we_run() {
        let slot = "syncdata_slot".parse().expect("a name");
        let tables = filled(section(CREATION, "tables"), "it's", &slot, "16404");
        for text in [
            creation("it's", &slot),
            tables,
            section(REMOVAL, "tables").into(),
            section(REMOVAL, "objects").into(),
        ] {
            let left = ["\\gexec", "\\set", ":'", ":\""].into_iter().find(|left| text.contains(left));
            assert_eq!(left, None, "{text}");
        }
        assert!(creation("it's", &slot).contains("SET syncdata.owner = 'it''s';"));
    }
}
