//! What workers say of their attempts: measurements and ends. The ordinary ones of a batch share statements: new
//! measurements of first attempts, and first attempts that are COMPLETE. Each is judged for itself by the same pure
//! functions as any other, every statement has the fence of each row in itself, and the rows that took effect are
//! counted: where one is missing, nothing of the group stands, and its requests are served alone.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use kapell_dispatch::finish::{self as rules, CheckpointVerdict, Roles, judge_checkpoint};
use kapell_dispatch::report::{Measurement, Summary, Verdict, judge};
use kapell_dispatch::trial::{self, Ending, RetryPolicy};
use kapell_dispatch::{Effect, Held, Outcome, Trial, TrialEvent, TrialState};
use kapell_search::StudySpec;
use serde_json::json;
use sqlx::{FromRow, Row as _};

use super::checkpoints::NewCheckpoint;
use super::finish::Finish;
use super::many::{Many, Script};
use super::report::{self, Reported};
use super::trials::{self, TrialCore, fenced_rows};
use super::writer::{After, Boxed, Together};
use super::{StoreError, Tx, events, finish, logs, studies};

/// What a worker says of an attempt in one request.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    /// Measurements.
    Report(Held, Vec<Measurement>),
    /// Its end, with the measurements that are left.
    Finish(Finish),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    /// The newest epoch of the attempt.
    pub(crate) epochs: u32,
    /// What the trial is now.
    pub(crate) state: TrialState,
    /// A loss was not finite: the trial has failed by it, and the request is refused.
    pub(crate) not_finite: Option<String>,
}

impl Word {
    pub(crate) fn held(&self) -> Held {
        match self {
            Self::Report(held, _) => *held,
            Self::Finish(finish) => finish.held,
        }
    }

    pub(crate) fn rows(&self) -> &[Measurement] {
        match self {
            Self::Report(_, rows) => rows,
            Self::Finish(finish) => &finish.rows,
        }
    }

    fn end(&self) -> Option<&Finish> {
        match self {
            Self::Report(..) => None,
            Self::Finish(finish) => Some(finish),
        }
    }
}

impl Together for Word {
    type Answer = Heard;

    fn together<'c>(tx: &'c mut Tx, some: &'c [Self]) -> Boxed<'c, Result<Vec<Heard>, StoreError>> {
        Box::pin(together(tx, some))
    }

    fn alone<'c>(tx: &'c mut Tx, one: &'c Self) -> Boxed<'c, Result<Heard, StoreError>> {
        Box::pin(async move {
            match one {
                Self::Report(held, rows) => Ok(match report::report(tx, *held, rows).await? {
                    Reported::Taken(epochs) => {
                        let state = TrialState::Running { attempt: held.attempt };
                        Heard { epochs, state, not_finite: None }
                    }
                    Reported::NotFinite(why) => {
                        Heard { epochs: 0, state: TrialState::Failed, not_finite: Some(why) }
                    }
                }),
                Self::Finish(finish) => finish::finish(tx, finish).await,
            }
        })
    }
}

/// A trial with the checkpoints that it has.
#[derive(Debug, Clone, FromRow)]
struct Row {
    #[sqlx(flatten)]
    core: TrialCore,
    best: Option<String>,
    best_at: Option<u32>,
    last: Option<String>,
    last_at: Option<u32>,
    /// Something is held against its worker.
    suspect: bool,
    /// Trials of its study that were open.
    open: i64,
}

impl Row {
    /// Digest and epoch of the checkpoint in a role.
    fn known(&self, role: &str) -> Option<(&str, u32)> {
        let (digest, epoch) =
            if role == "best" { (&self.best, self.best_at) } else { (&self.last, self.last_at) };
        Some((digest.as_deref()?, epoch?))
    }
}

/// An ordinary word, judged.
struct Judged<'a> {
    word: &'a Word,
    row: &'a Row,
    summary: Summary,
    checkpoints: Vec<&'a NewCheckpoint>,
    /// What the end makes of the trial.
    next: Option<Trial>,
}

async fn together(tx: &mut Tx, some: &[Word]) -> Result<Vec<Heard>, StoreError> {
    let (rows, whole) = load(tx, some).await?;
    let mut specs = HashMap::new();
    for row in rows.values() {
        specs.insert(row.core.study, tx.spec(row.core.study).await?);
    }
    let mut met = HashSet::new();
    let mut judged: Vec<Judged<'_>> = Vec::new();
    for word in some {
        let row = rows.get(&word.held().trial);
        let ordinary = row.and_then(|row| judge_word(word, row, specs.get(&row.core.study)?, &whole));
        match ordinary {
            // Another word about the same trial has to wait for what the first one makes of it.
            Some(ordinary) if met.insert(word.held().trial) => judged.push(ordinary),
            _ => break,
        }
    }
    write(tx, &judged).await?;
    let heard = |j: &Judged<'_>| {
        let state = j.next.map_or(TrialState::Running { attempt: j.word.held().attempt }, |next| next.state);
        Heard { epochs: j.summary.epochs, state, not_finite: None }
    };
    Ok(judged.iter().map(heard).collect())
}

/// The trials that these words are about, and the manifests on record, of those that they name, whose blobs are all
/// here, with the number of their files.
async fn load(tx: &mut Tx, some: &[Word]) -> Result<(HashMap<i64, Row>, HashMap<String, usize>), StoreError> {
    let trials = trials::core!(
        ", 'trial' AS row, b.digest AS best, b.epoch AS best_at, l.digest AS last, l.epoch AS last_at,
           coalesce(w.early_failures <> '{}', 0) AS suspect,
           (SELECT coalesce(sum(c.n), 0) FROM study_counts c
            WHERE c.study = t.study AND c.state IN ('QUEUED', 'RUNNING', 'PAUSED')) AS open",
        "LEFT JOIN workers w ON w.name = a.worker
         LEFT JOIN checkpoints b ON b.trial = t.id AND b.role = 'best'
         LEFT JOIN checkpoints l ON l.trial = t.id AND l.role = 'last'
         WHERE t.id IN (SELECT value FROM json_each(?));"
    );
    let manifests = "SELECT 'manifest' AS row, m.manifest, count(*) AS files FROM manifest_files m
                     JOIN blobs f ON f.digest = m.digest AND f.damaged = 0 AND f.size = m.size
                     JOIN blobs b ON b.digest = m.manifest AND b.damaged = 0
                     WHERE m.manifest IN (SELECT value FROM json_each(?)) GROUP BY m.manifest";
    let ids: BTreeSet<i64> = some.iter().map(|word| word.held().trial).collect();
    let new = some.iter().filter_map(|word| word.end()).flat_map(|finish| &finish.checkpoints);
    let digests: BTreeSet<&str> = new.map(|checkpoint| checkpoint.digest.as_str()).collect();
    let sql = if digests.is_empty() { tx.sql(trials) } else { tx.sql(&[trials, manifests].concat()) };
    let query = sqlx::query(sql).bind(json!(ids).to_string()).bind(json!(digests).to_string());
    let (mut rows, mut whole) = (HashMap::new(), HashMap::new());
    for row in query.fetch_all(&mut tx.conn).await? {
        if row.try_get::<&str, _>("row")? == "manifest" {
            whole.insert(
                row.try_get("manifest")?,
                usize::try_from(row.try_get::<u32, _>("files")?).unwrap_or(0),
            );
        } else {
            let row = Row::from_row(&row)?;
            rows.insert(row.core.id, row);
        }
    }
    Ok((rows, whole))
}

/// What an ordinary word does; nothing, if it is none.
fn judge_word<'a>(
    word: &'a Word,
    row: &'a Row,
    spec: &StudySpec,
    whole: &HashMap<String, usize>,
) -> Option<Judged<'a>> {
    let (held, trial) = (word.held(), &row.core);
    // Behind a first attempt there is a lineage to look at.
    if !trial.is_held_by(held.attempt) || held.attempt != 1 {
        return None;
    }
    let mut summary = trial.summary();
    for m in word.rows() {
        let new = m.epoch > summary.epochs
            && judge(m, None, summary.epochs, trial.epochs_wanted) == Ok(Verdict::New);
        if !new {
            return None;
        }
        summary.add(&spec.objective, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
    }
    let mut judged = Judged { word, row, summary, checkpoints: Vec::new(), next: None };
    if let Some(finish) = word.end() {
        judge_end(&mut judged, finish, spec, whole)?;
    }
    Some(judged)
}

/// Adds what the end of the attempt does. A COMPLETE one that keeps all its checkpoints is ordinary.
fn judge_end<'a>(
    judged: &mut Judged<'a>,
    finish: &'a Finish,
    spec: &StudySpec,
    whole: &HashMap<String, usize>,
) -> Option<()> {
    let (row, epochs) = (judged.row, judged.summary.epochs);
    if finish.outcome != Outcome::Complete {
        return None;
    }
    let mut there = Roles { best: row.best.is_some(), last: row.last.is_some() };
    for new in &finish.checkpoints {
        if whole.get(&new.digest) != Some(&new.manifest.files.len()) {
            return None;
        }
        match judge_checkpoint((&new.digest, new.epoch), row.known(new.role), epochs).ok()? {
            CheckpointVerdict::New => judged.checkpoints.push(new),
            CheckpointVerdict::Known | CheckpointVerdict::Overtaken => {}
        }
        *(if new.role == "best" { &mut there.best } else { &mut there.last }) = true;
    }
    let surplus = rules::complete(epochs, row.core.epochs_wanted, spec.checkpoint.keep, there).ok()?;
    let policy = RetryPolicy { max_attempts: spec.retry.max_attempts, max_lost: spec.retry.max_lost };
    let event = TrialEvent::Finish { attempt: finish.held.attempt, ending: Ending::Complete };
    let change = trial::transition(&row.core.machine().ok()?, &event, &policy).ok()?;
    let ends = Effect::EndAttempt { attempt: finish.held.attempt, outcome: Outcome::Complete };
    let reached =
        rules::reached(change.next.state, judged.summary.objective, &spec.objective, spec.limits.target);
    let ordinary = surplus == Roles::default()
        && change.effects == [ends, Effect::JudgeStudy]
        && change.next.state.attempt().is_none()
        && reached.is_none();
    judged.next = ordinary.then_some(change.next);
    judged.next.map(drop)
}

async fn write(tx: &mut Tx, judged: &[Judged<'_>]) -> Result<(), StoreError> {
    if judged.is_empty() {
        return Ok(());
    }
    let at_ms = tx.at_ms;
    let script = write_measurements(Script::default(), at_ms, judged);
    let script = end_attempts(write_checkpoints(script, at_ms, judged), at_ms, judged);
    save_trials(script, at_ms, judged)?.run_all(tx).await?;
    let ended: Vec<&Judged<'_>> = judged.iter().filter(|j| j.next.is_some()).collect();
    clear_workers(tx, &ended).await?;
    for j in judged {
        tell(tx, j);
        if let Some(finish) = j.word.end() {
            logs::keep(tx, finish.held, &finish.log_tail, finish.log_bytes).await?;
        }
    }
    let mut left: BTreeMap<i64, i64> = BTreeMap::new();
    for j in &ended {
        let open = if j.row.core.study_state()?.ended() { 0 } else { j.row.open };
        *left.entry(j.row.core.study).or_insert(open) -= 1;
    }
    // A study that runs and has trials to go is what it was.
    for (study, _) in left.into_iter().filter(|(_, left)| *left <= 0) {
        studies::judge(tx, study).await?;
    }
    Ok(())
}

static MEASUREMENTS: LazyLock<Many> = LazyLock::new(|| {
    let sql = fenced_rows!(
        "INSERT INTO measurements (trial, attempt, at_ms, epoch, train_loss, val_loss, seconds, tokens_per_s,
             weights_digest)
         SELECT t.id, t.running_attempt, ?, m.column3, m.column4, m.column5, m.column6, m.column7, m.column8 FROM ",
        ""
    );
    Many::new(sql, 8)
});

fn write_measurements(script: Script, at_ms: i64, judged: &[Judged<'_>]) -> Script {
    let mut rows: Vec<(Held, &Measurement)> =
        judged.iter().flat_map(|j| j.word.rows().iter().map(|m| (j.word.held(), m))).collect();
    rows.sort_by_key(|(held, m)| (*held, m.epoch));
    script.write(
        &MEASUREMENTS,
        &rows,
        |query| query.bind(at_ms),
        |query, (held, m)| {
            let query = query.bind(held.trial).bind(held.attempt).bind(m.epoch).bind(m.train_loss);
            query.bind(m.val_loss).bind(m.seconds).bind(m.tokens_per_s).bind(m.weights_digest.as_str())
        },
    )
}

static CHECKPOINTS: LazyLock<Many> = LazyLock::new(|| {
    let sql = fenced_rows!(
        "INSERT INTO checkpoints (trial, attempt, created_at_ms, role, digest, epoch, val_loss, bytes)
         SELECT t.id, t.running_attempt, ?, m.column3, m.column4, m.column5, m.column6, m.column7 FROM ",
        "WHERE 1
         ON CONFLICT (trial, role) DO UPDATE SET attempt = excluded.attempt, digest = excluded.digest,
             epoch = excluded.epoch, val_loss = excluded.val_loss, bytes = excluded.bytes,
             created_at_ms = excluded.created_at_ms"
    );
    Many::new(sql, 7)
});

fn write_checkpoints(script: Script, at_ms: i64, judged: &[Judged<'_>]) -> Script {
    let mut rows: Vec<(Held, &NewCheckpoint)> = Vec::new();
    for j in judged {
        rows.extend(j.checkpoints.iter().map(|c| (j.word.held(), *c)));
    }
    script.write(
        &CHECKPOINTS,
        &rows,
        |query| query.bind(at_ms),
        |query, (held, c)| {
            let bytes = i64::try_from(c.manifest.total_bytes()).unwrap_or(i64::MAX);
            let query = query.bind(held.trial).bind(held.attempt).bind(c.role).bind(c.digest.as_str());
            query.bind(c.epoch).bind(c.val_loss).bind(bytes)
        },
    )
}

static ATTEMPTS: LazyLock<Many> = LazyLock::new(|| {
    let sql = fenced_rows!(
        "UPDATE attempts SET outcome = m.column3, reason = m.column4, ended_at_ms = ?,
             seconds = max(attempts.seconds, m.column5, (SELECT coalesce(sum(n.seconds), 0) FROM measurements n
                       WHERE n.trial = m.column1 AND n.attempt = m.column2))
         FROM ",
        "WHERE attempts.trial = m.column1 AND attempts.attempt = m.column2 AND attempts.outcome IS NULL"
    );
    Many::new(sql, 5)
});

fn end_attempts(script: Script, at_ms: i64, judged: &[Judged<'_>]) -> Script {
    let ends = judged.iter().filter(|j| j.next.is_some()).filter_map(|j| j.word.end());
    let ends: Vec<&Finish> = ends.collect();
    script.write(
        &ATTEMPTS,
        &ends,
        |query| query.bind(at_ms),
        |query, finish| {
            let seconds = if finish.seconds.is_finite() { finish.seconds.max(0.0) } else { 0.0 };
            let query = query.bind(finish.held.trial).bind(finish.held.attempt).bind(finish.outcome.name());
            query.bind(finish.reason.as_str()).bind(seconds)
        },
    )
}

static TRIALS: LazyLock<Many> = LazyLock::new(|| {
    let sql = fenced_rows!(
        "UPDATE trials SET ended_at_ms = CASE WHEN m.column16 THEN ? END,
             state = m.column3, running_attempt = m.column4, attempts = m.column5, failures = m.column6,
             losses = m.column7, reason = coalesce(m.column8, trials.reason),
             epochs = m.column9, objective = m.column10, best_val_loss = m.column11, best_epoch = m.column12,
             train_loss = coalesce(m.column13, trials.train_loss), val_loss = coalesce(m.column14, trials.val_loss),
             weights_digest = coalesce(m.column15, trials.weights_digest),
             seconds = CASE WHEN m.column16
                 THEN (SELECT sum(a.seconds) FROM attempts a WHERE a.trial = m.column1) ELSE trials.seconds END
         FROM ",
        "WHERE trials.id = t.id"
    );
    Many::new(sql, 16)
});

fn save_trials(script: Script, at_ms: i64, judged: &[Judged<'_>]) -> Result<Script, StoreError> {
    let mut rows = Vec::new();
    for j in judged {
        rows.push((j, j.next.map_or_else(|| j.row.core.machine(), Ok)?));
    }
    Ok(script.write(
        &TRIALS,
        &rows,
        |query| query.bind(at_ms),
        |query, (j, next)| {
            let (held, s) = (j.word.held(), &j.summary);
            let query = query.bind(held.trial).bind(held.attempt).bind(next.state.name());
            let query =
                query.bind(next.state.attempt()).bind(next.attempts).bind(next.failures).bind(next.losses);
            let query = query.bind(j.word.end().map(|finish| finish.reason.as_str())).bind(s.epochs);
            let query = query.bind(s.objective).bind(s.best_val_loss).bind(s.best_epoch);
            let query = query.bind(s.train_loss).bind(s.val_loss).bind(s.weights_digest.as_deref());
            query.bind(next.state.ended())
        },
    ))
}

/// What got to its end speaks for its worker (see [`kapell_dispatch::quarantine`]).
async fn clear_workers(tx: &mut Tx, ended: &[&Judged<'_>]) -> Result<(), StoreError> {
    let suspects = ended.iter().filter(|j| j.row.suspect);
    let workers: BTreeSet<&str> = suspects.filter_map(|j| j.row.core.worker.as_deref()).collect();
    if workers.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE workers SET early_failures = '{}'
               WHERE name IN (SELECT value FROM json_each(?)) AND early_failures <> '{}'";
    sqlx::query(sql).bind(json!(workers).to_string()).execute(&mut tx.conn).await?;
    Ok(())
}

/// The events of a word that is written, and what follows its commit.
fn tell(tx: &mut Tx, j: &Judged<'_>) {
    let (trial, held, s) = (&j.row.core, j.word.held(), &j.summary);
    let name = (trial.number, held.attempt);
    let rows: Vec<&Measurement> = j.word.rows().iter().collect();
    events::add_measured(tx, trial.study, name, &rows);
    for c in &j.checkpoints {
        let fields = json!({"role": c.role, "epoch": c.epoch, "digest": c.digest});
        events::add(tx, trial.study, "trial.checkpointed", name, &fields);
    }
    let Some((next, finish)) = j.next.zip(j.word.end()) else { return };
    tx.after.push(After::Ended { held });
    tx.after.push(After::Stepped {
        study: trial.study_name.clone(),
        trial: trial.number,
        attempt: next.attempts,
        from: TrialState::Running { attempt: held.attempt }.name(),
        to: next.state.name(),
        reason: finish.reason.clone(),
    });
    let val_loss = s.val_loss.or(trial.val_loss);
    trials::tell_end(tx, trial, &next, &finish.reason, s, val_loss);
}
