//! Times real training updates: a plan's trainers all at once, as its trials would run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use kapell_model::{Step, TrainConfig, TrainError, Trainer};
use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};

use super::{Plan, candidates};

/// All measurements of a choice together take about so long, warming up left aside.
const BUDGET: Duration = Duration::from_millis(1500);
/// Every trainer's updates that count, at least.
const UPDATES_MIN: usize = 3;
/// A measurement that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(20);
/// As many tokens as Bach's chorales use.
const VOCABULARY: u16 = 110;

/// A model from the middle of a grid, in short windows: few of its updates fit the time.
fn shape(threads: usize) -> TrainConfig {
    // The rate is too small to diverge on what cannot be learnt.
    TrainConfig {
        layers: 2,
        hidden: 256,
        seq_len: 16,
        learning_rate: 1e-9,
        epochs: 1_000_000,
        threads,
        ..TrainConfig::default()
    }
}

/// What a trainer's thread says.
enum Word {
    Updated { trainer: usize, started: Instant, ended: Instant },
    Failed(String),
}

/// Tokens a second of all the plan's trials together, running at once, on so many cores.
///
/// # Errors
/// In words: a trainer that does not start or stops, a machine that is too slow, the flag `abandon`.
pub(super) fn measure(plan: Plan, cores: usize, abandon: &Arc<AtomicBool>) -> Result<f64, String> {
    let rounds = u32::try_from(2 * candidates(cores).len()).unwrap_or(u32::MAX);
    let config = shape(plan.threads);
    let corpus = Arc::new(corpus(&config));
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut started = Ok(());
        for trainer in 0..plan.slots {
            let (config, corpus, stop, tell) = (config.clone(), corpus.clone(), stop.clone(), tell.clone());
            let train = move || train(trainer, config, corpus, stop, &tell);
            let spawned = std::thread::Builder::new().name("measure".into()).spawn_scoped(scope, train);
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => started = Err(format!("no thread: {error}")),
            }
        }
        drop(tell);
        let counted = started.and_then(|()| listen(&told, plan.slots, BUDGET / rounds, abandon));
        stop.store(true, Ordering::Relaxed);
        // One that panicked was missed by `listen`.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        let tokens = config.seq_len * config.batch_size;
        counted.map(|updates| updates_per_s(updates) * f64::from(u32::try_from(tokens).unwrap_or(u32::MAX)))
    })
}

/// Updates until told to stop.
fn train(
    trainer: usize,
    config: TrainConfig,
    corpus: Arc<Corpus>,
    stop: Arc<AtomicBool>,
    tell: &Sender<Word>,
) {
    let steps = || -> Result<(), TrainError> {
        let mut run = Trainer::new(config, corpus)?;
        run.abandon_on(stop.clone());
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            if let Step::Updated { .. } = run.step()? {
                // Nobody may listen any more, which the flag will say, too.
                let _ = tell.send(Word::Updated { trainer, started, ended: Instant::now() });
            }
        }
        Ok(())
    };
    match steps() {
        Ok(()) | Err(TrainError::Abandoned) => {}
        Err(error) => drop(tell.send(Word::Failed(error.to_string()))),
    }
}

/// The times of updates by trainer, of those that began when every trainer had made its first one.
fn listen(
    told: &Receiver<Word>,
    trainers: usize,
    window: Duration,
    abandon: &AtomicBool,
) -> Result<Vec<Vec<f64>>, String> {
    let begun = Instant::now();
    let mut first = vec![false; trainers];
    let mut warm: Option<Instant> = None;
    let mut updates = vec![Vec::new(); trainers];
    loop {
        if abandon.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("no {UPDATES_MIN} updates within {PATIENCE:?}"));
        }
        if warm.is_some_and(|at| at.elapsed() >= window) && updates.iter().all(|u| u.len() >= UPDATES_MIN) {
            return Ok(updates);
        }
        match told.recv_timeout(GLANCE) {
            Ok(Word::Updated { trainer, started, ended }) => {
                first[trainer] = true;
                if warm.is_none() && first.iter().all(|ready| *ready) {
                    warm = Some(ended);
                }
                if warm.is_some_and(|at| started >= at) {
                    updates[trainer].push(ended.duration_since(started).as_secs_f64());
                }
            }
            Ok(Word::Failed(why)) => return Err(why),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("a trainer ended without a word".into()),
        }
    }
}

/// All trainers together, each by its median.
fn updates_per_s(updates: Vec<Vec<f64>>) -> f64 {
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    updates.into_iter().map(|seconds| 1.0 / median(seconds)).sum()
}

/// Something to train on, long enough that hardly an epoch ends.
fn corpus(config: &TrainConfig) -> Corpus {
    let tokens = |count: usize| {
        let next = |word: &u32| Some(word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let words = std::iter::successors(Some(1_u32), next);
        words.map(|word| u16::try_from(word >> 16).unwrap_or(0) % VOCABULARY).take(count).collect()
    };
    let piece = |id: &str, part, count| Piece { id: id.into(), part, tokens: tokens(count) };
    Corpus {
        name: "noise".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: (0..VOCABULARY).map(|token| token.to_string()).collect(),
        pieces: vec![
            piece("train", PartOfSplit::Train, 64 * config.seq_len * config.batch_size + 1),
            piece("val", PartOfSplit::Val, 16),
        ],
    }
}
