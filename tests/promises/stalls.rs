//! Row 3, with real processes: workers are stopped for longer than their leases and come back, and nothing that they
//! write then counts.

use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kapell_rpc::{ClientError, reason, v1};
use rustix::process::Signal;
use sqlx::SqliteConnection;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::witness::{self, Witness};
use crate::house::{House, PATIENCE, Process, Training, audit, block_on};
use crate::options::{Failure, Figure, Options};

/// What a worker says whose write is refused.
const REFUSED: &str = "the trial is no longer ours";
const LEASE: &[(&str, &str)] = &[("--lease", "600ms"), ("--heartbeat", "100ms")];
const TRIALS: u64 = 6;
const EPOCHS: u64 = 12;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let stops = options.tries(12, 1000);
    let workers = if options.long { 6 } else { 3 };
    let mut dice = Dice::new(options.seed);
    let counts = block_on(stalls(&mut dice, stops, workers))??;
    let text = format!(
        "0 stale rows behind {stops} real stops; {} writes of stopped processes and {} by hand were refused",
        counts.by_workers, counts.by_hand
    );
    Ok(Figure::zero_in(stops + counts.by_hand, text))
}

struct Counts {
    by_workers: u64,
    by_hand: u64,
}

async fn stalls(dice: &mut Dice, stops: u64, workers: u64) -> Result<Counts> {
    let house = House::new(dice, LEASE)?;
    let ledger = Ledger::default();
    let coordinator = house.coordinator().await?;
    let (enough, fed) = watch::channel(false);
    let names: Vec<String> = (0..workers).map(|n| format!("worker-{n}")).collect();
    let (sleeper, shares) = (dice.fork(), split(stops, workers));
    // The study is there before the workers are, so that no stop meets an idle one.
    feed_once(&house, &ledger, 0).await?;
    let driven = async {
        let all = names.iter().zip(shares).map(|(name, stops)| {
            let dice = dice.fork();
            stall(&house, name, stops, dice)
        });
        let done = tokio::try_join!(all_of(all), zombies(&house, &ledger, sleeper, stops / 2))?;
        enough.send_replace(true);
        Ok::<_, anyhow::Error>(done)
    };
    let ((living, by_hand), ()) = tokio::try_join!(driven, feed(&house, &ledger, fed))?;
    drop(living);
    coordinator.leave().await?;
    audit::audit(&house.data, &ledger).await?;
    let refused = |name: &String| house.log(name).matches(REFUSED).count() as u64;
    let by_workers: u64 = names.iter().map(refused).sum();
    ensure!(by_hand > 0, "no stale write was tried: that proves nothing");
    Ok(Counts { by_workers, by_hand })
}

fn split(stops: u64, workers: u64) -> Vec<u64> {
    (0..workers).map(|n| stops / workers + u64::from(n < stops % workers)).collect()
}

/// Drives them side by side, until all are done or one has failed.
async fn all_of<T>(futures: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let mut all: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        let mut failed = None;
        all.retain_mut(|one| match one.as_mut().poll(context) {
            Poll::Ready(Ok(value)) => {
                done.push(value);
                false
            }
            Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
            Poll::Pending => true,
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if all.is_empty() => Poll::Ready(Ok(std::mem::take(&mut done))),
            None => Poll::Pending,
        }
    })
    .await
}

/// Stops a worker so many times while it trains, each time until its lease is gone. It lives on.
async fn stall(house: &House, name: &str, stops: u64, mut dice: Dice) -> Result<Process> {
    let worker = house.worker(name, &house.url(), &[])?;
    let mut conn = audit::database(&house.data).await?;
    for _ in 0..stops {
        until("it to hold a trial", async || Ok(held(&mut conn, name).await? > 0)).await?;
        tokio::time::sleep(dice.millis(0..400)).await;
        worker.signal(Signal::STOP)?;
        until("its lease to be gone", async || Ok(held(&mut conn, name).await? == 0)).await?;
        tokio::time::sleep(dice.millis(0..200)).await;
        worker.signal(Signal::CONT)?;
    }
    Ok(worker)
}

async fn held(conn: &mut SqliteConnection, worker: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM attempts WHERE worker = ? AND outcome IS NULL";
    Ok(sqlx::query_scalar(sql).bind(worker).fetch_one(conn).await?)
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !so().await? {
        ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Workers by hand that fall silent until their lease is gone and then try every kind of write. Gives the refusals.
async fn zombies(house: &House, ledger: &Ledger, mut dice: Dice, tries: u64) -> Result<u64> {
    let mut refused = 0;
    let mut conn = audit::database(&house.data).await?;
    for n in 0..tries {
        let name = format!("zombie-{n}");
        let mut zombie = Witness::new(&name, &house.url(), ledger, dice.fork())?;
        zombie.register().await?;
        let work = loop {
            if let Some(work) = zombie.lease(500).await?.pop() {
                break work;
            }
        };
        let began = match &work.kind {
            Some(v1::work::Kind::Train(train)) => train.resume.as_ref().map_or(0, |c| c.epoch),
            _ => 0,
        };
        // On a busy machine its lease may be gone already.
        let in_time = zombie.report(&work, began + 1, began + 1).await;
        refused += if in_time.is_ok() { 0 } else { stale(in_time)? };
        until("a silent worker's lease to be gone", async || Ok(held(&mut conn, &name).await? == 0)).await?;
        // Half of them write when another attempt holds the trial, half when nobody does.
        tokio::time::sleep(dice.millis(0..300)).await;
        refused += stale(zombie.report(&work, began + 1, began + 1).await)?;
        refused += stale(zombie.report(&work, began + 2, began + 2).await)?;
        refused += stale(zombie.checkpoint(&work, began + 1).await)?;
        refused += stale(zombie.finish(&work, began + 1).await)?;
    }
    Ok(refused)
}

/// A stale write must be refused as such.
fn stale(result: Result<()>) -> Result<u64> {
    match result {
        Ok(()) => anyhow::bail!("a stale write was taken"),
        Err(error) => {
            let refused =
                error.downcast_ref::<ClientError>().is_some_and(|e| e.has_reason(reason::STALE_ATTEMPT));
            ensure!(refused, "a stale write failed otherwise: {error:#}");
            Ok(1)
        }
    }
}

/// Keeps the queue filled until told to stop; then waits for the end of all.
async fn feed(house: &House, ledger: &Ledger, stop: watch::Receiver<bool>) -> Result<()> {
    let client = witness::client(&house.url())?;
    for n in 0.. {
        let queued = async |name: &str| -> Result<u64> {
            let study = client.get_study(v1::StudyRef { study: name.to_owned() }).await?;
            Ok(study.trials.map_or(0, |counts| counts.queued))
        };
        let name = format!("study-{n}");
        while queued(&name).await? > 2 && !*stop.borrow() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if *stop.borrow() {
            break;
        }
        feed_once(house, ledger, n + 1).await?;
    }
    let names: Vec<String> = ledger.open().studies.keys().cloned().collect();
    for name in names {
        witness::completed(&client, &name).await?;
    }
    Ok(())
}

async fn feed_once(house: &House, ledger: &Ledger, n: u64) -> Result<()> {
    let name = format!("study-{n}");
    house.create(ledger, &Training { name: &name, trials: TRIALS, hidden: 16, epochs: EPOCHS })
}
