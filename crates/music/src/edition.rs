//! Editions of the Bach chorales as the music21 package ships them: which files of an archive are chorales.

use std::collections::{BTreeMap, HashSet};
use std::io::{Cursor, Read};

use flate2::read::GzDecoder;

/// A release of the music21 package, whose corpus we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edition {
    /// 10.5.1, a wheel (zip): every chorale in the folder. The corpus `chorales`.
    Music21V10,
    /// 2.2.1, a source archive (tar.gz): the chorales of Riemenschneider's numbering, as BachBot took them. The
    /// corpus `bachbot`.
    Music21V2,
}

/// One chorale's score, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditionScore {
    /// The file's stem: "bwv269", "bwv248.64-s".
    pub id: String,
    /// The file's name: "bwv269.mxl".
    pub file: String,
    /// MusicXML, plain or compressed: for `read::read_score`.
    pub bytes: Vec<u8>,
}

/// A file of the chorales' folder that is not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub file: String,
    pub why: &'static str,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In order of id.
    pub chorales: Vec<EditionScore>,
    /// In order of file.
    pub left_out: Vec<LeftOut>,
}

/// Why an archive could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum EditionError {
    #[error("this is no music21 wheel: {0}; fetch it again (pip download --no-deps music21==10.5.1)")]
    Wheel(#[from] zip::result::ZipError),
    #[error("this is no music21 source archive: {0}; fetch it again (pip download --no-deps music21==2.2.1)")]
    Archive(#[from] std::io::Error),
    #[error(
        "{file} is larger than the {limit} bytes that a score may have: this is not the music21 that we know"
    )]
    TooLarge { file: String, limit: u64 },
    #[error(
        "the archive has no scores under music21/corpus/bach: hand over {0}, as pip downloads it from PyPI"
    )]
    NoScores(&'static str),
    #[error("the archive's corpus/chorales.py has no table of chorales: hand over {0}, as pip downloads it")]
    NoTable(&'static str),
}

const FOLDER: &str = "music21/corpus/bach/";
const TABLE_FILE: &str = "music21/corpus/chorales.py";
/// The class of `chorales.py` whose table BachBot iterated over.
const TABLE_START: &str = "class ChoraleListRKBWV";
const FIELD_SEPARATOR: &str = "---||---";
const ENTRY_BYTES_MAX: u64 = 50 << 20;
const ARCHIVE_BYTES_MAX: u64 = 2 << 30;

impl Edition {
    /// The release file's name on PyPI.
    #[must_use]
    pub fn archive_name(self) -> &'static str {
        match self {
            Self::Music21V10 => "music21-10.5.1-py3-none-any.whl",
            Self::Music21V2 => "music21-2.2.1.tar.gz",
        }
    }
}

/// The chorales of an archive, and what of its folder is not counted and why. The archive's digest is the
/// caller's to check.
///
/// # Errors
/// Where it is not the archive of that release.
pub fn chorales(archive: &[u8], edition: Edition) -> Result<Listing, EditionError> {
    let mut files = match edition {
        Edition::Music21V10 => wheel_files(archive)?,
        Edition::Music21V2 => tar_files(archive)?,
    };
    let table = files.remove(TABLE_FILE);
    if files.is_empty() {
        return Err(EditionError::NoScores(edition.archive_name()));
    }
    let numbered = match edition {
        Edition::Music21V10 => None,
        Edition::Music21V2 => Some(numbered_ids(&table.unwrap_or_default(), edition)?),
    };
    let mut listing = Listing { chorales: Vec::new(), left_out: Vec::new() };
    for (file, bytes) in files {
        let (stem, extension) = file.rsplit_once('.').unwrap_or((&file, ""));
        match why_left_out(stem, extension, numbered.as_ref()) {
            Some(why) => listing.left_out.push(LeftOut { file, why }),
            None => listing.chorales.push(EditionScore { id: stem.to_owned(), file: file.clone(), bytes }),
        }
    }
    listing.chorales.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listing)
}

fn why_left_out(stem: &str, extension: &str, numbered: Option<&HashSet<String>>) -> Option<&'static str> {
    match extension {
        "krn" => return Some("a second copy, in Humdrum"),
        "mxl" | "xml" | "musicxml" => {}
        _ => return Some("not MusicXML"),
    }
    if stem == "bwv846" {
        return Some("a prelude for keyboard, not a chorale");
    }
    match numbered {
        Some(ids) if !ids.contains(stem) => Some("not in the numbering that BachBot iterated over"),
        _ => None,
    }
}

/// The ids of the table in `chorales.py`: lines of "Riemenschneider, BWV, title, Kalmus".
fn numbered_ids(table: &[u8], edition: Edition) -> Result<HashSet<String>, EditionError> {
    let text = String::from_utf8_lossy(table);
    let rows = text.split_once(TABLE_START).map_or("", |(_, rows)| rows);
    let numbers = rows.lines().filter_map(|line| line.split(FIELD_SEPARATOR).nth(1));
    let ids: HashSet<String> = numbers.map(|bwv| format!("bwv{}", bwv.trim())).collect();
    if ids.is_empty() { Err(EditionError::NoTable(edition.archive_name())) } else { Ok(ids) }
}

/// The key under which an archive's member is kept: a score's bare name, the table's whole one.
fn wanted(path: &str) -> Option<&str> {
    let inside = &path[path.find("music21/corpus/")?..];
    if inside == TABLE_FILE {
        return Some(inside);
    }
    let file = inside.strip_prefix(FOLDER)?;
    (!file.is_empty() && !file.contains('/')).then_some(file)
}

fn read_member(member: impl Read, file: &str) -> Result<Vec<u8>, EditionError> {
    let mut bytes = Vec::new();
    member.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > ENTRY_BYTES_MAX {
        return Err(EditionError::TooLarge { file: file.to_owned(), limit: ENTRY_BYTES_MAX });
    }
    Ok(bytes)
}

fn wheel_files(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, EditionError> {
    let mut zip = zip::ZipArchive::new(Cursor::new(archive))?;
    let mut files = BTreeMap::new();
    for index in 0..zip.len() {
        let member = zip.by_index(index)?;
        let path = member.name()?.into_owned();
        if let Some(file) = wanted(&path) {
            files.insert(file.to_owned(), read_member(member, file)?);
        }
    }
    Ok(files)
}

fn tar_files(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, EditionError> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive).take(ARCHIVE_BYTES_MAX));
    let mut files = BTreeMap::new();
    for member in tar.entries()? {
        let member = member?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        if let Some(file) = wanted(&path) {
            files.insert(file.to_owned(), read_member(member, file)?);
        }
    }
    Ok(files)
}
