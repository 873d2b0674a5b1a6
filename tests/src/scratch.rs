//! Folders for servers: short paths (a unix socket's path has 107 bytes), removed with their owner, and swept
//! up by a later run when their owner was killed. Those of a failed test stay when `SYNCDATA_TEST_KEEP=1`.

use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

const PREFIX: &str = "syncdata-test-";
const KEPT: &str = "syncdata-kept-";

/// A new folder `/tmp/syncdata-test-<pid>-<name>-XXXXXX`.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| sweep(&std::env::temp_dir()));
        let prefix = format!("{PREFIX}{}-{name}-", std::process::id());
        Scratch(tempfile::Builder::new().prefix(&prefix).tempdir().expect("the temporary folder is writable"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let folder = self.path().to_owned();
        if std::env::var_os("SYNCDATA_TEST_KEEP").is_none_or(|keep| keep != "1") {
            say(&format!("{} is removed; SYNCDATA_TEST_KEEP=1 keeps it", folder.display()));
            return;
        }
        let name = folder.file_name().and_then(|name| name.to_str()).expect("named above");
        let kept = folder.with_file_name(name.replacen(PREFIX, KEPT, 1));
        if std::fs::rename(&folder, &kept).is_ok() {
            self.0.disable_cleanup(true);
            say(&format!("kept {}", kept.display()));
        }
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it below the test that failed")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// `target/tmp`, where what several runs share is kept.
pub(crate) fn shared() -> PathBuf {
    let folder = profile().parent().expect("a profile's folder lies in target").join("tmp");
    std::fs::create_dir_all(&folder).expect("target is writable");
    folder
}

/// `target/<profile>`: the folder of the programs that were built together with this test.
pub(crate) fn profile() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its executable");
    let folder = executable.parent().expect("an executable lies in a folder");
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().expect("deps lies in a profile's folder").to_owned(),
        _ => folder.to_owned(),
    }
}

fn sweep(temporary: &Path) {
    let Ok(entries) = std::fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner_of);
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another run may be sweeping too, or the folder belongs to another user.
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_folders_of_dead_processes_only() {
        let temporary = tempfile::tempdir().expect("a folder");
        // Linux hands out pids up to 4194304.
        let names = ["syncdata-test-99999999-pg-a", "syncdata-test-1-pg-b", "syncdata-test-x", "other"];
        for name in names {
            std::fs::create_dir(temporary.path().join(name)).expect("a folder");
        }
        sweep(temporary.path());
        let left = names.map(|name| temporary.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
    }
}
