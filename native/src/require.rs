//! Which file a `require` means: the path rules of Luau's modules over one template's files. No I/O, no Luau.

use crate::program::Template;

const SUFFIXES: [&str; 2] = [".luau", ".lua"];

/// A file's path as it stands in the template, or the cause why none was found.
pub type Found = Result<String, String>;

/// The file of the template's entry module.
pub fn entry(template: &Template) -> Found {
    file(template, &template.entry).map_err(|cause| format!("the template's entry \"{}\" {cause}", template.entry))
}

/// The file that `path` means in the file `requirer` (no leading slash; empty for code without a file).
pub fn resolve(template: &Template, requirer: &str, path: &str) -> Found {
    find(template, requirer, &path.replace('\\', "/")).map_err(|cause| format!("error requiring module \"{path}\": {cause}"))
}

fn find(template: &Template, requirer: &str, path: &str) -> Found {
    let (mut at, rest) = start(requirer, path)?;
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => at = parent(&at)?,
            _ => {
                if !at.is_empty() {
                    at.push('/');
                }
                at.push_str(part);
                if !exists(template, &at) {
                    return Err(format!("could not resolve child component \"{part}\""));
                }
            }
        }
    }
    file(template, &at)
}

/// Where the path starts, as a module or directory path, and what is left of it.
fn start<'a>(requirer: &str, path: &'a str) -> Result<(String, &'a str), String> {
    let module = module_of(requirer);
    if let Some(rest) = path.strip_prefix("@self") {
        return match rest.strip_prefix('/') {
            Some(rest) => Ok((module.to_string(), rest)),
            None if rest.is_empty() => Ok((module.to_string(), "")),
            None => Err(alias_error(path)),
        };
    }
    if path.starts_with('@') {
        return Err(alias_error(path));
    }
    if !path.starts_with("./") && !path.starts_with("../") {
        return Err("require path must start with a valid prefix: ./, ../, or @".into());
    }
    // The root entry stands for the root itself: `./x` and `@self/x` are the same there.
    let beside = if module.is_empty() { String::new() } else { parent(module)? };
    Ok((beside, path))
}

fn alias_error(path: &str) -> String {
    let alias = path.split('/').next().unwrap_or(path);
    format!("{alias} is not a valid alias")
}

/// The module path of a file: without its suffix, and a directory's `init` stands for the directory.
fn module_of(file: &str) -> &str {
    let stem = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
    match stem.strip_suffix("init") {
        Some("") => "",
        Some(dir) if dir.ends_with('/') => &dir[..dir.len() - 1],
        _ => stem,
    }
}

fn parent(at: &str) -> Result<String, String> {
    if at.is_empty() {
        return Err("could not get parent of the root".into());
    }
    Ok(at.rsplit_once('/').map_or("", |(dir, _)| dir).to_string())
}

fn exists(template: &Template, at: &str) -> bool {
    let below = |path: &str| path.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
    SUFFIXES.iter().any(|suffix| template.files.contains_key(format!("{at}{suffix}").as_str()))
        || template.files.keys().any(|path| below(path))
}

/// The one file of a module path.
fn file(template: &Template, at: &str) -> Found {
    let is_init = at.ends_with("/init");
    let init = if at.is_empty() { "init".to_string() } else { format!("{at}/init") };
    let stems = [Some(at).filter(|at| !at.is_empty() && !is_init), Some(init.as_str())];
    let mut found: Vec<String> = Vec::new();
    for stem in stems.into_iter().flatten() {
        for suffix in SUFFIXES {
            let path = format!("{stem}{suffix}");
            if template.files.contains_key(path.as_str()) {
                found.push(path);
            }
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err("no module present at resolved path".into()),
        _ => Err(format!("the path is ambiguous: {}", found.join(", "))),
    }
}
