//! Requests for work of one batch share statements as far as they are ordinary: each for itself (no mates), by a worker
//! that is ready, with a request id that is new, while the head of the queue has trials that nobody has tried yet. They
//! get what they would get one after the other; all else goes through [`lease::lease`], alone.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::LazyLock;

use kapell_dispatch::queue::{Share, next_study};
use kapell_dispatch::trial::{self, RetryPolicy};
use kapell_dispatch::{Effect, Held, Trial, TrialEvent};
use serde_json::json;
use sqlx::{FromRow, Row};

use super::lease::{self, Ask, Leased, LeasedRow, WORKS_MAX};
use super::many::{Many, Script};
use super::trials;
use super::workers::{self, WorkerRow};
use super::writer::{After, Boxed, Together};
use super::{StoreError, Tx, events};

/// The answer to a request for work: nothing, if there is none yet.
type Answer = Option<Vec<Leased>>;

impl Together for Ask {
    type Answer = Answer;

    fn together<'c>(tx: &'c mut Tx, some: &'c [Self]) -> Boxed<'c, Result<Vec<Answer>, StoreError>> {
        Box::pin(together(tx, some))
    }

    fn alone<'c>(tx: &'c mut Tx, one: &'c Self) -> Boxed<'c, Result<Answer, StoreError>> {
        Box::pin(lease::lease(tx, one))
    }
}

/// A trial that a request gets.
struct Grant<'a> {
    ask: &'a Ask,
    worker: &'a WorkerRow,
    row: LeasedRow,
    next: Trial,
    attempt: u32,
}

async fn together(tx: &mut Tx, some: &[Ask]) -> Result<Vec<Answer>, StoreError> {
    let Found { workers, shares } = look(tx, some).await?;
    let asks = &some[..workers.len()];
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: u32 = asks.iter().map(|ask| ask.max_works.min(WORKS_MAX)).sum();
    let mut queue = Queue { shares, heads: HashMap::new(), wanted };
    let mut grants = Vec::new();
    let mut served = 0;
    for (ask, worker) in asks.iter().zip(&workers) {
        let Some(got) = queue.serve(tx, ask, worker).await? else { break };
        grants.extend(got);
        served += 1;
    }
    let mut held: HashMap<&str, Vec<Held>> = HashMap::new();
    for g in &grants {
        let of = held.entry(g.ask.request_id.as_str()).or_default();
        of.push(Held { trial: g.row.core.id, attempt: g.attempt });
    }
    let answered = asks.iter().take(served);
    let got = answered.filter_map(|ask| Some((ask, lease::answer(held.get(ask.request_id.as_str())?))));
    let got: Vec<(&Ask, String)> = got.collect();
    remember(write(Script::default(), tx.at_ms, &grants), tx.at_ms, &got).run_all(tx).await?;
    for (ask, _) in &got {
        lease::forget_old(tx, &ask.worker).await?;
    }
    let mut works: HashMap<&str, Vec<Leased>> = HashMap::new();
    for grant in grants {
        tell(tx, &grant);
        let spec = tx.spec(grant.row.core.study).await?;
        let held = Held { trial: grant.row.core.id, attempt: grant.attempt };
        let leased = Leased { held, row: grant.row, resume: None, best: None, spec };
        works.entry(grant.ask.request_id.as_str()).or_default().push(leased);
    }
    Ok(asks.iter().take(served).map(|ask| works.remove(ask.request_id.as_str())).collect())
}

/// What there is to know of requests for work.
struct Found {
    /// The workers of the first requests, up to one that is not ordinary.
    workers: Vec<WorkerRow>,
    shares: Vec<lease::Open>,
}

/// Reads it, in one message.
async fn look(tx: &mut Tx, some: &[Ask]) -> Result<Found, StoreError> {
    let sql = concat!(
        "SELECT 'request' AS row, id FROM requests WHERE id IN (SELECT value FROM json_each(?)); ",
        workers::row!("'worker' AS row, ", "WHERE name IN (SELECT value FROM json_each(?))"),
        "; ",
        lease::shares!("'share' AS row, ", "")
    );
    let ids: BTreeSet<&str> = some.iter().map(|ask| ask.request_id.as_str()).collect();
    let names: BTreeSet<&str> = some.iter().map(|ask| ask.worker.as_str()).collect();
    let sql = tx.sql(sql);
    let query = sqlx::query(sql).bind(json!(ids).to_string()).bind(json!(names).to_string());
    let (mut known, mut workers, mut shares) = (HashSet::<String>::new(), HashMap::new(), Vec::new());
    for row in query.fetch_all(&mut tx.conn).await? {
        match row.try_get("row")? {
            "request" => {
                known.insert(row.try_get("id")?);
            }
            "worker" => {
                let worker = WorkerRow::from_row(&row)?;
                workers.insert(worker.name.clone(), worker);
            }
            _ => shares.push(lease::Open::from_row(&row)?),
        }
    }
    let ordinary = |ask: &Ask| {
        let is_new = !ask.request_id.is_empty() && known.insert(ask.request_id.clone());
        let worker = workers.get(&ask.worker).filter(|w| w.serves_all(&ask.incarnation));
        worker.filter(|_| is_new && ask.max_mates <= 1).cloned()
    };
    let workers = some.iter().map_while(ordinary).collect();
    Ok(Found { workers, shares })
}

/// What the requests of a batch may choose from: read once, kept up as they take.
struct Queue {
    shares: Vec<lease::Open>,
    /// The first of each study's queue, as many as all of them could take.
    heads: HashMap<i64, VecDeque<LeasedRow>>,
    wanted: u32,
}

enum Head {
    Fresh(Box<LeasedRow>),
    /// It has been tried, or came back.
    Tried,
    Empty,
}

impl Queue {
    /// Gives a request what there is for it; nothing, if that is not for this way to say.
    async fn serve<'a>(
        &mut self,
        tx: &mut Tx,
        ask: &'a Ask,
        worker: &'a WorkerRow,
    ) -> Result<Option<Vec<Grant<'a>>>, StoreError> {
        let devices = worker.devices();
        let mut open: Vec<i64> =
            self.shares.iter().filter(|s| s.suits(&devices)).map(|s| s.share.study).collect();
        let mut grants = Vec::new();
        while grants.len() < usize::try_from(ask.max_works.min(WORKS_MAX)).unwrap_or(usize::MAX) {
            let shares = self.shares.iter().map(|s| s.share).filter(|s| open.contains(&s.study));
            let Some(Share { study, .. }) = next_study(&shares.collect::<Vec<_>>()) else { break };
            match self.take(tx, study).await? {
                Head::Fresh(row) => grants.push(grant(tx, ask, worker, *row).await?),
                Head::Empty => open.retain(|of| *of != study),
                // What came back from a worker is not for everybody: that is looked at one by one.
                Head::Tried => return Ok(None),
            }
        }
        Ok(Some(grants))
    }

    /// Takes the first of a study's queue.
    async fn take(&mut self, tx: &mut Tx, study: i64) -> Result<Head, StoreError> {
        if !self.heads.contains_key(&study) {
            let sql = trials::core!(
                ", t.config, t.replicate, s.corpus_digest, t.shape_key",
                "WHERE t.study = ? AND t.state = 'QUEUED' ORDER BY t.number LIMIT ?"
            );
            let rows: Vec<LeasedRow> =
                sqlx::query_as(sql).bind(study).bind(self.wanted).fetch_all(&mut tx.conn).await?;
            self.heads.insert(study, rows.into());
        }
        let Some(row) = self.heads.get_mut(&study).and_then(VecDeque::pop_front) else {
            return Ok(Head::Empty);
        };
        if row.core.attempts > 0 || row.core.is_avoided() {
            return Ok(Head::Tried);
        }
        self.shares.iter_mut().filter(|s| s.share.study == study).for_each(|s| s.share.running += 1);
        Ok(Head::Fresh(Box::new(row)))
    }
}

/// Asks the machine for a trial's first attempt.
async fn grant<'a>(
    tx: &mut Tx,
    ask: &'a Ask,
    worker: &'a WorkerRow,
    row: LeasedRow,
) -> Result<Grant<'a>, StoreError> {
    let retry = tx.spec(row.core.study).await?.retry;
    let policy = RetryPolicy { max_attempts: retry.max_attempts, max_lost: retry.max_lost };
    let odd = |what: String| StoreError::Corrupt(format!("a lease of trial {}: {what}", row.core.name()));
    let change = trial::transition(&row.core.machine()?, &TrialEvent::Lease, &policy)
        .map_err(|error| odd(error.to_string()))?;
    match (change.next.state.attempt(), change.effects.as_slice()) {
        (Some(attempt), [Effect::StartAttempt { attempt: starts }]) if attempt == *starts => {
            Ok(Grant { ask, worker, row, next: change.next, attempt })
        }
        _ => Err(odd(format!("it would be {}", change.next.state.name()))),
    }
}

/// The fence of a trial that nobody holds, in the statement itself.
static TRIALS: LazyLock<Many> = LazyLock::new(|| {
    let sql = "UPDATE trials SET started_at_ms = coalesce(trials.started_at_ms, ?), state = m.column2,
                   running_attempt = m.column3, attempts = m.column4, failures = m.column5, losses = m.column6,
                   reason = ''
               FROM (VALUES :rows) m
               WHERE trials.id = m.column1 AND trials.running_attempt IS NULL AND +trials.state = 'QUEUED'";
    Many::new(sql, 6)
});

static ATTEMPTS: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO attempts (started_at_ms, trial, attempt, worker, incarnation, device, program_version, kind,
                   dtype, start_epoch)
               SELECT ?, m.*, 0 FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 8)
});

fn write(script: Script, at_ms: i64, grants: &[Grant<'_>]) -> Script {
    let script = script.write(
        &TRIALS,
        grants,
        |query| query.bind(at_ms),
        |query, g| {
            let query = query.bind(g.row.core.id).bind(g.next.state.name()).bind(g.next.state.attempt());
            query.bind(g.next.attempts).bind(g.next.failures).bind(g.next.losses)
        },
    );
    script.write(
        &ATTEMPTS,
        grants,
        |query| query.bind(at_ms),
        |query, g| {
            let numerics = &g.worker.numerics;
            let query = query.bind(g.row.core.id).bind(g.attempt).bind(g.worker.name.as_str());
            let query = query.bind(g.ask.incarnation.as_str()).bind(g.worker.device());
            let query = query.bind(numerics.program_version.as_str()).bind(numerics.kind.as_str());
            query.bind(numerics.dtype.as_str())
        },
    )
}

/// What follows the commit of a lease, and its event.
fn tell(tx: &mut Tx, g: &Grant<'_>) {
    let (trial, held) = (&g.row.core, Held { trial: g.row.core.id, attempt: g.attempt });
    tx.after.push(After::Stepped {
        study: trial.study_name.clone(),
        trial: trial.number,
        attempt: g.attempt,
        from: kapell_dispatch::TrialState::Queued.name(),
        to: g.next.state.name(),
        reason: String::new(),
    });
    let fields = json!({"worker": g.worker.name, "start_epoch": 0});
    events::add(tx, trial.study, "trial.started", (trial.number, g.attempt), &fields);
    let name = (trial.study_name.clone(), trial.number);
    tx.after.push(After::Granted { held, worker: g.worker.name.clone(), study: trial.study, name });
}

static REQUESTS: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO requests (at_ms, kind, id, scope, answer)
               SELECT ?, 'lease', m.* FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 3)
});

/// Remembers the answers of those who got something.
fn remember(script: Script, at_ms: i64, got: &[(&Ask, String)]) -> Script {
    script.write(
        &REQUESTS,
        got,
        |query| query.bind(at_ms),
        |query, (ask, answer)| {
            query.bind(ask.request_id.as_str()).bind(ask.worker.as_str()).bind(answer.as_str())
        },
    )
}
