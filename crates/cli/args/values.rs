//! Values of flags that have a unit: durations and sizes.

use std::time::Duration;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    kapell_search::study::parse_duration(text)
        .ok_or_else(|| "write a number and a unit: 500ms, 30s, 2m, 12h or 7d".to_owned())
}

pub(super) fn byte_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1_u64 << 30,
        "TiB" => 1_u64 << 40,
        _ => return Err("write a number and a unit: 512MiB, 10GiB".to_owned()),
    };
    let number: u64 =
        text[..digits].parse().map_err(|_| "write a number and a unit: 512MiB, 10GiB".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is more than fits 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_refused_without_sense() {
        assert_eq!(byte_size("10GiB"), Ok(10 << 30));
        assert_eq!(byte_size("512"), Ok(512));
        assert!(byte_size("ten").is_err());
        assert!(byte_size("99999999999TiB").is_err());
    }
}
