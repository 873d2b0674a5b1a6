//! How long the archive has said nothing. Each question has its own patience, and is asked again; whoever waits for the
//! end of all of them needs another measure.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncdata_archive::{Archive, Content, Entry, Facts, Put};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is said that nothing is heard.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// See the module. Shared by all who ask.
#[derive(Clone, Debug, Default)]
pub struct Silence(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    /// Questions that wait for their answers.
    questions: usize,
    /// Since when nothing was heard, while somebody waits or has waited in vain.
    silent_since: Option<Instant>,
    said: Option<Instant>,
    /// Whether the newest question was answered, with whatever words; `None`: nothing was asked.
    has_answered: Option<bool>,
}

/// A question that waits for its answer, until it is dropped.
#[derive(Debug)]
pub struct Question {
    silence: Silence,
    is_in_vain: bool,
}

impl Silence {
    pub fn ask(&self) -> Question {
        let mut heard = self.heard();
        heard.questions += 1;
        heard.silent_since.get_or_insert_with(Instant::now);
        Question { silence: self.clone(), is_in_vain: false }
    }

    /// The archive has said something, or what was before is forgotten.
    pub fn end(&self) {
        let mut heard = self.heard();
        heard.silent_since = (heard.questions > 0).then(Instant::now);
        heard.said = None;
    }

    /// Whether the newest question since the last call of this was answered.
    pub fn take_answer(&self) -> Option<bool> {
        self.heard().has_answered.take()
    }

    fn lasts(&self) -> Duration {
        self.heard().silent_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Says that it lasts, for as long as it does.
    pub async fn say(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let lasts = self.lasts();
            let mut heard = self.heard();
            let is_due = heard.said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
            if lasts >= SAY_EVERY && is_due {
                heard.said = Some(Instant::now());
                tracing::warn!(seconds = lasts.as_secs(), "the archive says nothing");
            }
        }
    }

    /// Ends when it has lasted for so long.
    pub async fn lasting(&self, patience: Duration) -> Error {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let lasts = self.lasts();
            if lasts >= patience {
                let message = format!("the archive has said nothing for {} s", lasts.as_secs());
                return Error::new(Kind::Unreachable, message)
                    .hint("check archive_host, the network, and whether sshd there is well; nothing is lost meanwhile");
            }
        }
    }

    /// A panic elsewhere leaves what was noted.
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// There will be no answer; the silence lasts.
    pub fn in_vain(mut self) {
        self.is_in_vain = true;
        self.silence.heard().has_answered = Some(false);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut heard = self.silence.heard();
        heard.questions -= 1;
        if heard.questions == 0 && !self.is_in_vain {
            heard.silent_since = None;
        }
    }
}

/// An archive whose every word ends the silence.
pub(super) struct Attentive<'a> {
    pub archive: &'a mut dyn Archive,
    pub silence: Silence,
}

impl Attentive<'_> {
    fn hear<T>(&self, answer: Result<T>) -> Result<T> {
        let failure = answer.as_ref().err().map(Error::kind);
        if failure != Some(Kind::Unreachable) {
            self.silence.end();
        }
        // Who says no to all that is asked is no use either.
        let has_answered = !matches!(failure, Some(Kind::Unreachable | Kind::Refused));
        self.silence.heard().has_answered = Some(has_answered);
        answer
    }
}

impl Archive for Attentive<'_> {
    fn location(&self) -> &str {
        self.archive.location()
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        let answer = self.archive.put(path, content, facts);
        self.hear(answer)
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        let answer = self.archive.replace(path, content);
        self.hear(answer)
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        let answer = self.archive.read(path, offset, &mut Heeded { into, silence: &self.silence });
        self.hear(answer)
    }

    fn read_part(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        let into = &mut Heeded { into, silence: &self.silence };
        let answer = self.archive.read_part(path, offset, bytes, into);
        self.hear(answer)
    }

    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        let answer = self.archive.list(folder);
        self.hear(answer)
    }

    fn list_after(&mut self, folder: &ArchivePath, name: &str) -> Result<Vec<Entry>> {
        let answer = self.archive.list_after(folder, name);
        self.hear(answer)
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        let answer = self.archive.stat(path);
        self.hear(answer)
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        let answer = self.archive.remove(path);
        self.hear(answer)
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        let answer = self.archive.changed_at(path);
        self.hear(answer)
    }

    fn room(&mut self) -> Result<Option<u64>> {
        let answer = self.archive.room();
        self.hear(answer)
    }

    fn keeps_names(&mut self, path: &ArchivePath, content: &[u8]) -> Result<bool> {
        let answer = self.archive.keeps_names(path, content);
        self.hear(answer)
    }
}

struct Heeded<'a> {
    into: &'a mut dyn Write,
    silence: &'a Silence,
}

impl Write for Heeded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.silence.end();
        self.into.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_a_question_over_others_in_vain_until_something_is_heard() {
        let silence = Silence::default();
        assert_eq!(silence.lasts(), Duration::ZERO);
        silence.ask().in_vain();
        assert!(silence.lasts() > Duration::ZERO, "asked in vain");
        assert_eq!((silence.take_answer(), silence.take_answer()), (Some(false), None));
        drop(silence.ask());
        assert_eq!(silence.lasts(), Duration::ZERO, "answered, and nobody waits any more");
        let _waits = silence.ask();
        let before = silence.heard().silent_since;
        drop(silence.ask());
        assert_eq!(silence.heard().silent_since, before, "another question is no answer");
        silence.end();
        assert!(silence.heard().silent_since > before, "the first one still waits");
    }
}
