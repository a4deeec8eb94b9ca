//! A disk that fails: every operation of a fixed piece of work, from the first start on, finds no space (ENOSPC) or
//! breaks (EIO) in its turn. Whoever asked gets a typed error and no false acknowledgement; with space again, or
//! started again, it goes on to the end, and a power cut after that finds everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kapell_coordinator::StartError;
use kapell_rpc::{REASON_KEY, reason, v1};
use tonic::Status;

use crate::dice::Dice;
use crate::disk::{self, Careless, Fate, Op, SimDisk};
use crate::house;
use crate::inside::hand::{CORPUS, EPOCHS, Hand, House, refused, row};
use crate::inside::ledger::{Fact, Ledger};
use crate::options::{Failure, Figure, Options};

/// Faults that the short form draws of each kind; the long form has every operation fail.
const SHORT_FAULTS: u64 = 120;
/// What the short form may take, if it does not get that far.
const SHORT_MAX: Duration = Duration::from_secs(20);
/// How often a step may be tried again after one fault.
const TRIES_MAX: u32 = 3;

#[derive(Debug, Default)]
struct Tally {
    faults: u64,
    full: u64,
    failed: u64,
    unnoticed: u64,
}

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let runtime = house::runtime()?;
    runtime.block_on(async {
        let ops = Trial::run(options.seed, None, &mut Tally::default()).await.context("without a fault")?;
        let mut tally = Tally::default();
        let mut rng = Dice::new(options.seed);
        let tries = options.tries(SHORT_FAULTS, ops);
        let until = (!options.long).then(|| Instant::now() + SHORT_MAX);
        for n in 0..tries {
            if until.is_some_and(|until| Instant::now() > until) {
                break;
            }
            let at = if tries >= ops { 1 + n % ops } else { 1 + rng.below(ops) };
            for fate in [Fate::Full { at }, Fate::Broken { at }] {
                Trial::run(options.seed, Some(fate), &mut tally).await.with_context(|| format!("{fate:?}"))?;
            }
        }
        let text = format!(
            "{} faults, ENOSPC and EIO, at each or any of {ops} operations: {} answers of a full disk, {} of a failed \
             store, {} without consequence; no false acknowledgement, all went on to the end",
            tally.faults,
            tally.full,
            tally.failed,
            tally.unnoticed
        );
        Ok(Figure::zero_in(tally.faults, text))
    })
}

/// The piece of work, and how far it has got.
struct Trial {
    disk: Arc<SimDisk>,
    house: Option<House>,
    ledger: Ledger,
    held: Vec<v1::Work>,
    _dir: tempfile::TempDir,
}

impl Trial {
    /// Does the work on a disk with this fate, then cuts the power. Gives the operations it took.
    async fn run(seed: u64, fate: Option<Fate>, tally: &mut Tally) -> Result<u64> {
        let dir = disk::folder()?;
        let disk = SimDisk::new(dir.path().canonicalize()?, seed, Careless::Not);
        disk.fate(fate);
        let mut trial = Self { disk, house: None, ledger: Ledger::default(), held: Vec::new(), _dir: dir };
        let result = trial.carry_out(tally).await;
        result.with_context(|| format!("failed: {:?}\n{}", trial.disk.trouble(), trial.disk.trace()))
    }

    async fn carry_out(&mut self, tally: &mut Tally) -> Result<u64> {
        self.start(tally).await?;
        let mut noticed = false;
        for step in 0..STEPS {
            let mut tries = 0;
            while let Err(status) = self.step(step).await {
                noticed = true;
                tries += 1;
                ensure!(tries <= TRIES_MAX, "step {step} does not go on: {status}");
                self.judge(&status, tally).await.with_context(|| format!("step {step}: {status}"))?;
            }
        }
        tally.faults += u64::from(self.disk.trouble().is_some());
        tally.unnoticed += u64::from(self.disk.trouble().is_some() && !noticed);
        let ops = self.disk.ops();
        self.disk.switch_off();
        if let Some(house) = self.house.take() {
            house.end().await;
        }
        self.disk = self.disk.power_on().await?;
        self.house = Some(House::start(&self.disk).await.context("after a power cut at the end")?);
        self.ledger.check(&self.disk.root.join("data")).await.context("after a power cut at the end")?;
        if let Some(house) = self.house.take() {
            house.end().await;
        }
        Ok(ops)
    }

    /// Starts the coordinator; if the fault is met here, a second time.
    async fn start(&mut self, tally: &mut Tally) -> Result<()> {
        let error = match House::start(&self.disk).await {
            Ok(house) => {
                self.house = Some(house);
                return Ok(());
            }
            Err(error) => error,
        };
        let trouble = self.disk.trouble().with_context(|| format!("no start without a fault: {error}"))?;
        match error {
            StartError::DiskFull => tally.full += 1,
            // SQLite says only that it cannot, and not why.
            StartError::Unexpected(_) | StartError::DataDir(_) => tally.failed += 1,
            other => bail!("a start that met {trouble:?} gave: {other}"),
        }
        self.disk.make_room();
        self.house = Some(House::start(&self.disk).await.context("the start after the fault")?);
        Ok(())
    }

    /// Is this the answer that the fault wants? Makes room, or starts again, whichever is called for.
    async fn judge(&mut self, status: &Status, tally: &mut Tally) -> Result<()> {
        let trouble = self.disk.trouble().context("an error without a fault")?;
        let why = status.metadata().get(REASON_KEY).map_or("", |v| v.to_str().unwrap_or_default()).to_owned();
        let mut house = self.house.take().context("no coordinator")?;
        self.disk.make_room();
        match why.as_str() {
            reason::DISK_FULL => {
                tally.full += 1;
                self.house = Some(house);
            }
            reason::STORE_FAILED | reason::SHUTTING_DOWN => {
                tally.failed += 1;
                house.running.wait().await;
                house.end().await;
                self.house =
                    Some(House::start(&self.disk).await.context("the start after the store failed")?);
            }
            // A blob's file, of which nothing was acknowledged.
            reason::INTERNAL if trouble != Op::Sync && trouble != Op::SyncDir => {
                tally.failed += 1;
                self.house = Some(house);
            }
            other => bail!("{trouble:?} failed, and the answer's reason is {other:?}"),
        }
        Ok(())
    }

    fn hand(&self) -> Result<Hand, Status> {
        let house = self.house.as_ref().ok_or_else(|| Status::internal("no coordinator"))?;
        Ok(house.hand("hand", "the only one".into()))
    }

    async fn step(&mut self, step: u32) -> Result<(), Status> {
        let hand = self.hand()?;
        match step {
            0 => {
                hand.register().await?;
                self.ledger.registered("hand", "the only one");
            }
            1 => {
                let digest = hand.upload(CORPUS).await?;
                self.ledger.add(Fact::Blob { digest });
            }
            2 => self.create(&hand, "small", 4).await?,
            3 => {
                self.held = hand.lease("the first", 2).await?;
                for work in &self.held {
                    self.ledger.add(Fact::Leased { trial: work.trial_id, attempt: work.attempt });
                }
            }
            4 => self.report(&hand, 0, 1).await?,
            5 => self.save(&hand, 0, 1).await?,
            6 => self.report(&hand, 0, EPOCHS).await?,
            7 => self.save(&hand, 0, EPOCHS).await?,
            8 => self.finish(&hand, 0, v1::Outcome::Complete, "COMPLETE").await?,
            9 => {
                let done = hand.promote("the promotion", "small").await?;
                let generation = i64::try_from(done.generation).unwrap_or(i64::MAX);
                self.ledger.add(Fact::Alias { model: done.name, generation });
            }
            10 => self.report(&hand, 1, 1).await?,
            11 => self.finish(&hand, 1, v1::Outcome::Failed, "FAILED").await?,
            12 => unless_refused(hand.pause("small").await)?,
            13 => unless_refused(hand.resume("small").await)?,
            14 => self.create(&hand, "large", 300).await?,
            _ => unless_refused(hand.cancel("small").await)?,
        }
        Ok(())
    }

    async fn create(&mut self, hand: &Hand, name: &str, trials: u64) -> Result<(), Status> {
        hand.create(name, trials).await?;
        let trials = i64::try_from(trials).unwrap_or(i64::MAX);
        self.ledger.add(Fact::Study { name: name.to_owned(), trials });
        Ok(())
    }

    async fn report(&mut self, hand: &Hand, i: usize, to: u32) -> Result<(), Status> {
        let work = &self.held[i];
        let rows: Vec<v1::Measurement> = (1..=to).map(|epoch| row(epoch, 1.0 / f64::from(epoch))).collect();
        hand.report(work, &rows).await?;
        for m in rows {
            let (trial, attempt) = (work.trial_id, work.attempt);
            self.ledger.add(Fact::Measured { trial, attempt, epoch: m.epoch, val_loss: m.val_loss });
        }
        Ok(())
    }

    async fn save(&mut self, hand: &Hand, i: usize, epoch: u32) -> Result<(), Status> {
        let work = &self.held[i];
        let (checkpoint, digests) = hand.checkpoint(epoch, &format!("{i} {epoch}")).await?;
        digests.into_iter().for_each(|digest| self.ledger.add(Fact::Blob { digest }));
        hand.record(work, Some(checkpoint.clone()), Some(checkpoint)).await?;
        self.ledger.add(Fact::Checkpoint { trial: work.trial_id, epoch });
        Ok(())
    }

    async fn finish(
        &mut self,
        hand: &Hand,
        i: usize,
        outcome: v1::Outcome,
        name: &'static str,
    ) -> Result<(), Status> {
        let work = &self.held[i];
        hand.finish(work, outcome).await?;
        self.ledger.add(Fact::Ended { trial: work.trial_id, attempt: work.attempt, outcome: name });
        Ok(())
    }
}

const STEPS: u32 = 16;

/// What was done before an error came in between is refused the second time.
fn unless_refused<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Err(status) if !refused(&status) => Err(status),
        _ => Ok(()),
    }
}
