//! From files to encoded pieces: a folder's scores or texts, an edition's chorales; and what could not be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kapell_music::corpus::text;
use kapell_music::edition::EditionScore;
use kapell_music::encode::{Token, encode_chorale};
use kapell_music::read::{SCORE_BYTES_MAX, read_score};

use super::error::{CorpusError, Unreadable};
use super::progress::{Progress, Unit};

const TEXT_BYTES_MAX: u64 = 64 << 20;
const FILES_MAX: usize = 200_000;
const DEPTH_MAX: usize = 32;

/// What a folder holds.
pub(crate) enum Contents {
    Scores(Vec<(String, Vec<Token>)>),
    Texts(Vec<(String, String)>),
}

/// Encodes an edition's scores, in the order given.
pub(crate) fn encode_edition(scores: &[EditionScore]) -> (Vec<(String, Vec<Token>)>, Vec<Unreadable>) {
    let read = |score: &EditionScore| encode(&score.bytes, &score.file);
    let results = in_parallel("encoding the chorales", scores, read);
    let named = scores.iter().map(|score| (score.id.clone(), score.file.clone()));
    sort_out(named.zip(results))
}

/// Reads a folder: scores if there are any, else texts. Hidden files are passed over, links to folders not
/// followed; everything else that makes no piece is told in the second value.
pub(crate) fn read_folder(dir: &Path) -> Result<(Contents, Vec<Unreadable>), CorpusError> {
    if !dir.is_dir() {
        return Err(CorpusError::NotAFolder { path: dir.to_owned() });
    }
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    walk(dir, dir, 0, &mut files, &mut unreadable)?;
    files.sort();
    let (scores, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| has_extension(file, SCORES));
    let (texts, strangers): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|file| has_extension(file, &["txt"]));
    let tell = |files: Vec<PathBuf>, reason: &str| -> Vec<Unreadable> {
        files.iter().map(|f| Unreadable { file: relative(dir, f), reason: reason.to_owned() }).collect()
    };
    unreadable.extend(tell(strangers, "neither a score (.musicxml, .xml, .mxl) nor a text (.txt)"));
    let contents = if scores.is_empty() {
        let results = in_parallel("reading the texts", &texts, |path| read_text(dir, path));
        let (pieces, failed) = sort_out(names(dir, &texts).zip(results));
        unreadable.extend(failed);
        Contents::Texts(pieces.into_iter().flat_map(|(_, pieces)| pieces).collect())
    } else {
        unreadable.extend(tell(texts, "a text among scores: put texts into a corpus of their own"));
        let results = in_parallel("encoding the scores", &scores, |path| read_score_file(path));
        let (pieces, failed) = sort_out(names(dir, &scores).zip(results));
        unreadable.extend(failed);
        Contents::Scores(pieces)
    };
    unreadable.sort_by(|a, b| a.file.cmp(&b.file));
    Ok((contents, unreadable))
}

const SCORES: &[&str] = &["musicxml", "xml", "mxl"];

fn walk(
    root: &Path,
    dir: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    unreadable: &mut Vec<Unreadable>,
) -> Result<(), CorpusError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if depth == 0 => return Err(CorpusError::io("read", dir)(e)),
        Err(e) => {
            unreadable.push(Unreadable { file: relative(root, dir), reason: e.to_string() });
            return Ok(());
        }
    };
    for entry in entries {
        let entry = entry.map_err(CorpusError::io("read", dir))?;
        let kind = entry.file_type().map_err(CorpusError::io("read", entry.path()))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            if depth < DEPTH_MAX {
                walk(root, &entry.path(), depth + 1, files, unreadable)?;
            }
        } else if entry.path().is_file() && files.len() < FILES_MAX {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension().is_some_and(|e| wanted.iter().any(|w| e.eq_ignore_ascii_case(w)))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// (piece id, file) of each path: the id is the path within the folder, without its extension.
fn names<'a>(dir: &'a Path, paths: &'a [PathBuf]) -> impl Iterator<Item = (String, String)> + 'a {
    paths.iter().map(move |path| (relative(dir, &path.with_extension("")), relative(dir, path)))
}

fn read_score_file(path: &Path) -> Result<Vec<Token>, String> {
    let bytes = read_capped(path, u64::try_from(SCORE_BYTES_MAX).unwrap_or(u64::MAX))?;
    encode(&bytes, &path.file_name().unwrap_or_default().to_string_lossy())
}

fn encode(bytes: &[u8], file: &str) -> Result<Vec<Token>, String> {
    let score = read_score(bytes, file).map_err(|e| {
        // The list of files names it already.
        let text = e.to_string();
        text.strip_prefix(&format!("{file}: ")).map_or(text.clone(), str::to_owned)
    })?;
    encode_chorale(&score).map(|piece| piece.tokens).map_err(|e| e.to_string())
}

fn read_text(dir: &Path, path: &Path) -> Result<Vec<(String, String)>, String> {
    let bytes = read_capped(path, TEXT_BYTES_MAX)?;
    text::pieces(&relative(dir, &path.with_extension("")), &bytes).map_err(|e| e.to_string())
}

/// A whole file, unless it is too large to be what it says it is.
fn read_capped(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > bytes_max {
        return Err(format!("{size} bytes are more than the {bytes_max} that a file may have"));
    }
    fs::read(path).map_err(|e| e.to_string())
}

/// Pieces apart from failures; the second file of one id is a failure too.
fn sort_out<T>(
    results: impl Iterator<Item = ((String, String), Result<T, String>)>,
) -> (Vec<(String, T)>, Vec<Unreadable>) {
    let mut pieces: Vec<(String, T)> = Vec::new();
    let mut taken = std::collections::HashMap::new();
    let mut unreadable = Vec::new();
    for ((id, file), result) in results {
        match result {
            Err(reason) => unreadable.push(Unreadable { file, reason }),
            Ok(piece) => match taken.get(&id) {
                Some(first) => {
                    let reason = format!("{first} has the same name already");
                    unreadable.push(Unreadable { file, reason });
                }
                None => {
                    taken.insert(id.clone(), file);
                    pieces.push((id, piece));
                }
            },
        }
    }
    (pieces, unreadable)
}

/// `work` on every item, on all cores, with progress; results in the items' order.
fn in_parallel<T: Sync, R: Send>(what: &str, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.is_empty() {
        return Vec::new();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let mut progress = Progress::start(what, u64::try_from(items.len()).unwrap_or(0), Unit::Files);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    while let Some((i, item)) = take(items, &next) {
                        let result = work(item);
                        // A poisoned lock means that another thread panicked: the scope will tell.
                        if let Ok(mut done) = done.lock() {
                            done.push((i, result));
                        }
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            progress.at(done.lock().map_or(0, |done| u64::try_from(done.len()).unwrap_or(0)));
        }
    });
    progress.finish();
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|&(i, _)| i);
    done.into_iter().map(|(_, result)| result).collect()
}

fn take<'a, T>(items: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    items.get(i).map(|item| (i, item))
}
