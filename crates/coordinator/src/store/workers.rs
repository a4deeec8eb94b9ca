//! Workers: registered under a name by one process at a time, cordoned and drained by people.

use kapell_rpc::reason;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};

use super::error::not_found;
use super::writer::After;
use super::{Refusal, StoreError, Tx, trials};

/// Replaced processes of a worker that are remembered.
const REPLACED_KEPT: i64 = 8;

/// What a worker trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) memory_bytes: u64,
}

/// A worker's introduction.
#[derive(Debug, Clone)]
pub(crate) struct NewWorker {
    pub(crate) name: String,
    pub(crate) incarnation: String,
    pub(crate) host: String,
    pub(crate) devices: Vec<Device>,
    pub(crate) slots: u32,
    pub(crate) study: Option<String>,
    pub(crate) numerics: Numerics,
}

/// Equal numerics promise equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub(crate) struct Numerics {
    pub(crate) program_version: String,
    pub(crate) kind: String,
    pub(crate) dtype: String,
}

/// A worker on record.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct WorkerRow {
    pub(crate) name: String,
    pub(crate) incarnation: String,
    pub(crate) host: String,
    pub(crate) state: String,
    /// Why it is quarantined; empty otherwise.
    pub(crate) reason: String,
    devices: String,
    pub(crate) slots: u32,
    pub(crate) study: Option<String>,
    #[sqlx(flatten)]
    pub(crate) numerics: Numerics,
    pub(crate) last_seen_ms: i64,
}

impl WorkerRow {
    pub(crate) fn devices(&self) -> Vec<Device> {
        serde_json::from_str(&self.devices).unwrap_or_default()
    }

    /// May this process of it have work of any study?
    pub(crate) fn serves_all(&self, incarnation: &str) -> bool {
        self.incarnation == incarnation && self.state == "ready" && self.study.is_none()
    }

    /// The kind of device that its trials run on: "cpu", "cuda".
    pub(crate) fn device(&self) -> String {
        self.devices().into_iter().next().map_or_else(|| "cpu".to_owned(), |d| d.kind)
    }
}

/// The columns of a [`WorkerRow`], with more of them in front, of the workers that are meant.
macro_rules! row {
    ($more:literal, $which:literal) => {
        concat!(
            "SELECT ",
            $more,
            "name, incarnation, host, state, reason, devices, slots, study, program_version, kind, dtype, \
             last_seen_ms FROM workers ",
            $which
        )
    };
}
pub(crate) use row;

/// Introduces a worker. The attempts of an earlier process of this name are lost at once.
pub(crate) async fn register(tx: &mut Tx, new: &NewWorker) -> Result<(), StoreError> {
    let before = find(&mut tx.conn, &new.name).await?;
    if let Some(before) = before.filter(|b| b.incarnation != new.incarnation) {
        replace(tx, &before, &new.incarnation).await?;
    }
    let sql = "INSERT INTO workers (name, incarnation, host, state, devices, slots, study, program_version, kind,
                   dtype, registered_at_ms, last_seen_ms)
               VALUES (?1, ?2, ?3, 'ready', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)
               ON CONFLICT (name) DO UPDATE SET incarnation = ?2, host = ?3, devices = ?4, slots = ?5, study = ?6,
                   program_version = ?7, kind = ?8, dtype = ?9, last_seen_ms = ?10,
                   state = CASE WHEN state IN ('cordoned', 'quarantined') THEN state ELSE 'ready' END";
    sqlx::query(sql)
        .bind(&new.name)
        .bind(&new.incarnation)
        .bind(&new.host)
        .bind(serde_json::to_string(&new.devices).unwrap_or_else(|_| "[]".into()))
        .bind(new.slots)
        .bind(new.study.as_deref())
        .bind(&new.numerics.program_version)
        .bind(&new.numerics.kind)
        .bind(&new.numerics.dtype)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    tx.after.push(After::WorkerChanged { worker: new.name.clone() });
    tracing::info!(
        worker = new.name,
        incarnation = new.incarnation,
        kind = new.numerics.kind,
        "worker registered"
    );
    Ok(())
}

/// Another process takes a worker's name, unless it is one that had it before: its word is late, and it is gone.
async fn replace(tx: &mut Tx, old: &WorkerRow, incarnation: &str) -> Result<(), StoreError> {
    let was = "SELECT EXISTS (SELECT 1 FROM replaced_processes WHERE worker = ? AND incarnation = ?)";
    if sqlx::query_scalar(was).bind(&old.name).bind(incarnation).fetch_one(&mut tx.conn).await? {
        let text = format!("another process has registered as worker \"{}\" since", old.name);
        return Err(Refusal::new(reason::STALE_INCARNATION, text).into());
    }
    lose_all(tx, &old.name).await?;
    sqlx::query("INSERT INTO replaced_processes (worker, incarnation) VALUES (?, ?)")
        .bind(&old.name)
        .bind(&old.incarnation)
        .execute(&mut tx.conn)
        .await?;
    let prune = "DELETE FROM replaced_processes WHERE worker = ?1 AND id NOT IN
                     (SELECT id FROM replaced_processes WHERE worker = ?1 ORDER BY id DESC LIMIT ?2)";
    sqlx::query(prune).bind(&old.name).bind(REPLACED_KEPT).execute(&mut tx.conn).await?;
    Ok(())
}

async fn lose_all(tx: &mut Tx, worker: &str) -> Result<(), StoreError> {
    let sql = "SELECT trial, attempt FROM attempts WHERE worker = ? AND outcome IS NULL";
    let held: Vec<(i64, u32)> = sqlx::query_as(sql).bind(worker).fetch_all(&mut tx.conn).await?;
    for (trial, attempt) in held {
        if let Some(trial) = trials::load(tx, trial).await? {
            let why = format!("worker {worker} came back as a new process");
            trials::lose(tx, &trial, attempt, &why).await?;
        }
    }
    Ok(())
}

/// The worker of this name.
pub(crate) async fn find(conn: &mut SqliteConnection, name: &str) -> Result<Option<WorkerRow>, StoreError> {
    Ok(sqlx::query_as(row!("", "WHERE name = ?")).bind(name).fetch_optional(conn).await?)
}

/// The worker of this name and process, or the refusal that tells it what to do.
pub(crate) async fn known(
    conn: &mut SqliteConnection,
    name: &str,
    incarnation: &str,
) -> Result<WorkerRow, StoreError> {
    let Some(worker) = find(conn, name).await? else {
        let text = format!("worker \"{name}\" is unknown here: register first");
        return Err(Refusal::new(reason::UNKNOWN_WORKER, text).into());
    };
    if worker.incarnation != incarnation {
        let text = format!("another process has registered as worker \"{name}\" since");
        return Err(Refusal::new(reason::STALE_INCARNATION, text).into());
    }
    Ok(worker)
}

/// Every worker on record, by name.
pub(crate) async fn list(conn: &mut SqliteConnection) -> Result<Vec<WorkerRow>, StoreError> {
    let sql = "SELECT name, incarnation, host, state, reason, devices, slots, study, program_version, kind, dtype, last_seen_ms
               FROM workers ORDER BY name";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// STUDY/NUMBER of what a worker holds.
pub(crate) async fn trials_of(conn: &mut SqliteConnection, worker: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT s.name || '/' || t.number FROM attempts a JOIN trials t ON t.id = a.trial
               JOIN studies s ON s.id = t.study WHERE a.worker = ? AND a.outcome IS NULL ORDER BY a.trial";
    Ok(sqlx::query_scalar(sql).bind(worker).fetch_all(conn).await?)
}

/// Sets a worker's state: 'ready', 'cordoned' or 'draining'. Nothing is held against it any more.
pub(crate) async fn control(tx: &mut Tx, name: &str, state: &'static str) -> Result<(), StoreError> {
    let done = sqlx::query("UPDATE workers SET state = ?, reason = '', early_failures = '{}' WHERE name = ?")
        .bind(state)
        .bind(name)
        .execute(&mut tx.conn)
        .await?;
    if done.rows_affected() != 1 {
        return Err(not_found(format!("there is no worker \"{name}\"")));
    }
    tx.after.push(After::WorkerChanged { worker: name.to_owned() });
    match state {
        "draining" => tx.after.push(After::Drain { worker: name.to_owned() }),
        _ => tx.after.push(After::Wake),
    }
    tracing::info!(worker = name, state, "worker");
    Ok(())
}

/// Notes when workers were last heard of.
pub(crate) async fn seen(tx: &mut Tx, seen: &[(String, i64)]) -> Result<(), StoreError> {
    for (worker, at_ms) in seen {
        sqlx::query("UPDATE workers SET last_seen_ms = ?2 WHERE name = ?1 AND last_seen_ms < ?2")
            .bind(worker)
            .bind(at_ms)
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}
