//! The heartbeat: says what the worker holds, on a connection of its own, and passes orders on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kapell_rpc::client::Backoff;
use kapell_rpc::{ClientError, Kind, reason, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::control::Stop;
use crate::session::{Leave, Worker};

/// Beats without an answer after which the connection counts as dead.
const SILENT_BEATS_MAX: u32 = 3;

/// Beats until the worker leaves, connecting and registering again as often as it takes.
pub(crate) async fn beat_forever(worker: Arc<Worker>) {
    let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let connected = Instant::now();
        let Err(error) = beat_while_connected(&worker).await;
        if error.has_reason(reason::STALE_INCARNATION) {
            return worker.leave(Leave::Replaced);
        }
        if error.has_reason(reason::UNKNOWN_WORKER) {
            match worker.register().await {
                Ok(()) => continue,
                Err(error) if !error.is_temporary() => return worker.leave(Leave::Refused(error)),
                Err(_) => {}
            }
        }
        if connected.elapsed() > worker.heartbeat() {
            tracing::warn!(%error, "the coordinator is away: trials go on, reports wait");
            pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        }
        tokio::time::sleep(pauses.delay()).await;
    }
}

async fn beat_while_connected(worker: &Worker) -> Result<std::convert::Infallible, ClientError> {
    let (beats, stream) = mpsc::channel(4);
    let _ = beats.try_send(worker.beat());
    let mut orders = worker.client.heartbeat(ReceiverStream::new(stream)).await?;
    let interval = worker.heartbeat();
    let mut heard = Instant::now();
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let silent = heard.elapsed();
                if silent > interval * SILENT_BEATS_MAX {
                    let message = format!("no answer to a heartbeat for {} ms", silent.as_millis());
                    return Err(ClientError::new(Kind::Temporary, message));
                }
                // A full channel is a connection that stands still: the silence will tell.
                let _ = beats.try_send(worker.beat());
            }
            () = worker.held_changed() => {
                let _ = beats.try_send(worker.beat());
            }
            message = orders.message() => {
                let message = message.map_err(|s| ClientError::from_status(worker.client.url(), &s))?;
                let Some(message) = message else {
                    return Err(ClientError::new(Kind::Temporary, "the coordinator ended the heartbeat channel"));
                };
                heard = Instant::now();
                message.orders.into_iter().for_each(|order| obey(worker, order));
            }
        }
    }
}

fn obey(worker: &Worker, order: v1::Order) {
    use v1::order::What;
    let held = (order.trial_id, order.attempt);
    let (stop, reason) = match order.what {
        Some(What::Cancel(stop)) => (Stop::Cancel, stop.reason),
        Some(What::Pause(stop)) => (Stop::Pause, stop.reason),
        Some(What::Prune(stop)) => (Stop::Prune, stop.reason),
        Some(What::Forget(stop)) => (Stop::Forget, stop.reason),
        Some(What::Drain(_)) => return worker.leave(Leave::Drained),
        // Of a newer coordinator: what it means is not known here.
        None => return,
    };
    worker.order(held, stop, &reason);
}
