//! A check that we have not written.

use std::path::Path;
use std::process::Command;

use syncdata_tests::free_address;
use syncdata_tests::world::WorldOptions;

use super::{served, tokens};

/// Whatever the document allows is asked, and what it does not; the answers are those that it promises.
#[tokio::test]
async fn answers_are_what_openapi_json_promises() {
    let served = served(&[]).await;
    check(&served.address, &served.copy.folder().join("tokens"), &|| served.daemon.stderr()).await;
    served.copy.applier(&["sync"]).run().await;
    served.daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn answers_of_the_archiver_are_what_its_openapi_json_promises() {
    let address = free_address();
    let folder = tempfile::tempdir().expect("a folder");
    let file = tokens(folder.path(), &[super::TOKEN]);
    let options = WorldOptions::default()
        .without_sftp()
        .archiver_setting("http_listen", address.as_str())
        .archiver_setting("api_token_file", file.display().to_string());
    let world = options.start().await;
    world.source.execute("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.make_slot().await;
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    world.archiver(["run", "--once"]).succeed().await;
    check(&address, &file, &|| daemon.stderr()).await;
    world.archiver(["run", "--once"]).succeed().await;
    daemon.stop().await.expect_code(0);
}

/// `SYNCDATA_API_SECONDS` makes it longer.
async fn check(address: &str, tokens: &Path, log: &dyn Fn() -> String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/api-check");
    let seconds = std::env::var("SYNCDATA_API_SECONDS").unwrap_or_else(|_| "30".to_owned());
    let mut check = Command::new(script);
    check.arg(format!("http://{address}")).arg(tokens).arg(seconds);
    let checked = tokio::task::spawn_blocking(move || check.output()).await.expect("it ends");
    let checked = checked.expect("python3 is installed by scripts/install-deps");
    let said =
        format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    let log = log();
    assert!(checked.status.success(), "{said}\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}
