//! Groups of tables: each has a checkpoint of its own, and its tables move together.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use syncdata_formats::error::Error;

/// The name of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Cow<'static, str>);

/// As many bytes as a name in PostgreSQL has.
const BYTES_MAX: usize = 63;

impl GroupName {
    /// The group of every table that nobody has put into another one.
    pub const DEFAULT: GroupName = GroupName(Cow::Borrowed("default"));

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GroupName {
    fn default() -> GroupName {
        GroupName::DEFAULT
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GroupName {
    type Err = Error;

    fn from_str(text: &str) -> Result<GroupName, Error> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        if (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            return Ok(GroupName(Cow::Owned(text.to_owned())));
        }
        Err(Error::bad_input("the name of a group (a to z, 0 to 9, _ and -, 63 at most)", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_first_group_is_one_that_is_read() {
        assert_eq!("default".parse::<GroupName>().expect("it is plain"), GroupName::DEFAULT);
        assert_eq!(GroupName::default().to_string(), "default");
    }

    #[test]
    fn refuses_what_is_no_name_of_a_group() {
        let longest = "x".repeat(BYTES_MAX);
        for text in ["night", "a-b_2", "7", &longest] {
            assert_eq!(text.parse::<GroupName>().expect(text).as_str(), text);
        }
        for text in ["", "Night", "a b", "a.b", "nacht\u{fc}", "a'b", "a\0", &format!("{longest}x")] {
            assert!(text.parse::<GroupName>().is_err(), "accepted {text:?}");
        }
    }
}
