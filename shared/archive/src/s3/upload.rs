//! A file that is too large for one request goes in pieces, and has its name when the store puts them together: at once, and
//! only if nothing else has it. Pieces of an earlier run, which nobody sees and somebody pays for, are let go of first.

use std::fmt::Write as _;

use bytes::Bytes;
use hyper::Method;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_service::backoff::Dice;
use syncdata_service::faults;

use super::client::{Client, Said};
use super::refusal::Refusal;
use super::request::Request;
use super::xml::Element;
use crate::content::pour;
use crate::{Content, Facts};

/// A smaller file is one request. Stores take pieces from 5 MiB on; each is in memory while it is sent.
pub(super) const PIECE_BYTES: usize = 8 << 20;
/// Stores take ten thousand.
const PIECES_MAX: u64 = 10_000;

/// What became of an upload.
pub(super) enum Ended {
    Written,
    /// The name was taken by the time it was complete.
    Taken,
}

/// Sends the whole content; nothing has the name before all of it is known to be what `facts` say.
pub(super) fn upload(
    client: &mut Client,
    key: &str,
    path: &ArchivePath,
    content: &mut dyn Content,
    facts: Facts,
) -> Result<Ended> {
    abort_earlier(client, key, path)?;
    let mut upload = Upload::begin(client, key, path)?;
    let ended = upload.send(content, facts).and_then(|()| upload.complete());
    if ended.is_err() {
        // Best effort: else the next upload of that name lets go of it.
        let _ = upload.abort();
    }
    ended
}

/// Those of that very name. Whoever may not list them goes on: the owner of the bucket has a rule for such.
fn abort_earlier(client: &mut Client, key: &str, path: &ArchivePath) -> Result<()> {
    let list = Request::new(Method::GET, None).query("uploads", "").query("prefix", key);
    let said = match retried(client, |client| client.ask(&list), &format!("looking for pieces of {path}"))? {
        Ok(said) => said,
        Err(refusal) => {
            tracing::debug!(file = %path, code = refusal.code, "unfinished uploads cannot be listed");
            return Ok(());
        }
    };
    let list = Element::parse(&said.document)?;
    for earlier in list.all("Upload").filter(|upload| upload.text_of("Key") == key) {
        let id = earlier.text_of("UploadId");
        tracing::debug!(file = %path, "letting go of an unfinished upload");
        let abort = Request::new(Method::DELETE, Some(key.to_owned())).query("uploadId", id);
        // Its own run may have ended it meanwhile, and rights may be few.
        let _ = retried(client, |client| client.ask(&abort), "letting go of an unfinished upload")?;
    }
    Ok(())
}

struct Upload<'a> {
    client: &'a mut Client,
    key: &'a str,
    path: &'a ArchivePath,
    id: String,
    /// In their order.
    pieces: Vec<Piece>,
}

struct Piece {
    /// What the store calls it.
    name: String,
    /// Its SHA-256, as the store was told.
    checksum: String,
}

impl<'a> Upload<'a> {
    fn begin(client: &'a mut Client, key: &'a str, path: &'a ArchivePath) -> Result<Upload<'a>> {
        let doing = format!("beginning to write {path}");
        // Amazon's takes no piece with a checksum of which it does not hear here.
        let begin = Request::new(Method::POST, Some(key.to_owned()))
            .query("uploads", "")
            .header("x-amz-checksum-algorithm", "SHA256");
        let said =
            retried(client, |client| client.ask(&begin), &doing)?.map_err(|refusal| refusal.error(&doing))?;
        let id = Element::parse(&said.document)?.text_of("UploadId").to_owned();
        if id.is_empty() {
            return Err(Error::new(Kind::Io, format!("{doing}: the store names no upload")));
        }
        Ok(Upload { client, key, path, id, pieces: Vec::new() })
    }

    fn send(&mut self, content: &mut dyn Content, facts: Facts) -> Result<()> {
        let piece_bytes = piece_bytes(facts.bytes);
        let mut piece = Vec::with_capacity(piece_bytes);
        let path = self.path;
        pour(path, content, facts, |mut bytes| {
            while !bytes.is_empty() {
                let fits = bytes.len().min(piece_bytes - piece.len());
                piece.extend_from_slice(&bytes[..fits]);
                bytes = &bytes[fits..];
                if piece.len() == piece_bytes {
                    self.send_piece(std::mem::replace(&mut piece, Vec::with_capacity(piece_bytes)))?;
                }
            }
            Ok(())
        })?;
        if !piece.is_empty() {
            self.send_piece(piece)?;
        }
        faults::hit("archive.part_written")
    }

    fn send_piece(&mut self, piece: Vec<u8>) -> Result<()> {
        let number = self.pieces.len() + 1;
        let doing = format!("writing {}, piece {number}", self.path);
        let put = Request::new(Method::PUT, Some(self.key.to_owned()))
            .query("partNumber", number.to_string())
            .query("uploadId", &self.id)
            .with_checksum(Bytes::from(piece));
        let checksum = put.checksum();
        let said = retried(self.client, |client| client.ask(&put), &doing)?
            .map_err(|refusal| refusal.error(&doing))?;
        let name =
            said.etag.ok_or_else(|| Error::new(Kind::Io, format!("{doing}: the store does not name it")))?;
        self.pieces.push(Piece { name, checksum });
        Ok(())
    }

    fn complete(&mut self) -> Result<Ended> {
        faults::hit("archive.before_rename")?;
        self.put_together()
    }

    fn put_together(&mut self) -> Result<Ended> {
        let doing = format!("writing {}", self.path);
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, Piece { name, checksum }) in (1..).zip(&self.pieces) {
            let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            let checksum = format!("<ChecksumSHA256>{checksum}</ChecksumSHA256>");
            write!(list, "<Part><PartNumber>{number}</PartNumber><ETag>{name}</ETag>{checksum}</Part>")
                .expect("a String takes all");
        }
        list.push_str("</CompleteMultipartUpload>");
        let complete = Request::new(Method::POST, Some(self.key.to_owned()))
            .query("uploadId", &self.id)
            .header("content-type", "application/xml")
            .header("if-none-match", "*")
            .body(Bytes::from(list));
        match retried(self.client, |client| client.ask(&complete).map(|asked| asked.and_then(whole)), &doing)?
        {
            Ok(_) => Ok(Ended::Written),
            Err(refusal) if refusal.is_unmet_condition() => Ok(Ended::Taken),
            // The answer to an earlier try may have been lost: then the file is there.
            Err(refusal) if refusal.code == "NoSuchUpload" => Ok(Ended::Taken),
            Err(refusal) => Err(refusal.error(&doing)),
        }
    }

    fn abort(&mut self) -> Result<()> {
        let abort = Request::new(Method::DELETE, Some(self.key.to_owned())).query("uploadId", &self.id);
        self.client.ask(&abort).map(drop)
    }
}

/// Putting pieces together takes its time, and a failure may come after the head of a success. What says neither is not the store's.
fn whole(said: Said) -> Result<Said, Refusal> {
    match Element::parse(&said.document) {
        Ok(error) if error.name == "Error" => Err(Refusal::of(500, None, &error)),
        Ok(result) if result.name == "CompleteMultipartUploadResult" => Ok(said),
        _ => Err(Refusal::of_a_stranger(200)),
    }
}

/// Whether a name that is taken stays what it is when pieces are put together under it: asked with one piece of that content.
pub(super) fn keeps_name(client: &mut Client, key: &str, path: &ArchivePath, content: &[u8]) -> Result<bool> {
    let mut upload = Upload::begin(client, key, path)?;
    let ended = upload.send_piece(content.to_vec()).and_then(|()| upload.put_together());
    if !matches!(ended, Ok(Ended::Written)) {
        // Best effort, as above.
        let _ = upload.abort();
    }
    Ok(matches!(ended?, Ended::Taken))
}

/// Asked again while what is in the way passes. The last refusal is the caller's.
fn retried(
    client: &mut Client,
    mut ask: impl FnMut(&mut Client) -> Result<Result<Said, Refusal>>,
    doing: &str,
) -> Result<Result<Said, Refusal>> {
    let mut backoff = client.patience.backoff();
    loop {
        let error = match ask(client) {
            Ok(Err(refusal)) => match refusal.error(doing) {
                error if error.kind() == Kind::Unreachable => error,
                _ => return Ok(Err(refusal)),
            },
            Err(error) if error.kind() == Kind::Unreachable => error,
            other => return other,
        };
        let Some(wait) = backoff.next(Dice::roll()) else { return Err(error) };
        tracing::debug!(error = %error.one_line(), "asking the store again");
        std::thread::sleep(wait);
    }
}

/// So large that their number is taken.
fn piece_bytes(bytes: u64) -> usize {
    let least = bytes.div_ceil(PIECES_MAX).next_multiple_of(1 << 20);
    usize::try_from(least).map_or(PIECE_BYTES, |least| least.max(PIECE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_enough() {
        assert_eq!(piece_bytes(PIECE_BYTES as u64 + 1), PIECE_BYTES);
        for bytes in [79_u64 << 30, 1 << 40, 5 << 40] {
            let pieces = bytes.div_ceil(piece_bytes(bytes) as u64);
            assert!(pieces <= PIECES_MAX, "{bytes}: {pieces}");
        }
    }
}
