//! A check that we have not written.

use std::path::Path;
use std::process::Command;

use super::served;

/// Whatever the document allows is asked, and what it does not; the answers are those that it promises.
#[tokio::test]
async fn answers_are_what_openapi_json_promises() {
    let served = served(&[]).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/api-check");
    let mut check = Command::new(script);
    check.arg(format!("http://{}", served.address)).arg(served.copy.folder().join("tokens")).arg("30");
    let checked = tokio::task::spawn_blocking(move || check.output()).await.expect("it ends");
    let checked = checked.expect("python3 is installed by scripts/install-deps");
    let said =
        format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    let log = served.daemon.stderr();
    assert!(checked.status.success(), "{said}\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    served.copy.applier(&["sync"]).run().await;
    served.daemon.stop().await.expect_code(0);
}
