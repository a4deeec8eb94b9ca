//! What came of an evaluation, in the fields of its JSON.

use kapell_model::measure::likelihood::{CLASSES, Likelihood, Share};
use kapell_model::measure::{Errors, Reference};
use kapell_music::counterpoint::{self, Counts, FAULTS, KINDS, Rules};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Set;
use super::plan::{Task, Way, letters};
use super::subject::Subject;
use crate::args::EvaluateArgs;

/// One evaluation.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    /// Of `model.safetensors`.
    pub(super) model_digest: String,
    pub(super) corpus: CorpusView,
    pub(super) on: &'static str,
    pub(super) pieces: usize,
    pub(super) frames: u64,
    /// Predicted: all but START.
    pub(super) tokens: u64,
    pub(super) nats_per_token: f64,
    pub(super) nats_per_frame: f64,
    /// soprano, alto, tenor, bass, frame_end, fermata.
    pub(super) by_voice: Map<String, Value>,
    /// How voices are found in `error_rates`.
    pub(super) way: Way,
    pub(super) error_rates: Vec<ErrorView>,
    /// The composer's own settings first.
    pub(super) counterpoint: Vec<CounterpointView>,
    pub(super) seconds: f64,
    pub(super) program_version: &'static str,
    pub(super) numerics: String,
    /// In sentences.
    pub(super) remarks: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct CorpusView {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) digest: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorView {
    /// Voices that were found: "ATB".
    pub(super) asked: String,
    /// Voices that were given: "S"; empty where only the length and the ends of phrases were.
    pub(super) given: String,
    pub(super) pieces: usize,
    pub(super) token_error_rate: f64,
    pub(super) pitch_error_rate: f64,
    pub(super) frame_error_rate: f64,
    #[serde(flatten)]
    pub(super) counts: Errors,
}

#[derive(Debug, Serialize)]
pub(super) struct CounterpointView {
    /// "corpus", or how the three lower voices were found.
    pub(super) setting: String,
    pub(super) way: Option<Way>,
    pub(super) pieces: usize,
    /// Of the setting, given voices included.
    pub(super) nats_per_token: f64,
    pub(super) nats_per_frame: f64,
    pub(super) chords: u64,
    pub(super) chords_on_beats: u64,
    pub(super) phrases: u64,
    /// Faults by name.
    pub(super) per_100_chords: Map<String, Value>,
    /// Cadences by kind.
    pub(super) cadences_per_100_chords: Map<String, Value>,
    pub(super) cadences_per_100_phrases: Map<String, Value>,
    pub(super) counts: Counts,
}

impl Report {
    pub(super) fn new(
        subject: &Subject,
        args: &EvaluateArgs,
        likelihoods: &[Likelihood],
        tasks: &[Task],
        outcomes: &[Vec<Set>],
        seconds: f64,
    ) -> Self {
        let mut sum = Likelihood::default();
        likelihoods.iter().for_each(|one| sum += *one);
        let per_frame = |nats: f64| nats / sum.frames.max(1) as f64;
        let class = |(name, share): (&&str, &Share)| {
            let value = serde_json::json!({
                "tokens": share.tokens, "nats_per_token": share.per_token(), "nats_per_frame": per_frame(share.nats),
            });
            ((*name).to_owned(), value)
        };
        let mut counterpoint = vec![of_corpus(subject, &sum)];
        let harmonised = tasks.iter().zip(outcomes).filter(|(task, _)| task.in_counterpoint);
        counterpoint.extend(harmonised.map(|(task, sets)| of_task(subject, task, sets)));
        let asked = tasks.iter().zip(outcomes).filter(|(task, _)| task.in_errors);
        Self {
            model: subject.label.clone(),
            model_digest: subject.model_digest.clone(),
            corpus: CorpusView {
                name: subject.corpus.name.clone(),
                version: subject.corpus.version,
                digest: subject.corpus.digest.clone(),
            },
            on: args.on.part().name(),
            pieces: subject.pieces.len(),
            frames: sum.frames,
            tokens: sum.all.tokens,
            nats_per_token: sum.all.per_token(),
            nats_per_frame: per_frame(sum.all.nats),
            by_voice: CLASSES.iter().zip(&sum.by_class).map(class).collect(),
            way: Way::of(args),
            error_rates: asked.map(|(task, sets)| errors(subject, task, sets)).collect(),
            counterpoint,
            seconds,
            program_version: env!("CARGO_PKG_VERSION"),
            numerics: kapell_model::numerics(),
            remarks: subject.remarks.iter().cloned().chain(failures(subject, tasks, outcomes)).collect(),
        }
    }
}

/// Pieces that could not be set, a sentence a task.
fn failures(subject: &Subject, tasks: &[Task], outcomes: &[Vec<Set>]) -> Vec<String> {
    let failed = |(task, sets): (&Task, &Vec<Set>)| {
        let all =
            || subject.pieces.iter().zip(sets).filter_map(|(piece, set)| Some((piece, set.as_ref().err()?)));
        let (first, why) = all().next()?;
        let count = all().count();
        Some(format!("{count} pieces could not be set ({}), such as {}: {why}", task.name(), first.name))
    };
    tasks.iter().zip(outcomes).filter_map(failed).collect()
}

fn errors(subject: &Subject, task: &Task, sets: &[Set]) -> ErrorView {
    let mut sum = Errors::default();
    let mut pieces = 0;
    for (piece, set) in subject.pieces.iter().zip(sets) {
        if let Ok(set) = set {
            sum += Errors::between(&piece.frames, &set.frames, task.asked);
            pieces += 1;
        }
    }
    ErrorView {
        asked: letters(task.asked),
        given: letters(task.given()),
        pieces,
        token_error_rate: sum.token_error_rate(),
        pitch_error_rate: sum.pitch_error_rate(),
        frame_error_rate: sum.frame_error_rate(),
        counts: sum,
    }
}

fn of_corpus(subject: &Subject, sum: &Likelihood) -> CounterpointView {
    let mut counts = Counts::default();
    for piece in &subject.pieces {
        counts += counted(piece, &piece.frames);
    }
    view("corpus".to_owned(), None, subject.pieces.len(), sum.all, sum.frames, counts)
}

fn of_task(subject: &Subject, task: &Task, sets: &[Set]) -> CounterpointView {
    let (mut counts, mut all, mut frames, mut pieces) = (Counts::default(), Share::default(), 0, 0);
    for (piece, set) in subject.pieces.iter().zip(sets) {
        if let Ok(set) = set {
            counts += counted(piece, &set.frames);
            all += Share { tokens: set.tokens, nats: -set.log_likelihood };
            frames += piece.frames.len() as u64;
            pieces += 1;
        }
    }
    view(task.way.name(), Some(task.way), pieces, all, frames, counts)
}

/// The faults of a setting of a piece, in the model's key, on the piece's own beats.
pub(super) fn counted(piece: &Reference, frames: &[counterpoint::Frame]) -> Counts {
    let rules = Rules { first_beat: piece.first_beat(), ..Rules::new(piece.key) };
    counterpoint::count(frames, &rules)
}

fn view(
    setting: String,
    way: Option<Way>,
    pieces: usize,
    all: Share,
    frames: u64,
    counts: Counts,
) -> CounterpointView {
    let phrases = counts.cadences.phrases();
    let named = |names: &[&str], values: &[u64], per: &dyn Fn(u64) -> f64| -> Map<String, Value> {
        names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), per(*value).into())).collect()
    };
    let per_chords = |count: u64| counts.per_100_chords(count);
    let per_phrases = |count: u64| 100.0 * count as f64 / phrases.max(1) as f64;
    CounterpointView {
        setting,
        way,
        pieces,
        nats_per_token: all.per_token(),
        nats_per_frame: all.nats / frames.max(1) as f64,
        chords: counts.chords,
        chords_on_beats: counts.chords_on_beats,
        phrases,
        per_100_chords: named(&FAULTS, &counts.faults(), &per_chords),
        cadences_per_100_chords: named(&KINDS, &counts.cadences.kinds(), &per_chords),
        cadences_per_100_phrases: named(&KINDS, &counts.cadences.kinds(), &per_phrases),
        counts,
    }
}
