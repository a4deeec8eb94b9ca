//! What is on a disk and what would be left of it after a power cut: bytes of files and names in folders, each as
//! written and as synced. Nothing of what is not synced is sure to survive, and nothing is sure not to.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::dice::Dice;

/// What a disk writes at once or not at all.
const SECTOR_BYTES: u64 = 512;

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    File(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
}

/// A file's bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inode {
    pub(crate) now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
    /// It is a file of the real file system too.
    pub(crate) real: bool,
}

/// Files and folders, by path.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: BTreeMap<PathBuf, Node>,
    synced: BTreeMap<PathBuf, Node>,
    since: Vec<(PathBuf, Option<Node>)>,
    pub(crate) files: HashMap<u64, Inode>,
    next: u64,
}

/// What a power cut does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All of it is gone.
    Nothing,
    /// All of it had got there.
    Everything,
    /// The first so many changes had got there, and the next one in part.
    Prefix,
    /// Any of it, in any sectors.
    Some,
}

impl Cut {
    pub(crate) fn draw(rng: &mut Dice) -> Self {
        match rng.below(6) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Prefix,
            _ => Self::Some,
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, new: &[u8]) {
    let start = usize::try_from(at).expect("a file in memory");
    let end = start + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(new);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes: new } => put(bytes, *at, new),
            Self::SetLen(len) => bytes.resize(usize::try_from(*len).expect("a file in memory"), 0),
        }
    }

    /// Some sectors of a write.
    fn tear(&self, bytes: &mut Vec<u8>, rng: &mut Dice) {
        let Self::Write { at, bytes: new } = self else { return };
        let mut from = 0;
        while from < new.len() {
            let place = at + u64::try_from(from).expect("a small write");
            let room = usize::try_from(SECTOR_BYTES - place % SECTOR_BYTES).expect("a sector");
            let to = new.len().min(from + room);
            if rng.one_in(2) {
                put(bytes, place, &new[from..to]);
            }
            from = to;
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.since.push(change);
    }

    /// What an earlier sync has failed to write stays lost: the system knows it no more.
    fn sync(&mut self) {
        for change in self.since.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    /// The system has given up on these pages: what is not on the disk now is never going to be, though it can
    /// still be read.
    fn fail_sync(&mut self, rng: &mut Dice) {
        let cut = Cut::draw(rng);
        self.synced = self.survivor(cut, rng);
        self.since.clear();
    }

    fn survivor(&self, cut: Cut, rng: &mut Dice) -> Vec<u8> {
        let mut left = self.synced.clone();
        let whole = match cut {
            Cut::Nothing => 0,
            Cut::Everything => self.since.len(),
            Cut::Prefix => rng.index(self.since.len() + 1),
            Cut::Some => {
                for change in &self.since {
                    match rng.below(4) {
                        0 => {}
                        1 => change.tear(&mut left, rng),
                        _ => change.apply(&mut left),
                    }
                }
                return left;
            }
        };
        self.since.iter().take(whole).for_each(|change| change.apply(&mut left));
        if let (Cut::Prefix, Some(torn)) = (cut, self.since.get(whole)) {
            torn.tear(&mut left, rng);
        }
        left
    }
}

impl Model {
    pub(crate) fn file(&self, path: &Path) -> Option<u64> {
        match self.now.get(path) {
            Some(Node::File(id)) => Some(*id),
            _ => None,
        }
    }

    fn name(&mut self, path: &Path, node: Option<Node>) {
        match node {
            Some(node) => drop(self.now.insert(path.to_owned(), node)),
            None => drop(self.now.remove(path)),
        }
        self.since.push((path.to_owned(), node));
    }

    pub(crate) fn create(&mut self, path: &Path, real: bool) -> u64 {
        self.next += 1;
        let id = self.next;
        self.files.insert(id, Inode { real, ..Inode::default() });
        self.name(path, Some(Node::File(id)));
        id
    }

    pub(crate) fn create_dir(&mut self, path: &Path) {
        self.name(path, Some(Node::Dir));
    }

    pub(crate) fn remove(&mut self, path: &Path) {
        self.name(path, None);
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
        if let Some(node) = self.now.get(from).copied() {
            self.name(to, Some(node));
            self.name(from, None);
        }
    }

    pub(crate) fn write(&mut self, id: u64, at: u64, bytes: &[u8]) {
        if let Some(file) = self.files.get_mut(&id) {
            file.change(Change::Write { at, bytes: bytes.to_vec() });
        }
    }

    pub(crate) fn set_len(&mut self, id: u64, len: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.change(Change::SetLen(len));
        }
    }

    pub(crate) fn sync(&mut self, id: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.sync();
        }
    }

    pub(crate) fn fail_sync(&mut self, id: u64, rng: &mut Dice) {
        if let Some(file) = self.files.get_mut(&id) {
            file.fail_sync(rng);
        }
    }

    pub(crate) fn sync_dir(&mut self, dir: &Path) {
        for (path, node) in self.since.extract_if(.., |(path, _)| path.parent() == Some(dir)) {
            match node {
                Some(node) => drop(self.synced.insert(path, node)),
                None => drop(self.synced.remove(&path)),
            }
        }
    }

    /// What a power cut leaves of the files below `root`.
    pub(crate) fn cut(&self, root: &Path, rng: &mut Dice) -> Self {
        let cut = Cut::draw(rng);
        let mut names = self.synced.clone();
        let kept = match cut {
            Cut::Nothing => 0,
            Cut::Everything | Cut::Some => self.since.len(),
            Cut::Prefix => rng.index(self.since.len() + 1),
        };
        for (path, node) in self.since.iter().take(kept) {
            if cut == Cut::Some && rng.one_in(2) {
                continue;
            }
            match node {
                Some(node) => drop(names.insert(path.clone(), *node)),
                None => drop(names.remove(path)),
            }
        }
        let reachable = |path: &Path| {
            path.ancestors().skip(1).take_while(|p| *p != root).all(|p| names.get(p) == Some(&Node::Dir))
        };
        let names: BTreeMap<PathBuf, Node> =
            names.iter().filter(|(path, _)| reachable(path)).map(|(p, n)| (p.clone(), *n)).collect();
        let left = names.values().filter_map(|node| match node {
            Node::File(id) => Some(*id),
            Node::Dir => None,
        });
        let mut files = HashMap::new();
        for id in left {
            let Some(old) = self.files.get(&id) else { continue };
            let bytes = old.survivor(cut, rng);
            let new = Inode { now: bytes.clone(), synced: bytes, since: Vec::new(), real: old.real };
            files.insert(id, new);
        }
        Self { now: names.clone(), synced: names, since: Vec::new(), files, next: self.next }
    }
}
