//! `DelayChannel`: values that come out after a time of their own each. The channel has one timer at most, that of the
//! thread that waits for the next item.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::heap::{ITEMS_MAX, Items, Key};
use super::seconds;
use crate::call::{Call, Done, Fault, Named};
use crate::limits;
use crate::memory::Charge;
use crate::object::{Object, tag};
use crate::park::park;
use crate::scheduler;

/// No delay is longer.
const DELAY_MAX_S: f64 = 100.0 * 366.0 * 86_400.0;
/// What an item holds outside Luau's heap, about.
const ITEM_BYTES: usize = 64;
/// What a channel holds there besides.
const QUEUE_BYTES: usize = 256;

struct Queue {
    items: RefCell<Items>,
    /// The wait of the thread that waits for the next item.
    waiter: Cell<u64>,
    /// For as many items as the channel has had at once.
    charges: RefCell<Vec<Charge>>,
    _charge: Charge,
}

/// Items that are charged at once.
const CHARGED_ITEMS: usize = 64;

pub struct Delay(Rc<Queue>);

impl Object for Delay {
    const TAG: c_int = tag::DELAY;
    const NAME: &'static CStr = c"DelayChannel";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[(c"add", add), (c"next", next), (c"clear", clear)];
    const OPERATORS: &'static [Named] = &[(c"__len", len)];
}

pub struct KeyHandle {
    queue: Weak<Queue>,
    key: Key,
}

impl Object for KeyHandle {
    const TAG: c_int = tag::KEY_HANDLE;
    const NAME: &'static CStr = c"KeyHandle";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[(c"cancel", cancel)];
    const OPERATORS: &'static [Named] = &[(c"__eq", eq)];
}

pub fn new(call: &Call) -> Done {
    let queue = Queue {
        items: RefCell::default(),
        waiter: Cell::new(0),
        charges: RefCell::default(),
        _charge: Charge::new(call.state, QUEUE_BYTES)?,
    };
    call.push_object(Delay(Rc::new(queue)));
    Ok(1)
}

/// Place of an item's value in the channel's own table.
fn place(key: Key) -> c_int {
    key.slot as c_int + 1
}

fn add(call: &Call) -> Done {
    let seconds = seconds(call, 3)?;
    if seconds < 0.0 {
        return Err("Delay cannot be negative".into());
    }
    call.set_top(2);
    let queue = call.object::<Delay>(1)?.0.clone();
    let at = Instant::now() + Duration::from_secs_f64(seconds.min(DELAY_MAX_S));
    if queue.charges.borrow().len() * CHARGED_ITEMS <= queue.items.borrow().len() {
        let charge = Charge::new(call.state, CHARGED_ITEMS * ITEM_BYTES)?;
        queue.charges.borrow_mut().push(charge);
    }
    call.push_values(1);
    let key = queue
        .items
        .borrow_mut()
        .add(at)
        .ok_or_else(|| Fault::limit(limits::SIZE, format!("a DelayChannel holds at most {ITEMS_MAX} items (limit: size)")))?;
    call.push_value(2);
    call.set_item(3, place(key));
    let earliest = queue.items.borrow_mut().next().is_some_and(|(_, next)| next == key);
    if earliest {
        scheduler::vm().unpark(queue.waiter.get());
    }
    call.push_object(KeyHandle { queue: Rc::downgrade(&queue), key });
    call.share_values(3);
    Ok(1)
}

fn next(call: &Call) -> Done {
    let queue = &call.object::<Delay>(1)?.0;
    if scheduler::vm().is_parked(queue.waiter.get()) {
        return Err("another thread waits for the next item of this channel".into());
    }
    go_on(call)
}

fn go_on(call: &Call) -> Done {
    call.set_top(1);
    let queue = call.object::<Delay>(1)?.0.clone();
    let now = Instant::now();
    let next = queue.items.borrow_mut().next();
    match next {
        Some((at, key)) if at <= now => {
            queue.items.borrow_mut().remove(key);
            call.push_values(1);
            take_value(call, 2, key);
            Ok(1)
        }
        next => park(call, 1, go_on, next.map(|(at, _)| at - now), |wait| queue.waiter.set(wait)),
    }
}

/// Pushes the value of an item and removes it from the table at `index`.
fn take_value(call: &Call, index: c_int, key: Key) {
    call.push_item(index, place(key));
    call.push_nil();
    call.set_item(index, place(key));
}

fn clear(call: &Call) -> Done {
    call.set_top(1);
    call.object::<Delay>(1)?.0.items.borrow_mut().clear();
    call.push_values(1);
    call.clear(2);
    Ok(0)
}

fn len(call: &Call) -> Done {
    call.push_number(call.object::<Delay>(1)?.0.items.borrow().len() as f64);
    Ok(1)
}

// ---- handles --------------------------------------------------------------------------------------------

/// `handle:cancel()`: true and the value, if the item was still there.
fn cancel(call: &Call) -> Done {
    call.set_top(1);
    let handle = call.object::<KeyHandle>(1)?;
    let queue = handle.queue.upgrade().ok_or("the channel has been dropped")?;
    let had = queue.items.borrow_mut().remove(handle.key);
    call.push_values(1);
    call.push_bool(had);
    if had {
        take_value(call, 2, handle.key);
    } else {
        call.push_nil();
    }
    Ok(2)
}

fn eq(call: &Call) -> Done {
    let same = match (call.object_if::<KeyHandle>(1), call.object_if::<KeyHandle>(2)) {
        (Some(a), Some(b)) => a.key == b.key && a.queue.ptr_eq(&b.queue),
        _ => false,
    };
    call.push_bool(same);
    Ok(1)
}
