//! Names of content: "sha256:" and 64 lower-case hex digits.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

const PREFIX: &str = "sha256:";

/// The digest of these bytes.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> String {
    render(&Sha256::digest(bytes))
}

/// The digest and the length of a file, read in pieces.
///
/// # Errors
/// What reading the file gave.
pub fn of_file(path: &Path) -> std::io::Result<(String, u64)> {
    let (hasher, length) = hash_file(path)?;
    Ok((render(&hasher.finalize()), length))
}

/// A hash that has eaten a file's bytes, to go on from, and their number.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<(Sha256, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hasher, length));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        length += read as u64;
    }
}

/// "sha256:<hex>" of a finished hash.
pub(crate) fn render(hash: &[u8]) -> String {
    format!("{PREFIX}{}", hex::encode(hash))
}

/// The 64 hex digits of a well-formed digest: safe to be a file's name.
#[must_use]
pub fn hex_part(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix(PREFIX)?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 64 && hex.bytes().all(lower)).then_some(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let file = std::env::temp_dir().join(format!("kapell-digest-{}", std::process::id()));
        std::fs::write(&file, b"abc").unwrap();
        let expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(&file).unwrap(), (expected.to_owned(), 3));
        assert_eq!(of_bytes(b"abc"), expected);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_a_digest() {
        let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex_part(&format!("sha256:{good}")), Some(good));
        for bad in [good, "sha256:", "sha256:../../etc/passwd", &format!("sha256:{}", good.to_uppercase())] {
            assert_eq!(hex_part(bad), None, "{bad}");
        }
    }
}
