//! `keygen`: a key for signing manifests.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use syncdata_formats::Result;
use syncdata_formats::error::Context as _;
use syncdata_formats::signature::SigningKey;

/// Writes the secret key to `file` and the public one beside it, whose path is returned. No file is overwritten.
pub(crate) fn keygen(file: &Path) -> Result<PathBuf> {
    let (secret, public) = SigningKey::generate()?;
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);

    write_new(file, &secret, 0o600)?;
    write_new(&public_file, &public, 0o644)?;
    Ok(public_file)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).context(doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context(doing)
}
