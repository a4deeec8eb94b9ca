//! The options of a request: the same names and meanings as the command line's flags, from a query, a form or JSON.

use kapell_model::decode::{Beam, Phrases, Rules, Sampling, Search, Tonality, parse_key, parse_ranges};
use kapell_music::voices::VOICE_NAMES;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Limits;
use crate::error::ApiError;

/// Names that `harmonize` knows.
const HARMONIZE: [&str; 14] = [
    "melody",
    "search",
    "beam_width",
    "look_ahead",
    "temperature",
    "top_p",
    "seed",
    "key",
    "part",
    "given",
    "phrases",
    "variations",
    "ranges",
    "no_rules",
];
/// Names that `compose` knows.
const COMPOSE: [&str; 4] = ["temperature", "top_p", "seed", "variations"];

/// What a request may say, as it says it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Options(Map<String, Value>);

/// How notes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SearchKind {
    Beam,
    Greedy,
    Sample,
}

/// The pieces that are to be made of a melody, or of nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) kind: SearchKind,
    /// One a variation.
    pub(crate) searches: Vec<(Search, Option<u64>)>,
    pub(crate) tonality: Option<Tonality>,
    pub(crate) part: Option<String>,
    /// By index, S A T B.
    pub(crate) given: Vec<usize>,
    pub(crate) phrases: Phrases,
    pub(crate) rules: Rules,
    pub(crate) remarks: Vec<String>,
}

impl Options {
    /// Adds an option.
    ///
    /// # Errors
    /// If it is there already.
    pub(crate) fn add(&mut self, name: &str, value: Value) -> Result<(), ApiError> {
        match self.0.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(ApiError::option(format!("{name} is given twice"), "give it once")),
        }
    }

    /// Adds the options of a query ("search=sample&seed=7").
    pub(crate) fn add_query(&mut self, query: &str) -> Result<(), ApiError> {
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            self.add(&name, Value::String(value.into_owned()))?;
        }
        Ok(())
    }

    /// The melody's name or text.
    pub(crate) fn melody(&self) -> Result<Option<String>, ApiError> {
        self.text("melody")
    }

    /// What `POST /v1/harmonize` is to do.
    pub(crate) fn harmonize(&self, limits: &Limits) -> Result<Plan, ApiError> {
        self.know(&HARMONIZE)?;
        let kind = match self.text("search")?.as_deref() {
            None if self.0.contains_key("variations") => SearchKind::Sample,
            None | Some("beam") => SearchKind::Beam,
            Some("greedy") => SearchKind::Greedy,
            Some("sample") => SearchKind::Sample,
            Some(other) => {
                let message = format!("search is beam, greedy or sample, not {other:?}");
                return Err(ApiError::option(message, "leave it out for beam"));
            }
        };
        Ok(Plan {
            tonality: self.text("key")?.as_deref().map(parse_key).transpose()?,
            part: self.text("part")?,
            given: self.given()?,
            phrases: self.text("phrases")?.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
            rules: self.rules()?,
            ..self.plan(kind, limits)?
        })
    }

    /// What `POST /v1/compose` is to do.
    pub(crate) fn compose(&self, limits: &Limits) -> Result<Plan, ApiError> {
        self.know(&COMPOSE)?;
        self.plan(SearchKind::Sample, limits)
    }

    fn plan(&self, kind: SearchKind, limits: &Limits) -> Result<Plan, ApiError> {
        let variations = self.count("variations", limits.variations_max)?.unwrap_or(1);
        if variations > 1 && kind != SearchKind::Sample {
            return Err(ApiError::option("variations are drawn", "set search to sample, or leave it out"));
        }
        // All are read, so that a wrong value is told whatever the search.
        let (beam, draws) = (self.beam(limits.beam_width_max)?, self.draws(variations)?);
        let searches = match kind {
            SearchKind::Beam => vec![(Search::Beam(beam), None)],
            SearchKind::Greedy => vec![(Search::Greedy, None)],
            SearchKind::Sample => draws,
        };
        let given = vec![0];
        let (phrases, rules, remarks) = (Phrases::default(), Rules::default(), self.unused(kind));
        Ok(Plan { kind, searches, tonality: None, part: None, given, phrases, rules, remarks })
    }

    /// Of no more lines at any time than a beam may be wide.
    fn beam(&self, width_max: usize) -> Result<Beam, ApiError> {
        let default = Beam::default();
        let width = self.count("beam_width", width_max)?.unwrap_or(default.width);
        let look_ahead = self.count("look_ahead", width_max / width)?.unwrap_or(default.look_ahead);
        Ok(Beam { width, look_ahead })
    }

    /// What free voices are held to.
    fn rules(&self) -> Result<Rules, ApiError> {
        let ranges = self.text("ranges")?.map(|text| {
            let wrong = || {
                ApiError::option(format!("{text:?} are no ranges"), "four, such as 60-81,53-74,48-69,36-64")
            };
            parse_ranges(&text).ok_or_else(wrong)
        });
        let ranges = ranges.transpose()?;
        match (self.flag("no_rules")?, ranges) {
            (true, Some(_)) => {
                Err(ApiError::option("ranges are rules, and there are none", "leave out no_rules or ranges"))
            }
            (true, None) => Ok(Rules::NONE),
            (false, None) => Ok(Rules::default()),
            (false, ranges) => Ok(Rules { ranges, ..Rules::default() }),
        }
    }

    fn draws(&self, variations: usize) -> Result<Vec<(Search, Option<u64>)>, ApiError> {
        let temperature = self.number("temperature")?.unwrap_or(1.0);
        let top_p = self.number("top_p")?.unwrap_or(1.0);
        if !(temperature.is_finite() && temperature > 0.0) {
            let hint = "for always the likeliest notes: search=greedy";
            return Err(ApiError::option("temperature is above 0", hint));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(ApiError::option("top_p is above 0 and at most 1", "leave it out for 1"));
        }
        let first = self.whole("seed")?.unwrap_or_else(new_seed);
        let draw = |at: u64| {
            let seed = first.wrapping_add(at);
            (Search::Sample(Sampling { temperature, top_p, seed }), Some(seed))
        };
        Ok((0..variations as u64).map(draw).collect())
    }

    /// Remarks on options that the search makes no use of.
    fn unused(&self, kind: SearchKind) -> Vec<String> {
        let has = |names: &[&str]| names.iter().any(|name| self.0.contains_key(*name));
        let mut remarks = Vec::new();
        if kind != SearchKind::Sample && has(&["temperature", "top_p", "seed"]) {
            remarks.push("temperature, top_p and seed count with search=sample only".to_owned());
        }
        if kind != SearchKind::Beam && has(&["beam_width", "look_ahead"]) {
            remarks.push("beam_width and look_ahead count with search=beam only".to_owned());
        }
        remarks
    }

    /// The voices that are given, in the order S A T B: "soprano,bass", or a list of such names.
    fn given(&self) -> Result<Vec<usize>, ApiError> {
        let names: Vec<String> = match self.0.get("given") {
            Some(Value::Array(names)) => {
                names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
            }
            _ => self.text("given")?.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect(),
        };
        let mut given = Vec::new();
        for name in names {
            let name = name.trim().to_lowercase();
            let is = |voice: &&str| *voice == name || (name.len() == 1 && voice.starts_with(&name));
            let voice = VOICE_NAMES.iter().position(is).ok_or_else(|| {
                let message = format!("{name:?} is no voice: soprano, alto, tenor and bass are");
                ApiError::option(message, "for example given=soprano,bass")
            })?;
            given.push(voice);
        }
        given.sort_unstable();
        given.dedup();
        match given.len() {
            0 => Ok(vec![0]),
            len if len == VOICE_NAMES.len() => {
                let message = "all four voices are given: there is nothing to harmonise";
                Err(ApiError::option(message, "leave out the voices that are to be found"))
            }
            _ => Ok(given),
        }
    }

    fn know(&self, known: &[&str]) -> Result<(), ApiError> {
        let Some(unknown) = self.0.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
        let near = known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
        let near = near.filter(|near| strsim::jaro_winkler(near, unknown) > 0.8);
        let hint = near
            .map_or_else(|| format!("options are {}", known.join(", ")), |near| format!("is {near} meant?"));
        Err(ApiError::option(format!("there is no option {unknown:?} here"), hint))
    }

    fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(ApiError::option(format!("{name} is a text"), "")),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        if let Some(Value::Bool(is)) = self.0.get(name) {
            return Ok(*is);
        }
        match self.text(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ApiError::option(format!("{name} is true or false, not {other:?}"), "")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| ApiError::option(format!("{name} is a number, not {text:?}"), ""))
        };
        self.text(name)?.map(parse).transpose()
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: String| {
            let message = format!("{name} is a whole number from 0, not {text:?}");
            text.trim().parse().map_err(|_| ApiError::option(message, ""))
        };
        self.text(name)?.map(parse).transpose()
    }

    fn count(&self, name: &str, max: usize) -> Result<Option<usize>, ApiError> {
        let Some(number) = self.whole(name)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::option(format!("{name} is from 1 to {max}, not {number}"), "")),
        }
    }
}

/// Small enough to be typed again.
fn new_seed() -> u64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    u64::from(u32::from_be_bytes([a, b, c, d]))
}
