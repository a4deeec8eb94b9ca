//! Which form of an answer a client prefers: the Accept header, as RFC 9110 (12.5.1) reads it.

use axum::http::StatusCode;

use crate::error::ApiError;

pub(crate) const MUSICXML: &str = "application/vnd.recordare.musicxml+xml";

/// A form that a piece can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// All that is known of the piece, with the score as MusicXML inside.
    Json,
    MusicXml,
    Midi,
    Wav,
    Svg,
    /// The model's tokens, one a line.
    Tokens,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MusicXml => MUSICXML,
            Self::Midi => "audio/midi",
            Self::Wav => "audio/wav",
            Self::Svg => "image/svg+xml",
            Self::Tokens => "text/plain; charset=utf-8",
        }
    }

    /// Whether a media range means this form, and how exactly: 0 for any type, 1 for any subtype, 2 for this one.
    fn matches(self, range: &str) -> Option<u8> {
        let (other_names, family): (&[&str], &str) = match self {
            Self::Json => (&[], "application"),
            Self::MusicXml => {
                (&["application/vnd.recordare.musicxml", "application/xml", "text/xml"], "application")
            }
            Self::Midi => (&["audio/x-midi", "audio/mid"], "audio"),
            Self::Wav => (&["audio/x-wav", "audio/wave", "audio/vnd.wave"], "audio"),
            Self::Svg => (&[], "image"),
            Self::Tokens => (&[], "text"),
        };
        let own = self.media_type().split(';').next().unwrap_or_default();
        if range == own || other_names.contains(&range) {
            return Some(2);
        }
        if range.strip_suffix("/*") == Some(family) {
            return Some(1);
        }
        (range == "*/*").then_some(0)
    }
}

/// The form that an Accept header prefers, of those that are there, which are in our own order of preference.
///
/// # Errors
/// If the client wants none of them: 406.
pub(crate) fn negotiate(accept: &str, there: &[Format]) -> Result<Format, ApiError> {
    if accept.trim().is_empty() {
        return Ok(there[0]);
    }
    let ranges: Vec<(String, f32)> = accept.split(',').filter_map(range).collect();
    // The most exact range that means a form decides its quality.
    let quality = |format: Format| {
        let matching = ranges.iter().filter_map(|(range, q)| Some((format.matches(range)?, *q)));
        matching.max_by_key(|(exact, _)| *exact).map_or(0.0, |(_, q)| q)
    };
    let best = there.iter().rev().map(|&format| (format, quality(format))).max_by(|a, b| a.1.total_cmp(&b.1));
    match best {
        Some((format, q)) if q > 0.0 => Ok(format),
        _ => {
            let names: Vec<&str> = there.iter().map(|format| format.media_type()).collect();
            let message = format!("{accept:?} is nothing that this can be answered with");
            let hint = format!("accept one of {}", names.join(", "));
            Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", message, hint))
        }
    }
}

/// A media range in lower case without its parameters, and its quality.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?.to_ascii_lowercase();
    let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    Some((range, q.map_or(1.0, |q| q.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 6] =
        [Format::Json, Format::MusicXml, Format::Midi, Format::Wav, Format::Svg, Format::Tokens];

    #[test]
    fn the_form_with_the_highest_quality_is_sent_and_of_equals_the_one_that_we_prefer() {
        let cases = [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("application/*", Format::Json),
            ("audio/*", Format::Midi),
            ("AUDIO/WAV", Format::Wav),
            ("audio/x-wav;q=0.9, audio/midi;q=0.5", Format::Wav),
            ("text/html, image/*;q=0.8, */*;q=0.1", Format::Svg),
            ("*/*, application/json;q=0", Format::MusicXml),
            ("application/vnd.recordare.musicxml+xml", Format::MusicXml),
            ("text/plain", Format::Tokens),
            ("application/json;q=0.4, application/*;q=0.5", Format::MusicXml),
        ];
        for (accept, format) in cases {
            assert_eq!(negotiate(accept, &ALL), Ok(format), "{accept}");
        }
    }

    #[test]
    fn a_client_that_wants_nothing_we_have_is_told_what_there_is() {
        for accept in ["image/png", "text/html", "application/json;q=0", "nonsense", "audio/wav;q=2"] {
            let error = negotiate(accept, &ALL).expect_err(accept);
            assert_eq!(error.status, StatusCode::NOT_ACCEPTABLE);
            assert!(error.hint.contains("audio/wav"), "{}", error.hint);
        }
    }
}
