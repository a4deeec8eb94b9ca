//! The registry as it is read: models, their versions, what an alias points at, its history.

use kapell_rpc::digest;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, FromRow, SqliteConnection};

use super::error::not_found;
use super::workers::Numerics;
use super::{StoreError, bad_request};

/// Where a version comes from. It is kept with the version, and outlives its study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) study_id: String,
    pub(crate) study: String,
    pub(crate) trial: u32,
    /// The attempt that wrote the checkpoint.
    pub(crate) attempt: u32,
    pub(crate) epoch: u32,
    pub(crate) checkpoint: String,
    pub(crate) corpus: String,
    pub(crate) corpus_digest: String,
    pub(crate) split_digest: String,
    pub(crate) config_hash: String,
    pub(crate) numerics: Option<Numerics>,
    pub(crate) attempts: Vec<LineageAttempt>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LineageAttempt {
    pub(crate) attempt: u32,
    pub(crate) worker: String,
    pub(crate) started_at_ms: i64,
    pub(crate) ended_at_ms: Option<i64>,
    pub(crate) outcome: Option<String>,
    pub(crate) reason: String,
    pub(crate) numerics: Numerics,
    pub(crate) start_epoch: u32,
    pub(crate) start_checkpoint: Option<String>,
}

/// A version of a model.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct VersionRow {
    pub(crate) model: i64,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) digest: String,
    pub(crate) study: String,
    pub(crate) trial: u32,
    pub(crate) config: String,
    pub(crate) val_loss: Option<f64>,
    pub(crate) test_loss: Option<f64>,
    lineage: String,
    pub(crate) created_at_ms: i64,
}

impl VersionRow {
    pub(crate) fn lineage(&self) -> Result<Lineage, StoreError> {
        serde_json::from_str(&self.lineage)
            .map_err(|e| StoreError::Corrupt(format!("the lineage of {}:{}: {e}", self.name, self.version)))
    }
}

/// An alias and where it points.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct AliasRow {
    pub(crate) alias: String,
    pub(crate) version: u32,
    pub(crate) generation: i64,
}

/// A version with its aliases and files.
#[derive(Debug, Clone)]
pub(crate) struct VersionView {
    pub(crate) row: VersionRow,
    pub(crate) aliases: Vec<AliasRow>,
    pub(crate) manifest: kapell_rpc::manifest::Manifest,
    /// Of the alias asked for, or of the first; 0 without one.
    pub(crate) generation: i64,
}

/// A line of an alias's history.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct AliasChangeRow {
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) generation: i64,
    pub(crate) version: u32,
    pub(crate) previous_version: u32,
    pub(crate) at_ms: i64,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) reason: String,
}

const VERSION: &str = "SELECT v.model, m.name, v.version, v.digest, v.study, v.trial, v.config, v.val_loss,
        v.test_loss, v.lineage, v.created_at_ms
    FROM versions v JOIN models m ON m.id = v.model";

/// A version by model and number.
pub(crate) async fn version(
    conn: &mut SqliteConnection,
    model: i64,
    version: u32,
) -> Result<Option<VersionRow>, StoreError> {
    let sql = format!("{VERSION} WHERE v.model = ? AND v.version = ?");
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(model).bind(version).fetch_optional(conn).await?)
}

/// The id of a model.
pub(crate) async fn model_id(conn: &mut SqliteConnection, name: &str) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar("SELECT id FROM models WHERE name = ?").bind(name).fetch_optional(conn).await?)
}

/// Where an alias of a model points.
pub(crate) async fn alias(
    conn: &mut SqliteConnection,
    model: i64,
    alias: &str,
) -> Result<Option<AliasRow>, StoreError> {
    let sql = "SELECT alias, version, generation FROM aliases WHERE model = ? AND alias = ?";
    Ok(sqlx::query_as(sql).bind(model).bind(alias).fetch_optional(conn).await?)
}

/// A version with all that is told of it. `asked`: the alias by which it was found.
pub(crate) async fn view(
    conn: &mut SqliteConnection,
    row: VersionRow,
    asked: Option<&str>,
) -> Result<VersionView, StoreError> {
    let sql = "SELECT alias, version, generation FROM aliases WHERE model = ? AND version = ? ORDER BY alias";
    let aliases: Vec<AliasRow> =
        sqlx::query_as(sql).bind(row.model).bind(row.version).fetch_all(&mut *conn).await?;
    let manifest = super::blobs::manifest(conn, &row.digest).await?;
    let named = aliases.iter().find(|a| Some(a.alias.as_str()) == asked).or(aliases.first());
    let generation = named.map_or(0, |a| a.generation);
    Ok(VersionView { row, aliases, manifest, generation })
}

/// Every version of every model: by name, newest first.
pub(crate) async fn list(conn: &mut SqliteConnection) -> Result<Vec<VersionView>, StoreError> {
    let sql = format!("{VERSION} ORDER BY m.name, v.version DESC");
    let rows: Vec<VersionRow> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *conn).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        views.push(view(conn, row, None).await?);
    }
    Ok(views)
}

/// Finds what a reference names: NAME, NAME@ALIAS, NAME:VERSION, a digest, or a bare alias that one model has.
pub(crate) async fn resolve(conn: &mut SqliteConnection, reference: &str) -> Result<VersionView, StoreError> {
    if digest::hex_part(reference).is_some() {
        return by_digest(conn, reference).await;
    }
    if let Some((name, alias)) = reference.split_once('@') {
        return by_alias(conn, name, alias).await;
    }
    if let Some((name, number)) = reference.split_once(':') {
        let number = number
            .parse()
            .map_err(|_| bad_request(format!("\"{reference}\": a version is a number, as in {name}:1")))?;
        return by_number(conn, name, number).await;
    }
    match model_id(conn, reference).await? {
        Some(model) => newest(conn, model).await,
        None => by_bare_alias(conn, reference).await,
    }
}

async fn by_digest(conn: &mut SqliteConnection, digest: &str) -> Result<VersionView, StoreError> {
    let sql = format!("{VERSION} WHERE v.digest = ? ORDER BY v.created_at_ms LIMIT 1");
    let row: Option<VersionRow> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(digest).fetch_optional(&mut *conn).await?;
    let row = row.ok_or_else(|| not_found(format!("there is no model's version {digest}")))?;
    view(conn, row, None).await
}

async fn by_alias(conn: &mut SqliteConnection, name: &str, wanted: &str) -> Result<VersionView, StoreError> {
    let model = find_model(conn, name).await?;
    let Some(found) = alias(conn, model, wanted).await? else {
        let sql = "SELECT alias FROM aliases WHERE model = ? ORDER BY alias";
        let known: Vec<String> = sqlx::query_scalar(sql).bind(model).fetch_all(conn).await?;
        return Err(missing(&format!("model \"{name}\" has no alias \"{wanted}\""), wanted, &known));
    };
    let row = version(conn, model, found.version).await?;
    let row = row.ok_or_else(|| StoreError::Corrupt(format!("alias {name}@{wanted} points nowhere")))?;
    view(conn, row, Some(wanted)).await
}

async fn by_number(conn: &mut SqliteConnection, name: &str, number: u32) -> Result<VersionView, StoreError> {
    let model = find_model(conn, name).await?;
    match version(conn, model, number).await? {
        Some(row) => view(conn, row, None).await,
        None => {
            let last = newest(conn, model).await?.row.version;
            Err(not_found(format!("model \"{name}\" has no version {number}: it has 1 to {last}")))
        }
    }
}

async fn newest(conn: &mut SqliteConnection, model: i64) -> Result<VersionView, StoreError> {
    let sql = format!("{VERSION} WHERE v.model = ? ORDER BY v.version DESC LIMIT 1");
    let row: VersionRow = sqlx::query_as(AssertSqlSafe(sql)).bind(model).fetch_one(&mut *conn).await?;
    view(conn, row, None).await
}

async fn by_bare_alias(conn: &mut SqliteConnection, word: &str) -> Result<VersionView, StoreError> {
    let sql =
        "SELECT m.name FROM aliases a JOIN models m ON m.id = a.model WHERE a.alias = ? ORDER BY m.name";
    let models: Vec<String> = sqlx::query_scalar(sql).bind(word).fetch_all(&mut *conn).await?;
    match models.as_slice() {
        [one] => by_alias(conn, one, word).await,
        [] => find_model(conn, word).await.and(Err(not_found(format!("there is no model \"{word}\"")))),
        many => {
            let list: Vec<String> = many.iter().map(|m| format!("{m}@{word}")).collect();
            Err(bad_request(format!("several models have the alias \"{word}\": {}", list.join(", "))))
        }
    }
}

async fn find_model(conn: &mut SqliteConnection, name: &str) -> Result<i64, StoreError> {
    if let Some(id) = model_id(conn, name).await? {
        return Ok(id);
    }
    let sql = "SELECT name FROM models UNION SELECT alias FROM aliases ORDER BY 1";
    let known: Vec<String> = sqlx::query_scalar(sql).fetch_all(conn).await?;
    Err(missing(&format!("there is no model \"{name}\""), name, &known))
}

fn missing(what: &str, word: &str, known: &[String]) -> StoreError {
    let near = kapell_search::options::nearest(word, known.iter().map(String::as_str));
    not_found(match near {
        Some(near) => format!("{what}; did you mean \"{near}\"?"),
        None if known.is_empty() => format!("{what}: nothing is promoted yet"),
        None => format!("{what}; there is {}", known.join(", ")),
    })
}

/// What happened to the aliases of the model that a reference names, newest first.
pub(crate) async fn history(
    conn: &mut SqliteConnection,
    reference: &str,
) -> Result<Vec<AliasChangeRow>, StoreError> {
    let model = resolve(conn, reference).await?.row.model;
    let only = reference.split_once('@').map_or("", |(_, alias)| alias);
    let sql =
        "SELECT m.name, h.alias, h.generation, h.version, h.previous_version, h.at_ms, h.actor, h.action,
                      h.reason
               FROM alias_history h JOIN models m ON m.id = h.model
               WHERE h.model = ?1 AND (?2 = '' OR h.alias = ?2)
               ORDER BY h.at_ms DESC, h.alias, h.generation DESC";
    Ok(sqlx::query_as(sql).bind(model).bind(only).fetch_all(conn).await?)
}
