//! Backups and restores, as far as the database goes: a consistent copy, what is in it, and the life after a restore.

use std::path::Path;
use std::time::{Duration, Instant};

use kapell_dispatch::trial::Ending;
use kapell_dispatch::{Held, TrialEvent};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::{StoreError, Tx, trials};

/// Which life of the store this is: 0 until the first restore.
pub(crate) async fn life(conn: &mut SqliteConnection) -> Result<u32, sqlx::Error> {
    sqlx::query_scalar("SELECT life FROM store_life").fetch_one(conn).await
}

/// Bytes of the database, without what waits in its WAL.
pub(crate) async fn bytes(conn: &mut SqliteConnection) -> Result<u64, StoreError> {
    let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(conn).await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Writes the database as one read transaction sees it into a new file.
pub(crate) async fn copy(conn: &mut SqliteConnection, to: &Path) -> Result<(), StoreError> {
    let to = to.to_str().ok_or_else(|| super::bad_request("a backup's path is no text"))?;
    sqlx::query("VACUUM INTO ?").bind(to).execute(conn).await?;
    Ok(())
}

/// What a copy of the database refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) schema: i64,
    /// Digest and size, by digest.
    pub(crate) blobs: Vec<(String, u64)>,
    /// Blobs whose files are known to be damaged.
    pub(crate) damaged: Vec<String>,
}

/// Opens a file that nobody writes to.
pub(crate) async fn open_copy(path: &Path) -> Result<SqliteConnection, StoreError> {
    Ok(SqliteConnectOptions::new().filename(path).read_only(true).immutable(true).connect().await?)
}

/// Opens the database of a data folder that nobody else writes to, as it is: without bringing its schema up to date.
pub(crate) async fn open_quiet(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true);
    Ok(options.busy_timeout(Duration::from_secs(10)).connect().await?)
}

/// Opens the database of a data folder that a coordinator holds, to look at it only.
pub(crate) async fn open_beside(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    Ok(options.busy_timeout(Duration::from_secs(10)).connect().await?)
}

/// Reads what a copy refers to.
pub(crate) async fn contents(conn: &mut SqliteConnection) -> Result<Contents, StoreError> {
    let rows: Vec<(String, i64, bool)> =
        sqlx::query_as("SELECT digest, size, damaged FROM blobs ORDER BY digest")
            .fetch_all(&mut *conn)
            .await?;
    let mut contents = Contents { schema: super::open::schema(conn).await?, ..Contents::default() };
    for (digest, size, damaged) in rows {
        if damaged {
            contents.damaged.push(digest);
        } else {
            contents.blobs.push((digest, u64::try_from(size).unwrap_or(0)));
        }
    }
    Ok(contents)
}

/// What SQLite itself finds wrong with a database: a line each, none if all is well.
pub(crate) async fn unsound(conn: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let mut lines: Vec<String> =
        sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(&mut *conn).await?;
    lines.retain(|line| line != "ok");
    let sql = "SELECT \"table\" || ' row ' || coalesce(rowid, '?') || ' refers to a missing ' || parent
               FROM pragma_foreign_key_check LIMIT 20";
    lines.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(conn).await?);
    Ok(lines)
}

/// Begins another life: what leases of before hold, they hold of the life before; so what runs is queued again, and
/// counts nowhere. Numbers of events go on behind any that the life before may have given since its backup was taken.
pub(crate) async fn begin_life(tx: &mut Tx, life: u32) -> Result<usize, StoreError> {
    sqlx::query("UPDATE store_life SET life = ?, restored_at_ms = ?")
        .bind(life)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    let micros = tx.at_ms.saturating_mul(1000);
    for sql in [
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', 0
             WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events')",
        "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'events' AND ?1 > 0",
    ] {
        sqlx::query(sql).bind(micros).execute(&mut tx.conn).await?;
    }
    let sql = "SELECT trial, attempt FROM attempts WHERE outcome IS NULL ORDER BY trial";
    let running: Vec<(i64, u32)> = sqlx::query_as(sql).fetch_all(&mut tx.conn).await?;
    for &(trial, attempt) in &running {
        let trial = trials::load_held(tx, Held { trial, attempt }).await?;
        let event = TrialEvent::Finish { attempt, ending: Ending::Released };
        trials::step(tx, &trial, event, "the store was restored from a backup").await?;
    }
    Ok(running.len())
}

/// Closes a database for good: one file, without a WAL beside it. The threads of connections that were just closed may
/// hold it for a moment still, and SQLite does not wait for those here.
pub(crate) async fn settle(path: &Path) -> Result<(), StoreError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(20);
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
    let mut conn = options.connect().await?;
    let begun = Instant::now();
    loop {
        let mode: Result<String, _> =
            sqlx::query_scalar("PRAGMA journal_mode = DELETE").fetch_one(&mut conn).await;
        match mode {
            Ok(mode) if mode == "delete" => break,
            Ok(_) | Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Ok(mode) => {
                return Err(StoreError::Corrupt(format!(
                    "the restored database stays in journal mode {mode}"
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(conn.close().await?)
}
