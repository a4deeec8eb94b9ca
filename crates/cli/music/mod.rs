//! `kapell harmonize` and `kapell compose`: a model and a melody in, scores out.

mod error;
mod options;
mod output;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kapell_model::decode::melody::choose_parts;
use kapell_model::decode::{
    self, COMPOSITION_FRAMES_MAX, Composition, Phrases, Piece, Prepared, Request, Rules, Tonality, VOICES,
    Vocabulary, search,
};
use kapell_model::infer::{Model, Stepper};
use kapell_music::kept::are_parts_kept;
use kapell_music::read::{ReadError, SCORE_BYTES_MAX, read_score};
use kapell_music::score::{Credit, KeySignature, Score};
use serde::Serialize;

pub(crate) use error::MusicError;

/// Melodies that are always there, by name.
pub(crate) const MELODIES: [(&str, &[u8]); 4] = [
    ("twinkle", include_bytes!("../../../examples/melodies/twinkle.musicxml")),
    ("ode_to_joy", include_bytes!("../../../examples/melodies/ode_to_joy.musicxml")),
    ("old_hundredth", include_bytes!("../../../examples/melodies/old_hundredth.musicxml")),
    ("frere_jacques", include_bytes!("../../../examples/melodies/frere_jacques.musicxml")),
];

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HarmonizeArgs {
    /// A MusicXML file (.musicxml, .xml, .mxl), a MIDI file (.mid), or one of the built-in melodies twinkle, ode_to_joy,
    /// old_hundredth, frere_jacques.
    pub(crate) melody: String,
    /// Where to write: .musicxml, .mid, .wav, .svg, or .txt for the model's tokens. May be given several times. By
    /// default the melody's name with .harmonized.musicxml, here.
    #[arg(short, long, value_name = "OUT", value_delimiter = ',')]
    pub(crate) output: Vec<PathBuf>,
    /// For .wav: a SoundFont (.sf2) whose choir sings, instead of the built-in organ.
    #[arg(long, value_name = "FILE")]
    pub(crate) soundfont: Option<PathBuf>,
    /// A model of the coordinator's registry, or a folder with one.
    #[arg(long, value_name = "REF|DIR")]
    pub(crate) model: Option<String>,
    /// How notes are chosen. [default: beam, or sample with --variations]
    #[arg(long, value_enum)]
    pub(crate) search: Option<SearchKind>,
    /// With --search beam: lines that are followed at once. [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) beam_width: Option<u16>,
    /// With --search beam: so many times as many lines hear the next sixteenth of the melody before they are cut to
    /// the width. [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) look_ahead: Option<u16>,
    /// With --search sample: below 1 more likely notes, above 1 more surprising ones. [default: 1.0]
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f64>,
    /// With --search sample: only the likeliest tokens that together have this probability. [default: 1.0]
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// With --search sample: the same seed gives the same piece. [default: a new one]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// So many drawn settings, with the seeds that follow each other; each has its number in its file's name.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) variations: Option<u16>,
    /// The melody's part, by name or number, where the score has several.
    #[arg(long, value_name = "NAME|N")]
    pub(crate) part: Option<String>,
    /// The voices that the score gives: soprano, alto, tenor, bass. The others are found. [default: soprano]
    #[arg(long, value_name = "VOICE", value_delimiter = ',')]
    pub(crate) given: Vec<String>,
    /// The melody's key, such as G, Bb or "f# minor" (a small letter alone means minor), where its signature is
    /// missing or misleads.
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<String>,
    /// Where phrases end, which the model hears: at fermatas, found where there are none (auto), or every:N bars.
    /// [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) phrases: Option<String>,
    /// Lowest and highest MIDI pitch of S, A, T, B as they sound. [default: 60-81,53-74,48-69,36-64]
    #[arg(long, value_name = "S,A,T,B")]
    pub(crate) ranges: Option<String>,
    /// No rules for the voices (ranges, full chords, cadences): the model alone.
    #[arg(long)]
    pub(crate) no_rules: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ComposeArgs {
    /// Where to write: .musicxml, .mid, .wav, .svg, or .txt for the model's tokens. May be given several times. By
    /// default composition-SEED.musicxml, here.
    #[arg(short, long, value_name = "OUT", value_delimiter = ',')]
    pub(crate) output: Vec<PathBuf>,
    /// For .wav: a SoundFont (.sf2) whose choir sings, instead of the built-in organ.
    #[arg(long, value_name = "FILE")]
    pub(crate) soundfont: Option<PathBuf>,
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
    /// The likeliest of several lines that are followed at once.
    #[default]
    Beam,
    /// Always the likeliest next note.
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
pub(crate) struct Melody {
    score: Score,
    given: [Option<usize>; VOICES],
    tonality: Option<Tonality>,
    phrases: Phrases,
    rules: Rules,
    kind: SearchKind,
    /// One a piece.
    searches: Vec<options::Seeded>,
    outputs: Vec<output::Target>,
    remarks: Vec<String>,
}

impl Melody {
    /// Reads the melody and checks all arguments that need no model.
    pub(crate) fn read(args: &HarmonizeArgs) -> Result<Self, MusicError> {
        let (kind, searches) = options::searches(args)?;
        let rules = options::rules(args)?;
        let phrases = args.phrases.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        let tonality = args.key.as_deref().map(decode::parse_key).transpose()?;
        let voices = options::voices(&args.given)?;
        let (mut score, name) = read_melody(&args.melody)?;
        if let (Some(tonality), true) = (tonality, score.key_guessed) {
            score.declare_key(KeySignature { fifths: tonality.fifths, mode: Some(tonality.key.mode) });
        }
        let mut outputs = output::targets(&args.output, || format!("{name}.harmonized.musicxml"))?;
        output::play_with(&mut outputs, args.soundfont.as_deref())?;
        output::spare_the_melody(&outputs, &args.melody)?;
        let (given, which) = choose_parts(&score, &voices, args.part.as_deref())?;
        let mut remarks: Vec<String> = which.into_iter().chain(score.remarks.iter().cloned()).collect();
        for part in given.iter().flatten().map(|&index| &score.parts[index]) {
            remarks.extend(part.remarks.iter().map(|remark| format!("the melody is {remark}")));
        }
        remarks.extend(options::unused(args, kind));
        Ok(Self { score, given, tonality, phrases, rules, kind, searches, outputs, remarks })
    }

    /// Sets the melody in four parts with the model in a folder, and writes the scores: one, or as many as variations
    /// were asked for. `model_label` is what the reports call the model.
    pub(crate) fn harmonize(
        self,
        model_dir: &Path,
        model_label: &str,
    ) -> Result<Vec<PieceReport>, MusicError> {
        let (model, vocabulary) = load(model_dir)?;
        let mut stepper = Stepper::new(Arc::new(model));
        let request = Request {
            score: &self.score,
            given: self.given,
            tonality: self.tonality,
            phrases: self.phrases,
            rules: self.rules,
        };
        let prepared = Prepared::new(request, &Arc::new(vocabulary))?;
        let mut runs: Vec<_> =
            self.searches.iter().map(|(search, _)| prepared.run(&stepper, *search)).collect();
        search::drive(&mut stepper, &mut runs);
        let several = runs.len() > 1;
        let mut reports = Vec::with_capacity(runs.len());
        for (at, (run, &(_, seed))) in runs.iter().zip(&self.searches).enumerate() {
            let mut piece = prepared.piece(&self.score, run.decoded().map_err(decode::DecodeError::from)?);
            let name = format!("kapell {}, model {model_label}", env!("CARGO_PKG_VERSION"));
            piece.score.credits.push(Credit { kind: "arranger".to_owned(), name });
            let kept = are_parts_kept(&self.score, &self.given, &piece.score);
            let outputs = output::numbered(&self.outputs, several.then_some(at + 1));
            let mut report = report(&piece, outputs, model_label, self.kind, seed)?;
            report.melody_kept = Some(kept);
            report.remarks.splice(0..0, self.remarks.iter().cloned());
            let repeats = self.score.measures.iter().any(|measure| measure.repeat_end);
            if repeats && report.outputs.iter().any(|path| output::is_midi(path)) {
                report
                    .remarks
                    .push("the MIDI file has the score as it is written: repeats are not played".to_owned());
            }
            reports.push(report);
        }
        Ok(reports)
    }
}

/// Composes a piece with the model in a folder, and writes the score.
pub(crate) fn compose(
    args: &ComposeArgs,
    model_dir: &Path,
    model_label: &str,
) -> Result<PieceReport, MusicError> {
    let seed = args.seed.unwrap_or_else(options::new_seed);
    let sampling = options::sampling(args.temperature, None, seed)?;
    let mut outputs = output::targets(&args.output, || format!("composition-{seed}.musicxml"))?;
    output::play_with(&mut outputs, args.soundfont.as_deref())?;
    let (model, vocabulary) = load(model_dir)?;
    let title = format!("Composition {seed}");
    let composition =
        Composition::new(&Arc::new(vocabulary), COMPOSITION_FRAMES_MAX, &Rules::default(), title);
    let piece = decode::compose(&mut Stepper::new(Arc::new(model)), &composition, sampling)?;
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

/// Reads a model and its vocabulary from a folder.
pub(crate) fn load(dir: &Path) -> Result<(Model, Vocabulary), MusicError> {
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
