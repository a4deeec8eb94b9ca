//! `kapell model evaluate`: a model on held-out pieces: nats by voice, wrong notes, counterpoint.

mod files;
mod plan;
mod plot;
mod report;
mod subject;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kapell_model::decode::Vocabulary;
use kapell_model::infer::{Model, Stepper};
use kapell_model::measure::Reference;
use kapell_model::measure::harmony::{self, Outcome};
use kapell_model::measure::likelihood::{self, Likelihood};
use kapell_worker::cores;

use crate::args::{EvaluateArgs, Global};
use crate::error::CliError;
use crate::{Outcome as Exit, output, resolve};
use plan::Task;
use report::Report;
use subject::Subject;

/// Pieces that are set side by side, so that their rows share products.
const BATCH: usize = 6;

/// Measures a model and tells what came of it.
pub(super) fn run(args: &EvaluateArgs, global: &Global) -> Exit {
    let begun = Instant::now();
    if let Some(dir) = &args.out {
        files::prepare(dir)?;
    }
    let model = resolve::local(Some(&args.model), global)?;
    let subject = Subject::load(&model, args)?;
    let threads = args.threads.map_or_else(cores::available, usize::from);
    let tasks = plan::tasks(args);
    output::remark(format!(
        "evaluating {} on {} pieces of {} ({})",
        subject.label,
        subject.pieces.len(),
        subject.corpus.name,
        args.on.part().name()
    ));
    let likelihoods = likelihoods(&subject, threads)?;
    let outcomes = set_all(&subject, &tasks, threads);
    let report = Report::new(&subject, args, &likelihoods, &tasks, &outcomes, begun.elapsed().as_secs_f64());
    if let Some(dir) = &args.out {
        files::write(dir, &report, &subject, &likelihoods, &tasks, &outcomes)?;
    }
    if global.json {
        output::json(&report);
    } else {
        tables::print(&report);
        if let Some(dir) = &args.out {
            output::line(format!("\ntables, plot and a line a piece: {}", dir.display()));
        }
    }
    Ok(0)
}

fn likelihoods(subject: &Subject, threads: usize) -> Result<Vec<Likelihood>, CliError> {
    likelihood::likelihoods(&subject.weights, &subject.vocabulary, &subject.pieces, threads).map_err(
        |error| {
            let hint = "name the corpus that the model was trained on, or one encoded alike, with --corpus";
            CliError::new(crate::error::exit::USAGE, "wrong-model", error.to_string(), hint)
        },
    )
}

/// What came of a piece under a task; none where there was no way to set it, with the reason.
type Set = Result<Outcome, String>;

/// Sets every piece by every task, by task and piece. Threads take batches of pieces as they come; nothing depends on
/// which thread takes which.
fn set_all(subject: &Subject, tasks: &[Task], threads: usize) -> Vec<Vec<Set>> {
    let model: &Arc<Model> = &subject.model;
    let batches: Vec<(usize, Vec<usize>)> = (0..tasks.len())
        .flat_map(|task| subject.batches(BATCH).into_iter().map(move |pieces| (task, pieces)))
        .collect();
    let (next, progress) = (AtomicUsize::new(0), Progress::new(tasks.len() * subject.pieces.len()));
    let work = || {
        let mut stepper = Stepper::new(Arc::clone(model));
        let mut done = Vec::new();
        while let Some((task, places)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let sets = set_batch(&mut stepper, &subject.vocabulary, &subject.pieces, &tasks[*task], places);
            progress.add(places.len(), &tasks[*task].name());
            done.push((*task, places, sets));
        }
        done
    };
    let mut outcomes: Vec<Vec<Set>> =
        tasks.iter().map(|_| vec![Err("not set".to_owned()); subject.pieces.len()]).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        for done in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            for (task, places, sets) in done {
                for (place, set) in places.iter().zip(sets) {
                    outcomes[task][*place] = set;
                }
            }
        }
    });
    progress.finish();
    outcomes
}

fn set_batch(
    stepper: &mut Stepper,
    vocabulary: &Arc<Vocabulary>,
    pieces: &[Reference],
    task: &Task,
    places: &[usize],
) -> Vec<Set> {
    let batch: Vec<&Reference> = places.iter().map(|&place| &pieces[place]).collect();
    let sets = harmony::set(stepper, vocabulary, &batch, task.given(), task.method());
    sets.into_iter().map(|set| set.map_err(|error| error.to_string())).collect()
}

/// How far it has come: a bar on a terminal, a line every tenth elsewhere.
struct Progress {
    total: usize,
    done: AtomicUsize,
    bar: Option<indicatif::ProgressBar>,
}

impl Progress {
    fn new(total: usize) -> Self {
        let bar = output::interactive().then(|| {
            let style =
                indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} settings, {eta} to go  {msg}");
            let bar = indicatif::ProgressBar::new(total as u64);
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        Self { total, done: AtomicUsize::new(0), bar }
    }

    fn add(&self, pieces: usize, task: &str) {
        let before = self.done.fetch_add(pieces, Ordering::Relaxed);
        let done = before + pieces;
        match &self.bar {
            Some(bar) => {
                bar.set_message(task.to_owned());
                bar.set_position(done as u64);
            }
            None if before * 10 / self.total.max(1) != done * 10 / self.total.max(1) => {
                output::remark(format!("{done} of {} settings done ({task})", self.total));
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests;
