//! When the whole archive was verified last by a command on this host: kept beside the spool, for `status`.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use syncdata_archive::verify::LastVerify;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_service::{own_files, small_file};

const BYTES_MAX: usize = 4096;

fn file(spool_dir: &Path) -> PathBuf {
    spool_dir.join("verified.json")
}

/// Whoever verifies may be another user than the daemon, which only reads it.
pub(crate) fn note(spool_dir: &Path, last: LastVerify) -> Result<()> {
    let (path, new) = (file(spool_dir), spool_dir.join("verified.json.new"));
    let doing = || format!("writing {}", path.display());
    let mut opened = own_files::create_anew(&new).context(doing)?;
    let text = serde_json::to_vec(&last).expect("a number and a time");
    opened.write_all(&text).context(doing)?;
    opened.set_permissions(Permissions::from_mode(0o644)).context(doing)?;
    opened.sync_all().context(doing)?;
    fs::rename(&new, &path).context(doing)
}

/// `None`: never, as far as it is known here.
pub(crate) fn last(spool_dir: &Path) -> Result<Option<LastVerify>> {
    let path = file(spool_dir);
    let Some(bytes) = small_file::read_own_if_there(&path, BYTES_MAX)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::new(Kind::StateDamaged, format!("{} cannot be read", path.display()))
            .hint("remove it: the next `verify` writes it anew")
            .caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use syncdata_formats::time::Timestamp;

    use super::*;

    #[test]
    fn what_was_noted_is_read_again_and_a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(last(folder.path()).expect("nothing is fine"), None);
        for problems in [0, 3] {
            let noted = LastVerify { at: Timestamp::now(), problems };
            note(folder.path(), noted).expect("ours");
            assert_eq!(last(folder.path()).expect("ours"), Some(noted));
        }
        fs::write(file(folder.path()), "{").expect("ours");
        assert!(last(folder.path()).expect_err("damaged").report().contains("verified.json"));
    }
}
