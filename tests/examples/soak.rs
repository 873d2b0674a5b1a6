//! `scripts/soak`: random stories one after the other, until the time is over or one fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use syncdata_tests::differential::{Limits, Story};

struct Arguments {
    minutes: u64,
    seed: u64,
    limits: Limits,
}

impl Arguments {
    fn read() -> Result<Arguments, String> {
        let limits = Limits { tables: 6, rounds: 14, is_hard: rustix::process::getuid().is_root() };
        let mut arguments = Arguments { minutes: 10, seed: 1, limits };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().unwrap_or_default();
                value.parse::<u64>().map_err(|_| format!("{word} takes a number, not {value:?}"))
            };
            match word.as_str() {
                "--minutes" => arguments.minutes = number()?,
                "--seed" => arguments.seed = number()?,
                "--tables" => arguments.limits.tables = usize::try_from(number()?).unwrap_or(usize::MAX),
                "--rounds" => arguments.limits.rounds = usize::try_from(number()?).unwrap_or(usize::MAX),
                _ => return Err(format!("{word} is not known")),
            }
        }
        if arguments.limits.tables == 0 {
            return Err("--tables takes one at least".to_owned());
        }
        Ok(arguments)
    }
}

fn say(words: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    // Whoever closed the pipe wants to hear no more.
    let _ = writeln!(out, "{words}").and_then(|()| out.flush());
}

async fn soak(arguments: Arguments) -> ExitCode {
    let Arguments { minutes, seed, limits } = arguments;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    if !limits.is_hard {
        say("without root: no full disks and no wrong clocks");
    }
    let mut played = 0;
    while Instant::now() < end {
        let (seed, begun) = (seed.wrapping_add(played), Instant::now());
        match Story::play(seed, limits).await {
            Ok(story) => say(&format!(
                "seed {seed}: {} statements, {} kills, {:.0} s",
                story.statements(),
                story.kills(),
                begun.elapsed().as_secs_f64()
            )),
            Err(failure) => {
                say(&format!(
                    "{failure}\nagain: scripts/soak --minutes 1 --seed {seed} --tables {} --rounds {}",
                    limits.tables, limits.rounds
                ));
                return ExitCode::FAILURE;
            }
        }
        played += 1;
    }
    say(&format!("{played} seeds from {seed} on: the copy equalled production at every moment of rest"));
    ExitCode::SUCCESS
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Arguments::read() {
        Ok(arguments) => soak(arguments).await,
        Err(words) => {
            say(&format!("{words}\nscripts/soak [--minutes N] [--seed S] [--tables N] [--rounds N]"));
            ExitCode::from(2)
        }
    }
}
