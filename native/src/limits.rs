//! What a tenant may use, and the names under which a breach is reported.

use std::sync::Arc;
use std::time::Duration;

use crate::program::{Layers, Template};

/// The options of one engine; `_native.pyi` says what each means.
pub struct Limits {
    pub vm_memory_bytes: usize,
    /// So far a VM may pass its limit until its garbage is collected, at the next place where that can be done.
    pub vm_reserve_bytes: usize,
    pub cpu_bucket: Duration,
    pub cpu_refill_percent: u32,
    pub unbreakable: Duration,
    pub slice_ms: u32,
    pub threads_max: usize,
    pub timers_max: usize,
    pub queue_events_max: usize,
    pub host_calls_max: usize,
    pub log_bytes_per_s: u64,
    pub error_bytes_max: usize,
    pub idle_evict: Duration,
    /// How long the first event of a VM may keep the others waiting (`opening.rs`).
    pub opening: Duration,
    pub memory_budget_bytes: usize,
    pub layers: Arc<Layers>,
    pub builtins: Option<Arc<Template>>,
    /// What `Runtime` tells without asking, as a msgpack list of one map.
    pub runtime_info: Box<[u8]>,
    pub debug: bool,
    pub test_hooks: bool,
}

impl Limits {
    /// What a script unpacks, a decompressed content or all files of an archive, may have half of its VM's memory.
    pub fn content_bytes_max(&self) -> usize {
        self.vm_memory_bytes / 2
    }
}

/// No reserve is larger: of the VMs of a thread only the one that runs may be in its reserve.
pub const RESERVE_BYTES_MAX: usize = 32 << 20;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const UNBREAKABLE: &str = "unbreakable";
pub const DEPTH: &str = "depth";
pub const SIZE: &str = "size";
pub const CALLS: &str = "calls";
pub const QUEUE: &str = "queue";
pub const MEMORY_BUDGET: &str = "memory_budget";

pub const CPU_TEXT: &str = "CPU limit exceeded";
pub const MEMORY_TEXT: &str = "memory limit exceeded; the VM was replaced";
pub const BUDGET_TEXT: &str = "the worker is short of memory; the VM was replaced";

/// Results of one tenant that Python has not taken yet: an event whose result does not fit ends with an error.
pub const RESULTS_BYTES_MAX: usize = 32 << 20;
/// Smaller ones are not counted: the number of requests bounds them.
pub const RESULT_BYTES_FREE: usize = 4 << 10;

/// Whether an error's text is about a breach of this limit. Scripts can catch such an error, and see the name and the
/// value of the limit in it.
pub fn names(text: &str, limit: &str) -> bool {
    text.contains(&format!("(limit: {limit})"))
}

/// What the end of a text that was cut says.
const CUT: &str = "... (cut)";

/// The last place between two characters that is not past `at`.
pub fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// At most `bytes_max` bytes of `text`, cut between two characters and marked.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    text.truncate(boundary(&text, bytes_max.saturating_sub(CUT.len())));
    text.push_str(CUT);
    text
}

/// Bytes of log text that a tenant may still write: filled at a steady rate, one second's worth at most.
pub struct LogBudget {
    left: f64,
    at: std::time::Instant,
}

impl LogBudget {
    pub fn new(bytes_per_s: u64) -> Self {
        LogBudget { left: bytes_per_s as f64, at: std::time::Instant::now() }
    }

    /// Whether `bytes` more may be written now.
    pub fn take(&mut self, bytes: usize, bytes_per_s: u64) -> bool {
        let now = std::time::Instant::now();
        let rate = bytes_per_s as f64;
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * rate).min(rate);
        self.at = now;
        let enough = self.left >= bytes as f64;
        if enough {
            self.left -= bytes as f64;
        }
        enough
    }
}

/// How long a VM thread waits awake for more work, where that has been worth it.
pub const IDLE_WINDOW: Duration = Duration::from_micros(120);
/// How long a caller waits awake for the answer to a lone event.
pub const ANSWER_WINDOW: Duration = Duration::from_micros(60);

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("short".into(), 10), "short");
        let text = cut("é".repeat(20), 20);
        assert!(text.len() <= 20 && text.ends_with("(cut)"));
    }
}
