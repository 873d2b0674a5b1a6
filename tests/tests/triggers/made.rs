//! `setup --create-triggers` and `drop-slot` by a role that may do all of it, killed at each of their steps.

use crate::copy::world;

const OURS: &str = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'syncdata')
    + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'syncdata%')";

#[tokio::test]
async fn killed_at_any_step_setup_and_drop_slot_go_on_where_they_were() {
    let world = world("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    world.run_as_told(["drop-slot", "--force"]).await;
    assert_eq!(world.source.value(OURS).await, "0");
    world.source.execute("ALTER ROLE syncdata_user SUPERUSER").await;
    for step in ["triggers.objects_made=kill@1", "triggers.table_done=kill@1", "triggers.table_done=kill@1"] {
        let killed = world.archiver(["setup", "--create-triggers"]).fault(step).run().await;
        assert!(killed.was_killed(), "{step}: {killed}");
    }
    let setup = world.archiver(["setup", "--create-triggers"]).run().await;
    assert_ne!(setup.code(), Some(2), "{setup}");
    world.source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["check"]).run().await.expect_code(0);
    // Three tables with two triggers each, and the schema.
    assert_eq!(world.source.value(OURS).await, "7");
    for left in ["6", "5", "4"] {
        let killed = world.archiver(["drop-slot"]).fault("triggers.removed=kill@1").run().await;
        assert!(killed.was_killed(), "{killed}");
        assert_eq!(world.source.value(OURS).await, left);
    }
    world.archiver(["drop-slot", "--all", "--yes"]).run().await;
    assert_eq!(world.source.value(OURS).await, "0");
    world.source.execute("INSERT INTO a VALUES (2)").await;
}
