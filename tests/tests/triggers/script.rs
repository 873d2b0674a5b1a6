//! The two scripts, run with psql as a DBA would.

use std::path::Path;
use std::process::{Command, Output};

use syncdata_tests::PostgresServer;

pub(crate) const OWNER: &str = "syncdata_user";

/// A server that no slot could be read on, with these objects.
pub(crate) async fn server(schema: &str) -> PostgresServer {
    let options = syncdata_tests::PostgresOptions::default().setting("wal_level", "replica");
    let server = PostgresServer::start_with(options).await;
    server.execute(&format!("CREATE ROLE {OWNER} LOGIN; {schema}")).await;
    server
}

pub(crate) fn install(server: &PostgresServer, tables: &str) -> Output {
    let variables = [format!("owner={OWNER}"), format!("tables={tables}")];
    run(server, "triggers.sql", &variables)
}

pub(crate) fn remove(server: &PostgresServer) -> Output {
    run(server, "triggers-remove.sql", &[])
}

pub(crate) fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn run(server: &PostgresServer, script: &str, variables: &[String]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script);
    let mut psql = Command::new(server.installation().program("psql"));
    psql.args(["-X", "-q", "-h"]).arg(server.socket_folder()).args(["-p", &server.port().to_string()]);
    psql.args(["-U", server.user(), "-d", server.database(), "-f"]).arg(path);
    for variable in variables {
        psql.args(["-v", variable]);
    }
    psql.env("PGOPTIONS", "-c client_min_messages=warning").output().expect("psql is there")
}

/// What was noted since the last time: table, operation, key.
pub(crate) async fn noted(server: &PostgresServer) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', relid::regclass, op, key) FROM syncdata.changes ORDER BY change_id, op";
    let rows = server.query(sql).await;
    server.execute("DELETE FROM syncdata.changes_0; DELETE FROM syncdata.changes_1").await;
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}
