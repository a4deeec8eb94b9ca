//! Promotion: the gates, the version, and the compare-and-swap of an alias, in one transaction.

use kapell_dispatch::StudyState;
use kapell_rpc::manifest::Manifest;
use kapell_search::study::At;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqliteConnection;

use super::error::bad_request;
use super::models::{self, AliasRow, Lineage, LineageAttempt};
use super::rows::{CheckpointRow, StudyView, TrialRow};
use super::workers::Numerics;
use super::{Specs, StoreError, Tx, blobs, checkpoints, events, query, studies};

/// What is to be promoted, under which conditions.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) request_id: String,
    pub(crate) study: String,
    /// Number; 0: the best.
    pub(crate) trial: u32,
    /// Of the model; empty: the study's.
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) max_val_loss: Option<f64>,
    pub(crate) expect_generation: Option<u64>,
    pub(crate) expect_digest: Option<String>,
    pub(crate) allow_partial: bool,
    pub(crate) actor: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    Promoted,
    Unchanged,
    Refused,
    LostRace,
    NotReady,
}

/// A condition of a promotion, and whether it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gate {
    pub(crate) name: String,
    pub(crate) passed: bool,
    pub(crate) value: Option<f64>,
    pub(crate) threshold: Option<f64>,
    pub(crate) reason: String,
}

/// The answer to a promotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Promotion {
    pub(crate) decision: Decision,
    pub(crate) name: String,
    pub(crate) alias: String,
    /// 0 where there is no candidate.
    pub(crate) version: u32,
    pub(crate) digest: String,
    /// Of the alias afterwards.
    pub(crate) generation: i64,
    /// What the alias pointed at before; 0: nothing.
    pub(crate) previous: u32,
    pub(crate) gates: Vec<Gate>,
}

/// A promotion, thought through and not done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) promotion: Promotion,
    pub(crate) candidate: Option<Candidate>,
}

/// What would become a version.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    trial: TrialRow,
    checkpoint: CheckpointRow,
    val_loss: Option<f64>,
    /// Of the version: the checkpoint's, without the state of training.
    pub(crate) manifest: Manifest,
}

/// Thinks a promotion through: which trial, which gates hold, who holds the alias.
pub(crate) async fn plan(conn: &mut SqliteConnection, specs: &Specs, ask: &Ask) -> Result<Plan, StoreError> {
    let core = studies::find(conn, &ask.study).await?;
    let study = query::study(conn, specs, core.id).await?;
    let name = if ask.name.is_empty() { core.name.clone() } else { ask.name.clone() };
    check_word("model", &name)?;
    check_word("alias", &ask.alias)?;
    let trial = match ask.trial {
        0 => study.best.clone(),
        number => {
            let id = query::trial_id(conn, &core, number).await?;
            Some(query::trial(conn, id).await?)
        }
    };
    let mut gates = vec![coverage(&study, core.state()?, ask.allow_partial)];
    let candidate = match &trial {
        Some(trial) => candidate(conn, &study, trial).await?,
        None => None,
    };
    gates.push(trial_gate(trial.as_ref(), candidate.as_ref(), ask, core.state()?));
    if let (Some(candidate), Some(max)) = (&candidate, ask.max_val_loss) {
        gates.push(val_loss_gate(candidate, max));
    }
    let promotion = decide(conn, ask, name, gates, candidate.as_ref(), core.state()?).await?;
    Ok(Plan { promotion, candidate })
}

fn check_word(what: &str, word: &str) -> Result<(), StoreError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "@:/".contains(c);
    if word.is_empty() || word.len() > 200 || word.contains(bad) {
        return Err(bad_request(format!(
            "\"{word}\" is no name of a {what}: 1 to 200 characters without blanks, @, : and /"
        )));
    }
    Ok(())
}

/// Is the study done? PRUNED counts as done; FAILED, CANCELED and unfinished trials want `allow_partial`.
#[expect(clippy::cast_precision_loss, reason = "counts of trials are far below 2^53")]
fn coverage(study: &StudyView, state: StudyState, allow_partial: bool) -> Gate {
    let total = u64::try_from(study.row.configurations).unwrap_or(0);
    let done = study.count("COMPLETE") + study.count("PRUNED");
    let (failed, canceled) = (study.count("FAILED"), study.count("CANCELED"));
    let whole = state.ended() && done >= total && study.duplicates == 0 && study.lost == 0;
    let mut reason = String::new();
    if !whole {
        reason = format!("{done} of {total} trials are done, {failed} FAILED, {canceled} CANCELED");
        if !allow_partial {
            reason.push_str("; --allow-partial accepts that");
        }
    }
    Gate {
        name: "coverage".into(),
        passed: whole || allow_partial,
        value: (total > 0).then(|| done as f64 / total as f64),
        threshold: Some(1.0),
        reason,
    }
}

fn trial_gate(trial: Option<&TrialRow>, candidate: Option<&Candidate>, ask: &Ask, study: StudyState) -> Gate {
    let (passed, reason) = match (trial, candidate) {
        (None, _) if study.ended() => (false, "no trial is COMPLETE, and the study has ended".to_owned()),
        (None, _) => (false, "no trial is COMPLETE yet".to_owned()),
        (Some(t), None) => (false, format!("trial {}/{} has no checkpoint", t.study_name, t.number)),
        (Some(t), Some(_)) if t.state == "COMPLETE" || ask.allow_partial => (true, String::new()),
        (Some(t), Some(_)) => (false, format!("trial {}/{} is {}", t.study_name, t.number, t.state)),
    };
    Gate { name: "trial".into(), passed, value: None, threshold: None, reason }
}

fn val_loss_gate(candidate: &Candidate, max: f64) -> Gate {
    let passed = candidate.val_loss.is_some_and(|loss| loss <= max);
    let reason = match candidate.val_loss {
        Some(_) if passed => String::new(),
        Some(loss) => format!("a validation loss of {loss} is above {max}"),
        None => "the checkpoint has no validation loss".to_owned(),
    };
    Gate { name: "max_val_loss".into(), passed, value: candidate.val_loss, threshold: Some(max), reason }
}

/// The checkpoint that the objective is about (best or last epoch), or else the other one.
async fn candidate(
    conn: &mut SqliteConnection,
    study: &StudyView,
    trial: &TrialRow,
) -> Result<Option<Candidate>, StoreError> {
    let roles = match study.spec.objective.at {
        At::Best => ["best", "last"],
        At::Last => ["last", "best"],
    };
    let mut found = None;
    for role in roles {
        if found.is_none() {
            found = checkpoints::checkpoint(conn, trial.id, role).await?;
        }
    }
    let Some(checkpoint) = found else { return Ok(None) };
    let measured: Option<f64> = sqlx::query_scalar(
        "SELECT val_loss FROM measurements WHERE trial = ? AND superseded = 0 AND epoch = ?",
    )
    .bind(trial.id)
    .bind(checkpoint.epoch)
    .fetch_optional(&mut *conn)
    .await?;
    let manifest = blobs::manifest(conn, &checkpoint.digest).await?.without_training();
    let val_loss = measured.or(checkpoint.val_loss);
    Ok(Some(Candidate { trial: trial.clone(), checkpoint, val_loss, manifest }))
}

async fn decide(
    conn: &mut SqliteConnection,
    ask: &Ask,
    name: String,
    gates: Vec<Gate>,
    candidate: Option<&Candidate>,
    state: StudyState,
) -> Result<Promotion, StoreError> {
    let digest = candidate.map(|c| c.manifest.digest()).unwrap_or_default();
    let model = models::model_id(conn, &name).await?;
    let current = match model {
        Some(model) => models::alias(conn, model, &ask.alias).await?,
        None => None,
    };
    let (known, next) = match model {
        Some(model) => versions(conn, model, &digest).await?,
        None => (None, 1),
    };
    let refused = gates.iter().any(|g| !g.passed);
    // In a study that has ended nothing becomes ready any more: what is missing is then refused.
    let ready = state.ended() || (candidate.is_some() && ask.allow_partial);
    let decision = if !ready {
        Decision::NotReady
    } else if refused {
        Decision::Refused
    } else if !expected(conn, ask, model, current.as_ref()).await? {
        Decision::LostRace
    } else if known.is_some() && current.as_ref().map(|a| a.version) == known {
        Decision::Unchanged
    } else {
        Decision::Promoted
    };
    let previous = current.as_ref().map_or(0, |a| a.version);
    let before = current.as_ref().map_or(0, |a| a.generation);
    let generation = if decision == Decision::Promoted { before + 1 } else { before };
    let version = if candidate.is_some() { known.unwrap_or(next) } else { 0 };
    Ok(Promotion { decision, name, alias: ask.alias.clone(), version, digest, generation, previous, gates })
}

/// The version that has this digest, and the number that the next one gets.
async fn versions(
    conn: &mut SqliteConnection,
    model: i64,
    digest: &str,
) -> Result<(Option<u32>, u32), StoreError> {
    let known = sqlx::query_scalar("SELECT version FROM versions WHERE model = ? AND digest = ?")
        .bind(model)
        .bind(digest)
        .fetch_optional(&mut *conn)
        .await?;
    let last: Option<u32> = sqlx::query_scalar("SELECT max(version) FROM versions WHERE model = ?")
        .bind(model)
        .fetch_one(conn)
        .await?;
    Ok((known, last.unwrap_or(0).saturating_add(1)))
}

/// Is the alias as the caller expects it?
async fn expected(
    conn: &mut SqliteConnection,
    ask: &Ask,
    model: Option<i64>,
    current: Option<&AliasRow>,
) -> Result<bool, StoreError> {
    let generation = current.map_or(0, |a| a.generation);
    if ask.expect_generation.is_some_and(|want| i64::try_from(want) != Ok(generation)) {
        return Ok(false);
    }
    let Some(want) = &ask.expect_digest else { return Ok(true) };
    let there = match (model, current) {
        (Some(model), Some(alias)) => models::version(conn, model, alias.version).await?.map(|v| v.digest),
        _ => None,
    };
    Ok(there.unwrap_or_default() == *want)
}

/// Does what was planned, if it still comes out the same; else gives the new plan's answer undone (`None`: its
/// manifest is another one, plan again).
pub(crate) async fn promote(tx: &mut Tx, ask: &Ask, prepared: &str) -> Result<Option<Promotion>, StoreError> {
    let specs = tx.specs.clone();
    let plan = plan(&mut tx.conn, &specs, ask).await?;
    let promotion = plan.promotion;
    let known = query::answer(&mut tx.conn, "promote", &promotion.name, &ask.request_id).await?;
    if let Some(known) = known {
        let known = serde_json::from_str(&known);
        return known.map(Some).map_err(|e| StoreError::Corrupt(format!("the answer to a promotion: {e}")));
    }
    let (Decision::Promoted, Some(candidate)) = (promotion.decision, plan.candidate) else {
        return Ok(Some(promotion));
    };
    if promotion.digest != prepared {
        return Ok(None);
    }
    let model = ensure_model(tx, &promotion.name).await?;
    ensure_version(tx, model, &promotion, &candidate).await?;
    swap(tx, model, ask, &promotion, &candidate).await?;
    let answer = serde_json::to_string(&promotion).unwrap_or_default();
    query::remember(tx, "promote", &promotion.name, &ask.request_id, &answer).await?;
    let fields = json!({"name": promotion.name, "version": promotion.version, "alias": promotion.alias,
        "generation": promotion.generation, "digest": promotion.digest});
    let study = studies::find(&mut tx.conn, &ask.study).await?.id;
    events::add(tx, study, "model.promoted", (candidate.trial.number, 0), &fields);
    tracing::info!(
        model = promotion.name,
        version = promotion.version,
        alias = promotion.alias,
        generation = promotion.generation,
        study = candidate.trial.study_name,
        trial = candidate.trial.number,
        "promoted"
    );
    Ok(Some(promotion))
}

async fn ensure_model(tx: &mut Tx, name: &str) -> Result<i64, StoreError> {
    sqlx::query("INSERT INTO models (name, created_at_ms) VALUES (?, ?) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    models::model_id(&mut tx.conn, name)
        .await?
        .ok_or_else(|| StoreError::Corrupt(format!("model {name} vanished under a transaction")))
}

async fn ensure_version(
    tx: &mut Tx,
    model: i64,
    promotion: &Promotion,
    candidate: &Candidate,
) -> Result<(), StoreError> {
    blobs::add_manifest(tx, &promotion.digest, &candidate.manifest).await?;
    let lineage = lineage(tx, candidate).await?;
    let sql =
        "INSERT INTO versions (model, version, digest, study, study_uuid, trial, config, val_loss, lineage,
                   created_at_ms)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (model, digest) DO NOTHING";
    sqlx::query(sql)
        .bind(model)
        .bind(promotion.version)
        .bind(&promotion.digest)
        .bind(&candidate.trial.study_name)
        .bind(&candidate.trial.study_uuid)
        .bind(candidate.trial.number)
        .bind(&candidate.trial.config)
        .bind(candidate.val_loss)
        .bind(serde_json::to_string(&lineage).unwrap_or_default())
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

async fn lineage(tx: &mut Tx, candidate: &Candidate) -> Result<Lineage, StoreError> {
    let trial = &candidate.trial;
    let (corpus, split_digest): (String, String) =
        sqlx::query_as("SELECT corpus, split_digest FROM studies WHERE uuid = ?")
            .bind(&trial.study_uuid)
            .fetch_one(&mut tx.conn)
            .await?;
    let attempts: Vec<LineageAttempt> = query::attempts(&mut tx.conn, trial.id)
        .await?
        .into_iter()
        .map(|a| LineageAttempt {
            attempt: a.attempt,
            worker: a.worker,
            started_at_ms: a.started_at_ms,
            ended_at_ms: a.ended_at_ms,
            outcome: a.outcome,
            reason: a.reason,
            numerics: a.numerics,
            start_epoch: a.start_epoch,
            start_checkpoint: a.start_checkpoint,
        })
        .collect();
    let wrote = candidate.checkpoint.attempt;
    let numerics: Option<Numerics> = attempts.iter().find(|a| a.attempt == wrote).map(|a| a.numerics.clone());
    Ok(Lineage {
        study_id: trial.study_uuid.clone(),
        study: trial.study_name.clone(),
        trial: trial.number,
        attempt: wrote,
        epoch: candidate.checkpoint.epoch,
        checkpoint: candidate.checkpoint.digest.clone(),
        corpus,
        corpus_digest: trial.corpus_digest.clone(),
        split_digest,
        config_hash: trial.config_hash.clone(),
        numerics,
        attempts,
    })
}

/// Points the alias at the version, if it is still of the generation that was planned with.
async fn swap(
    tx: &mut Tx,
    model: i64,
    ask: &Ask,
    promotion: &Promotion,
    candidate: &Candidate,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO aliases (model, alias, version, generation) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (model, alias) DO UPDATE SET version = ?3, generation = ?4 WHERE generation = ?4 - 1";
    let done = sqlx::query(sql)
        .bind(model)
        .bind(&promotion.alias)
        .bind(promotion.version)
        .bind(promotion.generation)
        .execute(&mut tx.conn)
        .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Corrupt(format!("alias {} changed under a transaction", promotion.alias)));
    }
    let sql = "INSERT INTO alias_history (model, alias, generation, version, previous_version, at_ms, actor, action,
                   reason)
               VALUES (?, ?, ?, ?, ?, ?, ?, 'promote', ?)";
    let trial = &candidate.trial;
    let loss = candidate.val_loss.map(|l| format!(", validation loss {l}")).unwrap_or_default();
    sqlx::query(sql)
        .bind(model)
        .bind(&promotion.alias)
        .bind(promotion.generation)
        .bind(promotion.version)
        .bind(promotion.previous)
        .bind(tx.at_ms)
        .bind(&ask.actor)
        .bind(format!("trial {}/{}{loss}", trial.study_name, trial.number))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}
