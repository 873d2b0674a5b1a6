//! A table that is altered while its base copy is on the way: what was made for another table is not brought over.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

/// Does that once, when the shadow of the next load has its rows.
async fn meanwhile(copy: &LocalCopy, does: &str) {
    copy.server
        .execute(&format!(
            "CREATE TABLE IF NOT EXISTS public.done (at int);
             CREATE OR REPLACE FUNCTION public.meanwhile() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NOT EXISTS (SELECT FROM public.done) THEN INSERT INTO public.done VALUES (1); {does}; END IF; END $$;
             CREATE EVENT TRIGGER meanwhile ON ddl_command_end WHEN TAG IN ('CREATE INDEX')
               EXECUTE FUNCTION public.meanwhile()"
        ))
        .await;
}

const EXACT: &str = "1,1.234,2026-01-01 10:00:00.6";
const ROWS: &str = "SELECT id, v, ts FROM w";

async fn copy() -> LocalCopy {
    let schema =
        "CREATE TABLE w (id int PRIMARY KEY, v numeric, ts timestamp); CREATE TABLE u (id int PRIMARY KEY)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["id integer not null", "v numeric", "ts timestamp without time zone"];
    copy.forge.relation("w", &columns, &["id"]);
    copy.forge.relation("u", &["id integer not null"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"w","op":"INSERT","data":{"id":1,"v":1.234,"ts":"2026-01-01 10:00:00.6"}}"#,
        r#"{"table":"u","op":"INSERT","data":{"id":1}}"#,
    ]]);
    copy
}

#[tokio::test]
async fn what_was_altered_during_a_load_is_not_taken_for_what_was_loaded() {
    let copy = copy().await;
    copy.applier(&["add-tables", "w", "u"]).succeed().await;
    copy.sync(0).await;
    meanwhile(&copy, "ALTER TABLE public.w ALTER v TYPE numeric(12,1), ALTER ts TYPE timestamp(0)").await;
    let said = copy.applier(&["resync", "w", "u"]).run().await.expect_code(1);
    assert!(said.stdout.contains("altered while"), "{said}");
    // The other one of the group is loaded; this one is tried again, and has lost what its types cut off.
    let said = copy.sync(1).await;
    assert!(said.contains("w: quarantined"), "{said}");
    assert_eq!(copy.state("u").await, "live");
    copy.server.execute("ALTER TABLE w ALTER v TYPE numeric, ALTER ts TYPE timestamp").await;
    copy.applier(&["retry", "w"]).run().await.expect_code(1);
    copy.applier(&["resync", "w"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, EXACT);
    assert_eq!(copy.state("w").await, "live");
}

#[tokio::test]
async fn a_first_load_goes_into_no_table_that_was_altered_meanwhile() {
    for (does, back) in [
        ("ALTER TABLE public.w ALTER ts TYPE date", "ALTER TABLE w ALTER ts TYPE timestamp"),
        ("ALTER TABLE public.w ALTER v TYPE int USING v::int", "ALTER TABLE w ALTER v TYPE numeric"),
        ("ALTER TABLE public.w SET UNLOGGED", "ALTER TABLE w SET LOGGED"),
        (
            "DROP TABLE public.w; CREATE TABLE public.w (id int PRIMARY KEY, v numeric(12,1), ts timestamp)",
            "ALTER TABLE w ALTER v TYPE numeric",
        ),
    ] {
        let copy = copy().await;
        copy.applier(&["add-tables", "u"]).succeed().await;
        copy.sync(0).await;
        meanwhile(&copy, does).await;
        copy.applier(&["add-tables", "w"]).succeed().await;
        copy.sync(if does.contains("UNLOGGED") { 1 } else { 0 }).await;
        assert_ne!(copy.state("w").await, "live", "{does}");
        let said = copy.sync(1).await;
        assert!(said.contains("w: quarantined"), "{does}: {said}");
        copy.server.execute(back).await;
        copy.applier(&["resync", "w"]).succeed().await;
        assert_eq!(copy.rows(ROWS).await, EXACT, "{does}");
        assert_eq!(copy.state("w").await, "live", "{does}");
    }
}

#[tokio::test]
async fn a_table_that_somebody_holds_is_loaded_later_and_the_others_at_once() {
    let copy = copy().await;
    copy.applier(&["add-tables", "u"]).succeed().await;
    copy.sync(0).await;
    let holder = copy.server.connect().await;
    holder.batch_execute("BEGIN; LOCK TABLE w IN SHARE UPDATE EXCLUSIVE MODE").await.expect("nobody has it");
    copy.applier(&["add-tables", "w"]).succeed().await;
    copy.applier(&["resync", "w", "u"]).run().await.expect_code(1);
    assert_eq!(copy.state("w").await, "pending");
    assert!(copy.reason("w").await.contains("is held"), "{}", copy.reason("w").await);
    assert_eq!(copy.state("u").await, "live");
    holder.batch_execute("COMMIT").await.expect("it is open");
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, EXACT);
    assert_eq!(copy.state("w").await, "live");
}

#[tokio::test]
async fn a_partition_with_rows_that_is_attached_during_a_load_is_noticed() {
    let partitioned = "CREATE TABLE t (id int, v int) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE high (id int, v int); INSERT INTO high VALUES (11, 1)";
    let mut copy = LocalCopy::start(partitioned).await;
    let columns = ["id integer", "v integer"];
    copy.forge.relation_with("t", &columns, &[], ReplicaIdentity::Full);
    let insert = |id: u32| format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":1}}}}"#);
    copy.forge.segment(&[vec![insert(1), insert(2)]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("INSERT INTO low VALUES (3, 1), (4, 1)").await;

    // The load has looked for rows that are too many, and waits for one of them.
    let holder = copy.server.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM low WHERE id = 4 FOR UPDATE").await.expect("nobody has it");
    let resync = copy.applier(&["resync", "t"]).spawn();
    copy.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM %'",
        |waiting| waiting == "1",
    )
    .await;
    let attaching = copy.server.connect().await;
    let attach = "ALTER TABLE t ATTACH PARTITION high FOR VALUES FROM (10) TO (20)";
    let attach = tokio::spawn(async move { attaching.batch_execute(attach).await });
    copy.wait_until(
        "SELECT (SELECT relispartition FROM pg_class WHERE relname = 'high') OR EXISTS (SELECT FROM pg_stat_activity
           WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE t ATTACH%')",
        |is_there| is_there == "t",
    )
    .await;
    holder.batch_execute("COMMIT").await.expect("it is open");
    // Whether its last pass sees it is a matter of moments.
    resync.ended().await;
    attach.await.expect("it ends").expect("it is attached");
    let said = copy.sync(1).await;
    assert!(said.contains("partition public.high was attached") && said.contains("resync t"), "{said}");
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM t ORDER BY id").await, "1 2");
}
