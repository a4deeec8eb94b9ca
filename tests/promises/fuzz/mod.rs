//! Parsers never panic: each is given, for a while, what comes of mutating valid inputs. A panic, an input that takes
//! too long or too much memory is a failure. Inputs that get an answer of a new kind are mutated further.

mod mutate;
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stats_alloc::Region;

use crate::ALLOCATOR;
use crate::dice::Dice;
use crate::options::{Failure, Figure, Options};
use targets::Target;

/// A parser's time. The short form shares a few minutes with every other promise.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(3600);
/// What one input may take, far above what any does: the machine may be busy with other things.
const EXECUTION_MAX: Duration = Duration::from_secs(10);
/// Bytes that one input may have allocated, all together: the 50 MB that a score may inflate to, a few times over.
const ALLOCATED_MAX: usize = 1 << 30;
/// Inputs that are kept for mutation.
const KEPT_MAX: usize = 2000;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    targets::bombs_are_refused()?;
    let mut figures = Vec::new();
    let mut executions = 0;
    for (n, target) in targets::all()?.into_iter().enumerate() {
        let name = target.name;
        let seed = options.seed.wrapping_add(u64::try_from(n).unwrap_or(0));
        let time = if options.long { LONG } else { SHORT };
        let most = options.tries(u64::MAX, u64::MAX);
        // A thread of its own with the stack of a worker: what overflows it is named.
        let fuzzing = std::thread::Builder::new().name(name.to_owned()).stack_size(2 << 20);
        let found = fuzzing
            .spawn(move || fuzz(target, seed, time, most))
            .context("a thread")?
            .join()
            .map_err(|_| Failure(format!("{name}: the fuzzer itself has failed")))?;
        let (tries, kinds) = found.with_context(|| format!("{name}, seed {seed}"))?;
        executions += tries;
        figures.push(format!("{name} {tries} ({kinds} kinds of answer)"));
    }
    let text = format!("0 crashes; executions: {}; .mxl bombs refused at 50 MB", figures.join(", "));
    Ok(Figure::zero_in(executions, text))
}

/// Executions, and how many kinds of answer there were.
fn fuzz(mut target: Target, seed: u64, time: Duration, most: u64) -> Result<(u64, usize)> {
    let mut rng = Dice::new(seed);
    let mut kept = target.seeds.clone();
    let mut kinds = HashSet::new();
    for seed in &target.seeds {
        let answer = execute(&mut target.read, seed)?;
        kinds.insert(kind(&answer));
    }
    let begun = Instant::now();
    let mut tries = 0;
    while begun.elapsed() < time && tries < most {
        let mut input = kept[rng.index(kept.len())].clone();
        mutate::mutate(&mut input, &kept, target.words, &mut rng);
        let answer = execute(&mut target.read, &input).with_context(|| format!("execution {tries}"))?;
        if kinds.insert(kind(&answer)) && kept.len() < KEPT_MAX {
            kept.push(input);
        }
        tries += 1;
    }
    Ok((tries, kinds.len()))
}

/// Reads one input, within bounds.
fn execute(read: &mut targets::Read, input: &[u8]) -> Result<String> {
    let region = Region::new(ALLOCATOR);
    let begun = Instant::now();
    let answer = catch_unwind(AssertUnwindSafe(|| read(input)));
    let (took, bytes) = (begun.elapsed(), region.change().bytes_allocated);
    let Ok(answer) = answer else { bail!("a panic on {}", keep(input)?) };
    ensure!(took < EXECUTION_MAX, "{took:?} for {}", keep(input)?);
    ensure!(bytes < ALLOCATED_MAX, "{bytes} bytes allocated for {}", keep(input)?);
    Ok(answer)
}

/// Answers that differ in numbers and quoted words only are of one kind.
fn kind(answer: &str) -> String {
    let mut quoted = false;
    let plain = answer.chars().filter(|c| {
        quoted ^= *c == '"' || *c == '`';
        !quoted && !c.is_ascii_digit()
    });
    plain.take(120).collect()
}

/// Writes an input where a person can find it.
fn keep(input: &[u8]) -> Result<String> {
    let path = std::env::temp_dir().join(format!("kapell-crash-{}", kapell_rpc::digest::of_bytes(input)));
    std::fs::write(&path, input)?;
    Ok(format!("{} ({} bytes)", path.display(), input.len()))
}
