//! The folders that nobody configures: state, sockets, home.

use std::path::{Path, PathBuf};

use crate::own_files;

/// Which of the two programs runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Archiver,
    Applier,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Program::Archiver => "syncdata-archiver",
            Program::Applier => "syncdata-applier",
        }
    }

    /// As its settings file is called.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Program::Archiver => "archiver",
            Program::Applier => "applier",
        }
    }
}

/// Derived from the environment, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub home: PathBuf,
    /// Where programs of this user keep their settings.
    pub config: PathBuf,
    /// libpq's password file.
    pub password_file: PathBuf,
    /// What has to survive: spool, cache.
    pub state: PathBuf,
    /// It is that of whoever runs us, and no service's.
    is_of_user: bool,
    /// Sockets.
    pub runtime: PathBuf,
}

const SYSTEM_STATE: &str = "/var/lib/syncdata";

impl Places {
    pub fn find(env: &impl Fn(&str) -> Option<String>) -> Places {
        Places::find_as(env, rustix::process::geteuid().is_root())
    }

    fn find_as(env: &impl Fn(&str) -> Option<String>, root: bool) -> Places {
        // A relative path in these variables is to be ignored (XDG), and would move with the caller.
        let folder = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        // systemd lists several folders with colons; the first is ours.
        let first = |name: &str| {
            let list = env(name)?;
            list.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let home = folder("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let system = root.then(|| PathBuf::from(SYSTEM_STATE));
        let user = || folder("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("syncdata");
        let state = first("STATE_DIRECTORY").or(system);
        let is_of_user = state.is_none();
        let state = state.unwrap_or_else(user);
        let session = || folder("XDG_RUNTIME_DIR").map(|path| path.join("syncdata"));
        let runtime = first("RUNTIME_DIRECTORY").or_else(session).unwrap_or_else(|| state.clone());
        let password_file = folder("PGPASSFILE").unwrap_or_else(|| home.join(".pgpass"));
        let config = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        Places { home, config, password_file, state, is_of_user, runtime }
    }

    /// Where the spool of these settings lies. A file of the system's is about the service of another account, where there is
    /// one, whoever reads it: a member of its group must not go on in a second spool.
    pub(super) fn spool_state(&self, settings_file: Option<&Path>) -> &Path {
        let has_service = || own_files::is_of_another(Path::new(SYSTEM_STATE));
        if self.is_about_service(settings_file) && has_service() {
            Path::new(SYSTEM_STATE)
        } else {
            &self.state
        }
    }

    fn is_about_service(&self, settings_file: Option<&Path>) -> bool {
        let is_of_system = settings_file.is_some_and(|file| file.starts_with("/etc/syncdata"));
        self.is_of_user && is_of_system && !self.state.join("changes/state.json").exists()
    }

    /// Where a daemon's socket may be, best guess first: a command in an administrator's shell does not see
    /// the folders that systemd gave to the service.
    pub(super) fn sockets(&self, program: Program, file: &str) -> Vec<PathBuf> {
        let service = Path::new("/run").join(program.name());
        let folders = [self.runtime.clone(), service, "/run/syncdata".into(), self.state.clone()];
        let mut sockets: Vec<PathBuf> = Vec::new();
        for socket in folders.map(|folder| folder.join(file)) {
            if !sockets.contains(&socket) {
                sockets.push(socket);
            }
        }
        sockets
    }

    /// A leading `~/` is the home folder, as in ssh's own configuration.
    pub(super) fn expand(&self, path: PathBuf) -> PathBuf {
        match path.strip_prefix("~") {
            Ok(rest) => self.home.join(rest),
            Err(_) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(vars: &[(&str, &str)], root: bool) -> Places {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Places::find_as(&env, root)
    }

    #[test]
    fn the_systems_settings_are_about_the_service_unless_the_user_has_a_spool() {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path().to_str().expect("a plain name");
        let ours = find(&[("HOME", home)], false);
        let unit = find(&[("HOME", home), ("STATE_DIRECTORY", "/var/lib/a")], false);
        let [system, own] =
            ["/etc/syncdata/archiver.toml", "/h/.config/syncdata/archiver.toml"].map(Path::new);
        let about = |places: &Places, file| places.is_about_service(file);
        assert!(about(&ours, Some(system)));
        assert!(!about(&ours, Some(own)) && !about(&ours, None) && !about(&unit, Some(system)));
        assert!(!about(&find(&[("HOME", home)], true), Some(system)));
        std::fs::create_dir_all(ours.state.join("changes")).expect("ours");
        std::fs::write(ours.state.join("changes/state.json"), "{}").expect("ours");
        assert!(!about(&ours, Some(system)), "it has gone on in it since before");
    }

    #[test]
    fn state_and_sockets_follow_the_service_manager_then_the_user() {
        let unit = [("HOME", "/h"), ("STATE_DIRECTORY", "/var/lib/a:/b"), ("RUNTIME_DIRECTORY", "/run/a")];
        let user = [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_STATE_HOME", "/h/s")];
        for (vars, root, state, runtime) in [
            (&unit[..], true, "/var/lib/a", "/run/a"),
            (&user[..], false, "/h/s/syncdata", "/run/user/7/syncdata"),
            (&[("HOME", "/h")][..], false, "/h/.local/state/syncdata", "/h/.local/state/syncdata"),
            (
                &[("HOME", "/h"), ("STATE_DIRECTORY", "relative")][..],
                true,
                "/var/lib/syncdata",
                "/var/lib/syncdata",
            ),
            (&[][..], true, "/var/lib/syncdata", "/var/lib/syncdata"),
        ] {
            let places = find(vars, root);
            assert_eq!(
                (places.state.as_path(), places.runtime.as_path()),
                (Path::new(state), Path::new(runtime))
            );
            let sockets = places.sockets(Program::Applier, "x.sock");
            assert_eq!(sockets[0], Path::new(runtime).join("x.sock"));
            assert!(sockets.contains(&PathBuf::from("/run/syncdata-applier/x.sock")));
        }
    }
}
