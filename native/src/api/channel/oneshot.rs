//! `OneshotChannel`: one value from one thread to another; `selectoneshots` waits for several of them.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::seconds;
use crate::call::{Call, Done, Fault, Named};
use crate::object::{Object, tag};
use crate::park::park;
use crate::scheduler;

/// The longest time that a receiver may give.
const TIMEOUT_MAX_S: f64 = 7.0;
/// Channels in one `selectoneshots`.
const SELECT_MAX: usize = 10_000;

const USED: &str = "Channel already used";

/// Who waits, for one channel or several.
struct Receiver {
    /// The number of the wait.
    wait: Cell<u64>,
    end: Option<Instant>,
    /// Places of the channels that have a value, in the order of their sending.
    done: RefCell<Vec<usize>>,
}

#[derive(Default)]
enum State {
    #[default]
    New,
    /// The value waits for its receiver; which sending of the VM it was.
    Sent(u64),
    /// The receiver waits for the value, with the channel at this place.
    Waited(Rc<Receiver>, usize),
    /// The receiver is gone, and nothing was sent.
    Dropped,
    Used,
}

pub struct Oneshot {
    state: RefCell<State>,
    received: Cell<bool>,
}

impl Object for Oneshot {
    const TAG: c_int = tag::ONESHOT;
    const NAME: &'static CStr = c"OneshotChannel";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[(c"send", send), (c"recv", recv), (c"recvtimeout", recv_timeout)];
}

/// What `selectoneshots` waits with; scripts never see it.
struct Selection(Rc<Receiver>);

impl Object for Selection {
    const TAG: c_int = tag::SELECTION;
    const NAME: &'static CStr = c"Selection";
}

/// Place of the value in a channel's own table.
const VALUE: c_int = 1;

pub fn new(call: &Call) -> Done {
    call.push_object(Oneshot { state: RefCell::default(), received: Cell::new(false) });
    Ok(1)
}

fn send(call: &Call) -> Done {
    call.set_top(2);
    let vm = scheduler::vm();
    let channel = call.object::<Oneshot>(1)?;
    let receiver = match channel.state.replace(State::Used) {
        State::New => None,
        State::Waited(receiver, place) if vm.is_parked(receiver.wait.get()) => Some((receiver, place)),
        State::Waited(..) | State::Dropped => return Err("Failed to send value: receiver dropped".into()),
        sent @ State::Sent(_) => {
            channel.state.replace(sent);
            return Err(USED.into());
        }
        State::Used => return Err(USED.into()),
    };
    call.push_values(1);
    call.push_value(2);
    call.set_item(3, VALUE);
    vm.sendings.set(vm.sendings.get() + 1);
    channel.state.replace(State::Sent(vm.sendings.get()));
    if let Some((receiver, place)) = receiver {
        receiver.done.borrow_mut().push(place);
        vm.unpark(receiver.wait.get());
    }
    Ok(0)
}

/// Marks a channel as received from; false if it was before.
fn begin(channel: &Oneshot) -> bool {
    !channel.received.replace(true)
}

fn recv(call: &Call) -> Done {
    receive(call, None)
}

fn recv_timeout(call: &Call) -> Done {
    let end = timeout(call, 2)?;
    receive(call, Some(end))
}

fn timeout(call: &Call, index: c_int) -> Result<Instant, Fault> {
    let seconds = seconds(call, index)?;
    if seconds > TIMEOUT_MAX_S {
        return Err("Timeout cannot be greater than the max timeout".into());
    }
    Ok(Instant::now() + Duration::from_secs_f64(seconds.max(0.0)))
}

/// Waits with a selection of one channel, at index 1 with its selection at index 2.
fn receive(call: &Call, end: Option<Instant>) -> Done {
    let channel = call.object::<Oneshot>(1)?;
    let receiver = Rc::new(Receiver { wait: Cell::new(0), end, done: RefCell::default() });
    call.set_top(1);
    call.push_object(Selection(receiver.clone()));
    if !begin(channel) {
        return Err(USED.into());
    }
    if attach(channel, &receiver, 0).is_some() {
        receiver.done.borrow_mut().push(0);
    }
    go_on_receiving(call)
}

/// The value is awaited from here on; gives the sending of one that is there.
fn attach(channel: &Oneshot, receiver: &Rc<Receiver>, place: usize) -> Option<u64> {
    let mut state = channel.state.borrow_mut();
    match *state {
        State::New => *state = State::Waited(receiver.clone(), place),
        State::Sent(sending) => return Some(sending),
        State::Waited(..) | State::Dropped | State::Used => {}
    }
    None
}

/// No value is awaited any more.
fn detach(channel: &Oneshot) {
    let mut state = channel.state.borrow_mut();
    *state = if matches!(*state, State::Sent(_) | State::Used) { State::Used } else { State::Dropped };
}

fn go_on_receiving(call: &Call) -> Done {
    let channel = call.object::<Oneshot>(1)?;
    let receiver = call.object::<Selection>(2)?.0.clone();
    if receiver.done.borrow().is_empty() {
        return match left(&receiver) {
            Some(Duration::ZERO) => {
                detach(channel);
                Err("Receive timed out".into())
            }
            left => wait(call, 2, go_on_receiving, &receiver, left).inspect_err(|_| detach(channel)),
        };
    }
    detach(channel);
    take_value(call, 1);
    Ok(1)
}

fn left(receiver: &Receiver) -> Option<Duration> {
    receiver.end.map(|end| end.saturating_duration_since(Instant::now()))
}

fn wait(call: &Call, n: c_int, then: crate::call::Function, receiver: &Rc<Receiver>, left: Option<Duration>) -> Done {
    park(call, n, then, left, |wait| receiver.wait.set(wait))
}

/// Pushes the value of the channel at `index` and lets go of it.
fn take_value(call: &Call, index: c_int) {
    call.push_values(index);
    let values = call.top();
    call.push_item(values, VALUE);
    call.push_nil();
    call.set_item(values, VALUE);
}

// ---- several -------------------------------------------------------------------------------------------

/// `selectoneshots(channels, timeout)`: one deadline for all of them.
pub fn select(call: &Call) -> Done {
    call.set_top(2);
    call.table(1)?;
    let end = timeout(call, 2)?;
    let n = call.length(1) as usize;
    if n > SELECT_MAX {
        return Err(call.bad(1, format!("at most {SELECT_MAX} channels are allowed, it has {n}")));
    }
    let receiver = Rc::new(Receiver { wait: Cell::new(0), end: Some(end), done: RefCell::default() });
    call.push_object(Selection(receiver.clone()));
    call.push_values(3);
    let mut sent = Vec::new();
    for place in 1..=n {
        call.push_item(1, place as c_int);
        let refused = match call.object_if::<Oneshot>(5) {
            None => Some(call.bad(1, "a list of OneshotChannel is expected")),
            Some(channel) if !begin(channel) => Some(USED.into()),
            Some(channel) => {
                sent.extend(attach(channel, &receiver, place).map(|sending| (sending, place)));
                None
            }
        };
        if let Some(fault) = refused {
            give_back(call, place as c_int - 1);
            return Err(fault);
        }
        call.set_item(4, place as c_int);
    }
    sent.sort_unstable();
    *receiver.done.borrow_mut() = sent.into_iter().map(|(_, place)| place).collect();
    // The selection holds the channels: the list is the script's own and may change.
    call.set_top(3);
    call.push_number(n as f64);
    go_on_selecting(call)
}

/// The first `n` channels at index 4 have not been received from after all.
fn give_back(call: &Call, n: c_int) {
    for place in 1..=n {
        call.set_top(4);
        call.push_item(4, place);
        if let Some(channel) = call.object_if::<Oneshot>(5) {
            channel.received.set(false);
            let mut state = channel.state.borrow_mut();
            if matches!(*state, State::Waited(..)) {
                *state = State::New;
            }
        }
    }
}

/// The selection is at index 3, the number of its channels at 4.
fn go_on_selecting(call: &Call) -> Done {
    let receiver = call.object::<Selection>(3)?.0.clone();
    let n = call.number(4)? as usize;
    if receiver.done.borrow().len() < n {
        let left = left(&receiver);
        if left != Some(Duration::ZERO) {
            let waiting = wait(call, 4, go_on_selecting, &receiver, left);
            if waiting.is_err() {
                finish(call, &receiver, n);
            }
            return waiting;
        }
    }
    finish(call, &receiver, n);
    Ok(2)
}

/// Pushes the values in the order of their sending, and whether some are missing. All channels are used up.
fn finish(call: &Call, receiver: &Receiver, n: usize) {
    let done = receiver.done.take();
    call.set_top(4);
    call.push_values(3);
    call.push_table(done.len(), 0);
    for (i, place) in done.iter().enumerate() {
        call.push_item(5, *place as c_int);
        take_value(call, 7);
        call.set_item(6, i as c_int + 1);
        call.set_top(6);
    }
    for place in 1..=n {
        call.push_item(5, place as c_int);
        if let Some(channel) = call.object_if::<Oneshot>(7) {
            detach(channel);
        }
        call.set_top(6);
    }
    call.push_bool(done.len() < n);
}
