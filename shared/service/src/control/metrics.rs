//! Prometheus' text format.

use std::fmt::{Display, Write as _};

/// What a number means over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Only rises, from the start of the program on.
    Counter,
    Gauge,
}

/// Families of numbers, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics(String);

impl Metrics {
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// A number without labels.
    pub fn add(&mut self, name: &str, sort: Sort, help: &str, value: impl Display) {
        self.family(name, sort, help, [(&[][..], value)]);
    }

    /// The same number for several things, told apart by labels.
    pub fn family<'a, V: Display>(
        &mut self,
        name: &str,
        sort: Sort,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], V)>,
    ) {
        let sort = match sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {sort}"));
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escape(text))).collect();
            match labels.as_slice() {
                [] => self.line(format_args!("{name} {value}")),
                labels => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
            }
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes any text");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_forge_a_sample() {
        let mut metrics = Metrics::new();
        metrics.add("syncdata_up", Sort::Gauge, "1 while it runs", 1);
        let odd = [("table", "a\"} 1\nb\\")];
        metrics.family("syncdata_rows_total", Sort::Counter, "rows\napplied", [(&odd[..], 7_u64)]);
        let expected = "# HELP syncdata_up 1 while it runs\n# TYPE syncdata_up gauge\nsyncdata_up 1\n\
            # HELP syncdata_rows_total rows\\napplied\n# TYPE syncdata_rows_total counter\n\
            syncdata_rows_total{table=\"a\\\"} 1\\nb\\\\\"} 7\n";
        assert_eq!(metrics.into_text(), expected);
    }
}
