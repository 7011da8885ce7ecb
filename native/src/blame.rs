//! Who runs, written where the supervisor can read it after this process is gone.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one slot: tenant and request, little-endian.
const SLOT_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;

/// One engine's slot in the shared memory.
pub struct Blame {
    page: NonNull<u8>,
    slot: NonNull<[AtomicU64; 2]>,
}

// SAFETY: both pointers lead into a shared mapping that lives as long as this value; the slot is only touched
// through atomics, and the page only unmapped by `drop`.
unsafe impl Send for Blame {}
// SAFETY: as above.
unsafe impl Sync for Blame {}

impl Blame {
    pub fn new(fd: i32, slot: usize) -> io::Result<Blame> {
        let offset = slot.checked_mul(SLOT_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a zeroed `stat` is a valid argument to fill.
        let size = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd, &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat.st_size
        };
        // A slot past the end of the file would be a bus error at its first use.
        if i64::try_from(offset + SLOT_BYTES).is_ok_and(|end| end > size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the blame slot lies outside of the shared memory"));
        }
        let start = offset / PAGE_BYTES * PAGE_BYTES;
        // SAFETY: a fresh mapping, of one page that holds the whole slot: slots do not cross pages.
        let page = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, start as libc::off_t)
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: inside the mapped page, and a multiple of 16.
        let slot = unsafe { page.add(offset - start) }.cast();
        Ok(Blame { page, slot })
    }

    /// Names who runs from here on; zeros for nobody.
    #[inline]
    pub fn set(&self, tenant: u64, request: u64) {
        // SAFETY: see `new`.
        let slot = unsafe { self.slot.as_ref() };
        slot[0].store(tenant.to_le(), Ordering::Relaxed);
        slot[1].store(request.to_le(), Ordering::Relaxed);
    }
}

impl Drop for Blame {
    fn drop(&mut self) {
        self.set(0, 0);
        // SAFETY: mapped by `new`, and used by nobody else.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE_BYTES) };
    }
}
