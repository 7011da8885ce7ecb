//! `aes256encrypt` and its inverses: AES-256-GCM under a key that Argon2id derives from a text.
//!
//! Layout: 8 bytes of salt, 12 bytes of nonce, the ciphertext with its tag. Each derivation takes 64 MiB and about 100 ms,
//! so all three wait for a background thread.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::api::blob;
use crate::call::{Call, Done, Fault};
use crate::offload;

const SALT_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;

/// Argon2id's cost: memory in KiB, passes, lanes.
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 1;
const LANES: u32 = 4;

fn derive(text: &[u8], salt: &[u8]) -> Result<[u8; KEY_BYTES], Fault> {
    let bad = |e: argon2::Error| Fault::from(format!("Failed to derive the key: {e}"));
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(KEY_BYTES)).map_err(bad)?;
    let mut memory = Vec::new();
    // Running out of memory here would end the process.
    memory.try_reserve_exact(params.block_count()).map_err(|_| "the worker has no memory for deriving the key")?;
    memory.resize(params.block_count(), Block::default());
    let mut key = [0; KEY_BYTES];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(text, salt, &mut key, &mut memory).map_err(bad)?;
    Ok(key)
}

fn cipher(text: &[u8], salt: &[u8]) -> Result<Aes256Gcm, Fault> {
    Ok(Aes256Gcm::new(&derive(text, salt)?.into()))
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Fault::from(format!("no random numbers: {e}")))?;
    Ok(bytes)
}

fn seal(content: &[u8], text: &[u8]) -> Result<Vec<u8>, Fault> {
    let (salt, nonce) = (random::<SALT_BYTES>()?, random::<NONCE_BYTES>()?);
    let ciphertext = cipher(text, &salt)?.encrypt(&nonce.into(), content).map_err(|e| Fault::from(format!("Failed to encrypt: {e}")))?;
    Ok([&salt[..], &nonce, &ciphertext].concat())
}

fn open(salt: &[u8], nonce: &[u8], ciphertext: &[u8], text: &[u8]) -> Result<Vec<u8>, Fault> {
    let nonce = Nonce::try_from(nonce).map_err(|_| format!("the nonce must be {NONCE_BYTES} bytes long, it has {}", nonce.len()))?;
    let opened = cipher(text, salt)?.decrypt(&nonce, ciphertext);
    // The library tells no cause: the tag does not match.
    opened.map_err(|_| Fault::from("Failed to decrypt: the key is wrong or the data was changed"))
}

pub fn encrypt(call: &Call) -> Done {
    let (content, text) = (blob::take(call, 1)?, call.bytes(2)?.to_vec());
    offload::wait(call, content.len() + text.len(), move |_| Ok(blob::output(seal(&content, &text)?)))
}

pub fn decrypt(call: &Call) -> Done {
    let (content, text) = (blob::take(call, 1)?, call.bytes(2)?.to_vec());
    let short = || Fault::from("Blob data is too short to decrypt");
    if content.len() < SALT_BYTES + NONCE_BYTES {
        return Err(short());
    }
    offload::wait(call, content.len() + text.len(), move |_| {
        let (salt, rest) = content.split_at_checked(SALT_BYTES).ok_or_else(short)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES).ok_or_else(short)?;
        Ok(blob::output(open(salt, nonce, ciphertext, &text)?))
    })
}

/// `(salt, nonce, ciphertext, key)`.
pub fn decrypt_custom(call: &Call) -> Done {
    let (salt, nonce, ciphertext) = (blob::take(call, 1)?, blob::take(call, 2)?, blob::take(call, 3)?);
    let text = call.bytes(4)?.to_vec();
    let bytes = salt.len() + nonce.len() + ciphertext.len() + text.len();
    offload::wait(call, bytes, move |_| Ok(blob::output(open(&salt, &nonce, &ciphertext, &text)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_only() {
        let sealed = seal(b"content", b"key").unwrap();
        assert_eq!(sealed.len(), SALT_BYTES + NONCE_BYTES + 7 + 16);
        let open = |sealed: &[u8], key: &[u8]| open(&sealed[..8], &sealed[8..20], &sealed[20..], key);
        assert_eq!(open(&sealed, b"key").unwrap(), b"content");
        assert!(open(&sealed, b"other").unwrap_err().text.starts_with("Failed to decrypt"));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(open(&changed, b"key").is_err());
    }

    #[test]
    fn a_nonce_or_salt_of_the_wrong_length_is_an_error() {
        assert!(open(&[0; 8], &[0; 11], b"", b"key").unwrap_err().text.contains("12 bytes long, it has 11"));
        assert!(open(&[0; 7], &[0; 12], b"", b"key").unwrap_err().text.contains("Failed to derive the key"));
    }
}
