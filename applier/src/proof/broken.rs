//! What the answers beside the digests come to: rows that refer to nothing or break a rule, and do not at production.

use std::collections::BTreeSet;

use syncdata_formats::name::TableName;
use syncdata_formats::proof::{ForeignKey, ProofManifest, ProvedTable, Surplus};

use super::questions::{Answers, KeyAnswer, is_same};
use super::record::{Outcome, Waiting};
use super::table_verdict::{CheckType, Verdict, Word};

/// One for each table that has foreign keys, and one for each that has rules. `compared` is what its data came to.
/// `open`: what earlier proofs found to differ, by table and check.
pub(super) fn verdicts(
    waiting: &Waiting,
    proof: &ProofManifest,
    compared: &[Verdict],
    open: &BTreeSet<(String, CheckType)>,
) -> Vec<Verdict> {
    let is_equal = |table: &TableName| {
        let of_data = |verdict: &&Verdict| verdict.table == *table && verdict.check == CheckType::DataHash;
        compared.iter().find(of_data).is_some_and(|verdict| verdict.verdict == Word::Equal)
    };
    let mut verdicts = Vec::new();
    for (table, digested) in &waiting.tables {
        let proved = proof.tables.get(table);
        let Outcome::Done { answers, .. } = &digested.outcome else {
            let reason = match &digested.outcome {
                Outcome::Not(reason) => reason.as_str(),
                Outcome::Done { .. } | Outcome::UnderWay => "interrupted",
            };
            let has_keys = digested.marked.as_ref().is_some_and(|marked| !marked.foreign_keys.is_empty());
            let has_rules = proved.is_some_and(|proved| !proved.rules.is_empty());
            let checks = [(has_keys, CheckType::ReferentialIntegrity), (has_rules, CheckType::BusinessRules)];
            let checks = checks.into_iter().filter(|(has, _)| *has);
            verdicts.extend(checks.map(|(_, check)| Verdict::not_proved(table, check, reason.to_owned())));
            continue;
        };
        let is_open = |check: CheckType| proved.is_some() && open.contains(&(table.to_string(), check));
        let none = |check, what: &str| is_open(check).then(|| nothing_to_ask(table, check, what));
        let of_keys = keys(table, &answers.keys, proved, is_equal);
        verdicts.extend(of_keys.or_else(|| none(CheckType::ReferentialIntegrity, "foreign key")));
        verdicts.extend(rules(table, answers, proved).or_else(|| none(CheckType::BusinessRules, "rule")));
    }
    verdicts
}

/// What an earlier proof found is over with the last key or rule that could find it.
fn nothing_to_ask(table: &TableName, check: CheckType, what: &str) -> Verdict {
    Verdict {
        verdict: Word::Equal,
        differing: Some(0),
        ..Verdict::not_proved(table, check, format!("there is no {what} of it any more"))
    }
}

/// What several answers come to together.
#[derive(Debug, Default)]
struct Sum {
    words: Vec<String>,
    differing: u64,
    is_unknown: bool,
}

impl Sum {
    fn say(&mut self, name: &str, words: &str) {
        self.words.push(format!("{name}: {words}"));
    }

    fn unknown(&mut self, name: &str, words: &str) {
        self.say(name, words);
        self.is_unknown = true;
    }

    fn add(&mut self, name: &str, surplus: Surplus, what: &str) {
        self.differing += surplus.certain;
        if surplus.certain > 0 {
            let least = if surplus.more { "at least " } else { "" };
            self.say(name, &format!("{least}{} rows {what} that do not at production", surplus.certain));
        }
        if surplus.unknown > 0 {
            self.unknown(name, &format!("more rows {what} than production's proof lists"));
        }
    }

    fn verdict(self, table: &TableName, check: CheckType) -> Verdict {
        let verdict = match (self.differing, self.is_unknown) {
            (1.., _) => Word::Differs,
            (0, true) => Word::NotProved,
            (0, false) => Word::Equal,
        };
        Verdict {
            verdict,
            differing: (self.differing > 0 || !self.is_unknown).then_some(self.differing),
            ..Verdict::not_proved(table, check, self.words.join("; "))
        }
        .without_empty_detail()
    }
}

impl Verdict {
    fn without_empty_detail(mut self) -> Verdict {
        self.detail = self.detail.filter(|detail| !detail.is_empty());
        self
    }
}

pub(super) fn keys(
    table: &TableName,
    answers: &[KeyAnswer],
    proved: Option<&ProvedTable>,
    is_equal: impl Fn(&TableName) -> bool,
) -> Option<Verdict> {
    const WHAT: &str = "refer to nothing";
    if answers.is_empty() {
        return None;
    }
    let mut sum = Sum::default();
    for KeyAnswer { key, reason, is_skipped } in answers {
        let name = &key.name;
        let Some(orphans) = &key.orphans else {
            let reason = reason.as_deref().unwrap_or("it was not answered");
            match is_skipped {
                true => sum.say(name, &format!("skipped, {reason}")),
                false => sum.unknown(name, reason),
            }
            continue;
        };
        if orphans.is_empty() {
            continue;
        }
        let of_production = |theirs: &&ForeignKey| is_same(theirs, key);
        let theirs = proved.and_then(|proved| proved.foreign_keys.iter().find(of_production));
        match theirs.and_then(|theirs| theirs.orphans.as_ref()) {
            // Where the rows are the same on both sides, so are those that refer to nothing.
            _ if is_equal(table) && is_equal(&key.references) => {
                sum.say(name, &format!("{} rows {WHAT}, as at production", orphans.rows.len()));
            }
            // Without a key a row is told by all of it, and here it may have NULL for NaN.
            Some(theirs) if !theirs.is_empty() && proved.is_some_and(|p| !p.not_comparable.is_empty()) => {
                sum.unknown(
                    name,
                    &format!("{} rows {WHAT}, and so do rows at production", orphans.rows.len()),
                );
            }
            Some(theirs) => sum.add(name, orphans.beyond(theirs), WHAT),
            None => {
                let words =
                    format!("{} rows {WHAT}, and production was not asked for its own", orphans.rows.len());
                sum.unknown(name, &words);
            }
        }
    }
    Some(sum.verdict(table, CheckType::ReferentialIntegrity))
}

fn rules(table: &TableName, answers: &Answers, proved: Option<&ProvedTable>) -> Option<Verdict> {
    const WHAT: &str = "break it";
    let theirs = |name: &str| proved.and_then(|proved| proved.rules.get(name));
    let of_production = proved.into_iter().flat_map(|proved| proved.rules.keys());
    let names: BTreeSet<&String> = answers.rules.keys().chain(of_production).collect();
    if names.is_empty() {
        return None;
    }
    let mut sum = Sum::default();
    for name in names {
        let (ours, theirs) = match (answers.rules.get(name), theirs(name)) {
            (Some(ours), Some(theirs)) if ours.sha256 == theirs.sha256 => (ours, theirs),
            (Some(_), Some(_)) => {
                sum.unknown(name, "its SQL is another one than at production");
                continue;
            }
            (None, _) => {
                sum.unknown(name, "it is not in the settings here");
                continue;
            }
            (Some(_), None) => {
                sum.unknown(name, "the proof of production does not have it");
                continue;
            }
        };
        match (ours.answer(), theirs.answer()) {
            (Ok(ours), Ok(theirs)) => sum.add(name, ours.beyond(&theirs), WHAT),
            (Err(reason), _) => sum.unknown(name, &format!("not answered here: {reason}")),
            (_, Err(reason)) => sum.unknown(name, &format!("not answered at production: {reason}")),
        }
    }
    Some(sum.verdict(table, CheckType::BusinessRules))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncdata_formats::digest::Digest;
    use syncdata_formats::proof::{ProofId, RowHash, RuleAnswer, Violators, rule_sha256};

    use super::*;

    fn name(text: &str) -> TableName {
        text.parse().expect("a name")
    }

    fn listed(rows: &[u128]) -> Violators {
        Violators { rows: rows.iter().copied().map(RowHash).collect(), more: false }
    }

    fn key(columns: &str, orphans: Option<&[u128]>) -> ForeignKey {
        ForeignKey {
            name: format!("fk_{columns}"),
            columns: vec![columns.into()],
            references: name("users"),
            key: vec!["id".into()],
            orphans: orphans.map(listed),
        }
    }

    fn proved(foreign_keys: Vec<ForeignKey>, rules: BTreeMap<String, RuleAnswer>) -> ProvedTable {
        ProvedTable {
            rows: 0,
            k: 0,
            relation: Digest::of(b""),
            file: ProofId::buckets_name(1),
            bytes: 0,
            sha256: Digest::of(b""),
            not_comparable: vec![],
            computed: BTreeMap::new(),
            foreign_keys,
            rules,
        }
    }

    fn answered(key: ForeignKey) -> KeyAnswer {
        KeyAnswer { key, reason: None, is_skipped: false }
    }

    #[test]
    fn orphans_of_production_do_not_count_and_what_nobody_knows_is_no_verdict() {
        let unasked = |is_skipped| KeyAnswer { key: key("a", None), reason: Some("why".into()), is_skipped };
        for (ours, theirs, is_equal, verdict, differing) in [
            (answered(key("a", Some(&[]))), vec![], false, Word::Equal, Some(0)),
            (answered(key("a", Some(&[1]))), vec![key("a", Some(&[1]))], false, Word::Equal, Some(0)),
            (answered(key("a", Some(&[1, 2]))), vec![key("a", Some(&[1]))], false, Word::Differs, Some(1)),
            // A key that production does not have, or was not asked for.
            (answered(key("a", Some(&[1]))), vec![key("b", Some(&[1]))], false, Word::NotProved, None),
            (answered(key("a", Some(&[1]))), vec![key("a", None)], false, Word::NotProved, None),
            (answered(key("a", Some(&[1]))), vec![], true, Word::Equal, Some(0)),
            (unasked(true), vec![], false, Word::Equal, Some(0)),
            (unasked(false), vec![], false, Word::NotProved, None),
        ] {
            let production = proved(theirs, BTreeMap::new());
            let said = keys(&name("orders"), std::slice::from_ref(&ours), Some(&production), |_| is_equal);
            let said = said.expect("it has a key");
            assert_eq!((said.verdict, said.differing), (verdict, differing), "{ours:?} {said:?}");
            assert!(said.score.is_none());
        }
        assert!(keys(&name("orders"), &[], None, |_| true).is_none());
        let ours = answered(key("a", Some(&[1])));
        for (theirs, verdict) in [(&[2][..], Word::NotProved), (&[], Word::Differs)] {
            let mut doubtful = proved(vec![key("a", Some(theirs))], BTreeMap::new());
            doubtful.not_comparable.push("x".into());
            let said = keys(&name("orders"), std::slice::from_ref(&ours), Some(&doubtful), |_| false);
            assert_eq!(said.expect("it has a key").verdict, verdict, "{theirs:?}");
        }
    }

    #[test]
    fn a_rule_counts_only_where_both_sides_answered_the_same_question() {
        let rule = |sql: &str, answer| RuleAnswer::new(rule_sha256(sql), answer);
        let ours = |rows: &[u128]| Some(rule("SELECT 1", Ok(listed(rows))));
        let late = || Some(rule("SELECT 1", Err("too late".to_owned())));
        for (here, there, verdict, says) in [
            (ours(&[1]), ours(&[1]), Word::Equal, ""),
            (ours(&[]), ours(&[1]), Word::Equal, ""),
            (ours(&[1, 2]), ours(&[1]), Word::Differs, "r: 1 rows break it that do not at production"),
            (ours(&[1]), None, Word::NotProved, "the proof of production does not have it"),
            (None, ours(&[]), Word::NotProved, "it is not in the settings here"),
            (ours(&[1]), late(), Word::NotProved, "not answered at production: too late"),
            (late(), ours(&[1]), Word::NotProved, "not answered here: too late"),
            (ours(&[1]), Some(rule("SELECT 2", Ok(listed(&[])))), Word::NotProved, "another one"),
        ] {
            let of = |rule: Option<RuleAnswer>| rule.map(|rule| ("r".to_owned(), rule)).into_iter().collect();
            let answers = Answers { rules: of(here), ..Answers::default() };
            let said = rules(&name("orders"), &answers, Some(&proved(vec![], of(there)))).expect("a rule");
            assert_eq!(said.verdict, verdict, "{said:?}");
            assert!(said.detail.clone().unwrap_or_default().contains(says), "{said:?}");
            assert_eq!(said.differing.is_none(), verdict == Word::NotProved, "{said:?}");
        }
    }
}
