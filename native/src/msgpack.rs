//! The little of msgpack that crosses the engine's border: a bounded reader and the writers.

/// A cursor over msgpack bytes. Errors are texts for people; nothing is allocated before its bytes are there.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One item as it stands in the bytes; containers give their length only.
#[derive(Debug, PartialEq)]
pub enum Item<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    /// Only for integers past `i64::MAX`.
    UInt(u64),
    Float(f64),
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Array(usize),
    Map(usize),
    Ext(i8, &'a [u8]),
}

const SHORT: &str = "the value ends before its last byte";

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len()).ok_or(SHORT)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut all = [0; N];
        all.copy_from_slice(self.take(N)?);
        Ok(all)
    }

    fn size(&mut self, width: usize) -> Result<usize, String> {
        Ok(self.take(width)?.iter().fold(0, |n, &b| n << 8 | usize::from(b)))
    }

    /// The length of a container, checked against the bytes that are left.
    fn length(&self, n: usize, each: usize) -> Result<usize, String> {
        if n.saturating_mul(each) > self.bytes.len() - self.at { Err(SHORT.into()) } else { Ok(n) }
    }

    pub fn item(&mut self) -> Result<Item<'a>, String> {
        let tag = self.take(1)?[0];
        Ok(match tag {
            0x00..=0x7f => Item::Int(tag.into()),
            0x80..=0x8f => Item::Map(self.length(usize::from(tag & 15), 2)?),
            0x90..=0x9f => Item::Array(self.length(usize::from(tag & 15), 1)?),
            0xa0..=0xbf => Item::Str(self.take(usize::from(tag & 31))?),
            0xc0 => Item::Nil,
            0xc1 => return Err("the byte 0xc1 starts no value".into()),
            0xc2 | 0xc3 => Item::Bool(tag == 0xc3),
            0xc4..=0xc6 => {
                let n = self.size(1 << (tag - 0xc4))?;
                Item::Bin(self.take(n)?)
            }
            0xc7..=0xc9 => {
                let n = self.size(1 << (tag - 0xc7))?;
                self.ext(n)?
            }
            0xca => Item::Float(f32::from_be_bytes(self.number()?).into()),
            0xcb => Item::Float(f64::from_be_bytes(self.number()?)),
            0xcc => Item::Int(self.size(1)? as i64),
            0xcd => Item::Int(self.size(2)? as i64),
            0xce => Item::Int(self.size(4)? as i64),
            0xcf => {
                let n = u64::from_be_bytes(self.number()?);
                i64::try_from(n).map_or(Item::UInt(n), Item::Int)
            }
            0xd0 => Item::Int(i8::from_be_bytes(self.number()?).into()),
            0xd1 => Item::Int(i16::from_be_bytes(self.number()?).into()),
            0xd2 => Item::Int(i32::from_be_bytes(self.number()?).into()),
            0xd3 => Item::Int(i64::from_be_bytes(self.number()?)),
            0xd4..=0xd8 => self.ext(1 << (tag - 0xd4))?,
            0xd9..=0xdb => {
                let n = self.size(1 << (tag - 0xd9))?;
                Item::Str(self.take(n)?)
            }
            0xdc | 0xdd => {
                let n = self.size(if tag == 0xdc { 2 } else { 4 })?;
                Item::Array(self.length(n, 1)?)
            }
            0xde | 0xdf => {
                let n = self.size(if tag == 0xde { 2 } else { 4 })?;
                Item::Map(self.length(n, 2)?)
            }
            0xe0..=0xff => Item::Int((tag as i8).into()),
        })
    }

    fn ext(&mut self, n: usize) -> Result<Item<'a>, String> {
        let kind = self.take(1)?[0] as i8;
        Ok(Item::Ext(kind, self.take(n)?))
    }

    pub fn array(&mut self) -> Result<usize, String> {
        match self.item()? {
            Item::Array(n) => Ok(n),
            _ => Err("a list is expected".into()),
        }
    }

    pub fn map(&mut self) -> Result<usize, String> {
        match self.item()? {
            Item::Map(n) => Ok(n),
            _ => Err("a map is expected".into()),
        }
    }

    pub fn text(&mut self) -> Result<&'a str, String> {
        match self.item()? {
            Item::Str(s) => std::str::from_utf8(s).map_err(|_| "a text is not UTF-8".into()),
            _ => Err("a text is expected".into()),
        }
    }

    /// A text, or bytes that need not be UTF-8.
    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        match self.item()? {
            Item::Str(s) | Item::Bin(s) => Ok(s),
            _ => Err("a text is expected".into()),
        }
    }
}

// ---- writers: always the shortest form, as Python's msgpack writes it --------------------------------

pub fn nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

pub fn bool(out: &mut Vec<u8>, v: bool) {
    out.push(if v { 0xc3 } else { 0xc2 });
}

pub fn int(out: &mut Vec<u8>, v: i64) {
    match v {
        0.. => uint(out, v as u64),
        -32..=-1 => out.push(v as u8),
        -0x80..=-33 => {
            out.push(0xd0);
            out.push(v as u8);
        }
        -0x8000..=-0x81 => {
            out.push(0xd1);
            out.extend_from_slice(&(v as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2);
            out.extend_from_slice(&(v as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&v.to_be_bytes());
        }
    }
}

pub fn uint(out: &mut Vec<u8>, v: u64) {
    match v {
        0..=0x7f => out.push(v as u8),
        0x80..=0xff => {
            out.push(0xcc);
            out.push(v as u8);
        }
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(v as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(v as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&v.to_be_bytes());
        }
    }
}

pub fn float(out: &mut Vec<u8>, v: f64) {
    out.push(0xcb);
    out.extend_from_slice(&v.to_be_bytes());
}

fn head(out: &mut Vec<u8>, n: usize, tag16: u8) {
    if n <= 0xffff {
        out.push(tag16);
        out.extend_from_slice(&(n as u16).to_be_bytes());
    } else {
        out.push(tag16 + 1);
        out.extend_from_slice(&(n as u32).to_be_bytes());
    }
}

pub fn str(out: &mut Vec<u8>, v: &str) {
    match v.len() {
        n @ 0..=31 => out.push(0xa0 | n as u8),
        n @ 32..=0xff => out.extend_from_slice(&[0xd9, n as u8]),
        n => head(out, n, 0xda),
    }
    out.extend_from_slice(v.as_bytes());
}

pub fn array(out: &mut Vec<u8>, n: usize) {
    if n < 16 { out.push(0x90 | n as u8) } else { head(out, n, 0xdc) }
}

pub fn map(out: &mut Vec<u8>, n: usize) {
    if n < 16 { out.push(0x80 | n as u8) } else { head(out, n, 0xde) }
}

pub fn ext(out: &mut Vec<u8>, kind: i8, v: &[u8]) {
    match v.len() {
        n @ (1 | 2 | 4 | 8 | 16) => out.push(0xd4 + n.trailing_zeros() as u8),
        n @ 0..=0xff => out.extend_from_slice(&[0xc7, n as u8]),
        n => head(out, n, 0xc8),
    }
    out.push(kind as u8);
    out.extend_from_slice(v);
}
