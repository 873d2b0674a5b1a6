//! `uninstall`: what is left is what was there before, and the rows.

use syncdata_tests::LocalCopy;

use super::two_tables;

/// Everything in the database and beside it that is no system object.
const CATALOG: &str = "SELECT string_agg(what, E'\\n' ORDER BY what) FROM (
    SELECT 'role ' || rolname FROM pg_roles
    UNION ALL SELECT 'schema ' || nspname || coalesce(nspacl::text, '') FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT 'relation ' || oid::regclass || coalesce(relacl::text, '') FROM pg_class WHERE oid >= 16384
      AND relnamespace <> 'pg_toast'::regnamespace
    UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'database ' || datname || coalesce(datacl::text, '') FROM pg_database
    UNION ALL SELECT 'setting ' || to_jsonb(s)::text FROM pg_db_role_setting s) AS all_of_it(what)";

async fn with_role(schema: &str) -> (LocalCopy, String) {
    let mut copy = two_tables().await;
    let before = copy.server.value(CATALOG).await;
    copy.set("PG_USER_NAME", "syncdata");
    copy.set("SYNCDATA_META_SCHEMA", schema);
    copy.applier(&["setup", "--create-role", "--as", "postgres"]).succeed().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    (copy, before)
}

#[tokio::test]
async fn uninstall_leaves_the_catalogs_as_they_were_and_the_rows() {
    let (copy, before) = with_role("syncdata").await;
    let asked = copy.applier(&["uninstall", "--as", "postgres"]).run().await.expect_code(2);
    assert!(
        asked.stderr.contains("say --yes") && asked.stderr.contains("/reporting (no settings file)"),
        "{asked}"
    );
    copy.applier(&["uninstall", "--yes", "--as", "postgres"]).succeed().await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders)").await, "2,1");
    let granted = "SELECT count(*) FROM pg_parameter_acl WHERE paracl::text LIKE '%syncdata%'";
    if copy.server.installation().major() >= 15 {
        assert_eq!(copy.server.value(granted).await, "0");
    }
    // What was never granted prints as nothing, what was taken back as what the owner has.
    let bare = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split('{').next().unwrap_or_default().to_owned());
        let lines: std::collections::BTreeSet<String> = lines.collect();
        lines.into_iter().collect()
    };
    assert_eq!(bare(&copy.server.value(CATALOG).await), bare(&before));
    copy.applier(&["uninstall", "--yes", "--as", "postgres"]).succeed().await;
}

#[tokio::test]
async fn a_role_that_has_ties_is_named_with_the_statements_and_stays() {
    let (copy, _) = with_role("public").await;
    copy.server.execute("CREATE TABLE its (id int); ALTER TABLE its OWNER TO syncdata").await;
    let told = copy.applier(&["uninstall", "--yes"]).run().await.expect_code(1);
    for words in ["syncdata stays: ", "it owns table public.its", "a role cannot drop itself"] {
        assert!(told.stderr.contains(words), "{words}: {told}");
    }
    assert_eq!(copy.rows("SELECT to_regclass('data_sync_checkpoint')").await, "NULL");
    assert!(!told.stdout.contains("DROP OWNED") && !told.stdout.contains("CASCADE"), "{told}");
    // What it tells people to do.
    copy.server.execute(&told.stdout).await;
    assert_eq!(copy.rows("SELECT count(*) FROM pg_roles WHERE rolname = 'syncdata'").await, "0");
    assert_eq!(copy.rows("SELECT count(*) FROM its").await, "0", "nothing of its goes with it");
}

#[tokio::test]
async fn what_others_have_built_on_our_tables_is_named_and_nothing_is_removed() {
    let (copy, _) = with_role("public").await;
    copy.server.execute("CREATE VIEW report AS SELECT * FROM data_sync_freshness").await;
    let refused = copy.applier(&["uninstall", "--yes", "--as", "postgres"]).run().await.expect_code(2);
    assert!(
        refused.stderr.contains("view public.report depends on view public.data_sync_freshness"),
        "{refused}"
    );
    copy.applier(&["sync"]).succeed().await;
}

/// Our tables are of a version that has none of that name yet.
#[tokio::test]
async fn a_table_of_somebody_else_s_with_a_name_of_ours_stays() {
    let (copy, _) = with_role("public").await;
    copy.server.execute("DELETE FROM data_sync_version WHERE version > 13").await;
    copy.applier(&["uninstall", "--yes", "--as", "postgres"]).run().await;
    assert_eq!(
        copy.rows("SELECT to_regclass('sync_executions'), to_regclass('data_sync_logs')").await,
        "sync_executions,NULL"
    );
}

/// Every durable step, and the last moment before one.
const STEPS: [&str; 3] = ["uninstall.before_commit", "uninstall.role_gone", "uninstall.tables_gone"];

#[tokio::test]
async fn uninstall_that_is_killed_at_any_step_leaves_nothing_when_it_is_run_again() {
    for step in STEPS {
        let (copy, _) = with_role("syncdata").await;
        let command = ["uninstall", "--yes", "--as", "postgres"];
        let killed = copy.applier(&command).fault(&format!("{step}=kill")).run().await;
        assert!(killed.was_killed(), "{step}: {killed}");
        // All of our tables are there, or none.
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'syncdata'";
        let left: usize = copy.server.value(tables).await.parse().expect("a number");
        assert_eq!(left > 0, step == "uninstall.before_commit", "{step}: {left}");
        if left > 0 {
            copy.applier(&["sync"]).succeed().await;
        }
        copy.applier(&command).succeed().await;
        let ours = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'syncdata'),
            (SELECT count(*) FROM pg_roles WHERE rolname = 'syncdata'),
            (SELECT count(*) FROM pg_class WHERE relname LIKE 'data\\_sync\\_%' OR relname = 'tables_to_sync'),
            (SELECT count(*) FROM pg_proc WHERE proname LIKE 'data\\_sync\\_%')";
        assert_eq!(copy.rows(ours).await, "0,0,0,0", "{step}");
        assert_eq!(
            copy.rows("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders)").await,
            "2,1"
        );
    }
}
