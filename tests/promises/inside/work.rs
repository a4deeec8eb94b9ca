//! What a hand does all day, drawn from a seed: studies, leases, measurements, checkpoints, promotions. Every
//! acknowledgement goes into the ledger.

use std::sync::{Arc, Mutex, PoisonError};

use kapell_rpc::v1;
use tonic::Status;

use super::hand::{CORPUS, EPOCHS, Hand, refused, row, start_epoch};
use super::ledger::{Fact, Ledger};
use crate::dice::Dice;

/// A ledger that several hands write.
pub(crate) type Shared = Arc<Mutex<Ledger>>;

struct Held {
    work: v1::Work,
    measured: u32,
    saved: u32,
}

/// A hand at work.
pub(crate) struct Day {
    hand: Hand,
    ledger: Shared,
    rng: Dice,
    /// Makes names that nobody else gives.
    tag: String,
    count: u32,
    studies: Vec<String>,
    held: Vec<Held>,
}

impl Day {
    pub(crate) fn new(hand: Hand, ledger: Shared, seed: u64) -> Self {
        let tag = format!("{}-{seed:016x}", hand.name);
        Self { hand, ledger, rng: Dice::new(seed), tag, count: 0, studies: Vec::new(), held: Vec::new() }
    }

    fn note(&self, fact: Fact) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).add(fact);
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}-{}", self.tag, self.count)
    }

    /// Registers, then does so many things. Gives the error that is no refusal, if there was one.
    pub(crate) async fn run(&mut self, steps: u32) -> Result<(), Status> {
        self.register().await?;
        self.upload(CORPUS).await?;
        for _ in 0..steps {
            match self.step().await {
                Err(status) if !refused(&status) => return Err(status),
                // What it held may be gone: a new incarnation of its name, a canceled study.
                Err(_) => self.held.clear(),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn register(&self) -> Result<(), Status> {
        let (name, incarnation) = (&self.hand.name, &self.hand.incarnation);
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).registering(name, incarnation);
        self.hand.register().await?;
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).registered(name, incarnation);
        Ok(())
    }

    async fn upload(&self, bytes: &[u8]) -> Result<(), Status> {
        let digest = self.hand.upload(bytes).await?;
        self.note(Fact::Blob { digest });
        Ok(())
    }

    async fn step(&mut self) -> Result<(), Status> {
        if self.studies.is_empty() {
            return self.create().await;
        }
        match self.rng.below(20) {
            0 => self.create().await,
            1..=4 => self.lease().await,
            5..=10 => self.report().await,
            11..=13 => self.save().await,
            14..=16 => self.finish().await,
            17 => self.order().await,
            18 => self.promote().await,
            _ => {
                let text = self.name();
                self.upload(text.repeat(50).as_bytes()).await
            }
        }
    }

    async fn create(&mut self) -> Result<(), Status> {
        let name = self.name();
        let trials = if self.rng.one_in(8) { 200 } else { 1 + self.rng.below(5) };
        self.hand.create(&name, trials).await?;
        self.note(Fact::Study { name: name.clone(), trials: i64::try_from(trials).unwrap_or(i64::MAX) });
        self.studies.push(name);
        Ok(())
    }

    async fn lease(&mut self) -> Result<(), Status> {
        let request = self.name();
        let works = self.hand.lease(&request, 2).await?;
        for work in works {
            self.note(Fact::Leased { trial: work.trial_id, attempt: work.attempt });
            let at = start_epoch(&work);
            self.held.push(Held { work, measured: at, saved: at });
        }
        Ok(())
    }

    async fn report(&mut self) -> Result<(), Status> {
        if self.held.is_empty() {
            return self.lease().await;
        }
        let i = self.rng.index(self.held.len());
        let n = 1 + u32::from(self.rng.one_in(3));
        let Held { work, measured, .. } = &self.held[i];
        let rows: Vec<v1::Measurement> = (measured + 1..=(measured + n).min(EPOCHS))
            .map(|epoch| {
                row(epoch, 1.0 + f64::from(u16::try_from(self.rng.below(1000)).unwrap_or(0)) / 1000.0)
            })
            .collect();
        self.hand.report(work, &rows).await?;
        for m in &rows {
            self.note(Fact::Measured {
                trial: work.trial_id,
                attempt: work.attempt,
                epoch: m.epoch,
                val_loss: m.val_loss,
            });
        }
        self.held[i].measured = rows.last().map_or(self.held[i].measured, |m| m.epoch);
        Ok(())
    }

    async fn save(&mut self) -> Result<(), Status> {
        if self.held.is_empty() {
            return self.lease().await;
        }
        let i = self.rng.index(self.held.len());
        let Held { work, measured, .. } = &self.held[i];
        let (epoch, text) = (*measured, format!("{} {} {measured}", work.trial_id, work.attempt));
        let (checkpoint, digests) = self.hand.checkpoint(epoch, &text).await?;
        for digest in digests {
            self.note(Fact::Blob { digest });
        }
        self.hand.record(work, Some(checkpoint.clone()), Some(checkpoint)).await?;
        self.note(Fact::Checkpoint { trial: work.trial_id, epoch });
        self.held[i].saved = epoch;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Status> {
        if self.held.is_empty() {
            return self.lease().await;
        }
        let i = self.rng.index(self.held.len());
        if self.held[i].measured < EPOCHS {
            self.report().await?;
        }
        if self.held[i].measured == EPOCHS && self.held[i].saved < EPOCHS {
            self.save().await?;
        }
        let Held { work, measured, saved } = &self.held[i];
        let (outcome, name) = match (*measured == EPOCHS && *saved == EPOCHS, self.rng.below(4)) {
            (true, _) => (v1::Outcome::Complete, "COMPLETE"),
            (false, 0) => (v1::Outcome::Failed, "FAILED"),
            (false, 1) => (v1::Outcome::Released, "RELEASED"),
            (false, _) => return Ok(()),
        };
        self.hand.finish(work, outcome).await?;
        self.note(Fact::Ended { trial: work.trial_id, attempt: work.attempt, outcome: name });
        self.held.remove(i);
        Ok(())
    }

    async fn order(&mut self) -> Result<(), Status> {
        let study = self.studies[self.rng.index(self.studies.len())].clone();
        match self.rng.below(5) {
            0 => self.hand.cancel(&study).await.map(drop),
            1 | 2 => self.hand.pause(&study).await.map(drop),
            _ => self.hand.resume(&study).await.map(drop),
        }
    }

    async fn promote(&mut self) -> Result<(), Status> {
        let study = self.studies[self.rng.index(self.studies.len())].clone();
        let request = self.name();
        let done = self.hand.promote(&request, &study).await?;
        if done.decision() == v1::promote_response::Decision::Promoted {
            let generation = i64::try_from(done.generation).unwrap_or(i64::MAX);
            self.note(Fact::Alias { model: done.name, generation });
        }
        Ok(())
    }
}
