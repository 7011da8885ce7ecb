//! The characters of captchas as strokes: letters and digits that nobody takes for each other, however they are bent.

/// How many units wide and high a character is.
pub const WIDTH: f64 = 4.0;
pub const HEIGHT: f64 = 6.0;

pub struct Glyph {
    pub name: char,
    /// Lines of points, each two digits: its place from the left and from the top.
    lines: &'static [&'static str],
}

impl Glyph {
    /// The straight pieces of all strokes.
    pub fn pieces(&self) -> impl Iterator<Item = ((f64, f64), (f64, f64))> {
        let point = |pair: &[u8]| (f64::from(pair[0] - b'0'), f64::from(pair[1] - b'0'));
        self.lines
            .iter()
            .flat_map(move |line| line.as_bytes().windows(4).step_by(2).map(move |four| (point(&four[..2]), point(&four[2..]))))
    }
}

const fn glyph(name: char, lines: &'static [&'static str]) -> Glyph {
    Glyph { name, lines }
}

pub static GLYPHS: [Glyph; 24] = [
    glyph('A', &["062046", "1434"]),
    glyph('C', &["4130100105163645"]),
    glyph('D', &["00063645413000"]),
    glyph('E', &["40000646", "0333"]),
    glyph('F', &["400006", "0333"]),
    glyph('H', &["0006", "4046", "0343"]),
    glyph('J', &["404536160504"]),
    glyph('K', &["0006", "400346"]),
    glyph('L', &["000646"]),
    glyph('M', &["0600234046"]),
    glyph('N', &["06004640"]),
    glyph('P', &["06003041423303"]),
    glyph('R', &["06003041423303", "2346"]),
    glyph('T', &["0040", "2026"]),
    glyph('U', &["000516364540"]),
    glyph('V', &["002640"]),
    glyph('W', &["0016223640"]),
    glyph('X', &["0046", "4006"]),
    glyph('Y', &["002340", "2326"]),
    glyph('3', &["01103041423313", "334445361605"]),
    glyph('4', &["36300444"]),
    glyph('6', &["413010010516364544331304"]),
    glyph('7', &["004016"]),
    glyph('9', &["051636454130100102133342"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_is_drawn_inside_its_box() {
        for glyph in &GLYPHS {
            assert!(glyph.lines.iter().all(|line| line.len() >= 4 && line.len().is_multiple_of(2)), "{}", glyph.name);
            for (a, b) in glyph.pieces() {
                assert!([a, b].iter().all(|(x, y)| *x <= WIDTH && *y <= HEIGHT), "{}", glyph.name);
                assert_ne!(a, b, "{}", glyph.name);
            }
        }
    }
}
