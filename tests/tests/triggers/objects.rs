//! What the scripts make and take away, and the fuse.

use crate::script::{OWNER, install, noted, remove, server, succeeded};

const TRIGGERS: &str = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'syncdata%'";

#[tokio::test]
async fn what_was_made_twice_goes_away_as_a_whole() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
        CREATE TABLE c (id int NOT NULL, v int); CREATE UNIQUE INDEX ON c (id);
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)";
    let server = server(schema).await;
    succeeded(&install(&server, "public.a"));
    server.execute("INSERT INTO a VALUES (1)").await;
    succeeded(&install(&server, "public.a,public.b,public.c,public.p"));
    server.execute("INSERT INTO b VALUES (2); INSERT INTO c VALUES (3); INSERT INTO p VALUES (1)").await;
    assert_eq!(
        noted(&server).await,
        ["a I {1}", "b I {2}", "c I {3}", "p I {1}"],
        "nothing is lost by running it again"
    );
    succeeded(&remove(&server));
    assert_eq!(server.value(TRIGGERS).await, "0");
    assert_eq!(server.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'syncdata'").await, "0");
    succeeded(&remove(&server));
    server.execute(&format!("INSERT INTO a VALUES (2); TRUNCATE p; DROP ROLE {OWNER}")).await;
}

#[tokio::test]
async fn a_table_whose_rows_have_no_name_is_refused_by_its_own() {
    let schema = "CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE bad (id int UNIQUE);
        CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); CREATE VIEW seen AS SELECT 1 AS id";
    let server = server(schema).await;
    let said = succeeded(&install(&server, "public.bad,public.good,public.late,public.seen"));
    for table in ["bad", "late", "seen"] {
        assert!(said.contains(&format!("nothing is noted of public.{table}: it ")), "{said}");
    }
    server
        .execute("INSERT INTO good VALUES (1); INSERT INTO bad VALUES (NULL); INSERT INTO late VALUES (1)")
        .await;
    assert_eq!(noted(&server).await, ["good I {1}"]);
}

#[tokio::test]
async fn a_table_that_somebody_holds_is_not_waited_for() {
    let server = server("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    let holder = server.connect().await;
    holder.batch_execute("BEGIN; INSERT INTO b VALUES (1)").await.expect("it is ours");
    let said = install(&server, "public.a,public.b");
    assert!(
        !said.status.success() && String::from_utf8_lossy(&said.stderr).contains("lock timeout"),
        "{said:?}"
    );
    assert_eq!(server.value(TRIGGERS).await, "2", "one table a transaction: that of a, and nothing of b");
    holder.batch_execute("COMMIT").await.expect("it is ours");
    succeeded(&install(&server, "public.a,public.b"));
    assert_eq!(server.value(TRIGGERS).await, "4");
}

/// A dead archiver, or a dump with our triggers that was restored elsewhere, fills no disk.
#[tokio::test]
async fn past_its_limit_nothing_is_noted_any_more_and_everybody_sees_it() {
    let server = server("CREATE TABLE t (id int PRIMARY KEY)").await;
    succeeded(&install(&server, "public.t"));
    server.execute("UPDATE syncdata.reader SET guard_bytes = 100000").await;
    let open = server.connect().await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (-1)").await.expect("it is ours");
    server.execute("INSERT INTO t SELECT generate_series(1, 5000)").await;
    let blown = "SELECT last_value >= 4611686018427387904 FROM syncdata.change_id";
    assert_eq!(server.value(blown).await, "t");
    let size = server.value("SELECT count(*) < 5000 FROM syncdata.changes").await;
    assert_eq!(size, "t", "it stops within a statement");
    let before = server.value("SELECT count(*) FROM syncdata.changes").await;
    open.batch_execute("INSERT INTO t VALUES (-2); COMMIT; TRUNCATE t; INSERT INTO t VALUES (1)")
        .await
        .expect("it is ours");
    let after: u64 = server.value("SELECT count(*) FROM syncdata.changes").await.parse().expect("a number");
    assert_eq!(
        after,
        before.parse::<u64>().expect("a number") + 1,
        "what was noted before is there, and nothing more"
    );
}

/// The number says which of the tables is written; the other one can be emptied while transactions are open.
#[tokio::test]
async fn the_table_that_is_not_written_is_emptied_without_waiting() {
    let server = server("CREATE TABLE t (id int PRIMARY KEY)").await;
    succeeded(&install(&server, "public.t"));
    server.execute("INSERT INTO t VALUES (1)").await;
    server
        .execute(
            "SELECT setval('syncdata.change_id', ((last_value >> 32) + 1) << 32) FROM syncdata.change_id",
        )
        .await;
    let open = server.connect().await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.expect("it is ours");
    server.execute("SET lock_timeout = '1s'; TRUNCATE syncdata.changes_0").await;
    open.batch_execute("COMMIT").await.expect("it is ours");
    assert_eq!(noted(&server).await, ["t I {2}"]);
}
