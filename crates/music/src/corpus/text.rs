//! Text as a corpus: characters as tokens, files as pieces, long files cut into passages.

/// A file longer than this is cut into passages, so that one long file can be split into parts at all.
const WHOLE_BYTES_MAX: usize = 32 << 10;
/// A passage ends at the first blank line (or else line end) after this many bytes, or at any character after
/// twice as many.
const PASSAGE_BYTES: usize = 8 << 10;

/// Why a file is no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("not UTF-8 at byte {byte}")]
    NotUtf8 { byte: usize },
    #[error("the character U+{code:04X} at byte {byte} is a control character: this is no text")]
    Control { code: u32, byte: usize },
    #[error("no text in it")]
    Empty,
}

/// The pieces of one text file: (id, text). A short file is one piece named `stem`; a long one is cut into
/// passages `stem#0001`, `stem#0002`, ... Line ends
/// and form feeds become `\n`, a byte-order mark goes.
///
/// # Errors
/// Not UTF-8, control characters, nothing but white space.
pub fn pieces(stem: &str, bytes: &[u8]) -> Result<Vec<(String, String)>, TextError> {
    let text = std::str::from_utf8(bytes).map_err(|e| TextError::NotUtf8 { byte: e.valid_up_to() })?;
    let text =
        text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace(['\r', '\x0c'], "\n");
    let control = |&(_, c): &(usize, char)| c.is_control() && c != '\n' && c != '\t';
    if let Some((byte, c)) = text.char_indices().find(control) {
        return Err(TextError::Control { code: u32::from(c), byte });
    }
    if text.trim().is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() <= WHOLE_BYTES_MAX {
        return Ok(vec![(stem.to_owned(), text)]);
    }
    let passages = passages(&text);
    Ok(passages
        .into_iter()
        .enumerate()
        .map(|(i, p)| (format!("{stem}#{:04}", i + 1), p.to_owned()))
        .collect())
}

fn passages(text: &str) -> Vec<&str> {
    let mut passages = Vec::new();
    let mut rest = text;
    while rest.len() > 2 * PASSAGE_BYTES {
        let (passage, after) = rest.split_at(passage_end(rest));
        passages.push(passage);
        rest = after;
    }
    passages.push(rest);
    passages.retain(|p| !p.trim().is_empty());
    passages
}

fn passage_end(text: &str) -> usize {
    let from = text.ceil_char_boundary(PASSAGE_BYTES);
    let window = &text[from..text.ceil_char_boundary(2 * PASSAGE_BYTES)];
    let end = window.find("\n\n").map(|at| at + 2).or_else(|| window.find('\n').map(|at| at + 1));
    from + end.unwrap_or(window.len())
}
