//! Row 9, with a real disk that fills up: typed errors, no false acknowledgement, and on it goes when there is space.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kapell_rpc::{ClientError, Kind, reason, v1};
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::disk::Disk;
use crate::house::ledger::Ledger;
use crate::house::witness::{self, Witness};
use crate::house::{House, PATIENCE, Process, audit, block_on};
use crate::options::{Failure, Figure, Options};

const DISK_MIB: u32 = 256;
const MIN_FREE: u64 = 16 << 20;
const FLAGS: &[(&str, &str)] = &[("--min-free", "16MiB"), ("--lease", "20s"), ("--heartbeat", "100ms")];
const WITNESSES: usize = 3;
/// Epochs of a trial that nobody finishes.
const ENDLESS: u64 = 1_000_000;
/// The coordinator looks at its disk once a second before it leases.
const LOOK: Duration = Duration::from_millis(1200);
/// Writes refused for want of space before the disk is emptied again.
const REFUSED: u64 = 5;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let times = options.tries(5, 300);
    let mut dice = Dice::new(options.seed);
    let home = tempfile::tempdir().context("a folder")?;
    let Some(disk) = Disk::mount(&home.path().join("disk"), DISK_MIB)? else {
        return Ok(Figure::skipped("this user may not mount a small disk"));
    };
    let refused = block_on(fill(&mut dice, times, &disk))??;
    let text = format!(
        "{times} times full to the last byte: {refused} writes refused as disk-full, none acknowledged and lost; \
         leasing stopped below --min-free and said so; everything complete when there was space"
    );
    Ok(Figure::zero_in(times, text))
}

async fn fill(dice: &mut Dice, times: u64, disk: &Disk) -> Result<u64> {
    let mut house = House::new(dice, FLAGS)?;
    house.data = disk.path.join("data");
    let ledger = Ledger::default();
    let mut coordinator = house.coordinator().await?;
    let client = witness::client(&house.url())?;
    let (enough, fed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let (writer, work) = endless(&house, &ledger, dice.fork()).await?;
    let writer = tokio::spawn(write_on(writer, work, stopped.clone()));
    let mut load = tokio::task::JoinSet::new();
    for n in 0..WITNESSES {
        let witness = Witness::new(&format!("w{n}"), &house.url(), &ledger, dice.fork())?;
        load.spawn(witness.serve(stopped.clone()));
    }
    let feeder = tokio::spawn(witness::feed(client.clone(), ledger.clone(), fed));
    for n in 0..times {
        progress(&ledger).await.context("between two fillings")?;
        disk.leave_free(MIN_FREE / 2)?;
        leasing_has_stopped(&client, &house, &ledger, dice).await?;
        let before = ledger.open().full;
        let begun = Instant::now();
        while ledger.open().full < before + REFUSED {
            disk.leave_free(0)?;
            ensure!(begun.elapsed() < PATIENCE, "nothing meets the full disk");
            ensure!(coordinator.lives()?, "the coordinator has ended:\n{}", coordinator.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        a_blob_is_refused(&client).await?;
        if n % 3 == 2 {
            coordinator.kill()?;
            coordinator = started_again(&house, disk).await?;
        } else {
            disk.free()?;
        }
    }
    enough.send_replace(true);
    feeder.await??;
    stop.send_replace(true);
    writer.await??;
    while let Some(ended) = load.join_next().await {
        ended??;
    }
    coordinator.leave().await?;
    audit::audit(&house.data, &ledger).await?;
    let refused = ledger.open().full;
    Ok(refused)
}

/// Something is acknowledged again.
async fn progress(ledger: &Ledger) -> Result<()> {
    let before = ledger.open().len();
    let begun = Instant::now();
    while ledger.open().len() < before + 20 {
        ensure!(begun.elapsed() < PATIENCE, "it does not go on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A worker that asks gets nothing, though there is work, and the coordinator says why.
async fn leasing_has_stopped(
    client: &kapell_rpc::Client,
    house: &House,
    ledger: &Ledger,
    dice: &mut Dice,
) -> Result<()> {
    let info = client.server_info(v1::ServerInfoRequest {}).await?;
    let said = info.warnings.iter().any(|text| text.contains("leasing has stopped"));
    ensure!(said, "no warning of the low disk: {:?}", info.warnings);
    let mut idle = Witness::new("idle", &house.url(), ledger, dice.fork())?;
    idle.register().await?;
    tokio::time::sleep(LOOK).await;
    ensure!(idle.lease(0).await?.is_empty(), "work was leased below --min-free");
    Ok(())
}

async fn a_blob_is_refused(client: &kapell_rpc::Client) -> Result<()> {
    let refused: Result<_, ClientError> = client.upload_bytes(vec![7; 1 << 20]).await;
    let error = refused.err().context("a blob was taken by a full disk")?;
    ensure!(error.has_reason(reason::DISK_FULL), "a full disk is {}: {error}", error.code());
    ensure!(error.kind == Kind::Temporary && error.exit_code() == 75, "a full disk is no bug: {error}");
    Ok(())
}

/// A start on a full disk either works or says so (75); with room it works.
async fn started_again(house: &House, disk: &Disk) -> Result<Process> {
    let mut early = house.spawn_coordinator()?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    if let Some(code) = early.ended()? {
        ensure!(code == 75, "a start on a full disk ends with {code}:\n{}", early.last_words());
    } else {
        early.kill()?;
    }
    disk.free()?;
    house.coordinator().await
}

/// A trial without end, leased before anybody else can have it.
async fn endless(house: &House, ledger: &Ledger, dice: Dice) -> Result<(Witness, v1::Work)> {
    let mut writer = Witness::only_for("writer", &house.url(), ledger, dice, "endless")?;
    witness::create_unlisted(&writer.client, "endless", 1, ENDLESS).await?;
    writer.register().await?;
    let work = writer.lease(1000).await?.pop().context("no endless trial")?;
    Ok((writer, work))
}

/// Reports epoch by epoch, whether blobs are taken or not, until told to stop: the database meets the full disk.
async fn write_on(writer: Witness, work: v1::Work, stop: watch::Receiver<bool>) -> Result<()> {
    let beats = writer.beat();
    let mut epoch = 0;
    while !*stop.borrow() {
        writer.report(&work, epoch + 1, epoch + 20).await?;
        epoch += 20;
    }
    beats.abort();
    let study = || v1::StudyRef { study: "endless".into() };
    witness::insist(|| writer.client.cancel_study(study())).await?;
    Ok(())
}
