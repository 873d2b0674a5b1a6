//! A part of a hundred, exact: `99.95`.

use std::fmt;

/// In hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

impl Percent {
    const WHOLE: u32 = 10_000;

    /// `None`: more than a hundred, or with more than two digits after the point.
    pub fn read(text: &str) -> Option<Percent> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "00"));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || whole.len() > 3 || fraction.len() > 2 {
            return None;
        }
        let hundredths: u32 = format!("{whole}{fraction:0<2}").parse().ok()?;
        (hundredths <= Percent::WHOLE).then_some(Percent(hundredths))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_read_digit_for_digit() {
        for (text, shown) in
            [("90.0", "90.00"), ("90", "90.00"), ("99.95", "99.95"), ("100.00", "100.00"), ("0.5", "0.50")]
        {
            assert_eq!(
                Percent::read(text).map(|percent| percent.to_string()).as_deref(),
                Some(shown),
                "{text}"
            );
        }
        for text in ["", "100.01", "101", "-1", "90.", ".5", "9O", "90.123", "1e2"] {
            assert_eq!(Percent::read(text), None, "accepted {text}");
        }
        assert!(Percent::read("89.99") < Percent::read("90"));
    }
}
