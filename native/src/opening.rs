//! The first event of a VM alone, where the engine is told so (`opening_ms`).
//!
//! A program that is one function for all events makes at its first event what the later ones use: it reads a store, and
//! keeps what it found. Reading waits, and a second event that came meanwhile would make everything once more. So
//! events wait until the first one has its answer, but not for long: one that never ends must not hold up the others.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::request::{Arrival, What};

#[derive(Clone, Copy)]
enum State {
    /// No event has come yet.
    New,
    /// This request runs alone until its answer, or until then.
    Alone(u64, Instant),
    Over,
}

/// Whether a VM takes further requests.
pub struct Opening(Cell<State>);

impl Default for Opening {
    fn default() -> Self {
        Opening(Cell::new(State::New))
    }
}

impl Opening {
    /// Whether a request may start now.
    pub fn admits(&self) -> bool {
        if let State::Alone(_, until) = self.0.get() {
            if Instant::now() < until {
                return false;
            }
            self.0.set(State::Over);
        }
        true
    }

    /// A request starts, which runs alone for at most `alone` if it is the first event. Scripts share nothing with events.
    pub fn begin(&self, arrival: &Arrival, alone: Duration) {
        if matches!((self.0.get(), &arrival.what), (State::New, What::Event)) {
            self.0.set(if alone.is_zero() { State::Over } else { State::Alone(arrival.id, Instant::now() + alone) });
        }
    }

    /// A request has its answer.
    pub fn end(&self, request: u64) {
        if matches!(self.0.get(), State::Alone(first, _) if first == request) {
            self.0.set(State::Over);
        }
    }

    /// When the others need no longer wait.
    pub fn until(&self) -> Option<Instant> {
        if let State::Alone(_, until) = self.0.get() { Some(until) } else { None }
    }
}
