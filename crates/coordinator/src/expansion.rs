//! Expands large studies, a piece at a time: while one is written the next is computed, and between them everybody else
//! has his turn at the writer.

use std::collections::HashSet;
use std::time::Duration;

use kapell_search::study::Written;
use tokio::task::JoinSet;

use crate::service::Shared;
use crate::store::StoreError;
use crate::store::expand::{self, Expansion, PIECE};

/// What has failed (a full disk, a queue that stays full) is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Expands what earlier processes left and what is created, all at once, until the coordinator ends.
pub(crate) async fn expand_all(shared: &Shared) {
    let (mut tasks, mut under_way) = (JoinSet::new(), HashSet::new());
    loop {
        match to_expand(shared).await {
            Ok(studies) => {
                for study in studies.into_iter().filter(|study| under_way.insert(*study)) {
                    let shared = shared.clone();
                    tasks.spawn(async move {
                        complete(&shared, study).await;
                        study
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "upkeep failed: expansions");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        }
        tokio::select! {
            () = shared.expand.notified() => {}
            Some(done) = tasks.join_next() => match done {
                Ok(study) => drop(under_way.take(&study)),
                // Nobody knows whose it was. Two at one study do no harm: what is not next is not added.
                Err(error) => {
                    tracing::error!(%error, "an expansion failed");
                    under_way.clear();
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            },
        }
    }
}

async fn to_expand(shared: &Shared) -> Result<Vec<i64>, StoreError> {
    expand::open(&mut *shared.store.readers.acquire().await?).await
}

/// Expands a study to its end, however often it takes.
async fn complete(shared: &Shared, study: i64) {
    while let Err(error) = pieces(shared, study).await {
        tracing::warn!(%error, study_id = study, "an expansion has to be tried again");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn pieces(shared: &Shared, study: i64) -> Result<(), StoreError> {
    let mut conn = shared.store.readers.acquire().await?;
    let found = expand::find(&mut conn, &shared.store.specs, study).await?;
    drop(conn);
    let Some(Expansion { name, mut next, last, pen }) = found else { return Ok(()) };
    let compute = |from: u32| {
        let (pen, to) = (pen.clone(), from.saturating_add(PIECE - 1).min(last));
        tokio::task::spawn_blocking(move || (from..=to).map(|n| pen.write(n)).collect::<Vec<Written>>())
    };
    let mut computed = compute(next);
    while next <= last {
        wait_for_room(shared, &name).await;
        let trials = computed.await.map_err(|_| StoreError::Closed)?;
        next = next.saturating_add(PIECE);
        computed = compute(next);
        let written = shared
            .store
            .writer
            .write(move |tx| Box::pin(async move { expand::add(tx, study, &trials, last).await }));
        if !written.await? {
            // It is gone, or somebody else's.
            return Ok(());
        }
    }
    tracing::info!(study = name, trials = last, "study expanded");
    Ok(())
}

/// Waits while there is less space than --min-free: what runs needs the rest.
async fn wait_for_room(shared: &Shared, study: &str) {
    let mut told = false;
    while shared.space_is_low() {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                study,
                "the expansion waits: the data folder's disk has less space than --min-free"
            );
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
