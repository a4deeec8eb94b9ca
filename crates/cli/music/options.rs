//! The arguments of `harmonize` and `compose` as searches, rules and voices.

use kapell_model::decode::{Beam, RANGES, Rules, Sampling, Search, parse_ranges};
use kapell_music::voices::VOICE_NAMES;

use super::{HarmonizeArgs, MusicError, SearchKind};

/// A search, and its seed where it draws.
pub(super) type Seeded = (Search, Option<u64>);

/// How notes are chosen, and a search a piece.
pub(super) fn searches(args: &HarmonizeArgs) -> Result<(SearchKind, Vec<Seeded>), MusicError> {
    let variations = args.variations.unwrap_or(1);
    let default = if variations > 1 { SearchKind::Sample } else { SearchKind::Beam };
    let kind = args.search.unwrap_or(default);
    if variations > 1 && kind != SearchKind::Sample {
        return Err(MusicError::Variations);
    }
    let searches = match kind {
        SearchKind::Beam => vec![(Search::Beam(beam(args)), None)],
        SearchKind::Greedy => vec![(Search::Greedy, None)],
        SearchKind::Sample => {
            let first = args.seed.unwrap_or_else(new_seed);
            let draw = |at: u16| {
                let seed = first.wrapping_add(u64::from(at));
                Ok((Search::Sample(sampling(args.temperature, args.top_p, seed)?), Some(seed)))
            };
            (0..variations).map(draw).collect::<Result<_, MusicError>>()?
        }
    };
    Ok((kind, searches))
}

fn beam(args: &HarmonizeArgs) -> Beam {
    let default = Beam::default();
    Beam {
        width: args.beam_width.map_or(default.width, usize::from),
        look_ahead: args.look_ahead.map_or(default.look_ahead, usize::from),
    }
}

/// A remark on arguments that the search makes no use of.
pub(super) fn unused(args: &HarmonizeArgs, kind: SearchKind) -> Option<String> {
    let draws = (args.temperature, args.top_p, args.seed) != (None, None, None);
    let beams = (args.beam_width, args.look_ahead) != (None, None);
    match kind {
        SearchKind::Sample if beams => {
            Some("--beam-width and --look-ahead count with --search beam only".to_owned())
        }
        SearchKind::Beam | SearchKind::Greedy if draws => {
            Some("--temperature, --top-p and --seed count with --search sample only".to_owned())
        }
        SearchKind::Greedy if beams => {
            Some("--beam-width and --look-ahead count with --search beam only".to_owned())
        }
        _ => None,
    }
}

pub(super) fn rules(args: &HarmonizeArgs) -> Result<Rules, MusicError> {
    if args.no_rules {
        return Ok(Rules::NONE);
    }
    let ranges = match &args.ranges {
        None => RANGES,
        Some(text) => parse_ranges(text).ok_or_else(|| MusicError::Ranges(text.clone()))?,
    };
    Ok(Rules { ranges: Some(ranges), ..Rules::default() })
}

/// The voices that are given, in the order S A T B.
pub(super) fn voices(given: &[String]) -> Result<Vec<usize>, MusicError> {
    let mut voices = Vec::new();
    for name in given {
        let name = name.trim().to_lowercase();
        let is = |voice: &&str| *voice == name || (name.len() == 1 && voice.starts_with(&name));
        let voice = VOICE_NAMES.iter().position(is);
        voices.push(voice.ok_or(MusicError::Voice(name))?);
    }
    voices.sort_unstable();
    voices.dedup();
    match voices.len() {
        0 => Ok(vec![0]),
        len if len == VOICE_NAMES.len() => Err(MusicError::AllGiven),
        _ => Ok(voices),
    }
}

pub(super) fn sampling(
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: u64,
) -> Result<Sampling, MusicError> {
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
pub(super) fn new_seed() -> u64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u64::from(u32::from_be_bytes([a, b, c, d]))
}
