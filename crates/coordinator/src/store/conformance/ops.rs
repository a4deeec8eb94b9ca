//! What is done to both stores: drawn by the model's state, so that much of it makes sense and some of it does not.

use std::sync::Arc;
use std::time::Duration;

use kapell_dispatch::report::Measurement;
use kapell_dispatch::sim::Random;
use kapell_dispatch::sim::store::{
    Ask, Ended, Env, Finish, NewCheckpoint, NewStudy, NewTrial, Reference, Refusal, Reported, Rules,
    WorkerState,
};
use kapell_dispatch::trial::RetryPolicy;
use kapell_dispatch::{Held, Outcome, StudyEvent};
use kapell_search::StudySpec;

pub(super) const GRACE: Duration = Duration::from_secs(120);
/// The content of the one corpus there is.
pub(super) const CORPUS: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000c0";
const PATIENCE: Duration = Duration::from_secs(10);

/// An operation, as both stores can carry it out.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Create {
        spec_toml: String,
        request: String,
    },
    Register {
        worker: String,
        incarnation: String,
    },
    Control {
        worker: String,
        state: WorkerState,
    },
    Lease {
        ask: Ask,
    },
    Report {
        held: Held,
        rows: Vec<Measurement>,
    },
    Checkpoint {
        held: Held,
        new: Vec<NewCheckpoint>,
    },
    Finish {
        held: Held,
        finish: Finish,
    },
    Lose {
        held: Held,
    },
    Study {
        name: String,
        event: StudyEvent,
    },
    Retry {
        name: String,
        number: u32,
    },
    Delete {
        name: String,
    },
    /// What a start of the coordinator does.
    Adopt,
    /// A beat of a worker that names these.
    Beat {
        worker: String,
        held: Vec<Held>,
    },
}

impl Op {
    /// In a batch, what workers say comes first, then what asks for work, then all else.
    pub(super) fn turn(&self) -> u8 {
        match self {
            Self::Report { .. } | Self::Finish { .. } => 0,
            Self::Lease { .. } => 1,
            _ => 2,
        }
    }
}

/// A study file as the model wants it.
pub(super) fn new_study(spec_toml: &str) -> NewStudy {
    let spec = StudySpec::parse(spec_toml).unwrap();
    let trials = spec.expand().map(|p| NewTrial {
        identity: p.config.hash(CORPUS, "split").into(),
        shape: p.config.shape_key().into(),
        epochs: u32::try_from(p.config.int("epochs").unwrap_or(1)).unwrap(),
    });
    NewStudy {
        name: spec.name.as_str().into(),
        rules: Rules {
            retry: RetryPolicy { max_attempts: spec.retry.max_attempts, max_lost: spec.retry.max_lost },
            objective: spec.objective,
            keep: spec.checkpoint.keep,
            target: spec.limits.target,
            weight: spec.weight,
        },
        content: spec_toml.to_owned(),
        trials: trials.collect(),
    }
}

/// Carries an operation out on the model, in a savepoint of its own.
pub(super) fn run_on_model(model: &mut Reference, op: &Op) -> String {
    let before = model.clone();
    match on_model(model, op) {
        Ok(answer) => answer,
        Err(refusal) => {
            model.roll_back(&before);
            format!("refused {refusal}")
        }
    }
}

fn on_model(model: &mut Reference, op: &Op) -> Result<String, Refusal> {
    let ok = |()| "ok".to_owned();
    match op {
        // The request id is the service's business; here every request is another one.
        Op::Create { spec_toml, request } => {
            model.create(&new_study(spec_toml), request).map(|(id, created)| format!("study {id} {created}"))
        }
        Op::Register { worker, incarnation } => {
            model.register(&worker.as_str().into(), &incarnation.as_str().into()).map(ok)
        }
        Op::Control { worker, state } => model.control(&worker.as_str().into(), *state).map(ok),
        Op::Lease { ask } => {
            let waited = |_| Duration::MAX;
            let env = Env { others: false, waited: &waited, patience: PATIENCE };
            let works = model.lease(ask, &env)?;
            let told = works.iter().map(|w| {
                let at = |c: &Option<kapell_dispatch::sim::store::CheckpointRow>| {
                    c.as_ref().map(|c| (c.digest.to_string(), c.epoch))
                };
                format!("{:?} {} {:?} {:?}; ", w.held, w.number, at(&w.resume), at(&w.best))
            });
            Ok(told.collect())
        }
        Op::Report { held, rows } => model.report(*held, rows).map(|reported| match reported {
            Reported::Taken(epoch) => format!("taken {epoch}"),
            Reported::NotFinite => "not finite".to_owned(),
        }),
        Op::Checkpoint { held, new } => model.checkpoint(*held, new).map(ok),
        Op::Finish { held, finish } => model.finish(*held, finish).map(|ended| match ended {
            Ended::As(state) => state.name().to_owned(),
            Ended::NotFinite => "not finite".to_owned(),
        }),
        Op::Lose { held } => model.lose(*held).map(ok),
        Op::Study { name, event } => {
            let id = model.find(name)?;
            model.step_study(id, *event).map(|state| state.name().to_owned())
        }
        Op::Retry { name, number } => {
            let id = model.find(name)?;
            model.retry(id, *number).map(ok)
        }
        Op::Delete { name } => {
            let id = model.find(name)?;
            model.delete(id).map(|trials| format!("deleted {trials}"))
        }
        Op::Adopt => Ok(format!("adopted {}", model.adopt(GRACE).len())),
        Op::Beat { worker, held } => {
            // The leases are no part of the store; that a beat was heard of is.
            let open = |h: &&Held| {
                let attempt = model.trials.get(&h.trial).and_then(|t| t.attempt(h.attempt));
                attempt.is_some_and(|a| a.outcome.is_none() && *a.worker == **worker)
            };
            let heard: Vec<Held> = held.iter().filter(open).copied().collect();
            model.heard(&heard);
            Ok("ok".to_owned())
        }
    }
}

/// The operations of a seed.
pub(super) struct Sequence {
    pub(super) random: Random,
    seed: u64,
    specs: Vec<String>,
    /// The newest process of each worker.
    processes: [u64; 3],
    asks: u64,
    creations: u64,
}

impl Sequence {
    pub(super) fn new(seed: u64, mut random: Random) -> Self {
        let specs = ["a", "b"].map(|letter| spec(&format!("s{seed}{letter}"), &mut random));
        Self { random, seed, specs: specs.into(), processes: [1; 3], asks: 0, creations: 0 }
    }

    /// What leaves nothing open behind for the next sequence.
    pub(super) fn end(&self) -> Vec<Op> {
        let names = ["a", "b"].map(|letter| format!("s{}{letter}", self.seed));
        let ops = names
            .map(|name| [Op::Study { name: name.clone(), event: StudyEvent::Cancel }, Op::Delete { name }]);
        ops.into_iter().flatten().collect()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn name(&mut self) -> String {
        let letter = if self.one_in(3) { "b" } else { "a" };
        if self.one_in(60) { "nothing".to_owned() } else { format!("s{}{letter}", self.seed) }
    }

    fn worker(&mut self) -> (String, String) {
        let n = usize::try_from(self.random.below(3)).unwrap();
        let old = u64::from(self.one_in(25));
        let process = self.processes[n].saturating_sub(old);
        (format!("w{n}"), format!("s{}.{n}.{process}", self.seed))
    }

    /// An attempt: mostly one that is open, else any.
    fn held(&mut self, model: &Reference) -> Held {
        let running: Vec<Held> = model
            .trials
            .iter()
            .filter_map(|(&trial, row)| Some(Held { trial, attempt: row.machine.state.attempt()? }))
            .collect();
        if !self.one_in(8)
            && let Some(held) = self.random.pick(&running)
        {
            return *held;
        }
        let trials: Vec<i64> = model.trials.keys().copied().chain([0, 1]).collect();
        let trial = *self.random.pick(&trials).unwrap_or(&0);
        let attempt = u32::try_from(self.random.below(4)).unwrap();
        Held { trial, attempt }
    }

    fn number(&mut self) -> u32 {
        u32::try_from(self.random.range(1, 4)).unwrap()
    }

    pub(super) fn next(&mut self, model: &Reference, first: bool) -> Op {
        if first {
            return self.create(0);
        }
        match self.random.below(100) {
            0..4 => {
                let i = usize::from(!self.one_in(3));
                self.create(i)
            }
            4..14 => self.register(),
            14..17 => {
                let state = *self
                    .random
                    .pick(&[
                        WorkerState::Ready,
                        WorkerState::Ready,
                        WorkerState::Cordoned,
                        WorkerState::Draining,
                    ])
                    .unwrap();
                let worker = if self.one_in(20) { "nobody".to_owned() } else { self.worker().0 };
                Op::Control { worker, state }
            }
            17..35 => self.lease(),
            35..60 => self.report(model),
            60..70 => {
                let held = self.held(model);
                let newest = model.trials.get(&held.trial).map_or(0, |t| t.summary.epochs);
                Op::Checkpoint { held, new: self.checkpoints(newest) }
            }
            70..84 => self.finish(model),
            84..88 => Op::Lose { held: self.held(model) },
            88..92 => {
                let events = [
                    StudyEvent::Pause,
                    StudyEvent::Pause,
                    StudyEvent::Resume,
                    StudyEvent::Resume,
                    StudyEvent::Cancel,
                ];
                let event = *self.random.pick(&events).unwrap();
                Op::Study { name: self.name(), event }
            }
            92..95 => Op::Retry { name: self.name(), number: self.number() },
            95..96 => Op::Delete { name: self.name() },
            96..98 => Op::Adopt,
            _ => {
                let held = (0..3).map(|_| self.held(model)).collect();
                Op::Beat { worker: self.worker().0, held }
            }
        }
    }

    fn create(&mut self, i: usize) -> Op {
        let spec = self.specs[i].clone();
        let other = self.creations > 0 && self.one_in(3);
        self.creations += 1;
        let request = format!("create {} {}", self.seed, self.creations);
        Op::Create { spec_toml: if other { spec.replace("epochs = ", "epochs = 1") } else { spec }, request }
    }

    fn register(&mut self) -> Op {
        let n = usize::try_from(self.random.below(3)).unwrap();
        if self.one_in(3) {
            self.processes[n] += 1;
        }
        let late = u64::from(self.one_in(6)) * self.random.below(12);
        let process = self.processes[n].saturating_sub(late);
        Op::Register { worker: format!("w{n}"), incarnation: format!("s{}.{n}.{process}", self.seed) }
    }

    fn lease(&mut self) -> Op {
        let (worker, incarnation) = self.worker();
        let again = self.one_in(4);
        self.asks += u64::from(!again);
        let request = if self.one_in(40) { String::new() } else { format!("s{} {}", self.seed, self.asks) };
        let ask = Ask {
            worker: worker.into(),
            incarnation: incarnation.into(),
            request: request.into(),
            max_works: u32::try_from(self.random.range(1, 2)).unwrap(),
            max_mates: u32::try_from(self.random.range(1, 3)).unwrap(),
        };
        Op::Lease { ask }
    }

    fn report(&mut self, model: &Reference) -> Op {
        let held = self.held(model);
        Op::Report { held, rows: self.rows(model, held) }
    }

    fn rows(&mut self, model: &Reference, held: Held) -> Vec<Measurement> {
        let newest = model.trials.get(&held.trial).map_or(0, |t| t.summary.epochs);
        let from = match self.random.below(10) {
            0 => 1,
            1 => newest.saturating_sub(1).max(1),
            2 => newest + 2,
            _ => newest + 1,
        };
        let n = u32::try_from(self.random.range(1, 3)).unwrap();
        let gap = u32::from(self.one_in(15));
        let rows = (0..n).map(|i| {
            let mut row = measurement(held, from + i + gap * i, self.one_in(25));
            match self.random.below(60) {
                0 => row.val_loss = f64::NAN,
                1 => row.train_loss = f64::INFINITY,
                2 => row.seconds = -1.0,
                _ => {}
            }
            row
        });
        rows.collect()
    }

    fn checkpoints(&mut self, newest: u32) -> Vec<NewCheckpoint> {
        let mut new = Vec::new();
        for best in [true, false] {
            if self.one_in(5) {
                continue;
            }
            let epoch = match self.random.below(6) {
                0 => newest.saturating_sub(1),
                1 => newest + u32::from(self.one_in(2)),
                _ => newest,
            };
            let within = self.random.below(8) / 7;
            let digest: Arc<str> = format!("sha256:{:064x}", u64::from(epoch) * 10 + within + 1).into();
            new.push(NewCheckpoint { best, digest, epoch });
        }
        new
    }

    fn finish(&mut self, model: &Reference) -> Op {
        let held = self.held(model);
        let trial = model.trials.get(&held.trial);
        let (newest, wanted) = trial.map_or((0, 0), |t| (t.summary.epochs, t.epochs_wanted));
        // Often with all that is left, as workers do it.
        let rows = match self.random.below(4) {
            0 => self.rows(model, held),
            1 => Vec::new(),
            _ => (newest + 1..=wanted).map(|epoch| measurement(held, epoch, false)).collect(),
        };
        let measured = newest.max(rows.iter().map(|m| m.epoch).max().unwrap_or(0));
        let outcome = if measured >= wanted && !self.one_in(4) {
            Outcome::Complete
        } else {
            *self.random.pick(&Outcome::ALL).unwrap()
        };
        let checkpoints = if self.one_in(3) { Vec::new() } else { self.checkpoints(measured) };
        Op::Finish { held, finish: Finish { rows, outcome, last: self.one_in(4), checkpoints } }
    }
}

/// What an epoch measures; `other`: other content than everybody else says.
fn measurement(held: Held, epoch: u32, other: bool) -> Measurement {
    let bits = (held.trial.unsigned_abs() * 31 + u64::from(epoch) * 17 + u64::from(other)) % 101;
    let loss = f64::from(u32::try_from(bits).unwrap()) / 100.0;
    Measurement {
        epoch,
        train_loss: loss * 0.9,
        val_loss: loss,
        seconds: 1.5,
        tokens_per_s: 100.0,
        weights_digest: format!("weights {bits}"),
    }
}

/// A study file of a few trials, some of one shape.
fn spec(name: &str, random: &mut Random) -> String {
    let mut one = |of: &[&'static str]| *random.pick(of).unwrap();
    let metric = one(&["val_loss", "train_loss"]);
    let at = one(&["best", "last"]);
    let direction = one(&["minimize", "minimize", "maximize"]);
    let keep = one(&["best+last", "best", "last"]);
    let target = one(&["", "", "", "limits = { target = 0.1 }"]);
    let (attempts, lost) = (one(&["1", "2", "3"]), one(&["1", "2", "5"]));
    let weight = one(&["1.0", "0.5", "3.0"]);
    let epochs = one(&["1", "2", "3"]);
    let dropout = one(&["[0.0]", "[0.0, 0.1]"]);
    format!(
        "name = \"{name}\"\ncorpus = \"exercises\"\nweight = {weight}\n{target}\n\
         objective = {{ metric = \"{metric}\", at = \"{at}\", direction = \"{direction}\" }}\n\
         retry = {{ max_attempts = {attempts}, max_lost = {lost} }}\ncheckpoint = {{ keep = \"{keep}\" }}\n\
         [space]\nhidden = [8, 16]\ndropout = {dropout}\n[train]\nepochs = {epochs}\n"
    )
}
