//! Archives made by hand.

use std::path::Path;

use syncdata_tests::Forge;

/// One table, whose changes are five segments.
pub(super) struct Users {
    folder: tempfile::TempDir,
}

/// Segments of the archive.
pub(super) const SEGMENTS: usize = 5;

/// What is in the table after each of them, by its number; before the first nothing.
pub(super) const AFTER: [&[&str]; SEGMENTS + 1] = [
    &[],
    &["1|uno", "2|two"],
    &["1|uno", "3|three"],
    &["1|uno", "2|two again", "30|moved"],
    &["1|eins", "2|two again", "30|moved"],
    &["1|eins", "2|two again", "4|NULL", "30|thirty"],
];

impl Users {
    pub(super) fn new() -> Users {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forge = Forge::new(folder.path());
        forge.relation("users", &["id integer not null", "note text"], &["id"]);
        let insert = |id: u32, note: &str| insert("users", &format!(r#""id":{id},"note":{note}"#));
        let update = |id: u32, to: u32, note: &str| {
            update("users", &format!(r#""id":{to},"note":"{note}""#), &format!(r#""id":{id}"#))
        };
        for transactions in [
            vec![vec![insert(1, r#""one""#), insert(2, r#""two""#)], vec![update(1, 1, "uno")]],
            vec![vec![insert(3, r#""three""#), delete("users", r#""id":2"#)]],
            vec![vec![update(3, 30, "moved")], vec![insert(2, r#""two again""#)]],
            vec![vec![update(1, 1, "eins")]],
            vec![vec![insert(4, "null"), update(30, 30, "thirty")]],
        ] {
            forge.segment(&transactions);
        }
        Users { folder }
    }

    pub(super) fn archive(&self) -> &Path {
        self.folder.path()
    }
}

pub(super) fn insert(table: &str, data: &str) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{{data}}}}}"#)
}

pub(super) fn update(table: &str, data: &str, old_keys: &str) -> String {
    format!(r#"{{"table":"{table}","op":"UPDATE","data":{{{data}}},"old_keys":{{{old_keys}}}}}"#)
}

pub(super) fn delete(table: &str, old_keys: &str) -> String {
    format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{{old_keys}}}}}"#)
}

pub(super) fn truncate(table: &str) -> String {
    format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#)
}
