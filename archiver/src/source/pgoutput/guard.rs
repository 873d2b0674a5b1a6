//! The event trigger that keeps production's statements from failing for our publication: a table that loses its identity
//! leaves the publication in the same transaction.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::Result;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::source::ask::many;

/// What may take an identity away, with all that goes by CASCADE. Not the statements about publications: it makes such.
const TAGS: [&str; 10] = [
    "ALTER TABLE",
    "CREATE TABLE",
    "DROP INDEX",
    "DROP TABLE",
    "DROP TYPE",
    "DROP DOMAIN",
    "DROP FUNCTION",
    "DROP SCHEMA",
    "DROP EXTENSION",
    "DROP OWNED",
];

/// Tables of the publication, or with a partition, of which an UPDATE would fail now.
const ENDANGERED: &str = "SELECT m.prrelid FROM pg_publication p JOIN pg_publication_rel m ON m.prpubid = p.oid \
    WHERE p.pubname = PUBLICATION AND EXISTS (SELECT FROM pg_class c \
    WHERE c.oid IN (SELECT relid FROM pg_partition_tree(m.prrelid) UNION SELECT m.prrelid) AND c.relkind = 'r' \
    AND CASE c.relreplident WHEN 'f' THEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid \
    AND a.attgenerated = 'v' AND NOT a.attisdropped) WHEN 'n' THEN true WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_index x \
    WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid AND x.indimmediate) ELSE NOT EXISTS (SELECT FROM pg_index x \
    WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid) END)";

/// What a superuser has to run, one statement a line. Whatever goes wrong in it is a warning: no statement of production
/// fails because of it.
pub(crate) fn creation(publication: &str) -> [String; 2] {
    let (name, publication_text) = (name(publication), escape_literal(publication));
    let endangered = ENDANGERED.replace("PUBLICATION", &publication_text);
    let tags: Vec<String> = TAGS.iter().map(|tag| escape_literal(tag)).collect();
    let body = format!(
        "DECLARE t oid; BEGIN FOR t IN {endangered} LOOP EXECUTE format('ALTER PUBLICATION %I DROP TABLE ONLY %s', \
         {publication_text}, t::regclass); END LOOP; EXCEPTION WHEN OTHERS THEN RAISE WARNING \
         'syncdata: the publication was left as it is: %', SQLERRM; END"
    );
    [
        format!(
            "CREATE OR REPLACE FUNCTION public.{name}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS {};",
            escape_literal(&body).trim_start()
        ),
        format!(
            "CREATE EVENT TRIGGER {name} ON ddl_command_end WHEN TAG IN ({}) EXECUTE FUNCTION public.{name}();",
            tags.join(", ")
        ),
    ]
}

/// What takes it away again.
pub(crate) fn removal(publication: &str) -> [String; 2] {
    let name = name(publication);
    [format!("DROP EVENT TRIGGER IF EXISTS {name};"), format!("DROP FUNCTION IF EXISTS public.{name}();")]
}

pub(crate) async fn exists(client: &impl GenericClient, publication: &str) -> Result<bool> {
    let sql = "SELECT FROM pg_event_trigger WHERE evtname = $1 AND evtenabled <> 'D'";
    let name = plain_name(publication);
    Ok(!many(client, "looking for the event trigger", sql, &[(&name, Type::TEXT)]).await?.is_empty())
}

fn name(publication: &str) -> String {
    escape_identifier(&plain_name(publication))
}

fn plain_name(publication: &str) -> String {
    format!("{publication}_guard")
}
