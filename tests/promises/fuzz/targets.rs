//! What reads bytes that come from elsewhere, and valid inputs of each.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kapell_model::checkpoint::Manifest as CheckpointManifest;
use kapell_model::{TrainConfig, Trainer, checkpoint, infer};
use kapell_music::corpus::{Corpus, text};
use kapell_music::read::{ReadError, SCORE_BYTES_MAX, read_score};
use kapell_music::score::Score;
use kapell_music::write::{write_midi, write_musicxml};
use kapell_music::{encode, exercises, key, voices};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_search::StudySpec;
use kapell_search::study::apply_overrides;
use stats_alloc::Region;
use zip::write::SimpleFileOptions;

use crate::ALLOCATOR;

/// Reads an input and says what came of it.
pub(super) type Read = Box<dyn FnMut(&[u8]) -> String + Send>;

pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) seeds: Vec<Vec<u8>>,
    /// What the format is made of.
    pub(super) words: &'static [&'static [u8]],
    pub(super) read: Read,
}

const XML: &[&[u8]] = &[
    b"<note>",
    b"</note>",
    b"<duration>",
    b"</duration>",
    b"<chord/>",
    b"<rest/>",
    b"<backup><duration>99999</duration></backup>",
    b"<forward><duration>1</duration></forward>",
    b"<divisions>0</divisions>",
    b"<divisions>1000000007</divisions>",
    b"<pitch><step>H</step><octave>-9</octave></pitch>",
    b"<alter>1e9</alter>",
    b"<tie type=\"start\"/>",
    b"<time-modification><actual-notes>0</actual-notes><normal-notes>0</normal-notes></time-modification>",
    b"<transpose><chromatic>127</chromatic></transpose>",
    b"<repeat direction=\"backward\"/>",
    b"<grace/>",
    b"<measure number=\"1\">",
    b"</measure>",
    b"<part id=\"P1\">",
    b"</part>",
    b"<score-timewise>",
    b"<![CDATA[",
    b"]]>",
    b"<!DOCTYPE x [<!ENTITY a \"b\">]>",
    b"&#0;",
    b"&#x10FFFF;",
    b"&lt;",
    b"&a;",
    b"<?xml version=\"1.0\" encoding=\"UTF-16\"?>",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"<time><beats>3</beats><beat-type>0</beat-type></time>",
    b"<key><fifths>-128</fifths></key>",
    b"<fermata/>",
    b"<type>1024th</type>",
    b"<dot/>",
    b"<!--",
    b"-->",
];
const ZIP: &[&[u8]] = &[
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x07\x08",
    b"META-INF/container.xml",
    b"\xff\xff\xff\xff",
    b"\x08\x00",
    b"\x00\x00",
    b"../",
    b"<rootfile full-path=\"\"/>",
];
const MIDI: &[&[u8]] = &[
    b"MThd",
    b"MTrk",
    b"\xff\x2f\x00",
    b"\xff\x51\x03",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x06",
    b"\x90",
    b"\xf0",
];
const TOML: &[&[u8]] = &[
    b"[space]\n",
    b"[train]\n",
    b"layers = [1, 2]\n",
    b"hidden = []\n",
    b"epochs = 99999999999999999999\n",
    b"dropout = nan\n",
    b"learning_rate = { min = 1e-4, max = 1e-2, log = true }\n",
    b"sampler = { kind = \"random\", max_trials = 5 }\n",
    b"pruner = { kind = \"asha\" }\n",
    b"objective = { metric = \"val_loss\", at = \"best\" }\n",
    b"replicates = 4294967295\n",
    b"checkpoint = { every = \"1m\", keep = \"best+last\" }\n",
    b"limits = { max_hours = inf, target = 0 }\n",
    b"weight = -1\n",
    b"\"\"\"",
    b"'''",
    b"[[",
    b"]]",
    b"=",
    b"0x",
    b"1979-05-27T07:32:00Z",
    b"\\u0000",
    b"tags = { a = 1 }\n",
    b"ms",
    b"1e99h",
];
const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"\"\\ud800\"",
    b"\"sha256:\"",
    b"\"name\"",
    b"\"size\"",
    b"\"digest\"",
    b"\"files\"",
    b"\"dtype\":\"F32\"",
    b"\"shape\":[18446744073709551615,2]",
    b"\"data_offsets\":[0,0]",
    b"\"__metadata__\"",
];
const BLOB: &[&[u8]] = &[
    b"\n",
    b"\x00",
    b"\xff\xff",
    b"train",
    b"val",
    b"test",
    b"pieces",
    b"scores",
    b"0",
    b"18446744073709551615",
];

pub(super) fn all() -> Result<Vec<Target>> {
    let scores = scores()?;
    Ok(vec![
        Target { name: "musicxml", seeds: scores.clone(), words: XML, read: Box::new(score) },
        mxl(&scores)?,
        Target {
            name: "midi",
            seeds: vec![write_midi(&exercises::score(1, 1))],
            words: MIDI,
            read: Box::new(score),
        },
        Target { name: "study", seeds: studies()?, words: TOML, read: Box::new(study) },
        Target {
            name: "corpus",
            seeds: vec![exercises::corpus(1, 3)?.to_bytes(), exercises::corpus(2, 1)?.to_bytes()],
            words: BLOB,
            read: Box::new(corpus),
        },
        Target {
            name: "text",
            seeds: vec!["Twas brillig\n\nand the slithy toves\r\n".repeat(900).into_bytes(), "ä".into()],
            words: BLOB,
            read: Box::new(|b| said(text::pieces("a", b).map(|p| p.len()))),
        },
        Target { name: "manifest", seeds: manifests(), words: JSON, read: Box::new(manifest) },
        folder("model.safetensors", JSON)?,
        folder("training.safetensors", JSON)?,
        folder("config.json", JSON)?,
        folder("vocab.json", JSON)?,
    ])
}

/// "ok", or the error's words.
fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => error.to_string(),
    }
}

/// Melodies of the repository and a short exercise.
fn scores() -> Result<Vec<Vec<u8>>> {
    let melodies = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/melodies");
    let mut scores = vec![write_musicxml(&exercises::score(1, 1)).into_bytes()];
    for entry in std::fs::read_dir(melodies)? {
        scores.push(std::fs::read(entry?.path())?);
    }
    scores.sort();
    Ok(scores)
}

/// Reads a score, and does with it what is done with scores.
fn score(bytes: &[u8]) -> String {
    match read_score(bytes, "a score") {
        Ok(score) => used(&score),
        Err(error) => error.to_string(),
    }
}

fn used(score: &Score) -> String {
    let parts = voices::find_voices(score);
    let encoded = said(encode::encode_chorale(score));
    let again = read_score(write_musicxml(score).as_bytes(), "written");
    format!(
        "{} {encoded} {} {} {}",
        parts.is_some(),
        key::find_key(score).tonic,
        write_midi(score).len(),
        again.is_ok()
    )
}

/// A zip of these members.
fn zipped(members: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default())?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

const CONTENTS: &[u8] =
    b"<?xml version=\"1.0\"?><container><rootfiles><rootfile full-path=\"a.xml\"/></rootfiles></container>";

fn mxl(scores: &[Vec<u8>]) -> Result<Target> {
    let mut seeds = Vec::new();
    for score in scores {
        seeds.push(zipped(&[("META-INF/container.xml", CONTENTS), ("a.xml", score)])?);
        seeds.push(zipped(&[("b.musicxml", score)])?);
    }
    // Every other input is the table of contents of a sound zip: behind a wrong checksum nothing is read.
    let inner = scores.first().cloned().context("no scores")?;
    let mut odd = false;
    let read = move |bytes: &[u8]| {
        odd = !odd;
        let contents = bytes.get(bytes.len() / 2..).unwrap_or_default();
        match odd {
            true => score(bytes),
            false => zipped(&[("META-INF/container.xml", contents), ("a.xml", &inner)])
                .map_or_else(|e| e.to_string(), |zip| score(&zip)),
        }
    };
    Ok(Target { name: "mxl", seeds, words: ZIP, read: Box::new(read) })
}

/// Zips that inflate further than any score: refused at the cap, without having been held.
pub(super) fn bombs_are_refused() -> Result<()> {
    let zeros = vec![b' '; SCORE_BYTES_MAX + 1];
    for members in
        [&[("a.xml", &zeros[..])][..], &[("META-INF/container.xml", &zeros[..]), ("a.xml", b"<a/>")]]
    {
        let bomb = zipped(members)?;
        let region = Region::new(ALLOCATOR);
        let refused = read_score(&bomb, "a bomb");
        let bytes = region.change().bytes_allocated;
        ensure!(matches!(refused, Err(ReadError::InflatesTooFar { .. })), "a bomb is read: {refused:?}");
        ensure!(bytes < 4 * SCORE_BYTES_MAX, "a bomb took {bytes} bytes before it was refused");
    }
    Ok(())
}

fn studies() -> Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut studies = vec![kapell_search::study::schema_toml().into_bytes()];
    for file in ["bachbot-table-1.toml", "reproduction/seeds.toml", "reproduction/dropout.toml"] {
        studies.push(std::fs::read(root.join(file))?);
    }
    Ok(studies)
}

fn study(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let overrides: Vec<String> =
        text.lines().take(2).map(|line| line.chars().filter(|c| !c.is_whitespace()).collect()).collect();
    let set = said(apply_overrides(&text, &overrides, &overrides));
    match StudySpec::parse(&text) {
        Ok(spec) => {
            let first = spec.expand().take(3).map(|p| p.config.shape_key().len()).sum::<usize>();
            format!("ok {} {first} {set}", spec.difference(&spec).is_empty())
        }
        Err(errors) => format!("{errors} {set}"),
    }
}

fn corpus(bytes: &[u8]) -> String {
    match Corpus::from_bytes(bytes) {
        Ok(corpus) => {
            let spelled: usize = corpus.pieces.iter().map(|p| corpus.spelled(p).count()).sum();
            format!("ok {} {:?}", spelled == corpus.token_count(), corpus.statistics())
        }
        Err(error) => error.to_string(),
    }
}

fn manifests() -> Vec<Vec<u8>> {
    let file = |name: &str| ManifestFile {
        name: name.to_owned(),
        digest: kapell_rpc::digest::of_bytes(name.as_bytes()),
        size: 17,
    };
    let names = ["config.json", "model.safetensors", "training.safetensors", "vocab.json"];
    vec![Manifest::new(names.map(file).to_vec()).to_bytes(), Manifest::new(Vec::new()).to_bytes()]
}

fn manifest(bytes: &[u8]) -> String {
    format!("{} {}", said(Manifest::parse(bytes)), said(CheckpointManifest::from_bytes(bytes)))
}

/// A checkpoint of which one file is not what it should be, read in all three ways.
fn folder(file: &'static str, words: &'static [&'static [u8]]) -> Result<Target> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model");
    let corpus = Arc::new(exercises::corpus(1, 8)?);
    let config = TrainConfig {
        layers: 1,
        hidden: 4,
        embedding: 2,
        seq_len: 8,
        batch_size: 2,
        ..TrainConfig::default()
    };
    Trainer::new(config.clone(), Arc::clone(&corpus))?.save(&path)?;
    let seeds = vec![std::fs::read(path.join(file))?];
    let read = move |bytes: &[u8]| {
        // The folder lives as long as the closure.
        let path: PathBuf = dir.path().join("model");
        if let Err(error) = std::fs::write(path.join(file), bytes) {
            return error.to_string();
        }
        let trained = Trainer::resume(config.clone(), Arc::clone(&corpus), &path);
        format!("{} {} {}", said(checkpoint::load(&path)), said(infer::Model::load(&path)), said(trained))
    };
    Ok(Target { name: file, seeds, words, read: Box::new(read) })
}
