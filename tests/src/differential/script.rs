//! What happens in a story, step by step: made from the seed before anything runs.

use super::statements::{self, Transaction};
use super::tables::Table;
use crate::workload::Prng;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Work(Vec<Transaction>),
    /// One poll of the archiver; killed somewhere first, or not.
    Poll(Option<Kill>),
    /// One pass of the applier.
    Sync(Option<Kill>),
    /// Both sides are compared.
    Compare,
    Snapshot,
    Resync(usize),
    /// Rows of these tables are spoiled here, and repaired.
    Replay(Vec<usize>),
    /// The table takes no rows here any more.
    HoldUp(usize),
    /// It does again.
    Release,
    /// What is there now is looked at again at the end, as of now.
    Remember,
    CrashSource,
    CrashTarget,
}

/// Which of the fault points that were seen so far, and which of its visits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    pub point: u64,
    pub visit: u64,
}

pub(super) fn script(random: &mut Prng, tables: &[Table], rounds: usize) -> Vec<Step> {
    let first = tables.iter().map(|table| statements::first_rows(random, table)).collect();
    let mut steps = vec![Step::Work(first), Step::Poll(None), Step::Sync(None), Step::Compare];
    let mut held_up = false;
    let mut has_snapshot = false;
    for _ in 0..rounds {
        round(random, tables, &mut steps, &mut held_up, &mut has_snapshot);
    }
    if held_up {
        steps.push(Step::Release);
    }
    steps.extend([Step::Poll(None), Step::Sync(None), Step::Compare]);
    steps
}

fn round(
    random: &mut Prng,
    tables: &[Table],
    steps: &mut Vec<Step>,
    held_up: &mut bool,
    has_snapshot: &mut bool,
) {
    let number = 1 + random.below(8);
    let work = (0..number).map(|_| statements::transaction(random, tables, *held_up)).collect();
    steps.push(Step::Work(work));
    if !*held_up && random.chance(20) {
        *held_up = true;
        steps.push(Step::HoldUp(random.place(tables.len())));
    }
    if random.chance(8) {
        steps.push(Step::CrashSource);
    }
    steps.push(Step::Poll(kill(random)));
    if random.chance(8) {
        steps.push(Step::CrashTarget);
    }
    steps.extend([Step::Sync(kill(random)), Step::Compare]);
    if random.chance(25) {
        steps.push(Step::Remember);
    }
    if random.chance(if *has_snapshot { 15 } else { 40 }) {
        *has_snapshot = true;
        steps.extend([Step::Snapshot, Step::Poll(None), Step::Sync(None)]);
    }
    let can_be_loaded = |place: &usize| super::story::can_be_loaded(&tables[*place]);
    if *has_snapshot && !*held_up && random.chance(25) {
        let place = random.place(tables.len());
        if can_be_loaded(&place) {
            steps.extend([Step::Resync(place), Step::Compare]);
        }
    }
    if !*held_up && random.chance(20) {
        let replayed: Vec<usize> =
            (0..tables.len()).filter(|place| tables[*place].can_be_replayed()).collect();
        if !replayed.is_empty() {
            steps.extend([Step::Replay(replayed), Step::Compare]);
        }
    }
    if *held_up && random.chance(40) {
        *held_up = false;
        steps.extend([Step::Release, Step::Compare]);
    }
}

fn kill(random: &mut Prng) -> Option<Kill> {
    random.chance(40).then(|| Kill { point: random.number(), visit: 1 + random.below(3) })
}
