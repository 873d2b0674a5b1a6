//! Dumps that are restored into another database than the one they are of: the whole goes on, and what did not come back,
//! or came from another day, is noticed.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

const TABLES: [&str; 4] = ["big", "loose", "parts", "queue"];

fn line(table: &str, op: &str, id: u32) -> String {
    let values = if op == "DELETE" { "old_keys" } else { "data" };
    format!(r#"{{"table":"{table}","op":"{op}","{values}":{{"id":{id}}}}}"#)
}

/// Tables with and without keys, of partitions, and one of which nothing is left; our own tables are in a schema of theirs.
async fn synced() -> LocalCopy {
    let mut copy = LocalCopy::start(
        "CREATE SCHEMA ours; CREATE TABLE big (id int PRIMARY KEY); CREATE TABLE loose (id int);
         CREATE TABLE queue (id int PRIMARY KEY);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);
         CREATE TABLE later PARTITION OF parts FOR VALUES FROM (20) TO (30)",
    )
    .await;
    copy.set("SYNCDATA_META_SCHEMA", "ours");
    for table in TABLES {
        if table == "loose" {
            copy.forge.relation_with(table, &["id integer"], &[], ReplicaIdentity::Full);
        } else {
            copy.forge.relation(table, &["id integer not null"], &["id"]);
        }
    }
    let mut lines: Vec<String> = TABLES.iter().map(|table| line(table, "INSERT", 1)).collect();
    lines.push(line("parts", "INSERT", 11));
    copy.forge.segment(&[lines]);
    copy.applier(&[&["add-tables"], &TABLES[..]].concat()).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![line("queue", "DELETE", 1)]]);
    copy.sync(0).await;
    copy
}

fn run(copy: &LocalCopy, program: &str, database: &str, file: &str, arguments: &[&str]) {
    let file = copy.server.data_folder().join(file).display().to_string();
    let (port, folder) = (copy.server.port().to_string(), copy.server.socket_folder().display().to_string());
    let mut all = vec!["-h", &folder, "-p", &port, "-U", copy.server.user(), "-d", database];
    all.extend(arguments);
    match program {
        "pg_dump" => all.extend(["-Fc", "-f", &file]),
        _ => all.push(&file),
    }
    copy.server.run(program, &all);
}

fn dump(copy: &LocalCopy, file: &str, what: &[&str]) {
    run(copy, "pg_dump", "reporting", file, what);
}

/// Into a database that is made for it, which is the copy from then on.
async fn restore(copy: &mut LocalCopy, database: &str, files: &[(&str, &[&str])]) {
    copy.server.use_database("reporting");
    copy.server.execute(&format!("CREATE DATABASE {database}")).await;
    for (file, how) in files {
        run(copy, "pg_restore", database, file, how);
    }
    copy.server.use_database(database);
}

async fn states(copy: &LocalCopy) -> String {
    copy.rows("SELECT table_name, state FROM ours.data_sync_table_state ORDER BY 1").await
}

async fn rows(copy: &LocalCopy) -> String {
    let all =
        TABLES.map(|table| format!("SELECT '{table}', string_agg(id::text, '-' ORDER BY id) FROM {table}"));
    copy.rows(&all.join(" UNION ALL ")).await
}

const ALL_LIVE: &str = "big,live loose,live parts,live queue,live";
const ALL_ROWS: &str = "big,1 loose,1 parts,1-11 queue,NULL";

#[tokio::test]
async fn a_dump_that_comes_back_whole_in_another_database_goes_on_and_what_is_missing_is_noticed() {
    let mut copy = synced().await;
    dump(&copy, "whole", &[]);
    dump(&copy, "without", &["--exclude-table-data=big", "--exclude-table-data=low"]);
    dump(&copy, "no_part", &["--exclude-table=high"]);
    let sections: [(&str, &[&str]); 3] = [
        ("whole", &["--section=pre-data"]),
        ("whole", &["--section=data"]),
        ("whole", &["--section=post-data"]),
    ];
    restore(&mut copy, "whole", &[("whole", &[])]).await;
    copy.sync(0).await;
    assert_eq!((states(&copy).await, rows(&copy).await), (ALL_LIVE.into(), ALL_ROWS.into()));
    restore(&mut copy, "sections", &sections).await;
    copy.sync(0).await;
    assert_eq!((states(&copy).await, rows(&copy).await), (ALL_LIVE.into(), ALL_ROWS.into()));
    // And the copy of a copy that was not looked at for long.
    copy.server.use_database("template1");
    copy.server.execute("CREATE DATABASE cloned TEMPLATE whole").await;
    copy.server.use_database("cloned");
    copy.sync(0).await;
    assert_eq!(states(&copy).await, ALL_LIVE);
    restore(&mut copy, "without", &[("without", &[])]).await;
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "big,quarantined loose,live parts,quarantined queue,live", "{said}");
    assert!(said.contains("public.big had rows") && said.contains("public.low had rows"), "{said}");
    copy.applier(&["retry", "big"]).run().await.expect_code(1);
    copy.applier(&["resync", "big", "parts"]).succeed().await;
    copy.sync(0).await;
    assert_eq!((states(&copy).await, rows(&copy).await), (ALL_LIVE.into(), ALL_ROWS.into()));
    restore(&mut copy, "no_part", &[("no_part", &[])]).await;
    let said = copy.sync(1).await;
    assert!(said.contains("public.high had rows"), "{said}");
}

#[tokio::test]
async fn our_tables_and_the_synced_ones_of_different_days_are_noticed_in_another_database() {
    let mut copy = synced().await;
    dump(&copy, "ours_1", &["-n", "ours"]);
    dump(&copy, "rows_1", &["-N", "ours"]);
    copy.forge.segment(&[vec![line("big", "INSERT", 2), line("loose", "INSERT", 2)]]);
    copy.sync(0).await;
    dump(&copy, "ours_2", &["-n", "ours"]);
    dump(&copy, "rows_2", &["-N", "ours"]);
    for (number, files) in
        [[("ours_1", &[][..]), ("rows_2", &[])], [("rows_1", &[]), ("ours_2", &[])]].iter().enumerate()
    {
        restore(&mut copy, &format!("mixed_{number}"), files).await;
        let said = copy.sync(1).await;
        assert!(said.contains("of another moment; run: syncdata-applier resync loose"), "{number}: {said}");
        let expected = TABLES.map(|table| format!("{table},quarantined"));
        assert_eq!(states(&copy).await, expected.join(" "), "{number}: {said}");
    }
    copy.applier(&["resync", "--all"]).succeed().await;
    assert_eq!(rows(&copy).await, "big,1-2 loose,1-2 parts,1-11 queue,NULL");
    // Lines alone, into the tables that are there.
    restore(
        &mut copy,
        "lines",
        &[("rows_2", &["-s"]), ("ours_1", &["-s"]), ("rows_2", &["-a"]), ("ours_1", &["-a"])],
    )
    .await;
    let said = copy.sync(1).await;
    assert!(said.contains("of another moment; run: syncdata-applier resync loose"), "{said}");
}
