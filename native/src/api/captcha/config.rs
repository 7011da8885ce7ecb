//! Reads the table that `Create` is given. Every number has bounds, and an error names the field that breaks them.

use std::ffi::{CStr, c_int};
use std::fmt::Display;

use mlua::ffi;

use crate::api::captcha::filters::{Area, Filter};
use crate::api::captcha::picture::Color;
use crate::call::{Call, Fault};

const CHARS_MAX: u32 = 10;
pub const FILTERS_MAX: usize = 12;
/// Pixels of the picture's sides, and where a line's ends may be.
const SIDE_MAX: u32 = 511;
const PLACE_MAX: f64 = 2_048.0;
/// Periods of a wave, and how far it moves pixels.
const PERIODS_MAX: f64 = 1_000.0;
const AMPLITUDE_MAX: f64 = 511.0;
const THICKNESS_MAX: f64 = 100.0;
/// Circles of one filter, and their size.
pub const COUNT_MAX: u32 = 1_000;
pub const RADIUS_MAX: f64 = 255.0;

pub struct Config {
    pub chars: usize,
    pub size: (usize, usize),
    pub filters: Vec<Filter>,
    /// The filter, from 0, before which the picture is cropped to its size; after the last one if there is none.
    pub crop_at: Option<usize>,
}

impl Config {
    pub fn read(call: &Call, index: c_int) -> Result<Config, Fault> {
        call.table(index)?;
        let config = At { call, index, path: String::new() };
        let [width, height] = config.field(c"viewbox_size", |at| at.numbers([c"w", c"h"], |at| at.integer(1, SIDE_MAX)))?;
        let filters = config.field(c"filters", |at| if at.is_nil() { Ok(Vec::new()) } else { at.list(FILTERS_MAX, filter) })?;
        let count = filters.len() as u32;
        Ok(Config {
            chars: config.field(c"char_count", |at| at.integer(1, CHARS_MAX))? as usize,
            size: (width as usize, height as usize),
            filters,
            crop_at: config.field(c"set_viewbox_at_idx", |at| match (at.is_nil(), count) {
                (true, _) => Ok(None),
                (_, 0) => Err(at.wrong("there are no filters")),
                _ => at.integer(0, count - 1).map(|n| Some(n as usize)),
            })?,
        })
    }
}

fn filter(at: &At) -> Result<Filter, Fault> {
    at.table()?;
    let name = at.field(c"filter", |at| at.text())?;
    let circles = || {
        let n = at.field(c"n", |at| at.integer(0, COUNT_MAX))?;
        let min = at.field(c"min_radius", |at| at.number(0.0, RADIUS_MAX))?;
        let max = at.field(c"max_radius", |at| at.number(min, RADIUS_MAX))?;
        Ok::<_, Fault>((n, min, max))
    };
    Ok(match &*name {
        "Noise" => Filter::Noise { prob: at.field(c"prob", |at| at.number(0.0, 1.0))? },
        "Wave" => Filter::Wave {
            f: at.field(c"f", |at| at.number(-PERIODS_MAX, PERIODS_MAX))?,
            amp: at.field(c"amp", |at| at.number(-AMPLITUDE_MAX, AMPLITUDE_MAX))?,
            down: at.field(c"d", |at| match &*at.text()? {
                "horizontal" => Ok(false),
                "vertical" => Ok(true),
                other => Err(at.wrong(format_args!("horizontal or vertical is expected, got {other:?}"))),
            })?,
        },
        "Line" => {
            let place = |at: &At| at.numbers([c"x", c"y"], |at| at.number(-PLACE_MAX, PLACE_MAX)).map(|[x, y]| (x, y));
            Filter::Line {
                from: at.field(c"p1", place)?,
                to: at.field(c"p2", place)?,
                thickness: at.field(c"thickness", |at| at.number(0.0, THICKNESS_MAX))?,
                color: at.field(c"color", color)?,
            }
        }
        "RandomLine" => Filter::RandomLine,
        "Grid" => Filter::Grid {
            x_gap: at.field(c"x_gap", |at| at.integer(1, SIDE_MAX))? as usize,
            y_gap: at.field(c"y_gap", |at| at.integer(1, SIDE_MAX))? as usize,
        },
        "ColorInvert" => Filter::ColorInvert,
        "Cow" => {
            let (n, min, max) = circles()?;
            let allow_duplicates = at.field(c"allow_duplicates", |at| at.flag())?;
            Filter::Cow { n, min, max, allow_duplicates, area: at.field(c"geometry", area)? }
        }
        "Dot" => {
            let (n, min, max) = circles()?;
            Filter::Dot { n, min, max }
        }
        other => return Err(at.wrong(format_args!("there is no filter {other:?}"))),
    })
}

fn color(at: &At) -> Result<Color, Fault> {
    Ok(at.numbers([c"r", c"g", c"b"], |at| at.integer(0, 255))?.map(|part| part as u8))
}

fn area(at: &At) -> Result<Option<Area>, Fault> {
    if at.is_nil() {
        return Ok(None);
    }
    at.table()?;
    let left = at.field(c"left", |at| at.integer(0, SIDE_MAX))?;
    let right = at.field(c"right", |at| at.integer(left, SIDE_MAX))?;
    let top = at.field(c"top", |at| at.integer(0, SIDE_MAX))?;
    let bottom = at.field(c"bottom", |at| at.integer(top, SIDE_MAX))?;
    Ok(Some(Area { left, right, top, bottom }))
}

// ---- reading values of tables -----------------------------------------------------------------------------

/// A value on the stack, and how a script would name it.
struct At<'a> {
    call: &'a Call,
    index: c_int,
    path: String,
}

impl At<'_> {
    fn wrong(&self, why: impl Display) -> Fault {
        format!("deserialize error: {}: {why}", self.path).into()
    }

    fn expected(&self, what: impl Display) -> Fault {
        let got = if self.is_nil() { "nothing".into() } else { self.call.kind_name(self.index) };
        self.wrong(format_args!("{what} is expected, got {got}"))
    }

    fn is_nil(&self) -> bool {
        self.call.is_nil(self.index)
    }

    /// Reads the value that was pushed last, and removes it.
    fn pushed<T>(&self, path: String, read: impl FnOnce(&At) -> Result<T, Fault>) -> Result<T, Fault> {
        let index = self.call.top();
        let value = read(&At { call: self.call, index, path });
        self.call.set_top(index - 1);
        value
    }

    fn field<T>(&self, name: &CStr, read: impl FnOnce(&At) -> Result<T, Fault>) -> Result<T, Fault> {
        self.call.push_field(self.index, name);
        let dot = if self.path.is_empty() { "" } else { "." };
        self.pushed(format!("{}{dot}{}", self.path, name.to_string_lossy()), read)
    }

    fn item<T>(&self, place: c_int, read: impl FnOnce(&At) -> Result<T, Fault>) -> Result<T, Fault> {
        self.call.push_item(self.index, place);
        self.pushed(format!("{}[{place}]", self.path), read)
    }

    fn table(&self) -> Result<(), Fault> {
        if self.call.kind(self.index) == ffi::LUA_TTABLE { Ok(()) } else { Err(self.expected("a table")) }
    }

    fn list<T>(&self, max: usize, read: impl Fn(&At) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        self.table()?;
        let n = self.call.length(self.index);
        if n as usize > max {
            return Err(self.wrong(format_args!("at most {max} items are allowed, it has {n}")));
        }
        (1..=n).map(|place| self.item(place, &read)).collect()
    }

    /// So many numbers, as a list or by their names.
    fn numbers<T: Copy + Default, const N: usize>(
        &self,
        names: [&CStr; N],
        read: impl Fn(&At) -> Result<T, Fault>,
    ) -> Result<[T; N], Fault> {
        self.table()?;
        let mut all = [T::default(); N];
        let listed = self.call.length(self.index) > 0;
        for (place, (one, name)) in all.iter_mut().zip(names).enumerate() {
            *one = if listed { self.item(place as c_int + 1, &read)? } else { self.field(name, &read)? };
        }
        Ok(all)
    }

    fn number(&self, min: f64, max: f64) -> Result<f64, Fault> {
        if self.call.kind(self.index) != ffi::LUA_TNUMBER {
            return Err(self.expected("a number"));
        }
        let n = self.call.number(self.index)?;
        if n >= min && n <= max { Ok(n) } else { Err(self.wrong(format_args!("a number from {min} to {max} is expected, got {n}"))) }
    }

    fn integer(&self, min: u32, max: u32) -> Result<u32, Fault> {
        let n = self.number(min.into(), max.into())?;
        if n.fract() == 0.0 { Ok(n as u32) } else { Err(self.wrong(format_args!("a whole number is expected, got {n}"))) }
    }

    fn flag(&self) -> Result<bool, Fault> {
        if self.call.kind(self.index) == ffi::LUA_TBOOLEAN { Ok(self.call.truth(self.index)) } else { Err(self.expected("a boolean")) }
    }

    fn text(&self) -> Result<String, Fault> {
        if self.call.kind(self.index) == ffi::LUA_TSTRING { Ok(self.call.text(self.index)?.into()) } else { Err(self.expected("a string")) }
    }
}
