//! Row 10, with real connections: cut, refused, half dead, slow, again and again, each worker's way on its own.

use anyhow::{Result, ensure};
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::proxy::{Proxy, Way};
use crate::house::witness::{self, Witness};
use crate::house::{House, audit, block_on};
use crate::options::{Failure, Figure, Options};

/// Each with a proxy of its own.
const WITNESSES: u64 = 6;
/// Short, so that a partition may outlast a lease.
const LEASE: &[(&str, &str)] = &[("--lease", "600ms")];

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let faults = options.tries(120, 20_000);
    let mut dice = Dice::new(options.seed);
    let (acknowledged, refused) = block_on(partitions(&mut dice, faults))??;
    let text = format!(
        "0 lost, 0 duplicate behind {faults} faults of real connections ({acknowledged} acknowledgements, {refused} \
         stale writes refused)"
    );
    Ok(Figure::zero_in(faults, text))
}

async fn partitions(dice: &mut Dice, faults: u64) -> Result<(usize, u64)> {
    let house = House::new(dice, LEASE)?;
    let ledger = Ledger::default();
    let coordinator = house.coordinator().await?;
    let (enough, fed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let feeder = tokio::spawn(witness::feed(witness::client(&house.url())?, ledger.clone(), fed));
    let (mut load, mut weather) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for n in 0..WITNESSES {
        let proxy = Proxy::start(house.listen()).await?;
        let witness = Witness::new(&format!("w{n}"), &proxy.url(), &ledger, dice.fork())?;
        load.spawn(witness.serve(stopped.clone()));
        let share = faults / WITNESSES + u64::from(n < faults % WITNESSES);
        weather.spawn(rage(proxy, share, dice.fork()));
    }
    let mut proxies = Vec::new();
    while let Some(calm) = weather.join_next().await {
        proxies.push(calm?);
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
    ensure!(entries.len() > 0, "nothing was acknowledged: that proves nothing");
    Ok((entries.len(), entries.refused))
}

/// So many faults of one connection, one after the other. The proxy passes everything afterwards.
async fn rage(proxy: Proxy, faults: u64, mut dice: Dice) -> Proxy {
    for _ in 0..faults {
        tokio::time::sleep(dice.millis(20..250)).await;
        match dice.from(0..10) {
            0..4 => proxy.cut(),
            4 => proxy.cut_after(dice.from(0..4000)),
            5 => {
                proxy.refuse(true);
                tokio::time::sleep(dice.millis(20..300)).await;
                proxy.refuse(false);
            }
            6 => {
                proxy.delay(dice.millis(1..30));
                tokio::time::sleep(dice.millis(50..500)).await;
                proxy.delay(std::time::Duration::ZERO);
            }
            way => {
                // 7: nothing goes up, 8: nothing comes down, 9: neither.
                let ways = [Way::Up, Way::Down]
                    .into_iter()
                    .filter(|one| way == 9 || (way == 7) == (*one == Way::Up));
                let ways: Vec<Way> = ways.collect();
                ways.iter().for_each(|way| proxy.swallow(*way, true));
                // Often for longer than a lease.
                tokio::time::sleep(dice.millis(50..1200)).await;
                ways.iter().for_each(|way| proxy.swallow(*way, false));
            }
        }
    }
    proxy
}
