//! `@antiraid/datamgmt`: bytes as blobs, in base64, in archives, encrypted and compressed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mlua::ffi;

use crate::api::{Library, blob, compress, crypto, tar};
use crate::call::{Call, Done, Fault};
use crate::memory;

pub static LIBRARY: Library = Library {
    name: c"@antiraid/datamgmt",
    functions: &[
        (c"newblob", new_blob),
        (c"base64encode", base64_encode),
        (c"base64decode", base64_decode),
        (c"TarArchive", tar::new),
        (c"aes256encrypt", crypto::encrypt),
        (c"aes256decrypt", crypto::decrypt),
        (c"aes256decryptcustom", crypto::decrypt_custom),
        (c"compress", compress::compress),
        (c"decompress", compress::decompress),
    ],
    values: |_| {},
    luau: None,
};

fn new_blob(call: &Call) -> Done {
    blob::give(call, blob::take(call, 1)?)
}

fn base64_encode(call: &Call) -> Done {
    let size = blob::view(call, 1)?.len();
    // A blob's own room is free once it is taken.
    let own = if call.kind(1) == ffi::LUA_TUSERDATA { size } else { 0 };
    let bytes = size.div_ceil(3) * 4;
    memory::ensure(call.state, bytes.saturating_sub(own))?;
    let text = STANDARD.encode(blob::take(call, 1)?);
    call.push_bytes(text.as_bytes());
    Ok(1)
}

fn base64_decode(call: &Call) -> Done {
    let bytes = STANDARD.decode(call.bytes(1)?).map_err(|e| Fault::from(format!("Failed to decode base64: {e}")))?;
    blob::give(call, bytes)
}
