//! Two requests of OpenSSH's SFTP that libssh2 knows and ssh2 does not bind: posix-rename, which replaces a
//! file in one step, and statvfs, which tells a full disk from a read-only one.
//!
//! The only unsafe code of this project. ssh2 does not give its SFTP channel away, so these requests travel
//! over a second channel of the same session. What makes it sound:
//! - the two foreign functions are declared as the vendored `libssh2_sftp.h` declares them; libssh2-sys
//!   compiles and links that file;
//! - the channel pointer is made here, is never handed out, is used only while `Session::raw` holds the lock of
//!   its session, and is shut down before the session is freed, because `Extensions` keeps a `Session`;
//! - paths are passed with their length and outlive the call; libssh2 keeps none of them.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::ptr::NonNull;

use libssh2_sys as raw;
use ssh2::{ErrorCode, Session};

/// SSH_FXE_STATVFS_ST_RDONLY in OpenSSH's PROTOCOL, section 4.4.
const ST_READ_ONLY: u64 = 1;

unsafe extern "C" {
    fn libssh2_sftp_posix_rename_ex(
        sftp: *mut raw::LIBSSH2_SFTP,
        source: *const c_char,
        source_len: usize,
        dest: *const c_char,
        dest_len: usize,
    ) -> c_int;

    fn libssh2_sftp_statvfs(
        sftp: *mut raw::LIBSSH2_SFTP,
        path: *const c_char,
        path_len: usize,
        st: *mut raw::LIBSSH2_SFTP_STATVFS,
    ) -> c_int;
}

/// See the module.
pub(super) struct Extensions {
    session: Session,
    channel: NonNull<raw::LIBSSH2_SFTP>,
}

// SAFETY: the pointer is used under the session's lock only, and libssh2 ties nothing to a thread.
unsafe impl Send for Extensions {}

/// The room on a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) bytes_free: u64,
    /// No further file can be made. (File systems without a fixed number of them say zero of zero.)
    pub(super) files_full: bool,
    pub(super) read_only: bool,
}

impl Extensions {
    pub(super) fn open(session: &Session) -> Result<Extensions, ssh2::Error> {
        let channel = {
            let mut locked = session.raw();
            // SAFETY: a live session, locked. Null is an error, told below.
            unsafe { raw::libssh2_sftp_init(&raw mut *locked) }
        };
        match NonNull::new(channel) {
            Some(channel) => Ok(Extensions { session: session.clone(), channel }),
            None => Err(ssh2::Error::last_session_error(session).unwrap_or_else(ssh2::Error::unknown)),
        }
    }

    /// Renames, replacing what has the name. `SFTP(OP_UNSUPPORTED)` when the server cannot.
    pub(super) fn posix_rename(&self, from: &str, to: &str) -> Result<(), ssh2::Error> {
        let locked = self.session.raw();
        // SAFETY: see the module; `locked` is held over the call.
        let code = unsafe {
            libssh2_sftp_posix_rename_ex(
                self.channel.as_ptr(),
                from.as_ptr().cast(),
                from.len(),
                to.as_ptr().cast(),
                to.len(),
            )
        };
        drop(locked);
        self.outcome(code)
    }

    /// The room on the file system of `path`.
    pub(super) fn room(&self, path: &str) -> Result<Room, ssh2::Error> {
        let locked = self.session.raw();
        // SAFETY: a struct of integers, for which zeros are values.
        let mut found: raw::LIBSSH2_SFTP_STATVFS = unsafe { std::mem::zeroed() };
        // SAFETY: see the module; `locked` is held over the call, `found` outlives it.
        let code = unsafe {
            libssh2_sftp_statvfs(self.channel.as_ptr(), path.as_ptr().cast(), path.len(), &raw mut found)
        };
        drop(locked);
        self.outcome(code)?;
        Ok(Room {
            bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
            files_full: found.f_files > 0 && found.f_favail == 0,
            read_only: found.f_flag & ST_READ_ONLY != 0,
        })
    }

    fn outcome(&self, code: c_int) -> Result<(), ssh2::Error> {
        if code >= 0 {
            return Ok(());
        }
        if code != raw::LIBSSH2_ERROR_SFTP_PROTOCOL {
            return Err(ssh2::Error::from_session_error(&self.session, code));
        }
        let _locked = self.session.raw();
        // SAFETY: see the module.
        let status = unsafe { raw::libssh2_sftp_last_error(self.channel.as_ptr()) };
        let status = c_int::try_from(status).unwrap_or(raw::LIBSSH2_FX_FAILURE);
        Err(ssh2::Error::from_errno(ErrorCode::SFTP(status)))
    }
}

impl Drop for Extensions {
    fn drop(&mut self) {
        let _locked = self.session.raw();
        // SAFETY: the pointer is used for the last time. The answer is of no use: the connection is ending, and
        // its socket is shut already, so that this cannot wait for a dead peer.
        unsafe { raw::libssh2_sftp_shutdown(self.channel.as_ptr()) };
    }
}
