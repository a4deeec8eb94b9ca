//! A disk that loses its power, is full, or fails, at a chosen operation: below SQLite (see [`vfs`]) and below the
//! blobs of a coordinator in this process. SQLite's files live in memory; the others also are real files, since
//! they are read as such.

mod handle;
pub(crate) mod locks;
pub(crate) mod model;
pub(crate) mod vfs;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kapell_coordinator::{Disk, RealDisk};

use crate::dice::Dice;
use locks::FileLocks;
use model::{Model, Node};

/// A connection closes in far less.
const LET_GO_MAX: Duration = Duration::from_secs(30);

/// Operations that a report of a failure shows.
const TRACE_MAX: usize = 40;

/// What a disk does not do, though it was told to. Controls of the tests: with these, something must be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Careless {
    Not,
    /// Databases are opened with `synchronous=NORMAL`, whatever the program says.
    Database,
    /// Folders of files other than the database's are not synced.
    Folders,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Power fails with this operation, counted from 1: it may be done in part, and none after it is.
    PowerCut { at: u64 },
    /// This operation fails, and no other (EIO).
    Broken { at: u64 },
    /// This operation finds no space, and so does every write after it until there is some (ENOSPC).
    Full { at: u64 },
}

/// An operation that changes the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Write,
    SetLen,
    Sync,
    SyncDir,
    Rename,
    Remove,
    CreateDir,
}

impl Op {
    fn takes_space(self) -> bool {
        matches!(self, Self::Open | Self::Write | Self::CreateDir)
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Io,
    Full,
}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        // EIO and ENOSPC of Linux.
        Self::from_raw_os_error(if trouble == Trouble::Io { 5 } else { 28 })
    }
}

/// How an operation is to be done.
enum Verdict {
    Do,
    /// It reaches the disk's cache, and then the power is gone.
    LastBreath,
}

#[derive(Debug)]
struct State {
    model: Model,
    rng: Dice,
    fate: Option<Fate>,
    ops: u64,
    off: bool,
    full: bool,
    trouble: Option<Op>,
    trace: VecDeque<String>,
    /// Real files by their number in the file system.
    inodes: HashMap<u64, u64>,
}

/// One disk between two power cuts. What was opened on it stays with it.
#[derive(Debug)]
pub(crate) struct SimDisk {
    /// The folder that stands for the whole disk.
    pub(crate) root: PathBuf,
    pub(crate) careless: Careless,
    state: Mutex<State>,
    locks: Mutex<HashMap<u64, FileLocks>>,
    /// Files that SQLite has open.
    open: AtomicUsize,
}

impl State {
    /// Counts an operation, and has its fate come true.
    fn op(&mut self, op: Op, path: &Path, at: u64, bytes: usize) -> Result<Verdict, Trouble> {
        if self.off {
            return Err(Trouble::Io);
        }
        if self.full && op.takes_space() {
            return Err(Trouble::Full);
        }
        // Folders are made by hundreds at a start, and no file depends on one that is not synced.
        if op == Op::CreateDir {
            return Ok(Verdict::Do);
        }
        self.ops += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.trace.push_back(format!("{:>6} {op:?} {name} {at}+{bytes}", self.ops));
        if self.trace.len() > TRACE_MAX {
            self.trace.pop_front();
        }
        match self.fate {
            Some(Fate::PowerCut { at }) if at == self.ops => {
                self.off = true;
                Ok(Verdict::LastBreath)
            }
            Some(Fate::Broken { at }) if at == self.ops => {
                self.trouble = Some(op);
                Err(Trouble::Io)
            }
            Some(Fate::Full { at }) if at <= self.ops && self.trouble.is_none() => {
                (self.trouble, self.full) = (Some(op), true);
                Err(Trouble::Full)
            }
            _ => Ok(Verdict::Do),
        }
    }
}

/// What an operation gives that was the last one.
fn end<T>(verdict: &Verdict, value: T) -> Result<T, Trouble> {
    match verdict {
        Verdict::Do => Ok(value),
        Verdict::LastBreath => Err(Trouble::Io),
    }
}

impl SimDisk {
    /// An empty disk in an existing folder.
    pub(crate) fn new(root: PathBuf, seed: u64, careless: Careless) -> Arc<Self> {
        Self::with(root, Model::default(), Dice::new(seed), careless)
    }

    fn with(root: PathBuf, model: Model, rng: Dice, careless: Careless) -> Arc<Self> {
        let state = State {
            model,
            rng,
            fate: None,
            ops: 0,
            off: false,
            full: false,
            trouble: None,
            trace: VecDeque::new(),
            inodes: HashMap::new(),
        };
        let disk = Arc::new(Self {
            root,
            careless,
            state: Mutex::new(state),
            locks: Mutex::default(),
            open: AtomicUsize::default(),
        });
        vfs::mount(&disk);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locks(&self, id: u64, f: impl FnOnce(&mut FileLocks) -> bool) -> bool {
        f(self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default())
    }

    /// What is to go wrong, counted from here on.
    pub(crate) fn fate(&self, fate: Option<Fate>) {
        let mut state = self.state();
        (state.ops, state.fate, state.trouble, state.full) = (0, fate, None, false);
    }

    /// Makes room on a full disk.
    pub(crate) fn make_room(&self) {
        self.state().full = false;
    }

    /// Operations since the fate was set.
    pub(crate) fn ops(&self) -> u64 {
        self.state().ops
    }

    /// The operation that failed.
    pub(crate) fn trouble(&self) -> Option<Op> {
        self.state().trouble
    }

    /// The last operations, a line each.
    pub(crate) fn trace(&self) -> String {
        self.state().trace.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    /// Power fails now, if it has not yet.
    pub(crate) fn switch_off(&self) {
        self.state().off = true;
    }

    /// Waits until SQLite has let go of all its files here. A connection that is dropped closes on a thread of its own,
    /// and may delete its WAL by its path as it does: on the next disk, if that is there by then. (What a process leaves
    /// open as it dies is not closed like that.)
    async fn let_go(&self) -> io::Result<()> {
        let begun = Instant::now();
        while self.open.load(Ordering::Acquire) > 0 {
            if begun.elapsed() > LET_GO_MAX {
                return Err(io::Error::other("SQLite does not let go of its files"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The disk when the power is back. The one that was is dead for good.
    pub(crate) async fn power_on(&self) -> io::Result<Arc<Self>> {
        self.switch_off();
        self.let_go().await?;
        let mut state = self.state();
        let State { model, rng, .. } = &mut *state;
        let left = model.cut(&self.root, rng);
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        for (path, node) in &left.now {
            match node {
                Node::Dir => std::fs::create_dir(path)?,
                Node::File(id) => {
                    if let Some(file) = left.files.get(id).filter(|f| f.real) {
                        std::fs::write(path, &file.now)?;
                    }
                }
            }
        }
        let rng = Dice::new(rng.next());
        drop(state);
        Ok(Self::with(self.root.clone(), left, rng, self.careless))
    }

    /// The number of a real file in the model.
    fn inode(state: &State, file: &File) -> io::Result<u64> {
        let number = file.metadata()?.ino();
        state.inodes.get(&number).copied().ok_or_else(|| io::Error::other("a file that was not opened here"))
    }
}

/// A folder for a disk: in memory, where the machine has such.
pub(crate) fn folder() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<File> {
        let mut state = self.state();
        if state.model.file(path).is_none() {
            let verdict = state.op(Op::Open, path, 0, 0)?;
            state.model.create(path, true);
            end(&verdict, ())?;
        }
        let file = RealDisk.open(path)?;
        if let Some(id) = state.model.file(path) {
            state.inodes.insert(file.metadata()?.ino(), id);
        }
        Ok(file)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let (id, at) = (Self::inode(&state, file)?, file.stream_position()?);
        let verdict = state.op(Op::Write, Path::new("a blob"), at, bytes.len())?;
        state.model.write(id, at, bytes);
        RealDisk.write(file, bytes)?;
        Ok(end(&verdict, ())?)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        let id = Self::inode(&state, file)?;
        let verdict = state.op(Op::SetLen, Path::new("a blob"), bytes, 0)?;
        state.model.set_len(id, bytes);
        RealDisk.set_len(file, bytes)?;
        Ok(end(&verdict, ())?)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state();
        let id = Self::inode(&state, file)?;
        match state.op(Op::Sync, Path::new("a blob"), 0, 0) {
            Ok(Verdict::Do) => state.model.sync(id),
            Ok(Verdict::LastBreath) => return Err(Trouble::Io.into()),
            Err(trouble) => {
                state.fail_sync(id);
                return Err(trouble.into());
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if matches!(state.op(Op::SyncDir, dir, 0, 0)?, Verdict::LastBreath) {
            return Err(Trouble::Io.into());
        }
        if self.careless != Careless::Folders {
            state.model.sync_dir(dir);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let verdict = state.op(Op::Rename, to, 0, 0)?;
        state.model.rename(from, to);
        RealDisk.rename(from, to)?;
        Ok(end(&verdict, ())?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let verdict = state.op(Op::Remove, path, 0, 0)?;
        RealDisk.remove(path)?;
        state.model.remove(path);
        Ok(end(&verdict, ())?)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.op(Op::CreateDir, path, 0, 0)?;
        RealDisk.create_dir(path)?;
        state.model.create_dir(path);
        Ok(())
    }
}

impl State {
    fn fail_sync(&mut self, id: u64) {
        let Self { model, rng, off, .. } = self;
        if !*off {
            model.fail_sync(id, rng);
        }
    }
}
