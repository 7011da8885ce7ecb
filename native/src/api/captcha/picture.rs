//! A picture in red, green and blue, the text on it, and its way into a PNG.

use crate::api::captcha::Random;
use crate::api::captcha::glyphs::{GLYPHS, Glyph, HEIGHT, WIDTH};
use crate::call::Fault;

pub type Color = [u8; 3];

pub const WHITE: Color = [255; 3];

/// What lies around the visible part until the picture is cropped, so that waves find something there.
const MARGIN: usize = 24;

/// The part of the picture's height and of a character's share of its width that the character takes.
const HIGH: f64 = 0.62;
const WIDE: f64 = 0.7;
/// The part of the width that the text takes.
const ROW: f64 = 0.9;
/// Half of a stroke, in units of the character's box.
const STROKE: f64 = 0.45;
/// How far a character is turned, moved and resized at most.
const TURN: f64 = 0.3;
const MOVE: f64 = 0.12;
const RESIZE: f64 = 0.12;
/// The darkest and the brightest that a character's colours are.
const DARK: (f64, f64) = (0.0, 130.0);

pub struct Picture {
    pub width: usize,
    pub height: usize,
    /// What is still around the visible part.
    pub margin: usize,
    pub pixels: Vec<Color>,
}

impl Picture {
    /// A picture with so many random characters on white, and those characters.
    pub fn with_text(size: (usize, usize), chars: usize, random: &mut Random) -> (Picture, String) {
        let (width, height) = (size.0 + 2 * MARGIN, size.1 + 2 * MARGIN);
        let mut picture = Picture { width, height, margin: MARGIN, pixels: vec![WHITE; width * height] };
        let share = size.0 as f64 * ROW / chars as f64;
        let left = width as f64 / 2.0 - share * chars as f64 / 2.0;
        let scale = (size.1 as f64 * HIGH / HEIGHT).min(share * WIDE / WIDTH);
        let text = (0..chars).map(|place| {
            let glyph = &GLYPHS[random.below(GLYPHS.len())];
            let middle = left + share * (place as f64 + 0.5);
            picture.draw(glyph, (middle, height as f64 / 2.0), scale, random);
            glyph.name
        });
        let text = text.collect();
        (picture, text)
    }

    fn draw(&mut self, glyph: &Glyph, middle: (f64, f64), scale: f64, random: &mut Random) {
        let color = std::array::from_fn(|_| random.between(DARK.0, DARK.1) as u8);
        let (sin, cos) = random.between(-TURN, TURN).sin_cos();
        let size = scale * random.between(1.0 - RESIZE, 1.0 + RESIZE);
        let x = middle.0 + random.between(-MOVE, MOVE) * scale * WIDTH;
        let y = middle.1 + random.between(-MOVE, MOVE) * scale * HEIGHT;
        let place = |(px, py): (f64, f64)| {
            let (px, py) = ((px - WIDTH / 2.0) * size, (py - HEIGHT / 2.0) * size);
            (x + px * cos - py * sin, y + px * sin + py * cos)
        };
        for (from, to) in glyph.pieces() {
            self.line(place(from), place(to), (scale * STROKE).max(0.5), color);
        }
    }

    /// Draws a line with round ends and soft edges.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), half: f64, color: Color) {
        let edge = half + 1.0;
        let (dx, dy) = (x2 - x1, y2 - y1);
        let length = dx * dx + dy * dy;
        let rows = range(y1.min(y2) - edge, y1.max(y2) + edge, self.height);
        for row in rows {
            for column in range(x1.min(x2) - edge, x1.max(x2) + edge, self.width) {
                let (px, py) = (column as f64 + 0.5 - x1, row as f64 + 0.5 - y1);
                let along = if length > 0.0 { ((px * dx + py * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
                let away = (px - along * dx).hypot(py - along * dy);
                self.mix(column, row, color, (half + 0.5 - away).clamp(0.0, 1.0));
            }
        }
    }

    /// Calls `each` with the index of every pixel inside a circle.
    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, mut each: impl FnMut(&mut Color, usize)) {
        for row in range(y - radius, y + radius, self.height) {
            let dy = row as f64 + 0.5 - y;
            let half = (radius * radius - dy * dy).max(0.0).sqrt();
            for column in range(x - half, x + half, self.width) {
                let at = row * self.width + column;
                each(&mut self.pixels[at], at);
            }
        }
    }

    fn mix(&mut self, x: usize, y: usize, color: Color, part: f64) {
        let pixel = &mut self.pixels[y * self.width + x];
        for (old, new) in pixel.iter_mut().zip(color) {
            *old = (f64::from(*old) * (1.0 - part) + f64::from(new) * part) as u8;
        }
    }

    /// Keeps the visible part only.
    pub fn crop(&mut self) {
        let margin = std::mem::take(&mut self.margin);
        let (width, height) = (self.width - 2 * margin, self.height - 2 * margin);
        let rows = self.pixels.chunks_exact(self.width).skip(margin).take(height);
        self.pixels = rows.flat_map(|row| &row[margin..margin + width]).copied().collect();
        (self.width, self.height) = (width, height);
    }

    pub fn png(&self) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(self.pixels.as_flattened())?;
            writer.finish()
        });
        written.map_err(|e| Fault::from(format!("the picture cannot be written: {e}")))?;
        Ok(out)
    }
}

/// The pixels between two places, as far as there are any.
fn range(low: f64, high: f64, size: usize) -> std::ops::Range<usize> {
    let clamp = |v: f64| v.clamp(0.0, size as f64) as usize;
    clamp(low.floor())..clamp(high.ceil())
}
