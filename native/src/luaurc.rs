//! `.luaurc`: the aliases that a folder gives to what lies beside and below it.
//!
//! Two notations, one reader: JSON as lenient as Luau's own (comments, trailing commas), `{"aliases": {"x": "./y"}}`; and
//! a Luau config that is a literal table, `return { luau = { aliases = { x = "./y" } } }`. No code runs: a config that
//! computes is refused.

use rustc_hash::FxHashMap;

/// Longer files are not read.
pub const CONFIG_BYTES_MAX: usize = 65_536;
/// Longer values of aliases are refused.
const VALUE_BYTES_MAX: usize = 512;
const DEPTH_MAX: usize = 16;
const ONLY_LITERALS: &str = "a Luau config must be one literal table, `return { luau = { aliases = { ... } } }`";

/// What each alias stands for, by its name in lower case.
pub type Aliases = FxHashMap<Box<str>, Box<str>>;

/// The aliases of a config, or `LINE: CAUSE`; what is wrong in JSON begins with that word.
pub fn parse(text: &[u8]) -> Result<Aliases, String> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(format!("1: the file is longer than {CONFIG_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "1: the file is not UTF-8")?;
    let mut config = Reader { text, at: 0, is_json: false, aliases: Aliases::default() };
    match config.file() {
        Ok(()) => Ok(config.aliases),
        Err(cause) => {
            let line = 1 + text[..config.at].matches('\n').count();
            Err(format!("{line}: {}{cause}", if config.is_json { "JSON: " } else { "" }))
        }
    }
}

/// Where a value stands, as far as that matters.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    /// The field `luau` of a Luau config.
    Luau,
    Aliases,
    Elsewhere,
}

impl Place {
    fn of_field(self, key: &str) -> Place {
        match (self, key) {
            (Place::Top | Place::Luau, "aliases") => Place::Aliases,
            (Place::Top, "luau") => Place::Luau,
            _ => Place::Elsewhere,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// What stands in the file so far can only be meant as JSON.
    is_json: bool,
    aliases: Aliases,
}

type Read<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn file(&mut self) -> Read<()> {
        self.skip()?;
        if self.word() == "return" {
            self.at += "return".len();
            self.skip()?;
        } else {
            self.is_json = self.rest().starts_with(['{', '[', '"']);
        }
        if !self.rest().starts_with('{') {
            return Err(if self.is_json { "'{' is expected" } else { ONLY_LITERALS }.into());
        }
        self.table(Place::Top, 0)?;
        self.take(';')?;
        if self.rest().is_empty() { Ok(()) } else { Err("nothing may follow the table".into()) }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blanks and comments.
    fn skip(&mut self) -> Read<()> {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            self.at += blanks;
            let rest = &rest[blanks..];
            let past = |open: usize, end: &str| rest[open..].find(end).map(|n| open + n + end.len());
            let comment = if rest.starts_with("--[[") {
                past(4, "]]").ok_or("the comment does not end")?
            } else if rest.starts_with("/*") {
                past(2, "*/").ok_or("the comment does not end")?
            } else if rest.starts_with("--") || rest.starts_with("//") {
                past(2, "\n").unwrap_or(rest.len())
            } else {
                return Ok(());
            };
            self.at += comment;
        }
    }

    /// Takes the character and what can be skipped after it, if it stands here.
    fn take(&mut self, c: char) -> Read<bool> {
        if !self.rest().starts_with(c) {
            return Ok(false);
        }
        self.at += c.len_utf8();
        self.skip()?;
        Ok(true)
    }

    fn expect(&mut self, c: char) -> Read<()> {
        if self.take(c)? { Ok(()) } else { Err(format!("'{c}' is expected")) }
    }

    /// The name or number that stands here; empty for none.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+'))).unwrap_or(rest.len());
        &rest[..end]
    }

    fn table(&mut self, place: Place, depth: usize) -> Read<()> {
        if depth == DEPTH_MAX {
            return Err(format!("tables are nested deeper than {DEPTH_MAX}"));
        }
        self.expect('{')?;
        while !self.take('}')? {
            self.entry(place, depth)?;
            if !self.take(',')? && !self.take(';')? && !self.rest().starts_with('}') {
                return Err("',' or '}' is expected".into());
            }
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Read<()> {
        if depth == DEPTH_MAX {
            return Err(format!("lists are nested deeper than {DEPTH_MAX}"));
        }
        self.expect('[')?;
        while !self.take(']')? {
            self.value(Place::Elsewhere, depth + 1)?;
            if !self.take(',')? && !self.rest().starts_with(']') {
                return Err("',' or ']' is expected".into());
            }
        }
        Ok(())
    }

    /// `"key": value`, `key = value`, `["key"] = value`, or a value alone.
    fn entry(&mut self, place: Place, depth: usize) -> Read<()> {
        let start = self.at;
        let key = if self.take('[')? {
            let key = self.string()?.ok_or("a string is expected as the key")?;
            self.expect(']')?;
            key
        } else if let Some(key) = self.string()? {
            key
        } else {
            let name = self.word().to_string();
            self.at += name.len();
            self.skip()?;
            name
        };
        if key.is_empty() || (!self.take(':')? && !self.take('=')?) {
            self.at = start;
            return self.value(Place::Elsewhere, depth + 1).map(drop);
        }
        let value = self.value(place.of_field(&key), depth + 1)?;
        if place == Place::Aliases {
            let value = value.ok_or_else(|| format!("the value of the alias \"{key}\" must be a string"))?;
            if value.len() > VALUE_BYTES_MAX {
                return Err(format!("the value of the alias \"{key}\" is longer than {VALUE_BYTES_MAX} bytes"));
            }
            self.aliases.insert(key.to_ascii_lowercase().into(), value.into());
        }
        Ok(())
    }

    /// A value; what it is, if it is a string.
    fn value(&mut self, place: Place, depth: usize) -> Read<Option<String>> {
        if self.rest().starts_with('{') {
            return self.table(place, depth).map(|()| None);
        }
        if self.rest().starts_with('[') {
            return self.list(depth).map(|()| None);
        }
        if let Some(string) = self.string()? {
            return Ok(Some(string));
        }
        let word = self.word();
        let is_literal = matches!(word, "true" | "false" | "null" | "nil") || word.parse::<f64>().is_ok();
        if !is_literal {
            return Err(if self.is_json { "a value is expected".into() } else { format!("a value is expected; {ONLY_LITERALS}") });
        }
        self.at += word.len();
        self.skip()?;
        Ok(None)
    }

    /// A quoted string, if one stands here.
    fn string(&mut self) -> Read<Option<String>> {
        let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Ok(None);
        };
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += i + 1;
                    self.skip()?;
                    return Ok(Some(out));
                }
                '\n' => break,
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, c @ ('"' | '\'' | '\\' | '/'))) => out.push(c),
                    _ => return Err("only \\n, \\t, \\\\, \\/ and quotes can be escaped".into()),
                },
                _ => out.push(c),
            }
        }
        Err("the string does not end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let mut all: Vec<_> = parse(text.as_bytes())?.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        all.sort();
        Ok(all)
    }

    fn pairs(all: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(all.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn json_is_read_leniently() {
        let text = r#"{
            // where things are
            "languageMode": "strict", "lint": {"*": true, "Unused": false,}, "globals": ["a", 'b',], "n": -1.5e3, "x": null,
            -- also like this
            "aliases": { "Lib": "./lib", /* and */ "ext": "types/\"ext\"", },
        }"#;
        assert_eq!(read(text), pairs(&[("ext", "types/\"ext\""), ("lib", "./lib")]));
        assert_eq!(read("{}"), pairs(&[]));
    }

    #[test]
    fn a_luau_config_is_a_literal_table() {
        let text = "--[[ here ]] return {\n luau = { languagemode = 'strict'; aliases = { a = './a', ['b-c'] = '@a/x' } },\n}";
        assert_eq!(read(text), pairs(&[("a", "./a"), ("b-c", "@a/x")]));
        for computed in ["local a = 1 return {}", "return f()", "return { luau = f() }", "return {} + 1", ""] {
            assert!(read(computed).is_err(), "{computed}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        for (text, cause) in [
            ("{\n\"a\": 1\n\"b\": 2}", "3: JSON: ',' or '}' is expected"),
            ("{\"aliases\": {\"a\": 1}}", "1: JSON: the value of the alias \"a\" must be a string"),
            ("{\n\"a", "2: JSON: the string does not end"),
            ("{", "1: JSON: a value is expected"),
            ("// c\n{\"aliases\": {\"a\": }}", "2: JSON: a value is expected"),
            ("\n[1]", "2: JSON: '{' is expected"),
            ("return {\na = f()}", "2: a value is expected; a Luau config"),
            ("{} {}", "1: JSON: nothing may follow"),
        ] {
            let got = read(text).unwrap_err();
            assert!(got.starts_with(cause), "{text}: {got}");
        }
        assert!(read(&"{a=".repeat(100_000)).is_err_and(|text| text.contains("longer")));
        assert!(read(&"{a=".repeat(10_000)).is_err_and(|text| text.contains("nested")));
        assert!(read(&"[".repeat(60_000)).is_err());
    }
}
