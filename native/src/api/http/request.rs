//! `Request`: what is to be sent. `send` waits for the answer and consumes the body.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};

use mlua::ffi;

use crate::api::blob::{self, Content};
use crate::api::datetime::TimeDelta;
use crate::api::http::headers::{Headers, List};
use crate::api::http::response;
use crate::api::http::url::Url;
use crate::call::{Call, Done, Fault, Named};
use crate::host;
use crate::jsonwrite;
use crate::memory::Charge;
use crate::object::{Object, tag};

const METHOD_BYTES_MAX: usize = 16;
const VERSIONS: [&str; 2] = ["HTTP/1.1", "HTTP/1.0"];
/// The longest that the host waits for an answer, and how long it does if nothing is said.
const TIMEOUT_S_MAX: i64 = 5;

pub struct Request {
    method: RefCell<String>,
    url: RefCell<Url>,
    headers: RefCell<List>,
    charge: RefCell<Option<Charge>>,
    body: RefCell<Option<Content>>,
    timeout: Cell<Option<TimeDelta>>,
    version: Cell<&'static str>,
}

impl Object for Request {
    const TAG: c_int = tag::REQUEST;
    const NAME: &'static CStr = c"Request";
    const METHODS: &'static [Named] = &[(c"send", send)];
    const FIELDS: &'static [Named] = &[
        (c"method", get_method),
        (c"url", get_url),
        (c"headers", get_headers),
        (c"body_bytes", get_body),
        (c"timeout", get_timeout),
        (c"version", get_version),
    ];
    const SETTERS: &'static [Named] = &[
        (c"method", set_method),
        (c"url", set_url),
        (c"headers", set_headers),
        (c"body_bytes", set_body),
        (c"timeout", set_timeout),
        (c"version", set_version),
    ];
}

/// `(method, url)`.
pub fn new(call: &Call) -> Done {
    let request = Request {
        method: RefCell::new(method(call, 1)?),
        url: RefCell::new(Url::at(call, 2)?),
        headers: RefCell::default(),
        charge: RefCell::default(),
        body: RefCell::default(),
        timeout: Cell::new(None),
        version: Cell::new(VERSIONS[0]),
    };
    call.push_object(request);
    Ok(1)
}

fn own(call: &Call) -> Result<&Request, Fault> {
    call.object::<Request>(1)
}

fn method(call: &Call, index: c_int) -> Result<String, Fault> {
    let method = call.text(index)?;
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(call.bad(index, "an HTTP method is expected"));
    }
    Ok(method.to_ascii_uppercase())
}

// ---- fields ---------------------------------------------------------------------------------------------

fn get_method(call: &Call) -> Done {
    call.push_bytes(own(call)?.method.borrow().as_bytes());
    Ok(1)
}

fn set_method(call: &Call) -> Done {
    own(call)?.method.replace(method(call, 2)?);
    Ok(0)
}

fn get_url(call: &Call) -> Done {
    let url = own(call)?.url.borrow().clone();
    call.push_object(url);
    Ok(1)
}

fn set_url(call: &Call) -> Done {
    own(call)?.url.replace(Url::at(call, 2)?);
    Ok(0)
}

/// A copy.
fn get_headers(call: &Call) -> Done {
    let list = own(call)?.headers.borrow().clone();
    call.push_object(Headers::new(call.state, list)?);
    Ok(1)
}

fn set_headers(call: &Call) -> Done {
    let list = call.object::<Headers>(2)?.list();
    let request = own(call)?;
    request.charge.replace(Some(Charge::new(call.state, list.weight())?));
    request.headers.replace(list);
    Ok(0)
}

/// A copy as a buffer, or nil.
fn get_body(call: &Call) -> Done {
    match &*own(call)?.body.borrow() {
        Some(body) => {
            crate::memory::ensure(call.state, body.bytes.len())?;
            call.push_buffer(&body.bytes);
        }
        None => call.push_nil(),
    }
    Ok(1)
}

/// Nothing, a text, a table as JSON, a buffer, or a blob, which is left empty.
fn set_body(call: &Call) -> Done {
    let request = own(call)?;
    let bytes = match call.kind(2) {
        ffi::LUA_TNONE | ffi::LUA_TNIL => None,
        // SAFETY: inside a function that Luau calls.
        ffi::LUA_TTABLE => Some(unsafe { jsonwrite::write_body(call.state, 2) }?),
        _ => Some(blob::take(call, 2)?),
    };
    let body = bytes.map(|bytes| Content::new(call.state, bytes)).transpose()?;
    request.body.replace(body);
    Ok(0)
}

fn get_timeout(call: &Call) -> Done {
    match own(call)?.timeout.get() {
        Some(timeout) => call.push_object(timeout),
        None => call.push_nil(),
    }
    Ok(1)
}

fn set_timeout(call: &Call) -> Done {
    let timeout = if call.is_nil(2) { None } else { Some(*call.object::<TimeDelta>(2)?) };
    if let Some(TimeDelta(span)) = timeout {
        let millis = span.num_milliseconds();
        if millis < 1 {
            return Err("Timeout must be at least one millisecond".into());
        }
        if millis > TIMEOUT_S_MAX * 1_000 {
            return Err(format!("Timeout cannot be greater than {TIMEOUT_S_MAX} seconds").into());
        }
    }
    own(call)?.timeout.set(timeout);
    Ok(0)
}

fn get_version(call: &Call) -> Done {
    call.push_bytes(own(call)?.version.get().as_bytes());
    Ok(1)
}

fn set_version(call: &Call) -> Done {
    let text = call.text(2)?;
    let version = VERSIONS.into_iter().find(|known| *known == text);
    own(call)?.version.set(version.ok_or_else(|| call.bad(2, "the version must be HTTP/1.1 or HTTP/1.0"))?);
    Ok(0)
}

// ---- sending --------------------------------------------------------------------------------------------

/// Asks the host with one table (luau-api 4.4) and makes its answer a `Response`.
fn send(call: &Call) -> Done {
    let request = own(call)?;
    crate::scheduler::can_wait(call)?;
    call.set_top(1);
    call.push_table(0, 6);
    call.push_bytes(request.method.borrow().as_bytes());
    call.set_field(2, c"method");
    call.push_bytes(request.url.borrow().text().as_bytes());
    call.set_field(2, c"url");
    let list = request.headers.borrow().clone();
    call.push_table(list.0.len(), 0);
    for (place, (name, value)) in (1..).zip(&list.0) {
        call.push_table(2, 0);
        call.push_bytes(name.as_bytes());
        call.set_item(-2, 1);
        call.push_bytes(value);
        call.set_item(-2, 2);
        call.set_item(-2, place);
    }
    call.set_field(2, c"headers");
    if let Some(body) = request.body.take() {
        // SAFETY: inside a function that Luau calls. A blob crosses as a buffer.
        unsafe { blob::push(call.state, body.into_vec())? };
        call.set_field(2, c"body");
    }
    if let Some(timeout) = request.timeout.get() {
        call.push_number(timeout.0.num_milliseconds() as f64);
        call.set_field(2, c"timeout_ms");
    }
    call.push_bytes(request.version.get().as_bytes());
    call.set_field(2, c"version");
    host::ask_then(call, "http.send", 2, 1, response::receive)
}
