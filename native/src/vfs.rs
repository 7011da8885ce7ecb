//! The files of a template: layers of path -> source, of which the first that has a path wins. No I/O, no Luau.
//!
//! A layer is a sorted list, so that a file and a folder are each found by one binary search; it is made once and shared,
//! as the library's types are by all templates. Paths have no leading slash.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashSet;

use crate::luaurc::{self, Aliases};
use crate::msgpack::Reader;
use crate::program::Source;

/// Layers that one stack may have; scripts stack them too.
pub const LAYERS_MAX: usize = 16;

/// The file that names aliases for what lies beside and below it.
const CONFIG: &str = ".luaurc";

/// Memory per file besides its texts, and how much of it bytecode makes of one byte of source, about.
const FILE_BYTES: usize = 160;
const COMPILED_FACTOR: usize = 2;

struct File {
    path: Box<str>,
    source: Arc<Source>,
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
    /// Sorted by folder.
    configs: Box<[Config]>,
    cost_bytes: usize,
}

impl Layer {
    /// A layer of these files; of equal paths the last counts. Leading slashes go, and so do paths with a zero byte: no
    /// chunk could bear their name.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, Arc<Source>)>) -> Arc<Layer> {
        let mut all: Vec<File> = files
            .into_iter()
            .map(|(path, source)| File { path: path.trim_start_matches('/').into(), source })
            .filter(|file| !file.path.contains('\0'))
            .collect();
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
        let cost = |file: &File| FILE_BYTES + file.path.len() + (1 + COMPILED_FACTOR) * file.source.text().len();
        let cost_bytes = all.iter().map(cost).sum();
        Arc::new(Layer { files: all.into(), configs: configs.into(), cost_bytes })
    }

    /// A msgpack map of path -> source.
    pub fn read(reader: &mut Reader) -> Result<Arc<Layer>, String> {
        let n = reader.map()?;
        let mut files = Vec::new();
        for _ in 0..n {
            files.push((reader.text()?, Source::shared(reader.bytes()?)));
        }
        Ok(Layer::new(files))
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

    /// What the layer holds in memory, about, with the bytecode that its files may become.
    pub fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    fn get(&self, path: &str) -> Option<&Arc<Source>> {
        let at = self.files.binary_search_by(|file| (*file.path).cmp(path)).ok()?;
        Some(&self.files[at].source)
    }

    /// Whether there are files below the folder.
    fn has_folder(&self, folder: &str) -> bool {
        if folder.is_empty() {
            return !self.is_empty();
        }
        let start = || folder.bytes().chain(std::iter::once(b'/'));
        let at = self.files.partition_point(|file| file.path.bytes().lt(start()));
        let below = |file: &File| file.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        self.files.get(at).is_some_and(below)
    }

    fn config(&self, folder: &str) -> Option<&Config> {
        let at = self.configs.binary_search_by(|config| (*config.folder).cmp(folder)).ok()?;
        Some(&self.configs[at])
    }
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

    pub fn has_folder(&self, folder: &str) -> bool {
        self.layers.iter().any(|layer| layer.has_folder(folder))
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
        Layer::new(files.iter().map(|(path, text)| (*path, Source::shared(text.as_bytes()))))
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
    fn folders_are_prefixes_up_to_a_slash() {
        let vfs = Vfs::new([layer(&[("a-b/x.luau", ""), ("a/b/c.luau", ""), ("a.luau", ""), ("z\0", "")])]).unwrap();
        for folder in ["", "a", "a/b", "a-b"] {
            assert!(vfs.has_folder(folder), "{folder}");
        }
        for other in ["a/b/c.luau", "a/b/c", "a-", "b", "a.luau", "z", "a/"] {
            assert!(!vfs.has_folder(other), "{other}");
        }
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
