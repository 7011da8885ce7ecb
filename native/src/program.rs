//! What a tenant runs: templates with their files. Equal sources are one object in the whole process, compiled once.

use std::ffi::c_int;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use mlua::ffi;
use rustc_hash::FxHashMap;

use crate::limits;
use crate::msgpack::Reader;
use crate::vfs::{Layer, Vfs};

/// The name of the template that comes first for every tenant.
pub const BUILTINS: &str = "$builtins";

/// A source longer than this is an error before anything compiles it.
static SOURCE_BYTES_MAX: AtomicUsize = AtomicUsize::new(262_144);

pub fn source_bytes_max() -> usize {
    SOURCE_BYTES_MAX.load(Ordering::Relaxed)
}

/// Set once by each engine from the process's one configuration.
pub fn set_source_bytes_max(bytes: usize) {
    SOURCE_BYTES_MAX.store(bytes, Ordering::Relaxed);
}

/// A longer text is compiled without inlining and unrolling: what that weighs up grows with the depth of loops too, and takes
/// half a second where 200 KiB lie in a hundred of them.
const INLINED_BYTES_MAX: usize = 16 << 10;

/// A complaint of the compiler.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntaxError {
    pub line: u32,
    pub text: String,
    /// The limit that is breached, if that is the complaint.
    pub limit: Option<&'static str>,
}

/// The text of one file and, once somebody has needed it, its bytecode.
pub struct Source {
    /// Unique in the process: equal ids are equal texts, and an id does not come back.
    pub id: u64,
    text: Box<[u8]>,
    bytecode: OnceLock<Result<Box<[u8]>, SyntaxError>>,
}

static NEXT_SOURCE: AtomicU64 = AtomicU64::new(1);

impl Source {
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    pub fn bytecode(&self) -> &Result<Box<[u8]>, SyntaxError> {
        self.bytecode.get_or_init(|| compile(&self.text))
    }

    /// The one object with this text.
    pub fn shared(text: &[u8]) -> Arc<Source> {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.intern(text)
    }
}

/// All sources that some program holds, by a keyed hash; equal hashes are told apart by their bytes.
struct Pool {
    hasher: RandomState,
    sources: FxHashMap<u64, Vec<Weak<Source>>>,
    prune_at: usize,
}

static POOL: LazyLock<Mutex<Pool>> =
    LazyLock::new(|| Mutex::new(Pool { hasher: RandomState::new(), sources: FxHashMap::default(), prune_at: 256 }));

impl Pool {
    fn intern(&mut self, text: &[u8]) -> Arc<Source> {
        if self.sources.len() >= self.prune_at {
            self.sources.retain(|_, same| {
                same.retain(|source| source.strong_count() > 0);
                !same.is_empty()
            });
            self.prune_at = (2 * self.sources.len()).max(256);
        }
        let same = self.sources.entry(self.hasher.hash_one(text)).or_default();
        if let Some(found) = same.iter().filter_map(Weak::upgrade).find(|source| *source.text == *text) {
            return found;
        }
        let source = Arc::new(Source { id: NEXT_SOURCE.fetch_add(1, Ordering::Relaxed), text: text.into(), bytecode: OnceLock::new() });
        same.push(Arc::downgrade(&source));
        source
    }
}

/// Compiles text. Bytecode handed in as text is a syntax error like any other.
pub fn compile(text: &[u8]) -> Result<Box<[u8]>, SyntaxError> {
    compile_with(text, 2, Frames::Shown)
}

/// Whether the frames of a chunk can be seen: those of the engine's own need no lines, which each VM would hold.
#[derive(Clone, Copy, PartialEq)]
pub enum Frames {
    Shown,
    Hidden,
}

/// The same at an optimisation level from 0 to 2.
pub fn compile_with(text: &[u8], level: c_int, frames: Frames) -> Result<Box<[u8]>, SyntaxError> {
    let max = source_bytes_max();
    if text.len() > max {
        let text = format!("the source has {} bytes, more than the {max} allowed (limit: size)", text.len());
        return Err(SyntaxError { line: 1, text, limit: Some(limits::SIZE) });
    }
    let mut options = ffi::lua_CompileOptions::default();
    options.optimizationLevel = if text.len() > INLINED_BYTES_MAX { level.min(1) } else { level };
    options.debugLevel = c_int::from(frames == Frames::Shown);
    // Only machine code would need the types of functions.
    options.typeInfoLevel = 0;
    // SAFETY: the options hold no pointers, and the compiler copies what it needs of the text.
    let bytecode = unsafe { ffi::luau_compile(text, options) };
    if bytecode.first() != Some(&0) {
        return Ok(bytecode.into());
    }
    // A failed compilation is a zero byte and ":LINE: MESSAGE".
    let text = String::from_utf8_lossy(&bytecode[1..]);
    let (line, cause) = text.trim_start_matches(':').split_once(':').unwrap_or(("1", &text));
    Err(SyntaxError { line: line.parse().unwrap_or(1), text: cause.trim().to_string(), limit: None })
}

/// The layers of files that an engine's tenants have in common.
pub struct Layers {
    pub patches: Arc<Layer>,
    pub builtins: Arc<Layer>,
    /// The library's types: below the files of every template.
    pub library: Arc<Layer>,
    /// All three: the files of the built-in template, and of scripts without files of their own.
    pub root: Arc<Vfs>,
}

impl Layers {
    /// Each a msgpack map of path -> source, or no bytes for no files.
    pub fn parse(patches: &[u8], builtins: &[u8], library: &[u8]) -> Result<Layers, String> {
        let (patches, builtins, library) = (Layer::parse(patches)?, Layer::parse(builtins)?, Layer::parse(library)?);
        let root = Vfs::new([patches.clone(), builtins.clone(), library.clone()])?;
        Ok(Layers { patches, builtins, library, root })
    }

    /// The files of a template of a tenant's own.
    pub fn over(&self, files: Arc<Layer>) -> Result<Arc<Vfs>, String> {
        Vfs::new([files, self.library.clone()])
    }
}

/// One template of a tenant, ready to be given an isolate in any VM.
pub struct Template {
    pub name: Box<str>,
    /// Module path of the entry, such as `init`.
    pub entry: Box<str>,
    pub files: Arc<Vfs>,
    events: Box<[Box<str>]>,
    pub caps: Box<[Box<str>]>,
    script: bool,
}

impl Template {
    /// Whether it stands for one chunk, which no program names.
    pub fn is_script(&self) -> bool {
        self.script
    }

    /// Whether the event is one of the template's.
    pub fn listens(&self, event: &str) -> bool {
        self.events.iter().any(|name| &**name == event || &**name == "*")
    }

    /// The template that a script of `submit_script` runs as; named like its chunk, with every capability.
    pub fn script(chunk_name: &str, layers: &Layers) -> Arc<Template> {
        let all = || Box::from([Box::from("*")]);
        Arc::new(Template {
            name: chunk_name.into(),
            entry: "init".into(),
            files: layers.root.clone(),
            events: all(),
            caps: all(),
            script: true,
        })
    }

    /// The built-in template. None if there is no built-in tree or it listens for nothing.
    pub fn builtins(layers: &Layers, entry: &str, caps: &[String], events: &[String]) -> Option<Arc<Template>> {
        if layers.builtins.is_empty() || events.is_empty() {
            return None;
        }
        let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let (events, caps) = (boxed(events), boxed(caps));
        Some(Arc::new(Template { name: BUILTINS.into(), entry: entry.into(), files: layers.root.clone(), events, caps, script: false }))
    }

    /// One item of `Program::parse`'s list.
    pub fn parse(bytes: &[u8], layers: &Layers) -> Result<Arc<Template>, String> {
        let mut reader = Reader::new(bytes);
        let template = Template::read(&mut reader, layers)?;
        if reader.is_empty() { Ok(Arc::new(template)) } else { Err("bytes follow the template".into()) }
    }

    fn read(reader: &mut Reader, layers: &Layers) -> Result<Template, String> {
        if reader.array()? != 5 {
            return Err("a template is a list of five items".into());
        }
        let name: Box<str> = reader.text()?.into();
        let entry = reader.text()?;
        let entry = entry.strip_suffix(".luau").or_else(|| entry.strip_suffix(".lua")).unwrap_or(entry).into();
        let files = layers.over(Layer::read(reader)?)?;
        let events = read_texts(reader)?;
        let caps = read_texts(reader)?;
        Ok(Template { name, entry, files, events, caps, script: false })
    }
}

fn read_texts(reader: &mut Reader) -> Result<Box<[Box<str>]>, String> {
    let n = reader.array()?;
    (0..n).map(|_| reader.text().map(Box::from)).collect()
}

/// The templates of a tenant, in dispatch order.
pub struct Program {
    templates: Vec<Arc<Template>>,
    /// One of them takes the place of the built-in one.
    replaces_builtins: bool,
}

impl Program {
    /// Reads the msgpack list of `[name, entry, {path: source}, [event, ...], [capability, ...]]`.
    pub fn parse(bytes: &[u8], layers: &Layers) -> Result<Arc<Program>, String> {
        let mut reader = Reader::new(bytes);
        let n = reader.array()?;
        let templates: Vec<_> = (0..n).map(|_| Template::read(&mut reader, layers).map(Arc::new)).collect::<Result<_, _>>()?;
        let replaces_builtins = templates.iter().any(|template| &*template.name == BUILTINS);
        if !reader.is_empty() {
            return Err("bytes follow the program".into());
        }
        Ok(Arc::new(Program { templates, replaces_builtins }))
    }

    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// What a tenant with this program, or with none yet, runs: the built-in template first.
    pub fn all<'a>(program: Option<&'a Program>, builtins: Option<&'a Arc<Template>>) -> impl Iterator<Item = &'a Arc<Template>> {
        let builtins = builtins.filter(|_| program.is_none_or(|program| !program.replaces_builtins));
        builtins.into_iter().chain(program.into_iter().flat_map(|program| &program.templates))
    }
}
