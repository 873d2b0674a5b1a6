//! The types of columns: where PostgreSQL draws the line between values, there is a value on each side of it.

/// A type as a column has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Plain letters, for the names of columns.
    pub name: &'static str,
    pub sql: &'static str,
    /// An expression with `{n}` for a number: another value for each. Without one it cannot be a key.
    pub nth: Option<&'static str>,
    /// Expressions.
    pub values: &'static [&'static str],
    pub needs: Needs,
}

/// What a server must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Extension(&'static str),
    /// wal2json 2.6, which comes with no server before 18 here: before it NaN is printed as null.
    Nan,
}

/// Both sides have these types before any table.
pub const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'it''s \"odd\"', 'fine');
    CREATE TYPE pair AS (n int, t text);
    CREATE DOMAIN d_bool AS bool;
    CREATE DOMAIN d_bytea AS bytea;
    CREATE DOMAIN d_int AS int CHECK (VALUE <> 13);
    CREATE DOMAIN d_float AS float8;
    CREATE DOMAIN d_text AS text;
    CREATE DOMAIN d_ints AS int[];
    CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);";

const fn plain(name: &'static str, sql: &'static str, values: &'static [&'static str]) -> Kind {
    Kind { name, sql, nth: None, values, needs: Needs::Nothing }
}

const fn key(
    name: &'static str,
    sql: &'static str,
    nth: &'static str,
    values: &'static [&'static str],
) -> Kind {
    Kind { name, sql, nth: Some(nth), values, needs: Needs::Nothing }
}

const fn with(needs: Needs, kind: Kind) -> Kind {
    Kind { needs, ..kind }
}

const LONG: &str = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)";

pub const KINDS: &[Kind] = &[
    key("int2", "int2", "{n}", &["-32768", "32767", "0"]),
    key("int4", "int4", "{n}", &["-2147483648", "2147483647", "0", "-1"]),
    key("int8", "int8", "{n}", &["-9223372036854775808", "9223372036854775807"]),
    key("oid", "oid", "{n}", &["4294967295", "0"]),
    key(
        "numeric",
        "numeric",
        "{n} + 0.10",
        &[
            "1.10",
            "1.1",
            "1",
            "1.000",
            "-0.00",
            "1e400",
            "1e-400",
            "18446744073709551616",
            "repeat('9', 131072)",
        ],
    ),
    with(Needs::Nan, plain("numeric_nan", "numeric", &["'NaN'", "'Infinity'", "'-Infinity'", "0"])),
    key("decimals", "numeric(12,3)", "{n}", &["0.5", "-999999999.999", "0"]),
    key("float4", "float4", "{n}", &["0.1", "3.4028235e38", "1e-45", "16777216", "'-0'", "0"]),
    key(
        "float8",
        "float8",
        "{n}",
        &["0.1", "1.7976931348623157e308", "5e-324", "1e-310", "123456789012345680", "'-0'", "0"],
    ),
    with(Needs::Nan, plain("float_nan", "float8", &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'"])),
    plain("bool", "bool", &["true", "false"]),
    key("bytea", "bytea", "decode(md5({n}::text), 'hex')", &["''", "'\\x00ff5c41'", "'\\x5c7830'"]),
    plain("bytea_long", "bytea", &["decode(repeat('00ff5c', 3000), 'hex')", "'\\x00'"]),
    key(
        "text",
        "text",
        "'k' || {n}",
        &[
            "''",
            "' '",
            "'NULL'",
            "'null'",
            "E'\\x01\\t\\n\\r\\x7f\\\\'",
            "'Ünï🐘'",
            "E'a\"b\\\\c/d'",
            "'NaN'",
            "'\\N'",
        ],
    ),
    plain("text_long", "text", &["''", LONG, "repeat('x', 9000)", "repeat(E'\\x01', 3000)"]),
    key("varchar", "varchar(20)", "'v' || {n}", &["''", "'abc '", "'ABC'"]),
    key("padded", "char(9)", "'c' || {n}", &["''", "'ab'", "'ab  '"]),
    plain("letter", "\"char\"", &["'x'", "'\"'", "''", "'\\'"]),
    key("name", "name", "'n' || {n}", &["'a name'", "''"]),
    plain("bits", "bit(5)", &["B'10101'", "B'00000'"]),
    plain("varbits", "varbit", &["B''", "B'1'", "B'10'"]),
    key(
        "date",
        "date",
        "date '2000-01-01' + {n}",
        &["'0044-03-15 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'", "'0001-01-01'"],
    ),
    plain("time", "time", &["'24:00:00'", "'00:00:00.000001'", "'23:59:59.999999'"]),
    plain("timetz", "timetz", &["'12:00:00.5+05:30'", "'24:00:00-15:59'", "'00:00+00'"]),
    key(
        "timestamp",
        "timestamp",
        "timestamp '2000-01-01' + {n} * interval '1 second'",
        &["'infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"],
    ),
    key(
        "timestamptz",
        "timestamptz",
        "timestamptz '2000-01-01' + {n} * interval '1 second'",
        &["'-infinity'", "'2026-02-03 04:05:06.789+05:30'", "'0044-03-15 12:00 BC'"],
    ),
    plain("seconds", "timestamp(0)", &["'2026-02-03 04:05:06'"]),
    key(
        "interval",
        "interval",
        "{n} * interval '1 hour'",
        &["'-1 days +02:00:00'", "'1 year 2 mons -3 days 04:05:06.789'", "'24:00:00'", "'1 day'", "'0'"],
    ),
    plain("money", "money", &["-1234.56", "92233720368547758.07::numeric::money", "0"]),
    key("uuid", "uuid", "md5({n}::text)::uuid", &["'00000000-0000-0000-0000-000000000000'"]),
    plain(
        "json",
        "json",
        &["'{\"b\": 1, \"a\":1.10, \"a\":  2}'", "'1e400'", "'\"\\u0000\"'", "'null'", "' []'"],
    ),
    key(
        "jsonb",
        "jsonb",
        "to_jsonb({n})",
        &["'{\"b\": 1, \"a\": 1.10}'", "'1e100'", "'null'", "'\"\"'", "'[1.0, 1.00]'", "'1'", "'1.0'"],
    ),
    plain("jsonpath", "jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    plain("xml", "xml", &["'<a b=\"c\">&amp;</a>'", "'text <b/>'", "''"]),
    key("inet", "inet", "inet '10.0.0.0' + {n}", &["'::1/64'", "'10.0.0.1'", "'10.0.0.1/8'"]),
    plain("cidr", "cidr", &["'10.0.0.0/8'", "'::/0'"]),
    plain("macaddr", "macaddr", &["'08:00:2b:01:02:03'"]),
    plain("tsvector", "tsvector", &["to_tsvector('simple', 'it''s \"a\" test')", "''", "'a:1A,2B b'"]),
    plain("tsquery", "tsquery", &["'a & !b'", "''"]),
    plain("point", "point", &["'(1.5,-0)'", "'(1e-310,0.1)'"]),
    plain("box", "box", &["'(1,2),(3,4)'", "'(0,0),(2,2)'", "'(0,0),(1,4)'"]),
    plain("path", "path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    plain("polygon", "polygon", &["'((0,0),(1,1),(1,0))'"]),
    plain("circle", "circle", &["'<(0,0),2>'", "'<(1,1),2>'"]),
    plain("lsn", "pg_lsn", &["'16/B374D848'", "'0/0'"]),
    plain("xid8", "xid8", &["'18446744073709551615'", "'0'"]),
    key("int4range", "int4range", "int4range({n} * 10, {n} * 10 + 5)", &["'empty'", "'(,)'", "'[1,1]'"]),
    plain("numrange", "numrange", &["'[1.10,2.0)'", "'[1.1,2.00)'", "'(,1e400]'", "'empty'"]),
    plain("tstzrange", "tstzrange", &["'[2026-01-01,infinity)'", "'[2026-01-01,)'", "'empty'"]),
    plain("multirange", "nummultirange", &["'{[1.10,2.20),[3,)}'", "'{}'", "'{(,)}'"]),
    key(
        "ints",
        "int4[]",
        "ARRAY[{n}, NULL]",
        &["'{1,NULL,3}'", "'[2:3]={7,8}'", "'{}'", "'{{1,2},{3,4}}'", "'[-1:0]={1,2}'", "'{1,2}'"],
    ),
    plain(
        "texts",
        "text[]",
        &["ARRAY['a,b', '\"', '\\', NULL, 'NULL', '']", "'{{a,b},{c,d}}'", "'{}'", "'{\"\"}'"],
    ),
    plain("numerics", "numeric[]", &["'{1.10,NaN,Infinity}'", "'{1.1}'", "'{1.10}'"]),
    plain("floats", "float8[]", &["'{-0,0,1e-310}'", "'{NaN,Infinity}'", "'{0}'"]),
    plain("byteas", "bytea[]", &["ARRAY['\\x00'::bytea, '\\xff'::bytea, NULL]", "'{}'"]),
    plain("bools", "bool[]", &["'{t,f,NULL}'"]),
    plain("moods", "mood[]", &["'{sad,NULL}'", "ARRAY['it''s \"odd\"']"]),
    key(
        "mood",
        "mood",
        "(ARRAY['sad', 'it''s \"odd\"', 'fine'])[1 + {n} % 3]",
        &["'fine'", "'it''s \"odd\"'", "'sad'"],
    ),
    plain("pair", "pair", &["ROW(1, E'a,\"b\\\\')", "ROW(NULL, '')", "ROW(NULL, NULL)", "ROW(0, NULL)"]),
    plain("pairs", "pair[]", &["ARRAY[ROW(1, 'a,\"b')::pair, NULL]", "'{}'"]),
    plain("d_bool", "d_bool", &["true", "false"]),
    plain("d_bytea", "d_bytea", &["'\\x00ff'", "''"]),
    key("d_int", "d_int", "{n} + 100", &["7", "-2147483648"]),
    plain("d_float", "d_float", &["1e-310", "'-0'", "'NaN'"]),
    key("d_text", "d_text", "'d' || {n}", &["''", "'NULL'", "E'\\n'"]),
    plain("d_ints", "d_ints", &["'[2:3]={7,8}'", "'{}'"]),
    key("ci_text", "text COLLATE ci", "'ci' || {n}", &["'abc'", "'ABC'", "''"]),
    with(
        Needs::Extension("citext"),
        key("citext", "citext", "'ci' || {n}", &["'MiXed'", "'mixed'", "''", "'CI1'"]),
    ),
    with(
        Needs::Extension("hstore"),
        plain("hstore", "hstore", &["'a=>1, b=>NULL, \"c,\"=>\"d\\\"\"'", "''"]),
    ),
    with(Needs::Extension("ltree"), plain("ltree", "ltree", &["'Top.Science.x'", "''"])),
    with(Needs::Extension("cube"), plain("cube", "cube", &["'(1,2),(3,4)'", "'(0)'"])),
];

/// The types that this server has.
#[derive(Clone, Debug)]
pub struct Known {
    pub major: u32,
    pub extensions: Vec<&'static str>,
    /// Tables may be known by a column that the server computes.
    pub computed_keys: bool,
    /// Tables may have nothing that names their rows.
    pub keyless: bool,
}

pub const EXTENSIONS: &[&str] = &["citext", "hstore", "ltree", "cube", "btree_gist"];

impl Known {
    pub fn kinds(&self) -> Vec<&'static Kind> {
        KINDS.iter().filter(|kind| self.has(kind.needs)).collect()
    }

    fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::Extension(name) => self.extensions.contains(&name),
            Needs::Nan => self.major >= 18,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_kinds_differ_and_need_no_quotes() {
        let names: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')));
    }
}
