//! Medians, ratios with their spread, and the machine's name.

use std::time::Duration;

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds at a percentile.
pub fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort();
    samples[(samples.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

/// One line about the machine: kernel, processors, memory.
pub fn machine() -> String {
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| l.trim_start_matches([' ', '\t', ':']));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kb = memory
        .lines()
        .next()
        .and_then(|l| l.split_whitespace().nth(1))
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0);
    format!(
        "Linux {}, {cpus} × {model}, {} MiB of memory",
        uname.release().to_string_lossy(),
        kb / 1024
    )
}
