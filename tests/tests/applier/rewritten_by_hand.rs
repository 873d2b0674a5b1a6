//! Rows that somebody takes away or writes anew by hand, in a table that keeps its name and its columns: it is not live
//! afterwards. What only moves rows to other files, or comes with the changes, goes on.

use syncdata_tests::LocalCopy;

fn insert(id: u32, value: &str) -> String {
    format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":{value}}}}}"#)
}

async fn state(copy: &LocalCopy) -> String {
    copy.rows("SELECT state FROM data_sync_table_state WHERE table_name = 't'").await
}

/// `t (id, v)`, with two rows, live.
async fn live(made: &str) -> LocalCopy {
    let mut copy = LocalCopy::start(made).await;
    copy.forge.relation("t", &["id integer not null", "v numeric"], &["id"]);
    copy.forge.segment(&[vec![insert(1, "1.239"), insert(11, "2.5")]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy
}

/// Each in a transaction of its own, as somebody types them.
async fn one_by_one(copy: &LocalCopy, statements: &str) {
    for statement in statements.split("; ") {
        copy.server.execute(statement).await;
    }
}

const PLAIN: &str = "CREATE TABLE t (id int PRIMARY KEY, v numeric)";
const PARTITIONED: &str = "CREATE TABLE t (id int PRIMARY KEY, v numeric) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
    CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20)";
const ROWS: &str = "SELECT id, v FROM t ORDER BY id";

#[tokio::test]
async fn a_table_that_was_emptied_or_written_anew_by_hand_needs_a_new_base() {
    for (made, by_hand) in [
        (PLAIN, "TRUNCATE t"),
        (PLAIN, "TRUNCATE t; INSERT INTO t VALUES (1, 1.239)"),
        (PLAIN, "ALTER TABLE t ALTER v TYPE numeric(10,2); ALTER TABLE t ALTER v TYPE numeric"),
        (PLAIN, "ALTER TABLE t ALTER v TYPE int; ALTER TABLE t ALTER v TYPE numeric"),
        (PLAIN, "TRUNCATE t; INSERT INTO t VALUES (1, 1.239); ANALYZE t"),
        (PLAIN, "TRUNCATE t; INSERT INTO t VALUES (1, 1.239); GRANT SELECT ON t TO PUBLIC; VACUUM t"),
        (PLAIN, "TRUNCATE t; VACUUM t"),
        (PLAIN, "TRUNCATE t; VACUUM FULL t"),
        (PLAIN, "TRUNCATE t; ALTER TABLE t ADD COLUMN note text"),
        (PLAIN, "TRUNCATE t; ALTER TABLE t ADD COLUMN note text DEFAULT 'none'; VACUUM t"),
        (PLAIN, "TRUNCATE t; ALTER TABLE t ADD COLUMN note timestamptz DEFAULT clock_timestamp()"),
        (PLAIN, "TRUNCATE t; ALTER TABLE t ALTER id TYPE bigint"),
        (PARTITIONED, "TRUNCATE low"),
        (PARTITIONED, "TRUNCATE t; VACUUM t"),
        (
            PARTITIONED,
            "TRUNCATE high; INSERT INTO t VALUES (11, 2.5); ANALYZE t; ALTER TABLE t ADD COLUMN note text",
        ),
        (PARTITIONED, "ALTER TABLE t ALTER v TYPE numeric(10,2); ALTER TABLE t ALTER v TYPE numeric"),
    ] {
        for is_silent in [true, false] {
            let mut copy = live(made).await;
            one_by_one(&copy, by_hand).await;
            if !is_silent {
                copy.forge.segment(&[vec![insert(2, "3")]]);
            }
            let said = copy.sync(1).await;
            assert!(said.contains("t: quarantined") && said.contains("resync t"), "{by_hand}: {said}");
            copy.applier(&["retry", "t"]).run().await.expect_code(1);
            assert_eq!(state(&copy).await, "quarantined", "{by_hand}");
            copy.applier(&["resync", "t"]).succeed().await;
            let rows = if is_silent { "1,1.239 11,2.5" } else { "1,1.239 2,3 11,2.5" };
            assert_eq!(copy.rows(ROWS).await, rows, "{by_hand}");
            copy.sync(0).await;
            assert_eq!(state(&copy).await, "live", "{by_hand}");
        }
    }
}

#[tokio::test]
async fn a_crash_that_emptied_a_table_between_two_passes_is_noticed() {
    for afterwards in ["ANALYZE other", "VACUUM t"] {
        let mut copy = live(PLAIN).await;
        copy.server.execute("CREATE TABLE other (id int); ALTER TABLE t SET UNLOGGED").await;
        copy.server.crash();
        copy.server.restart().await;
        copy.server.execute("ALTER TABLE t SET LOGGED").await;
        copy.server.execute(afterwards).await;
        assert_eq!(copy.rows(ROWS).await, "");
        let said = copy.sync(1).await;
        assert!(said.contains("resync t"), "{afterwards}: {said}");
        copy.applier(&["resync", "t"]).succeed().await;
        assert_eq!(copy.rows(ROWS).await, "1,1.239 11,2.5");
    }
}

/// Its rows are all of the last moment, as those of a table that is written all the time.
#[tokio::test]
async fn rows_that_are_all_new_are_not_taken_for_those_of_somebody_else() {
    for made in [PLAIN, PARTITIONED] {
        let mut copy = live(made).await;
        let update = |id: u32, v: u32| {
            format!(r#"{{"table":"t","op":"UPDATE","data":{{"id":{id},"v":{v}}},"old_keys":{{"id":{id}}}}}"#)
        };
        for round in 1..4 {
            copy.forge.segment(&[vec![update(1, round), update(11, round)]]);
            copy.sync(0).await;
            copy.server.execute("VACUUM FULL t").await;
            copy.sync(0).await;
            assert_eq!(copy.rows(ROWS).await, format!("1,{round} 11,{round}"));
            copy.server.execute("VACUUM FULL t").await;
        }
        // Nothing is left of it, as of a queue.
        let gone = |id: u32| format!(r#"{{"table":"t","op":"DELETE","old_keys":{{"id":{id}}}}}"#);
        copy.forge.segment(&[vec![gone(1), gone(11)]]);
        copy.sync(0).await;
        copy.server.execute("VACUUM t").await;
        copy.sync(0).await;
        copy.server.execute("VACUUM FULL t").await;
        copy.forge.segment(&[vec![insert(3, "3")]]);
        copy.sync(0).await;
        copy.server.execute("VACUUM FULL t").await;
        copy.sync(0).await;
        assert_eq!(state(&copy).await, "live");
        assert_eq!(copy.rows(ROWS).await, "3,3");
    }
}

#[tokio::test]
async fn what_moves_rows_to_other_files_and_changes_none_goes_on() {
    for made in [PLAIN, PARTITIONED] {
        let mut copy = live(made).await;
        let truncate = r#"{"table":"t","op":"TRUNCATE"}"#.to_owned();
        let index = if made == PLAIN { "t_pkey" } else { "low_pkey" };
        let leaf = if made == PLAIN { "t" } else { "low" };
        for (number, by_hand) in [
            "VACUUM FULL t".to_owned(),
            format!("CLUSTER {leaf} USING {index}"),
            "ANALYZE t".to_owned(),
            "ALTER TABLE t ALTER v SET STATISTICS 7".to_owned(),
            "CREATE INDEX ON t (v)".to_owned(),
            "REINDEX TABLE t".to_owned(),
            "ALTER TABLE t ADD COLUMN note text DEFAULT 'none'".to_owned(),
            "VACUUM FULL t".to_owned(),
            "ALTER TABLE t ADD COLUMN ours timestamptz DEFAULT clock_timestamp()".to_owned(),
            format!(
                "ALTER TABLE t {}",
                if made == PLAIN { "ALTER id TYPE bigint" } else { "ADD COLUMN more int" }
            ),
        ]
        .iter()
        .enumerate()
        {
            copy.server.execute(by_hand).await;
            copy.sync(0).await;
            let id = u32::try_from(number).expect("few") + 2;
            // The source empties it too, in every way.
            copy.forge.segment(&[vec![truncate.clone(), insert(1, "1")], vec![insert(id, "2")]]);
            copy.sync(0).await;
            assert_eq!(copy.rows(ROWS).await, format!("1,1 {id},2"), "{by_hand}");
            copy.forge.segment(&[vec![truncate.clone()]]);
            copy.sync(0).await;
            assert_eq!(state(&copy).await, "live", "{by_hand}");
        }
    }
}

#[tokio::test]
async fn a_partition_that_comes_with_rows_of_its_own_is_noticed() {
    let mut copy = live(PARTITIONED).await;
    let with_rows = "CREATE TABLE old (LIKE t INCLUDING ALL); INSERT INTO old VALUES (21, 7);
        ALTER TABLE t ATTACH PARTITION old FOR VALUES FROM (20) TO (30)";
    copy.server.execute(with_rows).await;
    let said = copy.sync(1).await;
    assert!(said.contains("partition public.old was attached") && said.contains("resync t"), "{said}");
    // It goes again before anything was applied.
    copy.server.execute("ALTER TABLE t DETACH PARTITION old").await;
    copy.applier(&["retry", "t"]).succeed().await;
    copy.server.execute("ALTER TABLE t ATTACH PARTITION old FOR VALUES FROM (20) TO (30)").await;
    copy.forge.segment(&[vec![insert(2, "3"), insert(22, "4")]]);
    copy.sync(1).await;
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows(ROWS).await, "1,1.239 2,3 11,2.5 22,4");
    // An empty one is filled by changes.
    copy.server.execute("CREATE TABLE more PARTITION OF t FOR VALUES FROM (30) TO (40)").await;
    copy.forge.segment(&[vec![insert(31, "5")]]);
    copy.sync(0).await;
    copy.sync(0).await;
    assert_eq!(state(&copy).await, "live");
}

#[tokio::test]
async fn the_first_partition_of_all_is_noticed_too_if_it_has_rows() {
    let mut copy =
        LocalCopy::start("CREATE TABLE t (id int PRIMARY KEY, v numeric) PARTITION BY RANGE (id)").await;
    copy.forge.relation("t", &["id integer not null", "v numeric"], &["id"]);
    copy.forge
        .segment(&[vec![insert(1, "1"), r#"{"table":"t","op":"DELETE","old_keys":{"id":1}}"#.to_owned()]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "CREATE TABLE first (LIKE t INCLUDING ALL); INSERT INTO first VALUES (1, 1);
             ALTER TABLE t ATTACH PARTITION first FOR VALUES FROM (0) TO (10)",
        )
        .await;
    let said = copy.sync(1).await;
    assert!(said.contains("partition public.first was attached"), "{said}");
}

/// The changes of a moment went into another table, which is gone when the pass ends.
#[tokio::test]
async fn a_table_that_is_replaced_for_a_moment_while_a_pass_is_under_way_lacks_nothing() {
    let mut copy = live(PLAIN).await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.server.execute("CREATE TABLE a (id int PRIMARY KEY)").await;
    copy.forge.relation("a", &["id integer not null"], &["id"]);
    let other = |id: u32| format!(r#"{{"table":"a","op":"INSERT","data":{{"id":{id}}}}}"#);
    copy.forge.segment(&[vec![other(1)]]);
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.seq = 3 THEN
                 ALTER TABLE public.t RENAME TO t_aside;
                 CREATE TABLE public.t (LIKE public.t_aside INCLUDING ALL);
               ELSE
                 DROP TABLE public.t;
                 ALTER TABLE public.t_aside RENAME TO t;
               END IF;
               RETURN NEW; END $$;
             CREATE TRIGGER swap AFTER UPDATE ON data_sync_checkpoint FOR EACH ROW
               WHEN (NEW.seq IN (3, 5) AND NEW.seq <> OLD.seq) EXECUTE FUNCTION swap();
             ALTER TABLE data_sync_checkpoint ENABLE ALWAYS TRIGGER swap",
        )
        .await;
    copy.forge.segment(&[vec![other(2)]]);
    copy.forge.segment(&[vec![insert(3, "3")]]);
    copy.forge.segment(&[vec![other(3)]]);
    copy.sync(1).await;
    assert_eq!(state(&copy).await, "quarantined");
    copy.applier(&["retry", "t"]).succeed().await;
    assert_eq!(copy.rows(ROWS).await, "1,1.239 3,3 11,2.5");
}
