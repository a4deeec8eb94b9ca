//! What a coordinator has acknowledged, and whether it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kapell_rpc::digest;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

/// Something that a coordinator said is so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    Study { name: String, trials: i64 },
    Leased { trial: i64, attempt: u32 },
    Measured { trial: i64, attempt: u32, epoch: u32, val_loss: f64 },
    Checkpoint { trial: i64, epoch: u32 },
    Ended { trial: i64, attempt: u32, outcome: &'static str },
    Blob { digest: String },
    Alias { model: String, generation: i64 },
}

/// Everything that was acknowledged on a disk.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    facts: Vec<Fact>,
    /// What a worker's registration may be: the one acknowledged last, or a later one that was not.
    workers: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    pub(crate) fn add(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    pub(crate) fn registering(&mut self, worker: &str, incarnation: &str) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.insert(incarnation.to_owned());
        }
    }

    pub(crate) fn registered(&mut self, worker: &str, incarnation: &str) {
        self.workers.insert(worker.to_owned(), [incarnation.to_owned()].into());
    }

    pub(crate) fn len(&self) -> usize {
        self.facts.len() + self.workers.len()
    }

    /// Checks the database and the blobs of a data folder, and every fact.
    pub(crate) async fn check(&self, data_dir: &Path) -> Result<()> {
        let options = SqliteConnectOptions::new().filename(data_dir.join("kapell.db")).read_only(true);
        let mut conn = SqliteConnection::connect_with(&options).await.context("opening the database")?;
        sound(&mut conn).await?;
        blobs_match(&mut conn, data_dir).await?;
        for (worker, allowed) in &self.workers {
            let found: Option<String> = sqlx::query_scalar("SELECT incarnation FROM workers WHERE name = ?")
                .bind(worker)
                .fetch_optional(&mut conn)
                .await?;
            ensure!(
                found.as_ref().is_some_and(|f| allowed.contains(f)),
                "LOST: worker {worker} registered as {allowed:?}, and is {found:?}"
            );
        }
        for fact in &self.facts {
            if !holds(&mut conn, fact).await? {
                bail!("LOST: {fact:?} was acknowledged");
            }
        }
        conn.close().await?;
        Ok(())
    }
}

/// The database is whole.
async fn sound(conn: &mut SqliteConnection) -> Result<()> {
    let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut *conn).await?;
    ensure!(found == ["ok"], "integrity_check: {found:?}");
    let loose = sqlx::query("PRAGMA foreign_key_check").fetch_all(conn).await?;
    ensure!(loose.is_empty(), "{} rows refer to what is not there", loose.len());
    Ok(())
}

/// Every blob on record has a file with its bytes.
async fn blobs_match(conn: &mut SqliteConnection, data_dir: &Path) -> Result<()> {
    let known: Vec<String> =
        sqlx::query_scalar("SELECT digest FROM blobs WHERE damaged = 0").fetch_all(conn).await?;
    for name in known {
        let hex = digest::hex_part(&name).context("a digest that is none")?;
        let place = data_dir.join("blobs").join(&hex[..2]).join(&hex[2..]);
        let bytes = std::fs::read(&place).with_context(|| format!("LOST: the file of blob {name}"))?;
        ensure!(digest::of_bytes(&bytes) == name, "LOST: blob {name} has other bytes");
    }
    Ok(())
}

async fn holds(conn: &mut SqliteConnection, fact: &Fact) -> Result<bool, sqlx::Error> {
    let sql = match fact {
        Fact::Study { .. } => {
            "SELECT count(*) = ?2 FROM trials t JOIN studies s ON s.id = t.study WHERE s.name = ?1"
        }
        Fact::Leased { .. } => "SELECT count(*) = 1 FROM attempts WHERE trial = ?1 AND attempt = ?2",
        Fact::Measured { .. } => {
            "SELECT count(*) = 1 FROM measurements WHERE trial = ?1 AND attempt = ?2 AND epoch = ?3
             AND val_loss = ?4"
        }
        Fact::Checkpoint { .. } => {
            "SELECT count(*) = 1 FROM checkpoints WHERE trial = ?1 AND role = 'last' AND epoch >= ?2"
        }
        Fact::Ended { .. } => {
            "SELECT count(*) = 1 FROM attempts WHERE trial = ?1 AND attempt = ?2 AND outcome = ?3"
        }
        Fact::Blob { .. } => "SELECT count(*) = 1 FROM blobs WHERE digest = ?1 AND damaged = 0",
        Fact::Alias { .. } => {
            "SELECT count(*) = 1 FROM aliases a JOIN models m ON m.id = a.model
             WHERE m.name = ?1 AND a.generation >= ?2"
        }
    };
    let query = sqlx::query_scalar(sql);
    let query = match fact {
        Fact::Study { name, trials } => query.bind(name).bind(*trials),
        Fact::Leased { trial, attempt } => query.bind(*trial).bind(*attempt),
        Fact::Measured { trial, attempt, epoch, val_loss } => {
            query.bind(*trial).bind(*attempt).bind(*epoch).bind(*val_loss)
        }
        Fact::Checkpoint { trial, epoch } => query.bind(*trial).bind(*epoch),
        Fact::Ended { trial, attempt, outcome } => query.bind(*trial).bind(*attempt).bind(*outcome),
        Fact::Blob { digest } => query.bind(digest),
        Fact::Alias { model, generation } => query.bind(model).bind(*generation),
    };
    query.fetch_one(conn).await
}
