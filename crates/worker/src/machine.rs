//! What a worker tells of the machine it runs on.

use kapell_rpc::v1;

/// The machine's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The processor's model, as the kernel names it.
pub(crate) fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    value_of(&cpuinfo, "model name").unwrap_or("unknown processor").to_owned()
}

/// The devices that this version trains on: the processor.
pub(crate) fn devices() -> Vec<v1::Device> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    vec![v1::Device {
        kind: "cpu".into(),
        name: processor(),
        index: 0,
        memory_bytes: value_of(&meminfo, "MemTotal").and_then(kibibytes).unwrap_or_default(),
    }]
}

/// The arithmetic that trials are trained with.
#[must_use]
pub fn numerics() -> v1::Numerics {
    v1::Numerics {
        program_version: concat!("kapell ", env!("CARGO_PKG_VERSION")).into(),
        kind: kapell_model::numerics(),
        dtype: "f32".into(),
    }
}

/// The process that started this one.
pub(crate) fn parent() -> Option<i32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
}

fn value_of<'a>(table: &'a str, key: &str) -> Option<&'a str> {
    let line = table.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

/// "32614148 kB" in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_proc_are_read_by_key() {
        let text = "MemTotal:       32614148 kB\nMemFree:  1 kB\n";
        assert_eq!(value_of(text, "MemTotal").and_then(kibibytes), Some(32_614_148 * 1024));
        assert_eq!(value_of(text, "SwapTotal"), None);
        assert_eq!(kibibytes("much"), None);
    }
}
