//! Tables of the copy that inherit from synced ones.

use syncdata_tests::LocalCopy;

use super::two_tables;

#[tokio::test]
async fn rows_of_a_table_that_inherits_here_alone_are_noticed() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    let rows = "SELECT * FROM users ORDER BY id";
    copy.server.execute("CREATE TABLE own () INHERITS (users)").await;
    copy.sync(0).await;
    copy.server.execute("CREATE TABLE deeper () INHERITS (own); INSERT INTO deeper VALUES (9, 'mine')").await;
    let said = copy.sync(1).await;
    assert!(said.contains("users: quarantined: public.deeper inherits from the local table"), "{said}");
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"Cid"}}"#,
        r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":3}}"#,
    ]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7 8");
    copy.applier(&["retry", "users"]).run().await.expect_code(1);
    let refused = copy.applier(&["resync", "users"]).run().await.expect_code(1);
    assert!(refused.stderr.contains("ALTER TABLE public.deeper NO INHERIT public.own  --"), "{refused}");
    copy.server.execute("ALTER TABLE own NO INHERIT users").await;
    copy.applier(&["retry", "users"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(rows).await, "1,Ann 2,Bob 3,Cid");
    assert_eq!(copy.rows("SELECT id FROM deeper").await, "9");
}

#[tokio::test]
async fn a_partition_of_another_server_that_comes_here_alone_is_noticed() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE sales (id int) PARTITION BY RANGE (id); CREATE TABLE ours PARTITION OF sales FOR VALUES FROM (0) TO (10);
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw",
    )
    .await;
    copy.forge.relation("sales", &["id integer"], &[]);
    let insert = |id: u32| format!(r#"{{"table":"sales","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![insert(1)]]);
    copy.applier(&["add-tables", "sales"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute("CREATE FOREIGN TABLE abroad PARTITION OF sales FOR VALUES FROM (10) TO (20) SERVER far")
        .await;
    let said = copy.sync(1).await;
    assert!(said.contains("sales: quarantined: partition public.abroad was attached"), "{said}");
    copy.server.execute("DROP FOREIGN TABLE abroad").await;
    copy.applier(&["resync", "sales"]).succeed().await;
    copy.forge.segment(&[vec![insert(2)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM sales ORDER BY id").await, "1 2");
}

/// Two tables that production keeps apart, both synced, one made a part of the other here alone.
#[tokio::test]
async fn a_synced_table_that_becomes_a_part_of_another_here_alone_is_noticed() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE sales (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE sales_new PARTITION OF sales FOR VALUES FROM (10) TO (20);
         CREATE TABLE sales_old (id int PRIMARY KEY); CREATE TABLE plain (id int); CREATE TABLE heir (id int)",
    )
    .await;
    let insert =
        |table: &str, id: u32| format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id}}}}}"#);
    for table in ["sales", "sales_old", "plain", "heir"] {
        copy.forge.relation(
            table,
            &["id integer not null"],
            if table.starts_with("sales") { &["id"] } else { &[] },
        );
    }
    copy.forge.segment(&[vec![insert("sales", 11), insert("plain", 1), insert("heir", 2)]]);
    copy.applier(&["add-tables", "sales", "sales_old", "plain", "heir"]).succeed().await;
    copy.sync(0).await;
    let attach = "ALTER TABLE sales ATTACH PARTITION sales_old FOR VALUES FROM (0) TO (10)";
    copy.server.execute(attach).await;
    copy.server.execute("ALTER TABLE heir INHERIT plain").await;
    copy.forge.segment(&[vec![insert("sales_old", 1), insert("heir", 3)]]);
    let said = copy.sync(1).await;
    let detach = "ALTER TABLE public.sales DETACH PARTITION public.sales_old";
    for table in ["sales", "sales_old"] {
        assert_eq!(copy.state(table).await, "quarantined", "{table}: {said}");
        assert!(copy.reason(table).await.contains(detach), "{said}");
    }
    assert_eq!(copy.rows("SELECT id FROM sales").await, "11");
    // Production may have its heirs too: that is said, and nothing else.
    let status = copy.applier(&["status"]).run().await.expect_code(1);
    let words = "public.heir inherits from public.plain here, and both are synced";
    assert!(status.stdout.contains(words), "{status}");
    assert_eq!(copy.state("plain").await, "live");
    // Not loaded before they are apart.
    let refused = copy.applier(&["resync", "sales", "sales_old"]).run().await.expect_code(1);
    assert!(refused.stderr.contains(detach), "{refused}");
    copy.server.execute("ALTER TABLE sales DETACH PARTITION sales_old").await;
    copy.applier(&["resync", "sales", "sales_old"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM sales UNION ALL SELECT id FROM sales_old").await, "11 1");
    // With rows by now; and what is said, carried out.
    copy.server.execute(attach).await;
    let said = copy.sync(1).await;
    assert!(said.contains(detach), "{said}");
    copy.server.execute("ALTER TABLE sales DETACH PARTITION sales_old").await;
    copy.applier(&["retry", "sales", "sales_old"]).succeed().await;
    copy.forge.segment(&[vec![insert("sales_old", 4), insert("sales", 12)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM sales UNION ALL SELECT count(*) FROM sales_old").await, "2 2");
}
