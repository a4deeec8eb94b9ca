//! SQLite's way to a simulated disk: a VFS, registered as the default one. Files in the folders of a [`SimDisk`] go
//! there, all others to SQLite's own VFS, so that the program under test is opened and configured as ever.
//! (<https://sqlite.org/vfs.html>; what the unix VFS syncs of folders, and when, is done alike.)
#![expect(unsafe_code, reason = "SQLite calls a VFS through C")]

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use libsqlite3_sys as ffi;

use super::handle::Handle;
use super::locks::{Level, SLOTS};
use super::{Careless, SimDisk};

/// The disks there are, by their root. A later one takes the place of an earlier one.
static DISKS: LazyLock<Mutex<HashMap<PathBuf, Weak<SimDisk>>>> = LazyLock::new(Mutex::default);
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Has SQLite find this disk from now on.
pub(super) fn mount(disk: &Arc<SimDisk>) {
    register();
    let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    disks.retain(|_, disk| disk.strong_count() > 0);
    disks.insert(disk.root.clone(), Arc::downgrade(disk));
}

fn disk_of(path: &Path) -> Option<Arc<SimDisk>> {
    let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    path.ancestors().find_map(|above| disks.get(above)?.upgrade())
}

/// What SQLite allocates for a file of ours.
#[repr(C)]
struct SimFile {
    methods: *const ffi::sqlite3_io_methods,
    handle: *mut Handle,
}

fn level(lock: c_int) -> Level {
    match lock {
        1 => Level::Shared,
        2 => Level::Reserved,
        3 => Level::Pending,
        4 => Level::Exclusive,
        _ => Level::None,
    }
}

fn busy_unless(done: bool) -> c_int {
    if done { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
}

/// SQLite's VFS for everything that is not simulated.
fn unix() -> *mut ffi::sqlite3_vfs {
    // SAFETY: the name is a C string, and SQLite is initialised by the call.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

/// The path that SQLite means.
///
/// # Safety
/// `name` must be null or a C string that outlives the result's use.
unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    // SAFETY: the caller's promise.
    (!name.is_null()).then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes())))
}

/// The handle of a file that [`open`] has opened.
///
/// # Safety
/// `file` must be one, not closed yet, and used by one thread at a time (as SQLite does).
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: the caller's promise; `open` has put a handle there that `close` takes away.
    unsafe { &mut *(*file.cast::<SimFile>()).handle }
}

// SAFETY of all that follows: SQLite calls these with what its documentation says: files opened by `open`, buffers
// of the lengths given, C strings.

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: see above.
    let found = unsafe { path_of(name) }.and_then(|path| Some((path, disk_of(path)?)));
    let Some((path, disk)) = found else {
        let unix = unix();
        // SAFETY: as SQLite would call it; our files are no smaller than its own.
        return unsafe { (*unix).xOpen.map_or(ffi::SQLITE_ERROR, |f| f(unix, name, file, flags, out_flags)) };
    };
    let out = file.cast::<SimFile>();
    // SAFETY: SQLite has allocated szOsFile bytes. A null method table tells it that there is nothing to close.
    unsafe { (*out).methods = std::ptr::null() };
    let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    match disk.sqlite_open(path, flags & ffi::SQLITE_OPEN_CREATE != 0) {
        Err(code) => code,
        Ok((id, created)) => {
            disk.open.fetch_add(1, Ordering::AcqRel);
            let handle = Handle {
                path: path.to_owned(),
                id,
                connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
                sync_dir: created && flags & journal != 0,
                delete: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
                disk,
            };
            // SAFETY: as above; `out_flags` may be null.
            unsafe {
                (*out).handle = Box::into_raw(Box::new(handle));
                (*out).methods = &raw const METHODS;
                if !out_flags.is_null() {
                    *out_flags = flags;
                }
            }
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: see `open`.
    match unsafe { path_of(name) }.and_then(|path| Some((path, disk_of(path)?))) {
        Some((path, disk)) => disk.sqlite_delete(path, sync_dir != 0),
        None => {
            let unix = unix();
            // SAFETY: as SQLite would call it.
            unsafe { (*unix).xDelete.map_or(ffi::SQLITE_ERROR, |f| f(unix, name, sync_dir)) }
        }
    }
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: see `open`.
    match unsafe { path_of(name) }.and_then(|path| Some((path, disk_of(path)?))) {
        Some((path, disk)) => {
            let there = disk.state().model.file(path).is_some();
            // SAFETY: SQLite wants the answer there.
            unsafe { *out = c_int::from(there) };
            ffi::SQLITE_OK
        }
        None => {
            let unix = unix();
            // SAFETY: as SQLite would call it.
            unsafe { (*unix).xAccess.map_or(ffi::SQLITE_ERROR, |f| f(unix, name, flags, out)) }
        }
    }
}

unsafe extern "C" fn full_path(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    out: *mut c_char,
) -> c_int {
    let unix = unix();
    // SAFETY: as SQLite would call it.
    unsafe { (*unix).xFullPathname.map_or(ffi::SQLITE_ERROR, |f| f(unix, name, len, out)) }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let file = file.cast::<SimFile>();
    // SAFETY: the handle was boxed by `open`, and SQLite closes a file once.
    let handle = unsafe {
        (*file).methods = std::ptr::null();
        Box::from_raw((*file).handle)
    };
    handle.close();
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, len: c_int, at: i64) -> c_int {
    let (Ok(len), Ok(at)) = (usize::try_from(len), u64::try_from(at)) else { return ffi::SQLITE_IOERR_READ };
    // SAFETY: SQLite's buffer has `len` bytes.
    unsafe { handle(file).read(at, std::slice::from_raw_parts_mut(to.cast(), len)) }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    let (Ok(len), Ok(at)) = (usize::try_from(len), u64::try_from(at)) else { return ffi::SQLITE_IOERR_WRITE };
    // SAFETY: SQLite's buffer has `len` bytes.
    unsafe { handle(file).write(at, std::slice::from_raw_parts(from.cast(), len)) }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    let Ok(len) = u64::try_from(len) else { return ffi::SQLITE_IOERR_TRUNCATE };
    // SAFETY: see `open`.
    unsafe { handle(file).truncate(len) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: see `open`.
    unsafe { handle(file).sync() }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: see `open`; SQLite wants the answer at `out`.
    unsafe {
        match handle(file).size() {
            Ok(size) => {
                *out = i64::try_from(size).unwrap_or(i64::MAX);
                ffi::SQLITE_OK
            }
            Err(code) => code,
        }
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    // SAFETY: see `open`.
    let h = unsafe { handle(file) };
    busy_unless(h.disk.locks(h.id, |locks| locks.lock(h.connection, level(wanted))))
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, to: c_int) -> c_int {
    // SAFETY: see `open`.
    let h = unsafe { handle(file) };
    h.disk.locks(h.id, |locks| {
        locks.unlock(h.connection, level(to));
        true
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see `open`; SQLite wants the answer at `out`.
    unsafe {
        let h = handle(file);
        *out = c_int::from(h.disk.locks(h.id, |locks| locks.reserved()));
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    if op != ffi::SQLITE_FCNTL_PRAGMA {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: see `open`; the argument of this one is an array: the answer, the pragma's name, its value or null.
    unsafe {
        let args = arg.cast::<*mut c_char>();
        let (name, value) = (CStr::from_ptr(*args.add(1)), *args.add(2));
        let ours = name.to_bytes().eq_ignore_ascii_case(b"synchronous") && !value.is_null();
        // On a careless disk only `careless` below has a say in this.
        if ours
            && handle(file).disk.careless == Careless::Database
            && CStr::from_ptr(value).to_bytes() != b"1"
        {
            // Without an answer the column of the result would have no name. SQLite frees it.
            *args = ffi::sqlite3_mprintf(c"ignored".as_ptr());
            return ffi::SQLITE_OK;
        }
    }
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// What the unix VFS says of an ordinary disk.
unsafe extern "C" fn characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    let (Ok(region), Ok(bytes)) = (usize::try_from(region), usize::try_from(bytes)) else {
        return ffi::SQLITE_IOERR_SHMMAP;
    };
    // SAFETY: see `open`; SQLite wants the address at `out`, and uses it with atomics or under its locks until it
    // unmaps. Regions live as long as anybody has them mapped.
    unsafe {
        let h = handle(file);
        *out = std::ptr::null_mut();
        h.disk.locks(h.id, |locks| {
            let found = locks.region(h.connection, region, bytes, extend != 0);
            *out = found.map_or(std::ptr::null_mut(), |p| p.cast_mut().cast());
            true
        });
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    let (Ok(from), Ok(n)) = (usize::try_from(offset), usize::try_from(n)) else { return ffi::SQLITE_MISUSE };
    let slots = from.min(SLOTS)..(from + n).min(SLOTS);
    // SAFETY: see `open`.
    let h = unsafe { handle(file) };
    busy_unless(h.disk.locks(h.id, |locks| {
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            locks.shm_unlock(h.connection, slots);
            return true;
        }
        locks.shm_lock(h.connection, slots, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0)
    }))
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: see `open`.
    let h = unsafe { handle(file) };
    h.disk.locks(h.id, |locks| {
        locks.unmap(h.connection);
        true
    });
    ffi::SQLITE_OK
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Opens every database of a careless disk with `synchronous=NORMAL`.
unsafe extern "C" fn careless(
    db: *mut ffi::sqlite3,
    _error: *mut *mut c_char,
    _api: *const ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite gives a connection that is open; the name of its file is null or a C string.
    unsafe {
        let path = path_of(ffi::sqlite3_db_filename(db, c"main".as_ptr()));
        if path.and_then(disk_of).is_some_and(|disk| disk.careless == Careless::Database) {
            let normal = c"PRAGMA synchronous = 1".as_ptr();
            return ffi::sqlite3_exec(db, normal, None, std::ptr::null_mut(), std::ptr::null_mut());
        }
    }
    ffi::SQLITE_OK
}

fn register() {
    static DONE: LazyLock<()> = LazyLock::new(|| {
        let unix = unix();
        assert!(!unix.is_null(), "SQLite has no unix VFS");
        // SAFETY: SQLite keeps its VFS for ever, and what it points to is plain data.
        let mut ours: ffi::sqlite3_vfs = unsafe { *unix };
        let bytes = c_int::try_from(size_of::<SimFile>()).expect("two pointers");
        ours.szOsFile = ours.szOsFile.max(bytes);
        ours.zName = c"kapell-power".as_ptr();
        ours.pNext = std::ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        ours.xAccess = Some(access);
        ours.xFullPathname = Some(full_path);
        // SAFETY: the VFS is leaked, so it lives as long as SQLite; the functions are those of its documentation.
        let (registered, extended) = unsafe {
            let vfs = Box::leak(Box::new(ours));
            (ffi::sqlite3_vfs_register(vfs, 1), ffi::sqlite3_auto_extension(Some(careless)))
        };
        assert_eq!((registered, extended), (ffi::SQLITE_OK, ffi::SQLITE_OK), "SQLite takes no VFS");
    });
    LazyLock::force(&DONE);
}
