//! Production with a backlog.

use syncdata_tests::postgres::{PostgresOptions, PostgresServer};

/// A server with a backlog behind the slot `base`.
pub(crate) async fn loaded_source(sql: &str, rows: u64) -> PostgresServer {
    let source = new_source(sql).await;
    load(&source, rows).await;
    source
}

/// A server with the tables as they are before the changes, and slots that will see them.
pub(crate) async fn new_source(sql: &str) -> PostgresServer {
    let source = server("app").await;
    source.execute(sql).await;
    source.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    // As `setup` makes that of the slot `ours`.
    let generated =
        if source.installation().major() >= 18 { " WITH (publish_generated_columns = stored)" } else { "" };
    let tables = "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    let tables = source.value(tables).await;
    source.execute(&format!("CREATE PUBLICATION ours_pub FOR TABLE {tables}{generated}")).await;
    source.execute("SELECT pg_create_logical_replication_slot('base', 'wal2json')").await;
    source.execute("SELECT pg_create_logical_replication_slot('base_native', 'pgoutput')").await;
    source
}

pub(crate) async fn load(source: &PostgresServer, rows: u64) {
    source.execute(&format!("CALL load({rows})")).await;
    source.execute("INSERT INTO done VALUES (1)").await;
    source.execute("CHECKPOINT").await;
}

/// Both sides alike.
pub(crate) async fn server(database: &str) -> PostgresServer {
    let options = PostgresOptions::default()
        .durable()
        .database(database)
        .setting("shared_buffers", "1GB")
        .setting("max_wal_size", "32GB")
        .setting("checkpoint_timeout", "1h")
        .setting("autovacuum", "off")
        .setting("max_replication_slots", "40")
        // Else a subscription that starts soon after another waits for seconds.
        .setting("wal_retrieve_retry_interval", "10ms")
        .setting("synchronous_commit", "off")
        .setting("jit", "off");
    PostgresServer::start_with(options).await
}

pub(crate) async fn copy_slot(source: &PostgresServer, base: &str, name: &str) {
    source.execute(&format!("SELECT pg_copy_logical_replication_slot('{base}', '{name}')")).await;
}
