//! The whole content of the store as text, for comparing it with another one.

use std::fmt::Write;

use super::{CheckpointRow, Reference, TrialRow};

impl Reference {
    /// A line for every study, trial, attempt, live measurement and checkpoint, in order of their numbers.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut out = String::new();
        for (id, study) in &self.studies {
            writeln!(out, "study {id} {} {}", study.name, study.state.name()).ok();
            for trial in &study.trials {
                if let Some(row) = self.trials.get(trial) {
                    dump_trial(&mut out, *trial, row);
                }
            }
        }
        for (name, worker) in self.workers.iter() {
            writeln!(out, "worker {name} {} {:?}", worker.incarnation, worker.state).ok();
        }
        out
    }
}

fn dump_trial(out: &mut String, id: i64, row: &TrialRow) {
    let (m, s) = (&row.machine, &row.summary);
    writeln!(
        out,
        "trial {id} number {} {} by {:?} attempts {} failures {} losses {} avoid {:?} wanted {} epochs {} \
         objective {:?} train {:?} val {:?} best {:?} at {:?}",
        row.number,
        m.state.name(),
        m.state.attempt(),
        m.attempts,
        m.failures,
        m.losses,
        row.avoid.as_deref(),
        row.epochs_wanted,
        s.epochs,
        s.objective,
        s.train_loss,
        s.val_loss,
        s.best_val_loss,
        s.best_epoch
    )
    .ok();
    for (number, a) in (1_u32..).zip(&row.attempts) {
        writeln!(
            out,
            "attempt {id}/{number} {} {} from {} {:?} outcome {:?} grace {}",
            a.worker,
            a.incarnation,
            a.start_epoch,
            a.start_checkpoint.as_deref(),
            a.outcome.map(crate::Outcome::name),
            a.grace.as_millis()
        )
        .ok();
        for r in &a.rows {
            let m = &r.measurement;
            writeln!(
                out,
                "row {id}/{number} {} {:?} {:?} superseded {}",
                m.epoch, m.train_loss, m.val_loss, r.superseded
            )
            .ok();
        }
    }
    dump_checkpoint(out, id, "best", row.best.as_ref());
    dump_checkpoint(out, id, "last", row.last.as_ref());
}

fn dump_checkpoint(out: &mut String, id: i64, role: &str, row: Option<&CheckpointRow>) {
    if let Some(c) = row {
        writeln!(out, "checkpoint {id} {role} {} {} by {}", c.digest, c.epoch, c.attempt).ok();
    }
}
