//! A small disk of its own, to fill it up.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Account;
use crate::scratch::Scratch;

/// A tmpfs; it is gone when this is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    _folder: Scratch,
}

impl Disk {
    /// `options` as mount takes them: `size=1m`.
    ///
    /// # Panics
    /// When it cannot be mounted: that takes root.
    pub fn mount(options: &str) -> Disk {
        let folder = Scratch::new("disk");
        // Servers have to get through.
        Account::unprivileged().give(folder.path());
        let path = folder.path().join("small");
        std::fs::create_dir(&path).expect("our folder is writable");
        run("mount", &["-t", "tmpfs", "-o", &format!("{options},mode=0755"), "tmpfs"], &path);
        Disk { path, _folder: folder }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder on it that belongs to the account that servers run as.
    pub fn folder_of_a_server(&self, name: &str) -> PathBuf {
        let folder = self.path.join(name);
        std::fs::create_dir(&folder).expect("the disk is writable");
        Account::unprivileged().give(&folder);
        folder
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).expect("the disk is writable");
        let page = [0_u8; 4096];
        while std::io::Write::write_all(&mut ballast, &page).is_ok() {}
    }

    pub fn relieve(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.path);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {} needs root", path.display());
}
