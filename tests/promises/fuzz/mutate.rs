//! Inputs out of inputs: bytes and bits changed, parts cut, moved and repeated, lengths lied about, words of the
//! format put in.

use crate::dice::Dice;

/// An input grows no longer than this by repeating.
const BYTES_MAX: usize = 256 << 10;

/// Changes an input in one to four ways. `others` are inputs to splice with, `words` what the format is made of.
pub(super) fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]], rng: &mut Dice) {
    for _ in 0..=rng.below(4) {
        if input.is_empty() {
            input.extend_from_slice(words[rng.index(words.len())]);
            continue;
        }
        match rng.below(11) {
            0 => flip(input, rng),
            1 => {
                let at = rng.index(input.len());
                input[at] = interesting_byte(rng);
            }
            2 => input.truncate(rng.index(input.len())),
            3 => {
                let range = range(input, rng);
                input.drain(range);
            }
            4 => repeat(input, rng),
            5 => splice(input, &others[rng.index(others.len())], rng),
            6 | 7 => {
                let at = rng.index(input.len());
                let word = words[rng.index(words.len())];
                input.splice(at..at, word.iter().copied());
            }
            8 => length_field(input, rng),
            9 => number(input, rng),
            _ => nest(input, rng),
        }
        input.truncate(BYTES_MAX);
    }
}

fn flip(input: &mut [u8], rng: &mut Dice) {
    let at = rng.index(input.len());
    input[at] ^= 1 << rng.below(8);
}

fn interesting_byte(rng: &mut Dice) -> u8 {
    let choices = [0, 1, 0x20, 0x22, 0x2D, 0x30, 0x39, 0x3C, 0x3E, 0x7F, 0x80, 0xC0, 0xFE, 0xFF];
    choices[rng.index(choices.len())]
}

/// Some consecutive bytes, rather few.
fn range(input: &[u8], rng: &mut Dice) -> std::ops::Range<usize> {
    let from = rng.index(input.len());
    let len_max = if rng.one_in(4) { input.len() } else { 64 };
    let to = (from + 1 + rng.index(len_max)).min(input.len());
    from..to
}

/// Puts copies of a part behind it: now and then very many.
fn repeat(input: &mut Vec<u8>, rng: &mut Dice) {
    let range = element(input, rng).unwrap_or_else(|| range(input, rng));
    let part = input[range.clone()].to_vec();
    let often = if rng.one_in(8) { 1 + rng.index(2000) } else { 1 + rng.index(3) };
    let copies = part.repeat(often.min(BYTES_MAX / part.len().max(1)));
    input.splice(range.end..range.end, copies);
}

/// A whole element of an XML text, from its `<` to behind its end tag.
fn element(input: &[u8], rng: &mut Dice) -> Option<std::ops::Range<usize>> {
    let from = rng.index(input.len());
    let start = from + input[from..].iter().position(|b| *b == b'<')?;
    let name: Vec<u8> =
        input[start + 1..].iter().copied().take_while(|b| b.is_ascii_alphanumeric() || *b == b'-').collect();
    if name.is_empty() {
        return None;
    }
    let end: Vec<u8> = [b"</", &name[..], b">"].concat();
    let found = input[start..].windows(end.len()).position(|w| w == end)?;
    Some(start..start + found + end.len())
}

fn splice(input: &mut Vec<u8>, other: &[u8], rng: &mut Dice) {
    if other.is_empty() {
        return;
    }
    let (into, from) = (range(input, rng), range(other, rng));
    input.splice(into, other[from].iter().copied());
}

/// Overwrites two, four or eight bytes with a length that is not one.
fn length_field(input: &mut [u8], rng: &mut Dice) {
    let size = [2, 4, 8][rng.index(3)];
    if input.len() < size {
        return;
    }
    // Lengths stand at the beginning and at the end more often than elsewhere.
    let places = input.len() - size + 1;
    let at = match rng.below(3) {
        0 => rng.index(places.min(32)),
        1 => places - 1 - rng.index(places.min(64)),
        _ => rng.index(places),
    };
    let len = u64::try_from(input.len()).unwrap_or(u64::MAX);
    let values =
        [0, 1, len - 1, len, len + 1, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, u64::MAX >> 1, u64::MAX];
    let value = values[rng.index(values.len())];
    let bytes = if rng.one_in(2) {
        value.to_le_bytes()[..size].to_vec()
    } else {
        value.to_be_bytes()[8 - size..].to_vec()
    };
    input[at..at + size].copy_from_slice(&bytes);
}

/// Replaces a number in a text.
fn number(input: &mut Vec<u8>, rng: &mut Dice) {
    let from = rng.index(input.len());
    let Some(start) = input[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let end = start + input[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let values = [
        "0",
        "-1",
        "1",
        "2",
        "127",
        "128",
        "255",
        "256",
        "32767",
        "65536",
        "2147483647",
        "2147483648",
        "4294967295",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e308",
        "1e400",
        "-0.0",
        "0.1",
        "NaN",
        "inf",
        "00000000000000000001",
    ];
    input.splice(start..end, values[rng.index(values.len())].bytes());
}

/// Wraps the input, or a part of it, into itself: brackets and tags that go deep.
fn nest(input: &mut Vec<u8>, rng: &mut Dice) {
    let pairs: [(&[u8], &[u8]); 5] =
        [(b"[", b"]"), (b"{\"a\":", b"}"), (b"<a>", b"</a>"), (b"<note>", b"</note>"), (b"{a=", b"}")];
    let (open, close) = pairs[rng.index(pairs.len())];
    let depth = if rng.one_in(4) { 10_000 } else { 100 };
    let range = range(input, rng);
    let inner = [open.repeat(depth), input[range.clone()].to_vec(), close.repeat(depth)].concat();
    input.splice(range, inner);
}
