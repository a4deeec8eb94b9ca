//! Row 2: what the processes really ask of the disk. A file's bytes are synced before it gets its name, and a folder
//! after it got one: the simulated disk of `power` cannot see whether the system is asked at all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::{House, Training, audit, block_on, preloaded, witness};
use crate::options::{Failure, Figure, Options};

/// The preloaded library: the source is in `house`.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promises/house/syncs.c");
/// What a checkpoint is called while its files are written.
const WRITING: &str = ".writing-";

/// What a process has done, in order.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Synced(PathBuf),
    Renamed(PathBuf, PathBuf),
    Created(PathBuf),
}

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let built = tempfile::tempdir().context("a folder")?;
    let Some(shim) = preloaded(built.path(), Path::new(SHIM))? else {
        return Ok(Figure::skipped("there is no C compiler to build the witness with"));
    };
    let (renamed, created, syncs) = block_on(watch(&mut Dice::new(options.seed), &shim))??;
    Ok(Figure::plain(format!(
        "{renamed} files and folders renamed into place and {created} folders created, all of them synced ({syncs} \
         syncs)"
    )))
}

async fn watch(dice: &mut Dice, shim: &Path) -> Result<(usize, usize, usize)> {
    let mut house = House::new(dice, &[])?;
    let (ledger, log) = (Ledger::default(), house.path("syncs"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    house.environment = vec![("LD_PRELOAD".into(), text(shim)), ("PROMISES_SYNCS".into(), text(&log))];
    let coordinator = house.coordinator().await?;
    let worker = house.worker("worker", &house.url(), &[])?;
    house.create(&ledger, &Training { name: "trained", trials: 3, hidden: 8, epochs: 3 })?;
    witness::completed(&witness::client(&house.url())?, "trained").await?;
    let (backup, restored) = (house.path("backup"), house.path("restored"));
    tokio::task::block_in_place(|| house.run(&["coordinator", "backup", &text(&backup)]))?;
    tokio::task::block_in_place(|| {
        house.run(&["coordinator", "restore", &text(&backup), "--data-dir", &text(&restored)])
    })?;
    worker.leave().await?;
    coordinator.leave().await?;
    audit::audit(&house.data, &ledger).await?;
    let done = read(&log)?;
    let (cache, owned) = (house.cache("worker"), [house.data.clone(), backup.clone(), restored.clone()]);
    let counts = |path: &Path| owned.iter().any(|root| path.starts_with(root));
    let (mut renamed, mut created) = (0, 0);
    let (mut of_blobs, mut of_checkpoints) = (0, 0);
    for (n, what) in done.iter().enumerate() {
        match what {
            Done::Renamed(from, to) => {
                let checkpoint = to.starts_with(&cache) && text(from).contains(WRITING);
                if counts(to) || checkpoint {
                    renamed += 1;
                    of_blobs += usize::from(to.starts_with(house.data.join("blobs")));
                    of_checkpoints += usize::from(checkpoint);
                    ensure!(
                        is_synced(&done[..n], from),
                        "{} was not synced before it was renamed",
                        text(from)
                    );
                    named(&done[n..], to)?;
                }
            }
            // What was only made for a while needs no name.
            Done::Created(folder) if counts(folder) && folder.exists() => {
                created += 1;
                named(&done[n..], folder)?;
            }
            _ => {}
        }
    }
    ensure!(
        of_blobs > 0 && of_checkpoints > 0,
        "{of_blobs} blobs, {of_checkpoints} checkpoints: that proves nothing"
    );
    let syncs = done.iter().filter(|done| matches!(done, Done::Synced(_))).count();
    Ok((renamed, created, syncs))
}

fn read(log: &Path) -> Result<Vec<Done>> {
    let text = std::fs::read_to_string(log).context("nothing was noted")?;
    text.lines()
        .map(|line| {
            let (kind, rest) = line.split_once(' ').context("a line without a kind")?;
            Ok(match (kind, rest.split_once('\t')) {
                ("R", Some((from, to))) => Done::Renamed(from.into(), to.into()),
                ("S", None) => Done::Synced(rest.into()),
                _ => Done::Created(rest.into()),
            })
        })
        .collect()
}

/// Was this file or folder synced?
fn is_synced(before: &[Done], path: &Path) -> bool {
    before.iter().any(|done| matches!(done, Done::Synced(synced) if synced == path))
}

/// The folder of a new name is synced after it got it, or is itself renamed as a whole later.
fn named(after: &[Done], path: &Path) -> Result<()> {
    let folder = path.parent().context("a name without a folder")?;
    ensure!(is_synced(after, folder), "{} was not synced after it got {}", folder.display(), path.display());
    Ok(())
}
