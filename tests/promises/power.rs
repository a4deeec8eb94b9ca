//! Power loss: a coordinator works on a disk that loses its power at a random operation and keeps, of what was not
//! synced, any part. Started again on what is left, it must be whole and know everything that it acknowledged.
//! Controls: with `synchronous=NORMAL`, and with a disk that forgets to sync folders, it must not.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::dice::Dice;
use crate::disk::{self, Careless, Fate, SimDisk};
use crate::house;
use crate::inside::hand::House;
use crate::inside::work::{Day, Shared};
use crate::options::{Failure, Figure, Options};

/// Power cuts that one disk goes through before an empty one takes its place.
const CUTS_PER_DISK: u64 = 25;
const SHORT_CUTS: u64 = 200;
const LONG_CUTS: u64 = 5000;
/// What the short form may take, if it does not get that far.
const SHORT_MAX: Duration = Duration::from_secs(20);
/// Cuts by which a control must have lost something.
const CONTROL_CUTS: u64 = 200;
/// Operations on the disk that the hands get through in a life, roughly.
const OPS_MAX: u64 = 4000;

/// One disk, and what was acknowledged on it.
struct Life {
    disk: Arc<SimDisk>,
    ledger: Shared,
    rng: Dice,
    dir: tempfile::TempDir,
    cuts: u64,
}

/// What was seen.
#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    /// Of them: while it started.
    starting: u64,
    checked: u64,
}

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let runtime = house::runtime()?;
    runtime.block_on(async {
        let until = (!options.long).then(|| Instant::now() + SHORT_MAX);
        let cuts = options.tries(SHORT_CUTS, LONG_CUTS);
        let tally = crashes(options.seed, cuts, Careless::Not, until).await?;
        let normal = control(options.seed, Careless::Database).await?;
        let folders = control(options.seed, Careless::Folders).await?;
        let text = format!(
            "0 acknowledged lost, every integrity_check clean, in {} power cuts ({} of them while starting, {} \
             facts looked for); controls: synchronous=NORMAL lost by cut {normal}, unsynced folders by cut {folders}",
            tally.cuts, tally.starting, tally.checked
        );
        Ok(Figure::zero_in(tally.cuts, text))
    })
}

/// The cut by which a careless disk has lost something.
async fn control(seed: u64, careless: Careless) -> Result<u64> {
    let mut tally = Tally::default();
    for disk in 0.. {
        if tally.cuts >= CONTROL_CUTS {
            break;
        }
        match one_disk(seed.wrapping_add(disk), CUTS_PER_DISK, careless, &mut tally, None).await {
            Err(error) if format!("{error:#}").contains("LOST") => return Ok(tally.cuts),
            done => done?,
        }
    }
    bail!(
        "the control has not lost anything in {CONTROL_CUTS} power cuts ({careless:?}): the test has no teeth"
    )
}

async fn crashes(seed: u64, cuts: u64, careless: Careless, until: Option<Instant>) -> Result<Tally> {
    let mut tally = Tally::default();
    for disk in 0.. {
        let left = cuts.saturating_sub(tally.cuts);
        if left == 0 || until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let seed = seed.wrapping_add(disk);
        one_disk(seed, left.min(CUTS_PER_DISK), careless, &mut tally, until)
            .await
            .with_context(|| format!("on the disk of seed {seed}, after {} power cuts in all", tally.cuts))?;
    }
    Ok(tally)
}

async fn one_disk(
    seed: u64,
    cuts: u64,
    careless: Careless,
    tally: &mut Tally,
    until: Option<Instant>,
) -> Result<()> {
    let mut life = Life::new(seed, careless)?;
    while life.cuts < cuts && until.is_none_or(|until| Instant::now() < until) {
        let result = life.until_the_next_cut(tally).await;
        if let Err(error) = result {
            let trace = life.disk.trace();
            return Err(error.context(format!("seed {seed}, power cut {}:\n{trace}", life.cuts)));
        }
    }
    Ok(())
}

impl Life {
    fn new(seed: u64, careless: Careless) -> Result<Self> {
        let dir = disk::folder()?;
        let disk = SimDisk::new(dir.path().canonicalize()?, seed, careless);
        Ok(Self { disk, ledger: Shared::default(), rng: Dice::new(seed), dir, cuts: 0 })
    }

    /// When the power is to fail: often soon, sometimes only when all is done.
    fn draw_fate(&mut self) -> Fate {
        let among = [40, 400, OPS_MAX, OPS_MAX][self.rng.index(4)];
        Fate::PowerCut { at: 1 + self.rng.below(among) }
    }

    /// Starts, looks for what was acknowledged, works, until the power fails; then has it come back.
    async fn until_the_next_cut(&mut self, tally: &mut Tally) -> Result<()> {
        let at_start = self.rng.one_in(4);
        if at_start {
            let fate = Fate::PowerCut { at: 1 + self.rng.below(60) };
            self.disk.fate(Some(fate));
        }
        match House::start(&self.disk).await {
            Ok(house) => {
                let checked = self.check().await;
                if checked.is_ok() {
                    self.work(&house, at_start).await?;
                }
                house.end().await;
                match checked {
                    // What it looks through may go away under it.
                    Err(_) if self.disk.is_off() => {}
                    done => tally.checked += done?,
                }
            }
            Err(_) if self.disk.is_off() => tally.starting += 1,
            Err(error) => bail!("LOST: no start on what is left: {error}"),
        }
        self.cuts += 1;
        tally.cuts += 1;
        self.disk = self.disk.power_on().await.context("power on")?;
        Ok(())
    }

    async fn check(&self) -> Result<u64> {
        let ledger = std::mem::take(&mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
        let found = ledger.check(&self.disk.root.join("data")).await;
        let facts = u64::try_from(ledger.len()).unwrap_or(u64::MAX);
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = ledger;
        found.map(|()| facts)
    }

    async fn work(&mut self, house: &House, has_fate: bool) -> Result<()> {
        if !has_fate {
            let fate = self.draw_fate();
            self.disk.fate(Some(fate));
        }
        let hands = 1 + self.rng.below(3);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..hands {
            let hand = house.hand(&format!("hand-{n}"), format!("{:016x}", self.rng.next()));
            let mut day = Day::new(hand, Arc::clone(&self.ledger), self.rng.next());
            let steps = 1 + u32::try_from(self.rng.below(30))?;
            tasks.spawn(async move { day.run(steps).await });
        }
        while let Some(done) = tasks.join_next().await {
            match done? {
                Err(_) if self.disk.is_off() => {}
                done => done.context("an error while the power was on")?,
            }
        }
        self.disk.switch_off();
        Ok(())
    }
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").field("dir", &self.dir).field("cuts", &self.cuts).finish_non_exhaustive()
    }
}
