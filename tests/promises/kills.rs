//! Row 1: the coordinator is killed again and again under load, and everything that it acknowledged is there.

use anyhow::Result;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::witness::{self, Witness};
use crate::house::{House, audit, block_on};
use crate::options::{Failure, Figure, Options};

const WITNESSES: usize = 12;
/// Kills of one data folder, so that its audit stays short.
const KILLS_A_FOLDER: u64 = 500;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let kills = options.tries(50, 10_000);
    let mut dice = Dice::new(options.seed);
    let (mut done, mut acknowledged) = (0, 0);
    while done < kills {
        let now = KILLS_A_FOLDER.min(kills - done);
        acknowledged += block_on(folder(&mut dice, now))??;
        done += now;
    }
    let text = format!("0 lost, 0 duplicate in {kills} kills under load ({acknowledged} acknowledgements)");
    Ok(Figure::zero_in(kills, text))
}

/// So many kills on one data folder, and its audit. Gives the acknowledgements.
async fn folder(dice: &mut Dice, kills: u64) -> Result<usize> {
    let house = House::new(dice, &[])?;
    let ledger = Ledger::default();
    let (enough, fed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let mut coordinator = house.coordinator().await?;
    let mut load = tokio::task::JoinSet::new();
    for n in 0..WITNESSES {
        let witness = Witness::new(&format!("w{n}"), &house.url(), &ledger, dice.fork())?;
        load.spawn(witness.serve(stopped.clone()));
    }
    let feeder = tokio::spawn(witness::feed(witness::client(&house.url())?, ledger.clone(), fed));
    for _ in 0..kills {
        tokio::time::sleep(dice.millis(20..350)).await;
        coordinator.kill()?;
        if dice.one_in(8) {
            // Killed while it starts.
            let mut early = house.spawn_coordinator()?;
            tokio::time::sleep(dice.millis(0..25)).await;
            early.kill()?;
        }
        coordinator = house.coordinator().await?;
    }
    enough.send_replace(true);
    feeder.await??;
    stop.send_replace(true);
    while let Some(ended) = load.join_next().await {
        ended??;
    }
    coordinator.leave().await?;
    audit::audit(&house.data, &ledger).await?;
    let entries = ledger.open();
    anyhow::ensure!(entries.len() > 0, "nothing was acknowledged: that proves nothing");
    Ok(entries.len())
}
