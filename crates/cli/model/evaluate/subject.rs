//! What is evaluated: a model, and the pieces of a part of its corpus.

use std::sync::Arc;

use kapell_model::checkpoint::{self, CheckpointError, CorpusReference};
use kapell_model::decode::Vocabulary;
use kapell_model::infer::{LoadError, Model};
use kapell_model::measure::Reference;
use kapell_model::weights::Weights;
use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};

use crate::args::EvaluateArgs;
use crate::corpus::{self, LoadedCorpus};
use crate::error::{CliError, exit};
use crate::music::MusicError;
use crate::resolve::Local;

pub(super) struct Subject {
    /// What to call the model.
    pub(super) label: String,
    /// Of `model.safetensors`.
    pub(super) model_digest: String,
    pub(super) weights: Weights,
    pub(super) model: Arc<Model>,
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) corpus: Source,
    pub(super) pieces: Vec<Reference>,
    /// What a reader of the figures should know, in sentences.
    pub(super) remarks: Vec<String>,
}

/// The corpus that the pieces are of.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) digest: String,
}

impl Subject {
    pub(super) fn load(local: &Local, args: &EvaluateArgs) -> Result<Self, CliError> {
        let unreadable = |source: CheckpointError| MusicError::Model {
            dir: local.dir.clone(),
            source: LoadError::Checkpoint(source),
        };
        // Its loader checks sizes before it believes them.
        let model =
            Model::load(&local.dir).map_err(|source| MusicError::Model { dir: local.dir.clone(), source })?;
        let loaded = checkpoint::load(&local.dir).map_err(unreadable)?;
        let path = local.dir.join(checkpoint::MODEL_FILE);
        let bytes = std::fs::read(&path).map_err(|e| crate::error::file_error(&path, "read", &e))?;
        let vocabulary = Vocabulary::new(model.vocabulary()).map_err(MusicError::from)?;
        let mut remarks = Vec::new();
        let found = find_corpus(&loaded.config.corpus, args.corpus.as_deref(), &mut remarks)?;
        let pieces = references(&found.corpus, args, &mut remarks)?;
        let LoadedCorpus { corpus, digest, version, .. } = found;
        Ok(Self {
            label: local.label.clone(),
            model_digest: checkpoint::digest(&bytes),
            weights: loaded.weights,
            model: Arc::new(model),
            vocabulary: Arc::new(vocabulary),
            corpus: Source { name: corpus.name, version, digest },
            pieces,
            remarks,
        })
    }

    /// The pieces' places, so many together: the longest first, so that no thread is left with one at the end.
    pub(super) fn batches(&self, size: usize) -> Vec<Vec<usize>> {
        let mut places: Vec<usize> = (0..self.pieces.len()).collect();
        places.sort_by_key(|&place| (std::cmp::Reverse(self.pieces[place].tokens.len()), place));
        places.chunks(size).map(<[usize]>::to_vec).collect()
    }
}

/// The corpus of the model, by its digest; or the one that is asked for, whatever its digest.
fn find_corpus(
    trained_on: &CorpusReference,
    asked: Option<&str>,
    remarks: &mut Vec<String>,
) -> Result<LoadedCorpus, CliError> {
    if let Some(name) = asked {
        let found = corpus::load(name)?;
        if found.digest != trained_on.digest {
            remarks.push(format!(
                "the model was trained on {} ({}), not on this corpus: it may have seen some of these pieces",
                trained_on.name, trained_on.digest
            ));
        }
        return Ok(found);
    }
    let name = &trained_on.name;
    let hint = format!(
        "fetch or add the corpus that the model was trained on (kapell corpus fetch {name}, or kapell corpus add \
         {name} DIR), or name another one with --corpus"
    );
    let newest = corpus::load(name).map_err(|error| {
        let error = CliError::from(error);
        if error.code == "corpus-not-found" { CliError { hint: hint.clone(), ..error } } else { error }
    })?;
    if newest.digest == trained_on.digest {
        return Ok(newest);
    }
    let older =
        (1..newest.version).rev().filter_map(|version| corpus::load(&format!("{name}:{version}")).ok());
    if let Some(found) = older.into_iter().find(|older| older.digest == trained_on.digest) {
        return Ok(found);
    }
    let message = format!(
        "the model was trained on {name} with the digest {}, and {name} of this machine has {}",
        trained_on.digest, newest.digest
    );
    let hint = format!("{hint} (--corpus {name} takes what is here; the model may have seen some of it)");
    Err(CliError::new(exit::USAGE, "corpus-mismatch", message, hint))
}

fn references(
    corpus: &Corpus,
    args: &EvaluateArgs,
    remarks: &mut Vec<String>,
) -> Result<Vec<Reference>, CliError> {
    let name = &corpus.name;
    if corpus.kind == Kind::Text {
        let hint = "evaluate a model that was trained on scores";
        return Err(CliError::usage(format!("{name} is a corpus of text, which has no voices"), hint));
    }
    let part = args.on.part();
    let all: Vec<&Piece> = corpus.pieces.iter().filter(|piece| piece.part == part).collect();
    if all.is_empty() {
        let others = [PartOfSplit::Test, PartOfSplit::Val, PartOfSplit::Train];
        let there = others.iter().filter(|other| corpus.pieces.iter().any(|piece| piece.part == **other));
        let there: Vec<String> = there.map(|part| format!("--on {}", part.name())).collect();
        let message = format!("{name} has no {} part", part.name());
        return Err(CliError::usage(message, format!("it can be evaluated with {}", there.join(" or "))));
    }
    if part == PartOfSplit::Train {
        remarks.push("these are pieces that the model was trained on".to_owned());
    }
    if corpus.protocol == Protocol::Contiguous {
        remarks.push(format!(
            "whole pieces from START; the validation loss of {name} is of contiguous rows, and is another number"
        ));
    }
    let count = args.pieces.map_or(all.len(), |pieces| all.len().min(pieces as usize));
    let spread = (0..count).map(|at| all[at * all.len() / count]);
    spread.map(|piece| reference(corpus, piece)).collect()
}

fn reference(corpus: &Corpus, piece: &Piece) -> Result<Reference, CliError> {
    let bad = |why: String| {
        let message = format!("the piece {} of {} cannot be read: {why}", piece.id, corpus.name);
        CliError::new(exit::USAGE, "bad-piece", message, "show it: kapell corpus show NAME PIECE --tokens")
    };
    let tokens = corpus.spelled(piece).map(|word| word.parse().map_err(|error| bad(format!("{error}"))));
    let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
    Reference::new(&piece.id, tokens).map_err(|error| bad(error.to_string()))
}
