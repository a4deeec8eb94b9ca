//! Row 15: backups taken while witnesses write, by the command that people type. The coordinator is killed, the backup
//! restored and checked: what was acknowledged before it was taken is in it. Then the same witnesses go on: what they
//! hold of the state that is gone is refused, and the study comes to its end.

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::audit::audit;
use crate::house::ledger::{Entries, Ledger};
use crate::house::witness::{self, Witness};
use crate::house::{House, block_on};
use crate::options::{Failure, Figure, Options};

const STUDY: &str = "study";
const TRIALS: u64 = 24;
const EPOCHS: u64 = 4;
const WITNESSES: usize = 3;
/// Longer than anything here takes: no lease may run out by itself.
const LEASE: &[(&str, &str)] = &[("--lease", "60s")];

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let tries = options.tries(5, 1000);
    let mut dice = Dice::new(options.seed);
    let mut total = Tally::default();
    for n in 1..=tries {
        let one = block_on(once(&mut dice)).and_then(|done| done);
        let one = one.with_context(|| format!("backup {n} of {tries}"))?;
        total.add(&one);
    }
    let text = format!(
        "0 lost, {tries} backups under writes ({} acknowledged while they were taken), each restored, checked and run to \
         completion; {} writes of before were refused",
        total.meanwhile, total.refused
    );
    Ok(Figure::zero_in(tries, text))
}

#[derive(Debug, Default)]
struct Tally {
    /// Acknowledgements while the backup was taken.
    meanwhile: usize,
    refused: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.meanwhile += other.meanwhile;
        self.refused += other.refused;
    }
}

async fn once(dice: &mut Dice) -> Result<Tally> {
    let mut house = House::new(dice, LEASE)?;
    let mut coordinator = house.coordinator().await?;
    let client = witness::client(&house.url())?;
    let ledger = Ledger::default();
    witness::create(&client, &ledger, STUDY, TRIALS, EPOCHS).await?;
    let (stop, stopped) = watch::channel(false);
    let mut witnesses = tokio::task::JoinSet::new();
    for n in 0..WITNESSES {
        let witness = Witness::new(&format!("witness-{n}"), &house.url(), &ledger, dice.fork())?;
        witness.register().await?;
        witnesses.spawn(witness.serve(stopped.clone()));
    }
    tokio::time::sleep(dice.millis(20..250)).await;

    let before = acknowledged(&ledger);
    let (backup, restored) = (house.path("backup"), house.path("restored"));
    let (backup, restored) = (backup.to_string_lossy().into_owned(), restored.to_string_lossy().into_owned());
    tokio::task::block_in_place(|| house.run(&["coordinator", "backup", &backup, "--json"]))?;
    let meanwhile = ledger.open().len() - before.open().len();
    tokio::time::sleep(dice.millis(0..100)).await;
    coordinator.kill()?;

    tokio::task::block_in_place(|| {
        house.run(&["coordinator", "restore", &backup, "--data-dir", &restored, "--json"])?;
        house.run(&["doctor", "--data-dir", &restored, "--json"])
    })?;
    house.data = restored.into();
    let coordinator = house.coordinator().await?;
    let study = witness::completed(&client, STUDY).await?;
    stop.send_replace(true);
    while let Some(ended) = witnesses.join_next().await {
        ended??;
    }
    let coverage = study.coverage.context("no coverage")?;
    ensure!(
        (coverage.complete, coverage.duplicates, coverage.lost) == (TRIALS, 0, 0),
        "the restored study came to {coverage:?}"
    );
    coordinator.leave().await?;
    audit(&house.data, &before).await.context("what was acknowledged before the backup")?;
    tokio::task::block_in_place(|| house.run(&["doctor", "--data-dir", &house.data.to_string_lossy()]))?;
    let entries = ledger.open();
    ensure!(entries.complaints.is_empty(), "refusals that must not be:\n{}", entries.complaints.join("\n"));
    Ok(Tally { meanwhile, refused: entries.refused })
}

/// What has been acknowledged by now, in a ledger of its own.
fn acknowledged(ledger: &Ledger) -> Ledger {
    let (now, copy) = (ledger.open(), Ledger::default());
    *copy.open() = Entries {
        studies: now.studies.clone(),
        leases: now.leases.clone(),
        measurements: now.measurements.clone(),
        checkpoints: now.checkpoints.clone(),
        complete: now.complete.clone(),
        ..Entries::default()
    };
    drop(now);
    copy
}
