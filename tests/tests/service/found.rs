//! Where settings are found when nobody names them, and what a command says when they are in none of the places.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use syncdata_tests::program::Program;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("ours");
    fs::write(path, text).expect("ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

/// In a home of its own: nothing of this machine is found.
fn program(name: &'static str, home: &Path, arguments: &[&str]) -> Program {
    fs::create_dir_all(home.join("logs")).expect("ours");
    Program::new(name, arguments, &home.join("logs"))
        .env("HOME", home)
        .env("STATE_DIRECTORY", home.join("state"))
        .env("RUNTIME_DIRECTORY", home.join("run"))
}

/// What holds for the meta schema, and who said so.
async fn schema(name: &'static str, home: &Path, arguments: &[&str]) -> (String, String) {
    let arguments = [&["config", "--json"], arguments].concat();
    let settings: Value = program(name, home, &arguments).run().await.expect_code(0).json();
    let text = |field: &str| settings["meta_schema"][field].as_str().expect("a text").to_owned();
    (text("value"), text("origin"))
}

#[tokio::test]
async fn a_settings_file_in_the_usual_place_is_found_without_being_named() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let general = home.join(".config/syncdata/config.toml");
    write(&general, "meta_schema = \"general\"");
    let expected = ("general".to_owned(), format!("{}:1", general.display()));
    assert_eq!(schema("syncdata-applier", home, &[]).await, expected);
    assert_eq!(schema("syncdata-archiver", home, &[]).await, expected);

    write(&home.join(".config/syncdata/applier.toml"), "meta_schema = \"own\"");
    assert_eq!(schema("syncdata-applier", home, &[]).await.0, "own");
    assert_eq!(schema("syncdata-archiver", home, &[]).await.0, "general");

    write(&home.join("named.toml"), "meta_schema = \"named\"");
    assert_eq!(schema("syncdata-applier", home, &["--config", "~/named.toml"]).await.0, "named");
    let by_variable = program("syncdata-applier", home, &["config"]).env("DATA_SYNC_CONFIG", "~/named.toml");
    let printed = by_variable.run().await.expect_code(0);
    assert!(printed.stdout.contains("named"), "{printed}");
}

#[tokio::test]
async fn a_file_of_variables_counts_after_the_environment_and_only_where_it_is_named() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let file = home.join("sync.env");
    write(
        &file,
        "# the earlier tool's\nPG_DB_NAME=app\nSYNCDATA_META_SCHEMA='of_file'\nSYNCDATA_PG_HOTS=x\n",
    );
    let path = file.to_str().expect("UTF-8");
    let origin = format!("{path}:3");
    assert_eq!(schema("syncdata-applier", home, &["--env-file", path]).await, ("of_file".to_owned(), origin));

    let both = program("syncdata-applier", home, &["config", "--env-file", path]);
    let both = both.env("SYNCDATA_META_SCHEMA", "of_environment").run().await.expect_code(0);
    assert!(both.stdout.contains("of_environment") && !both.stdout.contains("of_file"), "{both}");
    assert!(both.stderr.contains("SYNCDATA_PG_HOTS"), "{both}");

    write(&home.join(".env"), "SYNCDATA_META_SCHEMA=nobody_asked");
    assert_eq!(schema("syncdata-applier", home, &[]).await.0, "public");

    write(&file, "PG_PASSWORD=secret-word");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let refused = program("syncdata-applier", home, &["config", "--env-file", path]).run().await;
    let refused = refused.expect_code(2);
    assert!(refused.stderr.contains("chmod 0640") && !refused.stderr.contains("secret-word"), "{refused}");
}

#[tokio::test]
async fn without_a_file_the_places_are_named() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let run = program("syncdata-applier", home, &["list-tables"]).run().await.expect_code(2);
    let first = home.join(".config/syncdata/applier.toml");
    for place in [first.to_str().expect("UTF-8"), "/etc/syncdata/applier.toml", "--config", "PG_DB_NAME"] {
        assert!(run.stderr.contains(place), "{place}: {run}");
    }
}
