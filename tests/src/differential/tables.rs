//! Random tables, and how each looks on the two sides.

use std::fmt::Write as _;

use super::kinds::{Kind, Known};
use crate::workload::Prng;

/// What tells the rows of a table apart, at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    Primary,
    /// Other columns ride along in the index.
    PrimaryWithInclude,
    /// The primary key is there, all old columns are sent.
    FullBesidePrimary,
    /// A unique index that is no primary key.
    Index,
    /// No key at all.
    Full,
    FullBesideDeferrable,
    /// The primary key is computed from another column.
    Generated,
    /// A primary key WITHOUT OVERLAPS.
    WithoutOverlaps,
    /// An identity column and nothing else: the primary key, or without one.
    Bare,
    BareFull,
}

/// How a column looks in the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    Same,
    Other(&'static str),
}

#[derive(Clone, Debug)]
pub struct Column {
    /// SQL.
    pub name: String,
    pub kind: &'static Kind,
    pub not_null: bool,
    /// `ALWAYS` or `BY DEFAULT`.
    pub identity: Option<&'static str>,
    /// The expression, and `STORED` or `VIRTUAL`.
    pub generated: Option<(String, &'static str)>,
    /// A row of that table, by its only key column.
    pub refers_to: Option<usize>,
    /// Statement of the keys there.
    pub referred: Option<String>,
    pub here: Here,
}

#[derive(Clone, Debug)]
pub struct Table {
    /// SQL, and as the programs print it.
    pub name: String,
    pub columns: Vec<Column>,
    /// Places of its columns; empty without one.
    pub key: Vec<usize>,
    pub identity: Identity,
    pub partitioned: bool,
    /// At least one row of another table hangs on it.
    pub is_parent: bool,
    at_source: Vec<String>,
    here: Vec<String>,
}

impl Table {
    pub fn source_ddl(&self) -> &[String] {
        &self.at_source
    }

    pub fn target_ddl(&self) -> &[String] {
        &self.here
    }

    /// Columns that an INSERT may name.
    pub fn writable(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns.iter().enumerate().filter(|(_, column)| column.generated.is_none())
    }

    /// Columns that an UPDATE may set and that are not in the key.
    pub fn free(&self) -> Vec<usize> {
        let free = |(place, column): &(usize, &Column)| {
            !self.key.contains(place) && column.identity != Some("ALWAYS")
        };
        self.writable().filter(free).map(|(place, _)| place).collect()
    }

    /// Whether `replay` can find its rows.
    pub fn can_be_replayed(&self) -> bool {
        !self.key.is_empty()
            && !matches!(
                self.identity,
                Identity::Index | Identity::FullBesideDeferrable | Identity::Generated
            )
    }
}

/// So many tables. `Prng` decides everything else.
pub fn random(random: &mut Prng, known: &Known, number: usize) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for place in 0..number {
        let table = Maker { random, known, tables: &tables, place }.table();
        for parent in table.columns.iter().filter_map(|column| column.refers_to) {
            tables[parent].is_parent = true;
        }
        tables.push(table);
    }
    tables
}

struct Maker<'a> {
    random: &'a mut Prng,
    known: &'a Known,
    tables: &'a [Table],
    place: usize,
}

impl Maker<'_> {
    fn table(mut self) -> Table {
        let identity = self.identity();
        let columns = self.columns(identity);
        let (columns, key) = self.keyed(identity, columns);
        let name = match self.random.below(4) {
            0 => format!("sales.t{}", self.place),
            1 => format!("\"Odd.T{}\"", self.place),
            _ => format!("t{}", self.place),
        };
        let mut table = Table {
            name,
            columns,
            key,
            identity,
            partitioned: false,
            is_parent: false,
            at_source: Vec::new(),
            here: Vec::new(),
        };
        self.define(&mut table);
        table
    }

    fn identity(&mut self) -> Identity {
        let identity = match self.random.below(20) {
            0..=9 => Identity::Primary,
            10 => Identity::PrimaryWithInclude,
            11 if self.can_be_without_overlaps() => Identity::WithoutOverlaps,
            11..=13 => Identity::FullBesidePrimary,
            14..=15 => Identity::Index,
            16 => Identity::FullBesideDeferrable,
            17 if self.known.computed_keys => Identity::Generated,
            17 => Identity::Primary,
            18 => *self.random.pick(&[Identity::Bare, Identity::BareFull]),
            _ => Identity::Full,
        };
        match identity {
            _ if self.known.keyless => identity,
            Identity::Full | Identity::FullBesideDeferrable => Identity::Primary,
            Identity::BareFull => Identity::Bare,
            keyed => keyed,
        }
    }

    fn columns(&mut self, identity: Identity) -> Vec<Column> {
        let kinds = self.known.kinds();
        // Rows that nothing tells apart but their columns are nearly equal where there are few of these.
        let number =
            if identity == Identity::Full { 1 + self.random.place(2) } else { 2 + self.random.place(7) };
        (0..number)
            .map(|place| {
                let kind = *self.random.pick(&kinds);
                let not_null = self.random.chance(20);
                self.column(place, kind, not_null)
            })
            .collect()
    }

    fn column(&mut self, place: usize, kind: &'static Kind, not_null: bool) -> Column {
        let name = match self.random.below(12) {
            0 => format!("\"{} \"\"{place}\"", kind.name.to_uppercase()),
            _ => format!("{}_{place}", kind.name),
        };
        let here = self.here(kind);
        Column {
            name,
            kind,
            not_null,
            identity: None,
            generated: None,
            refers_to: None,
            referred: None,
            here,
        }
    }

    fn here(&mut self, kind: &Kind) -> Here {
        match self.random.below(100) {
            0..=5 => Here::Other("text"),
            6..=20 => match kind.name {
                "int2" => Here::Other("bigint"),
                "int4" => Here::Other("numeric"),
                "varchar" | "text" => Here::Other("varchar"),
                "decimals" => Here::Other("numeric"),
                "seconds" => Here::Other("timestamp"),
                "bits" => Here::Other("varbit"),
                _ => Here::Same,
            },
            _ => Here::Same,
        }
    }

    /// The columns with those of the key before or between them, and the places of these.
    fn keyed(&mut self, identity: Identity, mut columns: Vec<Column>) -> (Vec<Column>, Vec<usize>) {
        let mut key = Vec::new();
        match identity {
            Identity::Full => {}
            Identity::Bare | Identity::BareFull => {
                let mut column = self.same("int4", 90);
                column.identity = Some(*self.random.pick(&["ALWAYS", "ALWAYS", "BY DEFAULT"]));
                let key = if identity == Identity::Bare { vec![0] } else { Vec::new() };
                return (vec![column], key);
            }
            Identity::Generated => {
                let base = self.same("int4", 90);
                let mut column = self.same("int8", 91);
                column.generated = Some((format!("{}::int8 * 2", base.name), "STORED"));
                columns.extend([base, column]);
                key.push(columns.len() - 1);
            }
            Identity::WithoutOverlaps => {
                columns.extend([self.same("int4", 90), self.same("int4range", 91)]);
                key.extend([columns.len() - 2, columns.len() - 1]);
            }
            _ => {}
        }
        if key.is_empty() && identity != Identity::Full {
            let kinds: Vec<_> = self.known.kinds().into_iter().filter(|kind| kind.nth.is_some()).collect();
            let number = 1 + self.random.place(10) / 6 + self.random.place(10) / 8;
            for n in 0..number {
                let kind = if n == 0 && self.random.chance(40) {
                    kinds.iter().find(|kind| kind.name == "int4").expect("it is listed")
                } else {
                    *self.random.pick(&kinds)
                };
                let mut column = self.column(90 + n, kind, true);
                if matches!(kind.name, "int4" | "int8") && n == 0 && self.random.chance(40) {
                    column.identity = Some(if self.random.chance(50) { "ALWAYS" } else { "BY DEFAULT" });
                    column.here = Here::Same;
                }
                let place = self.random.place(columns.len() + 1);
                key.iter_mut().filter(|other| **other >= place).for_each(|other| *other += 1);
                columns.insert(place, column);
                key.push(place);
            }
        }
        self.add_reference(&mut columns);
        self.add_generated(&mut columns);
        (columns, key)
    }

    /// NOT NULL, and the same here.
    fn same(&mut self, kind: &str, place: usize) -> Column {
        let kinds = self.known.kinds();
        let kind = kinds.iter().find(|known| known.name == kind).expect("it is listed");
        let mut column = self.column(place, kind, true);
        column.here = Here::Same;
        column
    }

    fn can_be_without_overlaps(&self) -> bool {
        self.known.major >= 18 && self.known.extensions.contains(&"btree_gist")
    }

    fn add_reference(&mut self, columns: &mut Vec<Column>) {
        let is_parent = |table: &Table| {
            let key = [Identity::Primary, Identity::FullBesidePrimary].contains(&table.identity);
            key && !table.partitioned
                && table.key.len() == 1
                && table.columns[table.key[0]].kind.name == "int4"
                && table.columns[table.key[0]].here == Here::Same
        };
        let parents: Vec<usize> =
            (0..self.tables.len()).filter(|place| is_parent(&self.tables[*place])).collect();
        if !parents.is_empty() && self.random.chance(60) {
            let parent = *self.random.pick(&parents);
            let kinds = self.known.kinds();
            let kind = kinds.iter().find(|kind| kind.name == "int4").expect("it is listed");
            let mut column = self.column(80, kind, false);
            column.here = Here::Same;
            column.refers_to = Some(parent);
            let parent = &self.tables[parent];
            column.referred = Some(format!(
                "SELECT {} FROM {} ORDER BY 1",
                parent.columns[parent.key[0]].name, parent.name
            ));
            columns.push(column);
        }
    }

    fn add_generated(&mut self, columns: &mut Vec<Column>) {
        let base = columns.iter().find_map(|column| {
            let name = &column.name;
            let is_same = column.here == Here::Same;
            match column.kind.name {
                "int4" | "int8" if is_same => Some(("numeric", format!("{name} / 3.0"))),
                "text" | "d_text" if is_same => Some(("text", format!("'<' || {name} || '>'"))),
                "numeric" if is_same => Some(("numeric", format!("- {name}"))),
                "bool" if is_same => Some(("bool", format!("NOT {name}"))),
                _ => None,
            }
        });
        // PostgreSQL refuses types of its users there.
        let of_user = columns.iter().any(|column| column.kind.name == "d_text");
        let Some((kind, expression)) = base.filter(|_| self.random.chance(50)) else { return };
        let kinds = self.known.kinds();
        let kind = kinds.iter().find(|known| known.name == kind).expect("it is listed");
        let mut column = self.column(70, kind, false);
        let is_virtual = self.known.major >= 18 && !of_user && self.random.chance(50);
        column.here = Here::Same;
        column.generated = Some((expression, if is_virtual { "VIRTUAL" } else { "STORED" }));
        let place = columns.len();
        columns.insert(place, column);
    }

    fn define(&mut self, table: &mut Table) {
        let first = table.key.first().map(|place| &table.columns[*place]);
        let can_hash = |column: &&Column| {
            let is_plain = matches!(column.kind.name, "int4" | "int8" | "text" | "uuid" | "date" | "numeric");
            is_plain && column.here == Here::Same && column.identity.is_none()
        };
        let hashed = first.filter(can_hash).map(|column| column.name.clone());
        let is_keyed = matches!(table.identity, Identity::Primary | Identity::PrimaryWithInclude);
        let split = hashed.filter(|_| is_keyed);
        let at_source = split.clone().filter(|_| self.random.chance(30));
        let here = split.filter(|_| self.random.chance(25));
        table.partitioned = at_source.is_some();
        let is_split = at_source.is_some() || here.is_some();
        let extra = self.extra_constraints(table, is_split);
        let order: Vec<usize> = (0..table.columns.len()).collect();
        let mut shuffled = order.clone();
        if self.random.chance(40) {
            for place in (1..shuffled.len()).rev() {
                shuffled.swap(place, self.random.place(place + 1));
            }
        }
        let mut ours = extra.clone();
        if self.random.chance(30) {
            ours.push("only_here timestamptz DEFAULT now()".to_owned());
        }
        table.at_source = ddl(table, &order, true, at_source.as_deref(), &extra);
        table.here = ddl(table, &shuffled, false, here.as_deref(), &ours);
    }

    /// Lines of CREATE TABLE.
    fn extra_constraints(&mut self, table: &Table, is_split: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for column in &table.columns {
            let Some(parent) = column.refers_to else { continue };
            let on_delete = self.random.pick(&["CASCADE", "SET NULL", "NO ACTION", "CASCADE"]);
            let on_update = self.random.pick(&["CASCADE", "SET NULL", "NO ACTION"]);
            lines.push(format!(
                "FOREIGN KEY ({}) REFERENCES {} ON DELETE {on_delete} ON UPDATE {on_update}",
                column.name, self.tables[parent].name
            ));
        }
        if is_split {
            return lines;
        }
        let free = table.free();
        let unique = free.iter().map(|place| &table.columns[*place]).find(|column| {
            matches!(column.kind.name, "int4" | "text" | "uuid" | "numeric" | "citext")
                && column.refers_to.is_none()
        });
        if let Some(column) = unique.filter(|_| self.random.chance(50)) {
            let how = self.random.pick(&[
                "UNIQUE",
                "UNIQUE NULLS NOT DISTINCT",
                "UNIQUE DEFERRABLE INITIALLY DEFERRED",
            ]);
            let (unique, later) = how.split_once(" DEFER").unwrap_or((how, ""));
            let later = if later.is_empty() { String::new() } else { format!(" DEFER{later}") };
            lines.push(format!("{unique} ({}){later}", column.name));
        }
        let range = table
            .columns
            .iter()
            .enumerate()
            .find(|(place, column)| column.kind.name == "int4range" && !table.key.contains(place));
        let range = range.map(|(_, column)| column);
        if let Some(column) = range.filter(|column| column.here == Here::Same && self.random.chance(60)) {
            lines.push(format!("EXCLUDE USING gist ({} WITH &&)", column.name));
        }
        lines
    }
}

fn ddl(table: &Table, order: &[usize], at_source: bool, hash: Option<&str>, extra: &[String]) -> Vec<String> {
    let name = &table.name;
    let mut lines: Vec<String> =
        order.iter().map(|place| column_line(&table.columns[*place], at_source)).collect();
    let key: Vec<&str> = table.key.iter().map(|place| table.columns[*place].name.as_str()).collect();
    let key = key.join(", ");
    match table.identity {
        Identity::Primary | Identity::FullBesidePrimary | Identity::Generated | Identity::Bare => {
            lines.push(format!("PRIMARY KEY ({key})"));
        }
        Identity::WithoutOverlaps => lines.push(format!("PRIMARY KEY ({key} WITHOUT OVERLAPS)")),
        Identity::PrimaryWithInclude => {
            let rider = table.columns.iter().enumerate().find(|(place, column)| {
                !table.key.contains(place) && matches!(column.kind.name, "int4" | "bool" | "uuid" | "float8")
            });
            let rider = rider.map_or(String::new(), |(_, column)| format!(" INCLUDE ({})", column.name));
            lines.push(format!("PRIMARY KEY ({key}){rider}"));
        }
        Identity::FullBesideDeferrable => {
            lines.push(format!("PRIMARY KEY ({key}) DEFERRABLE INITIALLY DEFERRED"));
        }
        Identity::Index | Identity::Full | Identity::BareFull => {}
    }
    lines.extend_from_slice(extra);
    let mut create = format!("CREATE TABLE {name} (\n  {}\n)", lines.join(",\n  "));
    let mut statements = Vec::new();
    if let Some(column) = hash {
        write!(create, " PARTITION BY HASH ({column})").expect("a String takes all");
    }
    statements.push(create);
    if hash.is_some() {
        for leaf in 0..2 {
            statements.push(format!(
                "CREATE TABLE leaves.t{}_{leaf} PARTITION OF {name} FOR VALUES WITH (modulus 2, remainder {leaf})",
                digits(name)
            ));
        }
    }
    if at_source {
        for column in table.columns.iter().filter(|column| column.kind.name.ends_with("_long")) {
            statements.push(format!("ALTER TABLE {name} ALTER {} SET STORAGE EXTERNAL", column.name));
        }
    }
    match table.identity {
        Identity::Index => {
            statements.push(format!("CREATE UNIQUE INDEX t{}_identity ON {name} ({key})", digits(name)));
            if at_source {
                let index = format!("t{}_identity", digits(name));
                statements.push(format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"));
            }
        }
        Identity::Full
        | Identity::FullBesidePrimary
        | Identity::FullBesideDeferrable
        | Identity::BareFull
            if at_source =>
        {
            statements.push(format!("ALTER TABLE {name} REPLICA IDENTITY FULL"));
        }
        _ => {}
    }
    statements
}

fn digits(name: &str) -> String {
    name.chars().filter(char::is_ascii_digit).collect()
}

fn column_line(column: &Column, at_source: bool) -> String {
    let sql = match &column.here {
        Here::Other(other) if !at_source => other,
        _ => column.kind.sql,
    };
    let mut line = format!("{} {sql}", column.name);
    if let Some((expression, how)) = &column.generated {
        write!(line, " GENERATED ALWAYS AS ({expression}) {how}").expect("a String takes all");
    }
    if let Some(identity) = column.identity {
        write!(line, " GENERATED {identity} AS IDENTITY").expect("a String takes all");
    }
    if column.not_null {
        line.push_str(" NOT NULL");
    }
    line
}
