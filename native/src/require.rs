//! Which file a `require` means: Luau's rules of navigation over one template's files. No I/O, no Luau.
//!
//! A module's path is its file's without the suffix; a folder stands for its `init`. The root's `init` is the root
//! itself, and both `./x` and `@self/x` are `x` there.

use std::borrow::Cow;

use crate::api;
use crate::luaurc::Aliases;
use crate::vfs::{File, Vfs, module_of, parent};

/// Bytes of a path as a script writes it, and components of the module that it means.
pub const PATH_BYTES_MAX: usize = 512;
pub const DEPTH_MAX: usize = 32;
/// Aliases that stand for each other, and components that are followed for one `require` altogether.
const ALIASES_MAX: usize = 8;
const STEPS_MAX: usize = 512;

/// Files that are named instead of an entry that is missing.
const NEAR_MAX: usize = 3;
const NO_MODULE: &str = "no module present at resolved path";

/// What the names of the engine's own modules begin with, which are no files.
const ENGINE_ALIAS: &str = "antiraid";

/// The file that a path means, or why it means nothing.
pub type Found<'v> = Result<&'v File, String>;

/// The file of the entry module at `entry`, such as `init` or `lib/main`.
pub fn entry<'v>(vfs: &'v Vfs, entry: &str) -> Found<'v> {
    match at(vfs, module_of(&format!("{entry}.luau"))) {
        At::One(file) => Ok(file),
        At::Many(paths) => Err(format!("the template's entry \"{entry}\" is ambiguous: {paths}")),
        At::Folder | At::Nothing => {
            let near: Vec<_> = vfs.root_files().take(NEAR_MAX).collect();
            let near = if near.is_empty() { "no Luau file in its root".into() } else { near.join(", ") };
            Err(format!("the template's entry \"{entry}\" is missing: there is no {entry}.luau here; there is {near}"))
        }
    }
}

/// The file that `path` means in the file `requirer` (no leading slash; empty for code without a file).
pub fn resolve<'v>(files: &'v Vfs, requirer: &str, path: &str) -> Found<'v> {
    let refused = |cause: String| format!("error requiring module \"{}\": {cause}", shown(path));
    if path.len() > PATH_BYTES_MAX {
        return Err(refused(format!("the path is longer than {PATH_BYTES_MAX} bytes")));
    }
    let mut walk = Walk { vfs: files, at: String::new(), depth: 0, steps: 0 };
    let slashed = if path.contains('\\') { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) };
    walk.go(requirer, &slashed).and_then(|()| walk.module()).map_err(refused)
}

/// A path as an error shows it.
fn shown(path: &str) -> &str {
    match path.char_indices().nth(PATH_BYTES_MAX) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

/// What lies at a module path.
enum At<'v> {
    Nothing,
    /// A folder without an `init`.
    Folder,
    One(&'v File),
    /// Their paths.
    Many(String),
}

fn at<'v>(vfs: &'v Vfs, module: &str) -> At<'v> {
    let place = vfs.place(module);
    let mut files = place.files();
    match (files.next(), files.next()) {
        (Some(_), Some(_)) => At::Many(place.files().map(|file| &*file.path).collect::<Vec<_>>().join(", ")),
        (Some(file), None) => At::One(file),
        _ if place.exists => At::Folder,
        _ => At::Nothing,
    }
}

/// The name of `@name/...`, and what follows it.
fn alias_of(path: &str) -> (&str, &str) {
    path[1..].split_once('/').unwrap_or((&path[1..], ""))
}

/// A place among the files, as a module path.
struct Walk<'v> {
    vfs: &'v Vfs,
    at: String,
    depth: usize,
    steps: usize,
}

impl<'v> Walk<'v> {
    fn set(&mut self, at: &str) {
        self.at.clear();
        self.at.push_str(at);
        self.depth = if at.is_empty() { 0 } else { 1 + at.matches('/').count() };
    }

    fn go(&mut self, requirer: &str, path: &str) -> Result<(), String> {
        let module = module_of(requirer);
        if path.starts_with('@') {
            let (name, rest) = alias_of(path);
            let name = name.to_ascii_lowercase();
            match self.definition(&name, Some(parent(module)))? {
                Some((folder, aliases)) => self.enter_alias(name, folder, aliases)?,
                None if name == "self" => self.set(module),
                None if name == ENGINE_ALIAS && path.contains('/') => {
                    let known: Vec<_> = api::registered().collect();
                    return Err(format!("@{name} is not a valid alias; modules of the engine: {}", known.join(", ")));
                }
                None => return Err(format!("@{name} is not a valid alias")),
            }
            return self.through(rest);
        }
        if !path.starts_with("./") && !path.starts_with("../") {
            return Err("require path must start with a valid prefix: ./, ../, or @".into());
        }
        self.set(parent(module));
        self.through(path)
    }

    /// The nearest definition of an alias, from `folder` upwards.
    fn definition<'f>(&self, name: &str, folder: Option<&'f str>) -> Result<Option<(&'f str, &'v Aliases)>, String> {
        let mut next = folder;
        while let Some(folder) = next {
            match self.vfs.aliases(folder) {
                Some(Ok(aliases)) if aliases.contains_key(name) => return Ok(Some((folder, aliases))),
                Some(Err(cause)) => {
                    let slash = if folder.is_empty() { "" } else { "/" };
                    return Err(format!("/{folder}{slash}.luaurc:{cause}"));
                }
                _ => {}
            }
            next = above(folder);
        }
        Ok(None)
    }

    /// Goes to what the alias `name` stands for by the aliases of `folder`; it may be another alias.
    fn enter_alias(&mut self, name: String, folder: &str, aliases: &'v Aliases) -> Result<(), String> {
        let (mut name, mut folder, mut aliases) = (name, folder, aliases);
        let mut seen: Vec<String> = Vec::new();
        let mut rests = Vec::new();
        loop {
            let value = aliases.get(name.as_str()).map_or("", |value| value);
            if !value.starts_with('@') {
                self.enter_value(folder, value)?;
                break;
            }
            if let Some(first) = seen.iter().position(|other| *other == name) {
                let cycle = seen[first..].iter().chain([&name]).map(|name| format!("@{name}"));
                return Err(format!("detected alias cycle ({})", cycle.collect::<Vec<_>>().join(" -> ")));
            }
            if seen.len() == ALIASES_MAX {
                return Err(format!("more than {ALIASES_MAX} aliases stand for each other"));
            }
            let (other, rest) = alias_of(value);
            rests.push(rest);
            seen.push(std::mem::replace(&mut name, other.to_ascii_lowercase()));
            if !aliases.contains_key(name.as_str()) {
                let found = self.definition(&name, above(folder))?;
                (folder, aliases) = found.ok_or_else(|| format!("@{name} is not a valid alias"))?;
                seen.clear();
            }
        }
        rests.into_iter().rev().try_for_each(|rest| self.through(rest))
    }

    /// Goes to the value of an alias that is no alias: relative to its folder, or from the root.
    fn enter_value(&mut self, folder: &str, value: &str) -> Result<(), String> {
        if value == "." || value == ".." || value.starts_with("./") || value.starts_with("../") {
            self.set(folder);
            return self.through(value);
        }
        self.set("");
        let jump = if value.starts_with('/') { Err(String::new()) } else { self.through(value) };
        jump.map_err(|_| format!("could not jump to alias \"{}\"", shown(value)))
    }

    /// Follows the components of a path.
    fn through(&mut self, path: &str) -> Result<(), String> {
        let mut last: Option<&str> = None;
        for part in path.split('/') {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(format!("the path and its aliases have more than {STEPS_MAX} components"));
            }
            match part {
                "" | "." => continue,
                ".." => self.enter_parent(last)?,
                _ => self.enter_child(part)?,
            }
            last = Some(part);
        }
        Ok(())
    }

    fn enter_parent(&mut self, last: Option<&str>) -> Result<(), String> {
        if self.at.is_empty() {
            return Err(match last {
                Some(part) => format!("could not get parent of component \"{part}\""),
                None => "could not get parent of requiring context".into(),
            });
        }
        let up = parent(&self.at).len();
        self.at.truncate(up);
        self.depth -= 1;
        Ok(())
    }

    fn enter_child(&mut self, part: &str) -> Result<(), String> {
        if self.depth >= DEPTH_MAX {
            return Err(format!("the path is deeper than {DEPTH_MAX} components"));
        }
        if !self.at.is_empty() {
            self.at.push('/');
        }
        self.at.push_str(part);
        self.depth += 1;
        match at(self.vfs, &self.at) {
            At::Nothing => Err(format!("could not resolve child component \"{part}\"")),
            At::Many(paths) => Err(format!("could not resolve child component \"{part}\" (ambiguous: {paths})")),
            At::Folder | At::One(_) => Ok(()),
        }
    }

    fn module(&self) -> Found<'v> {
        match at(self.vfs, &self.at) {
            At::One(file) => Ok(file),
            At::Many(paths) => Err(format!("the path is ambiguous: {paths}")),
            At::Folder | At::Nothing => Err(NO_MODULE.into()),
        }
    }
}

/// The folder above another one; none above the root.
fn above(folder: &str) -> Option<&str> {
    if folder.is_empty() { None } else { Some(parent(folder)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::Layer;
    use std::sync::Arc;

    fn files(files: &[(&str, &str)]) -> Arc<Vfs> {
        let layer = Layer::new(files.iter().map(|(path, text)| (*path, text.as_bytes())));
        Vfs::new([layer.unwrap()]).unwrap()
    }

    fn path(found: Found<'_>) -> Result<&str, String> {
        found.map(|file| &*file.path)
    }

    #[test]
    fn an_entry_is_named_with_or_without_its_init() {
        let vfs = files(&[("init.lua", ""), ("lib/init.luau", ""), ("lib/main.luau", "")]);
        for (name, file) in [("init", "init.lua"), ("lib", "lib/init.luau"), ("lib/init", "lib/init.luau"), ("lib/main", "lib/main.luau")] {
            assert_eq!(path(entry(&vfs, name)), Ok(file));
        }
        assert!(path(entry(&vfs, "other")).is_err_and(|text| text.ends_with("there is no other.luau here; there is init.lua")));
        let vfs = files(&[("a.luau", ""), ("b.lua", ""), ("c.luau", ""), ("d.luau", ""), (".luaurc", ""), ("a/x.luau", "")]);
        assert!(path(entry(&vfs, "init")).is_err_and(|text| text.ends_with("there is a.luau, b.lua, c.luau")));
        assert!(path(entry(&files(&[]), "init")).is_err_and(|text| text.ends_with("there is no Luau file in its root")));
    }

    /// Pieces that mean something, in every order that a generator of numbers comes to.
    #[test]
    fn whatever_path_and_config_end_in_a_file_or_a_text() {
        const PIECES: [&str; 24] = [
            "./", "../", "@", "@self", "@a", "/", "\\", ".", "..", "init", "a", "b", "é", "\0", "@b/", "//", "{", "}", "\"", "aliases",
            ":", ",", "return ", "--",
        ];
        let mut seed = 1u64;
        let mut text = || {
            let mut out = String::new();
            loop {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pick = (seed >> 33) as usize % (PIECES.len() + 3);
                match PIECES.get(pick) {
                    Some(piece) => out.push_str(piece),
                    None => return out,
                }
            }
        };
        let mut found = 0;
        for _ in 0..20_000 {
            let alias = format!("{{\"aliases\": {{\"a\": \"{}\", \"b\": \"{}\"}}}}", text(), text());
            let vfs = files(&[
                (".luaurc", &alias),
                ("a/.luaurc", &text()),
                ("a.luau", ""),
                ("a/b.lua", ""),
                ("a/init/b.luau", ""),
                ("init.luau", ""),
            ]);
            for requirer in ["", "init.luau", "a.luau", "a/b.lua", "a/init/b.luau", "not/there.luau", &text()] {
                for prefix in ["", "./", "@a", "@b/", "@self/"] {
                    match resolve(&vfs, requirer, &format!("{prefix}{}", text())) {
                        Ok(file) => found += usize::from(vfs.source(&file.path).is_some()),
                        Err(text) => assert!(text.starts_with("error requiring module \"")),
                    }
                }
            }
        }
        assert!(found > 10_000, "{found}");
    }
}
