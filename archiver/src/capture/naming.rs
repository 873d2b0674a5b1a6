//! Which columns the rows of a relation may mean by the names that they say.
//!
//! A row names its columns as they were called when it was written. A name may have been another column's until then: one
//! that was renamed, or dropped, or one that came and went. The catalog tells of each column, also of one that is gone,
//! which transaction wrote its row last. What a row says that commits later is certain. Of one that was committed before,
//! the place of a name among those that are certain tells whose it is: a row says its columns in the order of their
//! numbers, and leaves out no more than long values that did not change. Where that leaves a choice, the row is a gap.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::lsn::Lsn;

use super::Known;

/// Of a relation whose columns were altered since the last poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Naming {
    /// By number: all that may have been there meanwhile.
    columns: BTreeMap<i16, Candidate>,
}

/// A column that a row may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidate {
    /// As it was called at the last poll.
    then: Option<String>,
    /// As it is called now, if it is there.
    now: Option<String>,
    /// Who altered or dropped it last, if somebody did since.
    mark: Option<u32>,
    /// Too short to be left out of an update.
    is_short: bool,
    /// It was altered by nobody but who made the relation, which is new.
    is_of_birth: bool,
}

/// How much of a row a list of names says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// All columns.
    All,
    /// All, but perhaps not long values that did not change.
    AllButLong,
    /// The columns of the identity.
    Some,
}

/// What is known where a row stands in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed<'a> {
    /// Who altered columns, and committed before.
    pub before: &'a BTreeMap<u32, Lsn>,
    /// The transaction that wrote the row.
    pub xid: u32,
}

/// Whose the names of a row are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Certain, if these transactions are yet to come.
    Certain {
        relies_on: BTreeSet<u32>,
    },
    Unsure,
}

impl Naming {
    /// `None` where nothing was altered. Columns without storage are not said; those that are as they were born had one name
    /// all the time.
    pub(super) fn between(
        then: Option<&Known>,
        now: &Known,
        unsaid: &[String],
        from_birth: &BTreeSet<i16>,
    ) -> Option<Naming> {
        // Earlier versions remembered no columns.
        if then.is_some_and(|then| then.attributes.is_empty()) {
            return None;
        }
        let known = |number: &i16| then.and_then(|then| then.attributes.get(number));
        let was_gone = |number: &i16| then.is_some_and(|then| then.dropped.contains_key(number));
        let mut columns = BTreeMap::new();
        for (number, column) in now.attributes.iter().filter(|(_, column)| !unsaid.contains(&column.name)) {
            let before = known(number);
            let is_same =
                before.map(|before| before.mark) == Some(column.mark) || from_birth.contains(number);
            let candidate = Candidate {
                then: before.map(|before| before.name.clone()),
                now: Some(column.name.clone()),
                mark: (!is_same).then_some(column.mark),
                is_short: column.is_short,
                is_of_birth: then.is_none() && column.mark == now.marks.born,
            };
            columns.insert(*number, candidate);
        }
        for (number, mark) in &now.dropped {
            let before = known(number);
            if before.is_some() || !was_gone(number) {
                let candidate = Candidate {
                    then: before.map(|before| before.name.clone()),
                    now: None,
                    mark: Some(*mark),
                    is_short: before.is_some_and(|before| before.is_short),
                    is_of_birth: false,
                };
                columns.insert(*number, candidate);
            }
        }
        columns.values().any(|candidate| candidate.mark.is_some()).then_some(Naming { columns })
    }

    /// The transactions that altered columns.
    pub(crate) fn marks(&self) -> impl Iterator<Item = u32> {
        self.columns.values().filter_map(|candidate| candidate.mark)
    }

    /// Whose the names are that a row says, in their order.
    pub(crate) fn verdict(&self, said: &[String], says: Says, passed: Passed<'_>) -> Verdict {
        let is_open =
            |candidate: &Candidate| candidate.mark.is_some_and(|mark| !passed.before.contains_key(&mark));
        let certain: BTreeMap<&str, i16> = self
            .columns
            .iter()
            .filter(|(_, candidate)| !is_open(candidate))
            .filter_map(|(number, candidate)| Some((candidate.now.as_deref()?, *number)))
            .collect();
        let mut relies_on = BTreeSet::new();
        let (mut after, mut run) = (0, Vec::new());
        let ends = said.iter().map(Some).chain([None]);
        for name in ends {
            let place = name.and_then(|name| certain.get(name.as_str()).copied());
            match (name, place) {
                (Some(name), None) => run.push(name),
                (_, place) => {
                    let upto = place.unwrap_or(i16::MAX);
                    let stretch = Stretch {
                        open: self.between_numbers(after, upto).filter(|(_, c)| is_open(c)).collect(),
                        says,
                        xid: passed.xid,
                    };
                    match stretch.relies_on(&run, self) {
                        Some(marks) => relies_on.extend(marks),
                        None => return Verdict::Unsure,
                    }
                    run.clear();
                    // Out of order: that is told otherwise.
                    after = after.max(upto);
                }
            }
        }
        Verdict::Certain { relies_on }
    }

    fn between_numbers(&self, after: i16, upto: i16) -> impl Iterator<Item = (&i16, &Candidate)> {
        self.columns.iter().filter(move |(number, _)| after < **number && **number < upto)
    }

    fn is_a_name(&self, name: &str) -> bool {
        let is = |known: &Option<String>| known.as_deref() == Some(name);
        self.columns.values().any(|candidate| is(&candidate.then) || is(&candidate.now))
    }
}

/// The columns of which it is open how they were called, between two that are certain.
struct Stretch<'a> {
    open: Vec<(&'a i16, &'a Candidate)>,
    says: Says,
    xid: u32,
}

impl<'a> Stretch<'a> {
    /// The transactions that must be yet to come, if there is only one way to read these names.
    fn relies_on(&self, said: &[&String], naming: &Naming) -> Option<BTreeSet<u32>> {
        let Some((meant, relies_on)) = self.meant(said.len()) else {
            return self.follow_inserts(said).then(BTreeSet::new);
        };
        let fits = |(name, candidate): (&&String, &&Candidate)| {
            let is = |known: &Option<String>| known.as_ref() == Some(*name);
            let came_and_went = candidate.then.is_none() && candidate.now.is_none();
            is(&candidate.then) || is(&candidate.now) || came_and_went && !naming.is_a_name(name)
        };
        said.iter().zip(&meant).all(fits).then_some(relies_on)
    }

    /// The only columns that so many names can mean.
    fn meant(&self, said: usize) -> Option<(Vec<&'a Candidate>, BTreeSet<u32>)> {
        let all: Vec<&Candidate> = self.open.iter().map(|(_, candidate)| *candidate).collect();
        let must: Vec<&Candidate> =
            all.iter().copied().filter(|candidate| self.must_say(candidate)).collect();
        let dropped = |candidate: &&&Candidate| candidate.now.is_none();
        // That one is there which is dropped now holds until then.
        let until = || must.iter().filter(dropped).filter_map(|candidate| candidate.mark).collect();
        match self.says {
            _ if said == all.len() => Some((all, BTreeSet::new())),
            _ if said == must.len() => Some((must.clone(), until())),
            // Those that are new came one after the other.
            Says::All if said > must.len() && all.iter().all(|c| c.now.is_some() || self.must_say(c)) => {
                Some((all.into_iter().take(said).collect(), until()))
            }
            _ => None,
        }
    }

    /// Of a relation that is made in this very transaction all rows were inserted in the stream, and each of them said all
    /// columns: one that had another name has shown there. Attaching a partition writes all columns again.
    fn follow_inserts(&self, said: &[&String]) -> bool {
        let mut open = self.open.iter().map(|(_, candidate)| candidate.now.as_ref());
        let is_next = |name: &&String| open.any(|now| now == Some(*name));
        self.says != Says::All
            && self.open.iter().all(|(_, candidate)| candidate.is_of_birth)
            && said.iter().all(is_next)
    }

    /// It was there, and so it is said.
    fn must_say(&self, candidate: &Candidate) -> bool {
        let was_there =
            candidate.then.is_some() && (candidate.now.is_some() || candidate.mark != Some(self.xid));
        match self.says {
            Says::All => was_there,
            Says::AllButLong => was_there && candidate.is_short,
            Says::Some => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attribute, Marks, Storage};
    use super::*;

    const OLD: u32 = 5;

    /// `number name mark`; a dropped column has no name. Names in capitals have long values.
    fn known(columns: &[(i16, &str, u32)]) -> Known {
        let mut known = Known {
            name: "t".parse().expect("a name"),
            table: None,
            parent: None,
            has_storage: true,
            not_carried: false,
            storage: Storage::default(),
            marks: Marks::default(),
            columns: BTreeMap::new(),
            attributes: BTreeMap::new(),
            dropped: BTreeMap::new(),
            sequences: BTreeSet::new(),
            rows: None,
            suspected: false,
            postponed: None,
            unborn: None,
            labels_told: false,
            is_told: false,
        };
        for (number, name, mark) in columns {
            let is_short = *name == name.to_lowercase();
            let attribute =
                Attribute { name: (*name).to_owned(), mark: *mark, is_short, ..Attribute::default() };
            match name.is_empty() {
                true => drop(known.dropped.insert(*number, *mark)),
                false => drop(known.attributes.insert(*number, attribute)),
            }
        }
        known
    }

    #[test]
    fn names_are_those_of_the_columns_in_whose_place_they_stand() {
        let then = known(&[(1, "id", OLD), (2, "d", OLD), (3, "E", OLD), (4, "f", OLD)]);
        let renamed = [(1, "id", OLD), (2, "x", 10), (3, "E", OLD), (4, "f", OLD)];
        let replaced = [(1, "id", OLD), (2, "d", OLD), (3, "E", OLD), (4, "", 10), (5, "x", 11)];
        let came_and_went =
            [(1, "id", OLD), (2, "d", OLD), (3, "E", OLD), (4, "f", OLD), (5, "", 10), (6, "x", 11)];
        let two_added =
            [(1, "id", OLD), (2, "d", OLD), (3, "E", OLD), (4, "f", OLD), (5, "x", 10), (6, "y", 11)];
        let two_altered = [(1, "id", OLD), (2, "d", 10), (3, "E", 10), (4, "f", OLD)];
        let key_altered = [(1, "id", 10), (2, "d", 10), (3, "E", OLD), (4, "f", OLD)];
        let (before, none): (&[u32], &[u32]) = (&[10, 11], &[]);
        for (now, passed, says, said, certain) in [
            (&renamed[..], none, Says::All, "id d E f", true),
            (&renamed, none, Says::All, "id x E f", true),
            (&renamed, none, Says::All, "id y E f", false),
            (&renamed, none, Says::AllButLong, "id d f", true),
            (&renamed, before, Says::All, "id x E f", true),
            // It stands between two that are certain.
            (&replaced, none, Says::All, "id d E f", true),
            (&replaced, none, Says::AllButLong, "id d f", true),
            (&replaced, none, Says::All, "id d E x", false),
            (&replaced, before, Says::All, "id d E x", true),
            (&replaced, &[10], Says::All, "id d E x", true),
            (&replaced, none, Says::Some, "id", true),
            (&replaced, none, Says::Some, "f", false),
            (&came_and_went, none, Says::All, "id d E f", true),
            (&came_and_went, none, Says::All, "id d E f x", false),
            (&came_and_went, &[10], Says::All, "id d E f x", true),
            // One came after the other.
            (&two_added, none, Says::All, "id d E f x", true),
            (&two_added, none, Says::All, "id d E f y", false),
            (&two_added, none, Says::All, "id d E f x y", true),
            (&two_added, none, Says::AllButLong, "id d f x", false),
            (&two_altered, none, Says::All, "id d E f", true),
            (&two_altered, none, Says::All, "id E d f", false),
            // The long value may be that of `d`, if only for a while.
            (&two_altered, none, Says::AllButLong, "id d f", true),
            (&two_altered, none, Says::AllButLong, "id E f", false),
            (&key_altered, none, Says::Some, "id", false),
            (&key_altered, none, Says::Some, "id d", true),
        ] {
            let naming = Naming::between(Some(&then), &known(now), &[], &BTreeSet::new()).expect("altered");
            let said: Vec<String> = said.split(' ').map(str::to_owned).collect();
            let passed: BTreeMap<u32, Lsn> = passed.iter().map(|xid| (*xid, Lsn::default())).collect();
            let verdict = naming.verdict(&said, says, Passed { before: &passed, xid: 20 });
            assert_eq!(
                verdict != Verdict::Unsure,
                certain,
                "{now:?} {passed:?} {says:?} {said:?}: {verdict:?}"
            );
        }
        assert_eq!(Naming::between(Some(&then), &then, &[], &BTreeSet::new()), None);
    }

    #[test]
    fn names_of_a_relation_that_is_new_are_those_that_its_rows_said_first() {
        let mut now = known(&[(1, "id", 10), (2, "old_v", 10), (3, "v", 10), (4, "added", 11)]);
        now.marks.born = 10;
        let naming = |from_birth: &[i16]| {
            let from_birth = from_birth.iter().copied().collect();
            Naming::between(None, &now, &[], &from_birth).expect("altered")
        };
        let (before, none): (&[u32], &[u32]) = (&[10], &[]);
        for (from_birth, passed, says, said, certain) in [
            (&[1][..], none, Says::All, "id v", false),
            (&[1], none, Says::All, "id old_v", true),
            (&[1], none, Says::All, "id old_v v added", true),
            (&[1], before, Says::All, "id old_v v", true),
            (&[1], before, Says::All, "id old_v v added", true),
            (&[1], none, Says::Some, "id", true),
            // Whoever altered the last one later may have given it another name.
            (&[], none, Says::Some, "id", false),
            (&[4], none, Says::Some, "id", true),
            (&[4], none, Says::Some, "id v", true),
            (&[4], none, Says::Some, "v id", false),
            (&[4], none, Says::AllButLong, "id v added", true),
            (&[4], none, Says::All, "id v added", false),
        ] {
            let said: Vec<String> = said.split(' ').map(str::to_owned).collect();
            let passed: BTreeMap<u32, Lsn> = passed.iter().map(|xid| (*xid, Lsn::default())).collect();
            let verdict = naming(from_birth).verdict(&said, says, Passed { before: &passed, xid: 10 });
            let is_certain = verdict != Verdict::Unsure;
            assert_eq!(is_certain, certain, "{from_birth:?} {passed:?} {says:?} {said:?}: {verdict:?}");
        }
        let all: BTreeSet<i16> = (1..=4).collect();
        assert_eq!(Naming::between(None, &now, &[], &all), None);
    }

    #[test]
    fn what_a_row_means_may_rely_on_what_comes_later() {
        let then = known(&[(1, "id", OLD), (2, "d", OLD)]);
        let now = known(&[(1, "id", OLD), (2, "", 10), (3, "x", 10)]);
        let naming = Naming::between(Some(&then), &now, &[], &BTreeSet::new()).expect("altered");
        let verdict = |said: &str, xid| {
            let said = ["id".to_owned(), said.to_owned()];
            naming.verdict(&said, Says::All, Passed { before: &BTreeMap::new(), xid })
        };
        assert_eq!(verdict("d", 9), Verdict::Certain { relies_on: [10].into() });
        assert_eq!(verdict("x", 9), Verdict::Unsure);
        assert_eq!(verdict("d", 10), Verdict::Unsure, "before or after, in the very transaction?");
    }
}
