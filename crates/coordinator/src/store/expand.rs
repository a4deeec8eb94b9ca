//! The trials of a new study. Those of a small one are there with the transaction that creates it; a large one is expanded
//! in pieces, so that nobody waits for long behind it. It is a study like any other meanwhile: its first trials are leased
//! while its last are to come, and what is to come counts as queued, or as canceled once what is open is canceled. What a
//! crash interrupts goes on with the next start (see [`crate::expansion`]).

use std::sync::LazyLock;

use kapell_dispatch::TrialState;
use kapell_search::study::{Pen, Written};
use sqlx::SqliteConnection;

use super::many::{Many, Script, WIDEST};
use super::writer::After;
use super::{Specs, StoreError, Tx, studies};

/// Trials that one transaction inserts.
pub(crate) const PIECE: u32 = 20_000;

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO trials (created_at_ms, study, number, config, config_hash, shape_key, replicate,
                   epochs_wanted)
               SELECT ?, ?, m.* FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 6)
});

/// Inserts and counts trials of a study, and wakes who waits for work.
pub(super) async fn insert(tx: &mut Tx, study: i64, trials: &[Written]) -> Result<(), StoreError> {
    let at_ms = tx.at_ms;
    // A message must not be too large.
    for some in trials.chunks(4 * WIDEST) {
        let script = Script::default().write(
            &INSERT,
            some,
            |query| query.bind(at_ms).bind(study),
            |query, t| {
                let query = query.bind(t.number).bind(t.config.as_str()).bind(t.hash.as_str());
                query.bind(t.shape_key.as_str()).bind(t.replicate).bind(t.epochs)
            },
        );
        script.run_all(tx).await?;
    }
    let count = "INSERT INTO study_counts (study, state, n) VALUES (?, ?, ?)
                 ON CONFLICT (study, state) DO UPDATE SET n = n + excluded.n";
    sqlx::query(count)
        .bind(study)
        .bind(TrialState::Queued.name())
        .bind(i64::try_from(trials.len()).unwrap_or(i64::MAX))
        .execute(&mut tx.conn)
        .await?;
    tx.after.push(After::Wake);
    Ok(())
}

/// Notes that a study has to be expanded.
pub(super) async fn begin(tx: &mut Tx, study: i64) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO expansions (study, next) VALUES (?, 1)")
        .bind(study)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// A study that is not whole yet.
pub(crate) struct Expansion {
    /// The study's.
    pub(crate) name: String,
    /// The number of the next trial, and that of the last.
    pub(crate) next: u32,
    pub(crate) last: u32,
    pub(crate) pen: Pen,
}

/// The studies that are not whole yet.
pub(crate) async fn open(conn: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar("SELECT study FROM expansions ORDER BY study").fetch_all(conn).await?)
}

/// What is left to expand of a study; nothing, if it is whole, or gone.
pub(crate) async fn find(
    conn: &mut SqliteConnection,
    specs: &Specs,
    study: i64,
) -> Result<Option<Expansion>, StoreError> {
    let sql =
        "SELECT e.next, s.corpus_digest, s.split_digest FROM expansions e JOIN studies s ON s.id = e.study
               WHERE e.study = ?";
    let row: Option<(u32, String, String)> =
        sqlx::query_as(sql).bind(study).fetch_optional(&mut *conn).await?;
    let Some((next, corpus, split)) = row else { return Ok(None) };
    let spec = specs.get(conn, study).await?;
    let last = u32::try_from(spec.trials()).unwrap_or(u32::MAX);
    let (name, pen) = (spec.name.clone(), spec.pen(&corpus, &split));
    Ok(Some(Expansion { name, next, last, pen }))
}

/// Inserts the next trials, which must be those that are next; the last ones make the study whole. False: they are not
/// next, or there is nothing left to expand.
pub(crate) async fn add(tx: &mut Tx, study: i64, trials: &[Written], last: u32) -> Result<bool, StoreError> {
    let left: Option<(u32, Option<String>)> =
        sqlx::query_as("SELECT next, canceled FROM expansions WHERE study = ?")
            .bind(study)
            .fetch_optional(&mut tx.conn)
            .await?;
    let Some(((_, canceled), (from, to))) = left.zip(ends(trials)).filter(|(left, ends)| left.0 == ends.0)
    else {
        return Ok(false);
    };
    insert(tx, study, trials).await?;
    if let Some(why) = canceled {
        studies::cancel_alike(tx, study, TrialState::Queued, from, &why).await?;
    }
    let sql = if to < last {
        "UPDATE expansions SET next = ?2 WHERE study = ?1"
    } else {
        "DELETE FROM expansions WHERE study = ?1"
    };
    sqlx::query(sql).bind(study).bind(to.saturating_add(1)).execute(&mut tx.conn).await?;
    Ok(true)
}

/// The first and the last number.
fn ends(trials: &[Written]) -> Option<(u32, u32)> {
    Some((trials.first()?.number, trials.last()?.number))
}

/// What is still to come of a study is canceled as soon as it is there.
pub(super) async fn cancel(tx: &mut Tx, study: i64, why: &str) -> Result<(), StoreError> {
    let sql = "UPDATE expansions SET canceled = ? WHERE study = ? AND canceled IS NULL";
    sqlx::query(sql).bind(why).bind(study).execute(&mut tx.conn).await?;
    Ok(())
}

/// Trials of a study that are still to come, and their state.
pub(super) async fn to_come(
    conn: &mut SqliteConnection,
    study: i64,
) -> Result<Option<(TrialState, i64)>, StoreError> {
    let sql = "SELECT s.configurations - e.next + 1, e.canceled IS NOT NULL
               FROM expansions e JOIN studies s ON s.id = e.study WHERE e.study = ?";
    let row: Option<(i64, bool)> = sqlx::query_as(sql).bind(study).fetch_optional(conn).await?;
    let state = |canceled| if canceled { TrialState::Canceled } else { TrialState::Queued };
    Ok(row.map(|(n, canceled)| (state(canceled), n)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::studies::StudyCore;
    use crate::store::tests::{ONE_TRIAL, open, run};
    use kapell_dispatch::StudyEvent;

    const TRIALS: u32 = 6;

    /// A study of six trials, of which two are there.
    async fn begun(store: &Store) {
        run(store, ONE_TRIAL).await;
        let seeds = "name = 's'\ncorpus = 'c'\n[space]\nseed = [1, 2, 3, 4, 5, 6]\n[train]\nepochs = 3\n";
        let done = store.writer.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM trials").execute(&mut tx.conn).await?;
                sqlx::query("DELETE FROM study_counts").execute(&mut tx.conn).await?;
                let sql = "UPDATE studies SET configurations = ?, spec_toml = ?";
                sqlx::query(sql).bind(TRIALS).bind(seeds).execute(&mut tx.conn).await?;
                begin(tx, 1).await
            })
        });
        done.await.unwrap();
        piece(store, 1, 2).await;
    }

    async fn piece(store: &Store, from: u32, to: u32) {
        let done = store.writer.write(move |tx| {
            Box::pin(async move {
                let pen = tx.spec(1).await?.pen("c", "s");
                let some: Vec<Written> = (from..=to).map(|n| pen.write(n)).collect();
                assert!(add(tx, 1, &some, TRIALS).await?, "{from}..={to} are next");
                assert!(!add(tx, 1, &some, TRIALS).await?, "{from}..={to} are there");
                Ok(())
            })
        });
        done.await.unwrap();
    }

    async fn put(store: &Store, event: StudyEvent) {
        let done = store
            .writer
            .write(move |tx| Box::pin(async move { studies::step(tx, 1, event, "because").await.map(drop) }));
        done.await.unwrap();
    }

    async fn state(store: &Store) -> (String, Vec<(String, i64)>) {
        let mut conn = store.readers.acquire().await.unwrap();
        let core: StudyCore = studies::find(&mut conn, "s").await.unwrap();
        let sql = "SELECT state, n FROM study_counts WHERE n > 0 ORDER BY state";
        let counts = sqlx::query_as(sql).fetch_all(&mut *conn).await.unwrap();
        (core.state().unwrap().name().to_owned(), counts)
    }

    fn counted(counts: &[(&str, i64)]) -> Vec<(String, i64)> {
        counts.iter().map(|(state, n)| ((*state).to_owned(), *n)).collect()
    }

    #[tokio::test]
    async fn what_is_still_to_come_of_a_canceled_study_is_canceled() {
        let house = open().await;
        begun(&house.store).await;
        put(&house.store, StudyEvent::Cancel).await;
        assert_eq!(state(&house.store).await, ("CANCELED".into(), counted(&[("CANCELED", 2)])));
        piece(&house.store, 3, 5).await;
        piece(&house.store, 6, 6).await;
        assert_eq!(state(&house.store).await, ("CANCELED".into(), counted(&[("CANCELED", 6)])));
        let told: Vec<(u32, String)> = sqlx::query_as(
            "SELECT trial, json ->> 'reason' FROM events WHERE type = 'trial.ended' ORDER BY seq",
        )
        .fetch_all(&house.store.readers)
        .await
        .unwrap();
        let wanted: Vec<(u32, String)> = (1..=TRIALS).map(|n| (n, "because".into())).collect();
        assert_eq!(told, wanted, "each is told of once");
    }

    #[tokio::test]
    async fn a_trial_that_is_queued_again_meanwhile_stays_queued() {
        let house = open().await;
        begun(&house.store).await;
        put(&house.store, StudyEvent::Cancel).await;
        let again = house.store.writer.write(|tx| Box::pin(studies::retry(tx, "s", 1)));
        again.await.unwrap();
        piece(&house.store, 3, 6).await;
        assert_eq!(state(&house.store).await, ("ACTIVE".into(), counted(&[("CANCELED", 5), ("QUEUED", 1)])));
    }

    #[tokio::test]
    async fn a_limit_completes_a_study_that_is_not_whole_and_cancels_what_is_to_come() {
        let house = open().await;
        begun(&house.store).await;
        put(&house.store, StudyEvent::Limit).await;
        assert_eq!(state(&house.store).await, ("COMPLETE".into(), counted(&[("CANCELED", 2)])));
        piece(&house.store, 3, 6).await;
        assert_eq!(state(&house.store).await, ("COMPLETE".into(), counted(&[("CANCELED", 6)])));
    }

    #[tokio::test]
    async fn a_study_whose_trials_have_all_ended_goes_on_while_more_are_to_come() {
        let house = open().await;
        begun(&house.store).await;
        let end_all = "UPDATE trials SET state = 'PRUNED', ended_at_ms = 1";
        for (whole, wanted) in [(false, "ACTIVE"), (true, "COMPLETE")] {
            if whole {
                piece(&house.store, 3, 6).await;
            }
            run(&house.store, end_all).await;
            house.store.writer.write(|tx| Box::pin(studies::judge(tx, 1))).await.unwrap();
            assert_eq!(state(&house.store).await.0, wanted);
        }
    }
}
