//! The queue: a worker asks, and gets trials under leases. Every look-up is by an index, so that the cost of a
//! lease does not depend on the number of trials.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use kapell_dispatch::queue::{Candidate, Share, choose, next_study};
use kapell_dispatch::{Held, TrialEvent};
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use super::rows::CheckpointRow;
use super::trials::{self, TrialCore};
use super::workers::{self, Device, WorkerRow};
use super::writer::After;
use super::{StoreError, Tx, events};

/// How long a trial that came back from a worker is kept for another one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Works that one request gets at most, and answers remembered for a worker.
pub(crate) const WORKS_MAX: u32 = 64;
const ANSWERS_KEPT: u32 = 64;

/// Active studies with something in the queue: the columns of an [`Open`], with more of them in front.
macro_rules! shares {
    ($more:literal, $which:literal) => {
        concat!(
            "SELECT ",
            $more,
            "s.id AS study, s.weight, s.device, coalesce(r.n, 0) AS running FROM studies s \
             JOIN study_counts q ON q.study = s.id AND q.state = 'QUEUED' AND q.n > 0 \
             LEFT JOIN study_counts r ON r.study = s.id AND r.state = 'RUNNING' WHERE s.state = 'ACTIVE'",
            $which
        )
    };
}
pub(super) use shares;

const SHARES: &str = shares!("", " AND (?1 IS NULL OR s.name = ?1 OR s.uuid = ?1)");

/// The first of a study's queue that came back from a worker, and the first that did not, in queue order.
const CANDIDATES: &str = "SELECT * FROM (SELECT id, avoid_worker, number FROM trials
                   WHERE study = ?1 AND state = 'QUEUED' AND avoid_worker IS NOT ?2 ORDER BY number LIMIT ?3)
               UNION ALL
               SELECT * FROM (SELECT id, avoid_worker, number FROM trials
                   WHERE study = ?1 AND state = 'QUEUED' AND avoid_worker = ?2 ORDER BY number LIMIT ?3)
               ORDER BY number";

/// Queued trials of the shape of another one.
const MATES: &str = "SELECT id FROM trials WHERE study = ?1 AND state = 'QUEUED'
                   AND shape_key = (SELECT shape_key FROM trials WHERE id = ?2)
               ORDER BY number LIMIT ?3";

/// A request for work.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) worker: String,
    pub(crate) incarnation: String,
    pub(crate) request_id: String,
    /// Free slots.
    pub(crate) max_works: u32,
    /// Trials of one shape that a slot takes at once.
    pub(crate) max_mates: u32,
}

/// A trial under a lease, with what its worker needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    pub(crate) held: Held,
    pub(crate) row: LeasedRow,
    pub(crate) resume: Option<CheckpointRow>,
    pub(crate) best: Option<CheckpointRow>,
    pub(crate) spec: std::sync::Arc<kapell_search::StudySpec>,
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct LeasedRow {
    #[sqlx(flatten)]
    pub(crate) core: TrialCore,
    pub(crate) config: String,
    pub(crate) replicate: u32,
    pub(crate) corpus_digest: String,
    pub(crate) shape_key: String,
}

/// Leases up to `max_works` slots full of trials; nothing, if there is none for this worker yet. The same request id
/// gets the same answer, less what it does not hold any more: if that is all of it, there is nothing to wait for.
pub(crate) async fn lease(tx: &mut Tx, ask: &Ask) -> Result<Option<Vec<Leased>>, StoreError> {
    let worker = workers::known(&mut tx.conn, &ask.worker, &ask.incarnation).await?;
    if let Some(answer) = super::query::answer(&mut tx.conn, "lease", &ask.worker, &ask.request_id).await? {
        return again(tx, &answer).await.map(Some);
    }
    if worker.state != "ready" {
        return Ok(None);
    }
    let mut queue = Queue::open(tx, &worker, ask).await?;
    let mut works = Vec::new();
    for _ in 0..queue.wanted {
        let Some((study, first)) = queue.pick(tx, &worker).await? else { break };
        works.push(start(tx, first, &worker, &ask.incarnation).await?);
        for mate in mates(tx, study, first, ask.max_mates).await? {
            queue.take(study, mate);
            works.push(start(tx, mate, &worker, &ask.incarnation).await?);
        }
    }
    if works.is_empty() {
        return Ok(None);
    }
    remember(tx, ask, &works).await?;
    Ok(Some(works))
}

/// The answer to a request that was answered before.
async fn again(tx: &mut Tx, answer: &str) -> Result<Vec<Leased>, StoreError> {
    let held: Vec<(i64, u32)> = serde_json::from_str(answer)
        .map_err(|e| StoreError::Corrupt(format!("the answer to a lease: {e}")))?;
    let mut works = Vec::new();
    for (trial, attempt) in held {
        if let Some(row) = row(tx, trial).await?.filter(|row| row.core.is_held_by(attempt)) {
            works.push(leased(tx, Held { trial, attempt }, row).await?);
        }
    }
    Ok(works)
}

/// Remembers the answer, and now and then forgets the worker's old ones.
async fn remember(tx: &mut Tx, ask: &Ask, works: &[Leased]) -> Result<(), StoreError> {
    let held: Vec<Held> = works.iter().map(|work| work.held).collect();
    super::query::remember(tx, "lease", &ask.worker, &ask.request_id, &answer(&held)).await?;
    forget_old(tx, &ask.worker).await
}

/// The answer to a request, as it is remembered.
pub(super) fn answer(held: &[Held]) -> String {
    json!(held.iter().map(|held| (held.trial, held.attempt)).collect::<Vec<_>>()).to_string()
}

/// Counts an answer that is remembered, and now and then forgets the worker's old ones.
pub(super) async fn forget_old(tx: &mut Tx, worker: &str) -> Result<(), StoreError> {
    let n = match tx.remembered.get_mut(worker) {
        Some(n) => n,
        None => tx.remembered.entry(worker.to_owned()).or_default(),
    };
    *n += 1;
    if *n < ANSWERS_KEPT {
        return Ok(());
    }
    *n = 0;
    let prune = "DELETE FROM requests WHERE kind = 'lease' AND scope = ?1 AND rowid <= (
                     SELECT rowid FROM requests WHERE kind = 'lease' AND scope = ?1
                     ORDER BY rowid DESC LIMIT 1 OFFSET ?2)";
    sqlx::query(prune).bind(worker).bind(ANSWERS_KEPT).execute(&mut tx.conn).await?;
    Ok(())
}

/// What a request for work may choose from: read once, kept up as it takes.
struct Queue {
    shares: Vec<Share>,
    candidates: HashMap<i64, Vec<Candidate>>,
    /// Slots that the request wants to fill at most, and trials that it may take of each kind to do so.
    wanted: u32,
    trials_max: u32,
    others: bool,
}

impl Queue {
    async fn open(tx: &mut Tx, worker: &WorkerRow, ask: &Ask) -> Result<Self, StoreError> {
        let devices = worker.devices();
        let open =
            open_studies(tx, worker.study.as_deref()).await?.into_iter().filter(|open| open.suits(&devices));
        let (shares, others) = (open.map(|open| open.share).collect(), tx.live.others(&worker.name));
        let wanted = ask.max_works.min(WORKS_MAX);
        // Mates are candidates, too: they must not use up those of the slots that follow.
        let trials_max = wanted * ask.max_mates.clamp(1, WORKS_MAX);
        Ok(Self { shares, candidates: HashMap::new(), wanted, trials_max, others })
    }

    /// The next trial: of the study furthest below its share, the first in the queue that suits.
    async fn pick(&mut self, tx: &mut Tx, worker: &WorkerRow) -> Result<Option<(i64, i64)>, StoreError> {
        while let Some(Share { study, .. }) = next_study(&self.shares) {
            if let Entry::Vacant(place) = self.candidates.entry(study) {
                place.insert(candidates(tx, study, &worker.name, self.trials_max).await?);
            }
            let candidates = self.candidates.get(&study).map_or(&[][..], Vec::as_slice);
            if let Some(trial) = choose(candidates, &worker.name, self.others, PATIENCE).map(|c| c.trial) {
                self.take(study, trial);
                return Ok(Some((study, trial)));
            }
            self.shares.retain(|s| s.study != study);
        }
        Ok(None)
    }

    /// This trial runs now.
    fn take(&mut self, study: i64, trial: i64) {
        self.shares.iter_mut().filter(|s| s.study == study).for_each(|s| s.running += 1);
        if let Some(candidates) = self.candidates.get_mut(&study) {
            candidates.retain(|c| c.trial != trial);
        }
    }
}

/// An active study with something in the queue.
pub(super) struct Open {
    pub(super) share: Share,
    device: Option<String>,
}

impl<'r> FromRow<'r, SqliteRow> for Open {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let running = u64::try_from(row.try_get::<i64, _>("running")?).unwrap_or(0);
        let share = Share { study: row.try_get("study")?, weight: row.try_get("weight")?, running };
        Ok(Self { share, device: row.try_get("device")? })
    }
}

impl Open {
    /// May a worker with these devices serve it?
    pub(super) fn suits(&self, devices: &[Device]) -> bool {
        self.device.as_ref().is_none_or(|kind| devices.iter().any(|d| d.kind == *kind))
    }
}

/// The active studies with something in the queue; only the one that is named, if one is.
async fn open_studies(tx: &mut Tx, study: Option<&str>) -> Result<Vec<Open>, StoreError> {
    Ok(sqlx::query_as(SHARES).bind(study).fetch_all(&mut tx.conn).await?)
}

async fn candidates(tx: &mut Tx, study: i64, worker: &str, n: u32) -> Result<Vec<Candidate>, StoreError> {
    let rows: Vec<(i64, Option<String>, i64)> =
        sqlx::query_as(CANDIDATES).bind(study).bind(worker).bind(n).fetch_all(&mut tx.conn).await?;
    let candidate = |(trial, avoid, _)| Candidate { trial, avoid, waited: tx.live.waited(trial) };
    Ok(rows.into_iter().map(candidate).collect())
}

/// Queued trials of the same shape as `first`, to fill its slot.
async fn mates(tx: &mut Tx, study: i64, first: i64, max_mates: u32) -> Result<Vec<i64>, StoreError> {
    if max_mates <= 1 {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(MATES)
        .bind(study)
        .bind(first)
        .bind(max_mates.min(WORKS_MAX) - 1)
        .fetch_all(&mut tx.conn)
        .await?)
}

/// Starts an attempt at the trial's last checkpoint. What older attempts measured beyond it is superseded.
async fn start(tx: &mut Tx, trial: i64, worker: &WorkerRow, incarnation: &str) -> Result<Leased, StoreError> {
    let row = row(tx, trial)
        .await?
        .ok_or_else(|| StoreError::Corrupt(format!("trial {trial} left the queue under a transaction")))?;
    let trial = &row.core;
    let state = trials::step(tx, trial, TrialEvent::Lease, "").await?;
    let Some(attempt) = state.attempt() else {
        return Err(StoreError::Corrupt(format!("a lease left trial {} {}", trial.name(), state.name())));
    };
    let held = Held { trial: trial.id, attempt };
    // A trial that nobody has tried has no checkpoint.
    let last = if attempt == 1 {
        None
    } else {
        super::checkpoints::checkpoint(&mut tx.conn, trial.id, "last").await?
    };
    let start_epoch = last.as_ref().map_or(0, |c| c.epoch);
    let sql =
        "INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype,
                   start_epoch, start_checkpoint, started_at_ms)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(held.trial)
        .bind(attempt)
        .bind(&worker.name)
        .bind(incarnation)
        .bind(worker.device())
        .bind(&worker.numerics.program_version)
        .bind(&worker.numerics.kind)
        .bind(&worker.numerics.dtype)
        .bind(start_epoch)
        .bind(last.as_ref().map(|c| c.digest.as_str()))
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    // Whatever the summary says: a row left over would be in the way of this attempt's.
    if attempt > 1 {
        supersede(tx, held, trial.study, start_epoch).await?;
    }
    let fields = json!({"worker": worker.name, "start_epoch": start_epoch});
    events::add(tx, trial.study, "trial.started", (trial.number, attempt), &fields);
    let name = (trial.study_name.clone(), trial.number);
    tx.after.push(After::Granted { held, worker: worker.name.clone(), study: trial.study, name });
    leased(tx, held, row).await
}

/// Takes the trial's curve back to the epoch that a new attempt starts at.
async fn supersede(tx: &mut Tx, held: Held, study: i64, start_epoch: u32) -> Result<(), StoreError> {
    for sql in [
        "UPDATE measurements SET superseded = 1 WHERE trial = ?1 AND superseded = 0 AND epoch > ?2",
        "DELETE FROM checkpoints WHERE trial = ?1 AND role = 'best' AND epoch > ?2",
    ] {
        sqlx::query(sql).bind(held.trial).bind(start_epoch).execute(&mut tx.conn).await?;
    }
    let spec = tx.spec(study).await?;
    let curve: Vec<(u32, f64, f64, String)> = sqlx::query_as(
        "SELECT epoch, train_loss, val_loss, weights_digest FROM measurements
         WHERE trial = ? AND superseded = 0 ORDER BY epoch",
    )
    .bind(held.trial)
    .fetch_all(&mut tx.conn)
    .await?;
    let mut summary = kapell_dispatch::report::Summary::default();
    for (epoch, train_loss, val_loss, weights_digest) in curve {
        summary.add(&spec.objective, epoch, train_loss, val_loss, weights_digest);
    }
    super::report::save_summary(tx, held, &summary).await
}

async fn row(tx: &mut Tx, trial: i64) -> Result<Option<LeasedRow>, StoreError> {
    let sql = trials::core!(", t.config, t.replicate, s.corpus_digest, t.shape_key");
    Ok(sqlx::query_as(sql).bind(trial).fetch_optional(&mut tx.conn).await?)
}

/// What a worker needs to know of an attempt that it has just got, or got before.
async fn leased(tx: &mut Tx, held: Held, row: LeasedRow) -> Result<Leased, StoreError> {
    let (mut resume, mut best) = (None, None);
    if held.attempt > 1 {
        resume = super::checkpoints::checkpoint(&mut tx.conn, held.trial, "last").await?;
        best = super::checkpoints::checkpoint(&mut tx.conn, held.trial, "best").await?;
    }
    let spec = tx.spec(row.core.study).await?;
    Ok(Leased { held, row, resume, best, spec })
}

#[cfg(test)]
mod tests {
    use crate::store::tests::{open, plan};

    #[tokio::test]
    async fn every_look_up_of_a_lease_is_by_an_index() {
        let house = open().await;
        for sql in [super::SHARES, super::CANDIDATES, super::MATES] {
            for line in plan(&house.store, sql).await {
                let scan = line.starts_with("SCAN") && !line.contains("subquery");
                assert!(!scan, "{line} in {sql}");
            }
        }
    }
}
