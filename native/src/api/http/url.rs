//! `Url`: an address in its parts. It does not change.

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use url::Url as Parsed;

use crate::call::{Call, Done, Fault, Named};
use crate::memory::Charge;
use crate::object::{Object, tag};

/// What the host sends at most.
const BYTES_MAX: usize = 8_190;

#[derive(Clone)]
pub struct Url(Rc<(Parsed, Charge)>);

impl Url {
    pub fn parse(call: &Call, text: &str) -> Result<Url, Fault> {
        if text.len() > BYTES_MAX {
            return Err(format!("Invalid URL: it is longer than {BYTES_MAX} bytes").into());
        }
        let parsed = Parsed::parse(text).map_err(|e| Fault::from(format!("Invalid URL: {e}")))?;
        if parsed.as_str().len() > BYTES_MAX {
            return Err(format!("Invalid URL: it is longer than {BYTES_MAX} bytes once it is encoded").into());
        }
        let charge = Charge::new(call.state, parsed.as_str().len() + size_of::<(Parsed, Charge)>())?;
        Ok(Url(Rc::new((parsed, charge))))
    }

    /// A `Url`, or a text that is one.
    pub fn at(call: &Call, index: c_int) -> Result<Url, Fault> {
        match call.object_if::<Url>(index) {
            Some(url) => Ok(url.clone()),
            None => Url::parse(call, call.text(index)?),
        }
    }

    pub fn text(&self) -> &str {
        self.0.0.as_str()
    }
}

impl Object for Url {
    const TAG: c_int = tag::URL;
    const NAME: &'static CStr = c"Url";
    const FIELDS: &'static [Named] = &[
        (c"scheme", |call| part(call, |url| Some(url.scheme()))),
        (c"host", |call| part(call, Parsed::host_str)),
        (c"port", port),
        (c"path", |call| part(call, |url| Some(url.path()))),
        (c"query", |call| part(call, Parsed::query)),
        (c"fragment", |call| part(call, Parsed::fragment)),
    ];
    const OPERATORS: &'static [Named] = &[(c"__tostring", |call| part(call, |url| Some(url.as_str())))];
}

pub fn new(call: &Call) -> Done {
    let url = Url::at(call, 1)?;
    call.push_object(url);
    Ok(1)
}

fn part(call: &Call, of: impl Fn(&Parsed) -> Option<&str>) -> Done {
    match of(&call.object::<Url>(1)?.0.0) {
        Some(text) => call.push_bytes(text.as_bytes()),
        None => call.push_nil(),
    }
    Ok(1)
}

/// The port that the text names; nil for the scheme's own.
fn port(call: &Call) -> Done {
    match call.object::<Url>(1)?.0.0.port() {
        Some(port) => call.push_number(port.into()),
        None => call.push_nil(),
    }
    Ok(1)
}
