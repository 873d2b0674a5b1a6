//! What happens in a story, step by step: made from the seed before anything runs.

use super::mishap::{self, Mishap};
use super::statements::{self, Statement, Transaction};
use super::tables::Table;
use crate::workload::Prng;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Work(Vec<Transaction>),
    /// A transaction that stays open for a while.
    Open(Vec<Statement>),
    /// Its commit, or not.
    Close(bool),
    /// One poll of the archiver, in trouble first or not.
    Poll(Option<Mishap>),
    /// One pass of the applier.
    Sync(Option<Mishap>),
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
    /// The table leaves the whitelist.
    Leave(usize),
    Return,
    /// What is there now is looked at again at the end, as of now.
    Remember,
    /// The applier runs as a daemon.
    Start,
    /// It is stopped, or killed.
    Stop(bool),
    /// The archiver runs as a daemon that follows the slot.
    Follow,
    /// As the applier's.
    StopFollowing(bool),
    CrashSource,
    CrashTarget,
}

/// What goes on over several rounds.
#[derive(Debug, Default)]
struct Under {
    held_up: bool,
    away: bool,
    open: bool,
    daemon: bool,
    follower: bool,
    has_snapshot: bool,
}

/// `follows` decides when the slot is followed, beside all the rest: what a seed told before, it tells still.
pub(super) fn script(
    random: &mut Prng,
    follows: Prng,
    tables: &[Table],
    rounds: usize,
    is_hard: bool,
) -> Vec<Step> {
    let first = tables.iter().map(|table| statements::first_rows(random, table)).collect();
    let mut writer = Writer { random, follows, tables, is_hard, steps: Vec::new(), under: Under::default() };
    writer.steps = vec![Step::Work(first), Step::Poll(None), Step::Sync(None), Step::Compare];
    for _ in 0..rounds {
        writer.round();
    }
    writer.settle();
    writer.steps
}

struct Writer<'a> {
    random: &'a mut Prng,
    follows: Prng,
    tables: &'a [Table],
    is_hard: bool,
    steps: Vec<Step>,
    under: Under,
}

impl Writer<'_> {
    fn round(&mut self) {
        self.begin_something();
        let number = 1 + self.random.below(8);
        let work = (0..number).map(|_| statements::transaction(self.random, self.tables)).collect();
        self.steps.push(Step::Work(work));
        if self.random.chance(8) {
            self.steps.push(Step::CrashSource);
            self.under.open = false;
        }
        let mishap = mishap::random(self.random, self.is_hard);
        self.steps.push(Step::Poll(mishap));
        if self.random.chance(8) {
            self.steps.push(Step::CrashTarget);
        }
        let mishap = mishap::random(self.random, self.is_hard);
        self.steps.extend([Step::Sync(mishap), Step::Compare]);
        if !self.under.open && self.random.chance(25) {
            self.steps.push(Step::Remember);
        }
        self.bases();
        if !self.under.held_up && self.random.chance(20) {
            let can_be_replayed = |place: &usize| self.tables[*place].can_be_replayed();
            let replayed: Vec<usize> = (0..self.tables.len()).filter(can_be_replayed).collect();
            if !replayed.is_empty() && !self.under.away {
                self.steps.extend([Step::Replay(replayed), Step::Compare]);
            }
        }
        self.end_something();
    }

    fn begin_something(&mut self) {
        if !self.under.held_up && self.random.chance(20) {
            self.under.held_up = true;
            let place = self.random.place(self.tables.len());
            self.steps.push(Step::HoldUp(place));
        }
        if !self.under.open && self.random.chance(25) {
            self.under.open = true;
            let statements = statements::transaction(self.random, self.tables).statements;
            self.steps.push(Step::Open(statements));
        }
        if !self.under.daemon && self.random.chance(12) {
            self.under.daemon = true;
            self.steps.push(Step::Start);
        }
        if !self.under.follower && self.follows.chance(12) {
            self.under.follower = true;
            self.steps.push(Step::Follow);
        }
        let place = self.random.place(self.tables.len());
        let is_alone = !self.tables[place].is_parent
            && self.tables[place].columns.iter().all(|column| column.refers_to.is_none());
        if is_alone && !self.under.away && !self.under.held_up && self.random.chance(15) {
            self.under.away = true;
            self.steps.push(Step::Leave(place));
        }
    }

    fn bases(&mut self) {
        if !self.under.open && self.random.chance(if self.under.has_snapshot { 12 } else { 40 }) {
            self.under.has_snapshot = true;
            self.steps.extend([Step::Snapshot, Step::Poll(None), Step::Sync(None)]);
        }
        let is_quiet = self.under.has_snapshot && !self.under.held_up && !self.under.away;
        if is_quiet && self.random.chance(25) {
            let place = self.random.place(self.tables.len());
            self.steps.extend([Step::Resync(place), Step::Compare]);
        }
    }

    fn end_something(&mut self) {
        if self.under.open && self.random.chance(60) {
            self.under.open = false;
            let is_kept = self.random.chance(80);
            self.steps.extend([Step::Close(is_kept), Step::Poll(None), Step::Sync(None)]);
        }
        if self.under.daemon && self.random.chance(40) {
            self.under.daemon = false;
            let is_killed = self.random.chance(50);
            self.steps.push(Step::Stop(is_killed));
        }
        if self.under.follower && self.follows.chance(40) {
            self.under.follower = false;
            let is_killed = self.follows.chance(50);
            self.steps.push(Step::StopFollowing(is_killed));
        }
        if self.under.held_up && self.random.chance(40) {
            self.under.held_up = false;
            self.steps.extend([Step::Release, Step::Compare]);
        }
        if self.under.away && !self.under.open && !self.under.held_up && self.random.chance(40) {
            self.come_back();
        }
    }

    fn come_back(&mut self) {
        self.under.away = false;
        self.under.has_snapshot = true;
        // A daemon loads beside its passes: nobody would wait for it.
        if std::mem::take(&mut self.under.daemon) {
            self.steps.push(Step::Stop(false));
        }
        self.steps.extend([Step::Poll(None), Step::Sync(None), Step::Snapshot, Step::Poll(None)]);
        self.steps.extend([Step::Sync(None), Step::Return, Step::Sync(None), Step::Compare]);
    }

    fn settle(&mut self) {
        if self.under.open {
            self.steps.push(Step::Close(true));
        }
        if self.under.held_up {
            self.steps.extend([Step::Poll(None), Step::Sync(None), Step::Release]);
        }
        if self.under.away {
            self.come_back();
        }
        self.steps.extend([Step::Poll(None), Step::Sync(None), Step::Compare]);
    }
}
