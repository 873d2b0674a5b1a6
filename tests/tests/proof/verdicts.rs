//! What is said of copies that are right, and of copies that are not.

use syncdata_tests::world::WorldOptions;

use crate::scene::{self, TABLES, assert_all_equal, proofs, prove, status};

#[tokio::test]
async fn a_copy_that_is_right_is_called_equal_and_one_spoilt_value_is_named_blamed_and_mended() {
    let world = scene::world(WorldOptions::default()).await;
    world
        .source
        .execute(
            "UPDATE accounts SET balance = balance + 1 WHERE id % 7 = 0; DELETE FROM entries WHERE id % 11 = 0;
             INSERT INTO log VALUES ('line 1', NULL), ('line 1', NULL); UPDATE parts SET region = 'b' WHERE id = 2",
        )
        .await;
    let made = prove(&world).await;
    assert_eq!(made["tables"], 4, "{made}");
    assert_all_equal(&world).await;
    world.applier(["verify"]).succeed().await;
    assert_eq!(proofs(&world).len(), 1);

    // Somebody's hand.
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    world.target.execute("DELETE FROM entries WHERE id = 7").await;
    world.target.execute("INSERT INTO log VALUES ('surplus', NULL)").await;
    world.archiver(["proof"]).succeed().await;
    let synced = world.applier(["sync"]).run().await.expect_code(0);
    assert!(synced.stderr.contains("differs from production"), "{}", synced.stderr);
    let (tables, code) = status(&world).await;
    assert_eq!(code, Some(1));
    let verdicts: Vec<&str> = tables.iter().map(|table| table["verdict"].as_str().expect("said")).collect();
    assert_eq!(verdicts, ["differs", "differs", "differs", "equal"], "{tables:?}");
    assert!(tables.iter().take(3).all(|table| table["score"] != "100.00"), "{tables:?}");
    assert!(tables.iter().take(3).all(|table| table["differing"].is_null()), "{tables:?}");
    let checks = world.applier(["consistency", "check", "entries", "parts", "--json"]).run().await;
    let checks = checks.expect_code(1).json()["checks"].as_array().expect("checks").clone();
    let said = |table: &str, of: &str| {
        let found = checks.iter().find(|check| check["table"] == table && check["check_type"] == of);
        found.unwrap_or_else(|| panic!("{table} {of}: {checks:?}"))["verdict"].clone()
    };
    assert_eq!(
        (said("entries", "row_count"), said("entries", "data_hash")),
        ("differs".into(), "differs".into())
    );
    assert_eq!((said("parts", "row_count"), said("parts", "data_hash")), ("equal".into(), "equal".into()));
    assert_eq!(checks.len(), 4, "{checks:?}");
    let counts = world.applier(["consistency", "check", "accounts", "--types", "row_count"]);
    counts.succeed().await;
    let health = world.applier(["status"]).run().await.expect_code(1);
    assert!(health.stdout.contains("accounts differs from production"), "{}", health.stdout);

    let rows = world.applier(["consistency", "rows", "accounts", "--json"]).run().await.expect_code(1).json();
    assert_eq!((&rows["differing"], &rows["blame"]), (&1.into(), &"local".into()), "{rows}");
    assert_eq!(rows["rows"][0]["key"]["id"], "42", "{rows}");
    let column = &rows["rows"][0]["columns"][0];
    assert_eq!(
        (&column["column"], &column["local"], &column["archive"]),
        (&"owner".into(), &"Mallory".into(), &"owner 42".into()),
        "{rows}"
    );
    let one = world.applier(["consistency", "validate", "accounts", "42", "--json"]).run().await;
    assert_eq!(one.expect_code(1).json()["differing"], 1);
    world.applier(["consistency", "validate", "accounts", "43"]).succeed().await;
    let dry = world.applier(["consistency", "repair", "accounts", "--dry-run", "--json"]).run().await;
    assert_eq!(dry.expect_code(1).json()["differing"], 1);

    for (table, kind) in [("accounts", "changed"), ("entries", "missing"), ("log", "surplus")] {
        let rows = world.applier(["consistency", "rows", table, "--json"]).run().await.expect_code(1).json();
        assert_eq!((&rows["rows"][0]["kind"], &rows["differing"]), (&kind.into(), &1.into()), "{rows}");
        let mended = world.applier(["consistency", "repair", table, "--json"]).succeed().await.json();
        assert_eq!((&mended["repaired"], &mended["blame"]), (&1.into(), &"local".into()), "{mended}");
        world.applier(["consistency", "rows", table]).succeed().await;
    }
    world.assert_same(&TABLES).await;
    // What a repair has compared is no longer held against the table.
    world.applier(["status"]).run().await;
    let (tables, _) = status(&world).await;
    assert!(tables.iter().all(|table| table["differs"] == false), "{tables:?}");
    let words = world.applier(["consistency", "status"]).run().await.expect_code(0).stdout;
    let differed = words.lines().filter(|line| line.contains(": differs, "));
    let (mended, all): (Vec<&str>, usize) = (
        differed.clone().filter(|line| line.ends_with("; repaired since, and compared again")).collect(),
        differed.count(),
    );
    assert_eq!((mended.len(), all), (4, 4), "three tables, and all of them: {words}");
    prove(&world).await;
    assert_all_equal(&world).await;
}

#[tokio::test]
async fn an_idle_production_is_proved_by_a_mark_alone_and_three_proofs_stay() {
    let world = scene::world(WorldOptions::default()).await;
    for _ in 0..5 {
        prove(&world).await;
        assert_all_equal(&world).await;
    }
    assert_eq!(proofs(&world).len(), 3);
    world.archiver(["verify"]).succeed().await;
    world.applier(["verify"]).succeed().await;
    // The stream goes on over it.
    world.source.execute("INSERT INTO accounts VALUES (5000, 'new', 1, NULL)").await;
    world.carry().await;
    world.assert_same(&TABLES).await;
}

#[tokio::test]
async fn tables_that_are_not_live_or_that_were_truncated_are_not_proved_with_the_reason() {
    let world = scene::world(WorldOptions::default()).await;
    world.target.execute("ALTER TABLE log DROP COLUMN place").await;
    world.source.execute("INSERT INTO log VALUES ('x', box '(1,1),(0,0)')").await;
    world.archiver(["proof"]).succeed().await;
    world.applier(["sync"]).run().await.expect_code(1);
    let (tables, code) = status(&world).await;
    assert_eq!(code, Some(2), "{tables:?}");
    let log = tables.iter().find(|table| table["table"] == "log").expect("log");
    assert_eq!(log["verdict"], "not_proved", "{log}");
    assert!(
        log["score"].is_null() && log["detail"].as_str().is_some_and(|d| d.contains("quarantined")),
        "{log}"
    );
    assert!(
        tables.iter().filter(|table| table["table"] != "log").all(|t| t["verdict"] == "equal"),
        "{tables:?}"
    );
}

#[tokio::test]
async fn a_daemon_proves_by_itself_and_not_again_because_it_was_started_again() {
    let world = scene::world(WorldOptions::default().archiver_setting("proof_every", "1h")).await;
    let mut daemon = world.archiver(["run", "-v"]).spawn();
    daemon.says("proof published").await;
    daemon.stop().await;
    assert_eq!(proofs(&world).len(), 1);

    let mut again = world.archiver(["run", "-v"]).spawn();
    again.says("the newest proof is young enough").await;
    again.stop().await;
    assert_eq!(proofs(&world).len(), 1);
    world.applier(["sync"]).succeed().await;
    assert_all_equal(&world).await;
}
