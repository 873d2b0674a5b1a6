//! Rows as COPY prints them: a line each, columns between tabs. Neither byte ever stands for itself in a value, so
//! that no escape has to be understood here.

use memchr::memchr;

/// Where the columns of a table's key stand in its rows; empty without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPlaces(Vec<usize>);

impl KeyPlaces {
    /// `None` for a name that no column has.
    pub(crate) fn of(key: &[String], columns: &[String]) -> Option<KeyPlaces> {
        let place = |name: &String| columns.iter().position(|column| column == name);
        key.iter().map(place).collect::<Option<Vec<usize>>>().map(KeyPlaces)
    }

    /// The key of a row, columns between tabs; `None` without a key.
    pub(crate) fn key_of(&self, row: &[u8]) -> Option<Vec<u8>> {
        let last = *self.0.iter().max()?;
        let row = row.strip_suffix(b"\n").unwrap_or(row);
        let mut fields = Vec::with_capacity(last + 1);
        let mut rest = row;
        while fields.len() <= last {
            let (field, after) = match memchr(b'\t', rest) {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            fields.push(field);
            rest = after;
        }
        let columns: Vec<&[u8]> = self.0.iter().map(|place| fields[*place]).collect();
        Some(columns.join(&b'\t'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_copy_row() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let places = KeyPlaces::of(&[names[2].clone(), names[0].clone()], &names).expect("both are columns");
        syncdata_fuzz::replay("copy_row", |bytes| {
            let key = places.key_of(bytes).expect("the table has a key");
            assert_eq!(key.iter().filter(|byte| **byte == b'\t').count(), 1);
            bytes.iter().filter(|byte| **byte == b'\t').count() == 2
        });
    }

    #[test]
    fn a_key_is_found_wherever_its_columns_stand() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let columns = names(&["a", "b", "c"]);
        for (key, row, found) in [
            (&["a"][..], "1\tx\ty\n", Some("1")),
            (&["c"], "1\tx\ty\n", Some("y")),
            (&["c", "a"], "1\t\\N\ty\\tz\n", Some("y\\tz\t1")),
            (&["b"], "1\t\t3\n", Some("")),
            (&[], "1\t2\t3\n", None),
        ] {
            let places = KeyPlaces::of(&names(key), &columns).expect("known columns");
            let key = places.key_of(row.as_bytes()).map(|key| String::from_utf8(key).expect("UTF-8"));
            assert_eq!(key.as_deref(), found, "{row:?}");
        }
        assert_eq!(KeyPlaces::of(&names(&["z"]), &columns), None);
    }
}
