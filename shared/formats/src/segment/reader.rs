//! Reading a change file against its manifest.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Read;
use std::ops::Range;

use super::content::{Ahead, Content};
use super::lines::{Line, Lines};
use super::shape::Shapes;
use super::tally::Tally;
use crate::change::{LongRow, Op, Record};
use crate::error::{Error, Kind, Result};
use crate::frame::Frame;
use crate::json::Scanner;
use crate::lsn::Lsn;
use crate::manifest::{Manifest, OpCounts, Span};
use crate::name::TableName;

/// Yields a segment's records in their order.
///
/// The end (`Ok(None)`) is only ever returned when every promise of the manifest has been kept: size and SHA-256 of
/// the file and of its content, the counts per table, the transactions, the positions and the span. Whoever
/// commits after the end has committed verified rows; whoever stops earlier must undo.
pub struct SegmentReader<R> {
    lines: Lines<R>,
    shapes: Shapes,
    counting: Counting,
    line: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Reading,
    Ended,
    Refused,
}

/// What was promised of the records, and what they came to.
struct Counting {
    promised: Promised,
    tally: Tally,
    spellings: HashMap<String, usize>,
    /// Its spelling and its number; `None` before the first row.
    last_table: Option<(String, usize)>,
}

/// What the manifest says about the records.
struct Promised {
    records: u64,
    transactions: u64,
    tables: BTreeMap<TableName, OpCounts>,
    end_lsn: Lsn,
    span: Option<Span>,
}

impl<R: Read> SegmentReader<R> {
    /// A line is held in memory whole. Of one that is longer the reader says no more than whose it is, and how long.
    pub const LINE_BYTES_MAX: usize = 256 << 20;

    /// `source` stands at the start of the change file that lies beside `manifest`.
    pub fn new(source: R, manifest: &Manifest) -> Result<SegmentReader<R>> {
        Ok(SegmentReader::of(Content::here(frame(source, manifest)?), manifest))
    }

    /// The same; what comes next is unpacked meanwhile, on a thread of its own.
    pub fn ahead(source: R, manifest: &Manifest) -> Result<SegmentReader<R>>
    where
        R: Send + 'static,
    {
        let ahead = Ahead::start(frame(source, manifest)?)?;
        Ok(SegmentReader::of(Content::Ahead(ahead), manifest))
    }

    fn of(content: Content<R>, manifest: &Manifest) -> SegmentReader<R> {
        SegmentReader {
            lines: Lines::new(content, Self::LINE_BYTES_MAX),
            shapes: Shapes::default(),
            counting: Counting {
                promised: Promised {
                    records: manifest.records,
                    transactions: manifest.transactions,
                    tables: manifest.tables.clone(),
                    end_lsn: manifest.end_lsn,
                    span: manifest.span,
                },
                tally: Tally::new(manifest.start_lsn),
                spellings: HashMap::new(),
                last_table: None,
            },
            line: 0,
            state: State::Reading,
        }
    }

    /// Holds longer lines, or does not hold as long ones.
    #[must_use]
    pub fn with_line_bytes_max(mut self, line_bytes_max: usize) -> SegmentReader<R> {
        self.lines.limit_lines(line_bytes_max);
        self
    }

    /// The next record, `None` once all is read and all is right. After an error there is only that error's echo.
    #[expect(clippy::should_implement_trait, reason = "an Iterator's items cannot borrow from it")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(None),
            State::Refused => return Err(self.lines.refused("it was refused before")),
        }
        self.state = State::Refused;
        let Some(line) = self.advance()? else {
            self.state = State::Ended;
            return Ok(None);
        };
        let SegmentReader { lines, shapes, counting, line: at, .. } = self;
        let line = match line {
            Line::Whole(line) => line,
            Line::Long(head) => {
                let long = counting.long(lines, head, *at)?;
                counting.check_records().map_err(|problem| lines.refused(problem))?;
                self.state = State::Reading;
                return Ok(Some(Record::Long(long)));
            }
        };
        let text = lines.get(line);
        let record = match shapes.find(text) {
            Some((table, op)) => {
                counting.tally.row(table, op);
                Record::Row(shapes.row(text))
            }
            None => counting.parse(text, shapes).map_err(|error| in_line(lines, *at, error))?,
        };
        counting.check_records().map_err(|problem| lines.refused(problem))?;
        self.state = State::Reading;
        Ok(Some(record))
    }

    /// Reads to the end, for nothing but the proof: what `next` would refuse is refused.
    pub fn check(mut self) -> Result<()> {
        while let Some(line) = self.advance()? {
            let SegmentReader { lines, shapes, counting, line: at, .. } = &mut self;
            let line = match line {
                Line::Whole(line) => line,
                Line::Long(head) => {
                    counting.long(lines, head, *at)?;
                    counting.check_records().map_err(|problem| lines.refused(problem))?;
                    continue;
                }
            };
            let text = lines.get(line);
            match shapes.find(text) {
                Some((table, op)) => counting.tally.row(table, op),
                None => drop(counting.parse(text, shapes).map_err(|error| in_line(lines, *at, error))?),
            }
            counting.check_records().map_err(|problem| lines.refused(problem))?;
        }
        Ok(())
    }

    /// Where the next line lies; `None` is the end, with every promise kept.
    fn advance(&mut self) -> Result<Option<Line>> {
        let line = self.lines.next()?;
        match line {
            Some(_) => self.line += 1,
            None => self.counting.check_end().map_err(|problem| self.lines.refused(problem))?,
        }
        Ok(line)
    }

    /// The number of the line that `next` read last, from 1: for messages.
    pub fn line(&self) -> u64 {
        self.line
    }

    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.lines.buffer_bytes()
    }
}

impl Counting {
    /// Reads a line of a shape that is not known yet.
    fn parse<'a>(&mut self, text: &'a [u8], shapes: &mut Shapes) -> Result<Record<'a>> {
        let record = Record::parse(text)?;
        match &record {
            Record::Row(row) => {
                let table = self.number_of(&row.table)?;
                self.tally.row(table, row.op);
                shapes.learn(text, row, table);
            }
            Record::Commit(commit) => self
                .tally
                .commit(commit)
                .and_then(|()| self.promised.check_position(&self.tally))
                .map_err(|problem| Error::new(Kind::Corrupt, problem))?,
            Record::Long(_) => unreachable!("it was not read whole"),
        }
        Ok(record)
    }

    /// Counts a line that is too long to be held, and passes over it. Its bytes are proved with all others.
    fn long<R: Read>(&mut self, lines: &mut Lines<R>, head: Range<usize>, at: u64) -> Result<LongRow> {
        let Some((table, op)) = head_of_row(lines.get(head)) else {
            let most = lines.line_bytes_max();
            let problem =
                format!("a line is longer than {most} bytes, and its table does not stand in front");
            return Err(in_line(lines, at, Error::new(Kind::Corrupt, problem)));
        };
        let number = self.number_of(&table).map_err(|error| in_line(lines, at, error))?;
        self.tally.row(number, op);
        Ok(LongRow { table, op, bytes: lines.skip()? })
    }

    /// The tally's number of a table. Each spelling is checked once.
    fn number_of(&mut self, spelling: &str) -> Result<usize> {
        if let Some((last, number)) = &self.last_table
            && last == spelling
        {
            return Ok(*number);
        }
        let number = match self.spellings.get(spelling) {
            Some(&number) => number,
            None => {
                let number = self.tally.number_of(&TableName::from_archive(spelling)?);
                self.spellings.insert(spelling.to_owned(), number);
                number
            }
        };
        let (last, last_number) = self.last_table.get_or_insert_default();
        last.clear();
        last.push_str(spelling);
        *last_number = number;
        Ok(number)
    }

    fn check_records(&self) -> Result<(), String> {
        if self.tally.records > self.promised.records {
            return Err(format!("it has more than {} records", self.promised.records));
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), String> {
        let Promised { records, transactions, ref tables, end_lsn, span } = self.promised;
        let tally = &self.tally;
        if tally.open_rows > 0 {
            return Err(format!("its last {} rows have no COMMIT", tally.open_rows));
        }
        if tally.transactions != transactions {
            return Err(format!("it should have {transactions} transactions and has {}", tally.transactions));
        }
        if tally.records != records {
            return Err(format!("it should have {records} records and has {}", tally.records));
        }
        if tally.end_lsn != end_lsn {
            return Err(format!("it should end at {end_lsn} and ends at {}", tally.end_lsn));
        }
        if tally.span != span {
            return Err(format!("its times and xids should be {span:?} and are {:?}", tally.span));
        }
        let counted = tally.tables();
        if counted != *tables {
            return Err(format!("its counts should be {tables:?} and are {counted:?}"));
        }
        Ok(())
    }
}

/// What a row's line begins with, as the archiver writes it.
fn head_of_row(head: &[u8]) -> Option<(String, Op)> {
    let end = std::str::from_utf8(head).map_or_else(|error| error.valid_up_to(), str::len);
    let head = std::str::from_utf8(&head[..end]).expect("looked at just now");
    let (mut table, mut op) = (None, None);
    // It ends in the middle: that what follows cannot be read is known.
    let _ = Scanner::new(head, 2).object(|scanner, name| {
        match name.as_ref() {
            "table" => table = Some(scanner.string()?.into_owned()),
            "op" => op = Op::of_row(&scanner.string()?),
            _ => return Err(scanner.error("enough was read")),
        }
        Ok(())
    });
    Some((table?, op?))
}

fn in_line<R: Read>(lines: &Lines<R>, line: u64, error: Error) -> Error {
    lines.refused(error.context(format!("line {line}")))
}

fn frame<R: Read>(source: R, manifest: &Manifest) -> Result<Frame<R>> {
    let Some(file) = manifest.file.clone() else {
        let message = format!("segment {} declares a gap and has no change file", manifest.seq);
        return Err(Error::new(Kind::NotFound, message));
    };
    Frame::new(source, file)
}

impl Promised {
    fn check_position(&self, tally: &Tally) -> Result<(), String> {
        if tally.end_lsn > self.end_lsn {
            return Err(format!(
                "a transaction ends at {}, after the segment's {}",
                tally.end_lsn, self.end_lsn
            ));
        }
        Ok(())
    }
}

impl<R> fmt::Debug for SegmentReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentReader")
            .field("line", &self.line)
            .field("tally", &self.counting.tally)
            .finish_non_exhaustive()
    }
}
