//! What a process holds.

/// The most memory this process has had resident, in bytes; `None` where the system does not say (it does on Linux).
pub fn peak_memory() -> Option<u64> {
    memory_figure("VmHWM:")
}

/// The memory this process has resident now, in bytes; `None` where the system does not say.
pub fn memory() -> Option<u64> {
    memory_figure("VmRSS:")
}

fn memory_figure(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kibibytes| kibibytes * 1024)
}
