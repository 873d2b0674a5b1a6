//! Files of this host that are read whole: settings, keys, manifests in the spool. The one way to read them, so that a
//! file which turned out to be another one (a disk image, a device without an end) does not fill the memory.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use syncdata_formats::error::{Context as _, Error, Kind, Result};

use crate::own_files;

/// For what an operator writes or makes: settings, keys, passwords, known hosts.
pub const OPERATORS_BYTES_MAX: usize = 16 << 20;

/// `Kind::NotFound` when there is none, `Kind::BadInput` when it is a pipe or a folder, `Kind::Corrupt` when it is longer
/// than `bytes_max`.
pub fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    read_opened(open_plain(path)?, path, bytes_max)
}

/// The same; `None` when there is none.
pub fn read_if_there(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>> {
    match read(path, bytes_max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of a file that we wrote ourselves, in a folder of ours: links are not followed.
pub fn read_own(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    read_opened(own_files::read_plain(path)?, path, bytes_max)
}

/// The same; `None` when there is none.
pub fn read_own_if_there(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>> {
    match read_own(path, bytes_max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a file that an operator wrote or made.
pub fn read_text(path: &Path) -> Result<String> {
    text(read(path, OPERATORS_BYTES_MAX)?, path)
}

/// The text that somebody hands over with a command: a pipe is one too, as in `--config <(decrypt …)`.
pub fn read_handed_over(path: &Path) -> Result<String> {
    let opened = File::open(path).context(|| format!("opening {}", path.display()))?;
    text(read_opened(opened, path, OPERATORS_BYTES_MAX)?, path)
}

/// Refuses what would hold up whoever reads it, where a library does that by name.
pub fn check_plain(path: &Path) -> Result<()> {
    open_plain(path).map(drop)
}

/// Opens a file whose rights may be looked at before it is read. A pipe, which would hold a daemon until somebody
/// writes into it, and a folder are no such file; nor can they be read again on a reload.
pub fn open_plain(path: &Path) -> Result<File> {
    let doing = || format!("opening {}", path.display());
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
    let opened = File::options().read(true).custom_flags(flags).open(path).context(doing)?;
    if !opened.metadata().context(doing)?.is_file() {
        let message = format!("{} is no plain file", path.display());
        return Err(Error::new(Kind::BadInput, message).hint("name a file that holds it"));
    }
    Ok(opened)
}

/// The same, of a file whose rights were looked at after it was opened.
pub fn read_opened_text(opened: File, path: &Path) -> Result<String> {
    text(read_opened(opened, path, OPERATORS_BYTES_MAX)?, path)
}

fn read_opened(opened: File, path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = (bytes_max as u64).saturating_add(1);
    opened.take(limit).read_to_end(&mut bytes).context(|| format!("reading {}", path.display()))?;
    if bytes.len() > bytes_max {
        let message = format!("{} has more than {bytes_max} bytes: it is another file", path.display());
        return Err(Error::new(Kind::Corrupt, message));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::new(Kind::BadInput, format!("{} is not text in UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_after_its_limit() {
        for path in ["/dev/zero", "/dev/urandom"] {
            let error = read_handed_over(Path::new(path)).expect_err("endless");
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.report().contains(path), "{error:?}");
        }
    }

    #[test]
    fn what_is_no_plain_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            let read = [
                open_plain(path).map(drop),
                read(path, 1).map(drop),
                read_if_there(path, 1).map(drop),
                read_text(path).map(drop),
                check_plain(path),
            ];
            for error in read.map(|read| read.expect_err("no file")) {
                assert_eq!(error.kind(), Kind::BadInput, "{error:?}");
                assert!(error.report().contains("is no plain file"), "{error:?}");
            }
        }
        let missing = open_plain(&folder.path().join("none")).expect_err("nothing is there");
        assert_eq!(missing.kind(), Kind::NotFound);
    }

    #[test]
    fn reads_up_to_the_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        assert!(read_if_there(&path, 4).expect("nothing is fine").is_none());
        assert_eq!(read(&path, 4).expect_err("nothing").kind(), Kind::NotFound);
        std::fs::write(&path, "four").expect("ours");
        assert_eq!(read(&path, 4).expect("it fits"), b"four");
        assert_eq!(read_text(&path).expect("text"), "four");
        assert!(read(&path, 3).is_err());
    }
}
