//! How a worker uses its cores: several single-threaded trials at once, one trial with all threads, or between.
//!
//! Which is the fastest depends on the processor, so the worker measures it with real training updates, once: the
//! answer is kept in its cache folder.

mod measure;
mod remembered;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Fewer trials at once must be faster by so much to be chosen.
const MARGIN: f64 = 1.05;
/// Two measurements of one plan that differ by more than this are used, but not remembered.
const AGREEMENT: f64 = 1.25;
/// Where measuring every plan once takes longer, they are not measured again.
const ONCE_MAX: Duration = Duration::from_secs(2);

/// So many trials at once, each with so many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub slots: usize,
    pub threads: usize,
}

/// What a plan was measured to do, all its trials together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    pub plan: Plan,
    pub tokens_per_s: f64,
}

/// Why a plan was chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// The number of slots was given, and it is not above the number of cores.
    Given,
    /// More slots were given than there are cores.
    Clamped { given: usize },
    /// There is nothing to choose on one core.
    OneCore,
    /// It was the fastest of these, just now.
    Measured(Vec<Speed>),
    /// It was, when an earlier process measured it.
    Remembered(Vec<Speed>),
    /// Nothing could be measured.
    Failed(String),
}

/// A plan and why it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub plan: Plan,
    pub reason: Reason,
}

impl Plan {
    /// One trial a core.
    #[must_use]
    pub fn single_threaded(cores: usize) -> Self {
        Self { slots: cores.max(1), threads: 1 }
    }

    /// So many trials at once, but no more than there are cores, which they share.
    #[must_use]
    pub fn with_slots(slots: usize, cores: usize) -> Self {
        let slots = slots.clamp(1, cores.max(1));
        Self { slots, threads: (cores / slots).max(1) }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.slots, self.threads)
    }
}

impl fmt::Display for Choice {
    /// For instance "2 trials at once, 1 thread each (measured: 2 x 1 61200 tokens/s, 1 x 2 50100 tokens/s)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { slots, threads } = self.plan;
        let (trials, each) =
            (if slots == 1 { "trial" } else { "trials" }, if slots == 1 { "" } else { " each" });
        let plural = if threads == 1 { "" } else { "s" };
        write!(f, "{slots} {trials} at once, {threads} thread{plural}{each} (")?;
        match &self.reason {
            Reason::Given => write!(f, "as told")?,
            Reason::Clamped { given } => {
                write!(f, "{given} were asked for, and a trial needs a core")?;
            }
            Reason::OneCore => write!(f, "one core")?,
            Reason::Measured(speeds) => write_speeds(f, "measured", speeds)?,
            Reason::Remembered(speeds) => write_speeds(f, "measured before", speeds)?,
            Reason::Failed(why) => write!(f, "not measured: {why}")?,
        }
        write!(f, ")")
    }
}

fn write_speeds(f: &mut fmt::Formatter<'_>, what: &str, speeds: &[Speed]) -> fmt::Result {
    write!(f, "{what}, trials x threads:")?;
    for (i, speed) in speeds.iter().enumerate() {
        write!(f, "{} {} {:.0} tokens/s", if i == 0 { "" } else { "," }, speed.plan, speed.tokens_per_s)?;
    }
    Ok(())
}

/// Measures a plan: tokens a second of all its trials together, or why not.
type Measure<'a> = dyn FnMut(Plan) -> Result<f64, String> + 'a;

/// Chooses for so many cores. `slots` is what the user said; `cache_dir` holds what was measured before. Takes up to a
/// few seconds where it measures, and stops measuring when the future is dropped.
pub async fn choose(cores: usize, slots: Option<usize>, cache_dir: PathBuf) -> Choice {
    let abandon = SetOnDrop(Arc::default());
    let flag = abandon.0.clone();
    let chosen = tokio::task::spawn_blocking(move || {
        let mut measure = |plan| measure::measure(plan, cores, &flag);
        choose_by(cores, slots, &cache_dir, &remembered::key(cores), &flag, &mut measure)
    });
    let failed = |error: tokio::task::JoinError| {
        let plan = Plan::with_slots(slots.unwrap_or(cores), cores);
        Choice { plan, reason: Reason::Failed(error.to_string()) }
    };
    chosen.await.unwrap_or_else(failed)
}

/// Sets a flag with the scope that made it.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn choose_by(
    cores: usize,
    slots: Option<usize>,
    cache_dir: &Path,
    key: &remembered::Key,
    abandon: &AtomicBool,
    measure: &mut Measure<'_>,
) -> Choice {
    if let Some(given) = slots {
        let plan = Plan::with_slots(given, cores);
        let reason = if given > plan.slots { Reason::Clamped { given } } else { Reason::Given };
        return Choice { plan, reason };
    }
    if cores <= 1 {
        return Choice { plan: Plan::single_threaded(1), reason: Reason::OneCore };
    }
    // Two processes that measured at once would measure each other.
    let _turn = remembered::turn(cache_dir, abandon);
    if let Some(speeds) = remembered::read(cache_dir, key) {
        return Choice { plan: fastest(&speeds), reason: Reason::Remembered(speeds) };
    }
    match measure_all(&candidates(cores), measure) {
        Ok((speeds, agree)) => {
            if agree {
                remembered::write(cache_dir, key, &speeds);
            }
            Choice { plan: fastest(&speeds), reason: Reason::Measured(speeds) }
        }
        Err(why) => Choice { plan: Plan::single_threaded(cores), reason: Reason::Failed(why) },
    }
}

/// One trial a core, then half as many trials each time, down to one with all cores.
fn candidates(cores: usize) -> Vec<Plan> {
    let halves = std::iter::successors(Some(cores), |slots| (*slots > 1).then_some(slots / 2));
    halves.map(|slots| Plan::with_slots(slots, cores)).collect()
}

/// The better of two measurements of each, and whether the two agreed. The second time in the opposite order, so that
/// a machine that grows busier does not favour one end; on a machine too busy for that, one measurement.
fn measure_all(plans: &[Plan], measure: &mut Measure<'_>) -> Result<(Vec<Speed>, bool), String> {
    let begun = Instant::now();
    let mut speeds = Vec::new();
    for &plan in plans {
        speeds.push(Speed { plan, tokens_per_s: measure(plan)? });
    }
    if begun.elapsed() > ONCE_MAX {
        return Ok((speeds, false));
    }
    let mut agree = true;
    for speed in speeds.iter_mut().rev() {
        let (first, second) = (speed.tokens_per_s, measure(speed.plan)?);
        agree &= first.max(second) <= AGREEMENT * first.min(second);
        speed.tokens_per_s = first.max(second);
    }
    Ok((speeds, agree))
}

/// The fastest; among those that are about as fast, the one with the most trials at once.
fn fastest(speeds: &[Speed]) -> Plan {
    let mut best = Speed { plan: Plan::single_threaded(1), tokens_per_s: 0.0 };
    for &speed in speeds {
        if speed.tokens_per_s > MARGIN * best.tokens_per_s {
            best = speed;
        }
    }
    best.plan
}

#[cfg(test)]
mod tests;
