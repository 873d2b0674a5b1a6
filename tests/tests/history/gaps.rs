//! Changes that are lost, beside others that are not: who asks for that time is told.

use syncdata_tests::LocalCopy;

/// Rows of `users` and `others` at ten, a gap of `users`, then more rows at twelve, in the segment of the gap.
async fn beside_changes() -> LocalCopy {
    let mut copy = LocalCopy::start(
        "CREATE TABLE users (id int PRIMARY KEY, v text); CREATE TABLE others (id int PRIMARY KEY, v text)",
    )
    .await;
    for table in ["users", "others"] {
        copy.forge.relation(table, &["id integer not null", "v text"], &["id"]);
    }
    copy.forge.set_clock("2026-02-05T10:00:00Z");
    copy.forge.segment(&[vec![insert("users", 1), insert("others", 1)]]);
    copy.forge.gap(&["users"]);
    copy.forge.set_clock("2026-02-20T12:00:00Z");
    copy.forge.segment(&[vec![insert("users", 2), insert("others", 2)], vec![insert("users", 3)]]);
    copy.forge.set_clock("2026-02-20T14:00:00Z");
    copy.forge.segment(&[vec![insert("users", 4), insert("others", 4)]]);
    copy.applier(&["add-tables", "users", "others"]).succeed().await;
    copy.sync(1).await;
    copy.applier(&["retry", "users", "--accept-gap"]).succeed().await;
    copy
}

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":"x"}}}}"#)
}

#[tokio::test]
async fn tables_are_not_made_as_of_a_moment_inside_a_gap() {
    let copy = beside_changes().await;
    for (number, (at, others)) in [
        ("2026-02-05T11:00:00Z", "1"),
        ("2026-02-10", "1"),
        ("2026-02-20T12:00:00Z", "1 2"),
        ("2026-02-21", "1 2 4"),
    ]
    .into_iter()
    .enumerate()
    {
        let schema = format!("then_{number}");
        let past =
            copy.applier(&["as-of", at, "--into", &schema, "--json"]).run().await.expect_code(1).json();
        let reason = past["left_alone"]["users"].as_str().unwrap_or_default();
        assert!(reason.contains("are lost"), "{at}: {past}");
        assert_eq!(copy.rows(&format!("SELECT id FROM {schema}.others ORDER BY id")).await, others, "{past}");
    }
}

#[tokio::test]
async fn a_range_inside_a_gap_is_not_said_to_be_sound() {
    let copy = beside_changes().await;
    for (from, to) in [
        ("2026-02-05T10:30:00Z", "2026-02-05T11:00:00Z"),
        ("2026-02-10", "2026-02-11"),
        ("2026-02-20T11:00:00Z", "2026-02-20T12:00:00Z"),
    ] {
        let range = ["--from", from, "--to", to];
        let replay = [&["replay", "--yes"], &range[..]].concat();
        let said = copy.applier(&replay).run().await.expect_code(1);
        assert!(said.stdout.contains("users: left alone: changes of it from"), "{from}: {said}");
        assert!(!said.stdout.contains("others: left alone"), "{from}: {said}");
        let dry = [&["replay", "--dry-run"], &range[..]].concat();
        copy.applier(&dry).run().await.expect_code(1);
        let into = [&["replay", "--yes", "--into", "looked"], &range[..]].concat();
        let said = copy.applier(&into).run().await.expect_code(1);
        assert!(said.stdout.contains("are lost"), "{from}: {said}");
        copy.server.execute("DROP SCHEMA looked CASCADE").await;
    }
    for (from, to) in [("2026-02-05", "2026-02-05T10:00:00Z"), ("2026-02-20T14:00:00Z", "2026-02-21")] {
        let said = copy.applier(&["replay", "--dry-run", "--from", from, "--to", to]).run().await;
        assert!(!said.stdout.contains("changes of it from"), "{from}: {said}");
    }
}
