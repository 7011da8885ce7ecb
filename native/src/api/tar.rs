//! `TarArchive`: files by name, read from and written as a tar archive. Names are names only; nothing touches a disk.
//!
//! An archive that a script was given may be made to harm: its files are counted and weighed while they are read, what is
//! no plain file is passed over, and sizes that its headers claim reserve nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};
use std::io::Read;

use mlua::ffi::lua_State;
use tar::{Archive, Builder, EntryType, Header};

use crate::api::blob;
use crate::call::{Call, Done, Fault, Named};
use crate::limits;
use crate::memory::Charge;
use crate::object::{Object, destructed, tag};
use crate::scheduler;

const FILES_MAX: usize = 4_096;
const NAME_BYTES_MAX: usize = 1_024;
/// Bytes of all extended headers (PAX) of an archive: each of their lines is looked at several times.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;
/// What gives a file another size than its header says: where the next header is would depend on who reads.
const SIZE_RECORD: &[u8] = b" size=";
/// What an archive costs besides its files.
const ARCHIVE_BYTES: usize = 1_024;
/// Rights of files in archives that scripts make.
const MODE: u32 = 0o644;

struct File {
    bytes: Vec<u8>,
    /// For content and name.
    _charge: Charge,
}

#[derive(Default)]
struct Files {
    /// In the order of their names, so that archives of the same files are the same.
    by_name: BTreeMap<String, File>,
    bytes: usize,
}

impl Files {
    fn remove(&mut self, name: &str) -> Option<File> {
        let file = self.by_name.remove(name)?;
        self.bytes -= file.bytes.len();
        Some(file)
    }

    fn add(&mut self, state: *mut lua_State, name: String, bytes: Vec<u8>, bytes_max: usize) -> Result<(), Fault> {
        let _ = self.remove(&name);
        if self.by_name.len() >= FILES_MAX {
            return Err(Fault::limit(limits::SIZE, format!("an archive has at most {FILES_MAX} files (limit: size)")));
        }
        if self.bytes + bytes.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        let charge = Charge::new(state, bytes.len() + name.len() + size_of::<(String, File)>())?;
        self.bytes += bytes.len();
        self.by_name.insert(name, File { bytes, _charge: charge });
        Ok(())
    }

    fn read(state: *mut lua_State, archive: &[u8], bytes_max: usize) -> Result<Files, Fault> {
        let bad = |e: std::io::Error| Fault::from(format!("Failed to read the archive: {e}"));
        let mut extended = 0;
        for entry in Archive::new(archive).entries().map_err(bad)?.raw(true) {
            let mut entry = entry.map_err(bad)?;
            let kind = entry.header().entry_type();
            if !(kind.is_pax_local_extensions() || kind.is_pax_global_extensions()) {
                continue;
            }
            extended = u64::saturating_add(extended, entry.size());
            if extended > EXTENDED_BYTES_MAX {
                let text = format!("the extended headers of an archive have at most {EXTENDED_BYTES_MAX} bytes (limit: size)");
                return Err(Fault::limit(limits::SIZE, text));
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(bad)?;
            if memchr::memmem::find(&text, SIZE_RECORD).is_some() {
                return Err("Failed to read the archive: an extended header gives a file another size".into());
            }
        }
        let mut files = Files::default();
        for entry in Archive::new(archive).entries().map_err(bad)? {
            let mut entry = entry.map_err(bad)?;
            let kind = entry.header().entry_type();
            if !(kind.is_file() || kind.is_gnu_sparse()) {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            check_name(&name)?;
            let mut bytes = Vec::new();
            let left = bytes_max - files.bytes;
            entry.by_ref().take(left as u64 + 1).read_to_end(&mut bytes).map_err(bad)?;
            files.add(state, name, bytes, bytes_max)?;
        }
        Ok(files)
    }

    fn write(&self) -> Result<Vec<u8>, Fault> {
        let mut builder = Builder::new(Vec::with_capacity(self.bytes + (self.by_name.len() + 2) * 1_024));
        for (name, file) in &self.by_name {
            let mut header = Header::new_gnu();
            header.set_size(file.bytes.len() as u64);
            header.set_mode(MODE);
            // Without a type a long name that is cut after a slash would be a folder's.
            header.set_entry_type(EntryType::Regular);
            builder.append_data(&mut header, name, &*file.bytes).map_err(|e| Fault::from(format!("Failed to add {name:?}: {e}")))?;
        }
        builder.into_inner().map_err(|e| Fault::from(format!("Failed to write the archive: {e}")))
    }
}

fn too_large(bytes_max: usize) -> Fault {
    Fault::limit(limits::SIZE, format!("the files of an archive have at most {bytes_max} bytes in all (limit: size)"))
}

fn check_name(name: &str) -> Result<(), Fault> {
    match name.len() {
        0 => Err("a file in an archive needs a name".into()),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(format!("a file's name in an archive has at most {NAME_BYTES_MAX} bytes").into()),
    }
}

fn bytes_max() -> usize {
    scheduler::vm().limits.content_bytes_max()
}

struct TarArchive {
    /// Nothing once it is destructed.
    files: RefCell<Option<Files>>,
    _charge: Charge,
}

impl Object for TarArchive {
    const TAG: c_int = tag::TAR_ARCHIVE;
    const NAME: &'static CStr = c"TarArchive";
    const METHODS: &'static [Named] = &[(c"addfile", add_file), (c"takefile", take_file), (c"entries", entries), (c"toblob", to_blob)];
    const OPERATORS: &'static [Named] = &[(c"__len", len)];
}

fn with<T>(call: &Call, run: impl FnOnce(&mut Files) -> Result<T, Fault>) -> Result<T, Fault> {
    let archive = call.object::<TarArchive>(1)?;
    run(archive.files.borrow_mut().as_mut().ok_or_else(destructed)?)
}

pub fn new(call: &Call) -> Done {
    let files = if call.is_nil(1) { Files::default() } else { Files::read(call.state, &blob::take(call, 1)?, bytes_max())? };
    let charge = Charge::new(call.state, ARCHIVE_BYTES)?;
    call.push_object(TarArchive { files: RefCell::new(Some(files)), _charge: charge });
    Ok(1)
}

fn add_file(call: &Call) -> Done {
    let name = call.text(2)?.to_string();
    check_name(&name)?;
    if name.contains('\0') || name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(call.bad(2, "a file's name in an archive is a relative path without .."));
    }
    // A blob in vain is a blob lost, so everything else is looked at before.
    with(call, |_| Ok(()))?;
    let bytes = blob::take(call, 3)?;
    with(call, |files| files.add(call.state, name, bytes, bytes_max()))?;
    Ok(0)
}

fn take_file(call: &Call) -> Done {
    let name = call.text(2)?;
    match with(call, |files| Ok(files.remove(name)))? {
        Some(File { bytes, _charge }) => {
            drop(_charge);
            blob::give(call, bytes)
        }
        None => {
            call.push_nil();
            Ok(1)
        }
    }
}

fn entries(call: &Call) -> Done {
    let names = with(call, |files| Ok(files.by_name.keys().cloned().collect::<Vec<_>>()))?;
    call.push_table(names.len(), 0);
    for (name, place) in names.iter().zip(1..) {
        call.push_bytes(name.as_bytes());
        call.set_item(-2, place);
    }
    Ok(1)
}

fn len(call: &Call) -> Done {
    let n = with(call, |files| Ok(files.by_name.len()))?;
    call.push_number(n as f64);
    Ok(1)
}

/// Ends the archive, unless it cannot be written.
fn to_blob(call: &Call) -> Done {
    let bytes = with(call, |files| files.write())?;
    drop(call.object::<TarArchive>(1)?.files.borrow_mut().take());
    blob::give(call, bytes)
}
