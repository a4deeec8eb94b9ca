//! Printing corpora and pieces, for people and as JSON.

use std::collections::BTreeMap;

use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol, Statistics, blob};
use kapell_music::exercises;
use serde_json::json;

use super::error::{CorpusError, Unreadable};
use super::fetch::FETCHED;
use super::library::{Library, Metadata};
use super::{Added, EXERCISES, LoadedCorpus, nearest};
use crate::output;

/// `kapell corpus list`.
pub(super) fn list(library: &Library, json: bool) -> Result<(), CorpusError> {
    let mut rows = Vec::new();
    for fetched in FETCHED {
        let state = if fetched.is_here(library) { "fetched" } else { "fetched on first use" };
        // What is damaged is encoded anew on its next use.
        let metadata = library.metadata(fetched.name).unwrap_or_default();
        rows.push(Row::of(
            fetched.name,
            state,
            fetched.about,
            Kind::Scores,
            fetched.protocol,
            metadata.as_ref(),
        ));
    }
    let exercises = super::load(EXERCISES)?;
    let about = format!("{} four-part exercises, generated", exercises::PIECES);
    let mut row = Row::of(EXERCISES, "built in", &about, Kind::Scores, Protocol::Pieces, None);
    let Statistics { pieces, tokens, vocabulary, .. } = exercises.corpus.statistics();
    (row.version, row.pieces, row.tokens, row.vocabulary) =
        (Some(1), Some(pieces), Some(tokens), Some(vocabulary));
    row.digest = Some(exercises.digest);
    rows.push(row);
    for name in library.names()?.iter().filter(|name| FETCHED.iter().all(|f| f.name != name.as_str())) {
        if let Some(m) = library.metadata(name)? {
            rows.push(Row::of(name, "added", &m.source, m.kind, m.protocol, Some(&m)));
        }
    }
    if json {
        rows.iter().for_each(output::json);
        return Ok(());
    }
    let number = |value: Option<usize>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
    let cells = rows.into_iter().map(|row| {
        let version = row.version.map_or_else(|| "-".to_owned(), |v| v.to_string());
        vec![
            row.name,
            row.state,
            version,
            number(row.pieces),
            number(row.tokens),
            number(row.vocabulary),
            row.source,
        ]
    });
    output::table(&["name", "state", "version", "pieces", "tokens", "vocabulary", "source"], cells.collect());
    Ok(())
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    state: String,
    kind: Kind,
    protocol: Protocol,
    version: Option<u32>,
    pieces: Option<usize>,
    tokens: Option<usize>,
    vocabulary: Option<usize>,
    digest: Option<String>,
    source: String,
}

impl Row {
    fn of(
        name: &str,
        state: &str,
        source: &str,
        kind: Kind,
        protocol: Protocol,
        metadata: Option<&Metadata>,
    ) -> Self {
        let newest = metadata.and_then(|m| m.versions.last());
        Self {
            name: name.to_owned(),
            state: state.to_owned(),
            kind,
            protocol,
            version: newest.map(|v| v.version),
            pieces: newest.map(|v| v.pieces),
            tokens: newest.map(|v| v.tokens),
            vocabulary: newest.map(|v| v.vocabulary),
            digest: newest.map(|v| v.digest.clone()),
            source: source.to_owned(),
        }
    }
}

/// `kapell corpus show NAME`.
pub(super) fn corpus(loaded: &LoadedCorpus, metadata: Option<&Metadata>, json: bool) {
    let version = metadata.and_then(|m| m.versions.iter().find(|v| v.version == loaded.version));
    let left_out = version.map_or(&[][..], |v| &v.left_out);
    let statistics = loaded.corpus.statistics();
    if json {
        let mut object = json_of(loaded, &statistics);
        object["left_out"] = json!(left_out);
        output::json(&object);
        return;
    }
    table(loaded, &statistics);
    if !left_out.is_empty() {
        output::line(format!("\n{} files of the source are not in it:", left_out.len()));
        left_out_by_reason(left_out);
    }
}

/// A line a reason, with the first few of its files.
fn left_out_by_reason(left_out: &[Unreadable]) {
    const NAMED: usize = 3;
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in left_out {
        reasons.entry(&file.reason).or_default().push(&file.file);
    }
    for (reason, files) in reasons {
        let more =
            if files.len() > NAMED { format!(" and {} more", files.len() - NAMED) } else { String::new() };
        let named: Vec<&str> = files.into_iter().take(NAMED).collect();
        output::line(format!("  {}{more}: {reason}", named.join(", ")));
    }
}

/// `kapell corpus add`, once it is done.
pub(super) fn added(added: &Added, json: bool) {
    let Added { loaded, unchanged, unreadable } = added;
    let statistics = loaded.corpus.statistics();
    if json {
        let mut object = json_of(loaded, &statistics);
        object["unchanged"] = json!(unchanged);
        object["unreadable"] = json!(unreadable);
        output::json(&object);
        return;
    }
    for file in unreadable {
        output::remark(format!("not read: {}: {}", file.file, file.reason));
    }
    let (name, version) = (&loaded.corpus.name, loaded.version);
    if *unchanged {
        output::line(format!("{name} is there already with this content, as version {version}"));
    } else {
        output::line(format!("added {name}, version {version}"));
    }
    table(loaded, &statistics);
    if statistics.split.val.pieces == 0 {
        output::remark(
            "no piece validates: a study on this corpus has nothing to measure itself by; add more pieces",
        );
    }
}

fn json_of(loaded: &LoadedCorpus, statistics: &Statistics) -> serde_json::Value {
    let corpus = &loaded.corpus;
    json!({
        "name": corpus.name, "pieces": statistics.pieces, "frames": statistics.frames, "tokens": statistics.tokens,
        "vocabulary": statistics.vocabulary, "split": statistics.split, "digest": loaded.digest,
        "split_digest": corpus.split_digest(), "version": loaded.version, "kind": corpus.kind,
        "protocol": corpus.protocol,
    })
}

fn table(loaded: &LoadedCorpus, statistics: &Statistics) {
    let corpus = &loaded.corpus;
    let protocol = match corpus.protocol {
        Protocol::Pieces if corpus.kind == Kind::Text => {
            "whole pieces, 80/10/10, near-duplicates on one side only"
        }
        Protocol::Pieces => "whole pieces, 80/10/10, a tune on one side only",
        Protocol::Contiguous => "90/10 by tokens, contiguous, in order of file name (BachBot's)",
    };
    let frames = statistics.frames.map_or_else(String::new, |f| format!("  {f} frames"));
    output::line(format!("{}:{}  {} pieces{frames}", corpus.name, loaded.version, statistics.pieces));
    output::line(format!("  tokens      {}", statistics.tokens));
    output::line(format!("  vocabulary  {}", statistics.vocabulary));
    output::line(format!("  digest      {}", loaded.digest));
    output::line(format!("  split       {protocol}"));
    let parts =
        [("train", statistics.split.train), ("val", statistics.split.val), ("test", statistics.split.test)];
    for (name, part) in parts {
        output::line(format!("    {name:<5} {:>6} pieces {:>10} tokens", part.pieces, part.tokens));
    }
}

/// `kapell corpus show NAME PIECE [--tokens]`.
pub(super) fn piece(corpus: &Corpus, id: &str, tokens: bool, json: bool) -> Result<(), CorpusError> {
    let missing = || CorpusError::UnknownPiece {
        corpus: corpus.name.clone(),
        piece: id.to_owned(),
        nearest: nearest(corpus.pieces.iter().map(|p| p.id.clone()), id),
    };
    let piece = corpus.piece(id).ok_or_else(missing)?;
    let lines = token_lines(corpus, piece);
    if tokens {
        // One write: a chorale has a thousand lines.
        output::line(lines.trim_end_matches('\n'));
        return Ok(());
    }
    let between = corpus.spelled(piece).filter(|t| *t == "|||").count();
    let frames = (corpus.kind == Kind::Scores).then_some(between + 1);
    let object = json!({
        "corpus": corpus.name, "id": piece.id, "part": piece.part, "frames": frames, "tokens": piece.tokens.len(),
        "sha256": blob::digest(lines.as_bytes()).trim_start_matches("sha256:"),
    });
    if json {
        output::json(&object);
        return Ok(());
    }
    let part = match (corpus.protocol, piece.part) {
        (Protocol::Contiguous, PartOfSplit::Train) => "train (up to the cut at 90% of the tokens)",
        (_, part) => part.name(),
    };
    output::line(format!("{} of {}", piece.id, corpus.name));
    output::line(format!("  part    {part}"));
    if let Some(frames) = frames {
        output::line(format!("  frames  {frames}"));
    }
    output::line(format!("  tokens  {}", piece.tokens.len()));
    output::line(format!(
        "  sha256  {} (of the tokens, one a line)",
        object["sha256"].as_str().unwrap_or_default()
    ));
    Ok(())
}

/// The piece's tokens, each with a newline. Characters that would break the line are escaped.
fn token_lines(corpus: &Corpus, piece: &Piece) -> String {
    let mut lines = String::with_capacity(piece.tokens.len() * 12);
    for spelling in corpus.spelled(piece) {
        match corpus.kind {
            Kind::Scores => lines.push_str(spelling),
            Kind::Text => lines.extend(spelling.escape_debug()),
        }
        lines.push('\n');
    }
    lines
}
