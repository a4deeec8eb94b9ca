//! What happens without being asked: leases run out, studies reach their time, blobs that nobody needs go.

use std::time::{Duration, Instant};

use crate::expansion;
use crate::service::Shared;
use crate::store::{StoreError, upkeep, workers};

/// How often the limits of studies are looked at, and blobs swept.
const AGE_EVERY: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Blobs that were asked for or uploaded this recently are somebody's next checkpoint.
pub(crate) const SWEEP_GRACE: Duration = Duration::from_secs(300);

/// Runs until the coordinator ends.
pub(crate) async fn run(shared: Shared) {
    tokio::join!(clean(&shared), expansion::expand_all(&shared), go_round(&shared));
}

/// Once: what a crash may have left.
async fn clean(shared: &Shared) {
    match shared.blobs.clean().await {
        Ok(0) => {}
        Ok(removed) => tracing::warn!(removed, "files without a row, left by a crash, are removed"),
        Err(error) => tell("files without a row", Err(error)),
    }
}

async fn go_round(shared: &Shared) {
    let tick = (shared.config.lease / 8).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut aged, mut swept) = (Instant::now(), Instant::now());
    loop {
        ticks.tick().await;
        tell("leases", lose_expired(shared).await);
        if aged.elapsed() >= AGE_EVERY {
            let by = aged.elapsed();
            aged = Instant::now();
            tell("limits", age(shared, by).await);
        }
        if swept.elapsed() >= SWEEP_EVERY {
            swept = Instant::now();
            shared.live.prune();
            tell("last seen", note_seen(shared).await);
            match shared.blobs.sweep(SWEEP_GRACE).await {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(bytes, "blobs swept"),
                Err(error) => tell("blobs", Err(error)),
            }
        }
    }
}

/// It is tried again with the next round.
fn tell(what: &'static str, result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "upkeep failed");
    }
}

async fn lose_expired(shared: &Shared) -> Result<(), StoreError> {
    for (held, worker) in shared.live.expired() {
        shared
            .store
            .writer
            .write(move |tx| Box::pin(async move { upkeep::lose(tx, held, &worker).await }))
            .await?;
    }
    Ok(())
}

async fn age(shared: &Shared, by: Duration) -> Result<(), StoreError> {
    if upkeep::any_ages(&mut *shared.store.readers.acquire().await?).await? {
        shared.store.writer.write(move |tx| Box::pin(upkeep::age(tx, by))).await?;
    }
    Ok(())
}

async fn note_seen(shared: &Shared) -> Result<(), StoreError> {
    let seen = shared.live.all_seen();
    shared.store.writer.write(move |tx| Box::pin(async move { workers::seen(tx, &seen).await })).await
}
