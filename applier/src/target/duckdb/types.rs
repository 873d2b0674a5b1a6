//! Which DuckDB type keeps the values of which PostgreSQL type, and how their text gets in and out. Pure.
//!
//! Types that are not named here are kept as PostgreSQL's text. A value goes into another type only if it prints as the
//! same text there: DuckDB takes `1.5` into a BIGINT, `44-03-15 BC` into a DATE and `1e400` into a DOUBLE, as other values.

/// Digits of a DECIMAL; the rest has to stay text.
const DIGITS_MAX: u32 = 38;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// PostgreSQL's text.
    Text,
    Boolean,
    /// By DuckDB's name.
    Integer(&'static str),
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// By DuckDB's name.
    Float(&'static str),
    Date,
    Time,
    Timestamp,
    /// Printed in UTC, as all that travels is.
    TimestampTz,
    Uuid,
    /// `\x00ff`, by its bytes.
    Bytes,
}

impl Mapping {
    /// Of a type as `format_type` prints it.
    pub fn of(type_name: &str) -> Mapping {
        match type_name {
            "boolean" => Mapping::Boolean,
            "smallint" => Mapping::Integer("SMALLINT"),
            "integer" => Mapping::Integer("INTEGER"),
            "bigint" => Mapping::Integer("BIGINT"),
            "oid" => Mapping::Integer("UINTEGER"),
            "real" => Mapping::Float("FLOAT"),
            "double precision" => Mapping::Float("DOUBLE"),
            "date" => Mapping::Date,
            "uuid" => Mapping::Uuid,
            "bytea" => Mapping::Bytes,
            _ if is_with_precision(type_name, "time", " without time zone") => Mapping::Time,
            _ if is_with_precision(type_name, "timestamp", " without time zone") => Mapping::Timestamp,
            _ if is_with_precision(type_name, "timestamp", " with time zone") => Mapping::TimestampTz,
            _ => decimal(type_name).unwrap_or(Mapping::Text),
        }
    }

    /// The type, as DuckDB's catalog prints it.
    pub fn sql(self) -> String {
        match self {
            Mapping::Text => "VARCHAR".to_owned(),
            Mapping::Boolean => "BOOLEAN".to_owned(),
            Mapping::Integer(name) | Mapping::Float(name) => name.to_owned(),
            Mapping::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
            Mapping::Date => "DATE".to_owned(),
            Mapping::Time => "TIME".to_owned(),
            Mapping::Timestamp => "TIMESTAMP".to_owned(),
            Mapping::TimestampTz => "TIMESTAMP WITH TIME ZONE".to_owned(),
            Mapping::Uuid => "UUID".to_owned(),
            Mapping::Bytes => "BLOB".to_owned(),
        }
    }

    /// The value of a text, as an expression. Of a text that is not [`kept`](Mapping::kept), something else or NULL.
    pub fn read(self, text: &str) -> String {
        match self {
            Mapping::Text => text.to_owned(),
            Mapping::Boolean => format!("({text} = 't')"),
            Mapping::Bytes => format!("TRY(unhex(substr({text}, 3)))"),
            _ => format!("TRY_CAST({text} AS {})", self.sql()),
        }
    }

    /// PostgreSQL's text of a value, as an expression. `None`: DuckDB prints the same value in another way.
    pub fn print(self, value: &str) -> Option<String> {
        match self {
            Mapping::Text => Some(value.to_owned()),
            Mapping::Boolean => Some(format!("CASE WHEN {value} THEN 't' WHEN NOT {value} THEN 'f' END")),
            Mapping::Float(_) => None,
            // Without a digit before the point where there can be none.
            Mapping::Decimal { precision, scale } if precision == scale => {
                Some(format!(r"regexp_replace(CAST({value} AS VARCHAR), '^(-?)\.', '\10.')"))
            }
            Mapping::Bytes => Some(format!(r"('\x' || lower(hex({value})))")),
            Mapping::Integer(_)
            | Mapping::Decimal { .. }
            | Mapping::Date
            | Mapping::Time
            | Mapping::Timestamp
            | Mapping::TimestampTz
            | Mapping::Uuid => Some(format!("CAST({value} AS VARCHAR)")),
        }
    }

    /// Whether the text stays the same value, as an expression that is never NULL for a text. `None`: every text does.
    pub fn kept(self, text: &str) -> Option<String> {
        let value = self.read(text);
        match self {
            Mapping::Text => None,
            Mapping::Float(name) => Some(kept_as_float(text, &value, if name == "FLOAT" { 9 } else { 17 })),
            Mapping::Boolean => Some(format!("{text} IN ('t', 'f')")),
            _ => self.print(&value).map(|printed| format!("({printed} IS NOT DISTINCT FROM {text})")),
        }
    }

    /// Whether equal values have equal texts.
    pub fn is_told_by_text(self) -> bool {
        // -0 and 0 are equal, and NaN is equal to itself.
        !matches!(self, Mapping::Float(_))
    }
}

/// A number is what its text says where it has the digits of that text: printed by DuckDB, or rounded to as many, of at most
/// that many that tell its type's numbers apart. (The shortest text that DuckDB finds has other digits than PostgreSQL's where
/// a number lies half way between two.) Past its range a number is infinite or zero, and has none of them.
fn kept_as_float(text: &str, value: &str, digits_max: u32) -> String {
    let digits = |text: &str| format!("trim(regexp_replace(ltrim({text}, '-'), '(e.*|\\.)', '', 'g'), '0')");
    let said = digits(text);
    let printed = digits(&format!("CAST({value} AS VARCHAR)"));
    let rounded = format!("printf('%.' || (length({said}) - 1) || 'e', CAST({value} AS DOUBLE))");
    let rounded = digits(&rounded);
    format!(
        "({text} IN ('NaN', 'Infinity', '-Infinity') \
         OR coalesce({text} SIMILAR TO '-?[0-9]+(\\.[0-9]+)?(e[-+][0-9]+)?' AND isfinite({value}) \
         AND ({said} = {printed} OR CASE WHEN length({said}) BETWEEN 1 AND {digits_max} THEN {said} = {rounded} END) \
         AND starts_with({text}, '-') = signbit({value}), false))"
    )
}

/// `time without time zone`, `time(3) without time zone`.
fn is_with_precision(type_name: &str, name: &str, zone: &str) -> bool {
    let modifier = type_name.strip_prefix(name).and_then(|rest| rest.strip_suffix(zone));
    modifier.is_some_and(|modifier| {
        let digits = modifier.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        modifier.is_empty() || digits.is_some_and(|digits| digits.parse::<u8>().is_ok())
    })
}

/// `numeric(10,2)` with room for all of its values.
fn decimal(type_name: &str) -> Option<Mapping> {
    let modifier = type_name.strip_prefix("numeric(")?.strip_suffix(')')?;
    let (precision, scale) = modifier.split_once(',')?;
    let (precision, scale) = (precision.parse::<u32>().ok()?, scale.parse::<u32>().ok()?);
    let fits = (1..=DIGITS_MAX).contains(&precision) && scale <= precision;
    fits.then_some(Mapping::Decimal { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_kept_by_name_or_as_text() {
        for (name, sql) in [
            ("boolean", "BOOLEAN"),
            ("bigint", "BIGINT"),
            ("oid", "UINTEGER"),
            ("real", "FLOAT"),
            ("numeric(10,2)", "DECIMAL(10,2)"),
            ("numeric(38,38)", "DECIMAL(38,38)"),
            ("numeric(39,0)", "VARCHAR"),
            ("numeric(2,3)", "VARCHAR"),
            ("numeric(5,-2)", "VARCHAR"),
            ("numeric", "VARCHAR"),
            ("numeric(10,2)[]", "VARCHAR"),
            ("time without time zone", "TIME"),
            ("time(3) without time zone", "TIME"),
            ("time with time zone", "VARCHAR"),
            ("timestamp(0) with time zone", "TIMESTAMP WITH TIME ZONE"),
            ("timestamp without time zone", "TIMESTAMP"),
            ("timestamp without time zone[]", "VARCHAR"),
            ("bytea", "BLOB"),
            ("interval", "VARCHAR"),
            ("public.mood", "VARCHAR"),
            ("character varying(20)", "VARCHAR"),
            ("integer[]", "VARCHAR"),
        ] {
            assert_eq!(Mapping::of(name).sql(), sql, "{name}");
        }
    }
}
