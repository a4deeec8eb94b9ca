//! Expands large studies, a piece at a time: while one is written the next is computed, and between them everybody else
//! has his turn at the writer.

use kapell_search::study::Written;

use crate::service::Shared;
use crate::store::StoreError;
use crate::store::expand::{self, Expansion, PIECE};

/// Makes a study whole, whoever else may be at it. At once where there is nothing to do.
pub(crate) async fn complete(shared: &Shared, study: i64) -> Result<(), StoreError> {
    // Two at once would only get in each other's way.
    let _turn = shared.expanding.lock().await;
    let mut conn = shared.store.readers.acquire().await?;
    let found = expand::find(&mut conn, &shared.store.specs, study).await?;
    drop(conn);
    let Some(Expansion { study, mut next, last, pen }) = found else { return Ok(()) };
    let compute = |from: u32| {
        let (pen, to) = (pen.clone(), from.saturating_add(PIECE - 1).min(last));
        tokio::task::spawn_blocking(move || (from..=to).map(|n| pen.write(n)).collect::<Vec<Written>>())
    };
    let mut computed = compute(next);
    while next <= last {
        let trials = computed.await.map_err(|_| StoreError::Closed)?;
        next = next.saturating_add(PIECE);
        computed = compute(next);
        let written = shared
            .store
            .writer
            .write(move |tx| Box::pin(async move { expand::add(tx, study, &trials, last).await }));
        if !written.await? {
            break;
        }
    }
    Ok(())
}

/// Goes on with what an earlier process left, one after the other.
pub(crate) async fn complete_all(shared: &Shared) -> Result<(), StoreError> {
    let open = expand::open(&mut *shared.store.readers.acquire().await?).await?;
    for study in open {
        tracing::info!(study, "goes on with the expansion of a study");
        complete(shared, study).await?;
    }
    Ok(())
}
