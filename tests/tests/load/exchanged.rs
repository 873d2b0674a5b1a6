//! Rows that have changed places under a constraint: no order of single steps brings them over.

use syncdata_tests::LocalCopy;

const ROWS: &str = "SELECT id, v FROM t ORDER BY id";

/// Rows 1 and 2 have exchanged their values here by hand; they are brought back by both ways.
async fn exchanged(constraint: &str, as_reporter: bool) -> LocalCopy {
    let role = "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter;
        SET ROLE reporter;";
    let role = if as_reporter { role } else { "" };
    let mut copy =
        LocalCopy::start(&format!("{role} CREATE TABLE t (id int PRIMARY KEY, v int4range, {constraint})"))
            .await;
    if as_reporter {
        copy.set("PG_USER_NAME", "reporter");
    }
    copy.forge.relation("t", &["id integer not null", "v int4range"], &["id"]);
    let row = |id: u32| {
        format!(r#"{{"table":"t","op":"INSERT","data":{{"id":{id},"v":"[{},{})"}}}}"#, id * 10, id * 10 + 5)
    };
    copy.forge.segment(&[vec![row(1), row(2), row(3), row(4)]]);
    copy.applier(&["add-tables", "t"]).succeed().await;
    copy.sync(0).await;
    copy
}

async fn exchange(copy: &LocalCopy) {
    copy.server
        .execute(
            "UPDATE t SET v = '[100,105)' WHERE id = 1; UPDATE t SET v = '[10,15)' WHERE id = 2;
             UPDATE t SET v = '[20,25)' WHERE id = 1; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (5, '[31,32)')",
        )
        .await;
}

#[tokio::test]
async fn values_that_were_exchanged_are_brought_back() {
    for constraint in [
        "EXCLUDE USING gist (v WITH &&)",
        "EXCLUDE USING gist (v WITH &&) DEFERRABLE INITIALLY DEFERRED",
        "EXCLUDE USING gist (v WITH &&) DEFERRABLE",
        "UNIQUE (v)",
        "UNIQUE (v) DEFERRABLE INITIALLY DEFERRED",
        "UNIQUE (v) DEFERRABLE",
    ] {
        for as_reporter in [false, true] {
            let copy = exchanged(constraint, as_reporter).await;
            let sound = copy.rows(ROWS).await;
            exchange(&copy).await;
            assert_ne!(copy.rows(ROWS).await, sound);
            copy.applier(&["resync", "t"]).succeed().await;
            assert_eq!(copy.rows(ROWS).await, sound, "{constraint}");
            copy.server.execute("DELETE FROM t WHERE id = 5").await;
            exchange(&copy).await;
            copy.server.execute("DELETE FROM t WHERE id = 5").await;
            copy.applier(&["replay", "--yes", "--from", "2026-02-05", "--to", "2026-02-06"]).succeed().await;
            assert_eq!(copy.rows(ROWS).await, sound, "{constraint}");
        }
    }
}
