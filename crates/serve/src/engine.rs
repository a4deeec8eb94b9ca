//! Decodes on threads of its own: [`Engine::submit`] takes searches and gives a ticket for what comes of them.
//!
//! Each thread steps the rows of all its jobs through the model as one batch, token by token: weights are read once for
//! all of them. Jobs come and go between steps; those of one model share a batch, so that after a swap old and new go on
//! beside each other. A row's numbers do not depend on the rows beside it, so neither do pieces. A ticket that is dropped
//! cancels its job.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use kapell_model::decode::{Decoded, Run, Stuck, search};
use kapell_model::infer::{Model, Row, Stepper};
use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// What comes of a job's searches, in their order; an error where the engine has ended, or a bug ended the job.
pub(crate) type Ticket = oneshot::Receiver<Vec<Result<Decoded, Stuck>>>;

/// Searches under way that belong together.
struct Job {
    model: Arc<Model>,
    runs: Vec<Run<Row>>,
    answer: oneshot::Sender<Vec<Result<Decoded, Stuck>>>,
}

impl Job {
    fn is_done(&self) -> bool {
        self.runs.iter().all(Run::is_done)
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Jobs that each thread has.
    loads: Vec<usize>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Jobs that a thread has at once.
    batch_max: usize,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that decode.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Engine {
    /// Starts so many threads, each of which decodes at most `batch_max` jobs at once.
    pub(crate) fn start(cores: usize, batch_max: usize, metrics: Arc<Metrics>) -> io::Result<Self> {
        let cores = cores.max(1);
        let queue = Mutex::new(Queue { loads: vec![0; cores], ..Queue::default() });
        let batch_max = batch_max.max(1);
        let shared = Arc::new(Shared { queue, changed: Condvar::new(), batch_max, metrics });
        let spawn = |number: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("decode-{number}")).spawn(move || work(&shared, number))
        };
        let threads = (0..cores).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Queues searches of one model. The queue has no bound of its own: callers hold a place among the requests.
    pub(crate) fn submit(&self, model: Arc<Model>, runs: Vec<Run<Row>>) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        self.shared.queue().waiting.push_back(Job { model, runs, answer });
        self.shared.metrics.waiting.inc();
        // All: only one of them may have the least to do.
        self.shared.changed.notify_all();
        ticket
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The jobs of one model on one thread.
struct Batch {
    stepper: Stepper,
    jobs: Vec<Job>,
}

fn work(shared: &Shared, number: usize) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut logits = Vec::new();
    while take(shared, number, &mut batches) {
        for batch in &mut batches {
            let runs = batch.jobs.iter_mut().flat_map(|job| &mut job.runs);
            let mut open: Vec<&mut Run<Row>> = runs.filter(|run| !run.is_done()).collect();
            let rows = search::step(&mut batch.stepper, &mut open, &mut logits);
            shared.metrics.stepped(rows);
            for job in batch.jobs.extract_if(.., |job| job.is_done() || job.answer.is_closed()) {
                leave(shared, number, job);
            }
        }
        batches.retain(|batch| !batch.jobs.is_empty());
    }
}

/// Takes jobs that wait as long as no thread has fewer, and waits for one where there is nothing to do. False at the end.
fn take(shared: &Shared, number: usize, batches: &mut Vec<Batch>) -> bool {
    let mut queue = shared.queue();
    loop {
        if queue.closed {
            return false;
        }
        let load = queue.loads[number];
        let least = queue.loads.iter().all(|other| load <= *other);
        if load < shared.batch_max
            && least
            && let Some(job) = queue.waiting.pop_front()
        {
            queue.loads[number] += 1;
            shared.metrics.waiting.dec();
            shared.metrics.running.inc();
            join(batches, job);
        } else if load > 0 {
            return true;
        } else {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn join(batches: &mut Vec<Batch>, job: Job) {
    match batches.iter_mut().find(|batch| Arc::ptr_eq(batch.stepper.model(), &job.model)) {
        Some(batch) => batch.jobs.push(job),
        None => batches.push(Batch { stepper: Stepper::new(Arc::clone(&job.model)), jobs: vec![job] }),
    }
}

/// A job that is done, or that nobody waits for any more.
fn leave(shared: &Shared, number: usize, job: Job) {
    shared.metrics.running.dec();
    shared.metrics.tokens.inc_by(job.runs.iter().map(Run::fed).sum());
    let decoded = job.runs.iter().map(Run::decoded).collect();
    if job.answer.is_closed() || job.answer.send(decoded).is_err() {
        shared.metrics.canceled.inc();
    }
    shared.queue().loads[number] -= 1;
    // Another thread may have more than this one now, and may not have been allowed to take what waits.
    shared.changed.notify_all();
}
