//! The files of a template: layers of path -> source, of which the first that has a path wins. No I/O, no Luau.
//!
//! A layer is indexed by the places that a `require` can name, so that each component of a path is one look-up; it is made
//! once and shared, as the library's types are by all templates. Paths have no leading slash.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashSet;

use crate::luaurc::{self, Aliases};
use crate::msgpack::Reader;
use crate::program::Source;
use crate::require::DEPTH_MAX;

/// Layers that one stack may have; scripts stack them too.
pub const LAYERS_MAX: usize = 16;

/// Files that one layer may have, and bytes of a path: a file with a longer one is left out.
pub const FILES_MAX: usize = 10_000;
pub const PATH_BYTES_MAX: usize = 1_024;
/// Folders that all these files may lie in. A file that lies deeper than a `require` can go is left out, too.
const FOLDERS_MAX: usize = 20_000;

/// The file that names aliases for what lies beside and below it.
const CONFIG: &str = ".luaurc";

/// Memory per file and per folder besides texts and paths, and how much bytecode makes of one byte of source, about.
const FILE_BYTES: usize = 320;
const FOLDER_BYTES: usize = 96;
const COMPILED_FACTOR: usize = 2;

pub struct File {
    pub path: Box<str>,
    pub source: Arc<Source>,
}

/// The files that a module path such as `a/b` can mean: `a/b.luau`, `a/b.lua`, `a/b/init.luau`, `a/b/init.lua`.
const CHOICES: usize = 4;
const SUFFIXES: [&str; 2] = [".luau", ".lua"];

/// What a layer has at a module path: places in its list of files. Without any, it is a folder.
type Node = [Option<u32>; CHOICES];

/// What a stack has at a module path.
pub struct Place<'v> {
    files: [Option<&'v File>; CHOICES],
    pub exists: bool,
}

impl<'v> Place<'v> {
    pub fn files(&self) -> impl Iterator<Item = &'v File> {
        self.files.iter().filter_map(|file| *file)
    }
}

/// What a `.luaurc` says, read when it is first asked for.
struct Config {
    folder: Box<str>,
    source: Arc<Source>,
    aliases: OnceLock<Result<Aliases, String>>,
}

#[derive(Default)]
pub struct Layer {
    /// Sorted by path.
    files: Box<[File]>,
    /// By module path; the keys are a tenant's, hence the keyed hash.
    nodes: HashMap<Box<str>, Node>,
    /// Sorted by folder.
    configs: Box<[Config]>,
}

impl Layer {
    /// A layer of these files; of equal paths the last counts. Leading slashes go, and so do paths with a zero byte: no
    /// chunk could bear their name.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Arc<Layer>, String> {
        Self::charged(files, |_| Ok(())).map(|(layer, ())| layer)
    }

    /// The same, where `charge` is told what the layer costs before most of that is spent. Gives what it gave.
    pub fn charged<'a, T, E: From<String>>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        charge: impl FnOnce(usize) -> Result<T, E>,
    ) -> Result<(Arc<Layer>, T), E> {
        let files = files.into_iter().map(|(path, text)| (path.trim_start_matches('/'), text)).filter(|(path, _)| is_reachable(path));
        let mut all: Vec<File> =
            files.take(FILES_MAX + 1).map(|(path, text)| File { path: path.into(), source: Source::shared(text) }).collect();
        if all.len() > FILES_MAX {
            return Err(format!("there are more than {FILES_MAX} files").into());
        }
        // Stable, so that of equal paths the last given comes first after the reversal.
        all.reverse();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all.dedup_by(|later, first| later.path == first.path);
        let mut configs: Vec<Config> = all
            .iter()
            .filter_map(|file| Some((folder_of_config(&file.path)?, file.source.clone())))
            .map(|(folder, source)| Config { folder: folder.into(), source, aliases: OnceLock::new() })
            .collect();
        configs.sort_by(|a, b| a.folder.cmp(&b.folder));
        let (folders, folder_bytes) = folders(&all);
        if folders > FOLDERS_MAX {
            return Err(format!("the files lie in more than {FOLDERS_MAX} folders").into());
        }
        let cost = |file: &File| FILE_BYTES + file.path.len() + (1 + COMPILED_FACTOR) * file.source.text().len();
        let charge = charge(all.iter().map(cost).sum::<usize>() + folder_bytes)?;
        let nodes = index(&all);
        Ok((Arc::new(Layer { files: all.into(), nodes, configs: configs.into() }), charge))
    }

    /// A msgpack map of path -> source.
    pub fn read(reader: &mut Reader) -> Result<Arc<Layer>, String> {
        let n = reader.map()?;
        let mut files = Vec::new();
        for _ in 0..n {
            files.push((reader.text()?, reader.bytes()?));
        }
        Layer::new(files)
    }

    /// The same, where no bytes stand for no files.
    pub fn parse(bytes: &[u8]) -> Result<Arc<Layer>, String> {
        if bytes.is_empty() {
            return Ok(Arc::default());
        }
        let mut reader = Reader::new(bytes);
        let layer = Layer::read(&mut reader)?;
        if reader.is_empty() { Ok(layer) } else { Err("bytes follow the files".into()) }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn get(&self, path: &str) -> Option<&Arc<Source>> {
        let at = self.files.binary_search_by(|file| (*file.path).cmp(path)).ok()?;
        Some(&self.files[at].source)
    }

    fn config(&self, folder: &str) -> Option<&Config> {
        let at = self.configs.binary_search_by(|config| (*config.folder).cmp(folder)).ok()?;
        Some(&self.configs[at])
    }
}

/// The module path of a file, without a suffix: a folder's `init` stands for the folder, the root's for the root.
pub fn module_of(file: &str) -> &str {
    let stem = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix)).unwrap_or(file);
    match stem.strip_suffix("init") {
        Some("") => "",
        Some(folder) if folder.ends_with('/') => &folder[..folder.len() - 1],
        _ => stem,
    }
}

/// The folder of a path; the root's own is the root.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a chunk could bear the name of this file, and a `require` come at least to its folder, to say so.
fn is_reachable(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX && !path.contains('\0') && path.matches('/').count() <= DEPTH_MAX + 1
}

/// How many folders there are above these files, which are sorted, and what they cost; some count twice.
fn folders(files: &[File]) -> (usize, usize) {
    let (mut count, mut bytes, mut before) = (0, 0, "");
    for file in files {
        let shared = file.path.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        for (at, _) in file.path.match_indices('/').filter(|(at, _)| *at >= shared) {
            count += 1;
            bytes += FOLDER_BYTES + at;
        }
        before = &file.path;
    }
    (count, bytes)
}

fn index(files: &[File]) -> HashMap<Box<str>, Node> {
    let mut nodes: HashMap<Box<str>, Node> = HashMap::with_capacity(files.len() + files.len() / 4);
    for (at, file) in files.iter().enumerate() {
        let mut folder = parent(&file.path);
        // The folders above one that is known are known.
        while !nodes.contains_key(folder) {
            nodes.insert(folder.into(), Node::default());
            folder = parent(folder);
        }
        let Some(suffix) = SUFFIXES.iter().position(|suffix| file.path.ends_with(suffix)) else {
            continue;
        };
        let module = module_of(&file.path);
        let stem = &file.path[..file.path.len() - SUFFIXES[suffix].len()];
        let choice = if module == stem { suffix } else { suffix + SUFFIXES.len() };
        nodes.entry(module.into()).or_default()[choice] = Some(at as u32);
        if stem == "init" {
            // The root's is reached by its name as well.
            nodes.entry(stem.into()).or_default()[suffix] = Some(at as u32);
        }
    }
    nodes
}

fn folder_of_config(path: &str) -> Option<&str> {
    let folder = path.strip_suffix(CONFIG)?;
    if folder.is_empty() { Some("") } else { folder.strip_suffix('/') }
}

/// A stack of layers, the first on top.
#[derive(Default)]
pub struct Vfs {
    layers: Box<[Arc<Layer>]>,
}

impl Vfs {
    /// A stack of these layers; one that lies further up already is left out, for nothing of it could be seen.
    pub fn new(layers: impl IntoIterator<Item = Arc<Layer>>) -> Result<Arc<Vfs>, String> {
        let mut seen: FxHashSet<*const Layer> = FxHashSet::default();
        let mut all = Vec::new();
        for layer in layers {
            if layer.is_empty() || !seen.insert(Arc::as_ptr(&layer)) {
                continue;
            }
            if all.len() == LAYERS_MAX {
                return Err(format!("the overlay has more than {LAYERS_MAX} layers"));
            }
            all.push(layer);
        }
        Ok(Arc::new(Vfs { layers: all.into() }))
    }

    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The file of a path, without a leading slash.
    pub fn source(&self, path: &str) -> Option<&Arc<Source>> {
        self.layers.iter().find_map(|layer| layer.get(path))
    }

    /// The Luau files in the root of the topmost layer, in order.
    pub fn root_files(&self) -> impl Iterator<Item = &str> {
        let files = self.layers.first().map_or(&[][..], |layer| &layer.files);
        let is_luau = |path: &str| SUFFIXES.iter().any(|suffix| path.ends_with(suffix));
        files.iter().map(|file| &*file.path).filter(move |path| !path.contains('/') && is_luau(path))
    }

    /// What lies at a module path. The root is always there.
    pub fn place(&self, module: &str) -> Place<'_> {
        let mut place = Place { files: [None; CHOICES], exists: module.is_empty() };
        for layer in &self.layers {
            let Some(node) = layer.nodes.get(module) else {
                continue;
            };
            place.exists = true;
            for (file, at) in place.files.iter_mut().zip(node) {
                *file = file.or(at.and_then(|at| layer.files.get(at as usize)));
            }
        }
        place
    }

    /// The aliases that the `.luaurc` of a folder defines, if it has one; or what is wrong with the file.
    pub fn aliases(&self, folder: &str) -> Option<Result<&Aliases, &str>> {
        let config = self.layers.iter().find_map(|layer| layer.config(folder))?;
        Some(config.aliases.get_or_init(|| luaurc::parse(config.source.text())).as_ref().map_err(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(files: &[(&str, &str)]) -> Arc<Layer> {
        Layer::new(files.iter().map(|(path, text)| (*path, text.as_bytes()))).unwrap()
    }

    fn text<'a>(vfs: &'a Vfs, path: &str) -> Option<&'a [u8]> {
        vfs.source(path).map(|source| source.text())
    }

    #[test]
    fn the_first_layer_that_has_a_path_wins() {
        let vfs = Vfs::new([layer(&[("a", "1")]), layer(&[("a", "2"), ("/b", "3"), ("c", "4"), ("c", "5")])]).unwrap();
        assert_eq!(text(&vfs, "a"), Some(&b"1"[..]));
        assert_eq!(text(&vfs, "b"), Some(&b"3"[..]));
        assert_eq!(text(&vfs, "c"), Some(&b"5"[..]), "the last of equal paths");
        assert_eq!(text(&vfs, "/b"), None);
    }

    #[test]
    fn a_place_is_a_file_a_folder_or_both() {
        let below = layer(&[("a/b.lua", ""), ("init.lua", "")]);
        let vfs =
            Vfs::new([layer(&[("a-b/x.luau", ""), ("a/b/init.luau", ""), ("a.luau", ""), ("a/init/c.d.luau", ""), ("z\0", "")]), below])
                .unwrap();
        let paths = |module| {
            let place = vfs.place(module);
            place.exists.then(|| place.files().map(|file| &*file.path).collect::<Vec<_>>())
        };
        assert_eq!(paths("a"), Some(vec!["a.luau"]));
        assert_eq!(paths("a/b"), Some(vec!["a/b.lua", "a/b/init.luau"]));
        assert_eq!(paths("a-b"), Some(vec![]));
        assert_eq!(paths("a/init"), Some(vec![]), "a folder of that name, not the folder's init");
        assert_eq!(paths("a/init/c.d"), Some(vec!["a/init/c.d.luau"]));
        assert_eq!(paths("init"), Some(vec!["init.lua"]));
        assert_eq!(paths(""), Some(vec!["init.lua"]));
        for other in ["a/b/init", "a-", "b", "a.luau", "z", "a/", "/a", "c"] {
            assert_eq!(paths(other), None, "{other}");
        }
    }

    #[test]
    fn a_layer_is_bounded() {
        let named = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let layer_of = |names: &[String]| Layer::new(names.iter().map(|name| (name.as_str(), &b""[..])));
        assert!(layer_of(&named(FILES_MAX)).is_ok());
        assert!(layer_of(&named(FILES_MAX + 1)).is_err());
        for long in ["a/".repeat(5_000_000), "a/".repeat(DEPTH_MAX + 2), "a".repeat(PATH_BYTES_MAX + 1)] {
            assert!(layer_of(&[long]).is_ok_and(|layer| layer.is_empty()));
        }
        let deep = |n: usize| (0..n).map(|i| format!("{i}{}x", "/a".repeat(30) + "/")).collect::<Vec<_>>();
        assert!(layer_of(&deep(600)).is_ok());
        assert!(layer_of(&deep(1_000)).is_err_and(|text| text.contains("folders")));
    }

    #[test]
    fn folders_cost_before_they_are_made() {
        let cost = |paths: &[&str]| {
            let mut told = 0;
            let made = Layer::charged(paths.iter().map(|path| (*path, &b""[..])), |bytes| {
                told = bytes;
                Ok::<_, String>(())
            });
            assert!(made.is_ok());
            told
        };
        let one = cost(&["a/b/c.luau"]);
        assert!(one > FILE_BYTES + 2 * FOLDER_BYTES);
        assert!(cost(&["a/b/c.luau", "a/b/d.luau"]) < 2 * one - 2 * FOLDER_BYTES);
        assert!(Layer::charged([("a", &b""[..])], |_| Err::<(), _>("no".to_string())).is_err());
    }

    #[test]
    fn a_layer_counts_once_and_there_is_a_most() {
        let one = layer(&[("a", "")]);
        let vfs = Vfs::new(std::iter::repeat_n(one, 1_000)).unwrap();
        assert_eq!(vfs.layers().len(), 1);
        let many = (0..=LAYERS_MAX).map(|_| layer(&[("a", "")]));
        assert!(Vfs::new(many).is_err_and(|text| text.contains("16")));
    }
}
