//! How the kernel backs this process's memory.

mod mapping;

use std::ffi::c_void;
use std::io;

use mapping::Mapping;

/// Runs before `main`, and before the allocator touches its first page: what is backed by a huge
/// page once stays so.
#[used]
// SAFETY: the dynamic linker calls what `.init_array` lists as `extern "C" fn()` (System V ABI,
// "Initialization and Termination Functions"); the function needs nothing of Rust's runtime.
#[unsafe(link_section = ".init_array.00099")]
static AT_START: extern "C" fn() = avoid_huge_pages;

/// Asks the kernel not to back memory with huge pages; where it refuses, nothing is lost but memory.
/// A gateway holds many small things that come and go; huge pages would keep 2 MiB resident for the
/// few KiB in use (measured: 36 MiB instead of 23 MiB for an idle process, and 2.5 MiB more when
/// this came only in `main`).
extern "C" fn avoid_huge_pages() {
    // SAFETY: PR_SET_THP_DISABLE takes an integer and three zeros and touches no memory of ours
    // (prctl(2)).
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Unmaps pages of the program file that this process has touched so far, and returns their bytes.
/// Most are code that only the start needs, or came along because the kernel maps files in large
/// pieces; those still in use come back from the page cache at their next use.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read.
pub fn release_startup_code() -> io::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let mut released = 0;
    for mapping in mapping::parse(&text).filter(Mapping::is_unchanged_file) {
        let Mapping { start, length, resident, .. } = mapping;
        let address = std::ptr::with_exposed_provenance_mut::<c_void>(start);
        // SAFETY: the range is one private mapping of a file without write permission and, as the
        // kernel just said, without a page of its own; nothing makes such pages later but
        // mprotect, which nobody calls. Its pages therefore equal the file's, and that is what
        // the next access maps again (madvise(2), MADV_DONTNEED).
        if unsafe { libc::madvise(address, length, libc::MADV_DONTNEED) } == 0 {
            released += resident;
        }
    }
    Ok(released)
}

/// Gives memory that this thread has freed back to the system. Takes a moment (a walk over the
/// thread's heap, and system calls for what it finds), so not for every session.
pub fn give_back() {
    // SAFETY: takes no pointer; it works on the heap of the calling thread and on what all threads
    // share, under mimalloc's own locks (mimalloc.h, mi_collect).
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comes_back_when_it_is_used() {
        assert!(release_startup_code().unwrap() > 100 * 1024);
        assert_eq!("7".repeat(3).parse::<u32>().unwrap(), 777);
        assert!(release_startup_code().is_ok());
    }
}
