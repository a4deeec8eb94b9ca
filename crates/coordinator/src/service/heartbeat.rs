//! The heartbeat channel: every beat renews leases and is answered; orders are pushed as they arise.

use std::pin::Pin;

use kapell_dispatch::{Held, Order};
use kapell_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

use super::{Shared, bad_request, is_gone, lease_id};
use crate::live::Push;
use crate::store::upkeep;
use crate::store::workers;

/// Answers that wait to be sent.
const ANSWERS_MAX: usize = 64;

pub(crate) type OrderStream = Pin<Box<dyn Stream<Item = Result<v1::Orders, Status>> + Send>>;

/// Opens the channel. The first beat says whose it is, and must be of a worker that is known.
pub(crate) async fn open(
    shared: Shared,
    mut beats: Streaming<v1::Beat>,
) -> Result<Response<OrderStream>, Status> {
    // The answer's head must go out before the first beat has come: a client may wait for it.
    let (answers, stream) = mpsc::channel(ANSWERS_MAX);
    tokio::spawn(async move {
        let result = serve(&shared, &mut beats, &answers).await;
        match result {
            Ok(()) => {}
            Err(status) if is_gone(&status) => {}
            // Who has gone does not hear it.
            Err(status) => drop(answers.send(Err(status)).await),
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn serve(
    shared: &Shared,
    beats: &mut Streaming<v1::Beat>,
    answers: &mpsc::Sender<Result<v1::Orders, Status>>,
) -> Result<(), Status> {
    let Some(first) = beats.next().await.transpose()? else { return Ok(()) };
    let (worker, incarnation) = (first.worker.clone(), first.incarnation.clone());
    is_draining(shared, &worker, &incarnation).await?;
    let mut pushed = shared.live.attach(&worker);
    let mut closing = shared.live.closing();
    let mut next = Some(first);
    loop {
        let orders = match next.take() {
            Some(beat) => {
                if beat.worker != worker || beat.incarnation != incarnation {
                    return Err(bad_request("a heartbeat channel is one worker's"));
                }
                let drain = is_draining(shared, &worker, &incarnation).await?;
                answer(shared, beat, drain).await?
            }
            None => tokio::select! {
                beat = beats.next() => match beat {
                    Some(beat) => {
                        next = Some(beat?);
                        continue;
                    }
                    None => return Ok(()),
                },
                push = pushed.recv() => match push {
                    Some(push) => orders(shared.store.life, push),
                    // A newer channel of this worker has taken over.
                    None => return Ok(()),
                },
                _ = closing.wait_for(|closing| *closing) => return Ok(()),
            },
        };
        if answers.send(Ok(orders)).await.is_err() {
            return Ok(());
        }
    }
}

/// Whether a worker is to leave. One whose name another process has taken is told so with its next beat.
async fn is_draining(shared: &Shared, worker: &str, incarnation: &str) -> Result<bool, Status> {
    let changes = match shared.live.known(worker, incarnation) {
        Ok(draining) => return Ok(draining),
        Err(changes) => changes,
    };
    let mut conn = shared.store.readers.acquire().await.map_err(crate::store::StoreError::from)?;
    let draining = workers::known(&mut conn, worker, incarnation).await?.state == "draining";
    shared.live.remember(worker, incarnation, draining, changes);
    Ok(draining)
}

async fn answer(shared: &Shared, beat: v1::Beat, drain: bool) -> Result<v1::Orders, Status> {
    let life = shared.store.life;
    let (mut held, mut foreign) = (Vec::new(), Vec::new());
    for h in &beat.held {
        match lease_id::from_wire(life, h.trial_id) {
            Some(trial) => held.push(Held { trial, attempt: h.attempt }),
            // Held of an earlier life of the store: the lease is gone.
            None => foreign.push(wire_order(h.trial_id, h.attempt, Order::Forget, String::new())),
        }
    }
    let answer = shared.live.beat(&beat.worker, &held);
    if !answer.heard.is_empty() {
        let heard = answer.heard;
        shared.store.writer.write(move |tx| Box::pin(async move { upkeep::heard(tx, &heard).await })).await?;
    }
    let mut answer = orders(life, Push::Answer(answer.orders, drain && !beat.draining));
    answer.orders.extend(foreign);
    Ok(answer)
}

fn orders(life: u32, push: Push) -> v1::Orders {
    let wire = |held: Held, order, reason| {
        wire_order(lease_id::to_wire(life, held.trial), held.attempt, order, reason)
    };
    let orders = match push {
        Push::Answer(orders, drain) => {
            let orders = orders.into_iter().map(|(held, order)| wire(held, order, String::new()));
            orders.chain(drain.then(drain_order)).collect()
        }
        Push::Order(held, order, reason) => vec![wire(held, order, reason)],
        Push::Drain => vec![drain_order()],
    };
    v1::Orders { orders }
}

fn wire_order(trial_id: i64, attempt: u32, order: Order, reason: String) -> v1::Order {
    use v1::order::What;
    let stop = v1::Stop { reason };
    let what = match order {
        Order::Cancel => What::Cancel(stop),
        Order::Pause => What::Pause(stop),
        Order::Prune => What::Prune(stop),
        Order::Forget => What::Forget(stop),
    };
    v1::Order { trial_id, attempt, what: Some(what) }
}

fn drain_order() -> v1::Order {
    let stop = v1::Stop { reason: "the worker is drained".to_owned() };
    v1::Order { trial_id: 0, attempt: 0, what: Some(v1::order::What::Drain(stop)) }
}
