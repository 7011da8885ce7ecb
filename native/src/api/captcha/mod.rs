//! `ctx.ImageCaptcha`: a short text and a picture of it that people can read, drawn on a background thread.

use mlua::ffi::lua_State;

use crate::api;
use crate::call::{Call, Done, Fault};
use crate::offload::{self, Meter, Output};

mod config;
mod filters;
mod glyphs;
mod picture;

use config::Config;
use picture::Picture;

/// About what a job holds until it has begun.
const CONFIG_BYTES: usize = size_of::<Config>() + config::FILTERS_MAX * size_of::<filters::Filter>();

/// Pushes the read-only table behind `ctx.ImageCaptcha`, one per VM.
///
/// # Safety
/// Inside a function that Luau calls.
pub unsafe fn push(state: *mut lua_State) {
    // SAFETY: by the caller.
    unsafe { api::push_kept(state, c"pytw.captcha", &[(c"Create", create)]) }
}

fn create(call: &Call) -> Done {
    let config = Config::read(call, 1)?;
    offload::wait(call, CONFIG_BYTES, move |meter| {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|e| Fault::from(format!("no random numbers: {e}")))?;
        let (text, image) = make(&config, u64::from_le_bytes(seed), meter)?;
        Ok(Output::new(image.len(), move |call| {
            call.push_table(0, 2);
            call.push_bytes(text.as_bytes());
            call.set_field(-2, c"text");
            call.push_buffer(&image);
            call.set_field(-2, c"image");
            call.freeze(-1);
            Ok(1)
        }))
    })
}

/// The text and the picture, as a PNG; the same for the same seed.
fn make(config: &Config, seed: u64, meter: &Meter) -> Result<(String, Vec<u8>), Fault> {
    let mut random = Random(seed);
    let (mut picture, text) = Picture::with_text(config.size, config.chars, &mut random);
    for (index, filter) in config.filters.iter().enumerate() {
        if config.crop_at == Some(index) {
            picture.crop();
        }
        filter.apply(&mut picture, &mut random, meter)?;
        meter.check()?;
    }
    picture.crop();
    Ok((text, picture.png()?))
}

/// SplitMix64: what is drawn follows from the seed alone.
pub struct Random(u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::config::Config;
    use super::filters::Filter;
    use super::*;

    fn plain(chars: usize, size: (usize, usize), filters: Vec<Filter>) -> Config {
        Config { chars, size, filters, crop_at: None }
    }

    #[test]
    fn a_seed_tells_the_whole_picture() {
        let config = plain(6, (220, 110), vec![Filter::Noise { prob: 0.1 }, Filter::RandomLine]);
        let meter = Meter::up_to(std::time::Duration::MAX);
        let first = make(&config, 7, &meter).unwrap();
        assert_eq!(first, make(&config, 7, &meter).unwrap());
        assert_ne!(first.0, make(&config, 8, &meter).unwrap().0);
        assert_eq!(first.0.len(), 6);
        assert_eq!(&first.1[..8], b"\x89PNG\r\n\x1a\n");
    }

    #[test]
    fn every_size_and_number_of_characters_can_be_drawn() {
        let meter = Meter::up_to(std::time::Duration::MAX);
        for size in [(1, 1), (511, 1), (1, 511), (511, 511), (40, 20)] {
            for chars in [1, 10] {
                make(&plain(chars, size, vec![Filter::Wave { f: 1.0, amp: 500.0, down: true }]), 1, &meter).unwrap();
            }
        }
    }

    #[test]
    fn the_slowest_picture_ends() {
        let slow = || Filter::Dot { n: config::COUNT_MAX, min: config::RADIUS_MAX, max: config::RADIUS_MAX };
        let config = plain(10, (511, 511), (0..config::FILTERS_MAX).map(|_| slow()).collect());
        let fault = make(&config, 1, &Meter::up_to(std::time::Duration::from_millis(20))).unwrap_err();
        assert!(fault.text.contains("(limit: cpu)"));
    }
}
