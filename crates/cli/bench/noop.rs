//! Workers that do nothing with their trials but say so: they lease, beat, report and finish as real ones do.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kapell_rpc::{Client, ClientError, PROTOCOL_VERSION, v1};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// Workers that share connections: many more than real ones would, so that ten thousand fit one machine's ports.
const WORKERS_A_CLIENT: u32 = 50;
const LEASE_WAIT_MS: u64 = 20_000;
/// Measurements of one report, as real workers send them at most.
const BATCH_MAX: usize = 256;

/// What all workers are to do.
#[derive(Clone)]
pub(super) struct Plan {
    pub url: String,
    pub workers: u32,
    pub slots: u32,
    pub reports: u32,
    pub hold: Duration,
    /// Of every trial: uploaded once, recorded each time.
    pub checkpoint: v1::Checkpoint,
}

/// What they saw.
#[derive(Default)]
pub(super) struct Seen {
    /// How long each request for work took that got some.
    pub leases: Vec<Duration>,
    /// Trials whose end was acknowledged.
    pub finished: HashSet<i64>,
    /// Trials whose end was acknowledged to two attempts.
    pub twice: u64,
}

struct House {
    plan: Plan,
    /// Trials that nobody has asked for yet.
    left: AtomicI64,
    /// Trials that have not ended.
    open: AtomicI64,
    done: watch::Sender<bool>,
    seen: Mutex<Seen>,
    /// The curve of every trial.
    rows: Vec<v1::Measurement>,
}

/// Runs `trials` trials. Gives what the workers saw and the time from the first request to the last answer.
pub(super) async fn run(plan: Plan, trials: u64) -> Result<(Seen, Duration), ClientError> {
    let trials = i64::try_from(trials).unwrap_or(i64::MAX);
    let house = Arc::new(House {
        left: AtomicI64::new(trials),
        open: AtomicI64::new(trials),
        done: watch::Sender::new(false),
        seen: Mutex::default(),
        rows: measurements(plan.reports),
        plan,
    });
    let mut hands = Vec::new();
    let mut client = None;
    for number in 0..house.plan.workers {
        if number % WORKERS_A_CLIENT == 0 || house.plan.workers <= WORKERS_A_CLIENT {
            client = Some(Client::connect(&house.plan.url, None)?);
        }
        let Some(client) = client.clone() else { continue };
        hands.push(Hand { house: house.clone(), client, number, name: format!("bench-{number}") });
    }
    register_all(&hands).await?;
    let begun = Instant::now();
    let mut tasks: JoinSet<Result<(), ClientError>> = hands.into_iter().map(Hand::work).collect();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or(Ok(()))?;
    }
    let took = begun.elapsed();
    let seen = std::mem::take(&mut *house.seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((seen, took))
}

/// A few at a time: that is no part of the measurement.
async fn register_all(hands: &[Hand]) -> Result<(), ClientError> {
    for some in hands.chunks(64) {
        let mut calls: JoinSet<_> =
            some.iter().cloned().map(|hand| async move { hand.register().await }).collect();
        while let Some(done) = calls.join_next().await {
            done.unwrap_or(Ok(()))?;
        }
    }
    Ok(())
}

#[derive(Clone)]
struct Hand {
    house: Arc<House>,
    client: Client,
    number: u32,
    name: String,
}

impl Hand {
    async fn register(&self) -> Result<(), ClientError> {
        let numerics =
            v1::Numerics { program_version: "kapell bench".into(), kind: "noop".into(), dtype: "f32".into() };
        let device = v1::Device { kind: "cpu".into(), name: "nothing".into(), ..v1::Device::default() };
        self.client
            .register(v1::RegisterRequest {
                protocol_version: PROTOCOL_VERSION,
                name: self.name.clone(),
                incarnation: self.name.clone(),
                host: "bench".into(),
                devices: vec![device],
                slots: self.house.plan.slots,
                numerics: Some(numerics),
                study: String::new(),
            })
            .await
            .map(drop)
    }

    /// Leases while there is something, and beats meanwhile.
    async fn work(self) -> Result<(), ClientError> {
        let held = Arc::new(Mutex::new(HashSet::new()));
        let mut done = self.house.done.subscribe();
        let mut trials = JoinSet::new();
        let work = async {
            // Where trials take their time, workers do not ask all at once either.
            let place = f64::from(self.number) / f64::from(self.house.plan.workers);
            tokio::time::sleep(self.house.plan.hold.mul_f64(place)).await;
            let mut number = 0_u64;
            loop {
                let free = i64::from(self.house.plan.slots) - i64::try_from(trials.len()).unwrap_or(0);
                let claimed = self.claim(free);
                if claimed == 0 {
                    match trials.join_next().await {
                        Some(ended) => ended.unwrap_or(Ok(()))?,
                        None => return Ok(()),
                    }
                    while let Some(ended) = trials.try_join_next() {
                        ended.unwrap_or(Ok(()))?;
                    }
                    continue;
                }
                number += 1;
                let works = self.lease(number, claimed).await?;
                self.house
                    .left
                    .fetch_add(claimed - i64::try_from(works.len()).unwrap_or(0), Ordering::Relaxed);
                for work in works {
                    let (hand, held) = (self.clone(), held.clone());
                    trials.spawn(async move { hand.trial(work, &held).await });
                }
                while let Some(ended) = trials.try_join_next() {
                    ended.unwrap_or(Ok(()))?;
                }
            }
        };
        tokio::select! {
            result = work => result,
            result = self.beat(&held) => result,
            _ = done.wait_for(|done| *done) => Ok(()),
        }
    }

    fn claim(&self, wanted: i64) -> i64 {
        let before = self.house.left.fetch_sub(wanted, Ordering::Relaxed);
        let got = wanted.min(before).max(0);
        self.house.left.fetch_add(wanted - got, Ordering::Relaxed);
        got
    }

    async fn lease(&self, number: u64, works: i64) -> Result<Vec<v1::Work>, ClientError> {
        let begun = Instant::now();
        let answer = self
            .client
            .lease(v1::LeaseRequest {
                worker: self.name.clone(),
                incarnation: self.name.clone(),
                request_id: format!("{}-{number}", self.name),
                max_works: u32::try_from(works).unwrap_or(1),
                max_mates: 1,
                wait_ms: LEASE_WAIT_MS,
            })
            .await?;
        if !answer.works.is_empty() {
            self.seen(|seen| seen.leases.push(begun.elapsed()));
        }
        Ok(answer.works)
    }

    async fn trial(&self, work: v1::Work, held: &Mutex<HashSet<(i64, u32)>>) -> Result<(), ClientError> {
        let place = (work.trial_id, work.attempt);
        let lock = || held.lock().unwrap_or_else(PoisonError::into_inner);
        lock().insert(place);
        if !self.house.plan.hold.is_zero() {
            tokio::time::sleep(self.house.plan.hold).await;
        }
        let mut rows = self.house.rows.as_slice();
        while let Some((measurements, left)) =
            rows.split_at_checked(BATCH_MAX).filter(|(_, left)| !left.is_empty())
        {
            let request = v1::ReportRequest {
                trial_id: work.trial_id,
                attempt: work.attempt,
                measurements: measurements.to_vec(),
            };
            self.client.report(request).await?;
            rows = left;
        }
        let checkpoint = Some(self.house.plan.checkpoint.clone());
        let mut request = v1::FinishRequest {
            trial_id: work.trial_id,
            attempt: work.attempt,
            best: checkpoint.clone(),
            last: checkpoint,
            measurements: rows.to_vec(),
            ..v1::FinishRequest::default()
        };
        request.set_outcome(v1::Outcome::Complete);
        self.client.finish(request).await?;
        lock().remove(&place);
        self.seen(|seen| seen.twice += u64::from(!seen.finished.insert(work.trial_id)));
        if self.house.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.house.done.send_replace(true);
        }
        Ok(())
    }

    /// Beats for ever, on the channel that is there for it.
    async fn beat(&self, held: &Mutex<HashSet<(i64, u32)>>) -> Result<(), ClientError> {
        const EVERY: Duration = Duration::from_secs(5);
        let (beats, stream) = mpsc::channel(4);
        let beat = || {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let held = held.iter().map(|&(trial_id, attempt)| v1::Held { trial_id, attempt }).collect();
            v1::Beat { worker: self.name.clone(), incarnation: self.name.clone(), held, draining: false }
        };
        // Not all at once: real workers start at different times.
        tokio::time::sleep(EVERY.mul_f64(f64::from(self.number % 1000) / 1000.0)).await;
        let _ = beats.try_send(beat());
        let mut orders = self.client.heartbeat(ReceiverStream::new(stream)).await?;
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => drop(beats.try_send(beat())),
                answer = orders.message() => {
                    let ended = || ClientError::new(kapell_rpc::Kind::Temporary, "the heartbeat channel ended");
                    let answer = answer.map_err(|s| ClientError::from_status(self.client.url(), &s))?;
                    answer.ok_or_else(ended)?;
                }
            }
        }
    }

    fn seen(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.house.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A curve as trials have it.
fn measurements(epochs: u32) -> Vec<v1::Measurement> {
    let digest = kapell_rpc::digest::of_bytes(b"weights");
    let row = |epoch: u32| v1::Measurement {
        epoch,
        train_loss: 1.0 + 1.0 / f64::from(epoch),
        val_loss: 1.1 + 1.0 / f64::from(epoch),
        seconds: 41.5,
        tokens_per_s: 9500.0,
        weights_digest: digest.clone(),
        attempt: 0,
    };
    (1..=epochs).map(row).collect()
}
