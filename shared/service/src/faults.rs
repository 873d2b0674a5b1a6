//! Fault points: named stops at which a test kills the process or makes a step fail.
//!
//! `SYNCDATA_FAULTS="spool.before_rename=kill@3,ship.put=error"` kills at the third visit of the first point
//! and fails the first visit of the second; `error@2+` fails every visit from the second on.
//! `SYNCDATA_FAULT_GATES=FOLDER` holds each at points that wait (`pass`) for as long as the folder has a file of that name.
//! `SYNCDATA_FAULT_TRACE=FILE` appends the name of every point visited. Without the feature `faults` (never
//! part of a release build) a point is nothing.

use syncdata_formats::error::Result;

/// Stops here if a test asked for it.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn hit(_point: &'static str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub fn hit(point: &'static str) -> Result<()> {
    active::hit(point)
}

/// As `hit`, in a task beside which others go on: a test may also hold it there.
#[cfg(not(feature = "faults"))]
#[expect(clippy::unused_async, reason = "it waits where tests may hold it")]
pub async fn pass(_point: &'static str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "faults")]
pub async fn pass(point: &'static str) -> Result<()> {
    active::hit(point)?;
    active::held(point).await;
    Ok(())
}

#[cfg(feature = "faults")]
mod active {
    use std::collections::HashMap;
    use std::io::Write as _;
    use std::sync::{LazyLock, Mutex};

    use syncdata_formats::error::{Error, Kind, Result};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Error,
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Plan {
        point: String,
        action: Action,
        visit: u64,
        and_later: bool,
    }

    static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| {
        let text = std::env::var("SYNCDATA_FAULTS").unwrap_or_default();
        parse(&text)
            .unwrap_or_else(|bad| panic!("SYNCDATA_FAULTS: {bad:?} is not point=kill|error[@visit[+]]"))
    });
    static VISITS: LazyLock<Mutex<HashMap<&'static str, u64>>> = LazyLock::new(Mutex::default);

    fn parse(text: &str) -> Result<Vec<Plan>, &str> {
        let plan = |item| parse_one(item).ok_or(item);
        text.split(',').filter(|item| !item.is_empty()).map(plan).collect()
    }

    fn parse_one(item: &str) -> Option<Plan> {
        let (point, rest) = item.split_once('=')?;
        let (action, visit) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action {
            "kill" => Action::Kill,
            "error" => Action::Error,
            _ => return None,
        };
        let and_later = visit.ends_with('+');
        let visit = visit.trim_end_matches('+').parse().ok()?;
        Some(Plan { point: point.to_owned(), action, visit, and_later })
    }

    pub(super) fn hit(point: &'static str) -> Result<()> {
        let mut visits = VISITS.lock().expect("no test panics while it holds the counters");
        let visit = visits.entry(point).or_insert(0);
        *visit += 1;
        trace(point);
        let due = |plan: &&Plan| {
            plan.point == point && (plan.visit == *visit || plan.and_later && plan.visit < *visit)
        };
        match PLANS.iter().find(due).map(|plan| plan.action) {
            None => Ok(()),
            // As kill -9: no destructor runs, nothing is flushed.
            Some(Action::Kill) => {
                let me = rustix::process::getpid();
                rustix::process::kill_process(me, rustix::process::Signal::KILL)
                    .expect("a process may kill itself");
                unreachable!("killed")
            }
            Some(Action::Error) => Err(Error::new(Kind::Io, format!("fault injected at {point}"))),
        }
    }

    /// For as long as the gate is there.
    pub(super) async fn held(point: &str) {
        let Some(gates) = std::env::var_os("SYNCDATA_FAULT_GATES") else { return };
        let gate = std::path::Path::new(&gates).join(point);
        if gate.exists() {
            trace(&format!("{point} held"));
        }
        while gate.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn trace(point: &str) {
        let Some(path) = std::env::var_os("SYNCDATA_FAULT_TRACE") else { return };
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let mut file = opened.expect("the test that asked for a trace made its folder");
        writeln!(file, "{point}").expect("the trace can be written");
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn reads_plans() {
            let plan = |point: &str, action, visit, and_later| Plan {
                point: point.into(),
                action,
                visit,
                and_later,
            };
            assert_eq!(parse(""), Ok(vec![]));
            assert_eq!(
                parse("a.b=kill@3,c=error@2+"),
                Ok(vec![plan("a.b", Action::Kill, 3, false), plan("c", Action::Error, 2, true)])
            );
            assert_eq!(parse("a=explode"), Err("a=explode"));
        }
    }
}
