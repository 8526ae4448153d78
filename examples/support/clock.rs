//! Time as a process has it.

use std::time::Instant;

/// Counts the processor seconds of this process, all threads together, where the system tells them (Linux does), and seconds otherwise.
///
/// Processor time hardly depends on what else the machine does, so that two models can be given the same.
pub struct Clock {
    start: Instant,
    used: Option<f64>,
}

impl Clock {
    /// Starts at 0.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            used: processor_seconds(),
        }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        match (self.used, processor_seconds()) {
            (Some(before), Some(now)) => now - before,
            _ => self.start.elapsed().as_secs_f64(),
        }
    }
}

/// Linux counts in hundredths of a second, in user mode and in the system for the process.
fn processor_seconds() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold spaces; 11 fields lie between it and the two counts.
    let (_, fields) = status.rsplit_once(')')?;
    let mut counts = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((counts.next()?.ok()? + counts.next()?.ok()?) / 100.0)
}
