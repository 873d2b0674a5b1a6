//! The archiver as people run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use syncdata_tests::postgres::PostgresServer;

use crate::measure::{release, timed, timed_with_peak};

/// The release build, with an archive in a local folder: no network is measured.
pub(crate) struct Archiver {
    config: PathBuf,
    pub archive: PathBuf,
}

impl Archiver {
    pub(crate) fn new(source: &PostgresServer, folder: &Path, slot: &str) -> Archiver {
        let archive = folder.join("archive");
        std::fs::create_dir(&archive).expect("the folder is ours");
        let config = folder.join("syncdata.toml");
        let settings = format!(
            "archive_dir = {:?}\nspool_dir = {:?}\nslot_name = {slot:?}\ntables = [\"*\"]\npg_host = {:?}\npg_port = {}\n\
             pg_user = {:?}\npg_database = {:?}\n",
            archive,
            folder.join("spool"),
            source.host(),
            source.port(),
            source.user(),
            source.database()
        );
        std::fs::write(&config, settings).expect("the folder is ours");
        Archiver { config, archive }
    }

    /// With that plugin.
    pub(crate) fn reading_with(self, plugin: &str) -> Archiver {
        let settings = std::fs::read_to_string(&self.config).expect("we wrote it");
        std::fs::write(&self.config, format!("{settings}source = {plugin:?}\n")).expect("the folder is ours");
        self
    }

    pub(crate) fn run(&self) -> Duration {
        let mut command = Command::new(release("syncdata-archiver"));
        command.args(["run", "--once", "--config"]).arg(&self.config).stderr(Stdio::null());
        timed(command)
    }

    /// What the snapshot says of itself.
    pub(crate) fn snapshot(&self, options: &[&str]) -> serde_json::Value {
        let mut command = Command::new(release("syncdata-archiver"));
        command
            .args(["snapshot", "--json", "--config"])
            .arg(&self.config)
            .args(options)
            .stderr(Stdio::null());
        let output = command.output().expect("the program is there");
        assert!(output.status.success(), "{command:?}: {}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A proof of that table, and the MiB that it took.
    pub(crate) fn proof(&self, table: &str) -> (Duration, f64) {
        let mut command = Command::new(release("syncdata-archiver"));
        command.args(["proof", "--tables", table, "--config"]).arg(&self.config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        timed_with_peak(command)
    }

    pub(crate) fn archived_bytes(&self) -> u64 {
        let days = std::fs::read_dir(self.archive.join("segments")).expect("an archive was made");
        let files = days.flat_map(|day| std::fs::read_dir(day.expect("a day").path()).expect("a folder"));
        files
            .map(|file| file.expect("a file"))
            .filter(|file| file.file_name().to_string_lossy().ends_with(".zst"))
            .map(|file| file.metadata().expect("it is there").len())
            .sum()
    }
}
