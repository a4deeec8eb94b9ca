//! Row 11: a large upload through a proxy that cuts it again and again. It goes on where it was cut, in bounded
//! memory, and heartbeats do not notice.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kapell_rpc::digest;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::proxy::Proxy;
use crate::house::witness::{self, Witness};
use crate::house::{House, block_on, forget_peak, memory_kib};
use crate::options::{Failure, Figure, Options};

/// Of the wire format: what may have to be sent again after a cut.
const CHUNK: u64 = 1 << 20;
const MEMORY_KIB_MAX: u64 = 64 * 1024;
const LEASE: &[(&str, &str)] = &[("--lease", "5s"), ("--heartbeat", "100ms")];
const BEAT_MAX: Duration = Duration::from_secs(2);

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let cuts = options.tries(50, 1000);
    let bytes = if options.long { 2 << 30 } else { 64 << 20 };
    let mut dice = Dice::new(options.seed);
    Ok(block_on(upload(&mut dice, cuts, bytes))??)
}

async fn upload(dice: &mut Dice, cuts: u64, bytes: u64) -> Result<Figure> {
    let house = House::new(dice, LEASE)?;
    let coordinator = house.coordinator().await?;
    let proxy = Proxy::start(house.listen()).await?;
    let client = witness::client(&proxy.url())?.with_patience(Duration::from_secs(20));
    let path = house.path("large");
    write(&path, bytes, dice)?;
    let worker = Witness::new("worker", &proxy.url(), &Ledger::default(), dice.fork())?;
    worker.register().await?;
    let beats = worker.beat();
    let (there, here) = (coordinator.forget_peak()?, forget_peak("self")?);
    let (up, begun) = (proxy.up(), Instant::now());
    let sending = tokio::spawn({
        let (client, path) = (client.clone(), path.clone());
        async move { client.upload_file(&path).await }
    });
    cut(&proxy, dice, cuts, bytes, &sending).await;
    let uploaded = sending.await??;
    let took = begun.elapsed();
    beats.abort();
    let slowest = worker.slowest_beat();
    ensure!(proxy.blown() == cuts, "{} cuts of {cuts}: that proves nothing", proxy.blown());
    let again = (proxy.up() - up).saturating_sub(bytes);
    let hex = digest::hex_part(&uploaded.digest).context("a digest")?.split_at(2);
    let (found, length) = digest::of_file(&house.data.join("blobs").join(hex.0).join(hex.1))?;
    ensure!(found == uploaded.digest && length == bytes, "the stored file has other bytes");
    // Frames, calls and beats are on top of the file's own bytes.
    let allowed = cuts * CHUNK + bytes / 50;
    ensure!(again <= allowed, "{again} bytes were sent again in {cuts} cuts: more than a chunk each");
    let grown =
        (coordinator.peak_kib()?.saturating_sub(there), memory_kib("self", "VmHWM:")?.saturating_sub(here));
    ensure!(grown.0 < MEMORY_KIB_MAX && grown.1 < MEMORY_KIB_MAX, "memory grew by {grown:?} KiB");
    ensure!(slowest < BEAT_MAX, "a heartbeat was answered after {slowest:?}");
    coordinator.leave().await?;
    Ok(Figure::zero_in(
        cuts,
        format!(
            "{} MiB cut {cuts} times in {:.1} s: same hash, {} KiB sent again a cut, memory grew by {} MiB there and {} \
             MiB here, slowest heartbeat {} ms",
            bytes >> 20,
            took.as_secs_f64(),
            again / 1024 / cuts.max(1),
            grown.0 / 1024,
            grown.1 / 1024,
            slowest.as_millis()
        ),
    ))
}

/// Cuts so many times, spread over what is left each time.
async fn cut<T>(proxy: &Proxy, dice: &mut Dice, cuts: u64, bytes: u64, sending: &tokio::task::JoinHandle<T>) {
    let mut sent = 0;
    for done in 0..cuts {
        let left = bytes.saturating_sub(sent);
        let stride = (left / (cuts - done + 1)).max(1);
        let next = dice.from(stride / 4..stride + stride / 2);
        proxy.cut_after(next);
        while proxy.blown() == done {
            if sending.is_finished() {
                // How, says whoever waits for it.
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // At most: what the cut has lost comes again, so that something is left for the cuts to come.
        sent += next;
    }
}

/// A file of random bytes.
fn write(path: &Path, bytes: u64, dice: &mut Dice) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..bytes / 8 {
        file.write_all(&dice.next().to_le_bytes())?;
    }
    Ok(file.flush()?)
}
