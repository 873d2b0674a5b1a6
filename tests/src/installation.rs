//! Which PostgreSQL a test runs on.
//!
//! `SYNCDATA_TEST_PG=15` chooses; otherwise it is the newest one on this machine that has wal2json: Debian's
//! packages, and the root that `scripts/pg18` builds.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A PostgreSQL with wal2json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    major: u32,
    /// Holds `bin` and `lib`.
    folder: PathBuf,
}

impl Installation {
    /// # Panics
    /// With the way to get one, when there is none.
    pub fn chosen() -> Installation {
        let wanted = std::env::var("SYNCDATA_TEST_PG").ok().filter(|wanted| !wanted.is_empty());
        let wanted = wanted.map(|wanted| {
            let major = wanted.parse();
            major.unwrap_or_else(|_| panic!("SYNCDATA_TEST_PG={wanted:?} is not a major version"))
        });
        choose(Installation::all(), wanted).unwrap_or_else(|| match wanted {
            Some(18) => panic!("there is no PostgreSQL 18 with wal2json here; `scripts/pg18` gets it"),
            Some(major) => panic!("there is no PostgreSQL {major} with wal2json here"),
            None => panic!("there is no PostgreSQL with wal2json here; `scripts/install-deps` gets it"),
        })
    }

    /// Every one on this machine.
    pub fn all() -> Vec<Installation> {
        let folders = roots().into_iter().map(|root| root.join("usr/lib/postgresql"));
        folders.flat_map(|folder| in_folder(&folder)).collect()
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// As `postgres --version` prints it: `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version(&self) -> String {
        self.ask("--version").trim().to_owned()
    }

    /// Whether this minor release has a setting of that name.
    pub fn knows_setting(&self, name: &str) -> bool {
        let settings = self.ask("--describe-config");
        settings.lines().any(|line| line.split('\t').next() == Some(name))
    }

    fn ask(&self, option: &str) -> String {
        let program = self.program("postgres");
        let output = Command::new(&program).arg(option).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        assert!(output.status.success(), "{} {option}: {output:?}", program.display());
        String::from_utf8(output.stdout).expect("PostgreSQL prints UTF-8")
    }
}

/// `scripts/pg18` knows the same places.
fn roots() -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/"), PathBuf::from("/var/cache/syncdata/pg18")];
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    roots.extend(cache.or(home).map(|cache| cache.join("syncdata/pg18")));
    roots
}

fn in_folder(folder: &Path) -> Vec<Installation> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let installation = |entry: std::fs::DirEntry| {
        let major = entry.file_name().to_str()?.parse().ok()?;
        Some(Installation { major, folder: entry.path() })
    };
    let mut found: Vec<_> = entries.flatten().filter_map(installation).collect();
    found.retain(|each| each.program("postgres").exists() && each.folder.join("lib/wal2json.so").exists());
    found
}

fn choose(mut all: Vec<Installation>, major: Option<u32>) -> Option<Installation> {
    all.retain(|each| major.is_none_or(|major| each.major == major));
    all.into_iter().max_by_key(|each| each.major)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(root: &str, major: u32) -> Installation {
        Installation { major, folder: PathBuf::from(root).join(major.to_string()) }
    }

    #[test]
    fn chooses_the_version_asked_for_or_else_the_newest() {
        let all = vec![at("/a", 15), at("/b", 18), at("/a", 17)];
        assert_eq!(choose(all.clone(), None), Some(at("/b", 18)));
        assert_eq!(choose(all.clone(), Some(15)), Some(at("/a", 15)));
        assert_eq!(choose(all, Some(16)), None);
    }

    #[test]
    fn a_postgres_without_wal2json_does_not_count() {
        let folder = tempfile::tempdir().expect("a folder");
        for (major, library) in [("15", "wal2json.so"), ("16", "pgoutput.so")] {
            let home = folder.path().join(major);
            for (kind, name) in [("bin", "postgres"), ("lib", library)] {
                std::fs::create_dir_all(home.join(kind)).expect("a folder");
                std::fs::write(home.join(kind).join(name), "").expect("a file");
            }
        }
        let found = in_folder(folder.path());
        assert_eq!(found.iter().map(Installation::major).collect::<Vec<_>>(), [15]);
    }
}
