//! `kapell harmonize` and `kapell compose`: a model and a melody in, scores out.

mod error;
mod output;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kapell_model::decode::melody::choose_part;
use kapell_model::decode::{self, COMPOSITION_FRAMES_MAX, Piece, Sampling, Search, Tonality, Vocabulary};
use kapell_model::infer::Model;
use kapell_music::read::{ReadError, SCORE_BYTES_MAX, read_score};
use kapell_music::score::{Credit, KeySignature, Score};
use serde::Serialize;

pub(crate) use error::MusicError;

/// Melodies that are always there, by name.
const MELODIES: [(&str, &[u8]); 4] = [
    ("twinkle", include_bytes!("../../../examples/melodies/twinkle.musicxml")),
    ("ode_to_joy", include_bytes!("../../../examples/melodies/ode_to_joy.musicxml")),
    ("old_hundredth", include_bytes!("../../../examples/melodies/old_hundredth.musicxml")),
    ("frere_jacques", include_bytes!("../../../examples/melodies/frere_jacques.musicxml")),
];

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HarmonizeArgs {
    /// A MusicXML file (.musicxml, .xml, .mxl), or one of the built-in melodies twinkle, ode_to_joy, old_hundredth,
    /// frere_jacques.
    pub(crate) melody: String,
    /// Where to write: .musicxml, .mid, or .txt for the model's tokens. May be given several times. By default
    /// the melody's name with .harmonized.musicxml, here.
    #[arg(short, long, value_name = "OUT", value_delimiter = ',')]
    pub(crate) output: Vec<PathBuf>,
    /// A model of the coordinator's registry, or a folder with one.
    #[arg(long, value_name = "REF|DIR")]
    pub(crate) model: Option<String>,
    /// How notes are chosen.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) search: SearchKind,
    /// With --search sample: below 1 more likely notes, above 1 more surprising ones. [default: 1.0]
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f64>,
    /// With --search sample: only the likeliest tokens that together have this probability. [default: 1.0]
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// With --search sample: the same seed gives the same piece. [default: a new one]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The melody's part, by name or number, where the score has several.
    #[arg(long, value_name = "NAME|N")]
    pub(crate) part: Option<String>,
    /// The melody's key, such as G, Bb or "f# minor" (a small letter alone means minor), where its signature is
    /// missing or misleads.
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ComposeArgs {
    /// Where to write: .musicxml, .mid, or .txt for the model's tokens. May be given several times. By default
    /// composition-SEED.musicxml, here.
    #[arg(short, long, value_name = "OUT", value_delimiter = ',')]
    pub(crate) output: Vec<PathBuf>,
    /// A model of the coordinator's registry, or a folder with one.
    #[arg(long, value_name = "REF|DIR")]
    pub(crate) model: Option<String>,
    /// Below 1 more likely notes, above 1 more surprising ones. [default: 1.0]
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f64>,
    /// The same seed gives the same piece. [default: a new one]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// How `harmonize` chooses notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SearchKind {
    /// The best of several lines at once. Not in this version.
    Beam,
    /// Always the likeliest.
    #[default]
    Greedy,
    /// Drawn by likelihood.
    Sample,
}

/// What was made, in the fields of the JSON contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PieceReport {
    /// The first file written.
    pub(crate) output: PathBuf,
    /// All files written.
    pub(crate) outputs: Vec<PathBuf>,
    pub(crate) frames: usize,
    /// That were scored: all after START, up to END.
    pub(crate) tokens: usize,
    /// Nats, of all scored tokens.
    pub(crate) log_likelihood: f64,
    pub(crate) nats_per_token: f64,
    /// Whether the soprano of the written score, read back, is the melody; none for a composition.
    pub(crate) melody_kept: Option<bool>,
    pub(crate) search: SearchKind,
    /// Of a draw.
    pub(crate) seed: Option<u64>,
    pub(crate) model: String,
    /// Semitones from the model's C major or a minor to the score.
    pub(crate) transposition: i16,
    /// What a reader of the score should know, in sentences.
    pub(crate) remarks: Vec<String>,
}

impl HarmonizeArgs {
    /// The defaults for a melody and its outputs.
    pub(crate) fn of_melody(melody: &str, output: Vec<PathBuf>) -> Self {
        Self { melody: melody.to_owned(), output, ..Self::default() }
    }
}

/// For people: a line, and one for each remark.
impl fmt::Display for PieceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<String> = self.outputs.iter().map(|path| path.display().to_string()).collect();
        let (files, frames, model, nats) = (files.join(", "), self.frames, &self.model, self.nats_per_token);
        write!(f, "{files}: {frames} sixteenths by {model}, {nats:.3} nats per token")?;
        if let Some(seed) = self.seed {
            write!(f, ", seed {seed}")?;
        }
        match self.melody_kept {
            Some(true) => f.write_str(", the melody as it was")?,
            Some(false) => f.write_str(", but the melody is not what it was")?,
            None => {}
        }
        self.remarks.iter().try_for_each(|remark| write!(f, "\nnote: {remark}"))
    }
}

/// A melody that was read and checked, before any model is looked for.
pub(crate) struct Melody<'a> {
    args: &'a HarmonizeArgs,
    score: Score,
    part: usize,
    tonality: Option<Tonality>,
    search: Search,
    seed: Option<u64>,
    outputs: Vec<output::Target>,
    remarks: Vec<String>,
}

impl<'a> Melody<'a> {
    /// Reads the melody and checks all arguments that need no model.
    pub(crate) fn read(args: &'a HarmonizeArgs) -> Result<Self, MusicError> {
        let (search, seed) = search_of(args)?;
        let tonality = args.key.as_deref().map(decode::parse_key).transpose()?;
        let (mut score, name) = read_melody(&args.melody)?;
        if let (Some(tonality), true) = (tonality, score.key_guessed) {
            score.declare_key(KeySignature { fifths: tonality.fifths, mode: Some(tonality.key.mode) });
        }
        let outputs = output::targets(&args.output, || format!("{name}.harmonized.musicxml"))?;
        output::spare_the_melody(&outputs, &args.melody)?;
        let (part, which) = choose_part(&score, args.part.as_deref())?;
        let mut remarks: Vec<String> = which.into_iter().chain(score.remarks.iter().cloned()).collect();
        remarks.extend(score.parts[part].remarks.iter().map(|remark| format!("the melody is {remark}")));
        if search == Search::Greedy && (args.temperature, args.top_p, args.seed) != (None, None, None) {
            remarks.push("--temperature, --top-p and --seed count with --search sample only".to_owned());
        }
        Ok(Self { args, score, part, tonality, search, seed, outputs, remarks })
    }

    /// Sets the melody in four parts with the model in a folder, and writes the score. `model_label` is what the
    /// report calls the model.
    pub(crate) fn harmonize(self, model_dir: &Path, model_label: &str) -> Result<PieceReport, MusicError> {
        let (model, vocabulary) = load(model_dir)?;
        let mut piece =
            decode::harmonize(&model, &vocabulary, &self.score, self.part, self.tonality, self.search)?;
        let name = format!("kapell {}, model {model_label}", env!("CARGO_PKG_VERSION"));
        piece.score.credits.push(Credit { kind: "arranger".to_owned(), name });
        let kept = output::is_melody_kept(&self.score, self.part, &piece.score);
        let mut report = report(&piece, self.outputs, model_label, self.args.search, self.seed)?;
        report.melody_kept = Some(kept);
        report.remarks.splice(0..0, self.remarks);
        Ok(report)
    }
}

/// Composes a piece with the model in a folder, and writes the score.
pub(crate) fn compose(
    args: &ComposeArgs,
    model_dir: &Path,
    model_label: &str,
) -> Result<PieceReport, MusicError> {
    let seed = args.seed.unwrap_or_else(new_seed);
    let search = Search::Sample(sampling(args.temperature, None, seed)?);
    let outputs = output::targets(&args.output, || format!("composition-{seed}.musicxml"))?;
    let (model, vocabulary) = load(model_dir)?;
    let title = format!("Composition {seed}");
    let piece = decode::compose(&model, &vocabulary, COMPOSITION_FRAMES_MAX, search, title)?;
    report(&piece, outputs, model_label, SearchKind::Sample, Some(seed))
}

/// Writes the piece, and tells about it.
fn report(
    piece: &Piece,
    outputs: Vec<output::Target>,
    model: &str,
    search: SearchKind,
    seed: Option<u64>,
) -> Result<PieceReport, MusicError> {
    let outputs = output::write(outputs, piece)?;
    Ok(PieceReport {
        output: outputs[0].clone(),
        outputs,
        frames: piece.frames,
        tokens: piece.tokens.len() - 1,
        log_likelihood: piece.log_likelihood,
        nats_per_token: piece.nats_per_token(),
        melody_kept: None,
        search,
        seed,
        model: model.to_owned(),
        transposition: piece.transposition,
        remarks: piece.remarks.clone(),
    })
}

fn search_of(args: &HarmonizeArgs) -> Result<(Search, Option<u64>), MusicError> {
    match args.search {
        SearchKind::Beam => Err(MusicError::NotYet("beam search")),
        SearchKind::Greedy => Ok((Search::Greedy, None)),
        SearchKind::Sample => {
            let seed = args.seed.unwrap_or_else(new_seed);
            Ok((Search::Sample(sampling(args.temperature, args.top_p, seed)?), Some(seed)))
        }
    }
}

fn sampling(temperature: Option<f64>, top_p: Option<f64>, seed: u64) -> Result<Sampling, MusicError> {
    let (temperature, top_p) = (temperature.unwrap_or(1.0), top_p.unwrap_or(1.0));
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(MusicError::Option {
            name: "--temperature",
            wanted: "a number above 0",
            got: temperature,
        });
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(MusicError::Option { name: "--top-p", wanted: "above 0 and at most 1", got: top_p });
    }
    Ok(Sampling { temperature, top_p, seed })
}

/// Small enough to be typed again.
fn new_seed() -> u64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u64::from(u32::from_be_bytes([a, b, c, d]))
}

fn load(dir: &Path) -> Result<(Model, Vocabulary), MusicError> {
    let model = Model::load(dir).map_err(|source| MusicError::Model { dir: dir.to_owned(), source })?;
    let vocabulary = Vocabulary::new(model.vocabulary())?;
    Ok((model, vocabulary))
}

/// A melody's score and the stem of its name: a file, or else a built-in one.
fn read_melody(melody: &str) -> Result<(Score, String), MusicError> {
    let path = Path::new(melody);
    let built_in = MELODIES.iter().find(|(name, _)| *name == melody);
    if let (Some((name, bytes)), false) = (built_in, path.is_file()) {
        return Ok((read_score(bytes, name)?, (*name).to_owned()));
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => MusicError::NoMelody(melody.to_owned()),
        _ => MusicError::Io { doing: "read", path: path.to_owned(), source },
    };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if let Some(bytes) = usize::try_from(bytes).ok().filter(|&bytes| bytes > SCORE_BYTES_MAX) {
        return Err(ReadError::TooLarge { name: melody.to_owned(), bytes, bytes_max: SCORE_BYTES_MAX }.into());
    }
    let score = read_score(&fs::read(path).map_err(failed)?, melody)?;
    let stem = path.file_stem().map_or_else(|| "melody".into(), |stem| stem.to_string_lossy().into_owned());
    Ok((score, stem))
}

#[cfg(test)]
mod tests;
