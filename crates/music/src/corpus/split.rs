//! Which piece trains, which validates, which tests: whole pieces, 80/10/10, a tune on one side only.
//!
//! Pieces of one tune form a group: by the table of chorales that share a hymn tune or are nearly the same
//! (`data/tune_groups.json`), and, where at least one of two pieces is not in that table, by the similarity of
//! `similarity`. Groups are taken in an order drawn from the seed. A group goes to the part that is emptiest
//! relative to its size among those with room; a group above an eighth of a held-out part (and above one
//! piece) trains, so that no single tune rules the held-out loss. A piece whose part is known from before
//! keeps it, and takes those of its group that are new along.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use serde::Deserialize;

use super::similarity::{self, Sketch};
use super::{Corpus, PartOfSplit, Protocol};
use crate::mix::mix_text;

/// The seed of every split that nobody chose another for.
pub const SPLIT_SEED: u64 = 1;
/// A run that more pieces than this share tells nothing of a tune, and comparing them all would take forever.
const COMMON_RUN_MAX: usize = 200;

#[derive(Deserialize)]
struct TuneTable {
    melody_groups: Vec<Vec<String>>,
    near_duplicates: Vec<(String, String, f64)>,
}

/// The table of known tunes: piece id -> number of its group.
fn known_tunes() -> &'static HashMap<String, usize> {
    static TABLE: OnceLock<HashMap<String, usize>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let text = include_str!("../../data/tune_groups.json");
        let table: TuneTable = serde_json::from_str(text).expect("our own embedded table parses");
        let ids: Vec<&String> = table.melody_groups.iter().flatten().collect();
        let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
        let mut forest = Forest::new(ids.len());
        for group in &table.melody_groups {
            for id in group {
                forest.join(places[group[0].as_str()], places[id.as_str()]);
            }
        }
        for (a, b, _) in &table.near_duplicates {
            if let (Some(&a), Some(&b)) = (places.get(a.as_str()), places.get(b.as_str())) {
                forest.join(a, b);
            }
        }
        ids.iter().enumerate().map(|(i, id)| ((*id).clone(), forest.root(i))).collect()
    })
}

/// Gives every piece its part: as the protocol says, keeping what is `known`.
pub fn assign(corpus: &mut Corpus, known: &BTreeMap<String, PartOfSplit>, seed: u64) {
    match corpus.protocol {
        Protocol::Contiguous => assign_contiguous(corpus),
        Protocol::Pieces => assign_by_tune(corpus, known, seed),
    }
}

/// The groups of pieces that belong on one side, as indices; in order of their first piece.
#[must_use]
pub fn groups(corpus: &Corpus) -> Vec<Vec<usize>> {
    let table = known_tunes();
    let mut forest = Forest::new(corpus.pieces.len());
    let mut first_of_tune: HashMap<usize, usize> = HashMap::new();
    for (i, piece) in corpus.pieces.iter().enumerate() {
        if let Some(&tune) = table.get(&piece.id) {
            forest.join(*first_of_tune.entry(tune).or_insert(i), i);
        }
    }
    let in_table: Vec<bool> = corpus.pieces.iter().map(|p| table.contains_key(&p.id)).collect();
    if !in_table.iter().all(|&known| known) {
        join_similar(corpus, &in_table, &mut forest);
    }
    let mut by_root: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..corpus.pieces.len() {
        by_root.entry(forest.root(i)).or_default().push(i);
    }
    let mut groups: Vec<Vec<usize>> = by_root.into_values().collect();
    groups.sort_by_key(|group| group[0]);
    groups
}

fn join_similar(corpus: &Corpus, in_table: &[bool], forest: &mut Forest) {
    let sketches: Vec<Sketch> = corpus.pieces.iter().map(|p| similarity::sketch(corpus, p)).collect();
    let mut pieces_of_run: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, sketch) in sketches.iter().enumerate() {
        for &hash in sketch.hashes() {
            pieces_of_run.entry(hash).or_default().push(i);
        }
    }
    for (i, sketch) in sketches.iter().enumerate() {
        let mut candidates: Vec<usize> = sketch
            .hashes()
            .iter()
            .map(|hash| &pieces_of_run[hash])
            .filter(|pieces| pieces.len() <= COMMON_RUN_MAX)
            .flat_map(|pieces| pieces.iter().copied().filter(|&j| j < i && !(in_table[i] && in_table[j])))
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        for j in candidates {
            if forest.root(i) != forest.root(j) && similarity::similar(sketch, &sketches[j]) {
                forest.join(i, j);
            }
        }
    }
}

fn assign_contiguous(corpus: &mut Corpus) {
    let cut = corpus.contiguous_cut();
    let mut begin = 0;
    for piece in &mut corpus.pieces {
        piece.part = if begin < cut { PartOfSplit::Train } else { PartOfSplit::Val };
        begin += piece.tokens.len();
    }
}

fn assign_by_tune(corpus: &mut Corpus, known: &BTreeMap<String, PartOfSplit>, seed: u64) {
    let mut rooms = Rooms::new(corpus.pieces.len());
    let mut open = Vec::new();
    for group in groups(corpus) {
        match part_from_before(corpus, &group, known) {
            Some(part) => {
                for &i in &group {
                    let part = known.get(&corpus.pieces[i].id).copied().unwrap_or(part);
                    corpus.pieces[i].part = part;
                    rooms.fill(part, 1);
                }
            }
            None => open.push(group),
        }
    }
    open.sort_by_cached_key(|group| {
        let key = group.iter().map(|&i| corpus.pieces[i].id.as_str()).min().unwrap_or_default();
        (mix_text(seed, key), key.to_owned())
    });
    for group in open {
        let part = rooms.choose(group.len());
        rooms.fill(part, group.len());
        for i in group {
            corpus.pieces[i].part = part;
        }
    }
}

/// The part that most of the group's known pieces have; train before val before test where equal.
fn part_from_before(
    corpus: &Corpus,
    group: &[usize],
    known: &BTreeMap<String, PartOfSplit>,
) -> Option<PartOfSplit> {
    let mut votes: BTreeMap<PartOfSplit, usize> = BTreeMap::new();
    for part in group.iter().filter_map(|&i| known.get(&corpus.pieces[i].id)) {
        *votes.entry(*part).or_default() += 1;
    }
    votes.into_iter().max_by_key(|&(part, count)| (count, std::cmp::Reverse(part))).map(|(part, _)| part)
}

/// How many pieces each part is to have and has.
struct Rooms {
    /// (part, wanted, taken)
    parts: [(PartOfSplit, usize, usize); 3],
}

impl Rooms {
    fn new(pieces: usize) -> Self {
        // Rounded; a held-out part has a piece as soon as there are three, validation as soon as there are two.
        let tenth = (pieces + 5) / 10;
        let val = if pieces >= 2 { tenth.max(1) } else { 0 };
        let test = if pieces >= 3 { tenth.max(1) } else { 0 };
        let train = pieces - val - test;
        Self {
            parts: [(PartOfSplit::Train, train, 0), (PartOfSplit::Val, val, 0), (PartOfSplit::Test, test, 0)],
        }
    }

    fn choose(&self, size: usize) -> PartOfSplit {
        let has_room = |&&(part, wanted, taken): &&(PartOfSplit, usize, usize)| {
            taken + size <= wanted && (part == PartOfSplit::Train || size <= (wanted / 8).max(1))
        };
        // taken / wanted, compared crosswise; the first of equals wins.
        let mut best: Option<&(PartOfSplit, usize, usize)> = None;
        for part in self.parts.iter().filter(has_room) {
            if best.is_none_or(|b| part.2 * b.1 < b.2 * part.1) {
                best = Some(part);
            }
        }
        best.map_or(PartOfSplit::Train, |b| b.0)
    }

    fn fill(&mut self, part: PartOfSplit, count: usize) {
        for room in self.parts.iter_mut().filter(|room| room.0 == part) {
            room.2 += count;
        }
    }
}

/// Union-find over piece indices; the root is the smallest index of the tree.
struct Forest {
    parent: Vec<usize>,
}

impl Forest {
    fn new(len: usize) -> Self {
        Self { parent: (0..len).collect() }
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parent[high] = low;
    }
}
