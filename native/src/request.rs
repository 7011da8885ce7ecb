//! One event, script or check on its way through a VM, and how each of its templates ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mlua::ffi::lua_State;

use crate::context::EventInfo;
use crate::limits;
use crate::pack::{self, Meter};
use crate::program::{Source, Template};
use crate::shared::OutKind;

/// Outcomes of `pytw.types.Outcome`.
pub const OK: u8 = 0;
pub const CANCELLED: u8 = 1;
pub const SCRIPT_ERROR: u8 = 2;
pub const TIMEOUT: u8 = 3;
pub const LIMIT_EXCEEDED: u8 = 4;
pub const NOT_SUBSCRIBED: u8 = 16;
pub const SHED: u8 = 19;

/// What is asked for.
pub enum What {
    /// An event for the templates of the program that listen for it.
    Event,
    /// The source of one chunk, in a template of its own.
    Script(Arc<Source>),
    /// The entry of one template.
    Check,
}

/// A request as it comes in; it becomes a `Request` when its tenant's turn starts it.
pub struct Arrival {
    pub id: u64,
    pub what: What,
    pub event: Arc<EventInfo>,
    /// The templates that run, in order: of an event those of the program when it arrived.
    pub templates: Vec<Arc<Template>>,
    pub accepted: Instant,
    pub deadline: Instant,
    pub weight: Option<Weight>,
}

/// What a request's payload, or its result, holds of its tenant's bound, for as long as it lives.
pub struct Weight {
    bytes: usize,
    sum: Arc<AtomicUsize>,
}

impl Weight {
    pub fn new(bytes: usize, sum: &Arc<AtomicUsize>) -> Self {
        sum.fetch_add(bytes, Ordering::Relaxed);
        Weight { bytes, sum: sum.clone() }
    }

    /// None for one that is too small to count.
    pub fn of_result(bytes: usize, sum: &Arc<AtomicUsize>) -> Option<Self> {
        (bytes >= limits::RESULT_BYTES_FREE).then(|| Weight::new(bytes, sum))
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Arrival {
    pub fn bytes(&self) -> usize {
        self.event.payload.len()
    }

    pub fn is_check(&self) -> bool {
        matches!(self.what, What::Check)
    }
}

/// How one template's run ended.
pub enum End {
    /// One encoded value; empty for none.
    Ok(Vec<u8>, #[expect(dead_code, reason = "it counts until it is dropped")] Option<Weight>),
    Cancelled(Option<&'static str>),
    Error(String),
    Timeout,
    Limit(&'static str, String),
}

impl End {
    pub fn outcome(&self) -> u8 {
        match self {
            End::Ok(..) => OK,
            End::Cancelled(_) => CANCELLED,
            End::Error(_) => SCRIPT_ERROR,
            End::Timeout => TIMEOUT,
            End::Limit(..) => LIMIT_EXCEEDED,
        }
    }

    pub fn limit(&self) -> Option<&'static str> {
        if let End::Limit(name, _) = self { Some(name) } else { None }
    }

    pub fn error(&self) -> Option<&str> {
        match self {
            End::Ok(..) => None,
            End::Cancelled(why) => Some(why.unwrap_or("cancelled")),
            End::Error(text) | End::Limit(_, text) => Some(text),
            End::Timeout => Some("the dispatch deadline passed"),
        }
    }
}

/// One template's part of a request.
pub struct Part {
    pub template: Arc<Template>,
    /// The thread that owes its end; null before it starts and after it ended.
    pub main: *mut lua_State,
    pub end: Option<End>,
}

impl Part {
    pub fn result_bytes(&self) -> usize {
        if let Some(End::Ok(value, _)) = &self.end { value.len() } else { 0 }
    }
}

/// A request whose templates run.
pub struct Request {
    pub arrival: Box<Arrival>,
    pub parts: Vec<Part>,
    /// Parts without an end.
    pub left: usize,
    pub cpu: Duration,
    pub calls: Vec<(Box<str>, u64)>,
}

impl Request {
    pub fn new(mut arrival: Box<Arrival>) -> Self {
        let templates = std::mem::take(&mut arrival.templates);
        let left = templates.len();
        let parts = templates.into_iter().map(|template| Part { template, main: std::ptr::null_mut(), end: None }).collect();
        Request { arrival, parts, left, cpu: Duration::ZERO, calls: Vec::new() }
    }

    pub fn count_call(&mut self, name: &str) {
        match self.calls.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, n)) => *n += 1,
            None => self.calls.push((name.into(), 1)),
        }
    }

    /// The answer to a request all of whose parts have ended.
    pub fn answer(self) -> Answer {
        if self.arrival.is_check() {
            return match self.parts.into_iter().next().and_then(|part| part.end) {
                Some(End::Ok(keys, _)) => Answer::Result(keys),
                Some(End::Limit(name, text)) => Answer::Failed(pack::failure("limit_exceeded", &text, Some(name))),
                Some(End::Timeout) => {
                    Answer::Failed(pack::failure("limit_exceeded", "evaluating the entry took too long", Some("deadline")))
                }
                Some(end) => Answer::Failed(pack::failure("script_error", end.error().unwrap_or_default(), None)),
                None => Answer::Failed(pack::failure("internal", "the check ended without a result", None)),
            };
        }
        let worst = self.parts.iter().filter_map(|part| part.end.as_ref()).max_by_key(|end| end.outcome());
        let (outcome, limit) = worst.map_or((OK, None), |end| (end.outcome(), end.limit()));
        let meter =
            Meter { cpu_us: self.cpu.as_micros() as u64, wall_us: self.arrival.accepted.elapsed().as_micros() as u64, calls: self.calls };
        Answer::Result(pack::dispatch(outcome, limit, &self.parts, &meter))
    }
}

/// What leaves for a request: the body of RESULT or of FAILED.
pub enum Answer {
    Result(Vec<u8>),
    Failed(Vec<u8>),
}

impl Answer {
    /// Kind and payload of what leaves.
    pub fn into_parts(self) -> (OutKind, Vec<u8>) {
        match self {
            Answer::Result(payload) => (OutKind::Result, payload),
            Answer::Failed(payload) => (OutKind::Failed, payload),
        }
    }
}

/// The answer to a request that was never started.
pub fn refused(arrival: &Arrival, outcome: u8, limit: Option<&'static str>) -> Answer {
    if arrival.is_check() {
        let failure = match limit {
            Some(limits::QUEUE) => pack::failure("overloaded", "too many requests of this tenant are waiting", None),
            Some(limits::MEMORY_BUDGET) => pack::failure("overloaded", "the worker is short of memory", None),
            Some(name) => pack::failure("limit_exceeded", limits::CPU_TEXT, Some(name)),
            None => pack::failure("unavailable", "the check was cancelled", None),
        };
        return Answer::Failed(failure);
    }
    let wall_us = arrival.accepted.elapsed().as_micros() as u64;
    Answer::Result(pack::dispatch(outcome, limit, &[], &Meter { wall_us, ..Meter::default() }))
}
