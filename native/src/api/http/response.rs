//! `Response`: what came back. Its content is taken once: as a text, as the values of JSON, or as a blob.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};

use mlua::ffi;

use crate::api::blob::{self, Blob, Content};
use crate::api::http::headers::{Headers, List};
use crate::api::http::url::Url;
use crate::call::{Call, Done, Fault, Named};
use crate::json;
use crate::memory::{self, Charge};
use crate::object::{Object, tag};

/// More headers than this are no answer.
const HEADERS_MAX: c_int = 1_024;

struct Response {
    url: Url,
    status: f64,
    content_length: Option<f64>,
    headers: List,
    _charge: Charge,
    /// Nothing once it is taken.
    content: RefCell<Option<Content>>,
}

impl Object for Response {
    const TAG: c_int = tag::RESPONSE;
    const NAME: &'static CStr = c"Response";
    const METHODS: &'static [Named] = &[(c"text", text), (c"json", json), (c"blob", to_blob)];
    const FIELDS: &'static [Named] = &[(c"url", url), (c"status", status), (c"content_length", content_length), (c"headers", headers)];
}

/// Makes the host's answer a `Response`; what a script resumed the thread with instead stays as it is.
pub fn receive(call: &Call) -> Done {
    if call.kind(1) != ffi::LUA_TTABLE {
        return Ok(call.count());
    }
    let unreadable = || Fault::from("the host's answer is no response");
    let answer = call.top();
    let number = |name| {
        let kind = call.push_field(1, name);
        if kind == ffi::LUA_TNUMBER { call.number(-1).map(Some) } else { Ok(None) }
    };
    let status = number(c"status")?.ok_or_else(unreadable)?;
    let content_length = number(c"content_length")?;
    call.push_field(1, c"url");
    let url = Url::parse(call, call.text(-1)?)?;
    call.set_top(answer);
    if call.push_field(1, c"headers") != ffi::LUA_TTABLE || call.length(-1) > HEADERS_MAX {
        return Err(unreadable());
    }
    let mut list = List::default();
    for place in 1..=call.length(answer + 1) {
        call.set_top(answer + 1);
        if call.push_item(answer + 1, place) != ffi::LUA_TTABLE {
            return Err(unreadable());
        }
        call.push_item(-1, 1);
        call.push_item(-2, 2);
        list.0.push((call.text(-2)?.to_ascii_lowercase(), call.bytes(-1)?.to_vec()));
    }
    call.set_top(answer);
    call.push_field(1, c"body");
    let bytes = call.object_if::<Blob>(-1).ok_or_else(unreadable)?.take()?;
    let content = RefCell::new(Some(Content::new(call.state, bytes)?));
    let charge = Charge::new(call.state, list.weight())?;
    call.push_object(Response { url, status, content_length, headers: list, _charge: charge, content });
    Ok(1)
}

fn own(call: &Call) -> Result<&Response, Fault> {
    call.object::<Response>(1)
}

// ---- fields ---------------------------------------------------------------------------------------------

fn url(call: &Call) -> Done {
    let url = own(call)?.url.clone();
    call.push_object(url);
    Ok(1)
}

fn status(call: &Call) -> Done {
    call.push_number(own(call)?.status);
    Ok(1)
}

fn content_length(call: &Call) -> Done {
    match own(call)?.content_length {
        Some(n) => call.push_number(n),
        None => call.push_nil(),
    }
    Ok(1)
}

/// A copy.
fn headers(call: &Call) -> Done {
    let list = own(call)?.headers.clone();
    call.push_object(Headers::new(call.state, list)?);
    Ok(1)
}

// ---- content --------------------------------------------------------------------------------------------

fn take(call: &Call) -> Result<Vec<u8>, Fault> {
    let content = own(call)?.content.take().ok_or("Response has been exhausted")?;
    Ok(content.into_vec())
}

/// What is not UTF-8 is replaced.
fn text(call: &Call) -> Done {
    let bytes = take(call)?;
    let text = String::from_utf8_lossy(&bytes);
    memory::ensure(call.state, text.len())?;
    call.push_bytes(text.as_bytes());
    Ok(1)
}

fn json(call: &Call) -> Done {
    let bytes = take(call)?;
    // SAFETY: inside a function that Luau calls.
    unsafe { json::push_text(call.state, json::LAZY, &bytes) }.map_err(|fault| fault.of("deserialize error"))?;
    Ok(1)
}

fn to_blob(call: &Call) -> Done {
    blob::give(call, take(call)?)
}
