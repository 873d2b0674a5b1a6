//! Names of tables and columns as DuckDB has them. Case does not tell them apart there.

use syncdata_formats::name::TableName;

/// Schemas that are DuckDB's or ours, or that would be another catalog's or schema's name.
const TAKEN_SCHEMAS: [&str; 6] = ["main", "temp", "system", "information_schema", "pg_catalog", "syncdata"];

/// A name as a quoted identifier. DuckDB knows no escapes in it but the doubled quote.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The schema in the file: production's `public` is DuckDB's `main`.
pub(super) fn schema(table: &TableName) -> &str {
    if table.schema() == "public" { "main" } else { table.schema() }
}

/// Whether DuckDB takes both for the same name: it folds the letters of ASCII.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Why no table of that schema can be in a file whose name has that stem, in words.
pub(super) fn refused(table: &TableName, stem: &str) -> Option<String> {
    let schema = table.schema();
    if schema.contains('\0') || table.name().contains('\0') {
        return Some(format!("no table can be named {table:?}"));
    }
    if schema != "public" && TAKEN_SCHEMAS.iter().any(|taken| is_same(schema, taken)) {
        let why = if is_same(schema, "main") { "holds the tables of public" } else { "is not for tables" };
        return Some(format!("{table} is in the schema {schema}, which {why} in a DuckDB file"));
    }
    is_same(self::schema(table), stem).then(|| {
        format!(
            "{table} is in the schema {schema}, and the file is named {stem} too: a reader's {schema}.{} may mean \
             either",
            table.name()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_that_mean_something_else_are_refused() {
        let table = |schema: &str| TableName::new(schema, "t").expect("a name");
        for (name, stem, is_refused) in [
            ("public", "copy", false),
            ("public", "public", false),
            ("public", "main", true),
            ("sales", "copy", false),
            ("sales", "Sales", true),
            ("main", "copy", true),
            ("Main", "copy", true),
            ("SyncData", "copy", true),
            ("temp", "copy", true),
        ] {
            assert_eq!(refused(&table(name), stem).is_some(), is_refused, "{name} in {stem}");
        }
        assert_eq!(schema(&table("public")), "main");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
