// SPDX-License-Identifier: MIT OR Apache-2.0
//! bpf(2) on descriptors that came from elsewhere: from a file of a BPF file system, or from the service manager. What stands in the
//! argument is in include/uapi/linux/bpf.h.
#![expect(unsafe_code, reason = "bpf(2), dup3(2), and descriptors that come by number")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: libc::c_int = 0;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const INFO: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

/// Which of an interface's packets a program of tcx sees (enum bpf_attach_type).
pub const TCX_INGRESS: u32 = 46;
/// See [`TCX_INGRESS`].
pub const TCX_EGRESS: u32 = 47;

/// What a map is (enum bpf_map_type).
pub const HASH: u32 = 1;
/// See [`HASH`].
pub const ARRAY: u32 = 2;

/// Entries of a hash map are allocated when they come (BPF_F_NO_PREALLOC).
pub const NO_PREALLOC: u32 = 1;
/// An array can be mapped into memory (BPF_F_MMAPABLE).
pub const MMAPABLE: u32 = 1 << 10;

/// A map to be made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NewMap {
    /// [`HASH`] or [`ARRAY`].
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most entries.
    pub entries: u32,
    /// [`NO_PREALLOC`] or [`MMAPABLE`], or 0.
    pub flags: u32,
    /// Nothing here: a map inside, and where memory comes from.
    pub others: [u32; 2],
    /// Its name, as bpftool(8) shows it, ended by a zero.
    pub name: [u8; 16],
}

/// BPF_F_AFTER: behind all programs that are there.
const AFTER: u32 = 1 << 4;

/// Most bytes of a key that [`is_empty`] has room for.
const KEY_MAX: usize = 256;

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    before: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// Where struct bpf_link_info of a link of tcx tells the number of the interface, in words, and words up to behind it.
const LINK_INTERFACE: usize = 4;
const LINK_WORDS: usize = LINK_INTERFACE + 2;

/// Makes a map (BPF_MAP_CREATE).
///
/// # Errors
/// No memory, or a capability is missing.
pub fn create(map: NewMap) -> io::Result<OwnedFd> {
    let fd = call(MAP_CREATE, &mut { map })?;
    // SAFETY: as in `open`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name for a map, of which there is room for 15 bytes.
pub const fn name(text: &str) -> [u8; 16] {
    let (mut name, bytes, mut index) = ([0; 16], text.as_bytes(), 0);
    while index < bytes.len() && index < 15 {
        name[index] = bytes[index];
        index += 1;
    }
    name
}

/// Gives a map, program or link a name in a BPF file system, and so keeps it there (BPF_OBJ_PIN).
///
/// # Errors
/// The directory is on no such file system, may not be written, or has the name already.
pub fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { path: name.as_ptr() as u64, fd: number(&fd), flags: 0 };
    call(OBJ_PIN, &mut object).map(drop)
}

/// What has a name in a BPF file system (BPF_OBJ_GET).
///
/// # Errors
/// There is nothing of this name, or it may not be used.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object { path: name.as_ptr() as u64, ..Object::default() };
    let fd = call(OBJ_GET, &mut object)?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a loaded program at an interface, by its number, behind all that are there, for as long as the link lives (BPF_LINK_CREATE, since
/// Linux 6.6).
///
/// # Errors
/// A capability is missing, or there is no such interface.
pub fn link(program: impl AsFd, interface: u32, kind: u32) -> io::Result<OwnedFd> {
    let mut create =
        LinkCreate { program: number(&program), interface, kind, flags: AFTER, ..LinkCreate::default() };
    let fd = call(LINK_CREATE, &mut create)?;
    // SAFETY: as in `open`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a link have another program from the next packet on (BPF_LINK_UPDATE).
///
/// # Errors
/// Its interface is gone (ENOLINK).
pub fn relink(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut update = LinkUpdate { link: number(&link), program: number(&program), ..LinkUpdate::default() };
    call(LINK_UPDATE, &mut update).map(drop)
}

/// The number of the interface at which a link of tcx is; 0: that one is gone (BPF_OBJ_GET_INFO_BY_FD; kernel/bpf/tcx.c, tcx_link_fill_info).
///
/// # Errors
/// It is no link.
pub fn linked(link: impl AsFd) -> io::Result<u32> {
    let mut info = [0_u32; LINK_WORDS];
    let address = info.as_mut_ptr() as u64;
    call(INFO, &mut Info { fd: number(&link), len: size_of_val(&info) as u32, info: address })?;
    Ok(info[LINK_INTERFACE])
}

/// Whether a hash map has no entries.
///
/// # Errors
/// It is no map.
pub fn is_empty(map: impl AsFd) -> io::Result<bool> {
    // Larger than any key of ours, and than most of others.
    let mut next = [0_u8; KEY_MAX];
    let mut ask = NextKey { map: number(&map), next: next.as_mut_ptr() as u64, ..NextKey::default() };
    match call(MAP_GET_NEXT_KEY, &mut ask) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// How many entries a hash map has.
///
/// # Errors
/// It is no such map.
pub fn count(map: impl AsFd) -> io::Result<usize> {
    // The kernel has read the key before it writes the next.
    let (mut room, mut count) = ([0_u8; KEY_MAX], 0);
    let key = room.as_mut_ptr() as u64;
    let mut ask = NextKey { map: number(&map), next: key, ..NextKey::default() };
    loop {
        match call(MAP_GET_NEXT_KEY, &mut ask) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(count),
            Err(error) => return Err(error),
        }
        ask.key = key;
    }
}

/// Lets a descriptor stand for what another one stands for, whatever it was before (dup3(2)).
///
/// # Errors
/// None that its arguments can cause.
pub fn replace(descriptor: BorrowedFd<'_>, by: impl AsFd) -> io::Result<()> {
    // SAFETY: both are open. The number stays its owner's, who still closes it; what it stood for before is closed.
    let fd = unsafe { libc::dup3(by.as_fd().as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over a descriptor that whoever started this process has left open for it (sd_listen_fds(3)).
pub fn take_over(fd: RawFd) -> OwnedFd {
    // SAFETY: the protocol says that it is open, and ours; it is asked for once in the life of a process.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn call<T>(command: libc::c_int, argument: &mut T) -> io::Result<RawFd> {
    // SAFETY: the argument is one of the structures above, made of numbers without gaps, and as long as is said. What it points to, a path or
    // the room for a key, for what a link tells or for a packet, outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(argument), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).unwrap_or_default())
}

/// A run of a program with a packet (BPF_PROG_TEST_RUN): what of it tests use.
#[cfg(test)]
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    action: u32,
    len: u32,
    out_len: u32,
    data: u64,
    out: u64,
    repeat: u32,
    duration: u32,
    context_len: u32,
    context_out_len: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch: u32,
    padding: u32,
}

/// Runs a program of tc with a packet of which the kernel says that the interface has summed all of it up (CHECKSUM_COMPLETE), into `out`; returns what
/// it says, and how long the packet is then.
///
/// # Errors
/// EINVAL: the kernel cannot, before Linux 6.17. EBADMSG: the sum is not that of the packet that came out.
#[cfg(test)]
pub fn run_summed(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> io::Result<(u32, usize)> {
    /// BPF_PROG_TEST_RUN, and BPF_F_TEST_SKB_CHECKSUM_COMPLETE.
    const TEST_RUN: libc::c_int = 10;
    const CHECKSUM_COMPLETE: u32 = 1 << 2;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut run = TestRun {
        program: number(&program),
        len: len(packet),
        out_len: len(out),
        data: packet.as_ptr() as u64,
        out: out.as_mut_ptr() as u64,
        context_len: len(context),
        context: context.as_ptr() as u64,
        flags: CHECKSUM_COMPLETE,
        ..TestRun::default()
    };
    call(TEST_RUN, &mut run)?;
    Ok((run.action, run.out_len as usize))
}

#[cfg(test)]
mod tests {
    use aya::maps::{HashMap, Map, MapData};
    use rustix::io::Errno;

    use super::*;

    const MAP: NewMap =
        NewMap { kind: HASH, key: 4, value: 4, entries: 4, flags: 0, others: [0; 2], name: name("lb_test") };

    #[test]
    fn a_map_tells_whether_it_is_empty_and_a_descriptor_becomes_another() {
        let [Ok(full), Ok(empty)] = [(); 2].map(|()| create(MAP)) else { return };
        let map = MapData::from_fd(full.try_clone().expect("descriptors")).expect("a map");
        let mut map: HashMap<_, u32, u32> = Map::HashMap(map).try_into().expect("of this kind");
        map.insert(1, 1, 0).expect("room");
        assert!(is_empty(&empty).expect("a map") && !is_empty(&full).expect("a map"));
        (2..=4).for_each(|key| map.insert(key, 1, 0).expect("room"));
        assert_eq!([count(&empty), count(&full)].map(|count| count.expect("a map")), [0, 4]);
        replace(empty.as_fd(), &full).expect("both are open");
        assert!(!is_empty(&empty).expect("a map"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(open(file.path()).is_err());
        let error = relink(file.as_file(), file.as_file()).expect_err("no link");
        assert!(matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::PERM)), "{error}");
    }
}
