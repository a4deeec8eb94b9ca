//! Opens the database: version of SQLite, schema, the writer's connection and the readers'.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqlSafeStr, SqliteConnection};
use thiserror::Error;
use tokio::sync::oneshot;

use super::{Specs, Store, Writer};
use crate::live::Live;

/// Older versions can corrupt a database when the WAL is reset.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);
const READERS: u32 = 4;
/// The writer's page cache, in KiB: the index of configurations is written all over when a large study is expanded.
const CACHE_KIB: u32 = 128 * 1024;

/// Pages in the WAL from which on a commit moves them into the database: a page that is written again and again is moved
/// once. 32 MiB: a start reads them in a fraction of a second.
const CHECKPOINT_PAGES: u32 = 8192;

/// Every schema there ever was, oldest first.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("../../../../migrations/0001_first.sql")),
    (2, "operations", include_str!("../../../../migrations/0002_operations.sql")),
    (3, "replaced processes", include_str!("../../../../migrations/0003_replaced_processes.sql")),
    (4, "expansions", include_str!("../../../../migrations/0004_expansions.sql")),
    (5, "leased while expanded", include_str!("../../../../migrations/0005_leased_while_expanded.sql")),
    (6, "numbers of its own", include_str!("../../../../migrations/0006_numbers_of_its_own.sql")),
];

#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("SQLite {found} is too old: {}.{}.{} or newer is needed", SQLITE_MIN.0, SQLITE_MIN.1, SQLITE_MIN.2)]
    OldSqlite { found: String },
    #[error("the database has schema {found}, and this program knows schema {known} at most")]
    NewerSchema { found: i64, known: i64 },
    #[error("the database's schema cannot be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("{rows} rows of the database refer to rows that are not there")]
    BrokenKeys { rows: usize },
    #[error("the database cannot be opened: {0}")]
    Sql(#[from] sqlx::Error),
}

/// Opens (or creates) the database at `path`. The receiver hears of the error after which the store is closed.
pub(crate) async fn open(
    path: &Path,
    live: Arc<Live>,
) -> Result<(Store, tokio::task::JoinHandle<()>, oneshot::Receiver<String>), OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(512)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let wide = options
        .clone()
        .pragma("cache_size", format!("-{CACHE_KIB}"))
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string());
    let mut conn = SqliteConnection::connect_with(&wide).await?;
    check_version(&mut conn).await?;
    // What the last process had in the WAL when an fsync failed can be read and need not be on the disk. In the
    // database, and synced, it is.
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await?;
    migrate(&mut conn).await?;
    let life = super::backup::life(&mut conn).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .connect_with(options.create_if_missing(false).read_only(true))
        .await?;
    let specs = Specs::default();
    let (fatal, failed) = oneshot::channel();
    let (writer, task) = Writer::spawn(conn, specs.clone(), live, fatal);
    Ok((Store { writer, readers, specs, life }, task, failed))
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    let mut parts = found.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) < SQLITE_MIN {
        return Err(OpenError::OldSqlite { found });
    }
    Ok(())
}

/// The newest schema that this program knows.
pub(crate) fn known_schema() -> i64 {
    MIGRATIONS.last().map_or(0, |m| m.0)
}

/// The schema of a database; 0 where it has none.
pub(crate) async fn schema(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let has_any: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')")
            .fetch_one(&mut *conn)
            .await?;
    if !has_any {
        return Ok(0);
    }
    let found: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(conn).await?;
    Ok(found.unwrap_or(0))
}

async fn migrate(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let (found, known) = (schema(conn).await?, known_schema());
    if found > known {
        return Err(OpenError::NewerSchema { found, known });
    }
    // A table that others refer to is made anew: dropping the old one must not take the others' rows along. So the keys
    // are off meanwhile, and hold before (what is damaged stays as it is) and after.
    sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *conn).await?;
    if found < known {
        keys_hold(conn).await?;
    }
    migrator(MIGRATIONS).run_direct(None, &mut *conn, false).await?;
    if found < known {
        keys_hold(conn).await?;
    }
    sqlx::query("PRAGMA foreign_keys = ON").execute(conn).await?;
    Ok(())
}

async fn keys_hold(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(conn).await?;
    if broken.is_empty() { Ok(()) } else { Err(OpenError::BrokenKeys { rows: broken.len() }) }
}

fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = migrations.iter().map(|&(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::ONE_TRIAL;

    /// Schema 4 counted what is inserted by itself, and not while a study was expanded.
    const OF_SCHEMA_4: &str = "
        INSERT INTO expansions VALUES (1, 2);
        INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype, start_epoch,
            started_at_ms)
        VALUES (1, 1, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 0);
        UPDATE trials SET state = 'RUNNING', attempts = 1, running_attempt = 1;
        INSERT INTO measurements VALUES (1, 1, 1, 1.0, 1.0, 1.0, 1.0, 'w', 0, 0);
        DELETE FROM study_counts;
        UPDATE sqlite_sequence SET seq = 7 WHERE name = 'trials';";

    /// A database of schema 4 with a trial that runs.
    async fn of_schema_4(path: &Path) {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
        migrator(&MIGRATIONS[..4]).run_direct(None, &mut conn, false).await.unwrap();
        let (one_trial, _) = ONE_TRIAL.rsplit_once("INSERT INTO study_counts").unwrap();
        for sql in [one_trial, OF_SCHEMA_4] {
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_database_whose_keys_do_not_hold_is_not_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kapell.db");
        of_schema_4(&path).await;
        let options = SqliteConnectOptions::new().filename(&path).foreign_keys(false);
        let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("DELETE FROM trials").execute(&mut conn).await.unwrap();
        for _ in 0..2 {
            let opened = open(&path, Arc::new(Live::new(Duration::from_secs(30)))).await;
            assert!(matches!(opened, Err(OpenError::BrokenKeys { rows: 1 })), "{:?}", opened.err());
            assert_eq!(schema(&mut conn).await.unwrap(), 4);
        }
    }

    #[tokio::test]
    async fn a_database_of_an_older_schema_keeps_all_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kapell.db");
        of_schema_4(&path).await;
        let live = Arc::new(Live::new(Duration::from_secs(30)));
        let (store, _, _) = open(&path, live).await.unwrap();
        let sql = "SELECT (SELECT count(*) FROM trials WHERE state = 'RUNNING' AND running_attempt = 1),
                (SELECT count(*) FROM attempts), (SELECT count(*) FROM measurements),
                (SELECT n FROM study_counts WHERE study = 1 AND state = 'RUNNING'),
                (SELECT seq FROM sqlite_sequence WHERE name = 'trials')";
        let kept: (i64, i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(&store.readers).await.unwrap();
        assert_eq!(kept, (1, 1, 1, 1, 7));
        let broken = store.writer.write(|tx| {
            Box::pin(async move {
                let sql = "INSERT INTO measurements VALUES (9, 1, 1, 1.0, 1.0, 1.0, 1.0, 'w', 0, 0)";
                Ok(sqlx::query(sql).execute(&mut tx.conn).await.is_err())
            })
        });
        assert!(broken.await.unwrap(), "foreign keys hold again");
    }

    #[tokio::test]
    async fn every_new_store_numbers_its_trials_from_a_place_of_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Vec::new();
        for name in ["a", "b", "a", "b"] {
            let live = Arc::new(Live::new(Duration::from_secs(30)));
            let (store, _, _) = open(&dir.path().join(name), live).await.unwrap();
            let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'trials'";
            first.push(sqlx::query_scalar::<_, i64>(sql).fetch_one(&store.readers).await.unwrap());
        }
        assert!(first[0] != first[1] && first.iter().all(|n| (0..1 << 31).contains(n)), "{first:?}");
        assert_eq!(first[..2], first[2..]);
    }
}
