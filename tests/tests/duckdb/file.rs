//! A file, the lives that write it, and a reader.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// One copy in a folder that vanishes with it.
pub(super) struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

/// One process that applies an archive.
#[must_use]
pub(super) struct Life<'a> {
    file: &'a File,
    archive: &'a Path,
    tables: Vec<String>,
    on_error: &'static str,
    environment: Vec<(&'static str, String)>,
}

impl File {
    pub(super) fn new() -> File {
        File::named("copy.duckdb")
    }

    pub(super) fn named(name: &str) -> File {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        File { folder, path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn life<'a>(&'a self, archive: &'a Path, tables: &[&str]) -> Life<'a> {
        let tables = tables.iter().map(|&table| table.to_owned()).collect();
        Life { file: self, archive, tables, on_error: "quarantine", environment: Vec::new() }
    }

    /// Somebody else does something with it.
    pub(super) fn execute(&self, statement: &str) {
        let script = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])";
        let done = Command::new(python()).args(["-c", script]).arg(&self.path).arg(statement).status();
        assert!(done.expect("it starts").success(), "{statement}");
    }

    /// What a reader finds, as PostgreSQL prints it.
    pub(super) fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/duckdb/read.py");
        let read = Command::new(python()).arg(script).arg(&self.path).arg(query).output().expect("it starts");
        assert!(read.status.success(), "{query}: {}", words(&read));
        serde_json::from_slice(&read.stdout).expect("JSON")
    }

    /// The same with `NULL` for what is none, each row as one text.
    pub(super) fn lines(&self, query: &str) -> Vec<String> {
        let text = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        let line = |row: Vec<Option<String>>| row.into_iter().map(text).collect::<Vec<_>>().join("|");
        self.rows(query).into_iter().map(line).collect()
    }
}

impl Life<'_> {
    /// The first problem ends it.
    pub(super) fn stopping(mut self) -> Self {
        self.on_error = "stop";
        self
    }

    /// So many records share a transaction.
    pub(super) fn batch(self, records: u64) -> Self {
        self.env("SYNCDATA_LIFE_BATCH", records.to_string())
    }

    pub(super) fn text_columns(self, columns: &str) -> Self {
        self.env("SYNCDATA_LIFE_TEXT", columns.to_owned())
    }

    pub(super) fn memory(self, bytes: u64) -> Self {
        self.env("SYNCDATA_LIFE_MEMORY", bytes.to_string())
    }

    pub(super) fn fault(self, plan: String) -> Self {
        self.env("SYNCDATA_FAULTS", plan)
    }

    fn env(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .arg(&self.file.path)
            .arg(self.archive)
            .arg(self.file.folder.path().join("cache"))
            .arg(self.on_error)
            .args(&self.tables)
            .envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    /// It ends well; what it says of each table.
    pub(super) fn run(self) -> String {
        let output = self.command().output().expect("it starts");
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// It is refused; what it says.
    pub(super) fn fail(self) -> String {
        let output = self.command().output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        String::from_utf8(output.stderr).expect("text")
    }

    /// A fault kills it.
    pub(super) fn die(self) {
        let output = self.command().output().expect("it starts");
        assert_eq!(output.status.code(), None, "it was to be killed: {}", words(&output));
    }

    /// It is killed after that time, unless it has ended; whether it was.
    pub(super) fn die_after(self, time: Duration) -> bool {
        let mut command = self.command();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let begun = Instant::now();
        while begun.elapsed() < time {
            if let Some(status) = child.try_wait().expect("ours") {
                assert!(status.success(), "it ended with {status}");
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("ours");
        child.wait().expect("ours");
        true
    }
}

/// The example beside this test program.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.parent().and_then(Path::parent).expect("below target/debug/deps");
    let program = folder.join("examples/duckdb_life");
    assert!(
        program.exists(),
        "{} is missing: cargo build --workspace --all-targets --features duckdb",
        program.display()
    );
    program
}

/// As scripts/install-duckdb lays it.
pub(super) fn python() -> PathBuf {
    let library = std::env::var_os("DUCKDB_LIB_DIR")
        .expect("DUCKDB_LIB_DIR is what scripts/install-duckdb prints, and /lib");
    let python = Path::new(&library).parent().expect("a folder above").join("python/bin/python");
    assert!(python.exists(), "{} is missing: scripts/install-duckdb brings it", python.display());
    python
}

fn words(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
