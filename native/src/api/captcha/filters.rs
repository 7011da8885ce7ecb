//! What makes a captcha harder to read for machines. Coordinates are those of the visible part, from its left upper corner.

use std::f64::consts::TAU;

use crate::api::captcha::Random;
use crate::api::captcha::picture::{Color, Picture, WHITE};
use crate::call::Fault;
use crate::offload::Meter;

/// Pixels of a circle after which the meter is asked.
const METER_PIXELS: f64 = 100_000.0;
/// Thickness and colours of the random line.
const RANDOM_LINE: (f64, f64) = (1.0, 3.0);
const GRID_COLOR: Color = [90; 3];

/// A part of the picture.
#[derive(Clone, Debug)]
pub struct Area {
    pub left: u32,
    pub right: u32,
    pub top: u32,
    pub bottom: u32,
}

#[derive(Clone, Debug)]
pub enum Filter {
    /// Each pixel gets a random colour with this probability.
    Noise {
        prob: f64,
    },
    /// Moves rows (or columns, `down`) like a wave of `f` periods.
    Wave {
        f: f64,
        amp: f64,
        down: bool,
    },
    Line {
        from: (f64, f64),
        to: (f64, f64),
        thickness: f64,
        color: Color,
    },
    /// A line from the left edge to the right one.
    RandomLine,
    Grid {
        x_gap: usize,
        y_gap: usize,
    },
    ColorInvert,
    /// Inverts the colours in spots. Where spots overlap, each inverts again if duplicates are allowed.
    Cow {
        n: u32,
        min: f64,
        max: f64,
        allow_duplicates: bool,
        area: Option<Area>,
    },
    /// Dots in random colours.
    Dot {
        n: u32,
        min: f64,
        max: f64,
    },
}

impl Filter {
    pub fn apply(&self, picture: &mut Picture, random: &mut Random, meter: &Meter) -> Result<(), Fault> {
        let margin = picture.margin as f64;
        match *self {
            Filter::Noise { prob } => {
                for pixel in &mut picture.pixels {
                    if random.unit() < prob {
                        *pixel = color(random);
                    }
                }
            }
            Filter::Wave { f, amp, down } => wave(picture, f, amp, down),
            Filter::Line { from, to, thickness, color } => {
                picture.line((from.0 + margin, from.1 + margin), (to.0 + margin, to.1 + margin), thickness / 2.0, color);
            }
            Filter::RandomLine => {
                let (width, height) = (picture.width as f64, picture.height as f64);
                let mut end = || random.between(height * 0.25, height * 0.75);
                let (left, right) = ((margin, end()), (width - margin, end()));
                let thickness = random.between(RANDOM_LINE.0, RANDOM_LINE.1);
                picture.line(left, right, thickness / 2.0, color(random));
            }
            Filter::Grid { x_gap, y_gap } => {
                let (width, margin) = (picture.width, picture.margin);
                for (at, pixel) in picture.pixels.iter_mut().enumerate() {
                    let (x, y) = (at % width, at / width);
                    if x >= margin && y >= margin && ((x - margin).is_multiple_of(x_gap) || (y - margin).is_multiple_of(y_gap)) {
                        *pixel = GRID_COLOR;
                    }
                }
            }
            Filter::ColorInvert => picture.pixels.iter_mut().for_each(invert),
            Filter::Cow { n, min, max, allow_duplicates, ref area } => {
                let mut seen = vec![false; picture.pixels.len()];
                circles(
                    picture,
                    random,
                    meter,
                    (n, min, max),
                    area.as_ref(),
                    |_| (),
                    |(), pixel, at| {
                        if allow_duplicates || !std::mem::replace(&mut seen[at], true) {
                            invert(pixel);
                        }
                    },
                )?;
            }
            Filter::Dot { n, min, max } => circles(picture, random, meter, (n, min, max), None, color, |color, pixel, _| *pixel = *color)?,
        }
        Ok(())
    }
}

fn color(random: &mut Random) -> Color {
    std::array::from_fn(|_| random.below(256) as u8)
}

fn invert(pixel: &mut Color) {
    *pixel = pixel.map(|part| 255 - part);
}

fn wave(picture: &mut Picture, f: f64, amp: f64, down: bool) {
    let (width, height) = (picture.width, picture.height);
    let old = std::mem::replace(&mut picture.pixels, vec![WHITE; width * height]);
    let size = if down { width } else { height };
    let shift = |at: usize| (amp * (TAU * f * at as f64 / size as f64).sin()).round() as isize;
    let shifts: Vec<isize> = (0..size).map(shift).collect();
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) =
                if down { (Some(x), y.checked_add_signed(shifts[x])) } else { (x.checked_add_signed(shifts[y]), Some(y)) };
            if let (Some(from_x), Some(from_y)) = (from_x.filter(|v| *v < width), from_y.filter(|v| *v < height)) {
                picture.pixels[y * width + x] = old[from_y * width + from_x];
            }
        }
    }
}

/// Paints `n` circles at random places, each with what `begin` gives for it.
fn circles<T>(
    picture: &mut Picture,
    random: &mut Random,
    meter: &Meter,
    (n, min, max): (u32, f64, f64),
    area: Option<&Area>,
    begin: impl Fn(&mut Random) -> T,
    mut paint: impl FnMut(&T, &mut Color, usize),
) -> Result<(), Fault> {
    let margin = picture.margin as f64;
    let (left, top) = area.map_or((0.0, 0.0), |a| (a.left.into(), a.top.into()));
    let whole = (picture.width as f64 - 2.0 * margin, picture.height as f64 - 2.0 * margin);
    let (right, bottom) = area.map_or(whole, |a| (a.right.into(), a.bottom.into()));
    let mut painted = 0.0;
    for _ in 0..n {
        let middle = (random.between(left, right) + margin, random.between(top, bottom) + margin);
        let (radius, with) = (random.between(min, max), begin(random));
        picture.circle(middle, radius, |pixel, at| paint(&with, pixel, at));
        painted += radius * radius * 4.0;
        if painted > METER_PIXELS {
            painted = 0.0;
            meter.check()?;
        }
    }
    Ok(())
}
